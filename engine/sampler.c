/* sampler.c: the table of samplers; making, starting and stepping one. See sampler.h, and
 * sampler_private.h for the rest of the files. */
#include "sampler_private.h"
#include <math.h>
#include <string.h>

static const MojiSamplerMethod methods[] = {
    {"pndm", "PNDMScheduler", MOJI_FORM_ALPHA, MOJI_SIGMAS_PLAIN, 1, FALSE, moji_sampler_place_pndm,
     moji_sampler_step_pndm, MOJI_SPACING_LEADING, FALSE, FALSE, 1e-4, 0.02, FALSE},
    {"ddim", "DDIMScheduler", MOJI_FORM_ALPHA, MOJI_SIGMAS_PLAIN, 1, FALSE, moji_sampler_place_ddim,
     moji_sampler_step_ddim, MOJI_SPACING_LEADING, TRUE, TRUE, 1e-4, 0.02, FALSE},
    {"euler", "EulerDiscreteScheduler", MOJI_FORM_SIGMA, MOJI_SIGMAS_UNSET, 1, FALSE,
     moji_sampler_place_sigma, moji_sampler_step_euler, MOJI_SPACING_LINSPACE, FALSE, FALSE, 1e-4,
     0.02, FALSE},
    {"euler-a", "EulerAncestralDiscreteScheduler", MOJI_FORM_SIGMA, MOJI_SIGMAS_PLAIN, 1, FALSE,
     moji_sampler_place_sigma, moji_sampler_step_euler_a, MOJI_SPACING_LINSPACE, FALSE, FALSE, 1e-4,
     0.02, FALSE},
    {"heun", "HeunDiscreteScheduler", MOJI_FORM_SIGMA, MOJI_SIGMAS_UNSET, 2, FALSE,
     moji_sampler_place_sigma, moji_sampler_step_heun, MOJI_SPACING_LINSPACE, FALSE, FALSE, 0.00085,
     0.012, FALSE},
    {"dpm++2m", "DPMSolverMultistepScheduler", MOJI_FORM_LAMBDA, MOJI_SIGMAS_UNSET, 1, FALSE,
     moji_sampler_place_lambda, moji_sampler_step_dpm_2m, MOJI_SPACING_LINSPACE, FALSE, FALSE, 1e-4,
     0.02, FALSE},
    {"dpm++2m-karras", "DPMSolverMultistepScheduler", MOJI_FORM_LAMBDA, MOJI_SIGMAS_KARRAS, 1,
     FALSE, moji_sampler_place_lambda, moji_sampler_step_dpm_2m, MOJI_SPACING_LINSPACE, FALSE,
     FALSE, 1e-4, 0.02, FALSE},
    {"dpm++2m-sde", "DPMSolverMultistepScheduler", MOJI_FORM_LAMBDA, MOJI_SIGMAS_UNSET, 1, TRUE,
     moji_sampler_place_lambda, moji_sampler_step_dpm_2m, MOJI_SPACING_LINSPACE, FALSE, FALSE, 1e-4,
     0.02, FALSE},
    {"dpm++sde", "DPMSolverSDEScheduler", MOJI_FORM_SIGMA, MOJI_SIGMAS_UNSET, 2, FALSE,
     moji_sampler_place_middle, moji_sampler_step_dpm_sde, MOJI_SPACING_LINSPACE, FALSE, FALSE,
     0.00085, 0.012, FALSE},
    {"unipc", "UniPCMultistepScheduler", MOJI_FORM_LAMBDA, MOJI_SIGMAS_UNSET, 1, FALSE,
     moji_sampler_place_lambda, moji_sampler_step_unipc, MOJI_SPACING_LINSPACE, FALSE, FALSE, 1e-4,
     0.02, FALSE},
    {"lcm", "LCMScheduler", MOJI_FORM_ALPHA, MOJI_SIGMAS_PLAIN, 1, FALSE,
     moji_sampler_place_distilled, moji_sampler_step_lcm, MOJI_SPACING_LEADING, TRUE, FALSE,
     0.00085, 0.012, TRUE},
    {"tcd", "TCDScheduler", MOJI_FORM_ALPHA, MOJI_SIGMAS_PLAIN, 1, FALSE,
     moji_sampler_place_distilled, moji_sampler_step_tcd, MOJI_SPACING_LEADING, TRUE, FALSE,
     0.00085, 0.012, TRUE},
};

/* ---- making one ---- */

const char *const *moji_sampler_names(void)
{
    static const char *names[G_N_ELEMENTS(methods) + 1];
    static gsize made;
    if (g_once_init_enter(&made)) {
        for (gsize i = 0; i < G_N_ELEMENTS(methods); i++)
            names[i] = methods[i].name;
        g_once_init_leave(&made, 1);
    }
    return names;
}

static int find_word(const char *const *words, const char *word)
{
    for (int i = 0; words[i]; i++)
        if (!g_ascii_strcasecmp(words[i], word))
            return i;
    return -1;
}

const char *const *moji_spacing_names(void)
{
    static const char *const names[] = {"leading", "linspace", "trailing", "sgm_uniform", NULL};
    return names;
}

