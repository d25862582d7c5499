/* sampler_lambda.c: multistep solvers in lambda = log(alpha / sigma), predicting x0: DPM++ 2M, its
 * stochastic form, and UniPC; see sampler_private.h. Of first order where there is nothing to look
 * back on, and at the end, where sigma is 0. */
#include "sampler_private.h"
#include <math.h>
#include <string.h>

typedef struct {
    float alpha, sigma, lambda; /* lambda is infinite at the end */
} Place;

static Place place_at(const MojiSampler *s, int call)
{
    Place p;
    moji_sampler_split(s->sigmas[call], &p.alpha, &p.sigma);
    p.lambda = logf(p.alpha) - logf(p.sigma);
    return p;
}

/* Leaves the model's x0 in s->estimate. */
static void predict(MojiSampler *s, Place here, const float *output, const float *x)
{
    for (gsize i = 0; i < s->count; i++)
        s->estimate[i] = s->config.v_prediction ? here.alpha * x[i] - here.sigma * output[i]
                                                : (x[i] - here.sigma * output[i]) / here.alpha;
}

/* Lu et al. 2022 (arXiv:2211.01095), algorithm 2 (2M), midpoint form; the stochastic form is the
 * reference's sde-dpmsolver++, which takes plain noise, one draw a step. */
void moji_sampler_step_dpm_2m(MojiSampler *s, int call, const float *output, float *x)
{
    Place here = place_at(s, call), next = place_at(s, call + 1);
    float h = next.lambda - here.lambda, slope = 0, fresh = 0;
    float keep = next.sigma / here.sigma, move = next.alpha * (expf(-h) - 1.0f);
    predict(s, here, output, x);
    float *x0 = moji_sampler_push(s), *before = s->history[1];
    memcpy(x0, s->estimate, s->count * sizeof *x0);
    if (s->method->stochastic) {
        keep = keep * expf(-h);
        move = -(next.alpha * (1.0f - expf(-2.0f * h)));
        fresh = next.sigma * sqrtf(1.0f - expf(-2.0f * h));
        moji_sampler_draw_noise(s);
    }
    if (s->done > 0 && call < s->calls - 1)
        slope = 1.0f / ((here.lambda - place_at(s, call - 1).lambda) / h);
    for (gsize i = 0; i < s->count; i++) {
        float y = keep * x[i] - move * x0[i];
        if (slope != 0)
            y = y - 0.5f * move * (slope * (x0[i] - before[i]));
        x[i] = fresh > 0 ? y + fresh * s->work[i] : y;
    }
}

/* ---- UniPC, Zhao et al. 2023 (arXiv:2302.04867), second order, B(h) = e^h - 1 ("bh2") ---- */

/* Weights of the two differences in the corrector: solves 1 u + 1 w = b1, r u + 1 w = b2. */
static void corrector_weights(float h, float r, float *u, float *w)
{
    float growth = expm1f(-h), phi = growth / -h - 1.0f;
    float b1 = phi / growth, b2 = (phi / -h - 0.5f) * 2.0f / growth;
    if (fabsf(r) > 1) { /* the larger pivot first, as the reference's solver has it */
        float factor = 1.0f / r;
        *w = (b1 - factor * b2) / (1.0f - factor);
        *u = (b2 - *w) / r;
    } else {
        *w = (b2 - r * b1) / (1.0f - r);
        *u = b1 - *w;
    }
}

/* Takes the last step again, now that the model's word on where it led (s->estimate) is known:
 * corrects x. history holds what was known before. */
static void correct(MojiSampler *s, int call, float *x)
{
    Place from = place_at(s, call - 1), here = place_at(s, call);
    const float *m0 = s->history[0], *m1 = s->history[1];
    float h = here.lambda - from.lambda, r = 1, u = 0, w = 0.5f;
    float keep = here.sigma / from.sigma, move = here.alpha * expm1f(-h);
    if (s->order == 2) {
        r = (place_at(s, call - 2).lambda - from.lambda) / h;
        corrector_weights(h, r, &u, &w);
    }
    for (gsize i = 0; i < s->count; i++) {
        float known = s->order == 2 ? u * ((m1[i] - m0[i]) / r) : 0;
        x[i] = keep * s->held[i] - move * m0[i] - move * (known + w * (s->estimate[i] - m0[i]));
    }
}

void moji_sampler_step_unipc(MojiSampler *s, int call, const float *output, float *x)
{
    Place here = place_at(s, call), next = place_at(s, call + 1);
    predict(s, here, output, x);
    if (s->done > 0)
        correct(s, call, x);
    memcpy(moji_sampler_push(s), s->estimate, s->count * sizeof *x);
    memcpy(s->held, x, s->count * sizeof *x);
    s->order = MIN(2, MIN(s->calls - call, s->done + 1));

    const float *m0 = s->history[0], *m1 = s->history[1];
    float h = next.lambda - here.lambda, r = 1;
    float keep = next.sigma / here.sigma, move = next.alpha * expm1f(-h);
    if (s->order == 2)
        r = (place_at(s, call - 1).lambda - here.lambda) / h;
    for (gsize i = 0; i < s->count; i++) {
        x[i] = keep * x[i] - move * m0[i];
        if (s->order == 2)
            x[i] = x[i] - move * (0.5f * ((m1[i] - m0[i]) / r));
    }
}
