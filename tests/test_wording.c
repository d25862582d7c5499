/* test_wording.c: from what was typed to what the model reads: the card's template, backgrounds
 * that the prompt names. */
#include "test.h"
#include "wording.h"
#include <string.h>

static void test_prompts(void)
{
    static const struct {
        const char *template, *prompt, *style, *background, *want;
    } rows[] = {
        {NULL, "cat", "flat", "green", "cat"},
        {"{prompt}, {style}, {background} background", "cat", "flat", "green",
         "cat, flat, green background"},
        {"{prompt}, {style}, {background} background", "cat", NULL, "green",
         "cat, green background"},
        {"{prompt}, {style}, {background} background", "cat", "flat", NULL, "cat, flat"},
        {"{prompt}, {style}, {background} background", "cat", NULL, NULL, "cat"},
        {"{prompt}, {style}, {background} background", "cat", "", "", "cat"},
        {"{prompt}, {style}, {background} background", "a, b, c", NULL, "red",
         "a, b, c, red background"},
        {"{prompt}, {style}", "{style} {prompt}", "{background}", NULL,
         "{style} {prompt}, {background}"},
        {"{style} emoji, {prompt}", "cat", NULL, NULL, "cat"},
        {"emoji of {prompt}", "고양이", "flat", "green", "emoji of 고양이"},
        {"{prompt}{", "cat", NULL, NULL, "cat{"},
    };
    for (guint i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree char *got =
            moji_wording_fill(rows[i].template, rows[i].prompt, rows[i].style, rows[i].background);
        MOJI_CHECK(!strcmp(got, rows[i].want), "\"%s\", expected \"%s\"", got, rows[i].want);
    }
}

/* What stays of a prompt whose background is said by the template, and what is no background. */
static void test_backgrounds(void)
{
    static char *green[] = {"초록색", "녹색", NULL}, *blue[] = {"파란색", NULL};
    static char *white[] = {"흰색", "하얀색", NULL};
    MojiColour colours[] = {{"white", white, {255, 255, 255}},
                            {"green", green, {0, 200, 0}},
                            {"blue", blue, {0, 0, 255}},
                            {"sky+", NULL, {0, 0, 128}}};
    const MojiCard card = {.backgrounds = colours, .n_backgrounds = G_N_ELEMENTS(colours)};
    static const struct {
        const char *prompt, *word, *korean, *rest;
    } rows[] = {
        {"웃는 고양이, 파란색 배경", "blue", "파란색", "웃는 고양이"},
        {"파란색 배경, 웃는 고양이", "blue", "파란색", "웃는 고양이"},
        {"개구리, 녹색배경, 모자", "green", "녹색", "개구리, 모자"},
        {"파란 배경의 웃는 고양이", "blue", "파란색", "웃는 고양이"},
        {"초록 배경에 개구리", "green", "초록색", "개구리"},
        {"하트, 단색 흰 바탕", "white", "흰색", "하트"},
        {"(하트, 흰색 배경:1.2)", "white", "흰색", NULL},
        {"파란색 배경", "blue", "파란색", ""},
        {"grinning cat on a blue background", "blue", NULL, "grinning cat"},
        {"Cat, Solid WHITE background, hat", "white", NULL, "Cat, hat"},
        {"a cat, sky+ background", "sky+", NULL, "a cat"},
        {"cat (on green background)", "green", NULL, NULL},
        {"웃는 고양이", NULL, NULL, NULL},
        {"파란색 고양이", NULL, NULL, NULL},
        {"진파란색 배경", NULL, NULL, NULL},
        {"파란색 배경음악", NULL, NULL, NULL},
        {"blue backgrounds", NULL, NULL, NULL},
        {"evergreen background", NULL, NULL, NULL},
        {"red background", NULL, NULL, NULL},
        {"", NULL, NULL, NULL},
    };
    for (guint i = 0; i < G_N_ELEMENTS(rows); i++) {
        MojiNamedBackground named = {0};
        gboolean found = moji_wording_background(&card, rows[i].prompt, &named);
        MOJI_CHECK(found == (rows[i].word != NULL), "\"%s\": %s", rows[i].prompt,
                   found ? named.words : "none found");
        MOJI_CHECK(!found || (!g_strcmp0(named.colour->word, rows[i].word) &&
                              !g_strcmp0(named.korean, rows[i].korean) &&
                              !g_strcmp0(named.rest, rows[i].rest)),
                   "\"%s\": %s (%s), the rest is \"%s\"", rows[i].prompt,
                   found ? named.colour->word : "", named.korean, named.rest);
        moji_named_background_clear(&named);
    }
}

int main(void)
{
    moji_test("wording: a template's parts", test_prompts);
    moji_test("wording: a background in the prompt", test_backgrounds);
    return moji_test_end();
}
