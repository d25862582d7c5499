/* geglu.cu: x [rows,2c] -> first half times the exact GELU of the second.
 *
 * One thread a pack of the output; it reads the same place of both halves of its row. Not measured
 * yet. */
#include "device.cuh"

template <typename T, int N> __global__ void geglu(T *y, const T *x, int64_t packs, int c)
{
    int64_t i = (int64_t)blockIdx.x * BLOCK + threadIdx.x;
    if (i >= packs)
        return;
    int64_t row = i / (c / N);
    const T *from = x + 2 * row * c + (i - row * (c / N)) * N;
    float v[N], gate[N];
    load(v, from);
    load(gate, from + c);
#pragma unroll
    for (int k = 0; k < N; k++)
        v[k] *= gelu(gate[k]);
    store(y + i * N, v);
}

template <typename T>
static cudaError_t launch(void *y, const void *x, int64_t rows, int64_t c, cudaStream_t stream)
{
    constexpr int N = wide<T>();
    if (takes_packs<T>(c, x, y))
        return LAUNCH((geglu<T, N>), blocks_for(rows * c / N, BLOCK), BLOCK, 0, stream, (T *)y,
                      (const T *)x, rows * c / N, (int)c);
    return LAUNCH((geglu<T, 1>), blocks_for(rows * c, BLOCK), BLOCK, 0, stream, (T *)y,
                  (const T *)x, rows * c, (int)c);
}

cudaError_t kernel_geglu(void *y, const void *x, int64_t rows, int64_t c, KernelType type,
                         cudaStream_t stream)
{
    BY_TYPE(type, return launch<T>(y, x, rows, c, stream));
    return cudaErrorInvalidValue;
}
