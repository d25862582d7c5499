/* test_fetch.c: models from a server that misbehaves (tests/fetch/server.py). */
#include "fetch.h"
#include "folder.h"
#include "model.h"
#include "test.h"
#include <gio/gio.h>
#include <glib/gstdio.h>
#include <string.h>

static char *base; /* "http://127.0.0.1:PORT" */
static GSubprocess *server;

/* What this machine lacks for it, or NULL once the server runs. */
static const char *start(void)
{
    g_autofree char *python = g_find_program_in_path("python3");
    g_autofree char *script =
        g_build_filename(MOJI_SOURCE_DIR, "tests", "fetch", "server.py", NULL);
    g_autofree char *folder = moji_test_path("tiny-sd");
    if (!python)
        return "python3 is not there";
    server = g_subprocess_new(G_SUBPROCESS_FLAGS_STDIN_PIPE | G_SUBPROCESS_FLAGS_STDOUT_PIPE, NULL,
                              python, script, folder, NULL);
    if (!server)
        return "the server does not start";
    g_autoptr(GDataInputStream) out = g_data_input_stream_new(g_subprocess_get_stdout_pipe(server));
    g_autofree char *port = g_data_input_stream_read_line(out, NULL, NULL, NULL);
    if (!port)
        return "the server does not start";
    base = g_strconcat("http://127.0.0.1:", port, NULL);
    g_setenv("MOJI_FETCH_ENDPOINT", base, TRUE);
    return NULL;
}

static gboolean available(void)
{
    if (base)
        return TRUE;
    moji_test_skip("python3 or libcurl is not there");
    return FALSE;
}

static void remove_models(void)
{
    g_autofree char *models = moji_folder_models();
    g_autoptr(GSubprocess) rm =
        g_subprocess_new(G_SUBPROCESS_FLAGS_NONE, NULL, "rm", "-rf", models, NULL);
    g_subprocess_wait(rm, NULL, NULL);
}

/* NULL with the error set if either half fails. Caller frees. */
static char *fetch(const char *what, const char *sha256, GError **error)
{
    MojiFetch *f = moji_fetch_new(what, sha256, NULL, NULL, error);
    char *path = f ? moji_fetch_run(f, NULL, NULL, NULL, error) : NULL;
    moji_fetch_free(f);
    return path;
}

static gboolean same_file(const char *a, const char *b)
{
    g_autofree char *x = NULL, *y = NULL;
    gsize n, m;
    return g_file_get_contents(a, &x, &n, NULL) && g_file_get_contents(b, &y, &m, NULL) && n == m &&
           !memcmp(x, y, n);
}

static void check_model(const char *path, const char *what)
{
    static const char *const files[] = {
        "model_index.json", "tokenizer/vocab.json", "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"};
    g_autofree char *good = moji_test_path("tiny-sd");
    for (guint i = 0; i < G_N_ELEMENTS(files); i++) {
        g_autofree char *a = g_build_filename(path, files[i], NULL);
        g_autofree char *b = g_build_filename(good, files[i], NULL);
        MOJI_CHECK(same_file(a, b), "%s: %s is not what the server has", what, files[i]);
    }
}

/* Servers from which a model comes all the same. */
static void test_models(void)
{
    static const char *const owners[] = {"good",  "drops", "ranges", "notag",
                                         "moved", "5xx",   "changes"};
    if (!available())
        return;
    for (guint i = 0; i < G_N_ELEMENTS(owners); i++) {
        g_autofree char *what = g_strconcat(owners[i], "/tiny", NULL);
        g_autoptr(GError) error = NULL;
        remove_models();
        g_autofree char *path = fetch(what, NULL, &error);
        if (!MOJI_CHECK(path, "%s: %s", owners[i], error->message))
            continue;
        check_model(path, owners[i]);
        g_autofree char *found = moji_folder_find("tiny");
        MOJI_CHECK(!strcmp(found, path), "%s: not found by its name", owners[i]);
        MojiModel *m = moji_model_open(found, &error);
        MOJI_CHECK(m, "%s: %s", owners[i], error->message);
        moji_model_free(m);
        g_autofree char *again = fetch(what, NULL, &error);
        MOJI_CHECK(!g_strcmp0(again, path), "%s: not there when asked for again", owners[i]);
    }
}

static void check_error(GError *error, const char *words, const char *what)
{
    if (MOJI_CHECK(error, "%s: no error", what))
        MOJI_CHECK(strstr(error->message, words), "%s: \"%s\" lacks \"%s\"", what, error->message,
                   words);
}

