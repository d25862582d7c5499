/* draw.c: see draw.h.
 *
 * The surprising rule: each picture has a generator of its own, so that picture 3 of
 * a drawing with seed 7 is the picture of seed 9, whatever else is drawn with it. */
#include "drawing.h"
#include "cutout.h"
#include "npy.h"
#include "recipe.h"
#include <math.h>
#include <string.h>

/* A decoder's block above this is given back after the drawing: it is larger than the model. */
#define KEEP_BYTES ((gsize)256 << 20)

/* ---- the engine ---- */

MojiEngine *moji_engine_new(const char *backend, int threads, GError **error)
{
    MojiBackend *b = moji_backend_open(backend, threads, error);
    if (!b)
        return NULL;
    MojiEngine *e = g_new0(MojiEngine, 1);
    e->backend = b;
    e->threads = threads;
    return e;
}

void moji_engine_unload(MojiEngine *e)
{
    moji_drawing_drop_stages(e);
    moji_drawing_forget_loras(e);
    g_clear_pointer(&e->sketch, moji_sketch_free);
    g_clear_pointer(&e->model, moji_model_free);
    g_clear_pointer(&e->stamp, g_free);
    g_clear_pointer(&e->weights, g_free);
}

void moji_engine_free(MojiEngine *e)
{
    if (!e)
        return;
    moji_engine_unload(e);
    moji_backend_close(e->backend);
    g_free(e->type_name);
    g_free(e->dump);
    g_free(e);
}

const char *moji_engine_describe(MojiEngine *e)
{
    return e->backend->describe(e->backend);
}

const char *moji_engine_note(MojiEngine *e)
{
    return e->backend->note;
}

void moji_engine_set_type(MojiEngine *e, const char *type)
{
    MojiType known;
    g_assert(!type || moji_type_parse(type, &known));
    g_free(e->type_name);
    e->type_name = g_strdup(type);
}

void moji_engine_set_dump(MojiEngine *e, const char *folder)
{
    g_free(e->dump);
    e->dump = g_strdup(folder);
}

void moji_engine_set_previews(MojiEngine *e, gboolean previews)
{
    e->previews = previews;
}

void moji_engine_set_memory(MojiEngine *e, guint64 bytes)
{
    e->memory = bytes;
}

void moji_engine_set_at_once(MojiEngine *e, int pictures)
{
    e->at_once = pictures;
}

const MojiTimes *moji_engine_times(MojiEngine *e)
{
    return &e->times;
}

guint64 moji_engine_device_peak(MojiEngine *e)
{
    return e->backend->peak ? e->backend->peak(e->backend) : 0;
}

/* ---- small things ---- */

double moji_drawing_now(void)
{
    return g_get_monotonic_time() / 1e6;
}

void moji_drawing_tell(const MojiDrawing *d, MojiProgress p)
{
    p.image = d->image;
    p.images = d->order ? d->order->count : 1;
    if (d->progress)
        d->progress(&p, d->user_data);
}

gboolean moji_drawing_cancelled(const MojiDrawing *d, GError **error)
{
    if (!g_cancellable_is_cancelled(d->cancel))
        return FALSE;
    g_set_error(error, MOJI_ERROR, MOJI_ERROR_CANCELLED, "Cancelled");
    return TRUE;
}

gboolean moji_drawing_dump(const MojiDrawing *d, int image, const char *name, MojiType type,
                           int rank, const gint64 *dim, const void *data, GError **error)
{
    if (!d->e->dump)
        return TRUE;
    g_autofree char *number = image ? g_strdup_printf("%d", image + 1) : g_strdup("");
    g_autofree char *folder = g_build_filename(d->e->dump, number, NULL);
    return moji_npy_write(folder, name, type, rank, dim, data, error);
}

