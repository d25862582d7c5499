/* cudnn.c: plans of cuDNN's graph API: convolution (+ bias) (+ residual), and attention.
 *
 * A small graph of operations is described, cuDNN's heuristics name engines for it, those that can
 * be made into plans are timed, and the fastest is kept. To make a plan may mean to compile it, so
 * once a choice is known only that one is made. Tensors are NHWC: axes counted n, c, h, w
 * with strides that put c last.
 *
 * The surprising rule: engines are refused by their notes. None may give other bytes from run to
 * run; for f32 none may use tensor cores (TF32), Winograd or FFT, which is what makes f32 exact. */
#include "libraries.h"
#include <stdbool.h>
#include <string.h>

enum { CANDIDATES = 10, MAX_DESCRIPTORS = 64, MAX_OPERATIONS = 3 };
enum { X = 1, W, BIAS, RESIDUAL, Y, SCALE, VIRTUAL }; /* unique ids of tensors */

typedef cudnnBackendDescriptor_t Descriptor;

typedef struct { /* descriptors, let go together */
    CudaLibraries *l;
    Descriptor made[MAX_DESCRIPTORS];
    int count;
    gboolean failed;
    Descriptor operation[MAX_OPERATIONS];
    int operations;
    int virtuals;
} Graph;

typedef struct {
    CudaLibraryPlan base; /* first */
    Graph of;             /* kept, lest the plan look into what it was made of */
    Descriptor plan;      /* the one chosen, or being tried */
    gint64 id[6];
    int ids;
    float scale; /* attention's, by value */
} Plan;

typedef struct {
    const KernelConv *conv;
    const KernelAttention *attention;
    MojiType type;
    const CudaOperands *o;
} Request;

/* ---- descriptors ---- */

static Descriptor make(Graph *g, cudnnBackendDescriptorType_t type)
{
    Descriptor d = NULL;
    g_assert(g->count < MAX_DESCRIPTORS);
    if (cudnnBackendCreateDescriptor(type, &d) != CUDNN_STATUS_SUCCESS) {
        g->failed = TRUE;
        return NULL;
    }
    g->made[g->count++] = d;
    return d;
}

static void set(Graph *g, Descriptor d, cudnnBackendAttributeName_t name,
                cudnnBackendAttributeType_t type, gint64 count, const void *value)
{
    if (!g->failed && cudnnBackendSetAttribute(d, name, type, count, value) != CUDNN_STATUS_SUCCESS)
        g->failed = TRUE;
}

static Descriptor finish(Graph *g, Descriptor d)
{
    if (!g->failed && cudnnBackendFinalize(d) != CUDNN_STATUS_SUCCESS)
        g->failed = TRUE;
    return d;
}

static void let_go(Graph *g)
{
    while (g->count)
        cudnnBackendDestroyDescriptor(g->made[--g->count]);
}

static cudnnDataType_t data_type(MojiType type)
{
    return type == MOJI_F32   ? CUDNN_DATA_FLOAT
           : type == MOJI_F16 ? CUDNN_DATA_HALF
                              : CUDNN_DATA_BFLOAT16;
}

static Descriptor tensor(Graph *g, gint64 id, cudnnDataType_t type, const gint64 dim[4],
                         const gint64 stride[4])
{
    gint64 alignment = 16, unique = id == VIRTUAL ? VIRTUAL + g->virtuals++ : id;
    bool hidden = id == VIRTUAL, by_value = id == SCALE;
    Descriptor d = make(g, CUDNN_BACKEND_TENSOR_DESCRIPTOR);
    set(g, d, CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &type);
    set(g, d, CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, 4, dim);
    set(g, d, CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, 4, stride);
    set(g, d, CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, 1, &unique);
    set(g, d, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64, 1, &alignment);
    if (hidden)
        set(g, d, CUDNN_ATTR_TENSOR_IS_VIRTUAL, CUDNN_TYPE_BOOLEAN, 1, &hidden);
    if (by_value)
        set(g, d, CUDNN_ATTR_TENSOR_IS_BY_VALUE, CUDNN_TYPE_BOOLEAN, 1, &by_value);
    return finish(g, d);
}

