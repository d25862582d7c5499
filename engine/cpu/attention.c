/* attention.c: softmax(scale q k') v by head, tile by tile of queries.
 *
 * First k and v of every head are packed the way oneDNN's products like them. Then each thread
 * takes tiles of queries: scores of a tile against all keys in f32, softmax in f32 (its
 * exponentials are written over the scores, as bf16 where the tape is bf16), their product with v
 * in f32, and a division by the row's sum on the way out. The scores of a whole head never exist at
 * once.
 *
 * The surprising rule: the products are made for one thread, because each runs inside a thread. */
#include "onednn.h"
#include "attention_amx.h"
#include <omp.h>
#include <string.h>

/* Scores of a tile, in bytes: they should stay in a core's second cache. */
#define TILE_BYTES (1 << 20)
#define MAX_TILE 256

typedef struct { /* each thread's own memory objects; oneDNN shares the code behind them */
    dnnl_stream_t stream;
    CpuPrimitive pack_k, pack_v; /* from dense */
    CpuPrimitive scores, values;
} Worker;

typedef struct {
    MojiType type;
    gint64 batch, heads, n, m, width; /* width of a head */
    gint64 tile, tiles;               /* queries a tile, tiles a head */
    gint64 padded_m, padded_width;
    gsize k_bytes, v_bytes; /* a head's, packed */
    int workers;
    Worker *worker;
} Attention;

typedef struct {         /* a worker's part of the scratch memory */
    void *dense;         /* a tile of queries, or the keys of a head while they are packed */
    float *scores, *out; /* [tile,padded_m], [tile,padded_width] */
    float *sum;          /* [tile] */
    void *onednn;
} Room;

static void release(gpointer state)
{
    Attention *a = state;
    for (int i = 0; i < a->workers; i++) {
        Worker *w = &a->worker[i];
        moji_cpu_primitive_clear(&w->pack_k);
        moji_cpu_primitive_clear(&w->pack_v);
        moji_cpu_primitive_clear(&w->scores);
        moji_cpu_primitive_clear(&w->values);
        if (w->stream)
            dnnl_stream_destroy(w->stream);
    }
    g_free(a->worker);
    g_free(a);
}

/* ---- the scratch memory: all packed heads, then the workers' rooms ---- */

static gsize aligned(gsize bytes)
{
    return (bytes + 63) / 64 * 64;
}

static gsize room_bytes(const Attention *a, gsize part[5])
{
    const Worker *w = a->worker;
    part[0] = aligned(MAX(a->tile, a->padded_m) * a->padded_width * moji_type_bytes(a->type));
    part[1] = aligned(a->tile * a->padded_m * sizeof(float));
    part[2] = aligned(a->tile * a->padded_width * sizeof(float));
    part[3] = aligned(a->tile * sizeof(float));
    part[4] = aligned(
        MAX(moji_cpu_primitive_scratch(&w->scores), moji_cpu_primitive_scratch(&w->values)));
    return part[0] + part[1] + part[2] + part[3] + part[4];
}

static char *packed_head(const CpuPlan *plan, const Attention *a, gint64 head)
{
    return (char *)plan->scratch + head * (a->k_bytes + a->v_bytes);
}

static Room room_of(const CpuPlan *plan, const Attention *a, int worker)
{
    gsize part[5], bytes = room_bytes(a, part);
    char *at = packed_head(plan, a, a->batch * a->heads) + worker * bytes;
    Room r = {.dense = at};
    r.scores = (float *)(at += part[0]);
    r.out = (float *)(at += part[1]);
    r.sum = (float *)(at += part[2]);
    r.onednn = at + part[3];
    return r;
}

/* ---- preparing ---- */

/* dst [rows,columns] = src [rows,depth] times weights [depth,columns], these in any layout. */
static gboolean make_product(CpuPlan *plan, CpuStep *step, CpuPrimitive *p, gint64 rows,
                             gint64 depth, gint64 columns, GError **error)
{
    MojiType type = step->record->out->type;
    dnnl_engine_t e = plan->cpu->engine;
    dnnl_memory_desc_t src = moji_cpu_desc(type, 2, (gint64[]){rows, depth}, NULL);
    dnnl_memory_desc_t weights = moji_cpu_desc_any(type, 2, (gint64[]){depth, columns});
    dnnl_memory_desc_t dst = moji_cpu_desc(MOJI_F32, 2, (gint64[]){rows, columns}, NULL);
    dnnl_matmul_desc_t op;
    return moji_cpu_ok(dnnl_matmul_desc_init(&op, &src, &weights, NULL, &dst), step,
                       "describe a product", error) &&
           moji_cpu_primitive_init(p, step, e, &op, NULL, error) &&
           moji_cpu_primitive_bind(p, step, e, DNNL_ARG_SRC, &src, NULL, error) &&
           moji_cpu_primitive_bind(p, step, e, DNNL_ARG_WEIGHTS,
                                   moji_cpu_primitive_md(p, dnnl_query_weights_md), NULL, error) &&
           moji_cpu_primitive_bind(p, step, e, DNNL_ARG_DST, &dst, NULL, error) &&
           moji_cpu_primitive_bind(p, step, e, DNNL_ARG_SCRATCHPAD,
                                   moji_cpu_primitive_md(p, dnnl_query_scratchpad_md), NULL, error);
}

