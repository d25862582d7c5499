/* fuzz_pickle.c: any bytes as PyTorch's files. First byte 0: the rest is a file; 1: a pickle alone;
 * else: the pickle of the older form, behind the three before it, with the storages' keys and bytes
 * left to the fuzzer. What is accepted is read to its last byte. */
#include "pickle.h"
#include "weights.h"

static void read_all(GBytes *file)
{
    g_autoptr(GError) error = NULL;
    MojiWeights *w = moji_weights_parse(file, "fuzz", &error);
    g_assert(!w == !!error);
    volatile guint8 sum = 0;
    for (guint i = 0; w && i < moji_weights_list(w)->len; i++) {
        const MojiWeight *t = moji_weights_list(w)->pdata[i];
        for (gsize b = 0; b < t->bytes; b++)
            sum = sum ^ ((const guint8 *)t->data)[b];
    }
    moji_weights_free(w);
}

int LLVMFuzzerTestOneInput(const guint8 *data, size_t bytes)
{
    static const guint8 row[] = "\x80\2\x8a\nl\xfc\x9c\x46\xf9 j\xa8P\x19.\x80\2M\xe9\3.\x80\2}.";
    if (bytes == 0)
        return 0;
    if (data[0] == 1) {
        g_autoptr(GError) error = NULL;
        MojiPickle *p = moji_pickle_parse(data + 1, bytes - 1, "fuzz", &error);
        g_assert(!p == !!error && (!p || (p->root && p->bytes < bytes)));
        moji_pickle_free(p);
        return 0;
    }
    g_autoptr(GByteArray) file = g_byte_array_new();
    if (data[0])
        g_byte_array_append(file, row, sizeof row - 1);
    g_byte_array_append(file, data + 1, bytes - 1);
    g_autoptr(GBytes) whole = g_bytes_new(file->data, file->len);
    read_all(whole);
    return 0;
}
