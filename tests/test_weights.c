/* test_weights.c: safetensors files, good ones and hostile ones. */
#include "json.h"
#include "test.h"
#include "weights.h"
#include <glib/gstdio.h>
#include <string.h>
#include <sys/resource.h>

/* A file: header length (the header's own unless given), header, data bytes 0, 1, 2, ... */
static GBytes *make(const char *header, gint64 length, gsize data_bytes)
{
    gsize n = strlen(header);
    guint64 told = GUINT64_TO_LE(length < 0 ? n : (guint64)length);
    GByteArray *file = g_byte_array_new();
    g_byte_array_append(file, (const guint8 *)&told, 8);
    g_byte_array_append(file, (const guint8 *)header, n);
    for (gsize i = 0; i < data_bytes; i++)
        g_byte_array_append(file, &(guint8){i}, 1);
    return g_byte_array_free_to_bytes(file);
}

/* A reader's error: of the right kind, with the path, and with these words. */
static void check_error(GError *error, const char *path, const char *words, const char *what)
{
    if (!MOJI_CHECK(error, "%s: accepted", what))
        return;
    MOJI_CHECK(g_error_matches(error, MOJI_ERROR, MOJI_ERROR_FILE), "%s: other error: %s", what,
               error->message);
    MOJI_CHECK(g_str_has_prefix(error->message, path) && strstr(error->message, words),
               "%s: \"%s\" lacks the path or \"%s\"", what, error->message, words);
}

static void expect_error(GBytes *file, const char *words, const char *what)
{
    g_autoptr(GError) error = NULL;
    MojiWeights *w = moji_weights_parse(file, "some/file", &error);
    MOJI_CHECK(!w == !!error, "%s: result and error disagree", what);
    check_error(error, "some/file: ", words, what);
    moji_weights_free(w);
    g_bytes_unref(file);
}

#define TWO                                                                                        \
    "{\"__metadata__\":{\"format\":\"pt\"},"                                                       \
    "\"b\":{\"dtype\":\"BF16\",\"shape\":[3],\"data_offsets\":[8,14]},"                            \
    "\"a\":{\"dtype\":\"F32\",\"shape\":[2,1],\"data_offsets\":[0,8]}}"

static void test_good(void)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GBytes) file = make(TWO, -1, 14);
    MojiWeights *w = moji_weights_parse(file, "good", &error);
    if (!MOJI_CHECK(w, "%s", error->message))
        return;
    MojiWeight *a = moji_weights_find(w, "a"), *b = moji_weights_find(w, "b");
    GPtrArray *list = moji_weights_list(w);
    MOJI_CHECK(list->len == 2 && list->pdata[0] == a && list->pdata[1] == b, "not in file order");
    MOJI_CHECK(a->type == MOJI_F32 && a->rank == 2 && a->dim[0] == 2 && a->dim[1] == 1 &&
                   a->bytes == 8 && ((const guint8 *)a->data)[7] == 7,
               "a is wrong");
    MOJI_CHECK(b->type == MOJI_BF16 && b->rank == 1 && b->dim[0] == 3 && b->bytes == 6 &&
                   ((const guint8 *)b->data)[0] == 8,
               "b is wrong");
    MOJI_CHECK(!moji_weights_find(w, "c") && !moji_weights_find(w, "__metadata__"), "found more");
    MOJI_CHECK(!g_strcmp0(g_hash_table_lookup(moji_weights_metadata(w), "format"), "pt"),
               "metadata");
    MOJI_CHECK(!strcmp(moji_weights_path(w), "good"), "path");
    moji_weights_free(w);
    moji_weights_free(NULL);
}