/* From dense rows to the layout of a product's weights. */
static gboolean make_pack(CpuPlan *plan, CpuStep *step, CpuPrimitive *p,
                          const dnnl_memory_desc_t *from, const CpuPrimitive *product,
                          GError **error)
{
    dnnl_engine_t e = plan->cpu->engine;
    const dnnl_memory_desc_t *to = moji_cpu_primitive_md(product, dnnl_query_weights_md);
    return moji_cpu_ok(dnnl_reorder_primitive_desc_create(&p->desc, from, e, to, e, NULL), step,
                       "reorder keys", error) &&
           moji_cpu_ok(dnnl_primitive_create(&p->primitive, p->desc), step, "reorder keys",
                       error) &&
           moji_cpu_primitive_bind(p, step, e, DNNL_ARG_FROM, from, NULL, error) &&
           moji_cpu_primitive_bind(p, step, e, DNNL_ARG_TO, to, NULL, error);
}

static gboolean make_worker(CpuPlan *plan, CpuStep *step, Worker *w, GError **error)
{
    Attention *a = step->state;
    gint64 m = a->padded_m, width = a->padded_width;
    dnnl_memory_desc_t k = moji_cpu_desc(a->type, 2, (gint64[]){width, m}, (gint64[]){1, width});
    dnnl_memory_desc_t v = moji_cpu_desc(a->type, 2, (gint64[]){m, width}, NULL);
    return moji_cpu_ok(dnnl_stream_create(&w->stream, plan->cpu->engine, dnnl_stream_default_flags),
                       step, "make a stream", error) &&
           make_product(plan, step, &w->scores, a->tile, width, m, error) &&
           make_product(plan, step, &w->values, a->tile, m, width, error) &&
           make_pack(plan, step, &w->pack_k, &k, &w->scores, error) &&
           make_pack(plan, step, &w->pack_v, &v, &w->values, error);
}

static gint64 round_up(gint64 n, gint64 to)
{
    return (n + to - 1) / to * to;
}

/* Tiles of about equal size, enough of them that every thread has work. */
static void choose_tile(Attention *a, int threads)
{
    gint64 most = CLAMP(TILE_BYTES / (gint64)(a->padded_m * sizeof(float)), 16, MAX_TILE);
    gint64 each = (threads + a->batch * a->heads - 1) / (a->batch * a->heads);
    gint64 tiles = MAX((a->n + most - 1) / most, MIN(each, (a->n + 15) / 16));
    a->tile = MIN(round_up((a->n + tiles - 1) / tiles, 16), a->n);
    a->tiles = (a->n + a->tile - 1) / a->tile;
}

static gboolean prepare(CpuPlan *plan, CpuStep *step, GError **error)
{
    MojiTensor *q = step->record->in[0], *k = step->record->in[1];
    Attention *a = g_new0(Attention, 1);
    step->state = a;
    a->type = q->type;
    a->batch = q->dim[0];
    a->heads = step->record->attr.attention.heads;
    a->n = q->dim[1];
    a->m = k->dim[1];
    a->width = q->dim[2] / a->heads;
    gint64 lanes = a->type == MOJI_BF16 ? 32 : 16;
    a->padded_m = round_up(a->m, lanes);
    a->padded_width = round_up(a->width, lanes);
    choose_tile(a, plan->cpu->threads);
    a->workers = plan->cpu->threads;
    a->worker = g_new0(Worker, a->workers);
    gboolean done = TRUE;
    omp_set_num_threads(1);
    for (int i = 0; done && i < a->workers; i++)
        done = make_worker(plan, step, &a->worker[i], error);
    omp_set_num_threads(plan->cpu->threads);
    if (!done)
        return FALSE;
    gsize part[5];
    a->k_bytes = aligned(dnnl_memory_desc_get_size(
        moji_cpu_primitive_md(&a->worker->scores, dnnl_query_weights_md)));
    a->v_bytes = aligned(dnnl_memory_desc_get_size(
        moji_cpu_primitive_md(&a->worker->values, dnnl_query_weights_md)));
    step->scratch_bytes =
        a->batch * a->heads * (a->k_bytes + a->v_bytes) + a->workers * room_bytes(a, part);
    return TRUE;
}

/* ---- running ---- */

