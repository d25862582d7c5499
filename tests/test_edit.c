/* test_edit.c: pictures redrawn, against diffusers' image-to-image and inpainting pipelines
 * (fixtures by make_edit.py), and what no reference tells: that what is not to be redrawn keeps its
 * bits, at any size; variations; drawing in little memory. */
#include "draw.h"
#include "edit.h"
#include "model.h"
#include "npy.h"
#include "order.h"
#include "stage.h"
#include "stages.h"
#include <glib/gstdio.h>
#include <json-glib/json-glib.h>
#include <math.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static MojiEngine *engine;         /* one for all tests: each must leave it usable */
static char *tiny, *fills, *taesd; /* model folders: tiny-sd, with nine channels, with a tiny VAE */

static void set(char **field, const char *text)
{
    g_free(*field);
    *field = g_strdup(text);
}

static MojiRequest *request_new(const MojiImage *image)
{
    MojiRequest *r = moji_request_new();
    r->prompt = g_strdup("a red cat, grinning");
    r->model = g_strdup(tiny);
    r->sampler = g_strdup("ddim");
    r->size = 64;
    r->steps = 4;
    r->seed = 11;
    r->guidance = 4;
    r->image = image ? moji_image_copy(image) : NULL;
    r->strength = image ? 0.5 : -1;
    return r;
}

/* The first picture, or NULL and a failed test. Caller frees. */
static MojiImage *draw(const MojiRequest *r)
{
    g_autoptr(GError) error = NULL;
    GPtrArray *images = moji_engine_draw(engine, r, NULL, NULL, NULL, &error);
    if (!MOJI_CHECK(images != NULL, "%s", error ? error->message : "no error"))
        return NULL;
    MojiImage *image = g_ptr_array_steal_index(images, 0);
    g_ptr_array_unref(images);
    return image;
}

static double mean_difference(const MojiImage *a, const MojiImage *b)
{
    gsize n = (gsize)a->width * a->height * 4;
    double sum = 0;
    for (gsize i = 0; i < n; i++)
        sum += abs(a->rgba[i] - b->rgba[i]);
    return sum / n;
}

/* Soft colours that repeat nowhere. */
static MojiImage *picture_new(int width, int height)
{
    MojiImage *p = moji_image_new(width, height);
    for (int y = 0; y < height; y++)
        for (int x = 0; x < width; x++) {
            guint8 *v = p->rgba + 4 * ((gsize)y * width + x);
            v[0] = (guint8)(128 + 100 * sin(x * 0.11 + y * 0.02));
            v[1] = (guint8)(128 + 100 * cos(y * 0.13 - x * 0.03));
            v[2] = (guint8)(x * 255 / width);
            v[3] = 255;
        }
    return p;
}

/* A disc of 255 with a soft edge, `soft` pixels wide. */
static void add_mask(MojiImage *p, double cx, double cy, double radius, double soft)
{
    p->mask = g_new(guint8, (gsize)p->width * p->height);
    for (int y = 0; y < p->height; y++)
        for (int x = 0; x < p->width; x++) {
            double inside = (radius - hypot(x + 0.5 - cx, y + 0.5 - cy)) / soft;
            p->mask[(gsize)y * p->width + x] = (guint8)(255 * CLAMP(inside, 0, 1));
        }
}

/* ---- against diffusers ---- */

typedef struct {
    const char *kind, *name, *sampler;
    double strength;
} Case;

static Case current;
static JsonObject *cases; /* of cases.json */

static guint8 *read_ppm(const char *name, int *width, int *height)
{
    g_autofree char *file = g_strdup_printf("edit/%s.ppm", name);
    g_autofree char *path = moji_test_path(file);
    gsize bytes;
    int start = 0;
    char *text;
    if (!g_file_get_contents(path, &text, &bytes, NULL) ||
        sscanf(text, "P6 %d %d 255%n", width, height, &start) != 2 ||
        bytes != start + 1 + (gsize)*width * *height * 3)
        g_error("fixture %s cannot be read", path);
    memmove(text, text + start + 1, bytes - start - 1);
    return (guint8 *)text;
}

