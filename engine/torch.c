/* torch.c: see torch.h.
 *
 * The surprising rule: a tensor is a window into a storage, given by sizes and strides, so a few
 * bytes of pickle may claim any amount of data. It is believed only as far as its storage's bytes
 * reach, and it may not have more elements than those. */
#include "torch.h"
#include "pickle.h"
#include "zip.h"
#include <string.h>

enum { MAX_DEPTH = 4, MAX_METADATA = 2000 };

typedef struct { /* bytes of the file */
    const guint8 *data;
    gsize bytes;
} Block;

typedef struct {
    MojiWeights *w;
    const guint8 *file;
    gsize bytes;
    MojiZip *zip;       /* or NULL: the older form */
    char *prefix;       /* of the archive's entries, "archive/" */
    GHashTable *blocks; /* the older form's: char* key -> Block* */
    gsize copied;       /* bytes of tensors that had to be put in rows */
    GError **error;
} Reader;

/* The older form begins with a whole number of this value, in ten bytes. */
static const guint8 magic[] = {0x80, 2,    0x8a, 10,   0x6c, 0xfc, 0x9c, 0x46,
                               0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19, '.'};

gboolean moji_torch_is(const guint8 *file, gsize bytes)
{
    return (bytes >= 4 && !memcmp(file, "PK\3\4", 4)) ||
           (bytes >= sizeof magic && !memcmp(file, magic, sizeof magic));
}

static G_GNUC_PRINTF(2, 3) gboolean fail(Reader *r, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    g_autofree char *text = g_strdup_vprintf(format, args);
    va_end(args);
    moji_error_file(r->error, moji_weights_path(r->w), "%s", text);
    return FALSE;
}

/* ---- tensors ---- */

static gboolean find_block(Reader *r, const MojiPickleValue *key, Block *block)
{
    g_autofree char *name = g_strndup(key->text, MIN(key->bytes, 1000));
    if (r->zip) {
        g_autofree char *entry = g_strconcat(r->prefix, "data/", name, NULL);
        return moji_zip_find(r->zip, entry, &block->data, &block->bytes);
    }
    const Block *found = g_hash_table_lookup(r->blocks, name);
    if (found)
        *block = *found;
    return found != NULL;
}

static guint items(const MojiPickleValue *tuple)
{
    return tuple->items ? tuple->items->len : 0;
}

static gint64 whole(const MojiPickleValue *tuple, guint i)
{
    return ((const MojiPickleValue *)tuple->items->pdata[i])->whole;
}

/* Elements of the tensor, the farthest element of the storage that it needs, and whether they lie
 * in rows; FALSE if a number is beyond 64 bits. */
static gboolean measure(const MojiPickleValue *v, guint64 *count, guint64 *reach, gboolean *rows)
{
    const MojiPickleValue *size = v->tensor.size, *stride = v->tensor.stride;
    *count = 1;
    *reach = v->tensor.offset;
    *rows = TRUE;
    for (guint i = items(size); i-- > 0;) {
        guint64 n = whole(size, i), step = whole(stride, i), far;
        if (n > 1 && step != *count)
            *rows = FALSE;
        if (!g_uint64_checked_mul(count, *count, n) ||
            (n && (!g_uint64_checked_mul(&far, n - 1, step) ||
                   !g_uint64_checked_add(reach, *reach, far))))
            return FALSE;
    }
    return TRUE;
}

/* Puts a tensor's elements in rows, in memory that w owns. */
static const void *gather(Reader *r, const MojiWeight *t, const MojiPickleValue *v,
                          const guint8 *data, gsize element)
{
    guint8 *rows = g_malloc(t->bytes);
    gint64 index[MOJI_MAX_RANK] = {0};
    moji_weights_keep(r->w, rows, g_free);
    for (gsize at = 0; at < t->bytes; at += element) {
        gint64 from = v->tensor.offset;
        for (int i = 0; i < t->rank; i++)
            from += index[i] * whole(v->tensor.stride, i);
        memcpy(rows + at, data + from * element, element);
        for (int i = t->rank - 1; i >= 0 && ++index[i] == t->dim[i]; i--)
            index[i] = 0;
    }
    return rows;
}

