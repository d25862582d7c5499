/* test_stages.c: each stage by itself, against what diffusers and transformers give for the same
 * input. In f32 the difference is rounding; in bf16 it may be as large as torch's own. */
#include "npy.h"
#include "stage.h"
#include "stages.h"
#include <math.h>
#include <string.h>

/* The row that is running; test functions take no arguments. */
static const StageModel *model;
static MojiType type;
static MojiBackend *backend;

static float *dump(const char *file, gsize *count, gint64 shape[4])
{
    g_autofree char *path = stage_dump(model, file);
    return moji_test_npy(path, count, shape);
}

/* Runs the stage on inputs (freed here) and holds its output against dumps/FILE; the shape of the
 * output is [B,h,w,C] of which the dump has every thin-th pixel. */
static void compare(MojiStage *stage, void *inputs[3], const char *file, const char *stage_name,
                    int thin)
{
    g_autoptr(GError) error = NULL;
    gboolean ran = moji_stage_prepare(stage, backend, &error);
    for (int i = 0; i < 3; i++) {
        if (ran && inputs[i])
            moji_tape_write(stage->tape, stage->in[i], inputs[i]);
        g_free(inputs[i]);
    }
    ran = ran && moji_tape_run(stage->tape, NULL, &error);
    if (!MOJI_CHECK(ran, "%s", error->message))
        return;

    gsize count;
    gint64 shape[4];
    g_autofree float *want = dump(file, &count, shape);
    g_autofree float *got = g_new(float, moji_tensor_count(stage->out));
    moji_tape_read(stage->tape, stage->out, got);
    const gint64 *dim = stage->out->dim;
    if (thin > 1)
        for (gint64 y = 0, at = 0; y < dim[1]; y += thin)
            for (gint64 x = 0; x < dim[2]; x += thin, at += dim[3])
                memmove(got + at, got + (y * dim[2] + x) * dim[3], dim[3] * sizeof *got);
    gsize have = moji_tensor_count(stage->out) / (thin * thin);
    if (!MOJI_CHECK(have == count, "%zu numbers, expected %zu", have, count))
        return;

    g_autofree char *name = g_strconcat("bf16.", stage_name, NULL);
    double worst = moji_test_max_error(got, want, count), scale = 1;
    double nmse = moji_test_nmse(got, want, count);
    double allowed = MAX(1.3e-4, 1.5 * stage_reference(model, name));
    for (gsize i = 0; i < count; i++)
        scale = MAX(scale, fabs(want[i]));
    if (g_getenv("MOJI_TEST_FIGURES"))
        g_print("# %s %s %s: worst %.2g of %.3g, nmse %.2g, torch's in bf16 %.2g\n", model->name,
                stage_name, moji_type_name(type), worst, scale, nmse, stage_reference(model, name));
    if (type == MOJI_F32)
        MOJI_CHECK(worst <= 5e-5 * scale, "differs by %g of %g", worst, scale);
    else
        MOJI_CHECK(nmse <= allowed, "error %g, allowed %g", nmse, allowed);
}

static MojiModel *open_model(void)
{
    g_autoptr(GError) error = NULL;
    MojiModel *m = stage_usable(model) ? moji_model_open(model->folder, &error) : NULL;
    MOJI_CHECK(!error, "%s", error->message);
    return m;
}

static void test_ids(void)
{
    MojiModel *m = open_model();
    if (!m)
        return;
    gsize count;
    gint64 shape[4];
    g_autofree char *path = stage_dump(model, "ids.npy");
    g_autofree gint64 *want = moji_test_npy_int(path, &count, shape);
    g_autofree char *prompt = stage_text(model, "text.txt");
    g_autofree char *negative = stage_text(model, "negative.txt");
    int n = moji_tokenizer_length(m->tokenizer);
    g_autofree gint32 *ids = g_new(gint32, 2 * n);
    moji_tokenizer_encode(m->tokenizer, negative, ids, NULL);
    moji_tokenizer_encode(m->tokenizer, prompt, ids + n, NULL);
    MOJI_CHECK(count == 2 * (gsize)n, "%d ids a prompt, expected %zu", n, count / 2);
    for (gsize i = 0; i < count && i < 2 * (gsize)n; i++)
        MOJI_CHECK(ids[i] == want[i], "id %zu is %d, expected %d", i, ids[i], (int)want[i]);
    moji_model_free(m);
}

