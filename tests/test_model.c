/* test_model.c: model folders, good ones and ones with one thing wrong, and their cards. */
#include "backend.h"
#include "json.h"
#include "model.h"
#include "stage.h"
#include "test.h"
#include <glib/gstdio.h>
#include <string.h>
#include <unistd.h>

#define UNET "unet/diffusion_pytorch_model.safetensors"
#define VAE "vae/diffusion_pytorch_model.safetensors"
#define TEXT "text_encoder/model.safetensors"

static const char *const files[] = {"model_index.json",
                                    "tokenizer/vocab.json",
                                    "tokenizer/merges.txt",
                                    "tokenizer/tokenizer_config.json",
                                    "text_encoder/config.json",
                                    TEXT,
                                    "unet/config.json",
                                    UNET,
                                    "vae/config.json",
                                    VAE,
                                    "scheduler/scheduler_config.json"};

/* A new folder, with a name as people have them, of links to tiny-sd's files. Caller frees. */
static char *folder_new(void)
{
    static int count;
    g_autofree char *good = moji_test_path("tiny-sd");
    g_autofree char *name = g_strdup_printf("내 모델 😀 %d", count++);
    char *folder = g_build_filename(moji_test_scratch(), name, NULL);
    for (guint i = 0; i < G_N_ELEMENTS(files); i++) {
        g_autofree char *from = g_build_filename(good, files[i], NULL);
        g_autofree char *to = g_build_filename(folder, files[i], NULL);
        g_autofree char *parent = g_path_get_dirname(to);
        g_assert_true(g_mkdir_with_parents(parent, 0700) == 0 && symlink(from, to) == 0);
    }
    return folder;
}

/* Replaces a file; contents NULL removes it. */
static void put(const char *folder, const char *file, const char *contents)
{
    g_autofree char *path = g_build_filename(folder, file, NULL);
    g_autofree char *parent = g_path_get_dirname(path);
    g_remove(path);
    g_mkdir_with_parents(parent, 0700);
    if (contents)
        g_assert_true(g_file_set_contents(path, contents, -1, NULL));
}

/* Sets one member of a JSON file to a JSON value. */
static void set(const char *folder, const char *file, const char *member, const char *value)
{
    g_autofree char *path = g_build_filename(folder, file, NULL);
    g_autoptr(JsonNode) root = NULL;
    g_autoptr(JsonParser) parser = json_parser_new();
    g_assert_true(json_parser_load_from_file(parser, path, NULL));
    root = json_parser_steal_root(parser);
    json_object_set_member(json_node_get_object(root), member, json_from_string(value, NULL));
    g_autofree char *text = json_to_string(root, TRUE);
    put(folder, file, text);
}

/* The error names the folder, in it the file, and says these words. */
static void check_error(const char *folder, const char *file, const char *words, GError *error,
                        const char *what)
{
    g_autofree char *path = *file ? g_build_filename(folder, file, NULL) : g_strdup(folder);
    if (!MOJI_CHECK(error, "%s: accepted", what))
        return;
    MOJI_CHECK(g_error_matches(error, MOJI_ERROR, MOJI_ERROR_FILE), "%s: other error: %s", what,
               error->message);
    MOJI_CHECK(strstr(error->message, path) && strstr(error->message, words),
               "%s: \"%s\" lacks %s or \"%s\"", what, error->message, path, words);
}

static void expect_error(const char *folder, const char *file, const char *words, const char *what)
{
    g_autoptr(GError) error = NULL;
    MojiModel *m = moji_model_open(folder, &error);
    MOJI_CHECK(!m == !!error, "%s: result and error disagree", what);
    check_error(folder, file, words, error, what);
    moji_model_free(m);
}