/* Types and ranks that we cannot use are passed over, and the reason is kept. */
static void test_passed_over(void)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GBytes) file =
        make("{\"i\":{\"dtype\":\"I64\",\"shape\":[1,1],\"data_offsets\":[0,8]},"
             "\"d\":{\"dtype\":\"F64\",\"shape\":[1],\"data_offsets\":[8,16]},"
             "\"q\":{\"dtype\":\"F4_NEW\",\"shape\":[5],\"data_offsets\":[16,19]},"
             "\"r\":{\"dtype\":\"F16\",\"shape\":[1,1,1,1,1],\"data_offsets\":[19,21]},"
             "\"s\":{\"dtype\":\"F16\",\"shape\":[],\"data_offsets\":[21,23]},"
             "\"e\":{\"dtype\":\"F32\",\"shape\":[0,9],\"data_offsets\":[23,23]}}",
             -1, 23);
    MojiWeights *w = moji_weights_parse(file, "mixed", &error);
    if (!MOJI_CHECK(w, "%s", error->message))
        return;
    MOJI_CHECK(moji_weights_find(w, "i")->type == MOJI_I64, "position_ids are not found");
    MOJI_CHECK(moji_weights_find(w, "s")->rank == 0, "a scalar");
    MOJI_CHECK(moji_weights_find(w, "e")->bytes == 0, "an empty tensor");
    MOJI_CHECK(!moji_weights_find(w, "d") && !moji_weights_find(w, "q") &&
                   !moji_weights_find(w, "r"),
               "found what it cannot use");
    MOJI_CHECK(strstr(moji_weights_absence(w, "d"), "F64"), "reason of d");
    MOJI_CHECK(strstr(moji_weights_absence(w, "q"), "F4_NEW"), "reason of q");
    MOJI_CHECK(strstr(moji_weights_absence(w, "r"), "5 dimensions"), "reason of r");
    MOJI_CHECK(strstr(moji_weights_absence(w, "x"), "not in the file"), "reason of x");
    moji_weights_free(w);
}

static char *rename_in_view(const char *stored, gpointer data)
{
    const char *const *row = data;
    for (; *row; row += 2)
        if (!strcmp(stored, row[0]))
            return g_strdup(row[1]);
    return NULL;
}

static void test_view(void)
{
    static const char *const names[] = {"d", "lost", "a", "new", "b", "b", NULL};
    static const char *const both[] = {"a", "b", "b", "b", NULL};
    g_autoptr(GBytes) file =
        make("{\"d\":{\"dtype\":\"F64\",\"shape\":[1],\"data_offsets\":[0,8]},"
             "\"b\":{\"dtype\":\"BF16\",\"shape\":[3],\"data_offsets\":[16,22]},"
             "\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[8,16]},"
             "\"c\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[22,22]}}",
             -1, 22);
    MojiWeights *w = moji_weights_parse(file, "view", NULL);
    MojiWeights *view = moji_weights_view(w, rename_in_view, (gpointer)names);
    MojiWeights *clash = moji_weights_view(w, rename_in_view, (gpointer)both);
    const void *data = moji_weights_find(w, "a")->data;
    moji_weights_free(w);
    MOJI_CHECK(moji_weights_list(view)->len == 2 && moji_weights_find(view, "new")->data == data &&
                   !strcmp(moji_weights_find(view, "new")->name, "new"),
               "a tensor under another name");
    MOJI_CHECK(moji_weights_find(view, "b") && !moji_weights_find(view, "a") &&
                   !moji_weights_find(view, "c"),
               "a tensor that was left out");
    MOJI_CHECK(strstr(moji_weights_absence(view, "lost"), "F64"), "the reason of a renamed one");
    MOJI_CHECK(!strcmp(moji_weights_path(view), "view"), "path");
    MOJI_CHECK(moji_weights_list(clash)->len == 1 &&
                   moji_weights_find(clash, "b")->type == MOJI_BF16,
               "two under one name: not the one that is stored so");
    moji_weights_free(clash);
    moji_weights_free(view);
}

static void test_made(void)
{
    float values[2] = {1, 2};
    MojiWeights *w = moji_weights_new("made");
    MojiWeight t = {
        .name = "x", .type = MOJI_F32, .rank = 1, .dim = {2}, .data = values, .bytes = 8};
    MojiWeight *x = moji_weights_add(w, &t);
    MOJI_CHECK(x && x == moji_weights_find(w, "x") && x->data == values, "not added");
    MOJI_CHECK(!moji_weights_add(w, &t) && moji_weights_list(w)->len == 1, "added twice");
    moji_weights_free(w);
}