gboolean moji_spacing_from_name(const char *name, MojiSpacing *spacing)
{
    static const MojiSpacing meant[] = {MOJI_SPACING_LEADING, MOJI_SPACING_LINSPACE,
                                        MOJI_SPACING_TRAILING, MOJI_SPACING_TRAILING};
    int i = find_word(moji_spacing_names(), name);
    if (i >= 0)
        *spacing = meant[i];
    return i >= 0;
}

const char *const *moji_sigmas_names(void)
{
    static const char *const names[] = {"plain", "karras", "exponential", NULL};
    return names;
}

gboolean moji_sigmas_from_name(const char *name, MojiSigmas *sigmas)
{
    int i = find_word(moji_sigmas_names(), name);
    if (i >= 0)
        *sigmas = MOJI_SIGMAS_PLAIN + i;
    return i >= 0;
}

static gboolean refuse(GError **error, const char *format, ...) G_GNUC_PRINTF(2, 3);
static gboolean refuse(GError **error, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    g_autoptr(GError) made = g_error_new_valist(MOJI_ERROR, MOJI_ERROR_USAGE, format, args);
    va_end(args);
    g_propagate_error(error, g_steal_pointer(&made));
    return FALSE;
}

/* The class's own name in the config, or the name asked for; NULL if there is none here. */
static const MojiSamplerMethod *find_method(const MojiSamplerConfig *c, const char *name)
{
    for (gsize i = 0; i < G_N_ELEMENTS(methods); i++) {
        const MojiSamplerMethod *m = &methods[i];
        if (name ? !strcmp(name, m->name)
                 : !strcmp(c->class_name, m->class_name) && m->stochastic == c->own_stochastic)
            return m;
    }
    return NULL;
}

static gboolean check_method(const MojiSamplerConfig *c, const char *name,
                             const MojiSamplerMethod *method, GError **error)
{
    g_autofree char *list = g_strjoinv(", ", (char **)moji_sampler_names());
    if (!method && name)
        return refuse(error, "no sampler is called \"%s\"; choose one of: %s", name, list);
    if (!method)
        return refuse(error, "the model's own sampler is \"%s\"; choose one of: %s", c->class_name,
                      list);
    if (!name && c->unsupported[0])
        return refuse(error,
                      "the model's own sampler, %s, is set to an unknown %s; choose one of: %s",
                      c->class_name, c->unsupported, list);
    if (c->sigmas && method->sigmas && c->sigmas != method->sigmas)
        return refuse(error, "sigmas: %s takes %s ones only, not %s", method->name,
                      moji_sigmas_names()[method->sigmas - MOJI_SIGMAS_PLAIN],
                      moji_sigmas_names()[c->sigmas - MOJI_SIGMAS_PLAIN]);
    return TRUE;
}

/* What must hold before the tables are made. */
static gboolean check_settings(const MojiSampler *s, GError **error)
{
    const MojiSamplerConfig *c = &s->config;
    const char *name = s->method->name;
    gboolean distilled = s->method->place == moji_sampler_place_distilled;
    /* Steps in lambda divide the range by one more. */
    gboolean whole = s->method->form == MOJI_FORM_LAMBDA && c->sigmas == MOJI_SIGMAS_PLAIN;
    int most = whole ? c->train_steps - 1 : c->train_steps;
    if (s->steps < 1 || s->steps > most)
        return refuse(error, "%d steps; %s takes 1 to %d", s->steps, name, most);
    if (s->method->place == moji_sampler_place_pndm && c->zero_snr)
        return refuse(error, "pndm cannot start from pure noise as this model does "
                             "(rescale_betas_zero_snr); choose ddim or euler");
    if (distilled && c->train_steps < MOJI_SAMPLER_DISTILLED_STEPS)
        return refuse(error, "%s needs a model of %d training steps or more, not %d; choose ddim",
                      name, MOJI_SAMPLER_DISTILLED_STEPS, c->train_steps);
    if (distilled && s->steps > MOJI_SAMPLER_DISTILLED_STEPS)
        return refuse(error, "%d steps; %s takes 1 to %d, and 4 to 8 are enough", s->steps, name,
                      MOJI_SAMPLER_DISTILLED_STEPS);
    return TRUE;
}

/* What must hold of the tables. */
static gboolean check_timesteps(const MojiSampler *s, GError **error)
{
    const MojiSamplerConfig *c = &s->config;
    if (s->sigmas)
        return TRUE;
    for (int i = 0; i < s->calls; i++) {
        if (s->timesteps[i] >= c->train_steps)
            return refuse(error, "%d steps put timestep %g past the model's last, %d; take fewer",
                          s->steps, s->timesteps[i], c->train_steps - 1);
        if (s->alphas[(int)s->timesteps[i]] <= 0 && !c->v_prediction)
            return refuse(error,
                          "%s cannot start from pure noise with a model that predicts "
                          "noise; choose euler, or a model of v_prediction",
                          s->method->name);
    }
    return TRUE;
}

