/* names.c: see names.h.
 *
 * The surprising rule: a table's row speaks of everything below a module, and the longest row that
 * fits a name wins. So "input_blocks.1.1" needs one row for its forty tensors, which are called the
 * same on both sides, and "input_blocks.1.0" one for each of its layers. */
#include "names.h"
#include <string.h>

typedef struct {
    const char *ldm, *canonical;
} Row;

/* ---- the tables ---- */

static const struct {
    const char *name, *folder, *prefix;
} parts[MOJI_PARTS] = {
    [MOJI_PART_TEXT] = {"text", "text_encoder", "cond_stage_model.transformer."},
    [MOJI_PART_UNET] = {"unet", "unet", "model.diffusion_model."},
    [MOJI_PART_VAE] = {"vae", "vae", "first_stage_model."},
};

static const Row unet_rows[] = {
    {"time_embed.0", "time_embedding.linear_1"},
    {"time_embed.2", "time_embedding.linear_2"},
    {"input_blocks.0.0", "conv_in"},
    {"middle_block.1", "mid_block.attentions.0"},
    {"out.0", "conv_norm_out"},
    {"out.2", "conv_out"},
};

static const Row unet_resnet_rows[] = {
    {"in_layers.0", "norm1"},  {"in_layers.2", "conv1"},  {"emb_layers.1", "time_emb_proj"},
    {"out_layers.0", "norm2"}, {"out_layers.3", "conv2"}, {"skip_connection", "conv_shortcut"},
};

static const Row vae_rows[] = {
    {"quant_conv", "quant_conv"},
    {"post_quant_conv", "post_quant_conv"},
};

/* Of the encoder and of the decoder. */
static const Row vae_half_rows[] = {
    {"conv_in", "conv_in"},
    {"mid.block_1", "mid_block.resnets.0"},
    {"mid.block_2", "mid_block.resnets.1"},
    {"mid.attn_1.norm", "mid_block.attentions.0.group_norm"},
    {"mid.attn_1.q", "mid_block.attentions.0.to_q"},
    {"mid.attn_1.k", "mid_block.attentions.0.to_k"},
    {"mid.attn_1.v", "mid_block.attentions.0.to_v"},
    {"mid.attn_1.proj_out", "mid_block.attentions.0.to_out.0"},
    {"norm_out", "conv_norm_out"},
    {"conv_out", "conv_out"},
};

/* How the VAE's attention was called before diffusers 0.13, or is in files that were only half
 * converted; the last part of a module's name. */
static const Row old_attention_rows[] = {
    {"query", "to_q"},      {"key", "to_k"}, {"value", "to_v"}, {"proj_attn", "to_out.0"},
    {"q", "to_q"},          {"k", "to_k"},   {"v", "to_v"},     {"proj_out", "to_out.0"},
    {"norm", "group_norm"},
};

const char *moji_part_name(MojiPart part)
{
    return parts[part].name;
}

const char *moji_part_folder(MojiPart part)
{
    return parts[part].folder;
}

const char *moji_part_prefix(MojiPart part)
{
    return parts[part].prefix;
}

/* ---- older names ---- */

char *moji_name_canonical(MojiPart part, const char *stored)
{
    /* transformers 5 leaves the prefix out, as some merges of checkpoints do */
    if (part == MOJI_PART_TEXT)
        return g_str_has_prefix(stored, "text_model.") ? g_strdup(stored)
                                                       : g_strconcat("text_model.", stored, NULL);
    const char *at = part == MOJI_PART_VAE ? strstr(stored, "mid_block.attentions.0.") : NULL;
    if (!at)
        return g_strdup(stored);
    at += strlen("mid_block.attentions.0.");
    const char *end = strrchr(at, '.');
    for (guint i = 0; end && i < G_N_ELEMENTS(old_attention_rows); i++) {
        const Row *row = &old_attention_rows[i];
        if (strlen(row->ldm) == (gsize)(end - at) && !strncmp(row->ldm, at, end - at))
            return g_strdup_printf("%.*s%s%s", (int)(at - stored), stored, row->canonical, end);
    }
    return g_strdup(stored);
}

/* ---- LDM's names ---- */

struct MojiNames {
    /* module -> module, of char* */
    GHashTable *from_ldm[MOJI_PARTS], *to_ldm[MOJI_PARTS];
};

static void add(MojiNames *n, MojiPart part, char *ldm, char *canonical)
{
    g_hash_table_insert(n->to_ldm[part], g_strdup(canonical), g_strdup(ldm));
    g_hash_table_insert(n->from_ldm[part], ldm, canonical);
}

/* The rows below two modules. Takes both names. */
static void add_rows(MojiNames *n, MojiPart part, const Row *rows, guint count, char *ldm,
                     char *canonical)
{
    for (guint i = 0; i < count; i++)
        add(n, part, g_strconcat(ldm, rows[i].ldm, NULL),
            g_strconcat(canonical, rows[i].canonical, NULL));
    g_free(ldm);
    g_free(canonical);
}

#define ADD_ROWS(n, part, rows, ldm, canonical)                                                    \
    add_rows(n, part, rows, G_N_ELEMENTS(rows), ldm, canonical)

