/* test_kernels.c: every kernel of kernels/, compiled for the host by the shim, against its slow
 * twin: in every type, on shapes from the real models and on odd ones. Each launch runs in three
 * orders of its threads, and a byte that depends on the order is a race. A launcher of kernels.h
 * without a row here fails the suite. */
#include "kernels.h"
#include "test.h"
#include "twins.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static KernelType type; /* of the row that runs */
static GRand *dice;

/* ---- numbers and memory ---- */

static const gsize SIZE[] = {4, 2, 2};
static const char *const TYPE[] = {"f32", "bf16", "f16"};

static double rounded(double x, KernelType t)
{
    return t == KERNEL_BF16 ? twin_bf16(x) : t == KERNEL_F16 ? (double)(_Float16)x : (float)x;
}

static double normal(void)
{
    return sqrt(-2 * log(1 - g_rand_double(dice))) * cos(2 * G_PI * g_rand_double(dice));
}

/* What a test gives to a kernel: the values for the twin, and the bytes, in a block of exactly
 * their size so that the address sanitizer sees what is read beside them. */
typedef struct {
    double *value;
    void *data;
    gint64 n;
} Array;

static Array array_of(gint64 n, KernelType t, double centre, double spread)
{
    Array a = {g_new(double, n), malloc(n * SIZE[t]), n};
    for (gint64 i = 0; i < n; i++) {
        a.value[i] = rounded(centre + spread * normal(), t);
        float f = (float)a.value[i];
        _Float16 h = (_Float16)f;
        if (t == KERNEL_F32)
            ((float *)a.data)[i] = f;
        else if (t == KERNEL_F16)
            ((_Float16 *)a.data)[i] = h;
        else
            memcpy((char *)a.data + 2 * i, (char *)&f + 2, 2);
    }
    return a;
}

static void array_clear(Array *a)
{
    g_free(a->value);
    free(a->data);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Array, array_clear)

/* An output: NaN at first, or a copy of what is changed in place. */
typedef struct {
    void *data, *before, *first;
    gsize bytes;
    int turn;
} Output;

static Output output_of(gsize bytes, const void *before)
{
    Output o = {malloc(bytes), g_malloc(bytes), NULL, bytes, 0};
    memset(o.before, 0xff, bytes);
    if (before)
        memcpy(o.before, before, bytes);
    return o;
}

static void output_clear(Output *o)
{
    free(o->data);
    g_free(o->before);
    g_free(o->first);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Output, output_clear)

static gboolean begin_turn(Output *o)
{
    static const unsigned orders[] = {0, 1, 20261122};
    if (o->turn == G_N_ELEMENTS(orders))
        return FALSE;
    moji_shim_order(orders[o->turn]);
    memcpy(o->data, o->before, o->bytes);
    return TRUE;
}

static void end_turn(Output *o, cudaError_t error)
{
    if (MOJI_CHECK(!error, "%s: %s", TYPE[type], cudaGetErrorString(error))) {
        if (!o->first)
            o->first = g_memdup2(o->data, o->bytes);
        MOJI_CHECK(!memcmp(o->first, o->data, o->bytes), "%s: the order of threads shows",
                   TYPE[type]);
    }
    o->turn++;
}

/* Launches in every order. */
#define RUN(output, launch)                                                                        \
    while (begin_turn(output))                                                                     \
    end_turn(output, launch)

static void check_as(const Output *o, KernelType t, const double *expected, gint64 n, double limit,
                     const char *what)
{
    g_autofree float *found = g_new(float, n), *wanted = g_new(float, n);
    float largest = 1e-30f;
    for (gint64 i = 0; i < n; i++) {
        if (t == KERNEL_F32)
            found[i] = ((float *)o->data)[i];
        else if (t == KERNEL_F16)
            found[i] = (float)((_Float16 *)o->data)[i];
        else {
            guint32 bits = (guint32)((guint16 *)o->data)[i] << 16;
            memcpy(&found[i], &bits, 4);
        }
        wanted[i] = (float)expected[i];
        largest = MAX(largest, fabsf(wanted[i]));
    }
    double error = t == KERNEL_F32 ? moji_test_max_error(found, wanted, n) / largest
                                   : moji_test_nmse(found, wanted, n);
    MOJI_CHECK(error <= limit, "%s %s: error %g, limit %g", what, TYPE[t], error, limit);
}

