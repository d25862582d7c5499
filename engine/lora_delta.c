/* lora_delta.c: see lora_delta.h.
 *
 * The surprising rule: whatever a file stores becomes one of four forms when it is read (a product
 * of two matrices, two such products, a Kronecker product, a matrix), so that rows can be made a
 * block at a time, on any thread, without the whole change ever being in memory. */
#include "lora_delta.h"
#include "cpu/host.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MAX_RANK 4096 /* bounds time and memory for a file that lies; real ones end at 320 */
#define BIT(part) (1u << (part))
#define COMMON (BIT(MOJI_LORA_ALPHA) | BIT(MOJI_LORA_DORA_SCALE) | BIT(MOJI_LORA_DIFF_B))

struct MojiLoraDelta {
    MojiLoraKind kind;
    MojiLoraShape shape;
    gint64 columns; /* in * area */
    float scale;
    /* low rank: a[0] [O,r], b[0] [r,columns]; Hadamard: two pairs; Kronecker: a[0] [O/c,I/d],
     * b[0] [c,d*area]; full: b[0] [O,columns] */
    float *a[2], *b[2];
    gint64 rank[2];
    gint64 c, d;
    float *magnitude; /* DoRA: [O], or [in] if by_input; else NULL */
    gboolean by_input;
    float *factor; /* magnitude over norm [in], once known */
};

/* ---- what a module is ---- */

static const struct {
    guint needs, may;
} kinds[] = {
    [MOJI_LORA_LOW_RANK] = {BIT(MOJI_LORA_DOWN) | BIT(MOJI_LORA_UP),
                            BIT(MOJI_LORA_MID) | BIT(MOJI_LORA_UP_BIAS) | BIT(MOJI_LORA_MAGNITUDE)},
    [MOJI_LORA_HADAMARD] = {BIT(MOJI_LORA_HADA_W1_A) | BIT(MOJI_LORA_HADA_W1_B) |
                                BIT(MOJI_LORA_HADA_W2_A) | BIT(MOJI_LORA_HADA_W2_B),
                            BIT(MOJI_LORA_HADA_T1) | BIT(MOJI_LORA_HADA_T2)},
    [MOJI_LORA_KRONECKER] = {0, BIT(MOJI_LORA_LOKR_W1) | BIT(MOJI_LORA_LOKR_W1_A) |
                                    BIT(MOJI_LORA_LOKR_W1_B) | BIT(MOJI_LORA_LOKR_W2) |
                                    BIT(MOJI_LORA_LOKR_W2_A) | BIT(MOJI_LORA_LOKR_W2_B) |
                                    BIT(MOJI_LORA_LOKR_T2)},
    [MOJI_LORA_FULL] = {BIT(MOJI_LORA_DIFF), 0},
    [MOJI_LORA_BIAS_ONLY] = {BIT(MOJI_LORA_DIFF_B), 0},
};

static guint parts_of(const MojiLoraModule *m)
{
    guint parts = 0;
    for (int p = 0; p < MOJI_LORA_PARTS; p++)
        if (m->part[p])
            parts |= BIT(p);
    return parts;
}

gboolean moji_lora_module_kind(const MojiLoraModule *m, MojiLoraKind *kind, GError **error)
{
    guint parts = parts_of(m);
    guint own = parts & ~COMMON;
    MojiLoraKind k = MOJI_LORA_LOW_RANK;
    while (k < MOJI_LORA_BIAS_ONLY && !(own & (kinds[k].needs | kinds[k].may)))
        k++;
    guint missing = kinds[k].needs & ~parts;
    guint extra = own & ~(kinds[k].needs | kinds[k].may);
    if (!missing && !extra) {
        *kind = k;
        return TRUE;
    }
    const char *key = m->part[g_bit_nth_lsf(extra ? extra : parts, -1)]->name;
    if (extra)
        moji_error_file(error, m->path, "tensor %s does not go with the others of its module", key);
    else
        moji_error_file(error, m->path, "tensor %s has no counterpart in its module (a pair of %s)",
                        key,
                        k == MOJI_LORA_LOW_RANK   ? "lora_down and lora_up"
                        : k == MOJI_LORA_HADAMARD ? "hada_w1 and hada_w2, each _a and _b"
                                                  : "a change and its alpha");
    return FALSE;
}

