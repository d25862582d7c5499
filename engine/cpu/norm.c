/* norm.c: group norm (with SiLU) and layer norm.
 *
 * Group norm reads x twice: once for the sums by channel, once to apply them. The sums are of
 * x - x[first pixel], so that a mean far from zero costs no digits; parts of PART_ROWS rows are
 * summed in f32 and the parts in double. How x is divided depends on its shape alone, so the bytes
 * do not depend on the number of threads. */
#include "cpu.h"
#include <math.h>
#include <omp.h>
#include <string.h>

#define PART_ROWS 64

typedef struct {
    float *weight, *bias; /* f32, [C] each, one allocation */
    double *kept;         /* group norm: [B,groups,2], mean and scale for MOJI_NORMS_KEPT */
} Norm;

static void release(gpointer state)
{
    Norm *n = state;
    moji_cpu_free(n->weight);
    moji_cpu_free(n->kept);
    g_free(n);
}

static gboolean prepare_layer(CpuPlan *plan, CpuStep *step, GError **error)
{
    gint64 c = moji_tensor_count(step->record->in[1]);
    Norm *n = g_new0(Norm, 1);
    step->state = n;
    n->weight = moji_cpu_alloc(2 * c * sizeof(float), "a norm's weight", error);
    if (!n->weight)
        return FALSE;
    n->bias = n->weight + c;
    moji_cpu_convert(plan->cpu, n->weight, MOJI_F32, step->weight[1]->data, step->weight[1]->type,
                     c);
    moji_cpu_convert(plan->cpu, n->bias, MOJI_F32, step->weight[2]->data, step->weight[2]->type, c);
    return TRUE;
}

static gboolean run_layer(CpuPlan *plan, CpuStep *step, GError **error)
{
    (void)error;
    Norm *n = step->state;
    MojiTensor *x = step->record->in[0];
    gint64 rows = moji_cpu_rows(x), c = x->dim[x->rank - 1];
    gsize row = c * moji_type_bytes(x->type);
#pragma omp parallel for schedule(static)
    for (gint64 i = 0; i < rows; i++)
        plan->cpu->kernels->layer_norm((char *)step->out + i * row,
                                       (const char *)step->in[0] + i * row, n->weight, n->bias,
                                       step->record->attr.norm.eps, c, moji_cpu_is_bf16(x));
    return TRUE;
}

/* ---- group norm ---- */

typedef struct {          /* in the plan's scratch memory */
    double *sum, *square; /* [B,parts,C] */
    float *shift;         /* [B,C] */
    float *factor, *term; /* [B,C] */
    float *part;          /* [threads,2,C] */
} Work;

static gint64 count_parts(const MojiTensor *x)
{
    gint64 pixels = x->dim[1] * x->dim[2];
    /* at most 64 parts of an image: each costs 16 bytes a channel */
    gint64 rows = MAX(PART_ROWS, (pixels + 63) / 64);
    return (pixels + rows - 1) / rows;
}

static gsize work_bytes(const CpuPlan *plan, const MojiTensor *x)
{
    gsize b = x->dim[0], c = x->dim[3];
    return 2 * b * count_parts(x) * c * sizeof(double) +
           (3 * b + 2 * plan->cpu->threads) * c * sizeof(float);
}

static Work lay_out(const CpuPlan *plan, const MojiTensor *x)
{
    gsize b = x->dim[0], c = x->dim[3], sums = b * count_parts(x) * c;
    double *at = plan->scratch;
    float *rest = (float *)(at + 2 * sums);
    return (Work){at, at + sums, rest, rest + b * c, rest + 2 * b * c, rest + 3 * b * c};
}

static gboolean prepare_group(CpuPlan *plan, CpuStep *step, GError **error)
{
    const MojiTensor *x = step->record->in[0];
    gsize values = 2 * x->dim[0] * step->record->attr.norm.groups;
    step->scratch_bytes = work_bytes(plan, x);
    if (!prepare_layer(plan, step, error))
        return FALSE;
    Norm *n = step->state;
    n->kept = moji_cpu_alloc(values * sizeof(double), "a norm's statistics", error);
    return n->kept != NULL;
}

/* Sums of one part of one image. */
static void sum_part(const CpuPlan *plan, const MojiTensor *x, const void *data, const Work *w,
                     gint64 image, gint64 part, float *scratch)
{
    gint64 c = x->dim[3], pixels = x->dim[1] * x->dim[2], parts = count_parts(x);
    gint64 rows = MAX(PART_ROWS, (pixels + 63) / 64), first = part * rows;
    gint64 end = MIN(first + rows, pixels);
    double *sum = w->sum + (image * parts + part) * c;
    double *square = w->square + (image * parts + part) * c;
    memset(sum, 0, c * sizeof *sum);
    memset(square, 0, c * sizeof *square);
    for (gint64 i = first; i < end; i += PART_ROWS) {
        memset(scratch, 0, 2 * c * sizeof *scratch);
        gsize offset = (image * pixels + i) * c * moji_type_bytes(x->type);
        plan->cpu->kernels->moments(scratch, scratch + c, w->shift + image * c,
                                    (const char *)data + offset, MIN(PART_ROWS, end - i), c,
                                    moji_cpu_is_bf16(x));
        for (gint64 k = 0; k < c; k++) {
            sum[k] += scratch[k];
            square[k] += scratch[c + k];
        }
    }
}

