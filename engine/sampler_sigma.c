/* sampler_sigma.c: steps over x / alpha, as Karras et al. 2022 (arXiv:2206.00364) write the
 * process: Euler, Euler a, Heun, DPM++ SDE; see sampler_private.h. Where a step takes two calls,
 * the even one is its first. */
#include "sampler_private.h"
#include <math.h>

static void predict(const MojiSampler *s, int call, MojiSamplerStep *step)
{
    moji_sampler_predict(s, moji_sampler_split(moji_sampler_sigma(s, call)), step);
}

/* A straight step that keeps so much of the noise of `from`; fresh noise of strength `up` on top.
 */
static void go(MojiSamplerStep *step, MojiPlane from, double keep, double up)
{
    step->to[MOJI_PLANE_X][from] = keep;
    step->to[MOJI_PLANE_X][MOJI_PLANE_ESTIMATE] = 1 - keep;
    step->to[MOJI_PLANE_X][MOJI_PLANE_NOISE] = up;
}

void moji_sampler_step_euler(const MojiSampler *s, int call, int done, MojiSamplerStep *step)
{
    (void)done;
    predict(s, call, step);
    go(step, MOJI_PLANE_X, (double)s->sigmas[call + 1] / s->sigmas[call], 0);
}

/* How much of a step's noise is fresh, and what sigma is left to step down to. */
static void split_step(double from, double to, double *up, double *down)
{
    *up = MIN(to, to * sqrt((from * from - to * to) / (from * from)));
    *down = sqrt(to * to - *up * *up);
}

void moji_sampler_step_euler_a(const MojiSampler *s, int call, int done, MojiSamplerStep *step)
{
    (void)done;
    double up, down;
    split_step(s->sigmas[call], s->sigmas[call + 1], &up, &down);
    predict(s, call, step);
    go(step, MOJI_PLANE_X, down / s->sigmas[call], up);
    step->draws = TRUE; /* as the reference, even for the last step, which adds none of it */
}

/* Karras et al., algorithm 1: the slope at both ends, averaged. The first call steps to the far end
 * and keeps its slope and its start; the second steps again from there. */
void moji_sampler_step_heun(const MojiSampler *s, int call, int done, MojiSamplerStep *step)
{
    (void)done;
    gboolean second = call % 2;
    double sigma = s->sigmas[call], dt = s->sigmas[second ? call : call + 1];
    dt -= s->sigmas[second ? call - 1 : call];
    const double slope[MOJI_TERMS] = {
        [MOJI_PLANE_X] = 1 / sigma, [MOJI_PLANE_ESTIMATE] = -1 / sigma};
    predict(s, call, step);
    if (s->config.clip_sample)
        step->range = s->config.clip_sample_range;
    step->to[MOJI_PLANE_X][second ? MOJI_PLANE_HELD : MOJI_PLANE_X] = 1;
    moji_sampler_add(step->to[MOJI_PLANE_X], second ? dt / 2 : dt, slope);
    if (second)
        step->to[MOJI_PLANE_X][MOJI_PLANE_PAST] = dt / 2;
    moji_sampler_add(step->to[MOJI_PLANE_PAST], 1, slope);
    step->to[MOJI_PLANE_HELD][MOJI_PLANE_X] = 1;
}

/* The sigma half way between two in the logarithm. */
static double middle(double from, double to)
{
    return sqrt(from * to);
}

double moji_sampler_sigma(const MojiSampler *s, int call)
{
    gboolean between = s->method->place == moji_sampler_place_middle && call % 2;
    return between ? middle(s->sigmas[call - 1], s->sigmas[call]) : s->sigmas[call];
}

/* Lu et al. 2022 (arXiv:2211.01095) by way of crowsonkb/k-diffusion's sample_dpmpp_sde, r = 1/2: an
 * ancestral step to the middle, then from the start over the whole way with what is seen there. The
 * first call's noise is the first part of the second's: one Brownian path, of which sums of
 * increments are read. */
void moji_sampler_step_dpm_sde(const MojiSampler *s, int call, int done, MojiSamplerStep *step)
{
    (void)done;
    gboolean second = call % 2;
    double from = s->sigmas[second ? call - 1 : call], to = s->sigmas[second ? call : call + 1];
    predict(s, call, step);
    if (to == 0) {
        go(step, MOJI_PLANE_X, 0, 0);
        return;
    }
    double half = middle(from, to), up, down;
    split_step(from, second ? to : half, &up, &down);
    go(step, second ? MOJI_PLANE_HELD : MOJI_PLANE_X, down / from, up);
    if (second) {
        step->to[MOJI_PLANE_X][MOJI_PLANE_PAST] = up * sqrt((from - half) / (from - to));
        step->to[MOJI_PLANE_X][MOJI_PLANE_NOISE] = up * sqrt((half - to) / (from - to));
    }
    step->to[MOJI_PLANE_PAST][MOJI_PLANE_NOISE] = 1;
    step->to[MOJI_PLANE_HELD][MOJI_PLANE_X] = 1;
    step->draws = TRUE;
}
