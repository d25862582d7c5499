// Group norm followed by SiLU (or not), bf16 or float, NHWC, forward and backward: torch's own backward of this pair
// takes 45 % of an autoencoder step on a CPU. Only a speed-up: norm.py falls back to torch where it does not build.
// x, y [N,P,C] with P = H*W; statistics and sums are float.
#include <torch/extension.h>
#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

// at::BFloat16's own conversions keep the compiler from vectorising; plain integer arithmetic does not.
struct Half {
    uint16_t bits;
    Half() = default;
    explicit Half(float f)
    {
        uint32_t u;
        memcpy(&u, &f, 4);
        bits = uint16_t((u + 0x7fff + (u >> 16 & 1)) >> 16);
    }
    explicit operator float() const
    {
        uint32_t u = uint32_t(bits) << 16;
        float f;
        memcpy(&f, &u, 4);
        return f;
    }
};

// Fast division makes NaN of 1/inf, so the exponent stops where exp is still finite.
static inline float sigmoid(float z)
{
    return 1.f / (1.f + std::exp(std::min(-z, 80.f)));
}

// Channels go by in blocks of 16, one vector register each; a tile of pixels is walked once a block, so that sums stay in
// registers and the tile in the first cache. C is a multiple of 16 here (else gn_* refuse).
constexpr long V = 16, TILE = 64;

template <typename F> static void tiles(long P, long C, F &&visit)     // visit(first pixel, pixels, first channel)
{
    for (long p = 0; p < P; p += TILE)
        for (long c = 0; c < C; c += V)
            visit(p, std::min(TILE, P - p), c);
}

template <typename T> static void forward(const T *x, T *y, const float *w, const float *b, float *mean, float *rstd,
                                          long N, long P, long C, long G, float eps, bool silu)
{
    at::parallel_for(0, N, 1, [&](long n0, long n1) {
        std::vector<float> s(C), q(C), k(C), o(C);
        for (long n = n0; n < n1; n++) {
            const T *xn = x + n * P * C;
            T *yn = y + n * P * C;
            std::fill(s.begin(), s.end(), 0.f);
            std::fill(q.begin(), q.end(), 0.f);
            tiles(P, C, [&](long p, long pixels, long c) {
                float sum[V] = {}, square[V] = {};
                for (long i = 0; i < pixels; i++) {
                    const T *__restrict__ from = xn + (p + i) * C + c;
                    for (long j = 0; j < V; j++) {
                        float v = float(from[j]);
                        sum[j] += v;
                        square[j] += v * v;
                    }
                }
                for (long j = 0; j < V; j++)
                    s[c + j] += sum[j], q[c + j] += square[j];
            });
            long D = C / G;
            for (long g = 0; g < G; g++) {
                double m = 0, v = 0;
                for (long c = g * D; c < (g + 1) * D; c++)
                    m += s[c], v += q[c];
                m /= double(P * D);
                v = v / double(P * D) - m * m;
                float r = 1.f / std::sqrt(float(v > 0 ? v : 0) + eps);
                mean[n * G + g] = float(m);
                rstd[n * G + g] = r;
                for (long c = g * D; c < (g + 1) * D; c++)
                    k[c] = w[c] * r, o[c] = b[c] - float(m) * r * w[c];
            }
            tiles(P, C, [&](long p, long pixels, long c) {
                float scale[V], shift[V];
                for (long j = 0; j < V; j++)
                    scale[j] = k[c + j], shift[j] = o[c + j];
                for (long i = 0; i < pixels; i++) {
                    const T *__restrict__ from = xn + (p + i) * C + c;
                    T *__restrict__ to = yn + (p + i) * C + c;
                    for (long j = 0; j < V; j++) {
                        float z = float(from[j]) * scale[j] + shift[j];
                        to[j] = T(silu ? z * sigmoid(z) : z);
                    }
                }
            });
        }
    });
}

