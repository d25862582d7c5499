/* pixels.c: latents <-> pixels, whole or in tiles; see drawing.h. */
#include "drawing.h"
#include <math.h>
#include <string.h>

/* ---- tiles ---- */

/* A decoding or an encoding: [h,w] cells of in_side x in_side x in_c -> out_side x out_side x
 * out_c. */
typedef struct {
    MojiStage *stage; /* takes tile_h x tile_w cells */
    int in_side, in_c, out_side, out_c;
} Pass;

/* Where tile i of a row of cells starts: a quarter over the one before, the last at the end. */
static int tile_start(int i, int tile, int cells)
{
    return MIN(i * (tile - tile / 4), cells - tile);
}

static int tile_count(int tile, int cells)
{
    int n = 1;
    while (tile_start(n - 1, tile, cells) < cells - tile)
        n++;
    return n;
}

/* How much of a tile's sample counts: it fades in and out where it lies over others. What is
 * nearest to its edge, where it saw zeros for the neighbour's samples, does not count at all. */
static float fade(int at, int start, int tile, int cells, int side)
{
    float overlap = tile / 4 * side, unseen = 0.3f * overlap, width = overlap - 2 * unseen;
    float weight = 1;
    if (start > 0)
        weight = MIN(weight, (at + 0.5f - unseen) / width);
    if (start + tile < cells)
        weight = MIN(weight, (tile * side - at - 0.5f - unseen) / width);
    return MAX(weight, 0);
}

/* The sum of all fades at each sample of an axis. Caller frees. */
static float *fade_sums(int tile, int cells, int side)
{
    float *sums = g_new0(float, cells *side);
    for (int i = 0; i < tile_count(tile, cells); i++) {
        int start = tile_start(i, tile, cells);
        for (int at = 0; at < tile * side; at++)
            sums[start * side + at] += fade(at, start, tile, cells, side);
    }
    return sums;
}

/* All of the input on one tile, every nth sample of it, so that the norms of the tiles that follow
 * are those of the whole: normed each by itself, tiles have other colours. part: a tile's input. */
static gboolean run_small(MojiDrawing *d, const Pass *p, const float *in, float *part,
                          GError **error)
{
    int h = d->h * p->in_side, w = d->w * p->in_side;
    int small_h = d->tile_h * p->in_side, small_w = d->tile_w * p->in_side;
    moji_tape_norms(p->stage->tape, MOJI_NORMS_KEEP);
    for (int i = 0; i < small_h; i++)
        for (int j = 0; j < small_w; j++) {
            gsize from =
                (gsize)((2 * i + 1) * h / (2 * small_h)) * w + (2 * j + 1) * w / (2 * small_w);
            memcpy(part + ((gsize)i * small_w + j) * p->in_c, in + from * p->in_c,
                   p->in_c * sizeof *in);
        }
    moji_tape_write(p->stage->tape, p->stage->in[0], part);
    gboolean ok = moji_tape_run(p->stage->tape, d->cancel, error);
    moji_tape_norms(p->stage->tape, MOJI_NORMS_KEPT);
    return ok;
}

/* One tile at cell y, x: its weighted values are added to out. part: its input, result: its
 * output. */
static gboolean run_tile(MojiDrawing *d, const Pass *p, const float *in, int y, int x, float *part,
                         float *result, float *out, GError **error)
{
    int th = d->tile_h, tw = d->tile_w, in_row = tw * p->in_side * p->in_c;
    int width = d->w * p->in_side, out_w = tw * p->out_side, full = d->w * p->out_side;
    for (int i = 0; i < th * p->in_side; i++)
        memcpy(part + (gsize)i * in_row,
               in + ((gsize)(y * p->in_side + i) * width + x * p->in_side) * p->in_c,
               in_row * sizeof *in);
    moji_tape_write(p->stage->tape, p->stage->in[0], part);
    if (!moji_tape_run(p->stage->tape, d->cancel, error))
        return FALSE;
    moji_tape_read(p->stage->tape, p->stage->out, result);
    for (int i = 0; i < th * p->out_side; i++)
        for (int j = 0; j < out_w; j++) {
            float weight = fade(i, y, th, d->h, p->out_side) * fade(j, x, tw, d->w, p->out_side);
            gsize to = (gsize)(y * p->out_side + i) * full + x * p->out_side + j;
            for (int k = 0; k < p->out_c; k++)
                out[to * p->out_c + k] += weight * result[((gsize)i * out_w + j) * p->out_c + k];
        }
    return TRUE;
}

