/* sampler.c: see sampler.h.
 *
 * The surprising rule: everything that touches the latents is single precision, in the order of the
 * reference, and everything that places the timesteps is double precision, as numpy's; mixing the
 * two moves timesteps by one and pictures with them.
 *
 * Letters: a is the cumulative product of (1 - beta), "alpha bar", at one timestep; sigma is
 * sqrt((1 - a) / a); e is predicted noise, v predicted velocity, x0 the finished latents. */
#include "sampler.h"
#include "json.h"
#include <math.h>
#include <string.h>

typedef enum { PNDM, DDIM, EULER, EULER_A, DPM_2M, DPM_2M_KARRAS, LCM, KINDS } Kind;

/* What each diffusers class takes for a member that the file lacks. */
static const struct {
    const char *class_name;
    MojiSpacing spacing;
    gboolean set_alpha_to_one, clip_sample;
    double beta_start, beta_end;
    gboolean scaled_linear;
} classes[KINDS] = {
    [PNDM] = {"PNDMScheduler", MOJI_SPACING_LEADING, FALSE, FALSE, 1e-4, 0.02, FALSE},
    [DDIM] = {"DDIMScheduler", MOJI_SPACING_LEADING, TRUE, TRUE, 1e-4, 0.02, FALSE},
    [EULER] = {"EulerDiscreteScheduler", MOJI_SPACING_LINSPACE, FALSE, FALSE, 1e-4, 0.02, FALSE},
    [EULER_A] = {"EulerAncestralDiscreteScheduler", MOJI_SPACING_LINSPACE, FALSE, FALSE, 1e-4, 0.02,
                 FALSE},
    [DPM_2M] = {"DPMSolverMultistepScheduler", MOJI_SPACING_LINSPACE, FALSE, FALSE, 1e-4, 0.02,
                FALSE},
    [DPM_2M_KARRAS] = {"DPMSolverMultistepScheduler", MOJI_SPACING_LINSPACE, FALSE, FALSE, 1e-4,
                       0.02, FALSE},
    [LCM] = {"LCMScheduler", MOJI_SPACING_LEADING, TRUE, FALSE, 0.00085, 0.012, TRUE},
};

static const char *const names[KINDS + 1] = {"pndm",    "ddim",           "euler", "euler-a",
                                             "dpm++2m", "dpm++2m-karras", "lcm",   NULL};

enum { HISTORY = 4, LCM_ORIGINAL_STEPS = 50 };

struct MojiSampler {
    Kind kind;
    MojiSamplerConfig config; /* with every default filled in */
    int steps, calls;
    float *timesteps; /* calls */
    float *sigmas;    /* calls + 1, the last 0; NULL for PNDM, DDIM, LCM */
    float *alphas;    /* train_steps */
    float final_alpha;
    int done; /* steps taken since start: what the multistep forms go by */

    gsize count;             /* elements in each of the following, allocated by the first step */
    float *history[HISTORY]; /* newest first: PNDM's noise, DPM++'s x0 */
    float *held;             /* PNDM: the latents before its first, repeated, step */
    float *estimate;
    float *work; /* the step's fresh noise, or PNDM's combined prediction */
};

/* ---- config ---- */

static gboolean read_word(JsonObject *o, const char *path, const char *member,
                          const char *const *words, int *value, GError **error)
{
    g_autofree char *text = NULL;
    if (!moji_json_string(o, path, member, &text, error))
        return FALSE;
    if (!text)
        return TRUE;
    for (int i = 0; words[i]; i++) {
        if (strcmp(text, words[i]) == 0) {
            *value = i;
            return TRUE;
        }
    }
    g_autofree char *list = g_strjoinv(", ", (char **)words);
    moji_error_file(error, path, "%s is \"%s\", expected one of: %s", member, text, list);
    return FALSE;
}