gboolean moji_lora_module_has_bias(const MojiLoraModule *m)
{
    return m->part[MOJI_LORA_DIFF_B] || m->part[MOJI_LORA_UP_BIAS];
}

gint64 moji_lora_module_rank(const MojiLoraModule *m)
{
    static const MojiLoraPart first[] = {MOJI_LORA_DOWN, MOJI_LORA_HADA_W1_B, MOJI_LORA_LOKR_W2_B,
                                         MOJI_LORA_LOKR_W1_B};
    for (gsize i = 0; i < G_N_ELEMENTS(first); i++) {
        const MojiWeight *w = m->part[first[i]];
        if (w)
            return w->rank ? w->dim[0] : 0;
    }
    return 0;
}

/* ---- reading parts ---- */

static char *shape_text(const MojiWeight *w)
{
    GString *text = g_string_new("[");
    for (int i = 0; i < w->rank; i++)
        g_string_append_printf(text, "%s%" G_GINT64_FORMAT, i ? "," : "", w->dim[i]);
    g_string_append_c(text, ']');
    return g_string_free(text, FALSE);
}

static void refuse_shape(const MojiLoraModule *m, const MojiWeight *w, gint64 rows, gint64 columns,
                         GError **error)
{
    g_autofree char *found = shape_text(w);
    g_autofree char *r = rows < 0 ? g_strdup("rank") : g_strdup_printf("%" G_GINT64_FORMAT, rows);
    g_autofree char *c =
        columns < 0 ? g_strdup("rank") : g_strdup_printf("%" G_GINT64_FORMAT, columns);
    moji_error_file(error, m->path, "tensor %s has shape %s, expected [%s,%s]%s", w->name, found, r,
                    c, columns > 1 && w->rank > 2 ? ", the last over all further axes" : "");
}

/* A part as floats: a matrix of its first axis by all others. rows and columns are what it must be;
 * -1: it is a rank, and told. Caller frees. */
static float *load(const MojiLoraModule *m, MojiLoraPart part, gint64 *rows, gint64 *columns,
                   GError **error)
{
    const MojiWeight *w = m->part[part];
    gsize n = w->bytes / moji_type_bytes(w->type);
    gint64 r = w->rank ? w->dim[0] : 1, c = n && r ? (gint64)(n / r) : 0;
    if (w->type != MOJI_F32 && w->type != MOJI_F16 && w->type != MOJI_BF16) {
        moji_error_file(error, m->path, "tensor %s has type %s, expected f32, f16 or bf16", w->name,
                        moji_type_name(w->type));
        return NULL;
    }
    if (!n || (*rows >= 0 && *rows != r) || (*columns >= 0 && *columns != c)) {
        refuse_shape(m, w, *rows, *columns, error);
        return NULL;
    }
    if ((*rows < 0 && r > MAX_RANK) || (*columns < 0 && c > MAX_RANK)) {
        moji_error_file(error, m->path, "tensor %s has rank %" G_GINT64_FORMAT ", expected 1 to %d",
                        w->name, *rows < 0 ? r : c, MAX_RANK);
        return NULL;
    }
    *rows = r;
    *columns = c;
    float *values = g_new(float, n);
    moji_host_load(values, w->data, w->type, n);
    for (gsize i = 0; i < n; i++)
        if (!isfinite(values[i])) {
            moji_error_file(error, m->path, "tensor %s has a number that is not finite, at %zu",
                            w->name, i);
            g_free(values);
            return NULL;
        }
    return values;
}

/* The same with known sizes. */
static float *load_exact(const MojiLoraModule *m, MojiLoraPart part, gint64 rows, gint64 columns,
                         GError **error)
{
    return load(m, part, &rows, &columns, error);
}

