/* shim.h: the device side of CUDA on the host: what kernels/device.cuh includes where there is no
 * nvcc. A block's threads are fibers of one thread, run one after another between barriers in an
 * order the test chooses (shim.cpp).
 *
 * The surprising rule: it is stricter than a GPU. A barrier or a shuffle that some threads of the
 * block or warp do not reach, or reach elsewhere, fails the launch; shared memory is exactly as
 * large as was asked for and starts as NaN; an asynchronous copy arrives only when it is waited
 * for. */
#pragma once
#include "cuda_runtime_api.h"
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z)
    {
    }
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};

extern dim3 threadIdx, blockIdx, blockDim, gridDim;

#define __global__ static
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)

/* ---- the block and the warp ---- */

cudaError_t shim_launch(dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream,
                        std::function<void()> kernel);
void shim_barrier(int site);
char *shim_shared(void);
int shim_lane(void);
enum { SHIM_SLOT = 64 }; /* bytes that a lane may show the others */
/* Waits for the whole warp; then lane i's bytes are at [i * SHIM_SLOT]. */
const char *shim_exchange(const void *mine, size_t bytes, int site);
void shim_copy(void *to, const void *from, int bytes); /* 16 bytes, those after `bytes` zeros */
void shim_copy_commit(void);
void shim_copy_wait(int pending);

#define __syncthreads() shim_barrier(__LINE__)
#define __syncwarp() ((void)shim_exchange("", 1, __LINE__))
#define __shfl_xor_sync(mask, value, by) shim_shuffle(mask, value, shim_lane() ^ (by), __LINE__)

template <typename T> T shim_shuffle(unsigned mask, T value, int from, int site)
{
    T out;
    if (mask != 0xffffffffu)
        return value; /* then lanes differ, and the twins notice */
    std::memcpy(&out, shim_exchange(&value, sizeof value, site) + from * SHIM_SLOT, sizeof out);
    return out;
}

/* ---- numbers ---- */

typedef _Float16 __half;
struct __nv_bfloat16 {
    uint16_t bits;
};

static inline float __half2float(__half x)
{
    return (float)x;
}

static inline __half __float2half_rn(float x)
{
    return (__half)x;
}

static inline float __bfloat162float(__nv_bfloat16 x)
{
    uint32_t bits = (uint32_t)x.bits << 16;
    float f;
    std::memcpy(&f, &bits, 4);
    return f;
}

static inline __nv_bfloat16 __float2bfloat16_rn(float x)
{
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    if (x != x)
        return {0x7fff};
    return {(uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}

/* names that libm has or may have one day */
#define __expf expf
#define rsqrtf(x) (1 / sqrtf(x))

using std::isnan;
using std::max;
using std::min;

/* ---- tensor cores: the documented layouts of PTX's mma.m16n8k16 and ldmatrix ---- */

static inline float shim_number(uint16_t bits, __half)
{
    __half h;
    std::memcpy(&h, &bits, 2);
    return h;
}

static inline float shim_number(uint16_t bits, __nv_bfloat16)
{
    return __bfloat162float({bits});
}

/* d [16,8] += a [16,16] b [16,8], each lane holding its part. */
template <typename T>
static inline void shim_mma(float d[4], const unsigned a[4], const unsigned b[2], int site)
{
    unsigned mine[6] = {a[0], a[1], a[2], a[3], b[0], b[1]};
    const char *all = shim_exchange(mine, sizeof mine, site);
    auto part = [all](int lane, int word, int high) {
        uint16_t bits;
        std::memcpy(&bits, all + lane * SHIM_SLOT + word * 4 + high * 2, 2);
        return shim_number(bits, T());
    };
    int lane = shim_lane();
    for (int i = 0; i < 4; i++) {
        int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
        for (int k = 0; k < 16; k++) {
            int quad = k % 8 / 2, high = k & 1, far = k / 8;
            float x = part(row % 8 * 4 + quad, row / 8 + 2 * far, high);
            float w = part(column * 4 + quad, 4 + far, high);
            d[i] += x * w;
        }
    }
}

/* Two 8x8 matrices, transposed on the way; lane i of the first 16 points at row i % 8 of matrix
 * i / 8. */
static inline void shim_load_transposed(unsigned r[2], const void *row, int site)
{
    const char *all = shim_exchange(&row, sizeof row, site);
    int lane = shim_lane();
    for (int m = 0; m < 2; m++) {
        uint16_t part[2];
        for (int i = 0; i < 2; i++) {
            const char *from;
            std::memcpy(&from, all + (m * 8 + lane % 4 * 2 + i) * SHIM_SLOT, sizeof from);
            std::memcpy(&part[i], from + lane / 4 * 2, 2);
        }
        std::memcpy(&r[m], part, 4);
    }
}
