/* test_sampler.c: whole trajectories against diffusers, with a formula in the UNet's place. */
#include "json.h"
#include "random.h"
#include "sampler.h"
#include "test.h"
#include "twins.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

enum { CHANNELS = 2, PIXELS = 12, COUNT = CHANNELS * PIXELS };

static float *data;
static gsize data_count;
static JsonParser *parser;
static JsonObject *cases;

static void load(void)
{
    gint64 shape[4];
    g_autofree char *path = moji_test_path("host/sampler_cases.json");
    data = moji_test_npy("host/sampler_data.npy", &data_count, shape);
    parser = moji_json_open(path, &cases, NULL);
    g_assert(parser);
}

/* A config of the fixture, through a file as a model folder has it. */
static gboolean read_config(const char *label, MojiSamplerConfig *config)
{
    g_autofree char *path = g_build_filename(moji_test_scratch(), "scheduler_config.json", NULL);
    JsonObject *configs = json_object_get_object_member(cases, "configs");
    g_autofree char *text = json_to_string(json_object_get_member(configs, label), FALSE);
    g_autoptr(GError) error = NULL;
    return MOJI_CHECK(g_file_set_contents(path, text, -1, NULL), "cannot write %s", path) &&
           MOJI_CHECK(moji_sampler_config_read(path, config, &error), "%s: %s", label,
                      error ? error->message : "no reason");
}

/* As make_host.py's fake_unet(). */
static void fake_unet(const float *x, float t, float *out)
{
    for (int i = 0; i < COUNT; i++) {
        float bend = 1.5f * x[i] / (1.0f + fabsf(x[i]));
        out[i] = bend + 0.001f * t * 0.25f - 0.1f;
    }
}

static void to_nhwc(const float *in, float *out)
{
    for (int p = 0; p < PIXELS; p++)
        for (int c = 0; c < CHANNELS; c++)
            out[p * CHANNELS + c] = in[c * PIXELS + p];
}

/* A picture under way. What was not written yet is no number, so that it shows if it is used. */
typedef struct {
    const MojiSampler *s;
    int first;
    float plane[MOJI_PLANES][COUNT];
    MojiRandom random;
} Run;

static void begin(Run *r, const MojiSampler *s, int first)
{
    float drawn[COUNT], noise[COUNT], picture[COUNT], *x = r->plane[MOJI_PLANE_X];
    *r = (Run){.s = s, .first = first};
    for (int k = 0; k < MOJI_PLANES; k++)
        for (int i = 0; i < COUNT; i++)
            r->plane[k][i] = NAN;
    moji_random_seed(&r->random, 11);
    moji_random_normal(&r->random, drawn, COUNT);
    to_nhwc(drawn, noise);
    if (first == 0) {
        memcpy(x, noise, sizeof noise);
        moji_sampler_start(s, x, COUNT);
        return;
    }
    for (int i = 0; i < COUNT; i++)
        picture[i] = -1 + 2 * (float)i / (COUNT - 1);
    to_nhwc(picture, x);
    moji_sampler_add_noise(s, first, noise, x, COUNT);
}

static void look(const Run *r, int call, float *input)
{
    for (int i = 0; i < COUNT; i++)
        input[i] = (float)moji_sampler_scale(r->s, call) * r->plane[MOJI_PLANE_X][i];
}

/* As a backend takes it: factors and planes are f32. */
static void take(Run *r, int call, const float *output)
{
    double factor[MOJI_PLANES][MOJI_TERMS + 1], from[MOJI_TERMS][COUNT], to[MOJI_PLANES][COUNT];
    float drawn[COUNT];
    MojiSamplerStep step;
    moji_sampler_step(r->s, call, call - r->first, &step);
    for (int i = 0; i < MOJI_PLANES; i++) {
        for (int k = 0; k < MOJI_TERMS; k++)
            factor[i][k] = (float)step.to[i][k];
        factor[i][MOJI_TERMS] = i == MOJI_PLANE_ESTIMATE ? step.range : INFINITY;
    }
    if (step.draws) {
        moji_random_normal(&r->random, drawn, COUNT);
        to_nhwc(drawn, r->plane[MOJI_PLANE_NOISE]);
    }
    for (int k = 0; k < MOJI_TERMS; k++)
        for (int i = 0; i < COUNT; i++)
            from[k][i] = k < MOJI_PLANES ? r->plane[k][i] : output[i];
    twin_mix(to[0], from[0], from[MOJI_PLANES], factor[0], MOJI_PLANES, 1, MOJI_PLANES, COUNT);
    for (int k = 0; k < MOJI_PLANES; k++)
        for (int i = 0; i < COUNT; i++)
            r->plane[k][i] = (float)to[k][i];
}