static gboolean read_scale(const MojiLoraModule *m, gint64 rank, float *scale, GError **error)
{
    const MojiWeight *w = m->part[MOJI_LORA_ALPHA];
    double alpha = m->alpha;
    *scale = 1;
    if (rank == 0)
        return TRUE;
    if (w && w->bytes == moji_type_bytes(w->type)) {
        float value;
        gint32 whole;
        gboolean is_whole = w->type == MOJI_I64 || w->type == MOJI_I32;
        if (is_whole)
            memcpy(&whole, w->data, sizeof whole); /* little endian: the low half */
        else
            moji_host_load(&value, w->data, w->type, 1);
        alpha = is_whole ? whole : value;
    } else if (w) {
        refuse_shape(m, w, 1, 1, error);
        return FALSE;
    }
    if (w && !isfinite(alpha)) {
        moji_error_file(error, m->path, "tensor %s is not a finite number", w->name);
        return FALSE;
    }
    if (!isnan(alpha))
        *scale = (float)(alpha / (m->root ? sqrt((double)rank) : (double)rank));
    return TRUE;
}

/* ---- the four forms ---- */

/* core [p,q,area] . b [q,columns] -> [p,columns*area] */
static float *tucker(const float *core, const float *b, gint64 p, gint64 q, gint64 area,
                     gint64 columns)
{
    float *y = g_new0(float, p *columns *area);
    for (gint64 i = 0; i < p; i++)
        for (gint64 j = 0; j < q; j++)
            for (gint64 x = 0; x < area; x++) {
                float by = core[(i * q + j) * area + x];
                const float *from = b + j * columns;
                float *to = y + i * columns * area + x;
                for (gint64 k = 0; k < columns; k++)
                    to[k * area] += by * from[k];
            }
    return y;
}

/* Exchanges rows and columns. */
static void transpose(float **a, gint64 rows, gint64 columns)
{
    float *t = g_new(float, rows *columns);
    for (gint64 i = 0; i < rows; i++)
        for (gint64 k = 0; k < columns; k++)
            t[k * rows + i] = (*a)[i * columns + k];
    g_free(*a);
    *a = t;
}

/* The core of a Tucker product into b: b [q,in] becomes [p,in*area]. */
static gboolean fold_core(const MojiLoraModule *m, MojiLoraPart core, gint64 p, gint64 q,
                          MojiLoraShape s, float **b, GError **error)
{
    float *middle = load_exact(m, core, p, q * s.area, error);
    if (!middle)
        return FALSE;
    float *y = tucker(middle, *b, p, q, s.area, s.in);
    g_free(middle);
    g_free(*b);
    *b = y;
    return TRUE;
}

static gboolean read_low_rank(MojiLoraDelta *d, const MojiLoraModule *m, GError **error)
{
    gboolean mid = m->part[MOJI_LORA_MID] != NULL;
    gint64 rows = d->shape.rows, columns = mid ? d->shape.in : d->columns, r = -1, r_up = -1;
    if (!(d->b[0] = load(m, MOJI_LORA_DOWN, &r, &columns, error)))
        return FALSE;
    if (!mid)
        r_up = r;
    if (!(d->a[0] = load(m, MOJI_LORA_UP, &rows, &r_up, error)))
        return FALSE;
    d->rank[0] = r_up;
    return (!mid || fold_core(m, MOJI_LORA_MID, r_up, r, d->shape, &d->b[0], error)) &&
           read_scale(m, r, &d->scale, error);
}