static MojiImage *read_png(const char *name)
{
    g_autofree char *path = moji_test_path(name);
    MojiImage *image = moji_image_read_png(path, NULL);
    if (!image)
        g_error("fixture %s cannot be read", path);
    return image;
}

static MojiRequest *case_request(const MojiImage *picture)
{
    MojiRequest *r = request_new(picture);
    set(&r->model, !strcmp(current.kind, "inpaint9") ? fills : tiny);
    if (!strcmp(current.kind, "taesd"))
        r->vae = moji_test_path("tiny-taesd"); /* beside the model; test_taesd has it inside */
    set(&r->prompt, json_object_get_string_member(cases, "prompt"));
    set(&r->negative, json_object_get_string_member(cases, "negative"));
    set(&r->sampler, current.sampler);
    r->steps = (int)json_object_get_int_member(cases, "steps");
    r->seed = json_object_get_int_member(cases, "seed");
    r->guidance = json_object_get_double_member(cases, "guidance");
    r->strength = current.strength;
    return r;
}

static void test_case(void)
{
    g_autoptr(MojiImage) picture = read_png("edit/picture.png");
    g_autoptr(MojiImage) mask = read_png("edit/mask.png");
    int width, height, pixels = picture->width * picture->height, agree = 0, drawn = 0;
    if (g_str_has_prefix(current.kind, "inpaint")) {
        picture->mask = g_new(guint8, pixels);
        for (int i = 0; i < pixels; i++)
            picture->mask[i] = mask->rgba[4 * i];
    }
    g_autofree guint8 *want = read_ppm(current.name, &width, &height);
    g_autoptr(MojiRequest) r = case_request(picture);
    g_autoptr(MojiImage) got = draw(r);
    if (!got || !MOJI_CHECK(got->width == width && got->height == height, "%d x %d px", got->width,
                            got->height))
        return;
    int worst = 0;
    for (int i = 0; i < pixels; i++) {
        const guint8 *p = got->rgba + 4 * i;
        if (picture->mask && !picture->mask[i]) {
            MOJI_CHECK(!memcmp(p, picture->rgba + 4 * i, 4), "pixel %d was touched", i);
            continue;
        }
        int off = 0;
        for (int k = 0; k < 3; k++)
            off = MAX(off, abs(p[k] - want[3 * i + k]));
        worst = MAX(worst, off);
        drawn++;
        agree += off <= 1;
    }
    if (g_getenv("MOJI_TEST_FIGURES"))
        g_print("# %s: %d of %d pixels within 1, worst %d\n", current.name, agree, drawn, worst);
    MOJI_CHECK(agree >= 0.999 * drawn && drawn > 0, "%d of %d pixels within a level, worst %d",
               agree, drawn, worst);
}

