/* random.c: see random.h.
 *
 * The surprising rule: the logarithm, sine and cosine here are not libm's. PyTorch draws sixteen
 * and more numbers with short single-precision polynomials (the Cephes coefficients), compiled so
 * that most multiply-adds are fused. The last bit of a noise value depends on which ones are, so
 * every fused one is spelled fmaf and every other one must stay unfused. */
#include "random.h"
#include <math.h>
#include <string.h>

#ifdef __clang__
#pragma STDC FP_CONTRACT OFF
#else
#pragma GCC optimize("fp-contract=off")
#endif

enum { STATE = 624, SHIFT = 397, BLOCK = 16 };

void moji_random_seed(MojiRandom *r, guint64 seed)
{
    /* torch keeps the low 32 bits and drops the rest. */
    r->state[0] = (guint32)seed;
    for (guint32 i = 1; i < STATE; i++)
        r->state[i] = 1812433253u * (r->state[i - 1] ^ (r->state[i - 1] >> 30)) + i;
    r->next = STATE;
    r->has_cached = FALSE;
    r->cached = 0;
    r->philox = FALSE;
}

void moji_random_seed_cuda(MojiRandom *r, guint64 seed)
{
    *r = (MojiRandom){.philox = TRUE, .key = seed};
}

static guint32 twist(guint32 high, guint32 low, guint32 far)
{
    guint32 mixed = (high & 0x80000000u) | (low & 0x7fffffffu);
    return far ^ (mixed >> 1) ^ (low & 1 ? 0x9908b0dfu : 0);
}

static void refill(MojiRandom *r)
{
    guint32 *s = r->state;
    for (int i = 0; i < STATE; i++)
        s[i] = twist(s[i], s[(i + 1) % STATE], s[(i + SHIFT) % STATE]);
    r->next = 0;
}

static guint32 draw_32(MojiRandom *r)
{
    if (r->next >= STATE)
        refill(r);
    guint32 y = r->state[r->next++];
    y ^= y >> 11;
    y ^= (y << 7) & 0x9d2c5680u;
    y ^= (y << 15) & 0xefc60000u;
    return y ^ (y >> 18);
}

static float uniform_float(MojiRandom *r)
{
    return (float)(draw_32(r) & 0xffffff) * 0x1p-24f;
}

static double uniform_double(MojiRandom *r)
{
    guint64 high = draw_32(r);
    guint64 bits = high << 32 | draw_32(r);
    return (double)(bits & ((1ull << 53) - 1)) * 0x1p-53;
}

/* Natural logarithm of a normal positive x: x = m * 2^e with m in [sqrt(1/2), sqrt(2)), then
 * ln m = f - f^2/2 + f^3 P(f) for f = m - 1. ln 2 is q2 + q1, q2 exact in few bits. */
static float log_poly(float x)
{
    static const float p[] = {7.0376836292e-2f,  -1.1514610310e-1f, 1.1676998740e-1f,
                              -1.2420140846e-1f, 1.4249322787e-1f,  -1.6668057665e-1f,
                              2.0000714765e-1f,  -2.4999993993e-1f, 3.3333331174e-1f};
    const float q1 = -2.12194440e-4f, q2 = 0.693359375f;
    int exponent;
    float f = frexpf(x, &exponent); /* in [1/2, 1) */
    if (f < 0.707106781186547524f) {
        exponent--;
        f = f - 1.0f + f;
    } else {
        f -= 1.0f;
    }
    float e = (float)exponent, z = f * f, y = p[0];
    for (int i = 1; i < 9; i++)
        y = fmaf(y, f, p[i]);
    y = y * f;
    y = fmaf(y, z, e * q1);
    y = fmaf(-0.5f, z, y);
    return fmaf(e, q2, f + y);
}

/* Sine and cosine of x >= 0. x is taken to [-pi/4, pi/4] by a multiple j of pi/4 in three parts;
 * bits 1 and 2 of j then choose the polynomial and the signs. */
