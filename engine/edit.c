/* edit.c: see edit.h. */
#include "edit.h"
#include <math.h>
#include <string.h>

/* ---- which part, and how large ---- */

static int round_up(int value, int unit)
{
    return (value + unit - 1) / unit * unit;
}

/* The smallest part that holds all of the mask; FALSE if it is empty. */
static gboolean mask_bounds(const MojiImage *p, int *x0, int *y0, int *x1, int *y1)
{
    *x0 = p->width, *y0 = p->height, *x1 = *y1 = 0;
    for (int y = 0; y < p->height; y++)
        for (int x = 0; x < p->width; x++)
            if (p->mask[(gsize)y * p->width + x]) {
                *x0 = MIN(*x0, x), *y0 = MIN(*y0, y);
                *x1 = MAX(*x1, x + 1), *y1 = MAX(*y1, y + 1);
            }
    return *x1 > 0;
}

/* `length` of `whole`, around the middle of from..to. */
static int place(int from, int to, int length, int whole)
{
    return CLAMP((from + to - length) / 2, 0, whole - length);
}

static gboolean choose_part(MojiEdit *e, int size, GError **error)
{
    const MojiImage *p = e->picture;
    int x0, y0, x1, y1;
    e->w = p->width;
    e->h = p->height;
    if (!p->mask)
        return TRUE;
    if (!mask_bounds(p, &x0, &y0, &x1, &y1)) {
        g_set_error(error, MOJI_ERROR, MOJI_ERROR_USAGE,
                    "mask: it is empty, so nothing would be redrawn");
        return FALSE;
    }
    if (MAX(p->width, p->height) <= size)
        return TRUE;
    /* With as much around it as the model needs to see what it is part of. */
    int long_side = MAX(x1 - x0, y1 - y0), side = MAX(size, long_side + long_side / 2);
    e->w = MIN(p->width, side);
    e->h = MIN(p->height, side);
    e->x = place(x0, x1, e->w, p->width);
    e->y = place(y0, y1, e->h, p->height);
    return TRUE;
}

static void choose_size(MojiEdit *e, int size, int unit)
{
    int long_side = MAX(e->w, e->h);
    double scale = round_up(long_side, unit) == size ? 1 : (double)size / long_side;
    e->inner_width = MAX(1, (int)lrint(e->w * scale));
    e->inner_height = MAX(1, (int)lrint(e->h * scale));
    e->width = round_up(e->inner_width, unit);
    e->height = round_up(e->inner_height, unit);
}

/* ---- another size ---- */

/* One axis: lines of `from` samples, `step` apart, to lines of `to`. A triangle as wide as the
 * larger of the two steps: between neighbours when enlarging, a mean when reducing. */
static void resample_line(const float *in, int from, float *out, int to, int step)
{
    double ratio = (double)from / to, reach = MAX(1.0, ratio);
    for (int i = 0; i < to; i++) {
        double middle = (i + 0.5) * ratio, sum = 0, weights = 0;
        int first = MAX(0, (int)ceil(middle - reach - 0.5));
        int last = MIN(from - 1, (int)floor(middle + reach - 0.5));
        for (int k = first; k <= last; k++) {
            double weight = MAX(0, 1 - fabs(k + 0.5 - middle) / reach);
            sum += weight * in[(gsize)k * step];
            weights += weight;
        }
        out[(gsize)i * step] = (float)(sum / weights);
    }
}

/* in [h,w,c] -> [height,width,c]. Caller frees. */
static float *resample(const float *in, int w, int h, int c, int width, int height)
{
    if (w == width && h == height)
        return g_memdup2(in, (gsize)w * h * c * sizeof *in);
    g_autofree float *wide = g_new(float, (gsize)h *width *c);
    float *out = g_new(float, (gsize)height *width *c);
    for (int y = 0; y < h; y++)
        for (int k = 0; k < c; k++)
            resample_line(in + (gsize)y * w * c + k, w, wide + (gsize)y * width * c + k, width, c);
    for (int at = 0; at < width * c; at++)
        resample_line(wide + at, h, out + at, height, width * c);
    return out;
}

/* ---- the networks' view ---- */

static guint8 on_backdrop(const MojiEdit *e, const guint8 *rgba, int k)
{
    return (guint8)((rgba[k] * rgba[3] + e->backdrop[k] * (255 - rgba[3]) + 127) / 255);
}

static gsize pixel_at(const MojiEdit *e, int x, int y)
{
    return (gsize)(e->y + y) * e->picture->width + e->x + x;
}

static guint8 mask_at(const MojiImage *picture, gsize pixel)
{
    return picture->mask ? picture->mask[pixel] : 255;
}

/* 0 1 2 | 2 1 0 | 0 1 ... */
static int mirror(int i, int length)
{
    i %= 2 * length;
    return i < length ? i : 2 * length - 1 - i;
}

/* in [inner_height,inner_width,c] -> [height,width,c]. Caller frees. */
static float *pad(const MojiEdit *e, const float *in, int c)
{
    float *out = g_new(float, (gsize)e->height * e->width * c);
    for (int y = 0; y < e->height; y++)
        for (int x = 0; x < e->width; x++) {
            gsize from = (gsize)mirror(y, e->inner_height) * e->inner_width;
            memcpy(out + ((gsize)y * e->width + x) * c, in + (from + mirror(x, e->inner_width)) * c,
                   c * sizeof *in);
        }
    return out;
}