static double worst; /* of all rows: the largest error relative to the largest latent, or 1 */

static gboolean close_to(const float *a, const float *b, double limit, const char *what)
{
    double most = 1;
    for (int i = 0; i < COUNT; i++)
        most = MAX(most, fabs(b[i]));
    double error = moji_test_max_error(a, b, COUNT) / most;
    worst = MAX(worst, error);
    return MOJI_CHECK(error <= limit, "%s: relative error %g", what, error);
}

static void check_case(JsonObject *row, MojiSampler *s, const char *what)
{
    int calls = json_object_get_int_member(row, "calls");
    int start = json_object_get_int_member(row, "start");
    const float *want = data + json_object_get_int_member(row, "at");
    float input[COUNT], output[COUNT];
    Run r;
    if (!MOJI_CHECK(moji_sampler_calls(s) == start + calls, "%s: %d calls, expected %d", what,
                    moji_sampler_calls(s), start + calls))
        return;
    float sigma = moji_sampler_initial_sigma(s);
    MOJI_CHECK(fabsf(sigma / want[calls] - 1) < 1e-6, "%s: initial sigma %g, expected %g", what,
               sigma, want[calls]);
    /* A step down from a sigma of hundreds takes x from x: the reference, in f32, loses its last
     * digits there. */
    double limit = sigma > 100 && json_object_get_int_member(row, "steps") <= 4 ? 5e-4 : 1e-4;
    begin(&r, s, start);
    for (int i = 0; i < calls; i++) {
        float t = moji_sampler_timestep(s, start + i);
        /* One that lies between whole ones in log sigma has the last bits of numpy's logarithm. */
        gboolean whole = want[i] == rintf(want[i]);
        if (!MOJI_CHECK(whole ? t == want[i] : fabsf(t - want[i]) < 2e-4f,
                        "%s: timestep %d is %.9g, expected %.9g", what, i, t, want[i]))
            return;
        look(&r, start + i, input);
        fake_unet(input, t, output);
        take(&r, start + i, output);
        if (i == 0 && !close_to(r.plane[MOJI_PLANE_X], want + calls + 1, limit, what))
            return;
    }
    close_to(r.plane[MOJI_PLANE_X], want + calls + 1 + COUNT, limit, what);
    /* The reference's of lcm has some of x in it, ours is x0 itself. */
    gboolean lcm = !strcmp(moji_sampler_name(s), "lcm");
    if (json_object_get_boolean_member(row, "estimate"))
        close_to(r.plane[MOJI_PLANE_ESTIMATE], want + calls + 1 + 2 * COUNT, lcm ? 1e-3 : limit,
                 what);
}

static void test_trajectories(void)
{
    JsonArray *rows = json_object_get_array_member(cases, "cases");
    guint n = json_array_get_length(rows);
    for (guint i = 0; i < n; i++) {
        JsonObject *row = json_array_get_object_element(rows, i);
        const char *label = json_object_get_string_member(row, "config");
        const char *name = json_object_get_null_member(row, "sampler")
                               ? NULL
                               : json_object_get_string_member(row, "sampler");
        int steps = json_object_get_int_member(row, "steps");
        const char *sigmas = json_object_get_null_member(row, "sigmas")
                                 ? NULL
                                 : json_object_get_string_member(row, "sigmas");
        g_autofree char *what = g_strdup_printf("%s, %s, %d steps, %s sigmas", label,
                                                name ? name : "own", steps, sigmas);
        MojiSamplerConfig config;
        g_autoptr(GError) error = NULL;
        if (!read_config(label, &config))
            return;
        if (sigmas)
            MOJI_CHECK(moji_sigmas_from_name(sigmas, &config.sigmas), "%s are unknown", sigmas);
        MojiSampler *s = moji_sampler_new(&config, name, steps, &error);
        if (MOJI_CHECK(s, "%s: %s", what, error ? error->message : "no reason"))
            check_case(row, s, what);
        moji_sampler_free(s);
    }
    MOJI_CHECK(n > 1500, "only %u rows", n);
    printf("# %u trajectories, largest relative error %.2g\n", n, worst);
}

