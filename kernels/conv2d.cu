/* conv2d.cu: the convolution where cuDNN has no engine: a product whose rows are output pixels and
 * whose shared dimension runs over taps and input channels, gathered on the way.
 *
 * Threads to data as product.cuh says; grid: tiles of pixels, tiles of output channels. */
#include "product.cuh"

template <typename T, int COLUMNS>
__global__ void conv2d(T *y, const T *x, const T *weight, const float *bias, const T *residual,
                       KernelConv s)
{
    int in = (int)s.in, depth = s.kernel * s.kernel * in, area = (int)(s.out_h * s.out_w);
    int64_t pixels = s.batch * area;
    product_tile<COLUMNS>((int64_t)blockIdx.x * TILE, (int64_t)blockIdx.y * COLUMNS, depth,
                          [&](int64_t pixel, int64_t k) {
                              if (pixel >= pixels || k >= depth)
                                  return 0.0f;
                              int tap = (int)k / in, c = (int)k % in, at = (int)(pixel % area);
                              int64_t image = pixel / area;
                              int64_t row = at / s.out_w * s.stride - s.pad + tap / s.kernel;
                              int64_t column = at % s.out_w * s.stride - s.pad + tap % s.kernel;
                              if (row < 0 || row >= s.h || column < 0 || column >= s.w)
                                  return 0.0f;
                              return to_float(x[((image * s.h + row) * s.w + column) * in + c]);
                          },
                          [&](int64_t o, int64_t k) {
                              return o < s.out && k < depth ? to_float(weight[o * depth + k]) : 0;
                          },
                          [&](int64_t pixel, int64_t o, float sum) {
                              if (pixel >= pixels || o >= s.out)
                                  return;
                              int64_t at = pixel * s.out + o;
                              sum += (bias ? bias[o] : 0) + (residual ? to_float(residual[at]) : 0);
                              from_float(y[at], sum);
                          });
}

template <typename T, int COLUMNS>
static cudaError_t launch(void *y, const void *x, const void *weight, const float *bias,
                          const void *residual, const KernelConv *shape, cudaStream_t stream)
{
    KernelConv s = *shape;
    dim3 grid(blocks_for(s.batch * s.out_h * s.out_w, TILE), blocks_for(s.out, COLUMNS));
    return LAUNCH((conv2d<T, COLUMNS>), grid, BLOCK, product_shared(COLUMNS), stream, (T *)y,
                  (const T *)x, (const T *)weight, bias, (const T *)residual, s);
}

cudaError_t kernel_conv2d(void *y, const void *x, const void *weight, const float *bias,
                          const void *residual, const KernelConv *shape, KernelType type,
                          cudaStream_t stream)
{
    BY_TYPE(type, return shape->out <= NARROW
                             ? launch<T, NARROW>(y, x, weight, bias, residual, shape, stream)
                             : launch<T, TILE>(y, x, weight, bias, residual, shape, stream));
    return cudaErrorInvalidValue;
}