/* A head's part of `rows` rows of x, dense and padded with zeros to [padded_rows,padded_width]. */
static void take_head(const Attention *a, char *dense, const char *x, gint64 rows,
                      gint64 padded_rows)
{
    gsize size = moji_type_bytes(a->type), width = a->width * size;
    gsize padded = a->padded_width * size, row = a->heads * width;
    for (gint64 i = 0; i < rows; i++) {
        memcpy(dense + i * padded, x + i * row, width);
        memset(dense + i * padded + width, 0, padded - width);
    }
    memset(dense + rows * padded, 0, (padded_rows - rows) * padded);
}

/* Where a head's row stands in q (n rows an image), k or v (m rows an image), in bytes. */
static gsize head_offset(const Attention *a, gint64 head, gint64 rows, gint64 row)
{
    gint64 image = head / a->heads, in_image = head % a->heads;
    return ((image * rows + row) * a->heads + in_image) * a->width * moji_type_bytes(a->type);
}

static dnnl_status_t pack(const Attention *a, Worker *w, CpuPrimitive *p, const void *x,
                          gint64 head, void *dense, void *packed)
{
    take_head(a, dense, (const char *)x + head_offset(a, head, a->m, 0), a->m, a->padded_m);
    moji_cpu_primitive_set(p, DNNL_ARG_FROM, dense);
    moji_cpu_primitive_set(p, DNNL_ARG_TO, packed);
    return moji_cpu_primitive_run(p, w->stream);
}

static dnnl_status_t pack_head(CpuPlan *plan, CpuStep *step, int worker, gint64 head)
{
    Attention *a = step->state;
    Worker *w = &a->worker[worker];
    Room room = room_of(plan, a, worker);
    char *k = packed_head(plan, a, head);
    dnnl_status_t status = pack(a, w, &w->pack_k, step->in[1], head, room.dense, k);
    return status ? status : pack(a, w, &w->pack_v, step->in[2], head, room.dense, k + a->k_bytes);
}

static dnnl_status_t multiply(CpuPrimitive *p, Worker *w, const void *src, const void *weights,
                              void *dst, void *scratch)
{
    moji_cpu_primitive_set(p, DNNL_ARG_SRC, src);
    moji_cpu_primitive_set(p, DNNL_ARG_WEIGHTS, weights);
    moji_cpu_primitive_set(p, DNNL_ARG_DST, dst);
    moji_cpu_primitive_set(p, DNNL_ARG_SCRATCHPAD, scratch);
    return moji_cpu_primitive_run(p, w->stream);
}

/* Row i of the exponentials takes the place of scores of rows that are done with: in bf16 it ends
 * before row i of the scores begins, except for row 0, which is written behind the reading. */
static void softmax_rows(const CpuKernels *kernels, const Attention *a, const Room *room,
                         const MojiAttr *attr, gint64 first, gint64 rows)
{
    gboolean bf16 = a->type == MOJI_BF16;
    for (gint64 i = 0; i < rows; i++)
        room->sum[i] = kernels->softmax(
            (char *)room->scores + i * a->padded_m * moji_type_bytes(a->type),
            room->scores + i * a->padded_m, attr->attention.causal ? first + i + 1 : a->m,
            a->padded_m, attr->attention.scale, bf16);
}

static dnnl_status_t run_tile(CpuPlan *plan, CpuStep *step, int worker, gint64 head, gint64 tile)
{
    Attention *a = step->state;
    Worker *w = &a->worker[worker];
    Room room = room_of(plan, a, worker);
    char *k = packed_head(plan, a, head);
    gint64 first = tile * a->tile, rows = MIN(a->tile, a->n - first);
    gsize at = head_offset(a, head, a->n, first);
    gsize row = a->heads * a->width * moji_type_bytes(a->type);

    take_head(a, room.dense, (const char *)step->in[0] + at, rows, a->tile);
    dnnl_status_t status = multiply(&w->scores, w, room.dense, k, room.scores, room.onednn);
    softmax_rows(plan->cpu->kernels, a, &room, &step->record->attr, first, rows);
    if (!status)
        status = multiply(&w->values, w, room.scores, k + a->k_bytes, room.out, room.onednn);
    for (gint64 i = 0; i < rows; i++)
        plan->cpu->kernels->store((char *)step->out + at + i * row, room.out + i * a->padded_width,
                                  1 / room.sum[i], a->width, a->type == MOJI_BF16);
    return status;
}

