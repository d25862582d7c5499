/* recipe.c: see recipe.h. */
#include "recipe.h"
#include "json.h"
#include "version.h"
#include <stdio.h>
#include <string.h>

/* ---- files by their weights ---- */

static void digest_part(GChecksum *sum, FILE *f, long from)
{
    gsize most = 1 << 20;
    g_autofree guint8 *part = g_malloc(most);
    if (!fseek(f, from, SEEK_SET))
        g_checksum_update(sum, part, (gssize)fread(part, 1, most, f));
}

char *moji_weights_identity(const char *path)
{
    FILE *f = fopen(path, "rb");
    if (!f || fseek(f, 0, SEEK_END)) {
        if (f)
            fclose(f);
        return g_strdup("");
    }
    long bytes = ftell(f);
    g_autoptr(GChecksum) sum = g_checksum_new(G_CHECKSUM_SHA256);
    g_autofree char *size = g_strdup_printf("%ld", bytes);
    g_checksum_update(sum, (const guchar *)size, -1);
    digest_part(sum, f, 0);
    digest_part(sum, f, MAX(0, bytes - (1 << 20)));
    fclose(f);
    return g_strndup(g_checksum_get_string(sum), 16);
}

/* ---- an order written down ---- */

static void put(JsonObject *o, const char *member, const char *text)
{
    json_object_set_string_member(o, member, text ? text : "");
}

/* {"name": ..., "weights": ...} */
static JsonObject *named_file(const char *name, const char *path)
{
    g_autofree char *weights = moji_weights_identity(path);
    JsonObject *o = json_object_new();
    put(o, "name", name);
    put(o, "weights", weights);
    return o;
}

/* MojiInversion *, each once: those that the model reads. */
static GPtrArray *used_inversions(const MojiOrder *o)
{
    GPtrArray *used = g_ptr_array_new();
    for (int i = 1; i >= 0; i--) {
        const MojiChunks *c = o->chunks[i];
        for (int k = 0; c && c->learnt && k < c->count * c->n; k++) {
            const float *vector = c->vectors[k];
            gpointer word = vector ? (gpointer)moji_inversions_whose(o->inversions, vector) : NULL;
            if (word && !g_ptr_array_find(used, word, NULL))
                g_ptr_array_add(used, word);
        }
    }
    return used;
}

static void put_inversions(JsonObject *o, const MojiOrder *order)
{
    g_autoptr(GPtrArray) used = used_inversions(order);
    JsonArray *list = used->len ? json_array_new() : NULL;
    for (guint i = 0; i < used->len; i++) {
        const MojiInversion *word = used->pdata[i];
        json_array_add_object_element(list, named_file(word->name, word->path));
    }
    if (list)
        json_object_set_array_member(o, "inversions", list);
}

static void put_loras(JsonObject *o, GPtrArray *loras)
{
    JsonArray *list = json_array_new();
    for (guint i = 0; i < loras->len; i++) {
        const MojiStyle *s = loras->pdata[i];
        JsonObject *one = named_file(s->name, moji_lora_path(s->lora));
        json_object_set_double_member(one, "unet", s->unet);
        json_object_set_double_member(one, "text", s->text);
        json_object_set_int_member(one, "applied", s->applied);
        json_object_set_int_member(one, "tensors", moji_lora_tensors(s->lora));
        json_array_add_object_element(list, one);
    }
    json_object_set_array_member(o, "loras", list);
}

