/* kernels.h: the loops that oneDNN lacks or does slowly, for one thread, over rows of memory.
 *
 * kernels.inc holds them once; each kernels_*.c compiles it for one instruction set and the best
 * that the processor has is taken when the backend opens, so that one binary runs everywhere.
 * Values are f32 or bf16 as the last argument says; arithmetic is f32. x and y may be the same. */
#pragma once
#include <glib.h>

typedef void (*CpuUnary)(void *y, const void *x, gsize n, float by, gboolean bf16);

typedef struct {
    const char *name;
    /* y = f(x) over n values; `by` matters to scale alone. */
    CpuUnary silu, gelu, quick_gelu, relu, scale;
    void (*add)(void *y, const void *a, const void *b, gsize n, gboolean bf16);
    void (*add_one)(void *y, const void *a, const void *b, gsize n,
                    gboolean bf16);                                /* b is one value */
    void (*geglu)(void *y, const void *x, gsize n, gboolean bf16); /* x has 2n values */

    void (*to_bf16)(void *y, const float *x, gsize n);
    void (*from_bf16)(float *y, const void *x, gsize n);
    void (*from_f16)(float *y, const void *x, gsize n); /* x at any alignment */

    /* sum += x - shift and square += (x - shift)^2 for `rows` rows of n channels. */
    void (*moments)(float *sum, float *square, const float *shift, const void *x, gsize rows,
                    gsize n, gboolean bf16);
    /* y = x * factor + term by channel, then SiLU if silu. */
    void (*affine)(void *y, const void *x, const float *factor, const float *term, gsize rows,
                   gsize n, gboolean silu, gboolean bf16);
    void (*layer_norm)(void *y, const void *x, const float *weight, const float *bias, float eps,
                       gsize n, gboolean bf16);

    /* p[i] = exp(scale * (s[i] - max s)) for i < n, zero up to `padded`; returns their sum. p is
     * f32 or bf16 and may start where s does. */
    float (*softmax)(void *p, const float *s, gsize n, gsize padded, float scale, gboolean bf16);
    void (*store)(void *y, const float *x, float by, gsize n, gboolean bf16); /* y = x * by */
} CpuKernels;

extern const CpuKernels moji_cpu_kernels_base;
#if defined(__x86_64__)
extern const CpuKernels moji_cpu_kernels_avx2, moji_cpu_kernels_avx512, moji_cpu_kernels_bf16;
#endif
