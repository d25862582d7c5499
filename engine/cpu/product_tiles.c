/* product_tiles.c: see product_tiles.h. What is multiplied with what; product_amx.c multiplies.
 *
 * A thread takes a band of pixels, as many as its second cache holds with all their channels, past
 * all outputs, 32 at a time. A linear layer's band is read where it is. A convolution's is packed
 * first: 32 channels after 32 channels.
 *
 * The surprising rule: a packed row ends with a zero pixel and an image begins with a zero row, so
 * that in one long row of pixels each tap of a 3x3 convolution is at one distance from everywhere,
 * whatever the edges. What is computed for the zeros themselves is thrown away. */
#include "product_tiles.h"
#if defined(__x86_64__)
#include "product_amx.h"
#include <omp.h>
#include <string.h>

#define ROWS 32                 /* positions at a time */
#define BAND_BYTES (1400 << 10) /* of the 2 MiB that a core's second cache has */
#define WIDE_BYTES (3200 << 10) /* of a band with more channels than are multiplied at a time */
#define PART_STEPS 144          /* 288 KiB of weights, which share that cache with the band */
#define STREAM_BYTES (8 << 20)  /* outputs of this size leave the caches before they are read */
#define PIXEL (MOJI_CPU_AMX_DEPTH * 2) /* bytes of a packed pixel's 32 channels */

typedef struct {
    gint64 images, h, w, in, out; /* a linear layer is one image of one line */
    gint64 phases;                /* 4 where the image is enlarged first, else 1 */
    gint64 taps;                  /* of a phase: 4, 9 or 1 */
    gint64 slabs, steps, blocks;  /* 32s of channels; by taps; 32s of outputs, by phases */
    gint64 pitch, rows, bands; /* of a band, in packed pixels and rows; taps 1: 1 and positions */
    gsize slab_bytes;          /* of a packed band */
    gsize worker_bytes;        /* of scratch memory */
    gint32 *offset;            /* [phases,steps] */
    const char *weight;        /* [blocks,steps] packed; kept with the weight */
    float *bias;               /* f32 [out]; NULL if there is none */
} Tiles;

typedef struct { /* a thread's part of the scratch memory */
    char *band;
    gint32 *pixel;
    float *sum;
    gint64 packed; /* the band that is there; -1 at first */
} Worker;

static void release(gpointer state)
{
    Tiles *t = state;
    g_free(t->offset);
    moji_cpu_free(t->bias);
    g_free(t);
}

static gint64 parts(gint64 whole, gint64 part)
{
    return (whole + part - 1) / part;
}

static gsize aligned(gsize bytes)
{
    return (bytes + 63) / 64 * 64;
}

gboolean moji_cpu_tiles_fit(const CpuPlan *plan, const MojiRecord *r)
{
    if (!plan->cpu->amx || r->out->type != MOJI_BF16)
        return FALSE;
    const MojiTensor *x = r->in[0];
    gint64 in = x->dim[x->rank - 1], out = r->out->dim[r->out->rank - 1];
    if (in < ROWS || out < ROWS || moji_cpu_rows(x) < ROWS)
        return FALSE;
    if (r->op == MOJI_OP_CONV2D && (r->attr.conv.kernel != 1 || r->attr.conv.pad_end != 0))
        return r->attr.conv.kernel == 3 && r->attr.conv.stride == 1 &&
               r->attr.conv.pad_begin == 1 && r->attr.conv.pad_end == 1;
    return in % MOJI_CPU_AMX_DEPTH == 0 && (r->op == MOJI_OP_LINEAR || r->attr.conv.stride == 1);
}

/* ---- preparing ---- */

static gint64 packed_rows(const Tiles *t)
{
    return t->images * (t->h + 1);
}

static gint64 band_positions(const Tiles *t)
{
    return parts(t->rows * t->pitch, ROWS) * ROWS;
}

/* Bands of about equal size that fit into the cache; where the channels are multiplied in parts, a
 * part of the band, as fewer bands read the weights fewer times. */
static void choose_bands(Tiles *t)
{
    gint64 row_bytes = t->slabs * PIXEL * t->pitch;
    if (t->taps == 1) {
        gint64 all = t->images * t->h * t->w, most = MAX(BAND_BYTES / row_bytes, ROWS);
        t->rows = parts(parts(all, parts(all, most)), ROWS) * ROWS;
        t->bands = parts(all, t->rows);
        return;
    }
    gint64 part_bytes = MIN(t->slabs, PART_STEPS / t->taps) * PIXEL * t->pitch;
    gint64 fit = MIN(BAND_BYTES / part_bytes, WIDE_BYTES / row_bytes);
    gint64 all = packed_rows(t) - 1, most = MAX(fit - 2, 1);
    t->rows = parts(all, parts(all, most));
    t->bands = parts(all, t->rows);
    /* a pixel before the first row, and what the last 32 positions reach beyond the last */
    t->slab_bytes = ((t->rows + 2) * t->pitch + 2 + ROWS) * PIXEL;
}

