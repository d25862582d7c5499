/* attention_amx.c: attention in bf16 on the processor's matrix tiles (Intel AMX).
 *
 * 32 queries at a time go past the keys in chunks that, with their scores, stay in the first cache:
 * scores by tiles, exponentials by vectors, products with v by tiles (Dao et al. 2022, "Flash
 * Attention"). The exponentials are the larger part of the work.
 *
 * The surprising rule: a tile of the second factor holds pairs: row r has elements 2r and 2r+1 of
 * each column side by side. k and v are packed so, tile after tile of 1 KiB, once a head. */
#include "attention_amx.h"
#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(                                                                      \
    __attribute__((                                                                                \
        target("amx-tile,amx-bf16,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,fma"))),           \
    apply_to = function)
#else
#pragma GCC target("amx-tile,amx-bf16,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,fma")
#endif
#include <immintrin.h>
#include <math.h>
#include <string.h>

#define ROWS MOJI_CPU_AMX_ROWS
#define TILE 16  /* rows of a tile, and its columns in 32-bit elements */
#define DEPTH 32 /* bf16 values in a tile's row: keys and widths are padded to this */
#define TILE_BYTES 1024
#define CHUNK 96 /* keys; measured best of 32 to 512 for heads 40 wide */

typedef struct { /* one thread's */
    float scores[ROWS][CHUNK];
    guint16 p[ROWS][CHUNK];
    __m512 sum[ROWS]; /* by lane */
    float shift[ROWS];
    /* then queries bf16 [ROWS,width], out f32 [ROWS,width], width padded */
} Work;

gsize moji_cpu_amx_work_bytes(gint64 padded_width)
{
    return sizeof(Work) + ROWS * padded_width * (sizeof(guint16) + sizeof(float));
}

/* Constant: compilers believe that the instruction reads 8 bytes, and leave out stores to others.
 */
void moji_cpu_amx_configure(void)
{
    static const struct {
        guint8 palette, start_row, reserved[14];
        guint16 row_bytes[16];
        guint8 rows[16];
    } __attribute__((packed))
    config = {.palette = 1, .row_bytes = {[0 ... 7] = 64}, .rows = {[0 ... 7] = TILE}};
    G_STATIC_ASSERT(sizeof config == 64);
    _tile_loadconfig(&config);
}

/* ---- packing ---- */

/* `count` values of row j of x from column d on, and zeros beyond what there is. */
static void take(guint16 *to, const CpuAmxHead *h, const void *x, gint64 j, gint64 d, gint64 count)
{
    gint64 n = j < h->m ? CLAMP(h->width - d, 0, count) : 0;
    memcpy(to, (const char *)x + (n ? j * h->row_bytes + d * 2 : 0), n * 2);
    memset(to + n, 0, (count - n) * 2);
}

/* For each 16 keys, for each 32 of the width, a tile. */
void moji_cpu_amx_pack_k(void *packed, const void *k, const CpuAmxHead *h)
{
    guint32 *to = packed;
    for (gint64 j = 0; j < h->padded_m; j += TILE)
        for (gint64 d = 0; d < h->padded_width; d += DEPTH, to += TILE_BYTES / 4)
            for (gint64 key = 0; key < TILE; key++) {
                guint32 pairs[DEPTH / 2];
                take((guint16 *)pairs, h, k, j + key, d, DEPTH);
                for (gint64 i = 0; i < DEPTH / 2; i++)
                    to[i * TILE + key] = pairs[i];
            }
}

/* For each 32 keys, for each 16 of the width, a tile. */
void moji_cpu_amx_pack_v(void *packed, const void *v, const CpuAmxHead *h)
{
    guint32 *to = packed;
    for (gint64 j = 0; j < h->padded_m; j += DEPTH)
        for (gint64 d = 0; d < h->padded_width; d += TILE, to += TILE_BYTES / 4)
            for (gint64 key = 0; key < DEPTH; key += 2) {
                guint16 even[TILE], odd[TILE];
                take(even, h, v, j + key, d, TILE);
                take(odd, h, v, j + key + 1, d, TILE);
                for (gint64 i = 0; i < TILE; i++)
                    to[key / 2 * TILE + i] = even[i] | (guint32)odd[i] << 16;
            }
}

/* ---- one chunk of keys ---- */