static void test_text(void)
{
    MojiModel *m = open_model();
    if (!m)
        return;
    gsize count;
    gint64 shape[4];
    g_autofree char *path = stage_dump(model, "ids.npy");
    g_autofree gint64 *wide = moji_test_npy_int(path, &count, shape);
    gint32 *ids = g_new(gint32, count), *positions = g_new(gint32, count);
    for (gsize i = 0; i < count; i++) {
        ids[i] = wide[i];
        positions[i] = i % shape[1];
    }
    MojiStage *stage = moji_stage_text(m, type, shape[0], 1, FALSE);
    compare(stage, (void *[]){ids, positions, NULL}, "embeddings.npy", "clip", 1);
    moji_stage_free(stage);
    moji_model_free(m);
}

static void test_unet(void)
{
    MojiModel *m = open_model();
    if (!m)
        return;
    gsize count;
    gint64 shape[4], other[4];
    float *sample = dump("sample.npy", &count, shape);
    float *time = dump("timesteps.npy", &count, other);
    float *context = dump("embeddings.npy", &count, other);
    MojiStage *stage = moji_stage_unet(m, type, shape[0], shape[1], shape[2]);
    compare(stage, (void *[]){sample, time, context}, "unet.npy", "unet", 1);
    moji_stage_free(stage);
    moji_model_free(m);
}

static void test_vae(void)
{
    MojiModel *m = open_model();
    if (!m)
        return;
    gsize count;
    gint64 shape[4];
    float *latents = dump("latents.npy", &count, shape);
    MojiStage *stage = moji_stage_vae(m, type, 1, shape[1], shape[2]);
    compare(stage, (void *[]){latents, NULL, NULL}, "decoded.npy", "vae", model->thin);
    moji_stage_free(stage);
    moji_model_free(m);
}

static void test_encode(void)
{
    MojiModel *m = open_model();
    if (!m)
        return;
    gsize count;
    gint64 shape[4];
    float *pixels = dump("pixels.npy", &count, shape);
    int f = moji_vae_factor(&m->vae);
    MojiStage *stage = moji_stage_encode(m, type, 1, shape[1] / f, shape[2] / f);
    compare(stage, (void *[]){pixels, NULL, NULL}, "moments.npy", "encode", 1);
    moji_stage_free(stage);
    moji_model_free(m);
}

/* The prediction must not depend on what else is in the batch, nor on the number of threads. */
static void test_batch(void)
{
    MojiModel *m = open_model();
    if (!m)
        return;
    g_autoptr(GError) error = NULL;
    gsize count;
    gint64 shape[4], other[4];
    g_autofree float *sample = dump("sample.npy", &count, shape);
    g_autofree float *want = dump("unet.npy", &count, shape);
    g_autofree float *time = dump("timesteps.npy", &count, other);
    g_autofree float *context = dump("embeddings.npy", &count, other);
    gsize one = shape[1] * shape[2] * shape[3], text = other[1] * other[2];
    g_autofree float *got = g_new(float, one);
    MojiBackend *three = moji_backend_open(moji_test_backend("auto"), 3, &error);
    MojiStage *stage = moji_stage_unet(m, MOJI_F32, 1, shape[1], shape[2]);
    if (MOJI_CHECK(three && moji_stage_prepare(stage, three, &error), "%s", error->message))
        for (int b = 0; b < 2; b++) {
            moji_tape_write(stage->tape, stage->in[0], sample + b * one);
            moji_tape_write(stage->tape, stage->in[1], time + b);
            moji_tape_write(stage->tape, stage->in[2], context + b * text);
            MOJI_CHECK(moji_tape_run(stage->tape, NULL, &error), "%s", error->message);
            moji_tape_read(stage->tape, stage->out, got);
            double worst = moji_test_max_error(got, want + b * one, one);
            MOJI_CHECK(worst <= 2e-4, "element %d alone differs by %g", b, worst);
        }
    moji_stage_free(stage);
    moji_backend_close(three);
    moji_model_free(m);
}