MojiSampler *moji_sampler_new(const MojiSamplerConfig *config, const char *name, int steps,
                              GError **error)
{
    const MojiSamplerMethod *method = find_method(config, name);
    if (!check_method(config, name, method, error))
        return NULL;
    MojiSampler *s = g_new0(MojiSampler, 1);
    s->method = method;
    s->config = *config;
    s->steps = steps;
    if (!name && !s->config.sigmas && !method->sigmas)
        s->config.sigmas = config->own_sigmas;
    moji_sampler_fill_defaults(&s->config, method);
    if (check_settings(s, error)) {
        moji_sampler_make_alphas(s);
        method->place(s);
        if (check_timesteps(s, error))
            return s;
    }
    moji_sampler_free(s);
    return NULL;
}

void moji_sampler_free(MojiSampler *s)
{
    if (!s)
        return;
    g_free(s->timesteps);
    g_free(s->sigmas);
    g_free(s->alphas);
    g_free(s);
}

/* ---- before the steps ---- */

const char *moji_sampler_name(const MojiSampler *s)
{
    return s->method->name;
}

MojiSpacing moji_sampler_spacing(const MojiSampler *s)
{
    return s->config.spacing;
}

MojiSigmas moji_sampler_sigmas(const MojiSampler *s)
{
    return s->config.sigmas;
}

int moji_sampler_calls(const MojiSampler *s)
{
    return s->calls;
}

float moji_sampler_timestep(const MojiSampler *s, int call)
{
    g_assert(call >= 0 && call < s->calls);
    return s->timesteps[call];
}

float moji_sampler_initial_sigma(const MojiSampler *s)
{
    float most = 0;
    if (s->method->form != MOJI_FORM_SIGMA)
        return 1;
    for (int i = 0; i < s->calls; i++)
        most = MAX(most, s->sigmas[i]);
    return s->config.spacing == MOJI_SPACING_LEADING ? sqrtf(most * most + 1.0f) : most;
}

void moji_sampler_start(const MojiSampler *s, float *x, gsize count)
{
    float sigma = moji_sampler_initial_sigma(s);
    for (gsize i = 0; i < count; i++)
        x[i] *= sigma;
}

MojiNoise moji_sampler_split(double ratio)
{
    double alpha = 1 / sqrt(ratio * ratio + 1);
    return (MojiNoise){alpha, ratio * alpha};
}

int moji_sampler_first_call(const MojiSampler *s, double strength)
{
    g_assert(strength >= 0 && strength <= 1);
    int taken = (int)(s->steps * strength);
    return taken > 0 ? (s->steps - taken) * s->method->evaluations : s->calls;
}

void moji_sampler_add_noise(const MojiSampler *s, int call, const float *noise, float *x,
                            gsize count)
{
    g_assert(call >= 0 && call <= s->calls);
    MojiNoise level = {1, 0};
    if (call == s->calls)
        return;
    if (s->method->form == MOJI_FORM_ALPHA) {
        double a = s->alphas[(int)s->timesteps[call]];
        level = (MojiNoise){sqrt(a), sqrt(1 - a)};
    } else if (s->method->form == MOJI_FORM_SIGMA) {
        level.sigma = s->sigmas[call];
    } else {
        level = moji_sampler_split(s->sigmas[call]);
    }
    for (gsize i = 0; i < count; i++)
        x[i] = (float)(level.alpha * x[i] + level.sigma * noise[i]);
}

double moji_sampler_scale(const MojiSampler *s, int call)
{
    g_assert(call >= 0 && call < s->calls);
    gboolean sigma = s->method->form == MOJI_FORM_SIGMA;
    return sigma ? moji_sampler_split(moji_sampler_sigma(s, call)).alpha : 1;
}

/* ---- the steps ---- */

void moji_sampler_add(double to[MOJI_TERMS], double factor, const double terms[MOJI_TERMS])
{
    for (int k = 0; k < MOJI_TERMS; k++)
        to[k] += factor * terms[k];
}

void moji_sampler_predict(const MojiSampler *s, MojiNoise here, MojiSamplerStep *step)
{
    double *x0 = step->to[MOJI_PLANE_ESTIMATE];
    double scale =
        s->method->form == MOJI_FORM_SIGMA ? here.alpha : 1; /* the planes hold x / alpha */
    gboolean v = s->config.v_prediction;
    x0[MOJI_PLANE_X] = scale * (v ? here.alpha : 1 / here.alpha);
    x0[MOJI_PLANE_OUTPUT] = -here.sigma * (v ? 1 : 1 / here.alpha);
}

void moji_sampler_push(MojiSamplerStep *step, MojiPlane newest)
{
    step->to[MOJI_PLANE_PAST][newest] = 1;
    for (int i = 1; i < MOJI_SAMPLER_PAST; i++)
        step->to[MOJI_PLANE_PAST + i][MOJI_PLANE_PAST + i - 1] = 1;
}

void moji_sampler_step(const MojiSampler *s, int call, int done, MojiSamplerStep *step)
{
    g_assert(call >= 0 && call < s->calls && done >= 0 && done <= call);
    *step = (MojiSamplerStep){.range = INFINITY};
    s->method->step(s, call, done, step);
}