static void test_good(void)
{
    g_autofree char *folder = folder_new();
    g_autoptr(GError) error = NULL;
    put(folder, "safety_checker/config.json", "{}");
    put(folder, "feature_extractor/preprocessor_config.json", "{}");
    put(folder, "README.md", "hello");
    MojiModel *m = moji_model_open(folder, &error);
    if (!MOJI_CHECK(m, "%s", error->message))
        return;
    MOJI_CHECK(moji_tokenizer_length(m->tokenizer) == 77, "length");
    MOJI_CHECK(m->clip.hidden_size == 40 && m->clip.layers == 2 && m->clip.heads == 4 &&
                   m->clip.positions == 77 && m->clip.quick_gelu,
               "text config");
    MOJI_CHECK(m->unet.levels == 3 && m->unet.channels[2] == 24 && m->unet.heads[0] == 2 &&
                   m->unet.attention_down[1] && !m->unet.attention_down[2] &&
                   !m->unet.attention_up[0] && m->unet.attention_up[2] &&
                   !m->unet.linear_projection && m->unet.mid_block,
               "unet config");
    MOJI_CHECK(m->vae.levels == 3 && moji_vae_factor(&m->vae) == 4 && m->vae.mid_attention &&
                   m->vae.post_quant_conv && m->vae.scaling_factor == 0.18215f,
               "vae config");
    MOJI_CHECK(!strcmp(m->sampler.class_name, "PNDMScheduler") && !m->sampler.v_prediction,
               "scheduler config");
    MOJI_CHECK(m->card.steps == 50 && m->card.guidance == 7.5 && m->card.size == 512 &&
                   !m->card.sampler && !m->card.prompt && !m->card.styles[0] &&
                   g_str_has_prefix(m->card.name, "내 모델"),
               "defaults of a folder without a card");
    MOJI_CHECK(moji_weights_find(m->vae_weights, "decoder.mid_block.attentions.0.to_q.weight"),
               "old names of the decoder's attention");
    moji_model_free(m);
    moji_model_free(NULL);
}

static void test_other_family_members(void)
{
    g_autofree char *folder = moji_test_path("tiny-v");
    g_autoptr(GError) error = NULL;
    MojiModel *m = moji_model_open(folder, &error);
    if (!MOJI_CHECK(m, "%s", error->message))
        return;
    MOJI_CHECK(moji_tokenizer_length(m->tokenizer) == 32 && !m->clip.quick_gelu, "text config");
    MOJI_CHECK(m->unet.heads[0] == 2 && m->unet.heads[1] == 3 && m->unet.linear_projection &&
                   m->unet.layers[1] == 2,
               "unet config");
    MOJI_CHECK(m->vae.latent_channels == 6 && !m->vae.mid_attention && !m->vae.post_quant_conv,
               "vae config");
    MOJI_CHECK(m->sampler.v_prediction && m->sampler.zero_snr &&
                   m->sampler.spacing == MOJI_SPACING_TRAILING,
               "scheduler config");
    moji_model_free(m);
}

static void test_configs(void)
{
    g_autofree char *folder = folder_new();
    g_autoptr(GError) error = NULL;
    put(folder, UNET, NULL);
    put(folder, VAE, NULL);
    put(folder, TEXT, NULL);
    put(folder, "tokenizer/vocab.json", NULL);
    MojiModel *m = moji_model_configs(folder, &error);
    if (!MOJI_CHECK(m, "%s", error->message))
        return;
    MOJI_CHECK(!m->tokenizer && !m->unet_weights && m->unet.cross_attention_dim == 40, "configs");
    moji_model_free(m);
}

/* Without a limit of its own, or with "no limit", a prompt takes all positions. */
static void test_lengths(void)
{
    static const struct {
        const char *limit;
        int length;
    } rows[] = {{"20", 20},   {"77", 77},  {"78", 77}, {"1000000000000000019884624838656", 77},
                {"1e30", 77}, {"null", 77}};
    for (guint i = 0; i < G_N_ELEMENTS(rows) + 1; i++) {
        g_autofree char *folder = folder_new();
        g_autoptr(GError) error = NULL;
        gboolean absent = i == G_N_ELEMENTS(rows);
        if (absent)
            put(folder, "tokenizer/tokenizer_config.json", NULL);
        else {
            g_autofree char *text = g_strdup_printf("{\"model_max_length\": %s}", rows[i].limit);
            put(folder, "tokenizer/tokenizer_config.json", text);
        }
        MojiModel *m = moji_model_open(folder, &error);
        if (!MOJI_CHECK(m, "%s", error->message))
            return;
        MOJI_CHECK(moji_tokenizer_length(m->tokenizer) == (absent ? 77 : rows[i].length),
                   "row %u: %d", i, moji_tokenizer_length(m->tokenizer));
        moji_model_free(m);
    }
}