/* Members that change what the file's own class computes, and the one value that we compute. */
static const struct {
    const char *class_name, *member, *value;
} needed[] = {
    {"PNDMScheduler", "skip_prk_steps", "true"},
    {"EulerDiscreteScheduler", "use_karras_sigmas", "false"},
    {"EulerDiscreteScheduler", "use_exponential_sigmas", "false"},
    {"EulerDiscreteScheduler", "use_beta_sigmas", "false"},
    {"EulerDiscreteScheduler", "interpolation_type", "\"linear\""},
    {"EulerDiscreteScheduler", "timestep_type", "\"discrete\""},
    {"EulerDiscreteScheduler", "final_sigmas_type", "\"zero\""},
    {"DPMSolverMultistepScheduler", "algorithm_type", "\"dpmsolver++\""},
    {"DPMSolverMultistepScheduler", "solver_order", "2"},
    {"DPMSolverMultistepScheduler", "solver_type", "\"midpoint\""},
    {"DPMSolverMultistepScheduler", "final_sigmas_type", "\"zero\""},
    {"DPMSolverMultistepScheduler", "use_exponential_sigmas", "false"},
    {"DPMSolverMultistepScheduler", "use_beta_sigmas", "false"},
    {"DPMSolverMultistepScheduler", "use_lu_lambdas", "false"},
    {"DPMSolverMultistepScheduler", "use_flow_sigmas", "false"},
    {"LCMScheduler", "original_inference_steps", "50"},
    {"LCMScheduler", "timestep_scaling", "10.0"},
};

static void find_unsupported(JsonObject *o, MojiSamplerConfig *c)
{
    for (gsize i = 0; i < G_N_ELEMENTS(needed); i++) {
        JsonNode *node = json_object_get_member(o, needed[i].member);
        if (strcmp(needed[i].class_name, c->class_name) != 0 || !node || JSON_NODE_HOLDS_NULL(node))
            continue;
        g_autofree char *found = json_to_string(node, FALSE);
        double a = g_ascii_strtod(found, NULL), b = g_ascii_strtod(needed[i].value, NULL);
        if (strcmp(found, needed[i].value) != 0 && !(a == b && b != 0))
            g_strlcpy(c->unsupported, needed[i].member, sizeof c->unsupported);
    }
}

static gboolean read_betas(JsonObject *o, const char *path, MojiSamplerConfig *c, GError **error)
{
    static const char *const schedules[] = {"linear", "scaled_linear", NULL};
    if (json_object_has_member(o, "trained_betas") &&
        !json_object_get_null_member(o, "trained_betas")) {
        moji_error_file(error, path, "trained_betas are given, expected beta_schedule alone");
        return FALSE;
    }
    if (!moji_json_double(o, path, "beta_start", &c->beta_start, error) ||
        !moji_json_double(o, path, "beta_end", &c->beta_end, error) ||
        !read_word(o, path, "beta_schedule", schedules, &c->scaled_linear, error))
        return FALSE;
    if (!(c->beta_start >= 0 && c->beta_start < 1) || !(c->beta_end >= 0 && c->beta_end < 1)) {
        moji_error_file(error, path, "beta_start %g and beta_end %g, expected 0 to 1",
                        c->beta_start, c->beta_end);
        return FALSE;
    }
    return TRUE;
}

static gboolean read_rest(JsonObject *o, const char *path, MojiSamplerConfig *c, GError **error)
{
    static const char *const predictions[] = {"epsilon", "v_prediction", NULL};
    static const char *const spacings[] = {"", "leading", "linspace", "trailing", NULL};
    int spacing = MOJI_SPACING_UNSET;
    gboolean thresholding = FALSE;
    g_autofree char *name = NULL;
    if (!moji_json_int(o, path, "num_train_timesteps", 2, 100000, &c->train_steps, error) ||
        !moji_json_int(o, path, "steps_offset", 0, 100000, &c->steps_offset, error) ||
        !read_word(o, path, "prediction_type", predictions, &c->v_prediction, error) ||
        !read_word(o, path, "timestep_spacing", spacings, &spacing, error) ||
        !moji_json_bool(o, path, "rescale_betas_zero_snr", &c->zero_snr, error) ||
        !moji_json_bool(o, path, "use_karras_sigmas", &c->karras, error) ||
        !moji_json_bool(o, path, "set_alpha_to_one", &c->set_alpha_to_one, error) ||
        !moji_json_bool(o, path, "clip_sample", &c->clip_sample, error) ||
        !moji_json_bool(o, path, "thresholding", &thresholding, error) ||
        !moji_json_double(o, path, "clip_sample_range", &c->clip_sample_range, error) ||
        !moji_json_string(o, path, "_class_name", &name, error))
        return FALSE;
    c->spacing = spacing;
    g_strlcpy(c->class_name, name ? name : "", sizeof c->class_name);
    if (thresholding)
        moji_error_file(error, path,
                        "thresholding is true, expected false: it is for pixels, "
                        "not latents");
    return !thresholding;
}

