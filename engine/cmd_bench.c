/* cmd_bench.c: `moji bench`: how fast each stage and each op is, and how far from what the
 * processor can do at most.
 *
 * The surprising rule: the limit is measured, not looked up: the rate of a large matrix product and
 * of a large copy, by this backend in this type. A record's limit is its operations at the one rate
 * or its bytes (each input read once, the output written once) at the other, whichever takes
 * longer; what stays in a cache can be faster than that. */
#include "command.h"
#include "draw.h"
#include "stage.h"
#include <json-glib/json-glib.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

typedef struct {
    char *model, *backend, *type, *json;
    int size, batch, steps, runs, threads;
    gboolean records;
} Options;

typedef struct {
    const Options *o;
    MojiBackend *backend;
    MojiModel *model;
    MojiType type;
    double flops, bytes; /* a second, at most */
    JsonBuilder *json;
} Bench;

static double now(void)
{
    return g_get_monotonic_time() / 1e6;
}

/* ---- what a record has to do ---- */

static double flops_of(const MojiRecord *r)
{
    const MojiTensor *x = r->in[0], *y = r->out;
    double out = (double)moji_tensor_count(y);
    switch (r->op) {
    case MOJI_OP_CONV2D:
        return 2 * out * x->dim[3] * r->attr.conv.kernel * r->attr.conv.kernel;
    case MOJI_OP_LINEAR:
        return 2 * out * x->dim[x->rank - 1];
    case MOJI_OP_ATTENTION:
        return 4 * out * r->in[1]->dim[1] * (r->attr.attention.causal ? 0.5 : 1);
    default:
        return 0;
    }
}

static double bytes_of(const MojiRecord *r)
{
    double bytes = (double)moji_tensor_bytes(r->out);
    for (int k = 0; k < MOJI_MAX_INPUTS; k++)
        if (r->in[k])
            bytes += r->op == MOJI_OP_EMBED && k == 0 ? (double)moji_tensor_bytes(r->out)
                                                      : (double)moji_tensor_bytes(r->in[k]);
    return bytes;
}

/* ---- the limits ---- */

/* Best seconds of a run of a tape whose only input is filled once. */
static gboolean time_tape(MojiTape *tape, MojiTensor *x, MojiTensor *y, MojiWeights *weights,
                          MojiBackend *backend, double *best, GError **error)
{
    enum { RUNS = 20 };
    moji_tape_plan(tape);
    if (!moji_tape_prepare(tape, backend, weights, error))
        return FALSE;
    g_autofree float *host = g_new(float, moji_tensor_count(x));
    g_autofree char *out = g_malloc(moji_tensor_bytes(y));
    for (gint64 i = 0; i < moji_tensor_count(x); i++)
        host[i] = (float)((i * 2654435761u >> 8 & 0xffff) / 65536.0 - 0.5);
    moji_tape_write(tape, x, host);
    *best = INFINITY;
    for (int run = 0; run < RUNS; run++) {
        double start = now();
        if (!moji_tape_run(tape, NULL, error))
            return FALSE;
        moji_tape_read(tape, y, out); /* waits */
        *best = MIN(*best, now() - start);
    }
    return TRUE;
}

/* A square matrix of values that are not zero, which multiply faster on some processors, and that
 * neither grow nor shrink what they multiply. */
static MojiWeights *square(int n)
{
    MojiWeights *w = moji_weights_new("the benchmark");
    float *data = g_new(float, (gsize)n *n);
    for (gsize i = 0; i < (gsize)n * n; i++)
        data[i] = (float)(((i * 2246822519u >> 8 & 0xffff) / 65536.0 - 0.5) * sqrt(12.0 / n));
    moji_weights_keep(w, data, g_free);
    moji_weights_add(w, &(MojiWeight){.name = (char *)"w.weight",
                                      .type = MOJI_F32,
                                      .rank = 2,
                                      .dim = {n, n},
                                      .data = data,
                                      .bytes = (gsize)n * n * sizeof *data});
    return w;
}