/* The tiny autoencoder by itself: decoder and encoder. */
static void test_taesd(void)
{
    g_autoptr(GError) error = NULL;
    MojiModel *m = moji_model_open(taesd, &error);
    MojiBackend *backend = moji_backend_open("auto", 1, NULL);
    if (!MOJI_CHECK(m, "%s", error ? error->message : ""))
        return;
    for (int encode = 0; encode < 2; encode++) {
        gsize count, values;
        gint64 shape[4], out_shape[4];
        g_autofree float *in = moji_test_npy(
            encode ? "tiny-taesd/pixels.npy" : "tiny-taesd/latents.npy", &count, shape);
        g_autofree float *want = moji_test_npy(
            encode ? "tiny-taesd/encoded.npy" : "tiny-taesd/decoded.npy", &values, out_shape);
        MojiStage *s = encode ? moji_stage_encode(m, MOJI_F32, 1, out_shape[1], out_shape[2])
                              : moji_stage_vae(m, MOJI_F32, 1, shape[1], shape[2]);
        if (encode)
            moji_vae_gather(&m->vae, in, count);
        else
            moji_vae_unscale(&m->vae, in, in, count);
        g_autofree float *got = g_new(float, values);
        if (MOJI_CHECK(moji_stage_prepare(s, backend, &error), "%s", error->message)) {
            moji_tape_write(s->tape, s->in[0], in);
            MOJI_CHECK(moji_tape_run(s->tape, NULL, &error), "%s", error->message);
            moji_tape_read(s->tape, s->out, got);
            if (encode)
                moji_vae_latents(&m->vae, got, NULL, got, values / 4);
            else
                moji_vae_spread(&m->vae, got, values);
            double worst = moji_test_max_error(got, want, values);
            MOJI_CHECK(worst < 2e-5, "%s: differs by %g", encode ? "encoder" : "decoder", worst);
        }
        moji_stage_free(s);
    }
    moji_model_free(m);
    moji_backend_close(backend);
}

/* ---- what stays ---- */

/* Nothing but what the mask covers may differ, and something there must. */
static void check_untouched(const MojiImage *picture, const MojiImage *got)
{
    int touched = 0, changed = 0;
    if (!got || !MOJI_CHECK(got->width == picture->width && got->height == picture->height,
                            "%d x %d px became %d x %d", picture->width, picture->height,
                            got->width, got->height))
        return;
    for (int i = 0; i < picture->width * picture->height; i++) {
        gboolean same = !memcmp(got->rgba + 4 * i, picture->rgba + 4 * i, 4);
        if (!picture->mask[i])
            touched += !same;
        else
            changed += !same;
        MOJI_CHECK(got->rgba[4 * i + 3] == picture->rgba[4 * i + 3], "alpha of pixel %d", i);
    }
    MOJI_CHECK(touched == 0, "%d pixels outside of the mask were touched", touched);
    MOJI_CHECK(changed > 0, "nothing was redrawn");
}

static void test_untouched(void)
{
    static const int sizes[][2] = {{61, 47}, {64, 64}, {17, 64}, {30, 21}, {150, 90}};
    for (gsize i = 0; i < G_N_ELEMENTS(sizes); i++) {
        int w = sizes[i][0], h = sizes[i][1];
        g_autoptr(MojiImage) picture = picture_new(w, h);
        add_mask(picture, w * 0.4, h * 0.6, MIN(w, h) * 0.3, 4);
        for (int k = 0; k < w * h; k += 3)
            picture->rgba[4 * k + 3] = (guint8)(k % 256); /* transparent ones have colours too */
        g_autoptr(MojiRequest) r = request_new(picture);
        g_autoptr(MojiImage) got = draw(r);
        check_untouched(picture, got);
    }
}

/* Pictures redrawn at once are those that their seeds give alone. */
static void test_at_once(void)
{
    enum { COUNT = 3 };
    char *const models[] = {tiny, fills};
    g_autoptr(MojiImage) picture = picture_new(61, 47);
    add_mask(picture, 25, 28, 14, 4);
    for (gsize m = 0; m < G_N_ELEMENTS(models); m++) {
        g_autoptr(GError) error = NULL;
        g_autoptr(MojiRequest) r = request_new(picture);
        set(&r->model, models[m]);
        r->count = COUNT;
        moji_engine_set_at_once(engine, COUNT);
        GPtrArray *images = moji_engine_draw(engine, r, NULL, NULL, NULL, &error);
        moji_engine_set_at_once(engine, 0);
        MOJI_CHECK(images && moji_engine_times(engine)->unet_calls <= r->steps, "%s",
                   error ? error->message : "not at once");
        r->count = 1;
        for (guint i = 0; images && i < images->len; i++, r->seed++) {
            g_autoptr(MojiImage) alone = draw(r);
            double differ = alone ? mean_difference(images->pdata[i], alone) : 1;
            MOJI_CHECK(differ == 0, "model %d: picture %u differs by %g levels from its seed's",
                       (int)m, i + 1, differ);
        }
        if (images)
            g_ptr_array_unref(images);
    }
}