/* [n,h,w,c] in memory */
static Descriptor image(Graph *g, gint64 id, cudnnDataType_t type, gint64 n, gint64 c, gint64 h,
                        gint64 w)
{
    return tensor(g, id, type, (gint64[]){n, c, h, w}, (gint64[]){h * w * c, 1, w * c, c});
}

/* ---- operations ---- */

static void convolve(Graph *g, const KernelConv *s, Descriptor x, Descriptor w, Descriptor y)
{
    cudnnDataType_t compute = CUDNN_DATA_FLOAT;
    cudnnConvolutionMode_t mode = CUDNN_CROSS_CORRELATION;
    float one = 1, zero = 0;
    gint64 axes = 2, dilation[] = {1, 1}, stride[] = {s->stride, s->stride};
    gint64 before[] = {s->pad, s->pad};
    /* what the output's size needs below and on the right */
    gint64 after[] = {(s->out_h - 1) * s->stride + s->kernel - s->h - s->pad,
                      (s->out_w - 1) * s->stride + s->kernel - s->w - s->pad};
    for (int i = 0; i < 2; i++)
        after[i] = MAX(after[i], 0);
    Descriptor c = make(g, CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR);
    set(g, c, CUDNN_ATTR_CONVOLUTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &compute);
    set(g, c, CUDNN_ATTR_CONVOLUTION_CONV_MODE, CUDNN_TYPE_CONVOLUTION_MODE, 1, &mode);
    set(g, c, CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, CUDNN_TYPE_INT64, 1, &axes);
    set(g, c, CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, CUDNN_TYPE_INT64, 2, before);
    set(g, c, CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, CUDNN_TYPE_INT64, 2, after);
    set(g, c, CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, CUDNN_TYPE_INT64, 2, stride);
    set(g, c, CUDNN_ATTR_CONVOLUTION_DILATIONS, CUDNN_TYPE_INT64, 2, dilation);
    finish(g, c);
    Descriptor op = make(g, CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR);
    const cudnnBackendAttributeType_t d = CUDNN_TYPE_BACKEND_DESCRIPTOR;
    set(g, op, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X, d, 1, &x);
    set(g, op, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W, d, 1, &w);
    set(g, op, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y, d, 1, &y);
    set(g, op, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC, d, 1, &c);
    set(g, op, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA, CUDNN_TYPE_FLOAT, 1, &one);
    set(g, op, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA, CUDNN_TYPE_FLOAT, 1, &zero);
    g->operation[g->operations++] = finish(g, op);
}

static void add(Graph *g, Descriptor a, Descriptor b, Descriptor y)
{
    cudnnPointwiseMode_t mode = CUDNN_POINTWISE_ADD;
    cudnnDataType_t compute = CUDNN_DATA_FLOAT;
    const cudnnBackendAttributeType_t d = CUDNN_TYPE_BACKEND_DESCRIPTOR;
    Descriptor p = make(g, CUDNN_BACKEND_POINTWISE_DESCRIPTOR);
    set(g, p, CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, 1, &mode);
    set(g, p, CUDNN_ATTR_POINTWISE_MATH_PREC, CUDNN_TYPE_DATA_TYPE, 1, &compute);
    finish(g, p);
    Descriptor op = make(g, CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR);
    set(g, op, CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, d, 1, &p);
    set(g, op, CUDNN_ATTR_OPERATION_POINTWISE_XDESC, d, 1, &a);
    set(g, op, CUDNN_ATTR_OPERATION_POINTWISE_BDESC, d, 1, &b);
    set(g, op, CUDNN_ATTR_OPERATION_POINTWISE_YDESC, d, 1, &y);
    g->operation[g->operations++] = finish(g, op);
}