/* scores [32,keys] = queries times the chunk's keys. */
static void multiply_keys(Work *w, const guint16 *q, const char *k, gint64 keys, gint64 width)
{
    gsize row = width * 2;
    const char *upper = (const char *)q, *lower = upper + TILE * row;
    gint64 steps = width / DEPTH;
    for (gint64 j = 0; j < keys; j += 2 * TILE) {
        const char *left = k + j / TILE * steps * TILE_BYTES, *right = left + steps * TILE_BYTES;
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
        for (gint64 s = 0; s < steps; s++) {
            _tile_loadd(4, upper + s * 64, row);
            _tile_loadd(6, left + s * TILE_BYTES, 64);
            _tile_loadd(7, right + s * TILE_BYTES, 64);
            _tile_loadd(5, lower + s * 64, row);
            _tile_dpbf16ps(0, 4, 6);
            _tile_dpbf16ps(1, 4, 7);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
        }
        _tile_stored(0, &w->scores[0][j], sizeof w->scores[0]);
        _tile_stored(1, &w->scores[0][j + TILE], sizeof w->scores[0]);
        _tile_stored(2, &w->scores[TILE][j], sizeof w->scores[0]);
        _tile_stored(3, &w->scores[TILE][j + TILE], sizeof w->scores[0]);
    }
}

/* out [32,width] += p times the chunk's values. */
static void multiply_values(Work *w, float *out, const char *v, gint64 keys, gint64 width)
{
    gsize row = width * 4;
    gint64 across = width / TILE; /* tiles for 32 keys */
    for (gint64 d = 0; d < width; d += 2 * TILE) {
        float *upper = out + d, *lower = upper + TILE * width;
        const char *from = v + d / TILE * TILE_BYTES;
        _tile_loadd(0, upper, row);
        _tile_loadd(1, upper + TILE, row);
        _tile_loadd(2, lower, row);
        _tile_loadd(3, lower + TILE, row);
        for (gint64 j = 0; j < keys; j += DEPTH, from += across * TILE_BYTES) {
            _tile_loadd(4, &w->p[0][j], sizeof w->p[0]);
            _tile_loadd(6, from, 64);
            _tile_loadd(7, from + TILE_BYTES, 64);
            _tile_loadd(5, &w->p[TILE][j], sizeof w->p[0]);
            _tile_dpbf16ps(0, 4, 6);
            _tile_dpbf16ps(1, 4, 7);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
        }
        _tile_stored(0, upper, row);
        _tile_stored(1, upper + TILE, row);
        _tile_stored(2, lower, row);
        _tile_stored(3, lower + TILE, row);
    }
}

/* 2^x with an error of 1e-4: bf16 rounds twenty times as coarsely. */
static inline __m512 power_of_two(__m512 x)
{
    const __m512 shifter = _mm512_set1_ps(12582912.0f); /* 1.5 * 2^23 rounds to an integer */
    __m512 n = _mm512_sub_ps(_mm512_add_ps(x, shifter), shifter), r = _mm512_sub_ps(x, n);
    __m512 p = _mm512_set1_ps(0.05500892922282219f);
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.24221095442771912f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.6932829022407532f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
    return _mm512_scalef_ps(p, n);
}

static float largest(const float *s, gint64 n)
{
    __m512 most = _mm512_set1_ps(-INFINITY);
    gint64 i = 0;
    for (; i + 16 <= n; i += 16)
        most = _mm512_max_ps(most, _mm512_loadu_ps(s + i));
    if (i < n) {
        __mmask16 rest = (1u << (n - i)) - 1;
        most = _mm512_mask_max_ps(most, rest, most, _mm512_loadu_ps(s + i));
    }
    return _mm512_reduce_max_ps(most);
}

/* p = 2^(by s - shift) for the first n of `keys`, else zero; returns their sum by lane. */
static __m512 exponentials(guint16 *p, const float *s, gint64 n, gint64 keys, float by, float shift)
{
    const __m512 factor = _mm512_set1_ps(by), minus = _mm512_set1_ps(shift);
    __m512 sum = _mm512_setzero_ps(), more = sum;
    for (gint64 i = 0; i < keys; i += 32) {
        __m512 a = power_of_two(_mm512_fmsub_ps(_mm512_loadu_ps(s + i), factor, minus));
        __m512 b = power_of_two(_mm512_fmsub_ps(_mm512_loadu_ps(s + i + 16), factor, minus));
        if (i + 32 > n) {
            guint32 in = n <= i ? 0 : (guint32)((G_GUINT64_CONSTANT(1) << (n - i)) - 1);
            a = _mm512_maskz_mov_ps((__mmask16)in, a);
            b = _mm512_maskz_mov_ps((__mmask16)(in >> 16), b);
        }
        sum = _mm512_add_ps(sum, a);
        more = _mm512_add_ps(more, b);
        _mm512_storeu_si512(p + i, (__m512i)_mm512_cvtne2ps_pbh(b, a));
    }
    return _mm512_add_ps(sum, more);
}

