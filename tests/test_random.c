/* test_random.c: noise against numbers drawn by PyTorch, bit for bit. */
#include "random.h"
#include "test.h"
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

int main(void)
{
    moji_test("random: a million values of several seeds", test_seeds);
    moji_test("random: draws of many sizes from one generator", test_run);
    moji_test("random: drawing nothing", test_empty);
    return moji_test_end();
}
