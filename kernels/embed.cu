/* embed.cu: rows of a table, chosen by ids.
 *
 * One block a token; its threads walk the row. Not measured: it runs once a prompt. */
#include "device.cuh"

template <typename T>
__global__ void embed(T *y, const T *table, const int32_t *ids, int *bad, int64_t rows,
                      int64_t width)
{
    int token = blockIdx.x, id = ids[token];
    bool known = id >= 0 && id < rows;
    if (!known && threadIdx.x == 0)
        *bad = 1 + token;
    for (int64_t i = threadIdx.x; i < width; i += BLOCK) {
        T zero;
        from_float(zero, 0);
        y[token * width + i] = known ? table[id * width + i] : zero;
    }
}

cudaError_t kernel_embed(void *y, const void *table, const int32_t *ids, int *bad, int64_t n,
                         int64_t rows, int64_t width, KernelType type, cudaStream_t stream)
{
    BY_TYPE(type, return LAUNCH((embed<T>), (unsigned)n, BLOCK, 0, stream, (T *)y, (const T *)table,
                                ids, bad, rows, width));
    return cudaErrorInvalidValue;
}
