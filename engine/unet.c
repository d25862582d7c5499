/* unet.c: see unet.h.
 *
 * Two surprising rules. attention_head_dim counts heads, not their width: a misnomer that every
 * Stable Diffusion 1.x config has kept. And a shortcut is recorded before the layers that it goes
 * around, because an add folds into the last of them only if its other operand is there by then. */
#include "unet.h"
#include "config.h"
#include <math.h>
#include <string.h>

#define MAX_LAYERS 16 /* of one level */

/* ---- config ---- */

static const MojiConfigField fields[] = {
    {"_class_name", "UNet2DConditionModel"},
    {"act_fn", "silu|swish"},
    {"addition_embed_type_num_heads", NULL}, /* no influence while addition_embed_type is null */
    {"attention_head_dim", NULL},
    {"attention_type", "default"},
    {"block_out_channels", NULL},
    {"conv_in_kernel", "3"},
    {"conv_out_kernel", "3"},
    {"cross_attention_dim", NULL},
    {"down_block_types", NULL},
    {"downsample_padding", "1"},
    {"dropout", NULL}, /* training only */
    {"flip_sin_to_cos", NULL},
    {"freq_shift", NULL},
    {"in_channels", NULL},
    {"layers_per_block", NULL},
    {"mid_block_scale_factor", "1"},
    {"mid_block_type", "UNetMidBlock2DCrossAttn"},
    {"norm_eps", NULL},
    {"norm_num_groups", NULL},
    {"num_attention_heads", NULL},
    {"out_channels", NULL},
    {"resnet_out_scale_factor", "1"},
    {"resnet_time_scale_shift", "default"},
    {"sample_size", NULL},
    {"time_embedding_type", "positional"},
    {"transformer_layers_per_block", NULL},
    {"up_block_types", NULL},
    {"upcast_attention", NULL}, /* softmax is always in f32 here */
    {"use_linear_projection", NULL},
    {0},
};

static gboolean read_levels(JsonObject *o, const char *path, MojiUnetConfig *c, GError **error)
{
    int n = c->levels =
        moji_config_length(o, path, "block_out_channels", MOJI_UNET_MAX_LEVELS, error);
    for (int i = 0; i < n; i++) {
        c->layers[i] = 2;
        c->heads[i] = 8;
        c->transformer_layers[i] = 1;
    }
    int cross[MOJI_UNET_MAX_LEVELS] = {[0 ... MOJI_UNET_MAX_LEVELS - 1] = 1280};
    if (n == 0 ||
        !moji_config_ints(o, path, "block_out_channels", n, 4, 1 << 14, c->channels, error) ||
        !moji_config_ints(o, path, "layers_per_block", n, 1, MAX_LAYERS, c->layers, error) ||
        !moji_config_kinds(o, path, "down_block_types", n, "DownBlock2D", "CrossAttnDownBlock2D",
                           c->attention_down, error) ||
        !moji_config_kinds(o, path, "up_block_types", n, "UpBlock2D", "CrossAttnUpBlock2D",
                           c->attention_up, error) ||
        !moji_config_ints(o, path, "attention_head_dim", n, 1, 1 << 10, c->heads, error) ||
        !moji_config_ints(o, path, "num_attention_heads", n, 1, 1 << 10, c->heads, error) ||
        !moji_config_ints(o, path, "transformer_layers_per_block", n, 1, MAX_LAYERS,
                          c->transformer_layers, error) ||
        !moji_config_ints(o, path, "cross_attention_dim", n, 1, 1 << 14, cross, error))
        return FALSE;
    c->cross_attention_dim = cross[0];
    for (int i = 1; i < n; i++)
        if (cross[i] != cross[0]) {
            moji_error_file(error, path,
                            "\"cross_attention_dim\" has %d and %d in it, "
                            "expected one number for all levels",
                            cross[0], cross[i]);
            return FALSE;
        }
    return TRUE;
}

