/* test_cuda.c: what the CUDA backend promises beyond its ops: weights renewed in place, and memory
 * that runs out, at whichever allocation. On the host shim, whose device counts and fails as it is
 * told; the pictures are small, since a block's threads run one after another there. */
#include "cuda_runtime_api.h"
#include "drawing.h"
#include "test.h"
#include <dlfcn.h>
#include <string.h>

static void (*set_memory)(size_t bytes);
static void (*set_failure)(int n);
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

/* The smallest picture there is, in one step; lora: a file in fixtures/lora, or NULL. Caller frees;
 * NULL with the error set. */
static MojiImage *draw(MojiEngine *engine, const char *lora, GError **error)
{
    g_autoptr(MojiRequest) r = moji_request_new();
    g_autofree char *file = lora ? g_strdup_printf("lora/%s.safetensors", lora) : NULL;
    g_autofree char *path = file ? moji_test_path(file) : NULL;
    const char *const loras[] = {path, NULL};
    r->prompt = g_strdup("cat");
    r->model = moji_test_path("tiny-sd");
    r->sampler = g_strdup("ddim");
    r->loras = g_strdupv((char **)loras);
    r->size = MOJI_REQUEST_MIN_SIZE;
    r->steps = 1;
    r->guidance = 1;
    r->seed = 7;
    GPtrArray *images = moji_engine_draw(engine, r, NULL, NULL, NULL, error);
    if (!images)
        return NULL;
    MojiImage *image = g_steal_pointer(&images->pdata[0]);
    g_ptr_array_set_free_func(images, NULL);
    g_ptr_array_unref(images);
    return image;
}

/* The same where nothing may go wrong. */
static MojiImage *draw_well(MojiEngine *engine, const char *lora)
{
    g_autoptr(GError) error = NULL;
    MojiImage *image = draw(engine, lora, &error);
    MOJI_CHECK(image, "%s", error->message);
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

int main(void)
{
    if (!find_shim())
        return 1;
    moji_test("cuda: LoRAs changed on a warm engine", test_loras);
    return moji_test_end();
}
