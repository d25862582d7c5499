/* twins.c: see twins.h. */
#include "twins.h"
#include <math.h>
#include <string.h>

gint64 twin_conv_side(const TwinConv *c, gint64 side)
{
    return (side + c->pad_begin + c->pad_end - c->kernel) / c->stride + 1;
}

/* One output value, without bias. */
static double conv_at(const double *x, const double *weight, const TwinConv *c, gint64 y0,
                      gint64 x0, gint64 o)
{
    double sum = 0;
    for (int ky = 0; ky < c->kernel; ky++)
        for (int kx = 0; kx < c->kernel; kx++) {
            gint64 py = y0 + ky, px = x0 + kx;
            if (py < 0 || py >= c->h || px < 0 || px >= c->w)
                continue;
            for (gint64 i = 0; i < c->in; i++)
                sum += x[(py * c->w + px) * c->in + i] *
                       weight[((o * c->in + i) * c->kernel + ky) * c->kernel + kx];
        }
    return sum;
}

void twin_conv2d(double *y, const double *x, const double *weight, const double *bias,
                 const double *residual, const TwinConv *c)
{
    gint64 h = twin_conv_side(c, c->h), w = twin_conv_side(c, c->w), at = 0;
    for (gint64 b = 0; b < c->batch; b++)
        for (gint64 i = 0; i < h; i++)
            for (gint64 j = 0; j < w; j++)
                for (gint64 o = 0; o < c->out; o++, at++)
                    y[at] = conv_at(x + b * c->h * c->w * c->in, weight, c,
                                    i * c->stride - c->pad_begin, j * c->stride - c->pad_begin, o) +
                            (bias ? bias[o] : 0) + (residual ? residual[at] : 0);
}

void twin_linear(double *y, const double *x, const double *weight, const double *bias,
                 const double *residual, gint64 rows, gint64 in, gint64 out)
{
    for (gint64 r = 0; r < rows; r++)
        for (gint64 o = 0; o < out; o++) {
            double sum = bias ? bias[o] : 0;
            for (gint64 i = 0; i < in; i++)
                sum += x[r * in + i] * weight[o * in + i];
            y[r * out + o] = sum + (residual ? residual[r * out + o] : 0);
        }
}

void twin_group_norm(double *y, const double *x, const double *weight, const double *bias,
                     gint64 batch, gint64 pixels, gint64 c, int groups, double eps, gboolean silu)
{
    gint64 width = c / groups;
    for (gint64 b = 0; b < batch; b++)
        for (int g = 0; g < groups; g++) {
            const double *first = x + b * pixels * c + g * width;
            double mean = 0, square = 0;
            for (gint64 p = 0; p < pixels; p++)
                for (gint64 i = 0; i < width; i++)
                    mean += first[p * c + i] / ((double)pixels * width);
            for (gint64 p = 0; p < pixels; p++)
                for (gint64 i = 0; i < width; i++)
                    square += pow(first[p * c + i] - mean, 2) / ((double)pixels * width);
            for (gint64 p = 0; p < pixels; p++)
                for (gint64 i = 0; i < width; i++) {
                    gint64 k = g * width + i;
                    double v = (first[p * c + i] - mean) / sqrt(square + eps) * weight[k] + bias[k];
                    y[(b * pixels + p) * c + k] = silu ? twin_silu(v) : v;
                }
        }
}

void twin_layer_norm(double *y, const double *x, const double *weight, const double *bias,
                     gint64 rows, gint64 c, double eps)
{
    for (gint64 r = 0; r < rows; r++, x += c, y += c) {
        double mean = 0, square = 0;
        for (gint64 i = 0; i < c; i++)
            mean += x[i] / c;
        for (gint64 i = 0; i < c; i++)
            square += pow(x[i] - mean, 2) / c;
        for (gint64 i = 0; i < c; i++)
            y[i] = (x[i] - mean) / sqrt(square + eps) * weight[i] + bias[i];
    }
}

/* One query of one head against `m` keys; rows are `c` apart. */
static void attend(double *y, const double *q, const double *k, const double *v, gint64 m, gint64 c,
                   gint64 width, double scale)
{
    g_autofree double *p = g_new(double, m);
    double most = -INFINITY, sum = 0;
    for (gint64 j = 0; j < m; j++) {
        p[j] = 0;
        for (gint64 i = 0; i < width; i++)
            p[j] += scale * q[i] * k[j * c + i];
        most = fmax(most, p[j]);
    }
    for (gint64 j = 0; j < m; j++)
        sum += p[j] = exp(p[j] - most);
    memset(y, 0, width * sizeof *y);
    for (gint64 j = 0; j < m; j++)
        for (gint64 i = 0; i < width; i++)
            y[i] += p[j] / sum * v[j * c + i];
}