static void test_sizes(void)
{
    static const int sizes[][2] = {{61, 47}, {1, 1}, {200, 3}, {33, 64}};
    for (gsize i = 0; i < G_N_ELEMENTS(sizes); i++) {
        g_autoptr(MojiImage) picture = picture_new(sizes[i][0], sizes[i][1]);
        g_autoptr(MojiRequest) r = request_new(picture);
        g_autoptr(MojiImage) got = draw(r);
        MOJI_CHECK(got && got->width == sizes[i][0] && got->height == sizes[i][1],
                   "%d x %d px became another size", sizes[i][0], sizes[i][1]);
    }
}

/* Pasting what was taken out must give the picture again. */
static void test_there_and_back(void)
{
    static const struct {
        int w, h, size;
        int worst; /* levels that resampling may lose */
    } rows[] = {{64, 48, 64, 0}, {61, 47, 64, 0}, {33, 29, 64, 12}, {300, 200, 128, 20}};
    static const guint8 white[] = {255, 255, 255};
    for (gsize i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autoptr(MojiImage) picture = picture_new(rows[i].w, rows[i].h);
        MojiEdit *e = moji_edit_new(picture, white, rows[i].size, 16, NULL);
        MOJI_CHECK(e->width % 16 == 0 && e->height % 16 == 0 &&
                       MAX(e->width, e->height) == rows[i].size,
                   "%d x %d px are drawn as %d x %d", rows[i].w, rows[i].h, e->width, e->height);
        g_autoptr(MojiImage) back = moji_edit_paste(e, e->rgb);
        int worst = 0;
        for (int k = 0; k < rows[i].w * rows[i].h * 4; k++)
            worst = MAX(worst, abs(back->rgba[k] - picture->rgba[k]));
        MOJI_CHECK(worst <= rows[i].worst, "%d x %d at %d: differs by %d levels", rows[i].w,
                   rows[i].h, rows[i].size, worst);
        moji_edit_free(e);
    }
}

/* A small mask in a large picture is drawn at the picture's own scale. */
static void test_part(void)
{
    static const guint8 white[] = {255, 255, 255};
    g_autoptr(MojiImage) picture = picture_new(400, 300);
    add_mask(picture, 380, 20, 15, 1);
    MojiEdit *e = moji_edit_new(picture, white, 64, 16, NULL);
    MOJI_CHECK(e->w == 64 && e->h == 64 && e->inner_width == 64 && e->x == 400 - 64 && e->y == 0,
               "%d x %d at %d, %d", e->w, e->h, e->x, e->y);
    float cells[16 * 16];
    int on = 0;
    moji_edit_cells(e, 4, cells);
    for (int i = 0; i < 256; i++)
        on += cells[i] == 1;
    MOJI_CHECK(on > 44 && on < 80, "%d cells for a disc of 44", on);
    moji_edit_free(e);
}

static void test_empty_mask(void)
{
    g_autoptr(MojiImage) picture = picture_new(64, 64);
    g_autoptr(GError) error = NULL;
    picture->mask = g_new0(guint8, 64 * 64);
    g_autoptr(MojiRequest) r = request_new(picture);
    GPtrArray *images = moji_engine_draw(engine, r, NULL, NULL, NULL, &error);
    MOJI_CHECK(!images && g_error_matches(error, MOJI_ERROR, MOJI_ERROR_USAGE) &&
                   strstr(error->message, "mask"),
               "an empty mask: %s", error ? error->message : "it was drawn");
}

/* ---- strength, recipes, variations ---- */

