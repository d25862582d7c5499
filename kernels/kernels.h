/* kernels.h: our own kernels, as C sees them: each launcher puts one piece of work on a stream and
 * returns what the launch said. Launchers with the same stem as a file are in that file.
 *
 * All pointers are device memory unless a comment says host. Activations are [B,h,w,C] or
 * [rows,C], dense, of `type`; arithmetic is f32. Weights of norms and biases are f32 always.
 * y may be x where a comment says so. Nothing allocates and nothing waits. */
#pragma once
#include <cuda_runtime_api.h>
#include <stdint.h>
#ifdef __cplusplus
extern "C" {
#endif

typedef enum { KERNEL_F32, KERNEL_BF16, KERNEL_F16 } KernelType; /* as MojiType begins */
typedef enum { KERNEL_SILU, KERNEL_GELU, KERNEL_QUICK_GELU, KERNEL_RELU, KERNEL_SCALE } KernelUnary;

/* y = f(x); `by` matters to scale alone. y may be x. */
cudaError_t kernel_unary(KernelUnary f, void *y, const void *x, int64_t n, float by,
                         KernelType type, cudaStream_t stream);
/* x [rows,2c] -> y [rows,c]: first half times the exact GELU of the second. */
cudaError_t kernel_geglu(void *y, const void *x, int64_t rows, int64_t c, KernelType type,
                         cudaStream_t stream);
/* y = a + b, all of a's shape dim[4]; b_stride: b's step on each axis in values, 0 where it is
 * broadcast. y may be a. */
cudaError_t kernel_add(void *y, const void *a, const void *b, const int64_t dim[4],
                       const int64_t b_stride[4], KernelType type, cudaStream_t stream);
/* y [rows,c] += bias [c] (f32, or NULL) + residual [rows,c] (or NULL; may be y itself only where
 * there is no sum yet, so never here). */
cudaError_t kernel_bias(void *y, const float *bias, const void *residual, int64_t rows, int64_t c,
                        KernelType type, cudaStream_t stream);
/* a [rows,ca], b [rows,cb] -> y [rows,ca+cb]; widths in bytes. */
cudaError_t kernel_concat(void *y, const void *a, const void *b, int64_t rows, int64_t a_bytes,
                          int64_t b_bytes, cudaStream_t stream);
/* x [batch,h,w,C] -> y [batch,2h,2w,C], nearest; a pixel is pixel_bytes. */
cudaError_t kernel_upsample(void *y, const void *x, int64_t batch, int64_t h, int64_t w,
                            int64_t pixel_bytes, cudaStream_t stream);
/* table [rows,width], ids [n] -> y [n,width]. An id that is out of range gives zeros and sets *bad
 * to 1 + its index; *bad is never cleared here. */
cudaError_t kernel_embed(void *y, const void *table, const int32_t *ids, int *bad, int64_t n,
                         int64_t rows, int64_t width, KernelType type, cudaStream_t stream);
/* t [batch] -> y f32 [batch,width]: sines and cosines of timesteps. */
cudaError_t kernel_sinusoid(float *y, const float *t, int64_t batch, int64_t width, int flip,
                            float shift, cudaStream_t stream);
cudaError_t kernel_cast(void *y, KernelType to, const void *x, KernelType from, int64_t n,
                        cudaStream_t stream);
/* y [rows,n] of planes a [a,n] and b [b,n] (NULL where b is 0), all f32: row r is the sum of all
 * planes, each times factors[r][k], clipped to +-factors[r][a+b]. Row 0 is made first and stands in
 * the place of plane 0 for the others; where a factor is 0 a plane may hold anything. y may be a if
 * there are as many rows. */
enum { KERNEL_MIX_ROWS = 8 }; /* at most */
typedef struct {
    int a, b, rows;
    int64_t n;
} KernelMix;
cudaError_t kernel_mix(float *y, const float *a, const float *b, const float *factors,
                       const KernelMix *shape, cudaStream_t stream);
/* A weight from the file's order [out,in,k,k] to [out,k,k,in], converted; k*k is taps. */
cudaError_t kernel_weight(void *y, KernelType to, const void *x, KernelType from, int64_t out,
                          int64_t in, int64_t taps, cudaStream_t stream);

typedef struct {
    int64_t batch, pixels, channels;
    int groups, silu;
    float eps;
    int measured; /* work has the moments already, of another x of this shape */
} KernelGroupNorm;
/* x [batch,pixels,C] -> y, which may be x; where `shift` [batch,C] is not NULL it is added to x
 * first. work: kernel_group_norm_bytes, for the moments: mean and spread by group. */
cudaError_t kernel_group_norm(void *y, const void *x, const void *shift, const float *weight,
                              const float *bias, void *work, const KernelGroupNorm *shape,
                              KernelType type, cudaStream_t stream);
size_t kernel_group_norm_bytes(const KernelGroupNorm *shape);
/* x [rows,c] -> y, which may be x. */
cudaError_t kernel_layer_norm(void *y, const void *x, const float *weight, const float *bias,
                              int64_t rows, int64_t c, float eps, KernelType type,
                              cudaStream_t stream);

typedef struct {
    int64_t rows, n;       /* x f32 [rows,n], dense -> y [rows,n] */
    int64_t period, first; /* causal: row r sees keys up to first + r % period */
    int causal;
    float scale;
} KernelSoftmax;
cudaError_t kernel_softmax(void *y, const float *x, const KernelSoftmax *shape, KernelType type,
                           cudaStream_t stream);

typedef struct {
    int64_t batch, n, m;          /* queries, keys */
    int heads, width;             /* of one head */
    int64_t q_row, kv_row, y_row; /* values from one token to the next */
    float scale;
    int causal;
} KernelAttention;
/* y = softmax(scale q k') v in one pass over k and v. For KERNEL_F16 and KERNEL_BF16 on devices of
 * compute capability 8.0 and more, with heads that kernel_attention_takes says yes to. */
cudaError_t kernel_attention(void *y, const void *q, const void *k, const void *v,
                             const KernelAttention *shape, KernelType type, cudaStream_t stream);
int kernel_attention_takes(int width, KernelType type);

/* y = alpha x w' + bias + residual: the plain product, for what the libraries do not take. */
typedef struct {
    int64_t rows, in, out;
    int64_t x_row, w_row, y_row; /* values from one row to the next; residual's is y's */
    int64_t batch;               /* products; grid.z, so at most 65535 */
    int64_t x_batch, bias_batch; /* values from one product to the next; 0: one for all */
    int64_t w_batch, y_batch;
    int w_is_in_by_out; /* w [in,out] instead of [out,in] */
    int y_is_f32;       /* whatever the type of x and w */
    float alpha;
} KernelProduct;
cudaError_t kernel_linear(void *y, const void *x, const void *w, const float *bias,
                          const void *residual, const KernelProduct *shape, KernelType type,
                          cudaStream_t stream);

/* The plain convolution, gathering as it multiplies: weight [out,k,k,in] as kernel_weight makes. */
typedef struct {
    int64_t batch, h, w, in, out_h, out_w, out;
    int kernel, stride, pad; /* pad: above and left; below and right follow from out_h, out_w */
} KernelConv;
cudaError_t kernel_conv2d(void *y, const void *x, const void *weight, const float *bias,
                          const void *residual, const KernelConv *shape, KernelType type,
                          cudaStream_t stream);

#ifdef __cplusplus
}
#endif
