/* test_ops.c: every op of a backend, in every type that it computes in, against its slow twin,
 * through a recorded, planned and prepared tape. MOJI_TEST_BACKEND names the backend ("cpu").
 * One row an op; an op without a row fails the suite. */
#include "backend.h"
#include "test.h"
#include "twins.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

#define MAX_INPUTS 4

static MojiBackend *backend;
static MojiType type;  /* of the tape under test */
static MojiType store; /* of its weights in the file */
static GRand *dice;

static gboolean on_cpu(void)
{
    return !strcmp(backend->name, "cpu");
}

/* ---- a tape with its inputs, its weights and their values for the twin ---- */

typedef struct {
    MojiTape *tape;
    MojiTensor *in[MAX_INPUTS];
    double *value[MAX_INPUTS]; /* what the input holds, rounded to the tape's type */
    int inputs;
    GString *header; /* of the weights file */
    GByteArray *data;
    GPtrArray *kept; /* value arrays of the weights */
    MojiWeights *weights;
} Rig;

static Rig *rig_new(void)
{
    Rig *r = g_new0(Rig, 1);
    r->tape = moji_tape_new(type);
    r->header = g_string_new("{");
    r->data = g_byte_array_new();
    r->kept = g_ptr_array_new_with_free_func(g_free);
    return r;
}

static void rig_free(Rig *r)
{
    moji_tape_free(r->tape);
    moji_weights_free(r->weights);
    for (int i = 0; i < r->inputs; i++)
        g_free(r->value[i]);
    g_string_free(r->header, TRUE);
    g_byte_array_unref(r->data);
    g_ptr_array_unref(r->kept);
    g_free(r);
}

static double normal(void)
{
    return sqrt(-2 * log(1 - g_rand_double(dice))) * cos(2 * G_PI * g_rand_double(dice));
}

static double rounded(double x, MojiType t)
{
    return t == MOJI_BF16 ? twin_bf16(x) : t == MOJI_F16 ? (double)(_Float16)x : (float)x;
}

static gint64 product(int rank, const gint64 *dim)
{
    gint64 n = 1;
    for (int i = 0; i < rank; i++)
        n *= dim[i];
    return n;
}

static int rig_add(Rig *r, MojiTensor *t)
{
    g_assert(r->inputs < MAX_INPUTS);
    r->in[r->inputs] = t;
    r->value[r->inputs] = g_new(double, moji_tensor_count(t));
    return r->inputs++;
}

/* Random values, spread around `centre`. */
static MojiTensor *rig_input(Rig *r, int rank, const gint64 *dim, double centre, double spread)
{
    char name[] = {'x', (char)('0' + r->inputs), 0};
    int i = rig_add(r, moji_input(r->tape, name, type, rank, dim));
    for (gint64 k = 0; k < product(rank, dim); k++)
        r->value[i][k] = rounded(centre + spread * normal(), type);
    return r->in[i];
}

static guint16 half_bits(double x)
{
    _Float16 half = (_Float16)x;
    guint16 bits;
    memcpy(&bits, &half, 2);
    return bits;
}

