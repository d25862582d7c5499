/* layer_norm.cu: x [rows,c] by row to mean 0 and variance 1, then weight and bias.
 *
 * One warp a row, four rows a block; each lane takes every 32nd pack. The row is read three times
 * (mean, variance around it, result), the last two from the cache. Not measured yet. */
#include "device.cuh"

enum { ROWS = 4 };

template <typename T, int N>
__global__ void layer_norm(T *y, const T *x, const float *weight, const float *bias, int64_t rows,
                           int c, float eps)
{
    int64_t row = (int64_t)blockIdx.x * ROWS + threadIdx.x / WARP;
    if (row >= rows)
        return; /* the whole warp */
    int lane = threadIdx.x % WARP;
    float v[N], sum = 0, square = 0;
    x += row * c;
    y += row * c;
    for (int i = lane * N; i < c; i += WARP * N) {
        load(v, x + i);
#pragma unroll
        for (int k = 0; k < N; k++)
            sum += v[k];
    }
    float mean = warp_sum(sum) / c;
    for (int i = lane * N; i < c; i += WARP * N) {
        load(v, x + i);
#pragma unroll
        for (int k = 0; k < N; k++)
            square += (v[k] - mean) * (v[k] - mean);
    }
    float scale = rsqrtf(warp_sum(square) / c + eps);
    for (int i = lane * N; i < c; i += WARP * N) {
        load(v, x + i);
#pragma unroll
        for (int k = 0; k < N; k++)
            v[k] = (v[k] - mean) * scale * weight[i + k] + bias[i + k];
        store(y + i, v);
    }
}

template <typename T>
static cudaError_t launch(void *y, const void *x, const float *weight, const float *bias,
                          int64_t rows, int64_t c, float eps, cudaStream_t stream)
{
    constexpr int N = wide<T>();
    unsigned blocks = blocks_for(rows, ROWS);
    if (takes_packs<T>(c, x, y))
        return LAUNCH((layer_norm<T, N>), blocks, ROWS * WARP, 0, stream, (T *)y, (const T *)x,
                      weight, bias, rows, (int)c, eps);
    return LAUNCH((layer_norm<T, 1>), blocks, ROWS * WARP, 0, stream, (T *)y, (const T *)x, weight,
                  bias, rows, (int)c, eps);
}

cudaError_t kernel_layer_norm(void *y, const void *x, const float *weight, const float *bias,
                              int64_t rows, int64_t c, float eps, KernelType type,
                              cudaStream_t stream)
{
    BY_TYPE(type, return launch<T>(y, x, weight, bias, rows, c, eps, stream));
    return cudaErrorInvalidValue;
}
