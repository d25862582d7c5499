/* draw.c: see draw.h.
 *
 * The surprising rule: each picture has a generator and a sampler of its own, so that picture 3 of
 * a drawing with seed 7 is the picture of seed 9, whatever else is drawn with it. */
#include "draw.h"
#include "cutout.h"
#include "npy.h"
#include "order.h"
#include "sketch.h"
#include "stage.h"
#include <math.h>
#include <string.h>
#include <sys/stat.h>

/* A decoder's block above this is given back after the drawing: it is larger than the model. */
#define KEEP_BYTES ((gsize)256 << 20)

struct MojiEngine {
    MojiBackend *backend;
    char *type_name; /* asked for, or NULL */
    char *dump;      /* or NULL */
    gboolean previews;

    MojiModel *model;             /* or NULL */
    char *stamp;                  /* the loaded model's folder and file times */
    char *weights;                /* moji_weights_identity */
    MojiStage *text, *unet, *vae; /* prepared last, or NULL; they borrow the model's weights */
    int stage_size, stage_batch;  /* what they were made for */
    MojiType type;
    MojiSketch *sketch; /* or NULL */
    MojiTimes times;
};

/* What one drawing carries from stage to stage. */
typedef struct {
    MojiEngine *e;
    MojiOrder *order;
    MojiProgressFn progress;
    gpointer user_data;
    GCancellable *cancel;
    int image;         /* which picture */
    int batch;         /* 2: with guidance */
    int h, w, c;       /* latents */
    gsize count;       /* h w c */
    float *context;    /* [batch,n,C] */
    gboolean overflow; /* numbers went out of the type's range */
} Drawing;

/* ---- the engine ---- */

MojiEngine *moji_engine_new(const char *backend, int threads, GError **error)
{
    MojiBackend *b = moji_backend_open(backend, threads, error);
    if (!b)
        return NULL;
    MojiEngine *e = g_new0(MojiEngine, 1);
    e->backend = b;
    return e;
}

static void drop_stages(MojiEngine *e)
{
    g_clear_pointer(&e->text, moji_stage_free);
    g_clear_pointer(&e->unet, moji_stage_free);
    g_clear_pointer(&e->vae, moji_stage_free);
}