/* Looks in the network's file first: what is damaged there, no other type or guidance mends. */
static void explain_not_finite(MojiDrawing *d, const char *network, GError **error)
{
    MojiModel *m = d->e->model;
    MojiWeights *w = !strcmp(network, "text")   ? m->clip_weights
                     : !strcmp(network, "unet") ? m->unet_weights
                                                : m->vae_weights;
    const MojiWeight *t = moji_weights_damaged(w);
    d->overflow = !t;
    if (t)
        moji_error_file(error, moji_weights_path(w),
                        "tensor %s has numbers that are not finite: the file is damaged", t->name);
    else
        g_set_error(error, MOJI_ERROR, MOJI_ERROR_BACKEND,
                    "The %s network gave numbers that are not finite, in %s; the guidance of %g "
                    "may be too strong",
                    network, moji_type_name(d->e->type), d->order->guidance);
}

gboolean moji_drawing_finite(MojiDrawing *d, const float *x, gsize count, const char *network,
                             GError **error)
{
    for (gsize i = 0; i < count; i++)
        if (!isfinite(x[i])) {
            explain_not_finite(d, network, error);
            return FALSE;
        }
    return TRUE;
}

/* ---- all of it ---- */

/* Cuts out if that was asked for, and writes the recipe. */
static gboolean finish(MojiDrawing *d, MojiImage *image, GError **error)
{
    MojiEngine *e = d->e;
    GError *e_cut = NULL;
    MojiCutout report;
    gsize before = d->order->warnings->len;
    double start = moji_drawing_now();
    gboolean cut = FALSE;
    if (d->order->transparent) {
        moji_drawing_tell(d, (MojiProgress){.phase = MOJI_PHASE_CUTOUT});
        cut = moji_cutout(image, NULL, &report, &e_cut);
        e->times.cutout += moji_drawing_now() - start;
    }
    if (e_cut && e_cut->code != MOJI_ERROR_NOT_FLAT) {
        g_propagate_error(error, e_cut);
        return FALSE;
    }
    if (e_cut)
        moji_order_warn(d->order, "The background was kept: %s", e_cut->message);
    g_clear_error(&e_cut);
    if (d->edit)
        moji_edit_restore(d->edit, image);
    image->recipe = moji_order_recipe(d->order, e->model, e->weights, e->type, d->image,
                                      cut ? report.background : NULL);
    /* What was said about this picture is not true of the next. */
    g_string_truncate(d->order->warnings, before);
    return TRUE;
}

/* From latents x [h,w,c]. */
static gboolean draw_one(MojiDrawing *d, const float *x, GPtrArray *images, GError **error)
{
    moji_drawing_tell(d, (MojiProgress){.phase = MOJI_PHASE_DECODING});
    MojiImage *image = moji_drawing_decode(d, x, error);
    if (!image)
        return FALSE;
    g_ptr_array_add(images, image);
    return !moji_drawing_cancelled(d, error) && finish(d, image, error);
}

/* As many of the pictures from d->image on as are drawn at once. */
static gboolean draw_some(MojiDrawing *d, GPtrArray *images, GError **error)
{
    if (!moji_drawing_ready(d, &d->e->unet, error))
        return FALSE;
    int n = MIN(d->pictures, d->order->count - d->image);
    g_autofree float *x = g_new(float, n * d->count);
    gboolean ok = moji_drawing_denoise(d, n, x, error) && !moji_drawing_cancelled(d, error);
    for (int i = 0; ok && i < n; i++, d->image++)
        ok = draw_one(d, x + i * d->count, images, error);
    return ok;
}

/* Everything that is held from the start, so that a lack of it is told at the start. */
static gboolean prepare(MojiDrawing *d, MojiType type, GError **error)
{
    MojiEngine *e = d->e;
    if (!moji_drawing_begin(d, type, error))
        return FALSE;
    return d->one_at_a_time ||
           (moji_drawing_ready(d, &e->text, error) && moji_drawing_ready(d, &e->unet, error) &&
            moji_drawing_sketch(d, error));
}

