/* cutout.c: see cutout.h. Flat background -> mask.
 *
 * Every pixel gets a depth: 0 is background, 1 to 3 the edge band counted from it, DEEP the
 * subject. The one surprising rule: on grey and white backgrounds enclosed areas stay, since the
 * white of an eye cannot be told from a hole; a saturated background colour does not occur in the
 * subject. */
#include "cutout.h"
#include <math.h>
#include <string.h>

enum { BAND = 3, DEEP = BAND + 1 }; /* a blurred edge is not wider than the band */

typedef struct {
    int w, h, n;
    guint8 *rgba; /* the image's */
    guint8 *depth;
    int *queue; /* n entries, shared by all the walks below, one at a time */
    float b[3]; /* background colour */
    float tolerance;
    gboolean saturated, shadow;
} Cut;

/* Neighbours of pixel i inside the picture: the first four share a side with it. */
static int neighbours(const Cut *c, int i, int ways, int out[8])
{
    static const int dx[8] = {-1, 1, 0, 0, -1, 1, -1, 1}, dy[8] = {0, 0, -1, 1, -1, -1, 1, 1};
    int x = i % c->w, y = i / c->w, count = 0;
    for (int k = 0; k < ways; k++) {
        int u = x + dx[k], v = y + dy[k];
        if (u >= 0 && u < c->w && v >= 0 && v < c->h)
            out[count++] = v * c->w + u;
    }
    return count;
}

static float distance(const Cut *c, int i)
{
    const guint8 *p = c->rgba + 4 * (gsize)i;
    float r = p[0] - c->b[0], g = p[1] - c->b[1], b = p[2] - c->b[2];
    return sqrtf(r * r + g * g + b * b);
}

/* A shadow on a coloured wall is the wall's colour, darker: p near s*B. */
static gboolean is_shadow(const Cut *c, int i)
{
    const guint8 *p = c->rgba + 4 * (gsize)i;
    float pb = 0, bb = 0, rest = 0;
    for (int k = 0; k < 3; k++) {
        pb += p[k] * c->b[k];
        bb += c->b[k] * c->b[k];
    }
    float s = pb / bb;
    for (int k = 0; k < 3; k++)
        rest += (p[k] - s * c->b[k]) * (p[k] - s * c->b[k]);
    return s >= 0.55f && s <= 1.05f && sqrtf(rest) <= 0.6f * c->tolerance;
}

static gboolean is_background(const Cut *c, int i)
{
    return c->rgba[4 * (gsize)i + 3] == 0 || distance(c, i) <= c->tolerance ||
           (c->shadow && is_shadow(c, i));
}

/* ---- the colour ---- */

static int frame_width(const Cut *c)
{
    return CLAMP(MIN(c->w, c->h) / 8, 1, 4);
}

static gboolean on_frame(const Cut *c, int i, int width)
{
    int x = i % c->w, y = i / c->w;
    return x < width || y < width || x >= c->w - width || y >= c->h - width;
}

static int median(const int histogram[256], int total)
{
    int value = 0, seen = histogram[0];
    while (2 * seen < total)
        seen += histogram[++value];
    return value;
}

/* What was painted, not what was asked for: models paint #00ff00 as (8,162,24). FALSE if the frame
 * is mostly transparent: then somebody has cut the picture out before, and there is no colour. */
static gboolean estimate(Cut *c)
{
    int histogram[3][256] = {{0}}, total = 0, all = 0, width = frame_width(c);
    for (int i = 0; i < c->n; i++) {
        if (!on_frame(c, i, width))
            continue;
        all++;
        if (c->rgba[4 * (gsize)i + 3] == 0)
            continue;
        for (int k = 0; k < 3; k++)
            histogram[k][c->rgba[4 * (gsize)i + k]]++;
        total++;
    }
    for (int k = 0; k < 3; k++)
        c->b[k] = median(histogram[k], total);
    float high = MAX(MAX(c->b[0], c->b[1]), c->b[2]), low = MIN(MIN(c->b[0], c->b[1]), c->b[2]);
    c->saturated = high - low >= 40;
    return 2 * total >= all;
}

/* The share of the frame that is background, and through *sides how many of its sides are, by nine
 * tenths: a subject may be cut off by one. */
