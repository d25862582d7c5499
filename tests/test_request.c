/* test_request.c: the request: defaults, copies, checks, and its way over the wire. */
#include "request.h"
#include "test.h"
#include <math.h>
#include <string.h>

static MojiRequest *full(void)
{
    MojiRequest *r = moji_request_new();
    r->prompt = g_strdup("웃는 고양이, a cat");
    r->negative = g_strdup("dog");
    r->style = g_strdup("flat");
    r->background = g_strdup("#00b140");
    r->sampler = g_strdup("ddim");
    r->model = g_strdup("/some/folder");
    r->seed = G_GINT64_CONSTANT(5000000000);
    r->steps = 12;
    r->guidance = 3.25;
    r->size = 256;
    r->count = 3;
    r->transparent = TRUE;
    r->amount = 0.25;
    r->variation_seed = 0;
    r->strength = 0.5;
    r->image = moji_image_new(3, 2);
    r->image->rgba[23] = 7;
    r->image->mask = g_memdup2("abcdef", 6);
    return r;
}

static gboolean same_image(const MojiImage *a, const MojiImage *b)
{
    return !a || !b ? a == b
                    : a->width == b->width && a->height == b->height &&
                          !memcmp(a->rgba, b->rgba, 24) && !memcmp(a->mask, b->mask, 6);
}

static gboolean same(const MojiRequest *a, const MojiRequest *b)
{
    return !g_strcmp0(a->prompt, b->prompt) && !g_strcmp0(a->negative, b->negative) &&
           !g_strcmp0(a->style, b->style) && !g_strcmp0(a->background, b->background) &&
           !g_strcmp0(a->sampler, b->sampler) && !g_strcmp0(a->model, b->model) &&
           a->seed == b->seed && a->steps == b->steps && a->guidance == b->guidance &&
           a->size == b->size && a->count == b->count && a->transparent == b->transparent &&
           a->amount == b->amount && a->variation_seed == b->variation_seed &&
           a->strength == b->strength && same_image(a->image, b->image);
}

static MojiRequest *through_wire(const MojiRequest *r)
{
    GError *error = NULL;
    g_autoptr(GVariant) v = g_variant_ref_sink(moji_request_to_variant(r));
    MojiRequest *back = moji_request_from_variant(v, &error);
    MOJI_CHECK(back != NULL, "%s", error ? error->message : "");
    g_clear_error(&error);
    return back;
}

static void test_round_trip(void)
{
    g_autoptr(MojiRequest) all = full(), none = moji_request_new();
    g_autoptr(MojiRequest) all_back = through_wire(all), none_back = through_wire(none);
    MOJI_CHECK(all_back && same(all, all_back), "a field of a full request is lost");
    MOJI_CHECK(none_back && same(none, none_back), "an unset request is not unset any more");
    g_autoptr(GVariant) v = g_variant_ref_sink(moji_request_to_variant(none));
    MOJI_CHECK(g_variant_n_children(v) == 0, "unset fields are sent: %d",
               (int)g_variant_n_children(v));
}

/* 0 is the sender's wish where -1 means unset, and must arrive. */
static void test_zeros_travel(void)
{
    g_autoptr(MojiRequest) r = moji_request_new();
    r->seed = 0;
    r->guidance = 0;
    g_autoptr(MojiRequest) back = through_wire(r);
    MOJI_CHECK(back && back->seed == 0 && back->guidance == 0, "seed 0 or guidance 0 is lost");
}

static void test_copy(void)
{
    g_autoptr(MojiRequest) r = full();
    g_autoptr(MojiRequest) copy = moji_request_copy(r);
    MOJI_CHECK(same(r, copy), "the copy differs");
    MOJI_CHECK(r->prompt != copy->prompt && r->model != copy->model && r->image != copy->image,
               "the copy shares strings or the picture");
    moji_request_free(NULL);
}

static void expect_refusal(const char *text, const char *why)
{
    GError *error = NULL;
    g_autoptr(GVariant) v = g_variant_ref_sink(g_variant_new_parsed(text));
    g_autoptr(MojiRequest) r = moji_request_from_variant(v, &error);
    MOJI_CHECK(!r, "%s was taken", text);
    MOJI_CHECK(g_error_matches(error, MOJI_ERROR, MOJI_ERROR_USAGE) &&
                   strstr(error->message, why) != NULL,
               "%s: %s", text, error ? error->message : "no error");
    g_clear_error(&error);
}

static void test_refusals(void)
{
    expect_refusal("{'prompt': <'cat'>, 'colour': <'red'>}", "colour");
    expect_refusal("{'prompt': <3>}", "prompt");
    expect_refusal("{'steps': <'20'>}", "steps");
    expect_refusal("{'steps': <int64 20>}", "steps");
    expect_refusal("{'seed': <1.5>}", "seed");
    expect_refusal("{'transparent': <1>}", "transparent");
    expect_refusal("{'prompt': <'a'>, 'prompt': <'b'>}", "twice");
    expect_refusal("{'prompt': <<'cat'>>}", "prompt");
    expect_refusal("{'image': <b'no pixels'>}", "image");
    expect_refusal("{'image': <(2, 2, [byte 1, 2], @ay [], '')>}", "2 x 2");
    expect_refusal("{'a': 'b'}", "a{sv}");
}

static void expect_check(MojiRequest *r, const char *setting)
{
    GError *error = NULL;
    gboolean ok = moji_request_check(r, &error);
    if (!setting)
        MOJI_CHECK(ok, "%s", error ? error->message : "");
    else
        MOJI_CHECK(!ok && g_error_matches(error, MOJI_ERROR, MOJI_ERROR_USAGE) &&
                       g_str_has_prefix(error->message, setting),
                   "%s: %s", setting, error ? error->message : "was taken");
    g_clear_error(&error);
}

