/* weights.c: see weights.h.
 *
 * The surprising rule: nothing is copied. A MojiWeight points into the map of the file, at whatever
 * alignment the header's length leaves it, so readers go through memcpy or unaligned loads. */
#include "weights.h"
#include "json.h"
#include <stdlib.h>
#include <string.h>

#define MAX_HEADER_BYTES (100 * 1000 * 1000)

struct MojiWeights {
    char *path;
    GBytes *bytes;        /* the whole file */
    GPtrArray *list;      /* of MojiWeight*, which it owns */
    GHashTable *by_name;  /* name in the weight -> MojiWeight */
    GHashTable *alias;    /* char* -> char* */
    GHashTable *unusable; /* char* -> char*, why */
    GHashTable *metadata; /* char* -> char* */
    GHashTable *override; /* MojiWeight of the list -> MojiWeight in its place, which it owns */
};

typedef struct { /* one tensor of the header, usable or not */
    const char *name, *dtype;
    guint64 begin, end; /* in the data after the header */
    JsonArray *shape;
} Entry;

typedef struct {
    gpointer value;
    GDestroyNotify release;
} Kept;

static const struct {
    const char *name;
    gsize bytes;
    int type; /* MojiType, or -1: sizes are checked but the tensor is of no use to us */
} dtypes[] = {
    {"F32", 4, MOJI_F32}, {"F16", 2, MOJI_F16}, {"BF16", 2, MOJI_BF16}, {"I64", 8, MOJI_I64},
    {"I32", 4, MOJI_I32}, {"F64", 8, -1},       {"I16", 2, -1},         {"I8", 1, -1},
    {"U64", 8, -1},       {"U32", 4, -1},       {"U16", 2, -1},         {"U8", 1, -1},
    {"BOOL", 1, -1},      {"F8_E4M3", 1, -1},   {"F8_E5M2", 1, -1},
};

static void free_kept(gpointer data)
{
    Kept *kept = data;
    if (kept->release)
        kept->release(kept->value);
    g_free(kept);
}

static void free_weight(gpointer data)
{
    MojiWeight *t = data;
    if (t->prepared)
        g_hash_table_unref(t->prepared);
    g_free(t->name);
    g_free(t);
}

static void free_override(gpointer data)
{
    free((void *)((MojiWeight *)data)->data);
    free_weight(data);
}

void moji_weights_free(MojiWeights *w)
{
    if (!w)
        return;
    g_hash_table_unref(w->override);
    g_hash_table_unref(w->by_name);
    g_hash_table_unref(w->alias);
    g_hash_table_unref(w->unusable);
    g_hash_table_unref(w->metadata);
    g_ptr_array_unref(w->list);
    g_bytes_unref(w->bytes);
    g_free(w->path);
    g_free(w);
}

static gboolean read_metadata(MojiWeights *w, JsonNode *node, GError **error)
{
    JsonObjectIter iter;
    const char *key;
    JsonNode *value;
    if (!JSON_NODE_HOLDS_OBJECT(node)) {
        moji_error_file(error, w->path, "header: __metadata__ is not an object");
        return FALSE;
    }
    json_object_iter_init(&iter, json_node_get_object(node));
    while (json_object_iter_next(&iter, &key, &value)) {
        if (!JSON_NODE_HOLDS_VALUE(value) || json_node_get_value_type(value) != G_TYPE_STRING) {
            moji_error_file(error, w->path, "header: __metadata__ \"%s\" is not a text", key);
            return FALSE;
        }
        g_hash_table_insert(w->metadata, g_strdup(key), g_strdup(json_node_get_string(value)));
    }
    return TRUE;
}

static gboolean is_size(JsonNode *node)
{
    return JSON_NODE_HOLDS_VALUE(node) && json_node_get_value_type(node) == G_TYPE_INT64 &&
           json_node_get_int(node) >= 0;
}

static gboolean is_sizes(JsonNode *node)
{
    if (!node || !JSON_NODE_HOLDS_ARRAY(node))
        return FALSE;
    JsonArray *array = json_node_get_array(node);
    for (guint i = 0; i < json_array_get_length(array); i++)
        if (!is_size(json_array_get_element(array, i)))
            return FALSE;
    return TRUE;
}

