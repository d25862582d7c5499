/* memory.c: what of a drawing is held at once; see drawing.h.
 *
 * First choice: everything, so that the next drawing starts at once, with as many pictures in a
 * call of the U-Net as fit. Then one network at a time, again with as many as fit; then also the
 * decoder on one part of the picture after the other, which changes it a little (pixels.c). */
#include "drawing.h"

#define SMALLEST_TILE 16 /* latents */

/* Bytes of the host's arrays: latents in two dozen forms, pixels as floats and bytes, what a
 * backend's operations need for themselves. */
static guint64 host_bytes(const MojiDrawing *d)
{
    enum { RESERVE = 64 << 20 };
    guint64 pixels = (guint64)d->height * d->width;
    return d->pictures * d->count * 4 * 24 +
           pixels * (3 * 4 * (d->edit ? 4 : 2) + 4 * d->order->count) + RESERVE;
}

/* Of a stage that is made only to be asked. */
static guint64 bytes_of(MojiStage *made)
{
    guint64 bytes = moji_stage_memory_all(made);
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
    *decoder = bytes_of(moji_stage_vae(e->model, e->type, 1, d->tile_h, d->tile_w));
    *encoder = 0;
    if (d->edit || moji_model_fills(e->model))
        *encoder = bytes_of(moji_stage_encode(e->model, e->type, 1, d->tile_h, d->tile_w));
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

int moji_drawing_wanted(const MojiDrawing *d)
{
    int count = d->order->count;
    int most = d->e->at_once ? d->e->at_once : MAX(d->e->backend->pictures, 1);
    int turns = (count + most - 1) / most;
    return (count + turns - 1) / turns;
}

gboolean moji_drawing_smaller_tiles(MojiDrawing *d)
{
    int side = MAX(d->tile_h, d->tile_w) * 3 / 4;
    if (side < SMALLEST_TILE)
        return FALSE;
    d->tile_h = MIN(d->h, side);
    d->tile_w = MIN(d->w, side);
    return TRUE;
}

/* Bytes with everything as it is set, held together or one network at a time. */
static guint64 needed(const MojiDrawing *d)
{
    const MojiEngine *e = d->e;
    guint64 text = moji_stage_memory_all(e->text), unet, decoder, encoder;
    unet = e->stage_pictures == d->pictures ? moji_stage_memory_all(e->unet)
                                            : bytes_of(moji_drawing_unet(d));
    vae_bytes(d, &decoder, &encoder);
    return host_bytes(d) + (d->one_at_a_time ? MAX(MAX(text, unet), MAX(decoder, encoder))
                                             : text + unet + decoder + encoder);
}

/* Halves the pictures drawn at once until all fits; FALSE if one is too many. */
static gboolean fit_pictures(MojiDrawing *d, guint64 limit)
{
    int most = d->pictures;
    while (needed(d) > limit) {
        if (d->pictures == 1) {
            d->pictures = most;
            return FALSE;
        }
        d->pictures = (d->pictures + 1) / 2;
    }
    return TRUE;
}

gboolean moji_drawing_plan(MojiDrawing *d, GError **error)
{
    MojiEngine *e = d->e;
    guint64 merged = moji_lora_merged_bytes(e->model); /* taken already, of what is left too */
    guint64 limit = e->memory ? e->memory - MIN(e->memory, merged)
                              : moji_stage_memory_left(e->backend) + held_bytes(e);
    d->tile_h = d->h;
    d->tile_w = d->w;
    d->one_at_a_time = FALSE;
    gboolean fits = fit_pictures(d, limit);
    if (!fits) {
        d->one_at_a_time = TRUE;
        fits = fit_pictures(d, limit);
    }
    if (!fits)
        d->pictures = 1;
    while (!fits && moji_drawing_smaller_tiles(d))
        fits = needed(d) <= limit;
    if (e->unet && e->stage_pictures != d->pictures)
        g_clear_pointer(&e->unet, moji_stage_free);
    if (e->vae && !same_tile(d, e->vae))
        g_clear_pointer(&e->vae, moji_stage_free);
    return fits || refuse(d, needed(d), limit, error);
}
