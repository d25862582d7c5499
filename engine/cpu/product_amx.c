/* product_amx.c: see product_amx.h.
 *
 * 32 positions by 32 outputs fill four tiles; a step loads two tiles of positions and two of
 * weights and multiplies each with each. The weights of `part` steps serve all positions before the
 * next come, so that they are read from the second cache. Meanwhile the next 32 outputs' weights
 * are fetched, and the positions before are rounded and stored, which takes no time beside the
 * tiles.
 *
 * The surprising rule: a tile of weights holds pairs: row r has channels 2r and 2r+1 of each output
 * side by side. */
#include "attention_amx.h"
#include "product_amx.h"
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
#include <string.h>

#define TILE 16 /* rows of a tile, and its columns in 32-bit elements */
#define ROWS 32
#define COLUMNS MOJI_CPU_AMX_COLUMNS
#define STEP_BYTES MOJI_CPU_AMX_STEP_BYTES
#define LINE 64 /* bytes of a line of the caches */

void moji_cpu_amx_pack_step(void *packed, const guint16 *from, gsize out_stride, gsize in_stride,
                            gint64 outputs, gint64 channels)
{
    guint16 *to = packed;
    memset(to, 0, STEP_BYTES);
    for (gint64 o = 0; o < MIN(outputs, COLUMNS); o++) {
        guint16 *column = to + o / TILE * (STEP_BYTES / 4) + o % TILE * 2;
        const guint16 *row = from + o * out_stride;
        for (gint64 c = 0; c < MIN(channels, MOJI_CPU_AMX_DEPTH); c++)
            column[c / 2 * 2 * TILE + c % 2] = row[c * in_stride];
    }
}

static __m512 widen(const char *bf16, __mmask16 there)
{
    return _mm512_castsi512_ps(
        _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(there, bf16)), 16));
}

/* 32 positions whose sums are complete, on their way to their pixels. */
typedef struct {
    const float *sum;
    gint64 first, row, end; /* the first's position; rows [row,end) are still to go */
} Finished;

/* `rows` of them go. */
static inline void finish(const CpuAmxProduct *p, Finished *f, gint64 rows)
{
    __mmask32 there = (__mmask32)((G_GUINT64_CONSTANT(1) << p->columns) - 1);
    __mmask16 left = (__mmask16)there, right = (__mmask16)(there >> 16);
    for (gint64 end = MIN(f->row + rows, f->end); f->row < end; f->row++) {
        gint64 pixel = p->pixel ? p->pixel[f->first + f->row] : f->first + f->row;
        if (pixel < 0)
            continue;
        const float *sum = f->sum + f->row * COLUMNS;
        __m512 a = _mm512_load_ps(sum), b = _mm512_load_ps(sum + TILE);
        if (p->bias) {
            a = _mm512_add_ps(a, _mm512_maskz_loadu_ps(left, p->bias));
            b = _mm512_add_ps(b, _mm512_maskz_loadu_ps(right, p->bias + TILE));
        }
        if (p->residual) {
            const char *residual = p->residual + pixel * p->out_bytes;
            a = _mm512_add_ps(a, widen(residual, left));
            b = _mm512_add_ps(b, widen(residual + LINE / 2, right));
        }
        char *out = p->out + pixel * p->out_bytes;
        __m512i values = (__m512i)_mm512_cvtne2ps_pbh(b, a);
        if (p->stream)
            _mm512_stream_si512((__m512i *)out, values);
        else
            _mm512_mask_storeu_epi16(out, there, values);
    }
}

/* sum [32,32] = or += steps [first,end) of the 32 positions from x on. Between the steps rows of
 * the positions before them are finished, and `lines` lines of weights to come are fetched. */
static void multiply_steps(const CpuAmxProduct *p, const char *x, float *sum, gint64 first,
                           gint64 end, Finished *before, const char *next, gint64 lines)
{
    gsize row = p->row_bytes, sum_row = COLUMNS * sizeof *sum;
    gint64 rows = (ROWS + end - first - 1) / (end - first);
    if (first == 0) {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    } else {
        _tile_loadd(0, sum, sum_row);
        _tile_loadd(1, sum + TILE, sum_row);
        _tile_loadd(2, sum + TILE * COLUMNS, sum_row);
        _tile_loadd(3, sum + TILE * COLUMNS + TILE, sum_row);
    }
    const char *weight = p->weight + first * STEP_BYTES;
    for (gint64 s = first; s < end; s++, weight += STEP_BYTES) {
        const char *upper = x + p->offset[s], *lower = upper + TILE * row;
        _tile_loadd(4, upper, row);
        _tile_loadd(6, weight, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, weight + STEP_BYTES / 2, 64);
        _tile_dpbf16ps(1, 4, 7);
        _tile_loadd(5, lower, row);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
        finish(p, before, rows);
        for (gint64 i = 0; i < lines; i++, next += LINE)
            _mm_prefetch(next, _MM_HINT_T1);
    }
    _tile_stored(0, sum, sum_row);
    _tile_stored(1, sum + TILE, sum_row);
    _tile_stored(2, sum + TILE * COLUMNS, sum_row);
    _tile_stored(3, sum + TILE * COLUMNS + TILE, sum_row);
}

void moji_cpu_amx_multiply(const CpuAmxProduct *p)
{
    gint64 blocks = (p->positions + ROWS - 1) / ROWS;
    gint64 lines = p->next ? (STEP_BYTES / LINE + blocks - 1) / blocks : 0;
    const char *next = p->next;
    Finished before = {};
    moji_cpu_amx_configure();
    for (gint64 s = 0; s < p->steps; s += p->part)
        for (gint64 block = 0; block < blocks; block++) {
            /* the last block reaches back to positions that the one before it has done */
            gint64 at = block * ROWS, first = MIN(at, p->positions - ROWS);
            gint64 end = MIN(s + p->part, p->steps);
            float *sum = p->sum + (p->part < p->steps ? block : block % 2) * ROWS * COLUMNS;
            if (p->next && next >= p->next + p->steps * STEP_BYTES)
                lines = 0;
            multiply_steps(p, p->x + first * (gint64)p->row_bytes, sum, s, end, &before, next,
                           lines);
            next += (end - s) * lines * LINE;
            if (end == p->steps)
                before = (Finished){sum, first, at - first, MIN(ROWS, p->positions - first)};
        }
    finish(p, &before, ROWS);
    _mm_sfence(); /* what went past the caches is there for all */
    _tile_release();
}

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
