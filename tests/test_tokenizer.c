/* test_tokenizer.c: ids against transformers', with CLIP's own vocabulary and odd ones. */
#include "json.h"
#include "test.h"
#include "tokenizer.h"
#include <gio/gio.h>
#include <glib/gstdio.h>
#include <stdio.h>
#include <string.h>

static char *clip_merges; /* the text of CLIP's merges.txt */
static char *clip_vocabulary;
static JsonParser *parser;
static JsonArray *folders;

static char *unpack(const char *name)
{
    g_autofree char *path = moji_test_path(name);
    g_autoptr(GFile) file = g_file_new_for_path(path);
    g_autoptr(GFileInputStream) packed = g_file_read(file, NULL, NULL);
    g_autoptr(GZlibDecompressor) gunzip = g_zlib_decompressor_new(G_ZLIB_COMPRESSOR_FORMAT_GZIP);
    g_assert(packed);
    g_autoptr(GInputStream) text =
        g_converter_input_stream_new(G_INPUT_STREAM(packed), G_CONVERTER(gunzip));
    g_autoptr(GOutputStream) out = g_memory_output_stream_new_resizable();
    g_assert(g_output_stream_splice(out, text, G_OUTPUT_STREAM_SPLICE_CLOSE_TARGET, NULL, NULL) >
             0);
    GMemoryOutputStream *memory = G_MEMORY_OUTPUT_STREAM(out);
    return g_strndup(g_memory_output_stream_get_data(memory),
                     g_memory_output_stream_get_data_size(memory));
}

static void add_token(JsonObject *vocabulary, const char *token)
{
    json_object_set_int_member(vocabulary, token, json_object_get_size(vocabulary));
}

/* CLIP's ids follow from its merges: 256 bytes, printable ones first; the same at the end of a
 * word; what each merge makes; two special tokens. */
static char *make_vocabulary(const char *merges)
{
    g_autoptr(JsonObject) vocabulary = json_object_new();
    g_autoptr(JsonNode) node = json_node_new(JSON_NODE_OBJECT);
    for (int end = 0; end < 2; end++) {
        for (gunichar c = 33; c < 256 + 68; c++) {
            char name[16] = {0};
            if ((c > 126 && c < 161) || c == 173)
                continue;
            strcpy(name + g_unichar_to_utf8(c, name), end ? "</w>" : "");
            add_token(vocabulary, name);
        }
    }
    g_auto(GStrv) lines = g_strsplit(merges, "\n", -1);
    for (int i = 1; lines[i] && *lines[i]; i++) {
        g_auto(GStrv) pair = g_strsplit(lines[i], " ", -1);
        g_autofree char *joined = g_strjoinv("", pair);
        add_token(vocabulary, joined);
    }
    add_token(vocabulary, "<|startoftext|>");
    add_token(vocabulary, "<|endoftext|>");
    json_node_set_object(node, vocabulary);
    return json_to_string(node, FALSE);
}

static void load(void)
{
    JsonObject *root;
    g_autofree char *path = moji_test_path("host/tokenizer_cases.json");
    clip_merges = unpack("host/clip_merges.txt.gz");
    clip_vocabulary = make_vocabulary(clip_merges);
    parser = moji_json_open(path, &root, NULL);
    g_assert(parser);
    folders = json_object_get_array_member(root, "folders");
}

static void put_file(const char *folder, const char *name, const char *text)
{
    g_autofree char *path = g_build_filename(folder, name, NULL);
    g_assert(g_file_set_contents(path, text, -1, NULL));
}

static char *make_folder(const char *label, const char *vocabulary, const char *merges)
{
    char *folder = g_build_filename(moji_test_scratch(), label, NULL);
    g_assert(g_mkdir_with_parents(folder, 0700) == 0);
    put_file(folder, "vocab.json", vocabulary);
    put_file(folder, "merges.txt", merges);
    return folder;
}

static char *clip_folder(const char *label)
{
    return make_folder(label, clip_vocabulary, clip_merges);
}

static char *fixture_folder(JsonObject *fixture)
{
    char *folder = clip_folder(json_object_get_string_member(fixture, "label"));
    JsonObject *files = json_object_get_object_member(fixture, "files");
    JsonObjectIter iter;
    const char *name;
    JsonNode *node;
    json_object_iter_init(&iter, files);
    while (json_object_iter_next(&iter, &name, &node)) {
        g_autofree char *text = JSON_NODE_HOLDS_VALUE(node) ? g_strdup(json_node_get_string(node))
                                                            : json_to_string(node, FALSE);
        put_file(folder, name, text);
    }
    return folder;
}

static MojiTokenizer *open_or_fail(const char *folder, int length)
{
    g_autoptr(GError) error = NULL;
    MojiTokenizer *t = moji_tokenizer_open(folder, length, &error);
    MOJI_CHECK(t, "%s", error ? error->message : "no reason");
    return t;
}