static void check(const Output *o, const double *expected, gint64 n, const char *what)
{
    check_as(o, type, expected, n, 1e-5, what);
}

/* ---- value by value ---- */

static double twin_scale(double x)
{
    return -1.25 * x;
}

static void test_unary(void)
{
    static double (*const twins[])(double) = {twin_silu, twin_gelu, twin_quick_gelu, twin_relu,
                                              twin_scale};
    static const gint64 sizes[] = {1, 21, 2048, 3001};
    for (int f = KERNEL_SILU; f <= KERNEL_SCALE; f++)
        for (guint k = 0; k < G_N_ELEMENTS(sizes); k++) {
            gint64 n = sizes[k];
            g_auto(Array) x = array_of(n, type, 1, 3);
            g_auto(Output) y = output_of(n * SIZE[type], x.data);
            g_autofree double *expected = g_new(double, n);
            for (gint64 i = 0; i < n; i++)
                expected[i] = twins[f](x.value[i]);
            RUN(&y, kernel_unary(f, y.data, y.data, n, -1.25f, type, NULL));
            check(&y, expected, n, "unary");
        }
}

static void test_geglu(void)
{
    static const gint64 sizes[][2] = {{3, 1280}, {1, 1}, {7, 13}, {2, 20}};
    for (guint k = 0; k < G_N_ELEMENTS(sizes); k++) {
        gint64 rows = sizes[k][0], c = sizes[k][1], n = rows * c;
        g_auto(Array) x = array_of(2 * n, type, 0, 2);
        g_auto(Output) y = output_of(n * SIZE[type], NULL);
        g_autofree double *expected = g_new(double, n);
        twin_geglu(expected, x.value, rows, c);
        RUN(&y, kernel_geglu(y.data, x.data, rows, c, type, NULL));
        check(&y, expected, n, "geglu");
    }
}

static void check_add(const gint64 a[4], const gint64 b[4])
{
    gint64 n = a[0] * a[1] * a[2] * a[3], stride[4], step = 1;
    for (int i = 3; i >= 0; step *= b[i--])
        stride[i] = b[i] == 1 ? 0 : step;
    g_auto(Array) x = array_of(n, type, 0, 1), w = array_of(step, type, 0, 1);
    g_auto(Output) y = output_of(n * SIZE[type], x.data);
    g_autofree double *expected = g_new(double, n);
    twin_add(expected, x.value, w.value, a, b);
    RUN(&y, kernel_add(y.data, y.data, w.data, a, stride, type, NULL));
    check(&y, expected, n, "add");
}

static void test_add(void)
{
    check_add((gint64[]){2, 5, 4, 320}, (gint64[]){2, 5, 4, 320});
    check_add((gint64[]){2, 5, 4, 320}, (gint64[]){2, 1, 1, 320}); /* the time embedding */
    check_add((gint64[]){1, 2, 7, 40}, (gint64[]){1, 1, 7, 40});   /* positions */
    check_add((gint64[]){3, 5, 7, 9}, (gint64[]){1, 5, 1, 9});
    check_add((gint64[]){3, 5, 7, 9}, (gint64[]){3, 1, 7, 1});
    check_add((gint64[]){3, 5, 7, 16}, (gint64[]){1, 1, 1, 1});
    check_add((gint64[]){3, 2, 2, 16}, (gint64[]){3, 2, 2, 1});
    check_add((gint64[]){1, 1, 1, 1}, (gint64[]){1, 1, 1, 1});
    check_add((gint64[]){4, 3, 2, 8}, (gint64[]){4, 3, 1, 8});
}

