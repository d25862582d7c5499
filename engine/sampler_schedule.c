/* sampler_schedule.c: alphas, sigmas and timesteps, all known before the first step; see
 * sampler_private.h. */
#include "sampler_private.h"
#include <math.h>

/* ---- tables ---- */

/* As torch.linspace: from both ends to the middle, each value one fused multiply-add. */
static void linspace_float(float start, float end, int n, float *out)
{
    float step = (end - start) / (float)(n - 1);
    for (int i = 0; i < n; i++)
        out[i] = i < n / 2 ? fmaf(step, (float)i, start) : fmaf(-step, (float)(n - 1 - i), end);
}

/* alphas[i] = product of values[0..i], kept in double and rounded as it goes. */
static void accumulate(const float *values, int n, float *alphas)
{
    double product = 1;
    for (int i = 0; i < n; i++) {
        product *= values[i];
        alphas[i] = (float)product;
    }
}

/* Lin et al. 2024 (arXiv:2305.08891), algorithm 1: shifts and scales sqrt(a) so that the last is 0.
 * Goes on through betas, as the reference does, for the same rounding. */
static void rescale_zero_snr(float *alphas, int n)
{
    float first = sqrtf(alphas[0]), last = sqrtf(alphas[n - 1]);
    float scale = first / (first - last);
    g_autofree float *ratio = g_new(float, n);
    for (int i = 0; i < n; i++) {
        float root = (sqrtf(alphas[i]) - last) * scale;
        alphas[i] = root * root;
    }
    for (int i = 0; i < n; i++) {
        float beta = 1.0f - (i > 0 ? alphas[i] / alphas[i - 1] : alphas[0]);
        ratio[i] = 1.0f - beta;
    }
    accumulate(ratio, n, alphas);
}

void moji_sampler_make_alphas(MojiSampler *s)
{
    const MojiSamplerConfig *c = &s->config;
    int n = c->train_steps;
    g_autofree float *values = g_new(float, n);
    s->alphas = g_new(float, n);
    if (c->scaled_linear)
        linspace_float((float)sqrt(c->beta_start), (float)sqrt(c->beta_end), n, values);
    else
        linspace_float((float)c->beta_start, (float)c->beta_end, n, values);
    for (int i = 0; i < n; i++)
        values[i] = 1.0f - (c->scaled_linear ? values[i] * values[i] : values[i]);
    accumulate(values, n, s->alphas);
    if (c->zero_snr)
        rescale_zero_snr(s->alphas, n);
    s->final_alpha = c->set_alpha_to_one ? 1.0f : s->alphas[0];
    /* A form that divides by sigma or takes its logarithm needs the last one finite. */
    if (c->zero_snr && s->method->form != MOJI_FORM_ALPHA)
        s->alphas[n - 1] = 0x1p-24f;
}

static float sigma_of(const MojiSampler *s, int t)
{
    return sqrtf((1.0f - s->alphas[t]) / s->alphas[t]);
}

float moji_sampler_alpha_at(const MojiSampler *s, int t)
{
    g_assert(t < s->config.train_steps);
    return t >= 0 ? s->alphas[t] : s->final_alpha;
}

/* sigma at any t: linear between the table's entries, held beyond its end. */
static double sigma_between(const MojiSampler *s, double t)
{
    int last = s->config.train_steps - 1, low = (int)t;
    if (t >= last)
        return sigma_of(s, last);
    double a = sigma_of(s, low), b = sigma_of(s, low + 1);
    return (b - a) * (t - low) + a;
}

/* The inverse, linear in log sigma. */
static double t_of_sigma(const MojiSampler *s, double sigma)
{
    double want = log(MAX(sigma, 1e-10));
    int low = 0;
    for (int i = 0; i < s->config.train_steps; i++)
        if (want >= logf(sigma_of(s, i)))
            low = i;
    low = MIN(low, s->config.train_steps - 2);
    float a = logf(sigma_of(s, low)), b = logf(sigma_of(s, low + 1));
    double w = CLAMP((a - want) / (a - b), 0, 1);
    return (1 - w) * low + w * (low + 1);
}

/* ---- timesteps, highest first ---- */

/* n of the N steps' places in [0, train_steps), not yet rounded except where the spacing itself
 * is whole. DPM++ divides the range by one more and leaves out the lowest. */
static double place(const MojiSamplerConfig *c, int n, int parts, int i)
{
    int up = parts - 1 - i; /* counted from the lowest */
    double delta;
    switch (c->spacing) {
    case MOJI_SPACING_LEADING:
        return (double)up * (c->train_steps / parts) + c->steps_offset;
    case MOJI_SPACING_TRAILING:
        /* A difference of sums, as numpy.arange takes it: halves round to the same side. */
        delta = (c->train_steps - (double)c->train_steps / n) - c->train_steps;
        return rint(c->train_steps + i * delta) - 1;
    default:
        if (parts == 1)
            return 0;
        return up == parts - 1 ? c->train_steps - 1
                               : up * ((double)(c->train_steps - 1) / (parts - 1));
    }
}

