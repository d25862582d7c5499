/* save.c: see save.h. */
#include "save.h"
#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <json-glib/json-glib.h>
#include <math.h>
#include <string.h>
#include <unistd.h>

enum { PART = 1 << 16 }; /* numbers converted at a time */

/* ---- numbers ---- */

static float from_half(guint16 half)
{
    guint32 bits = (guint32)(half & 0x7fff) << 13;
    float value;
    memcpy(&value, &bits, sizeof value);
    value *= 0x1p112f; /* the difference of the exponents; exact, subnormals too */
    if ((half & 0x7c00) == 0x7c00) {
        bits |= 0x7f800000;
        memcpy(&value, &bits, sizeof value);
    }
    return half & 0x8000 ? -value : value;
}

static guint16 to_half(float value)
{
    guint32 bits, sign;
    memcpy(&bits, &value, sizeof bits);
    sign = bits >> 16 & 0x8000;
    bits &= 0x7fffffff;
    if (bits > 0x7f800000)
        return sign | 0x7e00;
    if (bits >= 0x477ff000) /* 65520 would round to 65536 */
        return sign | 0x7c00;
    if (bits < 0x38800000) { /* subnormal: 0.5 has their distance as its last place */
        float shifted = fabsf(value) + 0.5f;
        memcpy(&bits, &shifted, sizeof bits);
        return sign | (bits - 0x3f000000);
    }
    return sign | ((bits - 0x38000000 + 0xfff + (bits >> 13 & 1)) >> 13);
}

