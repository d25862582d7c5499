/* sampler_alpha.c: steps that go by alpha bar at whole timesteps: PNDM, DDIM, LCM, TCD; see
 * sampler_private.h. */
#include "sampler_private.h"
#include <math.h>
#include <string.h>

/* Adams-Bashforth over the last four predictions, as many as there are; the very first two calls
 * are a Heun step over one interval. Leaves the combination in out. */
static void combine_pndm(const MojiSampler *s, const float *output, float *out)
{
    float *const *h = s->history;
    for (gsize i = 0; i < s->count; i++) {
        if (s->done == 0)
            out[i] = output[i];
        else if (s->done == 1)
            out[i] = (output[i] + h[0][i]) / 2.0f;
        else if (s->done == 2)
            out[i] = (3.0f * h[0][i] - h[1][i]) / 2.0f;
        else if (s->done == 3)
            out[i] = (23.0f * h[0][i] - 16.0f * h[1][i] + 5.0f * h[2][i]) / 12.0f;
        else
            out[i] = (float)(1 / 24.0) *
                     (55.0f * h[0][i] - 59.0f * h[1][i] + 37.0f * h[2][i] - 9.0f * h[3][i]);
    }
}

/* Liu et al. 2022 (arXiv:2202.09778), equation 11. */
static void transfer_pndm(MojiSampler *s, float a, float p, const float *from, const float *output,
                          float *x)
{
    float b = 1.0f - a, root_a = sqrtf(a), root_b = sqrtf(b);
    float scale = sqrtf(p / a), divisor = a * sqrtf(1.0f - p) + sqrtf(a * b * p);
    for (gsize i = 0; i < s->count; i++) {
        float e = output[i], before = from[i];
        if (s->config.v_prediction)
            e = root_a * e + root_b * before;
        s->estimate[i] = (before - root_b * e) / root_a;
        x[i] = scale * before - (p - a) * e / divisor;
    }
}

void moji_sampler_step_pndm(MojiSampler *s, int call, const float *output, float *x)
{
    int ratio = s->config.train_steps / s->steps;
    int t = (int)s->timesteps[call], next = t - ratio;
    const float *from = x;
    if (s->done == 1) { /* the same interval again, from where it began */
        next = t;
        t += ratio;
        from = s->held;
    } else {
        memcpy(moji_sampler_push(s), output, s->count * sizeof *x);
    }
    if (s->done == 0)
        memcpy(s->held, x, s->count * sizeof *x);
    combine_pndm(s, output, s->work);
    transfer_pndm(s, moji_sampler_alpha_at(s, t), moji_sampler_alpha_at(s, next), from, s->work, x);
}

/* Song et al. 2021 (arXiv:2010.02502), equation 12 with eta = 0. */
void moji_sampler_step_ddim(MojiSampler *s, int call, const float *output, float *x)
{
    const MojiSamplerConfig *c = &s->config;
    int t = (int)s->timesteps[call];
    float a = moji_sampler_alpha_at(s, t),
          p = moji_sampler_alpha_at(s, t - c->train_steps / s->steps);
    float root_a = sqrtf(a), root_b = sqrtf(1.0f - a);
    float root_p = sqrtf(p), direction = sqrtf(1.0f - p), range = (float)c->clip_sample_range;
    for (gsize i = 0; i < s->count; i++) {
        float x0, e = output[i];
        if (c->v_prediction) {
            x0 = root_a * x[i] - root_b * output[i];
            e = root_a * output[i] + root_b * x[i];
        } else {
            x0 = (x[i] - root_b * e) / root_a;
        }
        if (c->clip_sample)
            x0 = CLAMP(x0, -range, range);
        s->estimate[i] = x0;
        x[i] = root_p * x0 + direction * e;
    }
}

/* Luo et al. 2023 (arXiv:2310.04378), with the boundary conditions of consistency models. */
void moji_sampler_step_lcm(MojiSampler *s, int call, const float *output, float *x)
{
    const MojiSamplerConfig *c = &s->config;
    gboolean last = call == s->calls - 1;
    float a = moji_sampler_alpha_at(s, (int)s->timesteps[call]);
    float p = moji_sampler_alpha_at(s, (int)s->timesteps[last ? call : call + 1]);
    float t = s->timesteps[call] * 10.0f, range = (float)c->clip_sample_range;
    float skip = 0.25f / (t * t + 0.25f), out = t / sqrtf(t * t + 0.25f);
    float root_a = sqrtf(a), root_b = sqrtf(1.0f - a), root_p = sqrtf(p), spread = sqrtf(1.0f - p);
    if (!last)
        moji_sampler_draw_noise(s);
    for (gsize i = 0; i < s->count; i++) {
        float x0 = c->v_prediction ? root_a * x[i] - root_b * output[i]
                                   : (x[i] - root_b * output[i]) / root_a;
        if (c->clip_sample)
            x0 = CLAMP(x0, -range, range);
        s->estimate[i] = out * x0 + skip * x[i];
        x[i] = last ? s->estimate[i] : root_p * s->estimate[i] + spread * s->work[i];
    }
}

/* Zheng et al. 2024 (arXiv:2402.19159): to a noise level below the next step's, then up to that one
 * with fresh noise. gamma is what the authors' LoRAs are drawn with. */
void moji_sampler_step_tcd(MojiSampler *s, int call, const float *output, float *x)
{
    const double gamma = 0.3;
    gboolean last = call == s->calls - 1;
    int next = last ? 0 : (int)s->timesteps[call + 1];
    int below = (int)floorf((float)(1 - gamma) * (float)next);
    float a = s->alphas[(int)s->timesteps[call]], b = s->alphas[below], p = s->alphas[next];
    float root_a = sqrtf(a), spread_a = sqrtf(1.0f - a);
    float root_b = sqrtf(b), spread_b = sqrtf(1.0f - b);
    float keep = sqrtf(p / b), add = sqrtf(1.0f - p / b);
    if (!last)
        moji_sampler_draw_noise(s);
    for (gsize i = 0; i < s->count; i++) {
        float x0, e = output[i];
        if (s->config.v_prediction) {
            x0 = root_a * x[i] - spread_a * output[i];
            e = root_a * output[i] + spread_a * x[i];
        } else {
            x0 = (x[i] - spread_a * e) / root_a;
        }
        s->estimate[i] = x0;
        x[i] = root_b * x0 + spread_b * e;
        if (!last)
            x[i] = keep * x[i] + add * s->work[i];
    }
}
