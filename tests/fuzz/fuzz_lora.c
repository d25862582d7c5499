/* fuzz_lora.c: any bytes as a LoRA file, which is then merged into tiny-sd.
 *
 * First byte 0: the rest is the file. Else it is how many times four of the rest are data; what is
 * left of it is the header, and its length is put in front. */
#include "lora.h"
#include "styles.h"

static GBytes *make_file(const guint8 *data, size_t bytes)
{
    if (bytes == 0 || data[0] == 0)
        return g_bytes_new(data + (bytes > 0), bytes - (bytes > 0));
    guint64 rest = bytes - 1, header = GUINT64_TO_LE(rest - MIN(rest, 4u * data[0]));
    GByteArray *file = g_byte_array_sized_new(8 + rest);
    g_byte_array_append(file, (const guint8 *)&header, 8);
    g_byte_array_append(file, data + 1, rest);
    return g_byte_array_free_to_bytes(file);
}

int LLVMFuzzerTestOneInput(const guint8 *data, size_t bytes)
{
    static MojiModel *model;
    if (!model)
        model = moji_model_open(MOJI_SOURCE_DIR "/tests/fixtures/tiny-sd", NULL);
    g_assert(model);
    g_autoptr(GBytes) file = make_file(data, bytes);
    g_autoptr(GError) error = NULL;
    MojiWeights *w = moji_weights_parse(file, "fuzz", &error);
    MojiLora *l = w ? moji_lora_new(w, &error) : NULL;
    g_assert(!l == !!error);
    if (!l)
        return 0;
    MojiLoraUse use = {.lora = l, .unet = 0.5, .text = -1};
    gboolean ok = moji_lora_merge(model, MOJI_BF16, 1, &use, 1, NULL, &error);
    g_assert(ok == !error && (!ok || use.applied == moji_lora_tensors(l)));
    g_assert(ok || moji_lora_merged_bytes(model) == 0);
    g_autofree char *text = moji_style_describe("fuzz", l);
    g_autofree char *again = moji_lora_describe(l);
    g_assert(text && again);
    moji_lora_free(l);
    return 0;
}
