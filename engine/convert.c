/* convert.c: see convert.h.
 *
 * The surprising rule: a checkpoint carries no configuration, so a model may only become one if
 * reading it back from shapes (topology.h) gives the configuration that it had. */
#include "convert.h"
#include "checkpoint.h"
#include "folder.h"
#include "model.h"
#include "save.h"
#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <string.h>
#include <unistd.h>

typedef struct {
    const char *from, *to;
    int type; /* MojiType, or -1 */
    GCancellable *cancel;
    MojiModel *m;
    MojiCheckpoint *c; /* NULL: from is a folder */
    char *source;      /* the folder with what is no weights */
} Job;

static void free_saved(gpointer data)
{
    MojiSaved *s = data;
    g_free(s->name);
    g_free(s);
}

static GPtrArray *list_new(void)
{
    return g_ptr_array_new_with_free_func(free_saved);
}

static MojiWeights *weights_of(const MojiModel *m, MojiPart part)
{
    return part == MOJI_PART_TEXT   ? m->clip_weights
           : part == MOJI_PART_UNET ? m->unet_weights
                                    : m->vae_weights;
}

static gboolean is_float(MojiType type)
{
    return type == MOJI_F32 || type == MOJI_F16 || type == MOJI_BF16;
}

/* Takes the name. */
static MojiSaved *add(const Job *j, GPtrArray *list, const MojiWeight *t, char *name)
{
    MojiSaved *s = g_new0(MojiSaved, 1);
    *s = (MojiSaved){.from = t, .name = name, .rank = t->rank, .type = t->type};
    memcpy(s->dim, t->dim, sizeof s->dim);
    if (j->type >= 0 && is_float(t->type))
        s->type = (MojiType)j->type;
    g_ptr_array_add(list, s);
    return s;
}

/* The VAE's attention: linear layers for diffusers, convolutions of one pixel for LDM. */
static void shape_attention(MojiSaved *s, const char *canonical, gboolean convolution)
{
    if (!strstr(canonical, "mid_block.attentions.0.to_") || !g_str_has_suffix(canonical, ".weight"))
        return;
    if (convolution && s->rank == 2) {
        s->rank = 4;
        s->dim[2] = s->dim[3] = 1;
    } else if (!convolution && s->rank == 4 && s->dim[2] == 1 && s->dim[3] == 1) {
        s->rank = 2;
    }
}

static char *part_file(MojiPart part)
{
    return g_strdup(part == MOJI_PART_TEXT ? "model.safetensors"
                                           : "diffusion_pytorch_model.safetensors");
}

/* ---- to a folder ---- */

static gboolean write_text(const char *folder, const char *name, const char *text, gsize bytes,
                           GError **error)
{
    g_autofree char *path = g_build_filename(folder, name, NULL);
    g_autofree char *parent = g_path_get_dirname(path);
    g_autoptr(GError) why = NULL;
    g_mkdir_with_parents(parent, 0755);
    if (g_file_set_contents_full(path, text, bytes, G_FILE_SET_CONTENTS_DURABLE, 0644, &why))
        return TRUE;
    moji_error_file(error, path, "cannot be written: %s", why->message);
    return FALSE;
}

static gboolean write_json(const char *folder, const char *name, JsonNode *node, GError **error)
{
    g_autofree char *text = json_to_string(node, TRUE);
    return write_text(folder, name, text, strlen(text), error);
}

/* A file of the source, if it is there. */
static gboolean copy_file(const Job *j, const char *folder, const char *name, GError **error)
{
    g_autofree char *path = g_build_filename(j->source, name, NULL);
    g_autofree char *text = NULL;
    gsize bytes;
    if (!g_file_test(path, G_FILE_TEST_IS_REGULAR))
        return TRUE;
    if (g_file_get_contents(path, &text, &bytes, NULL))
        return write_text(folder, name, text, bytes, error);
    moji_error_file(error, path, "cannot be read");
    return FALSE;
}

/* A folder with few and small files: tokenizer, scheduler. */
static gboolean copy_folder(const Job *j, const char *folder, const char *name, GError **error)
{
    g_autofree char *path = g_build_filename(j->source, name, NULL);
    g_autoptr(GDir) dir = g_dir_open(path, 0, NULL);
    const char *file;
    while (dir && (file = g_dir_read_name(dir))) {
        g_autofree char *inner = g_build_filename(name, file, NULL);
        if (!copy_file(j, folder, inner, error))
            return FALSE;
    }
    return TRUE;
}

/* model_index.json, without the parts that are not written. */
static gboolean write_index(const Job *j, const char *folder, GError **error)
{
    static const char *const without[] = {"safety_checker", "feature_extractor", "image_encoder"};
    g_autofree char *path = g_build_filename(j->source, "model_index.json", NULL);
    g_autoptr(JsonParser) parser = json_parser_new();
    g_autoptr(GError) why = NULL;
    JsonNode *root =
        json_parser_load_from_file(parser, path, &why) ? json_parser_get_root(parser) : NULL;
    if (!root || !JSON_NODE_HOLDS_OBJECT(root)) {
        moji_error_file(error, path, "cannot be read: %s", why ? why->message : "no JSON object");
        return FALSE;
    }
    JsonObject *o = json_node_get_object(root);
    for (guint i = 0; i < G_N_ELEMENTS(without); i++) {
        JsonArray *none = json_array_new();
        json_array_add_null_element(none);
        json_array_add_null_element(none);
        json_object_set_array_member(o, without[i], none);
    }
    json_object_set_boolean_member(o, "requires_safety_checker", FALSE);
    if (j->c && moji_model_fills(j->m))
        json_object_set_string_member(o, "_class_name", "StableDiffusionInpaintPipeline");
    return write_json(folder, "model_index.json", root, error);
}