/* begin, as many of `want` as fit, end, padding */
static void check_ids(MojiTokenizer *t, const char *text, JsonArray *want, JsonArray *special)
{
    int length = moji_tokenizer_length(t), n = json_array_get_length(want);
    int kept = MIN(n, length - 2);
    g_autofree gint32 *ids = g_new(gint32, length);
    g_autofree char *dropped = NULL;
    int used = moji_tokenizer_encode(t, text, ids, &dropped);
    MOJI_CHECK(used == n, "\"%s\": %d tokens, expected %d", text, used, n);
    for (int i = 0; i < length; i++) {
        int id = i == 0          ? json_array_get_int_element(special, 0)
                 : i <= kept     ? json_array_get_int_element(want, i - 1)
                 : i == kept + 1 ? json_array_get_int_element(special, 1)
                                 : json_array_get_int_element(special, 2);
        if (!MOJI_CHECK(ids[i] == id, "\"%s\": id %d is %d, expected %d", text, i, ids[i], id))
            return;
    }
    MOJI_CHECK((dropped != NULL) == (n > length - 2), "\"%s\": dropped is %s", text, dropped);
}

static void test_ids(void)
{
    static const int lengths[] = {77, 512, 2};
    int compared = 0;
    for (guint f = 0; f < json_array_get_length(folders); f++) {
        JsonObject *fixture = json_array_get_object_element(folders, f);
        JsonArray *rows = json_object_get_array_member(fixture, "rows");
        JsonArray *special = json_object_get_array_member(fixture, "special");
        g_autofree char *folder = fixture_folder(fixture);
        for (gsize k = 0; k < G_N_ELEMENTS(lengths); k++) {
            MojiTokenizer *t = open_or_fail(folder, lengths[k]);
            for (guint i = 0; t && i < json_array_get_length(rows); i++, compared++) {
                JsonObject *row = json_array_get_object_element(rows, i);
                check_ids(t, json_object_get_string_member(row, "text"),
                          json_object_get_array_member(row, "ids"), special);
            }
            moji_tokenizer_free(t);
        }
    }
    MOJI_CHECK(compared > 1400, "only %d prompts", compared);
    printf("# %d prompts compared\n", compared);
}

static void test_dropped(void)
{
    static const struct {
        const char *prompt, *dropped;
        int used;
    } rows[] = {
        {"a b c", NULL, 3},
        {"a b c d", "d", 4},
        {"a b c <|endoftext|> D  e", "<|endoftext|> d e", 6},
        {"a b <|endoftext|> C", "c", 4},
        {"a b Gr\xc3\x9cnning\xf0\x9f\x98\x80  Cats", "gr\xc3\xbcnning\xf0\x9f\x98\x80 cats", 8},
    };
    g_autofree char *folder = clip_folder("dropped");
    MojiTokenizer *t = open_or_fail(folder, 5);
    for (gsize i = 0; t && i < G_N_ELEMENTS(rows); i++) {
        gint32 ids[5];
        g_autofree char *dropped = NULL;
        int used = moji_tokenizer_encode(t, rows[i].prompt, ids, &dropped);
        MOJI_CHECK(g_strcmp0(dropped, rows[i].dropped) == 0, "\"%s\" drops \"%s\"", rows[i].prompt,
                   dropped);
        MOJI_CHECK(i == 4 ? used > 3 : used == rows[i].used, "\"%s\" uses %d", rows[i].prompt,
                   used);
        MOJI_CHECK(moji_tokenizer_encode(t, rows[i].prompt, ids, NULL) == used, "without dropped");
    }
    moji_tokenizer_free(t);
}

/* Invalid UTF-8 is read as replacement characters, as the text that the dialog would show. */
static void test_invalid(void)
{
    g_autofree char *folder = clip_folder("invalid");
    MojiTokenizer *t = open_or_fail(folder, 16);
    gint32 a[16], b[16];
    if (!t)
        return;
    moji_tokenizer_encode(t, "cat \xff\xfe dog \xed\x95", a, NULL);
    moji_tokenizer_encode(t, "cat \xef\xbf\xbd\xef\xbf\xbd dog \xef\xbf\xbd\xef\xbf\xbd", b, NULL);
    MOJI_CHECK(memcmp(a, b, sizeof a) == 0, "invalid UTF-8 differs from replacement characters");
    moji_tokenizer_free(t);
}

/* A megabyte of one word must take about as long as a megabyte of words. */
static void test_long(void)
{
    g_autofree char *folder = clip_folder("long");
    MojiTokenizer *t = open_or_fail(folder, 77);
    gint32 ids[77];
    gsize n = 1 << 20;
    g_autofree char *prompt = g_malloc(n + 1);
    for (gsize i = 0; i < n; i++)
        prompt[i] = 'a' + i * i % 26;
    prompt[n] = '\0';
    gint64 start = g_get_monotonic_time();
    if (!t)
        return;
    MOJI_CHECK(moji_tokenizer_encode(t, prompt, ids, NULL) > 1000, "too few tokens");
    double seconds = (g_get_monotonic_time() - start) / 1e6;
    MOJI_CHECK(seconds < 30, "%.1f seconds for one long word", seconds);
    moji_tokenizer_free(t);
}

