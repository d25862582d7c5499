/* test_names.c: what tensors are called in old files and in checkpoints. */
#include "names.h"
#include "test.h"
#include <string.h>

static void test_older(void)
{
    static const struct {
        MojiPart part;
        const char *stored, *canonical;
    } rows[] = {
        {MOJI_PART_TEXT, "embeddings.token_embedding.weight",
         "text_model.embeddings.token_embedding.weight"},
        {MOJI_PART_TEXT, "text_model.final_layer_norm.bias", "text_model.final_layer_norm.bias"},
        {MOJI_PART_UNET, "mid_block.attentions.0.norm.weight",
         "mid_block.attentions.0.norm.weight"},
        {MOJI_PART_UNET, "conv_in.bias", "conv_in.bias"},
        {MOJI_PART_VAE, "decoder.mid_block.attentions.0.query.weight",
         "decoder.mid_block.attentions.0.to_q.weight"},
        {MOJI_PART_VAE, "decoder.mid_block.attentions.0.key.bias",
         "decoder.mid_block.attentions.0.to_k.bias"},
        {MOJI_PART_VAE, "encoder.mid_block.attentions.0.value.weight",
         "encoder.mid_block.attentions.0.to_v.weight"},
        {MOJI_PART_VAE, "encoder.mid_block.attentions.0.proj_attn.bias",
         "encoder.mid_block.attentions.0.to_out.0.bias"},
        {MOJI_PART_VAE, "decoder.mid_block.attentions.0.q.weight",
         "decoder.mid_block.attentions.0.to_q.weight"},
        {MOJI_PART_VAE, "decoder.mid_block.attentions.0.proj_out.weight",
         "decoder.mid_block.attentions.0.to_out.0.weight"},
        {MOJI_PART_VAE, "decoder.mid_block.attentions.0.to_out.0.bias",
         "decoder.mid_block.attentions.0.to_out.0.bias"},
        {MOJI_PART_VAE, "decoder.mid_block.attentions.0.group_norm.bias",
         "decoder.mid_block.attentions.0.group_norm.bias"},
        {MOJI_PART_VAE, "decoder.mid_block.attentions.0.query",
         "decoder.mid_block.attentions.0.query"},
        {MOJI_PART_VAE, "quant_conv.weight", "quant_conv.weight"},
    };
    for (guint i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree char *got = moji_name_canonical(rows[i].part, rows[i].stored);
        MOJI_CHECK(!strcmp(got, rows[i].canonical), "%s is %s", rows[i].stored, got);
    }
}

/* Stable Diffusion 1.x's. */
static MojiNames *names_sd1(void)
{
    MojiUnetConfig unet = {.levels = 4,
                           .layers = {2, 2, 2, 2},
                           .attention_down = {TRUE, TRUE, TRUE, FALSE},
                           .attention_up = {FALSE, TRUE, TRUE, TRUE}};
    MojiVaeConfig vae = {.levels = 4, .layers = 2};
    return moji_names_new(&unet, &vae);
}

static void check(const MojiNames *n, MojiPart part, const char *ldm, const char *canonical)
{
    g_autofree char *there = moji_name_from_ldm(n, part, ldm);
    g_autofree char *back = moji_name_to_ldm(n, part, canonical);
    MOJI_CHECK(!g_strcmp0(there, canonical), "%s gives %s", ldm, there);
    MOJI_CHECK(!g_strcmp0(back, ldm), "%s gives %s", canonical, back);
}

/* Every tensor of the U-Net and of the VAE, as diffusers converts them. */
static void test_ldm(void)
{
    g_autofree char *path = moji_test_path("names_sd1.txt");
    g_autofree char *text = NULL;
    MojiNames *n = names_sd1();
    g_assert_true(g_file_get_contents(path, &text, NULL, NULL));
    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);
    int count[MOJI_PARTS] = {0};
    for (char **line = lines; **line; line++) {
        g_auto(GStrv) words = g_strsplit(*line, " ", 3);
        if (!words[0])
            continue;
        MojiPart part = strcmp(words[0], "vae") ? MOJI_PART_UNET : MOJI_PART_VAE;
        check(n, part, words[1], words[2]);
        count[part]++;
    }
    MOJI_CHECK(count[MOJI_PART_UNET] == 686 && count[MOJI_PART_VAE] == 248, "%d and %d names",
               count[MOJI_PART_UNET], count[MOJI_PART_VAE]);
    check(n, MOJI_PART_TEXT, "text_model.encoder.layers.3.mlp.fc1.bias",
          "text_model.encoder.layers.3.mlp.fc1.bias");
    moji_names_free(n);
}

static void test_strangers(void)
{
    MojiNames *n = names_sd1();
    g_autofree char *bare =
        moji_name_from_ldm(n, MOJI_PART_TEXT, "embeddings.token_embedding.weight");
    MOJI_CHECK(!g_strcmp0(bare, "text_model.embeddings.token_embedding.weight"), "%s", bare);
    static const char *const none[] = {"",        "weight", "input_blocks.12.0.in_layers.0.weight",
                                       "conv_in", "model",  "label_emb.0.0.weight"};
    for (guint i = 0; i < G_N_ELEMENTS(none); i++) {
        g_autofree char *there = moji_name_from_ldm(n, MOJI_PART_UNET, none[i]);
        g_autofree char *back = moji_name_to_ldm(n, MOJI_PART_UNET, none[i]);
        MOJI_CHECK(!there && !back, "\"%s\" gives %s and %s", none[i], there, back);
    }
    moji_names_free(n);
    moji_names_free(NULL);
}

int main(void)
{
    moji_test("names: older files", test_older);
    moji_test("names: checkpoints of Stable Diffusion 1.x", test_ldm);
    moji_test("names: what no table has", test_strangers);
    return moji_test_end();
}
