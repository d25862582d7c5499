/* test_networks.c: clip.c, unet.c and vae.c as recordings: configs, names, shapes, sizes. What the
 * networks compute is held against diffusers elsewhere; nothing is computed here.
 *
 * The parameter lists come from diffusers and transformers (fixtures/make_networks.py). */
#include "clip.h"
#include "tape.h"
#include "test.h"
#include "unet.h"
#include "vae.h"
#include "weights.h"
#include <string.h>

static char *fixture(const char *name, const char *suffix)
{
    g_autofree char *path = g_strconcat("networks/", name, suffix, NULL);
    return moji_test_path(path);
}

/* ---- recording by kind ---- */

static MojiTape *record_unet(const char *path, MojiType type, int batch, int size, GError **error)
{
    MojiUnetConfig c;
    if (!moji_unet_config_read(path, &c, error))
        return NULL;
    MojiTape *tape = moji_tape_new(type);
    gint64 latents[] = {batch, size, size, c.in_channels};
    gint64 text[] = {batch, 77, c.cross_attention_dim};
    MojiTensor *sample = moji_input(tape, "sample", MOJI_F32, 4, latents);
    MojiTensor *timestep = moji_input(tape, "timestep", MOJI_F32, 1, latents);
    MojiTensor *context = moji_input(tape, "context", MOJI_F32, 3, text);
    moji_output(tape, moji_unet(tape, &c, sample, timestep, NULL, context));
    return tape;
}

static MojiTape *record_vae(const char *path, MojiType type, int batch, int size, GError **error)
{
    MojiVaeConfig c;
    if (!moji_vae_config_read(path, &c, error))
        return NULL;
    MojiTape *tape = moji_tape_new(type);
    gint64 latents[] = {batch, size, size, c.latent_channels};
    MojiTensor *x = moji_input(tape, "latents", MOJI_F32, 4, latents);
    moji_output(tape, moji_vae_decoder(tape, &c, x));
    return tape;
}

static MojiTape *record_clip(const char *path, MojiType type, int batch, int size, GError **error)
{
    MojiClipConfig c;
    if (!moji_clip_config_read(path, &c, error))
        return NULL;
    MojiTape *tape = moji_tape_new(type);
    gint64 dim[] = {batch, size};
    MojiTensor *ids = moji_input(tape, "ids", MOJI_I32, 2, dim);
    MojiTensor *positions = moji_input(tape, "positions", MOJI_I32, 2, dim);
    moji_output(tape, moji_clip(tape, &c, ids, positions));
    return tape;
}

/* By the fixture's name, as "unet_sd14". NULL and a failed test if the config is refused. */
static MojiTape *record(const char *name, MojiType type, int batch, int size)
{
    g_autofree char *path = fixture(name, ".json");
    g_autoptr(GError) error = NULL;
    MojiTape *tape = g_str_has_prefix(name, "unet")  ? record_unet(path, type, batch, size, &error)
                     : g_str_has_prefix(name, "vae") ? record_vae(path, type, batch, size, &error)
                                                     : record_clip(path, type, batch, size, &error);
    MOJI_CHECK(tape, "%s", error ? error->message : "no tape and no error");
    return tape;
}

static MojiTensor *output_of(MojiTape *tape)
{
    for (int id = 0; id < moji_tape_tensors(tape); id++)
        if (moji_tape_tensor(tape, id)->output)
            return moji_tape_tensor(tape, id);
    return NULL;
}

static gboolean shape_is(const MojiTensor *t, const char *expected)
{
    char shape[96];
    return g_str_equal(moji_tensor_shape(t, shape, sizeof shape), expected);
}

/* ---- parameters ---- */

/* A linear layer of ours may be a 1x1 convolution of theirs. */
static void drop_ones(char *shape)
{
    while (g_str_has_suffix(shape, ",1]"))
        strcpy(shape + strlen(shape) - 3, "]");
}

