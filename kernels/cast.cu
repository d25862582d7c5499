/* cast.cu: from one number type to another, and weights from the file's order to ours.
 *
 * cast: one thread four values, or one where four do not fit. weight: one thread a value of the
 * output, whose reads are scattered; it runs once for each weight. Not measured yet. */
#include "device.cuh"

template <typename To, typename From, int N>
__global__ void cast(To *y, const From *x, int64_t packs)
{
    int64_t i = (int64_t)blockIdx.x * BLOCK + threadIdx.x;
    if (i >= packs)
        return;
    float v[N];
    load(v, x + i * N);
    store(y + i * N, v);
}

template <typename To, typename From>
static cudaError_t launch(void *y, const void *x, int64_t n, cudaStream_t stream)
{
    if (n % 4 == 0 && (uintptr_t)x % 16 == 0 && (uintptr_t)y % 16 == 0)
        return LAUNCH((cast<To, From, 4>), blocks_for(n / 4, BLOCK), BLOCK, 0, stream, (To *)y,
                      (const From *)x, n / 4);
    return LAUNCH((cast<To, From, 1>), blocks_for(n, BLOCK), BLOCK, 0, stream, (To *)y,
                  (const From *)x, n);
}

template <typename To>
static cudaError_t cast_to(void *y, const void *x, KernelType from, int64_t n, cudaStream_t stream)
{
    BY_TYPE(from, return launch<To, T>(y, x, n, stream));
    return cudaErrorInvalidValue;
}

cudaError_t kernel_cast(void *y, KernelType to, const void *x, KernelType from, int64_t n,
                        cudaStream_t stream)
{
    BY_TYPE(to, return cast_to<T>(y, x, from, n, stream));
    return cudaErrorInvalidValue;
}

template <typename To, typename From>
__global__ void weight(To *y, const From *x, int64_t count, int64_t in, int64_t taps)
{
    int64_t i = (int64_t)blockIdx.x * BLOCK + threadIdx.x;
    if (i >= count)
        return;
    int64_t c = i % in, tap = i / in % taps, o = i / in / taps;
    from_float(y[i], to_float(x[(o * in + c) * taps + tap]));
}

template <typename To>
static cudaError_t weight_to(void *y, const void *x, KernelType from, int64_t count, int64_t in,
                             int64_t taps, cudaStream_t stream)
{
    BY_TYPE(from, return LAUNCH((weight<To, T>), blocks_for(count, BLOCK), BLOCK, 0, stream,
                                (To *)y, (const T *)x, count, in, taps));
    return cudaErrorInvalidValue;
}

cudaError_t kernel_weight(void *y, KernelType to, const void *x, KernelType from, int64_t out,
                          int64_t in, int64_t taps, cudaStream_t stream)
{
    if (taps == 1)
        return kernel_cast(y, to, x, from, out * in, stream);
    BY_TYPE(to, return weight_to<T>(y, x, from, out * in * taps, in, taps, stream));
    return cudaErrorInvalidValue;
}
