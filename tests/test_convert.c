/* test_convert.c: models from one form to another, and back. */
#include "checkpoint.h"
#include "convert.h"
#include "model.h"
#include "save.h"
#include "test.h"
#include <glib/gstdio.h>
#include <math.h>
#include <string.h>

static char *ckpt;

static char *scratch(const char *name)
{
    return g_build_filename(moji_test_scratch(), name, NULL);
}

static gboolean convert(const char *from, const char *to, const char *form, const char *type)
{
    g_autoptr(GError) error = NULL;
    MojiConvert options = {.to = form, .type = type};
    return MOJI_CHECK(moji_convert(from, to, &options, NULL, &error), "%s to %s: %s", from, to,
                      error->message);
}

/* Every tensor of a is in b with the same numbers. */
static void check_same(MojiWeights *a, MojiWeights *b, const char *what)
{
    GPtrArray *list = moji_weights_list(a);
    MOJI_CHECK(list->len == moji_weights_list(b)->len, "%s: %u tensors, expected %u", what,
               moji_weights_list(b)->len, list->len);
    for (guint i = 0; i < list->len; i++) {
        const MojiWeight *x = list->pdata[i], *y = moji_weights_find(b, x->name);
        MOJI_CHECK(y && x->type == y->type && x->bytes == y->bytes &&
                       !memcmp(x->data, y->data, x->bytes),
                   "%s: %s differs", what, x->name);
    }
}

static void check_models(const char *from, const char *to)
{
    g_autoptr(GError) error = NULL;
    MojiModel *a = moji_model_open(from, &error), *b = a ? moji_model_open(to, &error) : NULL;
    if (MOJI_CHECK(b, "%s", error->message)) {
        check_same(a->clip_weights, b->clip_weights, "text");
        check_same(a->unet_weights, b->unet_weights, "unet");
        check_same(a->vae_weights, b->vae_weights, "vae");
        MOJI_CHECK(a->unet.heads[0] == b->unet.heads[0] && a->unet.levels == b->unet.levels &&
                       a->unet.norm_groups == b->unet.norm_groups &&
                       a->clip.heads == b->clip.heads && a->vae.levels == b->vae.levels &&
                       moji_tokenizer_vocabulary(a->tokenizer) ==
                           moji_tokenizer_vocabulary(b->tokenizer),
                   "configurations differ");
    }
    moji_model_free(a);
    moji_model_free(b);
}

static void test_there_and_back(void)
{
    g_autofree char *folder = scratch("folder"), *file = scratch("one.safetensors");
    g_autofree char *again = scratch("again.safetensors"), *copy = scratch("copy");
    if (!convert(ckpt, folder, NULL, NULL) || !convert(folder, file, NULL, NULL) ||
        !convert(ckpt, again, "file", NULL) || !convert(folder, copy, "folder", NULL))
        return;
    check_models(ckpt, folder);
    check_models(ckpt, file);
    check_models(folder, copy);
    g_autofree char *a = NULL, *b = NULL;
    gsize n, m;
    g_assert_true(g_file_get_contents(file, &a, &n, NULL));
    g_assert_true(g_file_get_contents(again, &b, &m, NULL));
    MOJI_CHECK(n == m && !memcmp(a, b, n), "the file differs by the way it came");
    MojiCheckpoint *c = moji_checkpoint_open(file, NULL);
    const MojiWeight *q =
        moji_weights_find(c->file, "first_stage_model.decoder.mid.attn_1.q.weight");
    MOJI_CHECK(q && q->rank == 4, "the VAE's attention is no convolution in a checkpoint");
    moji_checkpoint_free(c);
    MojiModel *m2 = moji_model_open(folder, NULL);
    q = moji_weights_find(m2->vae_weights, "decoder.mid_block.attentions.0.to_q.weight");
    MOJI_CHECK(q && q->rank == 2, "the VAE's attention is no linear layer in a folder");
    moji_model_free(m2);
}

