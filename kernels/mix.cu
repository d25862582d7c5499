/* mix.cu: planes that are sums of planes: a sampler's step, guidance included.
 *
 * One thread a place (four neighbouring ones where the size allows it), which it reads in every
 * plane before it writes it in any, so y may be a. All threads read the same few dozen factors.
 * Not measured yet. */
#include "device.cuh"

/* One place in plane k of a, or then of b. */
template <int N>
__device__ __forceinline__ void load_plane(float (&v)[N], const float *a, const float *b, int64_t n,
                                           int k, int in_a, int64_t at)
{
    load(v, (k < in_a ? a + k * n : b + (k - in_a) * n) + at);
}

/* NaN stays. */
__device__ __forceinline__ float clipped(float x, float limit)
{
    return x > limit ? limit : x < -limit ? -limit : x;
}

template <int N>
__global__ void mix(float *y, const float *a, const float *b, const float *factors, KernelMix shape)
{
    int64_t at = ((int64_t)blockIdx.x * BLOCK + threadIdx.x) * N;
    int planes = shape.a + shape.b, width = planes + 1;
    if (at >= shape.n)
        return;
    float sum[KERNEL_MIX_ROWS][N] = {}, v[N] = {};
    for (int k = 0; k < planes; k++)
        if (factors[k] != 0) {
            load_plane(v, a, b, shape.n, k, shape.a, at);
#pragma unroll
            for (int i = 0; i < N; i++)
                sum[0][i] += factors[k] * v[i];
        }
#pragma unroll
    for (int i = 0; i < N; i++)
        sum[0][i] = clipped(sum[0][i], factors[planes]);
    for (int k = 0; k < planes; k++) {
        bool needed = false;
        for (int r = 1; r < shape.rows; r++)
            needed = needed || factors[r * width + k] != 0;
        if (needed && k > 0)
            load_plane(v, a, b, shape.n, k, shape.a, at);
#pragma unroll
        for (int r = 1; r < KERNEL_MIX_ROWS; r++) {
            float factor = needed && r < shape.rows ? factors[r * width + k] : 0;
#pragma unroll
            for (int i = 0; i < N; i++)
                sum[r][i] += factor != 0 ? factor * (k > 0 ? v[i] : sum[0][i]) : 0;
        }
    }
#pragma unroll
    for (int r = 0; r < KERNEL_MIX_ROWS; r++)
        if (r < shape.rows) {
#pragma unroll
            for (int i = 0; i < N; i++)
                v[i] = clipped(sum[r][i], factors[r * width + planes]);
            store(y + r * shape.n + at, v);
        }
}

template <int N>
static cudaError_t launch(float *y, const float *a, const float *b, const float *factors,
                          KernelMix shape, cudaStream_t stream)
{
    return LAUNCH((mix<N>), blocks_for(shape.n / N, BLOCK), BLOCK, 0, stream, y, a, b, factors,
                  shape);
}

cudaError_t kernel_mix(float *y, const float *a, const float *b, const float *factors,
                       const KernelMix *shape, cudaStream_t stream)
{
    constexpr int N = wide<float>();
    if (shape->rows > KERNEL_MIX_ROWS)
        return cudaErrorInvalidValue;
    bool packs = takes_packs<float>(shape->n, a, y) && (uintptr_t)b % 16 == 0;
    return packs ? launch<N>(y, a, b, factors, *shape, stream)
                 : launch<1>(y, a, b, factors, *shape, stream);
}
