/* test_tiles.c: pictures decoded and encoded in tiles, held against the same in one piece. What the
 * tiles lie over (the seams) must be as near to it as the rest, and next to each other no two
 * pixels may part. */
#include "drawing.h"
#include "test.h"
#include <math.h>
#include <string.h>

static MojiEngine *engine;

typedef struct {
    const char *name, *folder, *vae; /* under tests/fixtures */
    int factor;                      /* pixels per latent */
    /* At most: mean levels of 255, from pixel to pixel; relative L2. */
    double decoded, steps, encoded;
} Model;

/* The tiny model is random numbers, whose attention and edges reach everywhere: parts of it are no
 * more than akin. */
static const Model models[] = {{"moji-mini", "../../model/moji-mini", NULL, 16, 1.5, 0.35, 0.035},
                               {"tiny-sd", "tiny-sd", NULL, 4, 32, 33, 0.5},
                               {"tiny-taesd", "tiny-sd", "tiny-taesd", 4, 0.15, 0.1, 0.01}};

static const struct {
    int w, h, tile; /* latents */
} rows[] = {{29, 23, 16}, {32, 32, 24}, {16, 40, 16}, {45, 47, 16}};

/* Where tiles lie over each other: they begin every three quarters of one, the last at the end. */
static gboolean on_seam(int i, int tile, int cells)
{
    int step = tile - tile / 4, over = 0;
    for (int start = 0;; start = MIN(start + step, cells - tile)) {
        over += i >= start && i < start + tile;
        if (start >= cells - tile)
            return over > 1;
    }
}

/* Figures as an emoji has them: flat parts, edges, a gradient. */
static MojiImage *picture_new(int width, int height)
{
    MojiImage *p = moji_image_new(width, height);
    double r = MIN(width, height) * 0.36;
    for (int y = 0; y < height; y++)
        for (int x = 0; x < width; x++) {
            guint8 *v = p->rgba + 4 * ((gsize)y * width + x);
            double dx = x - width * 0.47, dy = y - height * 0.52, away = hypot(dx, dy);
            gboolean eye = hypot(fabs(dx) - r * 0.4, dy + r * 0.25) < r * 0.15;
            gboolean mouth = fabs(away - r * 0.6) < r * 0.07 && dy > r * 0.2;
            guint8 face = (guint8)(200 - 60 * dy / r);
            memcpy(v, (guint8[]){0, 200, 0, 255}, 4);
            if (away < r)
                memcpy(v, (guint8[]){255, face, 40, 255}, 4);
            if (away < r && (eye || mouth))
                memcpy(v, (guint8[]){70, 40, 20, 255}, 4);
        }
    return p;
}

static void drawing_size(MojiDrawing *d, int h, int w, int tile)
{
    const MojiVaeConfig *vae = &engine->model->vae;
    int f = moji_vae_factor(vae);
    d->h = h;
    d->w = w;
    d->c = vae->latent_channels;
    d->count = (gsize)h * w * d->c;
    d->height = h * f;
    d->width = w * f;
    d->tile_h = tile ? MIN(tile, h) : h;
    d->tile_w = tile ? MIN(tile, w) : w;
}

/* The picture's latents, and the same decoded. Both are freed by the caller; FALSE: the test
 * failed. */
static gboolean there_and_back(MojiImage *picture, int h, int w, int tile, const float *latents,
                               float **encoded, MojiImage **decoded)
{
    g_autoptr(GError) error = NULL;
    MojiOrder order = {.count = 1};
    MojiDrawing d = {.e = engine, .order = &order, .prompts = 1, .pictures = 1};
    const MojiVaeConfig *vae = &engine->model->vae;
    drawing_size(&d, h, w, tile);
    d.edit = moji_edit_new(picture, (guint8[]){0, 200, 0}, MAX(d.width, d.height), 1, &error);
    g_clear_pointer(&engine->vae, moji_stage_free);
    gboolean ok = d.edit && moji_drawing_encode(&d, &error);
    if (ok) {
        *encoded = g_new(float, d.count);
        moji_vae_latents(vae, d.moments, NULL, *encoded, (gsize)h * w);
        g_clear_pointer(&d.edit, moji_edit_free);
        *decoded = moji_drawing_decode(&d, latents ? latents : *encoded, &error);
        ok = *decoded != NULL;
    }
    MOJI_CHECK(ok, "%s", error ? error->message : "?");
    moji_edit_free(d.edit);
    g_free(d.moments);
    g_free(d.cells);
    return ok;
}