static void test_missing_files(void)
{
    g_autofree char *nowhere = g_build_filename(moji_test_scratch(), "nowhere", NULL);
    expect_error(nowhere, "", "no such model", "a folder that is not there");
    g_mkdir(nowhere, 0700);
    expect_error(nowhere, "", "no model_index.json", "an empty folder");
    g_autofree char *file = moji_test_path("tiny-sd/" UNET);
    expect_error(file, "", "is a U-Net in diffusers' form, expected", "a part as a model");

    for (guint i = 0; i < G_N_ELEMENTS(files); i++) {
        g_autofree char *folder = folder_new();
        g_autofree char *part = g_path_get_dirname(files[i]);
        gboolean weights = g_str_has_suffix(files[i], ".safetensors");
        /* Of these any of several would do, so the error is about their folder. */
        gboolean several = weights || g_str_has_prefix(files[i], "tokenizer/");
        if (strstr(files[i], "tokenizer_config") || !strcmp(files[i], "model_index.json"))
            continue;
        put(folder, files[i], NULL);
        expect_error(folder, several ? part : files[i], weights ? "has no weights" : "", files[i]);
        put(folder, files[i], "");
        if (!strstr(files[i], "merges.txt")) /* no merges is a vocabulary of letters */
            expect_error(folder, files[i], "", files[i]);
    }
}

static void test_other_weights(void)
{
    g_autofree char *folder = folder_new();
    put(folder, UNET, NULL);
    put(folder, "unet/model.onnx", "x");
    expect_error(folder, "unet", "has model.onnx, expected diffusion_pytorch_model", "ONNX");
    put(folder, "unet/diffusion_pytorch_model.msgpack", "x");
    expect_error(folder, "unet", "has diffusion_pytorch_model.msgpack, expected", "Flax");
}

/* Whichever names are there, the first of them is read. */
static void test_weight_names(void)
{
    static const char *const names[] = {
        "diffusion_pytorch_model.safetensors",      "model.safetensors",
        "diffusion_pytorch_model.fp16.safetensors", "model.fp16.safetensors",
        "diffusion_pytorch_model.bf16.safetensors", "diffusion_pytorch_model.non_ema.safetensors"};
    g_autofree char *folder = folder_new();
    g_autofree char *from = g_build_filename(folder, UNET, NULL);
    g_autofree char *good = moji_test_path("tiny-sd/" UNET);
    g_remove(from);
    for (int i = G_N_ELEMENTS(names) - 1; i >= 0; i--) {
        g_autofree char *to = g_build_filename(folder, "unet", names[i], NULL);
        g_autoptr(GError) error = NULL;
        g_assert_true(symlink(good, to) == 0);
        MojiModel *m = moji_model_open(folder, &error);
        if (!MOJI_CHECK(m, "%s: %s", names[i], error->message))
            return;
        MOJI_CHECK(!strcmp(moji_weights_path(m->unet_weights), to), "not %s", names[i]);
        moji_model_free(m);
    }
}

/* Some of w's tensors (those whose place in it leaves the rest r when divided by n) as a
 * safetensors file. */
static void put_shard(const char *folder, const char *file, MojiWeights *w, guint n, guint r)
{
    GPtrArray *list = moji_weights_list(w);
    g_autoptr(GString) header = g_string_new("{");
    g_autoptr(GByteArray) data = g_byte_array_new();
    for (guint i = r; i < list->len; i += n) {
        const MojiWeight *t = list->pdata[i];
        g_string_append_printf(header, "%s\"%s\":{\"dtype\":\"F32\",\"shape\":[", i == r ? "" : ",",
                               t->name);
        for (int k = 0; k < t->rank; k++)
            g_string_append_printf(header, "%s%d", k ? "," : "", (int)t->dim[k]);
        g_string_append_printf(header, "],\"data_offsets\":[%u,%zu]}", data->len,
                               data->len + t->bytes);
        g_byte_array_append(data, t->data, t->bytes);
    }
    g_string_append_c(header, '}');
    guint64 length = GUINT64_TO_LE(header->len);
    g_string_prepend_len(header, (const char *)&length, sizeof length);
    g_string_append_len(header, (const char *)data->data, data->len);
    g_autofree char *path = g_build_filename(folder, file, NULL);
    g_assert_true(g_file_set_contents(path, header->str, header->len, NULL));
}

