/* test_cuda.c: what the CUDA backend promises beyond its ops: weights renewed in place, and memory
 * that runs out, at whichever allocation. On the host shim, whose device counts and fails as it is
 * told; the pictures are small, since a block's threads run one after another there. */
#include "cuda_runtime_api.h"
#include "drawing.h"
#include "test.h"
#include <dlfcn.h>
#include <string.h>

static void (*set_memory)(size_t bytes);
static void (*set_failure)(int n, int times);
static MojiShimCounts (*counts)(void);

/* The shim beside the tests, as the backend that is opened; FALSE if it was not built. */
static gboolean find_shim(void)
{
    g_autofree char *program = g_file_read_link("/proc/self/exe", NULL);
    g_autofree char *folder = g_path_get_dirname(program);
    g_autofree char *path = g_build_filename(folder, "..", "shim", "libmoji-cuda.so", NULL);
    void *shim = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!shim) {
        g_print("FAIL cuda: %s\n", dlerror());
        return FALSE;
    }
    g_setenv("MOJI_CUDA", path, TRUE);
    *(void **)&set_memory = dlsym(shim, "moji_shim_memory");
    *(void **)&set_failure = dlsym(shim, "moji_shim_fail");
    *(void **)&counts = dlsym(shim, "moji_shim_counts");
    return set_memory && set_failure && counts;
}

static MojiEngine *engine_new(void)
{
    GError *error = NULL;
    MojiEngine *engine = moji_engine_new("cuda", 1, &error);
    if (!engine)
        g_error("%s", error->message);
    moji_engine_set_type(engine, "f32");
    return engine;
}

/* What a drawing told of its steps: 1, 2, ... as a number of one digit each. */
static int told, cancel_at;
static GCancellable *cancel;

static void on_progress(const MojiProgress *p, gpointer data)
{
    (void)data;
    if (p->phase != MOJI_PHASE_STEP)
        return;
    told = 10 * told + p->step;
    if (p->step == cancel_at)
        g_cancellable_cancel(cancel);
}

/* The smallest picture there is; lora: a file in fixtures/lora, or NULL. Caller frees; NULL with
 * the error set. */
static MojiImage *draw_steps(MojiEngine *engine, const char *lora, int steps, GError **error)
{
    g_autoptr(MojiRequest) r = moji_request_new();
    g_autofree char *file = lora ? g_strdup_printf("lora/%s.safetensors", lora) : NULL;
    g_autofree char *path = file ? moji_test_path(file) : NULL;
    const char *const loras[] = {path, NULL};
    told = 0;
    r->prompt = g_strdup("cat");
    r->model = moji_test_path("tiny-sd");
    r->sampler = g_strdup("ddim");
    r->loras = g_strdupv((char **)loras);
    r->size = MOJI_REQUEST_MIN_SIZE;
    r->steps = steps;
    r->guidance = 1;
    r->seed = 7;
    GPtrArray *images = moji_engine_draw(engine, r, on_progress, NULL, cancel, error);
    if (!images)
        return NULL;
    MojiImage *image = g_steal_pointer(&images->pdata[0]);
    g_ptr_array_set_free_func(images, NULL);
    g_ptr_array_unref(images);
    return image;
}

static MojiImage *draw(MojiEngine *engine, const char *lora, GError **error)
{
    return draw_steps(engine, lora, 1, error);
}

/* The same where nothing may go wrong. */
static MojiImage *draw_well(MojiEngine *engine, const char *lora)
{
    g_autoptr(GError) error = NULL;
    MojiImage *image = draw(engine, lora, &error);
    MOJI_CHECK(image, "%s", error->message);
    MOJI_CHECK(!image || told == 1, "of one step it told %d", told);
    return image ? image : moji_image_new(MOJI_REQUEST_MIN_SIZE, MOJI_REQUEST_MIN_SIZE);
}

static gboolean same(const MojiImage *a, const MojiImage *b)
{
    return !memcmp(a->rgba, b->rgba, (gsize)a->width * a->height * 4);
}

/* The second drawing captures the graphs; what comes after changes nothing but values. */
static void test_loras(void)
{
    enum { NONE, AGAIN, LORA, BACK, FRESH, N };
    MojiImage *image[N];
    MojiEngine *warm = engine_new();
    image[NONE] = draw_well(warm, NULL);
    image[AGAIN] = draw_well(warm, NULL);
    MojiShimCounts before = counts();
    const MojiStage *text = warm->text, *unet = warm->unet;
    image[LORA] = draw_well(warm, "kohya");
    image[BACK] = draw_well(warm, NULL);
    MojiShimCounts after = counts();
    MOJI_CHECK(warm->text == text && warm->unet == unet, "stages were made anew");
    MOJI_CHECK(after.allocations == before.allocations && after.blocks == before.blocks,
               "%d allocations, %d more blocks", after.allocations - before.allocations,
               after.blocks - before.blocks);
    MOJI_CHECK(after.graphs == before.graphs && before.graphs > 0, "%d graphs, then %d",
               before.graphs, after.graphs);
    moji_engine_free(warm);
    MojiEngine *other = engine_new();
    image[FRESH] = draw_well(other, "kohya");
    moji_engine_free(other);
    MOJI_CHECK(same(image[LORA], image[FRESH]), "not the picture of a fresh engine");
    MOJI_CHECK(same(image[NONE], image[AGAIN]), "the graph draws another picture");
    MOJI_CHECK(same(image[NONE], image[BACK]), "not the picture from before the LoRA");
    MOJI_CHECK(!same(image[NONE], image[LORA]), "the LoRA does nothing");
    MOJI_CHECK(counts().blocks == 0, "%d blocks are left", counts().blocks);
    for (int i = 0; i < N; i++)
        moji_image_free(image[i]);
}

