/* attention.c: softmax(scale q k') v by head.
 *
 * Fused where it can be: cuDNN's own, or kernel_attention, whichever is faster by timing. Else
 * (f32, the decoder's one wide head, odd widths) put together from two products with a softmax
 * between them, slice by slice of queries, so that the scores of all never exist at once.
 *
 * The surprising rule: heads lie side by side in a token, so the products of all heads of an image
 * are one batch whose matrices overlap: they step by the width of a head and their rows by the
 * width of a token. */
#include "cuda.h"

#define SCORES_BYTES ((gsize)64 << 20) /* of a slice, in f32 */

typedef struct {
    KernelAttention shape;
    KernelType type;
    gboolean kernel;          /* kernel_attention */
    CudaLibraryPlan *library; /* cuDNN's, or NULL */
    gint64 slice;             /* queries at once, when composed */
    gsize scores_bytes;
    /* For whole slices and for the last one; NULL: kernel_linear. */
    CudaLibraryPlan *scores[2], *values[2];
} Attention;

/* ---- put together ---- */

static KernelProduct scores_shape(const Attention *a, gint64 rows)
{
    const KernelAttention *s = &a->shape;
    return (KernelProduct){.rows = rows,
                           .in = s->width,
                           .out = s->m,
                           .x_row = s->q_row,
                           .w_row = s->kv_row,
                           .y_row = s->m,
                           .batch = s->heads,
                           .x_batch = s->width,
                           .w_batch = s->width,
                           .y_batch = rows * s->m,
                           .y_is_f32 = TRUE,
                           .alpha = 1};
}

static KernelProduct values_shape(const Attention *a, gint64 rows)
{
    const KernelAttention *s = &a->shape;
    return (KernelProduct){.rows = rows,
                           .in = s->m,
                           .out = s->width,
                           .x_row = s->m,
                           .w_row = s->kv_row,
                           .y_row = s->y_row,
                           .batch = s->heads,
                           .x_batch = rows * s->m,
                           .w_batch = s->width,
                           .y_batch = s->width,
                           .w_is_in_by_out = TRUE,
                           .alpha = 1};
}

static gsize aligned(gsize bytes)
{
    return (bytes + 255) / 256 * 256;
}

/* The scratch memory: scores, then exponentials. */
static gboolean prepare_composed(CudaPlan *plan, CudaStep *step, GError **error)
{
    Attention *a = step->state;
    const KernelAttention *s = &a->shape;
    MojiType type = step->record->out->type;
    a->slice = CLAMP((gint64)(SCORES_BYTES / (s->heads * s->m * sizeof(float))), 1, s->n);
    a->scores_bytes = aligned(s->heads * a->slice * s->m * sizeof(float));
    gsize weights_bytes = aligned(s->heads * a->slice * s->m * moji_type_bytes(type));
    if (!moji_cuda_scratch(plan->cuda, a->scores_bytes + weights_bytes, error))
        return FALSE;
    char *scores = plan->cuda->scratch;
    for (int last = 0; last < 2; last++) {
        gint64 rows = last ? s->n % a->slice : a->slice;
        if (rows == 0)
            continue;
        KernelProduct qk = scores_shape(a, rows), pv = values_shape(a, rows);
        CudaOperands o = {.x = step->in[0], .w = step->in[1], .y = scores};
        a->scores[last] = moji_cuda_product_plan(plan->cuda, &qk, type, &o);
        o = (CudaOperands){.x = scores + a->scores_bytes, .w = step->in[2], .y = step->out};
        a->values[last] = moji_cuda_product_plan(plan->cuda, &pv, type, &o);
    }
    return TRUE;
}

static gboolean multiply(Cuda *cuda, CudaStep *step, CudaLibraryPlan *library,
                         const KernelProduct *shape, KernelType type, const CudaOperands *o,
                         GError **error)
{
    if (!library)
        return moji_cuda_ok(kernel_linear(o->y, o->x, o->w, NULL, NULL, shape, type, cuda->stream),
                            step, error);
    return moji_cuda_ok(library->run(cuda, library, o) ? cudaSuccess : cudaErrorNotSupported, step,
                        error);
}