static gboolean read_hadamard(MojiLoraDelta *d, const MojiLoraModule *m, GError **error)
{
    static const MojiLoraPart parts[2][3] = {
        {MOJI_LORA_HADA_W1_A, MOJI_LORA_HADA_W1_B, MOJI_LORA_HADA_T1},
        {MOJI_LORA_HADA_W2_A, MOJI_LORA_HADA_W2_B, MOJI_LORA_HADA_T2}};
    gint64 r = 0;
    for (int i = 0; i < 2; i++) {
        gboolean core = m->part[parts[i][2]] != NULL;
        gint64 columns = core ? d->shape.in : d->columns, rows = d->shape.rows, inner = -1;
        r = -1;
        if (!(d->b[i] = load(m, parts[i][1], &r, &columns, error)))
            return FALSE;
        if (!core) {
            if (!(d->a[i] = load_exact(m, parts[i][0], rows, r, error)))
                return FALSE;
            inner = r;
        } else {
            /* With a core both factors begin with the rank. */
            if (!(d->a[i] = load(m, parts[i][0], &inner, &rows, error)) ||
                !fold_core(m, parts[i][2], inner, r, d->shape, &d->b[i], error))
                return FALSE;
            transpose(&d->a[i], inner, rows);
        }
        d->rank[i] = inner;
    }
    return read_scale(m, r, &d->scale, error);
}

/* Sizes of what follows are not known before: a factor's own. */
static gboolean whole_size(const MojiLoraModule *m, MojiLoraPart part, int axis, gint64 *size)
{
    const MojiWeight *w = m->part[part];
    *size = w && axis < w->rank ? w->dim[axis] : 0;
    return *size > 0;
}

/* One factor of a Kronecker product, [rows,columns*area]: a matrix, or the product of two, or of
 * two around a core. Caller frees. */
static float *read_factor(const MojiLoraModule *m, MojiLoraPart whole, MojiLoraPart core,
                          MojiLoraShape s, gint64 *rank, GError **error)
{
    MojiLoraPart first = whole + 1, second = whole + 2;
    gint64 rows = s.rows, columns = s.in * s.area, r = -1, inner = -1;
    *rank = 0;
    if (m->part[whole])
        return load_exact(m, whole, rows, columns, error);
    gboolean tuck = core < MOJI_LORA_PARTS && m->part[core];
    if (tuck)
        columns = s.in;
    g_autofree float *b = load(m, second, &r, &columns, error);
    if (!b)
        return NULL;
    if (!tuck)
        inner = r;
    g_autofree float *a =
        tuck ? load(m, first, &inner, &rows, error) : load_exact(m, first, rows, inner, error);
    if (!a || (tuck && !fold_core(m, core, inner, r, s, &b, error)))
        return NULL;
    if (tuck)
        transpose(&a, inner, rows);
    float *y = g_new0(float, rows *s.in *s.area);
    moji_host_product(y, a, b, rows, inner, s.in * s.area, 1);
    *rank = r;
    return y;
}

static gboolean read_kronecker(MojiLoraDelta *d, const MojiLoraModule *m, GError **error)
{
    gint64 a, b, r1, r2;
    gboolean halves = (m->part[MOJI_LORA_LOKR_W1] ||
                       (m->part[MOJI_LORA_LOKR_W1_A] && m->part[MOJI_LORA_LOKR_W1_B])) &&
                      (m->part[MOJI_LORA_LOKR_W2] ||
                       (m->part[MOJI_LORA_LOKR_W2_A] && m->part[MOJI_LORA_LOKR_W2_B]));
    const MojiWeight *some = m->part[g_bit_nth_lsf(parts_of(m), MOJI_LORA_LOKR_W1 - 1)];
    if (!halves) {
        moji_error_file(error, m->path, "tensor %s lacks the other half of its Kronecker product",
                        some->name);
        return FALSE;
    }
    if (!(m->part[MOJI_LORA_LOKR_W1]
              ? whole_size(m, MOJI_LORA_LOKR_W1, 0, &a) && whole_size(m, MOJI_LORA_LOKR_W1, 1, &b)
              : whole_size(m, MOJI_LORA_LOKR_W1_A, 0, &a) &&
                    whole_size(m, MOJI_LORA_LOKR_W1_B, 1, &b)) ||
        d->shape.rows % a || d->shape.in % b) {
        g_autofree char *found = shape_text(some);
        moji_error_file(error, m->path,
                        "tensor %s has shape %s, expected factors of %" G_GINT64_FORMAT
                        " and %" G_GINT64_FORMAT,
                        some->name, found, d->shape.rows, d->shape.in);
        return FALSE;
    }
    d->c = d->shape.rows / a;
    d->d = d->shape.in / b;
    MojiLoraShape one = {a, b, 1}, two = {d->c, d->d, d->shape.area};
    d->a[0] = read_factor(m, MOJI_LORA_LOKR_W1, MOJI_LORA_PARTS, one, &r1, error);
    d->b[0] =
        d->a[0] ? read_factor(m, MOJI_LORA_LOKR_W2, MOJI_LORA_LOKR_T2, two, &r2, error) : NULL;
    return d->b[0] && read_scale(m, r2 ? r2 : r1, &d->scale, error);
}