/* A resnet, and the transformer that may follow it. */
static void add_unet_layer(MojiNames *n, const char *side, int block, const char *blocks, int i,
                           int layer, gboolean attention)
{
    ADD_ROWS(n, MOJI_PART_UNET, unet_resnet_rows, g_strdup_printf("%s.%d.0.", side, block),
             g_strdup_printf("%s.%d.resnets.%d.", blocks, i, layer));
    if (attention)
        add(n, MOJI_PART_UNET, g_strdup_printf("%s.%d.1", side, block),
            g_strdup_printf("%s.%d.attentions.%d", blocks, i, layer));
}

static void add_unet(MojiNames *n, const MojiUnetConfig *c)
{
    ADD_ROWS(n, MOJI_PART_UNET, unet_rows, g_strdup(""), g_strdup(""));
    for (int i = 0; i < 2; i++)
        ADD_ROWS(n, MOJI_PART_UNET, unet_resnet_rows, g_strdup_printf("middle_block.%d.", 2 * i),
                 g_strdup_printf("mid_block.resnets.%d.", i));
    int block = 1;
    for (int level = 0; level < c->levels; level++) {
        for (int k = 0; k < c->layers[level]; k++)
            add_unet_layer(n, "input_blocks", block++, "down_blocks", level, k,
                           c->attention_down[level]);
        if (level < c->levels - 1)
            add(n, MOJI_PART_UNET, g_strdup_printf("input_blocks.%d.0.op", block++),
                g_strdup_printf("down_blocks.%d.downsamplers.0.conv", level));
    }
    block = 0;
    for (int i = 0; i < c->levels; i++) {
        int level = c->levels - 1 - i;
        for (int k = 0; k <= c->layers[level]; k++)
            add_unet_layer(n, "output_blocks", block++, "up_blocks", i, k, c->attention_up[i]);
        if (level > 0) /* behind the last layer, in the same block */
            add(n, MOJI_PART_UNET,
                g_strdup_printf("output_blocks.%d.%d.conv", block - 1, c->attention_up[i] ? 2 : 1),
                g_strdup_printf("up_blocks.%d.upsamplers.0.conv", i));
    }
}

static void add_vae_resnet(MojiNames *n, char *ldm, char *canonical)
{
    add(n, MOJI_PART_VAE, g_strconcat(ldm, ".nin_shortcut", NULL),
        g_strconcat(canonical, ".conv_shortcut", NULL));
    add(n, MOJI_PART_VAE, ldm, canonical);
}

/* LDM counts the decoder's levels from the pixels, diffusers from the latents. */
static void add_vae(MojiNames *n, const MojiVaeConfig *c)
{
    const MojiPart vae = MOJI_PART_VAE;
    ADD_ROWS(n, vae, vae_rows, g_strdup(""), g_strdup(""));
    for (int decoder = 0; decoder < 2; decoder++) {
        const char *half = decoder ? "decoder" : "encoder", *way = decoder ? "up" : "down";
        ADD_ROWS(n, vae, vae_half_rows, g_strdup_printf("%s.", half), g_strdup_printf("%s.", half));
        for (int i = 0; i < c->levels; i++) {
            int ldm = decoder ? c->levels - 1 - i : i;
            for (int k = 0; k < c->layers + decoder; k++)
                add_vae_resnet(n, g_strdup_printf("%s.%s.%d.block.%d", half, way, ldm, k),
                               g_strdup_printf("%s.%s_blocks.%d.resnets.%d", half, way, i, k));
            if (i < c->levels - 1)
                add(n, vae, g_strdup_printf("%s.%s.%d.%ssample.conv", half, way, ldm, way),
                    g_strdup_printf("%s.%s_blocks.%d.%ssamplers.0.conv", half, way, i, way));
        }
    }
}

MojiNames *moji_names_new(const MojiUnetConfig *unet, const MojiVaeConfig *vae)
{
    MojiNames *n = g_new0(MojiNames, 1);
    for (int part = 0; part < MOJI_PARTS; part++) {
        n->from_ldm[part] = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
        n->to_ldm[part] = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
    }
    add_unet(n, unet);
    add_vae(n, vae);
    return n;
}

void moji_names_free(MojiNames *n)
{
    if (!n)
        return;
    for (int part = 0; part < MOJI_PARTS; part++) {
        g_hash_table_unref(n->from_ldm[part]);
        g_hash_table_unref(n->to_ldm[part]);
    }
    g_free(n);
}

/* By the longest of the name's modules that the table has. */
static char *translate(GHashTable *table, const char *name)
{
    g_autofree char *module = g_strdup(name);
    for (char *dot; (dot = strrchr(module, '.'));) {
        *dot = '\0';
        const char *other = g_hash_table_lookup(table, module);
        if (other)
            return g_strconcat(other, name + (dot - module), NULL);
    }
    return NULL;
}

char *moji_name_from_ldm(const MojiNames *n, MojiPart part, const char *ldm)
{
    /* The text encoder is transformers' on both sides. */
    return part == MOJI_PART_TEXT ? moji_name_canonical(part, ldm)
                                  : translate(n->from_ldm[part], ldm);
}

char *moji_name_to_ldm(const MojiNames *n, MojiPart part, const char *canonical)
{
    return part == MOJI_PART_TEXT ? g_strdup(canonical) : translate(n->to_ldm[part], canonical);
}
