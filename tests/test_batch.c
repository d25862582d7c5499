/* test_batch.c: several pictures of one request drawn at once. Each must be, to the byte, the one
 * that its seed gives alone: how many are drawn at once is the engine's affair.
 *
 * The surprising rule: how many were drawn at once shows only in the number of the U-Net's calls.
 */
#include "drawing.h"
#include "test.h"
#include <sched.h>
#include <string.h>

enum { COUNT = 5, STEPS = 3, SEED = 5 };

static MojiEngine *engine;
static char *tiny;

static MojiRequest *request_new(gint64 seed)
{
    MojiRequest *r = moji_request_new();
    r->prompt = g_strdup("red cat");
    r->model = g_strdup(tiny);
    r->sampler = g_strdup("euler-a"); /* draws noise on the way */
    r->size = 64;
    r->steps = STEPS;
    r->seed = seed;
    return r;
}

static GPtrArray *draw(const MojiRequest *r)
{
    g_autoptr(GError) error = NULL;
    GPtrArray *images = moji_engine_draw(engine, r, NULL, NULL, NULL, &error);
    MOJI_CHECK(images != NULL, "%s", error ? error->message : "no error");
    return images;
}

static gsize bytes_of(const MojiImage *image)
{
    return (gsize)image->width * image->height * 4;
}

static double mean_difference(const MojiImage *a, const MojiImage *b)
{
    gsize n = bytes_of(a);
    double sum = 0;
    for (gsize i = 0; i < n; i++)
        sum += abs(a->rgba[i] - b->rgba[i]);
    return sum / n;
}

/* Each seed's picture by itself. Caller frees. */
static GPtrArray *draw_alone(MojiRequest *r)
{
    GPtrArray *all = NULL;
    r->count = 1;
    for (int i = 0; i < COUNT; i++) {
        r->seed = SEED + i;
        GPtrArray *one = draw(r);
        if (one && all)
            g_ptr_array_extend_and_steal(all, one);
        else if (one)
            all = one;
    }
    r->seed = SEED;
    r->count = COUNT;
    return all;
}

static void check_pictures(GPtrArray *images, GPtrArray *alone, const char *what)
{
    if (!MOJI_CHECK(images && alone && images->len == COUNT && alone->len == COUNT,
                    "%s: not %d pictures", what, COUNT))
        return;
    for (guint i = 0; i < COUNT; i++) {
        const MojiImage *a = images->pdata[i], *b = alone->pdata[i];
        MOJI_CHECK(!memcmp(a->rgba, b->rgba, bytes_of(a)) && !g_strcmp0(a->recipe, b->recipe),
                   "%s: picture %u differs by %g levels from its seed's", what, i + 1,
                   mean_difference(a, b));
    }
}

static void check_calls(int pictures, const char *what)
{
    int turns = (COUNT + pictures - 1) / pictures, calls = moji_engine_times(engine)->unet_calls;
    MOJI_CHECK(calls == turns * STEPS, "%s: %d calls of the U-Net, expected %d", what, calls,
               turns * STEPS);
}

static void free_images(GPtrArray *images)
{
    g_clear_pointer(&images, g_ptr_array_unref);
}

static void test_sameness(void)
{
    static const char *const types[] = {"f32", "bf16"};
    for (int guidance = 1; guidance <= 3; guidance += 2)
        for (gsize t = 0; t < G_N_ELEMENTS(types); t++) {
            g_autoptr(MojiRequest) r = request_new(SEED);
            r->guidance = guidance;
            moji_engine_set_type(engine, types[t]);
            GPtrArray *alone = draw_alone(r);
            for (int n = 1; n <= 8; n *= 2) {
                g_autofree char *what =
                    g_strdup_printf("%s, guidance %d, %d at once", types[t], guidance, n);
                moji_engine_set_at_once(engine, n);
                GPtrArray *images = draw(r);
                moji_engine_set_at_once(engine, 0);
                check_pictures(images, alone, what);
                check_calls(n, what);
                free_images(images);
            }
            free_images(alone);
        }
    moji_engine_set_type(engine, NULL);
}