static void test_shards(void)
{
    static const char index[] = "unet/diffusion_pytorch_model.safetensors.index.json";
    static const char second[] = "unet/diffusion_pytorch_model-00002-of-00002.safetensors";
    g_autofree char *folder = folder_new();
    g_autofree char *from = g_build_filename(folder, UNET, NULL);
    g_autoptr(GError) error = NULL;
    MojiWeights *w = moji_weights_open(from, &error);
    g_autoptr(GString) map = g_string_new("{\"metadata\":{\"total_size\":1},\"weight_map\":{");
    for (guint i = 0; i < moji_weights_list(w)->len; i++)
        g_string_append_printf(
            map, "%s\"%s\":\"diffusion_pytorch_model-0000%u-of-00002.safetensors\"", i ? "," : "",
            ((MojiWeight *)moji_weights_list(w)->pdata[i])->name, i % 2 + 1);
    put(folder, UNET, NULL);
    put_shard(folder, "unet/diffusion_pytorch_model-00001-of-00002.safetensors", w, 2, 0);
    put_shard(folder, second, w, 2, 1);
    g_autofree char *text = g_strdup_printf("%s}}", map->str);
    put(folder, index, text);
    MojiModel *m = moji_model_open(folder, &error);
    if (!MOJI_CHECK(m, "%s", error->message))
        return;
    MOJI_CHECK(moji_weights_list(m->unet_weights)->len == moji_weights_list(w)->len, "how many");
    for (guint i = 0; i < moji_weights_list(w)->len; i++) {
        const MojiWeight *a = moji_weights_list(w)->pdata[i];
        const MojiWeight *b = moji_weights_find(m->unet_weights, a->name);
        MOJI_CHECK(b && a->bytes == b->bytes && !memcmp(a->data, b->data, a->bytes), "%s", a->name);
    }
    moji_model_free(m);
    moji_weights_free(w);

    g_autofree char *more = g_strdup_printf("%s,\"lost\":\"%s\"}}", map->str, second + 5);
    put(folder, index, more);
    expect_error(folder, second, "has no tensor \"lost\"", "a tensor that no shard has");
    put(folder, second, NULL);
    expect_error(folder, second, "cannot be read", "a shard that is not there");
    put(folder, index, "{\"weight_map\":{\"conv_in.weight\":\"../vae/x.safetensors\"}}");
    expect_error(folder, index, "names of files beside it", "a shard somewhere else");
    put(folder, index, "{\"weight_map\":{\"conv_in.weight\":1}}");
    expect_error(folder, index, "conv_in.weight", "a shard that is no name");
    put(folder, index, "{}");
    expect_error(folder, index, "weight_map", "an index of nothing");
}