/* As make_host.py's checksum(). */
static gint64 timesteps_sum(const MojiSampler *s)
{
    guint64 sum = 0;
    for (int i = 0; i < moji_sampler_calls(s); i++) {
        float t = moji_sampler_timestep(s, i);
        guint32 bits;
        memcpy(&bits, &t, 4);
        sum += bits * (2 * (guint64)i + 1);
    }
    return (gint64)sum;
}

static void test_timesteps(void)
{
    static const MojiSpacing spacings[] = {MOJI_SPACING_LEADING, MOJI_SPACING_LINSPACE,
                                           MOJI_SPACING_TRAILING};
    gint64 shape[4];
    gsize count;
    int compared = 0;
    g_autofree gint64 *sums = moji_test_npy_int("host/sampler_timesteps.npy", &count, shape);
    const gint64 *want = sums;
    MojiSamplerConfig config;
    if (!read_config("sd14", &config))
        return;
    for (int k = 0; k < shape[0]; k++) {
        for (int j = 0; j < shape[1]; j++) {
            config.spacing = spacings[j];
            for (int steps = 1; steps <= shape[2]; steps++, want++) {
                if (*want == 0)
                    continue;
                MojiSampler *s = moji_sampler_new(&config, moji_sampler_names()[k], steps, NULL);
                MOJI_CHECK(s && timesteps_sum(s) == *want, "%s, spacing %d, %d steps differ",
                           moji_sampler_names()[k], j, steps);
                moji_sampler_free(s);
                compared++;
            }
        }
    }
    MOJI_CHECK(compared > 13500, "only %d lists of timesteps", compared);
}

/* Where the reference gives no picture, we say so before drawing, and what to do instead. */
static void test_refusals(void)
{
    static const struct {
        const char *config, *name;
        int steps;
        const char *advice;
    } rows[] = {
        {"sd14", "dpm", 20, "choose one of: pndm, ddim, euler"},
        {"sd14", "", 20, "choose one of"},
        {"sd14", "ddim", 0, "takes 1 to 1000"},
        {"sd14", "ddim", -5, "takes 1 to 1000"},
        {"sd14", "euler", 1001, "takes 1 to 1000"},
        {"sd14", "pndm", 1000, "take fewer"},
        {"sd14", "dpm++2m", 1000, "takes 1 to 999"},
        {"sd14", "lcm", 51, "takes 1 to 50"},
        {"zero-snr leading", "pndm", 20, "choose ddim or euler"},
        {"zero-snr trailing", "ddim", 20, "choose euler"},
        {"zero-snr leading", "lcm", 4, "choose euler"},
    };
    for (gsize i = 0; i < G_N_ELEMENTS(rows); i++) {
        MojiSamplerConfig config;
        g_autoptr(GError) error = NULL;
        if (!read_config(rows[i].config, &config))
            return;
        MojiSampler *s = moji_sampler_new(&config, rows[i].name, rows[i].steps, &error);
        MOJI_CHECK(!s && g_error_matches(error, MOJI_ERROR, MOJI_ERROR_USAGE) &&
                       strstr(error->message, rows[i].advice),
                   "%s, %s, %d steps: %s", rows[i].config, rows[i].name, rows[i].steps,
                   error ? error->message : "was made");
        moji_sampler_free(s);
    }
}

