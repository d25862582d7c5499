/* pixels.c: latents -> pixels; see drawing.h. */
#include "drawing.h"
#include <math.h>

/* Little is enough for a first idea of the colours. */
gboolean moji_drawing_sketch(MojiDrawing *d, GError **error)
{
    enum { SIDE = 8, ROUNDS = 4 };
    MojiEngine *e = d->e;
    const MojiVaeConfig *vae = &e->model->vae;
    int f = moji_vae_factor(vae);
    gsize count = SIDE * SIDE * d->c;
    if (!e->previews || e->sketch)
        return TRUE;
    e->sketch = moji_sketch_new(d->c);
    MojiStage *s = moji_stage_vae(e->model, e->type, 1, SIDE, SIDE);
    g_autofree float *scaled = g_new(float, count), *latents = g_new(float, count);
    g_autofree float *rgb = g_new(float, (gsize)SIDE *SIDE *f *f * 3);
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
            moji_vae_spread(vae, rgb, count * f * f * 3 / d->c);
            moji_sketch_learn(e->sketch, latents, rgb, SIDE, SIDE, f);
        }
    }
    moji_stage_free(s);
    if (!ok)
        g_clear_pointer(&e->sketch, moji_sketch_free);
    return ok;
}

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
    MojiStage *s = e->vae;
    const MojiVaeConfig *vae = &e->model->vae;
    int size = d->order->size;
    gsize values = (gsize)size * size * 3;
    double start = moji_drawing_now();
    if (!moji_stage_prepare(s, e->backend, error))
        return NULL;
    e->times.load += moji_drawing_now() - start;
    start = moji_drawing_now();
    g_autofree float *scaled = g_new(float, d->count), *rgb = g_new(float, values);
    for (gsize i = 0; i < d->count; i++)
        scaled[i] = x[i] / vae->scaling_factor + vae->shift_factor;
    moji_tape_write(s->tape, s->in[0], scaled);
    if (!moji_tape_run(s->tape, d->cancel, error))
        return NULL;
    moji_tape_read(s->tape, s->out, rgb);
    e->times.vae += moji_drawing_now() - start;
    if (!moji_drawing_finite(d, rgb, values, "vae", error) ||
        !moji_drawing_dump(d, "decoded", MOJI_F32, 4, (const gint64[]){1, size, size, 3}, rgb,
                           error))
        return NULL;
    if (e->sketch)
        moji_sketch_learn(e->sketch, x, rgb, d->h, d->w, size / d->w);
    MojiImage *image = moji_image_new(size, size);
    to_pixels(image, rgb);
    return image;
}
