/* fuzz_safetensors.c: any bytes as a safetensors file; what is accepted is read to its last byte.
 *
 * First byte 0: the rest is the file. Else it is how many of the rest are data; what is left of it
 * is the header, and its length is put in front, which a fuzzer would hardly ever guess. */
#include "weights.h"

static GBytes *make_file(const guint8 *data, size_t bytes)
{
    if (bytes == 0 || data[0] == 0)
        return g_bytes_new(data + (bytes > 0), bytes - (bytes > 0));
    guint64 rest = bytes - 1, header = GUINT64_TO_LE(rest - MIN(rest, data[0]));
    GByteArray *file = g_byte_array_sized_new(8 + rest);
    g_byte_array_append(file, (const guint8 *)&header, 8);
    g_byte_array_append(file, data + 1, rest);
    return g_byte_array_free_to_bytes(file);
}

int LLVMFuzzerTestOneInput(const guint8 *data, size_t bytes)
{
    g_autoptr(GBytes) file = make_file(data, bytes);
    g_autoptr(GError) error = NULL;
    MojiWeights *w = moji_weights_parse(file, "fuzz", &error);
    g_assert(!w == !!error);
    if (!w)
        return 0;
    volatile guint8 sum = 0;
    GPtrArray *list = moji_weights_list(w);
    for (guint i = 0; i < list->len; i++) {
        MojiWeight *t = list->pdata[i];
        gint64 count = 1;
        for (int d = 0; d < t->rank; d++)
            count *= t->dim[d];
        g_assert(t->rank <= MOJI_MAX_RANK && (gsize)count * moji_type_bytes(t->type) == t->bytes);
        g_assert(moji_weights_find(w, t->name) == t);
        for (gsize b = 0; b < t->bytes; b++)
            sum = sum ^ ((const guint8 *)t->data)[b];
    }
    moji_weights_free(w);
    return 0;
}
