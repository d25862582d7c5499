/* test_pictures.c: whole drawings, from seed and prompt to bytes, against diffusers' own pipeline
 * with each of its schedulers. In f32 the bytes are the same but for rounding, and the latents are
 * compared after each call of the U-Net, so that a failure tells where the ways part; in bf16 the
 * pictures may differ as much as torch's own do, and in f16 they are within 40 dB. */
#include "backend.h"
#include "draw.h"
#include "stages.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

/* The row that is running; test functions take no arguments. */
static const StageModel *model;
static const char *sampler, *type;
static MojiEngine *engine; /* one for all drawings of a model, as a program has it */

static guint8 *read_ppm(const char *path, int *width, int *height)
{
    gsize bytes;
    int start = 0;
    char *file;
    if (!g_file_get_contents(path, &file, &bytes, NULL) ||
        sscanf(file, "P6 %d %d 255%n", width, height, &start) != 2 || !start ||
        bytes != start + 1 + (gsize)*width * *height * 3)
        g_error("fixture %s cannot be read", path);
    memmove(file, file + start + 1, bytes - start - 1);
    return (guint8 *)file;
}

/* Share of the reference's pixels that are within one level in every channel; *mean is the mean
 * difference. */
static double agreeing(const MojiImage *image, const guint8 *want, int width, int height,
                       double *mean)
{
    gsize agree = 0;
    double sum = 0;
    for (int y = 0; y < height; y++)
        for (int x = 0; x < width; x++) {
            gsize at = (gsize)y * model->thin * image->width + (gsize)x * model->thin;
            const guint8 *a = image->rgba + 4 * at, *b = want + 3 * ((gsize)y * width + x);
            int worst = 0;
            for (int c = 0; c < 3; c++) {
                worst = MAX(worst, abs(a[c] - b[c]));
                sum += abs(a[c] - b[c]);
            }
            agree += worst <= 1;
        }
    *mean = sum / (3.0 * width * height);
    return (double)agree / ((double)width * height);
}

/* In decibels, from the same pixels: 10 log10(255^2 / mean square). */
static double psnr(const MojiImage *image, const guint8 *want, int width, int height)
{
    double square = 0;
    for (int y = 0; y < height; y++)
        for (int x = 0; x < width; x++) {
            gsize at = (gsize)y * model->thin * image->width + (gsize)x * model->thin;
            for (int c = 0; c < 3; c++) {
                double d = image->rgba[4 * at + c] - want[3 * ((gsize)y * width + x) + c];
                square += d * d / (3.0 * width * height);
            }
        }
    return square > 0 ? 10 * log10(255 * 255 / square) : INFINITY;
}

/* The drawing's own dumps (noise, latents_01, ...) against SAMPLER.npy. */
static void compare_latents(const char *folder)
{
    gsize count, got_count;
    gint64 shape[4], got_shape[4];
    g_autofree char *file = g_strconcat(sampler, ".npy", NULL);
    g_autofree char *path = stage_dump(model, file);
    g_autofree float *want = moji_test_npy(path, &count, shape);
    gsize one = count / shape[0];
    int steps = (int)stage_reference(model, "steps");
    gboolean twice = !strcmp(sampler, "heun") || !strcmp(sampler, "dpm++sde");
    int calls = twice ? 2 * steps - 1 : steps + !strcmp(sampler, "pndm");
    for (int i = 0; i < shape[0]; i++) {
        /* Thinned dumps keep the noise, the first and the last. */
        int call = i == shape[0] - 1 ? calls : i;
        g_autofree char *name =
            call ? g_strdup_printf("latents_%02d.npy", call) : g_strdup("noise.npy");
        g_autofree char *got_path = g_build_filename(folder, name, NULL);
        g_autofree float *got = moji_test_npy(got_path, &got_count, got_shape);
        if (!MOJI_CHECK(got_count == one, "%s has %zu numbers, expected %zu", name, got_count, one))
            return;
        double nmse = moji_test_nmse(got, want + i * one, one);
        if (g_getenv("MOJI_TEST_FIGURES"))
            g_print("# %s %s %s %s: nmse %.2g\n", model->name, sampler, type, name, nmse);
        MOJI_CHECK(nmse <= (call ? 1e-8 : 1e-14), "%s: error %g", name, nmse);
    }
}

