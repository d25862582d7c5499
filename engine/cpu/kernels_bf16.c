/* kernels_bf16.c: the loops of kernels.inc for AVX-512 with bf16 conversions. */
#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(                                                                      \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma,avx512bf16"))),                  \
    apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,fma,avx512bf16")
#endif
#define KERNELS moji_cpu_kernels_bf16
#define KERNELS_NAME "AVX-512 bf16"
#define BF16_CONVERTS
#define LANES 16
#include "kernels.inc"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
