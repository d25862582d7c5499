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
#include <omp.h>
#include <string.h>

/* Scores of a tile, in bytes: they should stay in a core's second cache. */
#define TILE_BYTES (1 << 20)
#define MAX_TILE 256

typedef struct { /* each thread's own memory objects; oneDNN shares the code behind them */
    dnnl_stream_t stream;
    CpuPrimitive pack_k, pack_v;
    CpuPrimitive scores[2], values[2]; /* of a whole tile and of the last, shorter one */
} Worker;

typedef struct {
    gint64 batch, heads, n, m, width; /* width of a head */
    gint64 tile, tiles;               /* queries a tile, tiles a head */
    gint64 stride;                    /* from row to row of the scores, in floats */
    gsize k_bytes, v_bytes;           /* a head's, packed */
    gsize worker_bytes;               /* a worker's part of the scratch memory */
    int workers;
    Worker *worker;
} Attention;

static void release(gpointer state)
{
    Attention *a = state;
    for (int i = 0; i < a->workers; i++) {
        Worker *w = &a->worker[i];
        moji_cpu_primitive_clear(&w->pack_k);
        moji_cpu_primitive_clear(&w->pack_v);
        for (int k = 0; k < 2; k++) {
            moji_cpu_primitive_clear(&w->scores[k]);
            moji_cpu_primitive_clear(&w->values[k]);
        }
        if (w->stream)
            dnnl_stream_destroy(w->stream);
    }
    g_free(a->worker);
    g_free(a);
}

static gsize aligned(gsize bytes)
{
    return (bytes + 63) / 64 * 64;
}

/* ---- preparing ---- */

/* dst [rows,columns] = src [rows,depth] times weights [depth,columns]. weights: any layout, or the
 * one that was chosen for the first tile. */
static gboolean make_product(CpuPlan *plan, CpuStep *step, CpuPrimitive *p,
                             const dnnl_memory_desc_t *src, const dnnl_memory_desc_t *weights,
                             const dnnl_memory_desc_t *dst, GError **error)
{
    dnnl_matmul_desc_t op;
    dnnl_engine_t e = plan->cpu->engine;
    if (!moji_cpu_ok(dnnl_matmul_desc_init(&op, src, weights, NULL, dst), step,
                     "describe a product", error) ||
        !moji_cpu_primitive_init(p, step, e, &op, NULL, error))
        return FALSE;
    return moji_cpu_primitive_bind(p, step, e, DNNL_ARG_SRC, src, NULL, error) &&
           moji_cpu_primitive_bind(p, step, e, DNNL_ARG_WEIGHTS,
                                   moji_cpu_primitive_md(p, dnnl_query_weights_md), NULL, error) &&
           moji_cpu_primitive_bind(p, step, e, DNNL_ARG_DST, dst, NULL, error) &&
           moji_cpu_primitive_bind(p, step, e, DNNL_ARG_SCRATCHPAD,
                                   moji_cpu_primitive_md(p, dnnl_query_scratchpad_md), NULL, error);
}

static gboolean make_pack(CpuPlan *plan, CpuStep *step, CpuPrimitive *p,
                          const dnnl_memory_desc_t *from, const dnnl_memory_desc_t *to,
                          GError **error)
{
    dnnl_engine_t e = plan->cpu->engine;
    return moji_cpu_ok(dnnl_reorder_primitive_desc_create(&p->desc, from, e, to, e, NULL), step,
                       "reorder keys", error) &&
           moji_cpu_ok(dnnl_primitive_create(&p->primitive, p->desc), step, "reorder keys",
                       error) &&
           moji_cpu_primitive_bind(p, step, e, DNNL_ARG_FROM, from, NULL, error) &&
           moji_cpu_primitive_bind(p, step, e, DNNL_ARG_TO, to, NULL, error);
}