static void check_parameters(const char *name)
{
    g_autofree char *path = fixture(name, ".parameters"), *text = NULL;
    MojiTape *tape = record(name, MOJI_F32, 1, 8);
    if (!tape || !MOJI_CHECK(g_file_get_contents(path, &text, NULL, NULL), "%s is missing", path)) {
        moji_tape_free(tape);
        return;
    }
    g_autoptr(GHashTable) expected = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
    g_auto(GStrv) lines = g_strsplit(g_strstrip(text), "\n", -1);
    for (char **line = lines; *line; line++) {
        g_auto(GStrv) words = g_strsplit(*line, " ", 2);
        drop_ones(words[1]);
        g_hash_table_insert(expected, g_strdup(words[0]), g_strdup(words[1]));
    }
    for (int id = 0; id < moji_tape_tensors(tape); id++) {
        MojiTensor *t = moji_tape_tensor(tape, id);
        if (t->kind != MOJI_PARAMETER)
            continue;
        char shape[96];
        moji_tensor_shape(t, shape, sizeof shape);
        drop_ones(shape);
        const char *wanted = g_hash_table_lookup(expected, t->name);
        MOJI_CHECK(g_strcmp0(wanted, shape) == 0, "%s: %s has shape %s, the reference %s", name,
                   t->name, shape, wanted ? wanted : "has no such parameter");
        g_hash_table_remove(expected, t->name);
    }
    g_autoptr(GList) left = g_hash_table_get_keys(expected);
    MOJI_CHECK(!left, "%s: %s and %u more are not used", name, (char *)left->data,
               g_list_length(left) - 1);
    moji_tape_free(tape);
}

static void test_parameters_sd14(void)
{
    check_parameters("unet_sd14");
    check_parameters("vae_sd14");
    check_parameters("clip_sd14");
}

static void test_parameters_other(void)
{
    check_parameters("unet_nomid");
    check_parameters("unet_lists");
    check_parameters("unet_micro");
    check_parameters("vae_small");
}

static gint64 count_parameters(const char *name)
{
    gint64 count = 0;
    MojiTape *tape = record(name, MOJI_F32, 1, 8);
    for (int id = 0; tape && id < moji_tape_tensors(tape); id++) {
        MojiTensor *t = moji_tape_tensor(tape, id);
        if (t->kind == MOJI_PARAMETER)
            count += moji_tensor_count(t);
    }
    moji_tape_free(tape);
    return count;
}

static void test_published_counts(void)
{
    gint64 unet = count_parameters("unet_sd14"), clip = count_parameters("clip_sd14");
    gint64 decoder = count_parameters("vae_sd14");
    MOJI_CHECK(unet == 859520964, "U-Net: %" G_GINT64_FORMAT, unet);
    MOJI_CHECK(clip == 123060480, "CLIP: %" G_GINT64_FORMAT, clip);
    MOJI_CHECK(decoder == 49490199, "VAE decoder: %" G_GINT64_FORMAT, decoder);
}

/* ---- shapes and sizes ---- */

static void check_plan(const char *name, MojiType type, int batch, int size, const char *shape,
                       double most_mib)
{
    MojiTape *tape = record(name, type, batch, size);
    if (!tape)
        return;
    MojiTensor *y = output_of(tape);
    MOJI_CHECK(shape_is(y, shape) && y->type == MOJI_F32, "%s does not end in f32 %s", name, shape);
    moji_tape_plan(tape);
    double mib = moji_tape_block_bytes(tape) / (1024.0 * 1024.0);
    MOJI_CHECK(mib <= most_mib, "%s: %.2f MiB of activations, expected %.2f at most", name, mib,
               most_mib);
    moji_tape_free(tape);
}

static void test_memory(void)
{
    check_plan("unet_sd14", MOJI_BF16, 2, 64, "[2,64,64,4]", 81);
    check_plan("unet_sd14", MOJI_F32, 2, 64, "[2,64,64,4]", 162);
    check_plan("vae_sd14", MOJI_F32, 1, 64, "[1,512,512,3]", 641);
    check_plan("clip_sd14", MOJI_F32, 2, 77, "[2,77,768]", 3);
}

static void test_shapes(void)
{
    check_plan("unet_lists", MOJI_F32, 3, 12, "[3,12,12,4]", 100);
    check_plan("vae_small", MOJI_BF16, 2, 5, "[2,10,10,3]", 100);
    g_autofree char *path = fixture("vae_sd14", ".json");
    MojiVaeConfig c;
    if (MOJI_CHECK(moji_vae_config_read(path, &c, NULL), "config refused"))
        MOJI_CHECK(moji_vae_factor(&c) == 8, "SD 1.4 has %d pixels per latent",
                   moji_vae_factor(&c));
}

/* Every add with a convolution or a linear layer before it is that layer's residual; what is left
 * adds the time embedding (once a resnet), or two embeddings. */
