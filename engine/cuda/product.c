/* product.c: conv2d and linear.
 *
 * A 1x1 convolution of stride 1 is a linear layer of its pixels. Each step asks its library for a
 * plan and takes our own kernel where there is none.
 *
 * Linear layers in a row that are alike (queries, keys and values) are one product with a batch of
 * weights: the first of them does the work of all.
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

static CudaOperands operands(const CudaStep *step, const Product *p)
{
    return (CudaOperands){.x = step->in[0],
                          .w = p->weight,
                          .bias = p->add_after ? NULL : p->bias,
                          .residual = p->add_after ? NULL : step->in[3],
                          .y = step->out};
}

enum { MOST_ALIKE = 32 };

static int count_alike(const CudaPlan *plan, const CudaStep *step)
{
    int n = 1, most = MIN(MOST_ALIKE, (int)(plan->step + plan->steps - step));
    while (n < most && moji_records_alike(step->record, step[n].record))
        n++;
    return n;
}

/* Input k of n steps as `type`. Returns how many of them lie at one distance, from the first on,
 * and can be one product: 1 at least, 0 with the error set. */
static int upload_alike(CudaPlan *plan, CudaStep *step, int k, int n, MojiType type,
                        const void **first, gint64 *apart, GError **error)
{
    MojiWeight *weight[MOST_ALIKE];
    const void *at[MOST_ALIKE];
    for (int i = 0; i < n; i++)
        weight[i] = step[i].weight[k];
    if (!moji_cuda_weights(plan->cuda, weight, n, type, at, error))
        return 0;
    gssize distance = n > 1 ? (const char *)at[1] - (const char *)at[0] : 0;
    int same = 1;
    while (same < n && distance > 0 &&
           (const char *)at[same] - (const char *)at[same - 1] == distance)
        same++;
    *first = at[0];
    *apart = distance / (gssize)moji_type_bytes(type);
    return same;
}

static int upload_biases(CudaPlan *plan, CudaStep *step, int n, MojiType type, GError **error)
{
    Product *p = step->state;
    return step->weight[2]
               ? upload_alike(plan, step, 2, n, type, &p->bias, &p->product.bias_batch, error)
               : n;
}

static CudaLibraryPlan *library_for(CudaPlan *plan, CudaStep *step, int n)
{
    const Product *p = step->state;
    CudaOperands o = operands(step, p);
    KernelProduct shape = p->product;
    shape.batch = n;
    if (n == 1) /* one plan wherever the neighbours are */
        shape.w_batch = shape.y_batch = shape.bias_batch = 0;
    return moji_cuda_product_plan(plan->cuda, &shape, step->record->out->type, &o);
}

/* As many as it can be of those that are alike; only the first keeps its op. */
static gboolean prepare_linear(CudaPlan *plan, CudaStep *step, GError **error)
{
    Product *p = step->state;
    const MojiTensor *y = step->record->out;
    int n = count_alike(plan, step);
    p->product = product_shape(step->record);
    if (n > 1)
        p->product.y_batch = (step[1].record->out->offset - y->offset) / moji_type_bytes(y->type);
    n = upload_alike(plan, step, 1, n, y->type, &p->weight, &p->product.w_batch, error);
    if (n > 0)
        n = upload_biases(plan, step, n, y->type, error);
    if (n == 0)
        return FALSE;
    p->library = library_for(plan, step, n);
    if (!p->library && n > 1 && (p->library = library_for(plan, step, 1)))
        n = 1;
    if (!p->library && (n = upload_biases(plan, step, n, MOJI_F32, error)) == 0)
        return FALSE;
    p->product.batch = n;
    for (int i = 1; i < n; i++)
        step[i].op = NULL;
    return TRUE;
}

static gboolean prepare_conv(CudaPlan *plan, CudaStep *step, GError **error)
{
    Product *p = step->state;
    MojiType type = step->record->out->type;
    int k = step->record->attr.conv.kernel;
    p->conv = TRUE;
    p->shape = conv_shape(step->record);
    p->weight = moji_cuda_weight(plan->cuda, step->weight[1], type, k * k, error);
    if (!p->weight || !upload_biases(plan, step, 1, MOJI_F32, error))
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