/* Checks a tensor against its storage, and the storage against the file. */
static gboolean add_tensor(Reader *r, const char *name, const MojiPickleValue *v)
{
    const MojiPickleValue *s = v->tensor.storage;
    Block block;
    guint64 count, reach, element = s->storage.element;
    gboolean rows;
    if (!find_block(r, s->storage.key, &block))
        return fail(r, "tensor \"%s\": its storage is not in the file", name);
    if ((guint64)s->storage.count > block.bytes / element)
        return fail(r,
                    "tensor \"%s\": its storage has %" G_GSIZE_FORMAT
                    " bytes, expected %" G_GINT64_FORMAT " of %u",
                    name, block.bytes, s->storage.count, (guint)element);
    if (!measure(v, &count, &reach, &rows) || count > (guint64)s->storage.count ||
        (count && reach >= (guint64)s->storage.count))
        return fail(r, "tensor \"%s\" reaches beyond its storage of %" G_GINT64_FORMAT " numbers",
                    name, s->storage.count);
    int rank = (int)items(v->tensor.size);
    if (s->storage.type < 0)
        moji_weights_pass_over(r->w, name, "stored as %s, which is not supported",
                               s->storage.class_name);
    else if (rank > MOJI_MAX_RANK)
        moji_weights_pass_over(r->w, name, "stored with %d dimensions, more than %d", rank,
                               MOJI_MAX_RANK);
    if (s->storage.type < 0 || rank > MOJI_MAX_RANK)
        return TRUE;
    MojiWeight t = {.name = (char *)name,
                    .type = (MojiType)s->storage.type,
                    .rank = rank,
                    .bytes = count * element,
                    .data = block.data + v->tensor.offset * element};
    for (int i = 0; i < rank; i++)
        t.dim[i] = whole(v->tensor.size, i);
    if (!count)
        t.data = block.data;
    if (!rows && count && (r->copied += t.bytes) > r->bytes)
        return fail(r, "tensor \"%s\": tensors that share a storage add up to more than the file",
                    name);
    if (!rows && count)
        t.data = gather(r, &t, v, block.data, element);
    moji_weights_add(r->w, &t);
    return TRUE;
}

/* ---- the dictionary ---- */

static void add_metadata(Reader *r, const char *name, const MojiPickleValue *v)
{
    GHashTable *metadata = moji_weights_metadata(r->w);
    if (v->kind == MOJI_PICKLE_INT)
        g_hash_table_insert(metadata, g_strdup(name),
                            g_strdup_printf("%" G_GINT64_FORMAT, v->whole));
    else if (v->kind == MOJI_PICKLE_TEXT && v->bytes <= MAX_METADATA)
        g_hash_table_insert(metadata, g_strdup(name), g_utf8_make_valid(v->text, v->bytes));
}

static gboolean add_dictionary(Reader *r, const char *prefix, MojiPickleValue *dict, int depth);

static gboolean add_member(Reader *r, const char *prefix, const MojiPickleValue *key,
                           MojiPickleValue *v, int depth)
{
    if (key->kind != MOJI_PICKLE_TEXT || !key->bytes || key->bytes > MAX_METADATA)
        return TRUE;
    g_autofree char *word = g_utf8_make_valid(key->text, key->bytes);
    g_autofree char *name = g_strconcat(prefix, word, NULL);
    if (v->kind == MOJI_PICKLE_TENSOR)
        return add_tensor(r, name, v);
    if (v->kind == MOJI_PICKLE_DICT && !v->seen && depth < MAX_DEPTH) {
        g_autofree char *inner = g_strconcat(name, ".", NULL);
        gboolean state = depth == 0 && moji_pickle_is(key, "state_dict");
        return add_dictionary(r, state ? "" : inner, v, depth + 1);
    }
    if (depth == 0)
        add_metadata(r, name, v);
    return TRUE;
}

static gboolean add_dictionary(Reader *r, const char *prefix, MojiPickleValue *dict, int depth)
{
    dict->seen = TRUE;
    for (guint i = 0; i + 1 < items(dict); i += 2)
        if (!add_member(r, prefix, dict->items->pdata[i], dict->items->pdata[i + 1], depth))
            return FALSE;
    return TRUE;
}

