/* test_random.c: noise against numbers drawn by PyTorch, bit for bit. */
#include "random.h"
#include "test.h"
#include <math.h>
#include <string.h>

enum { LONG = 1000000 };

/* As make_host.py's checksum(). */
static gint64 checksum(const float *values, gsize count)
{
    guint64 sum = 0;
    for (gsize i = 0; i < count; i++) {
        guint32 bits;
        memcpy(&bits, values + i, 4);
        sum += bits * (2 * (guint64)i + 1);
    }
    return (gint64)sum;
}

static gboolean same_bits(const float *a, const float *b, gsize count, const char *what)
{
    for (gsize i = 0; i < count; i++)
        if (!MOJI_CHECK(memcmp(a + i, b + i, 4) == 0,
                        "%s: value %" G_GSIZE_FORMAT " is %.9g, expected %.9g", what, i, a[i],
                        b[i]))
            return FALSE;
    return TRUE;
}

static void test_seeds(void)
{
    gsize count, n;
    gint64 shape[4];
    g_autofree gint64 *seeds = moji_test_npy_int("host/random_seeds.npy", &count, shape);
    g_autofree gint64 *sums = moji_test_npy_int("host/random_sums.npy", &n, shape);
    g_autofree float *heads = moji_test_npy("host/random_heads.npy", &n, shape);
    g_autofree float *out = g_new(float, LONG);
    gsize width = shape[1];
    for (gsize i = 0; i < count; i++) {
        MojiRandom r;
        g_autofree char *what = g_strdup_printf("seed %" G_GINT64_FORMAT, seeds[i]);
        moji_random_seed(&r, seeds[i]);
        moji_random_normal(&r, out, width);
        same_bits(out, heads + i * width, width, what);
        moji_random_seed(&r, seeds[i]);
        moji_random_normal(&r, out, LONG);
        MOJI_CHECK(checksum(out, LONG) == sums[i], "%s: a bit of %d values differs", what, LONG);
    }
}

/* Draws of many sizes from one generator: what a draw leaves behind is part of the result. */
static void test_run(void)
{
    gsize draws, total;
    gint64 shape[4];
    g_autofree gint64 *counts = moji_test_npy_int("host/random_counts.npy", &draws, shape);
    g_autofree float *expected = moji_test_npy("host/random_run.npy", &total, shape);
    g_autofree float *out = g_new(float, total);
    MojiRandom r;
    gsize at = 0;
    moji_random_seed(&r, 7);
    for (gsize i = 0; i < draws; i++) {
        g_autofree char *what =
            g_strdup_printf("draw %" G_GSIZE_FORMAT " of %" G_GINT64_FORMAT, i, counts[i]);
        moji_random_normal(&r, out + at, counts[i]);
        if (!same_bits(out + at, expected + at, counts[i], what))
            return;
        at += counts[i];
    }
    MOJI_CHECK(at == total, "the fixture's counts do not add up");
}

static void test_empty(void)
{
    MojiRandom r, before;
    moji_random_seed(&r, 3);
    before = r;
    moji_random_normal(&r, NULL, 0);
    MOJI_CHECK(memcmp(&r, &before, sizeof r) == 0, "drawing nothing moved the generator");
}

/* The known answers that come with Random123, its authors' library. */
static void test_philox(void)
{
    static const struct {
        guint32 counter[4];
        guint64 key;
        guint32 want[4];
    } rows[] = {
        {{0, 0, 0, 0}, 0, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{~0u, ~0u, ~0u, ~0u}, ~0ull, {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         0x299f31d0a4093822ull,
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (gsize i = 0; i < G_N_ELEMENTS(rows); i++) {
        guint32 c[4];
        memcpy(c, rows[i].counter, sizeof c);
        moji_philox(c, rows[i].key);
        MOJI_CHECK(!memcmp(c, rows[i].want, sizeof c), "row %zu: %08x %08x %08x %08x", i, c[0],
                   c[1], c[2], c[3]);
    }
}

/* What torch.randn gives on a CUDA device for seed 0, to the four digits that are published; the
 * rest of the numbers only by their statistics and by not repeating. */
static void test_cuda(void)
{
    static const float want[] = {-0.9247f, -0.4253f, -2.6438f, 0.1452f,
                                 -0.1209f, -0.5797f, -0.6229f, -0.3284f};
    enum { N = 16384 };
    g_autofree float *x = g_new(float, N), *y = g_new(float, N), *z = g_new(float, N);
    MojiRandom r;
    double sum = 0, square = 0, product = 0;
    moji_random_seed_cuda(&r, 0);
    moji_random_normal(&r, x, N);
    moji_random_normal(&r, y, N);
    for (gsize i = 0; i < G_N_ELEMENTS(want); i++)
        MOJI_CHECK(fabsf(x[i] - want[i]) < 6e-5f, "number %zu is %f, expected %f", i, x[i],
                   want[i]);
    for (int i = 0; i < N; i++) {
        sum += x[i];
        square += x[i] * x[i];
        product += x[i] * y[i];
    }
    MOJI_CHECK(fabs(sum / N) < 0.03 && fabs(square / N - 1) < 0.05 && fabs(product / N) < 0.03,
               "mean %g, square %g, product of two draws %g", sum / N, square / N, product / N);
    moji_random_seed_cuda(&r, 1ull << 32);
    moji_random_normal(&r, z, N);
    MOJI_CHECK(x[0] != z[0], "the seed's high half does not count");
}

int main(void)
{
    moji_test("random: a million values of several seeds", test_seeds);
    moji_test("random: draws of many sizes from one generator", test_run);
    moji_test("random: drawing nothing", test_empty);
    moji_test("random: Philox's known answers", test_philox);
    moji_test("random: a CUDA device's numbers", test_cuda);
    return moji_test_end();
}