char *moji_order_recipe(const MojiOrder *o, const MojiModel *m, const char *weights, MojiType type,
                        int index, const guint8 cutout[3])
{
    JsonObject *r = json_object_new();
    put(r, "engine", "moji " MOJI_VERSION);
    put(r, "model", m->card.name);
    put(r, "version", m->card.version);
    put(r, "weights", weights);
    put(r, "type", moji_type_name(type));
    put(r, "prompt", o->prompt);
    put(r, "text", o->text);
    put(r, "negative", o->negative);
    if (strcmp(o->negative, o->unsaid))
        put(r, "negative_text", o->unsaid);
    put(r, "style", o->style ? o->style : MOJI_NONE);
    put(r, "background", o->background ? o->background : MOJI_NONE);
    json_object_set_int_member(r, "seed", o->seed + (o->amount > 0 ? 0 : index));
    if (o->amount > 0) {
        json_object_set_double_member(r, "amount", o->amount);
        json_object_set_int_member(r, "variation_seed", o->variation_seed + index);
    }
    json_object_set_int_member(r, "steps", o->steps);
    json_object_set_double_member(r, "guidance", o->guidance);
    /* as the sampler settled them, the model's own or not */
    put(r, "sampler", moji_sampler_name(o->sampler));
    put(r, "spacing",
        moji_spacing_names()[moji_sampler_spacing(o->sampler) - MOJI_SPACING_LEADING]);
    put(r, "sigmas", moji_sigmas_names()[moji_sampler_sigmas(o->sampler) - MOJI_SIGMAS_PLAIN]);
    put(r, "rng", o->cuda ? "cuda" : "cpu");
    json_object_set_int_member(r, "clip_skip", o->clip_skip);
    json_object_set_int_member(r, "size", o->size);
    json_object_set_boolean_member(r, "transparent", o->transparent);
    if (o->image)
        json_object_set_double_member(r, "strength", o->strength);
    if (o->image && o->image->mask)
        json_object_set_boolean_member(r, "mask", TRUE);
    if (cutout) {
        g_autofree char *hex = g_strdup_printf("#%02x%02x%02x", cutout[0], cutout[1], cutout[2]);
        put(r, "cutout", hex);
    }
    if (m->other_vae)
        json_object_set_object_member(r, "vae",
                                      named_file(m->other_vae, moji_weights_path(m->vae_weights)));
    if (o->loras->len)
        put_loras(r, o->loras);
    put_inversions(r, o);
    if (o->note)
        put(r, "note", o->note);
    if (o->warnings->len)
        put(r, "warning", o->warnings->str);
    g_autoptr(JsonNode) root = json_node_new(JSON_NODE_OBJECT);
    json_node_take_object(root, r);
    return json_to_string(root, FALSE);
}

/* ---- the recipe of the picture that is redrawn ---- */

JsonParser *moji_recipe_of_picture(const MojiOrder *o, JsonObject **recipe)
{
    const char *json = o->image && o->image->recipe ? o->image->recipe : "";
    return moji_json_parse(json, strlen(json), FALSE, "recipe", recipe, NULL);
}

static const MojiInversion *inversion_named(GPtrArray *inversions, const char *name)
{
    for (guint i = 0; i < inversions->len; i++)
        if (!strcmp(((const MojiInversion *)inversions->pdata[i])->name, name))
            return inversions->pdata[i];
    return NULL;
}

/* The same words mean something else where their file is another, or is gone. */
static void compare_inversion(MojiOrder *o, GPtrArray *used, JsonObject *before)
{
    g_autofree char *name = NULL, *weights = NULL;
    if (!moji_json_string(before, "recipe", "name", &name, NULL) || !name ||
        !moji_json_string(before, "recipe", "weights", &weights, NULL) || !weights)
        return;
    const MojiInversion *word = inversion_named(used, name);
    g_autofree char *now = word ? moji_weights_identity(word->path) : NULL;
    g_autofree char *text = g_utf8_strdown(o->text, -1), *sought = g_utf8_strdown(name, -1);
    if (word ? strcmp(now, weights) != 0 : strstr(text, sought) != NULL)
        moji_order_warn(o, "The picture was made with the learnt word %s, which is %s here.", name,
                        word ? "another" : "not");
}

void moji_recipe_compare(MojiOrder *o)
{
    g_autoptr(GPtrArray) used = used_inversions(o);
    JsonObject *recipe;
    g_autoptr(JsonParser) parser = moji_recipe_of_picture(o, &recipe);
    JsonNode *node = parser ? json_object_get_member(recipe, "inversions") : NULL;
    JsonArray *list = node && JSON_NODE_HOLDS_ARRAY(node) ? json_node_get_array(node) : NULL;
    for (guint i = 0; list && i < json_array_get_length(list); i++) {
        JsonNode *one = json_array_get_element(list, i);
        if (JSON_NODE_HOLDS_OBJECT(one))
            compare_inversion(o, used, json_node_get_object(one));
    }
}
