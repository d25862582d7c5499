/* cuda.c: the CUDA backend: the device, memory, prepare, and a whole tape as one CUDA graph.
 *
 * The first run of a tape launches its steps one by one, which lets the libraries settle; the
 * second captures them, and from then on a run is one launch. Nothing waits until something is
 * read.
 *
 * The surprising rule: a graph knows addresses. When the scratch memory that all tapes share grows
 * in a later prepare, graphs made before are thrown away and captured again. */
#include "cuda.h"
#include <string.h>

static const CudaOp *const ops[MOJI_OP_COUNT] = {
    [MOJI_OP_CONV2D] = &moji_cuda_conv2d,
    [MOJI_OP_LINEAR] = &moji_cuda_linear,
    [MOJI_OP_GROUP_NORM] = &moji_cuda_group_norm,
    [MOJI_OP_LAYER_NORM] = &moji_cuda_layer_norm,
    [MOJI_OP_ATTENTION] = &moji_cuda_attention,
    [MOJI_OP_SILU] = &moji_cuda_unary,
    [MOJI_OP_GELU] = &moji_cuda_unary,
    [MOJI_OP_QUICK_GELU] = &moji_cuda_unary,
    [MOJI_OP_RELU] = &moji_cuda_unary,
    [MOJI_OP_GEGLU] = &moji_cuda_geglu,
    [MOJI_OP_ADD] = &moji_cuda_add,
    [MOJI_OP_SCALE] = &moji_cuda_unary,
    [MOJI_OP_CONCAT] = &moji_cuda_concat,
    [MOJI_OP_UPSAMPLE] = &moji_cuda_upsample,
    [MOJI_OP_EMBED] = &moji_cuda_embed,
    [MOJI_OP_SINUSOID] = &moji_cuda_sinusoid,
    [MOJI_OP_CAST] = &moji_cuda_cast,
    [MOJI_OP_MIX] = &moji_cuda_mix,
};

gboolean moji_cuda_ok(cudaError_t e, const CudaStep *step, GError **error)
{
    if (e == cudaSuccess)
        return TRUE;
    gboolean memory = e == cudaErrorMemoryAllocation;
    const MojiRecord *r = step ? step->record : NULL;
    cudaGetLastError(); /* so that the next call does not find it */
    g_set_error(error, MOJI_ERROR, memory ? MOJI_ERROR_MEMORY : MOJI_ERROR_BACKEND,
                "CUDA: %s%s%s%s%s", r ? moji_op_name(r->op) : "", r && r->name ? " " : "",
                r && r->name ? r->name : "", r ? ": " : "", cudaGetErrorString(e));
    return FALSE;
}

/* The present device belongs to the calling thread, and any may call. */
static Cuda *cuda_of(MojiBackend *b)
{
    Cuda *cuda = (Cuda *)b;
    cudaSetDevice(cuda->device);
    return cuda;
}

/* ---- memory ---- */

static void *memory_new(MojiBackend *b, gsize bytes, GError **error)
{
    void *memory;
    return moji_cuda_allocate(cuda_of(b), &memory, bytes, "the block of activations", error)
               ? memory
               : NULL;
}

static void memory_free(MojiBackend *b, void *memory)
{
    moji_cuda_free(cuda_of(b), memory);
}

/* ---- prepare ---- */

static void drop_graph(CudaPlan *plan)
{
    if (plan->graph)
        cudaGraphExecDestroy(plan->graph);
    plan->graph = NULL;
    plan->runs = 0;
}

static void unprepare(MojiBackend *b, void *prepared)
{
    CudaPlan *plan = prepared;
    cuda_of(b);
    cudaStreamSynchronize(plan->cuda->stream);
    drop_graph(plan);
    for (int i = 0; i < plan->steps; i++) {
        CudaStep *step = &plan->step[i];
        if (step->state && step->op->release)
            step->op->release(step->state);
    }
    moji_cuda_free(plan->cuda, plan->kept);
    g_free(plan->step);
    g_free(plan);
}

static void *in_block(void *block, const MojiTensor *t)
{
    return (char *)block + t->offset;
}

static void resolve(CudaStep *step, void *block, MojiWeight **weight)
{
    MojiRecord *r = step->record;
    step->op = ops[r->op];
    step->out = in_block(block, r->out);
    for (int k = 0; k < MOJI_MAX_INPUTS; k++) {
        if (!r->in[k])
            continue;
        if (r->in[k]->kind == MOJI_PARAMETER)
            step->weight[k] = weight[r->in[k]->id];
        else
            step->in[k] = in_block(block, r->in[k]);
    }
}

