/* embed.c: prompt -> embeddings; see drawing.h. */
#include "drawing.h"
#include <string.h>

static const MojiChunks *chunks_of(const MojiDrawing *d, int b)
{
    return d->order->chunks[d->prompts == 2 ? b : 1];
}

/* The words of a chunk's ids, or learnt ones in their place -> out [n,C] */
static void look_up(const MojiModel *m, const MojiChunks *c, int chunk, float *out)
{
    const MojiWeight *table = moji_weights_find(m->clip_weights, MOJI_CLIP_WORDS);
    int width = m->clip.hidden_size;
    for (int i = 0; i < c->n; i++, out += width) {
        const float *vector = c->vectors[chunk * c->n + i];
        if (vector)
            memcpy(out, vector, width * sizeof *out);
        else
            moji_weight_numbers(table, (gsize)c->ids[chunk * c->n + i] * width, width, out);
    }
}

/* One chunk of each prompt through the text model -> z [B,n,C], weighted. */
static gboolean run_chunk(MojiDrawing *d, int chunk, float *z, GError **error)
{
    MojiStage *s = d->e->text;
    int n = moji_stage_tokens(d->e->model), width = d->e->model->clip.hidden_size;
    g_autofree gint32 *ids = g_new(gint32, d->prompts * n);
    g_autofree gint32 *positions = g_new(gint32, d->prompts * n);
    g_autofree float *words = d->e->stage_words ? g_new(float, d->prompts *n *width) : NULL;
    for (int b = 0; b < d->prompts; b++) {
        const MojiChunks *c = chunks_of(d, b);
        memcpy(ids + b * n, c->ids + chunk * n, n * sizeof *ids);
        if (words)
            look_up(d->e->model, c, chunk, words + b * n * width);
    }
    for (int i = 0; i < d->prompts * n; i++)
        positions[i] = i % n;
    moji_tape_write(s->tape, s->in[0], words ? (const void *)words : ids);
    moji_tape_write(s->tape, s->in[1], positions);
    if (!moji_tape_run(s->tape, d->cancel, error))
        return FALSE;
    moji_tape_read(s->tape, s->out, z);
    for (int b = 0; b < d->prompts; b++)
        moji_chunks_weigh(chunks_of(d, b), chunk, z + b * n * width, width);
    return TRUE;
}

gboolean moji_drawing_embed(MojiDrawing *d, GError **error)
{
    int n = moji_stage_tokens(d->e->model), width = d->e->model->clip.hidden_size;
    int chunks = d->order->chunks[1]->count, all = chunks * n;
    if (!moji_drawing_ready(d, &d->e->text, error))
        return FALSE;
    g_autofree gint32 *ids = g_new(gint32, d->prompts * all);
    g_autofree float *z = g_new(float, d->prompts *n *width);
    g_free(d->context);
    d->context = g_new(float, (gsize)d->prompts *all *width);
    for (int k = 0; k < chunks; k++) {
        if (!run_chunk(d, k, z, error))
            return FALSE;
        for (int b = 0; b < d->prompts; b++)
            memcpy(d->context + (gsize)(b * all + k * n) * width, z + b * n * width,
                   n * width * sizeof *z);
    }
    for (int b = 0; b < d->prompts; b++)
        memcpy(ids + b * all, chunks_of(d, b)->ids, all * sizeof *ids);
    return moji_drawing_finite(d, d->context, (gsize)d->prompts * all * width, "text", error) &&
           moji_drawing_dump(d, 0, "ids", MOJI_I32, 2, (const gint64[]){d->prompts, all}, ids,
                             error) &&
           moji_drawing_dump(d, 0, "embeddings", MOJI_F32, 3,
                             (const gint64[]){d->prompts, all, width}, d->context, error);
}
