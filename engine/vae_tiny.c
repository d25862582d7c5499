/* vae_tiny.c: see vae_tiny.h. A row of convolutions without norms or attention, forty times less
 * work than the decoder it stands for.
 *
 * The surprising rule: its layers are numbered through, and what has no weights counts too. */
#include "vae_tiny.h"
#include "config.h"
#include <string.h>

static const MojiConfigField fields[] = {
    {"_class_name", "AutoencoderTiny"},
    {"act_fn", "relu"},
    {"block_out_channels", NULL}, /* what diffusers notes of the decoder's */
    {"decoder_block_out_channels", NULL},
    {"encoder_block_out_channels", NULL},
    {"force_upcast", NULL},
    {"in_channels", NULL},
    {"latent_channels", NULL},
    {"latent_magnitude", NULL}, /* of latents stored as bytes */
    {"latent_shift", NULL},
    {"num_decoder_blocks", NULL},
    {"num_encoder_blocks", NULL},
    {"out_channels", NULL},
    {"scaling_factor", NULL},
    {"shift_factor", NULL},
    {"upsample_fn", "nearest"},
    {"upsampling_scaling_factor", "2"},
    {0},
};

gboolean moji_vae_tiny_is(JsonObject *config)
{
    JsonNode *node = json_object_get_member(config, "_class_name");
    return node && JSON_NODE_HOLDS_VALUE(node) && json_node_get_value_type(node) == G_TYPE_STRING &&
           !strcmp(json_node_get_string(node), "AutoencoderTiny");
}

gboolean moji_vae_tiny_config(JsonObject *o, const char *path, MojiVaeConfig *config,
                              GError **error)
{
    static const int widths[] = {64, 64, 64, 64}, down[] = {1, 3, 3, 3}, up[] = {3, 3, 3, 1};
    MojiVaeConfig c = {.tiny = TRUE, .in_channels = 3, .out_channels = 3, .latent_channels = 4};
    double scaling = 1, shift = 0;
    memcpy(c.channels, widths, sizeof widths);
    memcpy(c.encoder_channels, widths, sizeof widths);
    memcpy(c.encoder_blocks, down, sizeof down);
    memcpy(c.decoder_blocks, up, sizeof up);
    if (!moji_config_check(o, path, fields, error))
        return FALSE;
    int n = c.levels =
        json_object_has_member(o, "decoder_block_out_channels")
            ? moji_config_length(o, path, "decoder_block_out_channels", MOJI_VAE_MAX_LEVELS, error)
            : 4;
    if (n == 0 ||
        !moji_config_ints(o, path, "decoder_block_out_channels", n, 1, 1 << 14, c.channels,
                          error) ||
        !moji_config_ints(o, path, "encoder_block_out_channels", n, 1, 1 << 14, c.encoder_channels,
                          error) ||
        !moji_config_ints(o, path, "num_decoder_blocks", n, 0, 64, c.decoder_blocks, error) ||
        !moji_config_ints(o, path, "num_encoder_blocks", n, 0, 64, c.encoder_blocks, error) ||
        !moji_json_int(o, path, "in_channels", 1, 1 << 10, &c.in_channels, error) ||
        !moji_json_int(o, path, "out_channels", 1, 1 << 10, &c.out_channels, error) ||
        !moji_json_int(o, path, "latent_channels", 1, 1 << 10, &c.latent_channels, error) ||
        !moji_json_double(o, path, "scaling_factor", &scaling, error) ||
        !moji_json_double(o, path, "shift_factor", &shift, error))
        return FALSE;
    if (!(scaling > 0)) {
        moji_error_file(error, path, "\"scaling_factor\" is %g, expected more than 0", scaling);
        return FALSE;
    }
    /* A level's first convolution takes the channels of the one before. */
    for (int i = 1; i < n; i++)
        if (c.channels[i] != c.channels[0] || c.encoder_channels[i] != c.encoder_channels[0]) {
            moji_error_file(error, path,
                            "\"decoder_block_out_channels\" and \"encoder_block_out_channels\" "
                            "have levels of several widths, expected one");
            return FALSE;
        }
    c.scaling_factor = (float)scaling;
    c.shift_factor = (float)shift;
    *config = c;
    return TRUE;
}

/* layers.N: x [B,h,w,C] -> [B,h,w,out] */
static MojiTensor *conv(MojiTape *tape, int *n, MojiTensor *x, int out, int stride, gboolean bias)
{
    char name[32];
    g_snprintf(name, sizeof name, "layers.%d", (*n)++);
    return moji_conv2d(
        tape, name, x,
        (MojiConv){.out = out, .kernel = 3, .stride = stride, .pad = 1, .no_bias = !bias});
}

/* layers.N: x [B,h,w,C] -> [B,h,w,C] */
static MojiTensor *block(MojiTape *tape, int *n, MojiTensor *x)
{
    MojiConv three = {.out = (int)x->dim[3], .kernel = 3, .pad = 1};
    moji_scope(tape, "layers.%d", (*n)++);
    MojiTensor *h = moji_relu(tape, moji_conv2d(tape, "conv.0", x, three));
    h = moji_relu(tape, moji_conv2d(tape, "conv.2", h, three));
    h = moji_add(tape, x, moji_conv2d(tape, "conv.4", h, three));
    moji_scope_end(tape);
    return moji_relu(tape, h);
}

MojiTensor *moji_vae_tiny_encoder(MojiTape *tape, const MojiVaeConfig *c, MojiTensor *pixels)
{
    int n = 0;
    MojiTensor *x = moji_cast(tape, pixels, moji_tape_compute(tape));
    moji_scope(tape, "encoder");
    for (int i = 0; i < c->levels; i++) {
        x = conv(tape, &n, x, c->encoder_channels[i], i ? 2 : 1, i == 0);
        for (int k = 0; k < c->encoder_blocks[i]; k++)
            x = block(tape, &n, x);
    }
    x = conv(tape, &n, x, c->latent_channels, 1, TRUE);
    moji_scope_end(tape);
    return moji_cast(tape, x, MOJI_F32);
}

MojiTensor *moji_vae_tiny_decoder(MojiTape *tape, const MojiVaeConfig *c, MojiTensor *latents)
{
    int n = 0;
    MojiTensor *x = moji_cast(tape, latents, moji_tape_compute(tape));
    moji_scope(tape, "decoder");
    x = moji_relu(tape, conv(tape, &n, x, c->channels[0], 1, TRUE));
    n++; /* the relu's */
    for (int i = 0; i < c->levels; i++) {
        gboolean last = i == c->levels - 1;
        for (int k = 0; k < c->decoder_blocks[i]; k++)
            x = block(tape, &n, x);
        if (!last) {
            x = moji_upsample(tape, x);
            n++;
        }
        x = conv(tape, &n, x, last ? c->out_channels : c->channels[i], 1, last);
    }
    moji_scope_end(tape);
    return moji_cast(tape, x, MOJI_F32);
}