static double frame_flat(const Cut *c, int *sides)
{
    int width = frame_width(c), flat[5] = {0}, all[5] = {0};
    for (int i = 0; i < c->n; i++) {
        if (!on_frame(c, i, width))
            continue;
        int x = i % c->w, y = i / c->w, is = is_background(c, i);
        int on[5] = {x < width, x >= c->w - width, y < width, y >= c->h - width, TRUE};
        for (int k = 0; k < 5; k++) {
            all[k] += on[k];
            flat[k] += on[k] && is;
        }
    }
    *sides = 0;
    for (int k = 0; k < 4; k++)
        *sides += flat[k] >= 0.9 * all[k];
    return (double)flat[4] / all[4];
}

/* White things on white differ from it by a little: there, tolerate no more than the frame's own
 * unevenness needs. */
static void tighten(Cut *c)
{
    int histogram[65] = {0}, total = 0, seen = 0, d = 0, width = frame_width(c);
    for (int i = 0; i < c->n; i++)
        if (on_frame(c, i, width) && c->rgba[4 * (gsize)i + 3] && distance(c, i) <= c->tolerance) {
            histogram[(int)distance(c, i)]++;
            total++;
        }
    while (d < 64 && (seen += histogram[d]) < 0.95 * total)
        d++;
    c->tolerance = CLAMP(1.5f * (d + 1), MIN(12, c->tolerance), c->tolerance);
}

/* ---- background, holes, specks ---- */

static void flood(Cut *c)
{
    int head = 0, tail = 0, next[8];
    for (int i = 0; i < c->n; i++)
        if (c->rgba[4 * (gsize)i + 3] == 0 || (on_frame(c, i, 1) && is_background(c, i))) {
            c->depth[i] = 0;
            c->queue[tail++] = i;
        }
    while (head < tail) {
        int count = neighbours(c, c->queue[head++], 4, next);
        for (int k = 0; k < count; k++)
            if (c->depth[next[k]] && is_background(c, next[k])) {
                c->depth[next[k]] = 0;
                c->queue[tail++] = next[k];
            }
    }
}

/* Walks from `start` over the pixels that are in `within` and not in `seen`; their indices are left
 * in the queue. Returns how many; *mean is their mean distance from the background's colour. */
static int component(Cut *c, int start, const guint8 *within, guint8 *seen, int ways, float *mean)
{
    int head = 0, tail = 0, next[8];
    double sum = 0;
    seen[start] = 1;
    c->queue[tail++] = start;
    while (head < tail) {
        int i = c->queue[head++];
        sum += distance(c, i);
        int count = neighbours(c, i, ways, next);
        for (int k = 0; k < count; k++)
            if (within[next[k]] && !seen[next[k]]) {
                seen[next[k]] = 1;
                c->queue[tail++] = next[k];
            }
    }
    *mean = sum / tail;
    return tail;
}

/* Forty pixels of a 512 px picture, and in proportion. */
static int small_area(const Cut *c)
{
    return MAX(8, (int)(40.0 * c->n / (512 * 512)));
}

/* Enclosed areas of the background's own colour, tight enough to be sure. */
static void take_holes(Cut *c, guint8 *within, guint8 *seen)
{
    memset(seen, 0, c->n);
    for (int i = 0; i < c->n; i++)
        within[i] = c->depth[i] && (distance(c, i) <= 0.8f * c->tolerance);
    for (int i = 0; i < c->n; i++) {
        float mean;
        if (!within[i] || seen[i])
            continue;
        int area = component(c, i, within, seen, 4, &mean);
        if (area >= small_area(c) && mean < 0.4f * c->tolerance)
            for (int k = 0; k < area; k++)
                c->depth[c->queue[k]] = 0;
    }
}

/* Noise leaves grains of background standing; drops those, and counts the small islands left. */
static int drop_specks(Cut *c, guint8 *within, guint8 *seen)
{
    int specks = 0;
    memset(seen, 0, c->n);
    for (int i = 0; i < c->n; i++)
        within[i] = c->depth[i] != 0;
    for (int i = 0; i < c->n; i++) {
        float mean;
        if (!within[i] || seen[i])
            continue;
        int area = component(c, i, within, seen, 8, &mean);
        if (area < small_area(c) && mean < 2 * c->tolerance)
            for (int k = 0; k < area; k++)
                c->depth[c->queue[k]] = 0;
        else
            specks += area < 0.002 * c->n;
    }
    return specks;
}

