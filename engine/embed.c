/* embed.c: prompt -> embeddings; see drawing.h. */
#include "drawing.h"

gboolean moji_drawing_embed(MojiDrawing *d, GError **error)
{
    MojiEngine *e = d->e;
    if (!moji_drawing_ready(d, &e->text, error))
        return FALSE;
    MojiStage *s = e->text;
    int n = moji_stage_tokens(e->model), width = e->model->clip.hidden_size;
    g_autofree gint32 *ids = g_new(gint32, d->batch * n);
    g_autofree gint32 *positions = g_new(gint32, d->batch * n);
    g_autofree char *dropped = NULL;
    if (d->batch == 2)
        moji_tokenizer_encode(e->model->tokenizer, d->order->negative, ids, &dropped);
    if (dropped)
        moji_order_warn(d->order, "The negative prompt is too long; this was left out: \"%s\".",
                        dropped);
    moji_tokenizer_encode(e->model->tokenizer, d->order->text, ids + (d->batch - 1) * n, NULL);
    for (int i = 0; i < d->batch * n; i++)
        positions[i] = i % n;
    moji_tape_write(s->tape, s->in[0], ids);
    moji_tape_write(s->tape, s->in[1], positions);
    if (!moji_tape_run(s->tape, d->cancel, error))
        return FALSE;
    g_free(d->context);
    d->context = g_new(float, (gsize)d->batch *n *width);
    moji_tape_read(s->tape, s->out, d->context);
    return moji_drawing_finite(d, d->context, (gsize)d->batch * n * width, "text", error) &&
           moji_drawing_dump(d, "ids", MOJI_I32, 2, (const gint64[]){d->batch, n}, ids, error) &&
           moji_drawing_dump(d, "embeddings", MOJI_F32, 3, (const gint64[]){d->batch, n, width},
                             d->context, error);
}