static void test_bias(void)
{
    static const struct {
        gint64 rows, c;
        gboolean bias, residual;
    } rows[] = {
        {5, 320, TRUE, TRUE}, {3, 7, TRUE, FALSE}, {2, 24, FALSE, TRUE}, {1, 1, TRUE, TRUE}};
    for (guint k = 0; k < G_N_ELEMENTS(rows); k++) {
        gint64 c = rows[k].c, n = rows[k].rows * c;
        g_auto(Array) x = array_of(n, type, 0, 1), r = array_of(n, type, 0, 1);
        g_auto(Array) b = array_of(c, KERNEL_F32, 0, 1);
        g_auto(Output) y = output_of(n * SIZE[type], x.data);
        g_autofree double *expected = g_new(double, n);
        for (gint64 i = 0; i < n; i++)
            expected[i] = x.value[i] + (rows[k].bias ? b.value[i % c] : 0) +
                          (rows[k].residual ? r.value[i] : 0);
        RUN(&y, kernel_bias(y.data, rows[k].bias ? b.data : NULL, rows[k].residual ? r.data : NULL,
                            rows[k].rows, c, type, NULL));
        check(&y, expected, n, "bias");
    }
}

/* ---- moving ---- */

static void test_concat(void)
{
    static const gint64 sizes[][3] = {{6, 320, 640}, {5, 3, 9}, {1, 1, 1}, {7, 8, 2}};
    for (guint k = 0; k < G_N_ELEMENTS(sizes); k++) {
        gint64 rows = sizes[k][0], ca = sizes[k][1], cb = sizes[k][2], n = rows * (ca + cb);
        g_auto(Array) a = array_of(rows * ca, type, 0, 1), b = array_of(rows * cb, type, 0, 1);
        g_auto(Output) y = output_of(n * SIZE[type], NULL);
        g_autofree double *expected = g_new(double, n);
        twin_concat(expected, a.value, b.value, rows, ca, cb);
        RUN(&y,
            kernel_concat(y.data, a.data, b.data, rows, ca * SIZE[type], cb * SIZE[type], NULL));
        check_as(&y, type, expected, n, 0, "concat");
    }
}

static void test_upsample(void)
{
    static const gint64 sizes[][4] = {{2, 4, 4, 320}, {3, 5, 7, 3}, {1, 1, 1, 1}, {1, 3, 2, 8}};
    for (guint k = 0; k < G_N_ELEMENTS(sizes); k++) {
        const gint64 *s = sizes[k];
        gint64 n = s[0] * s[1] * s[2] * s[3];
        g_auto(Array) x = array_of(n, type, 0, 1);
        g_auto(Output) y = output_of(4 * n * SIZE[type], NULL);
        g_autofree double *expected = g_new(double, 4 * n);
        twin_upsample(expected, x.value, s[0], s[1], s[2], s[3]);
        RUN(&y, kernel_upsample(y.data, x.data, s[0], s[1], s[2], s[3] * SIZE[type], NULL));
        check_as(&y, type, expected, 4 * n, 0, "upsample");
    }
}

static void check_embed(gint64 rows, gint64 width, gint64 n, gint64 bad_at)
{
    int bad = 0;
    gint32 *ids = malloc(n * sizeof *ids);
    g_auto(Array) table = array_of(rows * width, type, 0, 1);
    g_auto(Output) y = output_of(n * width * SIZE[type], NULL);
    g_autofree double *expected = g_new0(double, n *width);
    for (gint64 i = 0; i < n; i++) {
        ids[i] = i == bad_at ? (gint32)rows : g_rand_int_range(dice, 0, (gint32)rows);
        if (i != bad_at)
            memcpy(expected + i * width, table.value + ids[i] * width, width * sizeof(double));
    }
    RUN(&y, kernel_embed(y.data, table.data, ids, &bad, n, rows, width, type, NULL));
    check_as(&y, type, expected, n * width, 0, "embed");
    MOJI_CHECK(bad == bad_at + 1, "bad is %d, expected %d", bad, (int)bad_at + 1);
    free(ids);
}

static void test_embed(void)
{
    check_embed(50, 768, 7, -1);
    check_embed(3, 21, 5, 2);
    check_embed(1, 1, 1, -1);
}

static void test_sinusoid(void)
{
    static const struct {
        gint64 batch, width;
        gboolean flip;
        double shift;
    } rows[] = {{2, 320, TRUE, 0}, {1, 128, FALSE, 1}, {3, 6, TRUE, 1}};
    for (guint k = 0; k < G_N_ELEMENTS(rows); k++) {
        gint64 batch = rows[k].batch, width = rows[k].width;
        g_auto(Array) t = array_of(batch, KERNEL_F32, 500, 200);
        g_auto(Output) y = output_of(batch * width * 4, NULL);
        g_autofree double *expected = g_new(double, batch *width);
        twin_sinusoid(expected, t.value, batch, width, rows[k].flip, rows[k].shift);
        RUN(&y, kernel_sinusoid(y.data, t.data, batch, width, rows[k].flip, rows[k].shift, NULL));
        /* the angle of a late timestep is rounded in f32, as the reference does */
        check_as(&y, KERNEL_F32, expected, batch * width, 3e-4, "sinusoid");
    }
}