static void allocate(MojiSampler *s, int calls)
{
    s->calls = calls;
    s->timesteps = g_new0(float, calls);
    if (s->method->form != MOJI_FORM_ALPHA)
        s->sigmas = g_new0(float, calls + 1);
}

void moji_sampler_place_pndm(MojiSampler *s)
{
    allocate(s, s->steps > 1 ? s->steps + 1 : s->steps);
    /* The second is visited twice: once to start the multistep form, once by it. */
    for (int call = 0; call < s->calls; call++) {
        int i = call >= 2 ? call - 1 : call;
        s->timesteps[call] = (float)rint(place(&s->config, s->steps, s->steps, i));
    }
}

void moji_sampler_place_ddim(MojiSampler *s)
{
    allocate(s, s->steps);
    for (int i = 0; i < s->calls; i++)
        s->timesteps[i] = (float)rint(place(&s->config, s->steps, s->steps, i));
}

/* Evenly among the steps that the model was distilled for. */
void moji_sampler_place_distilled(MojiSampler *s)
{
    const int whole = MOJI_SAMPLER_DISTILLED_STEPS;
    int ratio = s->config.train_steps / whole;
    allocate(s, s->steps);
    for (int i = 0; i < s->calls; i++) {
        int index = (int)floor(i * ((double)whole / s->steps));
        s->timesteps[i] = (float)((whole - index) * ratio - 1);
    }
}

/* sigma number i of n from high down to low: Karras et al. 2022, equation 5, with rho = 7, or
 * evenly in log sigma. */
static double respace(MojiSigmas sigmas, double high, double low, int n, int i)
{
    double step = n > 1 ? 1.0 / (n - 1) : 0;
    if (sigmas == MOJI_SIGMAS_EXPONENTIAL)
        return exp(i == n - 1 && n > 1 ? log(low)
                                       : i * ((log(low) - log(high)) * step) + log(high));
    double from = pow(high, 1 / 7.0), to = pow(low, 1 / 7.0);
    return pow(from + i * step * (to - from), 7);
}

/* sigma and t of each step. */
static void make_sigmas(const MojiSampler *s, double *sigmas, double *t)
{
    int n = s->steps;
    /* The reference places Euler's and Heun's in single precision and DPM++ SDE's in double. */
    gboolean single = s->method->place == moji_sampler_place_sigma;
    for (int i = 0; i < n; i++) {
        t[i] = place(&s->config, n, n, i);
        if (single)
            t[i] = (float)t[i];
        sigmas[i] = sigma_between(s, t[i]);
    }
    if (s->config.sigmas == MOJI_SIGMAS_PLAIN)
        return;
    double high = sigmas[0], low = sigmas[n - 1];
    for (int i = 0; i < n; i++) {
        sigmas[i] = respace(s->config.sigmas, high, low, n, i);
        t[i] = t_of_sigma(s, sigmas[i]);
    }
}

/* Where a step takes two calls, the second one's sigma is the next step's first: s0 s1 s1 s2 s2 0.
 */
static void place_calls(MojiSampler *s, const double *sigmas, const double *t)
{
    int each = s->method->evaluations;
    allocate(s, each * (s->steps - 1) + 1);
    for (int call = 0; call < s->calls; call++) {
        int i = (call + each - 1) / each;
        s->timesteps[call] = (float)t[i];
        s->sigmas[call] = (float)sigmas[i];
    }
}

void moji_sampler_place_sigma(MojiSampler *s)
{
    g_autofree double *sigmas = g_new(double, s->steps), *t = g_new(double, s->steps);
    make_sigmas(s, sigmas, t);
    place_calls(s, sigmas, t);
}

void moji_sampler_place_middle(MojiSampler *s)
{
    g_autofree double *sigmas = g_new(double, s->steps), *t = g_new(double, s->steps);
    make_sigmas(s, sigmas, t);
    place_calls(s, sigmas, t);
    for (int i = 0; i + 1 < s->steps; i++) {
        double from = -log(sigmas[i]), to = -log(sigmas[i + 1]);
        s->timesteps[2 * i + 1] = (float)t_of_sigma(s, exp(-(from + (to - from) * 0.5)));
    }
}

void moji_sampler_place_lambda(MojiSampler *s)
{
    int n = s->steps, last = s->config.train_steps - 1;
    double high = sigma_of(s, last), low = sigma_of(s, 0);
    allocate(s, n);
    for (int i = 0; i < n; i++) {
        double t = rint(place(&s->config, n, n + 1, i)), sigma = sigma_between(s, t);
        if (s->config.sigmas != MOJI_SIGMAS_PLAIN) {
            sigma = respace(s->config.sigmas, high, low, n, i);
            t = t_of_sigma(s, sigma);
            t = s->config.sigmas == MOJI_SIGMAS_KARRAS ? rint(t) : floor(t);
        }
        s->timesteps[i] = (float)t;
        s->sigmas[i] = (float)sigma;
    }
}