static void count_release(gpointer data)
{
    ++*(int *)data;
}

static void test_prepared(void)
{
    int one = 0, two = 0;
    g_autoptr(GBytes) file = make(TWO, -1, 14);
    MojiWeights *w = moji_weights_parse(file, "prepared", NULL);
    MojiWeight *a = moji_weights_find(w, "a");
    MOJI_CHECK(!moji_weight_prepared(a, "cpu f32"), "something is kept at first");
    moji_weight_set_prepared(a, "cpu f32", &one, count_release);
    moji_weight_set_prepared(a, "cpu bf16", &two, count_release);
    MOJI_CHECK(moji_weight_prepared(a, "cpu f32") == &one &&
                   moji_weight_prepared(a, "cpu bf16") == &two,
               "not what was kept");
    moji_weight_set_prepared(a, "cpu f32", &two, count_release);
    MOJI_CHECK(one == 1 && two == 0, "a replaced value is released once");
    moji_weights_free(w);
    MOJI_CHECK(one == 1 && two == 2, "released %d and %d times", one, two);
}

/* Every prefix of a good file, and the file with one byte more. */
static void test_every_length(void)
{
    g_autoptr(GBytes) whole = make(TWO, -1, 14);
    gsize n = g_bytes_get_size(whole);
    for (gsize i = 0; i < n; i++) {
        g_autofree char *what = g_strdup_printf("first %zu of %zu bytes", i, n);
        /* A copy of its own, for a sanitizer to see a read past the end. */
        expect_error(g_bytes_new(g_bytes_get_data(whole, NULL), i), "", what);
    }
    expect_error(make(TWO, -1, 15), "15 bytes of data, its header tells of 14", "a byte more");
}

static void test_header_length(void)
{
    expect_error(g_bytes_new_static("", 0), "0 bytes long", "an empty file");
    expect_error(make("{}", 0, 0), "not a safetensors", "header of length 0");
    expect_error(make("{}", 1, 0), "not a safetensors", "header of length 1");
    expect_error(make("{}", 3, 0), "cut short", "header past the end");
    expect_error(make("{}", 100000001, 0), "not a safetensors", "header over the limit");
    expect_error(make("{}", G_MAXINT64, 0), "not a safetensors", "the greatest length");
    expect_error(make("[]", -1, 0), "not a safetensors", "a list");
    const char lfs[] = "version https://git-lfs.github.com/spec/v1\noid sha256:00\n";
    expect_error(g_bytes_new_static(lfs, strlen(lfs)), "git lfs pull", "an LFS pointer");
    expect_error(g_bytes_new_static("PK\3\4 and so on", 14), "damaged zip archive", "a zip");
}

static void test_bad_json(void)
{
    static const char *const headers[] = {
        "{ ",          "{}}",     "{\"a\"",  "{\"a\":",       "{\"a\":{\"dtype\":\"F32\"",
        "{\"a\":tru}", "{/* */}", "{# x\n}", "{\"a\xff\":1}", "{\"a\\",
        "{\"a",
    };
    for (guint i = 0; i < G_N_ELEMENTS(headers); i++)
        expect_error(make(headers[i], -1, 0), "header: not valid JSON", headers[i]);

    /* As deep as would end a recursive reader's stack. */
    GString *deep = g_string_new("{\"a\":");
    for (int i = 0; i < 200000; i++)
        g_string_append_c(deep, '[');
    expect_error(make(deep->str, -1, 0), "nested too deeply", "200000 brackets");
    g_string_free(deep, TRUE);
}

/* Headers that would become gigabytes are refused before they are read. */
static void test_many_values(void)
{
    GString *keys = g_string_new("{");
    for (int i = 0; i < 1000000; i++)
        g_string_append_printf(keys,
                               "%s\"%d\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]}",
                               i ? "," : "", i);
    g_string_append_c(keys, '}');
    expect_error(make(keys->str, -1, 4), "more than 1000000 values", "a million keys");
    g_string_assign(keys, "{\"a\":[0");
    for (int i = 0; i < 10000000; i++)
        g_string_append(keys, ",0");
    g_string_append(keys, "]}");
    expect_error(make(keys->str, -1, 4), "more than 1000000 values", "ten million numbers");
    g_string_free(keys, TRUE);
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    MOJI_CHECK(usage.ru_maxrss < 1 << 20, "%ld KiB were used", usage.ru_maxrss);
}