/* From the sums of a group's channels to its mean and 1 / its deviation. */
static void measure_group(const MojiTensor *x, const Work *w, const MojiAttr *attr, gint64 image,
                          gint64 group, double statistics[2])
{
    gint64 c = x->dim[3], pixels = x->dim[1] * x->dim[2], parts = count_parts(x);
    gint64 width = c / attr->norm.groups, first = group * width;
    double mean = 0, spread = 0; /* of the group; the spread around its mean */
    for (int pass = 0; pass < 2; pass++)
        for (gint64 k = first; k < first + width; k++) {
            double sum = 0, square = 0;
            for (gint64 p = 0; p < parts; p++) {
                sum += w->sum[(image * parts + p) * c + k];
                square += w->square[(image * parts + p) * c + k];
            }
            double own = w->shift[image * c + k] + sum / pixels;
            if (pass == 0)
                mean += own / width;
            else
                spread += square - sum * sum / pixels + pixels * (own - mean) * (own - mean);
        }
    statistics[0] = mean;
    statistics[1] = 1 / sqrt(spread / ((double)pixels * width) + attr->norm.eps);
}

/* And from these to y = x * factor + term. */
static void settle_group(const MojiTensor *x, const Work *w, const Norm *n, const MojiAttr *attr,
                         gint64 image, gint64 group)
{
    gint64 c = x->dim[3], width = c / attr->norm.groups, first = group * width;
    double own[2], *kept = n->kept + 2 * (image * attr->norm.groups + group);
    double *statistics = attr->norm.by == MOJI_NORMS_OWN ? own : kept;
    if (attr->norm.by != MOJI_NORMS_KEPT)
        measure_group(x, w, attr, image, group, statistics);
    double mean = statistics[0], scale = statistics[1];
    for (gint64 k = first; k < first + width; k++) {
        w->factor[image * c + k] = (float)(n->weight[k] * scale);
        w->term[image * c + k] = (float)(n->bias[k] - mean * n->weight[k] * scale);
    }
}

static void apply(const CpuPlan *plan, const CpuStep *step, const Work *w, gint64 image,
                  gint64 part)
{
    const MojiTensor *x = step->record->in[0];
    gint64 c = x->dim[3], pixels = x->dim[1] * x->dim[2], first = part * PART_ROWS;
    gsize offset = (image * pixels + first) * c * moji_type_bytes(x->type);
    plan->cpu->kernels->affine((char *)step->out + offset, (const char *)step->in[0] + offset,
                               w->factor + image * c, w->term + image * c,
                               MIN(PART_ROWS, pixels - first), c, step->record->attr.norm.silu,
                               moji_cpu_is_bf16(x));
}

static gboolean run_group(CpuPlan *plan, CpuStep *step, GError **error)
{
    (void)error;
    Norm *n = step->state;
    const MojiTensor *x = step->record->in[0];
    const MojiAttr *attr = &step->record->attr;
    gint64 images = x->dim[0], pixels = x->dim[1] * x->dim[2], c = x->dim[3];
    gint64 parts = attr->norm.by == MOJI_NORMS_KEPT ? 0 : count_parts(x);
    gint64 strips = (pixels + PART_ROWS - 1) / PART_ROWS;
    Work w = lay_out(plan, x);
    for (gint64 b = 0; b < images; b++)
        moji_cpu_convert(plan->cpu, w.shift + b * c, MOJI_F32,
                         (const char *)step->in[0] + b * pixels * c * moji_type_bytes(x->type),
                         x->type, c);
#pragma omp parallel
    {
        float *scratch = w.part + omp_get_thread_num() * 2 * c;
#pragma omp for schedule(static)
        for (gint64 i = 0; i < images * parts; i++)
            sum_part(plan, x, step->in[0], &w, i / parts, i % parts, scratch);
#pragma omp for schedule(static)
        for (gint64 i = 0; i < images * attr->norm.groups; i++)
            settle_group(x, &w, n, attr, i / attr->norm.groups, i % attr->norm.groups);
#pragma omp for schedule(static)
        for (gint64 i = 0; i < images * strips; i++)
            apply(plan, step, &w, i / strips, i % strips);
    }
    return TRUE;
}

const CpuOp moji_cpu_group_norm = {prepare_group, run_group, release};
const CpuOp moji_cpu_layer_norm = {prepare_layer, run_layer, release};