static void test_strength(void)
{
    g_autoptr(MojiImage) picture = picture_new(64, 48);
    g_autoptr(MojiRequest) r = request_new(picture);
    r->steps = 10;
    static const struct {
        double strength;
        int calls;
    } rows[] = {{0.01, 1}, {0.3, 3}, {0.7, 7}, {1, 10}};
    for (gsize i = 0; i < G_N_ELEMENTS(rows); i++) {
        r->strength = rows[i].strength;
        g_autoptr(MojiImage) got = draw(r);
        MOJI_CHECK(moji_engine_times(engine)->unet_calls == rows[i].calls,
                   "strength %g: %d calls of 10, expected %d", rows[i].strength,
                   moji_engine_times(engine)->unet_calls, rows[i].calls);
    }
}

static void test_recipe(void)
{
    g_autoptr(MojiImage) picture = picture_new(64, 48);
    add_mask(picture, 30, 20, 15, 1);
    g_autoptr(MojiRequest) r = request_new(picture), next = moji_request_new();
    set(&r->negative, "blue dog");
    g_autoptr(MojiImage) got = draw(r);
    if (!got)
        return;
    g_autoptr(JsonNode) root = json_from_string(got->recipe, NULL);
    JsonObject *recipe = json_node_get_object(root);
    MOJI_CHECK(json_object_get_double_member(recipe, "strength") == 0.5 &&
                   json_object_get_boolean_member(recipe, "mask"),
               "%s", got->recipe);
    next->steps = 9;
    moji_request_take_recipe(next, got->recipe);
    MOJI_CHECK(next->steps == 9 && next->seed == 11 && next->guidance == 4 && next->size == 0 &&
                   next->strength < 0 && !g_strcmp0(next->negative, "blue dog") &&
                   !g_strcmp0(next->prompt, "a red cat, grinning") &&
                   !g_strcmp0(next->sampler, "ddim"),
               "steps %d, seed %d, guidance %g", next->steps, (int)next->seed, next->guidance);
    g_autoptr(MojiRequest) none = moji_request_new();
    moji_request_take_recipe(none, "{\"seed\": \"much\", \"steps\": [], \"style\": 3}");
    moji_request_take_recipe(none, "{\"seed\": 3");
    MOJI_CHECK(none->seed == -1 && none->steps == 0 && !none->style, "nonsense was taken");
}

/* A picture made with another VAE is redrawn with that one, if the model is its own. */
static void test_vae_again(void)
{
    g_autoptr(MojiImage) picture = picture_new(64, 64);
    g_autoptr(MojiRequest) r = request_new(picture);
    g_autoptr(MojiImage) own = draw(r);
    r->vae = moji_test_path("tiny-taesd");
    g_autoptr(MojiImage) other = draw(r);
    if (!own || !other || !MOJI_CHECK(mean_difference(own, other) > 1, "one VAE is as the other"))
        return;
    MOJI_CHECK(strstr(other->recipe, "\"vae\":{\"name\":\"tiny-taesd\",\"weights\":\"") &&
                   !strstr(own->recipe, "\"vae\""),
               "recipes: %s, %s", other->recipe, own->recipe);
    set(&r->vae, NULL);
    r->image->recipe = g_strdup(other->recipe);
    g_autoptr(MojiImage) again = draw(r);
    set(&r->vae, "none");
    g_autoptr(MojiImage) none = draw(r);
    set(&r->vae, NULL);
    char *weights = strstr(r->image->recipe, "\"weights\":\"") + strlen("\"weights\":\"");
    weights[0] = weights[0] == '0' ? '1' : '0'; /* as if another model had drawn it */
    g_autoptr(MojiImage) strange = draw(r);
    if (!again || !none || !strange)
        return;
    MOJI_CHECK(mean_difference(again, other) == 0, "the recipe's VAE was not taken");
    MOJI_CHECK(strstr(again->recipe, "\"tiny-taesd\""), "it is forgotten: %s", again->recipe);
    MOJI_CHECK(mean_difference(none, own) == 0, "\"none\" is not the model's own");
    MOJI_CHECK(mean_difference(strange, own) == 0, "another model's VAE was taken");
    g_autoptr(GError) error = NULL;
    set(&r->vae, "nowhere");
    MOJI_CHECK(!moji_engine_draw(engine, r, NULL, NULL, NULL, &error) &&
                   strstr(error->message, "nowhere: there is no such VAE"),
               "%s", error ? error->message : "drawn");
}