static void scale_row(float *out, gint64 width, float by)
{
    for (gint64 i = 0; i < width; i += 16)
        _mm512_storeu_ps(out + i, _mm512_mul_ps(_mm512_loadu_ps(out + i), _mm512_set1_ps(by)));
}

/* Row i's shift becomes its largest score so far; what was summed with the old one shrinks. */
static void raise_shift(Work *w, float *out, gint64 i, gint64 n, gint64 width, float by)
{
    float most = n ? largest(w->scores[i], n) * by : -INFINITY;
    if (!(most > w->shift[i]))
        return;
    float shrink = exp2f(w->shift[i] - most);
    scale_row(out + i * width, width, shrink);
    w->sum[i] = _mm512_mul_ps(w->sum[i], _mm512_set1_ps(shrink));
    w->shift[i] = most;
}

/* From scores to p, for the chunk that begins at key `first`; the first row's keys end at `end`,
 * and each further row's one later if causal. The first chunk's largest score is the shift until
 * exponentials grow too large for it, which is rare, and cheaper than to look for the largest
 * everywhere: powers of two cost no precision. */
static void soften(Work *w, float *out, gint64 keys, gint64 width, gint64 first, gint64 end,
                   gboolean causal, float by)
{
    const __m512 limit = _mm512_set1_ps(0x1p30f);
    for (gint64 i = 0; i < ROWS; i++) {
        gint64 n = CLAMP((causal ? end + i : end) - first, 0, keys);
        if (first == 0)
            raise_shift(w, out, i, n, width, by);
        __m512 sum = exponentials(w->p[i], w->scores[i], n, keys, by, w->shift[i]);
        if (_mm512_cmp_ps_mask(sum, limit, _CMP_NLT_UQ)) {
            raise_shift(w, out, i, n, width, by);
            sum = exponentials(w->p[i], w->scores[i], n, keys, by, w->shift[i]);
        }
        w->sum[i] = _mm512_add_ps(w->sum[i], sum);
    }
}

/* ---- 32 queries ---- */

void moji_cpu_amx_attend(void *work, const CpuAmxHead *h, gint64 first, gint64 rows)
{
    Work *w = work;
    gint64 width = h->padded_width;
    float *out = (float *)(w + 1);
    guint16 *q = (guint16 *)(out + ROWS * width);
    memset(out, 0, ROWS * width * sizeof *out);
    memset(q, 0, ROWS * width * sizeof *q);
    for (gint64 i = 0; i < rows; i++)
        memcpy(q + i * width, (const char *)h->q + (first + i) * h->row_bytes, h->width * 2);
    for (gint64 i = 0; i < ROWS; i++) {
        w->shift[i] = -INFINITY;
        w->sum[i] = _mm512_setzero_ps();
    }
    float by = h->scale * 1.44269504f;
    gint64 end = h->causal ? first + 1 : h->m;
    unsigned before = _mm_getcsr();
    _mm_setcsr(before | 0x8000); /* flush to zero: results below the smallest normal are slow */
    moji_cpu_amx_configure();
    for (gint64 j = 0; j < h->padded_m; j += CHUNK) {
        gint64 keys = MIN(CHUNK, h->padded_m - j);
        multiply_keys(w, q, (const char *)h->k + j * width * 2, keys, width);
        soften(w, out, keys, width, j, end, h->causal, by);
        multiply_values(w, out, (const char *)h->v + j * width * 2, keys, width);
    }
    _tile_release();
    _mm_setcsr(before);
    for (gint64 i = 0; i < rows; i++) {
        scale_row(out + i * width, width, 1 / _mm512_reduce_add_ps(w->sum[i]));
        h->kernels->to_bf16((char *)h->out + (first + i) * h->row_bytes, out + i * width, h->width);
    }
}

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
