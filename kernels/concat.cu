/* concat.cu: two tensors side by side on the channel axis; nothing but copying.
 *
 * One thread a unit of the output: 16 bytes, or 4 or 2 where a width is no multiple of that. Not
 * measured yet. */
#include "device.cuh"

template <typename U>
__global__ void concat(U *y, const U *a, const U *b, int64_t units, unsigned wa, unsigned wb)
{
    int64_t i = (int64_t)blockIdx.x * BLOCK + threadIdx.x;
    if (i >= units)
        return;
    int64_t row = i / (wa + wb);
    unsigned c = (unsigned)(i - row * (wa + wb));
    y[i] = c < wa ? a[row * wa + c] : b[row * wb + c - wa];
}

template <typename U>
static cudaError_t launch(void *y, const void *a, const void *b, int64_t rows, int64_t a_bytes,
                          int64_t b_bytes, cudaStream_t stream)
{
    int64_t wa = a_bytes / sizeof(U), wb = b_bytes / sizeof(U), units = rows * (wa + wb);
    return LAUNCH((concat<U>), blocks_for(units, BLOCK), BLOCK, 0, stream, (U *)y, (const U *)a,
                  (const U *)b, units, (unsigned)wa, (unsigned)wb);
}

cudaError_t kernel_concat(void *y, const void *a, const void *b, int64_t rows, int64_t a_bytes,
                          int64_t b_bytes, cudaStream_t stream)
{
    uint64_t all = (uintptr_t)y | (uintptr_t)a | (uintptr_t)b | a_bytes | b_bytes;
    return all % 16 == 0  ? launch<uint4>(y, a, b, rows, a_bytes, b_bytes, stream)
           : all % 4 == 0 ? launch<uint32_t>(y, a, b, rows, a_bytes, b_bytes, stream)
                          : launch<uint16_t>(y, a, b, rows, a_bytes, b_bytes, stream);
}
