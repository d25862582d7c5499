/* unary.cu: activations and scaling.
 *
 * One thread a pack of 16 bytes (a single value where the size does not allow it). Bandwidth alone
 * counts. Not measured yet. */
#include "device.cuh"

template <int F> __device__ __forceinline__ float apply(float x, float by)
{
    switch (F) {
    case KERNEL_SILU:
        return silu(x);
    case KERNEL_GELU:
        return gelu(x);
    case KERNEL_QUICK_GELU:
        return x / (1 + __expf(-1.702f * x));
    case KERNEL_RELU:
        return x < 0 ? 0 : x; /* NaN stays */
    default:
        return x * by;
    }
}

template <typename T, int N, int F> __global__ void unary(T *y, const T *x, int64_t packs, float by)
{
    int64_t i = (int64_t)blockIdx.x * BLOCK + threadIdx.x;
    if (i >= packs)
        return;
    float v[N];
    load(v, x + i * N);
#pragma unroll
    for (int k = 0; k < N; k++)
        v[k] = apply<F>(v[k], by);
    store(y + i * N, v);
}

template <typename T, int F>
static cudaError_t launch(void *y, const void *x, int64_t n, float by, cudaStream_t stream)
{
    constexpr int N = wide<T>();
    if (takes_packs<T>(n, x, y))
        return LAUNCH((unary<T, N, F>), blocks_for(n / N, BLOCK), BLOCK, 0, stream, (T *)y,
                      (const T *)x, n / N, by);
    return LAUNCH((unary<T, 1, F>), blocks_for(n, BLOCK), BLOCK, 0, stream, (T *)y, (const T *)x, n,
                  by);
}

template <typename T>
static cudaError_t choose(KernelUnary f, void *y, const void *x, int64_t n, float by,
                          cudaStream_t stream)
{
    switch (f) {
    case KERNEL_SILU:
        return launch<T, KERNEL_SILU>(y, x, n, by, stream);
    case KERNEL_GELU:
        return launch<T, KERNEL_GELU>(y, x, n, by, stream);
    case KERNEL_QUICK_GELU:
        return launch<T, KERNEL_QUICK_GELU>(y, x, n, by, stream);
    case KERNEL_RELU:
        return launch<T, KERNEL_RELU>(y, x, n, by, stream);
    case KERNEL_SCALE:
        return launch<T, KERNEL_SCALE>(y, x, n, by, stream);
    }
    return cudaErrorInvalidValue;
}

cudaError_t kernel_unary(KernelUnary f, void *y, const void *x, int64_t n, float by,
                         KernelType type, cudaStream_t stream)
{
    BY_TYPE(type, return choose<T>(f, y, x, n, by, stream));
    return cudaErrorInvalidValue;
}
