/* test_prompt.c: emphasis, chunks, learnt words: the grammar by a table, the layout by its rules,
 * and what comes of it against an independent reference (make_prompts.py). */
#include "draw.h"
#include "json.h"
#include "prompt.h"
#include "test.h"
#include <glib/gstdio.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

static char *embeddings; /* the folder of learnt words */
static MojiTokenizer *tokenizer;

/* "text*1.100|>text*1.000", > before one that begins a chunk */
static char *shown(const char *prompt)
{
    g_autoptr(GArray) parts = moji_prompt_parse(prompt);
    GString *out = g_string_new(NULL);
    for (guint i = 0; i < parts->len; i++) {
        const MojiPromptPart *p = &g_array_index(parts, MojiPromptPart, i);
        g_string_append_printf(out, "%s%s%s*%.3f", i ? "|" : "", p->breaks ? ">" : "", p->text,
                               p->weight);
    }
    return g_string_free(out, FALSE);
}

static void test_grammar(void)
{
    static const struct {
        const char *prompt, *want;
    } rows[] = {
        {"", ""},
        {"cat", "cat*1.000"},
        {"  red  cat ", "  red  cat *1.000"},
        {"(cat)", "cat*1.100"},
        {"((cat))", "cat*1.210"},
        {"[cat]", "cat*0.909"},
        {"a (red) cat", "a *1.000|red*1.100| cat*1.000"},
        {"(red:1.3)", "red*1.300"},
        {"(red: 1.3 )", "red*1.300"},
        {"(red:+.5)", "red*0.500"},
        {"(red:-1)", "red*-1.000"},
        {"(a (b:2) c:3)", "a *3.000|b*6.000| c*3.000"},
        {"([x])", "x*1.000"},
        {"a (b:1) c", "a b c*1.000"},
        {"an (((unfinished [thing", "an *1.000|unfinished *1.331|thing*1.210"},
        {"a) b]", "a) b]*1.000"},
        {"a:1.2)", "a:1.2)*1.000"},
        {"(a:b)", "a:b*1.100"},
        {"(a:1.2.3)", "a:1.2.3*1.100"},
        {"(a:1e3)", "a:1e3*1.100"},
        {"(a:0x1)", "a:0x1*1.100"},
        {"(a:)", "a:*1.100"},
        {"\\(a\\)", "(a)*1.000"},
        {"\\[a\\] \\\\(b)", "[a] \\*1.000|b*1.100"},
        {"a\\b \\", "a\\b \\*1.000"},
        {"()", ""},
        {"a BREAK b", "a*1.000|>b*1.000"},
        {"a BREAK BREAK b", "a*1.000|>*1.000|>b*1.000"},
        {"BREAK", ">*1.000"},
        {"BREAKFAST aBREAK BREAK_", "BREAKFAST aBREAK BREAK_*1.000"},
        {"(a BREAK b:2)", "a*2.000|>b*2.000"},
        {"(웃는:1.5) 고양이", "웃는*1.500| 고양이*1.000"},
    };
    for (gsize i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree char *got = shown(rows[i].prompt);
        MOJI_CHECK(!strcmp(got, rows[i].want), "\"%s\": %s, expected %s", rows[i].prompt, got,
                   rows[i].want);
    }
}

/* Without brackets nothing changes: the ids of moji_tokenizer_encode, every weight 1. */
static void test_plain(void)
{
    static const char *const rows[] = {"", "a red cat, grinning", "웃는 고양이 😺", "a: b; c"};
    int n = moji_tokenizer_length(tokenizer);
    g_autofree gint32 *want = g_new(gint32, n);
    for (gsize i = 0; i < G_N_ELEMENTS(rows); i++) {
        moji_tokenizer_encode(tokenizer, rows[i], want, NULL);
        MojiChunks *c = moji_prompt_chunks(rows[i], tokenizer, NULL, NULL, NULL);
        gboolean plain = !c->learnt;
        for (int k = 0; k < n; k++)
            plain &= c->weights[k] == 1 && !c->vectors[k];
        MOJI_CHECK(c->count == 1 && plain && !memcmp(c->ids, want, n * sizeof *want),
                   "\"%s\": %d chunks, other ids or weights", rows[i], c->count);
        moji_chunks_free(c);
    }
}