static void test_folds(void)
{
    static const struct {
        const char *name;
        int adds;
    } row[] = {{"unet_sd14", 22}, {"vae_sd14", 0}, {"clip_sd14", 1}};
    for (guint k = 0; k < G_N_ELEMENTS(row); k++) {
        MojiTape *tape = record(row[k].name, MOJI_BF16, 1, 8);
        if (!tape)
            return;
        moji_tape_plan(tape);
        int adds = 0;
        for (int i = 0; i < moji_tape_length(tape); i++)
            adds += moji_tape_record(tape, i)->op == MOJI_OP_ADD;
        MOJI_CHECK(adds == row[k].adds, "%s: %d adds left, expected %d", row[k].name, adds,
                   row[k].adds);
        moji_tape_free(tape);
    }
}

/* attention_head_dim counts heads; the scale follows from the width of one. */
static void test_attention(void)
{
    MojiTape *tape = record("unet_sd14", MOJI_F32, 1, 8);
    int seen = 0;
    for (int i = 0; tape && i < moji_tape_length(tape); i++) {
        MojiRecord *r = moji_tape_record(tape, i);
        if (r->op != MOJI_OP_ATTENTION)
            continue;
        seen++;
        double width = r->out->dim[2] / 8.0, scale = r->attr.attention.scale;
        MOJI_CHECK(r->attr.attention.heads == 8 && !r->attr.attention.causal, "%s: %d heads",
                   r->name, r->attr.attention.heads);
        MOJI_CHECK(scale * scale * width > 0.99999 && scale * scale * width < 1.00001,
                   "%s: scale %g", r->name, scale);
    }
    MOJI_CHECK(seen == 32, "%d attentions, expected 32", seen);
    moji_tape_free(tape);
}

/* ---- configs that must be refused ---- */

/* Puts `to` in the place of `from` in the fixture and reads it; the error must name `named`. */
static void refuse(const char *name, const char *from, const char *to, const char *named)
{
    g_autofree char *path = fixture(name, ".json"), *text = NULL;
    g_autofree char *changed = g_build_filename(moji_test_scratch(), "config.json", NULL);
    if (!MOJI_CHECK(g_file_get_contents(path, &text, NULL, NULL), "%s is missing", path))
        return;
    g_auto(GStrv) halves = g_strsplit(text, from, 2);
    if (!MOJI_CHECK(g_strv_length(halves) == 2, "%s has no %s", name, from))
        return;
    g_autofree char *joined = g_strconcat(halves[0], to, halves[1], NULL);
    g_file_set_contents(changed, joined, -1, NULL);

    g_autoptr(GError) error = NULL;
    MojiTape *tape = g_str_has_prefix(name, "unet")  ? record_unet(changed, MOJI_F32, 1, 8, &error)
                     : g_str_has_prefix(name, "vae") ? record_vae(changed, MOJI_F32, 1, 8, &error)
                                                     : record_clip(changed, MOJI_F32, 1, 8, &error);
    if (MOJI_CHECK(!tape && error, "%s with %s was accepted", name, to)) {
        MOJI_CHECK(g_error_matches(error, MOJI_ERROR, MOJI_ERROR_FILE), "%s", error->message);
        MOJI_CHECK(strstr(error->message, changed) && strstr(error->message, named),
                   "\"%s\" does not name %s and %s", error->message, changed, named);
    }
    moji_tape_free(tape);
}