#define EXPECT(setting, change)                                                                    \
    do {                                                                                           \
        g_autoptr(MojiRequest) r = full();                                                         \
        change;                                                                                    \
        expect_check(r, setting);                                                                  \
    } while (0)

static char *replaced(char *old, char *text)
{
    g_free(old);
    return text;
}

static void test_check(void)
{
    EXPECT(NULL, (void)0);
    EXPECT("prompt", r->prompt = replaced(r->prompt, NULL));
    EXPECT("prompt", r->prompt = replaced(r->prompt, g_strdup("")));
    EXPECT("prompt", r->prompt = replaced(r->prompt, g_strdup(" \n\t ")));
    EXPECT("prompt", r->prompt = replaced(r->prompt, g_strdup("cat \xff")));
    EXPECT("prompt", r->prompt = replaced(r->prompt, g_strnfill(MOJI_REQUEST_MAX_TEXT + 1, 'a')));
    EXPECT(NULL, r->prompt = replaced(r->prompt, g_strnfill(MOJI_REQUEST_MAX_TEXT, 'a')));
    EXPECT("negative", r->negative = replaced(r->negative, g_strdup("\xc3")));
    EXPECT("style", r->style = replaced(r->style, g_strnfill(1000, 'a')));
    EXPECT("model", r->model = replaced(r->model, g_strdup("/\xff")));
    EXPECT("seed", r->seed = -2);
    EXPECT("seed", r->seed = G_MAXINT64);
    EXPECT(NULL, r->seed = -1);
    EXPECT("steps", r->steps = -1);
    EXPECT("steps", r->steps = 1001);
    EXPECT(NULL, r->steps = 1000);
    EXPECT("guidance", r->guidance = 100.5);
    EXPECT("guidance", r->guidance = NAN);
    EXPECT("guidance", r->guidance = -INFINITY);
    EXPECT(NULL, r->guidance = -1);
    EXPECT("size", r->size = 56);
    EXPECT("size", r->size = 100);
    EXPECT("size", r->size = 2056);
    EXPECT("size", r->size = -64);
    EXPECT(NULL, r->size = 2048);
    EXPECT("count", r->count = -1);
    EXPECT("count", r->count = 65);
    EXPECT(NULL, r->count = 64);
    EXPECT("strength", r->strength = 1.01);
    EXPECT("strength", r->strength = 0);
    EXPECT("strength", r->strength = NAN);
    EXPECT(NULL, r->strength = 1);
    EXPECT("amount", r->amount = -0.1);
    EXPECT("amount", r->amount = 1.1);
    EXPECT("variation_seed", r->variation_seed = -2);
    EXPECT("picture", r->image->width = 1 << 24);
}

static void test_loras(void)
{
    static const struct {
        const char *text, *list, *again;
    } rows[] = {
        {NULL, NULL, NULL},
        {" , ", NULL, NULL},
        {"frog", "frog", "frog"},
        {"frog:0.8,ink", "frog:0.8|ink", "frog:0.8, ink"},
        {"a:unet=1, text=0.5 ,b", "a:unet=1,text=0.5|b", "a:unet=1,text=0.5, b"},
        {"text=1", "text=1", "text=1"},
    };
    for (gsize i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_auto(GStrv) list = moji_request_split_loras(rows[i].text);
        g_autofree char *joined = list ? g_strjoinv("|", list) : NULL;
        g_autofree char *again = moji_request_join_loras(list);
        MOJI_CHECK(!g_strcmp0(joined, rows[i].list) && !g_strcmp0(again, rows[i].again),
                   "\"%s\" became \"%s\" and \"%s\"", rows[i].text, joined, again);
    }
    g_autoptr(GError) error = NULL;
    g_autoptr(MojiRequest) r = moji_request_new();
    r->prompt = g_strdup("cat");
    r->loras = moji_request_split_loras("frog:0.8,ink");
    g_autoptr(GVariant) v = g_variant_ref_sink(moji_request_to_variant(r));
    g_autoptr(MojiRequest) back = moji_request_from_variant(v, &error);
    g_autoptr(MojiRequest) copy = back ? moji_request_copy(back) : NULL;
    if (MOJI_CHECK(copy, "%s", error->message))
        MOJI_CHECK(copy->loras && g_strv_equal((const char *const *)copy->loras,
                                               (const char *const *)r->loras),
                   "another list came back");
    g_clear_pointer(&r->loras, g_strfreev);
    moji_request_take_recipe(r,
                             "{\"loras\": [{\"name\": \"frog\", \"unet\": 0.5, \"text\": 0.5}, 7, "
                             "{\"name\": 3}, {\"name\": \"ink\", \"unet\": -1, \"text\": 0}]}");
    g_autofree char *taken = moji_request_join_loras(r->loras);
    MOJI_CHECK(!g_strcmp0(taken, "frog:0.5, ink:unet=-1,text=0"), "a recipe gave \"%s\"", taken);
    g_strfreev(r->loras);
    r->loras = g_new0(char *, MOJI_REQUEST_MAX_LORAS + 2);
    for (int i = 0; i <= MOJI_REQUEST_MAX_LORAS; i++)
        r->loras[i] = g_strdup("frog");
    MOJI_CHECK(!moji_request_check(r, &error) && strstr(error->message, "loras: 17 of them"),
               "17 LoRAs are taken");
}

int main(void)
{
    moji_test("request: over the wire and back", test_round_trip);
    moji_test("request: a list of LoRAs", test_loras);
    moji_test("request: zeros that mean something arrive", test_zeros_travel);
    moji_test("request: copies stand alone", test_copy);
    moji_test("request: strange variants are refused by name", test_refusals);
    moji_test("request: every setting's range is checked", test_check);
    return moji_test_end();
}
