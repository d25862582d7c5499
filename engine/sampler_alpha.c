/* sampler_alpha.c: steps that go by alpha bar at whole timesteps: PNDM, DDIM, LCM, TCD; see
 * sampler_private.h. */
#include "sampler_private.h"
#include <math.h>

/* Adams-Bashforth over the last four predictions, as many as there are; the very first two calls
 * are a Heun step over one interval. */
static const double pndm_weights[][1 + MOJI_SAMPLER_PAST] = {
    {1},
    {1 / 2.0, 1 / 2.0},
    {3 / 2.0, -1 / 2.0},
    {23 / 12.0, -16 / 12.0, 5 / 12.0},
    {55 / 24.0, -59 / 24.0, 37 / 24.0, -9 / 24.0},
};

/* Liu et al. 2022 (arXiv:2202.09778), equation 11. */
void moji_sampler_step_pndm(const MojiSampler *s, int call, int done, MojiSamplerStep *step)
{
    int ratio = s->config.train_steps / s->steps;
    int t = (int)s->timesteps[call], next = t - ratio;
    MojiPlane from = MOJI_PLANE_X;
    if (done == 1) { /* the same interval again, from where it began */
        next = t;
        t += ratio;
        from = MOJI_PLANE_HELD;
        step->to[MOJI_PLANE_PAST][MOJI_PLANE_PAST] = 1;
    } else {
        moji_sampler_push(step, MOJI_PLANE_OUTPUT);
    }
    if (done == 0)
        step->to[MOJI_PLANE_HELD][MOJI_PLANE_X] = 1;

    double a = moji_sampler_alpha_at(s, t), p = moji_sampler_alpha_at(s, next), b = 1 - a;
    gboolean v = s->config.v_prediction;
    double e[MOJI_TERMS] = {[MOJI_PLANE_OUTPUT] = pndm_weights[MIN(done, 4)][0]};
    for (int i = 0; i < MOJI_SAMPLER_PAST; i++)
        e[MOJI_PLANE_PAST + i] = pndm_weights[MIN(done, 4)][1 + i];
    for (int k = 0; v && k < MOJI_TERMS; k++)
        e[k] *= sqrt(a);
    e[from] += v ? sqrt(b) : 0;
    step->to[MOJI_PLANE_ESTIMATE][from] = 1 / sqrt(a);
    moji_sampler_add(step->to[MOJI_PLANE_ESTIMATE], -sqrt(b / a), e);
    step->to[MOJI_PLANE_X][from] = sqrt(p / a);
    moji_sampler_add(step->to[MOJI_PLANE_X], -(p - a) / (a * sqrt(1 - p) + sqrt(a * b * p)), e);
}

/* x = alpha x0 + sigma noise, of what was predicted. */
static void compose(const MojiSampler *s, MojiNoise here, MojiNoise to, MojiSamplerStep *step)
{
    double *x = step->to[MOJI_PLANE_X];
    x[MOJI_PLANE_ESTIMATE] = to.alpha;
    x[MOJI_PLANE_OUTPUT] = to.sigma * (s->config.v_prediction ? here.alpha : 1);
    x[MOJI_PLANE_X] = to.sigma * (s->config.v_prediction ? here.sigma : 0);
}

static MojiNoise noise_of(double a)
{
    return (MojiNoise){sqrt(a), sqrt(1 - a)};
}

static void clip(const MojiSampler *s, MojiSamplerStep *step)
{
    if (s->config.clip_sample)
        step->range = s->config.clip_sample_range;
}

/* Song et al. 2021 (arXiv:2010.02502), equation 12 with eta = 0. */
void moji_sampler_step_ddim(const MojiSampler *s, int call, int done, MojiSamplerStep *step)
{
    (void)done;
    int t = (int)s->timesteps[call], next = t - s->config.train_steps / s->steps;
    MojiNoise here = noise_of(moji_sampler_alpha_at(s, t));
    moji_sampler_predict(s, here, step);
    clip(s, step);
    compose(s, here, noise_of(moji_sampler_alpha_at(s, next)), step);
}

/* Luo et al. 2023 (arXiv:2310.04378), with the boundary conditions of consistency models. */
void moji_sampler_step_lcm(const MojiSampler *s, int call, int done, MojiSamplerStep *step)
{
    (void)done;
    gboolean last = call == s->calls - 1;
    double t = s->timesteps[call] * 10, skip = 0.25 / (t * t + 0.25), out = t / sqrt(t * t + 0.25);
    MojiNoise next = {1, 0};
    if (!last)
        next = noise_of(moji_sampler_alpha_at(s, (int)s->timesteps[call + 1]));
    moji_sampler_predict(s, noise_of(moji_sampler_alpha_at(s, (int)s->timesteps[call])), step);
    clip(s, step);
    step->to[MOJI_PLANE_X][MOJI_PLANE_ESTIMATE] = next.alpha * out;
    step->to[MOJI_PLANE_X][MOJI_PLANE_X] = next.alpha * skip;
    step->to[MOJI_PLANE_X][MOJI_PLANE_NOISE] = next.sigma;
    step->draws = !last;
}

/* Zheng et al. 2024 (arXiv:2402.19159): to a noise level below the next step's, then up to that one
 * with fresh noise. gamma is what the authors' LoRAs are drawn with. */
void moji_sampler_step_tcd(const MojiSampler *s, int call, int done, MojiSamplerStep *step)
{
    (void)done;
    const double gamma = 0.3;
    gboolean last = call == s->calls - 1;
    int next = last ? 0 : (int)s->timesteps[call + 1];
    int below = (int)floorf((float)(1 - gamma) * (float)next);
    MojiNoise here = noise_of(s->alphas[(int)s->timesteps[call]]);
    double *x = step->to[MOJI_PLANE_X], up = last ? 1 : (double)s->alphas[next] / s->alphas[below];
    moji_sampler_predict(s, here, step);
    compose(s, here, noise_of(s->alphas[below]), step);
    for (int k = 0; k < MOJI_TERMS; k++)
        x[k] *= sqrt(up);
    x[MOJI_PLANE_NOISE] = sqrt(1 - up);
    step->draws = !last;
}
