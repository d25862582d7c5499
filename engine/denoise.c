/* denoise.c: noise -> latents; see drawing.h. */
#include "drawing.h"
#include <string.h>

static gboolean dump_latents(const MojiDrawing *d, const char *name, const float *x, GError **error)
{
    return moji_drawing_dump(d, name, MOJI_F32, 4, (const gint64[]){1, d->h, d->w, d->c}, x, error);
}

/* [c,h,w], the order in which torch draws, -> [h,w,c] */
static void make_noise(const MojiDrawing *d, MojiRandom *random, float *x)
{
    g_autofree float *planes = g_new(float, d->count);
    moji_random_normal(random, planes, d->count);
    gsize area = (gsize)d->h * d->w;
    for (gsize at = 0; at < area; at++)
        for (int k = 0; k < d->c; k++)
            x[at * d->c + k] = planes[k * area + at];
}

/* The U-Net's word on input [h,w,c]: unconditional and prompted in one batch, put together in
 * `out`. */
static gboolean predict(MojiDrawing *d, float timestep, const float *input, float *both, float *out,
                        GError **error)
{
    MojiStage *s = d->e->unet;
    const float times[2] = {timestep, timestep};
    for (int b = 0; b < d->batch; b++)
        memcpy(both + b * d->count, input, d->count * sizeof *input);
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

static void tell_step(const MojiDrawing *d, const MojiSampler *sampler, int done)
{
    MojiProgress p = {.phase = MOJI_PHASE_STEP, .step = done, .steps = moji_sampler_calls(sampler)};
    if (d->progress && d->e->sketch)
        p.preview = moji_sketch_draw(d->e->sketch, moji_sampler_estimate(sampler), d->h, d->w,
                                     &p.preview_width, &p.preview_height);
    moji_drawing_tell(d, p);
}

static gboolean sample(MojiDrawing *d, MojiSampler *sampler, float *x, GError **error)
{
    g_autofree float *input = g_new(float, d->count), *out = g_new(float, d->count);
    g_autofree float *both = g_new(float, 2 * d->count);
    MojiRandom random;
    moji_order_random(d->order, d->image, &random);
    make_noise(d, &random, x);
    if (!dump_latents(d, "noise", x, error))
        return FALSE;
    moji_sampler_start(sampler, x, d->count);
    for (int i = 0; i < moji_sampler_calls(sampler); i++) {
        double start = moji_drawing_now();
        moji_sampler_input(sampler, i, x, input, d->count);
        if (!predict(d, moji_sampler_timestep(sampler, i), input, both, out, error))
            return FALSE;
        d->e->times.unet += moji_drawing_now() - start;
        d->e->times.unet_calls++;
        moji_sampler_step(sampler, i, out, x, d->count, d->c, &random);
        g_autofree char *name = g_strdup_printf("latents_%02d", i + 1);
        if (!dump_latents(d, name, x, error))
            return FALSE;
        tell_step(d, sampler, i + 1);
    }
    return moji_drawing_finite(d, x, d->count, "unet", error);
}

gboolean moji_drawing_denoise(MojiDrawing *d, float *x, GError **error)
{
    MojiSampler *sampler = moji_order_sampler(d->order, d->e->model);
    gboolean ok = sample(d, sampler, x, error);
    moji_sampler_free(sampler);
    return ok;
}