static MojiRequest *request_new(void)
{
    MojiRequest *r = moji_request_new();
    r->prompt = stage_text(model, "prompt.txt");
    r->negative = stage_text(model, "negative.txt");
    r->style = g_strdup("none");
    r->background = g_strdup("none");
    r->sampler = g_strdup(sampler);
    r->model = g_strdup(model->folder);
    r->seed = (gint64)stage_reference(model, "seed");
    r->steps = (int)stage_reference(model, "steps");
    r->guidance = stage_reference(model, "guidance");
    r->size = (int)stage_reference(model, "size");
    return r;
}

static void test_picture(void)
{
    if (!stage_usable(model))
        return;
    g_autoptr(GError) error = NULL;
    g_autoptr(MojiRequest) request = request_new();
    g_autofree char *place = g_strdup_printf("%s %s %s", model->name, sampler, type);
    g_autofree char *folder = g_build_filename(moji_test_scratch(), place, NULL);
    moji_engine_set_type(engine, type);
    moji_engine_set_dump(engine, folder);
    GPtrArray *images = moji_engine_draw(engine, request, NULL, NULL, NULL, &error);
    if (MOJI_CHECK(images, "%s", error->message)) {
        g_autofree char *file = g_strconcat(sampler, ".ppm", NULL);
        g_autofree char *path = stage_dump(model, file);
        MojiImage *image = images->pdata[0];
        int width, height;
        double mean;
        g_autofree guint8 *want = read_ppm(path, &width, &height);
        MOJI_CHECK(image->width == width * model->thin && image->height == height * model->thin,
                   "%dx%d pixels", image->width, image->height);
        double agree = agreeing(image, want, width, height, &mean);
        if (g_getenv("MOJI_TEST_FIGURES"))
            g_print("# %s: %.4f %% within one level, mean difference %.3f\n", place, 100 * agree,
                    mean);
        if (!strcmp(type, "f32")) {
            MOJI_CHECK(agree >= 0.999, "%.4f %% within one level", 100 * agree);
            compare_latents(folder);
        } else if (!strcmp(type, "f16")) {
            double found = psnr(image, want, width, height);
            MOJI_CHECK(found >= 40, "%.1f dB from the f32 reference, expected 40", found);
        } else {
            g_autofree char *name = g_strconcat("bf16.pictures.", sampler, NULL);
            double torch = stage_reference(model, name);
            MOJI_CHECK(mean <= 1.5 * torch, "mean difference %g levels, torch has %g", mean, torch);
        }
        g_ptr_array_unref(images);
    }
}

static void test_model(MojiType types[], int n_types)
{
    g_autoptr(GError) error = NULL;
    g_auto(GStrv) names = model->missing ? g_strsplit("any", ",", -1) : stage_samplers(model);
    /* Threads only hold each other up in a tiny model. */
    engine = moji_engine_new(moji_test_backend("auto"), model->thin > 1 ? 0 : 1, &error);
    if (!engine)
        g_error("%s", error->message);
    for (int pass = 0; pass < n_types; pass++)
        for (char **name = names; *name; name++) {
            sampler = *name;
            type = moji_type_name(types[pass]);
            g_autofree char *row =
                g_strdup_printf("pictures: %s %s %s", model->name, sampler, type);
            moji_test(row, test_picture);
        }
    moji_engine_free(engine);
}

int main(void)
{
    int n;
    const StageModel *models = stage_models(&n);
    g_autoptr(GError) error = NULL;
    MojiBackend *backend = moji_backend_open(moji_test_backend("auto"), 0, &error);
    if (!backend) {
        moji_test_no_backend(error->message);
        return moji_test_end();
    }
    /* A processor that does not prefer bf16 may not have it. */
    MojiType preferred = backend->preferred(backend), types[] = {MOJI_F32, preferred};
    int n_types = preferred == MOJI_F32 ? 1 : 2;
    moji_backend_close(backend);
    for (int i = 0; i < n; i++) {
        model = &models[i];
        test_model(types, n_types);
    }
    return moji_test_end();
}
