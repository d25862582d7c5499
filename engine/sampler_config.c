/* sampler_config.c: diffusers' scheduler_config.json; see sampler.h.
 *
 * The surprising rule: a file's own class decides what a member that the file lacks means, so
 * defaults are filled in only once a sampler is chosen. */
#include "sampler_private.h"
#include "json.h"
#include <string.h>

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
    {"EulerDiscreteScheduler", "use_beta_sigmas", "false"},
    {"EulerDiscreteScheduler", "interpolation_type", "\"linear\""},
    {"EulerDiscreteScheduler", "timestep_type", "\"discrete\""},
    {"EulerDiscreteScheduler", "final_sigmas_type", "\"zero\""},
    {"DPMSolverMultistepScheduler", "solver_order", "2"},
    {"DPMSolverMultistepScheduler", "solver_type", "\"midpoint\""},
    {"DPMSolverMultistepScheduler", "final_sigmas_type", "\"zero\""},
    {"DPMSolverMultistepScheduler", "use_beta_sigmas", "false"},
    {"DPMSolverMultistepScheduler", "use_lu_lambdas", "false"},
    {"DPMSolverMultistepScheduler", "use_flow_sigmas", "false"},
    {"LCMScheduler", "original_inference_steps", "50"},
    {"LCMScheduler", "timestep_scaling", "10.0"},
    {"TCDScheduler", "original_inference_steps", "50"},
    {"HeunDiscreteScheduler", "use_beta_sigmas", "false"},
    {"DPMSolverSDEScheduler", "use_beta_sigmas", "false"},
    {"UniPCMultistepScheduler", "use_beta_sigmas", "false"},
    {"UniPCMultistepScheduler", "use_flow_sigmas", "false"},
    {"UniPCMultistepScheduler", "solver_order", "2"},
    {"UniPCMultistepScheduler", "predict_x0", "true"},
    {"UniPCMultistepScheduler", "lower_order_final", "true"},
    {"UniPCMultistepScheduler", "disable_corrector", "[]"},
    {"UniPCMultistepScheduler", "final_sigmas_type", "\"zero\""},
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

/* Forms of one class that are samplers of their own here. */
static gboolean read_forms(JsonObject *o, const char *path, MojiSamplerConfig *c, GError **error)
{
    gboolean karras = FALSE, exponential = FALSE;
    g_autofree char *algorithm = NULL, *solver = NULL;
    if (!moji_json_bool(o, path, "use_karras_sigmas", &karras, error) ||
        !moji_json_bool(o, path, "use_exponential_sigmas", &exponential, error) ||
        !moji_json_string(o, path, "algorithm_type", &algorithm, error) ||
        !moji_json_string(o, path, "solver_type", &solver, error))
        return FALSE;
    c->own_sigmas = karras        ? MOJI_SIGMAS_KARRAS
                    : exponential ? MOJI_SIGMAS_EXPONENTIAL
                                  : MOJI_SIGMAS_UNSET;
    c->own_stochastic = !g_strcmp0(algorithm, "sde-dpmsolver++");
    if (algorithm && !c->own_stochastic && strcmp(algorithm, "dpmsolver++") &&
        !strcmp(c->class_name, "DPMSolverMultistepScheduler"))
        g_strlcpy(c->unsupported, "algorithm_type", sizeof c->unsupported);
    /* Other types than its own two mean bh2 to UniPC. */
    if (!g_strcmp0(solver, "bh1") && !strcmp(c->class_name, "UniPCMultistepScheduler"))
        g_strlcpy(c->unsupported, "solver_type", sizeof c->unsupported);
    return TRUE;
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
    return read_forms(root, path, config, error);
}

void moji_sampler_fill_defaults(MojiSamplerConfig *c, const MojiSamplerMethod *method)
{
    if (c->spacing == MOJI_SPACING_UNSET)
        c->spacing = method->spacing;
    if (c->sigmas == MOJI_SIGMAS_UNSET)
        c->sigmas = method->sigmas == MOJI_SIGMAS_UNSET ? MOJI_SIGMAS_PLAIN : method->sigmas;
    if (c->set_alpha_to_one == MOJI_ABSENT)
        c->set_alpha_to_one = method->set_alpha_to_one;
    if (c->clip_sample == MOJI_ABSENT)
        c->clip_sample = method->clip_sample;
    if (c->scaled_linear == MOJI_ABSENT)
        c->scaled_linear = method->scaled_linear;
    if (c->beta_start <= 0)
        c->beta_start = method->beta_start;
    if (c->beta_end <= 0)
        c->beta_end = method->beta_end;
}