/* A tap's distance in rows or columns: for 3x3, -1 to 1; in a phase, one of two neighbours. */
static gint64 tap_distance(const Tiles *t, gint64 phase, gint64 tap)
{
    return t->phases == 1 ? tap - 1 : tap + phase - 1;
}

static void choose_offsets(Tiles *t)
{
    gint64 across = t->phases == 1 ? 3 : 2;
    t->offset = g_new(gint32, t->phases * t->steps);
    for (gint64 i = 0; i < t->phases * t->steps; i++) {
        gint64 phase = i / t->steps, slab = i % t->steps / t->taps, tap = i % t->taps;
        gint64 y = tap_distance(t, phase / 2, tap / across);
        gint64 x = tap_distance(t, phase % 2, tap % across);
        t->offset[i] = t->taps == 1 ? slab * PIXEL
                                    : (gint64)(slab * t->slab_bytes) + (y * t->pitch + x) * PIXEL;
    }
}

/* A 3x3 convolution of an enlarged image is four 2x2 ones of the small image, one for each pixel
 * that a small one becomes, as two of three neighbours are one and the same: [O,C,3,3] ->
 * [O,C,2,2,2,2], phases before taps. The sums are rounded once. */
static guint16 *split_weight(CpuPlan *plan, const Tiles *t, MojiWeight *weight, GError **error)
{
    const float *from = moji_cpu_staged(plan, weight, MOJI_F32, error);
    gint64 kernels = t->out * t->in;
    guint16 *to = from ? moji_cpu_alloc(kernels * 16 * sizeof *to, weight->name, error) : NULL;
    if (!to)
        return NULL;
#pragma omp parallel for schedule(static)
    for (gint64 i = 0; i < kernels; i++) {
        float sum[16] = {0};
        for (gint64 phase = 0; phase < 4; phase++)
            for (gint64 tap = 0; tap < 9; tap++) {
                /* where in the small image, from its pixel's upper left neighbour in the phase */
                gint64 y = (phase / 2 + tap / 3 + 1) / 2 - phase / 2;
                gint64 x = (phase % 2 + tap % 3 + 1) / 2 - phase % 2;
                sum[phase * 4 + y * 2 + x] += from[i * 9 + tap];
            }
        plan->cpu->kernels->to_bf16(to + i * 16, sum, 16);
    }
    return to;
}

static void pack_steps(const Tiles *t, char *packed, const guint16 *plain)
{
    gint64 all = t->phases * t->taps, blocks = t->blocks / t->phases;
#pragma omp parallel for schedule(static)
    for (gint64 block = 0; block < t->blocks; block++)
        for (gint64 s = 0; s < t->steps; s++) {
            gint64 o = block % blocks * MOJI_CPU_AMX_COLUMNS, c = s / t->taps * MOJI_CPU_AMX_DEPTH;
            gint64 tap = block / blocks * t->taps + s % t->taps;
            moji_cpu_amx_pack_step(packed + (block * t->steps + s) * MOJI_CPU_AMX_STEP_BYTES,
                                   plain + (o * t->in + c) * all + tap, t->in * all, all,
                                   t->out - o, t->in - c);
        }
}

static const char *pack_weight(CpuPlan *plan, const CpuStep *step, const Tiles *t, GError **error)
{
    MojiWeight *weight = step->weight[1];
    const char *key = t->phases == 1 ? "cpu tiles" : "cpu tiles of an enlarged image";
    char *made = moji_weight_prepared(weight, key);
    if (made)
        return made;
    guint16 *split = t->phases == 1 ? NULL : split_weight(plan, t, weight, error);
    const guint16 *plain = t->phases == 1 ? moji_cpu_staged(plan, weight, MOJI_BF16, error) : split;
    gsize bytes = t->blocks * t->steps * MOJI_CPU_AMX_STEP_BYTES;
    made = plain ? moji_cpu_alloc(bytes, weight->name, error) : NULL;
    if (made) {
        pack_steps(t, made, plain);
        moji_weight_set_prepared(weight, key, made, moji_cpu_free);
        moji_cpu_drop_pages(weight);
    }
    moji_cpu_free(split);
    return made;
}