gboolean moji_sampler_config_read(const char *path, MojiSamplerConfig *config, GError **error)
{
    JsonObject *root;
    g_autoptr(JsonParser) parser = moji_json_open(path, &root, error);
    *config = (MojiSamplerConfig){
        .train_steps = 1000,
        .scaled_linear = MOJI_ABSENT,
        .set_alpha_to_one = MOJI_ABSENT,
        .clip_sample = MOJI_ABSENT,
        .clip_sample_range = 1,
    };
    if (!parser || !read_betas(root, path, config, error) || !read_rest(root, path, config, error))
        return FALSE;
    find_unsupported(root, config);
    return TRUE;
}

static void fill_defaults(MojiSamplerConfig *c, Kind kind)
{
    if (c->spacing == MOJI_SPACING_UNSET)
        c->spacing = classes[kind].spacing;
    if (c->set_alpha_to_one == MOJI_ABSENT)
        c->set_alpha_to_one = classes[kind].set_alpha_to_one;
    if (c->clip_sample == MOJI_ABSENT)
        c->clip_sample = classes[kind].clip_sample;
    if (c->scaled_linear == MOJI_ABSENT)
        c->scaled_linear = classes[kind].scaled_linear;
    if (c->beta_start <= 0)
        c->beta_start = classes[kind].beta_start;
    if (c->beta_end <= 0)
        c->beta_end = classes[kind].beta_end;
}

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

static void make_alphas(MojiSampler *s)
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
    gboolean by_sigma = s->kind >= EULER && s->kind <= DPM_2M_KARRAS;
    if (c->zero_snr && by_sigma)
        s->alphas[n - 1] = 0x1p-24f;
}

static float sigma_of(const MojiSampler *s, int t)
{
    return sqrtf((1.0f - s->alphas[t]) / s->alphas[t]);
}

