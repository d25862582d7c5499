/* sampler_lambda.c: multistep solvers in lambda = log(alpha / sigma), predicting x0: DPM++ 2M, its
 * stochastic form, and UniPC; see sampler_private.h. Of first order where there is nothing to look
 * back on, and at the end, where sigma is 0 and lambda infinite. */
#include "sampler_private.h"
#include <math.h>

static double lambda_at(const MojiSampler *s, int call)
{
    return -log(s->sigmas[call]);
}

static MojiNoise noise_at(const MojiSampler *s, int call)
{
    return moji_sampler_split(s->sigmas[call]);
}

/* Lu et al. 2022 (arXiv:2211.01095), algorithm 2 (2M), midpoint form; the stochastic form is the
 * reference's sde-dpmsolver++, which takes plain noise, one draw a step. */
void moji_sampler_step_dpm_2m(const MojiSampler *s, int call, int done, MojiSamplerStep *step)
{
    MojiNoise here = noise_at(s, call), next = noise_at(s, call + 1);
    double h = lambda_at(s, call + 1) - lambda_at(s, call), *x = step->to[MOJI_PLANE_X];
    double keep = next.sigma / here.sigma, move = next.alpha * -expm1(-h);
    if (s->method->stochastic) {
        keep *= exp(-h);
        move = next.alpha * -expm1(-2 * h);
        x[MOJI_PLANE_NOISE] = next.sigma * sqrt(-expm1(-2 * h));
        step->draws = TRUE;
    }
    moji_sampler_predict(s, here, step);
    moji_sampler_push(step, MOJI_PLANE_ESTIMATE);
    x[MOJI_PLANE_X] = keep;
    x[MOJI_PLANE_ESTIMATE] = move;
    if (done > 0 && call < s->calls - 1) {
        double slope = h / (lambda_at(s, call) - lambda_at(s, call - 1));
        x[MOJI_PLANE_ESTIMATE] += 0.5 * move * slope;
        x[MOJI_PLANE_PAST] = -0.5 * move * slope;
    }
}

/* ---- UniPC, Zhao et al. 2023 (arXiv:2302.04867), second order, B(h) = e^h - 1 ("bh2") ---- */

static int unipc_order(const MojiSampler *s, int call, int done)
{
    return MIN(2, MIN(s->calls - call, done + 1));
}

/* Takes the last step again, now that the model's word on where it led is known: what x should
 * have been. The weights u and w of the two differences solve u + w = b1, r u + w = b2. */
static void correct(const MojiSampler *s, int call, int done, double *x)
{
    MojiNoise from = noise_at(s, call - 1), here = noise_at(s, call);
    double h = lambda_at(s, call) - lambda_at(s, call - 1);
    double growth = expm1(-h), move = here.alpha * growth, w = 0.5;
    x[MOJI_PLANE_HELD] = here.sigma / from.sigma;
    x[MOJI_PLANE_PAST] = -move;
    if (unipc_order(s, call - 1, done - 1) == 2) {
        double r = (lambda_at(s, call - 2) - lambda_at(s, call - 1)) / h, phi = growth / -h - 1;
        double b1 = phi / growth, b2 = (phi / -h - 0.5) * 2 / growth, u = (b2 - b1) / (r - 1);
        w = b1 - u;
        x[MOJI_PLANE_PAST + 1] = -move * u / r;
        x[MOJI_PLANE_PAST] += move * u / r;
    }
    x[MOJI_PLANE_ESTIMATE] = -move * w;
    x[MOJI_PLANE_PAST] += move * w;
}

void moji_sampler_step_unipc(const MojiSampler *s, int call, int done, MojiSamplerStep *step)
{
    MojiNoise here = noise_at(s, call), next = noise_at(s, call + 1);
    double h = lambda_at(s, call + 1) - lambda_at(s, call), move = next.alpha * expm1(-h);
    double *held = step->to[MOJI_PLANE_HELD], *x = step->to[MOJI_PLANE_X];
    moji_sampler_predict(s, here, step);
    moji_sampler_push(step, MOJI_PLANE_ESTIMATE);
    if (done > 0)
        correct(s, call, done, held);
    else
        held[MOJI_PLANE_X] = 1;
    moji_sampler_add(x, next.sigma / here.sigma, held);
    x[MOJI_PLANE_ESTIMATE] -= move;
    if (unipc_order(s, call, done) == 2) {
        double r = (lambda_at(s, call - 1) - lambda_at(s, call)) / h;
        x[MOJI_PLANE_PAST] -= move * 0.5 / r;
        x[MOJI_PLANE_ESTIMATE] += move * 0.5 / r;
    }
}