#define ENTRY(rest) "{\"a\":{\"dtype\":\"F32\"," rest "}}"

static void test_bad_entries(void)
{
    static const char *const lacking[] = {
        "{\"a\":1}",
        "{\"a\":null}",
        "{\"a\":[]}",
        "{\"a\":{}}",
        "{\"a\":{\"dtype\":1,\"shape\":[1],\"data_offsets\":[0,4]}}",
        "{\"a\":{\"dtype\":null,\"shape\":[1],\"data_offsets\":[0,4]}}",
        "{\"a\":{\"dtype\":[],\"shape\":[1],\"data_offsets\":[0,4]}}",
        ENTRY("\"shape\":[1]"),
        ENTRY("\"data_offsets\":[0,4]"),
        ENTRY("\"shape\":1,\"data_offsets\":[0,4]"),
        ENTRY("\"shape\":{},\"data_offsets\":[0,4]"),
        ENTRY("\"shape\":[-1],\"data_offsets\":[0,4]"),
        ENTRY("\"shape\":[1.0],\"data_offsets\":[0,4]"),
        ENTRY("\"shape\":[\"1\"],\"data_offsets\":[0,4]"),
        ENTRY("\"shape\":[null],\"data_offsets\":[0,4]"),
        ENTRY("\"shape\":[[1]],\"data_offsets\":[0,4]"),
        ENTRY("\"shape\":[1],\"data_offsets\":[0]"),
        ENTRY("\"shape\":[1],\"data_offsets\":[0,4,4]"),
        ENTRY("\"shape\":[1],\"data_offsets\":[-4,0]"),
        ENTRY("\"shape\":[1],\"data_offsets\":[0.5,4.5]"),
        ENTRY("\"shape\":[1],\"data_offsets\":\"0,4\""),
        ENTRY("\"shape\":[1],\"data_offsets\":[0,18446744073709551615]"),
        ENTRY("\"shape\":[99999999999999999999],\"data_offsets\":[0,4]"),
    };
    for (guint i = 0; i < G_N_ELEMENTS(lacking); i++)
        expect_error(make(lacking[i], -1, 4), "tensor \"a\" lacks", lacking[i]);
    expect_error(make("{\"__metadata__\":[]}", -1, 0), "__metadata__", "metadata a list");
    expect_error(make("{\"__metadata__\":{\"x\":1}}", -1, 0), "\"x\"", "metadata a number");
}

static void test_lying_offsets(void)
{
    static const char *const ranges[] = {
        ENTRY("\"shape\":[1],\"data_offsets\":[4,8]"),  /* not at the start */
        ENTRY("\"shape\":[1],\"data_offsets\":[0,12]"), /* past the end */
        ENTRY("\"shape\":[0],\"data_offsets\":[8,0]"),  /* backwards */
        ENTRY("\"shape\":[2],\"data_offsets\":[0,9223372036854775807]"),
        ENTRY("\"shape\":[2],\"data_offsets\":[9223372036854775807,9223372036854775807]"),
    };
    for (guint i = 0; i < G_N_ELEMENTS(ranges); i++)
        expect_error(make(ranges[i], -1, 8), "expected them to begin at 0", ranges[i]);

    static const char *const sizes[] = {
        ENTRY("\"shape\":[1],\"data_offsets\":[0,8]"),
        ENTRY("\"shape\":[2,2],\"data_offsets\":[0,8]"),
        ENTRY("\"shape\":[],\"data_offsets\":[0,8]"),
        /* Products that wrap round to eight. */
        ENTRY("\"shape\":[4611686018427387904,4,2],\"data_offsets\":[0,8]"),
        ENTRY("\"shape\":[4611686018427387906],\"data_offsets\":[0,8]"),
        ENTRY("\"shape\":[9223372036854775807,0],\"data_offsets\":[0,0]"),
    };
    for (guint i = 0; i < G_N_ELEMENTS(sizes); i++)
        expect_error(make(sizes[i], -1, 8), "do not make", sizes[i]);

    expect_error(make("{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
                      "\"b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[4,12]}}",
                      -1, 12),
                 "tensor \"b\" has bytes 4 to 12", "overlap");
    expect_error(make("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
                      "\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[8,12]}}",
                      -1, 12),
                 "tensor \"b\" has bytes 8 to 12", "gap");
    expect_error(make("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
                      "\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}",
                      -1, 8),
                 "same name", "the same tensor twice");
    expect_error(make("{\"a\":{\"dtype\":\"F32\",\"dtype\":\"I32\",\"shape\":[1],"
                      "\"data_offsets\":[0,4]}}",
                      -1, 4),
                 "same name", "two types");
    expect_error(make("{}", -1, 1), "1 bytes of data", "data of nobody");
}

