/* checkpoint.c: see checkpoint.h. */
#include "checkpoint.h"
#include "folder.h"
#include "json.h"
#include "topology.h"
#include <string.h>

/* The first row with a tensor that it fits says what the file is. Marks with a star before them may
 * stand anywhere in a name, others at its beginning. */
static const struct {
    const char *mark;
    MojiFileKind kind;
    const char *what;
} kinds[] = {
    {"conditioner.embedders.", MOJI_FILE_OTHER, "a Stable Diffusion XL checkpoint"},
    {"cond_stage_model.model.", MOJI_FILE_OTHER, "a Stable Diffusion 2 checkpoint"},
    {"model.diffusion_model.joint_blocks.", MOJI_FILE_OTHER, "a Stable Diffusion 3 checkpoint"},
    {"model.diffusion_model.double_blocks.", MOJI_FILE_OTHER, "a FLUX checkpoint"},
    {"double_blocks.", MOJI_FILE_OTHER, "a FLUX checkpoint"},
    {"model.diffusion_model.label_emb.", MOJI_FILE_OTHER, "a Stable Diffusion XL checkpoint"},
    {"add_embedding.", MOJI_FILE_OTHER, "a Stable Diffusion XL U-Net"},
    {"control_model.", MOJI_FILE_OTHER, "a ControlNet"},
    {"controlnet_", MOJI_FILE_OTHER, "a ControlNet"},
    {"model.diffusion_model.", MOJI_FILE_MODEL, "a Stable Diffusion 1.x checkpoint"},
    {"lora_", MOJI_FILE_LORA, "a LoRA"},
    {"lycoris_", MOJI_FILE_LORA, "a LoRA"},
    {"*.lora_A.", MOJI_FILE_LORA, "a LoRA"},
    {"*.lora_down.", MOJI_FILE_LORA, "a LoRA"},
    {"*lora.down.", MOJI_FILE_LORA, "a LoRA"},
    {"*lora_linear_layer.", MOJI_FILE_LORA, "a LoRA"},
    {"*.hada_w1_", MOJI_FILE_LORA, "a LoRA"},
    {"*.lokr_w1", MOJI_FILE_LORA, "a LoRA"},
    {"first_stage_model.", MOJI_FILE_PART, "a VAE"},
    {"decoder.up.", MOJI_FILE_PART, "a VAE"},
    {"decoder.up_blocks.", MOJI_FILE_PART, "a VAE"},
    {"decoder.layers.", MOJI_FILE_PART, "a tiny VAE (TAESD)"},
    {"down_blocks.", MOJI_FILE_PART, "a U-Net in diffusers' form"},
    {"cond_stage_model.transformer.", MOJI_FILE_PART, "a text encoder"},
    {"text_model.embeddings.", MOJI_FILE_PART, "a text encoder"},
    {"string_to_param.", MOJI_FILE_EMBEDDING, "a textual inversion embedding"},
    {"emb_params", MOJI_FILE_EMBEDDING, "a textual inversion embedding"},
};

/* ---- what it is ---- */

static gboolean fits(const char *name, const char *mark)
{
    return mark[0] == '*' ? strstr(name, mark + 1) != NULL : g_str_has_prefix(name, mark);
}

static gboolean any_fits(MojiWeights *w, const char *mark)
{
    GPtrArray *list = moji_weights_list(w);
    for (guint i = 0; i < list->len; i++)
        if (fits(((MojiWeight *)list->pdata[i])->name, mark))
            return TRUE;
    return FALSE;
}

static void classify(MojiCheckpoint *c)
{
    c->kind = MOJI_FILE_OTHER;
    c->what = "of no kind that is known here";
    for (guint i = 0; i < G_N_ELEMENTS(kinds); i++)
        if (any_fits(c->file, kinds[i].mark)) {
            c->kind = kinds[i].kind;
            c->what = kinds[i].what;
            return;
        }
}

/* ---- its parts ---- */

typedef struct {
    MojiPart part;
    const char *prefix;
    const MojiNames *names; /* NULL: diffusers' names */
} Naming;

static char *name_in_part(const char *stored, gpointer data)
{
    const Naming *n = data;
    if (!g_str_has_prefix(stored, n->prefix))
        return NULL;
    stored += strlen(n->prefix);
    return n->names ? moji_name_from_ldm(n->names, n->part, stored)
                    : moji_name_canonical(n->part, stored);
}

