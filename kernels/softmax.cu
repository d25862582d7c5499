/* softmax.cu: rows of scores to rows that sum to 1; for attention that is put together from
 * products.
 *
 * One block a row; its threads walk the row three times (largest, sum, result), the last two from
 * the cache. Not measured yet. */
#include "device.cuh"

template <typename T> __global__ void softmax(T *y, const float *x, KernelSoftmax s)
{
    float *room = (float *)shared_memory();
    int64_t row = blockIdx.x, seen = s.n;
    if (s.causal)
        seen = min(s.n, s.first + row % s.period + 1);
    x += row * s.n;
    y += row * s.n;
    float most = -INFINITY, sum = 0;
    for (int64_t i = threadIdx.x; i < seen; i += BLOCK)
        most = larger(x[i], most);
    most = block_max(most, room);
    for (int64_t i = threadIdx.x; i < seen; i += BLOCK)
        sum += __expf(s.scale * (x[i] - most));
    float scale = 1 / block_sum(sum, room);
    for (int64_t i = threadIdx.x; i < s.n; i += BLOCK)
        from_float(y[i], i < seen ? scale * __expf(s.scale * (x[i] - most)) : 0);
}

cudaError_t kernel_softmax(void *y, const float *x, const KernelSoftmax *shape, KernelType type,
                           cudaStream_t stream)
{
    KernelSoftmax s = *shape;
    BY_TYPE(type, return LAUNCH((softmax<T>), (unsigned)s.rows, BLOCK, BLOCK / WARP * sizeof(float),
                                stream, (T *)y, x, s));
    return cudaErrorInvalidValue;
}