static void test_cast(void)
{
    static const gint64 sizes[] = {1, 21, 1024, 1030};
    for (int to = KERNEL_F32; to <= KERNEL_F16; to++)
        for (guint k = 0; k < G_N_ELEMENTS(sizes); k++) {
            gint64 n = sizes[k];
            g_auto(Array) x = array_of(n, type, 0, 3);
            g_auto(Output) y = output_of(n * SIZE[to], NULL);
            g_autofree double *expected = g_new(double, n);
            for (gint64 i = 0; i < n; i++)
                expected[i] = rounded(x.value[i], to);
            RUN(&y, kernel_cast(y.data, to, x.data, type, n, NULL));
            check_as(&y, to, expected, n, 0, "cast");
        }
}

static void test_weight(void)
{
    static const gint64 sizes[][3] = {{8, 16, 9}, {3, 5, 9}, {4, 6, 1}, {1, 1, 9}};
    for (int to = KERNEL_F32; to <= KERNEL_F16; to++)
        for (guint k = 0; k < G_N_ELEMENTS(sizes); k++) {
            gint64 out = sizes[k][0], in = sizes[k][1], taps = sizes[k][2], n = out * in * taps;
            g_auto(Array) x = array_of(n, type, 0, 1);
            g_auto(Output) y = output_of(n * SIZE[to], NULL);
            g_autofree double *expected = g_new(double, n);
            for (gint64 i = 0; i < n; i++)
                expected[i] =
                    rounded(x.value[(i / in / taps * in + i % in) * taps + i / in % taps], to);
            RUN(&y, kernel_weight(y.data, to, x.data, type, out, in, taps, NULL));
            check_as(&y, to, expected, n, 0, "weight");
        }
}

/* ---- norms ---- */

static void check_group_norm(gint64 b, gint64 pixels, gint64 c, int groups, gboolean silu,
                             double centre, gboolean shifted)
{
    gint64 n = b * pixels * c;
    KernelGroupNorm s = {b, pixels, c, groups, silu, 1e-5f, FALSE};
    g_auto(Array) x = array_of(n, type, centre, 1.5), shift = array_of(b * c, type, 0, 1);
    g_auto(Array) weight = array_of(c, KERNEL_F32, 1, 0.3), bias = array_of(c, KERNEL_F32, 0, 0.3);
    g_auto(Output) y = output_of(n * SIZE[type], x.data);
    g_autofree double *expected = g_new(double, n);
    void *work = malloc(kernel_group_norm_bytes(&s));
    memset(work, 0xff, kernel_group_norm_bytes(&s));
    for (gint64 i = 0; shifted && i < n; i++)
        x.value[i] += shift.value[i / (pixels * c) * c + i % c];
    twin_group_norm(expected, x.value, weight.value, bias.value, b, pixels, c, groups, 1e-5f, silu);
    RUN(&y, kernel_group_norm(y.data, y.data, shifted ? shift.data : NULL, weight.data, bias.data,
                              work, &s, type, NULL));
    check(&y, expected, n, "group_norm");
    free(work);
}