static void test_layout(void)
{
    int lacking = -1, room = moji_tokenizer_length(tokenizer) - 2;
    GString *text = g_string_new(NULL);
    for (int i = 0; i < room; i++)
        g_string_append(text, i ? " 1" : "1"); /* a digit is a token */
    MojiChunks *c = moji_prompt_chunks(text->str, tokenizer, NULL, &lacking, NULL);
    MOJI_CHECK(c->count == 1 && lacking == 0, "a full chunk makes %d", c->count);
    moji_chunks_pad(c, tokenizer, 3);
    g_autofree gint32 *empty = g_new(gint32, c->n);
    moji_tokenizer_encode(tokenizer, "", empty, NULL);
    MOJI_CHECK(c->count == 3 && !memcmp(c->ids + 2 * c->n, empty, c->n * sizeof *empty),
               "padding is not an empty prompt");
    moji_chunks_free(c);
    g_string_append(text, " 2");
    c = moji_prompt_chunks(text->str, tokenizer, NULL, &lacking, NULL);
    MOJI_CHECK(c->count == 2 && lacking == 0, "one token more makes %d chunks", c->count);
    moji_chunks_free(c);
    c = moji_prompt_chunks("a BREAK", tokenizer, NULL, &lacking, NULL);
    MOJI_CHECK(c->count == 1, "a BREAK at the end makes %d chunks", c->count);
    moji_chunks_free(c);
    while (text->len < 4000)
        g_string_append(text, " 3");
    c = moji_prompt_chunks(text->str, tokenizer, NULL, &lacking, NULL);
    MOJI_CHECK(c->count == MOJI_PROMPT_MAX_CHUNKS && lacking > 0, "%d chunks, %d more", c->count,
               lacking);
    moji_chunks_free(c);
    g_string_free(text, TRUE);
}

static void test_reference(void)
{
    JsonObject *root;
    gsize count;
    gint64 shape[4], got_shape[4];
    g_autofree char *path = moji_test_path("prompts/cases.json");
    g_autofree char *folder = moji_test_path("tiny-sd");
    g_autoptr(JsonParser) parser = moji_json_open(path, &root, NULL);
    g_autofree float *data = moji_test_npy("prompts/embeddings.npy", &count, shape);
    const float *want = data;
    JsonArray *rows = json_object_get_array_member(root, "cases");
    MojiEngine *engine = moji_engine_new("cpu", 1, NULL);
    moji_engine_set_type(engine, "f32");
    for (guint i = 0; i < json_array_get_length(rows); i++) {
        JsonObject *row = json_array_get_object_element(rows, i);
        const char *name = json_object_get_string_member(row, "name");
        g_autofree char *dump = g_build_filename(moji_test_scratch(), name, NULL);
        g_autofree char *file = g_build_filename(dump, "embeddings.npy", NULL);
        g_autoptr(MojiRequest) r = moji_request_new();
        g_autoptr(GError) error = NULL;
        r->prompt = g_strdup(json_object_get_string_member(row, "prompt"));
        r->clip_skip = (int)json_object_get_int_member(row, "clip_skip");
        r->model = g_strdup(folder);
        r->size = 64;
        r->steps = 1;
        r->seed = 1;
        r->guidance = 1;
        r->sampler = g_strdup("ddim");
        moji_engine_set_dump(engine, dump);
        GPtrArray *images = moji_engine_draw(engine, r, NULL, NULL, NULL, &error);
        if (!MOJI_CHECK(images, "%s: %s", name, error ? error->message : ""))
            continue;
        g_ptr_array_unref(images);
        gint64 chunks = json_object_get_int_member(row, "chunks");
        g_autofree float *got = moji_test_npy(file, &count, got_shape);
        if (!MOJI_CHECK(got_shape[1] == chunks * shape[1] && got_shape[2] == shape[2],
                        "%s: %d tokens of %d numbers", name, (int)got_shape[1], (int)got_shape[2]))
            continue;
        double error_most = moji_test_max_error(got, want, count);
        MOJI_CHECK(error_most < 2e-4, "%s: off by %g", name, error_most);
        want += count;
    }
    moji_engine_free(engine);
}

/* Both prompts are of one length, whichever is longer, and the picture follows either. */
static void test_two_lengths(void)
{
    g_autofree char *folder = moji_test_path("tiny-sd");
    MojiEngine *engine = moji_engine_new("cpu", 1, NULL);
    static const char *const negatives[] = {"dog", "dog BREAK blue BREAK cat", "(dog:1.4)"};
    g_autoptr(GBytes) last = NULL;
    for (gsize i = 0; i < G_N_ELEMENTS(negatives); i++) {
        g_autoptr(MojiRequest) r = moji_request_new();
        g_autoptr(GError) error = NULL;
        r->prompt = g_strdup("red cat BREAK grinning");
        r->negative = g_strdup(negatives[i]);
        r->model = g_strdup(folder);
        r->size = 64;
        r->steps = 2;
        r->seed = 1;
        GPtrArray *images = moji_engine_draw(engine, r, NULL, NULL, NULL, &error);
        if (!MOJI_CHECK(images, "%s: %s", negatives[i], error ? error->message : ""))
            continue;
        GBytes *png = moji_image_encode_png(images->pdata[0], NULL);
        MOJI_CHECK(!last || !g_bytes_equal(png, last), "\"%s\" changes nothing", negatives[i]);
        g_clear_pointer(&last, g_bytes_unref);
        last = png;
        g_ptr_array_unref(images);
    }
    moji_engine_free(engine);
}