/* The types of the three members, and the range in itself. */
static gboolean read_entry(MojiWeights *w, const char *name, JsonNode *node, Entry *e,
                           GError **error)
{
    JsonObject *o = JSON_NODE_HOLDS_OBJECT(node) ? json_node_get_object(node) : NULL;
    JsonNode *dtype = o ? json_object_get_member(o, "dtype") : NULL;
    JsonNode *shape = o ? json_object_get_member(o, "shape") : NULL;
    JsonNode *offsets = o ? json_object_get_member(o, "data_offsets") : NULL;
    if (!dtype || !JSON_NODE_HOLDS_VALUE(dtype) ||
        json_node_get_value_type(dtype) != G_TYPE_STRING || !is_sizes(shape) ||
        !is_sizes(offsets) || json_array_get_length(json_node_get_array(offsets)) != 2) {
        moji_error_file(error, w->path,
                        "header: tensor \"%s\" lacks a dtype, a shape of sizes or a pair of "
                        "data_offsets",
                        name);
        return FALSE;
    }
    JsonArray *range = json_node_get_array(offsets);
    *e = (Entry){.name = name,
                 .dtype = json_node_get_string(dtype),
                 .begin = json_array_get_int_element(range, 0),
                 .end = json_array_get_int_element(range, 1),
                 .shape = json_node_get_array(shape)};
    return TRUE;
}

static gint by_offset(gconstpointer a, gconstpointer b)
{
    const Entry *x = a, *y = b;
    if (x->begin != y->begin)
        return x->begin < y->begin ? -1 : 1;
    return x->end < y->end ? -1 : x->end > y->end;
}

/* Element count times size; FALSE if that does not fit 64 bits. */
static gboolean shape_bytes(JsonArray *shape, gsize element, guint64 *bytes)
{
    guint64 total = element;
    for (guint i = 0; i < json_array_get_length(shape); i++) {
        guint64 dim = json_array_get_int_element(shape, i);
        if (!g_uint64_checked_mul(&total, total, dim))
            return FALSE;
    }
    *bytes = total;
    return TRUE;
}

/* Entries come in the order of their data; `at` is where the one before ended. */
static gboolean add_entry(MojiWeights *w, const Entry *e, guint64 at, const guint8 *data,
                          guint64 data_bytes, GError **error)
{
    if (e->begin != at || e->end < e->begin || e->end > data_bytes) {
        moji_error_file(error, w->path,
                        "header: tensor \"%s\" has bytes %" G_GUINT64_FORMAT
                        " to %" G_GUINT64_FORMAT ", expected them to begin at %" G_GUINT64_FORMAT
                        " and end within the data's %" G_GUINT64_FORMAT,
                        e->name, e->begin, e->end, at, data_bytes);
        return FALSE;
    }
    guint kind = 0;
    while (kind < G_N_ELEMENTS(dtypes) && strcmp(dtypes[kind].name, e->dtype))
        kind++;
    guint rank = json_array_get_length(e->shape);
    guint64 bytes;
    if (kind < G_N_ELEMENTS(dtypes) &&
        (!shape_bytes(e->shape, dtypes[kind].bytes, &bytes) || bytes != e->end - e->begin)) {
        moji_error_file(error, w->path,
                        "header: tensor \"%s\" has %" G_GUINT64_FORMAT
                        " bytes, which its shape and type %s do not make",
                        e->name, e->end - e->begin, e->dtype);
        return FALSE;
    }
    if (kind == G_N_ELEMENTS(dtypes) || dtypes[kind].type < 0) {
        g_hash_table_insert(w->unusable, g_strdup(e->name),
                            g_strdup_printf("stored as %s, which is not supported", e->dtype));
        return TRUE;
    }
    if (rank > MOJI_MAX_RANK) {
        g_hash_table_insert(
            w->unusable, g_strdup(e->name),
            g_strdup_printf("stored with %u dimensions, more than %d", rank, MOJI_MAX_RANK));
        return TRUE;
    }
    MojiWeight *t = g_new0(MojiWeight, 1);
    t->name = g_strdup(e->name);
    t->type = (MojiType)dtypes[kind].type;
    t->rank = rank;
    for (guint i = 0; i < rank; i++)
        t->dim[i] = json_array_get_int_element(e->shape, i);
    t->data = data + e->begin;
    t->bytes = e->end - e->begin;
    g_ptr_array_add(w->list, t);
    g_hash_table_insert(w->by_name, t->name, t);
    return TRUE;
}