static void test_types(void)
{
    static const struct {
        const char *name;
        MojiType type;
    } rows[] = {{"fp32", MOJI_F32}, {"bf16", MOJI_BF16}, {"fp16", MOJI_F16}};
    for (guint i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree char *to = scratch(rows[i].name), *back = g_strconcat(to, ".back", NULL);
        if (!convert(ckpt, to, NULL, rows[i].name))
            return;
        MojiModel *m = moji_model_open(to, NULL);
        GPtrArray *list = moji_weights_list(m->clip_weights);
        for (guint k = 0; k < list->len; k++) {
            const MojiWeight *t = list->pdata[k];
            MOJI_CHECK(t->type == (strstr(t->name, "position_ids") ? MOJI_I64 : rows[i].type),
                       "%s: %s is %s", rows[i].name, t->name, moji_type_name(t->type));
        }
        moji_model_free(m);
        if (rows[i].type == MOJI_F32 && convert(to, back, NULL, "fp16"))
            check_models(ckpt, back); /* there and back loses nothing */
    }
}

/* Every half, and numbers between them, against the machine's own arithmetic. */
static void test_numbers(void)
{
    for (guint h = 0; h < 65536; h++) {
        guint16 half = h, back, bf = h;
        float value, low;
        moji_save_convert(&value, MOJI_F32, &half, MOJI_F16, 1);
        int exponent = h >> 10 & 31, mantissa = h & 1023;
        double want = exponent == 31 ? (mantissa ? NAN : INFINITY)
                      : exponent     ? ldexp(1024 + mantissa, exponent - 25)
                                     : ldexp(mantissa, -24);
        want = h & 0x8000 ? -want : want;
        MOJI_CHECK(isnan(want) ? isnan(value) : value == want, "half %04x is %g", h, value);
        moji_save_convert(&back, MOJI_F16, &value, MOJI_F32, 1);
        MOJI_CHECK(isnan(want) ? (back & 0x7c00) == 0x7c00 && back & 1023 : back == half,
                   "half %04x comes back as %04x", h, back);
        moji_save_convert(&low, MOJI_F32, &bf, MOJI_BF16, 1);
        moji_save_convert(&back, MOJI_BF16, &low, MOJI_F32, 1);
        MOJI_CHECK(isnan(low) ? (back & 0x7f80) == 0x7f80 && back & 127 : back == bf,
                   "bf16 %04x comes back as %04x", h, back);
    }
    static const struct {
        float value;
        guint16 half, bf;
    } rows[] = {
        {1.00048828125f, 0x3c00, 0x3f80}, /* half way: to even */
        {1.00146484375f, 0x3c02, 0x3f80}, {65519.0f, 0x7bff, 0x4780},
        {65520.0f, 0x7c00, 0x4780},       {2.9802322e-8f, 0x0000, 0x3300},
        {2.9802326e-8f, 0x0001, 0x3300},  {-0.0f, 0x8000, 0x8000},
        {1.00390625f, 0x3c04, 0x3f80},    {1.01171875f, 0x3c0c, 0x3f82},
    };
    for (guint i = 0; i < G_N_ELEMENTS(rows); i++) {
        guint16 half, bf;
        gsize infinite = moji_save_convert(&half, MOJI_F16, &rows[i].value, MOJI_F32, 1);
        moji_save_convert(&bf, MOJI_BF16, &rows[i].value, MOJI_F32, 1);
        MOJI_CHECK(half == rows[i].half && bf == rows[i].bf, "%.9g is %04x and %04x", rows[i].value,
                   half, bf);
        MOJI_CHECK(infinite == (half == 0x7c00), "%g: overflow is not told", rows[i].value);
    }
}

static int count_files(void)
{
    g_autoptr(GDir) dir = g_dir_open(moji_test_scratch(), 0, NULL);
    int n = 0;
    while (g_dir_read_name(dir))
        n++;
    return n;
}