/* sigma at any t: linear between the table's entries, held beyond its end. */
static float sigma_between(const MojiSampler *s, double t)
{
    int last = s->config.train_steps - 1, low = (int)t;
    if (t >= last)
        return sigma_of(s, last);
    double a = sigma_of(s, low), b = sigma_of(s, low + 1);
    return (float)((b - a) * (t - low) + a);
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

static void place_pndm(MojiSampler *s)
{
    /* The second is visited twice: once to start the multistep form, once by it. */
    for (int call = 0; call < s->calls; call++) {
        int i = call >= 2 ? call - 1 : call;
        s->timesteps[call] = (float)rint(place(&s->config, s->steps, s->steps, i));
    }
}

static void place_dpm(MojiSampler *s)
{
    int n = s->steps, last = s->config.train_steps - 1;
    double high = pow(sigma_of(s, last), 1 / 7.0), low = pow(sigma_of(s, 0), 1 / 7.0);
    for (int i = 0; i < n; i++) {
        double t = rint(place(&s->config, n, n + 1, i)), sigma = sigma_between(s, t);
        if (s->kind == DPM_2M_KARRAS) { /* Karras et al. 2022, equation 5, rho = 7 */
            sigma = pow(high + (n > 1 ? i * (1.0 / (n - 1)) : 0) * (low - high), 7);
            t = rint(t_of_sigma(s, sigma));
        }
        s->timesteps[i] = (float)t;
        s->sigmas[i] = (float)sigma;
    }
}

static void place_lcm(MojiSampler *s)
{
    int ratio = s->config.train_steps / LCM_ORIGINAL_STEPS;
    for (int i = 0; i < s->steps; i++) {
        int index = (int)floor(i * ((double)LCM_ORIGINAL_STEPS / s->steps));
        s->timesteps[i] = (float)((LCM_ORIGINAL_STEPS - index) * ratio - 1);
    }
}

static void make_timesteps(MojiSampler *s)
{
    s->calls = s->kind == PNDM && s->steps > 1 ? s->steps + 1 : s->steps;
    s->timesteps = g_new0(float, s->calls);
    if (s->kind >= EULER && s->kind <= DPM_2M_KARRAS)
        s->sigmas = g_new0(float, s->calls + 1);
    if (s->kind == PNDM)
        place_pndm(s);
    else if (s->kind == DPM_2M || s->kind == DPM_2M_KARRAS)
        place_dpm(s);
    else if (s->kind == LCM)
        place_lcm(s);
    else
        for (int i = 0; i < s->steps; i++) {
            double t = place(&s->config, s->steps, s->steps, i);
            s->timesteps[i] = (float)(s->kind == DDIM ? rint(t) : t);
            if (s->sigmas)
                s->sigmas[i] = sigma_between(s, s->timesteps[i]);
        }
}

/* ---- making one ---- */

const char *const *moji_sampler_names(void)
{
    return names;
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

static gboolean find_kind(const MojiSamplerConfig *c, const char *name, Kind *kind, GError **error)
{
    g_autofree char *list = g_strjoinv(", ", (char **)names);
    for (Kind k = 0; k < KINDS; k++) {
        if (name ? strcmp(name, names[k]) == 0
                 : strcmp(c->class_name, classes[k].class_name) == 0) {
            *kind = !name && k == DPM_2M && c->karras ? DPM_2M_KARRAS : k;
            if (name || !c->unsupported[0])
                return TRUE;
            return refuse(error,
                          "the model's own sampler, %s, is set to an unknown %s; choose one of: %s",
                          c->class_name, c->unsupported, list);
        }
    }
    if (name)
        return refuse(error, "no sampler is called \"%s\"; choose one of: %s", name, list);
    return refuse(error, "the model's own sampler is \"%s\"; choose one of: %s", c->class_name,
                  list);
}

/* What must hold before the tables are made. */
static gboolean check_settings(const MojiSampler *s, GError **error)
{
    const MojiSamplerConfig *c = &s->config;
    gboolean dpm = s->kind == DPM_2M;
    int most = dpm ? c->train_steps - 1 : c->train_steps;
    if (s->steps < 1 || s->steps > most)
        return refuse(error, "%d steps; %s takes 1 to %d", s->steps, names[s->kind], most);
    if (s->kind == PNDM && c->zero_snr)
        return refuse(error, "pndm cannot start from pure noise as this model does "
                             "(rescale_betas_zero_snr); choose ddim or euler");
    if (s->kind == LCM && c->train_steps < LCM_ORIGINAL_STEPS)
        return refuse(error, "lcm needs a model of %d training steps or more, not %d; choose ddim",
                      LCM_ORIGINAL_STEPS, c->train_steps);
    if (s->kind == LCM && s->steps > LCM_ORIGINAL_STEPS)
        return refuse(error, "%d steps; lcm takes 1 to %d, and 4 to 8 are enough", s->steps,
                      LCM_ORIGINAL_STEPS);
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
                          names[s->kind]);
    }
    return TRUE;
}

MojiSampler *moji_sampler_new(const MojiSamplerConfig *config, const char *name, int steps,
                              GError **error)
{
    Kind kind = PNDM;
    if (!find_kind(config, name, &kind, error))
        return NULL;
    MojiSampler *s = g_new0(MojiSampler, 1);
    s->kind = kind;
    s->config = *config;
    s->steps = steps;
    fill_defaults(&s->config, kind);
    if (check_settings(s, error)) {
        make_alphas(s);
        make_timesteps(s);
        if (check_timesteps(s, error))
            return s;
    }
    moji_sampler_free(s);
    return NULL;
}

