/* zip.c: see zip.h.
 *
 * The surprising rule: an archive is read from its end, where the directory is found by a search.
 * Every size and place in it is a claim until it was held against the file. */
#include "zip.h"
#include <string.h>

enum {
    END_BYTES = 22,     /* the end record, then a comment */
    LOCATOR_BYTES = 20, /* zip64's, just before it */
    END64_BYTES = 56,
    ENTRY_BYTES = 46, /* in the directory, then name, extra field and comment */
    LOCAL_BYTES = 30, /* before an entry's data, then name and extra field */
};

struct MojiZip {
    const guint8 *file;
    gsize bytes;
    const char *path;
    guint64 directory, directory_bytes, count;
    GHashTable *entries; /* char* -> Entry* */
};

typedef struct {
    char *name;
    guint64 stored, size, at; /* bytes in the file, unpacked bytes, place of the local header */
    guint method, flags;
    const guint8 *data;
} Entry;

static void free_entry(gpointer data)
{
    Entry *e = data;
    g_free(e->name);
    g_free(e);
}

static guint64 number(const guint8 *p, int bytes)
{
    guint64 value = 0;
    for (int i = bytes - 1; i >= 0; i--)
        value = value << 8 | p[i];
    return value;
}

static gboolean is(const guint8 *p, const char *signature)
{
    return !memcmp(p, signature, 4);
}

static G_GNUC_PRINTF(3, 4) gboolean fail(const MojiZip *z, GError **error, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    g_autofree char *text = g_strdup_vprintf(format, args);
    va_end(args);
    moji_error_file(error, z->path, "is a damaged zip archive: %s", text);
    return FALSE;
}

/* ---- the directory ---- */

/* The last end record whose comment reaches to the end of the file; 0 if there is none. */
static gsize find_end(const MojiZip *z)
{
    if (z->bytes < END_BYTES)
        return 0;
    gsize last = z->bytes - END_BYTES;
    for (gsize comment = 0; comment <= 65535 && comment <= last; comment++) {
        const guint8 *p = z->file + last - comment;
        if (is(p, "PK\5\6") && number(p + 20, 2) == comment)
            return last - comment;
    }
    return 0;
}

/* Large archives have a second end record with room for their numbers. */
static gboolean read_end64(MojiZip *z, gsize end, GError **error)
{
    if (end < LOCATOR_BYTES || !is(z->file + end - LOCATOR_BYTES, "PK\6\7"))
        return TRUE;
    guint64 at = number(z->file + end - LOCATOR_BYTES + 8, 8);
    if (z->bytes < END64_BYTES || at > z->bytes - END64_BYTES || !is(z->file + at, "PK\6\6"))
        return fail(z, error, "its second end record is not where it should be");
    z->count = number(z->file + at + 32, 8);
    z->directory_bytes = number(z->file + at + 40, 8);
    z->directory = number(z->file + at + 48, 8);
    return TRUE;
}

static gboolean read_end(MojiZip *z, GError **error)
{
    gsize end = find_end(z);
    if (!end)
        return fail(z, error, "it has no end record, so the file may be cut short");
    const guint8 *p = z->file + end;
    z->count = number(p + 10, 2);
    z->directory_bytes = number(p + 12, 4);
    z->directory = number(p + 16, 4);
    if (!read_end64(z, end, error))
        return FALSE;
    if (z->directory > end || z->directory_bytes > end - z->directory)
        return fail(z, error, "its directory lies outside of it");
    return TRUE;
}

/* Numbers that do not fit four bytes are in the extra field, in this order. */
static gboolean read_extra64(Entry *e, const guint8 *extra, gsize bytes)
{
    guint64 *wide[] = {&e->size, &e->stored, &e->at};
    while (bytes >= 4) {
        gsize id = number(extra, 2), length = number(extra + 2, 2);
        extra += 4;
        bytes -= 4;
        if (length > bytes)
            return FALSE;
        for (guint i = 0; id == 1 && i < G_N_ELEMENTS(wide); i++) {
            if (*wide[i] != 0xffffffff)
                continue;
            if (length < 8)
                return FALSE;
            *wide[i] = number(extra, 8);
            extra += 8;
            bytes -= 8;
            length -= 8;
        }
        extra += length;
        bytes -= length;
    }
    return TRUE;
}