static guint16 to_bfloat(float value)
{
    guint32 bits;
    memcpy(&bits, &value, sizeof bits);
    if ((bits & 0x7fffffff) > 0x7f800000)
        return bits >> 16 | 0x40;
    return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

gsize moji_save_convert(void *to, MojiType to_type, const void *from, MojiType from_type, gsize n)
{
    gsize infinite = 0;
    for (gsize i = 0; i < n; i++) {
        guint16 low;
        float value;
        if (from_type == MOJI_F32) {
            memcpy(&value, (const char *)from + 4 * i, 4);
        } else {
            memcpy(&low, (const char *)from + 2 * i, 2);
            guint32 bits = (guint32)low << 16;
            memcpy(&value, &bits, 4);
            value = from_type == MOJI_F16 ? from_half(low) : value;
        }
        if (to_type == MOJI_F32) {
            memcpy((char *)to + 4 * i, &value, 4);
            continue;
        }
        low = to_type == MOJI_F16 ? to_half(value) : to_bfloat(value);
        memcpy((char *)to + 2 * i, &low, 2);
        guint16 most = to_type == MOJI_F16 ? 0x7c00 : 0x7f80;
        infinite += isfinite(value) && (low & 0x7fff) == most;
    }
    return infinite;
}

/* ---- files ---- */

static gboolean fail(const char *path, const char *what, GError **error)
{
    int number = errno;
    moji_error_file(error, path, "%s: %s", what, g_strerror(number));
    return FALSE;
}

gboolean moji_save_close(int file, const char *path, GError **error)
{
    gboolean ok = fsync(file) == 0 || fail(path, "cannot be written", error);
    if (close(file) && ok)
        ok = fail(path, "cannot be written", error);
    return ok;
}

gboolean moji_save_rename(const char *from, const char *to, GError **error)
{
    g_autofree char *folder = g_path_get_dirname(to);
    if (g_rename(from, to))
        return fail(to, "cannot be put in place", error);
    int parent = open(folder, O_RDONLY | O_DIRECTORY);
    if (parent >= 0) {
        fsync(parent);
        close(parent);
    }
    return TRUE;
}

void moji_save_remove(const char *path)
{
    if (g_file_test(path, G_FILE_TEST_IS_DIR) && !g_file_test(path, G_FILE_TEST_IS_SYMLINK)) {
        g_autoptr(GDir) dir = g_dir_open(path, 0, NULL);
        const char *name;
        while (dir && (name = g_dir_read_name(dir))) {
            g_autofree char *inner = g_build_filename(path, name, NULL);
            moji_save_remove(inner);
        }
    }
    g_remove(path);
}

static gboolean write_all(int file, const void *data, gsize bytes)
{
    for (gsize done = 0; done < bytes;) {
        gssize n = write(file, (const char *)data + done, MIN(bytes - done, 1 << 24));
        if (n < 0 && errno != EINTR)
            return FALSE;
        done += MAX(n, 0);
    }
    return TRUE;
}

/* ---- safetensors ---- */

static const char *type_name(MojiType type)
{
    static const char *const names[] = {[MOJI_F32] = "F32",
                                        [MOJI_BF16] = "BF16",
                                        [MOJI_F16] = "F16",
                                        [MOJI_I32] = "I32",
                                        [MOJI_I64] = "I64"};
    return names[type];
}

static gsize count_of(const MojiSaved *s)
{
    return s->from->bytes / moji_type_bytes(s->from->type);
}

static void add_metadata(JsonBuilder *b, GHashTable *metadata)
{
    g_autoptr(GList) keys = g_list_sort(g_hash_table_get_keys(metadata), (GCompareFunc)strcmp);
    json_builder_set_member_name(b, "__metadata__");
    json_builder_begin_object(b);
    for (GList *l = keys; l; l = l->next) {
        json_builder_set_member_name(b, l->data);
        json_builder_add_string_value(b, g_hash_table_lookup(metadata, l->data));
    }
    json_builder_end_object(b);
}

/* The header with its length before it, padded to eight bytes. */
static GString *make_header(GPtrArray *list, GHashTable *metadata)
{
    g_autoptr(JsonBuilder) b = json_builder_new();
    guint64 at = 0;
    json_builder_begin_object(b);
    if (metadata && g_hash_table_size(metadata))
        add_metadata(b, metadata);
    for (guint i = 0; i < list->len; i++) {
        const MojiSaved *s = list->pdata[i];
        json_builder_set_member_name(b, s->name);
        json_builder_begin_object(b);
        json_builder_set_member_name(b, "dtype");
        json_builder_add_string_value(b, type_name(s->type));
        json_builder_set_member_name(b, "shape");
        json_builder_begin_array(b);
        for (int k = 0; k < s->rank; k++)
            json_builder_add_int_value(b, s->dim[k]);
        json_builder_end_array(b);
        json_builder_set_member_name(b, "data_offsets");
        json_builder_begin_array(b);
        json_builder_add_int_value(b, at);
        json_builder_add_int_value(b, at += count_of(s) * moji_type_bytes(s->type));
        json_builder_end_array(b);
        json_builder_end_object(b);
    }
    json_builder_end_object(b);
    g_autoptr(JsonNode) root = json_builder_get_root(b);
    g_autofree char *text = json_to_string(root, FALSE);
    GString *header = g_string_new(text);
    while (header->len % 8)
        g_string_append_c(header, ' ');
    guint64 length = GUINT64_TO_LE(header->len);
    return g_string_prepend_len(header, (const char *)&length, sizeof length);
}

static gboolean write_tensor(int file, const char *path, const MojiSaved *s, GError **error)
{
    const MojiWeight *t = s->from;
    if (s->type == t->type)
        return write_all(file, t->data, t->bytes) || fail(path, "cannot be written", error);
    g_autofree char *part = g_malloc(PART * 4);
    gsize n = count_of(s), infinite = 0, from_bytes = moji_type_bytes(t->type);
    for (gsize i = 0; i < n; i += PART) {
        gsize m = MIN(n - i, PART);
        infinite +=
            moji_save_convert(part, s->type, (const char *)t->data + i * from_bytes, t->type, m);
        if (!write_all(file, part, m * moji_type_bytes(s->type)))
            return fail(path, "cannot be written", error);
    }
    if (infinite)
        moji_error_file(error, path, "tensor %s has %" G_GSIZE_FORMAT " numbers too large for %s",
                        s->name, infinite, moji_type_name(s->type));
    return !infinite;
}

static gboolean write_file(int file, const char *path, GPtrArray *list, GHashTable *metadata,
                           GCancellable *cancel, GError **error)
{
    GString *header = make_header(list, metadata);
    gboolean ok =
        write_all(file, header->str, header->len) || fail(path, "cannot be written", error);
    g_string_free(header, TRUE);
    for (guint i = 0; ok && i < list->len; i++) {
        ok = write_tensor(file, path, list->pdata[i], error);
        if (ok && g_cancellable_is_cancelled(cancel)) {
            g_set_error(error, MOJI_ERROR, MOJI_ERROR_CANCELLED, "Cancelled");
            ok = FALSE;
        }
    }
    return ok;
}

gboolean moji_save_safetensors(const char *path, GPtrArray *list, GHashTable *metadata,
                               GCancellable *cancel, GError **error)
{
    g_autofree char *temporary = g_strconcat(path, ".XXXXXX", NULL);
    int file = g_mkstemp_full(temporary, O_WRONLY | O_CLOEXEC, 0644);
    if (file < 0)
        return fail(path, "cannot be written", error);
    gboolean ok = write_file(file, path, list, metadata, cancel, error);
    ok = moji_save_close(file, path, ok ? error : NULL) && ok;
    ok = ok && moji_save_rename(temporary, path, error);
    if (!ok)
        g_remove(temporary);
    return ok;
}