static gboolean overlap(const MojiTensor *a, const MojiTensor *b)
{
    return a->offset < b->offset + moji_tensor_bytes(b) &&
           b->offset < a->offset + moji_tensor_bytes(a);
}

/* A time embedding added just before a group norm, in place and for it alone, is left to the norm:
 * one pass over the tensor less. b must stay until the norm has been written. */
static gboolean is_shift(const MojiRecord *add, const MojiRecord *norm)
{
    const MojiTensor *a = add->in[0], *b = add->in[1];
    return add->op == MOJI_OP_ADD && norm->op == MOJI_OP_GROUP_NORM && norm->in[0] == add->out &&
           b->kind != MOJI_PARAMETER && b->rank == 4 && b->dim[0] == a->dim[0] && b->dim[1] == 1 &&
           b->dim[2] == 1 && b->dim[3] == a->dim[3] && a->offset == add->out->offset &&
           !overlap(b, norm->out) && !overlap(b, add->out);
}

static gboolean read_later(MojiTape *tape, const MojiTensor *t, int after)
{
    for (int i = after + 1; i < moji_tape_length(tape); i++)
        for (int k = 0; k < MOJI_MAX_INPUTS; k++) {
            const MojiTensor *in = moji_tape_record(tape, i)->in[k];
            if (in && (in == t || in->view_of == t))
                return TRUE;
        }
    return t->output;
}

static void fold_shifts(CudaPlan *plan, MojiTape *tape)
{
    for (int i = 0; i + 1 < plan->steps; i++) {
        CudaStep *add = &plan->step[i], *norm = add + 1;
        if (!is_shift(add->record, norm->record) || read_later(tape, add->record->out, i + 1))
            continue;
        norm->shift = add->in[1];
        add->op = NULL;
    }
}

static gboolean prepare(MojiBackend *b, MojiTape *tape, void *block, MojiWeight **weight,
                        void **prepared, GError **error)
{
    CudaPlan *plan = g_new0(CudaPlan, 1);
    plan->cuda = cuda_of(b);
    plan->steps = moji_tape_length(tape);
    plan->steady = moji_tape_steady(tape);
    plan->step = g_new0(CudaStep, plan->steps);
    for (int i = 0; i < plan->steps; i++) {
        plan->step[i].record = moji_tape_record(tape, i);
        resolve(&plan->step[i], block, weight);
    }
    fold_shifts(plan, tape);
    gboolean done = TRUE;
    for (int i = 0; done && i < plan->steps; i++) {
        CudaStep *step = &plan->step[i];
        if (step->op && step->op->prepare)
            done = step->op->prepare(plan, step, error);
    }
    if (!done) {
        unprepare(b, plan);
        return FALSE;
    }
    *prepared = plan;
    return TRUE;
}

/* ---- run ---- */

static gboolean launch(CudaPlan *plan, int first, int end, GError **error)
{
    gboolean done = TRUE;
    for (int i = first; done && i < end; i++) {
        CudaStep *step = &plan->step[i];
        if (step->op)
            done = step->op->run(plan, step, error);
    }
    return done;
}

/* A graph knows how norms went when it was captured. */
static gboolean follow_norms(CudaPlan *plan, GError **error)
{
    MojiNorms by = plan->norm ? plan->norm->attr.norm.by : MOJI_NORMS_OWN;
    if (by == plan->by)
        return TRUE;
    if (by != MOJI_NORMS_OWN && !plan->kept &&
        !moji_cuda_allocate(plan->cuda, (void **)&plan->kept, plan->kept_bytes, "what norms keep",
                            error))
        return FALSE;
    cudaStreamSynchronize(plan->cuda->stream);
    drop_graph(plan);
    plan->by = by;
    return TRUE;
}

/* Leaves plan->graph NULL, and no error, if this cannot be captured: then steps go one by one. */
static gboolean capture(CudaPlan *plan)
{
    cudaStream_t stream = plan->cuda->stream;
    cudaGraph_t graph = NULL;
    gboolean done = !cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal) &&
                    launch(plan, plan->steady, plan->steps, NULL);
    if (cudaStreamEndCapture(stream, &graph) || !done ||
        cudaGraphInstantiateWithFlags(&plan->graph, graph, 0))
        plan->graph = NULL;
    if (graph)
        cudaGraphDestroy(graph);
    cudaGetLastError();
    moji_cuda_note_use(plan->cuda);
    g_debug("cuda: %d steps %s", plan->steps, plan->graph ? "captured" : "cannot be captured");
    return plan->graph != NULL;
}