/* That channels can be divided as norms, heads and the timestep's sines and cosines need. */
static gboolean check_channels(const char *path, const MojiUnetConfig *c, GError **error)
{
    if (c->channels[0] % 2) {
        moji_error_file(error, path,
                        "\"block_out_channels\" begins with %d, expected an even number",
                        c->channels[0]);
        return FALSE;
    }
    for (int i = 0; i < c->levels; i++) {
        gboolean attention = c->attention_down[i] || c->attention_up[c->levels - 1 - i] ||
                             (c->mid_block && i == c->levels - 1);
        if (!moji_config_multiple(path, "block_out_channels", c->channels[i], "norm_num_groups",
                                  c->norm_groups, error) ||
            (attention && !moji_config_multiple(path, "block_out_channels", c->channels[i],
                                                "attention_head_dim", c->heads[i], error)))
            return FALSE;
    }
    return TRUE;
}

gboolean moji_unet_config_parse(JsonObject *o, const char *path, MojiUnetConfig *config,
                                GError **error)
{
    if (!moji_config_check(o, path, fields, error))
        return FALSE;
    MojiUnetConfig c = {.in_channels = 4, .out_channels = 4, .flip_sin_to_cos = TRUE};
    double eps = 1e-5, shift = 0;
    int size[2] = {64, 64};
    c.norm_groups = 32;
    /* null here does not mean the default: it means that there is no such block */
    JsonNode *mid = json_object_get_member(o, "mid_block_type");
    c.mid_block = !mid || !JSON_NODE_HOLDS_NULL(mid);
    if (!read_levels(o, path, &c, error) ||
        !moji_json_int(o, path, "in_channels", 1, 1 << 10, &c.in_channels, error) ||
        !moji_json_int(o, path, "out_channels", 1, 1 << 10, &c.out_channels, error) ||
        !moji_json_int(o, path, "norm_num_groups", 1, 1 << 10, &c.norm_groups, error) ||
        !moji_json_double(o, path, "norm_eps", &eps, error) ||
        !moji_json_double(o, path, "freq_shift", &shift, error) ||
        !moji_json_bool(o, path, "use_linear_projection", &c.linear_projection, error) ||
        !moji_json_bool(o, path, "flip_sin_to_cos", &c.flip_sin_to_cos, error) ||
        !moji_config_ints(o, path, "sample_size", 2, 1, 1 << 12, size, error) ||
        !check_channels(path, &c, error))
        return FALSE;
    if (shift != 0 && shift != 1) {
        moji_error_file(error, path, "\"freq_shift\" is %g, expected 0 or 1", shift);
        return FALSE;
    }
    c.norm_eps = (float)eps;
    c.freq_shift = (float)shift;
    c.sample_size = size[0];
    *config = c;
    return TRUE;
}

gboolean moji_unet_config_read(const char *path, MojiUnetConfig *config, GError **error)
{
    JsonObject *o;
    g_autoptr(JsonParser) parser = moji_json_open(path, &o, error);
    return parser && moji_unet_config_parse(o, path, config, error);
}

/* ---- the network ---- */

/* What every block needs beside its own input. */
typedef struct {
    MojiTape *tape;
    const MojiUnetConfig *c;
    MojiTensor *time;    /* silu of the time embeddings [S,E], shared by all resnets */
    MojiTensor *step;    /* which of them, [B,1]; NULL: all, in order */
    MojiTensor *context; /* [P,m,cross] */
    MojiTensor *skip[MOJI_UNET_MAX_LEVELS * (MAX_LAYERS + 1)];
    int skips;
} Net;

/* timesteps f32 [S] -> silu of the time embeddings [S,E] */
static MojiTensor *embed_time(MojiTape *tape, const MojiUnetConfig *c, MojiTensor *timesteps)
{
    int width = 4 * c->channels[0];
    MojiTensor *h =
        moji_sinusoid(tape, timesteps, c->channels[0], c->flip_sin_to_cos, c->freq_shift);
    h = moji_cast(tape, h, moji_tape_compute(tape));
    moji_scope(tape, "time_embedding");
    h = moji_linear(tape, "linear_1", h, width, TRUE);
    h = moji_silu(tape, h);
    h = moji_linear(tape, "linear_2", h, width, TRUE);
    h = moji_silu(tape, h);
    moji_scope_end(tape);
    return h;
}