static gboolean read_header(MojiWeights *w, JsonObject *root, const guint8 *data,
                            guint64 data_bytes, GError **error)
{
    g_autoptr(GArray) entries = g_array_new(FALSE, FALSE, sizeof(Entry));
    JsonObjectIter iter;
    const char *name;
    JsonNode *node;
    json_object_iter_init(&iter, root);
    while (json_object_iter_next(&iter, &name, &node)) {
        Entry e;
        if (!strcmp(name, "__metadata__")) {
            if (!read_metadata(w, node, error))
                return FALSE;
            continue;
        }
        if (!read_entry(w, name, node, &e, error))
            return FALSE;
        g_array_append_val(entries, e);
    }
    g_array_sort(entries, by_offset);
    guint64 at = 0;
    for (guint i = 0; i < entries->len; i++) {
        const Entry *e = &g_array_index(entries, Entry, i);
        if (!add_entry(w, e, at, data, data_bytes, error))
            return FALSE;
        at = e->end;
    }
    if (at != data_bytes) {
        moji_error_file(error, w->path,
                        "has %" G_GUINT64_FORMAT
                        " bytes of data, its header tells of %" G_GUINT64_FORMAT,
                        data_bytes, at);
        return FALSE;
    }
    return TRUE;
}

/* What people hand over in place of a safetensors file, or NULL. */
static const char *mistaken(const guint8 *file, gsize bytes)
{
    static const struct {
        const char *start, *what;
    } known[] = {
        {"version https://git-lfs", "a Git LFS pointer, not the file itself (run git lfs pull)"},
        {"PK\003\004", "a PyTorch archive, expected a safetensors file"},
        {"\200\002", "a PyTorch pickle, expected a safetensors file"},
        {"GGUF", "a GGUF file, expected a safetensors file"},
        {"<!DOCTYPE", "a web page, expected a safetensors file"},
        {"<html", "a web page, expected a safetensors file"},
    };
    for (guint i = 0; i < G_N_ELEMENTS(known); i++) {
        gsize n = strlen(known[i].start);
        if (bytes >= n && !memcmp(file, known[i].start, n))
            return known[i].what;
    }
    return NULL;
}

/* The header's length, or 0 with the error set. */
static gsize header_length(const char *path, const guint8 *file, gsize bytes, GError **error)
{
    guint64 length = 0;
    if (bytes < 8) {
        moji_error_file(error, path,
                        "is %" G_GSIZE_FORMAT " bytes long, too short for a safetensors file",
                        bytes);
        return 0;
    }
    for (int i = 7; i >= 0; i--)
        length = length << 8 | file[i];
    if (length > MAX_HEADER_BYTES || length > bytes - 8 || length < 2 || file[8] != '{') {
        const char *what = mistaken(file, bytes);
        if (what)
            moji_error_file(error, path, "is %s", what);
        else if (length > bytes - 8 && length <= MAX_HEADER_BYTES)
            moji_error_file(error, path,
                            "is cut short: the header takes %" G_GUINT64_FORMAT
                            " bytes and %" G_GSIZE_FORMAT " follow",
                            length, bytes - 8);
        else
            moji_error_file(error, path, "is not a safetensors file");
        return 0;
    }
    return length;
}

MojiWeights *moji_weights_parse(GBytes *bytes, const char *path, GError **error)
{
    gsize file_bytes;
    const guint8 *file = g_bytes_get_data(bytes, &file_bytes);
    gsize length = header_length(path, file, file_bytes, error);
    if (!length)
        return NULL;
    g_autoptr(GError) why = NULL;
    JsonObject *root;
    g_autoptr(JsonParser) parser =
        moji_json_parse((const char *)file + 8, length, TRUE, "header", &root, &why);
    if (!parser) {
        moji_error_file(error, path, "%s", why->message);
        return NULL;
    }
    MojiWeights *w = g_new0(MojiWeights, 1);
    w->path = g_strdup(path);
    w->bytes = g_bytes_ref(bytes);
    w->list = g_ptr_array_new_with_free_func(free_weight);
    w->by_name = g_hash_table_new(g_str_hash, g_str_equal);
    w->alias = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
    w->unusable = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
    w->metadata = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
    w->override = g_hash_table_new_full(NULL, NULL, NULL, free_override);
    if (!read_header(w, root, file + 8 + length, file_bytes - 8 - length, error)) {
        moji_weights_free(w);
        return NULL;
    }
    return w;
}