static void sincos_poly(float x, float *sine, float *cosine)
{
    guint32 j = ((guint32)(x * 1.27323954473516f) + 1) & ~1u;
    float k = (float)j;
    x = fmaf(k, -0.78515625f, x);
    x = fmaf(k, -2.4187564849853515625e-4f, x);
    x = fmaf(k, -3.77489497744594108e-8f, x);
    float z = x * x;

    float c = fmaf(2.443315711809948e-5f, z, -1.388731625493765e-3f);
    c = fmaf(c, z, 4.166664568298827e-2f);
    c = c * z;
    c = fmaf(c, z, -(z * 0.5f));
    c = c + 1.0f;

    float s = fmaf(-1.9515295891e-4f, z, 8.3321608736e-3f);
    s = fmaf(s, z, -1.6666654611e-1f);
    s = s * z;
    s = fmaf(s, x, x);

    gboolean swap = j & 2;
    *sine = swap ? c : s;
    *cosine = swap ? s : c;
    if (j & 4)
        *sine = -*sine;
    if ((j + 2) & 4)
        *cosine = -*cosine;
}

/* Box-Muller in place: eight radii from the first half, eight angles from the second. */
static void normal_block(float *d)
{
    for (int i = 0; i < BLOCK / 2; i++) {
        float radius = sqrtf(-2.0f * log_poly(1.0f - d[i]));
        float sine, cosine;
        sincos_poly((float)(2.0 * G_PI) * d[i + BLOCK / 2], &sine, &cosine);
        /* + 0 as torch adds its mean: it turns -0 into 0. */
        d[i] = radius * cosine + 0.0f;
        d[i + BLOCK / 2] = radius * sine + 0.0f;
    }
}

static double normal_scalar(MojiRandom *r)
{
    if (r->has_cached) {
        r->has_cached = FALSE;
        return r->cached;
    }
    double u1 = uniform_double(r), u2 = uniform_double(r);
    double radius = sqrt(-2.0 * log1p(-u2)), theta = 2.0 * G_PI * u1;
    r->cached = radius * sin(theta);
    r->has_cached = TRUE;
    return radius * cos(theta);
}

void moji_philox(guint32 counter[4], guint64 key)
{
    guint32 *c = counter, low = (guint32)key, high = (guint32)(key >> 32);
    for (int round = 0; round < 10; round++) {
        guint64 a = 0xd2511f53ull * c[0], b = 0xcd9e8d57ull * c[2];
        guint32 next[4] = {(guint32)(b >> 32) ^ c[1] ^ low, (guint32)b,
                           (guint32)(a >> 32) ^ c[3] ^ high, (guint32)a};
        memcpy(c, next, sizeof next);
        low += 0x9e3779b9u;
        high += 0xbb67ae85u;
    }
}

/* The sine of curand's Box-Muller form is the first of its pair. */
static void normal_philox(MojiRandom *r, float *out, gsize count)
{
    const float unit = 0x1p-32f, turn = (float)(2 * G_PI) * 0x1p-32f;
    for (gsize i = 0; i < count; i++) {
        guint32 c[4] = {(guint32)r->draws, (guint32)(r->draws >> 32), (guint32)i,
                        (guint32)((guint64)i >> 32)};
        moji_philox(c, r->key);
        float u = (float)c[0] * unit + unit / 2, v = (float)c[1] * turn + turn / 2;
        out[i] = sqrtf(-2.0f * logf(u)) * sinf(v);
    }
    r->draws++;
}

void moji_random_normal(MojiRandom *r, float *out, gsize count)
{
    if (r->philox) {
        normal_philox(r, out, count);
        return;
    }
    if (count < BLOCK) {
        for (gsize i = 0; i < count; i++)
            out[i] = (float)normal_scalar(r);
        return;
    }
    for (gsize i = 0; i < count; i++)
        out[i] = uniform_float(r);
    for (gsize i = 0; i + BLOCK <= count; i += BLOCK)
        normal_block(out + i);
    if (count % BLOCK) { /* the last sixteen are drawn anew, over what is there */
        float *tail = out + count - BLOCK;
        for (int i = 0; i < BLOCK; i++)
            tail[i] = uniform_float(r);
        normal_block(tail);
    }
}