static gboolean run_whole(CudaPlan *plan, GError **error)
{
    if (plan->scratch_turn != plan->cuda->scratch_turn) {
        drop_graph(plan);
        plan->scratch_turn = plan->cuda->scratch_turn;
    }
    if (plan->runs++ == 1)
        capture(plan);
    if (plan->graph)
        return moji_cuda_ok(cudaGraphLaunch(plan->graph, plan->cuda->stream), NULL, error);
    return launch(plan, plan->steady, plan->steps, error);
}

/* Ids come from outside, so a table look-up is worth waiting for. */
static gboolean check_ids(CudaPlan *plan, GError **error)
{
    int bad = 0;
    moji_cuda_read(&plan->cuda->base, plan->cuda->bad, &bad, sizeof bad);
    if (!bad)
        return TRUE;
    cudaMemsetAsync(plan->cuda->bad, 0, sizeof bad, plan->cuda->stream);
    g_set_error(error, MOJI_ERROR, MOJI_ERROR_USAGE, "embed: id number %d is outside of its table",
                bad);
    return FALSE;
}

static gboolean run(MojiBackend *b, void *prepared, int first, int end, GError **error)
{
    CudaPlan *plan = prepared;
    cuda_of(b);
    end = MIN(end, plan->steps);
    if (!follow_norms(plan, error))
        return FALSE;
    gboolean done = first == plan->steady && end == plan->steps ? run_whole(plan, error)
                                                                : launch(plan, first, end, error);
    return done && (!plan->embeds || check_ids(plan, error));
}

/* Between events on the stream, so that launching is not counted unless it is what holds up. */
static gboolean profile(MojiBackend *b, void *prepared, double *seconds, GError **error)
{
    Cuda *cuda = cuda_of(b);
    CudaPlan *plan = prepared;
    g_autofree cudaEvent_t *event = g_new0(cudaEvent_t, plan->steps + 1);
    gboolean done = TRUE;
    for (int i = 0; done && i <= plan->steps; i++)
        done = moji_cuda_ok(cudaEventCreateWithFlags(&event[i], cudaEventDefault), NULL, error);
    done = done && moji_cuda_ok(cudaEventRecord(event[0], cuda->stream), NULL, error);
    for (int i = 0; done && i < plan->steps; i++)
        done = launch(plan, i, i + 1, error) &&
               moji_cuda_ok(cudaEventRecord(event[i + 1], cuda->stream), NULL, error);
    done = done && moji_cuda_ok(cudaStreamSynchronize(cuda->stream), NULL, error);
    for (int i = 0; done && i < plan->steps; i++) {
        float ms = 0;
        done = moji_cuda_ok(cudaEventElapsedTime(&ms, event[i], event[i + 1]), NULL, error);
        seconds[i] = plan->step[i].op ? ms / 1000 : 0;
    }
    for (int i = 0; i <= plan->steps; i++)
        if (event[i])
            cudaEventDestroy(event[i]);
    return done;
}

/* ---- the device ---- */

static const char *describe(MojiBackend *b)
{
    return ((Cuda *)b)->description;
}

/* f16 has more digits than bf16 and is as fast; devices before 7.0 are as fast in f32. */
static MojiType preferred(MojiBackend *b)
{
    return ((Cuda *)b)->capability >= 70 ? MOJI_F16 : MOJI_F32;
}

static gboolean supports(MojiBackend *b, MojiType type)
{
    return type == MOJI_F32 || type == MOJI_F16 ||
           (type == MOJI_BF16 && ((Cuda *)b)->capability >= 80);
}

static void plan_free(gpointer plan)
{
    CudaLibraryPlan *p = plan;
    p->free(p);
}

static void close_cuda(MojiBackend *b)
{
    Cuda *cuda = (Cuda *)b; /* perhaps one that could not be started */
    if (cuda->stream)
        cudaStreamSynchronize(cuda_of(b)->stream);
    moji_cuda_tuning_free(cuda->tuning);
    g_clear_pointer(&cuda->plans, g_hash_table_unref);
    moji_cuda_libraries_free(cuda->libraries);
    moji_cuda_slabs_free(cuda);
    moji_cuda_free(cuda, cuda->scratch);
    moji_cuda_free(cuda, cuda->bad);
    cudaFreeHost(cuda->pinned);
    cudaFreeHost(cuda->peek);
    if (cuda->peek_done)
        cudaEventDestroy(cuda->peek_done);
    if (cuda->stream)
        cudaStreamDestroy(cuda->stream);
    g_free(cuda->description);
    g_free(cuda);
}

static gboolean refuse(GError **error, const char *format, ...) G_GNUC_PRINTF(2, 3);
static gboolean refuse(GError **error, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    g_autofree char *text = g_strdup_vprintf(format, args);
    va_end(args);
    cudaGetLastError();
    g_set_error(error, MOJI_ERROR, MOJI_ERROR_BACKEND, "CUDA cannot be used: %s", text);
    return FALSE;
}