static gboolean run_tiles(MojiDrawing *d, const Pass *p, const float *in, float *out,
                          GError **error)
{
    int full = d->w * p->out_side, rows = d->h * p->out_side;
    g_autofree float *part = g_new(float, moji_tensor_count(p->stage->in[0]));
    g_autofree float *result = g_new(float, moji_tensor_count(p->stage->out));
    memset(out, 0, (gsize)rows * full * p->out_c * sizeof *out);
    gboolean ok = run_small(d, p, in, part, error);
    for (int i = 0; i < tile_count(d->tile_h, d->h); i++)
        for (int j = 0; ok && j < tile_count(d->tile_w, d->w); j++)
            ok = run_tile(d, p, in, tile_start(i, d->tile_h, d->h), tile_start(j, d->tile_w, d->w),
                          part, result, out, error);
    moji_tape_norms(p->stage->tape, MOJI_NORMS_OWN);
    if (!ok)
        return FALSE;
    g_autofree float *down = fade_sums(d->tile_h, d->h, p->out_side);
    g_autofree float *across = fade_sums(d->tile_w, d->w, p->out_side);
    for (gsize i = 0; i < (gsize)rows * full; i++)
        for (int k = 0; k < p->out_c; k++)
            out[i * p->out_c + k] /= down[i / full] * across[i % full];
    return TRUE;
}

static gboolean run_pass(MojiDrawing *d, const Pass *p, const float *in, float *out, GError **error)
{
    if (d->tile_h < d->h || d->tile_w < d->w)
        return run_tiles(d, p, in, out, error);
    moji_tape_write(p->stage->tape, p->stage->in[0], in);
    if (!moji_tape_run(p->stage->tape, d->cancel, error))
        return FALSE;
    moji_tape_read(p->stage->tape, p->stage->out, out);
    return TRUE;
}

/* ---- previews ---- */

/* Little is enough for a first idea of the colours. */
gboolean moji_drawing_sketch(MojiDrawing *d, GError **error)
{
    enum { SIDE = 8, ROUNDS = 4 };
    MojiEngine *e = d->e;
    const MojiVaeConfig *vae = &e->model->vae;
    int f = moji_vae_factor(vae);
    gsize count = SIDE * SIDE * d->c, values = (gsize)SIDE * SIDE * f * f * 3;
    if (!e->previews || e->sketch || d->one_at_a_time)
        return TRUE;
    e->sketch = moji_sketch_new(d->c);
    MojiStage *s = moji_stage_vae(e->model, e->type, 1, SIDE, SIDE);
    g_autofree float *scaled = g_new(float, count), *latents = g_new(float, count);
    g_autofree float *rgb = g_new(float, values);
    MojiRandom random;
    moji_random_seed(&random, 1);
    gboolean ok = moji_stage_prepare(s, e->backend, error);
    for (int round = 0; ok && round < ROUNDS; round++) {
        moji_random_normal(&random, latents, count);
        moji_vae_unscale(vae, latents, scaled, count);
        moji_tape_write(s->tape, s->in[0], scaled);
        ok = moji_tape_run(s->tape, d->cancel, error);
        if (ok) {
            moji_tape_read(s->tape, s->out, rgb);
            moji_vae_spread(vae, rgb, values);
            moji_sketch_learn(e->sketch, latents, rgb, SIDE, SIDE, f);
        }
    }
    moji_stage_free(s);
    if (!ok)
        g_clear_pointer(&e->sketch, moji_sketch_free);
    return ok;
}

/* ---- pixels -> latents ---- */

/* rgb [height,width,3], freed here -> moments [h,w,moments]. Caller frees; NULL on error. */
static float *encode(MojiDrawing *d, MojiStage *s, float *rgb, GError **error)
{
    const MojiVaeConfig *vae = &d->e->model->vae;
    g_autofree float *pixels = rgb;
    int f = moji_vae_factor(vae), width = moji_vae_moments(vae);
    gsize count = (gsize)d->h * d->w * width;
    g_autofree float *moments = g_new(float, count);
    moji_vae_gather(vae, pixels, (gsize)d->height * d->width * 3);
    Pass pass = {.stage = s, .in_side = f, .in_c = 3, .out_side = 1, .out_c = width};
    if (!run_pass(d, &pass, pixels, moments, error) ||
        !moji_drawing_finite(d, moments, count, "vae", error))
        return NULL;
    return g_steal_pointer(&moments);
}