/* values [h,w,c] of the part, freed here -> [height,width,c]. Caller frees. */
static float *to_drawn_size(const MojiEdit *e, float *values, int c)
{
    g_autofree float *part = values;
    g_autofree float *inner = resample(part, e->w, e->h, c, e->inner_width, e->inner_height);
    return pad(e, inner, c);
}

static void make_rgb(MojiEdit *e)
{
    float *part = g_new(float, (gsize)e->w * e->h * 3);
    for (int y = 0; y < e->h; y++)
        for (int x = 0; x < e->w; x++)
            for (int k = 0; k < 3; k++) {
                const guint8 *rgba = e->picture->rgba + 4 * pixel_at(e, x, y);
                part[((gsize)y * e->w + x) * 3 + k] = on_backdrop(e, rgba, k) / 255.0f * 2 - 1;
            }
    e->rgb = to_drawn_size(e, part, 3);
}

static void make_hole(MojiEdit *e)
{
    if (!e->picture->mask)
        return;
    gsize pixels = (gsize)e->width * e->height;
    float *part = g_new(float, (gsize)e->w * e->h);
    for (int y = 0; y < e->h; y++)
        for (int x = 0; x < e->w; x++)
            part[(gsize)y * e->w + x] = e->picture->mask[pixel_at(e, x, y)];
    g_autofree float *drawn = to_drawn_size(e, part, 1);
    e->hole = g_new(guint8, pixels);
    for (gsize i = 0; i < pixels; i++)
        e->hole[i] = drawn[i] > 0;
}

MojiEdit *moji_edit_new(const MojiImage *picture, const guint8 backdrop[3], int size, int unit,
                        GError **error)
{
    MojiEdit *e = g_new0(MojiEdit, 1);
    e->picture = picture;
    memcpy(e->backdrop, backdrop, 3);
    size = round_up(size, unit);
    if (!choose_part(e, size, error)) {
        moji_edit_free(e);
        return NULL;
    }
    choose_size(e, size, unit);
    make_rgb(e);
    make_hole(e);
    return e;
}

void moji_edit_free(MojiEdit *e)
{
    if (!e)
        return;
    g_free(e->rgb);
    g_free(e->hole);
    g_free(e);
}

void moji_edit_cells(const MojiEdit *e, int factor, float *cells)
{
    int w = e->width / factor;
    for (int i = 0; i < w * (e->height / factor); i++)
        cells[i] = e->hole ? 0 : 1;
    for (int y = 0; e->hole && y < e->height; y++)
        for (int x = 0; x < e->width; x++)
            if (e->hole[(gsize)y * e->width + x])
                cells[y / factor * w + x / factor] = 1;
}

/* ---- back into the picture ---- */

static guint8 to_byte(float v)
{
    return (guint8)lrintf(CLAMP(v * 0.5f + 0.5f, 0.0f, 1.0f) * 255.0f); /* as numpy rounds */
}

/* a where share is 0, b where it is 255 */
static guint8 blend(int a, int b, int share)
{
    return (guint8)((a * (255 - share) + b * share + 127) / 255);
}

MojiImage *moji_edit_paste(const MojiEdit *e, const float *rgb)
{
    const MojiImage *p = e->picture;
    MojiImage *image = moji_image_new(p->width, p->height);
    for (gsize i = 0; i < (gsize)p->width * p->height; i++) {
        for (int k = 0; k < 3; k++)
            image->rgba[4 * i + k] = on_backdrop(e, p->rgba + 4 * i, k);
        image->rgba[4 * i + 3] = 255;
    }
    g_autofree float *inner = g_new(float, (gsize)e->inner_width * e->inner_height * 3);
    for (int y = 0; y < e->inner_height; y++)
        memcpy(inner + (gsize)y * e->inner_width * 3, rgb + (gsize)y * e->width * 3,
               (gsize)e->inner_width * 3 * sizeof *rgb);
    g_autofree float *part = resample(inner, e->inner_width, e->inner_height, 3, e->w, e->h);
    for (int y = 0; y < e->h; y++)
        for (int x = 0; x < e->w; x++) {
            gsize i = pixel_at(e, x, y);
            for (int k = 0; k < 3; k++) {
                guint8 *v = image->rgba + 4 * i + k;
                *v = blend(*v, to_byte(part[((gsize)y * e->w + x) * 3 + k]), mask_at(p, i));
            }
        }
    return image;
}

/* What under this alpha gives `seen` on the backdrop. */
static guint8 unmix(int seen, int backdrop, int alpha)
{
    int v = (seen * 255 - backdrop * (255 - alpha) + alpha / 2) / alpha;
    return (guint8)CLAMP(v, 0, 255);
}

void moji_edit_restore(const MojiEdit *e, MojiImage *image)
{
    const MojiImage *p = e->picture;
    for (gsize i = 0; i < (gsize)p->width * p->height; i++) {
        const guint8 *old = p->rgba + 4 * i;
        guint8 *new = image->rgba + 4 * i, share = mask_at(p, i), alpha = old[3];
        if (share == 0 || (!image->mask && alpha == 0)) {
            memcpy(new, old, 4);
            if (image->mask)
                image->mask[i] = 255;
        } else if (image->mask) {
            image->mask[i] = blend(alpha, image->mask[i], share);
        } else {
            for (int k = 0; k < 3 && alpha < 255; k++)
                new[k] = unmix(new[k], e->backdrop[k], alpha);
            new[3] = alpha;
        }
    }
}
