/* test_draw.c: the engine as a library: what stays the same between drawings, what is told on the
 * way, what happens when something is wrong. Whole pictures against the reference are in
 * test_pictures.c. */
#include "draw.h"
#include "order.h"
#include "sketch.h"
#include "test.h"
#include <glib/gstdio.h>
#include <json-glib/json-glib.h>
#include <sched.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

static MojiEngine *engine; /* one for all tests: each must leave it usable */
static char *tiny;         /* the folder of tiny-sd */

static MojiRequest *request_new(gint64 seed)
{
    MojiRequest *r = moji_request_new();
    r->prompt = g_strdup("red cat");
    r->model = g_strdup(tiny);
    r->sampler = g_strdup("euler-a"); /* draws noise on the way */
    r->size = 64;
    r->steps = 3;
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

static GBytes *png_of(GPtrArray *images, guint i)
{
    return images && i < images->len ? moji_image_encode_png(images->pdata[i], NULL) : NULL;
}

static GBytes *draw_png(const MojiRequest *r)
{
    GPtrArray *images = draw(r);
    GBytes *png = png_of(images, 0);
    if (images)
        g_ptr_array_unref(images);
    return png;
}

static JsonObject *recipe_of(GPtrArray *images, guint i, JsonNode **root)
{
    const MojiImage *image = images->pdata[i];
    *root = json_from_string(image->recipe, NULL);
    return json_node_get_object(*root);
}

static gboolean same(GBytes *a, GBytes *b)
{
    return a && b && g_bytes_equal(a, b);
}

/* ---- sameness ---- */

static void test_repeatable(void)
{
    g_autoptr(MojiRequest) r = request_new(1), other = request_new(2), larger = request_new(1);
    g_autoptr(MojiRequest) unguided = request_new(1);
    larger->size = 96;
    unguided->guidance = 1;
    g_autoptr(GBytes) first = draw_png(r);
    g_autoptr(GBytes) second = draw_png(r);
    g_autoptr(GBytes) different = draw_png(other);
    g_autoptr(GBytes) large = draw_png(larger);
    g_autoptr(GBytes) single = draw_png(unguided);
    g_autoptr(GBytes) third = draw_png(r);
    moji_engine_unload(engine);
    g_autoptr(GBytes) fourth = draw_png(r);
    MOJI_CHECK(same(first, second), "the second drawing of a seed differs");
    MOJI_CHECK(same(first, third), "it differs after other sizes and batches");
    MOJI_CHECK(same(first, fourth), "it differs after loading the model again");
    MOJI_CHECK(!same(first, different), "two seeds give the same picture");
    MOJI_CHECK(large && !same(first, single), "guidance does nothing");
}

static void test_count(void)
{
    g_autoptr(MojiRequest) r = request_new(5), last = request_new(7);
    r->count = 3;
    GPtrArray *images = draw(r);
    g_autoptr(GBytes) alone = draw_png(last);
    if (images && MOJI_CHECK(images->len == 3, "%u pictures", images->len)) {
        g_autoptr(GBytes) third = png_of(images, 2);
        MOJI_CHECK(same(third, alone), "picture 3 of seed 5 is not the picture of seed 7");
    }
    if (images)
        g_ptr_array_unref(images);
}

static void test_random_seed(void)
{
    g_autoptr(MojiRequest) r = request_new(-1);
    GPtrArray *images = draw(r);
    if (!images)
        return;
    g_autoptr(JsonNode) root = NULL;
    r->seed = json_object_get_int_member(recipe_of(images, 0, &root), "seed");
    g_autoptr(GBytes) before = png_of(images, 0);
    g_autoptr(GBytes) after = draw_png(r);
    MOJI_CHECK(r->seed >= 0 && same(before, after),
               "the recipe's seed %" G_GINT64_FORMAT " draws another picture", r->seed);
    g_ptr_array_unref(images);
}

/* ---- progress and cancelling ---- */

typedef struct {
    GString *phases; /* l t 1 2 3 d c */
    int images;
    gboolean bad_preview;
    int previews;
    char stop; /* cancel at this phase's first letter */
    GCancellable *cancel;
} Told;

static void on_progress(const MojiProgress *p, gpointer data)
{
    Told *t = data;
    char letter = moji_phase_name(p->phase)[0];
    if (p->phase == MOJI_PHASE_STEP)
        g_string_append_printf(t->phases, "%d/%d ", p->step, p->steps);
    else
        g_string_append_printf(t->phases, "%c ", letter);
    t->images = p->images;
    if (p->preview) {
        t->previews++;
        t->bad_preview |= p->preview_width != 128 || p->preview_height != 128;
    }
    if (t->stop == letter)
        g_cancellable_cancel(t->cancel);
}

static void test_progress(void)
{
    g_autoptr(MojiRequest) r = request_new(1);
    g_autoptr(GError) error = NULL;
    Told t = {.phases = g_string_new(NULL)};
    moji_engine_set_previews(engine, TRUE);
    moji_engine_unload(engine);
    r->count = 2;
    r->transparent = TRUE;
    GPtrArray *images = moji_engine_draw(engine, r, on_progress, &t, NULL, &error);
    moji_engine_set_previews(engine, FALSE);
    MOJI_CHECK(images != NULL, "%s", error ? error->message : "");
    MOJI_CHECK(!strcmp(t.phases->str, "l t 1/3 2/3 3/3 d c 1/3 2/3 3/3 d c "), "told: %s",
               t.phases->str);
    MOJI_CHECK(t.images == 2, "%d images", t.images);
    MOJI_CHECK(t.previews == 6 && !t.bad_preview, "%d previews%s", t.previews,
               t.bad_preview ? " of a wrong size" : "");
    const MojiTimes *times = moji_engine_times(engine);
    double parts = times->load + times->text + times->unet + times->vae + times->cutout;
    MOJI_CHECK(times->unet_calls == 6 && times->load > 0 && times->unet > 0 && times->vae > 0 &&
                   parts <= times->total,
               "times: %d calls, parts %g of %g", times->unet_calls, parts, times->total);
    g_string_free(t.phases, TRUE);
    if (images)
        g_ptr_array_unref(images);
}

static void test_cancel(void)
{
    g_autoptr(MojiRequest) r = request_new(1);
    r->transparent = TRUE;
    g_autoptr(GBytes) before = draw_png(r);
    for (const char *stop = "ltsdc"; *stop; stop++) {
        g_autoptr(GCancellable) cancel = g_cancellable_new();
        g_autoptr(GError) error = NULL;
        Told t = {.phases = g_string_new(NULL), .stop = *stop, .cancel = cancel};
        GPtrArray *images = moji_engine_draw(engine, r, on_progress, &t, cancel, &error);
        /* While cutting out, the picture is as good as done. */
        MOJI_CHECK(*stop == 'c' ||
                       (!images && g_error_matches(error, MOJI_ERROR, MOJI_ERROR_CANCELLED)),
                   "cancelled at %c: %s", *stop, error ? error->message : "it was drawn");
        g_string_free(t.phases, TRUE);
        if (images)
            g_ptr_array_unref(images);
    }
    g_autoptr(GBytes) after = draw_png(r);
    MOJI_CHECK(same(before, after), "a drawing after cancelled ones differs");
}

/* ---- previews ---- */

static void test_sketch(void)
{
    enum { H = 6, W = 8, F = 4 };
    float latents[H * W * 2], rgb[H * F * W * F * 3];
    MojiRandom random;
    moji_random_seed(&random, 3);
    moji_random_normal(&random, latents, H * W * 2);
    /* Red follows one channel, green the other, blue neither; within a latent's pixels it varies
     * around that. */
    for (int y = 0; y < H * F; y++)
        for (int x = 0; x < W * F; x++) {
            const float *l = latents + 2 * ((y / F) * W + x / F);
            float *p = rgb + 3 * (y * W * F + x), wobble = x % 2 ? 0.1f : -0.1f;
            p[0] = 0.2f * l[0] + wobble;
            p[1] = -0.1f * l[1] + 0.5f + wobble;
            p[2] = -1.0f + wobble;
        }
    MojiSketch *s = moji_sketch_new(2);
    int width = 0, height = 0;
    MOJI_CHECK(!moji_sketch_draw(s, latents, H, W, &width, &height), "it draws before it learns");
    moji_sketch_learn(s, latents, rgb, H, W, F);
    float flat[H * W * 2];
    for (int i = 0; i < H * W; i++) {
        flat[2 * i] = 1;
        flat[2 * i + 1] = 2;
    }
    const guint8 *p = moji_sketch_draw(s, flat, H, W, &width, &height);
    MOJI_CHECK(width == 128 && height == 96, "%d x %d", width, height);
    MOJI_CHECK(p && abs(p[0] - 153) <= 1 && abs(p[1] - 166) <= 1 && p[2] <= 1,
               "#%02x%02x%02x, expected #99a600", p[0], p[1], p[2]);
    moji_sketch_free(s);
}

/* ---- a model with a card ---- */

static void copy_file(const char *from, const char *to, const char *name)
{
    g_autofree char *source = g_build_filename(from, name, NULL);
    g_autofree char *target = g_build_filename(to, name, NULL);
    g_autofree char *parent = g_path_get_dirname(target);
    g_autofree char *text = NULL;
    gsize bytes;
    g_mkdir_with_parents(parent, 0700);
    if (!g_file_get_contents(source, &text, &bytes, NULL) ||
        !g_file_set_contents(target, text, bytes, NULL))
        g_error("%s cannot be copied", source);
}

/* A copy of tiny-sd in the scratch folder; caller frees. */
static char *model_copy(const char *name)
{
    static const char *const files[] = {"model_index.json",
                                        "scheduler/scheduler_config.json",
                                        "text_encoder/config.json",
                                        "text_encoder/model.safetensors",
                                        "tokenizer/merges.txt",
                                        "tokenizer/tokenizer_config.json",
                                        "tokenizer/vocab.json",
                                        "unet/config.json",
                                        "unet/diffusion_pytorch_model.safetensors",
                                        "vae/config.json",
                                        "vae/diffusion_pytorch_model.safetensors"};
    char *folder = g_build_filename(moji_test_scratch(), name, NULL);
    for (gsize i = 0; i < G_N_ELEMENTS(files); i++)
        copy_file(tiny, folder, files[i]);
    return folder;
}

static void write_card(const char *folder, int steps)
{
    g_autofree char *path = g_build_filename(folder, "moji.json", NULL);
    g_autofree char *text = g_strdup_printf(
        "{\"name\": \"tiny\", \"version\": \"3\", \"steps\": %d, \"size\": 64, \"guidance\": 2,"
        " \"sampler\": \"ddim\", \"prompt\": \"{prompt}, {style}, {background} background\","
        " \"styles\": [\"flat\", \"glossy\"], \"default_style\": \"flat\","
        " \"prompt_ko\": \"{prompt}, {style}, {background} 배경\","
        " \"backgrounds\": {\"green\": {\"rgb\": \"#00b140\", \"ko\": [\"초록색\"]},"
        "                  \"white\": {\"rgb\": \"#ffffff\", \"ko\": [\"흰색\"]}},"
        " \"default_background\": \"green\"}",
        steps);
    g_file_set_contents(path, text, -1, NULL);
}

static void expect_text(MojiRequest *r, const char *member, const char *want)
{
    GPtrArray *images = draw(r);
    if (!images)
        return;
    g_autoptr(JsonNode) root = NULL;
    JsonObject *recipe = recipe_of(images, 0, &root);
    const char *found = json_object_has_member(recipe, member)
                            ? json_object_get_string_member(recipe, member)
                            : "nothing";
    MOJI_CHECK(strstr(found, want) && (*want || !*found), "%s: \"%s\", expected \"%s\"", member,
               found, want);
    g_ptr_array_unref(images);
}

static void expect_error(MojiRequest *r, MojiError code, const char *a, const char *b)
{
    g_autoptr(GError) error = NULL;
    GPtrArray *images = moji_engine_draw(engine, r, NULL, NULL, NULL, &error);
    MOJI_CHECK(!images && g_error_matches(error, MOJI_ERROR, code) && strstr(error->message, a) &&
                   strstr(error->message, b),
               "expected an error with \"%s\" and \"%s\": %s", a, b,
               error ? error->message : "it was drawn");
    if (images)
        g_ptr_array_unref(images);
}

static void set(char **field, const char *text)
{
    g_free(*field);
    *field = g_strdup(text);
}

static void test_card(void)
{
    g_autofree char *folder = model_copy("card");
    g_autoptr(MojiRequest) r = request_new(1);
    write_card(folder, 2);
    set(&r->model, folder);
    set(&r->sampler, NULL);
    r->steps = r->size = 0;
    expect_text(r, "text", "red cat, flat, green background");
    expect_text(r, "sampler", "ddim");
    set(&r->style, "Glossy");
    set(&r->background, "WHITE");
    expect_text(r, "text", "red cat, glossy, white background");
    set(&r->background, "초록색");
    expect_text(r, "text", "red cat, glossy, green background");
    set(&r->style, "none");
    set(&r->background, "#f0f8f0");
    expect_text(r, "text", "red cat, white background");
    expect_text(r, "warning", "#f0f8f0 became white");
    set(&r->background, "none");
    expect_text(r, "text", "red cat");
    expect_text(r, "background", "none");
}

/* Only a model that lists what it draws says which words it was never taught. */
static void test_strange_words(void)
{
    g_autofree char *folder = model_copy("strange words");
    g_autofree char *path = g_build_filename(folder, "moji.json", NULL);
    g_autoptr(MojiRequest) r = request_new(1);
    set(&r->model, folder);
    set(&r->prompt, "cat, qwzx");
    expect_text(r, "warning", "nothing");
    g_file_set_contents(path, "{\"name\": \"tiny\", \"draws\": {\"en\": [\"cat\"]}}", -1, NULL);
    expect_text(r, "warning", "tiny was never taught: qwzx.");
    set(&r->prompt, "cat");
    expect_text(r, "warning", "nothing");
}

/* A background named in the prompt is the one drawn and told, in the prompt's language; one that
 * was asked for comes first. */
static void test_own_background(void)
{
    g_autofree char *folder = model_copy("own background");
    g_autoptr(MojiRequest) r = request_new(1);
    write_card(folder, 2);
    set(&r->model, folder);
    set(&r->prompt, "웃는 고양이, 흰색 배경");
    expect_text(r, "text", "웃는 고양이, flat, 흰색 배경");
    expect_text(r, "background", "white");
    expect_text(r, "prompt", "웃는 고양이, 흰색 배경");
    set(&r->prompt, "cat on a white background");
    expect_text(r, "text", "cat, flat, white background");
    set(&r->background, "green");
    expect_text(r, "text", "cat, flat, green background");
    expect_text(r, "warning", "\"on a white background\" was left out");
    set(&r->prompt, "고양이, 초록색 배경");
    expect_text(r, "text", "고양이, flat, 초록색 배경");
}

/* Korean for a model whose card does not say that it reads it. */
static void test_korean(void)
{
    g_autoptr(MojiRequest) r = request_new(1);
    set(&r->prompt, "(웃는:1.2) 고양이, 뷁뷁, 파란색 배경");
    set(&r->negative, "모자");
    expect_text(r, "text", "(smiling:1.2) cat, blue background");
    expect_text(r, "prompt", "(웃는:1.2) 고양이, 뷁뷁, 파란색 배경");
    expect_text(r, "negative_text", "hat");
    expect_text(r, "warning", "left out: 뷁뷁.");
    set(&r->prompt, "뷁뷁");
    expect_error(r, MOJI_ERROR_USAGE, "뷁뷁", "English");
}

/* A long prompt is read in chunks; of one that is longer than all of them the end goes, the words
 * that the template adds stay. */
static void test_long_prompt(void)
{
    g_autofree char *folder = model_copy("long");
    g_autoptr(MojiRequest) r = request_new(1);
    GString *prompt = g_string_new("cat");
    for (int i = 0; i < 100; i++)
        g_string_append_printf(prompt, " %d", i);
    write_card(folder, 2);
    set(&r->model, folder);
    set(&r->prompt, prompt->str);
    expect_text(r, "text", "98 99, flat, green background");
    for (int i = 100; i < 400; i++)
        g_string_append_printf(prompt, " %d", i);
    set(&r->prompt, prompt->str);
    expect_text(r, "text", ", flat, green background");
    expect_text(r, "text", "cat 0 1 2");
    expect_text(r, "prompt", "398 399");
    expect_text(r, "warning", "397 398 399\"");
    g_string_assign(prompt, "");
    for (int i = 0; i < 300; i++)
        g_string_append(prompt, "고");
    set(&r->prompt, prompt->str);
    expect_text(r, "text", "고고, flat, green background");
    g_string_free(prompt, TRUE);
}

static void test_changed_on_disk(void)
{
    g_autofree char *folder = model_copy("changed");
    g_autoptr(MojiRequest) r = request_new(1);
    set(&r->model, folder);
    r->steps = 0;
    for (int steps = 2; steps < 4; steps++) {
        write_card(folder, steps);
        GPtrArray *images = draw(r);
        MOJI_CHECK(moji_engine_times(engine)->unet_calls == steps, "%d calls, the card says %d",
                   moji_engine_times(engine)->unet_calls, steps);
        if (images)
            g_ptr_array_unref(images);
        g_usleep(20 * 1000); /* so that the file's time differs */
    }
}

static void test_recipe(void)
{
    g_autoptr(MojiRequest) r = request_new(41);
    r->count = 2;
    set(&r->negative, "dog");
    GPtrArray *images = draw(r);
    if (!images)
        return;
    g_autoptr(JsonNode) root = NULL;
    JsonObject *recipe = recipe_of(images, 1, &root);
    static const char *const members[] = {
        "engine", "model",      "version", "weights", "type",     "prompt",  "text", "negative",
        "style",  "background", "seed",    "steps",   "guidance", "sampler", "size", "transparent"};
    for (gsize i = 0; i < G_N_ELEMENTS(members); i++)
        MOJI_CHECK(json_object_has_member(recipe, members[i]), "no \"%s\"", members[i]);
    MOJI_CHECK(json_object_get_int_member(recipe, "seed") == 42, "the second picture's seed is %d",
               (int)json_object_get_int_member(recipe, "seed"));
    MOJI_CHECK(json_object_get_double_member(recipe, "guidance") == 7.5, "guidance is not 7.5");
    MOJI_CHECK(!strcmp(json_object_get_string_member(recipe, "negative"), "dog"), "negative");
    MOJI_CHECK(strlen(json_object_get_string_member(recipe, "weights")) == 16, "weights");
    MOJI_CHECK(!strstr(((MojiImage *)images->pdata[1])->recipe, tiny), "a path is in the recipe");
    g_ptr_array_unref(images);
}

/* ---- what goes wrong ---- */

static void test_usage_errors(void)
{
    g_autofree char *folder = model_copy("errors");
    write_card(folder, 2);
    g_autoptr(MojiRequest) style = request_new(1), background = request_new(1);
    g_autoptr(MojiRequest) size = request_new(1), sampler = request_new(1);
    g_autoptr(MojiRequest) prompt = request_new(1), styleless = request_new(1);
    set(&style->model, folder);
    set(&style->style, "baroque");
    expect_error(style, MOJI_ERROR_USAGE, "baroque", "flat, glossy");
    set(&background->model, folder);
    set(&background->background, "mauve");
    expect_error(background, MOJI_ERROR_USAGE, "mauve", "green, white");
    set(&background->background, "#12345");
    expect_error(background, MOJI_ERROR_USAGE, "#12345", "green, white");
    size->size = 72;
    expect_error(size, MOJI_ERROR_USAGE, "72", "64 or 80");
    set(&sampler->sampler, "charcoal");
    expect_error(sampler, MOJI_ERROR_USAGE, "charcoal", "euler-a");
    set(&prompt->prompt, "");
    expect_error(prompt, MOJI_ERROR_USAGE, "prompt", "empty");
    set(&styleless->style, "flat");
    expect_error(styleless, MOJI_ERROR_USAGE, "flat", "none to choose");
}

static void test_file_errors(void)
{
    g_autoptr(MojiRequest) r = request_new(1);
    set(&r->model, "/nowhere/model");
    expect_error(r, MOJI_ERROR_FILE, "/nowhere/model", "");
    g_autofree char *folder = model_copy("dump");
    g_autofree char *file = g_build_filename(folder, "model_index.json", NULL);
    set(&r->model, tiny);
    moji_engine_set_dump(engine, file); /* a file where a folder is wanted */
    expect_error(r, MOJI_ERROR_FILE, "ids.npy", "");
    moji_engine_set_dump(engine, NULL);
    g_autoptr(GBytes) after = draw_png(r);
    MOJI_CHECK(after != NULL, "no drawing after an error");
}

/* NaNs in the weights, as a broken conversion leaves them. */
static void test_not_finite(void)
{
    g_autofree char *folder = model_copy("nan");
    g_autofree char *path =
        g_build_filename(folder, "unet", "diffusion_pytorch_model.safetensors", NULL);
    g_autofree char *bytes = NULL;
    gsize size;
    g_file_get_contents(path, &bytes, &size, NULL);
    memset(bytes + size - 4096, 0xff, 4096);
    g_file_set_contents(path, bytes, size, NULL);
    g_autoptr(MojiRequest) r = request_new(1);
    set(&r->model, folder);
    expect_error(r, MOJI_ERROR_FILE, path, "tensor");
}

static void test_not_flat(void)
{
    g_autoptr(MojiRequest) r = request_new(1);
    r->transparent = TRUE;
    GPtrArray *images = draw(r);
    if (!images)
        return;
    const MojiImage *image = images->pdata[0];
    MOJI_CHECK(!image->mask, "the tiny model's noise was cut out");
    g_ptr_array_unref(images);
    expect_text(r, "warning", "background was kept");
}

static void test_memory(void)
{
#if defined(__SANITIZE_ADDRESS__)
    moji_test_skip("the address sanitizer has no use for a limit on addresses");
#else
    g_autoptr(MojiRequest) r = request_new(1);
    struct rlimit before, low;
    g_autofree char *statm = NULL;
    g_file_get_contents("/proc/self/statm", &statm, NULL, NULL);
    getrlimit(RLIMIT_AS, &before);
    low = before;
    low.rlim_cur = g_ascii_strtoull(statm, NULL, 10) * sysconf(_SC_PAGESIZE) + (64 << 20);
    r->size = 2048;
    setrlimit(RLIMIT_AS, &low);
    expect_error(r, MOJI_ERROR_MEMORY, "needs", "available");
    setrlimit(RLIMIT_AS, &before);
    r->size = 64;
    g_autoptr(GBytes) after = draw_png(r);
    MOJI_CHECK(after != NULL, "no drawing after an error");
#endif
}

/* ---- dumps ---- */

static void expect_dump(const char *folder, const char *name, gint64 a, gint64 b, gint64 c,
                        gint64 d)
{
    g_autofree char *path = g_build_filename(folder, name, NULL);
    gint64 shape[4] = {0};
    gsize count;
    if (!MOJI_CHECK(g_file_test(path, G_FILE_TEST_EXISTS), "%s is not there", path))
        return;
    g_autofree float *values = moji_test_npy(path, &count, shape);
    MOJI_CHECK(shape[0] == a && shape[1] == b && shape[2] == c && shape[3] == d,
               "%s is [%d,%d,%d,%d]", name, (int)shape[0], (int)shape[1], (int)shape[2],
               (int)shape[3]);
}

static void test_dump(void)
{
    g_autofree char *folder = g_build_filename(moji_test_scratch(), "dumps", NULL);
    g_autofree char *second = g_build_filename(folder, "2", NULL);
    g_autoptr(MojiRequest) r = request_new(1);
    r->count = 2;
    moji_engine_set_dump(engine, folder);
    GPtrArray *images = draw(r);
    moji_engine_set_dump(engine, NULL);
    expect_dump(folder, "embeddings.npy", 2, 77, 40, 1);
    expect_dump(folder, "noise.npy", 1, 16, 16, 4);
    expect_dump(folder, "latents_01.npy", 1, 16, 16, 4);
    expect_dump(folder, "latents_03.npy", 1, 16, 16, 4);
    expect_dump(folder, "decoded.npy", 1, 64, 64, 3);
    expect_dump(second, "noise.npy", 1, 16, 16, 4);
    expect_dump(second, "decoded.npy", 1, 64, 64, 3);
    g_autofree char *ids = g_build_filename(folder, "ids.npy", NULL);
    gint64 shape[4];
    gsize count;
    g_autofree gint64 *values = moji_test_npy_int(ids, &count, shape);
    MOJI_CHECK(shape[0] == 2 && shape[1] == 77, "ids are [%d,%d]", (int)shape[0], (int)shape[1]);
    if (images)
        g_ptr_array_unref(images);
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
    moji_test("draw: the same request gives the same bytes", test_repeatable);
    moji_test("draw: pictures of one drawing are those of their seeds", test_count);
    moji_test("draw: a random seed is told and draws the same again", test_random_seed);
    moji_test("draw: progress, previews and times", test_progress);
    moji_test("draw: cancelled in every phase", test_cancel);
    moji_test("draw: previews' colours are fitted", test_sketch);
    moji_test("draw: the card's words fill the prompt", test_card);
    moji_test("draw: words that the model was never taught are told", test_strange_words);
    moji_test("draw: a background that the prompt names", test_own_background);
    moji_test("draw: Korean for an English model", test_korean);
    moji_test("draw: a long prompt loses its end, not its background", test_long_prompt);
    moji_test("draw: a model that changed on the disk is loaded again", test_changed_on_disk);
    moji_test("draw: the recipe has everything", test_recipe);
    moji_test("draw: wrong words are named with the right ones", test_usage_errors);
    moji_test("draw: wrong files are named", test_file_errors);
    moji_test("draw: numbers that are not finite give no picture", test_not_finite);
    moji_test("draw: a background that is not flat is kept", test_not_flat);
    moji_test("draw: too large for the memory", test_memory);
    moji_test("draw: dumps", test_dump);
    moji_engine_free(engine);
    g_free(tiny);
    return moji_test_end();
}
