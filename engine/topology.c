/* topology.c: see topology.h. Numbers go into the configuration as they are found: its reader
 * (moji_unet_config_parse and its like) judges them, as it does a file's. */
#include "topology.h"

enum { MAX_COUNT = 64 };

/* The tensor of a name made as by printf, or NULL. */
static G_GNUC_PRINTF(2, 0) MojiWeight *find_valist(MojiWeights *w, const char *name, va_list args)
{
    g_autofree char *text = g_strdup_vprintf(name, args);
    return moji_weights_find(w, text);
}

static G_GNUC_PRINTF(2, 3) gboolean has(MojiWeights *w, const char *name, ...)
{
    va_list args;
    va_start(args, name);
    gboolean found = find_valist(w, name, args) != NULL;
    va_end(args);
    return found;
}

/* Its dimension i; 0 if there is none, or if it is beyond reason. */
static G_GNUC_PRINTF(3, 4) gint64 dimension(MojiWeights *w, int i, const char *name, ...)
{
    va_list args;
    va_start(args, name);
    const MojiWeight *t = find_valist(w, name, args);
    va_end(args);
    return t && i < t->rank && t->dim[i] <= G_MAXINT32 ? t->dim[i] : 0;
}

static void set(JsonObject *o, const char *member, gint64 value)
{
    if (value)
        json_object_set_int_member(o, member, value);
}

static void set_names(JsonObject *o, const char *member, int n, const char *plain,
                      const char *special, const gboolean *is_special)
{
    JsonArray *list = json_array_new();
    for (int i = 0; i < n; i++)
        json_array_add_string_element(list, is_special && is_special[i] ? special : plain);
    json_object_set_array_member(o, member, list);
}

/* ---- by canonical names ---- */

static void text(MojiWeights *w, JsonObject *o)
{
    enum { HEAD = 64 }; /* channels of a head in every one of CLIP's text encoders */
    gint64 width = dimension(w, 1, "text_model.embeddings.token_embedding.weight");
    int layers = 0;
    while (layers < MAX_COUNT && has(w, "text_model.encoder.layers.%d.layer_norm1.weight", layers))
        layers++;
    set(o, "vocab_size", dimension(w, 0, "text_model.embeddings.token_embedding.weight"));
    set(o, "max_position_embeddings",
        dimension(w, 0, "text_model.embeddings.position_embedding.weight"));
    set(o, "hidden_size", width);
    set(o, "intermediate_size", dimension(w, 0, "text_model.encoder.layers.0.mlp.fc1.weight"));
    set(o, "num_hidden_layers", layers);
    set(o, "num_attention_heads", width ? MAX(1, width / HEAD) : 0);
}

static void unet(MojiWeights *w, JsonObject *o)
{
    gboolean down[MOJI_UNET_MAX_LEVELS] = {0}, up[MOJI_UNET_MAX_LEVELS] = {0};
    JsonArray *channels = json_array_new(), *layers = json_array_new();
    int levels = 0, cross = 0;
    for (gint64 width; levels < MOJI_UNET_MAX_LEVELS &&
                       (width = dimension(w, 0, "down_blocks.%d.resnets.0.conv1.weight", levels));
         levels++) {
        int n = 1;
        while (n < MAX_COUNT && has(w, "down_blocks.%d.resnets.%d.conv1.weight", levels, n))
            n++;
        json_array_add_int_element(channels, width);
        json_array_add_int_element(layers, n);
        down[levels] = has(w, "down_blocks.%d.attentions.0.norm.weight", levels);
        up[levels] = has(w, "up_blocks.%d.attentions.0.norm.weight", levels);
        if (down[levels] && !cross)
            cross = (int)dimension(
                w, 1, "down_blocks.%d.attentions.0.transformer_blocks.0.attn2.to_k.weight", levels);
    }
    if (levels) {
        json_object_set_array_member(o, "block_out_channels", channels);
        json_object_set_array_member(o, "layers_per_block", layers);
        set_names(o, "down_block_types", levels, "DownBlock2D", "CrossAttnDownBlock2D", down);
        set_names(o, "up_block_types", levels, "UpBlock2D", "CrossAttnUpBlock2D", up);
    } else {
        json_array_unref(channels);
        json_array_unref(layers);
    }
    const MojiWeight *in = moji_weights_find(w, "down_blocks.0.attentions.0.proj_in.weight");
    if (in)
        json_object_set_boolean_member(o, "use_linear_projection", in->rank == 2);
    set(o, "cross_attention_dim", cross);
    set(o, "in_channels", dimension(w, 1, "conv_in.weight"));
    set(o, "out_channels", dimension(w, 0, "conv_out.weight"));
}

