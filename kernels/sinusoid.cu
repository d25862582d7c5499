/* sinusoid.cu: sines and cosines of timesteps, as diffusers' get_timestep_embedding has them.
 *
 * One thread a frequency of an image. In f32 with the exact functions, as there: a late timestep's
 * angle is large enough for the rounding to show. */
#include "device.cuh"

__global__ void sinusoid(float *y, const float *t, int64_t count, int half, int flip, float divisor)
{
    int64_t i = (int64_t)blockIdx.x * BLOCK + threadIdx.x;
    if (i >= count)
        return;
    int image = (int)(i / half), k = (int)(i % half);
    float angle = t[image] * expf(-logf(10000.0f) * k / divisor);
    float *row = y + (int64_t)image * 2 * half;
    row[k] = flip ? cosf(angle) : sinf(angle);
    row[half + k] = flip ? sinf(angle) : cosf(angle);
}

cudaError_t kernel_sinusoid(float *y, const float *t, int64_t batch, int64_t width, int flip,
                            float shift, cudaStream_t stream)
{
    int half = (int)(width / 2);
    return LAUNCH(sinusoid, blocks_for(batch * half, BLOCK), BLOCK, 0, stream, y, t, batch * half,
                  half, flip, half - shift);
}
