/* sampler.cu: guidance and the samplers' steps, on f32 latents.
 *
 * One thread a value. The factors are read from device memory, so that a captured graph serves all
 * steps. */
#include "device.cuh"

__global__ void guidance(float *y, const float *both, const float *by, int64_t n)
{
    int64_t i = (int64_t)blockIdx.x * BLOCK + threadIdx.x;
    if (i < n)
        y[i] = both[i] + *by * (both[n + i] - both[i]);
}

cudaError_t kernel_guidance(float *y, const float *both, const float *by, int64_t n,
                            cudaStream_t stream)
{
    return LAUNCH(guidance, blocks_for(n, BLOCK), BLOCK, 0, stream, y, both, by, n);
}

__global__ void combine(float *y, KernelTerms terms, const float *factor, int64_t n)
{
    int64_t i = (int64_t)blockIdx.x * BLOCK + threadIdx.x;
    if (i >= n)
        return;
    float sum = 0;
    for (int k = 0; k < terms.count; k++)
        sum += factor[k] * terms.x[k][i];
    y[i] = sum;
}

cudaError_t kernel_combine(float *y, const KernelTerms *terms, const float *factor, int64_t n,
                           cudaStream_t stream)
{
    KernelTerms t = *terms;
    return LAUNCH(combine, blocks_for(n, BLOCK), BLOCK, 0, stream, y, t, factor, n);
}
