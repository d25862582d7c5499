/* cublas.c: plans of cuBLASLt for y = alpha x w' (+ bias) (+ residual).
 *
 * cuBLASLt counts by columns, so our row-major y [rows,out] is its [out,rows]: w is its first
 * operand, x its second, and the bias runs along its rows as its epilogue wants.
 *
 * The surprising rule: products in f32 are computed in f32, never in TF32: that is the exact mode.
 * Nor are parts of a sum ever put together in a narrower type. */
#include "libraries.h"

enum { CANDIDATES = 8 };

typedef struct {
    CudaLibraryPlan base; /* first */
    cublasLtMatmulDesc_t op;
    cublasLtMatrixLayout_t w, x, y;
    cublasLtMatmulHeuristicResult_t found[CANDIDATES];
    int candidates, chosen;
    float alpha;
    gboolean residual;
} Product;

typedef struct {
    const KernelProduct *shape;
    MojiType type;
    const CudaOperands *o;
} Request;

static gboolean ok(cublasStatus_t s)
{
    return s == CUBLAS_STATUS_SUCCESS;
}

static void product_free(CudaLibraryPlan *plan)
{
    Product *p = (Product *)plan;
    cublasLtMatrixLayout_t layout[] = {p->w, p->x, p->y};
    for (gsize i = 0; i < G_N_ELEMENTS(layout); i++)
        if (layout[i])
            cublasLtMatrixLayoutDestroy(layout[i]);
    if (p->op)
        cublasLtMatmulDescDestroy(p->op);
    g_free(p);
}

static gboolean product_run(Cuda *cuda, CudaLibraryPlan *plan, const CudaOperands *o)
{
    Product *p = (Product *)plan;
    float beta = p->residual ? 1 : 0;
    return (!o->bias || ok(cublasLtMatmulDescSetAttribute(p->op, CUBLASLT_MATMUL_DESC_BIAS_POINTER,
                                                          &o->bias, sizeof o->bias))) &&
           ok(cublasLtMatmul(cuda->libraries->lt, p->op, &p->alpha, o->w, p->w, o->x, p->x, &beta,
                             p->residual ? o->residual : o->y, p->y, o->y, p->y,
                             &p->found[p->chosen].algo, cuda->libraries->workspace,
                             MOJI_CUDA_WORKSPACE, cuda->stream));
}

/* columns of `rows` values, `step` apart; `batch` such matrices, `apart` apart */
static gboolean layout_new(cublasLtMatrixLayout_t *layout, MojiType type, gint64 rows,
                           gint64 columns, gint64 step, gint64 batch, gint64 apart)
{
    gint32 count = (gint32)batch;
    return ok(cublasLtMatrixLayoutCreate(layout, moji_cuda_data_type(type), rows, columns, step)) &&
           ok(cublasLtMatrixLayoutSetAttribute(*layout, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &count,
                                               sizeof count)) &&
           ok(cublasLtMatrixLayoutSetAttribute(*layout, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET,
                                               &apart, sizeof apart));
}

static gboolean describe(Product *p, const Request *r)
{
    const KernelProduct *s = r->shape;
    cublasOperation_t turned = s->w_is_in_by_out ? CUBLAS_OP_N : CUBLAS_OP_T;
    cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
    cudaDataType_t bias_type = moji_cuda_data_type(r->type);
    return ok(cublasLtMatmulDescCreate(&p->op, CUBLAS_COMPUTE_32F, CUDA_R_32F)) &&
           ok(cublasLtMatmulDescSetAttribute(p->op, CUBLASLT_MATMUL_DESC_TRANSA, &turned,
                                             sizeof turned)) &&
           (!r->o->bias ||
            (ok(cublasLtMatmulDescSetAttribute(p->op, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue,
                                               sizeof epilogue)) &&
             ok(cublasLtMatmulDescSetAttribute(p->op, CUBLASLT_MATMUL_DESC_BIAS_POINTER,
                                               &r->o->bias, sizeof r->o->bias)) &&
             ok(cublasLtMatmulDescSetAttribute(p->op, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE,
                                               &bias_type, sizeof bias_type)) &&
             ok(cublasLtMatmulDescSetAttribute(p->op, CUBLASLT_MATMUL_DESC_BIAS_BATCH_STRIDE,
                                               &s->bias_batch, sizeof s->bias_batch)))) &&
           layout_new(&p->w, r->type, s->w_is_in_by_out ? s->out : s->in,
                      s->w_is_in_by_out ? s->in : s->out, s->w_row, s->batch, s->w_batch) &&
           layout_new(&p->x, r->type, s->in, s->rows, s->x_row, s->batch, s->x_batch) &&
           layout_new(&p->y, s->y_is_f32 ? MOJI_F32 : r->type, s->out, s->rows, s->y_row, s->batch,
                      s->y_batch);
}