/* x * w, then the bias, then the residual; what lies between is virtual. */
static void describe_conv(Graph *g, const Request *r, Plan *plan)
{
    const KernelConv *s = r->conv;
    cudnnDataType_t type = data_type(r->type), f32 = CUDNN_DATA_FLOAT;
    gint64 k = s->kernel;
    int adds = !!r->o->bias + !!r->o->residual;
    Descriptor x = image(g, X, type, s->batch, s->in, s->h, s->w);
    Descriptor w = image(g, W, type, s->out, s->in, k, k);
    Descriptor at =
        image(g, adds ? VIRTUAL : Y, adds ? f32 : type, s->batch, s->out, s->out_h, s->out_w);
    plan->id[plan->ids++] = X;
    plan->id[plan->ids++] = W;
    convolve(g, s, x, w, at);
    for (int residual = 0; residual < 2; residual++) {
        if (residual ? !r->o->residual : !r->o->bias)
            continue;
        gboolean last = --adds == 0;
        Descriptor b = residual ? image(g, RESIDUAL, type, s->batch, s->out, s->out_h, s->out_w)
                                : image(g, BIAS, f32, 1, s->out, 1, 1);
        Descriptor y =
            image(g, last ? Y : VIRTUAL, last ? type : f32, s->batch, s->out, s->out_h, s->out_w);
        plan->id[plan->ids++] = residual ? RESIDUAL : BIAS;
        add(g, at, b, y);
        at = y;
    }
    plan->id[plan->ids++] = Y;
}

#if CUDNN_VERSION >= 91900 /* the oldest whose header this was written against */
/* [n, heads * width] by token in memory, an image after another */
static Descriptor heads(Graph *g, gint64 id, MojiType type, const KernelAttention *s, gint64 tokens,
                        gint64 row)
{
    return tensor(g, id, data_type(type), (gint64[]){s->batch, s->heads, tokens, s->width},
                  (gint64[]){tokens * row, s->width, row, 1});
}

static void describe_attention(Graph *g, const Request *r, Plan *plan)
{
    const KernelAttention *s = r->attention;
    const gint64 one[] = {1, 1, 1, 1};
    const struct {
        cudnnBackendAttributeName_t name;
        Descriptor tensor;
        gint64 id;
    } parts[] = {
        {CUDNN_ATTR_OPERATION_SDPA_FWD_QDESC, heads(g, X, r->type, s, s->n, s->q_row), X},
        {CUDNN_ATTR_OPERATION_SDPA_FWD_KDESC, heads(g, W, r->type, s, s->m, s->kv_row), W},
        {CUDNN_ATTR_OPERATION_SDPA_FWD_VDESC, heads(g, BIAS, r->type, s, s->m, s->kv_row), BIAS},
        {CUDNN_ATTR_OPERATION_SDPA_FWD_ODESC, heads(g, Y, r->type, s, s->n, s->y_row), Y},
        {CUDNN_ATTR_OPERATION_SDPA_FWD_SCALEDESC, tensor(g, SCALE, CUDNN_DATA_FLOAT, one, one),
         SCALE},
    };
    Descriptor op = make(g, CUDNN_BACKEND_OPERATION_SDPA_FWD_DESCRIPTOR);
    for (gsize i = 0; i < G_N_ELEMENTS(parts); i++) {
        set(g, op, parts[i].name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &parts[i].tensor);
        plan->id[plan->ids++] = parts[i].id;
    }
    g->operation[g->operations++] = finish(g, op);
    plan->scale = s->scale;
}
#endif

/* ---- plans ---- */

static gboolean has_note(Descriptor config, gboolean exact)
{
    Descriptor engine = NULL;
    cudnnBackendNumericalNote_t note[CUDNN_NUMERICAL_NOTE_TYPE_COUNT];
    gint64 count = 0;
    gboolean found = FALSE;
    if (cudnnBackendCreateDescriptor(CUDNN_BACKEND_ENGINE_DESCRIPTOR, &engine) !=
        CUDNN_STATUS_SUCCESS)
        return TRUE;
    if (cudnnBackendGetAttribute(config, CUDNN_ATTR_ENGINECFG_ENGINE, CUDNN_TYPE_BACKEND_DESCRIPTOR,
                                 1, &count, &engine) != CUDNN_STATUS_SUCCESS ||
        cudnnBackendGetAttribute(engine, CUDNN_ATTR_ENGINE_NUMERICAL_NOTE,
                                 CUDNN_TYPE_NUMERICAL_NOTE, G_N_ELEMENTS(note), &count,
                                 note) != CUDNN_STATUS_SUCCESS)
        found = TRUE;
    for (gint64 i = 0; i < count && !found; i++)
        found = note[i] == CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC ||
                note[i] == CUDNN_NUMERICAL_NOTE_REDUCED_PRECISION_REDUCTION ||
                (exact &&
                 (note[i] == CUDNN_NUMERICAL_NOTE_TENSOR_CORE ||
                  note[i] == CUDNN_NUMERICAL_NOTE_DOWN_CONVERT_INPUTS ||
                  note[i] == CUDNN_NUMERICAL_NOTE_FFT || note[i] == CUDNN_NUMERICAL_NOTE_WINOGRAD));
    cudnnBackendDestroyDescriptor(engine);
    return found;
}