MojiWeights *moji_weights_open(const char *path, GError **error)
{
    g_autoptr(GError) why = NULL;
    if (g_file_test(path, G_FILE_TEST_IS_DIR)) {
        moji_error_file(error, path, "is a folder, expected a safetensors file");
        return NULL;
    }
    g_autoptr(GMappedFile) map = g_mapped_file_new(path, FALSE, &why);
    if (!map) {
        moji_error_file(error, path, "cannot be read: %s", why->message);
        return NULL;
    }
    g_autoptr(GBytes) bytes = g_mapped_file_get_bytes(map);
    MojiWeights *w = moji_weights_parse(bytes, path, error);
    for (guint i = 0; w && i < w->list->len; i++)
        ((MojiWeight *)w->list->pdata[i])->mapped = TRUE;
    return w;
}

const char *moji_weights_path(const MojiWeights *w)
{
    return w->path;
}

/* A name that is in the file wins over an alias. */
MojiWeight *moji_weights_pristine(MojiWeights *w, const char *name)
{
    MojiWeight *t = g_hash_table_lookup(w->by_name, name);
    if (t)
        return t;
    const char *stored = g_hash_table_lookup(w->alias, name);
    return stored ? g_hash_table_lookup(w->by_name, stored) : NULL;
}

MojiWeight *moji_weights_find(MojiWeights *w, const char *name)
{
    MojiWeight *t = moji_weights_pristine(w, name);
    MojiWeight *other = t ? g_hash_table_lookup(w->override, t) : NULL;
    return other ? other : t;
}

void moji_weights_override(MojiWeights *w, const char *name, MojiType type, void *data)
{
    MojiWeight *t = moji_weights_pristine(w, name);
    g_assert(t);
    MojiWeight *other = g_memdup2(t, sizeof *t);
    other->name = g_strdup(t->name);
    other->type = type;
    other->data = data;
    other->bytes = t->bytes / moji_type_bytes(t->type) * moji_type_bytes(type);
    other->mapped = FALSE;
    other->prepared = NULL;
    g_clear_pointer(&t->prepared, g_hash_table_unref);
    g_hash_table_replace(w->override, t, other);
}

void moji_weights_restore(MojiWeights *w)
{
    g_hash_table_remove_all(w->override);
}

const char *moji_weights_absence(MojiWeights *w, const char *name)
{
    const char *stored = g_hash_table_lookup(w->alias, name);
    const char *why = g_hash_table_lookup(w->unusable, name);
    if (!why && stored)
        why = g_hash_table_lookup(w->unusable, stored);
    return why ? why : "not in the file";
}

void moji_weights_alias(MojiWeights *w, const char *name, const char *stored)
{
    g_hash_table_insert(w->alias, g_strdup(name), g_strdup(stored));
}

GPtrArray *moji_weights_list(MojiWeights *w)
{
    return w->list;
}

GHashTable *moji_weights_unusable(MojiWeights *w)
{
    return w->unusable;
}

GHashTable *moji_weights_metadata(MojiWeights *w)
{
    return w->metadata;
}

gpointer moji_weight_prepared(MojiWeight *t, const char *key)
{
    Kept *kept = t->prepared ? g_hash_table_lookup(t->prepared, key) : NULL;
    return kept ? kept->value : NULL;
}

void moji_weight_set_prepared(MojiWeight *t, const char *key, gpointer value,
                              GDestroyNotify release)
{
    if (!t->prepared)
        t->prepared = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, free_kept);
    Kept *kept = g_new(Kept, 1);
    *kept = (Kept){value, release};
    g_hash_table_replace(t->prepared, g_strdup(key), kept);
}