/* A header of odd length leaves every tensor misaligned; that is allowed. */
static void test_misaligned(void)
{
    g_autoptr(GBytes) file =
        make("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]} }", -1, 4);
    MojiWeights *w = moji_weights_parse(file, "odd", NULL);
    if (!MOJI_CHECK(w, "refused"))
        return;
    guint32 bits;
    memcpy(&bits, moji_weights_find(w, "a")->data, 4);
    MOJI_CHECK(GUINT32_FROM_LE(bits) == 0x03020100, "read %x", bits);
    moji_weights_free(w);
}

/* Files on disk: Korean names, folders, things that are not there. */
static void test_files(void)
{
    g_autofree char *path = g_build_filename(moji_test_scratch(), "이모지 😀.safetensors", NULL);
    g_autoptr(GBytes) file = make(TWO, -1, 14);
    g_autoptr(GError) error = NULL;
    gsize bytes;
    const char *data = g_bytes_get_data(file, &bytes);
    g_assert_true(g_file_set_contents(path, data, bytes, NULL));
    MojiWeights *w = moji_weights_open(path, &error);
    MOJI_CHECK(w && moji_weights_find(w, "a"), "%s", error ? error->message : "no tensor");
    moji_weights_free(w);

    g_assert_true(g_file_set_contents(path, "", 0, NULL));
    MOJI_CHECK(!moji_weights_open(path, &error), "an empty file is accepted");
    check_error(error, path, "0 bytes long", "an empty file");
    g_clear_error(&error);
    g_remove(path);
    MOJI_CHECK(!moji_weights_open(path, &error), "a missing file is accepted");
    check_error(error, path, "cannot be read", "a missing file");
    g_clear_error(&error);
    g_mkdir(path, 0700);
    MOJI_CHECK(!moji_weights_open(path, &error), "a folder is accepted");
    check_error(error, path, "is a folder", "a folder");
}

/* What the writers of safetensors make. */
static void test_fixtures(void)
{
    static const struct {
        const char *path, *tensor;
        MojiType type;
        gint64 dim[4];
    } rows[] = {
        {"tiny-sd/unet/diffusion_pytorch_model.safetensors",
         "conv_in.weight",
         MOJI_F32,
         {8, 4, 3, 3}},
        {"tiny-sd/text_encoder/model.safetensors",
         "text_model.embeddings.position_ids",
         MOJI_I64,
         {1, 77}},
        {"tiny-v/unet/diffusion_pytorch_model.fp16.safetensors",
         "conv_in.weight",
         MOJI_F16,
         {12, 6, 3, 3}},
    };
    for (guint i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree char *path = moji_test_path(rows[i].path);
        g_autoptr(GError) error = NULL;
        MojiWeights *w = moji_weights_open(path, &error);
        if (!MOJI_CHECK(w, "%s", error->message))
            return;
        MojiWeight *t = moji_weights_find(w, rows[i].tensor);
        MOJI_CHECK(t && t->type == rows[i].type && !memcmp(t->dim, rows[i].dim, sizeof t->dim),
                   "%s %s", rows[i].path, rows[i].tensor);
        moji_weights_free(w);
    }
}