/* ---- the edge ---- */

/* Numbers the band: a pixel's depth is its distance from the background, up to BAND. */
static void find_band(Cut *c)
{
    int head = 0, tail = 0, next[8];
    for (int i = 0; i < c->n; i++)
        if (c->depth[i] == 0)
            c->queue[tail++] = i;
    while (head < tail) {
        int i = c->queue[head++], count = neighbours(c, i, 8, next);
        for (int k = 0; k < count && c->depth[i] < BAND; k++)
            if (c->depth[next[k]] == DEEP) {
                c->depth[next[k]] = c->depth[i] + 1;
                c->queue[tail++] = next[k];
            }
    }
}

/* Pure subject: beyond the band, or in the middle of a line too thin to have a beyond. */
static gboolean is_seed(const Cut *c, int i)
{
    int next[8], count;
    if (c->depth[i] == 0 || c->depth[i] == DEEP)
        return c->depth[i] == DEEP;
    count = neighbours(c, i, 8, next);
    for (int k = 0; k < count; k++)
        if (c->depth[next[k]] > c->depth[i])
            return FALSE;
    return TRUE;
}

/* from[i]: the seed nearest to pixel i of the band. */
static void find_seeds(Cut *c, const guint8 *seed, int *from)
{
    int head = 0, tail = 0, next[8];
    for (int i = 0; i < c->n; i++) {
        from[i] = seed[i] ? i : -1;
        if (seed[i])
            c->queue[tail++] = i;
    }
    while (head < tail) {
        int i = c->queue[head++], count = neighbours(c, i, 8, next);
        for (int k = 0; k < count; k++)
            if (c->depth[next[k]] > 0 && from[next[k]] < 0) {
                from[next[k]] = from[i];
                c->queue[tail++] = next[k];
            }
    }
}

/* Mean colour of the seeds in the 3x3 pixels around one. */
static void subject_colour(const Cut *c, const guint8 *seed, int i, float colour[3])
{
    int next[8], count = neighbours(c, i, 8, next), used = 1;
    for (int k = 0; k < 3; k++)
        colour[k] = c->rgba[4 * (gsize)i + k];
    for (int j = 0; j < count; j++) {
        if (!seed[next[j]])
            continue;
        for (int k = 0; k < 3; k++)
            colour[k] += c->rgba[4 * (gsize)next[j] + k];
        used++;
    }
    for (int k = 0; k < 3; k++)
        colour[k] /= used;
}

/* How much of the subject's colour f is in pixel p: its place on the line from the background.
 * *rest is how far p lies from that line. */
static float unmix(const Cut *c, const guint8 *p, const float f[3], float *rest)
{
    float dot = 0, length = 0, sum = 0;
    for (int k = 0; k < 3; k++) {
        dot += (p[k] - c->b[k]) * (f[k] - c->b[k]);
        length += (f[k] - c->b[k]) * (f[k] - c->b[k]);
    }
    float alpha = length < 6 * 6 ? 1 : CLAMP(dot / length, 0, 1);
    for (int k = 0; k < 3; k++) {
        float off = p[k] - c->b[k] - alpha * (f[k] - c->b[k]);
        sum += off * off;
    }
    *rest = sqrtf(sum);
    return alpha < 0.04f ? 0 : alpha > 0.97f ? 1 : alpha;
}

/* A thin outline around another colour: the pixel is no mix of that colour and the background, but
 * of one of its neighbours' and the background; or else it is the outline itself. */
static float unmix_outline(const Cut *c, int i, float rest, float f[3])
{
    const guint8 *p = c->rgba + 4 * (gsize)i;
    int next[8], count = neighbours(c, i, 8, next);
    float best = 1, limit = rest / 2;
    for (int k = 0; k < 3; k++)
        f[k] = p[k];
    for (int j = 0; j < count; j++) {
        const guint8 *q = c->rgba + 4 * (gsize)next[j];
        float colour[3] = {q[0], q[1], q[2]};
        if (c->depth[next[j]] <= c->depth[i])
            continue;
        float alpha = unmix(c, p, colour, &rest);
        if (rest < limit) {
            limit = rest;
            best = alpha;
            memcpy(f, colour, sizeof colour);
        }
    }
    return best;
}

