/* twins.h: every op again, slowly, in double precision and in the plainest loops. What a backend
 * computes is held to these. Arrays are dense, in the order of tape.h's op list; NULL where an
 * input is absent. */
#pragma once
#include <glib.h>

typedef struct {
    gint64 batch, h, w, in, out; /* x [batch,h,w,in] */
    int kernel, stride, pad_begin, pad_end;
} TwinConv;

gint64 twin_conv_side(const TwinConv *c, gint64 side); /* of the output */
void twin_conv2d(double *y, const double *x, const double *weight, const double *bias,
                 const double *residual, const TwinConv *c);
void twin_linear(double *y, const double *x, const double *weight, const double *bias,
                 const double *residual, gint64 rows, gint64 in, gint64 out);
void twin_group_norm(double *y, const double *x, const double *weight, const double *bias,
                     gint64 batch, gint64 pixels, gint64 c, int groups, double eps, gboolean silu);
void twin_layer_norm(double *y, const double *x, const double *weight, const double *bias,
                     gint64 rows, gint64 c, double eps);
void twin_attention(double *y, const double *q, const double *k, const double *v, gint64 batch,
                    gint64 n, gint64 m, gint64 heads, gint64 width, double scale, gboolean causal);
double twin_silu(double x);
double twin_gelu(double x);
double twin_quick_gelu(double x);
double twin_relu(double x);
void twin_geglu(double *y, const double *x, gint64 rows, gint64 c); /* x [rows,2c] */
/* b's shape may have 1 where a's has not; rank 4, pad with leading ones. */
void twin_add(double *y, const double *a, const double *b, const gint64 a_dim[4],
              const gint64 b_dim[4]);
void twin_concat(double *y, const double *a, const double *b, gint64 rows, gint64 ca, gint64 cb);
/* a [ka,n], b [kb,n], m [rows,ka+kb+1] -> y [rows,n]: moji_mix */
void twin_mix(double *y, const double *a, const double *b, const double *m, gint64 ka, gint64 kb,
              gint64 rows, gint64 n);
void twin_upsample(double *y, const double *x, gint64 batch, gint64 h, gint64 w, gint64 c);
void twin_sinusoid(double *y, const double *t, gint64 batch, gint64 width, gboolean flip,
                   double shift);
double twin_bf16(double x); /* the nearest bf16, ties to even */