/* By the moments that an earlier call left in `work`. */
static void check_group_norm_measured(gint64 pixels, gint64 c, int groups)
{
    gint64 n = pixels * c;
    KernelGroupNorm s = {1, pixels, c, groups, FALSE, 1e-5f, FALSE};
    g_auto(Array) x = array_of(n, type, 0.5, 1.5);
    g_auto(Array) weight = array_of(c, KERNEL_F32, 1, 0.3), bias = array_of(c, KERNEL_F32, 0, 0.3);
    g_auto(Output) y = output_of(n * SIZE[type], NULL);
    g_autofree double *expected = g_new(double, n);
    g_autofree void *work = g_malloc(kernel_group_norm_bytes(&s));
    twin_group_norm(expected, x.value, weight.value, bias.value, 1, pixels, c, groups, 1e-5f,
                    FALSE);
    RUN(&y, kernel_group_norm(y.data, x.data, NULL, weight.data, bias.data, work, &s, type, NULL));
    check(&y, expected, n, "group_norm");
    /* Half of the input twice: alone it would be normed otherwise. */
    memcpy((char *)x.data + n / 2 * SIZE[type], x.data, n / 2 * SIZE[type]);
    memcpy(expected + n / 2, expected, n / 2 * sizeof *expected);
    s.measured = TRUE;
    g_auto(Output) again = output_of(n * SIZE[type], NULL);
    RUN(&again,
        kernel_group_norm(again.data, x.data, NULL, weight.data, bias.data, work, &s, type, NULL));
    check(&again, expected, n, "group_norm, measured");
}

static void test_group_norm(void)
{
    check_group_norm(2, 64, 320, 32, TRUE, 0, TRUE);
    check_group_norm(1, 64, 320, 32, FALSE, 0, FALSE); /* a transformer's */
    check_group_norm(1, 16, 2560, 32, TRUE, 0.5, FALSE);
    check_group_norm(1, 1000, 64, 8, TRUE, 0, FALSE); /* several parts, the last shorter */
    check_group_norm(2, 300, 16, 8, TRUE, 0, TRUE);   /* groups narrower than a pack */
    check_group_norm(3, 35, 24, 8, TRUE, 0, FALSE);
    check_group_norm(1, 1, 64, 32, FALSE, 0, FALSE);
    check_group_norm(1, 12, 20, 4, TRUE, -3, TRUE);
    check_group_norm(2, 81, 12, 1, FALSE, 10, FALSE);
    check_group_norm(1, 150, 3, 3, FALSE, 100, FALSE);
    check_group_norm_measured(300, 24, 8);
    check_group_norm_measured(2, 64, 32);
}

static void check_layer_norm(gint64 rows, gint64 c, double centre)
{
    gint64 n = rows * c;
    g_auto(Array) x = array_of(n, type, centre, 1.5);
    g_auto(Array) weight = array_of(c, KERNEL_F32, 1, 0.3), bias = array_of(c, KERNEL_F32, 0, 0.3);
    g_auto(Output) y = output_of(n * SIZE[type], x.data);
    g_autofree double *expected = g_new(double, n);
    twin_layer_norm(expected, x.value, weight.value, bias.value, rows, c, 1e-5f);
    RUN(&y, kernel_layer_norm(y.data, y.data, weight.data, bias.data, rows, c, 1e-5f, type, NULL));
    check(&y, expected, n, "layer_norm");
}

static void test_layer_norm(void)
{
    check_layer_norm(9, 320, 0);
    check_layer_norm(6, 768, 0.5);
    check_layer_norm(3, 1280, -20);
    check_layer_norm(5, 7, 3);
    check_layer_norm(1, 33, 0);
}

/* ---- products ---- */

static void check_softmax(gint64 rows, gint64 n, gint64 period, gint64 first, gboolean causal)
{
    KernelSoftmax s = {rows, n, period, first, causal, 0.7f};
    g_auto(Array) x = array_of(rows * n, KERNEL_F32, 0, 4);
    g_auto(Output) y = output_of(rows * n * SIZE[type], NULL);
    g_autofree double *expected = g_new0(double, rows *n);
    for (gint64 r = 0; r < rows; r++) {
        gint64 seen = causal ? MIN(n, first + r % period + 1) : n;
        double sum = 0;
        for (gint64 i = 0; i < seen; i++)
            sum += exp(0.7f * x.value[r * n + i]);
        for (gint64 i = 0; i < seen; i++)
            expected[r * n + i] = exp(0.7f * x.value[r * n + i]) / sum;
    }
    RUN(&y, kernel_softmax(y.data, x.data, &s, type, NULL));
    check(&y, expected, rows * n, "softmax");
}

static void test_softmax(void)
{
    check_softmax(5, 77, 5, 0, FALSE);
    check_softmax(6, 300, 3, 4, TRUE);
    check_softmax(1, 1, 1, 0, FALSE);
}