/* Seconds of a product of n by n matrices. One number of the result is read, not all of it. */
static gboolean time_product(Bench *b, int n, double *seconds, GError **error)
{
    MojiTape *tape = moji_tape_new(b->type);
    MojiWeights *w = square(n);
    MojiTensor *x = moji_input(tape, "x", MOJI_F32, 2, (gint64[]){n, n});
    MojiTensor *h = moji_cast(tape, moji_output(tape, x), b->type);
    for (int i = 0; i < 4; i++)
        h = moji_linear(tape, "w", h, n, FALSE);
    MojiTensor *one = moji_input(tape, "one", MOJI_F32, 1, (gint64[]){1});
    moji_output(tape, h);
    gboolean done = time_tape(tape, x, moji_output(tape, one), w, b->backend, seconds, error);
    *seconds /= 4;
    moji_tape_free(tape);
    moji_weights_free(w);
    return done;
}

static gboolean time_copy(Bench *b, gint64 values, double *seconds, GError **error)
{
    MojiTape *tape = moji_tape_new(MOJI_F32);
    MojiTensor *x = moji_output(tape, moji_input(tape, "x", MOJI_F32, 1, &values)), *h = x;
    for (int i = 0; i < 4; i++)
        h = moji_output(tape, moji_scale(tape, h, 0.5f));
    MojiTensor *one = moji_input(tape, "one", MOJI_F32, 1, (gint64[]){1});
    gboolean done = time_tape(tape, x, moji_output(tape, one), NULL, b->backend, seconds, error);
    *seconds /= 4;
    moji_tape_free(tape);
    return done;
}

/* Larger and larger, until it takes long enough to be measured or memory says stop. */
static gboolean find_limits(Bench *b, GError **error)
{
    double s = 0;
    for (int n = 512; n <= 8192 && s < 2e-3; n *= 2) {
        if (!time_product(b, n, &s, error))
            return FALSE;
        b->flops = MAX(b->flops, 2.0 * n * n * n / s);
    }
    s = 0;
    for (gint64 n = 1 << 22; n <= 1 << 26 && s < 2e-3; n *= 4) {
        if (!time_copy(b, n, &s, error))
            return FALSE;
        b->bytes = 8.0 * n / s; /* the last: a smaller one measures the cache */
    }
    return TRUE;
}

/* ---- one stage ---- */

/* Steady inputs only at first, as a drawing does. */
static void fill(MojiStage *s, gboolean first)
{
    for (int k = 0; k < 3 && s->in[k]; k++) {
        if (s->in[k]->steady && !first)
            continue;
        gint64 n = moji_tensor_count(s->in[k]);
        g_autofree gint32 *ids = g_new(gint32, n);
        float *values = (float *)ids;
        for (gint64 i = 0; i < n; i++)
            if (s->in[k]->type == MOJI_I32)
                ids[i] = (gint32)(i % s->in[k]->dim[1]);
            else
                values[i] = s->in[k]->rank == 1 ? 500.0f : (float)sin(0.7 * (double)i);
        moji_tape_write(s->tape, s->in[k], ids);
    }
}

static gboolean run_once(MojiStage *s, gboolean first, float *out, GError **error)
{
    fill(s, first);
    if (!moji_tape_run(s->tape, NULL, error))
        return FALSE;
    moji_tape_read(s->tape, s->out, out);
    return TRUE;
}

