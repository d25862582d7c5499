/* elementwise.c: ops that touch each value once: activations, add, scale, concat, upsample, embed,
 * sinusoid, cast, mix. */
#include "cpu.h"
#include <math.h>
#include <string.h>

#define PART 8192 /* values a task: two or three of them fit the first cache */

static gboolean run_unary(CpuPlan *plan, CpuStep *step, GError **error)
{
    (void)error;
    const CpuKernels *k = plan->cpu->kernels;
    MojiRecord *r = step->record;
    gboolean bf16 = moji_cpu_is_bf16(r->out);
    gsize n = moji_tensor_count(r->out), size = moji_type_bytes(r->out->type);
    CpuUnary f = r->op == MOJI_OP_SILU         ? k->silu
                 : r->op == MOJI_OP_GELU       ? k->gelu
                 : r->op == MOJI_OP_QUICK_GELU ? k->quick_gelu
                 : r->op == MOJI_OP_RELU       ? k->relu
                                               : k->scale;
    float by = r->op == MOJI_OP_SCALE ? r->attr.scale.by : 0;
#pragma omp parallel for schedule(static)
    for (gsize i = 0; i < n; i += PART)
        f((char *)step->out + i * size, (const char *)step->in[0] + i * size, MIN(n - i, PART), by,
          bf16);
    return TRUE;
}

static gboolean run_geglu(CpuPlan *plan, CpuStep *step, GError **error)
{
    (void)error;
    MojiTensor *out = step->record->out;
    gint64 rows = moji_cpu_rows(out), width = out->dim[out->rank - 1];
    gsize row = width * moji_type_bytes(out->type);
#pragma omp parallel for schedule(static)
    for (gint64 i = 0; i < rows; i++)
        plan->cpu->kernels->geglu((char *)step->out + i * row,
                                  (const char *)step->in[0] + 2 * i * row, width,
                                  moji_cpu_is_bf16(out));
    return TRUE;
}

/* ---- add ---- */

static gboolean prepare_add(CpuPlan *plan, CpuStep *step, GError **error)
{
    for (int k = 0; k < 2; k++) {
        if (step->weight[k])
            step->in[k] = moji_cpu_plain(plan, step->weight[k], step->record->out->type, error);
        if (!step->in[k])
            return FALSE;
    }
    return TRUE;
}

/* Axes from the right on which b is as wide as a make one run of `width` values; the others are
 * counted by row, and *stride[axis] is b's step there, 0 where it is broadcast. */
static int split_axes(const MojiTensor *a, const MojiTensor *b, gint64 *width,
                      gint64 stride[MOJI_MAX_RANK])
{
    int axis = a->rank;
    *width = 1;
    while (axis > 0 && b->dim[axis - 1] == a->dim[axis - 1])
        *width *= a->dim[--axis];
    gint64 step = *width;
    for (int i = axis; i-- > 0; step *= b->dim[i])
        stride[i] = b->dim[i] == 1 ? 0 : step;
    return axis;
}

static gint64 offset_in_b(const MojiTensor *a, int axes, const gint64 *stride, gint64 row)
{
    gint64 at = 0;
    for (int i = axes; i-- > 0; row /= a->dim[i])
        at += row % a->dim[i] * stride[i];
    return at;
}

static gboolean run_add(CpuPlan *plan, CpuStep *step, GError **error)
{
    (void)error;
    const CpuKernels *k = plan->cpu->kernels;
    MojiTensor *a = step->record->in[0], *b = step->record->in[1], *out = step->record->out;
    gboolean bf16 = moji_cpu_is_bf16(out);
    gsize size = moji_type_bytes(out->type);
    gint64 width, stride[MOJI_MAX_RANK];
    int axes = split_axes(a, b, &width, stride);
    gint64 last = a->dim[a->rank - 1];
    gboolean one = b->dim[b->rank - 1] == 1 && last > 1; /* the last axis itself is broadcast */
    if (one) {
        width = last;
        axes = a->rank - 1;
    }
    gint64 parts = axes == 0 ? (width + PART - 1) / PART : moji_tensor_count(a) / width;
    gint64 length = axes == 0 ? PART : width;
#pragma omp parallel for schedule(static)
    for (gint64 i = 0; i < parts; i++) {
        gsize at = i * length * size;
        gsize n = axes == 0 ? MIN(width - i * length, length) : width;
        gint64 in_b = axes == 0 ? i * length : offset_in_b(a, axes, stride, i);
        (one ? k->add_one : k->add)((char *)step->out + at, (const char *)step->in[0] + at,
                                    (const char *)step->in[1] + in_b * size, n, bf16);
    }
    return TRUE;
}

/* ---- moving ---- */

static gboolean run_concat(CpuPlan *plan, CpuStep *step, GError **error)
{
    (void)plan;
    (void)error;
    MojiTensor *a = step->record->in[0], *b = step->record->in[1];
    gsize size = moji_type_bytes(a->type);
    gsize wa = a->dim[3] * size, wb = b->dim[3] * size;
    gint64 rows = moji_cpu_rows(a);
#pragma omp parallel for schedule(static)
    for (gint64 i = 0; i < rows; i++) {
        char *to = (char *)step->out + i * (wa + wb);
        memcpy(to, (const char *)step->in[0] + i * wa, wa);
        memcpy(to + wa, (const char *)step->in[1] + i * wb, wb);
    }
    return TRUE;
}

