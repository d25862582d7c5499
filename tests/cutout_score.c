/* cutout_score.c: see cutout_score.h. Compositing is done on the sRGB numbers, as editors do. */
#include "cutout_score.h"
#include <math.h>
#include <string.h>

const guint8 score_colour[SCORE_COLOURS][3] = {
    {0, 200, 0}, {255, 0, 255}, {0, 0, 255}, {255, 255, 255}};
const char *const score_colour_name[SCORE_COLOURS] = {"green", "magenta", "blue", "white"};

/* ---- composing ---- */

/* Twelve uniform numbers make a normal one; plenty for noise that is rounded to bytes. */
static float gaussian(guint32 *state)
{
    float sum = -6;
    for (int i = 0; i < 12; i++) {
        *state = *state * 1664525u + 1013904223u;
        sum += (*state >> 8) / 16777216.0f;
    }
    return sum;
}

static void box_blur(float *plane, int w, int h, int channels, int radius)
{
    g_autofree float *copy = g_memdup2(plane, sizeof(float) * w * h * channels);
    for (int y = 0; y < h; y++)
        for (int x = 0; x < w; x++)
            for (int k = 0; k < channels; k++) {
                float sum = 0;
                int count = 0;
                for (int v = MAX(y - radius, 0); v <= MIN(y + radius, h - 1); v++)
                    for (int u = MAX(x - radius, 0); u <= MIN(x + radius, w - 1); u++, count++)
                        sum += copy[(v * w + u) * channels + k];
                plane[(y * w + x) * channels + k] = sum / count;
            }
}

/* How dark the shadow is at each pixel: the art's alpha, moved right and down, and blurred. */
static float *shadow_of(const MojiImage *art)
{
    int w = art->width, h = art->height, move = MAX(1, w / 40);
    float *dark = g_new0(float, w *h);
    for (int y = move; y < h; y++)
        for (int x = move; x < w; x++)
            dark[y * w + x] = 0.35f * art->rgba[4 * ((y - move) * w + x - move) + 3] / 255.0f;
    box_blur(dark, w, h, 1, MAX(1, w / 128));
    box_blur(dark, w, h, 1, MAX(1, w / 128));
    return dark;
}

MojiImage *score_compose(const MojiImage *art, const guint8 colour[3], ScoreCondition condition,
                         guint32 seed)
{
    int w = art->width, h = art->height, n = w * h;
    MojiImage *image = moji_image_new(w, h);
    g_autofree float *rgb = g_new(float, 3 * n);
    g_autofree float *dark = condition == SCORE_SHADOW ? shadow_of(art) : NULL;
    guint32 state = seed * 2654435761u + 1;
    for (int i = 0; i < n; i++) {
        float alpha = art->rgba[4 * i + 3] / 255.0f, light = dark ? 1 - dark[i] : 1;
        for (int k = 0; k < 3; k++)
            rgb[3 * i + k] = alpha * art->rgba[4 * i + k] + (1 - alpha) * light * colour[k];
    }
    for (int pass = 0; condition == SCORE_BLUR && pass < 2; pass++)
        box_blur(rgb, w, h, 3, 1);
    for (int i = 0; i < n; i++) {
        float slope = 6 * ((i % w + 0.5f) / w + (i / w + 0.5f) / h - 1);
        for (int k = 0; k < 3; k++) {
            float value = rgb[3 * i + k];
            if (condition != SCORE_CLEAN)
                value += slope + 2 * gaussian(&state);
            image->rgba[4 * i + k] = CLAMP(lrintf(value), 0, 255);
        }
        image->rgba[4 * i + 3] = 255;
    }
    return image;
}

/* ---- comparing ---- */

/* Pixels within two of one whose true alpha is neither nothing nor all. */
static gboolean at_edge(const MojiImage *art, int x, int y)
{
    for (int v = MAX(y - 2, 0); v <= MIN(y + 2, art->height - 1); v++)
        for (int u = MAX(x - 2, 0); u <= MIN(x + 2, art->width - 1); u++) {
            int alpha = art->rgba[4 * (v * art->width + u) + 3];
            if (alpha > 5 && alpha < 250)
                return TRUE;
        }
    return FALSE;
}

static double fringe_at(const guint8 *truth, const guint8 *cut, double alpha)
{
    static const guint8 on[3][3] = {{0, 0, 0}, {255, 255, 255}, {255, 255, 0}};
    double sum = 0, true_alpha = truth[3] / 255.0;
    for (int j = 0; j < 3; j++)
        for (int k = 0; k < 3; k++)
            sum += fabs(alpha * cut[k] + (1 - alpha) * on[j][k] - true_alpha * truth[k] -
                        (1 - true_alpha) * on[j][k]);
    return sum / 9;
}

Score score_measure(const MojiImage *art, MojiImage *composed, const MojiCutoutOptions *options)
{
    Score s = {0};
    int both = 0, either = 0, edge = 0;
    gint64 start = g_get_monotonic_time();
    s.cut = moji_cutout(composed, options, &s.report, NULL);
    s.seconds = (g_get_monotonic_time() - start) / 1e6;
    for (int y = 0; y < art->height; y++)
        for (int x = 0; x < art->width; x++) {
            int i = y * art->width + x;
            const guint8 *truth = art->rgba + 4 * i, *cut = composed->rgba + 4 * i;
            int alpha = s.cut ? composed->mask[i] : 255;
            both += truth[3] > 127 && alpha > 127;
            either += truth[3] > 127 || alpha > 127;
            s.sad += abs(truth[3] - alpha) / 255e3;
            if (at_edge(art, x, y)) {
                s.fringe += fringe_at(truth, cut, alpha / 255.0);
                edge++;
            }
        }
    s.iou = either ? (double)both / either : 1;
    s.fringe /= MAX(edge, 1);
    return s;
}

ScoreMean score_mean(GPtrArray *art, const guint8 colour[3], ScoreCondition condition,
                     void (*poor)(int piece, double iou, gpointer data), gpointer data)
{
    ScoreMean mean = {.pieces = art->len};
    for (guint i = 0; i < art->len; i++) {
        g_autoptr(MojiImage) composed = score_compose(art->pdata[i], colour, condition, i + 1);
        Score s = score_measure(art->pdata[i], composed, NULL);
        mean.iou += s.iou / art->len;
        mean.sad += s.sad / art->len;
        mean.fringe += s.fringe / art->len;
        mean.seconds += s.seconds / art->len;
        if (s.iou < 0.95) {
            mean.poor += 1.0 / art->len;
            if (poor)
                poor(i, s.iou, data);
        }
    }
    return mean;
}

static int by_name(gconstpointer a, gconstpointer b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

GPtrArray *score_read_folder(const char *folder, GPtrArray **names)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GDir) dir = g_dir_open(folder, 0, &error);
    g_assert_no_error(error);
    *names = g_ptr_array_new_with_free_func(g_free);
    for (const char *name; (name = g_dir_read_name(dir));)
        if (g_str_has_suffix(name, ".png"))
            g_ptr_array_add(*names, g_strdup(name));
    g_ptr_array_sort(*names, by_name);
    GPtrArray *art = g_ptr_array_new_with_free_func((GDestroyNotify)moji_image_free);
    for (guint i = 0; i < (*names)->len; i++) {
        g_autofree char *path = g_build_filename(folder, (*names)->pdata[i], NULL);
        g_ptr_array_add(art, moji_image_read_png(path, &error));
        g_assert_no_error(error);
    }
    return art;
}