#define SMALL "{\"a\":0,\"b\":1,\"ab\":2,\"<|startoftext|>\":3,\"<|endoftext|>\":4}"

/* Each row replaces or adds a file of a small sound folder; a NULL text removes it. */
static void test_faults(void)
{
    static const struct {
        const char *name, *text, *fault;
    } rows[] = {
        {"vocab.json", NULL, "has no tokenizer"},
        {"merges.txt", NULL, "has no tokenizer"},
        {"vocab.json", "", "vocab.json"},
        {"vocab.json", "{\"a\":0", "vocab.json"},
        {"vocab.json", "[]", "vocab.json"},
        {"vocab.json", "{}", "0 tokens"},
        {"vocab.json", "{\"a\":0,\"b\":0}", "another's id"},
        {"vocab.json", "{\"a\":0,\"b\":2}", "vocab.json"},
        {"vocab.json", "{\"a\":0,\"b\":-1}", "vocab.json"},
        {"vocab.json", "{\"a\":0,\"b\":4294967297}", "vocab.json"},
        {"vocab.json", "{\"a\":0,\"b\":1e300}", "vocab.json"},
        {"vocab.json", "{\"a\":0,\"b\":\"1\"}", "vocab.json"},
        {"vocab.json", "{\"a\":0,\"b\":null}", "no id"},
        {"vocab.json", "{\"a\":0,\"b\":[1]}", "vocab.json"},
        {"vocab.json", "{\"a\":0,\"b\":1}", "bos_token is \"<|startoftext|>\""},
        {"merges.txt", "#version: 0.2\na b\nnosuch b\n", "line 3"},
        {"merges.txt", "a b\na b a\n", "line 2"},
        {"merges.txt", "ab\n", "line 1"},
        {"merges.txt", "a \n", "line 1"},
        {"merges.txt", "b \xff\xfe\n", "line 1"},
        {"merges.txt", "b a\n", "line 1"},
        {"tokenizer_config.json", "{", "tokenizer_config.json"},
        {"tokenizer_config.json", "{\"bos_token\":5}", "bos_token"},
        {"tokenizer_config.json", "{\"bos_token\":\"nosuchtoken\"}", "nosuchtoken"},
        {"tokenizer_config.json", "{\"eos_token\":\"\"}", "eos_token"},
        {"tokenizer_config.json", "{\"pad_token\":{\"content\":[]}}", "content"},
        {"special_tokens_map.json", "{\"pad_token\":\"nosuchtoken\"}", "pad_token"},
    };
    for (gsize i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree char *label = g_strdup_printf("fault%d", (int)i);
        g_autofree char *folder = make_folder(label, SMALL, "#version: 0.2\na b\n");
        g_autofree char *path = g_build_filename(folder, rows[i].name, NULL);
        g_autoptr(GError) error = NULL;
        if (rows[i].text)
            put_file(folder, rows[i].name, rows[i].text);
        else
            g_unlink(path);
        MojiTokenizer *t = moji_tokenizer_open(folder, 77, &error);
        MOJI_CHECK(!t && g_error_matches(error, MOJI_ERROR, MOJI_ERROR_FILE) &&
                       strstr(error->message, rows[i].fault) && strstr(error->message, folder) &&
                       g_utf8_validate(error->message, -1, NULL),
                   "%s \"%s\": %s", rows[i].name, rows[i].text,
                   error ? error->message : "was opened");
        moji_tokenizer_free(t);
    }
}

/* What newer programs save: the advice names what to look for. */
static void test_single_file(void)
{
    g_autofree char *folder = g_build_filename(moji_test_scratch(), "single", NULL);
    g_autoptr(GError) error = NULL;
    g_assert(g_mkdir_with_parents(folder, 0700) == 0);
    put_file(folder, "tokenizer.json", "{}");
    MojiTokenizer *t = moji_tokenizer_open(folder, 77, &error);
    MOJI_CHECK(!t && strstr(error->message, "tokenizer.json") &&
                   strstr(error->message, "merges.txt"),
               "%s", error ? error->message : "was opened");
    moji_tokenizer_free(t);
}

int main(void)
{
    load();
    moji_test("tokenizer: ids of prompts in many scripts", test_ids);
    moji_test("tokenizer: what does not fit", test_dropped);
    moji_test("tokenizer: invalid UTF-8", test_invalid);
    moji_test("tokenizer: a very long word", test_long);
    moji_test("tokenizer: faulty files", test_faults);
    moji_test("tokenizer: tokenizer.json alone", test_single_file);
    g_object_unref(parser);
    g_free(clip_merges);
    g_free(clip_vocabulary);
    return moji_test_end();
}
