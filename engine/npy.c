/* npy.c: see npy.h. */
#include "npy.h"
#include <errno.h>
#include <glib/gstdio.h>
#include <stdio.h>
#include <string.h>

#define MAGIC "\x93NUMPY\x01\x00"
#define MAGIC_BYTES 8

/* Magic, two bytes of length, and the description padded with spaces to a multiple of 64. */
static GString *header_new(MojiType type, int rank, const gint64 *dim)
{
    GString *text = g_string_new(NULL);
    g_string_append_printf(text, "{'descr': '%s', 'fortran_order': False, 'shape': (",
                           type == MOJI_F32 ? "<f4" : "<i4");
    for (int i = 0; i < rank; i++)
        g_string_append_printf(text, "%" G_GINT64_FORMAT ",", dim[i]);
    g_string_append(text, "), }");
    while ((MAGIC_BYTES + 2 + text->len + 1) % 64)
        g_string_append_c(text, ' ');
    g_string_append_c(text, '\n');
    guint8 length[2] = {text->len & 255, text->len >> 8};
    g_string_prepend_len(text, (const char *)length, 2);
    g_string_prepend_len(text, MAGIC, MAGIC_BYTES);
    return text;
}

gboolean moji_npy_write(const char *folder, const char *name, MojiType type, int rank,
                        const gint64 *dim, const void *data, GError **error)
{
    g_assert(type == MOJI_F32 || type == MOJI_I32);
    gsize bytes = moji_type_bytes(type);
    for (int i = 0; i < rank; i++)
        bytes *= dim[i];
    g_autofree char *file = g_strconcat(name, ".npy", NULL);
    g_autofree char *path = g_build_filename(folder, file, NULL);
    g_mkdir_with_parents(folder, 0777);
    FILE *f = g_fopen(path, "wb");
    GString *header = header_new(type, rank, dim);
    gboolean ok = f && fwrite(header->str, 1, header->len, f) == header->len &&
                  fwrite(data, 1, bytes, f) == bytes;
    int found = errno;
    if (f && fclose(f)) {
        found = errno;
        ok = FALSE;
    }
    g_string_free(header, TRUE);
    if (!ok)
        moji_error_file(error, path, "cannot be written: %s", g_strerror(found));
    return ok;
}