/* ---- memory ---- */

/* All from the start, at most COUNT at once, in so much memory. */
static GPtrArray *draw_within(const MojiRequest *r, guint64 bytes, GError **error)
{
    moji_engine_unload(engine);
    moji_engine_set_at_once(engine, COUNT);
    moji_engine_set_memory(engine, bytes);
    GPtrArray *images = moji_engine_draw(engine, r, NULL, NULL, NULL, error);
    moji_engine_set_memory(engine, 0);
    moji_engine_set_at_once(engine, 0);
    return images;
}

/* From enough for all to too little for one. */
static void test_budget(void)
{
    enum { MIB = 1 << 20, MOST = 98 };
    g_autoptr(MojiRequest) r = request_new(SEED);
    r->size = 256;
    r->steps = 1;
    GPtrArray *alone = draw_alone(r);
    g_autoptr(GString) calls = g_string_new(NULL);
    int before = 0;
    gboolean refused = FALSE;
    for (int mib = MOST; mib > 0 && !refused; mib -= 2) {
        g_autoptr(GError) error = NULL;
        GPtrArray *images = draw_within(r, (guint64)mib * MIB, &error);
        int now = moji_engine_times(engine)->unet_calls;
        refused = !images;
        MOJI_CHECK(images || g_error_matches(error, MOJI_ERROR, MOJI_ERROR_MEMORY), "%s",
                   error ? error->message : "");
        if (images && now != before) {
            if (now > before && !strstr(calls->str, "5 ")) /* later ones may be tiled */
                check_pictures(images, alone, "in less memory");
            g_string_append_printf(calls, "%d ", now);
            before = now;
        }
        free_images(images);
    }
    /* all five, then three, two, one; the same again with one network at a time */
    MOJI_CHECK(refused && g_str_has_prefix(calls->str, "1 2 3 5 "), "calls: %s, then %s",
               calls->str, refused ? "refused" : "never refused");
    free_images(alone);
}

/* A backend that has less memory than the plan was told: none for blocks of these sizes. */
static void *(*real_memory_new)(MojiBackend *b, gsize bytes, GError **error);
static gsize lacking[COUNT];
static int n_lacking;

static void *short_memory_new(MojiBackend *b, gsize bytes, GError **error)
{
    for (int i = 0; i < n_lacking; i++)
        if (bytes == lacking[i]) {
            g_set_error(error, MOJI_ERROR, MOJI_ERROR_MEMORY, "Not enough memory, says the test");
            return NULL;
        }
    return real_memory_new(b, bytes, error);
}

static gsize block_of(MojiStage *s)
{
    gsize bytes = moji_tape_block_bytes(s->tape);
    moji_stage_free(s);
    return bytes;
}

static gsize unet_block(int pictures, int steps, int side)
{
    return block_of(
        moji_stage_step(engine->model, engine->type, 2, 1, pictures, steps, side, side));
}

static void test_lack(void)
{
    static const int at_once[] = {5, 3, 2, 1};
    g_autoptr(MojiRequest) r = request_new(SEED);
    r->guidance = 3;
    GPtrArray *alone = draw_alone(r);
    for (gsize i = 0; i < G_N_ELEMENTS(at_once); i++) {
        g_autoptr(GError) error = NULL;
        for (n_lacking = 0; n_lacking < COUNT - at_once[i]; n_lacking++)
            lacking[n_lacking] = unet_block(COUNT - n_lacking, STEPS, 16);
        GPtrArray *images = draw_within(r, 0, &error);
        check_pictures(images, alone, error ? error->message : "in less memory than planned");
        check_calls(at_once[i], "in less memory than planned");
        free_images(images);
    }
    n_lacking = 0;
    free_images(alone);
}

