/* vae.c: see vae.h. All norms have eps 1e-6, unlike the U-Net's, and the one attention has one head
 * as wide as all channels. */
#include "vae.h"
#include "vae_tiny.h"
#include "config.h"
#include <math.h>
#include <string.h>

#define EPS 1e-6f

/* ---- config ---- */

static const MojiConfigField fields[] = {
    {"_class_name", "AutoencoderKL"},
    {"act_fn", "silu|swish"},
    {"block_out_channels", NULL},
    {"down_block_types", NULL},
    {"force_upcast", NULL}, /* about float16, which is not computed in here */
    {"in_channels", NULL},
    {"latent_channels", NULL},
    {"layers_per_block", NULL},
    {"mid_block_add_attention", NULL},
    {"norm_num_groups", NULL},
    {"out_channels", NULL},
    {"sample_size", NULL},
    {"scaling_factor", NULL},
    {"shift_factor", NULL},
    {"up_block_types", NULL},
    {"use_post_quant_conv", NULL},
    {"use_quant_conv", NULL},
    {0},
};

static gboolean read_levels(JsonObject *o, const char *path, MojiVaeConfig *c, GError **error)
{
    int n = c->levels =
        moji_config_length(o, path, "block_out_channels", MOJI_VAE_MAX_LEVELS, error);
    if (n == 0 ||
        !moji_config_ints(o, path, "block_out_channels", n, 1, 1 << 14, c->channels, error) ||
        !moji_config_kinds(o, path, "down_block_types", n, "DownEncoderBlock2D", NULL, NULL,
                           error) ||
        !moji_config_kinds(o, path, "up_block_types", n, "UpDecoderBlock2D", NULL, NULL, error))
        return FALSE;
    for (int i = 0; i < n; i++)
        if (!moji_config_multiple(path, "block_out_channels", c->channels[i], "norm_num_groups",
                                  c->norm_groups, error))
            return FALSE;
    return TRUE;
}

gboolean moji_vae_config_parse(JsonObject *o, const char *path, MojiVaeConfig *config,
                               GError **error)
{
    if (moji_vae_tiny_is(o))
        return moji_vae_tiny_config(o, path, config, error);
    if (!moji_config_check(o, path, fields, error))
        return FALSE;
    MojiVaeConfig c = {.in_channels = 3, .out_channels = 3, .latent_channels = 4, .layers = 1};
    c.norm_groups = 32;
    c.mid_attention = c.quant_conv = c.post_quant_conv = TRUE;
    double scaling = 0.18215, shift = 0;
    if (!moji_json_int(o, path, "in_channels", 1, 1 << 10, &c.in_channels, error) ||
        !moji_json_int(o, path, "out_channels", 1, 1 << 10, &c.out_channels, error) ||
        !moji_json_int(o, path, "latent_channels", 1, 1 << 10, &c.latent_channels, error) ||
        !moji_json_int(o, path, "layers_per_block", 1, 16, &c.layers, error) ||
        !moji_json_int(o, path, "norm_num_groups", 1, 1 << 10, &c.norm_groups, error) ||
        !moji_json_bool(o, path, "mid_block_add_attention", &c.mid_attention, error) ||
        !moji_json_bool(o, path, "use_quant_conv", &c.quant_conv, error) ||
        !moji_json_bool(o, path, "use_post_quant_conv", &c.post_quant_conv, error) ||
        !moji_json_double(o, path, "scaling_factor", &scaling, error) ||
        !moji_json_double(o, path, "shift_factor", &shift, error) ||
        !read_levels(o, path, &c, error))
        return FALSE;
    if (!(scaling > 0)) {
        moji_error_file(error, path, "\"scaling_factor\" is %g, expected more than 0", scaling);
        return FALSE;
    }
    c.scaling_factor = (float)scaling;
    c.shift_factor = (float)shift;
    *config = c;
    return TRUE;
}

gboolean moji_vae_config_read(const char *path, MojiVaeConfig *config, GError **error)
{
    JsonObject *o;
    g_autoptr(JsonParser) parser = moji_json_open(path, &o, error);
    return parser && moji_vae_config_parse(o, path, config, error);
}