/* A safetensors file of the same tensors with their lower sixteen bits cleared, as F32 or BF16. */
static MojiWeights *rewrite(MojiWeights *from, gboolean bf16)
{
    GPtrArray *list = moji_weights_list(from);
    GString *header = g_string_new("{");
    GByteArray *data = g_byte_array_new();
    for (guint i = 0; i < list->len; i++) {
        const MojiWeight *t = list->pdata[i];
        g_string_append_printf(header, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[", i ? "," : "",
                               t->name, bf16 ? "BF16" : "F32");
        for (int d = 0; d < t->rank; d++)
            g_string_append_printf(header, "%s%" G_GINT64_FORMAT, d ? "," : "", t->dim[d]);
        g_string_append_printf(header, "],\"data_offsets\":[%u,", data->len);
        for (gsize b = 0; b < t->bytes; b += 4) {
            guint32 bits;
            memcpy(&bits, (const char *)t->data + b, 4);
            bits &= 0xffff0000;
            g_byte_array_append(data, (guint8 *)&bits + 2 * bf16, bf16 ? 2 : 4);
        }
        g_string_append_printf(header, "%u]}", data->len);
    }
    g_string_append_c(header, '}');
    guint64 length = GUINT64_TO_LE(header->len);
    g_byte_array_prepend(data, (guint8 *)header->str, header->len);
    g_byte_array_prepend(data, (guint8 *)&length, 8);
    g_string_free(header, TRUE);
    g_autoptr(GBytes) file = g_byte_array_free_to_bytes(data);
    g_autoptr(GError) error = NULL;
    MojiWeights *w = moji_weights_parse(file, "rewritten", &error);
    g_assert_no_error(error);
    return w;
}

/* The type that a file has its numbers in must not matter when the numbers are the same. */
static void test_stored_type(void)
{
    MojiModel *m = open_model();
    if (!m)
        return;
    gsize count;
    gint64 shape[4], other[4];
    g_autofree float *sample = dump("sample.npy", &count, shape);
    g_autofree float *time = dump("timesteps.npy", &count, other);
    g_autofree float *context = dump("embeddings.npy", &count, other);
    float *got[2] = {NULL, NULL};
    MojiWeights *original = m->unet_weights;
    for (int bf16 = 0; bf16 < 2; bf16++) {
        g_autoptr(GError) error = NULL;
        m->unet_weights = rewrite(original, bf16);
        MojiStage *stage = moji_stage_unet(m, type, shape[0], shape[1], shape[2]);
        count = moji_tensor_count(stage->out);
        got[bf16] = g_new0(float, count);
        if (MOJI_CHECK(moji_stage_prepare(stage, backend, &error), "%s", error->message)) {
            moji_tape_write(stage->tape, stage->in[0], sample);
            moji_tape_write(stage->tape, stage->in[1], time);
            moji_tape_write(stage->tape, stage->in[2], context);
            MOJI_CHECK(moji_tape_run(stage->tape, NULL, &error), "%s", error->message);
            moji_tape_read(stage->tape, stage->out, got[bf16]);
        }
        moji_stage_free(stage);
        moji_weights_free(m->unet_weights);
    }
    m->unet_weights = original;
    double worst = moji_test_max_error(got[0], got[1], count);
    MOJI_CHECK(worst == 0 && got[0][0] != 0, "F32 and BF16 files differ by %g", worst);
    g_free(got[0]);
    g_free(got[1]);
    moji_model_free(m);
}

static void row(const char *what, MojiTestFn fn)
{
    g_autofree char *name =
        g_strdup_printf("stages: %s %s %s", model->name, what, moji_type_name(type));
    moji_test(name, fn);
}

static void test_model(void)
{
    /* A processor that does not prefer bf16 may not have it. */
    MojiType preferred = backend->preferred(backend), types[] = {MOJI_F32, preferred};
    type = MOJI_F32;
    row("ids", test_ids);
    row("alone in a batch", test_batch);
    for (int pass = 0; pass < (preferred == MOJI_F32 ? 1 : 2); pass++) {
        type = types[pass];
        row("text", test_text);
        row("unet", test_unet);
        row("vae", test_vae);
        row("encode", test_encode);
        if (!strcmp(model->name, "tiny-sd"))
            row("stored as bf16", test_stored_type);
    }
}

int main(void)
{
    int n;
    const StageModel *models = stage_models(&n);
    for (int i = 0; i < n; i++) {
        g_autoptr(GError) error = NULL;
        model = &models[i];
        /* Threads only hold each other up in a tiny model. */
        backend = moji_backend_open(moji_test_backend("auto"), model->thin > 1 ? 0 : 1, &error);
        if (!backend) {
            moji_test_no_backend(error->message);
            break;
        }
        test_model();
        moji_backend_close(backend);
    }
    return moji_test_end();
}