static Descriptor plan_of(CudaLibraries *l, Descriptor config)
{
    Descriptor plan = NULL;
    gint64 bytes = 0, count = 0;
    if (cudnnBackendCreateDescriptor(CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR, &plan) !=
        CUDNN_STATUS_SUCCESS)
        return NULL;
    if (cudnnBackendSetAttribute(plan, CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_TYPE_HANDLE, 1,
                                 &l->dnn) == CUDNN_STATUS_SUCCESS &&
        cudnnBackendSetAttribute(plan, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG,
                                 CUDNN_TYPE_BACKEND_DESCRIPTOR, 1,
                                 &config) == CUDNN_STATUS_SUCCESS &&
        cudnnBackendFinalize(plan) == CUDNN_STATUS_SUCCESS &&
        cudnnBackendGetAttribute(plan, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, CUDNN_TYPE_INT64,
                                 1, &count, &bytes) == CUDNN_STATUS_SUCCESS &&
        bytes <= (gint64)MOJI_CUDA_WORKSPACE)
        return plan;
    cudnnBackendDestroyDescriptor(plan);
    return NULL;
}

/* What one of cuDNN's heuristics names, the best first. Returns how many. */
static int ask(Graph *g, Descriptor graph, cudnnBackendHeurMode_t mode,
               Descriptor config[CANDIDATES])
{
    Descriptor heuristic = make(g, CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
    gint64 count = 0;
    set(g, heuristic, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1,
        &graph);
    set(g, heuristic, CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, &mode);
    finish(g, heuristic);
    for (int i = 0; i < CANDIDATES && !g->failed; i++)
        config[i] = make(g, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
    if (g->failed || cudnnBackendGetAttribute(heuristic, CUDNN_ATTR_ENGINEHEUR_RESULTS,
                                              CUDNN_TYPE_BACKEND_DESCRIPTOR, CANDIDATES, &count,
                                              config) != CUDNN_STATUS_SUCCESS)
        return 0;
    return (int)MIN(count, CANDIDATES);
}

static void plan_free(CudaLibraryPlan *plan)
{
    Plan *p = (Plan *)plan;
    if (p->plan)
        cudnnBackendDestroyDescriptor(p->plan);
    let_go(&p->of);
    g_free(p);
}

static const void *operand(const Plan *p, const CudaOperands *o, gint64 id)
{
    switch (id) {
    case X:
        return o->x;
    case W:
        return o->w;
    case BIAS:
        return o->bias;
    case RESIDUAL:
        return o->residual;
    case SCALE:
        return &p->scale;
    default:
        return o->y;
    }
}

static gboolean plan_run(Cuda *cuda, CudaLibraryPlan *plan, const CudaOperands *o)
{
    Plan *p = (Plan *)plan;
    CudaLibraries *l = cuda->libraries;
    const void *pointer[G_N_ELEMENTS(p->id)];
    Graph g = {.l = l};
    for (int i = 0; i < p->ids; i++)
        pointer[i] = operand(p, o, p->id[i]);
    Descriptor pack = make(&g, CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR);
    set(&g, pack, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, p->ids, p->id);
    set(&g, pack, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, p->ids, pointer);
    set(&g, pack, CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, 1, &l->workspace);
    finish(&g, pack);
    gboolean done = !g.failed && cudnnBackendExecute(l->dnn, p->plan, pack) == CUDNN_STATUS_SUCCESS;
    let_go(&g);
    return done;
}

typedef struct {
    Cuda *cuda;
    Plan *plan;
    const CudaOperands *o;
    gboolean exact;
    Descriptor config[CANDIDATES], made[CANDIDATES]; /* made: plans, NULL where there is none */
    gboolean tried[CANDIDATES];
} Contest;

static gboolean try_one(gpointer data, int i)
{
    Contest *c = data;
    if (!c->tried[i]) {
        c->tried[i] = TRUE;
        c->made[i] =
            has_note(c->config[i], c->exact) ? NULL : plan_of(c->cuda->libraries, c->config[i]);
    }
    c->plan->plan = c->made[i];
    return c->made[i] && plan_run(c->cuda, &c->plan->base, c->o);
}

/* Leaves the fastest in c->plan, or NULL. */
static void choose(Graph *g, Descriptor graph, cudnnBackendHeurMode_t mode, const char *key,
                   Contest *c)
{
    memset(c->made, 0, sizeof c->made);
    memset(c->tried, 0, sizeof c->tried);
    int n = ask(g, graph, mode, c->config);
    int chosen = n ? moji_cuda_tune(c->cuda, key, n, try_one, c) : -1;
    c->plan->plan = chosen < 0 ? NULL : c->made[chosen];
    for (int i = 0; i < n; i++)
        if (i != chosen && c->made[i])
            cudnnBackendDestroyDescriptor(c->made[i]);
}

static Descriptor graph_of(Graph *g)
{
    Descriptor graph = make(g, CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
    set(g, graph, CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR, g->operations,
        g->operation);
    set(g, graph, CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, 1, &g->l->dnn);
    return finish(g, graph);
}

static CudaLibraryPlan *make_plan(Cuda *cuda, const char *key, gpointer data)
{
    const Request *r = data;
    Plan *p = g_new0(Plan, 1);
    Graph *g = &p->of;
    Contest c = {.cuda = cuda, .plan = p, .o = r->o, .exact = r->type == MOJI_F32};
    g_autofree char *second = g_strdup_printf("%s, fallback", key);
    p->base = (CudaLibraryPlan){plan_run, plan_free};
    g->l = cuda->libraries;
    if (r->conv)
        describe_conv(g, r, p);
#if CUDNN_VERSION >= 91900
    else
        describe_attention(g, r, p);
#endif
    Descriptor graph = graph_of(g);
    choose(g, graph, CUDNN_HEUR_MODE_A, key, &c);
    if (!p->plan)
        choose(g, graph, CUDNN_HEUR_MODE_FALLBACK, second, &c);
    if (p->plan)
        return &p->base;
    plan_free(&p->base);
    return NULL;
}

CudaLibraryPlan *moji_cuda_conv_plan(Cuda *cuda, const KernelConv *s, MojiType type,
                                     const CudaOperands *o)
{
    Request r = {.conv = s, .type = type, .o = o};
    g_autofree char *key = g_strdup_printf(
        "conv %s %" G_GINT64_FORMAT "x%" G_GINT64_FORMAT "x%" G_GINT64_FORMAT "x%" G_GINT64_FORMAT
        " to %" G_GINT64_FORMAT "x%" G_GINT64_FORMAT "x%" G_GINT64_FORMAT " %d by %d from %d%s%s",
        moji_type_name(type), s->batch, s->h, s->w, s->in, s->out_h, s->out_w, s->out, s->kernel,
        s->stride, s->pad, o->bias ? " bias" : "",
        o->residual ? o->residual == o->y ? " sum" : " residual" : "");
    return moji_cuda_kept_plan(cuda, key, make_plan, &r);
}

CudaLibraryPlan *moji_cuda_attention_plan(Cuda *cuda, const KernelAttention *s, MojiType type,
                                          const CudaOperands *o)
{
#if CUDNN_VERSION >= 91900
    Request r = {.attention = s, .type = type, .o = o};
    if (type == MOJI_F32 || s->causal || s->width % 8)
        return NULL;
    g_autofree char *key =
        g_strdup_printf("cuDNN attention %s %" G_GINT64_FORMAT "x%" G_GINT64_FORMAT
                        "x%" G_GINT64_FORMAT " %d of %d, scale %g",
                        moji_type_name(type), s->batch, s->n, s->m, s->heads, s->width, s->scale);
    return moji_cuda_kept_plan(cuda, key, make_plan, &r);
#else
    (void)cuda;
    (void)s;
    (void)type;
    (void)o;
    return NULL;
#endif
}
