/* denoise.c: noise -> latents; see drawing.h.
 *
 * The surprising rule: what is drawn from the generator comes in diffusers' order, also what is not
 * used: the picture's own latents, the noise, the latents of the picture with holes, then the
 * sampler's noise. */
#include "drawing.h"
#include <math.h>
#include <string.h>

static gboolean dump_latents(const MojiDrawing *d, const char *name, const float *x, GError **error)
{
    return moji_drawing_dump(d, name, MOJI_F32, 4, (const gint64[]){1, d->h, d->w, d->c}, x, error);
}

/* ---- noise ---- */

typedef struct {
    MojiRandom random; /* of the picture's seed */
    MojiRandom other;  /* of the variation's */
    double amount;     /* 0: the other is not used */
} Noise;

static Noise noise_new(const MojiDrawing *d)
{
    Noise n = {.amount = d->order->amount};
    moji_order_random(d->order, d->image, &n.random);
    moji_order_variation(d->order, d->image, &n.other);
    return n;
}

/* [c,h,w], the order in which torch draws, -> [h,w,c] */
static void draw(const MojiDrawing *d, MojiRandom *random, float *x)
{
    g_autofree float *planes = g_new(float, d->count);
    moji_random_normal(random, planes, d->count);
    gsize area = (gsize)d->h * d->w;
    for (gsize at = 0; at < area; at++)
        for (int k = 0; k < d->c; k++)
            x[at * d->c + k] = planes[k * area + at];
}

/* x turned towards y on the sphere (Shoemake 1985): a mean of two noises would be too weak. */
static void turn(float *x, const float *y, gsize count, double amount)
{
    double xx = 0, yy = 0, xy = 0;
    for (gsize i = 0; i < count; i++) {
        xx += (double)x[i] * x[i];
        yy += (double)y[i] * y[i];
        xy += (double)x[i] * y[i];
    }
    double angle = acos(CLAMP(xy / sqrt(xx * yy), -1, 1)), a = 1 - amount, b = amount;
    if (sin(angle) > 1e-3) {
        a = sin(a * angle) / sin(angle);
        b = sin(b * angle) / sin(angle);
    }
    for (gsize i = 0; i < count; i++)
        x[i] = (float)(a * x[i] + b * y[i]);
}

static void draw_noise(const MojiDrawing *d, Noise *n, float *x)
{
    draw(d, &n->random, x);
    if (n->amount > 0) {
        g_autofree float *y = g_new(float, d->count);
        draw(d, &n->other, y);
        turn(x, y, d->count, n->amount);
    }
}

/* Latents drawn from what the encoder found. Caller frees. */
static float *draw_latents(const MojiDrawing *d, Noise *n, const float *moments)
{
    const MojiVaeConfig *vae = &d->e->model->vae;
    float *x = g_new(float, d->count);
    if (!vae->tiny)
        draw_noise(d, n, x);
    moji_vae_latents(vae, moments, x, x, (gsize)d->h * d->w);
    return x;
}

/* ---- one call of the U-Net ---- */

/* What the U-Net of a model that fills holes gets: latents, cells, latents of what is not hidden.
 */
static void interleave(const MojiDrawing *d, const float *x, const float *hidden, float *to)
{
    for (gsize at = 0; at < (gsize)d->h * d->w; at++) {
        memcpy(to, x + at * d->c, d->c * sizeof *x);
        to[d->c] = d->cells[at];
        memcpy(to + d->c + 1, hidden + at * d->c, d->c * sizeof *x);
        to += 2 * d->c + 1;
    }
}

/* The U-Net's word on x [h,w,c]: unconditional and prompted in one batch, put together in `out`. */
static gboolean predict(MojiDrawing *d, float timestep, const float *x, const float *hidden,
                        float *out, GError **error)
{
    MojiStage *s = d->e->unet;
    const float times[2] = {timestep, timestep};
    gsize one = moji_tensor_count(s->in[0]) / d->batch;
    g_autofree float *both = g_new(float, d->batch *one);
    if (hidden)
        interleave(d, x, hidden, both);
    else
        memcpy(both, x, one * sizeof *x);
    for (int b = 1; b < d->batch; b++)
        memcpy(both + b * one, both, one * sizeof *x);
    moji_tape_write(s->tape, s->in[0], both);
    moji_tape_write(s->tape, s->in[1], times);
    moji_tape_write(s->tape, s->in[2], d->context);
    if (!moji_tape_run(s->tape, d->cancel, error))
        return FALSE;
    moji_tape_read(s->tape, s->out, both);
    if (!moji_drawing_finite(d, both, d->batch * d->count, "unet", error))
        return FALSE;
    const float guidance = d->order->guidance, *without = both, *with = both + d->count;
    for (gsize i = 0; i < d->count; i++)
        out[i] = d->batch == 2 ? without[i] + guidance * (with[i] - without[i]) : both[i];
    return TRUE;
}