static void put_word(const char *name, const char *header, gsize bytes)
{
    g_autofree char *path = g_build_filename(embeddings, name, NULL);
    GString *file = g_string_new(NULL);
    guint64 length = GUINT64_TO_LE(strlen(header));
    g_string_append_len(file, (char *)&length, 8);
    g_string_append(file, header);
    for (gsize i = 0; i < bytes; i++)
        g_string_append_c(file, 0);
    g_assert(g_file_set_contents(path, file->str, file->len, NULL));
    g_string_free(file, TRUE);
}

static void test_words(void)
{
    static const struct {
        const char *text, *word;
        gsize bytes;
        const char *fault;
    } rows[] = {
        {"leafstyle cat", "leafstyle", 9, NULL},
        {"LeafStyle", "leafstyle", 9, NULL},
        {"embedding:leafstyle,", "leafstyle", 19, NULL},
        {"leafstyle-two", "leafstyle-two", 13, NULL},
        {"leafstyles", NULL, 0, NULL},
        {"leaf", NULL, 0, NULL},
        {"", NULL, 0, NULL},
        {"wide one", NULL, 4, "768"},
        {"damaged", NULL, 7, "damaged.pt"},
        {"counts", NULL, 6, "expected f32, f16 or bf16"},
        {"several", NULL, 7, "no textual inversion"},
    };
    put_word("leafstyle-two.safetensors",
             "{\"x\":{\"dtype\":\"F16\",\"shape\":[40],\"data_offsets\":[0,80]}}", 80);
    put_word("wide.safetensors",
             "{\"emb_params\":{\"dtype\":\"F16\",\"shape\":[1,768],\"data_offsets\":[0,1536]}}",
             1536);
    put_word("counts.safetensors",
             "{\"x\":{\"dtype\":\"I32\",\"shape\":[1,40],\"data_offsets\":[0,160]}}", 160);
    put_word("several.safetensors",
             "{\"x\":{\"dtype\":\"F16\",\"shape\":[1],\"data_offsets\":[0,2]},"
             "\"y\":{\"dtype\":\"F16\",\"shape\":[1],\"data_offsets\":[2,4]}}",
             4);
    put_word("damaged.pt", "no file at all", 0);
    MojiInversions *set = moji_inversions_open(embeddings, 40);
    for (gsize i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autoptr(GError) error = NULL;
        gsize bytes = 0;
        const MojiInversion *word = moji_inversions_match(set, rows[i].text, &bytes, &error);
        MOJI_CHECK(!g_strcmp0(word ? word->name : NULL, rows[i].word), "\"%s\" is %s", rows[i].text,
                   word    ? word->name
                   : error ? error->message
                           : "no word");
        MOJI_CHECK(!word || bytes == rows[i].bytes, "\"%s\": %zu bytes", rows[i].text, bytes);
        MOJI_CHECK(!error == !rows[i].fault && (!error || strstr(error->message, rows[i].fault)),
                   "\"%s\": %s", rows[i].text, error ? error->message : "no error");
    }
    moji_inversions_free(set);
    MojiInversions *none = moji_inversions_open("no such folder", 40);
    gsize bytes;
    MOJI_CHECK(!moji_inversions_match(none, "leafstyle", &bytes, NULL), "a word from nowhere");
    moji_inversions_free(none);
}

/* The same word in PyTorch's files: modules, dictionaries, one tensor under its own name. */
static void test_pickled_words(void)
{
    static const char *const files[] = {"leaf-module.pt", "leaf-plain.pt", "leaf-own.bin"};
    g_autofree char *folder = moji_test_path("prompts");
    MojiInversions *set = moji_inversions_open(folder, 40);
    gsize bytes;
    const MojiInversion *want = moji_inversions_match(set, "leafstyle", &bytes, NULL);
    for (gsize i = 0; i < G_N_ELEMENTS(files); i++) {
        g_autoptr(GError) error = NULL;
        g_autofree char *name = g_strndup(files[i], strrchr(files[i], '.') - files[i]);
        const MojiInversion *word = moji_inversions_match(set, name, &bytes, &error);
        MOJI_CHECK(word && word->count == want->count &&
                       !memcmp(word->vectors, want->vectors, want->count * 40 * sizeof(float)),
                   "%s: %s", files[i], error ? error->message : "other numbers");
    }
    moji_inversions_free(set);
}