static GPtrArray *draw_many(MojiEngine *engine, gint64 seed, int count)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(MojiRequest) r = moji_request_new();
    r->prompt = g_strdup("cat");
    r->model = moji_test_path("tiny-sd");
    r->sampler = g_strdup("euler-a"); /* draws noise on the way */
    r->size = MOJI_REQUEST_MIN_SIZE;
    r->steps = 2;
    r->guidance = 3;
    r->seed = seed;
    r->count = count;
    GPtrArray *images = moji_engine_draw(engine, r, NULL, NULL, NULL, &error);
    MOJI_CHECK(images, "%s", error ? error->message : "");
    return images ? images : g_ptr_array_new();
}

/* The last of three pictures at once is that of its seed. */
static void test_batch(void)
{
    enum { COUNT = 3, SEED = 4 };
    MojiEngine *engine = engine_new();
    GPtrArray *images = draw_many(engine, SEED, COUNT);
    int calls = moji_engine_times(engine)->unet_calls;
    MOJI_CHECK(images->len == COUNT && calls == 2, "%u pictures in %d calls", images->len, calls);
    GPtrArray *alone = draw_many(engine, SEED + COUNT - 1, 1);
    if (MOJI_CHECK(images->len == COUNT && alone->len == 1, "%u pictures", images->len)) {
        MOJI_CHECK(same(images->pdata[COUNT - 1], alone->pdata[0]), "not that of its seed");
        MOJI_CHECK(!same(images->pdata[0], alone->pdata[0]), "all are one");
    }
    g_ptr_array_unref(alone);
    g_ptr_array_unref(images);
    moji_engine_free(engine);
}

/* Progress comes while the next call of the U-Net is under way, so that one is the last. */
static void test_cancel(void)
{
    GError *error = NULL;
    MojiEngine *engine = engine_new();
    cancel = g_cancellable_new();
    cancel_at = 2;
    MojiImage *image = draw_steps(engine, NULL, 5, &error);
    int calls = moji_engine_times(engine)->unet_calls;
    MOJI_CHECK(!image && g_error_matches(error, MOJI_ERROR, MOJI_ERROR_CANCELLED), "%s",
               error ? error->message : "drawn");
    MOJI_CHECK(told == 12 && calls == 3, "%d calls of the U-Net, told %d", calls, told);
    g_clear_error(&error);
    g_clear_object(&cancel);
    cancel_at = 0;
    moji_image_free(image);
    moji_engine_free(engine);
    MOJI_CHECK(counts().blocks == 0, "%d blocks are left", counts().blocks);
}

/* What is foretold without weights is what is then allocated, to the byte. */
static void test_forecast(void)
{
    g_autofree char *folder = moji_test_path("tiny-sd");
    MojiBackend *b = moji_backend_open("cuda", 1, NULL);
    MojiModel *bare = moji_model_configs(folder, NULL), *m = moji_model_open(folder, NULL);
    MojiStage *told[] = {moji_stage_text(bare, MOJI_F16, 2, 1, FALSE),
                         moji_stage_unet(bare, MOJI_F16, 2, 64, 64),
                         moji_stage_vae(bare, MOJI_F16, 1, 64, 64)};
    MojiStage *made[] = {moji_stage_text(m, MOJI_F16, 2, 1, FALSE),
                         moji_stage_unet(m, MOJI_F16, 2, 64, 64),
                         moji_stage_vae(m, MOJI_F16, 1, 64, 64)};
    MojiForecast f;
    int before = counts().allocations;
    MOJI_CHECK(moji_stage_forecast(told, 3, b, &f, NULL), "it fails");
    MOJI_CHECK(counts().allocations == before, "it allocates");
    guint64 all = f.weights + f.activations + f.working + f.libraries;
    gboolean ready = TRUE;
    for (int i = 0; i < 3; i++)
        ready = ready && moji_stage_prepare(made[i], b, NULL);
    MOJI_CHECK(ready && counts().bytes == all, "%zu bytes, foretold %" G_GUINT64_FORMAT,
               counts().bytes, all);
    MOJI_CHECK(b->peak(b) >= counts().bytes - 4, "a peak of %" G_GUINT64_FORMAT, b->peak(b));
    for (int i = 0; i < 3; i++) {
        moji_stage_free(told[i]);
        moji_stage_free(made[i]);
    }
    moji_model_free(m);
    moji_model_free(bare);
    moji_backend_close(b);
    MOJI_CHECK(counts().blocks == 0, "%d blocks are left", counts().blocks);
}

