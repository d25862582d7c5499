/* product.c: conv2d and linear.
 *
 * A 1x1 convolution of stride 1 is a linear layer of its pixels. Each step asks its library for a
 * plan and takes our own kernel where there is none.
 *
 * The surprising rule: what a library does not fuse is added afterwards by kernel_bias, so a
 * convolution has three ways: cuDNN with bias and residual, cuDNN without, our kernel. */
#include "cuda.h"

typedef struct {
    CudaLibraryPlan *library; /* or NULL: our kernel */
    gboolean add_after;       /* the plan leaves bias and residual to kernel_bias */
    gboolean conv;
    KernelProduct product;
    KernelConv shape;
    const void *weight, *bias; /* bias: as the plan wants it */
} Product;

static KernelProduct product_shape(const MojiRecord *r)
{
    gint64 rows = moji_cuda_rows(r->in[0]), in = moji_cuda_width(r->in[0]);
    gint64 out = moji_cuda_width(r->out);
    return (KernelProduct){.rows = rows,
                           .in = in,
                           .out = out,
                           .x_row = in,
                           .w_row = in,
                           .y_row = out,
                           .batch = 1,
                           .alpha = 1};
}

static KernelConv conv_shape(const MojiRecord *r)
{
    const MojiTensor *x = r->in[0], *y = r->out;
    return (KernelConv){.batch = x->dim[0],
                        .h = x->dim[1],
                        .w = x->dim[2],
                        .in = x->dim[3],
                        .out_h = y->dim[1],
                        .out_w = y->dim[2],
                        .out = y->dim[3],
                        .kernel = r->attr.conv.kernel,
                        .stride = r->attr.conv.stride,
                        .pad = r->attr.conv.pad_begin};
}

/* The bias as f32, or as cuBLASLt wants it: of the output's type. */
static gboolean upload_bias(CudaPlan *plan, CudaStep *step, MojiType type, GError **error)
{
    Product *p = step->state;
    if (!step->weight[2])
        return TRUE;
    p->bias = moji_cuda_weight(plan->cuda, step->weight[2], type, 1, error);
    return p->bias != NULL;
}

static CudaOperands operands(const CudaStep *step, const Product *p)
{
    return (CudaOperands){.x = step->in[0],
                          .w = p->weight,
                          .bias = p->add_after ? NULL : p->bias,
                          .residual = p->add_after ? NULL : step->in[3],
                          .y = step->out};
}

static gboolean prepare_linear(CudaPlan *plan, CudaStep *step, GError **error)
{
    Product *p = step->state;
    MojiType type = step->record->out->type;
    p->product = product_shape(step->record);
    p->weight = moji_cuda_weight(plan->cuda, step->weight[1], type, 1, error);
    if (!p->weight || !upload_bias(plan, step, type, error))
        return FALSE;
    CudaOperands o = operands(step, p);
    p->library = moji_cuda_product_plan(plan->cuda, &p->product, type, &o);
    return p->library || upload_bias(plan, step, MOJI_F32, error);
}

static gboolean prepare_conv(CudaPlan *plan, CudaStep *step, GError **error)
{
    Product *p = step->state;
    MojiType type = step->record->out->type;
    int k = step->record->attr.conv.kernel;
    p->conv = TRUE;
    p->shape = conv_shape(step->record);
    p->weight = moji_cuda_weight(plan->cuda, step->weight[1], type, k * k, error);
    if (!p->weight || !upload_bias(plan, step, MOJI_F32, error))
        return FALSE;
    CudaOperands o = operands(step, p);
    p->library = moji_cuda_conv_plan(plan->cuda, &p->shape, type, &o);
    /* the sum afterwards cannot be had where the output lies over the residual */
    if (!p->library && (o.bias || o.residual) && o.residual != o.y) {
        p->add_after = TRUE;
        o = operands(step, p);
        p->library = moji_cuda_conv_plan(plan->cuda, &p->shape, type, &o);
        p->add_after = p->library != NULL;
    }
    return TRUE;
}

static gboolean prepare(CudaPlan *plan, CudaStep *step, GError **error)
{
    const MojiRecord *r = step->record;
    gboolean pixels = r->op == MOJI_OP_CONV2D && r->attr.conv.kernel == 1 &&
                      r->attr.conv.stride == 1 && r->attr.conv.pad_begin == 0 &&
                      r->attr.conv.pad_end == 0;
    step->state = g_new0(Product, 1);
    return (r->op == MOJI_OP_CONV2D && !pixels ? prepare_conv : prepare_linear)(plan, step, error);
}

static gboolean run_library(CudaPlan *plan, CudaStep *step, GError **error)
{
    const Product *p = step->state;
    Cuda *cuda = plan->cuda;
    CudaOperands o = operands(step, p);
    if (!p->library->run(cuda, p->library, &o)) {
        g_set_error(error, MOJI_ERROR, MOJI_ERROR_BACKEND, "CUDA: %s %s: the library failed",
                    moji_op_name(step->record->op), step->record->name);
        return FALSE;
    }
    if (!p->add_after)
        return TRUE;
    const MojiTensor *y = step->record->out;
    return moji_cuda_ok(kernel_bias(step->out, p->bias, step->in[3], moji_cuda_rows(y),
                                    moji_cuda_width(y), moji_cuda_type(y->type), cuda->stream),
                        step, error);
}

static gboolean run(CudaPlan *plan, CudaStep *step, GError **error)
{
    const Product *p = step->state;
    if (p->library)
        return run_library(plan, step, error);
    KernelType type = moji_cuda_type(step->record->out->type);
    cudaStream_t stream = plan->cuda->stream;
    return moji_cuda_ok(p->conv ? kernel_conv2d(step->out, step->in[0], p->weight, p->bias,
                                                step->in[3], &p->shape, type, stream)
                                : kernel_linear(step->out, step->in[0], p->weight, p->bias,
                                                step->in[3], &p->product, type, stream),
                        step, error);
}

const CudaOp moji_cuda_conv2d = {prepare, run, g_free};
const CudaOp moji_cuda_linear = {prepare, run, g_free};