static gboolean write_part(const Job *j, const char *folder, MojiPart part, GError **error)
{
    g_autofree char *name = part_file(part);
    g_autofree char *path = g_build_filename(folder, moji_part_folder(part), name, NULL);
    g_autofree char *config = g_build_filename(moji_part_folder(part), "config.json", NULL);
    g_autoptr(GPtrArray) list = list_new();
    GPtrArray *tensors = moji_weights_list(weights_of(j->m, part));
    if (!(j->c ? write_json(folder, config, j->c->config[part], error)
               : copy_file(j, folder, config, error)))
        return FALSE;
    for (guint i = 0; i < tensors->len; i++) {
        const MojiWeight *t = tensors->pdata[i];
        MojiSaved *s = add(j, list, t, g_strdup(t->name));
        if (part == MOJI_PART_VAE)
            shape_attention(s, t->name, FALSE);
    }
    g_autoptr(GHashTable) metadata = g_hash_table_new(g_str_hash, g_str_equal);
    g_hash_table_insert(metadata, (gpointer) "format", (gpointer) "pt");
    return moji_save_safetensors(path, list, metadata, j->cancel, error);
}

static gboolean to_folder(const Job *j, GError **error)
{
    static const char *const texts[] = {"moji.json", "LICENSE", "LICENSE.md", "LICENSE.txt",
                                        "README.md"};
    g_autofree char *temporary = g_strconcat(j->to, ".XXXXXX", NULL);
    if (!g_mkdtemp_full(temporary, 0755)) {
        moji_error_file(error, j->to, "cannot be written: %s", g_strerror(errno));
        return FALSE;
    }
    gboolean ok = write_index(j, temporary, error) &&
                  copy_folder(j, temporary, "tokenizer", error) &&
                  copy_folder(j, temporary, "scheduler", error);
    for (guint i = 0; ok && !j->c && i < G_N_ELEMENTS(texts); i++)
        ok = copy_file(j, temporary, texts[i], error);
    for (int part = 0; ok && part < MOJI_PARTS; part++)
        ok = write_part(j, temporary, part, error);
    ok = ok && moji_save_rename(temporary, j->to, error);
    if (!ok)
        moji_save_remove(temporary);
    return ok;
}

/* ---- to a file ---- */

static gboolean refuse(const Job *j, const char *member, double found, double expected,
                       GError **error)
{
    if (found == expected)
        return TRUE;
    moji_error_file(error, j->from,
                    "%s is %g, which a checkpoint in one file cannot say; expected %g as in Stable "
                    "Diffusion 1.x",
                    member, found, expected);
    return FALSE;
}

/* What reading the file back would take for granted. */
static gboolean check_customs(const Job *j, const MojiModel *sd, GError **error)
{
    const MojiModel *m = j->m;
    for (int i = 0; i < m->unet.levels; i++)
        if (!refuse(j, "unet's attention_head_dim", m->unet.heads[i], sd->unet.heads[0], error) ||
            !refuse(j, "unet's transformer_layers_per_block", m->unet.transformer_layers[i], 1,
                    error))
            return FALSE;
    return refuse(j, "unet's norm_num_groups", m->unet.norm_groups, sd->unet.norm_groups, error) &&
           refuse(j, "unet's norm_eps", m->unet.norm_eps, sd->unet.norm_eps, error) &&
           refuse(j, "unet's flip_sin_to_cos", m->unet.flip_sin_to_cos, sd->unet.flip_sin_to_cos,
                  error) &&
           refuse(j, "unet's freq_shift", m->unet.freq_shift, sd->unet.freq_shift, error) &&
           refuse(j, "vae's norm_num_groups", m->vae.norm_groups, sd->vae.norm_groups, error) &&
           refuse(j, "vae's scaling_factor", m->vae.scaling_factor, sd->vae.scaling_factor,
                  error) &&
           refuse(j, "vae's shift_factor", m->vae.shift_factor, sd->vae.shift_factor, error) &&
           refuse(j, "text_encoder's num_attention_heads", m->clip.heads,
                  MAX(1, m->clip.hidden_size / 64), error) &&
           refuse(j, "text_encoder's quick_gelu", m->clip.quick_gelu, sd->clip.quick_gelu, error) &&
           refuse(j, "text_encoder's layer_norm_eps", m->clip.eps, sd->clip.eps, error) &&
           refuse(j, "the tokenizer's number of words", moji_tokenizer_vocabulary(m->tokenizer),
                  sd->clip.vocab_size, error) &&
           refuse(j, "the scheduler's v_prediction", m->sampler.v_prediction, FALSE, error);
}