static void test_variations(void)
{
    g_autoptr(MojiRequest) r = request_new(NULL);
    g_autoptr(MojiImage) base = draw(r);
    r->seed = 12;
    g_autoptr(MojiImage) other = draw(r);
    r->seed = 11;
    r->amount = 1;
    g_autoptr(MojiImage) all_the_way = draw(r);
    r->amount = 0.15;
    g_autoptr(MojiImage) near = draw(r);
    r->variation_seed = 40;
    g_autoptr(MojiImage) elsewhere = draw(r);
    if (!base || !other || !all_the_way || !near || !elsewhere)
        return;
    MOJI_CHECK(mean_difference(all_the_way, other) < 0.01, "amount 1 is not seed 12's picture");
    double step = mean_difference(near, base), whole = mean_difference(other, base);
    MOJI_CHECK(step > 0.2 && step < 0.7 * whole, "amount 0.15 differs by %g, another seed by %g",
               step, whole);
    MOJI_CHECK(mean_difference(near, elsewhere) > 0.2, "the variation's seed does nothing");
}

/* Picture 3 of a drawing's variations is drawn again from its recipe. */
static void test_variation_again(void)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(MojiRequest) r = request_new(NULL);
    r->amount = 0.3;
    r->count = 3;
    GPtrArray *images = moji_engine_draw(engine, r, NULL, NULL, NULL, &error);
    if (!MOJI_CHECK(images && images->len == 3, "%s", error ? error->message : "not three"))
        return;
    const MojiImage *third = images->pdata[2];
    g_autoptr(MojiRequest) again = moji_request_new();
    set(&again->model, tiny);
    again->size = 64;
    moji_request_take_recipe(again, third->recipe);
    g_autoptr(MojiImage) same = draw(again);
    MOJI_CHECK(again->variation_seed == 14, "variation_seed %d", (int)again->variation_seed);
    MOJI_CHECK(same && mean_difference(same, third) == 0, "the recipe draws another picture");
    MOJI_CHECK(mean_difference(images->pdata[0], third) > 0.2, "two variations are the same");
    g_ptr_array_unref(images);
}

/* ---- models that fill holes, drawing from nothing ---- */

static void test_fills_draws(void)
{
    g_autoptr(MojiRequest) r = request_new(NULL);
    set(&r->model, fills);
    g_autoptr(MojiImage) got = draw(r);
    r->seed++;
    g_autoptr(MojiImage) other = draw(r);
    MOJI_CHECK(got && other && mean_difference(got, other) > 1, "two seeds are one picture");
}

/* ---- cancelling ---- */

static void on_progress(const MojiProgress *p, gpointer cancel)
{
    if (p->phase == MOJI_PHASE_STEP && p->step == 1)
        g_cancellable_cancel(cancel);
}

static void test_cancel(void)
{
    g_autoptr(MojiImage) picture = picture_new(64, 48);
    g_autoptr(MojiRequest) r = request_new(picture);
    g_autoptr(MojiImage) before = draw(r);
    g_autoptr(GCancellable) cancel = g_cancellable_new();
    g_autoptr(GError) error = NULL;
    GPtrArray *images = moji_engine_draw(engine, r, on_progress, cancel, cancel, &error);
    MOJI_CHECK(!images && g_error_matches(error, MOJI_ERROR, MOJI_ERROR_CANCELLED), "%s",
               error ? error->message : "it was drawn");
    g_autoptr(MojiImage) after = draw(r);
    MOJI_CHECK(before && after && mean_difference(before, after) == 0,
               "a drawing after a cancelled one differs");
}

