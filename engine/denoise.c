/* denoise.c: noise -> latents; see drawing.h.
 *
 * The surprising rule: what is drawn from the generator comes in diffusers' order, also what is not
 * used: the picture's own latents, the noise, the latents of the picture with holes, then the
 * sampler's noise. */
#include "drawing.h"
#include <math.h>
#include <string.h>

/* One of the pictures that are drawn at once. */
typedef struct {
    int image;            /* which of the drawing's */
    MojiSampler *sampler; /* its state is of this picture's steps */
    MojiRandom random;    /* of the picture's seed */
    float *x;             /* [h,w,c]: its latents; the caller's */
    float *noise;
    float *original;    /* latents of the picture that is redrawn, or NULL */
    float *hidden;      /* the same with its holes in gray, for a model that fills them, or NULL */
    float *input, *out; /* of one call of the U-Net */
} Picture;

static gboolean dump_latents(const MojiDrawing *d, const Picture *p, const char *name,
                             const float *x, GError **error)
{
    return moji_drawing_dump(d, p->image, name, MOJI_F32, 4, (const gint64[]){1, d->h, d->w, d->c},
                             x, error);
}

/* ---- noise ---- */

typedef struct {
    MojiRandom random; /* of the picture's seed */
    MojiRandom other;  /* of the variation's */
    double amount;     /* 0: the other is not used */
} Noise;