/* The picture with gray holes, or where there is no picture nothing but a hole. Caller frees. */
static float *with_holes(const MojiDrawing *d)
{
    gsize pixels = (gsize)d->height * d->width;
    float *rgb = g_new0(float, pixels * 3);
    for (gsize i = 0; d->edit && d->edit->hole && i < pixels; i++)
        if (!d->edit->hole[i])
            memcpy(rgb + 3 * i, d->edit->rgb + 3 * i, 3 * sizeof *rgb);
    return rgb;
}

gboolean moji_drawing_encode(MojiDrawing *d, GError **error)
{
    const MojiModel *m = d->e->model;
    gboolean fills = moji_model_fills(m);
    if (fills || (d->edit && d->edit->hole)) {
        d->cells = g_renew(float, d->cells, (gsize)d->h * d->w);
        for (int i = 0; i < d->h * d->w; i++)
            d->cells[i] = 1;
        if (d->edit)
            moji_edit_cells(d->edit, moji_vae_factor(&m->vae), d->cells);
    }
    if (!fills && !d->edit)
        return TRUE;
    MojiStage *s = NULL;
    gboolean ok = moji_drawing_ready(d, &s, error);
    double start = moji_drawing_now();
    gsize rgb = (gsize)d->height * d->width * 3 * sizeof(float);
    g_clear_pointer(&d->moments, g_free);
    g_clear_pointer(&d->hidden, g_free);
    if (ok && d->edit)
        ok = (d->moments = encode(d, s, g_memdup2(d->edit->rgb, rgb), error)) != NULL;
    if (ok && fills)
        ok = (d->hidden = encode(d, s, with_holes(d), error)) != NULL;
    moji_stage_free(s);
    d->e->times.vae += moji_drawing_now() - start;
    return ok;
}

/* ---- latents -> pixels ---- */

static void to_pixels(MojiImage *image, const float *rgb)
{
    gsize pixels = (gsize)image->width * image->height;
    for (gsize i = 0; i < pixels; i++) {
        for (int k = 0; k < 3; k++) {
            float v = CLAMP(rgb[i * 3 + k] * 0.5f + 0.5f, 0.0f, 1.0f);
            image->rgba[i * 4 + k] = (guint8)lrintf(v * 255.0f); /* halves to even, as numpy */
        }
        image->rgba[i * 4 + 3] = 255;
    }
}

MojiImage *moji_drawing_decode(MojiDrawing *d, const float *x, GError **error)
{
    MojiEngine *e = d->e;
    const MojiVaeConfig *vae = &e->model->vae;
    gsize values = (gsize)d->height * d->width * 3;
    int f = moji_vae_factor(vae);
    if (!moji_drawing_ready(d, &e->vae, error))
        return NULL;
    double start = moji_drawing_now();
    g_autofree float *scaled = g_new(float, d->count), *rgb = g_new(float, values);
    moji_vae_unscale(vae, x, scaled, d->count);
    Pass pass = {.stage = e->vae, .in_side = 1, .in_c = d->c, .out_side = f, .out_c = 3};
    if (!run_pass(d, &pass, scaled, rgb, error))
        return NULL;
    moji_vae_spread(vae, rgb, values);
    e->times.vae += moji_drawing_now() - start;
    if (!moji_drawing_finite(d, rgb, values, "vae", error) ||
        !moji_drawing_dump(d, d->image, "decoded", MOJI_F32, 4,
                           (const gint64[]){1, d->height, d->width, 3}, rgb, error))
        return NULL;
    if (e->sketch)
        moji_sketch_learn(e->sketch, x, rgb, d->h, d->w, f);
    if (d->edit)
        return moji_edit_paste(d->edit, rgb);
    MojiImage *image = moji_image_new(d->width, d->height);
    to_pixels(image, rgb);
    return image;
}
