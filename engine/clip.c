/* clip.c: see clip.h. Pre-norm transformer: each norm comes before the layer that it feeds, and
 * one more at the end. */
#include "clip.h"
#include "config.h"
#include <math.h>

gboolean moji_clip_config_parse(JsonObject *o, const char *path, MojiClipConfig *config,
                                GError **error)
{
    MojiClipConfig c = {49408, 512, 2048, 12, 8, 77, 1e-5f, TRUE}; /* CLIPTextConfig's */
    double eps = c.eps;
    g_autofree char *act = g_strdup("quick_gelu");
    /* transformers writes dozens of members that do not matter to a text encoder at work, so only
     * those that do are looked at. */
    if (!moji_config_member(o, path, "model_type", "clip_text_model", error) ||
        !moji_config_member(o, path, "hidden_act", "quick_gelu|gelu", error) ||
        !moji_json_int(o, path, "vocab_size", 1, 1 << 20, &c.vocab_size, error) ||
        !moji_json_int(o, path, "hidden_size", 1, 1 << 14, &c.hidden_size, error) ||
        !moji_json_int(o, path, "intermediate_size", 1, 1 << 16, &c.intermediate_size, error) ||
        !moji_json_int(o, path, "num_hidden_layers", 1, 128, &c.layers, error) ||
        !moji_json_int(o, path, "num_attention_heads", 1, 1 << 10, &c.heads, error) ||
        !moji_json_int(o, path, "max_position_embeddings", 1, 1 << 14, &c.positions, error) ||
        !moji_json_double(o, path, "layer_norm_eps", &eps, error) ||
        !moji_json_string(o, path, "hidden_act", &act, error) ||
        !moji_config_multiple(path, "hidden_size", c.hidden_size, "num_attention_heads", c.heads,
                              error))
        return FALSE;
    c.eps = (float)eps;
    c.quick_gelu = g_str_equal(act, "quick_gelu");
    *config = c;
    return TRUE;
}

gboolean moji_clip_config_read(const char *path, MojiClipConfig *config, GError **error)
{
    JsonObject *o;
    g_autoptr(JsonParser) parser = moji_json_open(path, &o, error);
    return parser && moji_clip_config_parse(o, path, config, error);
}

/* x [B,n,C] -> [B,n,C] */
static MojiTensor *self_attention(MojiTape *tape, const MojiClipConfig *c, MojiTensor *x)
{
    int width = c->hidden_size;
    moji_scope(tape, "self_attn");
    MojiTensor *q = moji_linear(tape, "q_proj", x, width, TRUE);
    MojiTensor *k = moji_linear(tape, "k_proj", x, width, TRUE);
    MojiTensor *v = moji_linear(tape, "v_proj", x, width, TRUE);
    float scale = 1 / sqrtf((float)(width / c->heads));
    MojiTensor *h = moji_attention(tape, q, k, v, c->heads, scale, TRUE);
    h = moji_linear(tape, "out_proj", h, width, TRUE);
    moji_scope_end(tape);
    return h;
}

/* x [B,n,C] -> [B,n,C] */
static MojiTensor *feed_forward(MojiTape *tape, const MojiClipConfig *c, MojiTensor *x)
{
    moji_scope(tape, "mlp");
    MojiTensor *h = moji_linear(tape, "fc1", x, c->intermediate_size, TRUE);
    h = c->quick_gelu ? moji_quick_gelu(tape, h) : moji_gelu(tape, h);
    h = moji_linear(tape, "fc2", h, c->hidden_size, TRUE);
    moji_scope_end(tape);
    return h;
}

/* Either ids or words. */
static MojiTensor *encoder(MojiTape *tape, const MojiClipConfig *c, MojiTensor *ids,
                           MojiTensor *words, MojiTensor *positions)
{
    moji_scope(tape, "text_model");
    moji_scope(tape, "embeddings");
    MojiTensor *word =
        words ? moji_cast(tape, words, moji_tape_compute(tape))
              : moji_embed(tape, "token_embedding", ids, c->vocab_size, c->hidden_size);
    MojiTensor *place =
        moji_embed(tape, "position_embedding", positions, c->positions, c->hidden_size);
    MojiTensor *x = moji_add(tape, word, place);
    moji_scope_end(tape);
    for (int i = 0; i < c->layers; i++) {
        moji_scope(tape, "encoder.layers.%d", i);
        MojiTensor *h = moji_layer_norm(tape, "layer_norm1", x, c->eps);
        x = moji_add(tape, x, self_attention(tape, c, h));
        h = moji_layer_norm(tape, "layer_norm2", x, c->eps);
        x = moji_add(tape, x, feed_forward(tape, c, h));
        moji_scope_end(tape);
    }
    x = moji_layer_norm(tape, "final_layer_norm", x, c->eps);
    moji_scope_end(tape);
    return moji_cast(tape, x, MOJI_F32);
}

MojiTensor *moji_clip(MojiTape *tape, const MojiClipConfig *c, MojiTensor *ids,
                      MojiTensor *positions)
{
    return encoder(tape, c, ids, NULL, positions);
}

MojiTensor *moji_clip_from_words(MojiTape *tape, const MojiClipConfig *c, MojiTensor *words,
                                 MojiTensor *positions)
{
    return encoder(tape, c, NULL, words, positions);
}