int moji_vae_factor(const MojiVaeConfig *c)
{
    return 1 << (c->levels - 1);
}

/* ---- the network ---- */

/* resnets.I: x [B,h,w,C] -> [B,h,w,out]; the shortcut first, so that the add folds into conv2 */
static MojiTensor *resnet(MojiTape *tape, const MojiVaeConfig *c, int i, MojiTensor *x, int out)
{
    moji_scope(tape, "resnets.%d", i);
    MojiTensor *shortcut = x;
    if (x->dim[3] != out)
        shortcut = moji_conv2d(tape, "conv_shortcut", x, (MojiConv){.out = out, .kernel = 1});
    MojiTensor *h = moji_group_norm(tape, "norm1", x, c->norm_groups, EPS, TRUE);
    h = moji_conv2d(tape, "conv1", h, (MojiConv){.out = out, .kernel = 3, .pad = 1});
    h = moji_group_norm(tape, "norm2", h, c->norm_groups, EPS, TRUE);
    h = moji_conv2d(tape, "conv2", h, (MojiConv){.out = out, .kernel = 3, .pad = 1});
    h = moji_add(tape, shortcut, h);
    moji_scope_end(tape);
    return h;
}

/* attentions.0: x [B,h,w,C] -> [B,h,w,C], every pixel with every other */
static MojiTensor *attention(MojiTape *tape, const MojiVaeConfig *c, MojiTensor *x)
{
    int width = x->dim[3];
    gint64 tokens[] = {x->dim[0], x->dim[1] * x->dim[2], width};
    moji_scope(tape, "attentions.0");
    MojiTensor *h = moji_group_norm(tape, "group_norm", x, c->norm_groups, EPS, FALSE);
    h = moji_reshape(tape, h, 3, tokens);
    MojiTensor *q = moji_linear(tape, "to_q", h, width, TRUE);
    MojiTensor *k = moji_linear(tape, "to_k", h, width, TRUE);
    MojiTensor *v = moji_linear(tape, "to_v", h, width, TRUE);
    h = moji_attention(tape, q, k, v, 1, 1 / sqrtf((float)width), FALSE);
    h = moji_linear(tape, "to_out.0", h, width, TRUE);
    h = moji_add(tape, moji_reshape(tape, x, 3, tokens), h);
    moji_scope_end(tape);
    return moji_reshape(tape, h, 4, x->dim);
}

static MojiTensor *mid_block(MojiTape *tape, const MojiVaeConfig *c, MojiTensor *x)
{
    int width = x->dim[3];
    moji_scope(tape, "mid_block");
    x = resnet(tape, c, 0, x, width);
    if (c->mid_attention)
        x = attention(tape, c, x);
    x = resnet(tape, c, 1, x, width);
    moji_scope_end(tape);
    return x;
}

/* up_blocks.I: x [B,h,w,C] -> [B,2h,2w,out], at the last block [B,h,w,out] */
static MojiTensor *up_block(MojiTape *tape, const MojiVaeConfig *c, int i, MojiTensor *x)
{
    int width = c->channels[c->levels - 1 - i];
    moji_scope(tape, "up_blocks.%d", i);
    for (int k = 0; k < c->layers + 1; k++)
        x = resnet(tape, c, k, x, width);
    if (i < c->levels - 1)
        x = moji_conv2d(tape, "upsamplers.0.conv", moji_upsample(tape, x),
                        (MojiConv){.out = width, .kernel = 3, .pad = 1});
    moji_scope_end(tape);
    return x;
}

