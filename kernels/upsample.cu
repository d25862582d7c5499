/* upsample.cu: every pixel four times; nothing but copying.
 *
 * One thread a unit of the input (16, 4 or 2 bytes of one pixel), which it reads once and writes to
 * four pixels. Not measured yet. */
#include "device.cuh"

template <typename U>
__global__ void upsample(U *y, const U *x, int64_t units, unsigned w, unsigned pixel)
{
    int64_t i = (int64_t)blockIdx.x * BLOCK + threadIdx.x;
    if (i >= units)
        return;
    int64_t at = i / pixel, line = at / w; /* of the input, all images' lines in a row */
    unsigned c = (unsigned)(i - at * pixel), column = (unsigned)(at - line * w);
    U *to = y + ((2 * line * w + column) * 2) * pixel + c;
    U v = x[i];
    to[0] = to[pixel] = v;
    to += (int64_t)2 * w * pixel;
    to[0] = to[pixel] = v;
}

template <typename U>
static cudaError_t launch(void *y, const void *x, int64_t lines, int64_t w, int64_t pixel_bytes,
                          cudaStream_t stream)
{
    int64_t pixel = pixel_bytes / sizeof(U), units = lines * w * pixel;
    return LAUNCH((upsample<U>), blocks_for(units, BLOCK), BLOCK, 0, stream, (U *)y, (const U *)x,
                  units, (unsigned)w, (unsigned)pixel);
}

cudaError_t kernel_upsample(void *y, const void *x, int64_t batch, int64_t h, int64_t w,
                            int64_t pixel_bytes, cudaStream_t stream)
{
    uint64_t all = (uintptr_t)y | (uintptr_t)x | pixel_bytes;
    return all % 16 == 0  ? launch<uint4>(y, x, batch * h, w, pixel_bytes, stream)
           : all % 4 == 0 ? launch<uint32_t>(y, x, batch * h, w, pixel_bytes, stream)
                          : launch<uint16_t>(y, x, batch * h, w, pixel_bytes, stream);
}