/* The two products for tiles of `rows` queries. */
static gboolean make_tile(CpuPlan *plan, CpuStep *step, Worker *w, int which, gint64 rows,
                          GError **error)
{
    Attention *a = step->state;
    MojiType type = step->record->out->type;
    gint64 c = a->heads * a->width, halves = type == MOJI_BF16 ? 2 : 1;
    dnnl_memory_desc_t q = moji_cpu_desc(type, 2, (gint64[]){rows, a->width}, (gint64[]){c, 1});
    dnnl_memory_desc_t s =
        moji_cpu_desc(MOJI_F32, 2, (gint64[]){rows, a->m}, (gint64[]){a->stride, 1});
    dnnl_memory_desc_t p =
        moji_cpu_desc(type, 2, (gint64[]){rows, a->m}, (gint64[]){a->stride * halves, 1});
    dnnl_memory_desc_t o = moji_cpu_desc(MOJI_F32, 2, (gint64[]){rows, a->width}, NULL);
    dnnl_memory_desc_t k = moji_cpu_desc_any(type, 2, (gint64[]){a->width, a->m});
    dnnl_memory_desc_t v = moji_cpu_desc_any(type, 2, (gint64[]){a->m, a->width});
    if (which == 1) {
        k = *moji_cpu_primitive_md(&w->scores[0], dnnl_query_weights_md);
        v = *moji_cpu_primitive_md(&w->values[0], dnnl_query_weights_md);
    }
    return make_product(plan, step, &w->scores[which], &q, &k, &s, error) &&
           make_product(plan, step, &w->values[which], &p, &v, &o, error);
}

static gboolean make_worker(CpuPlan *plan, CpuStep *step, Worker *w, GError **error)
{
    Attention *a = step->state;
    MojiType type = step->record->out->type;
    gint64 c = a->heads * a->width, rest = a->n % a->tile;
    if (!moji_cpu_ok(dnnl_stream_create(&w->stream, plan->cpu->engine, dnnl_stream_default_flags),
                     step, "make a stream", error) ||
        !make_tile(plan, step, w, 0, a->tile, error) ||
        (rest && !make_tile(plan, step, w, 1, rest, error)))
        return FALSE;
    dnnl_memory_desc_t k = moji_cpu_desc(type, 2, (gint64[]){a->width, a->m}, (gint64[]){1, c});
    dnnl_memory_desc_t v = moji_cpu_desc(type, 2, (gint64[]){a->m, a->width}, (gint64[]){c, 1});
    return make_pack(plan, step, &w->pack_k, &k,
                     moji_cpu_primitive_md(&w->scores[0], dnnl_query_weights_md), error) &&
           make_pack(plan, step, &w->pack_v, &v,
                     moji_cpu_primitive_md(&w->values[0], dnnl_query_weights_md), error);
}

static gsize product_scratch(const Worker *w)
{
    gsize most = 0;
    for (int i = 0; i < 2; i++) {
        if (w->scores[i].desc)
            most = MAX(most, moji_cpu_primitive_scratch(&w->scores[i]));
        if (w->values[i].desc)
            most = MAX(most, moji_cpu_primitive_scratch(&w->values[i]));
    }
    return most;
}

/* Tiles of equal size, enough of them that every thread has work. */
static void choose_tile(Attention *a, int threads)
{
    gint64 most = CLAMP(TILE_BYTES / (gint64)(a->stride * sizeof(float)), 16, MAX_TILE);
    gint64 tiles = (a->n + most - 1) / most;
    gint64 wanted = (threads + a->batch * a->heads - 1) / (a->batch * a->heads);
    tiles = MIN(MAX(tiles, wanted), MAX(a->n / 16, 1));
    a->tile = (a->n + tiles - 1) / tiles;
    a->tiles = (a->n + a->tile - 1) / a->tile;
}