static char *drawn_recipe(MojiEngine *engine, const MojiRequest *r)
{
    g_autoptr(GError) error = NULL;
    GPtrArray *images = moji_engine_draw(engine, r, NULL, NULL, NULL, &error);
    if (!MOJI_CHECK(images, "%s", error ? error->message : ""))
        return g_strdup("");
    char *recipe = g_strdup(((MojiImage *)images->pdata[0])->recipe);
    g_ptr_array_unref(images);
    return recipe;
}

/* The recipe names the words and their files; who redraws the picture hears if they are others. */
static void test_words_of_a_recipe(void)
{
    MojiEngine *engine = moji_engine_new("cpu", 1, NULL);
    g_autoptr(MojiRequest) r = moji_request_new();
    r->prompt = g_strdup("cat, LeafStyle, leafstyle");
    r->model = moji_test_path("tiny-sd");
    r->size = 64;
    r->steps = 1;
    r->seed = 1;
    r->guidance = 1;
    g_autofree char *recipe = drawn_recipe(engine, r);
    const char *list = strstr(recipe, "\"inversions\":[{\"name\":\"leafstyle\",\"weights\":\"");
    MOJI_CHECK(list && !strstr(list + 30, "leafstyle"), "not once: %s", recipe);
    MOJI_CHECK(!strstr(recipe, embeddings), "tells where it was made: %s", recipe);
    r->image = moji_image_new(64, 64);
    r->image->recipe = g_strdup(recipe);
    g_autofree char *same = drawn_recipe(engine, r);
    MOJI_CHECK(!strstr(same, "\"warning\""), "%s", same);
    g_autofree char *file = g_build_filename(embeddings, "leafstyle.safetensors", NULL);
    put_word("leafstyle.safetensors",
             "{\"x\":{\"dtype\":\"F16\",\"shape\":[40],\"data_offsets\":[0,80]}}", 80);
    g_autofree char *other = drawn_recipe(engine, r);
    MOJI_CHECK(strstr(other, "learnt word leafstyle, which is another here"), "%s", other);
    g_remove(file);
    g_autofree char *gone = drawn_recipe(engine, r);
    MOJI_CHECK(strstr(gone, "learnt word leafstyle, which is not here") &&
                   !strstr(gone, "\"inversions\""),
               "%s", gone);
    g_free(r->prompt);
    r->prompt = g_strdup("cat");
    g_autofree char *unsaid = drawn_recipe(engine, r);
    MOJI_CHECK(!strstr(unsaid, "\"warning\""), "%s", unsaid);
    moji_engine_free(engine);
}

static void test_strange(void)
{
    static const struct {
        const char *prompt, *want;
    } rows[] = {
        {"cat", NULL},
        {"", NULL},
        {"12, !? 34", NULL},
        {"cat, qwzx!", "qwzx"},
        {"(qwzx:1.2) cat, (뷁뷁)", "qwzx, 뷁뷁"},
    };
    for (gsize i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree char *found = moji_prompt_strange_words(rows[i].prompt, tokenizer);
        MOJI_CHECK(!g_strcmp0(found, rows[i].want), "\"%s\": \"%s\", expected \"%s\"",
                   rows[i].prompt, found, rows[i].want);
    }
}

int main(void)
{
    g_autofree char *folder = moji_test_path("tiny-sd/tokenizer");
    g_autofree char *word = moji_test_path("prompts/leafstyle.safetensors");
    g_autofree char *home = g_build_filename(moji_test_scratch(), "data", NULL);
    embeddings = g_build_filename(home, "moji", "embeddings", NULL);
    g_autofree char *target = g_build_filename(embeddings, "leafstyle.safetensors", NULL);
    g_autofree char *bytes = NULL;
    gsize count;
    g_setenv("XDG_DATA_HOME", home, TRUE); /* before GLib looks at it */
    g_mkdir_with_parents(embeddings, 0700);
    if (!g_file_get_contents(word, &bytes, &count, NULL) ||
        !g_file_set_contents(target, bytes, count, NULL))
        g_error("%s cannot be copied", word);
    tokenizer = moji_tokenizer_open(folder, 77, NULL);
    moji_test("prompt: the grammar of emphasis", test_grammar);
    moji_test("prompt: plain text stays as it was", test_plain);
    moji_test("prompt: words that the vocabulary has to spell", test_strange);
    moji_test("prompt: chunks", test_layout);
    moji_test("prompt: embeddings against a reference", test_reference);
    moji_test("prompt: two prompts of other lengths", test_two_lengths);
    moji_test("prompt: learnt words and their files", test_words);
    moji_test("prompt: learnt words as PyTorch writes them", test_pickled_words);
    moji_test("prompt: learnt words in a recipe", test_words_of_a_recipe);
    moji_tokenizer_free(tokenizer);
    g_free(embeddings);
    return moji_test_end();
}