static gboolean read_full(MojiLoraDelta *d, const MojiLoraModule *m, gboolean bias, GError **error)
{
    MojiLoraPart part = !bias                       ? MOJI_LORA_DIFF
                        : m->part[MOJI_LORA_DIFF_B] ? MOJI_LORA_DIFF_B
                                                    : MOJI_LORA_UP_BIAS;
    gint64 rows = d->shape.rows, columns = d->columns;
    if (rows == 1) { /* a bias or a norm is one axis in the file */
        rows = columns;
        columns = 1;
    }
    d->b[0] = load(m, part, &rows, &columns, error);
    return d->b[0] &&
           (part != MOJI_LORA_UP_BIAS || read_scale(m, moji_lora_module_rank(m), &d->scale, error));
}

static gboolean read_magnitude(MojiLoraDelta *d, const MojiLoraModule *m, GError **error)
{
    const MojiWeight *peft = m->part[MOJI_LORA_MAGNITUDE], *scale = m->part[MOJI_LORA_DORA_SCALE];
    const MojiWeight *w = peft ? peft : scale;
    if (!w)
        return TRUE;
    gint64 n = (gint64)(w->bytes / moji_type_bytes(w->type)), rows = -1, columns = -1;
    gboolean by_output = n == d->shape.rows && (peft || (w->rank && w->dim[0] == n));
    d->by_input = !by_output && scale && n == d->shape.in && w->rank > 1 && w->dim[0] == 1;
    if (!by_output && !d->by_input) {
        refuse_shape(m, w, d->shape.rows, 1, error);
        return FALSE;
    }
    MojiLoraPart part = peft ? MOJI_LORA_MAGNITUDE : MOJI_LORA_DORA_SCALE;
    rows = w->rank ? w->dim[0] : 1;
    columns = n / rows;
    d->magnitude = load(m, part, &rows, &columns, error);
    if (d->by_input)
        d->factor = g_new0(float, n);
    return d->magnitude != NULL;
}

MojiLoraDelta *moji_lora_delta_new(const MojiLoraModule *m, gboolean bias, MojiLoraShape shape,
                                   GError **error)
{
    MojiLoraKind kind;
    if (!moji_lora_module_kind(m, &kind, error))
        return NULL;
    MojiLoraDelta *d = g_new0(MojiLoraDelta, 1);
    d->shape = shape;
    d->columns = shape.in * shape.area;
    d->scale = 1;
    d->kind = bias ? MOJI_LORA_FULL : kind;
    gboolean ok = d->kind == MOJI_LORA_LOW_RANK    ? read_low_rank(d, m, error)
                  : d->kind == MOJI_LORA_HADAMARD  ? read_hadamard(d, m, error)
                  : d->kind == MOJI_LORA_KRONECKER ? read_kronecker(d, m, error)
                                                   : read_full(d, m, bias, error);
    if (!ok || (!bias && !read_magnitude(d, m, error)))
        g_clear_pointer(&d, moji_lora_delta_free);
    return d;
}

void moji_lora_delta_free(MojiLoraDelta *d)
{
    if (!d)
        return;
    for (int i = 0; i < 2; i++) {
        g_free(d->a[i]);
        g_free(d->b[i]);
    }
    g_free(d->magnitude);
    g_free(d->factor);
    g_free(d);
}

/* ---- rows ---- */