/* The device with the most memory among those this was built for. */
static gboolean choose_device(Cuda *cuda, guint64 *memory, GError **error)
{
    enum { LEAST = CUDART_VERSION >= 13000 ? 75 : 60 }; /* nvcc 13 makes nothing older */
    int count = 0, chosen = -1;
    cudaError_t e = cudaGetDeviceCount(&count);
    if (e == cudaErrorInsufficientDriver)
        return refuse(error, "the NVIDIA driver is too old for CUDA %d.%d", CUDART_VERSION / 1000,
                      CUDART_VERSION % 1000 / 10);
    if (e == cudaErrorNoDevice || (!e && count == 0))
        return refuse(error, "there is no NVIDIA GPU");
    if (e)
        return refuse(error, "%s", cudaGetErrorString(e));
    *memory = 0;
    for (int i = 0; i < count; i++) {
        struct cudaDeviceProp p;
        if (cudaGetDeviceProperties(&p, i) || 10 * p.major + p.minor < LEAST ||
            p.totalGlobalMem <= *memory)
            continue;
        chosen = i;
        *memory = p.totalGlobalMem;
        cuda->capability = 10 * p.major + p.minor;
        g_strlcpy(cuda->gpu, p.name, sizeof cuda->gpu);
    }
    if (chosen < 0)
        return refuse(error, "no GPU here has compute capability %d.%d or more", LEAST / 10,
                      LEAST % 10);
    cuda->device = chosen;
    e = cudaSetDevice(chosen);
    return !e || refuse(error, "%s", cudaGetErrorString(e));
}

static gboolean start(Cuda *cuda, GError **error)
{
    guint64 memory;
    if (!choose_device(cuda, &memory, error) ||
        !moji_cuda_ok(cudaStreamCreateWithFlags(&cuda->stream, cudaStreamNonBlocking), NULL,
                      error) ||
        !moji_cuda_ok(cudaEventCreateWithFlags(&cuda->peek_done, cudaEventDisableTiming), NULL,
                      error))
        return FALSE;
    cuda->left_at_start = cuda->least_left = moji_cuda_available(&cuda->base);
    if (!moji_cuda_allocate(cuda, (void **)&cuda->bad, sizeof *cuda->bad, "the backend", error) ||
        !moji_cuda_ok(cudaMemsetAsync(cuda->bad, 0, sizeof *cuda->bad, cuda->stream), NULL, error))
        return FALSE;
    if (cudaMallocHost((void **)&cuda->pinned, MOJI_CUDA_PINNED))
        cuda->pinned = NULL;
    cuda->libraries = moji_cuda_libraries_new(cuda, error);
    if (!cuda->libraries)
        return FALSE;
    const char *libraries = moji_cuda_libraries_name(cuda->libraries);
    g_autofree char *size = g_format_size_full(memory, G_FORMAT_SIZE_IEC_UNITS);
    cuda->tuning = moji_cuda_tuning_new(cuda->gpu, libraries);
    cuda->description = g_strdup_printf("%s, %s, compute capability %d.%d, %s", cuda->gpu, size,
                                        cuda->capability / 10, cuda->capability % 10, libraries);
    return TRUE;
}

MojiBackend *moji_backend_cuda(int abi, GError **error);
G_MODULE_EXPORT MojiBackend *moji_backend_cuda(int abi, GError **error)
{
    if (abi != MOJI_BACKEND_ABI) {
        refuse(error, "libmoji-cuda.so belongs to another version of moji");
        return NULL;
    }
    Cuda *cuda = g_new0(Cuda, 1);
    cuda->base = (MojiBackend){.name = "cuda",
                               .renews = TRUE,
                               .pictures = 8,
                               .span = G_MAXINT,
                               .describe = describe,
                               .preferred = preferred,
                               .supports = supports,
                               .available = moji_cuda_available,
                               .forecast = moji_cuda_forecast,
                               .peak = moji_cuda_peak,
                               .memory_new = memory_new,
                               .memory_free = memory_free,
                               .write = moji_cuda_write,
                               .read = moji_cuda_read,
                               .peek = moji_cuda_peek,
                               .peeked = moji_cuda_peeked,
                               .prepare = prepare,
                               .unprepare = unprepare,
                               .run = run,
                               .profile = profile,
                               .close = close_cuda};
    cuda->plans = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, plan_free);
    cuda->slabs = g_ptr_array_new();
    if (!start(cuda, error)) {
        close_cuda(&cuda->base);
        return NULL;
    }
    return &cuda->base;
}