/* Puts a tensor of random values in the file; returns what the backend should make of them. */
static double *rig_weight(Rig *r, const char *name, int rank, const gint64 *dim, double centre,
                          double spread)
{
    static const char *types[] = {[MOJI_F32] = "F32", [MOJI_BF16] = "BF16", [MOJI_F16] = "F16"};
    gint64 n = product(rank, dim);
    double *value = g_new(double, n);
    guint start = r->data->len;
    for (gint64 i = 0; i < n; i++) {
        double x = rounded(centre + spread * normal(), store);
        float f = (float)x;
        guint32 bits;
        memcpy(&bits, &f, 4);
        guint16 high = bits >> 16, half = half_bits(x);
        if (store == MOJI_F32)
            g_byte_array_append(r->data, (guint8 *)&bits, 4);
        else
            g_byte_array_append(r->data, (guint8 *)(store == MOJI_BF16 ? &high : &half), 2);
        value[i] = rounded(x, rank > 1 ? type : MOJI_F32); /* biases and norms stay f32 */
    }
    g_string_append_printf(r->header, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[",
                           r->header->len > 1 ? "," : "", name, types[store]);
    for (int i = 0; i < rank; i++)
        g_string_append_printf(r->header, "%s%" G_GINT64_FORMAT, i ? "," : "", dim[i]);
    g_string_append_printf(r->header, "],\"data_offsets\":[%u,%u]}", start, r->data->len);
    g_ptr_array_add(r->kept, value);
    return value;
}

/* Writes the weights to a file and opens it. */
static gboolean rig_open_weights(Rig *r)
{
    GError *error = NULL;
    g_autofree char *path = g_build_filename(moji_test_scratch(), "ops.safetensors", NULL);
    g_string_append_c(r->header, '}');
    g_autoptr(GByteArray) file = g_byte_array_new();
    guint64 length = GUINT64_TO_LE(r->header->len);
    g_byte_array_append(file, (guint8 *)&length, 8);
    g_byte_array_append(file, (guint8 *)r->header->str, r->header->len);
    g_byte_array_append(file, r->data->data, r->data->len);
    if (g_file_set_contents(path, (char *)file->data, file->len, &error))
        r->weights = moji_weights_open(path, &error);
    MOJI_CHECK(r->weights, "%s", error ? error->message : "");
    g_clear_error(&error);
    return r->weights != NULL;
}

static void *to_host(const double *value, gint64 n, MojiType t)
{
    float *out = g_malloc0(n * 4);
    for (gint64 i = 0; i < n; i++) {
        float f = (float)value[i];
        if (t == MOJI_I32)
            ((gint32 *)out)[i] = (gint32)value[i];
        else if (t == MOJI_BF16)
            memcpy((guint16 *)out + i, (char *)&f + 2, 2);
        else if (t == MOJI_F16)
            ((_Float16 *)out)[i] = (_Float16)f;
        else
            out[i] = f;
    }
    return out;
}

static float *from_host(const void *host, gint64 n, MojiType t)
{
    float *out = g_new0(float, n);
    if (t == MOJI_F32)
        memcpy(out, host, n * 4);
    else if (t == MOJI_F16)
        for (gint64 i = 0; i < n; i++)
            out[i] = (float)((const _Float16 *)host)[i];
    else
        for (gint64 i = 0; i < n; i++)
            memcpy((char *)&out[i] + 2, (const guint16 *)host + i, 2);
    return out;
}

static gboolean rig_prepare(Rig *r)
{
    GError *error = NULL;
    moji_tape_plan(r->tape);
    gboolean done = rig_open_weights(r) && moji_tape_prepare(r->tape, backend, r->weights, &error);
    MOJI_CHECK(done, "%s", error ? error->message : "weights");
    g_clear_error(&error);
    return done;
}

/* Writes the inputs, runs, and returns the output's bytes; NULL if it failed. */
static void *rig_run(Rig *r, MojiTensor *y)
{
    GError *error = NULL;
    for (int i = 0; i < r->inputs; i++) {
        g_autofree void *host = to_host(r->value[i], moji_tensor_count(r->in[i]), r->in[i]->type);
        moji_tape_write(r->tape, r->in[i], host);
    }
    void *host = g_malloc0(moji_tensor_bytes(y));
    gboolean done = moji_tape_run(r->tape, NULL, &error);
    MOJI_CHECK(done, "%s", error ? error->message : "");
    g_clear_error(&error);
    if (done)
        moji_tape_read(r->tape, y, host);
    else
        g_clear_pointer(&host, g_free);
    return host;
}

/* In f32 the largest error counts, against the largest value; in bf16 the normalised mean square.
 */
static void rig_compare(const MojiTensor *y, const void *host, const double *expected, double limit)
{
    char shape[64];
    gint64 n = moji_tensor_count(y);
    g_autofree float *found = from_host(host, n, y->type), *wanted = g_new(float, n);
    float largest = 0;
    for (gint64 i = 0; i < n; i++) {
        wanted[i] = (float)expected[i];
        largest = MAX(largest, fabsf(wanted[i]));
    }
    double error = y->type == MOJI_F32 ? moji_test_max_error(found, wanted, n) / largest
                                       : moji_test_nmse(found, wanted, n);
    MOJI_CHECK(error <= limit, "%s %s, weights %s: error %g, limit %g",
               moji_tensor_shape(y, shape, sizeof shape), moji_type_name(y->type),
               moji_type_name(store), error, limit);
}

/* Runs the tape twice and compares: the bytes with each other, the values with the twin's. */
static void rig_check_within(Rig *r, MojiTensor *y, const double *expected, double limit)
{
    char shape[64];
    moji_output(r->tape, y);
    if (!rig_prepare(r))
        return;
    g_autofree void *once = rig_run(r, y), *twice = rig_run(r, y);
    if (!once || !twice)
        return;
    moji_tensor_shape(y, shape, sizeof shape);
    MOJI_CHECK(memcmp(once, twice, moji_tensor_bytes(y)) == 0, "%s: two runs differ", shape);
    rig_compare(y, once, expected, limit);
}

static void rig_check(Rig *r, MojiTensor *y, const double *expected)
{
    rig_check_within(r, y, expected, y->type == MOJI_F32 ? 1e-5 : 1e-5);
}

/* ---- products ---- */

static void check_conv(TwinConv c, gboolean bias, gboolean residual)
{
    Rig *r = rig_new();
    MojiTensor *x = rig_input(r, 4, (gint64[]){c.batch, c.h, c.w, c.in}, 0, 1);
    double *weight = rig_weight(r, "c.weight", 4, (gint64[]){c.out, c.in, c.kernel, c.kernel}, 0,
                                2 / sqrt(c.in * c.kernel));
    double *b = bias ? rig_weight(r, "c.bias", 1, &c.out, 0, 1) : NULL;
    MojiConv conv = {c.out, c.kernel, c.stride, c.pad_end, c.pad_begin != c.pad_end, !bias};
    MojiTensor *y = moji_conv2d(r->tape, "c", x, conv);
    if (residual)
        y = moji_add(r->tape, y, rig_input(r, 4, y->dim, 0, 1));
    g_autofree double *expected = g_new(double, moji_tensor_count(y));
    twin_conv2d(expected, r->value[0], weight, b, residual ? r->value[1] : NULL, &c);
    rig_check(r, y, expected);
    rig_free(r);
}

/* A convolution of an enlarged image, which a backend may compute from the small one. */
static void check_enlarged(gint64 b, gint64 h, gint64 w, gint64 in, gint64 out, gboolean residual)
{
    Rig *r = rig_new();
    TwinConv c = {b, 2 * h, 2 * w, in, out, 3, 1, 1, 1};
    MojiTensor *x = rig_input(r, 4, (gint64[]){b, h, w, in}, 0, 1);
    double *weight = rig_weight(r, "c.weight", 4, (gint64[]){out, in, 3, 3}, 0, 2 / sqrt(in * 3));
    double *bias = rig_weight(r, "c.bias", 1, &out, 0, 1);
    MojiTensor *large = moji_upsample(r->tape, x);
    MojiTensor *y = moji_conv2d(r->tape, "c", large, (MojiConv){.out = out, .kernel = 3, .pad = 1});
    if (residual)
        y = moji_add(r->tape, y, rig_input(r, 4, y->dim, 0, 1));
    g_autofree double *enlarged = g_new(double, moji_tensor_count(large));
    g_autofree double *expected = g_new(double, moji_tensor_count(y));
    twin_upsample(enlarged, r->value[0], b, h, w, in);
    twin_conv2d(expected, enlarged, weight, bias, residual ? r->value[1] : NULL, &c);
    rig_check(r, y, expected);
    rig_free(r);
}

static void test_conv2d(void)
{
    check_enlarged(2, 5, 7, 96, 64, FALSE);
    check_enlarged(1, 1, 1, 32, 32, FALSE);
    check_enlarged(2, 6, 3, 40, 72, TRUE);
    check_enlarged(1, 30, 34, 64, 96, FALSE);
    check_conv((TwinConv){2, 8, 8, 4, 320, 3, 1, 1, 1}, TRUE, FALSE);   /* conv_in */
    check_conv((TwinConv){2, 6, 6, 320, 4, 3, 1, 1, 1}, TRUE, FALSE);   /* conv_out */
    check_conv((TwinConv){2, 6, 6, 160, 96, 3, 1, 1, 1}, TRUE, TRUE);   /* a ResNet's second */
    check_conv((TwinConv){1, 16, 16, 48, 64, 3, 2, 1, 1}, TRUE, FALSE); /* downsampling */
    check_conv((TwinConv){1, 10, 12, 32, 48, 3, 2, 0, 1}, TRUE, FALSE); /* the VAE encoder's */
    check_conv((TwinConv){3, 7, 5, 20, 24, 3, 1, 1, 1}, FALSE, TRUE);
    check_conv((TwinConv){1, 9, 11, 3, 7, 3, 1, 1, 1}, TRUE, TRUE);
    check_conv((TwinConv){1, 9, 9, 9, 16, 3, 1, 1, 1}, TRUE, FALSE); /* inpainting */
    check_conv((TwinConv){2, 1, 1, 64, 64, 3, 1, 1, 1}, TRUE, FALSE);
    check_conv((TwinConv){1, 1, 1, 5, 3, 3, 1, 1, 1}, FALSE, FALSE);
    check_conv((TwinConv){1, 33, 31, 128, 3, 3, 1, 1, 1}, TRUE, FALSE); /* the decoder's end */
    check_conv((TwinConv){2, 8, 8, 96, 160, 1, 1, 0, 0}, TRUE, TRUE);   /* shortcuts, proj_out */
    check_conv((TwinConv){1, 5, 7, 4, 4, 1, 1, 0, 0}, TRUE, FALSE);     /* post_quant_conv */
    check_conv((TwinConv){1, 8, 8, 32, 24, 1, 2, 0, 0}, FALSE, FALSE);
    check_conv((TwinConv){1, 20, 20, 24, 40, 3, 1, 1, 1}, TRUE, TRUE);
    check_conv((TwinConv){3, 7, 5, 40, 50, 3, 1, 1, 1}, TRUE, TRUE);     /* odd everywhere */
    check_conv((TwinConv){2, 11, 13, 544, 33, 3, 1, 1, 1}, TRUE, FALSE); /* sums in two parts */
    check_conv((TwinConv){2, 40, 60, 160, 32, 3, 1, 1, 1}, TRUE, TRUE);  /* several bands */
}

static void check_linear(int rank, const gint64 *dim, gint64 out, gboolean bias, gboolean residual)
{
    Rig *r = rig_new();
    gint64 in = dim[rank - 1], rows = product(rank - 1, dim);
    MojiTensor *x = rig_input(r, rank, dim, 0, 1);
    double *weight = rig_weight(r, "l.weight", 2, (gint64[]){out, in}, 0, 2 / sqrt(in));
    double *b = bias ? rig_weight(r, "l.bias", 1, &out, 0, 1) : NULL;
    MojiTensor *y = moji_linear(r->tape, "l", x, (int)out, bias);
    if (residual)
        y = moji_add(r->tape, rig_input(r, rank, y->dim, 0, 1), y);
    g_autofree double *expected = g_new(double, rows *out);
    twin_linear(expected, r->value[0], weight, b, residual ? r->value[1] : NULL, rows, in, out);
    rig_check(r, y, expected);
    rig_free(r);
}

static void test_linear(void)
{
    check_linear(3, (gint64[]){2, 64, 320}, 640, TRUE, FALSE);
    check_linear(3, (gint64[]){2, 64, 320}, 320, FALSE, FALSE); /* to_q */
    check_linear(3, (gint64[]){2, 48, 640}, 160, TRUE, TRUE);   /* ff.net.2 */
    check_linear(3, (gint64[]){2, 77, 768}, 320, FALSE, FALSE); /* to_k of the text */
    check_linear(2, (gint64[]){2, 320}, 1280, TRUE, FALSE);     /* time embedding */
    check_linear(2, (gint64[]){1, 20}, 24, TRUE, FALSE);
    check_linear(2, (gint64[]){4100, 32}, 1024, TRUE, FALSE); /* more than a cache holds */
    check_linear(2, (gint64[]){45, 5120}, 64, TRUE, TRUE);
    check_linear(3, (gint64[]){3, 5, 13}, 7, FALSE, TRUE);
    check_linear(2, (gint64[]){1, 1}, 1, TRUE, TRUE);
    check_linear(4, (gint64[]){2, 3, 3, 40}, 40, TRUE, TRUE);
}

/* ---- norms ---- */

static void check_group_norm(gint64 b, gint64 h, gint64 w, gint64 c, int groups, gboolean silu,
                             double centre)
{
    Rig *r = rig_new();
    MojiTensor *x = rig_input(r, 4, (gint64[]){b, h, w, c}, centre, 1.5);
    double *weight = rig_weight(r, "n.weight", 1, &c, 1, 0.3);
    double *bias = rig_weight(r, "n.bias", 1, &c, 0, 0.3);
    MojiTensor *y = moji_group_norm(r->tape, "n", x, groups, 1e-5f, silu);
    g_autofree double *expected = g_new(double, moji_tensor_count(y));
    twin_group_norm(expected, r->value[0], weight, bias, b, h * w, c, groups, 1e-5f, silu);
    rig_check(r, y, expected);
    rig_free(r);
}

/* Three runs: CUDA launches in the first, captures a graph in the second and uses it in the third.
 */
static void check_norms(Rig *r, MojiTensor *y, MojiNorms by, const double *want)
{
    moji_tape_norms(r->tape, by);
    for (int i = 0; i < 3; i++) {
        g_autofree void *found = rig_run(r, y);
        rig_compare(y, found, want, 1e-5);
    }
}

/* By the mean and spread of the last run that kept them, whatever the input is now. */
static void check_norms_kept(gint64 pixels, gint64 c, int groups)
{
    Rig *r = rig_new();
    MojiTensor *x = rig_input(r, 4, (gint64[]){1, pixels, 1, c}, 1, 1.5);
    double *weight = rig_weight(r, "n.weight", 1, &c, 1, 0.3);
    double *bias = rig_weight(r, "n.bias", 1, &c, 0, 0.3);
    MojiTensor *y = moji_output(r->tape, moji_group_norm(r->tape, "n", x, groups, 1e-5f, FALSE));
    gint64 n = moji_tensor_count(y), half = n / 2;
    g_autofree double *want = g_new(double, n);
    twin_group_norm(want, r->value[0], weight, bias, 1, pixels, c, groups, 1e-5f, FALSE);
    if (rig_prepare(r)) {
        check_norms(r, y, MOJI_NORMS_OWN, want);
        check_norms(r, y, MOJI_NORMS_KEEP, want);
        /* Half of the input twice: alone it would be normed otherwise. */
        memcpy(r->value[0] + half, r->value[0], half * sizeof *want);
        memcpy(want + half, want, half * sizeof *want);
        check_norms(r, y, MOJI_NORMS_KEPT, want);
        twin_group_norm(want, r->value[0], weight, bias, 1, pixels, c, groups, 1e-5f, FALSE);
        check_norms(r, y, MOJI_NORMS_OWN, want);
    }
    rig_free(r);
}

static void test_group_norm(void)
{
    check_group_norm(2, 8, 8, 320, 32, TRUE, 0);
    check_group_norm(2, 8, 8, 320, 32, FALSE, 0); /* a transformer's */
    check_group_norm(1, 40, 40, 128, 32, TRUE, 0.5);
    check_group_norm(1, 90, 100, 32, 8, TRUE, 0); /* parts of more than PART_ROWS rows */
    check_group_norm(3, 5, 7, 24, 8, TRUE, 0);
    check_group_norm(1, 1, 1, 64, 32, FALSE, 0);
    check_group_norm(1, 4, 3, 20, 4, TRUE, -3);
    check_group_norm(2, 9, 9, 12, 1, FALSE, 10);
    check_norms_kept(300, 24, 8);
    check_norms_kept(4, 12, 1);
}

static void check_layer_norm(gint64 b, gint64 n, gint64 c, double centre)
{
    Rig *r = rig_new();
    MojiTensor *x = rig_input(r, 3, (gint64[]){b, n, c}, centre, 1.5);
    double *weight = rig_weight(r, "n.weight", 1, &c, 1, 0.3);
    double *bias = rig_weight(r, "n.bias", 1, &c, 0, 0.3);
    MojiTensor *y = moji_layer_norm(r->tape, "n", x, 1e-5f);
    g_autofree double *expected = g_new(double, moji_tensor_count(y));
    twin_layer_norm(expected, r->value[0], weight, bias, b * n, c, 1e-5f);
    rig_check(r, y, expected);
    rig_free(r);
}

static void test_layer_norm(void)
{
    check_layer_norm(2, 64, 320, 0);
    check_layer_norm(1, 77, 768, 1);
    check_layer_norm(1, 3, 1280, -4);
    check_layer_norm(3, 5, 21, 0);
    check_layer_norm(1, 1, 3, 0.5);
}

/* ---- attention ---- */

static void check_attention(gint64 b, gint64 n, gint64 m, gint64 heads, gint64 width,
                            gboolean causal, double spread)
{
    Rig *r = rig_new();
    float scale = (float)(1 / sqrt(width));
    MojiTensor *q = rig_input(r, 3, (gint64[]){b, n, heads * width}, 0, spread);
    MojiTensor *k = rig_input(r, 3, (gint64[]){b, m, heads * width}, 0, 1);
    MojiTensor *v = rig_input(r, 3, (gint64[]){b, m, heads * width}, 0, 1);
    MojiTensor *y = moji_attention(r->tape, q, k, v, (int)heads, scale, causal);
    g_autofree double *expected = g_new(double, moji_tensor_count(y));
    twin_attention(expected, r->value[0], r->value[1], r->value[2], b, n, m, heads, width, scale,
                   causal);
    rig_check(r, y, expected);
    rig_free(r);
}

static void test_attention(void)
{
    check_attention(2, 64, 64, 8, 40, FALSE, 1);
    check_attention(1, 601, 601, 2, 40, FALSE, 1); /* whole tiles and a rest */
    check_attention(2, 64, 77, 8, 40, FALSE, 1);   /* the text's */
    check_attention(1, 64, 64, 8, 80, FALSE, 3);
    check_attention(2, 16, 77, 8, 160, FALSE, 1);
    check_attention(2, 77, 77, 12, 64, TRUE, 1);  /* CLIP */
    check_attention(1, 64, 64, 1, 512, FALSE, 1); /* the VAE's */
    check_attention(3, 5, 3, 3, 7, FALSE, 1);
    check_attention(1, 1, 1, 1, 8, FALSE, 1);
    check_attention(1, 19, 19, 2, 32, TRUE, 8); /* a few keys take everything */
    check_attention(1, 300, 1100, 1, 24, FALSE, 1);
}

/* ---- elementwise ---- */

typedef MojiTensor *(*Recorder)(MojiTape *tape, MojiTensor *x);

static void check_unary(Recorder record, double (*twin)(double), int rank, const gint64 *dim,
                        double spread)
{
    Rig *r = rig_new();
    MojiTensor *y = record(r->tape, rig_input(r, rank, dim, 0, spread));
    gint64 n = moji_tensor_count(y);
    g_autofree double *expected = g_new(double, n);
    for (gint64 i = 0; i < n; i++)
        expected[i] = twin(r->value[0][i]);
    rig_check(r, y, expected);
    rig_free(r);
}

static void check_unary_shapes(Recorder record, double (*twin)(double))
{
    check_unary(record, twin, 2, (gint64[]){2, 1280}, 2);
    check_unary(record, twin, 4, (gint64[]){2, 9, 9, 320}, 2);
    check_unary(record, twin, 3, (gint64[]){3, 5, 7}, 1);
    check_unary(record, twin, 1, (gint64[]){1}, 1);
    check_unary(record, twin, 1, (gint64[]){1000}, 30);
}

static void test_silu(void)
{
    check_unary_shapes(moji_silu, twin_silu);
}

static void test_gelu(void)
{
    check_unary_shapes(moji_gelu, twin_gelu);
}

static void test_quick_gelu(void)
{
    check_unary_shapes(moji_quick_gelu, twin_quick_gelu);
}

static void test_relu(void)
{
    check_unary_shapes(moji_relu, twin_relu);
}

static MojiTensor *scale_by_some(MojiTape *tape, MojiTensor *x)
{
    return moji_scale(tape, x, -0.18215f);
}

static double twin_scale(double x)
{
    return x * -0.18215f;
}

static void test_scale(void)
{
    check_unary_shapes(scale_by_some, twin_scale);
}

static void check_geglu(gint64 b, gint64 n, gint64 c)
{
    Rig *r = rig_new();
    MojiTensor *y = moji_geglu(r->tape, rig_input(r, 3, (gint64[]){b, n, 2 * c}, 0, 1.5));
    g_autofree double *expected = g_new(double, b *n *c);
    twin_geglu(expected, r->value[0], b * n, c);
    rig_check(r, y, expected);
    rig_free(r);
}

static void test_geglu(void)
{
    check_geglu(2, 16, 1280);
    check_geglu(1, 3, 21);
    check_geglu(3, 1, 1);
}

static void check_add(int rank, const gint64 *a, const gint64 *b)
{
    Rig *r = rig_new();
    gint64 da[4] = {1, 1, 1, 1}, db[4] = {1, 1, 1, 1};
    memcpy(da + 4 - rank, a, rank * sizeof *a);
    memcpy(db + 4 - rank, b, rank * sizeof *b);
    MojiTensor *x = rig_input(r, rank, a, 0, 1);
    MojiTensor *y = moji_add(r->tape, x, rig_input(r, rank, b, 0, 1));
    g_autofree double *expected = g_new(double, moji_tensor_count(y));
    twin_add(expected, r->value[0], r->value[1], da, db);
    rig_check(r, y, expected);
    rig_free(r);
}

static void test_add(void)
{
    check_add(4, (gint64[]){2, 9, 8, 320}, (gint64[]){2, 9, 8, 320});
    check_add(4, (gint64[]){2, 9, 8, 320}, (gint64[]){2, 1, 1, 320}); /* the time embedding */
    check_add(3, (gint64[]){2, 77, 768}, (gint64[]){1, 77, 768});     /* positions */
    check_add(4, (gint64[]){3, 5, 7, 9}, (gint64[]){1, 5, 1, 9});
    check_add(4, (gint64[]){3, 5, 7, 9}, (gint64[]){3, 1, 7, 1});
    check_add(4, (gint64[]){3, 5, 7, 20}, (gint64[]){1, 1, 1, 1});
    check_add(2, (gint64[]){3, 1}, (gint64[]){1, 1});
    check_add(1, (gint64[]){20000}, (gint64[]){20000});
}

static void test_add_parameter(void)
{
    Rig *r = rig_new();
    gint64 dim[] = {1, 77, 20};
    MojiTensor *x = rig_input(r, 3, (gint64[]){2, 77, 20}, 0, 1);
    double *table = rig_weight(r, "p.weight", 3, dim, 0, 1);
    MojiTensor *y = moji_add(r->tape, x, moji_parameter(r->tape, "p.weight", 3, dim));
    g_autofree double *expected = g_new(double, moji_tensor_count(y));
    twin_add(expected, r->value[0], table, (gint64[]){1, 2, 77, 20}, (gint64[]){1, 1, 77, 20});
    rig_check(r, y, expected);
    rig_free(r);
}

/* ---- moving ---- */

static void check_concat(gint64 b, gint64 h, gint64 w, gint64 ca, gint64 cb)
{
    Rig *r = rig_new();
    MojiTensor *x = rig_input(r, 4, (gint64[]){b, h, w, ca}, 0, 1);
    MojiTensor *y = moji_concat(r->tape, x, rig_input(r, 4, (gint64[]){b, h, w, cb}, 0, 1));
    g_autofree double *expected = g_new(double, moji_tensor_count(y));
    twin_concat(expected, r->value[0], r->value[1], b * h * w, ca, cb);
    rig_check(r, y, expected);
    rig_free(r);
}

static void test_concat(void)
{
    check_concat(2, 8, 8, 320, 640);
    check_concat(3, 5, 7, 3, 9);
    check_concat(1, 1, 1, 1, 1);
}

static void check_upsample(gint64 b, gint64 h, gint64 w, gint64 c)
{
    Rig *r = rig_new();
    MojiTensor *y = moji_upsample(r->tape, rig_input(r, 4, (gint64[]){b, h, w, c}, 0, 1));
    g_autofree double *expected = g_new(double, moji_tensor_count(y));
    twin_upsample(expected, r->value[0], b, h, w, c);
    rig_check(r, y, expected);
    rig_free(r);
}

static void test_upsample(void)
{
    check_upsample(2, 8, 8, 320);
    check_upsample(3, 5, 7, 3);
    check_upsample(1, 1, 1, 1);
}

static void check_embed(gint64 rows, gint64 width, gint64 n)
{
    Rig *r = rig_new();
    double *table = rig_weight(r, "e.weight", 2, (gint64[]){rows, width}, 0, 1);
    int i = rig_add(r, moji_input(r->tape, "ids", MOJI_I32, 2, (gint64[]){2, n}));
    g_autofree double *expected = g_new(double, 2 * n * width);
    for (gint64 k = 0; k < 2 * n; k++) {
        r->value[i][k] = k == 0 ? rows - 1 : g_rand_int_range(dice, 0, (gint32)rows);
        memcpy(expected + k * width, table + (gint64)r->value[i][k] * width, width * sizeof *table);
    }
    rig_check(r, moji_embed(r->tape, "e", r->in[i], (int)rows, (int)width), expected);
    rig_free(r);
}

/* From a table that is no parameter. */
static void check_pick(gint64 rows, gint64 width, gint64 n)
{
    Rig *r = rig_new();
    MojiTensor *table = rig_input(r, 2, (gint64[]){rows, width}, 0, 1);
    int i = rig_add(r, moji_input(r->tape, "ids", MOJI_I32, 2, (gint64[]){n, 1}));
    g_autofree double *expected = g_new(double, n *width);
    for (gint64 k = 0; k < n; k++) {
        r->value[i][k] = k == 0 ? rows - 1 : g_rand_int_range(dice, 0, (gint32)rows);
        memcpy(expected + k * width, r->value[0] + (gint64)r->value[i][k] * width,
               width * sizeof *expected);
    }
    rig_check(r, moji_pick(r->tape, table, r->in[i]), expected);
    rig_free(r);
}

static void test_embed(void)
{
    check_embed(500, 768, 77);
    check_embed(3, 21, 5);
    check_embed(1, 1, 1);
    check_pick(32, 320, 2);
    check_pick(5, 21, 3);
    check_pick(1, 1, 1);
}

/* f32 whatever the tape. The angle of a late timestep is rounded in f32, as the reference does. */
static void check_sinusoid(gint64 b, gint64 width, gboolean flip, double shift)
{
    Rig *r = rig_new();
    int i = rig_add(r, moji_input(r->tape, "t", MOJI_F32, 1, &b));
    for (gint64 k = 0; k < b; k++)
        r->value[i][k] = k == 0 ? 999 : g_rand_int_range(dice, 0, 1000);
    MojiTensor *y = moji_sinusoid(r->tape, r->in[i], (int)width, flip, (float)shift);
    g_autofree double *expected = g_new(double, b *width);
    twin_sinusoid(expected, r->value[i], b, width, flip, shift);
    rig_check_within(r, y, expected, 3e-4);
    rig_free(r);
}

static void test_sinusoid(void)
{
    check_sinusoid(2, 320, TRUE, 0);
    check_sinusoid(1, 128, FALSE, 1);
    check_sinusoid(3, 6, TRUE, 1);
}

/* There and back; from bf16 or f16 to f32 nothing may change. */
static void check_cast(gint64 n)
{
    Rig *r = rig_new();
    MojiType other = type == MOJI_F32 ? MOJI_BF16 : MOJI_F32;
    MojiTensor *x = rig_input(r, 1, &n, 0, 3);
    MojiTensor *y = moji_cast(r->tape, moji_cast(r->tape, x, other), MOJI_F32);
    g_autofree double *expected = g_new(double, n);
    for (gint64 i = 0; i < n; i++)
        expected[i] = type == MOJI_F32 ? twin_bf16(r->value[0][i]) : r->value[0][i];
    rig_check_within(r, y, expected, 0);
    rig_free(r);
}

static void test_cast(void)
{
    check_cast(1);
    check_cast(21);
    check_cast(20000);
}

/* ---- more than one op ---- */

static const float specials[] = {NAN, INFINITY, -INFINITY, 3e38f, -3e38f, 1e30f, -1e30f};

/* What is not a number must come out as not a number, and large values must not become one. */
static void test_extremes(void)
{
    static const Recorder recorders[] = {moji_silu, moji_quick_gelu, moji_gelu, moji_relu,
                                         scale_by_some};
    for (guint i = 0; i < G_N_ELEMENTS(recorders); i++) {
        Rig *r = rig_new();
        MojiTensor *y = recorders[i](r->tape, rig_input(r, 1, (gint64[]){40}, 0, 1));
        for (guint k = 0; k < G_N_ELEMENTS(specials); k++)
            r->value[0][3 * k] = rounded(specials[k], type);
        moji_output(r->tape, y);
        if (rig_prepare(r)) {
            g_autofree void *host = rig_run(r, y);
            g_autofree float *found = from_host(host, 40, y->type);
            MOJI_CHECK(isnan(found[0]), "op %u: NaN became %g", i, found[0]);
            for (guint k = 1; k < 40; k++)
                MOJI_CHECK(!isnan(found[k]) || isinf(r->value[0][k]), "op %u: %g became NaN", i,
                           r->value[0][k]);
        }
        rig_free(r);
    }
}

static gboolean all_nan(const float *x, gint64 n)
{
    for (gint64 i = 0; i < n; i++)
        if (!isnan(x[i]))
            return FALSE;
    return TRUE;
}

static void test_nan_spreads(void)
{
    Rig *r = rig_new();
    gint64 c = 32;
    rig_weight(r, "n.weight", 1, &c, 1, 0);
    rig_weight(r, "n.bias", 1, &c, 0, 0);
    MojiTensor *x = rig_input(r, 4, (gint64[]){1, 5, 5, c}, 0, 1);
    MojiTensor *y = moji_group_norm(r->tape, "n", x, 1, 1e-5f, TRUE);
    r->value[0][400] = NAN;
    moji_output(r->tape, y);
    if (rig_prepare(r)) {
        g_autofree void *host = rig_run(r, y);
        g_autofree float *found = from_host(host, 25 * c, y->type);
        MOJI_CHECK(all_nan(found, 25 * c), "group norm hides a NaN");
    }
    rig_free(r);
    r = rig_new();
    MojiTensor *q = rig_input(r, 3, (gint64[]){1, 20, c}, 0, 1);
    MojiTensor *k = rig_input(r, 3, (gint64[]){1, 20, c}, 0, 1);
    y = moji_output(r->tape, moji_attention(r->tape, q, k, k, 1, 1, FALSE));
    r->value[1][7 * c] = NAN;
    if (rig_prepare(r)) {
        g_autofree void *host = rig_run(r, y);
        g_autofree float *found = from_host(host, 20 * c, y->type);
        MOJI_CHECK(all_nan(found, 20 * c), "attention hides a NaN");
    }
    rig_free(r);
}

/* Layer `name` of x and what the twin makes of it, rounded as a tensor is. */
static MojiTensor *some_layer(Rig *r, const char *name, MojiTensor *x, const double *value,
                              gint64 out, gboolean bias, double **expected)
{
    gint64 in = x->dim[2], rows = x->dim[0] * x->dim[1];
    g_autofree char *of = g_strdup_printf("%s.weight", name);
    g_autofree char *and = g_strdup_printf("%s.bias", name);
    double *weight = rig_weight(r, of, 2, (gint64[]){out, in}, 0, 1 / sqrt(in));
    double *b = bias ? rig_weight(r, and, 1, &out, 0, 1) : NULL;
    *expected = g_new(double, rows *out);
    twin_linear(*expected, value, weight, b, NULL, rows, in, out);
    for (gint64 i = 0; i < rows * out; i++)
        (*expected)[i] = rounded((*expected)[i], type);
    return moji_linear(r->tape, name, x, (int)out, bias);
}

/* m: of the tokens that keys and values come from; 0: they come from x too. */
static void check_alike(gint64 n, gint64 m, gint64 in, gint64 heads, gint64 width, gboolean bias)
{
    Rig *r = rig_new();
    g_autofree double *q = NULL, *k = NULL, *v = NULL;
    gint64 out = heads * width;
    float scale = (float)(1 / sqrt(width));
    MojiTensor *x = rig_input(r, 3, (gint64[]){2, n, in}, 0, 1);
    MojiTensor *context = m ? rig_input(r, 3, (gint64[]){2, m, in}, 0, 1) : x;
    const double *from = r->value[m ? 1 : 0];
    MojiTensor *layer[] = {some_layer(r, "q", x, r->value[0], out, bias, &q),
                           some_layer(r, "k", context, from, out, bias, &k),
                           some_layer(r, "v", context, from, out, bias, &v)};
    MojiTensor *y = moji_attention(r->tape, layer[0], layer[1], layer[2], (int)heads, scale, FALSE);
    g_autofree double *expected = g_new(double, moji_tensor_count(y));
    twin_attention(expected, q, k, v, 2, n, m ? m : n, heads, width, scale, FALSE);
    rig_check(r, y, expected);
    rig_free(r);
}

/* Linear layers that a backend may compute as one. */
static void test_alike(void)
{
    check_alike(64, 0, 320, 8, 40, FALSE); /* attn1 */
    check_alike(17, 0, 24, 2, 16, TRUE);
    check_alike(20, 77, 64, 2, 40, FALSE); /* attn2 */
    check_alike(5, 3, 13, 1, 7, TRUE);
}

/* Two tapes of the same layers keep one copy of each weight. */
static void test_shared_weights(void)
{
    Rig *r = rig_new();
    MojiTape *other = moji_tape_new(type);
    MojiTape *tapes[] = {r->tape, other};
    GError *error = NULL;
    rig_weight(r, "c.weight", 4, (gint64[]){32, 32, 3, 3}, 0, 1);
    rig_weight(r, "l.weight", 2, (gint64[]){48, 32}, 0, 1);
    for (int i = 0; i < 2; i++) {
        MojiTensor *x = moji_input(tapes[i], "x", type, 4, (gint64[]){1 + i, 16, 16, 32});
        x = moji_conv2d(tapes[i], "c", x, (MojiConv){32, 3, 1, 1, FALSE, TRUE});
        moji_output(tapes[i], moji_linear(tapes[i], "l", x, 48, FALSE));
    }
    moji_tape_plan(other);
    if (rig_prepare(r)) {
        static const char *names[] = {"c.weight", "l.weight"};
        guint before[2];
        for (int i = 0; i < 2; i++)
            before[i] = g_hash_table_size(moji_weights_find(r->weights, names[i])->prepared);
        MOJI_CHECK(moji_tape_prepare(other, backend, r->weights, &error), "%s", error->message);
        for (int i = 0; i < 2; i++) {
            guint after = g_hash_table_size(moji_weights_find(r->weights, names[i])->prepared);
            MOJI_CHECK(before[i] == 1 && after == 1, "%s is kept %u times, then %u", names[i],
                       before[i], after);
        }
    }
    moji_tape_free(other);
    rig_free(r);
}

/* The number of threads may not change a bit. */
static void test_threads(void)
{
    if (!on_cpu())
        return;
    MojiBackend *two = backend;
    void *bytes[2] = {NULL, NULL};
    gsize n = 0;
    for (int i = 0; i < 2; i++) {
        GError *error = NULL;
        GRand *before = dice;
        backend = moji_backend_cpu(i == 0 ? 1 : 3, &error);
        MOJI_CHECK(backend, "%s", error ? error->message : "");
        dice = g_rand_new_with_seed(5);
        Rig *r = rig_new();
        gint64 c = 64;
        rig_weight(r, "n.weight", 1, &c, 1, 0.3);
        rig_weight(r, "n.bias", 1, &c, 0, 0.3);
        MojiTensor *x = rig_input(r, 4, (gint64[]){2, 20, 20, c}, 0, 1);
        x = moji_group_norm(r->tape, "n", x, 32, 1e-5f, TRUE);
        x = moji_reshape(r->tape, x, 3, (gint64[]){2, 400, c});
        x = moji_output(r->tape, moji_gelu(r->tape, moji_attention(r->tape, x, x, x, 2, 1, FALSE)));
        n = moji_tensor_bytes(x);
        if (rig_prepare(r))
            bytes[i] = rig_run(r, x);
        rig_free(r);
        moji_backend_close(backend);
        g_rand_free(dice);
        dice = before;
    }
    backend = two;
    MOJI_CHECK(bytes[0] && bytes[1] && memcmp(bytes[0], bytes[1], n) == 0,
               "one thread and three give other bytes");
    g_free(bytes[0]);
    g_free(bytes[1]);
}

/* f32 whatever the tape. Some factors are 0, with no numbers in the planes that all of them leave
 * out, and sums are clipped where they are long. */
static void check_mix(gint64 a, gint64 b, gint64 rows, gint64 n)
{
    const MojiType before = type;
    Rig *r = rig_new();
    gint64 width = a + b + 1;
    type = MOJI_F32;
    MojiTensor *x = rig_input(r, 2, (gint64[]){a, n}, 0, 1);
    MojiTensor *y = b ? rig_input(r, 2, (gint64[]){b, n}, 0, 1) : NULL;
    MojiTensor *factors = rig_input(r, 2, (gint64[]){rows, width}, 0, 1);
    double *f = r->value[r->inputs - 1];
    type = before;
    for (gint64 i = 0; i < rows; i++) {
        for (gint64 k = 0; k < width; k++)
            if (k == a - 1 || (i + k) % 3 == 2)
                f[i * width + k] = 0;
        f[i * width + width - 1] = i % 2 ? INFINITY : 1.5;
    }
    for (gint64 i = 0; i < n; i++)
        r->value[0][(a - 1) * n + i] = NAN;
    g_autofree double *expected = g_new(double, rows *n);
    twin_mix(expected, r->value[0], b ? r->value[1] : NULL, f, a, b, rows, n);
    rig_check(r, moji_mix(r->tape, x, y, factors), expected);
    rig_free(r);
}

static void test_mix(void)
{
    check_mix(7, 2, 7, 4096);
    check_mix(7, 0, 2, 768);
    check_mix(2, 1, 8, 259);
    check_mix(3, 1, 1, 1);
}

static void test_bad_id(void)
{
    Rig *r = rig_new();
    GError *error = NULL;
    rig_weight(r, "e.weight", 2, (gint64[]){4, 8}, 0, 1);
    MojiTensor *ids = moji_input(r->tape, "ids", MOJI_I32, 2, (gint64[]){1, 2});
    moji_output(r->tape, moji_embed(r->tape, "e", ids, 4, 8));
    if (rig_prepare(r)) {
        moji_tape_write(r->tape, ids, (gint32[]){3, 4});
        gboolean done = moji_tape_run(r->tape, NULL, &error);
        MOJI_CHECK(!done && g_error_matches(error, MOJI_ERROR, MOJI_ERROR_USAGE), "id 4 of 4 ran");
        g_clear_error(&error);
    }
    rig_free(r);
}

static void test_too_large(void)
{
    GError *error = NULL;
    MojiTape *tape = moji_tape_new(MOJI_F32);
    gint64 side = 1 << 22; /* 64 TiB */
    moji_output(tape, moji_silu(tape, moji_input(tape, "x", MOJI_F32, 2, (gint64[]){side, side})));
    moji_tape_plan(tape);
    gboolean done = moji_tape_prepare(tape, backend, NULL, &error);
    MOJI_CHECK(!done && g_error_matches(error, MOJI_ERROR, MOJI_ERROR_MEMORY),
               "64 TiB were promised");
    g_clear_error(&error);
    moji_tape_free(tape);
}

#ifdef __SANITIZE_ADDRESS__
/* As an allocator outside of the sanitizer does. */
const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
    return "allocator_may_return_null=1";
}
#endif

