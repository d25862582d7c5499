/* device.cuh: what the kernels share: number types, 16-byte packs, sums over warp and block, and
 * the few places where nvcc and the host shim (tests/shim) differ.
 *
 * The surprising rule: all shared memory is asked for at launch, none declared, because the shim
 * gives each block exactly what its launch asked for and so sees every access beside it. */
#pragma once
#include "kernels.h"
#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#else
#include "shim.h"
#endif

/* LAUNCH((kernel<T>), grid, block, shared bytes, stream, arguments...) */
#ifdef __CUDACC__
/* The formatter does not know the three angles. */
/* clang-format off */
#define LAUNCH(kernel, grid, block, shared, stream, ...)                                           \
    ((kernel)<<<(grid), (block), (shared), (stream)>>>(__VA_ARGS__), cudaGetLastError())
/* clang-format on */
/* More than 48 KiB of shared memory has to be allowed first. */
#define ALLOW_SHARED(kernel, bytes)                                                                \
    ((bytes) <= 48 << 10                                                                           \
         ? cudaSuccess                                                                             \
         : cudaFuncSetAttribute((kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,             \
                                (int)(bytes)))
#else
#define LAUNCH(kernel, grid, block, shared, stream, ...)                                           \
    shim_launch((grid), (block), (shared), (stream), [=] { (kernel)(__VA_ARGS__); })
#define ALLOW_SHARED(kernel, bytes) cudaSuccess
#endif

typedef __half f16;
typedef __nv_bfloat16 bf16;

/* BY_TYPE(type, statement using T) */
#define BY_TYPE(type, ...)                                                                         \
    do {                                                                                           \
        switch (type) {                                                                            \
        case KERNEL_F32: {                                                                         \
            typedef float T;                                                                       \
            __VA_ARGS__;                                                                           \
        } break;                                                                                   \
        case KERNEL_BF16: {                                                                        \
            typedef bf16 T;                                                                        \
            __VA_ARGS__;                                                                           \
        } break;                                                                                   \
        case KERNEL_F16: {                                                                         \
            typedef f16 T;                                                                         \
            __VA_ARGS__;                                                                           \
        } break;                                                                                   \
        }                                                                                          \
    } while (0)

enum { WARP = 32, BLOCK = 256 };
#define ALL_LANES 0xffffffffu

__device__ __forceinline__ float to_float(float x)
{
    return x;
}
__device__ __forceinline__ float to_float(f16 x)
{
    return __half2float(x);
}
__device__ __forceinline__ float to_float(bf16 x)
{
    return __bfloat162float(x);
}

__device__ __forceinline__ void from_float(float &y, float x)
{
    y = x;
}
__device__ __forceinline__ void from_float(f16 &y, float x)
{
    y = __float2half_rn(x);
}
__device__ __forceinline__ void from_float(bf16 &y, float x)
{
    y = __float2bfloat16_rn(x);
}

/* N neighbours that are loaded and stored at once. */
template <typename T, int N> struct alignas(sizeof(T) * N) Pack {
    T v[N];
};

template <typename T, int N> __device__ __forceinline__ void load(float (&x)[N], const T *from)
{
    Pack<T, N> p = *(const Pack<T, N> *)from;
#pragma unroll
    for (int i = 0; i < N; i++)
        x[i] = to_float(p.v[i]);
}

template <typename T, int N> __device__ __forceinline__ void store(T *to, const float (&x)[N])
{
    Pack<T, N> p;
#pragma unroll
    for (int i = 0; i < N; i++)
        from_float(p.v[i], x[i]);
    *(Pack<T, N> *)to = p;
}

/* Values in 16 bytes. */
template <typename T> constexpr int wide()
{
    return 16 / sizeof(T);
}

/* Whether rows of n values of T can be read 16 bytes at a time from all these addresses. */
template <typename T> static inline bool takes_packs(int64_t n, const void *a, const void *b)
{
    return n % wide<T>() == 0 && (uintptr_t)a % 16 == 0 && (uintptr_t)b % 16 == 0;
}

static inline unsigned blocks_for(int64_t n, int64_t each)
{
    return (unsigned)((n + each - 1) / each);
}

static __device__ __forceinline__ char *shared_memory()
{
#ifdef __CUDACC__
    extern __shared__ uint4 moji_shared[];
    return (char *)moji_shared;
#else
    return shim_shared();
#endif
}

static __device__ __forceinline__ float warp_sum(float x)
{
#pragma unroll
    for (int by = WARP / 2; by; by /= 2)
        x += __shfl_xor_sync(ALL_LANES, x, by);
    return x;
}

/* NaN if any is: fmaxf would hide it. */
static __device__ __forceinline__ float larger(float a, float b)
{
    return a > b || isnan(a) ? a : b;
}

static __device__ __forceinline__ float warp_max(float x)
{
#pragma unroll
    for (int by = WARP / 2; by; by /= 2)
        x = larger(x, __shfl_xor_sync(ALL_LANES, x, by));
    return x;
}

/* Of all threads of a block of whole warps; `room` is a float for each warp, free afterwards. */
template <typename Warps, typename Two>
__device__ __forceinline__ float block_all(float x, float *room, Warps warps, Two two)
{
    int warp = threadIdx.x / WARP, count = blockDim.x / WARP;
    x = warps(x);
    if (threadIdx.x % WARP == 0)
        room[warp] = x;
    __syncthreads();
    x = room[0];
    for (int i = 1; i < count; i++)
        x = two(x, room[i]);
    __syncthreads();
    return x;
}

static __device__ __forceinline__ float block_sum(float x, float *room)
{
    struct {
        __device__ float operator()(float v) const
        {
            return warp_sum(v);
        }
        __device__ float operator()(float a, float b) const
        {
            return a + b;
        }
    } sum;
    return block_all(x, room, sum, sum);
}

static __device__ __forceinline__ float block_max(float x, float *room)
{
    struct {
        __device__ float operator()(float v) const
        {
            return warp_max(v);
        }
        __device__ float operator()(float a, float b) const
        {
            return larger(a, b);
        }
    } most;
    return block_all(x, room, most, most);
}

static __device__ __forceinline__ float silu(float x)
{
    return x / (1 + __expf(-x));
}

static __device__ __forceinline__ float gelu(float x)
{
    return 0.5f * x * (1 + erff(x * 0.70710678f));
}

/* ---- tensor cores and asynchronous copies: compute capability 8.0 and more ---- */

/* d [16,8] += a [16,16] b [16,8] by a warp; who holds what: PTX ISA, mma.m16n8k16. */
#ifdef __CUDACC__
static __device__ __forceinline__ void mma(float (&d)[4], const unsigned (&a)[4],
                                           const unsigned (&b)[2], f16)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
                 "{%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
static __device__ __forceinline__ void mma(float (&d)[4], const unsigned (&a)[4],
                                           const unsigned (&b)[2], bf16)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, "
                 "{%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
/* Two 8x8 matrices of 2-byte values, transposed; lane i < 16 points at one of their rows. */
static __device__ __forceinline__ void load_transposed(unsigned (&r)[2], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"((unsigned)__cvta_generic_to_shared(row)));
}
/* 16 bytes to shared memory, of which those after `bytes` are zeros. */
static __device__ __forceinline__ void copy_async(void *to, const void *from, int bytes)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(
                     (unsigned)__cvta_generic_to_shared(to)),
                 "l"(from), "r"(bytes));
}
static __device__ __forceinline__ void copy_commit()
{
    asm volatile("cp.async.commit_group;");
}
/* Until at most N of this thread's groups are under way. */
template <int N> static __device__ __forceinline__ void copy_wait()
{
    asm volatile("cp.async.wait_group %0;" ::"n"(N));
}
#else
#define mma(d, a, b, type) shim_mma<decltype(type)>(d, a, b, __LINE__)
#define load_transposed(r, row) shim_load_transposed(r, row, __LINE__)
#define copy_async shim_copy
#define copy_commit shim_copy_commit
template <int N> static inline void copy_wait()
{
    shim_copy_wait(N);
}
#endif

/* Two values side by side, the first in the low half. */
template <typename T> static __device__ __forceinline__ unsigned pair(float low, float high)
{
    union {
        T v[2];
        unsigned bits;
    } u;
    from_float(u.v[0], low);
    from_float(u.v[1], high);
    return u.bits;
}
