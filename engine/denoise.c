/* denoise.c: noise -> latents; see drawing.h.
 *
 * The latents stay where the U-Net is: each step is one run of its stage, which gets a few dozen
 * factors and the step's number. Where runs return before they are done, one is always under way
 * while the host draws noise, previews or looks whether to stop.
 *
 * The surprising rule: what is drawn from the generator comes in diffusers' order, also what is not
 * used: the picture's own latents, the noise, the latents of the picture with holes, then the
 * sampler's noise. */
#include "drawing.h"
#include <math.h>
#include <string.h>

/* One of the pictures that are drawn at once. */
typedef struct {
    int image;         /* which of the drawing's */
    MojiRandom random; /* of the picture's seed */
    float *x;          /* [h,w,c]: its latents where the host has them; the caller's */
    float *noise;
    float *fresh;    /* the sampler's noise of one step */
    float *original; /* latents of the picture that is redrawn, or NULL */
    float *hidden;   /* the same with its holes in gray, for a model that fills them, or NULL */
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

/* ---- to and from the stage ---- */

/* One plane of every picture; in the place of one that is not there, as the last of some may be,
 * the first's. */
static void write_plane(const MojiDrawing *d, const Picture *p, int n, MojiPlane plane)
{
    const MojiStage *s = d->e->unet;
    for (int k = 0; k < d->pictures; k++) {
        const Picture *from = &p[k < n ? k : 0];
        moji_tape_write_part(s->tape, s->in[MOJI_STEP_PLANES], (plane * d->pictures + k) * d->count,
                             d->count, plane == MOJI_PLANE_X ? from->x : from->fresh);
    }
}

/* All pictures' latents, which lie one after another there as here. */
static void read_latents(const MojiDrawing *d, Picture *p, int n)
{
    const MojiStage *s = d->e->unet;
    moji_tape_read_part(s->tape, s->out, (gint64)MOJI_PLANE_X * d->pictures * d->count,
                        n * d->count, p->x);
}

/* What an inpainting model is given beside latents: cells, and latents of what is not hidden. */
static void write_holes(const MojiDrawing *d, const Picture *p, int n)
{
    const MojiStage *s = d->e->unet;
    gsize area = (gsize)d->h * d->w, samples = d->prompts * d->pictures;
    g_autofree float *all = g_new(float, samples *area *(d->c + 1));
    float *to = all;
    for (gsize i = 0; i < samples; i++) {
        int k = i % d->pictures;
        const float *hidden = p[k < n ? k : 0].hidden;
        for (gsize at = 0; at < area; at++, to += d->c + 1) {
            to[0] = d->cells[at];
            memcpy(to + 1, hidden + at * d->c, d->c * sizeof *to);
        }
    }
    moji_tape_write(s->tape, s->in[MOJI_STEP_HOLES], all);
}

/* What all calls have in common. */
static void write_steady(const MojiDrawing *d, const Picture *p, int n)
{
    const MojiStage *s = d->e->unet;
    const MojiSampler *sampler = d->order->sampler;
    g_autofree float *timesteps = g_new0(float, s->in[MOJI_STEP_TIMESTEPS]->dim[0]);
    for (int i = 0; i < moji_sampler_calls(sampler); i++)
        timesteps[i] = moji_sampler_timestep(sampler, i);
    moji_tape_write(s->tape, s->in[MOJI_STEP_TIMESTEPS], timesteps);
    moji_tape_write(s->tape, s->in[MOJI_STEP_CONTEXT], d->context);
    if (s->in[MOJI_STEP_HOLES])
        write_holes(d, p, n);
}

/* ---- one step ---- */

/* What the U-Net is given: the latents, scaled, for each prompt. */
static void write_look(const MojiDrawing *d, int call)
{
    const MojiStage *s = d->e->unet;
    float factors[2][MOJI_PLANES + 1] = {0};
    for (int i = 0; i < d->prompts; i++) {
        factors[i][MOJI_PLANE_X] = (float)moji_sampler_scale(d->order->sampler, call);
        factors[i][MOJI_PLANES] = INFINITY;
    }
    moji_tape_write(s->tape, s->in[MOJI_STEP_LOOK], factors);
}

/* The sampler's sums, and in them guidance: from what is said without the prompt to what is said
 * with it, and beyond. */
static void write_take(const MojiDrawing *d, const MojiSamplerStep *step)
{
    const MojiStage *s = d->e->unet;
    const int width = MOJI_PLANES + d->prompts + 1;
    const double guidance = d->order->guidance;
    float factors[MOJI_PLANES * (MOJI_PLANES + 3)], *f = factors;
    for (int i = 0; i < MOJI_PLANES; i++, f += width) {
        double said = step->to[i][MOJI_PLANE_OUTPUT];
        for (int k = 0; k < MOJI_PLANES; k++)
            f[k] = (float)step->to[i][k];
        f[MOJI_PLANES] = (float)(d->prompts == 2 ? said * (1 - guidance) : said);
        f[width - 2] = (float)(d->prompts == 2 ? said * guidance : said);
        f[width - 1] = i == MOJI_PLANE_ESTIMATE ? (float)step->range : INFINITY;
    }
    moji_tape_write(s->tape, s->in[MOJI_STEP_TAKE], factors);
}

/* Asks for a step of all pictures. */
static gboolean ask(MojiDrawing *d, Picture *p, int n, int call, int first, GError **error)
{
    const MojiStage *s = d->e->unet;
    g_autofree gint32 *number = g_new(gint32, d->prompts * d->pictures);
    MojiSamplerStep step;
    moji_sampler_step(d->order->sampler, call, call - first, &step);
    for (int i = 0; i < d->prompts * d->pictures; i++)
        number[i] = call;
    for (int k = 0; step.draws && k < n; k++)
        draw(d, &p[k].random, p[k].fresh);
    if (step.draws)
        write_plane(d, p, n, MOJI_PLANE_NOISE);
    moji_tape_write(s->tape, s->in[MOJI_STEP_NUMBER], number);
    write_look(d, call);
    write_take(d, &step);
    if (!moji_tape_run(s->tape, d->cancel, error))
        return FALSE;
    d->e->times.unet_calls++;
    return TRUE;
}

/* The picture's own latents, as noisy as call `call` expects it, where nothing is to be redrawn. */
static void put_back(const MojiDrawing *d, Picture *p, int call)
{
    g_autofree float *old = g_memdup2(p->original, d->count * sizeof *p->original);
    moji_sampler_add_noise(d->order->sampler, call, p->noise, old, d->count);
    for (gsize i = 0; i < d->count; i++) {
        float cell = d->cells[i / d->c];
        p->x[i] = (1 - cell) * old[i] + cell * p->x[i];
    }
}

/* What is done with latents on the host before call `call`, where anything is. */
static gboolean handle(MojiDrawing *d, Picture *p, int n, int call, GError **error)
{
    gboolean blends = d->cells && p->original && !p->hidden;
    g_autofree char *name = g_strdup_printf("latents_%02d", call);
    if (!blends && !d->e->dump)
        return TRUE;
    read_latents(d, p, n);
    for (int k = 0; blends && k < n; k++)
        put_back(d, &p[k], call);
    if (blends)
        write_plane(d, p, n, MOJI_PLANE_X);
    for (int k = 0; k < n; k++)
        if (!dump_latents(d, &p[k], name, p[k].x, error))
            return FALSE;
    return TRUE;
}

/* ---- all of them ---- */

/* Numbers of the first picture's estimate that are looked at after each step: all for a preview. */
static gsize glance(const MojiDrawing *d)
{
    return d->progress && d->e->sketch ? d->count : 1;
}

static gboolean tell_step(MojiDrawing *d, const float *estimate, int done, int steps,
                          GError **error)
{
    MojiProgress p = {.phase = MOJI_PHASE_STEP, .step = done, .steps = steps};
    if (!moji_drawing_finite(d, estimate, glance(d), "unet", error))
        return FALSE;
    if (d->progress && d->e->sketch)
        p.preview = moji_sketch_draw(d->e->sketch, estimate, d->h, d->w, &p.preview_width,
                                     &p.preview_height);
    moji_drawing_tell(d, p);
    return TRUE;
}

/* Calls `first` and on. Where runs return early, a step is told of while the next is under way. */
static gboolean take_steps(MojiDrawing *d, Picture *p, int n, int first, GError **error)
{
    const MojiStage *s = d->e->unet;
    const int steps = moji_sampler_calls(d->order->sampler) - first;
    gboolean early = d->e->backend->peek != NULL;
    g_autofree float *estimate = g_new(float, d->count);
    for (int i = 0; i < steps; i++) {
        if (!ask(d, p, n, first + i, first, error))
            return FALSE;
        if (early && i > 0)
            moji_tape_peeked(s->tape, estimate);
        if (early)
            moji_tape_peek(s->tape, s->out, 0, glance(d));
        if (early && i > 0 && !tell_step(d, estimate, i, steps, error))
            return FALSE;
        if (!handle(d, p, n, first + i + 1, error))
            return FALSE;
        if (!early)
            moji_tape_read_part(s->tape, s->out, 0, glance(d), estimate);
        if (!early && !tell_step(d, estimate, i + 1, steps, error))
            return FALSE;
    }
    if (early && steps > 0) {
        moji_tape_peeked(s->tape, estimate);
        if (!tell_step(d, estimate, steps, steps, error))
            return FALSE;
    }
    read_latents(d, p, n);
    return moji_drawing_finite(d, p->x, n * d->count, "unet", error);
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
    *first = anew ? 0 : moji_sampler_first_call(d->order->sampler, d->order->strength);
    if (anew)
        moji_sampler_start(d->order->sampler, p->x, d->count);
    else
        moji_sampler_add_noise(d->order->sampler, *first, p->noise, p->x, d->count);
    return TRUE;
}

static void picture_clear(Picture *p)
{
    g_free(p->noise);
    g_free(p->fresh);
    g_free(p->original);
    g_free(p->hidden);
}

gboolean moji_drawing_denoise(MojiDrawing *d, int n, float *x, GError **error)
{
    g_autofree Picture *p = g_new0(Picture, n);
    double start = moji_drawing_now();
    gboolean ok = TRUE;
    int first = 0;
    for (int k = 0; k < n; k++)
        p[k] = (Picture){.image = d->image + k,
                         .x = x + k * d->count,
                         .noise = g_new(float, d->count),
                         .fresh = g_new(float, d->count)};
    for (int k = 0; ok && k < n; k++)
        ok = picture_start(d, &p[k], &first, error);
    if (ok) {
        write_steady(d, p, n);
        write_plane(d, p, n, MOJI_PLANE_X);
        ok = take_steps(d, p, n, first, error);
    }
    for (int k = 0; k < n; k++)
        picture_clear(&p[k]);
    d->e->times.unet += moji_drawing_now() - start;
    return ok;
}
