/* product.cuh: one tile of y = alpha x w', for linear.cu and conv2d.cu, which say where x and w
 * are.
 *
 * A block of 256 threads makes 64 by 64 values of y, each thread 4 by 4 of them (rows and columns
 * 16 apart), or 64 by 16 where y is no wider (latents, pixels), each thread 4 in a column. Slices
 * of 32 of the shared dimension pass through shared memory as f32. This is what runs where the
 * libraries have nothing: it is meant to be right and not to be absurdly slow. */
#pragma once
#include "device.cuh"

enum { TILE = 64, NARROW = 16, SLICE = 32, EACH = TILE / 16 };

constexpr size_t product_shared(int columns)
{
    return SLICE * (TILE + 1 + columns + 1) * sizeof(float);
}

/* x(row, k) and w(column, k) are values, zero outside; y(row, column, sum) keeps one. */
template <int COLUMNS, typename X, typename W, typename Y>
__device__ void product_tile(int64_t row, int64_t column, int64_t in, X x, W w, Y y)
{
    constexpr int ACROSS = COLUMNS / 16;
    float(*xs)[TILE + 1] = (float(*)[TILE + 1]) shared_memory();
    float(*ws)[COLUMNS + 1] = (float(*)[COLUMNS + 1])(xs + SLICE);
    int tx = threadIdx.x % 16, ty = threadIdx.x / 16;
    float sum[EACH][ACROSS] = {};
    for (int64_t k0 = 0; k0 < in; k0 += SLICE) {
        for (int i = threadIdx.x; i < TILE * SLICE; i += BLOCK) {
            int k = i % SLICE, r = i / SLICE;
            xs[k][r] = x(row + r, k0 + k);
            if (r < COLUMNS)
                ws[k][r] = w(column + r, k0 + k);
        }
        __syncthreads();
        for (int k = 0; k < SLICE; k++) {
            float a[EACH], b[ACROSS];
#pragma unroll
            for (int i = 0; i < EACH; i++)
                a[i] = xs[k][ty + 16 * i];
#pragma unroll
            for (int j = 0; j < ACROSS; j++)
                b[j] = ws[k][tx + 16 * j];
#pragma unroll
            for (int i = 0; i < EACH; i++)
#pragma unroll
                for (int j = 0; j < ACROSS; j++)
                    sum[i][j] += a[i] * b[j];
        }
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < EACH; i++)
#pragma unroll
        for (int j = 0; j < ACROSS; j++)
            y(row + ty + 16 * i, column + tx + 16 * j, sum[i][j]);
}