/* Queries first .. first + rows - 1 of one image. */
static gboolean run_slice(CudaPlan *plan, CudaStep *step, gint64 image, gint64 first, gint64 rows,
                          GError **error)
{
    const Attention *a = step->state;
    const KernelAttention *s = &a->shape;
    Cuda *cuda = plan->cuda;
    gsize size = moji_type_bytes(step->record->out->type);
    gint64 queries = image * s->n + first, keys = image * s->m;
    char *scores = cuda->scratch, *weights = scores + a->scores_bytes;
    int last = rows != a->slice;
    KernelProduct qk = scores_shape(a, rows), pv = values_shape(a, rows);
    KernelSoftmax soft = {s->heads * rows, s->m, rows, first, s->causal, s->scale};
    CudaOperands o = {.x = (const char *)step->in[0] + queries * s->q_row * size,
                      .w = (const char *)step->in[1] + keys * s->kv_row * size,
                      .y = scores};
    if (!multiply(cuda, step, a->scores[last], &qk, a->type, &o, error) ||
        !moji_cuda_ok(kernel_softmax(weights, (float *)scores, &soft, a->type, cuda->stream), step,
                      error))
        return FALSE;
    o = (CudaOperands){.x = weights,
                       .w = (const char *)step->in[2] + keys * s->kv_row * size,
                       .y = (char *)step->out + queries * s->y_row * size};
    return multiply(cuda, step, a->values[last], &pv, a->type, &o, error);
}

static gboolean run_composed(CudaPlan *plan, CudaStep *step, GError **error)
{
    const Attention *a = step->state;
    for (gint64 image = 0; image < a->shape.batch; image++)
        for (gint64 first = 0; first < a->shape.n; first += a->slice)
            if (!run_slice(plan, step, image, first, MIN(a->slice, a->shape.n - first), error))
                return FALSE;
    return TRUE;
}

/* ---- fused ---- */

static cudaError_t run_kernel(Cuda *cuda, const CudaStep *step)
{
    const Attention *a = step->state;
    return kernel_attention(step->out, step->in[0], step->in[1], step->in[2], &a->shape, a->type,
                            cuda->stream);
}

typedef struct {
    Cuda *cuda;
    CudaStep *step;
    CudaLibraryPlan *library;
} Contest;

static gboolean try_one(gpointer data, int i)
{
    Contest *c = data;
    CudaOperands o = {c->step->in[0], c->step->in[1], c->step->in[2], NULL, c->step->out};
    return i == 0 ? !run_kernel(c->cuda, c->step) : c->library->run(c->cuda, c->library, &o);
}

/* Sets a->kernel, a->library or neither. */
static void choose_fused(CudaPlan *plan, CudaStep *step)
{
    Attention *a = step->state;
    const KernelAttention *s = &a->shape;
    CudaOperands o = {step->in[0], step->in[1], step->in[2], NULL, step->out};
    Contest c = {plan->cuda, step, NULL};
    a->kernel = plan->cuda->capability >= 80 && kernel_attention_takes(s->width, a->type);
    c.library = moji_cuda_attention_plan(plan->cuda, s, step->record->out->type, &o);
    if (!c.library)
        return;
    if (plan->cuda->dry) { /* nothing can be timed; either wants no memory */
        a->library = a->kernel ? NULL : c.library;
        return;
    }
    g_autofree char *key = g_strdup_printf(
        "attention %s %" G_GINT64_FORMAT "x%" G_GINT64_FORMAT "x%" G_GINT64_FORMAT " %d of %d",
        moji_type_name(step->record->out->type), s->batch, s->n, s->m, s->heads, s->width);
    if (!a->kernel || moji_cuda_tune(plan->cuda, key, 2, try_one, &c) == 1) {
        a->library = c.library;
        a->kernel = FALSE;
    }
}

static gboolean prepare(CudaPlan *plan, CudaStep *step, GError **error)
{
    const MojiRecord *r = step->record;
    const MojiTensor *q = r->in[0], *k = r->in[1];
    gint64 c = q->dim[2];
    Attention *a = step->state = g_new0(Attention, 1);
    a->type = moji_cuda_type(q->type);
    a->shape = (KernelAttention){.batch = q->dim[0],
                                 .n = q->dim[1],
                                 .m = k->dim[1],
                                 .heads = r->attr.attention.heads,
                                 .width = (int)(c / r->attr.attention.heads),
                                 .q_row = c,
                                 .kv_row = c,
                                 .y_row = c,
                                 .scale = r->attr.attention.scale,
                                 .causal = r->attr.attention.causal};
    choose_fused(plan, step);
    return a->kernel || a->library || prepare_composed(plan, step, error);
}

static gboolean run(CudaPlan *plan, CudaStep *step, GError **error)
{
    const Attention *a = step->state;
    if (a->kernel)
        return moji_cuda_ok(run_kernel(plan->cuda, step), step, error);
    if (!a->library)
        return run_composed(plan, step, error);
    CudaOperands o = {step->in[0], step->in[1], step->in[2], NULL, step->out};
    return moji_cuda_ok(a->library->run(plan->cuda, a->library, &o) ? cudaSuccess
                                                                    : cudaErrorNotSupported,
                        step, error);
}

const CudaOp moji_cuda_attention = {prepare, run, g_free};
