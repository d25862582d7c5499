/* libraries.c: in the place of cuBLASLt and cuDNN when the CUDA backend runs on the host: there are
 * no plans, so every product is our own kernel's. */
#include "cuda.h"

struct CudaLibraries {
    int none;
};

CudaLibraries *moji_cuda_libraries_new(Cuda *cuda, GError **error)
{
    (void)cuda;
    (void)error;
    return g_new0(CudaLibraries, 1);
}

void moji_cuda_libraries_free(CudaLibraries *l)
{
    g_free(l);
}

const char *moji_cuda_libraries_name(CudaLibraries *l)
{
    (void)l;
    return "no libraries";
}

gsize moji_cuda_libraries_bytes(CudaLibraries *l)
{
    (void)l;
    return 0;
}

CudaLibraryPlan *moji_cuda_product_plan(Cuda *cuda, const KernelProduct *shape, MojiType type,
                                        const CudaOperands *o)
{
    (void)cuda;
    (void)shape;
    (void)type;
    (void)o;
    return NULL;
}

CudaLibraryPlan *moji_cuda_conv_plan(Cuda *cuda, const KernelConv *shape, MojiType type,
                                     const CudaOperands *o)
{
    (void)cuda;
    (void)shape;
    (void)type;
    (void)o;
    return NULL;
}

CudaLibraryPlan *moji_cuda_attention_plan(Cuda *cuda, const KernelAttention *shape, MojiType type,
                                          const CudaOperands *o)
{
    (void)cuda;
    (void)shape;
    (void)type;
    (void)o;
    return NULL;
}