/* The data of an entry, after a header that repeats its name. */
static gboolean find_data(const MojiZip *z, Entry *e, GError **error)
{
    if (e->flags & 1)
        return fail(z, error, "entry %s is encrypted", e->name);
    if (e->method || e->stored != e->size)
        return fail(z, error, "entry %s is compressed, expected it as PyTorch writes it", e->name);
    if (z->directory < LOCAL_BYTES || e->at > z->directory - LOCAL_BYTES)
        return fail(z, error, "entry %s lies outside of it", e->name);
    const guint8 *local = z->file + e->at;
    gsize name = number(local + 26, 2), extra = number(local + 28, 2);
    guint64 room = z->directory - e->at - LOCAL_BYTES;
    if (!is(local, "PK\3\4") || name + extra > room || name != strlen(e->name) ||
        memcmp(local + LOCAL_BYTES, e->name, name))
        return fail(z, error, "entry %s has no header of its own", e->name);
    if (e->size > room - name - extra)
        return fail(z, error, "entry %s lies outside of it", e->name);
    e->data = local + LOCAL_BYTES + name + extra;
    return TRUE;
}

/* *at: where the entry begins in the directory, then where the next one does. */
static gboolean read_entry(MojiZip *z, guint64 *at, GError **error)
{
    guint64 room = z->directory + z->directory_bytes - *at;
    const guint8 *p = z->file + *at;
    if (room < ENTRY_BYTES || !is(p, "PK\1\2"))
        return fail(z, error, "its directory is cut short");
    gsize name = number(p + 28, 2), extra = number(p + 30, 2), comment = number(p + 32, 2);
    if (name + extra + comment > room - ENTRY_BYTES)
        return fail(z, error, "its directory is cut short");
    Entry *e = g_new0(Entry, 1);
    e->name = g_strndup((const char *)p + ENTRY_BYTES, name);
    e->flags = number(p + 8, 2);
    e->method = number(p + 10, 2);
    e->stored = number(p + 20, 4);
    e->size = number(p + 24, 4);
    e->at = number(p + 42, 4);
    gboolean ok = FALSE;
    if (strlen(e->name) != name || !g_utf8_validate(e->name, -1, NULL))
        fail(z, error, "an entry's name is not UTF-8");
    else if (!read_extra64(e, p + ENTRY_BYTES + name, extra))
        fail(z, error, "entry %s has a damaged extra field", e->name);
    else if (g_hash_table_contains(z->entries, e->name))
        fail(z, error, "entry %s is there twice", e->name);
    else
        ok = find_data(z, e, error);
    if (ok)
        g_hash_table_insert(z->entries, e->name, e);
    else
        free_entry(e);
    *at += ENTRY_BYTES + name + extra + comment;
    return ok;
}

MojiZip *moji_zip_open(const guint8 *file, gsize bytes, const char *path, GError **error)
{
    MojiZip *z = g_new0(MojiZip, 1);
    *z = (MojiZip){.file = file, .bytes = bytes, .path = path};
    z->entries = g_hash_table_new_full(g_str_hash, g_str_equal, NULL, free_entry);
    gboolean ok = read_end(z, error);
    guint64 at = z->directory;
    for (guint64 i = 0; ok && i < z->count; i++)
        ok = read_entry(z, &at, error);
    if (!ok)
        g_clear_pointer(&z, moji_zip_free);
    return z;
}

void moji_zip_free(MojiZip *z)
{
    if (!z)
        return;
    g_hash_table_unref(z->entries);
    g_free(z);
}

gboolean moji_zip_find(const MojiZip *z, const char *name, const guint8 **data, gsize *bytes)
{
    const Entry *e = g_hash_table_lookup(z->entries, name);
    if (!e)
        return FALSE;
    *data = e->data;
    *bytes = e->size;
    return TRUE;
}

const char *moji_zip_name(const MojiZip *z, const char *suffix)
{
    GHashTableIter iter;
    gpointer name;
    const char *found = NULL;
    g_hash_table_iter_init(&iter, z->entries);
    while (g_hash_table_iter_next(&iter, &name, NULL)) {
        if (!g_str_has_suffix(name, suffix))
            continue;
        if (found)
            return NULL;
        found = name;
    }
    return found;
}