/* ---- the rows ---- */

static const MojiTestFn rows[MOJI_OP_COUNT] = {
    [MOJI_OP_MIX] = test_mix,
    [MOJI_OP_CONV2D] = test_conv2d,
    [MOJI_OP_LINEAR] = test_linear,
    [MOJI_OP_GROUP_NORM] = test_group_norm,
    [MOJI_OP_LAYER_NORM] = test_layer_norm,
    [MOJI_OP_ATTENTION] = test_attention,
    [MOJI_OP_SILU] = test_silu,
    [MOJI_OP_GELU] = test_gelu,
    [MOJI_OP_QUICK_GELU] = test_quick_gelu,
    [MOJI_OP_RELU] = test_relu,
    [MOJI_OP_GEGLU] = test_geglu,
    [MOJI_OP_ADD] = test_add,
    [MOJI_OP_SCALE] = test_scale,
    [MOJI_OP_CONCAT] = test_concat,
    [MOJI_OP_UPSAMPLE] = test_upsample,
    [MOJI_OP_EMBED] = test_embed,
    [MOJI_OP_SINUSOID] = test_sinusoid,
    [MOJI_OP_CAST] = test_cast,
};

static const struct {
    const char *name;
    MojiTestFn fn;
} others[] = {
    {"add a parameter", test_add_parameter},
    {"extremes", test_extremes},
    {"NaN spreads", test_nan_spreads},
    {"layers that are alike", test_alike},
    {"shared weights", test_shared_weights},
    {"threads", test_threads},
    {"bad id", test_bad_id},
};