static Noise noise_new(const MojiDrawing *d, int image)
{
    Noise n = {.amount = d->order->amount};
    moji_order_random(d->order, image, &n.random);
    moji_order_variation(d->order, image, &n.other);
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

/* What the U-Net gets of a picture: its latents or, to fill holes, latents, cells, latents of what
 * is not hidden. */
static void put_sample(const MojiDrawing *d, const Picture *p, float *to)
{
    if (!p->hidden) {
        memcpy(to, p->input, d->count * sizeof *to);
        return;
    }
    for (gsize at = 0; at < (gsize)d->h * d->w; at++) {
        memcpy(to, p->input + at * d->c, d->c * sizeof *to);
        to[d->c] = d->cells[at];
        memcpy(to + d->c + 1, p->hidden + at * d->c, d->c * sizeof *to);
        to += 2 * d->c + 1;
    }
}

/* Guidance: from what is said without the prompt to what is said with it, and beyond. */
static void put_together(const MojiDrawing *d, const float *without, const float *with, float *out)
{
    const float guidance = d->order->guidance;
    if (!with)
        memcpy(out, without, d->count * sizeof *out);
    for (gsize i = 0; with && i < d->count; i++)
        out[i] = without[i] + guidance * (with[i] - without[i]);
}

/* Asks for the U-Net's word on every picture's input: all of them without the prompt, then all with
 * it. In the place of a picture that is not there, as the last of some may be, the first is drawn
 * again. */
static gboolean ask(MojiDrawing *d, const Picture *p, int n, int call, GError **error)
{
    MojiStage *s = d->e->unet;
    int samples = d->prompts * d->pictures;
    gsize one = moji_tensor_count(s->in[0]) / samples;
    g_autofree float *all = g_new(float, samples *one);
    g_autofree gint32 *step = g_new(gint32, samples);
    for (int i = 0; i < samples; i++) {
        int k = i % d->pictures;
        put_sample(d, &p[k < n ? k : 0], all + i * one);
        step[i] = call;
    }
    moji_tape_write(s->tape, s->in[0], all);
    moji_tape_write(s->tape, s->in[1], step);
    return moji_tape_run(s->tape, d->cancel, error);
}

/* What it said, put together. */
static gboolean hear(MojiDrawing *d, Picture *p, int n, GError **error)
{
    MojiStage *s = d->e->unet;
    int samples = d->prompts * d->pictures;
    g_autofree float *all = g_new(float, samples * d->count);
    moji_tape_read(s->tape, s->out, all);
    if (!moji_drawing_finite(d, all, samples * d->count, "unet", error))
        return FALSE;
    const float *with = d->prompts == 2 ? all + d->pictures * d->count : NULL;
    for (int k = 0; k < n; k++)
        put_together(d, all + k * d->count, with ? with + k * d->count : NULL, p[k].out);
    return TRUE;
}

/* ---- all of them ---- */

/* The picture's own latents, as noisy as call `call` expects, where nothing is to be redrawn. */
static void put_back(const MojiDrawing *d, Picture *p, int call)
{
    g_autofree float *old = g_memdup2(p->original, d->count * sizeof *p->original);
    moji_sampler_add_noise(p->sampler, call, p->noise, old, d->count);
    for (gsize i = 0; i < d->count; i++) {
        float cell = d->cells[i / d->c];
        p->x[i] = (1 - cell) * old[i] + cell * p->x[i];
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

/* From what the U-Net said to the next latents. */
static gboolean take_step(MojiDrawing *d, Picture *p, int call, GError **error)
{
    g_autofree char *name = g_strdup_printf("latents_%02d", call + 1);
    moji_sampler_step(p->sampler, call, p->out, p->x, d->count, d->c, &p->random);
    if (d->cells && p->original && !p->hidden)
        put_back(d, p, call + 1);
    return dump_latents(d, p, name, p->x, error);
}

/* Calls `first` and on, from x: the noise, or the picture under noise. */
static gboolean take_steps(MojiDrawing *d, Picture *p, int n, int first, GError **error)
{
    const MojiSampler *s = p->sampler; /* the first picture's; all take the same steps */
    int calls = moji_sampler_calls(s);
    gboolean early = d->e->backend->returns_early; /* then there is time while the U-Net runs */
    for (int i = first; i < calls; i++) {
        double start = moji_drawing_now();
        for (int k = 0; k < n; k++)
            moji_sampler_input(p[k].sampler, i, p[k].x, p[k].input, d->count);
        if (!ask(d, p, n, i, error))
            return FALSE;
        if (early && i > first)
            tell_step(d, s, i - first, calls - first);
        if (!hear(d, p, n, error))
            return FALSE;
        d->e->times.unet += moji_drawing_now() - start;
        d->e->times.unet_calls++;
        for (int k = 0; k < n; k++)
            if (!take_step(d, &p[k], i, error))
                return FALSE;
        if (!early || i + 1 == calls)
            tell_step(d, s, i + 1 - first, calls - first);
    }
    for (int k = 0; k < n; k++)
        if (!moji_drawing_finite(d, p[k].x, d->count, "unet", error))
            return FALSE;
    return TRUE;
}

/* Draws what a picture needs from its generator, in order, and sets it at its first call. */
static gboolean picture_start(MojiDrawing *d, Picture *p, int *first, GError **error)
{
    Noise n = noise_new(d, p->image);
    gboolean anew = !d->edit || (d->cells && d->order->strength >= 1); /* from noise alone */
    if (d->moments && !(d->hidden && anew))
        p->original = draw_latents(d, &n, d->moments);
    draw_noise(d, &n, p->noise);
    if (d->hidden)
        p->hidden = draw_latents(d, &n, d->hidden);
    else if (d->cells && !d->e->model->vae.tiny)
        draw_noise(d, &n, p->x);
    p->random = n.random;
    if (!dump_latents(d, p, "noise", p->noise, error))
        return FALSE;
    memcpy(p->x, anew ? p->noise : p->original, d->count * sizeof *p->x);
    *first = anew ? 0 : moji_sampler_first_call(p->sampler, d->order->strength);
    if (anew)
        moji_sampler_start(p->sampler, p->x, d->count);
    else
        moji_sampler_start_at(p->sampler, *first, p->noise, p->x, d->count);
    return TRUE;
}

static void picture_clear(Picture *p)
{
    moji_sampler_free(p->sampler);
    g_free(p->noise);
    g_free(p->original);
    g_free(p->hidden);
    g_free(p->input);
    g_free(p->out);
}

/* What all calls have in common. */
static void write_steady(const MojiDrawing *d, const MojiSampler *sampler)
{
    const MojiStage *s = d->e->unet;
    g_autofree float *timesteps = g_new0(float, s->in[2]->dim[0]);
    for (int i = 0; i < moji_sampler_calls(sampler); i++)
        timesteps[i] = moji_sampler_timestep(sampler, i);
    moji_tape_write(s->tape, s->in[2], timesteps);
    moji_tape_write(s->tape, s->in[3], d->context);
}

gboolean moji_drawing_denoise(MojiDrawing *d, int n, float *x, GError **error)
{
    g_autofree Picture *p = g_new0(Picture, n);
    gboolean ok = TRUE;
    int first = 0;
    for (int k = 0; k < n; k++)
        p[k] = (Picture){.image = d->image + k,
                         .sampler = moji_order_sampler(d->order, d->e->model),
                         .x = x + k * d->count,
                         .noise = g_new(float, d->count),
                         .input = g_new(float, d->count),
                         .out = g_new(float, d->count)};
    write_steady(d, p->sampler);
    for (int k = 0; ok && k < n; k++)
        ok = picture_start(d, &p[k], &first, error);
    ok = ok && take_steps(d, p, n, first, error);
    for (int k = 0; k < n; k++)
        picture_clear(&p[k]);
    return ok;
}