static gboolean run(CpuPlan *plan, CpuStep *step, GError **error)
{
    Attention *a = step->state;
    gint64 heads = a->batch * a->heads;
    dnnl_status_t failed = dnnl_success;
#pragma omp parallel
    {
        int worker = omp_get_thread_num();
        dnnl_status_t status = dnnl_success;
#pragma omp for schedule(dynamic)
        for (gint64 i = 0; i < heads; i++)
            status = MAX(status, pack_head(plan, step, worker, i));
#pragma omp for schedule(dynamic)
        for (gint64 i = 0; i < heads * a->tiles; i++)
            status = MAX(status, run_tile(plan, step, worker, i / a->tiles, i % a->tiles));
#pragma omp critical
        failed = MAX(failed, status);
    }
    return moji_cpu_ok(failed, step, "run it", error);
}

/* ---- the same on matrix tiles ---- */

#if defined(__x86_64__)
typedef struct {
    CpuAmxHead head;    /* what all heads have in common */
    gsize packed_bytes; /* of a head's keys, and of its values */
    gsize work_bytes;
} Tiles;

static gboolean prepare_tiles(CpuPlan *plan, CpuStep *step, GError **error)
{
    (void)error;
    MojiTensor *q = step->record->in[0], *k = step->record->in[1];
    const MojiAttr *attr = &step->record->attr;
    Tiles *t = g_new0(Tiles, 1);
    step->state = t;
    t->head = (CpuAmxHead){.kernels = plan->cpu->kernels,
                           .row_bytes = q->dim[2] * 2,
                           .m = k->dim[1],
                           .padded_m = round_up(k->dim[1], 32),
                           .width = q->dim[2] / attr->attention.heads,
                           .scale = attr->attention.scale,
                           .causal = attr->attention.causal};
    t->head.padded_width = round_up(t->head.width, 32);
    t->packed_bytes = t->head.padded_m * t->head.padded_width * 2;
    t->work_bytes = aligned(moji_cpu_amx_work_bytes(t->head.padded_width));
    step->scratch_bytes = q->dim[0] * attr->attention.heads * 2 * t->packed_bytes +
                          plan->cpu->threads * t->work_bytes;
    return TRUE;
}

/* Head i of all images' heads: where its rows begin, and its part of the scratch memory. */
static CpuAmxHead head_of(const CpuPlan *plan, const CpuStep *step, gint64 i)
{
    const Tiles *t = step->state;
    const MojiTensor *q = step->record->in[0];
    gint64 heads = step->record->attr.attention.heads;
    gsize at = (i / heads * q->dim[1] * heads + i % heads) * t->head.width * 2;
    CpuAmxHead h = t->head;
    h.q = (const char *)step->in[0] + at;
    h.out = (char *)step->out + at;
    h.k = (char *)plan->scratch + 2 * i * t->packed_bytes;
    h.v = (char *)h.k + t->packed_bytes;
    return h;
}

static void pack_tiles(const CpuPlan *plan, const CpuStep *step, gint64 i)
{
    const Tiles *t = step->state;
    gint64 heads = step->record->attr.attention.heads;
    gsize at = (i / heads * t->head.m * heads + i % heads) * t->head.width * 2;
    CpuAmxHead h = head_of(plan, step, i);
    moji_cpu_amx_pack_k((void *)h.k, (const char *)step->in[1] + at, &h);
    moji_cpu_amx_pack_v((void *)h.v, (const char *)step->in[2] + at, &h);
}

static gboolean run_tiles(CpuPlan *plan, CpuStep *step, GError **error)
{
    (void)error;
    const Tiles *t = step->state;
    const MojiTensor *q = step->record->in[0];
    gint64 heads = q->dim[0] * step->record->attr.attention.heads, n = q->dim[1];
    gint64 turns = (n + MOJI_CPU_AMX_ROWS - 1) / MOJI_CPU_AMX_ROWS;
    char *work = (char *)plan->scratch + 2 * heads * t->packed_bytes;
#pragma omp parallel
    {
        void *own = work + omp_get_thread_num() * t->work_bytes;
#pragma omp for schedule(dynamic)
        for (gint64 i = 0; i < heads; i++)
            pack_tiles(plan, step, i);
#pragma omp for schedule(dynamic, 4)
        for (gint64 i = 0; i < heads * turns; i++) {
            CpuAmxHead h = head_of(plan, step, i / turns);
            gint64 first = i % turns * MOJI_CPU_AMX_ROWS;
            moji_cpu_amx_attend(own, &h, first, MIN(MOJI_CPU_AMX_ROWS, n - first));
        }
    }
    return TRUE;
}

static const CpuOp tiles = {prepare_tiles, run_tiles, g_free};
#endif

static gboolean choose(CpuPlan *plan, CpuStep *step, GError **error)
{
#if defined(__x86_64__)
    if (plan->cpu->amx && moji_cpu_is_bf16(step->record->out)) {
        step->op = &tiles;
        return prepare_tiles(plan, step, error);
    }
#endif
    return prepare(plan, step, error);
}

const CpuOp moji_cpu_attention = {choose, run, release};
