/* load.c: the model, and stages that fit a drawing; see drawing.h. */
#include "drawing.h"
#include "folder.h"
#include <string.h>

void moji_drawing_drop_stages(MojiEngine *e)
{
    g_clear_pointer(&e->text, moji_stage_free);
    g_clear_pointer(&e->unet, moji_stage_free);
    g_clear_pointer(&e->vae, moji_stage_free);
}

gboolean moji_drawing_load(MojiEngine *e, const MojiRequest *r, GError **error)
{
    gboolean named = r->model && *r->model;
    g_autofree char *model = named ? moji_folder_find(r->model) : moji_model_bundled();
    if (!model || !*model) {
        g_set_error(error, MOJI_ERROR, MOJI_ERROR_FILE,
                    "The bundled model is not installed; name a model");
        return FALSE;
    }
    g_autofree char *stamp = moji_model_stamp(model, r->vae);
    if (e->model && !strcmp(stamp, e->stamp))
        return TRUE;
    moji_engine_unload(e);
    e->model = moji_model_open_with_vae(model, r->vae, error);
    if (!e->model)
        return FALSE;
    e->stamp = g_steal_pointer(&stamp);
    e->weights = moji_weights_identity(moji_weights_path(e->model->unet_weights));
    return TRUE;
}

gboolean moji_drawing_begin(MojiDrawing *d, MojiType type, GError **error)
{
    MojiEngine *e = d->e;
    if (e->type != type || e->stage_h != d->h || e->stage_w != d->w || e->stage_batch != d->batch)
        moji_drawing_drop_stages(e);
    const MojiChunks *prompt = d->order->chunks[1];
    gboolean words = prompt->learnt || (d->batch == 2 && d->order->chunks[0]->learnt);
    int chunks = prompt->count;
    if (e->stage_skip != d->order->clip_skip || e->stage_words != words)
        g_clear_pointer(&e->text, moji_stage_free);
    if (e->stage_chunks != chunks)
        g_clear_pointer(&e->unet, moji_stage_free);
    e->stage_skip = d->order->clip_skip;
    e->stage_words = words;
    e->stage_chunks = chunks;
    e->type = type;
    e->stage_h = d->h;
    e->stage_w = d->w;
    e->stage_batch = d->batch;
    return moji_drawing_plan(d, error);
}

static MojiStage *stage_new(const MojiDrawing *d, MojiStage *const *s)
{
    const MojiEngine *e = d->e;
    return s == &e->text
               ? moji_stage_text(e->model, e->type, d->batch, d->order->clip_skip, e->stage_words)
           : s == &e->unet
               ? moji_stage_unet_long(e->model, e->type, d->batch, d->h, d->w, e->stage_chunks)
               : moji_stage_vae(e->model, e->type, 1, d->tile_h, d->tile_w);
}

/* A part of the model other than `kept`'s goes, and with it what its weights were made into. */
static void make_room(MojiStage **s, MojiWeights *weights, const MojiStage *kept)
{
    if (weights == kept->weights)
        return;
    g_clear_pointer(s, moji_stage_free);
    moji_weights_release(weights);
}

gboolean moji_drawing_ready(MojiDrawing *d, MojiStage **s, GError **error)
{
    MojiEngine *e = d->e;
    double start = moji_drawing_now();
    *s = *s ? *s : stage_new(d, s);
    if (d->one_at_a_time) {
        make_room(&e->text, e->model->clip_weights, *s);
        make_room(&e->unet, e->model->unet_weights, *s);
        make_room(&e->vae, e->model->vae_weights, *s);
    }
    gboolean ready = moji_stage_prepare(*s, e->backend, error);
    e->times.load += moji_drawing_now() - start;
    return ready && !moji_drawing_cancelled(d, error);
}