/* Layers that are alike are one product, on every network: the first does the work of all. */
static void test_packed(void)
{
    g_autofree char *folder = moji_test_path("tiny-sd");
    MojiBackend *b = moji_backend_open("cuda", 1, NULL);
    MojiModel *m = moji_model_open(folder, NULL);
    MojiStage *stage[] = {moji_stage_text(m, MOJI_F16, 1, 1, FALSE),
                          moji_stage_unet(m, MOJI_F16, 1, 8, 8),
                          moji_stage_vae(m, MOJI_F16, 1, 8, 8)};
    for (guint s = 0; s < G_N_ELEMENTS(stage); s++) {
        MojiTape *tape = stage[s]->tape;
        int n = moji_tape_length(tape), packed = 0;
        g_autofree double *seconds = g_new(double, n);
        MOJI_CHECK(moji_stage_prepare(stage[s], b, NULL) && moji_tape_profile(tape, seconds, NULL),
                   "stage %u does not run", s);
        for (int i = 1; i < n; i++) {
            const MojiRecord *r = moji_tape_record(tape, i);
            gboolean alike = moji_records_alike(moji_tape_record(tape, i - 1), r);
            MOJI_CHECK(!alike || seconds[i] == 0, "stage %u: %s is computed by itself", s, r->name);
            MOJI_CHECK(alike || r->op != MOJI_OP_LINEAR || seconds[i] > 0,
                       "stage %u: %s is not computed", s, r->name);
            packed += alike;
        }
        MOJI_CHECK(packed >= 2, "stage %u: %d layers are part of others", s, packed);
        moji_stage_free(stage[s]);
    }
    moji_model_free(m);
    moji_backend_close(b);
}

/* With nothing loaded, the n-th allocation of a drawing fails, and `times` in all: either the
 * drawing does without, and is as it should be, or it tells. Goes on until there is no n-th.
 * Returns how many failed. */
static int fail_each(MojiEngine *engine, const MojiImage *want, int times)
{
    int failures = 0;
    for (int n = 1, made = n; made >= n; n++) {
        GError *error = NULL;
        moji_engine_unload(engine);
        int before = counts().allocations;
        set_failure(n, times);
        MojiImage *image = draw(engine, NULL, &error);
        set_failure(0, 0);
        made = counts().allocations - before;
        failures += !image;
        MOJI_CHECK(image || (g_error_matches(error, MOJI_ERROR, MOJI_ERROR_MEMORY) &&
                             strstr(error->message, "memory")),
                   "allocation %d: %s", n, error ? error->message : "");
        MOJI_CHECK(!image || same(image, want), "allocation %d: another picture", n);
        g_clear_error(&error);
        moji_image_free(image);
    }
    return failures;
}

/* With less at once a drawing survives one that fails, but not the lack of all. */
static void test_allocations(void)
{
    MojiEngine *engine = engine_new();
    MojiImage *want = draw_well(engine, NULL);
    fail_each(engine, want, 1);
    int failures = fail_each(engine, want, G_MAXINT);
    MOJI_CHECK(failures >= 4, "%d drawings failed", failures);
    moji_image_free(want);
    moji_engine_free(engine);
    MOJI_CHECK(counts().blocks == 0, "%d blocks are left", counts().blocks);
}

/* Devices that are too small: for the plan, for the stages, for the backend itself. */
static void test_small(void)
{
    GError *error = NULL;
    MojiEngine *engine = engine_new();
    set_memory((gsize)48 << 20);
    MojiImage *image = draw(engine, NULL, &error);
    MOJI_CHECK(!image && g_error_matches(error, MOJI_ERROR, MOJI_ERROR_MEMORY), "48 MiB: %s",
               error ? error->message : "drawn");
    g_clear_error(&error);
    moji_image_free(image);
    moji_engine_free(engine);
    set_memory(1);
    engine = moji_engine_new("cuda", 1, &error);
    MOJI_CHECK(!engine && g_error_matches(error, MOJI_ERROR, MOJI_ERROR_MEMORY) &&
                   strstr(error->message, "GPU memory"),
               "no memory: %s", error ? error->message : "opened");
    g_clear_error(&error);
    set_memory((gsize)1 << 30);
    MOJI_CHECK(counts().blocks == 0, "%d blocks are left", counts().blocks);
}

int main(void)
{
    if (!find_shim())
        return 1;
    moji_test("cuda: LoRAs changed on a warm engine", test_loras);
    moji_test("cuda: several pictures at once", test_batch);
    moji_test("cuda: cancelled between steps", test_cancel);
    moji_test("cuda: memory is foretold", test_forecast);
    moji_test("cuda: layers that are alike are one product", test_packed);
    moji_test("cuda: each allocation fails once", test_allocations);
    moji_test("cuda: devices that are too small", test_small);
    return moji_test_end();
}
