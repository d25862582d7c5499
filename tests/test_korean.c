/* test_korean.c: Korean prompts for models that read English. */
#include "korean.h"
#include "test.h"
#include <string.h>

static void test_sentences(void)
{
    static const struct {
        const char *korean, *english, *unknown;
    } rows[] = {
        {"고양이", "cat", NULL},
        {"웃는 고양이", "smiling cat", NULL},
        {"웃는고양이", "smiling cat", NULL},
        {"웃는 고양이, 파란색 배경", "smiling cat, blue background", NULL},
        {"고양이가 우산을 들고 있는", "cat umbrella holding", NULL},
        {"고양이와 강아지", "cat and puppy", NULL},
        {"곰돌 고양이", "cat", "곰돌"},
        {"뷁뷁, 고양이", "cat", "뷁뷁"},
        {"고양이, 뷁, 별", "cat, star", "뷁"},
        {"뷁", "", "뷁"},
        {"(웃는:1.3) cat, [모자]", "(smiling:1.3) cat, [hat]", NULL},
        {"a cat, 3 dogs", "a cat, 3 dogs", NULL},
        {"새벽 3시 고양이", "at three in the night cat", NULL},
        {"눈사람", "snowman", NULL},
        {"하트 눈 고양이", "heart-shaped eyes cat", NULL},
        {"고양이들이", "cat", NULL},
        {"고양이 BREAK 별", "cat BREAK star", NULL},
        {"개구리 😀 ㅋㅋ", "frog 😀 laughing", NULL},
        {"", "", NULL},
        /* Of the evaluation's situations. */
        {"울면서 엄지척", "crying while giving a thumbs up", NULL},
        {"이불 돌돌 말고 안 나감", "wrapped in a blanket like a burrito refusing to get up", NULL},
        {"입에서 영혼이 빠져나감", "with its soul floating out of its mouth", NULL},
        {"빈 지갑 털며 우는 텅장", "holding an empty wallet upside down crying empty wallet", NULL},
        {"구석에서 벽 보고 삐짐", "sitting in a corner facing the wall sulking", NULL},
    };
    for (gsize i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autoptr(GError) error = NULL;
        g_autofree char *unknown = NULL;
        g_autofree char *got = moji_korean_translate(rows[i].korean, &unknown, &error);
        MOJI_CHECK(got && !strcmp(got, rows[i].english), "\"%s\": \"%s\", expected \"%s\"",
                   rows[i].korean, got ? got : error->message, rows[i].english);
        MOJI_CHECK(!g_strcmp0(unknown, rows[i].unknown), "\"%s\": unknown %s, expected %s",
                   rows[i].korean, unknown, rows[i].unknown);
    }
}

/* Decomposed Hangul is the same word; a word of thousands of letters takes no time. */
static void test_odd(void)
{
    g_autofree char *unknown = NULL, *none = NULL;
    g_autofree char *apart = g_utf8_normalize("고양이", -1, G_NORMALIZE_NFD);
    g_autofree char *got = moji_korean_translate(apart, &unknown, NULL);
    MOJI_CHECK(!g_strcmp0(got, "cat") && !unknown, "decomposed: \"%s\"", got);
    MOJI_CHECK(moji_korean_found("a 고") && moji_korean_found("ㅋ") && !moji_korean_found("a é 日"),
               "what Hangul is");
    GString *text = g_string_new(NULL);
    for (int i = 0; i < 1300; i++)
        g_string_append(text, "고양");
    gint64 start = g_get_monotonic_time();
    g_autofree char *nothing = moji_korean_translate(text->str, &none, NULL);
    MOJI_CHECK(!*nothing && none && strlen(none) == text->len, "\"%.40s\"", nothing);
    MOJI_CHECK(g_get_monotonic_time() - start < 20 * G_USEC_PER_SEC, "it took too long");
    g_string_free(text, TRUE);
}

int main(void)
{
    moji_test("korean: words, particles, what is unknown", test_sentences);
    moji_test("korean: odd spellings", test_odd);
    return moji_test_end();
}