static void expect_error(const char *from, const char *to, MojiConvert options, int code,
                         const char *words)
{
    g_autoptr(GError) error = NULL;
    int before = count_files();
    gboolean done = moji_convert(from, to, &options, NULL, &error);
    if (MOJI_CHECK(!done && error, "%s: converted", words))
        MOJI_CHECK(g_error_matches(error, MOJI_ERROR, code) && strstr(error->message, words),
                   "\"%s\" lacks \"%s\"", error->message, words);
    MOJI_CHECK(count_files() == before, "%s: something was left behind", words);
}

static void test_refusals(void)
{
    g_autofree char *new = scratch("new.safetensors"), *folder = scratch("new");
    g_autofree char *tiny = moji_test_path("tiny-sd"), *vae = moji_test_path("files/vae.bin");
    g_autofree char *large = scratch("large.safetensors"), *lost = scratch("no/such/x.safetensors");
    expect_error(tiny, new, (MojiConvert){0}, MOJI_ERROR_FILE, "attention_head_dim is 2");
    expect_error(ckpt, tiny, (MojiConvert){0}, MOJI_ERROR_FILE, "is there already");
    expect_error(ckpt, new, (MojiConvert){.type = "int8"}, MOJI_ERROR_USAGE, "int8");
    expect_error(ckpt, new, (MojiConvert){.to = "disk"}, MOJI_ERROR_USAGE, "disk");
    expect_error(vae, folder, (MojiConvert){0}, MOJI_ERROR_FILE, "is a VAE; only a whole model");
    expect_error("nowhere", folder, (MojiConvert){0}, MOJI_ERROR_FILE, "nowhere");
    expect_error(ckpt, lost, (MojiConvert){0}, MOJI_ERROR_FILE, "cannot be written");
    float values[] = {1, 70000};
    MojiWeight t = {
        .name = "x", .type = MOJI_F32, .rank = 1, .dim = {2}, .data = values, .bytes = 8};
    MojiSaved s = {.from = &t, .name = "x", .rank = 1, .dim = {2}, .type = MOJI_F32};
    g_autoptr(GPtrArray) list = g_ptr_array_new();
    g_ptr_array_add(list, &s);
    g_assert_true(moji_save_safetensors(large, list, NULL, NULL, NULL));
    expect_error(large, new, (MojiConvert){.type = "fp16"}, MOJI_ERROR_FILE, "too large for f16");
}

static void test_cancelled(void)
{
    g_autofree char *to = scratch("cancelled");
    g_autoptr(GCancellable) cancel = g_cancellable_new();
    g_autoptr(GError) error = NULL;
    int before = count_files();
    g_cancellable_cancel(cancel);
    MOJI_CHECK(!moji_convert(ckpt, to, &(MojiConvert){0}, cancel, &error) &&
                   g_error_matches(error, MOJI_ERROR, MOJI_ERROR_CANCELLED) &&
                   count_files() == before,
               "not cancelled, or something is left behind");
}

/* A part alone keeps its names. */
static void test_part(void)
{
    g_autofree char *vae = moji_test_path("files/vae.bin"), *to = scratch("vae.safetensors");
    if (!convert(vae, to, NULL, NULL))
        return;
    MojiWeights *a = moji_weights_open(vae, NULL), *b = moji_weights_open(to, NULL);
    check_same(a, b, "vae");
    moji_weights_free(a);
    moji_weights_free(b);
}

int main(void)
{
    ckpt = moji_test_path("files/tiny-1.ckpt");
    moji_test("convert: a checkpoint to a folder and back", test_there_and_back);
    moji_test("convert: types", test_types);
    moji_test("convert: numbers", test_numbers);
    moji_test("convert: a part alone", test_part);
    moji_test("convert: what is refused", test_refusals);
    moji_test("convert: cancelled", test_cancelled);
    g_free(ckpt);
    return moji_test_end();
}