static void add_part(MojiCheckpoint *c, Naming naming)
{
    MojiWeights *view = moji_weights_view(c->file, name_in_part, &naming);
    if (moji_weights_list(view)->len)
        c->part[naming.part] = view;
    else
        moji_weights_free(view);
}

static void add_parts(MojiCheckpoint *c)
{
    const char *whole_vae = moji_part_prefix(MOJI_PART_VAE);
    const char *vae = any_fits(c->file, whole_vae) ? whole_vae : "";
    MojiUnetConfig unet_blocks;
    MojiVaeConfig vae_blocks;
    if (c->kind == MOJI_FILE_PART && any_fits(c->file, "down_blocks.")) {
        add_part(c, (Naming){MOJI_PART_UNET, "", NULL});
    } else if (c->kind == MOJI_FILE_PART && any_fits(c->file, "decoder.up_blocks.")) {
        add_part(c, (Naming){MOJI_PART_VAE, "", NULL});
    } else if (c->kind == MOJI_FILE_PART && any_fits(c->file, "text_model.")) {
        add_part(c, (Naming){MOJI_PART_TEXT, "", NULL});
    } else if (c->kind == MOJI_FILE_PART || c->kind == MOJI_FILE_MODEL) {
        moji_topology_ldm(c->file, moji_part_prefix(MOJI_PART_UNET), vae, &unet_blocks,
                          &vae_blocks);
        MojiNames *names = moji_names_new(&unet_blocks, &vae_blocks);
        add_part(c, (Naming){MOJI_PART_VAE, vae, names});
        for (int part = MOJI_PART_TEXT; part <= MOJI_PART_UNET; part++)
            add_part(c, (Naming){part, moji_part_prefix(part), names});
        moji_names_free(names);
    }
}

/* Stable Diffusion 1.x's config.json, changed by the shapes. */
static JsonNode *make_config(const char *shared, MojiPart part, MojiWeights *w, GError **error)
{
    g_autofree char *path = g_build_filename(shared, moji_part_folder(part), "config.json", NULL);
    g_autoptr(JsonParser) parser = json_parser_new();
    g_autoptr(GError) why = NULL;
    if (!json_parser_load_from_file(parser, path, &why)) {
        moji_error_file(error, path, "cannot be read: %s", why->message);
        return NULL;
    }
    JsonNode *root = json_parser_steal_root(parser);
    if (!root || !JSON_NODE_HOLDS_OBJECT(root)) {
        moji_error_file(error, path, "expected a JSON object");
        g_clear_pointer(&root, json_node_unref);
        return NULL;
    }
    moji_topology(part, w, json_node_get_object(root));
    return root;
}

/* The family shows in the width of the embeddings too, where a text encoder is not there to tell.
 */
static void check_width(MojiCheckpoint *c)
{
    if (!c->config[MOJI_PART_UNET])
        return;
    JsonObject *o = json_node_get_object(c->config[MOJI_PART_UNET]);
    gint64 width = json_object_get_int_member(o, "cross_attention_dim");
    if (width == 1024 || width == 2048) {
        c->kind = MOJI_FILE_OTHER;
        c->what = width == 1024 ? "of the Stable Diffusion 2 family"
                                : "of the Stable Diffusion XL family";
    }
}

char *moji_checkpoint_shared(GError **error)
{
    char *folder = moji_folder_installed("sd1");
    if (!folder)
        g_set_error(error, MOJI_ERROR, MOJI_ERROR_FILE,
                    "The folder sd1 is not installed, which has what checkpoints do not carry");
    return folder;
}

MojiCheckpoint *moji_checkpoint_open(const char *path, GError **error)
{
    MojiCheckpoint *c = g_new0(MojiCheckpoint, 1);
    g_autofree char *shared = NULL;
    if (!(c->file = moji_weights_open(path, error)))
        goto fail;
    classify(c);
    add_parts(c);
    for (int part = 0; part < MOJI_PARTS; part++)
        if (c->part[part] && ((!shared && !(shared = moji_checkpoint_shared(error))) ||
                              !(c->config[part] = make_config(shared, part, c->part[part], error))))
            goto fail;
    check_width(c);
    return c;
fail:
    moji_checkpoint_free(c);
    return NULL;
}

void moji_checkpoint_free(MojiCheckpoint *c)
{
    if (!c)
        return;
    for (int part = 0; part < MOJI_PARTS; part++) {
        moji_weights_free(c->part[part]);
        g_clear_pointer(&c->config[part], json_node_unref);
    }
    moji_weights_free(c->file);
    g_free(c);
}
