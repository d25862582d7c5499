/* load.c: the model, and stages that fit a drawing; see drawing.h. */
#include "drawing.h"
#include "folder.h"
#include "json.h"
#include "recipe.h"
#include <json-glib/json-glib.h>
#include <string.h>
#include <sys/stat.h>

void moji_drawing_drop_stages(MojiEngine *e)
{
    g_clear_pointer(&e->text, moji_stage_free);
    g_clear_pointer(&e->unet, moji_stage_free);
    g_clear_pointer(&e->vae, moji_stage_free);
}

static gboolean load(MojiEngine *e, const char *model, const char *vae, GError **error)
{
    g_autofree char *stamp = moji_model_stamp(model, vae);
    if (e->model && !strcmp(stamp, e->stamp))
        return TRUE;
    moji_engine_unload(e);
    e->model = moji_model_open_with_vae(model, vae, error);
    if (!e->model)
        return FALSE;
    e->stamp = g_steal_pointer(&stamp);
    e->weights = moji_weights_identity(moji_weights_path(e->model->unet_weights));
    return TRUE;
}

/* The VAE with which the picture that is to be redrawn was made, and the weights of its model; NULL
 * if it was that model's own. */
static char *picture_vae(const MojiImage *image, char **weights)
{
    const char *json = image && image->recipe ? image->recipe : "";
    JsonObject *recipe;
    g_autoptr(JsonParser) parser =
        moji_json_parse(json, strlen(json), FALSE, "recipe", &recipe, NULL);
    JsonNode *vae = parser ? json_object_get_member(recipe, "vae") : NULL;
    g_autofree char *name = NULL;
    if (!vae || !JSON_NODE_HOLDS_OBJECT(vae) ||
        !moji_json_string(recipe, "recipe", "weights", weights, NULL) || !*weights ||
        !moji_json_string(json_node_get_object(vae), "recipe", "name", &name, NULL))
        return NULL;
    return moji_folder_find_vae(name);
}

gboolean moji_drawing_load(MojiEngine *e, const MojiRequest *r, GError **error)
{
    gboolean named = r->model && *r->model, free_choice = !r->vae || !*r->vae;
    g_autofree char *model = named ? moji_folder_find(r->model) : moji_model_bundled();
    g_autofree char *vae = moji_folder_find_vae(r->vae), *weights = NULL;
    g_autofree char *before = free_choice ? picture_vae(r->image, &weights) : NULL;
    if (!model || !*model) {
        g_set_error(error, MOJI_ERROR, MOJI_ERROR_FILE,
                    "The bundled model is not installed; name a model");
        return FALSE;
    }
    /* The last picture's model is asked first, so that it is not loaded anew for each of a row. */
    if (before && (!e->weights || strcmp(e->weights, weights)) && !load(e, model, vae, error))
        return FALSE;
    if (before && !strcmp(e->weights, weights))
        return load(e, model, before, error);
    return load(e, model, vae, error);
}

/* Changes when another merging would come of it. NULL: none to merge. Caller frees. */
static char *loras_stamp(const GPtrArray *loras, MojiType type)
{
    if (!loras->len)
        return NULL;
    GString *stamp = g_string_new(moji_type_name(type));
    for (guint i = 0; i < loras->len; i++) {
        const MojiStyle *s = loras->pdata[i];
        const char *path = moji_lora_path(s->lora);
        struct stat file = {0};
        (void)!stat(path, &file); /* it is open already; gone since, it has no times */
        g_string_append_printf(stamp,
                               "|%s,%" G_GINT64_FORMAT ",%" G_GINT64_FORMAT ".%09ld,%.17g,%.17g",
                               path, (gint64)file.st_size, (gint64)file.st_mtim.tv_sec,
                               (long)file.st_mtim.tv_nsec, s->unet, s->text);
    }
    return g_string_free(stamp, FALSE);
}

void moji_drawing_forget_loras(MojiEngine *e)
{
    g_clear_pointer(&e->merged, g_free);
    g_clear_pointer(&e->applied, g_array_unref);
}

/* Stages stay where the backend puts the new values into the place of the old. */
static gboolean merge(MojiDrawing *d, MojiType type, MojiLoraUse *use, int n, GError **error)
{
    MojiEngine *e = d->e;
    GError *why = NULL;
    if (!e->backend->renews) {
        g_clear_pointer(&e->text, moji_stage_free);
        g_clear_pointer(&e->unet, moji_stage_free);
    }
    gboolean merged = moji_lora_merge(e->model, type, e->threads, use, n, d->cancel, error);
    if (moji_weights_renew(e->model->clip_weights, &why) &&
        moji_weights_renew(e->model->unet_weights, &why))
        return merged;
    moji_drawing_drop_stages(e);
    moji_weights_release(e->model->clip_weights);
    moji_weights_release(e->model->unet_weights);
    if (merged)
        g_propagate_error(error, why);
    else
        g_error_free(why); /* the first is the one to tell */
    return FALSE;
}

/* The drawing's LoRAs in the model's weights, and no others. Backends keep what they made of the
 * weights that no LoRA touches. */