static gboolean prepare(CpuPlan *plan, CpuStep *step, GError **error)
{
    MojiTensor *q = step->record->in[0], *k = step->record->in[1];
    Attention *a = g_new0(Attention, 1);
    step->state = a;
    a->batch = q->dim[0];
    a->heads = step->record->attr.attention.heads;
    a->n = q->dim[1];
    a->m = k->dim[1];
    a->width = q->dim[2] / a->heads;
    /* one line more than needed: rows a power of two apart would fight for the same cache sets */
    a->stride = (a->m + 15) / 16 * 16 + 16;
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
    Worker *w = a->worker;
    a->k_bytes = aligned(
        dnnl_memory_desc_get_size(moji_cpu_primitive_md(&w->scores[0], dnnl_query_weights_md)));
    a->v_bytes = aligned(
        dnnl_memory_desc_get_size(moji_cpu_primitive_md(&w->values[0], dnnl_query_weights_md)));
    a->worker_bytes = aligned(a->tile * a->stride * sizeof(float)) +
                      aligned(a->tile * a->width * sizeof(float)) +
                      aligned(a->tile * sizeof(float)) + aligned(product_scratch(w));
    step->scratch_bytes =
        a->batch * a->heads * (a->k_bytes + a->v_bytes) + a->workers * a->worker_bytes;
    return TRUE;
}

/* ---- running ---- */

static dnnl_status_t pack_head(CpuPlan *plan, CpuStep *step, Worker *w, gint64 head)
{
    Attention *a = step->state;
    gsize size = moji_type_bytes(step->record->out->type);
    gsize at = (head / a->heads * a->m * a->heads + head % a->heads) * a->width * size;
    char *k = (char *)plan->scratch + head * (a->k_bytes + a->v_bytes);
    moji_cpu_primitive_set(&w->pack_k, DNNL_ARG_FROM, (const char *)step->in[1] + at);
    moji_cpu_primitive_set(&w->pack_k, DNNL_ARG_TO, k);
    moji_cpu_primitive_set(&w->pack_v, DNNL_ARG_FROM, (const char *)step->in[2] + at);
    moji_cpu_primitive_set(&w->pack_v, DNNL_ARG_TO, k + a->k_bytes);
    dnnl_status_t status = moji_cpu_primitive_run(&w->pack_k, w->stream);
    return status ? status : moji_cpu_primitive_run(&w->pack_v, w->stream);
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

static dnnl_status_t run_tile(CpuPlan *plan, CpuStep *step, int worker, gint64 head, gint64 tile)
{
    Attention *a = step->state;
    Worker *w = &a->worker[worker];
    const CpuKernels *kernels = plan->cpu->kernels;
    gboolean bf16 = moji_cpu_is_bf16(step->record->out),
             causal = step->record->attr.attention.causal;
    gint64 first = tile * a->tile, rows = MIN(a->tile, a->n - first), c = a->heads * a->width;
    gsize size = moji_type_bytes(step->record->out->type);
    gsize at = (head / a->heads * a->n + first) * c * size + head % a->heads * a->width * size;
    char *k = (char *)plan->scratch + head * (a->k_bytes + a->v_bytes);
    char *own = (char *)plan->scratch + a->batch * a->heads * (a->k_bytes + a->v_bytes) +
                worker * a->worker_bytes;
    float *s = (float *)own;
    float *o = (float *)(own + aligned(a->tile * a->stride * sizeof(float)));
    float *sum = (float *)((char *)o + aligned(a->tile * a->width * sizeof(float)));
    void *scratch = (char *)sum + aligned(a->tile * sizeof(float));

    dnnl_status_t status =
        multiply(&w->scores[rows != a->tile], w, (const char *)step->in[0] + at, k, s, scratch);
    for (gint64 i = 0; i < rows; i++)
        sum[i] =
            kernels->softmax(s + i * a->stride, s + i * a->stride, causal ? first + i + 1 : a->m,
                             a->m, step->record->attr.attention.scale, bf16);
    if (!status)
        status = multiply(&w->values[rows != a->tile], w, s, k + a->k_bytes, o, scratch);
    for (gint64 i = 0; i < rows; i++)
        kernels->store((char *)step->out + at + i * c * size, o + i * a->width, 1 / sum[i],
                       a->width, bf16);
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
            status = MAX(status, pack_head(plan, step, &a->worker[worker], i));
#pragma omp for schedule(dynamic)
        for (gint64 i = 0; i < heads * a->tiles; i++)
            status = MAX(status, run_tile(plan, step, worker, i / a->tiles, i % a->tiles));
#pragma omp critical
        failed = MAX(failed, status);
    }
    return moji_cpu_ok(failed, step, "run it", error);
}

const CpuOp moji_cpu_attention = {prepare, run, release};