static gboolean run_upsample(CpuPlan *plan, CpuStep *step, GError **error)
{
    (void)plan;
    (void)error;
    MojiTensor *x = step->record->in[0];
    gint64 lines = x->dim[0] * x->dim[1], w = x->dim[2];
    gsize pixel = x->dim[3] * moji_type_bytes(x->type);
#pragma omp parallel for schedule(static)
    for (gint64 y = 0; y < lines; y++) {
        const char *from = (const char *)step->in[0] + y * w * pixel;
        char *to = (char *)step->out + y * 4 * w * pixel;
        for (gint64 i = 0; i < w; i++) {
            memcpy(to + 2 * i * pixel, from + i * pixel, pixel);
            memcpy(to + (2 * i + 1) * pixel, from + i * pixel, pixel);
        }
        memcpy(to + 2 * w * pixel, to, 2 * w * pixel);
    }
    return TRUE;
}

/* Rows are converted as they are looked up: a table that is a parameter, one of the largest
 * tensors, stays as it is in the file. */
static gboolean run_embed(CpuPlan *plan, CpuStep *step, GError **error)
{
    MojiTensor *table = step->record->in[0], *ids = step->record->in[1], *out = step->record->out;
    const MojiWeight *w = step->weight[0];
    const char *rows = w ? w->data : step->in[0];
    MojiType type = w ? w->type : table->type;
    const gint32 *id = step->in[1];
    gint64 width = table->dim[1], n = moji_tensor_count(ids);
    gsize row = width * moji_type_bytes(type);
    for (gint64 i = 0; i < n; i++) {
        if (id[i] < 0 || id[i] >= table->dim[0]) {
            g_set_error(error, MOJI_ERROR, MOJI_ERROR_USAGE,
                        "embed %s: id %d, expected 0 to %" G_GINT64_FORMAT,
                        step->record->name ? step->record->name : "", id[i], table->dim[0] - 1);
            return FALSE;
        }
        moji_cpu_convert(plan->cpu, (char *)step->out + i * width * moji_type_bytes(out->type),
                         out->type, rows + id[i] * row, type, width);
    }
    return TRUE;
}

/* diffusers' get_timestep_embedding, in f32 as there: a late timestep's angle is large enough for
 * the rounding to show. */
static gboolean run_sinusoid(CpuPlan *plan, CpuStep *step, GError **error)
{
    (void)plan;
    (void)error;
    MojiTensor *out = step->record->out;
    const float *t = step->in[0];
    float *y = step->out;
    gint64 half = out->dim[1] / 2;
    gboolean flip = step->record->attr.sinusoid.flip;
    float divisor = half - step->record->attr.sinusoid.shift;
    for (gint64 b = 0; b < out->dim[0]; b++, y += 2 * half)
        for (gint64 i = 0; i < half; i++) {
            float angle = t[b] * expf(-logf(10000) * (float)i / divisor);
            y[i] = flip ? cosf(angle) : sinf(angle);
            y[half + i] = flip ? sinf(angle) : cosf(angle);
        }
    return TRUE;
}

static gboolean run_cast(CpuPlan *plan, CpuStep *step, GError **error)
{
    (void)error;
    MojiTensor *x = step->record->in[0], *out = step->record->out;
    moji_cpu_convert(plan->cpu, step->out, out->type, step->in[0], x->type, moji_tensor_count(x));
    return TRUE;
}

/* Places from..end, of which there are at most PLACES: all planes are read before any is written.
 */
enum { PLACES = 256 };
static void mix_places(const CpuStep *step, gint64 planes, gint64 n, gint64 from, gint64 end)
{
    const MojiRecord *r = step->record;
    const float *factor = step->in[1];
    float sum[MOJI_MIX_ROWS][PLACES] = {0};
    for (gint64 row = 0; row < r->out->dim[0]; row++, factor += planes + 1) {
        for (gint64 k = 0; k < planes; k++) {
            gint64 in_b = k - r->in[0]->dim[0];
            const float *x = in_b < 0 ? (const float *)step->in[0] + k * n
                                      : (const float *)step->in[2] + in_b * n;
            x = k == 0 && row > 0 ? sum[0] : x + from;
            for (gint64 i = 0; factor[k] != 0 && i < end - from; i++)
                sum[row][i] += factor[k] * x[i];
        }
        for (gint64 i = 0; i < end - from; i++)
            sum[row][i] = CLAMP(sum[row][i], -factor[planes], factor[planes]);
    }
    for (gint64 row = 0; row < r->out->dim[0]; row++)
        memcpy((float *)step->out + row * n + from, sum[row], (end - from) * sizeof(float));
}

static gboolean run_mix(CpuPlan *plan, CpuStep *step, GError **error)
{
    (void)plan;
    (void)error;
    const MojiTensor *a = step->record->in[0];
    gint64 n = moji_tensor_count(a) / a->dim[0], planes = step->record->in[1]->dim[1] - 1;
#pragma omp parallel for schedule(static)
    for (gint64 i = 0; i < n; i += PLACES)
        mix_places(step, planes, n, i, MIN(i + PLACES, n));
    return TRUE;
}

const CpuOp moji_cpu_unary = {.run = run_unary};
const CpuOp moji_cpu_geglu = {.run = run_geglu};
const CpuOp moji_cpu_add = {.prepare = prepare_add, .run = run_add};
const CpuOp moji_cpu_concat = {.run = run_concat};
const CpuOp moji_cpu_upsample = {.run = run_upsample};
const CpuOp moji_cpu_embed = {.run = run_embed};
const CpuOp moji_cpu_sinusoid = {.run = run_sinusoid};
const CpuOp moji_cpu_cast = {.run = run_cast};
const CpuOp moji_cpu_mix = {.run = run_mix};