static void add_hadamard(const MojiLoraDelta *d, gint64 first, gint64 n, float by, float *y,
                         float *scratch)
{
    gsize values = (gsize)n * d->columns;
    float *one = scratch, *two = scratch + values;
    memset(scratch, 0, 2 * values * sizeof *scratch);
    for (int i = 0; i < 2; i++)
        moji_host_product(i ? two : one, d->a[i] + first * d->rank[i], d->b[i], n, d->rank[i],
                          d->columns, 1);
    for (gsize i = 0; i < values; i++)
        y[i] += by * one[i] * two[i];
}

static void add_kronecker(const MojiLoraDelta *d, gint64 first, gint64 n, float by, float *y)
{
    gint64 pairs = d->shape.in / d->d, width = d->d * d->shape.area;
    for (gint64 row = first; row < first + n; row++) {
        const float *w1 = d->a[0] + row / d->c * pairs, *w2 = d->b[0] + row % d->c * width;
        for (gint64 i = 0; i < pairs; i++, y += width)
            for (gint64 k = 0; k < width; k++)
                y[k] += by * w1[i] * w2[k];
    }
}

/* y += by * change, DoRA aside. scratch: 2 n columns. */
static void add_change(const MojiLoraDelta *d, gint64 first, gint64 n, float by, float *y,
                       float *scratch)
{
    gsize values = (gsize)n * d->columns;
    by *= d->scale;
    if (d->kind == MOJI_LORA_LOW_RANK) {
        moji_host_product(y, d->a[0] + first * d->rank[0], d->b[0], n, d->rank[0], d->columns, by);
    } else if (d->kind == MOJI_LORA_HADAMARD) {
        add_hadamard(d, first, n, by, y, scratch);
    } else if (d->kind == MOJI_LORA_KRONECKER) {
        add_kronecker(d, first, n, by, y);
    } else {
        const float *diff = d->b[0] + first * d->columns;
        for (gsize i = 0; i < values; i++)
            y[i] += by * diff[i];
    }
}

/* W + change, in the first n columns of scratch. */
static float *changed(const MojiLoraDelta *d, gint64 first, gint64 n, const float *w,
                      float *scratch)
{
    gsize values = (gsize)n * d->columns;
    memcpy(scratch, w, values * sizeof *scratch);
    add_change(d, first, n, 1, scratch, scratch + values);
    return scratch;
}

static float row_factor(const MojiLoraDelta *d, gint64 row, const float *v)
{
    double square = 0;
    for (gint64 k = 0; k < d->columns; k++)
        square += (double)v[k] * v[k];
    return square > 0 ? (float)(d->magnitude[row] / sqrt(square)) : 0;
}

void moji_lora_delta_add(const MojiLoraDelta *d, gint64 first, gint64 n, const float *w, float by,
                         float *y, float *scratch)
{
    if (!d->magnitude) {
        add_change(d, first, n, by, y, scratch);
        return;
    }
    float *v = changed(d, first, n, w, scratch);
    for (gint64 row = 0; row < n; row++) {
        gsize at = (gsize)row * d->columns;
        float f = d->by_input ? 0 : row_factor(d, first + row, v + at);
        for (gint64 k = 0; k < d->columns; k++) {
            if (d->by_input)
                f = d->factor[k / d->shape.area];
            y[at + k] += by * (f * v[at + k] - w[at + k]);
        }
    }
}

gboolean moji_lora_delta_wants_norms(const MojiLoraDelta *d)
{
    return d->by_input;
}

void moji_lora_delta_squares(const MojiLoraDelta *d, gint64 first, gint64 n, const float *w,
                             double *sum, float *scratch)
{
    const float *v = changed(d, first, n, w, scratch);
    for (gint64 row = 0; row < n; row++, v += d->columns)
        for (gint64 k = 0; k < d->columns; k++)
            sum[k / d->shape.area] += (double)v[k] * v[k];
}

void moji_lora_delta_norms(MojiLoraDelta *d, const double *sum)
{
    for (gint64 i = 0; i < d->shape.in; i++)
        d->factor[i] = sum[i] > 0 ? (float)(d->magnitude[i] / sqrt(sum[i])) : 0;
}
