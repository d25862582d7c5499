/* simple.c: the ops that are one kernel each, and the norms. */
#include "cuda.h"

static gboolean run_unary(CudaPlan *plan, CudaStep *step, GError **error)
{
    const MojiRecord *r = step->record;
    KernelUnary f = r->op == MOJI_OP_SILU         ? KERNEL_SILU
                    : r->op == MOJI_OP_GELU       ? KERNEL_GELU
                    : r->op == MOJI_OP_QUICK_GELU ? KERNEL_QUICK_GELU
                    : r->op == MOJI_OP_RELU       ? KERNEL_RELU
                                                  : KERNEL_SCALE;
    float by = r->op == MOJI_OP_SCALE ? r->attr.scale.by : 0;
    return moji_cuda_ok(kernel_unary(f, step->out, step->in[0], moji_tensor_count(r->out), by,
                                     moji_cuda_type(r->out->type), plan->cuda->stream),
                        step, error);
}

static gboolean run_geglu(CudaPlan *plan, CudaStep *step, GError **error)
{
    const MojiTensor *out = step->record->out;
    return moji_cuda_ok(kernel_geglu(step->out, step->in[0], moji_cuda_rows(out),
                                     moji_cuda_width(out), moji_cuda_type(out->type),
                                     plan->cuda->stream),
                        step, error);
}

/* A parameter as the other operand's type. */
static gboolean prepare_add(CudaPlan *plan, CudaStep *step, GError **error)
{
    for (int k = 0; k < 2; k++) {
        if (step->weight[k])
            step->in[k] =
                moji_cuda_weight(plan->cuda, step->weight[k], step->record->out->type, 1, error);
        if (!step->in[k])
            return FALSE;
    }
    return TRUE;
}

static gboolean run_add(CudaPlan *plan, CudaStep *step, GError **error)
{
    const MojiTensor *a = step->record->in[0], *b = step->record->in[1];
    gint64 dim[4] = {1, 1, 1, 1}, stride[4] = {0}, step_in_b = 1;
    for (int i = a->rank; i-- > 0; step_in_b *= b->dim[i]) {
        int axis = 4 - a->rank + i;
        dim[axis] = a->dim[i];
        stride[axis] = b->dim[i] == 1 ? 0 : step_in_b;
    }
    return moji_cuda_ok(kernel_add(step->out, step->in[0], step->in[1], dim, stride,
                                   moji_cuda_type(a->type), plan->cuda->stream),
                        step, error);
}

static gboolean run_concat(CudaPlan *plan, CudaStep *step, GError **error)
{
    const MojiTensor *a = step->record->in[0], *b = step->record->in[1];
    gsize size = moji_type_bytes(a->type);
    return moji_cuda_ok(kernel_concat(step->out, step->in[0], step->in[1], moji_cuda_rows(a),
                                      a->dim[3] * size, b->dim[3] * size, plan->cuda->stream),
                        step, error);
}

static gboolean run_upsample(CudaPlan *plan, CudaStep *step, GError **error)
{
    const MojiTensor *x = step->record->in[0];
    return moji_cuda_ok(kernel_upsample(step->out, step->in[0], x->dim[0], x->dim[1], x->dim[2],
                                        x->dim[3] * moji_type_bytes(x->type), plan->cuda->stream),
                        step, error);
}

/* Ids of words come from outside; rows of a table that was computed are our own. */
static gboolean prepare_embed(CudaPlan *plan, CudaStep *step, GError **error)
{
    if (!step->weight[0])
        return TRUE;
    plan->embeds = TRUE;
    step->in[0] = moji_cuda_weight(plan->cuda, step->weight[0], step->record->out->type, 1, error);
    return step->in[0] != NULL;
}

static gboolean run_embed(CudaPlan *plan, CudaStep *step, GError **error)
{
    const MojiTensor *table = step->record->in[0], *ids = step->record->in[1];
    return moji_cuda_ok(kernel_embed(step->out, step->in[0], step->in[1], plan->cuda->bad,
                                     moji_tensor_count(ids), table->dim[0], table->dim[1],
                                     moji_cuda_type(step->record->out->type), plan->cuda->stream),
                        step, error);
}

static gboolean run_sinusoid(CudaPlan *plan, CudaStep *step, GError **error)
{
    const MojiRecord *r = step->record;
    return moji_cuda_ok(kernel_sinusoid(step->out, step->in[0], r->out->dim[0], r->out->dim[1],
                                        r->attr.sinusoid.flip, r->attr.sinusoid.shift,
                                        plan->cuda->stream),
                        step, error);
}

