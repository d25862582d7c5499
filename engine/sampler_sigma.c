/* sampler_sigma.c: steps over x / alpha, as Karras et al. 2022 (arXiv:2206.00364) write the
 * process: Euler, Euler a, Heun, DPM++ SDE; see sampler_private.h. Where a step takes two calls,
 * the even one is its first. */
#include "sampler_private.h"
#include <math.h>
#include <string.h>

static float denoised(const MojiSampler *s, float sigma, float output, float x)
{
    float squared = sigma * sigma + 1.0f;
    return s->config.v_prediction ? output * (-sigma / sqrtf(squared)) + x / squared
                                  : x - sigma * output;
}

/* A straight step from sigma to `to`, and for the ancestral form fresh noise of strength `up`. */
static void euler(MojiSampler *s, float sigma, float to, float up, const float *output, float *x)
{
    for (gsize i = 0; i < s->count; i++) {
        float x0 = denoised(s, sigma, output[i], x[i]);
        s->estimate[i] = x0;
        x[i] = x[i] + (x[i] - x0) / sigma * (to - sigma);
        if (up > 0)
            x[i] = x[i] + s->work[i] * up;
    }
}

void moji_sampler_step_euler(MojiSampler *s, int call, const float *output, float *x)
{
    euler(s, s->sigmas[call], s->sigmas[call + 1], 0, output, x);
}

/* How much of a step's noise is fresh, and what sigma is left to step down to. */
static void split_step(float from, float to, float *up, float *down)
{
    *up = MIN(to, sqrtf(to * to * (from * from - to * to) / (from * from)));
    *down = sqrtf(to * to - *up * *up);
}

void moji_sampler_step_euler_a(MojiSampler *s, int call, const float *output, float *x)
{
    float up, down;
    split_step(s->sigmas[call], s->sigmas[call + 1], &up, &down);
    /* The reference draws even for the last step, which adds none of it. */
    moji_sampler_draw_noise(s);
    euler(s, s->sigmas[call], down, up, output, x);
}

/* Karras et al., algorithm 1: the slope at both ends, averaged. The first call steps to the far end
 * and keeps its slope and its start; the second steps again from there. */
void moji_sampler_step_heun(MojiSampler *s, int call, const float *output, float *x)
{
    gboolean second = call % 2;
    float sigma = s->sigmas[call], *slope = s->history[0];
    float dt = second ? sigma - s->sigmas[call - 1] : s->sigmas[call + 1] - sigma;
    float range = (float)s->config.clip_sample_range;
    for (gsize i = 0; i < s->count; i++) {
        float x0 = denoised(s, sigma, output[i], x[i]);
        if (s->config.clip_sample)
            x0 = CLAMP(x0, -range, range);
        s->estimate[i] = x0;
        float d = (x[i] - x0) / sigma;
        if (second) {
            x[i] = s->held[i] + (slope[i] + d) / 2.0f * dt;
        } else {
            slope[i] = d;
            s->held[i] = x[i];
            x[i] = x[i] + d * dt;
        }
    }
}

/* The sigma half way between two in the logarithm. */
static float middle(float from, float to)
{
    float t = -logf(from);
    return expf(-(t + (-logf(to) - t) * 0.5f));
}

float moji_sampler_sigma(const MojiSampler *s, int call)
{
    gboolean between = s->method->place == moji_sampler_place_middle && call % 2;
    return between ? middle(s->sigmas[call - 1], s->sigmas[call]) : s->sigmas[call];
}

/* Noise in s->work for the path from sigma `from` to `to`. The first call's path is the first part
 * of the second's: one Brownian path, of which sums of increments are read. */
static void draw_path(MojiSampler *s, gboolean second, float from, float half, float to)
{
    float *first = s->history[0];
    moji_sampler_draw_noise(s);
    if (!second) {
        memcpy(first, s->work, s->count * sizeof *first);
        return;
    }
    float a = sqrtf((from - half) / (from - to)), b = sqrtf((half - to) / (from - to));
    for (gsize i = 0; i < s->count; i++)
        s->work[i] = a * first[i] + b * s->work[i];
}

/* Lu et al. 2022 (arXiv:2211.01095) by way of crowsonkb/k-diffusion's sample_dpmpp_sde, r = 1/2: an
 * ancestral step to the middle, then from the start over the whole way with what is seen there. */
void moji_sampler_step_dpm_sde(MojiSampler *s, int call, const float *output, float *x)
{
    gboolean second = call % 2;
    float from = s->sigmas[second ? call - 1 : call], to = s->sigmas[second ? call : call + 1];
    if (to == 0) {
        euler(s, from, 0, 0, output, x);
        return;
    }
    float half = middle(from, to), target = second ? to : half, up, down;
    split_step(from, target, &up, &down);
    draw_path(s, second, from, half, to);
    float keep = down / from, move = expm1f(logf(down) - logf(from)), at = second ? half : from;
    for (gsize i = 0; i < s->count; i++) {
        float x0 = denoised(s, at, output[i], x[i]);
        if (!second)
            s->held[i] = x[i];
        s->estimate[i] = x0;
        x[i] = keep * s->held[i] - move * x0 + s->work[i] * up;
    }
}
