/* weights.c: see weights.h.
 *
 * The surprising rule: nothing is copied. A MojiWeight points into the map of the file, at whatever
 * alignment the file leaves it, so readers go through memcpy or unaligned loads. */
#include "weights.h"
#include "json.h"
#include "safetensors.h"
#include "save.h"
#include "torch.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MAX_SHARDS 1000

typedef struct { /* something with the function that releases it */
    gpointer value;
    GDestroyNotify release;
    MojiWeightRenewFn renew; /* or NULL */
} Kept;

struct MojiWeights {
    int references;
    char *path;
    GPtrArray *list;      /* of MojiWeight*, which it owns */
    GHashTable *by_name;  /* name in the weight -> MojiWeight */
    GHashTable *unusable; /* char* -> char*, why */
    GHashTable *metadata; /* char* -> char* */
    GHashTable *override; /* MojiWeight of the list -> MojiWeight in its place, which it owns */
    GPtrArray *kept;      /* of Kept*: what the data is in */
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

MojiWeights *moji_weights_new(const char *path)
{
    MojiWeights *w = g_new0(MojiWeights, 1);
    w->references = 1;
    w->path = g_strdup(path);
    w->list = g_ptr_array_new_with_free_func(free_weight);
    w->by_name = g_hash_table_new(g_str_hash, g_str_equal);
    w->unusable = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
    w->metadata = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
    w->override = g_hash_table_new_full(NULL, NULL, NULL, free_override);
    w->kept = g_ptr_array_new_with_free_func(free_kept);
    return w;
}

MojiWeights *moji_weights_ref(MojiWeights *w)
{
    w->references++;
    return w;
}

void moji_weights_free(MojiWeights *w)
{
    if (!w || --w->references)
        return;
    g_hash_table_unref(w->override);
    g_hash_table_unref(w->by_name);
    g_hash_table_unref(w->unusable);
    g_hash_table_unref(w->metadata);
    g_ptr_array_unref(w->list);
    g_ptr_array_unref(w->kept);
    g_free(w->path);
    g_free(w);
}

MojiWeight *moji_weights_add(MojiWeights *w, const MojiWeight *t)
{
    if (g_hash_table_contains(w->by_name, t->name))
        return NULL;
    MojiWeight *copy = g_memdup2(t, sizeof *t);
    copy->name = g_strdup(t->name);
    copy->prepared = NULL;
    copy->stale = FALSE;
    g_ptr_array_add(w->list, copy);
    g_hash_table_insert(w->by_name, copy->name, copy);
    return copy;
}

void moji_weights_pass_over(MojiWeights *w, const char *name, const char *why, ...)
{
    va_list args;
    va_start(args, why);
    g_hash_table_insert(w->unusable, g_strdup(name), g_strdup_vprintf(why, args));
    va_end(args);
}

void moji_weights_keep(MojiWeights *w, gpointer owner, GDestroyNotify release)
{
    Kept *kept = g_new(Kept, 1);
    *kept = (Kept){owner, release, NULL};
    g_ptr_array_add(w->kept, kept);
}

static void keep_weights(MojiWeights *w, MojiWeights *of)
{
    moji_weights_keep(w, moji_weights_ref(of), (GDestroyNotify)moji_weights_free);
}

MojiWeights *moji_weights_parse(GBytes *bytes, const char *path, GError **error)
{
    MojiWeights *w = moji_weights_new(path);
    moji_weights_keep(w, g_bytes_ref(bytes), (GDestroyNotify)g_bytes_unref);
    gsize n;
    const guint8 *file = g_bytes_get_data(bytes, &n);
    if (!(moji_torch_is(file, n) ? moji_torch_read(w, bytes, error)
                                 : moji_safetensors_read(w, bytes, error)))
        g_clear_pointer(&w, moji_weights_free);
    return w;
}

/* ---- files ---- */

static MojiWeights *open_file(const char *path, GError **error)
{
    g_autoptr(GError) why = NULL;
    g_autoptr(GMappedFile) map = g_mapped_file_new(path, FALSE, &why);
    if (!map) {
        moji_error_file(error, path, "cannot be read: %s", why->message);
        return NULL;
    }
    g_autoptr(GBytes) bytes = g_mapped_file_get_bytes(map);
    MojiWeights *w = moji_weights_parse(bytes, path, error);
    const char *start = g_mapped_file_get_contents(map);
    const char *end = w ? start + g_mapped_file_get_length(map) : NULL;
    for (guint i = 0; w && i < w->list->len; i++) {
        MojiWeight *t = w->list->pdata[i];
        t->mapped = (const char *)t->data >= start && (const char *)t->data < end;
    }
    return w;
}

/* The shard of that name beside the index, opened once. Owned by shards. */
static MojiWeights *open_shard(MojiWeights *w, GHashTable *shards, const char *name, GError **error)
{
    MojiWeights *shard = g_hash_table_lookup(shards, name);
    if (shard)
        return shard;
    if (!*name || strchr(name, '/') || g_hash_table_size(shards) >= MAX_SHARDS) {
        moji_error_file(error, w->path,
                        "names the file \"%s\", expected at most %d names of files beside it", name,
                        MAX_SHARDS);
        return NULL;
    }
    g_autofree char *folder = g_path_get_dirname(w->path);
    g_autofree char *path = g_build_filename(folder, name, NULL);
    if (!(shard = open_file(path, error)))
        return NULL;
    g_hash_table_insert(shards, g_strdup(name), shard);
    keep_weights(w, shard);
    return shard;
}

static gboolean add_from_shard(MojiWeights *w, GHashTable *shards, const char *name, JsonNode *node,
                               GError **error)
{
    if (!JSON_NODE_HOLDS_VALUE(node) || json_node_get_value_type(node) != G_TYPE_STRING) {
        moji_error_file(error, w->path, "\"weight_map\" has no file's name for \"%s\"", name);
        return FALSE;
    }
    MojiWeights *shard = open_shard(w, shards, json_node_get_string(node), error);
    if (!shard)
        return FALSE;
    const MojiWeight *t = moji_weights_find(shard, name);
    const char *why = t ? NULL : g_hash_table_lookup(shard->unusable, name);
    if (t)
        moji_weights_add(w, t);
    else if (why)
        moji_weights_pass_over(w, name, "%s", why);
    else
        moji_error_file(error, shard->path, "has no tensor \"%s\", which the index says it has",
                        name);
    return t || why;
}

/* {"weight_map": {"conv_in.weight": "model-00001-of-00002.safetensors", ...}} */
static MojiWeights *open_index(const char *path, GError **error)
{
    JsonObject *root;
    g_autoptr(JsonParser) parser = moji_json_open(path, &root, error);
    if (!parser)
        return NULL;
    JsonNode *map = json_object_get_member(root, "weight_map");
    if (!map || !JSON_NODE_HOLDS_OBJECT(map)) {
        moji_error_file(error, path, "has no object \"weight_map\" of tensors and files");
        return NULL;
    }
    MojiWeights *w = moji_weights_new(path);
    g_autoptr(GHashTable) shards =
        g_hash_table_new_full(g_str_hash, g_str_equal, g_free, (GDestroyNotify)moji_weights_free);
    JsonObjectIter iter;
    const char *name;
    JsonNode *node;
    gboolean ok = TRUE;
    json_object_iter_init_ordered(&iter, json_node_get_object(map));
    while (ok && json_object_iter_next_ordered(&iter, &name, &node))
        ok = add_from_shard(w, shards, name, node, error);
    if (!ok)
        g_clear_pointer(&w, moji_weights_free);
    return w;
}

MojiWeights *moji_weights_open(const char *path, GError **error)
{
    if (g_file_test(path, G_FILE_TEST_IS_DIR)) {
        moji_error_file(error, path, "is a folder, expected a file of weights");
        return NULL;
    }
    return g_str_has_suffix(path, ".json") ? open_index(path, error) : open_file(path, error);
}

/* ---- what is in them ---- */

MojiWeights *moji_weights_view(MojiWeights *of, MojiWeightsNameFn name, gpointer user_data)
{
    MojiWeights *w = moji_weights_new(of->path);
    GHashTableIter iter;
    gpointer stored, why;
    keep_weights(w, of);
    for (int renamed = 0; renamed < 2; renamed++)
        for (guint i = 0; i < of->list->len; i++) {
            MojiWeight t = *(MojiWeight *)of->list->pdata[i];
            g_autofree char *other = name(t.name, user_data);
            if (other && renamed == !g_str_equal(other, t.name)) {
                t.name = other;
                moji_weights_add(w, &t);
            }
        }
    g_hash_table_iter_init(&iter, of->unusable);
    while (g_hash_table_iter_next(&iter, &stored, &why)) {
        g_autofree char *other = name(stored, user_data);
        if (other)
            moji_weights_pass_over(w, other, "%s", (char *)why);
    }
    g_hash_table_iter_init(&iter, of->metadata);
    while (g_hash_table_iter_next(&iter, &stored, &why))
        g_hash_table_insert(w->metadata, g_strdup(stored), g_strdup(why));
    return w;
}

const char *moji_weights_path(const MojiWeights *w)
{
    return w->path;
}

MojiWeight *moji_weights_pristine(MojiWeights *w, const char *name)
{
    return g_hash_table_lookup(w->by_name, name);
}

MojiWeight *moji_weights_find(MojiWeights *w, const char *name)
{
    MojiWeight *t = moji_weights_pristine(w, name);
    MojiWeight *other = t ? g_hash_table_lookup(w->override, t) : NULL;
    return other ? other : t;
}

static gboolean cannot_be_renewed(gpointer key, gpointer value, gpointer user_data)
{
    (void)key;
    (void)user_data;
    return !((Kept *)value)->renew;
}

/* What was made of `from` and can be renewed is `to`'s from now on; the rest is let go. */
static void hand_over(MojiWeight *from, MojiWeight *to)
{
    GHashTable *prepared = g_steal_pointer(&from->prepared);
    if (prepared)
        g_hash_table_foreach_remove(prepared, cannot_be_renewed, NULL);
    if (prepared && g_hash_table_size(prepared) == 0)
        g_clear_pointer(&prepared, g_hash_table_unref);
    to->prepared = prepared;
    to->stale = prepared != NULL;
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
    hand_over(moji_weights_find(w, name), other);
    g_hash_table_replace(w->override, t, other);
}

void moji_weights_restore(MojiWeights *w)
{
    GHashTableIter iter;
    gpointer pristine, other;
    g_hash_table_iter_init(&iter, w->override);
    while (g_hash_table_iter_next(&iter, &pristine, &other))
        hand_over(other, pristine);
    g_hash_table_remove_all(w->override);
}

static gboolean renew(MojiWeight *t, GError **error)
{
    GHashTableIter iter;
    gpointer kept;
    if (!t->stale || !t->prepared)
        return TRUE;
    g_hash_table_iter_init(&iter, t->prepared);
    while (g_hash_table_iter_next(&iter, NULL, &kept))
        if (!((Kept *)kept)->renew(((Kept *)kept)->value, t, error))
            return FALSE;
    t->stale = FALSE;
    return TRUE;
}

gboolean moji_weights_renew(MojiWeights *w, GError **error)
{
    for (guint i = 0; i < w->list->len; i++) {
        MojiWeight *t = w->list->pdata[i], *other = g_hash_table_lookup(w->override, t);
        if (!renew(other ? other : t, error))
            return FALSE;
    }
    return TRUE;
}

const char *moji_weights_absence(MojiWeights *w, const char *name)
{
    const char *why = g_hash_table_lookup(w->unusable, name);
    return why ? why : "not in the file";
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

void moji_weights_release(MojiWeights *w)
{
    for (guint i = 0; i < w->list->len; i++)
        g_clear_pointer(&((MojiWeight *)w->list->pdata[i])->prepared, g_hash_table_unref);
    GHashTableIter iter;
    gpointer other;
    g_hash_table_iter_init(&iter, w->override);
    while (g_hash_table_iter_next(&iter, NULL, &other))
        g_clear_pointer(&((MojiWeight *)other)->prepared, g_hash_table_unref);
}

gpointer moji_weight_prepared(MojiWeight *t, const char *key)
{
    g_assert(!t->stale || !t->prepared); /* values have changed: moji_weights_renew comes first */
    Kept *kept = t->prepared ? g_hash_table_lookup(t->prepared, key) : NULL;
    return kept ? kept->value : NULL;
}

void moji_weight_set_prepared(MojiWeight *t, const char *key, gpointer value,
                              GDestroyNotify release)
{
    moji_weight_set_renewable(t, key, value, release, NULL);
}

void moji_weight_set_renewable(MojiWeight *t, const char *key, gpointer value,
                               GDestroyNotify release, MojiWeightRenewFn renew)
{
    t->stale = FALSE;
    if (!t->prepared)
        t->prepared = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, free_kept);
    Kept *kept = g_new(Kept, 1);
    *kept = (Kept){value, release, renew};
    g_hash_table_replace(t->prepared, g_strdup(key), kept);
}

void moji_weight_numbers(const MojiWeight *t, gsize from, gsize count, float *out)
{
    gsize size = t->type == MOJI_F32 ? 4 : 2;
    const guint8 *p = (const guint8 *)t->data + from * size;
    g_assert(t->type == MOJI_F32 || t->type == MOJI_F16 || t->type == MOJI_BF16);
    g_assert((from + count) * size <= t->bytes);
    moji_save_convert(out, MOJI_F32, p, t->type, count);
}

MojiWeight *moji_weights_damaged(MojiWeights *w)
{
    enum { PIECE = 4096 };
    GPtrArray *list = moji_weights_list(w);
    float number[PIECE];
    for (guint k = 0; k < list->len; k++) {
        MojiWeight *t = list->pdata[k];
        if (t->type != MOJI_F32 && t->type != MOJI_F16 && t->type != MOJI_BF16)
            continue;
        gsize n = t->bytes / moji_type_bytes(t->type);
        for (gsize at = 0; at < n; at += PIECE) {
            gsize count = MIN(PIECE, n - at);
            moji_weight_numbers(t, at, count, number);
            for (gsize i = 0; i < count; i++)
                if (!isfinite(number[i]))
                    return t;
        }
    }
    return NULL;
}
