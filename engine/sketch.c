/* sketch.c: see sketch.h. */
#include "sketch.h"
#include <math.h>
#include <string.h>

#define LONG_SIDE 128

struct MojiSketch {
    int terms;      /* channels and a constant */
    double *normal; /* [terms,terms]: sum of x x^T */
    double *right;  /* [terms,3]: sum of x y^T */
    double *map;    /* [terms,3] */
    gboolean learnt;
    float *small; /* [h,w,3]: the picture, a pixel a latent */
    guint8 *pixels;
};

MojiSketch *moji_sketch_new(int channels)
{
    MojiSketch *s = g_new0(MojiSketch, 1);
    s->terms = channels + 1;
    s->normal = g_new0(double, s->terms * s->terms);
    s->right = g_new0(double, s->terms * 3);
    s->map = g_new0(double, s->terms * 3);
    return s;
}

void moji_sketch_free(MojiSketch *s)
{
    if (!s)
        return;
    g_free(s->normal);
    g_free(s->right);
    g_free(s->map);
    g_free(s->small);
    g_free(s->pixels);
    g_free(s);
}

/* Solves normal * map = right by elimination. The matrix is a sum of squares and gets a little of
 * the identity, so no pivot is small. */
static void solve(MojiSketch *s)
{
    int n = s->terms;
    g_autofree double *a = g_memdup2(s->normal, sizeof *a * n * n);
    memcpy(s->map, s->right, sizeof *s->map * n * 3);
    for (int i = 0; i < n; i++)
        a[i * n + i] = a[i * n + i] * 1.001 + 1e-6;
    for (int i = 0; i < n; i++)
        for (int j = 0; j < n; j++) {
            if (j == i)
                continue;
            double by = a[j * n + i] / a[i * n + i];
            for (int k = i; k < n; k++)
                a[j * n + k] -= by * a[i * n + k];
            for (int k = 0; k < 3; k++)
                s->map[j * 3 + k] -= by * s->map[i * 3 + k];
        }
    for (int i = 0; i < n; i++)
        for (int k = 0; k < 3; k++)
            s->map[i * 3 + k] /= a[i * n + i];
}

static double term(const MojiSketch *s, const float *latent, int i)
{
    return i < s->terms - 1 ? latent[i] : 1;
}

void moji_sketch_learn(MojiSketch *s, const float *latents, const float *rgb, int h, int w, int f)
{
    int n = s->terms;
    for (int at = 0; at < h * w; at++) {
        const float *latent = latents + (gsize)at * (n - 1);
        double mean[3] = {0};
        for (int y = 0; y < f; y++) {
            const float *row = rgb + (((gsize)(at / w) * f + y) * w + at % w) * f * 3;
            for (int i = 0; i < f * 3; i++)
                mean[i % 3] += row[i] / (f * f);
        }
        for (int i = 0; i < n; i++) {
            double x = term(s, latent, i);
            for (int j = 0; j < n; j++)
                s->normal[i * n + j] += x * term(s, latent, j);
            for (int k = 0; k < 3; k++)
                s->right[i * 3 + k] += x * mean[k];
        }
    }
    solve(s);
    s->learnt = TRUE;
}

/* Between the four nearest of small [h,w,3], at a place given in its pixels. */
static float blend(const MojiSketch *s, int h, int w, float y, float x, int k)
{
    int y0 = CLAMP((int)floorf(y), 0, h - 1), x0 = CLAMP((int)floorf(x), 0, w - 1);
    int y1 = MIN(y0 + 1, h - 1), x1 = MIN(x0 + 1, w - 1);
    float v = CLAMP(y - y0, 0, 1), u = CLAMP(x - x0, 0, 1);
    const float *p = s->small;
    float above = p[(y0 * w + x0) * 3 + k] * (1 - u) + p[(y0 * w + x1) * 3 + k] * u;
    float below = p[(y1 * w + x0) * 3 + k] * (1 - u) + p[(y1 * w + x1) * 3 + k] * u;
    return above * (1 - v) + below * v;
}

const guint8 *moji_sketch_draw(MojiSketch *s, const float *latents, int h, int w, int *width,
                               int *height)
{
    if (!s->learnt)
        return NULL;
    int n = s->terms, scale = MAX(1, LONG_SIDE / MAX(h, w));
    s->small = g_renew(float, s->small, (gsize)3 * h * w);
    s->pixels = g_renew(guint8, s->pixels, (gsize)h * w * 3 * scale * scale);
    for (int at = 0; at < h * w; at++)
        for (int k = 0; k < 3; k++) {
            double sum = 0;
            for (int i = 0; i < n; i++)
                sum += s->map[i * 3 + k] * term(s, latents + (gsize)at * (n - 1), i);
            s->small[at * 3 + k] = isfinite(sum) ? CLAMP(sum * 0.5 + 0.5, 0, 1) * 255 : 0;
        }
    *width = w * scale;
    *height = h * scale;
    for (int y = 0; y < *height; y++)
        for (int x = 0; x < *width; x++)
            for (int k = 0; k < 3; k++)
                s->pixels[((gsize)y * *width + x) * 3 + k] = (guint8)lrintf(
                    blend(s, h, w, (y + 0.5f) / scale - 0.5f, (x + 0.5f) / scale - 0.5f, k));
    return s->pixels;
}