/* The record before this one, if it enlarges the image for this one alone. */
static CpuStep *enlarging(const CpuPlan *plan, CpuStep *step)
{
    CpuStep *before = step - 1;
    const MojiTensor *x = step->record->in[0];
    if (step == plan->step || before->record->op != MOJI_OP_UPSAMPLE || before->record->out != x ||
        x->output || x->last > step - plan->step || step->record->attr.conv.kernel != 3)
        return NULL;
    return before;
}

static gboolean skip(CpuPlan *plan, CpuStep *step, GError **error)
{
    (void)plan;
    (void)step;
    (void)error;
    return TRUE;
}

static const CpuOp done_elsewhere = {.run = skip};

static void choose_shape(const MojiRecord *r, const MojiTensor *x, Tiles *t)
{
    gboolean flat = r->op == MOJI_OP_LINEAR || r->attr.conv.kernel == 1;
    t->in = x->dim[x->rank - 1];
    t->out = r->out->dim[r->out->rank - 1];
    t->taps = flat ? 1 : t->phases == 4 ? 4 : 9;
    t->images = flat ? 1 : x->dim[0];
    t->h = flat ? 1 : x->dim[1];
    t->w = flat ? moji_cpu_rows(x) : x->dim[2];
    t->pitch = flat ? 1 : t->w + 1;
    t->slabs = parts(t->in, MOJI_CPU_AMX_DEPTH);
    t->steps = t->slabs * t->taps;
    t->blocks = t->phases * parts(t->out, MOJI_CPU_AMX_COLUMNS);
}

static gboolean prepare(CpuPlan *plan, CpuStep *step, GError **error)
{
    MojiRecord *r = step->record;
    CpuStep *before = r->op == MOJI_OP_CONV2D ? enlarging(plan, step) : NULL;
    Tiles *t = g_new0(Tiles, 1);
    step->state = t;
    t->phases = before ? 4 : 1;
    if (before) {
        before->op = &done_elsewhere;
        step->in[0] = before->in[0];
    }
    choose_shape(r, before ? before->record->in[0] : r->in[0], t);
    choose_bands(t);
    choose_offsets(t);
    gint64 positions = band_positions(t);
    t->worker_bytes = aligned(t->slabs * t->slab_bytes) + aligned(positions * sizeof(gint32)) +
                      MAX(positions, 2 * ROWS) * MOJI_CPU_AMX_COLUMNS * sizeof(float);
    step->scratch_bytes = plan->cpu->threads * t->worker_bytes;
    t->weight = pack_weight(plan, step, t, error);
    if (!t->weight)
        return FALSE;
    if (r->in[2]) {
        t->bias = moji_cpu_alloc(t->out * sizeof(float), "a bias", error);
        if (!t->bias)
            return FALSE;
        moji_cpu_convert(plan->cpu, t->bias, MOJI_F32, step->weight[2]->data, step->weight[2]->type,
                         t->out);
    }
    return TRUE;
}

/* ---- packing ---- */

/* Row q of the packed image, from a zero row on; NULL if it is one. */
static const char *source_row(const Tiles *t, const char *x, gint64 q)
{
    gint64 image = q / (t->h + 1), y = q % (t->h + 1) - 1;
    if (y < 0 || q >= packed_rows(t))
        return NULL;
    return x + (image * t->h + y) * t->w * t->in * 2;
}

static void pack_row(const Tiles *t, char *to, const char *from)
{
    if (!from) {
        for (gint64 slab = 0; slab < t->slabs; slab++)
            memset(to + slab * t->slab_bytes, 0, t->pitch * PIXEL);
        return;
    }
    gint64 whole = t->in / MOJI_CPU_AMX_DEPTH, rest = t->in % MOJI_CPU_AMX_DEPTH * 2;
    for (gint64 i = 0; i < t->w; i++, from += t->in * 2) {
        char *at = to + i * PIXEL;
        for (gint64 slab = 0; slab < whole; slab++, at += t->slab_bytes)
            memcpy(at, from + slab * PIXEL, PIXEL);
        if (rest) {
            memcpy(at, from + whole * PIXEL, rest);
            memset(at + rest, 0, PIXEL - rest);
        }
    }
    for (gint64 slab = 0; slab < t->slabs; slab++)
        memset(to + slab * t->slab_bytes + t->w * PIXEL, 0, PIXEL);
}

/* Packs the band's rows, with the one before and the one after, or moves what the band before it
 * left; and notes where its positions go. */