/* Files that are not JSON, or not of the type that a member has. */
static void test_bad_configs(void)
{
    static const char *const configs[] = {"model_index.json", "text_encoder/config.json",
                                          "unet/config.json", "vae/config.json",
                                          "scheduler/scheduler_config.json"};
    static const char *const texts[] = {"{", "[]", "nonsense", "{\"a\" 1}", "\xff\xfe", "{} // x"};
    for (guint i = 0; i < G_N_ELEMENTS(configs); i++)
        for (guint j = 0; j < G_N_ELEMENTS(texts); j++) {
            g_autofree char *folder = folder_new();
            put(folder, configs[i], texts[j]);
            expect_error(folder, configs[i], "", texts[j]);
        }
    static const struct {
        const char *file, *member, *value, *words;
    } rows[] = {
        {"text_encoder/config.json", "hidden_size", "\"40\"", "hidden_size"},
        {"text_encoder/config.json", "num_hidden_layers", "-1", "num_hidden_layers"},
        {"text_encoder/config.json", "num_attention_heads", "7", "num_attention_heads"},
        {"text_encoder/config.json", "hidden_act", "\"relu\"", "hidden_act"},
        {"unet/config.json", "block_out_channels", "8", "block_out_channels"},
        {"unet/config.json", "block_out_channels", "[8, \"x\", 24]", "block_out_channels"},
        {"unet/config.json", "block_out_channels", "[]", "block_out_channels"},
        {"unet/config.json", "down_block_types", "[\"DownBlock2D\"]", "down_block_types"},
        {"unet/config.json", "attention_head_dim", "0", "attention_head_dim"},
        {"unet/config.json", "norm_num_groups", "5", "norm_num_groups"},
        {"unet/config.json", "act_fn", "\"mish\"", "act_fn"},
        {"unet/config.json", "in_channels", "1e99", "in_channels"},
        {"vae/config.json", "block_out_channels", "{}", "block_out_channels"},
        {"vae/config.json", "scaling_factor", "\"one\"", "scaling_factor"},
        {"scheduler/scheduler_config.json", "beta_schedule", "\"cosine\"", "beta_schedule"},
        {"scheduler/scheduler_config.json", "num_train_timesteps", "true", "num_train_timesteps"},
        {"tokenizer/tokenizer_config.json", "model_max_length", "\"77\"", "model_max_length"},
    };
    for (guint i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree char *folder = folder_new();
        set(folder, rows[i].file, rows[i].member, rows[i].value);
        expect_error(folder, rows[i].file, rows[i].words, rows[i].value);
    }
}

/* Parts that are good by themselves and do not fit each other. */
static void test_misfits(void)
{
    static const struct {
        const char *file, *member, *value, *words;
    } rows[] = {
        {"unet/config.json", "cross_attention_dim", "64", "unet takes 64"},
        {"unet/config.json", "in_channels", "8", "unet takes 8 channels"},
        {"unet/config.json", "out_channels", "8", "unet gives 8 channels"},
        {"vae/config.json", "out_channels", "1", "vae gives 1 channels"},
        {"text_encoder/config.json", "hidden_size", "48", "text_encoder gives 48"},
        {"text_encoder/config.json", "vocab_size", "100", "tokenizer has 530 words"},
    };
    for (guint i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree char *folder = folder_new();
        set(folder, rows[i].file, rows[i].member, rows[i].value);
        expect_error(folder, "", rows[i].words, rows[i].value);
    }
    g_autofree char *folder = folder_new();
    set(folder, "model_index.json", "text_encoder_2", "[\"transformers\", \"CLIPTextModel\"]");
    expect_error(folder, "model_index.json", "another family", "an SDXL folder");
}

/* The error of preparing the U-Net of this folder. */
static void expect_prepare_error(const char *folder, const char *file, const char *words,
                                 const char *what)
{
    g_autoptr(GError) error = NULL;
    MojiBackend *backend = moji_backend_cpu(1, &error);
    MojiModel *m = moji_model_open(folder, &error);
    if (!MOJI_CHECK(backend && m, "%s", error->message))
        return;
    MojiStage *stage = moji_stage_unet(m, MOJI_F32, 1, 8, 8);
    MOJI_CHECK(!moji_stage_prepare(stage, backend, &error), "%s: prepared", what);
    check_error(folder, file, words, error, what);
    moji_stage_free(stage);
    moji_model_free(m);
    moji_backend_close(backend);
}

/* A safetensors file of one tensor, beside which all others are missing. */
static void put_tensor(const char *folder, const char *name, const char *dtype, const char *shape,
                       gsize bytes)
{
    g_autofree char *header =
        g_strdup_printf("{\"%s\":{\"dtype\":\"%s\",\"shape\":%s,\"data_offsets\":[0,%zu]}}", name,
                        dtype, shape, bytes);
    gsize n = strlen(header);
    g_autofree char *file = g_malloc0(8 + n + bytes);
    g_autofree char *path = g_build_filename(folder, UNET, NULL);
    memcpy(file, &(guint64){GUINT64_TO_LE(n)}, 8);
    memcpy(file + 8, header, n);
    g_remove(path);
    g_assert_true(g_file_set_contents(path, file, 8 + n + bytes, NULL));
}