/* ---- transparency ---- */

/* Where nothing shows, nothing changes; elsewhere alpha stays and colour is redrawn. */
static void test_transparency(void)
{
    g_autoptr(MojiImage) picture = picture_new(64, 64);
    for (int i = 0; i < 64 * 64; i++)
        picture->rgba[4 * i + 3] = i % 64 < 20 ? 0 : i % 64 < 24 ? 128 : 255;
    g_autoptr(MojiRequest) r = request_new(picture);
    g_autoptr(MojiImage) got = draw(r);
    if (!got)
        return;
    int changed = 0;
    for (int i = 0; i < 64 * 64; i++) {
        const guint8 *a = picture->rgba + 4 * i, *b = got->rgba + 4 * i;
        MOJI_CHECK(a[3] == b[3], "alpha %d became %d", a[3], b[3]);
        MOJI_CHECK(a[3] || !memcmp(a, b, 4), "a pixel that does not show was touched");
        changed += memcmp(a, b, 4) != 0;
    }
    MOJI_CHECK(changed > 64 * 30, "%d pixels changed", changed);
}

/* ---- memory ---- */

static GPtrArray *draw_within(MojiRequest *r, guint64 bytes, GError **error)
{
    moji_engine_unload(engine);
    moji_engine_set_memory(engine, bytes);
    GPtrArray *images = moji_engine_draw(engine, r, NULL, NULL, NULL, error);
    moji_engine_set_memory(engine, 0);
    return images;
}

/* In less memory the same picture; in less still one from tiles, which may differ a little
 * (test_tiles.c: by how much); then an error. */
static void check_memory(const MojiImage *picture)
{
    g_autoptr(MojiRequest) r = request_new(picture);
    r->size = 256;
    r->steps = 1;
    r->guidance = 1;
    g_autoptr(MojiImage) plain = draw(r);
    double last = 0;
    gboolean same = FALSE, tiled = FALSE, refused = FALSE;
    for (int mib = 88 + (picture ? 12 : 0); plain && mib >= 64 && !refused; mib -= 4) {
        g_autoptr(GError) error = NULL;
        GPtrArray *images = draw_within(r, (guint64)mib << 20, &error);
        refused = !images;
        if (refused) {
            MOJI_CHECK(g_error_matches(error, MOJI_ERROR, MOJI_ERROR_MEMORY) &&
                           strstr(error->message, "allowed"),
                       "%s", error->message);
            break;
        }
        last = mean_difference(images->pdata[0], plain);
        same |= last == 0;
        tiled |= last > 0;
        if (g_getenv("MOJI_TEST_FIGURES"))
            g_print("# %d MiB: tiles differ by %.3g levels\n", mib, last);
        MOJI_CHECK(last < 12, "in %d MiB it differs by %g levels", mib, last);
        g_ptr_array_unref(images);
    }
    MOJI_CHECK(same && tiled && refused, "same %d, tiled %d, refused %d", same, tiled, refused);
    g_autoptr(MojiImage) after = draw(r);
    MOJI_CHECK(plain && after && mean_difference(plain, after) == 0, "afterwards it differs");
}

static void test_memory(void)
{
    check_memory(NULL);
}

static void test_memory_edit(void)
{
    g_autoptr(MojiImage) picture = picture_new(256, 200);
    check_memory(picture);
}

/* ---- */

