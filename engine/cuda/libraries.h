/* libraries.h: NVIDIA's libraries, for libraries.c, cublas.c and cudnn.c. */
#pragma once
#include "cuda.h"
#include <cublasLt.h>
#include <cudnn.h>

struct CudaLibraries {
    cublasLtHandle_t lt;
    cudnnHandle_t dnn;
    void *workspace; /* MOJI_CUDA_WORKSPACE bytes */
    char name[64];
};

static inline cudaDataType_t moji_cuda_data_type(MojiType type)
{
    return type == MOJI_F32 ? CUDA_R_32F : type == MOJI_F16 ? CUDA_R_16F : CUDA_R_16BF;
}

/* The plan kept under `key`, made by `make` the first time; NULL, also kept, if that makes none. */
CudaLibraryPlan *moji_cuda_kept_plan(Cuda *cuda, const char *key,
                                     CudaLibraryPlan *(*make)(Cuda *cuda, const char *key,
                                                              gpointer data),
                                     gpointer data);
