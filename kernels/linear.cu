/* linear.cu: matrix products, where cuBLASLt does not take them: y = alpha x w' + bias + residual,
 * also several at once, also with w the other way round (attention's values).
 *
 * Threads to data as product.cuh says; grid: tiles of rows, tiles of columns, products. */
#include "product.cuh"

template <typename T, typename Y, int COLUMNS>
__global__ void linear(Y *y, const T *x, const T *w, const float *bias, const Y *residual,
                       KernelProduct s)
{
    x += blockIdx.z * s.x_batch;
    w += blockIdx.z * s.w_batch;
    y += blockIdx.z * s.y_batch;
    if (bias)
        bias += blockIdx.z * s.bias_batch;
    if (residual)
        residual += blockIdx.z * s.y_batch;
    product_tile<COLUMNS>(
        (int64_t)blockIdx.x * TILE, (int64_t)blockIdx.y * COLUMNS, s.in,
        [&](int64_t row, int64_t k) {
            return row < s.rows && k < s.in ? to_float(x[row * s.x_row + k]) : 0;
        },
        [&](int64_t column, int64_t k) {
            if (column >= s.out || k >= s.in)
                return 0.0f;
            return to_float(w[s.w_is_in_by_out ? k * s.w_row + column : column * s.w_row + k]);
        },
        [&](int64_t row, int64_t column, float sum) {
            if (row >= s.rows || column >= s.out)
                return;
            int64_t at = row * s.y_row + column;
            sum = s.alpha * sum + (bias ? bias[column] : 0);
            from_float(y[at], sum + (residual ? to_float(residual[at]) : 0));
        });
}

template <typename T, typename Y, int COLUMNS>
static cudaError_t launch(void *y, const void *x, const void *w, const float *bias,
                          const void *residual, const KernelProduct *shape, cudaStream_t stream)
{
    KernelProduct s = *shape;
    dim3 grid(blocks_for(s.rows, TILE), blocks_for(s.out, COLUMNS), (unsigned)s.batch);
    return LAUNCH((linear<T, Y, COLUMNS>), grid, BLOCK, product_shared(COLUMNS), stream, (Y *)y,
                  (const T *)x, (const T *)w, bias, (const Y *)residual, s);
}

template <typename T, typename Y>
static cudaError_t launch_wide_enough(void *y, const void *x, const void *w, const float *bias,
                                      const void *residual, const KernelProduct *shape,
                                      cudaStream_t stream)
{
    return shape->out <= NARROW ? launch<T, Y, NARROW>(y, x, w, bias, residual, shape, stream)
                                : launch<T, Y, TILE>(y, x, w, bias, residual, shape, stream);
}

cudaError_t kernel_linear(void *y, const void *x, const void *w, const float *bias,
                          const void *residual, const KernelProduct *shape, KernelType type,
                          cudaStream_t stream)
{
    BY_TYPE(type, return shape->y_is_f32
                             ? launch_wide_enough<T, float>(y, x, w, bias, residual, shape, stream)
                             : launch_wide_enough<T, T>(y, x, w, bias, residual, shape, stream));
    return cudaErrorInvalidValue;
}
