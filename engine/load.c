/* load.c: the model, and stages that fit a drawing; see drawing.h. */
#include "drawing.h"
#include <string.h>
#include <sys/stat.h>

void moji_drawing_drop_stages(MojiEngine *e)
{
    g_clear_pointer(&e->text, moji_stage_free);
    g_clear_pointer(&e->unet, moji_stage_free);
    g_clear_pointer(&e->vae, moji_stage_free);
}

/* Changes when a file of the model does. Caller frees. */
static char *model_stamp(const char *folder)
{
    static const char *const parts[] = {"moji.json",
                                        "tokenizer/vocab.json",
                                        "text_encoder/config.json",
                                        "text_encoder/model.safetensors",
                                        "unet/config.json",
                                        "unet/diffusion_pytorch_model.safetensors",
                                        "vae/config.json",
                                        "vae/diffusion_pytorch_model.safetensors",
                                        "scheduler/scheduler_config.json"};
    GString *stamp = g_string_new(folder);
    for (gsize i = 0; i < G_N_ELEMENTS(parts); i++) {
        g_autofree char *path = g_build_filename(folder, parts[i], NULL);
        struct stat s;
        if (!stat(path, &s))
            g_string_append_printf(stamp, "|%" G_GINT64_FORMAT ",%" G_GINT64_FORMAT ".%09ld",
                                   (gint64)s.st_size, (gint64)s.st_mtim.tv_sec,
                                   (long)s.st_mtim.tv_nsec);
    }
    return g_string_free(stamp, FALSE);
}

gboolean moji_drawing_load(MojiEngine *e, const char *asked, GError **error)
{
    g_autofree char *bundled = asked && *asked ? NULL : moji_model_bundled();
    const char *folder = bundled ? bundled : asked;
    if (!folder || !*folder) {
        g_set_error(error, MOJI_ERROR, MOJI_ERROR_FILE,
                    "The bundled model is not installed; name a model folder");
        return FALSE;
    }
    g_autofree char *stamp = model_stamp(folder);
    if (e->model && !strcmp(stamp, e->stamp))
        return TRUE;
    moji_engine_unload(e);
    e->model = moji_model_open(folder, error);
    if (!e->model)
        return FALSE;
    e->stamp = g_steal_pointer(&stamp);
    e->weights = moji_weights_identity(moji_weights_path(e->model->unet_weights));
    return TRUE;
}

/* All stages at once, and the host's arrays: latents in a dozen forms, pixels as float and as
 * bytes, what a backend's operations need for themselves. */
static gboolean check_memory(const MojiDrawing *d, GError **error)
{
    enum { RESERVE = 64 << 20 };
    const MojiEngine *e = d->e;
    guint64 pixels = (guint64)d->order->size * d->order->size;
    return moji_stage_memory_check(moji_stage_memory(e->text) + moji_stage_memory(e->unet) +
                                       moji_stage_memory(e->vae) + d->count * 4 * 16 +
                                       pixels * (3 * 4 + 4 * d->order->count) + RESERVE,
                                   error);
}

gboolean moji_drawing_prepare(MojiDrawing *d, MojiType type, GError **error)
{
    MojiEngine *e = d->e;
    const MojiModel *m = e->model;
    if (e->type != type || e->stage_size != d->order->size || e->stage_batch != d->batch)
        moji_drawing_drop_stages(e);
    if (e->stage_skip != d->order->clip_skip)
        g_clear_pointer(&e->text, moji_stage_free);
    e->stage_skip = d->order->clip_skip;
    e->type = type;
    e->stage_size = d->order->size;
    e->stage_batch = d->batch;
    e->text = e->text ? e->text : moji_stage_text(m, type, d->batch, d->order->clip_skip);
    e->unet = e->unet ? e->unet : moji_stage_unet(m, type, d->batch, d->h, d->w);
    e->vae = e->vae ? e->vae : moji_stage_vae(m, type, 1, d->h, d->w);
    return check_memory(d, error) && moji_stage_prepare(e->text, e->backend, error) &&
           !moji_drawing_cancelled(d, error) && moji_stage_prepare(e->unet, e->backend, error) &&
           !moji_drawing_cancelled(d, error);
}