MojiTensor *moji_vae_decoder(MojiTape *tape, const MojiVaeConfig *c, MojiTensor *latents)
{
    if (c->tiny)
        return moji_vae_tiny_decoder(tape, c, latents);
    MojiConv three = {.kernel = 3, .pad = 1};
    MojiTensor *x = moji_cast(tape, latents, moji_tape_compute(tape));
    if (c->post_quant_conv)
        x = moji_conv2d(tape, "post_quant_conv", x,
                        (MojiConv){.out = c->latent_channels, .kernel = 1});
    moji_scope(tape, "decoder");
    three.out = c->channels[c->levels - 1];
    x = moji_conv2d(tape, "conv_in", x, three);
    x = mid_block(tape, c, x);
    for (int i = 0; i < c->levels; i++)
        x = up_block(tape, c, i, x);
    x = moji_group_norm(tape, "conv_norm_out", x, c->norm_groups, EPS, TRUE);
    three.out = c->out_channels;
    x = moji_conv2d(tape, "conv_out", x, three);
    moji_scope_end(tape);
    return moji_cast(tape, x, MOJI_F32);
}

/* down_blocks.I: x [B,2h,2w,C] -> [B,h,w,out], at the last block of the same size */
static MojiTensor *down_block(MojiTape *tape, const MojiVaeConfig *c, int i, MojiTensor *x)
{
    int width = c->channels[i];
    moji_scope(tape, "down_blocks.%d", i);
    for (int k = 0; k < c->layers; k++)
        x = resnet(tape, c, k, x, width);
    if (i < c->levels - 1)
        x = moji_conv2d(
            tape, "downsamplers.0.conv", x,
            (MojiConv){.out = width, .kernel = 3, .stride = 2, .pad = 1, .pad_end_only = TRUE});
    moji_scope_end(tape);
    return x;
}

MojiTensor *moji_vae_encoder(MojiTape *tape, const MojiVaeConfig *c, MojiTensor *pixels)
{
    if (c->tiny)
        return moji_vae_tiny_encoder(tape, c, pixels);
    int moments = moji_vae_moments(c);
    MojiConv three = {.out = c->channels[0], .kernel = 3, .pad = 1};
    MojiTensor *x = moji_cast(tape, pixels, moji_tape_compute(tape));
    moji_scope(tape, "encoder");
    x = moji_conv2d(tape, "conv_in", x, three);
    for (int i = 0; i < c->levels; i++)
        x = down_block(tape, c, i, x);
    x = mid_block(tape, c, x);
    x = moji_group_norm(tape, "conv_norm_out", x, c->norm_groups, EPS, TRUE);
    three.out = moments;
    x = moji_conv2d(tape, "conv_out", x, three);
    moji_scope_end(tape);
    if (c->quant_conv)
        x = moji_conv2d(tape, "quant_conv", x, (MojiConv){.out = moments, .kernel = 1});
    return moji_cast(tape, x, MOJI_F32);
}

/* ---- around the networks ---- */

int moji_vae_moments(const MojiVaeConfig *c)
{
    return c->tiny ? c->latent_channels : 2 * c->latent_channels;
}

void moji_vae_unscale(const MojiVaeConfig *c, const float *from, float *to, gsize count)
{
    for (gsize i = 0; i < count; i++) {
        float z = from[i] / c->scaling_factor + c->shift_factor;
        to[i] = c->tiny ? tanhf(z / 3) * 3 : z;
    }
}

void moji_vae_spread(const MojiVaeConfig *c, float *rgb, gsize count)
{
    for (gsize i = 0; c->tiny && i < count; i++)
        rgb[i] = rgb[i] * 2 - 1;
}

void moji_vae_gather(const MojiVaeConfig *c, float *rgb, gsize count)
{
    for (gsize i = 0; c->tiny && i < count; i++)
        rgb[i] = (rgb[i] + 1) / 2;
}

void moji_vae_latents(const MojiVaeConfig *c, const float *moments, const float *noise,
                      float *latents, gsize n)
{
    int width = c->latent_channels, all = moji_vae_moments(c);
    for (gsize i = 0; i < n * width; i++) {
        const float *mean = moments + i / width * all + i % width;
        float z = *mean;
        if (noise && !c->tiny)
            z += expf(0.5f * CLAMP(mean[width], -30.0f, 20.0f)) * noise[i];
        latents[i] = (z - c->shift_factor) * c->scaling_factor;
    }
}