static gboolean draw_all(MojiDrawing *d, MojiType type, GPtrArray *images, GError **error)
{
    double start = moji_drawing_now(), read = d->e->times.load;
    if (!prepare(d, type, error))
        return FALSE;
    d->e->times.load = moji_drawing_now() - start + read;
    start = moji_drawing_now();
    moji_drawing_tell(d, (MojiProgress){.phase = MOJI_PHASE_TEXT});
    if (!moji_drawing_embed(d, error))
        return FALSE;
    d->e->times.text += moji_drawing_now() - start;
    if (!moji_drawing_encode(d, error))
        return FALSE;
    while (d->image < d->order->count)
        if (!draw_some(d, images, error))
            return FALSE;
    return TRUE;
}

static MojiType wanted_type(MojiEngine *e)
{
    MojiType type = e->backend->preferred(e->backend);
    if (e->type_name)
        moji_type_parse(e->type_name, &type);
    return type;
}

/* Draws, once more in f32 if the first type's range was too small. */
static gboolean draw_order(MojiDrawing *d, GPtrArray *images, GError **error)
{
    const MojiModel *m = d->e->model;
    if (d->order->image) {
        d->edit = moji_edit_new(d->order->image, d->order->backdrop, d->order->size,
                                moji_stage_size_unit(m), error);
        if (!d->edit)
            return FALSE;
    }
    d->height = d->edit ? d->edit->height : d->order->size;
    d->width = d->edit ? d->edit->width : d->order->size;
    d->h = d->height / moji_vae_factor(&m->vae);
    d->w = d->width / moji_vae_factor(&m->vae);
    d->c = m->vae.latent_channels;
    d->count = (gsize)d->h * d->w * d->c;
    d->prompts = d->order->guidance > 1 ? 2 : 1;
    GError *first = NULL;
    gsize settled = d->order->warnings->len;
    MojiType type = wanted_type(d->e);
    if (draw_all(d, type, images, &first))
        return TRUE;
    if (!d->overflow || type == MOJI_F32) {
        g_propagate_error(error, first);
        return FALSE;
    }
    g_error_free(first);
    g_ptr_array_set_size(images, 0);
    g_string_truncate(d->order->warnings, settled);
    moji_order_warn(d->order, "%s was too small for this model's numbers, so f32 was used.",
                    moji_type_name(type));
    d->image = 0;
    return draw_all(d, MOJI_F32, images, error);
}

static void image_free(gpointer image)
{
    moji_image_free(image);
}

GPtrArray *moji_engine_draw(MojiEngine *e, const MojiRequest *request, MojiProgressFn progress,
                            gpointer user_data, GCancellable *cancellable, GError **error)
{
    MojiDrawing d = {.e = e, .progress = progress, .user_data = user_data, .cancel = cancellable};
    double start = moji_drawing_now();
    e->times = (MojiTimes){0};
    if (!moji_request_check(request, error) || moji_drawing_cancelled(&d, error))
        return NULL;
    moji_drawing_tell(&d, (MojiProgress){.phase = MOJI_PHASE_LOADING});
    if (!moji_drawing_load(e, request, error))
        return NULL;
    e->times.load = moji_drawing_now() - start;
    d.order = moji_order_new(request, e->model, error);
    if (!d.order)
        return NULL;
    GPtrArray *images = g_ptr_array_new_with_free_func(image_free);
    if (!draw_order(&d, images, error))
        g_clear_pointer(&images, g_ptr_array_unref);
    if (e->vae && moji_tape_block_bytes(e->vae->tape) > KEEP_BYTES)
        g_clear_pointer(&e->vae, moji_stage_free);
    moji_order_free(d.order);
    moji_edit_free(d.edit);
    g_free(d.context);
    g_free(d.moments);
    g_free(d.hidden);
    g_free(d.cells);
    e->times.total = moji_drawing_now() - start;
    return images;
}