static gboolean add_root(Reader *r, const MojiPickle *pickle)
{
    if (pickle->root->kind == MOJI_PICKLE_DICT)
        return add_dictionary(r, "", pickle->root, 0);
    return fail(r, "is a pickle of something else than a dictionary of tensors");
}

/* ---- the two forms ---- */

static gboolean read_archive(Reader *r)
{
    const char *path = moji_weights_path(r->w), *suffix = "data.pkl";
    const guint8 *data;
    gsize bytes;
    r->zip = moji_zip_open(r->file, r->bytes, path, r->error);
    if (!r->zip)
        return FALSE;
    const char *name = moji_zip_name(r->zip, suffix);
    if (!name)
        return fail(r, "is a zip archive, but not one of PyTorch's with one data.pkl in it");
    r->prefix = g_strndup(name, strlen(name) - strlen(suffix));
    g_autofree char *order = g_strconcat(r->prefix, "byteorder", NULL);
    if (moji_zip_find(r->zip, order, &data, &bytes) && (bytes < 6 || memcmp(data, "little", 6)))
        return fail(r, "has numbers with the high byte first, expected little endian");
    moji_zip_find(r->zip, name, &data, &bytes);
    MojiPickle *pickle = moji_pickle_parse(data, bytes, path, r->error);
    gboolean ok = pickle && add_root(r, pickle);
    moji_pickle_free(pickle);
    return ok;
}

/* Behind the last pickle, a list of keys: each one's count of elements and its bytes. How wide an
 * element is only its tensors know. */
static gboolean find_blocks(Reader *r, const MojiPickle *pickle, const MojiPickle *keys, gsize at)
{
    g_autoptr(GHashTable) width = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    for (guint i = 0; i < pickle->values->len; i++) {
        const MojiPickleValue *v = pickle->values->pdata[i];
        if (v->kind == MOJI_PICKLE_STORAGE)
            g_hash_table_insert(width,
                                g_strndup(v->storage.key->text, MIN(v->storage.key->bytes, 1000)),
                                GINT_TO_POINTER(v->storage.element));
    }
    if (keys->root->kind != MOJI_PICKLE_LIST)
        return fail(r, "has no list of its storages");
    for (guint i = 0; i < items(keys->root); i++) {
        const MojiPickleValue *key = keys->root->items->pdata[i];
        g_autofree char *name = key->kind == MOJI_PICKLE_TEXT
                                    ? g_strndup(key->text, MIN(key->bytes, 1000))
                                    : g_strdup("");
        guint64 count, element = GPOINTER_TO_INT(g_hash_table_lookup(width, name));
        if (!element)
            return fail(r, "has a storage that no tensor is in");
        if (r->bytes - at < 8)
            return fail(r, "is cut short");
        memcpy(&count, r->file + at, 8);
        at += 8;
        if (count > (r->bytes - at) / element)
            return fail(r, "is cut short, or damaged: a storage reaches beyond its end");
        Block *block = g_new(Block, 1);
        *block = (Block){r->file + at, count * element};
        g_hash_table_insert(r->blocks, g_steal_pointer(&name), block);
        at += count * element;
    }
    return TRUE;
}

/* Magic number, version, the writer's machine, the dictionary, keys of the storages. */
static gboolean read_row(Reader *r)
{
    MojiPickle *pickle[4] = {NULL};
    gsize at = sizeof magic;
    gboolean ok = TRUE;
    for (int i = 0; ok && i < 4; i++) {
        pickle[i] =
            moji_pickle_parse(r->file + at, r->bytes - at, moji_weights_path(r->w), r->error);
        ok = pickle[i] != NULL;
        at += ok ? pickle[i]->bytes : 0;
    }
    r->blocks = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
    ok = ok && find_blocks(r, pickle[2], pickle[3], at) && add_root(r, pickle[2]);
    for (int i = 0; i < 4; i++)
        moji_pickle_free(pickle[i]);
    g_hash_table_unref(r->blocks);
    return ok;
}

gboolean moji_torch_read(MojiWeights *w, GBytes *file, GError **error)
{
    Reader r = {.w = w, .error = error};
    r.file = g_bytes_get_data(file, &r.bytes);
    gboolean ok = r.file[0] == 'P' ? read_archive(&r) : read_row(&r);
    moji_zip_free(r.zip);
    g_free(r.prefix);
    return ok;
}
