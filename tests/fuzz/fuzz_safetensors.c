/* fuzz_safetensors.c: any bytes as a safetensors file; what is accepted is read to its last byte.
 */
#include "weights.h"

int LLVMFuzzerTestOneInput(const guint8 *data, size_t bytes)
{
    g_autoptr(GBytes) file = g_bytes_new_static(data, bytes);
    g_autoptr(GError) error = NULL;
    MojiWeights *w = moji_weights_parse(file, "fuzz", &error);
    g_assert(!w == !!error);
    if (!w)
        return 0;
    static volatile guint8 sum;
    GPtrArray *list = moji_weights_list(w);
    for (guint i = 0; i < list->len; i++) {
        MojiWeight *t = list->pdata[i];
        gint64 count = 1;
        for (int d = 0; d < t->rank; d++)
            count *= t->dim[d];
        g_assert(t->rank <= MOJI_MAX_RANK && (gsize)count * moji_type_bytes(t->type) == t->bytes);
        g_assert(moji_weights_find(w, t->name) == t);
        for (gsize b = 0; b < t->bytes; b++)
            sum ^= ((const guint8 *)t->data)[b];
    }
    moji_weights_free(w);
    return 0;
}