/* A model's own class, when it is one we lack or asks for something we lack. */
static void test_own_class(void)
{
    MojiSamplerConfig config;
    g_autoptr(GError) error = NULL, unsupported = NULL;
    if (!read_config("sd14", &config))
        return;
    MojiSampler *s = moji_sampler_new(&config, NULL, 20, NULL);
    MOJI_CHECK(s && moji_sampler_calls(s) == 21 && strcmp(moji_sampler_name(s), "pndm") == 0,
               "SD 1.4's own sampler is PNDM");
    moji_sampler_free(s);
    g_strlcpy(config.unsupported, "solver_order", sizeof config.unsupported);
    s = moji_sampler_new(&config, NULL, 20, &unsupported);
    MOJI_CHECK(!s && strstr(unsupported->message, "solver_order"), "an unknown solver_order");
    g_strlcpy(config.class_name, "DEISMultistepScheduler", sizeof config.class_name);
    s = moji_sampler_new(&config, NULL, 20, &error);
    MOJI_CHECK(!s && strstr(error->message, "DEISMultistepScheduler"), "an unknown class");
    s = moji_sampler_new(&config, "ddim", 20, NULL);
    MOJI_CHECK(s, "a sampler chosen by name with a model of another class");
    moji_sampler_free(s);
}

/* sigma at t by the definition, in double: linear between whole timesteps. */
static double sigma_by_definition(double t)
{
    double product = 1, low = 0, high = 0;
    for (int i = 0; i <= MIN((int)t + 1, 999); i++) {
        double root = sqrt(0.00085) + (sqrt(0.012) - sqrt(0.00085)) * i / 999;
        product *= 1 - root * root;
        low = i <= (int)t ? sqrt((1 - product) / product) : low;
        high = sqrt((1 - product) / product);
    }
    return low + (high - low) * (t - (int)t);
}

/* A UNet that knows the finished latents: given alpha x0 + sigma e it says e, or v. */
static void oracle(const float *input, float t, gboolean v, const float *x0, float *out)
{
    double ratio = sigma_by_definition(t), alpha = 1 / sqrt(ratio * ratio + 1);
    double sigma = ratio * alpha;
    for (int i = 0; i < COUNT; i++) {
        double e = (input[i] - alpha * x0[i]) / sigma;
        out[i] = v ? alpha * e - sigma * x0[i] : e;
    }
}

/* Whatever the sampler, such a UNet must lead to its picture, and every preview must show it. The
 * loosest is PNDM of velocities, which averages over timesteps what changes with them. */
static void test_oracle(void)
{
    for (int k = 0; moji_sampler_names()[k]; k++) {
        for (int v = 0; v < 2; v++) {
            const char *name = moji_sampler_names()[k];
            MojiSamplerConfig config;
            Run r;
            float x0[COUNT], input[COUNT], output[COUNT];
            if (!read_config(v ? "v leading" : "sd14", &config))
                return;
            for (int i = 0; i < COUNT; i++)
                x0[i] = sinf(i);
            MojiSampler *s = moji_sampler_new(&config, name, 20, NULL);
            begin(&r, s, 0);
            for (int i = 0; i < moji_sampler_calls(s); i++) {
                look(&r, i, input);
                oracle(input, moji_sampler_timestep(s, i), v, x0, output);
                take(&r, i, output);
                double error = moji_test_max_error(r.plane[MOJI_PLANE_ESTIMATE], x0, COUNT);
                MOJI_CHECK(error < (k == 0 && v ? 0.2 : 0.03),
                           "%s, v %d, call %d: the estimate is off by %g", name, v, i, error);
            }
            /* PNDM and DDIM here end at the noise of timestep 0, not at none. */
            double error = moji_test_max_error(r.plane[MOJI_PLANE_X], x0, COUNT);
            MOJI_CHECK(error < 0.1, "%s, v %d: off by %g", name, v, error);
            moji_sampler_free(s);
        }
    }
}

/* The share of steps, as diffusers' get_timesteps() counts it, and what may be asked between steps.
 */