/* ---- all of them ---- */

/* The picture's own latents, as noisy as call `call` expects, where nothing is to be redrawn. */
static void put_back(const MojiDrawing *d, const MojiSampler *sampler, int call,
                     const float *original, const float *noise, float *x)
{
    g_autofree float *old = g_memdup2(original, d->count * sizeof *original);
    moji_sampler_add_noise(sampler, call, noise, old, d->count);
    for (gsize i = 0; i < d->count; i++) {
        float cell = d->cells[i / d->c];
        x[i] = (1 - cell) * old[i] + cell * x[i];
    }
}

static void tell_step(const MojiDrawing *d, const MojiSampler *sampler, int done, int steps)
{
    MojiProgress p = {.phase = MOJI_PHASE_STEP, .step = done, .steps = steps};
    if (d->progress && d->e->sketch)
        p.preview = moji_sketch_draw(d->e->sketch, moji_sampler_estimate(sampler), d->h, d->w,
                                     &p.preview_width, &p.preview_height);
    moji_drawing_tell(d, p);
}

/* Calls `first` and on, from x: the noise, or the picture under noise. */
static gboolean take_steps(MojiDrawing *d, MojiSampler *sampler, int first, const float *original,
                           const float *noise, const float *hidden, float *x, MojiRandom *random,
                           GError **error)
{
    g_autofree float *input = g_new(float, d->count), *out = g_new(float, d->count);
    int calls = moji_sampler_calls(sampler);
    for (int i = first; i < calls; i++) {
        double start = moji_drawing_now();
        moji_sampler_input(sampler, i, x, input, d->count);
        if (!predict(d, moji_sampler_timestep(sampler, i), input, hidden, out, error))
            return FALSE;
        d->e->times.unet += moji_drawing_now() - start;
        d->e->times.unet_calls++;
        moji_sampler_step(sampler, i, out, x, d->count, d->c, random);
        if (d->cells && original && !hidden)
            put_back(d, sampler, i + 1, original, noise, x);
        g_autofree char *name = g_strdup_printf("latents_%02d", i + 1);
        if (!dump_latents(d, name, x, error))
            return FALSE;
        tell_step(d, sampler, i + 1 - first, calls - first);
    }
    return moji_drawing_finite(d, x, d->count, "unet", error);
}

static gboolean sample(MojiDrawing *d, MojiSampler *sampler, float *x, GError **error)
{
    Noise n = noise_new(d);
    g_autofree float *original = NULL, *hidden = NULL, *noise = g_new(float, d->count);
    gboolean anew = !d->edit || (d->cells && d->order->strength >= 1); /* from noise alone */
    if (d->moments && !(d->hidden && anew))
        original = draw_latents(d, &n, d->moments);
    draw_noise(d, &n, noise);
    if (d->hidden)
        hidden = draw_latents(d, &n, d->hidden);
    else if (d->cells && !d->e->model->vae.tiny)
        draw_noise(d, &n, x);
    if (!dump_latents(d, "noise", noise, error))
        return FALSE;
    memcpy(x, anew ? noise : original, d->count * sizeof *x);
    int first = anew ? 0 : moji_sampler_first_call(sampler, d->order->strength);
    if (anew)
        moji_sampler_start(sampler, x, d->count);
    else
        moji_sampler_start_at(sampler, first, noise, x, d->count);
    return take_steps(d, sampler, first, original, noise, hidden, x, &n.random, error);
}

gboolean moji_drawing_denoise(MojiDrawing *d, float *x, GError **error)
{
    MojiSampler *sampler = moji_order_sampler(d->order, d->e->model);
    gboolean ok = moji_drawing_ready(d, &d->e->unet, error) && sample(d, sampler, x, error);
    moji_sampler_free(sampler);
    return ok;
}
