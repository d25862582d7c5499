/* add.cu: sums: two tensors, the second perhaps broadcast; a bias and a residual in place.
 *
 * One thread a pack of the output. The launcher first joins the axes on which b runs along with a,
 * so that tensors of one shape are one long row and need no division. Not measured yet. */
#include "device.cuh"

struct Axes { /* the last axis counts packs; b steps in values */
    unsigned dim[4];
    int64_t b[4];
};

template <typename T, int N, bool ONE>
__global__ void add(T *y, const T *a, const T *b, int64_t packs, Axes axes)
{
    int64_t i = (int64_t)blockIdx.x * BLOCK + threadIdx.x;
    if (i >= packs)
        return;
    unsigned at = (unsigned)i, c = at % axes.dim[3];
    int64_t in_b = c * axes.b[3];
    at /= axes.dim[3];
    in_b += at % axes.dim[2] * axes.b[2];
    at /= axes.dim[2];
    in_b += at % axes.dim[1] * axes.b[1] + at / axes.dim[1] * axes.b[0];
    float v[N], w[N];
    load(v, a + i * N);
    if (ONE)
        w[0] = to_float(b[in_b]);
    else
        load(w, b + in_b);
#pragma unroll
    for (int k = 0; k < N; k++)
        v[k] += ONE ? w[0] : w[k];
    store(y + i * N, v);
}

/* Joins axes that are adjacent in b as they are in a; axes of one value disappear. */
static void join(int64_t dim[4], int64_t stride[4])
{
    for (int i = 2; i >= 0; i--)
        for (int k = i; k < 3; k++)
            if (dim[k] == 1 || stride[k] == stride[k + 1] * dim[k + 1]) {
                dim[k + 1] *= dim[k];
                for (int j = k; j > 0; j--) {
                    dim[j] = dim[j - 1];
                    stride[j] = stride[j - 1];
                }
                dim[0] = 1;
                stride[0] = 0;
            }
}

template <typename T, int N, bool ONE>
static cudaError_t launch(void *y, const void *a, const void *b, const int64_t dim[4],
                          const int64_t stride[4], cudaStream_t stream)
{
    Axes axes;
    int64_t packs = dim[0] * dim[1] * dim[2] * dim[3] / N;
    if (packs > UINT32_MAX)
        return cudaErrorInvalidValue;
    for (int i = 0; i < 4; i++) {
        axes.dim[i] = (unsigned)(i == 3 ? dim[i] / N : dim[i]);
        axes.b[i] = i == 3 ? stride[i] * N : stride[i];
    }
    return LAUNCH((add<T, N, ONE>), blocks_for(packs, BLOCK), BLOCK, 0, stream, (T *)y,
                  (const T *)a, (const T *)b, packs, axes);
}

template <typename T>
static cudaError_t choose(void *y, const void *a, const void *b, const int64_t *dim,
                          const int64_t *stride, cudaStream_t stream)
{
    constexpr int N = wide<T>();
    bool packs = takes_packs<T>(dim[3], a, y) && takes_packs<T>(dim[3], b, y);
    for (int i = 0; i < 3; i++)
        packs = packs && (stride[3] == 0 || stride[i] % N == 0);
    if (stride[3] == 0)
        return packs ? launch<T, N, true>(y, a, b, dim, stride, stream)
                     : launch<T, 1, true>(y, a, b, dim, stride, stream);
    return packs ? launch<T, N, false>(y, a, b, dim, stride, stream)
                 : launch<T, 1, false>(y, a, b, dim, stride, stream);
}

cudaError_t kernel_add(void *y, const void *a, const void *b, const int64_t dim[4],
                       const int64_t b_stride[4], KernelType type, cudaStream_t stream)
{
    int64_t d[4], s[4];
    for (int i = 0; i < 4; i++) {
        d[i] = dim[i];
        s[i] = b_stride[i];
    }
    join(d, s);
    BY_TYPE(type, return choose<T>(y, a, b, d, s, stream));
    return cudaErrorInvalidValue;
}

template <typename T, int N>
__global__ void bias_add(T *y, const float *bias, const T *residual, int64_t packs, int c)
{
    int64_t i = (int64_t)blockIdx.x * BLOCK + threadIdx.x;
    if (i >= packs)
        return;
    float v[N], r[N];
    load(v, y + i * N);
    if (residual)
        load(r, residual + i * N);
    const float *b = bias + i % (c / N) * N;
#pragma unroll
    for (int k = 0; k < N; k++)
        v[k] += (bias ? b[k] : 0) + (residual ? r[k] : 0);
    store(y + i * N, v);
}

template <typename T>
static cudaError_t launch_bias(void *y, const float *bias, const void *residual, int64_t rows,
                               int64_t c, cudaStream_t stream)
{
    constexpr int N = wide<T>();
    if (takes_packs<T>(c, y, residual))
        return LAUNCH((bias_add<T, N>), blocks_for(rows * c / N, BLOCK), BLOCK, 0, stream, (T *)y,
                      bias, (const T *)residual, rows * c / N, (int)c);
    return LAUNCH((bias_add<T, 1>), blocks_for(rows * c, BLOCK), BLOCK, 0, stream, (T *)y, bias,
                  (const T *)residual, rows * c, (int)c);
}

cudaError_t kernel_bias(void *y, const float *bias, const void *residual, int64_t rows, int64_t c,
                        KernelType type, cudaStream_t stream)
{
    BY_TYPE(type, return launch_bias<T>(y, bias, residual, rows, c, stream));
    return cudaErrorInvalidValue;
}
