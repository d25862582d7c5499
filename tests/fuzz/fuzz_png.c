/* fuzz_png.c: any bytes as a PNG file; what can be read must be written and read again alike.
 *
 * The surprising rule: the checksums of the chunks are put right first, or nothing a fuzzer changes
 * would get past them. The damaged ones are tried too. */
#include "image.h"
#include <string.h>

int LLVMFuzzerTestOneInput(const guint8 *data, size_t bytes);

static guint32 crc32_of(const guint8 *data, gsize bytes)
{
    guint32 crc = ~0u;
    for (gsize i = 0; i < bytes; i++) {
        crc ^= data[i];
        for (int k = 0; k < 8; k++)
            crc = crc >> 1 ^ (crc & 1 ? 0xedb88320u : 0);
    }
    return ~crc;
}

static void repair(guint8 *data, gsize bytes)
{
    for (gsize at = 8; at + 12 <= bytes;) {
        gsize length =
            (gsize)data[at] << 24 | data[at + 1] << 16 | data[at + 2] << 8 | data[at + 3];
        if (length > bytes - at - 12)
            return;
        guint32 crc = GUINT32_TO_BE(crc32_of(data + at + 4, length + 4));
        memcpy(data + at + 8 + length, &crc, 4);
        at += length + 12;
    }
}

/* Sizes that are allowed but large are left out, only for speed. */
static gboolean is_large(const guint8 *data, gsize bytes)
{
    guint32 size[2];
    if (bytes < 24)
        return FALSE;
    memcpy(size, data + 16, 8);
    guint64 pixels = (guint64)GUINT32_FROM_BE(size[0]) * GUINT32_FROM_BE(size[1]);
    return pixels > 1 << 16 && pixels <= 1 << 26;
}

static void try(const guint8 *data, gsize bytes)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(MojiImage) image = moji_image_decode_png(data, bytes, "fuzz", &error);
    g_assert(!image == !!error);
    if (!image)
        return;
    g_autoptr(GBytes) again = moji_image_encode_png(image, NULL);
    g_assert(again);
    gsize length;
    const void *written = g_bytes_get_data(again, &length);
    g_autoptr(MojiImage) back = moji_image_decode_png(written, length, "again", NULL);
    g_assert(back && back->width == image->width && back->height == image->height);
    for (gsize i = 0; i < (gsize)image->width * image->height; i++) {
        const guint8 *a = image->rgba + 4 * i, *b = back->rgba + 4 * i;
        g_assert(a[3] == 0 ? b[3] == 0 : memcmp(a, b, 4) == 0);
    }
    g_assert(g_strcmp0(image->recipe, back->recipe) == 0);
}

int LLVMFuzzerTestOneInput(const guint8 *data, size_t bytes)
{
    if (is_large(data, bytes))
        return 0;
    g_autofree guint8 *whole = g_memdup2(data, bytes);
    try(data, bytes);
    if (whole)
        repair(whole, bytes);
    try(whole, bytes);
    return 0;
}