static void test_override(void)
{
    g_autoptr(GBytes) file = make(TWO, -1, 14);
    MojiWeights *w = moji_weights_parse(file, "good", NULL);
    MojiWeight *a = moji_weights_find(w, "a");
    guint16 *data = g_new0(guint16, 2);
    moji_weight_set_prepared(a, "key", g_strdup("kept"), g_free);
    moji_weights_override(w, "a", MOJI_BF16, data);
    MojiWeight *other = moji_weights_find(w, "a");
    MOJI_CHECK(other != a, "still the file's");
    MOJI_CHECK(other->data == data && other->type == MOJI_BF16 && other->bytes == 4 &&
                   other->rank == 2 && other->dim[0] == 2 && !other->prepared,
               "not what was put there");
    MOJI_CHECK(moji_weights_pristine(w, "a") == a && !a->prepared, "the file's is not as it was");
    moji_weights_override(w, "a", MOJI_F32, g_new0(float, 2)); /* takes the other's place */
    MOJI_CHECK(moji_weights_find(w, "a")->type == MOJI_F32, "not replaced");
    moji_weights_restore(w);
    MOJI_CHECK(moji_weights_find(w, "a") == a, "not restored");
    moji_weights_override(w, "a", MOJI_F32, g_new0(float, 2)); /* freed with the file */
    moji_weights_free(w);
}

static gboolean renew(gpointer value, const MojiWeight *t, GError **error)
{
    (void)error;
    moji_weight_numbers(t, 0, 1, value);
    return TRUE;
}

/* What can be renewed stays with the tensor through all its values. */
static void test_renew(void)
{
    g_autoptr(GBytes) file = make(TWO, -1, 14);
    MojiWeights *w = moji_weights_parse(file, "good", NULL);
    float *made = g_new0(float, 1);
    for (int turn = 1; turn <= 2; turn++) {
        float *data = g_new0(float, 2);
        MojiWeight *now = moji_weights_find(w, "a");
        if (turn == 1)
            moji_weight_set_renewable(now, "key", made, g_free, renew);
        moji_weight_set_prepared(now, "other", g_strdup("cannot"), g_free);
        data[0] = (float)turn;
        moji_weights_override(w, "a", MOJI_F32, data);
        MOJI_CHECK(moji_weights_renew(w, NULL) && *made == (float)turn, "%g after %d", *made, turn);
        now = moji_weights_find(w, "a");
        MOJI_CHECK(moji_weight_prepared(now, "key") == made, "it was lost at %d", turn);
        MOJI_CHECK(!moji_weight_prepared(now, "other"), "what cannot be renewed stays at %d", turn);
    }
    moji_weights_restore(w);
    MOJI_CHECK(moji_weights_renew(w, NULL) && *made != 2, "still of what is no longer there");
    MOJI_CHECK(moji_weight_prepared(moji_weights_find(w, "a"), "key") == made,
               "it was lost with the others");
    moji_weights_free(w);
}

int main(void)
{
    moji_test("weights: two tensors", test_good);
    moji_test("weights: other types and ranks are passed over", test_passed_over);
    moji_test("weights: a view under other names", test_view);
    moji_test("weights: a set put together", test_made);
    moji_test("weights: what backends keep", test_prepared);
    moji_test("weights: other values in a tensor's place", test_override);
    moji_test("weights: what is renewed in place", test_renew);
    moji_test("weights: a file cut anywhere", test_every_length);
    moji_test("weights: header length", test_header_length);
    moji_test("weights: bad JSON", test_bad_json);
    moji_test("weights: too many values", test_many_values);
    moji_test("weights: bad entries", test_bad_entries);
    moji_test("weights: lying offsets", test_lying_offsets);
    moji_test("weights: misaligned data", test_misaligned);
    moji_test("weights: files", test_files);
    moji_test("weights: as written by safetensors", test_fixtures);
    return moji_test_end();
}
