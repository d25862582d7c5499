/* memory.c: what of a drawing is held at once; see drawing.h.
 *
 * First choice: everything, so that the next drawing starts at once. Then one network at a time;
 * then also the decoder on one part of the picture after the other, which changes it a little,
 * since its norms then see only a part. */
#include "drawing.h"

#define SMALLEST_TILE 16 /* latents */

/* Bytes of the host's arrays: latents in two dozen forms, pixels as floats and bytes, what a
 * backend's operations need for themselves. */
static guint64 host_bytes(const MojiDrawing *d)
{
    enum { RESERVE = 64 << 20 };
    guint64 pixels = (guint64)d->height * d->width;
    return d->count * 4 * 24 + pixels * (3 * 4 * (d->edit ? 4 : 2) + 4 * d->order->count) + RESERVE;
}

/* Of a stage that is there or, if not, of one that is made only to be asked. */
static guint64 bytes_of(MojiStage *held, MojiStage *made)
{
    guint64 bytes = moji_stage_memory_all(held ? held : made);
    moji_stage_free(made);
    return bytes;
}

/* Bytes of this process that may be used again: what prepared stages hold. */
static guint64 held_bytes(const MojiEngine *e)
{
    const MojiStage *stages[] = {e->text, e->unet, e->vae};
    guint64 bytes = 0;
    for (int i = 0; i < 3; i++)
        if (stages[i])
            bytes += moji_stage_memory_all(stages[i]) - moji_stage_memory(stages[i]);
    return bytes;
}

static gboolean same_tile(const MojiDrawing *d, const MojiStage *vae)
{
    const gint64 *dim = vae->in[0]->dim;
    return dim[1] == d->tile_h && dim[2] == d->tile_w;
}

/* Decoder and encoder with the tiles as they are set. */
static void vae_bytes(const MojiDrawing *d, guint64 *decoder, guint64 *encoder)
{
    const MojiEngine *e = d->e;
    *decoder = bytes_of(NULL, moji_stage_vae(e->model, e->type, 1, d->tile_h, d->tile_w));
    *encoder = 0;
    if (d->edit || moji_model_fills(e->model))
        *encoder = bytes_of(NULL, moji_stage_encode(e->model, e->type, 1, d->tile_h, d->tile_w));
}

static gboolean refuse(const MojiDrawing *d, guint64 bytes, guint64 limit, GError **error)
{
    g_autofree char *wanted = g_format_size_full(bytes, G_FORMAT_SIZE_IEC_UNITS);
    g_autofree char *found = g_format_size_full(limit, G_FORMAT_SIZE_IEC_UNITS);
    g_set_error(error, MOJI_ERROR, MOJI_ERROR_MEMORY,
                d->e->memory ? "This drawing needs about %s of memory and %s were allowed"
                             : "This drawing needs about %s of memory and %s is available",
                wanted, found);
    return FALSE;
}

gboolean moji_drawing_plan(MojiDrawing *d, GError **error)
{
    MojiEngine *e = d->e;
    const MojiModel *m = e->model;
    guint64 merged = moji_lora_merged_bytes(m); /* taken already, of what is left too */
    guint64 limit = e->memory ? e->memory - MIN(e->memory, merged)
                              : moji_stage_memory_left(e->backend) + held_bytes(e);
    guint64 text = bytes_of(
        e->text,
        e->text ? NULL : moji_stage_text(m, e->type, d->batch, e->stage_skip, e->stage_words));
    guint64 unet = bytes_of(
        e->unet,
        e->unet ? NULL : moji_stage_unet_long(m, e->type, d->batch, d->h, d->w, e->stage_chunks));
    guint64 host = host_bytes(d), decoder, encoder, least;
    int side = MAX(d->h, d->w);
    do {
        d->tile_h = MIN(d->h, side);
        d->tile_w = MIN(d->w, side);
        vae_bytes(d, &decoder, &encoder);
        gboolean whole = side >= MAX(d->h, d->w);
        least = host + MAX(MAX(text, unet), MAX(decoder, encoder));
        d->one_at_a_time = !whole || host + text + unet + decoder + encoder > limit;
        side = side * 3 / 4;
    } while (least > limit && side >= SMALLEST_TILE);
    if (e->vae && !same_tile(d, e->vae))
        g_clear_pointer(&e->vae, moji_stage_free);
    return least <= limit || refuse(d, least, limit, error);
}