static void test_refuse_unet(void)
{
    static const char *const row[][3] = {
        {"\"class_embed_type\": null", "\"class_embed_type\": \"timestep\"", "class_embed_type"},
        {"\"addition_embed_type\": null", "\"addition_embed_type\": \"text_time\"", "text_time"},
        {"\"time_cond_proj_dim\": null", "\"time_cond_proj_dim\": 256", "time_cond_proj_dim"},
        {"\"resnet_time_scale_shift\": \"default\"", "\"resnet_time_scale_shift\": \"scale_shift\"",
         "scale_shift"},
        {"\"dual_cross_attention\": false", "\"dual_cross_attention\": true", "dual_cross"},
        {"\"only_cross_attention\": false", "\"only_cross_attention\": [false, true]",
         "only_cross_attention"},
        {"\"encoder_hid_dim\": null", "\"encoder_hid_dim\": 1024", "encoder_hid_dim"},
        {"\"act_fn\": \"silu\"", "\"act_fn\": \"mish\"", "mish"},
        {"\"center_input_sample\": false", "\"center_input_sample\": true", "center_input_sample"},
        {"\"downsample_padding\": 1", "\"downsample_padding\": 0", "downsample_padding"},
        {"\"mid_block_scale_factor\": 1", "\"mid_block_scale_factor\": 1.5", "1.5"},
        {"\"mid_block_type\": \"UNetMidBlock2DCrossAttn\"",
         "\"mid_block_type\": \"UNetMidBlock2DSimpleCrossAttn\"", "UNetMidBlock2DSimpleCrossAttn"},
        {"\"time_embedding_type\": \"positional\"", "\"time_embedding_type\": \"fourier\"",
         "fourier"},
        {"\"conv_in_kernel\": 3", "\"conv_in_kernel\": 1", "conv_in_kernel"},
        {"\"in_channels\": 4", "\"invented_last_week\": 4", "invented_last_week"},
        {"\"DownBlock2D\"", "\"AttnDownBlock2D\"", "AttnDownBlock2D"},
        {"\"UpBlock2D\"", "7", "up_block_types"},
        {"\"norm_num_groups\": 4", "\"norm_num_groups\": 3", "multiple of \"norm_num_groups\""},
        {"\"attention_head_dim\": 2", "\"attention_head_dim\": 5", "attention_head_dim"},
        {"\"layers_per_block\": 1", "\"layers_per_block\": [1, 1, 1]", "layers_per_block"},
        {"\"layers_per_block\": 1", "\"layers_per_block\": 1000000", "layers_per_block"},
        {"\"cross_attention_dim\": 12", "\"cross_attention_dim\": [12, 13]", "cross_attention_dim"},
        {"    8,\n    16\n", "    -8,\n    16\n", "block_out_channels"},
        {"    8,\n    16\n", "    5,\n    16\n", "block_out_channels"},
        {"    8,\n    16\n", "", "block_out_channels"},
        {"\"block_out_channels\"", "\"_out\"", "block_out_channels"},
        {"\"freq_shift\": 0", "\"freq_shift\": 4", "freq_shift"},
        {"\"in_channels\": 4", "\"in_channels\": \"four\"", "in_channels"},
    };
    for (guint i = 0; i < G_N_ELEMENTS(row); i++)
        refuse("unet_micro", row[i][0], row[i][1], row[i][2]);
}

static void test_refuse_others(void)
{
    refuse("vae_small", "\"act_fn\": \"silu\"", "\"act_fn\": \"relu\"", "relu");
    refuse("vae_small", "\"latents_mean\": null", "\"latents_mean\": [0.5, 0.5]", "latents_mean");
    refuse("vae_small", "\"norm_num_groups\": 4", "\"norm_num_groups\": 0", "norm_num_groups");
    refuse("vae_small", "\"norm_num_groups\": 4", "\"norm_num_groups\": 7", "norm_num_groups");
    refuse("vae_small", "\"UpDecoderBlock2D\"", "\"AttnUpDecoderBlock2D\"", "up_block_types");
    refuse("vae_small", "\"scaling_factor\": 0.18215", "\"scaling_factor\": 0", "scaling_factor");
    refuse("vae_sd14", "\"AutoencoderKL\"", "\"VQModel\"", "VQModel");
    refuse("clip_sd14", "\"hidden_act\": \"quick_gelu\"", "\"hidden_act\": \"relu\"", "hidden_act");
    refuse("clip_sd14", "\"clip_text_model\"", "\"t5\"", "model_type");
    refuse("clip_sd14", "\"num_attention_heads\": 12", "\"num_attention_heads\": 7",
           "num_attention_heads");
    refuse("clip_sd14", "\"hidden_size\": 768", "\"hidden_size\": 0", "hidden_size");
    refuse("clip_sd14", "{", "", "JSON");
}

int main(void)
{
    moji_test("networks: SD 1.4's parameters by name and shape", test_parameters_sd14);
    moji_test("networks: parameters of other topologies", test_parameters_other);
    moji_test("networks: the published parameter counts", test_published_counts);
    moji_test("networks: planned memory of SD 1.4 at 512 pixels", test_memory);
    moji_test("networks: output shapes", test_shapes);
    moji_test("networks: adds become residuals", test_folds);
    moji_test("networks: heads and scale", test_attention);
    moji_test("networks: U-Net configs that are refused", test_refuse_unet);
    moji_test("networks: VAE and CLIP configs that are refused", test_refuse_others);
    return moji_test_end();
}