/* A model folder with one part of another. Caller frees. */
static char *model_with(const char *name, const char *part, const char *other)
{
    static const char *const parts[] = {"model_index.json", "scheduler", "text_encoder",
                                        "tokenizer",        "unet",      "vae"};
    char *folder = g_build_filename(moji_test_scratch(), name, NULL);
    g_mkdir(folder, 0700);
    for (gsize i = 0; i < G_N_ELEMENTS(parts); i++) {
        g_autofree char *replaced = moji_test_path(other);
        g_autofree char *own = g_build_filename(tiny, parts[i], NULL);
        g_autofree char *link = g_build_filename(folder, parts[i], NULL);
        if (symlink(strcmp(parts[i], part) ? own : replaced, link))
            g_error("%s cannot be made", link);
    }
    return folder;
}

static void test_cases(void)
{
    g_autofree char *path = moji_test_path("edit/cases.json");
    g_autoptr(JsonParser) parser = json_parser_new();
    if (!json_parser_load_from_file(parser, path, NULL))
        g_error("fixture %s cannot be read", path);
    cases = json_node_get_object(json_parser_get_root(parser));
    JsonArray *list = json_object_get_array_member(cases, "cases");
    for (guint i = 0; i < json_array_get_length(list); i++) {
        JsonObject *o = json_array_get_object_element(list, i);
        current = (Case){.kind = json_object_get_string_member(o, "kind"),
                         .name = json_object_get_string_member(o, "name"),
                         .sampler = json_object_get_string_member(o, "sampler"),
                         .strength = json_object_get_double_member(o, "strength")};
        g_autofree char *name = g_strdup_printf("edit: as diffusers: %s", current.name);
        moji_test(name, test_case);
    }
}

int main(void)
{
    g_autoptr(GError) error = NULL;
    cpu_set_t set;
    /* The tiny model's layers are too short for threads to pay. */
    CPU_ZERO(&set);
    CPU_SET(MAX(sched_getcpu(), 0), &set);
    sched_setaffinity(0, sizeof set, &set);
    g_autofree char *data = g_build_filename(moji_test_scratch(), "data", NULL);
    g_autofree char *models = g_build_filename(data, "moji", "models", NULL);
    g_autofree char *vae = g_build_filename(models, "tiny-taesd", NULL);
    g_autofree char *vae_there = moji_test_path("tiny-taesd");
    g_setenv("XDG_DATA_HOME", data, TRUE); /* before GLib looks at it */
    if (g_mkdir_with_parents(models, 0700) || symlink(vae_there, vae))
        g_error("%s cannot be made", vae);
    tiny = moji_test_path("tiny-sd");
    fills = model_with("fills", "unet", "edit/unet9");
    taesd = model_with("taesd", "vae", "tiny-taesd");
    engine = moji_engine_new("auto", 1, &error);
    if (!engine)
        g_error("%s", error->message);
    moji_engine_set_type(engine, "f32");
    test_cases();
    moji_test("edit: a tiny autoencoder, both ways", test_taesd);
    moji_test("edit: what the mask does not cover keeps its bits", test_untouched);
    moji_test("edit: several at once", test_at_once);
    moji_test("edit: any size comes back", test_sizes);
    moji_test("edit: taken out and put back", test_there_and_back);
    moji_test("edit: around a small mask", test_part);
    moji_test("edit: an empty mask", test_empty_mask);
    moji_test("edit: strength is a share of the steps", test_strength);
    moji_test("edit: the recipe, and what another takes from it", test_recipe);
    moji_test("edit: the VAE of the picture's recipe", test_vae_again);
    moji_test("edit: transparency stays", test_transparency);
    moji_test("edit: cancelled", test_cancel);
    moji_test("draw: variations lie between two seeds", test_variations);
    moji_test("draw: a variation again from its recipe", test_variation_again);
    moji_test("draw: a model that fills holes draws from nothing too", test_fills_draws);
    moji_test("draw: within an allowance of memory", test_memory);
    moji_test("edit: within an allowance of memory", test_memory_edit);
    moji_engine_free(engine);
    g_free(tiny);
    g_free(fills);
    g_free(taesd);
    return moji_test_end();
}