static void check_attention(KernelAttention s, gint64 pad, double spread)
{
    gint64 c = s.heads * s.width, queries = s.batch * s.n, keys = s.batch * s.m;
    s.q_row = s.kv_row = c + pad;
    s.y_row = c;
    s.scale = 1 / sqrtf(s.width);
    g_auto(Array) q = array_of(queries * s.q_row, type, 0, spread);
    g_auto(Array) k = array_of(keys * s.kv_row, type, 0, spread);
    g_auto(Array) v = array_of(keys * s.kv_row, type, 0, 1);
    g_auto(Output) y = output_of(queries * c * SIZE[type], NULL);
    g_autofree double *expected = g_new(double, queries *c);
    for (gint64 i = 1; pad && i < queries; i++)
        memmove(q.value + i * c, q.value + i * s.q_row, c * sizeof(double));
    for (gint64 i = 1; pad && i < keys; i++) {
        memmove(k.value + i * c, k.value + i * s.kv_row, c * sizeof(double));
        memmove(v.value + i * c, v.value + i * s.kv_row, c * sizeof(double));
    }
    twin_attention(expected, q.value, k.value, v.value, s.batch, s.n, s.m, s.heads, s.width,
                   s.scale, s.causal);
    RUN(&y, kernel_attention(y.data, q.data, k.data, v.data, &s, type, NULL));
    /* the exponentials are rounded to the type before they meet the values */
    check_as(&y, type, expected, queries * c, type == KERNEL_BF16 ? 2e-5 : 1e-6, "attention");
}

static void test_attention(void)
{
    if (!kernel_attention_takes(40, type)) {
        MOJI_CHECK(type == KERNEL_F32, "40 wide heads are refused");
        return;
    }
    check_attention((KernelAttention){2, 70, 70, 2, 40, .causal = FALSE}, 0, 1);
    check_attention((KernelAttention){1, 64, 77, 2, 80, .causal = FALSE}, 16, 1); /* text */
    check_attention((KernelAttention){1, 20, 130, 1, 160, .causal = FALSE}, 0, 1);
    check_attention((KernelAttention){1, 77, 77, 1, 64, .causal = TRUE}, 0, 1); /* CLIP */
    check_attention((KernelAttention){1, 130, 130, 1, 32, .causal = TRUE}, 8, 1);
    check_attention((KernelAttention){2, 1, 1, 3, 8, .causal = FALSE}, 0, 1);
    check_attention((KernelAttention){1, 17, 200, 1, 48, .causal = FALSE}, 0, 6); /* sharp */
    check_attention((KernelAttention){1, 5, 66, 1, 128, .causal = FALSE}, 0, 1);
}

/* Where s.bias_batch is set the products have one x and a bias each. */
static void check_linear(KernelProduct s, gboolean bias, gboolean residual)
{
    gint64 biases = s.bias_batch ? s.batch * s.bias_batch : s.out, xs = s.bias_batch ? 1 : s.batch;
    s.x_row = s.in + 1;
    s.w_row = s.w_is_in_by_out ? s.out : s.in;
    s.y_row = s.out + 2;
    s.x_batch = s.bias_batch ? 0 : s.rows * s.x_row;
    s.w_batch = s.out * s.in;
    s.y_batch = s.rows * s.y_row;
    KernelType y_type = s.y_is_f32 ? KERNEL_F32 : type;
    gint64 n = s.batch * s.y_batch;
    g_auto(Array) x = array_of(xs * s.rows * s.x_row, type, 0, 1);
    g_auto(Array) w = array_of(s.batch * s.w_batch, type, 0, 2 / sqrt(s.in));
    g_auto(Array) b = array_of(biases, KERNEL_F32, 0, 1), r = array_of(n, y_type, 0, 1);
    g_auto(Output) y = output_of(n * SIZE[y_type], r.data);
    g_autofree double *expected = g_memdup2(r.value, n * sizeof(double));
    for (gint64 z = 0; z < s.batch; z++)
        for (gint64 i = 0; i < s.rows; i++)
            for (gint64 o = 0; o < s.out; o++) {
                double sum = 0;
                for (gint64 k = 0; k < s.in; k++)
                    sum +=
                        x.value[z * s.x_batch + i * s.x_row + k] *
                        w.value[z * s.w_batch + (s.w_is_in_by_out ? k * s.out + o : o * s.in + k)];
                double *to = expected + z * s.y_batch + i * s.y_row + o;
                *to = s.alpha * sum + (bias ? b.value[z * s.bias_batch + o] : 0) +
                      (residual ? *to : 0);
            }
    RUN(&y, kernel_linear(y.data, x.data, w.data, bias ? b.data : NULL, residual ? r.data : NULL,
                          &s, type, NULL));
    check_as(&y, y_type, expected, n, 1e-5, "linear");
}

