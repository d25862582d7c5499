/* sd14.c: times one U-Net call and one decoding of a model folder; sd14.py sets it beside
 * diffusers.
 *
 *     build/bench/sd14 FOLDER DATA TYPE RUNS [PROFILE]
 *
 * DATA holds sample.f32 [2,h,w,c] (NHWC), timestep.f32 [2], context.f32 [2,n,C] and latents.f32
 * [1,h,w,c], raw; outputs go beside them as unet.f32 and decoded.f32. Prints lines "key value".
 * With PROFILE ("unet" or "vae") it prints instead the time of each op of that stage, summed by op.
 */
#include "stage.h"
#include "tape_private.h" /* one record at a time, for the profile */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

static void fail(GError *error)
{
    fprintf(stderr, "sd14: %s\n", error->message);
    exit(1);
}

static void load(MojiStage *s, int input, const char *data, const char *name)
{
    GError *error = NULL;
    g_autofree char *path = g_build_filename(data, name, NULL), *bytes = NULL;
    gsize length;
    if (!g_file_get_contents(path, &bytes, &length, &error))
        fail(error);
    if (length != moji_tensor_bytes(s->in[input]))
        g_error("%s has %zu bytes, expected %zu", path, length, moji_tensor_bytes(s->in[input]));
    moji_tape_write(s->tape, s->in[input], bytes);
}

static void load_all(MojiStage *s, const char *data)
{
    gboolean unet = !strcmp(s->name, "unet");
    load(s, 0, data, unet ? "sample.f32" : "latents.f32");
    if (unet) {
        load(s, 1, data, "timestep.f32");
        load(s, 2, data, "context.f32");
    }
}

static void save(MojiStage *s, const char *data, const char *name)
{
    GError *error = NULL;
    g_autofree char *path = g_build_filename(data, name, NULL);
    gsize bytes = moji_tensor_bytes(s->out);
    g_autofree char *host = g_malloc(bytes);
    moji_tape_read(s->tape, s->out, host);
    if (!g_file_set_contents(path, host, bytes, &error))
        fail(error);
}

static double seconds(gint64 since)
{
    return (g_get_monotonic_time() - since) * 1e-6;
}

/* Of all threads: on a busy machine it tells more than the clock on the wall. */
static double processor_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static double peak_mib(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_maxrss / 1024.0;
}

static void measure(MojiStage *s, MojiBackend *backend, const char *data, int runs)
{
    GError *error = NULL;
    gint64 start = g_get_monotonic_time();
    if (!moji_stage_prepare(s, backend, &error))
        fail(error);
    printf("%s_prepare %.3f\n", s->name, seconds(start));
    for (int i = 0; i < runs; i++) {
        load_all(s, data);
        double processor = processor_seconds();
        start = g_get_monotonic_time();
        if (!moji_tape_run(s->tape, NULL, &error))
            fail(error);
        printf("%s_run %.4f\n", s->name, seconds(start));
        printf("%s_cpu %.4f\n", s->name, processor_seconds() - processor);
        fflush(stdout);
    }
    printf("%s_peak_mib %.0f\n", s->name, peak_mib());
    save(s, data, strcmp(s->name, "unet") ? "decoded.f32" : "unet.f32");
}

/* Best processor time of each record over the runs, and the sums by op. */
static void profile(MojiStage *s, MojiBackend *backend, const char *data, int runs)
{
    GError *error = NULL;
    int n = moji_tape_length(s->tape);
    g_autofree double *best = g_new(double, n);
    double by_op[MOJI_OP_COUNT] = {0}, all = 0;
    if (!moji_stage_prepare(s, backend, &error))
        fail(error);
    for (int run = 0; run < runs; run++) {
        load_all(s, data);
        for (int i = 0; i < n; i++) {
            double start = processor_seconds();
            if (!backend->run(backend, s->tape->prepared, i, i + 1, &error))
                fail(error);
            double took = processor_seconds() - start;
            best[i] = run == 0 ? took : fmin(best[i], took);
        }
    }
    for (int i = 0; i < n; i++) {
        MojiRecord *r = moji_tape_record(s->tape, i);
        char in[96], out[96];
        by_op[r->op] += best[i];
        all += best[i];
        printf("%8.3f ms %-10s %s -> %s %s\n", best[i] * 1e3, moji_op_name(r->op),
               moji_tensor_shape(r->in[0], in, sizeof in),
               moji_tensor_shape(r->out, out, sizeof out), r->name ? r->name : "");
    }
    for (int op = 0; op < MOJI_OP_COUNT; op++)
        printf("%-10s %8.2f ms\n", moji_op_name(op), by_op[op] * 1e3);
    printf("%-10s %8.2f ms\n", "all", all * 1e3);
}

int main(int argc, char **argv)
{
    GError *error = NULL;
    if (argc < 5) {
        fprintf(stderr, "usage: sd14 FOLDER DATA f32|bf16 RUNS [unet|vae]\n");
        return 2;
    }
    MojiType type = strcmp(argv[3], "f32") ? MOJI_BF16 : MOJI_F32;
    int runs = atoi(argv[4]);
    MojiBackend *backend = moji_backend_open("cpu", 0, &error);
    if (!backend)
        fail(error);
    printf("engine %s\n", backend->describe(backend));
    MojiModel *model = moji_model_open(argv[1], &error);
    if (!model)
        fail(error);
    int side = model->unet.sample_size;
    if (argc < 6 || strcmp(argv[5], "vae")) {
        MojiStage *unet = moji_stage_unet(model, type, 2, side, side);
        (argc < 6 ? measure : profile)(unet, backend, argv[2], runs);
        moji_stage_free(unet);
    }
    if (argc < 6 || !strcmp(argv[5], "vae")) {
        MojiStage *vae = moji_stage_vae(model, type, 1, side, side);
        (argc < 6 ? measure : profile)(vae, backend, argv[2], runs);
        moji_stage_free(vae);
    }
    moji_model_free(model);
    moji_backend_close(backend);
    return 0;
}