/* Sets the mask, and in the band the colour that the subject has without the background. */
static void cut_edge(Cut *c, const guint8 *seed, const int *from, guint8 *mask)
{
    g_autofree guint8 *colour = g_memdup2(c->rgba, 4 * (gsize)c->n);
    for (int i = 0; i < c->n; i++) {
        mask[i] = c->depth[i] ? 255 : 0;
        if (c->depth[i] == 0 || seed[i] || from[i] < 0)
            continue;
        float f[3], rest;
        subject_colour(c, seed, from[i], f);
        float alpha = unmix(c, c->rgba + 4 * (gsize)i, f, &rest);
        if (rest > c->tolerance)
            alpha = unmix_outline(c, i, rest, f);
        mask[i] = lrintf(255 * alpha);
        for (int k = 0; alpha < 1 && k < 3; k++)
            colour[4 * (gsize)i + k] = lrintf(f[k]);
    }
    memcpy(c->rgba, colour, 4 * (gsize)c->n);
}

static void report_on(const Cut *c, const guint8 *mask, MojiCutout *report)
{
    int border = 0, touching = 0;
    double kept = 0;
    for (int i = 0; i < c->n; i++) {
        kept += mask[i] / 255.0;
        if (on_frame(c, i, 1)) {
            border++;
            touching += mask[i] > 127;
        }
    }
    report->kept = kept / c->n;
    report->touching = (double)touching / border;
}

static gboolean refuse(const Cut *c, double flat, GError **error)
{
    g_set_error(error, MOJI_ERROR, MOJI_ERROR_NOT_FLAT,
                "The background is not flat, so it was left as it is: %.0f %% of the frame is "
                "within %.0f of its colour #%02x%02x%02x, and 90 %% is needed",
                100 * flat, c->tolerance, (int)c->b[0], (int)c->b[1], (int)c->b[2]);
    return FALSE;
}

/* From flat background to numbered band; work is two scratch planes of n bytes. */
static void find_depths(Cut *c, gboolean holes, guint8 *work, MojiCutout *found)
{
    memset(c->depth, DEEP, c->n);
    flood(c);
    if (holes && c->saturated)
        take_holes(c, work, work + c->n);
    found->specks = drop_specks(c, work, work + c->n);
    if (c->tolerance > 0)
        find_band(c);
}

gboolean moji_cutout(MojiImage *image, const MojiCutoutOptions *options, MojiCutout *report,
                     GError **error)
{
    static const MojiCutoutOptions usual = {.tolerance = 24, .holes = TRUE, .shadow = FALSE};
    const MojiCutoutOptions *o = options ? options : &usual;
    g_assert(image->width > 0 && image->height > 0);
    int sides;
    gsize n = (gsize)image->width * image->height;
    Cut c = {.w = image->width, .h = image->height, .n = n, .rgba = image->rgba};
    c.tolerance = CLAMP(o->tolerance, 8, 64);
    if (!estimate(&c))
        c.tolerance = -1; /* no colour is near: only transparency is background */
    c.shadow = o->shadow && c.saturated && c.tolerance > 0;
    MojiCutout found = {.frame_flat = frame_flat(&c, &sides)};
    if (found.frame_flat < 0.9 && sides < 3 && c.tolerance > 0)
        return refuse(&c, found.frame_flat, error);
    if (!c.saturated && c.tolerance > 0)
        tighten(&c);

    g_autofree guint8 *depth = g_malloc(n), *work = g_malloc(2 * n);
    g_autofree int *queue = g_new(int, n), *from = g_new(int, n);
    c.depth = depth;
    c.queue = queue;
    find_depths(&c, o->holes, work, &found);
    guint8 *seed = work;
    for (gsize i = 0; i < n; i++)
        seed[i] = is_seed(&c, i);
    find_seeds(&c, seed, from);
    if (!image->mask)
        image->mask = g_malloc(n);
    cut_edge(&c, seed, from, image->mask);
    report_on(&c, image->mask, &found);
    for (int k = 0; k < 3; k++)
        found.background[k] = lrintf(c.b[k]);
    if (report)
        *report = found;
    return TRUE;
}