void twin_attention(double *y, const double *q, const double *k, const double *v, gint64 batch,
                    gint64 n, gint64 m, gint64 heads, gint64 width, double scale, gboolean causal)
{
    gint64 c = heads * width;
    for (gint64 b = 0; b < batch; b++)
        for (gint64 h = 0; h < heads; h++)
            for (gint64 i = 0; i < n; i++) {
                gint64 at = (b * n + i) * c + h * width, keys = b * m * c + h * width;
                attend(y + at, q + at, k + keys, v + keys, causal ? i + 1 : m, c, width, scale);
            }
}

double twin_silu(double x)
{
    return x / (1 + exp(-x));
}

double twin_gelu(double x)
{
    return 0.5 * x * (1 + erf(x / sqrt(2)));
}

double twin_quick_gelu(double x)
{
    return x / (1 + exp(-1.702 * x));
}

double twin_relu(double x)
{
    return x < 0 ? 0 : x;
}

void twin_geglu(double *y, const double *x, gint64 rows, gint64 c)
{
    for (gint64 r = 0; r < rows; r++)
        for (gint64 i = 0; i < c; i++)
            y[r * c + i] = x[r * 2 * c + i] * twin_gelu(x[r * 2 * c + c + i]);
}

void twin_add(double *y, const double *a, const double *b, const gint64 a_dim[4],
              const gint64 b_dim[4])
{
    gint64 at = 0, i[4];
    for (i[0] = 0; i[0] < a_dim[0]; i[0]++)
        for (i[1] = 0; i[1] < a_dim[1]; i[1]++)
            for (i[2] = 0; i[2] < a_dim[2]; i[2]++)
                for (i[3] = 0; i[3] < a_dim[3]; i[3]++, at++) {
                    gint64 in_b = 0;
                    for (int k = 0; k < 4; k++)
                        in_b = in_b * b_dim[k] + (b_dim[k] == 1 ? 0 : i[k]);
                    y[at] = a[at] + b[in_b];
                }
}

void twin_concat(double *y, const double *a, const double *b, gint64 rows, gint64 ca, gint64 cb)
{
    for (gint64 r = 0; r < rows; r++)
        for (gint64 i = 0; i < ca + cb; i++)
            y[r * (ca + cb) + i] = i < ca ? a[r * ca + i] : b[r * cb + i - ca];
}

void twin_mix(double *y, const double *a, const double *b, const double *m, gint64 ka, gint64 kb,
              gint64 rows, gint64 n)
{
    for (gint64 r = 0; r < rows; r++)
        for (gint64 i = 0; i < n; i++) {
            const double *factor = m + r * (ka + kb + 1), limit = factor[ka + kb];
            double sum = 0;
            for (gint64 k = 0; k < ka + kb; k++) {
                double x = k == 0 && r > 0 ? y[i] : k < ka ? a[k * n + i] : b[(k - ka) * n + i];
                sum += factor[k] != 0 ? factor[k] * x : 0;
            }
            y[r * n + i] = CLAMP(sum, -limit, limit);
        }
}

void twin_upsample(double *y, const double *x, gint64 batch, gint64 h, gint64 w, gint64 c)
{
    gint64 at = 0;
    for (gint64 b = 0; b < batch; b++)
        for (gint64 i = 0; i < 2 * h; i++)
            for (gint64 j = 0; j < 2 * w; j++)
                for (gint64 k = 0; k < c; k++)
                    y[at++] = x[((b * h + i / 2) * w + j / 2) * c + k];
}

void twin_sinusoid(double *y, const double *t, gint64 batch, gint64 width, gboolean flip,
                   double shift)
{
    gint64 half = width / 2;
    for (gint64 b = 0; b < batch; b++)
        for (gint64 i = 0; i < width; i++) {
            double angle = t[b] * pow(10000, -(double)(i % half) / (half - shift));
            y[b * width + i] = (i < half) == !!flip ? cos(angle) : sin(angle);
        }
}

/* Eight significant bits of a normal number. */
double twin_bf16(double x)
{
    int exponent;
    double fraction = frexp(x, &exponent);
    return isfinite(x) ? ldexp(nearbyint(ldexp(fraction, 8)), exponent - 8) : x;
}