void moji_engine_unload(MojiEngine *e)
{
    drop_stages(e);
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

void moji_engine_set_type(MojiEngine *e, const char *type)
{
    g_assert(!type || !strcmp(type, "f32") || !strcmp(type, "bf16"));
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

const MojiTimes *moji_engine_times(MojiEngine *e)
{
    return &e->times;
}

/* ---- small things ---- */

static double now(void)
{
    return g_get_monotonic_time() / 1e6;
}

static void tell(const Drawing *d, MojiProgress p)
{
    p.image = d->image;
    p.images = d->order ? d->order->count : 1;
    if (d->progress)
        d->progress(&p, d->user_data);
}

static gboolean cancelled(const Drawing *d, GError **error)
{
    if (!g_cancellable_is_cancelled(d->cancel))
        return FALSE;
    g_set_error(error, MOJI_ERROR, MOJI_ERROR_CANCELLED, "Cancelled");
    return TRUE;
}

static gboolean dump(const Drawing *d, const char *name, MojiType type, int rank, const gint64 *dim,
                     const void *data, GError **error)
{
    if (!d->e->dump)
        return TRUE;
    g_autofree char *number = d->image ? g_strdup_printf("%d", d->image + 1) : g_strdup("");
    g_autofree char *folder = g_build_filename(d->e->dump, number, NULL);
    return moji_npy_write(folder, name, type, rank, dim, data, error);
}

static gboolean dump_latents(const Drawing *d, const char *name, const float *x, GError **error)
{
    return dump(d, name, MOJI_F32, 4, (const gint64[]){1, d->h, d->w, d->c}, x, error);
}

/* The type of numbers may overflow with a model made for another: no picture comes of that. */
static gboolean check_finite(Drawing *d, const float *x, gsize count, const char *where,
                             GError **error)
{
    for (gsize i = 0; i < count; i++)
        if (!isfinite(x[i])) {
            d->overflow = TRUE;
            g_set_error(error, MOJI_ERROR, MOJI_ERROR_BACKEND,
                        "The %s network gave numbers that are not finite, in %s; the model may be "
                        "damaged, or the guidance of %g too strong",
                        where, moji_type_name(d->e->type), d->order->guidance);
            return FALSE;
        }
    return TRUE;
}

/* ---- loading ---- */

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

static gboolean load_model(MojiEngine *e, const char *asked, GError **error)
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
static gboolean check_memory(const Drawing *d, GError **error)
{
    enum { RESERVE = 64 << 20 };
    const MojiEngine *e = d->e;
    guint64 pixels = (guint64)d->order->size * d->order->size;
    return moji_stage_memory_check(moji_stage_memory(e->text) + moji_stage_memory(e->unet) +
                                       moji_stage_memory(e->vae) + d->count * 4 * 16 +
                                       pixels * (3 * 4 + 4 * d->order->count) + RESERVE,
                                   error);
}

/* The stages for this drawing, made anew where size, batch or type differ from the last one's. The
 * decoder is prepared when it is its turn: its block is the largest. */
static gboolean prepare_stages(Drawing *d, MojiType type, GError **error)
{
    MojiEngine *e = d->e;
    const MojiModel *m = e->model;
    if (e->type != type || e->stage_size != d->order->size || e->stage_batch != d->batch)
        drop_stages(e);
    e->type = type;
    e->stage_size = d->order->size;
    e->stage_batch = d->batch;
    e->text = e->text ? e->text : moji_stage_text(m, type, d->batch);
    e->unet = e->unet ? e->unet : moji_stage_unet(m, type, d->batch, d->h, d->w);
    e->vae = e->vae ? e->vae : moji_stage_vae(m, type, 1, d->h, d->w);
    return check_memory(d, error) && moji_stage_prepare(e->text, e->backend, error) &&
           !cancelled(d, error) && moji_stage_prepare(e->unet, e->backend, error) &&
           !cancelled(d, error);
}

/* Decodes a small picture of noise, which is enough for a first idea of the colours. */
static gboolean begin_sketch(Drawing *d, GError **error)
{
    enum { SIDE = 8, ROUNDS = 4 };
    MojiEngine *e = d->e;
    const MojiVaeConfig *vae = &e->model->vae;
    int f = moji_vae_factor(vae);
    gsize count = SIDE * SIDE * d->c;
    if (!e->previews || e->sketch)
        return TRUE;
    e->sketch = moji_sketch_new(d->c);
    MojiStage *s = moji_stage_vae(e->model, e->type, 1, SIDE, SIDE);
    g_autofree float *scaled = g_new(float, count), *latents = g_new(float, count);
    g_autofree float *rgb = g_new(float, (gsize)SIDE *SIDE *f *f * 3);
    MojiRandom random;
    moji_random_seed(&random, 1);
    gboolean ok = moji_stage_prepare(s, e->backend, error);
    for (int round = 0; ok && round < ROUNDS; round++) {
        moji_random_normal(&random, latents, count);
        for (gsize i = 0; i < count; i++)
            scaled[i] = latents[i] / vae->scaling_factor + vae->shift_factor;
        moji_tape_write(s->tape, s->in[0], scaled);
        ok = moji_tape_run(s->tape, d->cancel, error);
        if (ok) {
            moji_tape_read(s->tape, s->out, rgb);
            moji_sketch_learn(e->sketch, latents, rgb, SIDE, SIDE, f);
        }
    }
    moji_stage_free(s);
    if (!ok)
        g_clear_pointer(&e->sketch, moji_sketch_free);
    return ok;
}

/* ---- prompt -> embeddings ---- */

static gboolean embed(Drawing *d, GError **error)
{
    MojiEngine *e = d->e;
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
    return check_finite(d, d->context, (gsize)d->batch * n * width, "text", error) &&
           dump(d, "ids", MOJI_I32, 2, (const gint64[]){d->batch, n}, ids, error) &&
           dump(d, "embeddings", MOJI_F32, 3, (const gint64[]){d->batch, n, width}, d->context,
                error);
}

/* ---- noise -> latents ---- */

/* [c,h,w], the order in which torch draws, -> [h,w,c] */
static void make_noise(const Drawing *d, MojiRandom *random, float *x)
{
    g_autofree float *planes = g_new(float, d->count);
    moji_random_normal(random, planes, d->count);
    gsize area = (gsize)d->h * d->w;
    for (gsize at = 0; at < area; at++)
        for (int k = 0; k < d->c; k++)
            x[at * d->c + k] = planes[k * area + at];
}

/* The U-Net's word on input [h,w,c]: unconditional and prompted in one batch, put together in
 * `out`. */
static gboolean predict(Drawing *d, float timestep, const float *input, float *both, float *out,
                        GError **error)
{
    MojiStage *s = d->e->unet;
    const float times[2] = {timestep, timestep};
    for (int b = 0; b < d->batch; b++)
        memcpy(both + b * d->count, input, d->count * sizeof *input);
    moji_tape_write(s->tape, s->in[0], both);
    moji_tape_write(s->tape, s->in[1], times);
    moji_tape_write(s->tape, s->in[2], d->context);
    if (!moji_tape_run(s->tape, d->cancel, error))
        return FALSE;
    moji_tape_read(s->tape, s->out, both);
    if (!check_finite(d, both, d->batch * d->count, "unet", error))
        return FALSE;
    const float guidance = d->order->guidance, *without = both, *with = both + d->count;
    for (gsize i = 0; i < d->count; i++)
        out[i] = d->batch == 2 ? without[i] + guidance * (with[i] - without[i]) : both[i];
    return TRUE;
}

static void tell_step(const Drawing *d, const MojiSampler *sampler, int done)
{
    MojiProgress p = {.phase = MOJI_PHASE_STEP, .step = done, .steps = moji_sampler_calls(sampler)};
    if (d->progress && d->e->sketch)
        p.preview = moji_sketch_draw(d->e->sketch, moji_sampler_estimate(sampler), d->h, d->w,
                                     &p.preview_width, &p.preview_height);
    tell(d, p);
}

static gboolean sample(Drawing *d, MojiSampler *sampler, float *x, GError **error)
{
    g_autofree float *input = g_new(float, d->count), *out = g_new(float, d->count);
    g_autofree float *both = g_new(float, 2 * d->count);
    MojiRandom random;
    moji_random_seed(&random, (guint64)d->order->seed + d->image);
    make_noise(d, &random, x);
    if (!dump_latents(d, "noise", x, error))
        return FALSE;
    moji_sampler_start(sampler, x, d->count);
    for (int i = 0; i < moji_sampler_calls(sampler); i++) {
        double start = now();
        moji_sampler_input(sampler, i, x, input, d->count);
        if (!predict(d, moji_sampler_timestep(sampler, i), input, both, out, error))
            return FALSE;
        d->e->times.unet += now() - start;
        d->e->times.unet_calls++;
        moji_sampler_step(sampler, i, out, x, d->count, d->c, &random);
        g_autofree char *name = g_strdup_printf("latents_%02d", i + 1);
        if (!dump_latents(d, name, x, error))
            return FALSE;
        tell_step(d, sampler, i + 1);
    }
    return check_finite(d, x, d->count, "unet", error);
}

/* ---- latents -> pixels ---- */

static void to_pixels(MojiImage *image, const float *rgb)
{
    gsize pixels = (gsize)image->width * image->height;
    for (gsize i = 0; i < pixels; i++) {
        for (int k = 0; k < 3; k++) {
            float v = CLAMP(rgb[i * 3 + k] * 0.5f + 0.5f, 0.0f, 1.0f);
            image->rgba[i * 4 + k] = (guint8)lrintf(v * 255.0f); /* halves to even, as numpy */
        }
        image->rgba[i * 4 + 3] = 255;
    }
}

static MojiImage *decode(Drawing *d, const float *x, GError **error)
{
    MojiEngine *e = d->e;
    MojiStage *s = e->vae;
    const MojiVaeConfig *vae = &e->model->vae;
    int size = d->order->size;
    gsize values = (gsize)size * size * 3;
    double start = now();
    if (!moji_stage_prepare(s, e->backend, error))
        return NULL;
    e->times.load += now() - start;
    start = now();
    g_autofree float *scaled = g_new(float, d->count), *rgb = g_new(float, values);
    for (gsize i = 0; i < d->count; i++)
        scaled[i] = x[i] / vae->scaling_factor + vae->shift_factor;
    moji_tape_write(s->tape, s->in[0], scaled);
    if (!moji_tape_run(s->tape, d->cancel, error))
        return NULL;
    moji_tape_read(s->tape, s->out, rgb);
    e->times.vae += now() - start;
    if (!check_finite(d, rgb, values, "vae", error) ||
        !dump(d, "decoded", MOJI_F32, 4, (const gint64[]){1, size, size, 3}, rgb, error))
        return NULL;
    if (e->sketch)
        moji_sketch_learn(e->sketch, x, rgb, d->h, d->w, size / d->w);
    MojiImage *image = moji_image_new(size, size);
    to_pixels(image, rgb);
    return image;
}

/* Cuts out if that was asked for, and writes the recipe. */
static gboolean finish(Drawing *d, MojiImage *image, GError **error)
{
    MojiEngine *e = d->e;
    GError *e_cut = NULL;
    MojiCutout report;
    gsize before = d->order->warnings->len;
    double start = now();
    gboolean cut = FALSE;
    if (d->order->transparent) {
        tell(d, (MojiProgress){.phase = MOJI_PHASE_CUTOUT});
        cut = moji_cutout(image, NULL, &report, &e_cut);
        e->times.cutout += now() - start;
    }
    if (e_cut && e_cut->code != MOJI_ERROR_NOT_FLAT) {
        g_propagate_error(error, e_cut);
        return FALSE;
    }
    if (e_cut)
        moji_order_warn(d->order, "The background was kept: %s", e_cut->message);
    g_clear_error(&e_cut);
    image->recipe = moji_order_recipe(d->order, e->model, e->weights, e->type, d->image,
                                      cut ? report.background : NULL);
    /* What was said about this picture is not true of the next. */
    g_string_truncate(d->order->warnings, before);
    return TRUE;
}

/* ---- all of it ---- */

static gboolean draw_one(Drawing *d, GPtrArray *images, GError **error)
{
    g_autofree float *x = g_new(float, d->count);
    const MojiOrder *o = d->order;
    MojiSampler *sampler = moji_sampler_new(&d->e->model->sampler, o->sampler, o->steps, error);
    gboolean ok = sampler && sample(d, sampler, x, error);
    moji_sampler_free(sampler);
    if (!ok || cancelled(d, error))
        return FALSE;
    tell(d, (MojiProgress){.phase = MOJI_PHASE_DECODING});
    MojiImage *image = decode(d, x, error);
    if (!image)
        return FALSE;
    g_ptr_array_add(images, image);
    return !cancelled(d, error) && finish(d, image, error);
}

static gboolean draw_all(Drawing *d, MojiType type, GPtrArray *images, GError **error)
{
    double start = now();
    if (!prepare_stages(d, type, error) || !begin_sketch(d, error))
        return FALSE;
    d->e->times.load += now() - start;
    start = now();
    tell(d, (MojiProgress){.phase = MOJI_PHASE_TEXT});
    if (!embed(d, error))
        return FALSE;
    d->e->times.text += now() - start;
    for (d->image = 0; d->image < d->order->count; d->image++)
        if (!draw_one(d, images, error))
            return FALSE;
    return TRUE;
}

static MojiType wanted_type(MojiEngine *e)
{
    if (e->type_name)
        return strcmp(e->type_name, "f32") ? MOJI_BF16 : MOJI_F32;
    return e->backend->preferred(e->backend);
}

/* Draws, once more in f32 if the first type's range was too small. */
static gboolean draw_order(Drawing *d, GPtrArray *images, GError **error)
{
    const MojiModel *m = d->e->model;
    d->h = d->w = d->order->size / moji_vae_factor(&m->vae);
    d->c = m->vae.latent_channels;
    d->count = (gsize)d->h * d->w * d->c;
    d->batch = d->order->guidance > 1 ? 2 : 1;
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
    Drawing d = {.e = e, .progress = progress, .user_data = user_data, .cancel = cancellable};
    double start = now();
    e->times = (MojiTimes){0};
    if (!moji_request_check(request, error) || cancelled(&d, error))
        return NULL;
    tell(&d, (MojiProgress){.phase = MOJI_PHASE_LOADING});
    if (!load_model(e, request->model, error))
        return NULL;
    e->times.load = now() - start;
    d.order = moji_order_new(request, e->model, error);
    if (!d.order)
        return NULL;
    GPtrArray *images = g_ptr_array_new_with_free_func(image_free);
    if (!draw_order(&d, images, error))
        g_clear_pointer(&images, g_ptr_array_unref);
    if (e->vae && moji_tape_block_bytes(e->vae->tape) > KEEP_BYTES)
        g_clear_pointer(&e->vae, moji_stage_free);
    moji_order_free(d.order);
    g_free(d.context);
    e->times.total = now() - start;
    return images;
}
