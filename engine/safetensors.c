/* safetensors.c: see safetensors.h.
 *
 * Every member of the header is checked against the file's size before anything is used: data
 * inside the file without overlap or gap, byte count equal to shape times type, no name twice. */
#include "safetensors.h"
#include "json.h"
#include <string.h>

#define MAX_HEADER_BYTES (100 * 1000 * 1000)

typedef struct { /* one tensor of the header, usable or not */
    const char *name, *dtype;
    guint64 begin, end; /* in the data after the header */
    JsonArray *shape;
} Entry;

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

static gboolean read_metadata(MojiWeights *w, JsonNode *node, GError **error)
{
    JsonObjectIter iter;
    const char *key;
    JsonNode *value;
    if (!JSON_NODE_HOLDS_OBJECT(node)) {
        moji_error_file(error, moji_weights_path(w), "header: __metadata__ is not an object");
        return FALSE;
    }
    json_object_iter_init(&iter, json_node_get_object(node));
    while (json_object_iter_next(&iter, &key, &value)) {
        if (!JSON_NODE_HOLDS_VALUE(value) || json_node_get_value_type(value) != G_TYPE_STRING) {
            moji_error_file(error, moji_weights_path(w),
                            "header: __metadata__ \"%s\" is not a text", key);
            return FALSE;
        }
        g_hash_table_insert(moji_weights_metadata(w), g_strdup(key),
                            g_strdup(json_node_get_string(value)));
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
        moji_error_file(error, moji_weights_path(w),
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
        moji_error_file(error, moji_weights_path(w),
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
        moji_error_file(error, moji_weights_path(w),
                        "header: tensor \"%s\" has %" G_GUINT64_FORMAT
                        " bytes, which its shape and type %s do not make",
                        e->name, e->end - e->begin, e->dtype);
        return FALSE;
    }
    if (kind == G_N_ELEMENTS(dtypes) || dtypes[kind].type < 0) {
        moji_weights_pass_over(w, e->name, "stored as %s, which is not supported", e->dtype);
        return TRUE;
    }
    if (rank > MOJI_MAX_RANK) {
        moji_weights_pass_over(w, e->name, "stored with %u dimensions, more than %d", rank,
                               MOJI_MAX_RANK);
        return TRUE;
    }
    MojiWeight t = {.name = (char *)e->name,
                    .type = (MojiType)dtypes[kind].type,
                    .rank = (int)rank,
                    .data = data + e->begin,
                    .bytes = e->end - e->begin};
    for (guint i = 0; i < rank; i++)
        t.dim[i] = json_array_get_int_element(e->shape, i);
    moji_weights_add(w, &t); /* the parser has seen to it that no name comes twice */
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
        moji_error_file(error, moji_weights_path(w),
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
        {"\200\002", "a pickle that PyTorch did not write, expected a file of weights"},
        {"GGUF", "a GGUF file, expected a file of weights"},
        {"<!DOCTYPE", "a web page, expected a file of weights"},
        {"<html", "a web page, expected a file of weights"},
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
            moji_error_file(error, path, "is not a safetensors file, nor one of PyTorch's");
        return 0;
    }
    return length;
}

gboolean moji_safetensors_read(MojiWeights *w, GBytes *bytes, GError **error)
{
    const char *path = moji_weights_path(w);
    gsize file_bytes;
    const guint8 *file = g_bytes_get_data(bytes, &file_bytes);
    gsize length = header_length(path, file, file_bytes, error);
    if (!length)
        return FALSE;
    g_autoptr(GError) why = NULL;
    JsonObject *root;
    g_autoptr(JsonParser) parser =
        moji_json_parse((const char *)file + 8, length, TRUE, "header", &root, &why);
    if (!parser) {
        moji_error_file(error, path, "%s", why->message);
        return FALSE;
    }
    return read_header(w, root, file + 8 + length, file_bytes - 8 - length, error);
}