static void free_buffers(MojiSampler *s)
{
    for (int i = 0; i < HISTORY; i++)
        g_clear_pointer(&s->history[i], g_free);
    g_clear_pointer(&s->held, g_free);
    g_clear_pointer(&s->estimate, g_free);
    g_clear_pointer(&s->work, g_free);
}

void moji_sampler_free(MojiSampler *s)
{
    if (!s)
        return;
    free_buffers(s);
    g_free(s->timesteps);
    g_free(s->sigmas);
    g_free(s->alphas);
    g_free(s);
}

static void need_buffers(MojiSampler *s, gsize count)
{
    if (s->count == count && s->estimate)
        return;
    g_assert(s->done == 0); /* the latents changed size under way */
    free_buffers(s);
    s->count = count;
    for (int i = 0; i < HISTORY; i++)
        s->history[i] = g_new0(float, count);
    s->held = g_new0(float, count);
    s->estimate = g_new0(float, count);
    s->work = g_new0(float, count);
}

/* ---- before the steps ---- */

const char *moji_sampler_name(const MojiSampler *s)
{
    return names[s->kind];
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
    if (s->kind != EULER && s->kind != EULER_A)
        return 1;
    for (int i = 0; i < s->calls; i++)
        most = MAX(most, s->sigmas[i]);
    return s->config.spacing == MOJI_SPACING_LEADING ? sqrtf(most * most + 1.0f) : most;
}

void moji_sampler_start(MojiSampler *s, float *x, gsize count)
{
    float sigma = moji_sampler_initial_sigma(s);
    s->done = 0;
    for (gsize i = 0; i < count; i++)
        x[i] *= sigma;
}

/* A sigma as a pair: x = alpha x0 + sigma noise with alpha^2 + sigma^2 = 1. */
static void split_sigma(float ratio, float *alpha, float *sigma)
{
    *alpha = 1.0f / sqrtf(ratio * ratio + 1.0f);
    *sigma = ratio * *alpha;
}

int moji_sampler_first_call(const MojiSampler *s, double strength)
{
    g_assert(strength >= 0 && strength <= 1);
    int taken = (int)(s->steps * strength);
    return taken > 0 ? s->steps - taken : s->calls;
}

void moji_sampler_add_noise(const MojiSampler *s, int call, const float *noise, float *x,
                            gsize count)
{
    g_assert(call >= 0 && call <= s->calls);
    float keep = 1, add;
    if (call == s->calls)
        return;
    if (!s->sigmas) {
        float a = s->alphas[(int)s->timesteps[call]];
        keep = sqrtf(a);
        add = sqrtf(1.0f - a);
    } else if (s->kind == EULER || s->kind == EULER_A) {
        add = s->sigmas[call];
    } else {
        split_sigma(s->sigmas[call], &keep, &add);
    }
    for (gsize i = 0; i < count; i++)
        x[i] = keep * x[i] + noise[i] * add;
}

void moji_sampler_start_at(MojiSampler *s, int call, const float *noise, float *x, gsize count)
{
    g_assert(call < s->calls);
    s->done = 0;
    moji_sampler_add_noise(s, call, noise, x, count);
}

void moji_sampler_input(MojiSampler *s, int call, const float *x, float *input, gsize count)
{
    g_assert(call >= 0 && call < s->calls);
    float divisor = 1;
    if (s->kind == EULER || s->kind == EULER_A)
        divisor = sqrtf(s->sigmas[call] * s->sigmas[call] + 1.0f);
    for (gsize i = 0; i < count; i++)
        input[i] = x[i] / divisor;
}

/* ---- the steps ---- */

/* Makes room at the front; the oldest is forgotten. */
static float *push_history(MojiSampler *s)
{
    float *oldest = s->history[HISTORY - 1];
    memmove(s->history + 1, s->history, (HISTORY - 1) * sizeof *s->history);
    return s->history[0] = oldest;
}