static void test_refusals(void)
{
    static const struct {
        const char *what, *words;
    } rows[] = {
        {"hash/tiny", "SHA-256"},
        {"wrong/tiny", "cannot be fetched"},
        {"bigger/tiny", "longer than the server said"},
        {"loops/tiny", "edirect"},
        {"two/tiny", "has no file \"../vae/config.json\""},
        {"unfinished/tiny", "has no file \"lost.safetensors\""},
        {"no such thing", "expected sd14"},
        {"../etc/passwd", "expected sd14"},
        {"ftp://example.org/x", "expected sd14"},
        {"http://127.0.0.1", "URL of a file"},
    };
    if (!available())
        return;
    remove_models();
    for (guint i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autoptr(GError) error = NULL;
        g_autofree char *path = fetch(rows[i].what, NULL, &error);
        g_autofree char *found = moji_folder_find("tiny");
        MOJI_CHECK(!path && !strcmp(found, "tiny"), "%s: is in its place", rows[i].what);
        check_error(error, rows[i].words, rows[i].what);
    }
}

/* The same U-Net in two files. */
static void test_shards(void)
{
    static const char index[] = "unet/diffusion_pytorch_model.safetensors.index.json";
    g_autoptr(GError) error = NULL;
    if (!available())
        return;
    remove_models();
    g_autofree char *path = fetch("shards/tiny", NULL, &error);
    if (!MOJI_CHECK(path, "%s", error->message))
        return;
    g_autofree char *there = g_build_filename(path, index, NULL), *good = moji_test_path("tiny-sd");
    MOJI_CHECK(g_file_test(there, G_FILE_TEST_EXISTS), "the index was left out");
    MojiModel *m = moji_model_open(path, &error), *one = moji_model_open(good, NULL);
    if (MOJI_CHECK(m, "%s", error->message)) {
        GPtrArray *want = moji_weights_list(one->unet_weights);
        MOJI_CHECK(moji_weights_list(m->unet_weights)->len == want->len, "%u tensors",
                   moji_weights_list(m->unet_weights)->len);
        for (guint i = 0; i < want->len; i++) {
            const MojiWeight *a = want->pdata[i], *b = moji_weights_find(m->unet_weights, a->name);
            MOJI_CHECK(b && a->bytes == b->bytes && !memcmp(a->data, b->data, a->bytes), "%s",
                       a->name);
        }
    }
    moji_model_free(m);
    moji_model_free(one);
}

/* A model for those whom the server knows. Others than it never hear the token: they would refuse.
 */
static void test_token(void)
{
    static const struct {
        const char *what, *token, *words;
    } rows[] = {
        {"keeps/tiny", NULL, "keeps/tiny: is gated: ask for access on "},
        {"keeps/tiny", "bad-token", "your token gives no access"},
        {"keeps/tiny", "good-token", NULL},
        {"private/tiny", NULL, "then give your token by --token or HF_TOKEN"},
        {"private/tiny", "good-token", NULL},
        {"elsewhere/tiny", "good-token", NULL},
        {"othername/tiny", "good-token", NULL},
        {"good/tiny", "two\nlines", "expected letters"},
    };
    if (!available())
        return;
    for (guint i = 0; i < 2 * G_N_ELEMENTS(rows); i++) {
        guint row = i / 2;
        gboolean from_environment = i % 2;
        g_autoptr(GError) error = NULL;
        remove_models();
        if (from_environment && rows[row].token)
            g_setenv("HF_TOKEN", rows[row].token, TRUE);
        MojiFetch *f = moji_fetch_new(rows[row].what, NULL,
                                      from_environment ? NULL : rows[row].token, NULL, &error);
        g_autofree char *path = f ? moji_fetch_run(f, NULL, NULL, NULL, &error) : NULL;
        moji_fetch_free(f);
        g_unsetenv("HF_TOKEN");
        if (rows[row].words)
            check_error(error, rows[row].words, rows[row].what);
        else if (MOJI_CHECK(path, "%s: %s", rows[row].what, error->message))
            check_model(path, rows[row].what);
    }
    /* A file of another server is asked for without it. */
    g_autofree char *name = g_strconcat("http://localhost", strrchr(base, ':'), NULL);
    const char *const hosts[] = {base, name};
    for (guint i = 0; i < G_N_ELEMENTS(hosts); i++) {
        g_autoptr(GError) error = NULL;
        g_autofree char *url = g_strconcat(hosts[i], "/plain/x/vae/config.json", NULL);
        remove_models();
        MojiFetch *f = moji_fetch_new(url, NULL, "good-token", NULL, &error);
        g_autofree char *path = moji_fetch_run(f, NULL, NULL, NULL, &error);
        MOJI_CHECK(!path == (i == 0), "%s: %s", url, error ? error->message : "fetched");
        moji_fetch_free(f);
    }
}