static void test_lack_of_all(void)
{
    g_autoptr(MojiRequest) r = request_new(SEED);
    g_autoptr(GError) error = NULL;
    r->size = 128;
    r->guidance = 3;
    r->steps = 1;
    GPtrArray *alone = draw_alone(r);
    lacking[0] = block_of(moji_stage_vae(engine->model, engine->type, 1, 32, 32));
    n_lacking = 1;
    GPtrArray *images = draw_within(r, 0, &error);
    MOJI_CHECK(images && images->len == COUNT, "the decoder draws no tiles: %s",
               error ? error->message : "");
    for (guint i = 0; images && alone && i < images->len; i++) {
        double differ = mean_difference(images->pdata[i], alone->pdata[i]);
        MOJI_CHECK(differ > 0 && differ < 12, "tiles differ by %g levels", differ);
    }
    free_images(images);
    for (n_lacking = 0; n_lacking < COUNT; n_lacking++)
        lacking[n_lacking] = unet_block(COUNT - n_lacking, 1, 32);
    images = draw_within(r, 0, &error);
    MOJI_CHECK(!images && g_error_matches(error, MOJI_ERROR, MOJI_ERROR_MEMORY) &&
                   strstr(error->message, "says the test"),
               "without memory: %s", error ? error->message : "it was drawn");
    free_images(images);
    n_lacking = 0;
    free_images(alone);
}

/* ---- on the way ---- */

typedef struct {
    GString *told;
    int stop; /* after this step of the second turn; 0: never */
    GCancellable *cancel;
} Told;

static void on_progress(const MojiProgress *p, gpointer data)
{
    Told *t = data;
    if (p->phase == MOJI_PHASE_STEP)
        g_string_append_printf(t->told, "%d:%d/%d%s ", p->image, p->step, p->steps,
                               p->preview ? "p" : "");
    else
        g_string_append_printf(t->told, "%d%c ", p->image, moji_phase_name(p->phase)[0]);
    if (t->stop && p->image == 2 && p->phase == MOJI_PHASE_STEP && p->step == t->stop)
        g_cancellable_cancel(t->cancel);
}

static void test_progress(void)
{
    g_autoptr(MojiRequest) r = request_new(SEED);
    g_autoptr(GString) told = g_string_new(NULL);
    g_autoptr(GError) error = NULL;
    Told t = {.told = told};
    r->count = 3;
    r->steps = 2;
    moji_engine_set_at_once(engine, 2);
    moji_engine_set_previews(engine, TRUE);
    GPtrArray *images = moji_engine_draw(engine, r, on_progress, &t, NULL, &error);
    MOJI_CHECK(images && !strcmp(told->str, "0l 0t 0:1/2p 0:2/2p 0d 1d 2:1/2p 2:2/2p 2d "),
               "told: %s", told->str);
    free_images(images);
    t.cancel = g_cancellable_new();
    t.stop = 1;
    g_string_truncate(told, 0);
    images = moji_engine_draw(engine, r, on_progress, &t, t.cancel, &error);
    MOJI_CHECK(!images && g_error_matches(error, MOJI_ERROR, MOJI_ERROR_CANCELLED) &&
                   !strcmp(told->str, "0l 0t 0:1/2p 0:2/2p 0d 1d 2:1/2p "),
               "cancelled: told %s", told->str);
    free_images(images);
    g_object_unref(t.cancel);
    moji_engine_set_previews(engine, FALSE);
    moji_engine_set_at_once(engine, 0);
}

int main(void)
{
    g_autoptr(GError) error = NULL;
    cpu_set_t set;
    /* The tiny model's layers are too short for threads to pay. */
    CPU_ZERO(&set);
    CPU_SET(MAX(sched_getcpu(), 0), &set);
    sched_setaffinity(0, sizeof set, &set);
    tiny = moji_test_path("tiny-sd");
    engine = moji_engine_new("auto", 1, &error);
    if (!engine)
        g_error("%s", error->message);
    real_memory_new = engine->backend->memory_new;
    engine->backend->memory_new = short_memory_new;
    moji_test("batch: pictures are those of their seeds", test_sameness);
    moji_test("batch: smaller where memory is short", test_budget);
    moji_test("batch: smaller where memory turns out to be short", test_lack);
    moji_test("batch: tiles, and an error, where it is shorter still", test_lack_of_all);
    moji_test("batch: progress, previews and cancelling", test_progress);
    moji_engine_free(engine);
    g_free(tiny);
    return moji_test_end();
}