static MojiTestFn current;

static void run_current(void)
{
    static const MojiType stores[] = {MOJI_F32, MOJI_BF16, MOJI_F16};
    if (!current) {
        moji_test_fail(__FILE__, __LINE__, "no test row");
        return;
    }
    if (type == MOJI_BF16 && on_cpu() && backend->preferred(backend) != MOJI_BF16) {
        moji_test_skip("this processor does not multiply bf16");
        return;
    }
    static int turn; /* each row meets files of another type */
    store = stores[turn++ % G_N_ELEMENTS(stores)];
    dice = g_rand_new_with_seed(42);
    current();
    g_rand_free(dice);
}

/* The same rows in a process that lets oneDNN, and with it our loops, use older instructions only:
 * what runs on most machines would otherwise never run on the ones that test. */
static const char *older[] = {"SSE41", "AVX2", "AVX512_CORE_BF16"};
static const char *present; /* of these */
static char *program;

static void run_older(void)
{
    GError *error = NULL;
    g_autofree char *text = NULL;
    int status;
    char *argv[] = {program, NULL};
    g_auto(GStrv) env = g_environ_setenv(g_get_environ(), "ONEDNN_MAX_CPU_ISA", present, TRUE);
    env = g_environ_setenv(env, "MOJI_TEST_OLDER", "1", TRUE);
    gboolean done =
        g_spawn_sync(NULL, argv, env, G_SPAWN_DEFAULT, NULL, NULL, &text, NULL, &status, &error) &&
        g_spawn_check_wait_status(status, &error);
    const char *first = text ? strstr(text, "FAIL") : NULL;
    MOJI_CHECK(done, "%s %.*s", error->message, first ? (int)strcspn(first, "\n") : 0, first);
    g_clear_error(&error);
}