static void test_wrong_tensors(void)
{
    g_autofree char *folder = folder_new();
    put_tensor(folder, "conv_in.weight", "F32", "[8,4,3,3]", 8 * 4 * 9 * 4);
    expect_prepare_error(folder, UNET, "conv_in.bias", "all but one missing");
    put_tensor(folder, "conv_in.weight", "F32", "[8,4,1,1]", 8 * 4 * 4);
    expect_prepare_error(folder, UNET, "conv_in.weight", "another shape");
    put_tensor(folder, "conv_in.weight", "F32", "[8,36]", 8 * 4 * 9 * 4);
    expect_prepare_error(folder, UNET, "conv_in.weight", "another rank");
    put_tensor(folder, "time_embedding.linear_1.weight", "F64", "[32,8]", 32 * 8 * 8);
    expect_prepare_error(folder, UNET, "F64", "another type");
    put_tensor(folder, "conv_in.weight", "I64", "[8,4,3,3]", 8 * 4 * 9 * 8);
    expect_prepare_error(folder, UNET, "conv_in.weight", "whole numbers");

    g_autofree char *unet = g_build_filename(folder, UNET, NULL);
    g_autofree char *vae = moji_test_path("tiny-sd/" VAE);
    g_remove(unet);
    g_assert_true(symlink(vae, unet) == 0);
    expect_prepare_error(folder, UNET, "conv_in", "another module's file");
}

static const char card_text[] =
    "{\"name\": \"little\", \"version\": \"2\", \"licence\": \"CC-BY-4.0\", \"steps\": 12,"
    " \"size\": 128, \"guidance\": 3, \"sampler\": \"ddim\","
    " \"prompt\": \"{prompt}, {style}, {background} background\","
    " \"styles\": [\"flat\", \"glossy\"], \"default_style\": \"flat\","
    " \"backgrounds\": {\"green\": {\"rgb\": \"#00B140\", \"ko\": [\"초록색\", \"녹색\"]},"
    "                  \"white\": \"#ffffff\"},"
    " \"default_background\": \"white\", \"later\": [1, 2],"
    " \"draws\": {\"en\": [\"cat\", \"red heart\"], \"ko\": [\"고양이\"]}}";

static void test_card(void)
{
    g_autofree char *folder = folder_new();
    g_autoptr(GError) error = NULL;
    put(folder, "moji.json", card_text);
    MojiModel *m = moji_model_open(folder, &error);
    if (!MOJI_CHECK(m, "%s", error->message))
        return;
    const MojiCard *c = &m->card;
    MOJI_CHECK(!strcmp(c->name, "little") && !strcmp(c->version, "2") &&
                   !strcmp(c->licence, "CC-BY-4.0") && !strcmp(c->sampler, "ddim") &&
                   c->steps == 12 && c->size == 128 && c->guidance == 3,
               "plain members");
    MOJI_CHECK(g_strv_length(c->styles) == 2 && !strcmp(c->styles[1], "glossy") &&
                   !strcmp(c->default_style, "flat"),
               "styles");
    MOJI_CHECK(c->n_backgrounds == 2 && !strcmp(c->backgrounds[0].word, "green") &&
                   !memcmp(c->backgrounds[0].rgb, "\x00\xb1\x40", 3) &&
                   g_strv_length(c->backgrounds[0].korean) == 2 && !c->backgrounds[1].korean &&
                   !strcmp(c->default_background, "white"),
               "backgrounds");
    MOJI_CHECK(c->names && g_strv_length(c->names) == 2 && !strcmp(c->names[1], "red heart") &&
                   c->names_ko && g_strv_length(c->names_ko) == 1,
               "names");
    moji_model_free(m);
}

