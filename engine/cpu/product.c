/* product.c: conv2d and linear, on oneDNN.
 *
 * In bf16 on a processor with matrix tiles most go to product_tiles.c.
 *
 * A 1x1 convolution of stride 1 is a linear layer of its pixels, so both are prepared by one
 * function for the matrix product and another for the real convolution.
 *
 * The surprising rule: a residual comes in by one of two ways. Where the plan put the output over
 * the residual the primitive adds to what is there (sum); elsewhere it reads it beside (binary),
 * unless that would take a slow implementation: then the residual is copied first, and summed. */
#include "onednn.h"
#include "product_tiles.h"
#include <string.h>

typedef struct {
    CpuPrimitive primitive;
    float *bias;         /* f32 always */
    gboolean copy_first; /* the residual goes to the output before the run */
    gsize scratch_bytes;
} Product;

typedef struct { /* what differs between the two */
    dnnl_memory_desc_t x, weight, bias, out;
    dnnl_memory_desc_t plain; /* the weight as in the file */
    dnnl_matmul_desc_t matmul;
    dnnl_convolution_desc_t conv;
    const_dnnl_op_desc_t op;
} Shapes;

static void release(gpointer state)
{
    Product *p = state;
    moji_cpu_primitive_clear(&p->primitive);
    moji_cpu_free(p->bias);
    g_free(p);
}

/* rows x in times the weight transposed. */
static gboolean describe_matmul(CpuStep *step, Shapes *s, GError **error)
{
    MojiRecord *r = step->record;
    MojiType type = r->out->type;
    gint64 rows = moji_cpu_rows(r->in[0]);
    gint64 in = r->in[0]->dim[r->in[0]->rank - 1], out = r->out->dim[r->out->rank - 1];
    s->x = moji_cpu_desc(type, 2, (gint64[]){rows, in}, NULL);
    s->weight = moji_cpu_desc_any(type, 2, (gint64[]){in, out});
    s->plain = moji_cpu_desc(type, 2, (gint64[]){in, out}, (gint64[]){1, in});
    s->bias = moji_cpu_desc(MOJI_F32, 2, (gint64[]){1, out}, NULL);
    s->out = moji_cpu_desc(type, 2, (gint64[]){rows, out}, NULL);
    s->op = &s->matmul;
    return moji_cpu_ok(
        dnnl_matmul_desc_init(&s->matmul, &s->x, &s->weight, r->in[2] ? &s->bias : NULL, &s->out),
        step, "describe the product", error);
}

/* oneDNN counts axes as [B,C,h,w] whatever the order in memory. */
static dnnl_memory_desc_t image_desc(const MojiTensor *t)
{
    gint64 h = t->dim[1], w = t->dim[2], c = t->dim[3];
    return moji_cpu_desc(t->type, 4, (gint64[]){t->dim[0], c, h, w},
                         (gint64[]){h * w * c, 1, w * c, c});
}

static gboolean describe_conv(CpuStep *step, Shapes *s, GError **error)
{
    MojiRecord *r = step->record;
    MojiType type = r->out->type;
    int k = r->attr.conv.kernel, stride = r->attr.conv.stride;
    int begin = r->attr.conv.pad_begin, end = r->attr.conv.pad_end;
    gint64 dim[] = {r->out->dim[3], r->in[0]->dim[3], k, k};
    s->x = image_desc(r->in[0]);
    s->weight = moji_cpu_desc_any(type, 4, dim);
    s->plain = moji_cpu_desc(type, 4, dim, NULL);
    s->bias = moji_cpu_desc(MOJI_F32, 1, dim, NULL);
    s->out = image_desc(r->out);
    s->op = &s->conv;
    dnnl_dims_t strides = {stride, stride}, before = {begin, begin}, after = {end, end};
    return moji_cpu_ok(dnnl_convolution_forward_desc_init(
                           &s->conv, dnnl_forward_inference, dnnl_convolution_direct, &s->x,
                           &s->weight, r->in[2] ? &s->bias : NULL, &s->out, strides, before, after),
                       step, "describe the convolution", error);
}

static gboolean is_slow(const CpuPrimitive *p)
{
    /* "ref:any", "gemm:jit", "x64:gemm:jit"; the last also adds some residuals wrongly */
    const char *name = moji_cpu_primitive_name(p);
    return strstr(name, "ref") || strstr(name, "gemm");
}

/* residual: NULL, or its descriptor, to be read beside; sum: add to what the output holds. */
static gboolean make(CpuPlan *plan, CpuStep *step, const Shapes *s, gboolean sum,
                     const dnnl_memory_desc_t *residual, CpuPrimitive *p, GError **error)
{
    dnnl_primitive_attr_t attr = NULL;
    dnnl_post_ops_t post = NULL;
    gboolean done =
        moji_cpu_ok(dnnl_primitive_attr_create(&attr), step, "prepare", error) &&
        moji_cpu_ok(dnnl_post_ops_create(&post), step, "prepare", error) &&
        (!sum || moji_cpu_ok(dnnl_post_ops_append_sum(post, 1), step, "add a residual", error)) &&
        (!residual || moji_cpu_ok(dnnl_post_ops_append_binary(post, dnnl_binary_add, residual),
                                  step, "add a residual", error)) &&
        moji_cpu_ok(dnnl_primitive_attr_set_post_ops(attr, post), step, "prepare", error) &&
        moji_cpu_primitive_init(p, step, plan->cpu->engine, s->op, attr, error);
    if (post)
        dnnl_post_ops_destroy(post);
    if (attr)
        dnnl_primitive_attr_destroy(attr);
    return done;
}