int main(int argc, char **argv)
{
    (void)argc;
    program = argv[0];
    GError *error = NULL;
    backend = moji_backend_open(moji_test_backend("cpu"), 0, &error);
    if (!backend) {
        moji_test_no_backend(error->message);
        return moji_test_end();
    }
    printf("# %s\n", backend->describe(backend));
    for (type = MOJI_F32; type <= MOJI_F16; type++) {
        if (!backend->supports(backend, type))
            continue;
        for (int op = 0; op < MOJI_OP_COUNT; op++) {
            g_autofree char *name =
                g_strdup_printf("ops: %s %s", moji_op_name(op), moji_type_name(type));
            current = rows[op];
            moji_test(name, run_current);
        }
        for (guint i = 0; i < G_N_ELEMENTS(others); i++) {
            g_autofree char *name =
                g_strdup_printf("ops: %s %s", others[i].name, moji_type_name(type));
            current = others[i].fn;
            moji_test(name, run_current);
        }
    }
    moji_test("ops: too large", test_too_large);
    for (guint i = 0; i < G_N_ELEMENTS(older) && on_cpu() && !g_getenv("MOJI_TEST_OLDER"); i++) {
        g_autofree char *name = g_strdup_printf("ops: all as %s", older[i]);
        present = older[i];
        moji_test(name, run_older);
    }
    moji_backend_close(backend);
    return moji_test_end();
}