static gboolean run_cast(CudaPlan *plan, CudaStep *step, GError **error)
{
    const MojiTensor *x = step->record->in[0], *out = step->record->out;
    return moji_cuda_ok(kernel_cast(step->out, moji_cuda_type(out->type), step->in[0],
                                    moji_cuda_type(x->type), moji_tensor_count(x),
                                    plan->cuda->stream),
                        step, error);
}

static gboolean run_mix(CudaPlan *plan, CudaStep *step, GError **error)
{
    const MojiRecord *r = step->record;
    const MojiTensor *a = r->in[0], *b = r->in[2];
    KernelMix shape = {.a = (int)a->dim[0],
                       .b = b ? (int)b->dim[0] : 0,
                       .rows = (int)r->out->dim[0],
                       .n = moji_tensor_count(a) / a->dim[0]};
    return moji_cuda_ok(
        kernel_mix(step->out, step->in[0], step->in[2], step->in[1], &shape, plan->cuda->stream),
        step, error);
}

/* ---- norms ---- */

typedef struct {
    const float *weight, *bias;
    gsize kept_at; /* group norm: its moments in plan->kept */
} Norm;

static gboolean prepare_norm(CudaPlan *plan, CudaStep *step, GError **error)
{
    Norm *n = step->state = g_new0(Norm, 1);
    n->weight = moji_cuda_weight(plan->cuda, step->weight[1], MOJI_F32, 1, error);
    if (n->weight)
        n->bias = moji_cuda_weight(plan->cuda, step->weight[2], MOJI_F32, 1, error);
    return n->bias != NULL;
}

static gboolean run_layer_norm(CudaPlan *plan, CudaStep *step, GError **error)
{
    const Norm *n = step->state;
    const MojiTensor *x = step->record->in[0];
    return moji_cuda_ok(kernel_layer_norm(step->out, step->in[0], n->weight, n->bias,
                                          moji_cuda_rows(x), moji_cuda_width(x),
                                          step->record->attr.norm.eps, moji_cuda_type(x->type),
                                          plan->cuda->stream),
                        step, error);
}

static KernelGroupNorm group_shape(const MojiRecord *r)
{
    const MojiTensor *x = r->in[0];
    return (KernelGroupNorm){.batch = x->dim[0],
                             .pixels = x->dim[1] * x->dim[2],
                             .channels = x->dim[3],
                             .groups = r->attr.norm.groups,
                             .silu = r->attr.norm.silu,
                             .eps = r->attr.norm.eps};
}

static gboolean prepare_group_norm(CudaPlan *plan, CudaStep *step, GError **error)
{
    KernelGroupNorm shape = group_shape(step->record);
    gsize bytes = kernel_group_norm_bytes(&shape);
    if (!prepare_norm(plan, step, error))
        return FALSE;
    ((Norm *)step->state)->kept_at = plan->kept_bytes;
    plan->kept_bytes += bytes;
    plan->norm = step->record;
    return moji_cuda_scratch(plan->cuda, bytes, error);
}

static gboolean run_group_norm(CudaPlan *plan, CudaStep *step, GError **error)
{
    const Norm *n = step->state;
    MojiNorms by = step->record->attr.norm.by;
    KernelGroupNorm shape = group_shape(step->record);
    shape.measured = by == MOJI_NORMS_KEPT;
    void *moments = by == MOJI_NORMS_OWN ? plan->cuda->scratch : plan->kept + n->kept_at;
    return moji_cuda_ok(kernel_group_norm(step->out, step->in[0], step->shift, n->weight, n->bias,
                                          moments, &shape, moji_cuda_type(step->record->out->type),
                                          plan->cuda->stream),
                        step, error);
}

const CudaOp moji_cuda_unary = {.run = run_unary};
const CudaOp moji_cuda_geglu = {.run = run_geglu};
const CudaOp moji_cuda_add = {.prepare = prepare_add, .run = run_add};
const CudaOp moji_cuda_concat = {.run = run_concat};
const CudaOp moji_cuda_upsample = {.run = run_upsample};
const CudaOp moji_cuda_embed = {.prepare = prepare_embed, .run = run_embed};
const CudaOp moji_cuda_sinusoid = {.run = run_sinusoid};
const CudaOp moji_cuda_cast = {.run = run_cast};
const CudaOp moji_cuda_mix = {.run = run_mix};
const CudaOp moji_cuda_layer_norm = {prepare_norm, run_layer_norm, g_free};
const CudaOp moji_cuda_group_norm = {prepare_group_norm, run_group_norm, g_free};