static gboolean choose(CpuPlan *plan, CpuStep *step, const Shapes *s, Product *product,
                       GError **error)
{
    CpuPrimitive *p = &product->primitive;
    const void *residual = step->record->in[3] ? step->in[3] : NULL;
    if (!residual || residual == step->out)
        return make(plan, step, s, residual != NULL, NULL, p, error);
    if (make(plan, step, s, FALSE, &s->out, p, NULL)) {
        if (!is_slow(p))
            return TRUE;
        moji_cpu_primitive_clear(p);
    }
    product->copy_first = TRUE;
    return make(plan, step, s, TRUE, NULL, p, error);
}

static gboolean bind(CpuPlan *plan, CpuStep *step, const Shapes *s, Product *product,
                     GError **error)
{
    CpuPrimitive *p = &product->primitive;
    dnnl_engine_t e = plan->cpu->engine;
    const dnnl_memory_desc_t *wanted = moji_cpu_primitive_md(p, dnnl_query_weights_md);
    const dnnl_memory_desc_t *scratch = moji_cpu_primitive_md(p, dnnl_query_scratchpad_md);
    const void *weight = moji_cpu_reordered(plan, step, step->weight[1], &s->plain, wanted, error);
    if (!weight)
        return FALSE;
    if (step->record->in[2]) {
        gint64 n = moji_tensor_count(step->record->in[2]);
        product->bias = moji_cpu_alloc(n * sizeof(float), "a bias", error);
        if (!product->bias)
            return FALSE;
        moji_cpu_convert(plan->cpu, product->bias, MOJI_F32, step->weight[2]->data,
                         step->weight[2]->type, n);
    }
    step->scratch_bytes = moji_cpu_primitive_scratch(p);
    gboolean beside = step->record->in[3] && step->in[3] != step->out && !product->copy_first;
    return moji_cpu_primitive_bind(p, step, e, DNNL_ARG_SRC, &s->x, step->in[0], error) &&
           moji_cpu_primitive_bind(p, step, e, DNNL_ARG_WEIGHTS, wanted, weight, error) &&
           (!product->bias ||
            moji_cpu_primitive_bind(p, step, e, DNNL_ARG_BIAS, &s->bias, product->bias, error)) &&
           (!beside ||
            moji_cpu_primitive_bind(p, step, e, DNNL_ARG_ATTR_MULTIPLE_POST_OP(0) | DNNL_ARG_SRC_1,
                                    &s->out, step->in[3], error)) &&
           moji_cpu_primitive_bind(p, step, e, DNNL_ARG_DST, &s->out, step->out, error) &&
           moji_cpu_primitive_bind(p, step, e, DNNL_ARG_SCRATCHPAD, scratch, NULL, error);
}

static gboolean prepare(CpuPlan *plan, CpuStep *step, GError **error)
{
    MojiRecord *r = step->record;
    Shapes s;
#if defined(__x86_64__)
    if (moji_cpu_tiles_fit(plan, r)) {
        step->op = &moji_cpu_tiles;
        return step->op->prepare(plan, step, error);
    }
#endif
    gboolean pixels = r->op == MOJI_OP_CONV2D && r->attr.conv.kernel == 1 &&
                      r->attr.conv.stride == 1 && r->attr.conv.pad_begin == 0 &&
                      r->attr.conv.pad_end == 0;
    gboolean conv = r->op == MOJI_OP_CONV2D && !pixels;
    if (!(conv ? describe_conv : describe_matmul)(step, &s, error))
        return FALSE;
    Product *p = g_new0(Product, 1);
    step->state = p;
    return choose(plan, step, &s, p, error) && bind(plan, step, &s, p, error);
}

static gboolean run(CpuPlan *plan, CpuStep *step, GError **error)
{
    Product *p = step->state;
    if (p->copy_first) {
        gsize bytes = moji_tensor_bytes(step->record->out), part = 1 << 16;
#pragma omp parallel for schedule(static)
        for (gsize i = 0; i < bytes; i += part)
            memcpy((char *)step->out + i, (const char *)step->in[3] + i, MIN(part, bytes - i));
    }
    moji_cpu_primitive_set(&p->primitive, DNNL_ARG_SCRATCHPAD, plan->scratch);
    return moji_cpu_ok(moji_cpu_primitive_run(&p->primitive, plan->cpu->stream), step, "run it",
                       error);
}

const CpuOp moji_cpu_conv2d = {prepare, run, release};
const CpuOp moji_cpu_linear = {prepare, run, release};
