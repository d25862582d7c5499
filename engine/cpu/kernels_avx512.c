/* kernels_avx512.c: the loops of kernels.inc for AVX-512. */
#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma"))),    \
                             apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,fma")
#endif
#define KERNELS moji_cpu_kernels_avx512
#define KERNELS_NAME "AVX-512"
#define LANES 16
#include "kernels.inc"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