static void test_url(void)
{
    static const char name[] = "diffusion_pytorch_model.safetensors";
    if (!available())
        return;
    remove_models();
    g_autofree char *good = moji_test_path("tiny-sd/vae/diffusion_pytorch_model.safetensors");
    g_autofree char *url = g_strdup_printf("%s/plain/g/vae/%s", base, name);
    g_autofree char *lost = g_strdup_printf("%s/plain/g/vae/nothing.safetensors", base);
    g_autofree char *data = NULL;
    gsize bytes;
    g_autoptr(GError) error = NULL;
    g_assert_true(g_file_get_contents(good, &data, &bytes, NULL));
    g_autofree char *sum =
        g_compute_checksum_for_data(G_CHECKSUM_SHA256, (const guchar *)data, bytes);
    g_autofree char *wrong = fetch(url, "0123", &error);
    check_error(error, "SHA-256", "another hash");
    g_clear_error(&error);
    g_autofree char *none = fetch(lost, NULL, &error);
    check_error(error, "404", "a file that is not there");
    g_clear_error(&error);
    g_autofree char *path = fetch(url, sum, &error);
    MOJI_CHECK(!wrong && !none && path && same_file(path, good), "%s",
               error ? error->message : "another file");
}

/* A beginning from an earlier day is continued, if the file is the same. */
static void test_resume(void)
{
    static const char name[] = "diffusion_pytorch_model.safetensors";
    if (!available())
        return;
    g_autofree char *good = moji_test_path("tiny-sd/vae/diffusion_pytorch_model.safetensors");
    g_autofree char *url = g_strdup_printf("%s/plain/g/vae/%s", base, name);
    g_autofree char *models = moji_folder_models();
    g_autofree char *hidden = g_strdup_printf(".%s.part", name);
    g_autofree char *part = g_build_filename(models, hidden, NULL);
    g_autofree char *beginning = g_strdup_printf("%s/%s.partial", part, name);
    g_autofree char *tag = g_strconcat(beginning, ".etag", NULL);
    g_autofree char *data = NULL;
    gsize bytes;
    g_assert_true(g_file_get_contents(good, &data, &bytes, NULL));
    g_autofree char *sum =
        g_compute_checksum_for_data(G_CHECKSUM_SHA256, (const guchar *)data, bytes);
    g_autofree char *etag = g_strdup_printf("\"%.16s\"", sum);
    for (int other = 0; other < 2; other++) {
        g_autoptr(GError) error = NULL;
        g_autofree char *start = g_memdup2(data, 1000);
        remove_models();
        g_mkdir_with_parents(part, 0700);
        /* A byte that the server would not send shows whether the beginning was used. */
        start[0] ^= 1;
        g_file_set_contents(beginning, start, 1000, NULL);
        g_file_set_contents(tag, other ? "\"of another version\"" : etag, -1, NULL);
        g_autofree char *path = fetch(url, NULL, &error);
        if (!MOJI_CHECK(path, "%s", error->message))
            return;
        MOJI_CHECK(same_file(path, good) == other, "%s",
                   other ? "another version was continued" : "fetched anew");
    }
}

static void test_licence(void)
{
    g_autoptr(GError) error = NULL;
    if (!available())
        return;
    remove_models();
    MojiFetch *f = moji_fetch_new("good/tiny", NULL, NULL, NULL, &error);
    if (!MOJI_CHECK(f, "%s", error->message))
        return;
    MOJI_CHECK(!g_strcmp0(f->licence, "test-licence") && f->bytes > 1000000 && f->folder,
               "what the server says");
    MOJI_CHECK(!moji_fetch_accepted(f), "accepted beforehand");
    MOJI_CHECK(moji_fetch_accept(f, &error) && moji_fetch_accepted(f), "not remembered");
    g_free(f->licence);
    f->licence = g_strdup("another");
    MOJI_CHECK(!moji_fetch_accepted(f), "another licence is accepted along with it");
    moji_fetch_free(f);
    moji_fetch_free(NULL);
}

static void test_cancelled(void)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GCancellable) cancel = g_cancellable_new();
    if (!available())
        return;
    g_cancellable_cancel(cancel);
    MojiFetch *f = moji_fetch_new("good/tiny", NULL, NULL, cancel, &error);
    MOJI_CHECK(!f && g_error_matches(error, MOJI_ERROR, MOJI_ERROR_CANCELLED), "%s",
               error ? error->message : "fetched");
    moji_fetch_free(f);
}

int main(void)
{
    g_setenv("XDG_DATA_HOME", moji_test_scratch(), TRUE);
    g_unsetenv("HF_TOKEN");
    const char *lack = start();
    if (lack)
        g_printerr("test_fetch: %s\n", lack);
    moji_test("fetch: models from servers good and bad", test_models);
    moji_test("fetch: what is refused", test_refusals);
    moji_test("fetch: a network in several files", test_shards);
    moji_test("fetch: a model for those with a token", test_token);
    moji_test("fetch: one file by URL", test_url);
    moji_test("fetch: continued after an interruption", test_resume);
    moji_test("fetch: the licence", test_licence);
    moji_test("fetch: cancelled", test_cancelled);
    if (server)
        g_output_stream_close(g_subprocess_get_stdin_pipe(server), NULL, NULL);
    return moji_test_end();
}