static gboolean add_part(const Job *j, GPtrArray *list, const MojiNames *names, MojiPart part,
                         GError **error)
{
    GPtrArray *tensors = moji_weights_list(weights_of(j->m, part));
    for (guint i = 0; i < tensors->len; i++) {
        const MojiWeight *t = tensors->pdata[i];
        g_autofree char *ldm = moji_name_to_ldm(names, part, t->name);
        if (!ldm) {
            moji_error_file(error, moji_weights_path(weights_of(j->m, part)),
                            "tensor %s has no name in a checkpoint", t->name);
            return FALSE;
        }
        MojiSaved *s = add(j, list, t, g_strconcat(moji_part_prefix(part), ldm, NULL));
        if (part == MOJI_PART_VAE)
            shape_attention(s, t->name, TRUE);
    }
    return TRUE;
}

static gboolean to_file(const Job *j, GError **error)
{
    g_autofree char *shared = moji_checkpoint_shared(error);
    MojiModel *sd = shared ? moji_model_configs(shared, error) : NULL;
    g_autoptr(GPtrArray) list = list_new();
    g_autoptr(GHashTable) metadata = g_hash_table_new(g_str_hash, g_str_equal);
    MojiNames *names = moji_names_new(&j->m->unet, &j->m->vae);
    gboolean ok = sd && check_customs(j, sd, error);
    for (int part = MOJI_PARTS - 1; ok && part >= 0; part--)
        ok = add_part(j, list, names, part, error);
    g_hash_table_insert(metadata, (gpointer) "format", (gpointer) "pt");
    if (*j->m->card.licence)
        g_hash_table_insert(metadata, (gpointer) "modelspec.license", j->m->card.licence);
    ok = ok && moji_save_safetensors(j->to, list, metadata, j->cancel, error);
    moji_names_free(names);
    moji_model_free(sd);
    return ok;
}

/* ---- any file ---- */

static gboolean copy_tensors(const Job *j, GError **error)
{
    g_autoptr(GPtrArray) list = list_new();
    GPtrArray *tensors = moji_weights_list(j->c->file);
    for (guint i = 0; i < tensors->len; i++)
        add(j, list, tensors->pdata[i], g_strdup(((MojiWeight *)tensors->pdata[i])->name));
    GHashTable *lost = moji_weights_unusable(j->c->file);
    if (g_hash_table_size(lost)) {
        GHashTableIter iter;
        gpointer name, why;
        g_hash_table_iter_init(&iter, lost);
        g_hash_table_iter_next(&iter, &name, &why);
        moji_error_file(error, j->from, "tensor %s would be lost: %s", (char *)name, (char *)why);
        return FALSE;
    }
    return moji_save_safetensors(j->to, list, moji_weights_metadata(j->c->file), j->cancel, error);
}

static gboolean run(Job *j, gboolean folder, GError **error)
{
    if (!g_file_test(j->from, G_FILE_TEST_IS_DIR)) {
        if (!(j->c = moji_checkpoint_open(j->from, error)))
            return FALSE;
        if (j->c->kind != MOJI_FILE_MODEL && folder) {
            moji_error_file(error, j->from, "is %s; only a whole model becomes a folder",
                            j->c->what);
            return FALSE;
        }
        if (j->c->kind != MOJI_FILE_MODEL)
            return copy_tensors(j, error);
    }
    if (!(j->m = moji_model_open(j->from, error)))
        return FALSE;
    j->source = j->c ? moji_checkpoint_shared(error) : g_strdup(j->from);
    return j->source && (folder ? to_folder(j, error) : to_file(j, error));
}

gboolean moji_convert(const char *from, const char *to, const MojiConvert *options,
                      GCancellable *cancel, GError **error)
{
    static const char *const types[] = {"fp32", "bf16", "fp16"}; /* in MojiType's order */
    Job j = {.from = from, .to = to, .type = -1, .cancel = cancel};
    gboolean folder =
        options->to ? !strcmp(options->to, "folder") : !g_str_has_suffix(to, ".safetensors");
    for (int i = 0; options->type && i < (int)G_N_ELEMENTS(types); i++)
        if (!strcmp(options->type, types[i]))
            j.type = i;
    if (options->type && j.type < 0) {
        g_set_error(error, MOJI_ERROR, MOJI_ERROR_USAGE,
                    "type: \"%s\"; expected fp16, bf16 or fp32", options->type);
        return FALSE;
    }
    if (options->to && !folder && strcmp(options->to, "file")) {
        g_set_error(error, MOJI_ERROR, MOJI_ERROR_USAGE, "to: \"%s\"; expected folder or file",
                    options->to);
        return FALSE;
    }
    if (g_file_test(to, G_FILE_TEST_EXISTS) || g_file_test(to, G_FILE_TEST_IS_SYMLINK)) {
        moji_error_file(error, to, "is there already");
        return FALSE;
    }
    gboolean ok = run(&j, folder, error);
    moji_model_free(j.m);
    moji_checkpoint_free(j.c);
    g_free(j.source);
    return ok;
}