static gboolean merge_loras(MojiDrawing *d, MojiType type, GError **error)
{
    MojiEngine *e = d->e;
    GPtrArray *loras = d->order->loras;
    g_autofree char *stamp = loras_stamp(loras, type);
    if (g_strcmp0(stamp, e->merged)) {
        g_autofree MojiLoraUse *use = g_new0(MojiLoraUse, loras->len + 1);
        for (guint i = 0; i < loras->len; i++) {
            const MojiStyle *s = loras->pdata[i];
            use[i] = (MojiLoraUse){.lora = s->lora, .unet = s->unet, .text = s->text};
        }
        moji_drawing_forget_loras(e);
        if (!merge(d, type, use, (int)loras->len, error))
            return FALSE;
        e->merged = g_steal_pointer(&stamp);
        e->applied = g_array_new(FALSE, FALSE, sizeof(guint));
        for (guint i = 0; i < loras->len; i++)
            g_array_append_val(e->applied, use[i].applied);
    }
    for (guint i = 0; i < loras->len; i++)
        ((MojiStyle *)loras->pdata[i])->applied = g_array_index(e->applied, guint, i);
    return TRUE;
}

MojiStage *moji_drawing_unet(const MojiDrawing *d)
{
    return moji_stage_step(d->e->model, d->e->type, d->prompts, d->e->stage_chunks, d->pictures,
                           moji_sampler_calls(d->order->sampler), d->h, d->w);
}

static MojiStage *stage_new(const MojiDrawing *d, MojiStage *const *s)
{
    const MojiEngine *e = d->e;
    const MojiModel *m = e->model;
    if (s == &e->text)
        return moji_stage_text(m, e->type, d->prompts, d->order->clip_skip, e->stage_words);
    if (s == &e->unet)
        return moji_drawing_unet(d);
    return s == &e->vae ? moji_stage_vae(m, e->type, 1, d->tile_h, d->tile_w)
                        : moji_stage_encode(m, e->type, 1, d->tile_h, d->tile_w);
}

gboolean moji_drawing_begin(MojiDrawing *d, MojiType type, GError **error)
{
    MojiEngine *e = d->e;
    if (e->type != type || e->stage_h != d->h || e->stage_w != d->w ||
        e->stage_prompts != d->prompts)
        moji_drawing_drop_stages(e);
    const MojiChunks *prompt = d->order->chunks[1];
    gboolean words = prompt->learnt || (d->prompts == 2 && d->order->chunks[0]->learnt);
    int chunks = prompt->count, wanted = moji_drawing_wanted(d);
    int timesteps = moji_stage_timesteps(moji_sampler_calls(d->order->sampler));
    if (e->stage_skip != d->order->clip_skip || e->stage_words != words)
        g_clear_pointer(&e->text, moji_stage_free);
    if (e->stage_chunks != chunks || e->stage_wanted != wanted || e->stage_timesteps != timesteps)
        g_clear_pointer(&e->unet, moji_stage_free);
    e->stage_skip = d->order->clip_skip;
    e->stage_words = words;
    e->stage_chunks = chunks;
    e->stage_timesteps = timesteps;
    if (!merge_loras(d, type, error))
        return FALSE;
    e->type = type;
    e->stage_h = d->h;
    e->stage_w = d->w;
    e->stage_prompts = d->prompts;
    e->stage_wanted = wanted;
    d->pictures = e->unet ? e->stage_pictures : wanted;
    /* Not prepared yet, but there: the plan sees what their weights hold already. */
    e->text = e->text ? e->text : stage_new(d, &e->text);
    e->unet = e->unet ? e->unet : stage_new(d, &e->unet);
    e->stage_pictures = d->pictures;
    return moji_drawing_plan(d, error);
}

/* A part of the model other than `kept`'s goes, and with it what its weights were made into. */
static void make_room(MojiStage **s, MojiWeights *weights, const MojiStage *kept)
{
    if (weights == kept->weights)
        return;
    g_clear_pointer(s, moji_stage_free);
    moji_weights_release(weights);
}

/* Memory ran out where the plan saw enough of it. FALSE: there is nothing left to do without. */
static gboolean take_less(MojiDrawing *d, MojiStage **s)
{
    MojiEngine *e = d->e;
    gboolean network = s == &e->text || s == &e->unet;
    if (s == &e->unet && d->pictures > 1) {
        d->pictures = (d->pictures + 1) / 2;
    } else if (!d->one_at_a_time) {
        d->one_at_a_time = TRUE;
    } else {
        if (network || !moji_drawing_smaller_tiles(d))
            return FALSE;
        g_clear_pointer(&e->vae, moji_stage_free);
    }
    g_clear_pointer(s, moji_stage_free);
    return TRUE;
}

static gboolean prepare(MojiDrawing *d, MojiStage **s, GError **error)
{
    MojiEngine *e = d->e;
    *s = *s ? *s : stage_new(d, s);
    if (s == &e->unet)
        e->stage_pictures = d->pictures;
    if (d->one_at_a_time) {
        make_room(&e->text, e->model->clip_weights, *s);
        make_room(&e->unet, e->model->unet_weights, *s);
        make_room(&e->vae, e->model->vae_weights, *s);
    }
    return moji_stage_prepare(*s, e->backend, error);
}

gboolean moji_drawing_ready(MojiDrawing *d, MojiStage **s, GError **error)
{
    GError *why = NULL;
    double start = moji_drawing_now();
    gboolean ready = prepare(d, s, &why);
    while (!ready && g_error_matches(why, MOJI_ERROR, MOJI_ERROR_MEMORY) && take_less(d, s)) {
        g_clear_error(&why);
        ready = prepare(d, s, &why);
    }
    if (!ready)
        g_propagate_error(error, why);
    d->e->times.load += moji_drawing_now() - start;
    return ready && !moji_drawing_cancelled(d, error);
}