typedef struct {
    double sum[2], most[2], step[2]; /* away from seams, on them */
    gint64 count[2];
} Levels;

/* How far `tiled` is from `whole`, and by how much that changes from a pixel to the next. */
static Levels measure(const MojiImage *whole, const MojiImage *tiled, int factor, int tile_h,
                      int tile_w)
{
    Levels l = {0};
    int w = whole->width, h = whole->height;
    for (int y = 0; y < h; y++)
        for (int x = 0; x < w; x++) {
            int seam =
                on_seam(y / factor, tile_h, h / factor) || on_seam(x / factor, tile_w, w / factor);
            for (int k = 0; k < 3; k++) {
                gsize i = 4 * ((gsize)y * w + x) + k;
                int off = tiled->rgba[i] - whole->rgba[i];
                l.sum[seam] += abs(off);
                l.most[seam] = MAX(l.most[seam], abs(off));
                if (x > 0)
                    l.step[seam] += abs(off - (tiled->rgba[i - 4] - whole->rgba[i - 4]));
            }
            l.count[seam] += 3;
        }
    for (int seam = 0; seam < 2; seam++) {
        l.sum[seam] /= MAX(l.count[seam], 1);
        l.step[seam] /= MAX(l.count[seam], 1);
    }
    return l;
}

static const Model *model;

static void test_size(int w, int h, int tile)
{
    int f = model->factor;
    g_autoptr(MojiImage) picture = picture_new(w * f, h * f), whole = NULL, tiled = NULL;
    g_autofree float *latents = NULL, *parts = NULL;
    if (!there_and_back(picture, h, w, 0, NULL, &latents, &whole) ||
        !there_and_back(picture, h, w, tile, latents, &parts, &tiled))
        return;
    Levels l = measure(whole, tiled, f, MIN(tile, h), MIN(tile, w));
    gsize count = (gsize)h * w * engine->model->vae.latent_channels;
    double encoded = sqrt(moji_test_nmse(parts, latents, count));
    if (g_getenv("MOJI_TEST_FIGURES"))
        g_print("# %s %d x %d by %d: decoded, at seams and elsewhere, mean %.2f %.2f, most %g %g, "
                "steps %.2f %.2f; encoded %.2g, most %.2g\n",
                model->name, w, h, tile, l.sum[1], l.sum[0], l.most[1], l.most[0], l.step[1],
                l.step[0], encoded, moji_test_max_error(parts, latents, count));
    MOJI_CHECK(l.sum[1] > 0, "%d x %d: not in tiles", w, h);
    for (int seam = 0; seam < 2; seam++)
        MOJI_CHECK(l.sum[seam] < model->decoded && l.step[seam] < model->steps,
                   "%d x %d by %d, %s: differs by %g levels, from pixel to pixel by %g", w, h, tile,
                   seam ? "at seams" : "elsewhere", l.sum[seam], l.step[seam]);
    MOJI_CHECK(encoded < model->encoded, "%d x %d by %d: encoded differs by %g", w, h, tile,
               encoded);
}

static void test_model(void)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(MojiRequest) r = moji_request_new();
    r->model = moji_test_path(model->folder);
    r->vae = model->vae ? moji_test_path(model->vae) : NULL;
    if (!MOJI_CHECK(moji_drawing_load(engine, r, &error), "%s", error ? error->message : ""))
        return;
    for (gsize i = 0; i < G_N_ELEMENTS(rows); i++)
        test_size(rows[i].w, rows[i].h, rows[i].tile);
}

int main(void)
{
    g_autoptr(GError) error = NULL;
    engine = moji_engine_new(moji_test_backend("cpu"), 1, &error);
    if (!engine)
        g_error("%s", error->message);
    engine->type = MOJI_F32;
    for (gsize i = 0; i < G_N_ELEMENTS(models); i++) {
        model = &models[i];
        g_autofree char *name = g_strdup_printf("tiles: %s", model->name);
        moji_test(name, test_model);
    }
    moji_engine_free(engine);
    return moji_test_end();
}