static void vae(MojiWeights *w, JsonObject *o)
{
    int levels = 0, layers = 0;
    while (levels < MOJI_VAE_MAX_LEVELS &&
           has(w, "decoder.up_blocks.%d.resnets.0.conv1.weight", levels))
        levels++;
    while (layers < MAX_COUNT && has(w, "decoder.up_blocks.0.resnets.%d.conv1.weight", layers))
        layers++;
    if (levels) {
        JsonArray *channels = json_array_new();
        for (int i = levels - 1; i >= 0; i--)
            json_array_add_int_element(
                channels, dimension(w, 0, "decoder.up_blocks.%d.resnets.0.conv1.weight", i));
        json_object_set_array_member(o, "block_out_channels", channels);
        set_names(o, "down_block_types", levels, "DownEncoderBlock2D", NULL, NULL);
        set_names(o, "up_block_types", levels, "UpDecoderBlock2D", NULL, NULL);
        set(o, "layers_per_block", layers - 1); /* the decoder has one more */
        json_object_set_boolean_member(o, "mid_block_add_attention",
                                       has(w, "decoder.mid_block.attentions.0.to_q.weight"));
        json_object_set_boolean_member(o, "use_post_quant_conv", has(w, "post_quant_conv.weight"));
        json_object_set_boolean_member(o, "use_quant_conv", has(w, "quant_conv.weight"));
    }
    set(o, "latent_channels", dimension(w, 1, "decoder.conv_in.weight"));
    set(o, "out_channels", dimension(w, 0, "decoder.conv_out.weight"));
    set(o, "in_channels", dimension(w, 1, "encoder.conv_in.weight"));
}

void moji_topology(MojiPart part, MojiWeights *w, JsonObject *o)
{
    switch (part) {
    case MOJI_PART_TEXT:
        text(w, o);
        break;
    case MOJI_PART_UNET:
        unet(w, o);
        break;
    default:
        vae(w, o);
    }
}

/* ---- by LDM's names ---- */

/* A level ends with a convolution that halves it; the last level with the last block. */
static void ldm_unet(MojiWeights *w, const char *prefix, MojiUnetConfig *c)
{
    *c = (MojiUnetConfig){.levels = 1};
    for (int block = 1; block < MAX_COUNT; block++) {
        int level = c->levels - 1;
        if (has(w, "%sinput_blocks.%d.0.op.weight", prefix, block)) {
            if (c->levels++ == MOJI_UNET_MAX_LEVELS - 1)
                break;
        } else if (has(w, "%sinput_blocks.%d.0.in_layers.0.weight", prefix, block)) {
            c->layers[level]++;
            c->attention_down[level] |= has(w, "%sinput_blocks.%d.1.norm.weight", prefix, block);
        } else {
            break;
        }
    }
    for (int i = 0, block = 0; i < c->levels; i++) {
        c->attention_up[i] = has(w, "%soutput_blocks.%d.1.norm.weight", prefix, block);
        block += c->layers[c->levels - 1 - i] + 1;
    }
}

static void ldm_vae(MojiWeights *w, const char *prefix, MojiVaeConfig *c)
{
    *c = (MojiVaeConfig){0};
    while (c->levels < MOJI_VAE_MAX_LEVELS &&
           has(w, "%sdecoder.up.%d.block.0.conv1.weight", prefix, c->levels))
        c->levels++;
    while (c->layers < MAX_COUNT &&
           has(w, "%sdecoder.up.0.block.%d.conv1.weight", prefix, c->layers + 1))
        c->layers++;
}

void moji_topology_ldm(MojiWeights *w, const char *unet_prefix, const char *vae_prefix,
                       MojiUnetConfig *unet, MojiVaeConfig *vae)
{
    ldm_unet(w, unet_prefix, unet);
    ldm_vae(w, vae_prefix, vae);
}