static void pack_band(const Tiles *t, Worker *w, const char *x, gint64 band)
{
    gsize row_bytes = t->pitch * PIXEL;
    gint64 first = 1 + band * t->rows, ready = 0;
    char *top = w->band + PIXEL;
    if (w->packed >= 0 && w->packed == band - 1) {
        ready = 2;
        for (gint64 slab = 0; slab < t->slabs; slab++, top += t->slab_bytes)
            memmove(top, top + t->rows * row_bytes, ready * row_bytes);
        top = w->band + PIXEL;
    } else {
        for (gint64 slab = 0; slab < t->slabs; slab++)
            memset(w->band + slab * t->slab_bytes, 0, PIXEL);
    }
    for (gint64 j = ready; j < t->rows + 2; j++)
        pack_row(t, top + j * row_bytes, source_row(t, x, first - 1 + j));
    gint64 p = 0, end = band_positions(t), scale = t->phases == 1 ? 1 : 2;
    for (gint64 j = 0; j < t->rows; j++) {
        gint64 q = first + j, image = q / (t->h + 1), y = q % (t->h + 1) - 1;
        gboolean there = y >= 0 && q < packed_rows(t);
        for (gint64 i = 0; i < t->pitch; i++, p++)
            w->pixel[p] = there && i < t->w ? ((image * t->h + y) * scale * t->w + i) * scale : -1;
    }
    for (; p < end; p++)
        w->pixel[p] = -1;
    w->packed = band;
}

/* ---- running ---- */

static Worker worker_of(const CpuPlan *plan, const Tiles *t, int i)
{
    char *at = (char *)plan->scratch + i * t->worker_bytes;
    gsize pixels = aligned(band_positions(t) * sizeof(gint32));
    char *pixel = at + aligned(t->slabs * t->slab_bytes);
    return (Worker){at, (gint32 *)pixel, (float *)(pixel + pixels), -1};
}

static void run_block(const CpuStep *step, Worker *w, gint64 band, gint64 block)
{
    const Tiles *t = step->state;
    gsize block_bytes = t->steps * MOJI_CPU_AMX_STEP_BYTES;
    gint64 blocks = t->blocks / t->phases, phase = block / blocks;
    gint64 first = block % blocks * MOJI_CPU_AMX_COLUMNS;
    CpuAmxProduct p = {.positions = band_positions(t),
                       .offset = t->offset + phase * t->steps,
                       .steps = t->steps,
                       .part = PART_STEPS / t->taps * t->taps,
                       .weight = t->weight + block * block_bytes,
                       .next = block + 1 < t->blocks ? t->weight + (block + 1) * block_bytes : NULL,
                       .sum = w->sum,
                       .columns = MIN(t->out - first, MOJI_CPU_AMX_COLUMNS),
                       .bias = t->bias ? t->bias + first : NULL,
                       .out_bytes = t->out * 2};
    gint64 pixel = phase / 2 * 2 * t->w + phase % 2; /* of the first position */
    if (t->taps == 1) {
        pixel = band * t->rows;
        p.x = (const char *)step->in[0] + pixel * t->in * 2;
        p.row_bytes = t->in * 2;
        p.positions = MIN(t->rows, t->w - pixel);
    } else {
        if (w->packed != band)
            pack_band(t, w, step->in[0], band);
        p.x = w->band + PIXEL + t->pitch * PIXEL;
        p.row_bytes = PIXEL;
        p.pixel = w->pixel;
    }
    p.out = (char *)step->out + pixel * p.out_bytes + first * 2;
    if (step->record->in[3])
        p.residual = (const char *)step->in[3] + pixel * p.out_bytes + first * 2;
    p.stream =
        t->out % MOJI_CPU_AMX_COLUMNS == 0 && moji_tensor_bytes(step->record->out) >= STREAM_BYTES;
    moji_cpu_amx_multiply(&p);
}

static gboolean run(CpuPlan *plan, CpuStep *step, GError **error)
{
    (void)error;
    const Tiles *t = step->state;
    gint64 all = t->bands * t->blocks;
#pragma omp parallel
    {
        gint64 me = omp_get_thread_num(), threads = omp_get_num_threads();
        Worker w = worker_of(plan, t, me);
        for (gint64 i = all * me / threads; i < all * (me + 1) / threads; i++)
            run_block(step, &w, i / t->blocks, i % t->blocks);
    }
    return TRUE;
}

const CpuOp moji_cpu_tiles = {prepare, run, release};
#endif