static gint by_value(gconstpointer a, gconstpointer b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/* Median seconds of a run with its inputs written and its output read, as a drawing has them. */
static gboolean time_stage(const Bench *b, MojiStage *s, double *median, GError **error)
{
    g_autofree float *out = g_new(float, moji_tensor_count(s->out));
    g_autofree double *took = g_new(double, b->o->runs);
    for (int i = -2; i < b->o->runs; i++) { /* two to settle */
        double start = now();
        if (!run_once(s, i == -2, out, error))
            return FALSE;
        if (i >= 0)
            took[i] = now() - start;
    }
    qsort(took, b->o->runs, sizeof *took, by_value);
    *median = took[b->o->runs / 2];
    return TRUE;
}

/* The least of each record over the runs. */
static gboolean time_records(const Bench *b, MojiStage *s, double *least, GError **error)
{
    int n = moji_tape_length(s->tape);
    g_autofree double *seconds = g_new(double, n);
    for (int run = 0; run < b->o->runs; run++) {
        fill(s, TRUE);
        if (!moji_tape_profile(s->tape, seconds, error))
            return FALSE;
        for (int i = 0; i < n; i++)
            least[i] = run ? MIN(least[i], seconds[i]) : seconds[i];
    }
    return TRUE;
}

/* ---- the table ---- */

typedef struct {
    int records;
    double seconds, flops, bytes, limit;
} Sum;

static void add_to(Sum *sum, const Bench *b, const MojiRecord *r, double seconds)
{
    sum->records++;
    sum->seconds += seconds;
    sum->flops += flops_of(r);
    sum->bytes += bytes_of(r);
    sum->limit += MAX(flops_of(r) / b->flops, bytes_of(r) / b->bytes);
}

/* seconds as milliseconds, rates, and the share of the limit that was reached */
static void print_sum(const Bench *b, const char *what, const Sum *s, double all)
{
    double t = MAX(s->seconds, 1e-12);
    printf("  %-12s %5d %10.3f %6.1f %9.2f %9.1f %7.1f\n", what, s->records, s->seconds * 1e3,
           100 * s->seconds / MAX(all, 1e-12), s->flops / t / 1e12, s->bytes / t / 1e9,
           100 * s->limit / t);
    const struct {
        const char *name;
        double value;
    } numbers[] = {{"records", s->records},
                   {"ms", s->seconds * 1e3},
                   {"tflops", s->flops / t / 1e12},
                   {"gbs", s->bytes / t / 1e9},
                   {"limit_ms", s->limit * 1e3}};
    json_builder_set_member_name(b->json, what);
    json_builder_begin_object(b->json);
    for (gsize i = 0; i < G_N_ELEMENTS(numbers); i++) {
        json_builder_set_member_name(b->json, numbers[i].name);
        json_builder_add_double_value(b->json, numbers[i].value);
    }
    json_builder_end_object(b->json);
}

static void print_records(const Bench *b, MojiTape *tape, const double *seconds)
{
    for (int i = 0; i < moji_tape_length(tape); i++) {
        const MojiRecord *r = moji_tape_record(tape, i);
        char in[96], out[96];
        Sum s = {0};
        add_to(&s, b, r, seconds[i]);
        printf("  %4d %-10s %9.4f ms %5.1f %%  %s -> %s %s\n", i, moji_op_name(r->op),
               s.seconds * 1e3, 100 * s.limit / MAX(s.seconds, 1e-12),
               moji_tensor_shape(r->in[0], in, sizeof in),
               moji_tensor_shape(r->out, out, sizeof out), r->name ? r->name : "");
    }
}

static void number(const Bench *b, const char *name, double value)
{
    json_builder_set_member_name(b->json, name);
    json_builder_add_double_value(b->json, value);
}

static void report(const Bench *b, MojiStage *s, double median, const double *seconds)
{
    Sum sums[MOJI_OP_COUNT] = {0}, all = {0};
    for (int i = moji_tape_steady(s->tape); i < moji_tape_length(s->tape); i++) {
        const MojiRecord *r = moji_tape_record(s->tape, i);
        add_to(&sums[r->op], b, r, seconds[i]);
        add_to(&all, b, r, seconds[i]);
    }
    printf("\n%s: %.3f ms a run, %.2f runs a second, %.2f TFLOP/s; limit %.3f ms (%.1f %%)\n",
           s->name, median * 1e3, 1 / median, all.flops / median / 1e12, all.limit * 1e3,
           100 * all.limit / median);
    printf("  %-12s %5s %10s %6s %9s %9s %7s\n", "op", "count", "ms", "%", "TFLOP/s", "GB/s",
           "% limit");
    json_builder_set_member_name(b->json, s->name);
    json_builder_begin_object(b->json);
    number(b, "ms", median * 1e3);
    number(b, "limit_ms", all.limit * 1e3);
    number(b, "tflops", all.flops / median / 1e12);
    json_builder_set_member_name(b->json, "ops");
    json_builder_begin_object(b->json);
    for (int op = 0; op < MOJI_OP_COUNT; op++)
        if (sums[op].records)
            print_sum(b, moji_op_name(op), &sums[op], all.seconds);
    print_sum(b, "all", &all, all.seconds);
    json_builder_end_object(b->json);
    json_builder_end_object(b->json);
    if (b->o->records)
        print_records(b, s->tape, seconds);
}

static MojiStage *stage_of(const Bench *b, const char *word)
{
    int n = b->o->batch, side = b->o->size / moji_vae_factor(&b->model->vae);
    return !strcmp(word, "text")   ? moji_stage_text(b->model, b->type, 2 * n, 1, FALSE)
           : !strcmp(word, "unet") ? moji_stage_unet(b->model, b->type, 2 * n, side, side)
                                   : moji_stage_vae(b->model, b->type, n, side, side);
}

static gboolean bench_stage(const Bench *b, const char *word, GError **error)
{
    double median;
    MojiStage *s = stage_of(b, word);
    g_autofree double *seconds = g_new0(double, moji_tape_length(s->tape));
    guint64 wanted = moji_stage_memory(s), left = moji_stage_memory_left(b->backend);
    if (wanted > left)
        g_set_error(error, MOJI_ERROR, MOJI_ERROR_MEMORY,
                    "%s at batch %d needs %.0f MiB and %.0f are available", word, b->o->batch,
                    wanted / 1048576.0, left / 1048576.0);
    gboolean done = wanted <= left && moji_stage_prepare(s, b->backend, error) &&
                    time_stage(b, s, &median, error) && time_records(b, s, seconds, error);
    if (done)
        report(b, s, median, seconds);
    moji_stage_free(s);
    return done;
}

/* ---- whole drawings ---- */

/* What `moji explain draw` says that it takes, beside what it took; nothing where there is no GPU.
 */
static gboolean report_memory(const Bench *b, MojiEngine *engine, GError **error)
{
    int side = b->o->size / moji_vae_factor(&b->model->vae);
    guint64 peak = moji_engine_device_peak(engine);
    MojiForecast f;
    if (!peak)
        return TRUE;
    MojiStage *stages[] = {moji_stage_text(b->model, b->type, 2, 1, FALSE),
                           moji_stage_step_card(b->model, b->type, b->o->batch, b->o->steps, side),
                           moji_stage_vae(b->model, b->type, 1, side, side)};
    gboolean done = moji_stage_forecast(stages, 3, b->backend, &f, error);
    double stated = (double)(f.weights + f.activations + f.working + f.libraries);
    for (int i = 0; i < 3; i++)
        moji_stage_free(stages[i]);
    if (!done)
        return FALSE;
    printf("  device memory: %.1f MiB stated before, %.1f MiB at most with the driver's own\n",
           stated / 1048576, (double)peak / 1048576);
    number(b, "memory_stated", stated);
    number(b, "memory_peak", (double)peak);
    return TRUE;
}

/* The engine opens a backend of its own, so that nothing of the stages' is in its way. */
static gboolean bench_draw(const Bench *b, GError **error)
{
    MojiEngine *engine = moji_engine_new(b->backend->name, b->o->threads, error);
    if (!engine)
        return FALSE;
    g_autoptr(MojiRequest) r = moji_request_new();
    g_autofree double *took = g_new(double, b->o->runs);
    gboolean done = TRUE;
    moji_engine_set_type(engine, moji_type_name(b->type));
    moji_engine_set_at_once(engine, b->o->batch);
    r->prompt = g_strdup("grinning cat");
    r->model = g_strdup(b->model->folder);
    r->size = b->o->size;
    r->steps = b->o->steps;
    r->count = b->o->batch;
    for (int i = -2; done && i < b->o->runs; i++) {
        double start = now();
        r->seed = i + 2;
        GPtrArray *images = moji_engine_draw(engine, r, NULL, NULL, NULL, error);
        done = images != NULL;
        if (i >= 0)
            took[i] = now() - start;
        g_clear_pointer(&images, g_ptr_array_unref);
    }
    if (done) {
        const MojiTimes *t = moji_engine_times(engine);
        qsort(took, b->o->runs, sizeof *took, by_value);
        double median = took[b->o->runs / 2];
        printf("\ndraw: %.3f s for %d of %d px in %d steps (%.2f pictures a second); in the last, "
               "%d calls of the U-Net took %.3f s, text %.3f s, decoding %.3f s\n",
               median, b->o->batch, b->o->size, b->o->steps, b->o->batch / median, t->unet_calls,
               t->unet, t->text, t->vae);
        json_builder_set_member_name(b->json, "draw");
        json_builder_begin_object(b->json);
        number(b, "ms", median * 1e3);
        number(b, "pictures", b->o->batch);
        number(b, "unet_ms", t->unet * 1e3);
        number(b, "unet_calls", t->unet_calls);
        done = report_memory(b, engine, error);
        json_builder_end_object(b->json);
    }
    moji_engine_free(engine);
    return done;
}

/* ---- the command ---- */

static const char *const STAGES[] = {"text", "unet", "vae", "draw", NULL};

static gboolean write_json(const Bench *b, GError **error)
{
    g_autoptr(JsonNode) root = json_builder_get_root(b->json);
    g_autoptr(JsonGenerator) out = json_generator_new();
    json_generator_set_root(out, root);
    json_generator_set_pretty(out, TRUE);
    return !b->o->json || json_generator_to_file(out, b->o->json, error);
}

static gboolean measure(Bench *b, const char *const *words, GError **error)
{
    printf("%s\n%s: %s, %d px, batch %d\n", b->backend->describe(b->backend), b->model->card.name,
           moji_type_name(b->type), b->o->size, b->o->batch);
    if (!find_limits(b, error))
        return FALSE;
    printf("limits measured here: %.2f TFLOP/s in a large product, %.1f GB/s in a large copy\n",
           b->flops / 1e12, b->bytes / 1e9);
    b->json = json_builder_new();
    json_builder_begin_object(b->json);
    json_builder_set_member_name(b->json, "backend");
    json_builder_add_string_value(b->json, b->backend->describe(b->backend));
    json_builder_set_member_name(b->json, "type");
    json_builder_add_string_value(b->json, moji_type_name(b->type));
    number(b, "size", b->o->size);
    number(b, "batch", b->o->batch);
    number(b, "limit_tflops", b->flops / 1e12);
    number(b, "limit_gbs", b->bytes / 1e9);
    gboolean done = TRUE;
    for (; *words && done; words++)
        done = strcmp(*words, "draw") ? bench_stage(b, *words, error) : bench_draw(b, error);
    json_builder_end_object(b->json);
    done = done && write_json(b, error);
    g_object_unref(b->json);
    return done;
}

static int bench(Options *o, const char *const *words)
{
    GError *error = NULL;
    Bench b = {.o = o};
    g_autofree char *folder = o->model ? g_strdup(o->model) : moji_model_bundled();
    int code = MOJI_EXIT_OK;
    if (!folder)
        return moji_command_fail(g_error_new(MOJI_ERROR, MOJI_ERROR_FILE,
                                             "The bundled model is not installed; use --model"));
    b.backend = moji_backend_open(o->backend, MAX(o->threads, 0), &error);
    b.model = b.backend ? moji_model_open(folder, &error) : NULL;
    if (b.model) {
        int unit = moji_stage_size_unit(b.model);
        o->size = o->size ? o->size : b.model->card.size;
        o->steps = o->steps ? o->steps : b.model->card.steps;
        b.type = b.backend->preferred(b.backend);
        if (o->type)
            moji_type_parse(o->type, &b.type);
        if (o->size % unit || o->size < MOJI_REQUEST_MIN_SIZE || o->size > MOJI_REQUEST_MAX_SIZE)
            code = moji_command_misuse("--size %d: expected a multiple of %d from %d to %d",
                                       o->size, unit, MOJI_REQUEST_MIN_SIZE, MOJI_REQUEST_MAX_SIZE);
        else
            measure(&b, words, &error);
    }
    moji_model_free(b.model);
    moji_backend_close(b.backend);
    return error ? moji_command_fail(error) : code;
}

static gboolean check(const Options *o, char **words)
{
    MojiType type;
    for (; *words; words++)
        if (!g_strv_contains(STAGES, *words)) {
            moji_command_misuse("bench measures text, unet, vae or draw, not \"%s\"", *words);
            return FALSE;
        }
    if (o->type && !moji_type_parse(o->type, &type))
        moji_command_misuse("--type \"%s\": expected f32, bf16 or f16", o->type);
    else if (o->batch < 1 || o->batch > 32)
        moji_command_misuse("--batch %d: expected 1 to 32", o->batch);
    else if (o->runs < 1 || o->runs > 1000)
        moji_command_misuse("--runs %d: expected 1 to 1000", o->runs);
    else if (o->steps < 0 || o->steps > 1000)
        moji_command_misuse("--steps %d: expected 1 to 1000", o->steps);
    else
        return TRUE;
    return FALSE;
}

int moji_cmd_bench(int argc, char **argv)
{
    Options o = {.batch = 1, .runs = 5};
    const GOptionEntry entries[] = {
        {"model", 0, 0, G_OPTION_ARG_FILENAME, &o.model, "Model folder (the bundled one)", "DIR"},
        {"backend", 0, 0, G_OPTION_ARG_STRING, &o.backend, "auto, cpu or cuda (auto)", "NAME"},
        {"type", 0, 0, G_OPTION_ARG_STRING, &o.type, "f32, bf16 or f16 (the fastest)", "T"},
        {"size", 0, 0, G_OPTION_ARG_INT, &o.size, "Pixels on a side (the model's)", "N"},
        {"batch", 0, 0, G_OPTION_ARG_INT, &o.batch, "Pictures at once (1)", "N"},
        {"steps", 0, 0, G_OPTION_ARG_INT, &o.steps, "Steps of a drawing (the model's)", "N"},
        {"runs", 0, 0, G_OPTION_ARG_INT, &o.runs, "Runs, of which the median counts (5)", "N"},
        {"threads", 0, 0, G_OPTION_ARG_INT, &o.threads, "Threads (one a core)", "N"},
        {"records", 0, 0, G_OPTION_ARG_NONE, &o.records, "Print every record too", NULL},
        {"json", 0, 0, G_OPTION_ARG_FILENAME, &o.json, "Write the figures there too", "FILE"},
        G_OPTION_ENTRY_NULL};
    g_auto(GStrv) words = NULL;
    int code = MOJI_EXIT_USAGE;
    if (moji_command_parse("[text|unet|vae|draw]...",
                           "Measures the stages named, or all: a run as a drawing has it, then\n"
                           "each op with its rates and the share of what it could reach at most.",
                           entries, argc, argv, &words) &&
        check(&o, words))
        code = bench(&o, *words ? (const char *const *)words : STAGES);
    g_free(o.model);
    g_free(o.backend);
    g_free(o.type);
    g_free(o.json);
    return code;
}