/* resnets.I: x [B,h,w,C] -> [B,h,w,out] */
static MojiTensor *resnet(Net *n, int i, MojiTensor *x, int out)
{
    MojiTape *tape = n->tape;
    int groups = n->c->norm_groups;
    float eps = n->c->norm_eps;
    moji_scope(tape, "resnets.%d", i);
    MojiTensor *shortcut = x;
    if (x->dim[3] != out)
        shortcut = moji_conv2d(tape, "conv_shortcut", x, (MojiConv){.out = out, .kernel = 1});
    MojiTensor *h = moji_group_norm(tape, "norm1", x, groups, eps, TRUE);
    h = moji_conv2d(tape, "conv1", h, (MojiConv){.out = out, .kernel = 3, .pad = 1});
    MojiTensor *time = moji_linear(tape, "time_emb_proj", n->time, out, TRUE);
    if (n->step)
        time = moji_pick(tape, time, n->step);
    h = moji_add(tape, h, moji_reshape(tape, time, 4, (gint64[]){x->dim[0], 1, 1, out}));
    h = moji_group_norm(tape, "norm2", h, groups, eps, TRUE);
    h = moji_conv2d(tape, "conv2", h, (MojiConv){.out = out, .kernel = 3, .pad = 1});
    h = moji_add(tape, shortcut, h);
    moji_scope_end(tape);
    return h;
}

/* NAME ("attn1"): x [B,n,C], context [P,m,D] -> [B,n,C]. The samples of one prompt ask the same
 * keys, so their tokens are queries of one attention: [B,n,C] is [P,B/P*n,C]. */
static MojiTensor *attention(Net *n, const char *name, MojiTensor *x, MojiTensor *context,
                             int heads)
{
    int width = x->dim[2];
    gint64 prompts = context->dim[0];
    gint64 queries[] = {prompts, x->dim[0] / prompts * x->dim[1], width};
    moji_scope(n->tape, "%s", name);
    MojiTensor *q = moji_linear(n->tape, "to_q", x, width, FALSE);
    MojiTensor *k = moji_linear(n->tape, "to_k", context, width, FALSE);
    MojiTensor *v = moji_linear(n->tape, "to_v", context, width, FALSE);
    float scale = 1 / sqrtf((float)(width / heads));
    if (prompts != x->dim[0])
        q = moji_reshape(n->tape, q, 3, queries);
    MojiTensor *h = moji_attention(n->tape, q, k, v, heads, scale, FALSE);
    if (prompts != x->dim[0])
        h = moji_reshape(n->tape, h, 3, x->dim);
    h = moji_linear(n->tape, "to_out.0", h, width, TRUE);
    moji_scope_end(n->tape);
    return h;
}

/* transformer_blocks.I: x [B,n,C] -> [B,n,C] */
static MojiTensor *transformer_block(Net *n, int i, MojiTensor *x, int heads)
{
    MojiTape *tape = n->tape;
    const float eps = 1e-5f;
    int width = x->dim[2];
    moji_scope(tape, "transformer_blocks.%d", i);
    MojiTensor *h = moji_layer_norm(tape, "norm1", x, eps);
    x = moji_add(tape, x, attention(n, "attn1", h, h, heads));
    h = moji_layer_norm(tape, "norm2", x, eps);
    x = moji_add(tape, x, attention(n, "attn2", h, n->context, heads));
    h = moji_layer_norm(tape, "norm3", x, eps);
    h = moji_linear(tape, "ff.net.0.proj", h, 8 * width, TRUE);
    h = moji_geglu(tape, h);
    h = moji_linear(tape, "ff.net.2", h, width, TRUE);
    x = moji_add(tape, x, h);
    moji_scope_end(tape);
    return x;
}

/* attentions.I: x [B,h,w,C] -> [B,h,w,C]. proj_in and proj_out are 1x1 convolutions in most files
 * and linear layers in some; on tokens the two are the same. */