/* Bytes to which all matrices of a batch and their columns are aligned: the block gives 64. */
static guint32 alignment(gint64 step, gint64 apart, gint64 batch, gsize size)
{
    guint64 all = 64 | step * size | (batch > 1 ? apart * size : 0);
    return (guint32)(all & -all);
}

static gboolean find(Cuda *cuda, Product *p, const Request *r)
{
    const KernelProduct *s = r->shape;
    gsize size = moji_type_bytes(r->type), y_size = s->y_is_f32 ? 4 : size;
    guint64 workspace = MOJI_CUDA_WORKSPACE;
    guint32 sums = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
    guint32 w = alignment(s->w_row, s->w_batch, s->batch, size);
    guint32 x = alignment(s->x_row, s->x_batch, s->batch, size);
    guint32 y = alignment(s->y_row, s->y_batch, s->batch, y_size);
    cublasLtMatmulPreference_t wish;
    if (!ok(cublasLtMatmulPreferenceCreate(&wish)))
        return FALSE;
    const struct {
        cublasLtMatmulPreferenceAttributes_t attribute;
        const void *value;
        gsize bytes;
    } wishes[] = {
        {CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace, sizeof workspace},
        {CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &sums, sizeof sums},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &w, sizeof w},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, &x, sizeof x},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &y, sizeof y},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &y, sizeof y},
    };
    gboolean done = TRUE;
    for (gsize i = 0; i < G_N_ELEMENTS(wishes); i++)
        done = done && ok(cublasLtMatmulPreferenceSetAttribute(wish, wishes[i].attribute,
                                                               wishes[i].value, wishes[i].bytes));
    done = done &&
           ok(cublasLtMatmulAlgoGetHeuristic(cuda->libraries->lt, p->op, p->w, p->x, p->y, p->y,
                                             wish, CANDIDATES, p->found, &p->candidates));
    cublasLtMatmulPreferenceDestroy(wish);
    return done && p->candidates > 0;
}

typedef struct {
    Cuda *cuda;
    Product *product;
    const CudaOperands *o;
} Contest;

static gboolean try_one(gpointer data, int i)
{
    Contest *c = data;
    c->product->chosen = i;
    return ok(c->product->found[i].state) && product_run(c->cuda, &c->product->base, c->o);
}

static CudaLibraryPlan *make(Cuda *cuda, const char *key, gpointer data)
{
    const Request *r = data;
    Product *p = g_new0(Product, 1);
    Contest c = {cuda, p, r->o};
    p->base = (CudaLibraryPlan){product_run, product_free};
    p->alpha = r->shape->alpha;
    p->residual = r->o->residual != NULL;
    int chosen = describe(p, r) && find(cuda, p, r)
                     ? moji_cuda_tune(cuda, key, p->candidates, try_one, &c)
                     : -1;
    if (chosen < 0) {
        product_free(&p->base);
        return NULL;
    }
    p->chosen = chosen;
    return &p->base;
}

CudaLibraryPlan *moji_cuda_product_plan(Cuda *cuda, const KernelProduct *s, MojiType type,
                                        const CudaOperands *o)
{
    Request r = {s, type, o};
    g_autofree char *key =
        g_strdup_printf("product %s%s %" G_GINT64_FORMAT "x%" G_GINT64_FORMAT "x%" G_GINT64_FORMAT
                        " by %" G_GINT64_FORMAT " rows %" G_GINT64_FORMAT " %" G_GINT64_FORMAT
                        " %" G_GINT64_FORMAT " apart %" G_GINT64_FORMAT " %" G_GINT64_FORMAT
                        " %" G_GINT64_FORMAT " %" G_GINT64_FORMAT "%s%s%s",
                        moji_type_name(type), s->y_is_f32 ? " to f32" : "", s->rows, s->in, s->out,
                        s->batch, s->x_row, s->w_row, s->y_row, s->x_batch, s->w_batch, s->y_batch,
                        s->bias_batch, s->w_is_in_by_out ? " turned" : "", o->bias ? " bias" : "",
                        o->residual ? o->residual == o->y ? " sum" : " residual" : "");
    return moji_cuda_kept_plan(cuda, key, make, &r);
}