static void test_strength(void)
{
    static const struct {
        const char *name;
        int steps;
        double strength;
        int first;
    } rows[] = {{"ddim", 50, 0.5, 25}, {"ddim", 50, 1, 0},     {"ddim", 10, 0.99, 1},
                {"ddim", 3, 0.5, 2},   {"pndm", 50, 0.75, 13}, {"euler", 20, 0.05, 19},
                {"ddim", 10, 0, 10},   {"ddim", 10, 0.09, 10}, {"pndm", 10, 0.09, 11}};
    MojiSamplerConfig config;
    float noise[COUNT], x[COUNT], y[COUNT];
    if (!read_config("sd14", &config))
        return;
    for (gsize i = 0; i < G_N_ELEMENTS(rows); i++) {
        MojiSampler *s = moji_sampler_new(&config, rows[i].name, rows[i].steps, NULL);
        int first = moji_sampler_first_call(s, rows[i].strength);
        MOJI_CHECK(first == rows[i].first, "%s, %d steps, strength %g: call %d, expected %d",
                   rows[i].name, rows[i].steps, rows[i].strength, first, rows[i].first);
        for (int k = 0; k < COUNT; k++) {
            noise[k] = cosf(k);
            x[k] = y[k] = sinf(k);
        }
        moji_sampler_add_noise(s, moji_sampler_calls(s), noise, x, COUNT);
        MOJI_CHECK(!memcmp(x, y, sizeof x), "%s: noise after the last call", rows[i].name);
        moji_sampler_add_noise(s, 0, noise, x, COUNT);
        MOJI_CHECK(memcmp(x, y, sizeof x), "%s: no noise before the first call", rows[i].name);
        moji_sampler_free(s);
    }
}

/* Many Karras steps share rounded timesteps; each must still have its own sigma. */
static void test_crowded(void)
{
    MojiSamplerConfig config;
    float input[COUNT], output[COUNT];
    Run r;
    if (!read_config("zero-snr v trailing", &config))
        return;
    MojiSampler *s = moji_sampler_new(&config, "dpm++2m-karras", 600, NULL);
    begin(&r, s, 0);
    for (int i = 0; i < moji_sampler_calls(s); i++) {
        look(&r, i, input);
        fake_unet(input, moji_sampler_timestep(s, i), output);
        take(&r, i, output);
    }
    for (int i = 0; i < COUNT; i++)
        MOJI_CHECK(fabsf(r.plane[MOJI_PLANE_X][i]) < 100, "x[%d] is %g", i,
                   r.plane[MOJI_PLANE_X][i]);
    moji_sampler_free(s);
}

static void test_files(void)
{
    static const struct {
        const char *text, *fault;
    } rows[] = {
        {"", ""},
        {"[1]", ""},
        {"{\"num_train_timesteps\": 0}", "num_train_timesteps"},
        {"{\"num_train_timesteps\": 1e9}", "num_train_timesteps"},
        {"{\"num_train_timesteps\": \"1000\"}", "num_train_timesteps"},
        {"{\"beta_schedule\": \"squaredcos_cap_v2\"}", "squaredcos_cap_v2"},
        {"{\"beta_start\": -1}", "beta_start"},
        {"{\"beta_end\": 1.5}", "beta_end"},
        {"{\"trained_betas\": [0.1, 0.2]}", "trained_betas"},
        {"{\"prediction_type\": \"sample\"}", "prediction_type"},
        {"{\"timestep_spacing\": \"sideways\"}", "timestep_spacing"},
        {"{\"thresholding\": true}", "thresholding"},
        {"{\"clip_sample\": 1}", "clip_sample"},
        {"{\"_class_name\": 7}", "_class_name"},
    };
    g_autofree char *path = g_build_filename(moji_test_scratch(), "scheduler_config.json", NULL);
    for (gsize i = 0; i < G_N_ELEMENTS(rows); i++) {
        MojiSamplerConfig config;
        g_autoptr(GError) error = NULL;
        g_assert(g_file_set_contents(path, rows[i].text, -1, NULL));
        gboolean read = moji_sampler_config_read(path, &config, &error);
        MOJI_CHECK(!read && g_error_matches(error, MOJI_ERROR, MOJI_ERROR_FILE) &&
                       strstr(error->message, path) && strstr(error->message, rows[i].fault),
                   "%s: %s", rows[i].text, read ? "was read" : error->message);
    }
}

int main(void)
{
    load();
    moji_test("sampler: trajectories of diffusers", test_trajectories);
    moji_test("sampler: timesteps of every count of steps", test_timesteps);
    moji_test("sampler: refusals say what to do", test_refusals);
    moji_test("sampler: the model's own class", test_own_class);
    moji_test("sampler: a UNet that knows the picture leads to it", test_oracle);
    moji_test("sampler: where a strength begins", test_strength);
    moji_test("sampler: more steps than timesteps apart", test_crowded);
    moji_test("sampler: faulty config files", test_files);
    g_object_unref(parser);
    g_free(data);
    return moji_test_end();
}
