/* libraries.c: opening and closing NVIDIA's libraries, and the plans kept for all tapes. */
#include "libraries.h"

CudaLibraries *moji_cuda_libraries_new(Cuda *cuda, GError **error)
{
    CudaLibraries *l = g_new0(CudaLibraries, 1);
    const char *failed = NULL;
    if (!moji_cuda_allocate(cuda, &l->workspace, MOJI_CUDA_WORKSPACE, "the libraries' workspace",
                            error)) {
        moji_cuda_libraries_free(l);
        return NULL;
    }
    if (cublasLtCreate(&l->lt) != CUBLAS_STATUS_SUCCESS)
        failed = "cuBLAS";
    else if (cudnnCreate(&l->dnn) != CUDNN_STATUS_SUCCESS ||
             cudnnSetStream(l->dnn, cuda->stream) != CUDNN_STATUS_SUCCESS)
        failed = "cuDNN";
    if (failed) {
        g_set_error(error, MOJI_ERROR, MOJI_ERROR_BACKEND,
                    "CUDA cannot be used: %s does not start on %s", failed, cuda->gpu);
        moji_cuda_libraries_free(l);
        return NULL;
    }
    gsize lt = cublasLtGetVersion(), dnn = cudnnGetVersion();
    g_snprintf(l->name, sizeof l->name, "cuBLAS %zu.%zu, cuDNN %zu.%zu.%zu", lt / 10000,
               lt % 10000 / 100, dnn / 10000, dnn % 10000 / 100, dnn % 100);
    return l;
}

void moji_cuda_libraries_free(CudaLibraries *l)
{
    if (!l)
        return;
    if (l->dnn)
        cudnnDestroy(l->dnn);
    if (l->lt)
        cublasLtDestroy(l->lt);
    cudaFree(l->workspace);
    g_free(l);
}

const char *moji_cuda_libraries_name(CudaLibraries *l)
{
    return l->name;
}

gsize moji_cuda_libraries_bytes(CudaLibraries *l)
{
    (void)l;
    return MOJI_CUDA_WORKSPACE;
}

static gboolean run_nothing(Cuda *cuda, CudaLibraryPlan *plan, const CudaOperands *o)
{
    (void)cuda;
    (void)plan;
    (void)o;
    return FALSE;
}

static void free_nothing(CudaLibraryPlan *plan)
{
    (void)plan;
}

CudaLibraryPlan *moji_cuda_kept_plan(Cuda *cuda, const char *key,
                                     CudaLibraryPlan *(*make)(Cuda *cuda, const char *key,
                                                              gpointer data),
                                     gpointer data)
{
    static CudaLibraryPlan nothing = {run_nothing, free_nothing};
    CudaLibraryPlan *plan = g_hash_table_lookup(cuda->plans, key);
    if (!plan && cuda->dry)
        return NULL;
    if (!plan) {
        plan = make(cuda, key, data);
        if (!plan)
            g_debug("cuda: %s: our own kernel", key);
        plan = plan ? plan : &nothing;
        g_hash_table_insert(cuda->plans, g_strdup(key), plan);
    }
    return plan == &nothing ? NULL : plan;
}
