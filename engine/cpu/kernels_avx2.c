/* kernels_avx2.c: the loops of kernels.inc for AVX2 with FMA. */
#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx2,fma")
#endif
#define KERNELS moji_cpu_kernels_avx2
#define KERNELS_NAME "AVX2"
#define LANES 8
#include "kernels.inc"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