/* The same with its settings in an object of their own, which goes before those outside. */
static void test_card_defaults(void)
{
    g_autofree char *folder = folder_new();
    g_autoptr(GError) error = NULL;
    put(folder, "moji.json", card_text);
    set(folder, "moji.json", "defaults",
        "{\"steps\": 9, \"size\": 256, \"guidance\": 2.5, \"sampler\": \"euler\","
        " \"style\": \"glossy\", \"background\": \"green\"}");
    MojiModel *m = moji_model_open(folder, &error);
    if (!MOJI_CHECK(m, "%s", error->message))
        return;
    const MojiCard *c = &m->card;
    MOJI_CHECK(c->steps == 9 && c->size == 256 && c->guidance == 2.5 &&
                   !strcmp(c->sampler, "euler") && !strcmp(c->default_style, "glossy") &&
                   !strcmp(c->default_background, "green"),
               "defaults");
    moji_model_free(m);
}

static void test_bad_cards(void)
{
    static const struct {
        const char *member, *value;
    } rows[] = {
        {"name", "1"},
        {"steps", "0"},
        {"steps", "\"many\""},
        {"size", "63"},
        {"size", "130"},
        {"guidance", "-1"},
        {"guidance", "\"much\""},
        {"sampler", "\"magic\""},
        {"prompt", "\"no hole\""},
        {"styles", "\"flat\""},
        {"styles", "[1]"},
        {"styles", "[\"\"]"},
        {"default_style", "\"oil\""},
        {"backgrounds", "[\"green\"]"},
        {"backgrounds", "{\"white\": \"white\"}"},
        {"backgrounds", "{\"white\": \"#fffffg\"}"},
        {"backgrounds", "{\"white\": \"#fff\"}"},
        {"backgrounds", "{\"white\": 7}"},
        {"backgrounds", "{\"white\": {\"ko\": [\"흰색\"]}}"},
        {"backgrounds", "{\"white\": {\"rgb\": \"#ffffff\", \"ko\": [3]}}"},
        {"default_background", "\"plaid\""},
        {"defaults", "[]"},
        {"draws", "[]"},
    };
    for (guint i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree char *folder = folder_new();
        put(folder, "moji.json", card_text);
        set(folder, "moji.json", rows[i].member, rows[i].value);
        /* A background's error names its word. */
        gboolean inner = rows[i].value[0] == '{';
        expect_error(folder, "moji.json", inner ? "background \"white\"" : rows[i].member,
                     rows[i].value);
    }
}

static void test_bundled(void)
{
    g_autofree char *before = g_strdup(g_getenv("MOJI_MODEL"));
    g_setenv("MOJI_MODEL", "some/where", TRUE);
    g_autofree char *named = moji_model_bundled();
    MOJI_CHECK(!strcmp(named, "some/where"), "MOJI_MODEL gives %s", named);
    g_unsetenv("MOJI_MODEL");
    g_autofree char *found = moji_model_bundled();
    if (found) {
        g_autofree char *index = g_build_filename(found, "model_index.json", NULL);
        MOJI_CHECK(g_file_test(index, G_FILE_TEST_EXISTS), "%s is no model", found);
    }
    if (before)
        g_setenv("MOJI_MODEL", before, TRUE);
}

int main(void)
{
    moji_test("model: a folder as Stable Diffusion 1.4's", test_good);
    moji_test("model: a folder as new versions write it", test_other_family_members);
    moji_test("model: configs alone", test_configs);
    moji_test("model: ids per prompt", test_lengths);
    moji_test("model: missing and empty files", test_missing_files);
    moji_test("model: weights in other formats", test_other_weights);
    moji_test("model: names of weights", test_weight_names);
    moji_test("model: weights in several files", test_shards);
    moji_test("model: bad configs", test_bad_configs);
    moji_test("model: parts that do not fit", test_misfits);
    moji_test("model: missing and misshapen tensors", test_wrong_tensors);
    moji_test("model: card", test_card);
    moji_test("model: card with defaults apart", test_card_defaults);
    moji_test("model: bad cards", test_bad_cards);
    moji_test("model: the bundled one", test_bundled);
    return moji_test_end();
}