static float alpha_at(const MojiSampler *s, int t)
{
    g_assert(t < s->config.train_steps);
    return t >= 0 ? s->alphas[t] : s->final_alpha;
}

/* Fills s->work with noise, drawn in torch's order [C, h w], in the latents' order [h w, C]. */
static void draw_noise(MojiSampler *s, gsize count, int channels, MojiRandom *random)
{
    g_assert(channels > 0 && count % channels == 0);
    gsize pixels = count / channels;
    g_autofree float *drawn = g_new(float, count);
    moji_random_normal(random, drawn, count);
    for (gsize p = 0; p < pixels; p++)
        for (int c = 0; c < channels; c++)
            s->work[p * channels + c] = drawn[c * pixels + p];
}

/* Adams-Bashforth over the last four predictions, as many as there are; the very first two calls
 * are a Heun step over one interval. Leaves the combination in out. */
static void combine_pndm(const MojiSampler *s, const float *output, float *out, gsize count)
{
    float *const *h = s->history;
    for (gsize i = 0; i < count; i++) {
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
                          float *x, gsize count)
{
    float b = 1.0f - a, root_a = sqrtf(a), root_b = sqrtf(b);
    float scale = sqrtf(p / a), divisor = a * sqrtf(1.0f - p) + sqrtf(a * b * p);
    for (gsize i = 0; i < count; i++) {
        float e = output[i], before = from[i];
        if (s->config.v_prediction)
            e = root_a * e + root_b * before;
        s->estimate[i] = (before - root_b * e) / root_a;
        x[i] = scale * before - (p - a) * e / divisor;
    }
}

static void step_pndm(MojiSampler *s, int call, const float *output, float *x, gsize count)
{
    int ratio = s->config.train_steps / s->steps;
    int t = (int)s->timesteps[call], next = t - ratio;
    const float *from = x;
    if (s->done == 1) { /* the same interval again, from where it began */
        next = t;
        t += ratio;
        from = s->held;
    } else {
        memcpy(push_history(s), output, count * sizeof *x);
    }
    if (s->done == 0)
        memcpy(s->held, x, count * sizeof *x);
    combine_pndm(s, output, s->work, count);
    transfer_pndm(s, alpha_at(s, t), alpha_at(s, next), from, s->work, x, count);
}

/* Song et al. 2021 (arXiv:2010.02502), equation 12 with eta = 0. */
static void step_ddim(MojiSampler *s, int call, const float *output, float *x, gsize count)
{
    const MojiSamplerConfig *c = &s->config;
    int t = (int)s->timesteps[call];
    float a = alpha_at(s, t), p = alpha_at(s, t - c->train_steps / s->steps);
    float root_a = sqrtf(a), root_b = sqrtf(1.0f - a);
    float root_p = sqrtf(p), direction = sqrtf(1.0f - p), range = (float)c->clip_sample_range;
    for (gsize i = 0; i < count; i++) {
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

/* Karras et al. 2022 (arXiv:2206.00364): a straight step in x / alpha from sigma to `to`, and for
 * the ancestral form fresh noise of strength `up`. */
static void euler(MojiSampler *s, float sigma, float to, float up, const float *output, float *x,
                  gsize count)
{
    float squared = sigma * sigma + 1.0f, v_scale = -sigma / sqrtf(squared);
    for (gsize i = 0; i < count; i++) {
        float x0 = s->config.v_prediction ? output[i] * v_scale + x[i] / squared
                                          : x[i] - sigma * output[i];
        s->estimate[i] = x0;
        x[i] = x[i] + (x[i] - x0) / sigma * (to - sigma);
        if (up > 0)
            x[i] = x[i] + s->work[i] * up;
    }
}

static void step_euler_a(MojiSampler *s, int call, const float *output, float *x, gsize count)
{
    float from = s->sigmas[call], to = s->sigmas[call + 1];
    float up = sqrtf(to * to * (from * from - to * to) / (from * from));
    euler(s, from, sqrtf(to * to - up * up), up, output, x, count);
}

/* Lu et al. 2022 (arXiv:2211.01095), algorithm 2 (2M), midpoint form; of first order where there is
 * nothing to look back on, and at the end, where sigma is 0. */
static void step_dpm(MojiSampler *s, int call, const float *output, float *x, gsize count)
{
    float *x0 = push_history(s), *before = s->history[1];
    float alpha, sigma, alpha_next, sigma_next, alpha_last, sigma_last;
    split_sigma(s->sigmas[call], &alpha, &sigma);
    split_sigma(s->sigmas[call + 1], &alpha_next, &sigma_next);
    for (gsize i = 0; i < count; i++)
        x0[i] = s->config.v_prediction ? alpha * x[i] - sigma * output[i]
                                       : (x[i] - sigma * output[i]) / alpha;
    memcpy(s->estimate, x0, count * sizeof *x);

    float lambda = logf(alpha) - logf(sigma), h = logf(alpha_next) - logf(sigma_next) - lambda;
    float keep = sigma_next / sigma, move = alpha_next * (expf(-h) - 1.0f), slope = 0;
    if (s->done > 0 && call < s->calls - 1) {
        split_sigma(s->sigmas[call - 1], &alpha_last, &sigma_last);
        slope = 1.0f / ((lambda - (logf(alpha_last) - logf(sigma_last))) / h);
    }
    for (gsize i = 0; i < count; i++) {
        float first = keep * x[i] - move * x0[i];
        x[i] = slope == 0 ? first : first - 0.5f * move * (slope * (x0[i] - before[i]));
    }
}

/* Luo et al. 2023 (arXiv:2310.04378), with the boundary conditions of consistency models. */
static void step_lcm(MojiSampler *s, int call, const float *output, float *x, gsize count)
{
    const MojiSamplerConfig *c = &s->config;
    gboolean last = call == s->calls - 1;
    float a = alpha_at(s, (int)s->timesteps[call]);
    float p = alpha_at(s, (int)s->timesteps[last ? call : call + 1]);
    float t = s->timesteps[call] * 10.0f, range = (float)c->clip_sample_range;
    float skip = 0.25f / (t * t + 0.25f), out = t / sqrtf(t * t + 0.25f);
    float root_a = sqrtf(a), root_b = sqrtf(1.0f - a), root_p = sqrtf(p), spread = sqrtf(1.0f - p);
    for (gsize i = 0; i < count; i++) {
        float x0 = c->v_prediction ? root_a * x[i] - root_b * output[i]
                                   : (x[i] - root_b * output[i]) / root_a;
        if (c->clip_sample)
            x0 = CLAMP(x0, -range, range);
        s->estimate[i] = out * x0 + skip * x[i];
        x[i] = last ? s->estimate[i] : root_p * s->estimate[i] + spread * s->work[i];
    }
}

void moji_sampler_step(MojiSampler *s, int call, const float *output, float *x, gsize count,
                       int channels, MojiRandom *random)
{
    g_assert(call >= 0 && call < s->calls);
    need_buffers(s, count);
    /* The reference's Euler-a draws even for its last step, which adds none of it. */
    if (s->kind == EULER_A || (s->kind == LCM && call < s->calls - 1))
        draw_noise(s, count, channels, random);
    if (s->kind == PNDM)
        step_pndm(s, call, output, x, count);
    else if (s->kind == DDIM)
        step_ddim(s, call, output, x, count);
    else if (s->kind == EULER)
        euler(s, s->sigmas[call], s->sigmas[call + 1], 0, output, x, count);
    else if (s->kind == EULER_A)
        step_euler_a(s, call, output, x, count);
    else if (s->kind == LCM)
        step_lcm(s, call, output, x, count);
    else
        step_dpm(s, call, output, x, count);
    s->done++;
}

const float *moji_sampler_estimate(const MojiSampler *s)
{
    g_assert(s->done > 0);
    return s->estimate;
}