static void test_linear(void)
{
    check_linear((KernelProduct){.rows = 70, .in = 40, .out = 130, .batch = 1, .alpha = 1}, TRUE,
                 TRUE);
    check_linear((KernelProduct){.rows = 5, .in = 13, .out = 7, .batch = 3, .alpha = 0.5f}, TRUE,
                 FALSE);
    check_linear(
        (KernelProduct){
            .rows = 9, .in = 20, .out = 24, .batch = 2, .w_is_in_by_out = TRUE, .alpha = 1},
        FALSE, TRUE);
    check_linear(
        (KernelProduct){.rows = 3, .in = 8, .out = 5, .batch = 1, .y_is_f32 = TRUE, .alpha = 2},
        FALSE, FALSE);
    check_linear((KernelProduct){.rows = 1, .in = 1, .out = 1, .batch = 1, .alpha = 1}, TRUE, TRUE);
    check_linear(/* queries, keys and values */
                 (KernelProduct){
                     .rows = 9, .in = 20, .out = 24, .batch = 3, .bias_batch = 27, .alpha = 1},
                 TRUE, FALSE);
}

static void check_conv(TwinConv c, gboolean bias, gboolean residual)
{
    gint64 h = twin_conv_side(&c, c.h), w = twin_conv_side(&c, c.w);
    gint64 n = c.batch * h * w * c.out, taps = c.kernel * c.kernel, weights = c.out * c.in * taps;
    KernelConv s = {c.batch, c.h, c.w, c.in, h, w, c.out, c.kernel, c.stride, c.pad_begin};
    g_auto(Array) x = array_of(c.batch * c.h * c.w * c.in, type, 0, 1);
    g_auto(Array) weight = array_of(weights, type, 0, 2 / sqrt(c.in * c.kernel));
    g_auto(Array) b = array_of(c.out, KERNEL_F32, 0, 1), r = array_of(n, type, 0, 1);
    g_auto(Output) y = output_of(n * SIZE[type], NULL);
    g_autofree double *expected = g_new(double, n), *in_file = g_new(double, weights);
    for (gint64 i = 0; i < weights; i++) /* our order to the file's */
        in_file[(i / c.in / taps * c.in + i % c.in) * taps + i / c.in % taps] = weight.value[i];
    twin_conv2d(expected, x.value, in_file, bias ? b.value : NULL, residual ? r.value : NULL, &c);
    RUN(&y, kernel_conv2d(y.data, x.data, weight.data, bias ? b.data : NULL,
                          residual ? r.data : NULL, &s, type, NULL));
    check(&y, expected, n, "conv2d");
}

static void test_conv2d(void)
{
    check_conv((TwinConv){2, 8, 8, 4, 80, 3, 1, 1, 1}, TRUE, FALSE);
    check_conv((TwinConv){1, 9, 11, 3, 7, 3, 1, 1, 1}, TRUE, TRUE);
    check_conv((TwinConv){1, 16, 16, 12, 64, 3, 2, 1, 1}, TRUE, FALSE); /* downsampling */
    check_conv((TwinConv){1, 10, 12, 8, 9, 3, 2, 0, 1}, TRUE, FALSE);   /* the VAE encoder's */
    check_conv((TwinConv){3, 7, 5, 20, 24, 3, 1, 1, 1}, FALSE, TRUE);
    check_conv((TwinConv){1, 1, 1, 5, 3, 3, 1, 1, 1}, FALSE, FALSE);
    check_conv((TwinConv){1, 8, 8, 16, 12, 1, 2, 0, 0}, FALSE, FALSE);
}