template <typename T, bool silu> static void backward(const T *x, const T *dy, T *dx, const float *w, const float *b,
                                           const float *mean, const float *rstd, float *dw, float *db,
                                           long N, long P, long C, long G)
{
    at::parallel_for(0, N, 1, [&](long n0, long n1) {
        std::vector<float> s(C), q(C), h(C), t(C), e(C), f(C), u(C);
        for (long n = n0; n < n1; n++) {
            const T *xn = x + n * P * C, *dn = dy + n * P * C;
            T *en = dx + n * P * C;
            long D = C / G;
            for (long c = 0; c < C; c++) {
                h[c] = rstd[n * G + c / D], t[c] = -mean[n * G + c / D] * h[c];         // xhat = x * h + t
                s[c] = q[c] = 0;
            }
            // dz is kept in dx between the two passes
            tiles(P, C, [&](long p, long pixels, long c) {
                float sum[V] = {}, dot[V] = {}, hh[V], tt[V], ww[V], bb[V];
                for (long j = 0; j < V; j++)
                    hh[j] = h[c + j], tt[j] = t[c + j], ww[j] = w[c + j], bb[j] = b[c + j];
                for (long i = 0; i < pixels; i++) {
                    long at = (p + i) * C + c;
                    const T *__restrict__ from = xn + at, *__restrict__ d = dn + at;
                    T *__restrict__ to = en + at;
                    for (long j = 0; j < V; j++) {
                        float v = float(from[j]) * hh[j] + tt[j], g = float(d[j]);
                        if (silu) {
                            float z = v * ww[j] + bb[j], a = sigmoid(z);
                            g *= a * (1.f + z * (1.f - a));
                        }
                        sum[j] += g;
                        dot[j] += g * v;
                        to[j] = T(g);
                    }
                }
                for (long j = 0; j < V; j++)
                    s[c + j] += sum[j], q[c + j] += dot[j];
            });
            for (long g = 0; g < G; g++) {
                float a = 0, d = 0;
                for (long c = g * D; c < (g + 1) * D; c++)
                    a += w[c] * s[c], d += w[c] * q[c];
                a /= float(P * D), d /= float(P * D);
                for (long c = g * D; c < (g + 1) * D; c++) {
                    // dx = r * (w dz - a - xhat d)
                    e[c] = h[c] * w[c];
                    f[c] = -h[c] * d * h[c];
                    u[c] = -h[c] * (a + t[c] * d);
                }
            }
            tiles(P, C, [&](long p, long pixels, long c) {
                float ee[V], ff[V], uu[V];
                for (long j = 0; j < V; j++)
                    ee[j] = e[c + j], ff[j] = f[c + j], uu[j] = u[c + j];
                for (long i = 0; i < pixels; i++) {
                    long at = (p + i) * C + c;
                    const T *__restrict__ from = xn + at;
                    T *__restrict__ to = en + at;
                    for (long j = 0; j < V; j++)
                        to[j] = T(float(to[j]) * ee[j] + float(from[j]) * ff[j] + uu[j]);
                }
            });
            for (long c = 0; c < C; c++)
                db[n * C + c] = s[c], dw[n * C + c] = q[c];
        }
    });
}

static Half *bf16(at::Tensor t)
{
    return static_cast<Half *>(t.data_ptr());
}

std::vector<at::Tensor> gn_forward(at::Tensor x, at::Tensor w, at::Tensor b, long C, long G, double eps, bool silu)
{
    TORCH_CHECK(C % V == 0, "channels in blocks of 16");
    long N = x.size(0), P = x.numel() / (N * C);
    auto y = at::empty_like(x), mean = at::empty({N, G}, w.options()), rstd = at::empty({N, G}, w.options());
    if (x.scalar_type() == at::kBFloat16)
        forward(bf16(x), bf16(y), w.data_ptr<float>(), b.data_ptr<float>(),
                mean.data_ptr<float>(), rstd.data_ptr<float>(), N, P, C, G, float(eps), silu);
    else
        forward(x.data_ptr<float>(), y.data_ptr<float>(), w.data_ptr<float>(), b.data_ptr<float>(),
                mean.data_ptr<float>(), rstd.data_ptr<float>(), N, P, C, G, float(eps), silu);
    return {y, mean, rstd};
}

std::vector<at::Tensor> gn_backward(at::Tensor x, at::Tensor dy, at::Tensor w, at::Tensor b, at::Tensor mean,
                                    at::Tensor rstd, long C, long G, bool silu)
{
    long N = x.size(0), P = x.numel() / (N * C);
    auto dx = at::empty_like(x), dw = at::empty({N, C}, w.options()), db = at::empty({N, C}, w.options());
    auto run = [&](auto *px, auto *pdy, auto *pdx) {
        using T = std::remove_pointer_t<decltype(px)>;
        (silu ? backward<T, true> : backward<T, false>)(
            px, pdy, pdx, w.data_ptr<float>(), b.data_ptr<float>(), mean.data_ptr<float>(), rstd.data_ptr<float>(),
            dw.data_ptr<float>(), db.data_ptr<float>(), N, P, C, G);
    };
    if (x.scalar_type() == at::kBFloat16)
        run(bf16(x), bf16(dy), bf16(dx));
    else
        run(x.data_ptr<float>(), dy.data_ptr<float>(), dx.data_ptr<float>());
    return {dx, dw.sum(0), db.sum(0)};
}

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m)
{
    m.def("forward", &gn_forward);
    m.def("backward", &gn_backward);
}