static MojiTensor *transformer(Net *n, int i, MojiTensor *x, int level)
{
    MojiTape *tape = n->tape;
    int width = x->dim[3];
    gint64 tokens[] = {x->dim[0], x->dim[1] * x->dim[2], width};
    moji_scope(tape, "attentions.%d", i);
    MojiTensor *h = moji_group_norm(tape, "norm", x, n->c->norm_groups, 1e-6f, FALSE);
    h = moji_reshape(tape, h, 3, tokens);
    h = moji_linear(tape, "proj_in", h, width, TRUE);
    for (int k = 0; k < n->c->transformer_layers[level]; k++)
        h = transformer_block(n, k, h, n->c->heads[level]);
    h = moji_linear(tape, "proj_out", h, width, TRUE);
    h = moji_add(tape, moji_reshape(tape, x, 3, tokens), h);
    moji_scope_end(tape);
    return moji_reshape(tape, h, 4, x->dim);
}

/* down_blocks.LEVEL: keeps every layer's output for the way up. */
static MojiTensor *down_block(Net *n, int level, MojiTensor *x)
{
    const MojiUnetConfig *c = n->c;
    int width = c->channels[level];
    moji_scope(n->tape, "down_blocks.%d", level);
    for (int i = 0; i < c->layers[level]; i++) {
        x = resnet(n, i, x, width);
        if (c->attention_down[level])
            x = transformer(n, i, x, level);
        n->skip[n->skips++] = x;
    }
    if (level < c->levels - 1) {
        x = moji_conv2d(n->tape, "downsamplers.0.conv", x,
                        (MojiConv){.out = width, .kernel = 3, .stride = 2, .pad = 1});
        n->skip[n->skips++] = x;
    }
    moji_scope_end(n->tape);
    return x;
}

static MojiTensor *mid_block(Net *n, MojiTensor *x)
{
    int level = n->c->levels - 1;
    moji_scope(n->tape, "mid_block");
    x = resnet(n, 0, x, n->c->channels[level]);
    x = transformer(n, 0, x, level);
    x = resnet(n, 1, x, n->c->channels[level]);
    moji_scope_end(n->tape);
    return x;
}

/* up_blocks.I, which is the way back through level levels-1-I: hidden first, then the skip. */
static MojiTensor *up_block(Net *n, int i, MojiTensor *x)
{
    const MojiUnetConfig *c = n->c;
    int level = c->levels - 1 - i, width = c->channels[level];
    moji_scope(n->tape, "up_blocks.%d", i);
    for (int k = 0; k < c->layers[level] + 1; k++) {
        x = resnet(n, k, moji_concat(n->tape, x, n->skip[--n->skips]), width);
        if (c->attention_up[i])
            x = transformer(n, k, x, level);
    }
    if (level > 0)
        x = moji_conv2d(n->tape, "upsamplers.0.conv", moji_upsample(n->tape, x),
                        (MojiConv){.out = width, .kernel = 3, .pad = 1});
    moji_scope_end(n->tape);
    return x;
}

MojiTensor *moji_unet(MojiTape *tape, const MojiUnetConfig *c, MojiTensor *sample,
                      MojiTensor *timesteps, MojiTensor *step, MojiTensor *context)
{
    MojiType compute = moji_tape_compute(tape);
    Net n = {.tape = tape, .c = c, .step = step};
    g_assert(sample->dim[0] % context->dim[0] == 0);
    n.time = embed_time(tape, c, timesteps);
    n.context = moji_cast(tape, context, compute);
    MojiTensor *x = moji_cast(tape, sample, compute);
    x = moji_conv2d(tape, "conv_in", x, (MojiConv){.out = c->channels[0], .kernel = 3, .pad = 1});
    n.skip[n.skips++] = x;
    for (int i = 0; i < c->levels; i++)
        x = down_block(&n, i, x);
    if (c->mid_block)
        x = mid_block(&n, x);
    for (int i = 0; i < c->levels; i++)
        x = up_block(&n, i, x);
    x = moji_group_norm(tape, "conv_norm_out", x, c->norm_groups, c->norm_eps, TRUE);
    x = moji_conv2d(tape, "conv_out", x, (MojiConv){.out = c->out_channels, .kernel = 3, .pad = 1});
    return moji_cast(tape, x, MOJI_F32);
}