/* In place where there are as many rows as planes in a. */
static void check_mix(int a, int b, int rows, gint64 n)
{
    KernelMix shape = {.a = a, .b = b, .rows = rows, .n = n};
    int width = a + b + 1;
    g_auto(Array) x = array_of(a * n, KERNEL_F32, 0, 1), y = array_of(b * n, KERNEL_F32, 0, 1);
    g_auto(Array) factors = array_of(rows * width, KERNEL_F32, 0, 1);
    g_autofree double *expected = g_new(double, rows *n);
    for (int i = 0; i < rows * width; i++) {
        gboolean limit = i % width == width - 1;
        if (limit || i % width == 1 || i % 4 == 3)
            factors.value[i] = !limit ? 0 : i / width % 2 ? INFINITY : 1.5;
        ((float *)factors.data)[i] = (float)factors.value[i];
    }
    for (gint64 i = 0; i < n; i++)
        x.value[n + i] = ((float *)x.data)[n + i] = NAN; /* left out by all factors */
    twin_mix(expected, x.value, y.value, factors.value, a, b, rows, n);
    g_auto(Output) out = output_of(rows * n * sizeof(float), rows == a ? x.data : NULL);
    RUN(&out, kernel_mix(out.data, rows == a ? out.data : x.data, b ? y.data : NULL, factors.data,
                         &shape, NULL));
    check_as(&out, KERNEL_F32, expected, rows * n, 1e-6, "mix");
}

static void test_mix(void)
{
    check_mix(7, 2, 7, 1024);
    check_mix(7, 2, 7, 4);
    check_mix(7, 0, 2, 259);
    check_mix(2, 1, 8, 515);
    check_mix(2, 0, 1, 1);
}

/* ---- the rows ---- */

static const struct {
    const char *launcher;
    MojiTestFn fn;
} ROWS[] = {
    {"kernel_unary", test_unary},
    {"kernel_geglu", test_geglu},
    {"kernel_add", test_add},
    {"kernel_bias", test_bias},
    {"kernel_concat", test_concat},
    {"kernel_upsample", test_upsample},
    {"kernel_embed", test_embed},
    {"kernel_sinusoid", test_sinusoid},
    {"kernel_cast", test_cast},
    {"kernel_mix", test_mix},
    {"kernel_weight", test_weight},
    {"kernel_group_norm", test_group_norm},
    {"kernel_layer_norm", test_layer_norm},
    {"kernel_softmax", test_softmax},
    {"kernel_attention", test_attention},
    {"kernel_linear", test_linear},
    {"kernel_conv2d", test_conv2d},
};

static void run_row(MojiTestFn fn)
{
    dice = g_rand_new_with_seed(42);
    for (int t = KERNEL_F32; t <= KERNEL_F16; t++) {
        type = t;
        fn();
    }
    g_rand_free(dice);
}

static MojiTestFn current;

static void run_current(void)
{
    run_row(current);
}

/* Every launcher that kernels.h declares has a row. */
static void test_complete(void)
{
    g_autofree char *path = g_build_filename(MOJI_SOURCE_DIR, "kernels", "kernels.h", NULL);
    g_autofree char *text = NULL;
    guint found = 0;
    if (!g_file_get_contents(path, &text, NULL, NULL))
        g_error("%s cannot be read", path);
    static const char start[] = "\ncudaError_t ";
    for (const char *at = strstr(text, start); at; at = strstr(at, start)) {
        at += strlen(start);
        g_autofree char *name = g_strndup(at, strcspn(at, "("));
        gboolean has_row = FALSE;
        for (guint i = 0; i < G_N_ELEMENTS(ROWS); i++)
            has_row |= !strcmp(ROWS[i].launcher, name);
        MOJI_CHECK(has_row, "%s has no row", name);
        found++;
    }
    MOJI_CHECK(found == G_N_ELEMENTS(ROWS), "%u launchers, %zu rows", found, G_N_ELEMENTS(ROWS));
}

int main(void)
{
    moji_test("kernels: every launcher has a row", test_complete);
    for (guint i = 0; i < G_N_ELEMENTS(ROWS); i++) {
        g_autofree char *name = g_strdup_printf("kernels: %s", ROWS[i].launcher + 7);
        current = ROWS[i].fn;
        moji_test(name, run_current);
    }
    return moji_test_end();
}
