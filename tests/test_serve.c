/* test_serve.c: the real program as a resident engine, through client.h and through raw sockets.
 *
 * The engine lives in a runtime folder of the test's own and draws with a tiny model; drawings that
 * are to be interrupted have hundreds of steps. */
#include "client.h"
#include "folder.h"
#include "test.h"
#include "wire.h"
#include <gio/gunixsocketaddress.h>
#include <glib/gstdio.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char *program; /* build/moji, beside the folder of this test */
static char *runtime; /* XDG_RUNTIME_DIR */

/* ---- helpers ---- */

static char *socket_path(const char *folder)
{
    return g_build_filename(folder, "moji", "engine.sock", NULL);
}

static GSocketConnection *raw_connection(const char *folder)
{
    g_autofree char *path = socket_path(folder);
    g_autoptr(GSocketAddress) address = g_unix_socket_address_new(path);
    g_autoptr(GSocketClient) maker = g_socket_client_new();
    g_socket_client_set_timeout(maker, 20);
    return g_socket_client_connect(maker, G_SOCKET_CONNECTABLE(address), NULL, NULL);
}

/* The process that listens on the socket; 0 if none does. */
static pid_t engine_pid(const char *folder)
{
    g_autoptr(GSocketConnection) c = raw_connection(folder);
    g_autoptr(GCredentials) who =
        c ? g_socket_get_credentials(g_socket_connection_get_socket(c), NULL) : NULL;
    return who ? g_credentials_get_unix_pid(who, NULL) : 0;
}

static GDBusConnection *raw_bus(void)
{
    g_autofree char *path = socket_path(runtime);
    g_autofree char *address = g_strconcat("unix:path=", path, NULL);
    return g_dbus_connection_new_for_address_sync(
        address, G_DBUS_CONNECTION_FLAGS_AUTHENTICATION_CLIENT, NULL, NULL, NULL);
}

static GVariant *raw_call(GDBusConnection *bus, const char *method, GVariant *parameters,
                          GError **error)
{
    return g_dbus_connection_call_sync(bus, NULL, MOJI_WIRE_PATH, MOJI_WIRE_INTERFACE, method,
                                       parameters, NULL, G_DBUS_CALL_FLAGS_NONE, 60000, NULL,
                                       error);
}

static gboolean gone(pid_t pid)
{
    for (int i = 0; i < 200 && !kill(pid, 0); i++)
        g_usleep(50 * 1000);
    return kill(pid, 0) != 0;
}

static MojiRequest *request_new(const char *prompt, int steps, gint64 seed)
{
    MojiRequest *r = moji_request_new();
    r->prompt = g_strdup(prompt);
    r->size = 64;
    r->steps = steps;
    r->seed = seed;
    r->sampler = g_strdup("ddim");
    return r;
}

/* Takes minutes unless it is interrupted. */
static MojiRequest *long_request(void)
{
    MojiRequest *r = request_new("cat", 900, 1);
    r->size = 256;
    return r;
}

/* One asynchronous drawing and what came of it. */
typedef struct {
    MojiClient *client;
    GCancellable *cancel;
    int steps, previews; /* progress seen */
    int at_step;         /* calls `then` at this step */
    void (*then)(gpointer data);
    gpointer then_data;
    GPtrArray *images;
    GError *error;
    gboolean done;
    int place; /* 1 for the first to be done, ... */
} Draw;

static int places;

static void on_progress(const MojiProgress *p, gpointer data)
{
    Draw *d = data;
    if (p->phase != MOJI_PHASE_STEP)
        return;
    d->steps++;
    d->previews += p->preview != NULL;
    if (d->then && p->step >= d->at_step) {
        void (*then)(gpointer) = d->then;
        d->then = NULL;
        then(d->then_data);
    }
}

static void on_done(GObject *source, GAsyncResult *result, gpointer data)
{
    (void)source;
    Draw *d = data;
    d->images = moji_client_draw_finish(d->client, result, &d->error);
    d->done = TRUE;
    d->place = ++places;
}

static void draw_begin(Draw *d, MojiRequest *request)
{
    moji_client_draw_async(d->client, request, on_progress, d, d->cancel, on_done, d);
    moji_request_free(request);
}

static void draw_wait(Draw *d)
{
    while (!d->done)
        g_main_context_iteration(NULL, TRUE);
}

static void draw_clear(Draw *d)
{
    g_clear_pointer(&d->images, g_ptr_array_unref);
    g_clear_error(&d->error);
    moji_client_free(d->client);
}

static gboolean draw_ok(const Draw *d)
{
    return MOJI_CHECK(d->images != NULL, "%s", d->error ? d->error->message : "no error");
}

/* A whole short drawing on a client of its own. */
static gboolean draws(const char *command)
{
    Draw d = {.client = moji_client_new(command)};
    draw_begin(&d, request_new("cat", 2, 1));
    draw_wait(&d);
    gboolean ok = draw_ok(&d);
    draw_clear(&d);
    return ok;
}

/* Runs the program; returns its exit code, -1 if a signal ended it. */
static int run(char **out, char **err, const char *first, ...)
{
    g_autoptr(GPtrArray) argv = g_ptr_array_new();
    va_list args;
    int status = 0;
    g_ptr_array_add(argv, program);
    va_start(args, first);
    for (const char *word = first; word; word = va_arg(args, const char *))
        g_ptr_array_add(argv, (char *)word);
    va_end(args);
    g_ptr_array_add(argv, NULL);
    if (!g_spawn_sync(NULL, (char **)argv->pdata, NULL, G_SPAWN_DEFAULT, NULL, NULL, out, err,
                      &status, NULL))
        return -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* ---- drawing ---- */

static GBytes *program_png(void)
{
    g_autofree char *path = g_build_filename(moji_test_scratch(), "cli.png", NULL);
    g_autofree char *err = NULL, *out = NULL, *bytes = NULL;
    gsize size = 0;
    int code = run(&out, &err, "draw", "cat", "--size", "64", "--steps", "4", "--seed", "9",
                   "--sampler", "ddim", "-o", path, NULL);
    MOJI_CHECK(code == 0, "moji draw: exit code %d, %s", code, err ? err : "");
    g_file_get_contents(path, &bytes, &size, NULL);
    return g_bytes_new(bytes, size);
}

static void expect_same_bytes(const char *command)
{
    Draw d = {.client = moji_client_new(command)};
    GError *error = NULL;
    draw_begin(&d, request_new("cat", 4, 9));
    draw_wait(&d);
    if (draw_ok(&d)) {
        g_autoptr(GBytes) ours = moji_image_encode_png(d.images->pdata[0], &error);
        g_autoptr(GBytes) theirs = program_png();
        MOJI_CHECK(ours && g_bytes_equal(ours, theirs),
                   "the same request gives other bytes by `moji draw`");
        MOJI_CHECK(d.steps == 4, "%d of 4 steps were told", d.steps);
        MOJI_CHECK(d.previews == 4, "%d of 4 previews came", d.previews);
    }
    g_clear_error(&error);
    draw_clear(&d);
}

static void test_same_bytes(void)
{
    expect_same_bytes(NULL);
}

static void test_private(void)
{
    g_autofree char *path = socket_path(runtime);
    g_autofree char *folder = g_path_get_dirname(path);
    struct stat s, f;
    if (!MOJI_CHECK(!stat(path, &s) && !stat(folder, &f), "%s is not there", path))
        return;
    MOJI_CHECK((s.st_mode & 0777) == 0600, "the socket's mode is %o", s.st_mode & 0777);
    MOJI_CHECK((f.st_mode & 0777) == 0700, "the folder's mode is %o", f.st_mode & 0777);
}

static void test_count(void)
{
    Draw d = {.client = moji_client_new(NULL)};
    MojiRequest *r = request_new("cat", 2, 100);
    r->count = 3;
    draw_begin(&d, r);
    draw_wait(&d);
    if (draw_ok(&d) && MOJI_CHECK(d.images->len == 3, "%u pictures came", d.images->len))
        for (int i = 0; i < 3; i++) {
            const MojiImage *image = d.images->pdata[i];
            g_autofree char *seed = g_strdup_printf("\"seed\":%d,", 100 + i);
            MOJI_CHECK(strstr(image->recipe, seed) != NULL, "%s not in %s", seed, image->recipe);
        }
    draw_clear(&d);
}

/* The first runs until it is cancelled, so what the others get before that is seen for sure; the
 * order of arrival on two connections would prove nothing. */
static void test_queue(void)
{
    g_autoptr(GCancellable) cancel = g_cancellable_new();
    Draw a = {.client = moji_client_new(NULL), .cancel = cancel};
    Draw b = {.client = moji_client_new(NULL)}, c = {.client = b.client};
    draw_begin(&a, long_request());
    while (!a.steps && !a.done) /* so that it is the first in the queue */
        g_main_context_iteration(NULL, TRUE);
    draw_begin(&b, request_new("dog", 1, 1));
    draw_begin(&c, request_new("star", 2, 1));
    for (int until = a.steps + 8; a.steps < until && !a.done;)
        g_main_context_iteration(NULL, TRUE);
    MOJI_CHECK(!a.done && !b.steps && !c.steps && !b.done && !c.done,
               "a drawing overtook the one before it: %d and %d steps", b.steps, c.steps);
    g_cancellable_cancel(cancel);
    draw_wait(&a);
    draw_wait(&b);
    draw_wait(&c);
    MOJI_CHECK(g_error_matches(a.error, MOJI_ERROR, MOJI_ERROR_CANCELLED), "%s",
               a.error ? a.error->message : "it was drawn");
    if (draw_ok(&b) && draw_ok(&c)) {
        MOJI_CHECK(b.steps == 1 && c.steps == 2, "%d and %d steps; a drawing hears of another's",
                   b.steps, c.steps);
        MOJI_CHECK(b.place < c.place, "one client's drawings are done out of order");
    }
    c.client = NULL;
    draw_clear(&a);
    draw_clear(&b);
    draw_clear(&c);
}

static void test_wrong_request(void)
{
    Draw d = {.client = moji_client_new(NULL)};
    MojiRequest *r = request_new("cat", 2, 1);
    g_free(r->sampler);
    r->sampler = g_strdup("oil paint");
    draw_begin(&d, r);
    draw_wait(&d);
    MOJI_CHECK(g_error_matches(d.error, MOJI_ERROR, MOJI_ERROR_USAGE) &&
                   strstr(d.error->message, "oil paint") && !strstr(d.error->message, "GDBus"),
               "%s", d.error ? d.error->message : "it was drawn");
    draw_clear(&d);
}

/* ---- ends in mid-drawing ---- */

static void cancel_now(gpointer cancellable)
{
    g_cancellable_cancel(cancellable);
}

static void kill_now(gpointer unused)
{
    (void)unused;
    kill(engine_pid(runtime), SIGKILL);
}

/* The engine is free again at once if a short drawing ends while hundreds of steps could not. */
static void expect_free_at_once(Draw *after)
{
    Draw next = {.client = moji_client_new(NULL)};
    gint64 start = g_get_monotonic_time();
    draw_begin(&next, request_new("cat", 2, 1));
    draw_wait(&next);
    double wait = (g_get_monotonic_time() - start) / 1e6;
    draw_ok(&next);
    MOJI_CHECK(after->steps < 500, "%d steps went by before the drawing ended", after->steps);
    MOJI_CHECK(wait < 20, "the engine was busy for %.1f s after the end", wait);
    draw_clear(&next);
}

static void test_cancel(void)
{
    g_autoptr(GCancellable) cancel = g_cancellable_new();
    Draw d = {.client = moji_client_new(NULL),
              .cancel = cancel,
              .at_step = 2,
              .then = cancel_now,
              .then_data = cancel};
    draw_begin(&d, long_request());
    draw_wait(&d);
    MOJI_CHECK(g_error_matches(d.error, MOJI_ERROR, MOJI_ERROR_CANCELLED), "%s",
               d.error ? d.error->message : "it was drawn");
    expect_free_at_once(&d);
    draw_clear(&d);
}

static void test_cancel_before(void)
{
    g_autoptr(GCancellable) cancel = g_cancellable_new();
    g_cancellable_cancel(cancel);
    Draw d = {.client = moji_client_new(NULL), .cancel = cancel};
    draw_begin(&d, long_request());
    draw_wait(&d);
    MOJI_CHECK(g_error_matches(d.error, MOJI_ERROR, MOJI_ERROR_CANCELLED), "%s",
               d.error ? d.error->message : "it was drawn");
    draw_clear(&d);
}

/* A peer that goes away without a word. */
static void test_disconnect(void)
{
    GDBusConnection *bus = raw_bus();
    if (!MOJI_CHECK(bus != NULL, "no connection"))
        return;
    g_autoptr(MojiRequest) r = long_request();
    g_dbus_connection_call(bus, NULL, MOJI_WIRE_PATH, MOJI_WIRE_INTERFACE, "Draw",
                           g_variant_new("(u@a{sv})", 1, moji_request_to_variant(r)), NULL,
                           G_DBUS_CALL_FLAGS_NONE, -1, NULL, NULL, NULL);
    g_dbus_connection_close_sync(bus, NULL, NULL);
    g_object_unref(bus);
    Draw none = {0};
    expect_free_at_once(&none);
}

static void test_killed(void)
{
    Draw d = {.client = moji_client_new(NULL), .at_step = 2, .then = kill_now};
    draw_begin(&d, long_request());
    draw_wait(&d);
    MOJI_CHECK(g_error_matches(d.error, MOJI_ERROR, MOJI_ERROR_BACKEND) &&
                   strstr(d.error->message, "stopped unexpectedly"),
               "%s", d.error ? d.error->message : "it was drawn");
    g_clear_error(&d.error);
    d.done = FALSE;
    /* The same client; the dead engine's socket and lock are still on the disk. */
    draw_begin(&d, request_new("cat", 2, 1));
    draw_wait(&d);
    draw_ok(&d);
    draw_clear(&d);
}

/* Killed at rest: the next drawing has not begun, so the user need not know. */
static void test_killed_at_rest(void)
{
    Draw d = {.client = moji_client_new(NULL)};
    draw_begin(&d, request_new("cat", 2, 1));
    draw_wait(&d);
    draw_ok(&d);
    g_clear_pointer(&d.images, g_ptr_array_unref);
    pid_t pid = engine_pid(runtime);
    kill(pid, SIGKILL);
    d.done = FALSE;
    draw_begin(&d, request_new("cat", 2, 1));
    draw_wait(&d);
    draw_ok(&d);
    MOJI_CHECK(engine_pid(runtime) != pid, "the killed engine draws");
    draw_clear(&d);
}

/* ---- strangers ---- */

static void send_garbage(const char *bytes, gsize count)
{
    g_autoptr(GSocketConnection) c = raw_connection(runtime);
    if (!MOJI_CHECK(c != NULL, "no connection"))
        return;
    GOutputStream *out = g_io_stream_get_output_stream(G_IO_STREAM(c));
    GInputStream *in = g_io_stream_get_input_stream(G_IO_STREAM(c));
    char answer[4096];
    gsize used;
    g_output_stream_write_all(out, bytes, count, NULL, NULL, NULL);
    g_socket_shutdown(g_socket_connection_get_socket(c), FALSE, TRUE, NULL);
    g_input_stream_read_all(in, answer, sizeof answer, &used, NULL, NULL);
}

static void test_garbage(void)
{
    pid_t pid = engine_pid(runtime);
    guint8 noise[20000];
    GRand *rand = g_rand_new_with_seed(5);
    for (gsize i = 0; i < sizeof noise; i++)
        noise[i] = g_rand_int(rand);
    g_rand_free(rand);
    send_garbage((char *)noise, sizeof noise);
    send_garbage("GET / HTTP/1.1\r\n\r\n", 18);
    send_garbage("\0AUTH EXTERNAL 00\r\nBEGIN\r\n", 26);
    send_garbage("\0AUTH ANONYMOUS\r\nBEGIN\r\n", 24);
    send_garbage("\0", 1);
    /* After a good handshake: noise, a header without a body, a body of 2 GiB. */
    g_autofree char *uid = g_strdup_printf("%u", (guint)getuid());
    GString *hello = g_string_new_len("\0AUTH EXTERNAL ", 15);
    for (char *p = uid; *p; p++)
        g_string_append_printf(hello, "%02x", *p);
    g_string_append(hello, "\r\nBEGIN\r\n");
    gsize head = hello->len;
    g_string_append_len(hello, (char *)noise, 500);
    send_garbage(hello->str, hello->len);
    g_string_truncate(hello, head);
    g_string_append_len(hello, "l\1\0\1\xff\xff\xff\x7f\1\0\0\0\0\0\0\0", 16);
    send_garbage(hello->str, hello->len);
    g_string_free(hello, TRUE);
    MOJI_CHECK(engine_pid(runtime) == pid && pid, "the engine did not outlive it");
    draws(NULL);
}

static void expect_error(GDBusConnection *bus, const char *method, const char *parameters,
                         const char *name)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GVariant) reply = raw_call(bus, method, g_variant_new_parsed(parameters), &error);
    g_autofree char *found = error ? g_dbus_error_get_remote_error(error) : NULL;
    MOJI_CHECK(!reply && !g_strcmp0(found, name), "%s%s: %s, expected %s", method, parameters,
               error ? error->message : "was answered", name);
}

static void test_bad_calls(void)
{
    pid_t pid = engine_pid(runtime);
    GDBusConnection *bus = raw_bus();
    if (!MOJI_CHECK(bus != NULL, "no connection"))
        return;
    const char *usage = "org.moji.Error.Usage", *types = "org.freedesktop.DBus.Error.InvalidArgs";
    expect_error(bus, "Draw", "(uint32 1, {'prompt': <3>})", usage);
    expect_error(bus, "Draw", "(uint32 1, {'prompt': <'cat'>, 'x': <1>})", usage);
    expect_error(bus, "Draw", "(uint32 1, {'prompt': <''>})", usage);
    expect_error(bus, "Draw", "(uint32 1, {'prompt': <'cat'>, 'size': <2147483647>})", usage);
    expect_error(bus, "Draw", "(uint32 1, {'prompt': <'cat'>, 'guidance': <nan>})", usage);
    expect_error(bus, "Draw", "('one', {'prompt': <'cat'>})", types);
    expect_error(bus, "Draw", "(uint32 1, {'prompt': <'cat'>, 'model': <'/nowhere'>})",
                 "org.moji.Error.File");
    expect_error(bus, "Info", "('/nowhere',)", "org.moji.Error.File");
    expect_error(bus, "Cutout", "((8, 8, @ay [], @ay [], ''),)", usage);
    expect_error(bus, "Cutout", "((-1, 2147483647, @ay [], @ay [], ''),)", usage);
    expect_error(bus, "Cutout", "((0, 0, @ay [], @ay [], ''),)", usage);
    expect_error(bus, "Explode", "()", "org.freedesktop.DBus.Error.UnknownMethod");
    g_autoptr(GVariant) reply = raw_call(bus, "Cancel", g_variant_new("(u)", 77), NULL);
    MOJI_CHECK(reply != NULL, "Cancel of nothing is an error");
    g_object_unref(bus);
    MOJI_CHECK(engine_pid(runtime) == pid && pid, "the engine did not outlive it");
}

/* ---- the other calls ---- */

static void test_info(void)
{
    MojiClient *client = moji_client_new(NULL);
    g_autoptr(GError) error = NULL;
    g_autoptr(GVariant) facts = moji_client_info(client, NULL, &error);
    moji_client_free(client);
    if (!MOJI_CHECK(facts != NULL, "%s", error ? error->message : ""))
        return;
    static const struct {
        const char *name, *type;
    } members[] = {{"name", "s"},         {"styles", "as"},   {"default-style", "s"},
                   {"engine", "s"},       {"samplers", "as"}, {"default-background", "s"},
                   {"steps", "i"},        {"size", "i"},      {"guidance", "d"},
                   {"backgrounds", "as"}, {"strength", "d"}};
    for (gsize i = 0; i < G_N_ELEMENTS(members); i++) {
        g_autoptr(GVariant) v =
            g_variant_lookup_value(facts, members[i].name, G_VARIANT_TYPE(members[i].type));
        MOJI_CHECK(v != NULL, "no \"%s\" of type %s", members[i].name, members[i].type);
    }
}

/* The model's name, as a client that starts under this MOJI_MODEL hears it; caller frees. */
static char *model_under(const char *folder)
{
    g_setenv("MOJI_MODEL", folder, TRUE);
    MojiClient *client = moji_client_new(NULL);
    g_autoptr(GError) error = NULL;
    g_autoptr(GVariant) facts = moji_client_info(client, NULL, &error);
    moji_client_free(client);
    char *name = NULL;
    if (MOJI_CHECK(facts != NULL, "%s", error ? error->message : ""))
        g_variant_lookup(facts, "name", "s", &name);
    return name;
}

static void test_own_model(void)
{
    g_autofree char *before = g_strdup(g_getenv("MOJI_MODEL"));
    g_autofree char *other = moji_test_path("tiny-v");
    g_autofree char *first = model_under(before), *second = model_under(other);
    g_setenv("MOJI_MODEL", before, TRUE);
    MOJI_CHECK(!g_strcmp0(second, "tiny-v"), "\"%s\" where tiny-v was asked for", second);
    MOJI_CHECK(g_strcmp0(first, second) != 0, "both clients hear of \"%s\"", second);
}

/* A name of the user's models, as moji fetch leaves them. */
static void test_model_by_name(void)
{
    g_autofree char *models = moji_folder_models(), *tiny = moji_test_path("tiny-v");
    g_autofree char *link = g_build_filename(models, "fetched", NULL);
    if (g_mkdir_with_parents(models, 0700) || symlink(tiny, link))
        g_error("%s cannot be made", link);
    MojiClient *client = moji_client_new(NULL);
    const char *const names[] = {"fetched", "forgotten"};
    for (gsize i = 0; i < G_N_ELEMENTS(names); i++) {
        g_autoptr(GError) error = NULL;
        g_autoptr(GVariant) facts = moji_client_info(client, names[i], &error);
        MOJI_CHECK(facts ? i == 0 : i == 1 && g_str_has_prefix(error->message, "forgotten: "),
                   "%s: %s", names[i], error ? error->message : "found");
    }
    moji_client_free(client);
}

/* A disc on a flat ground, and the same with a loud ground. */
static MojiImage *disc(gboolean flat)
{
    MojiImage *image = moji_image_new(96, 96);
    for (int i = 0; i < 96 * 96; i++) {
        int x = i % 96 - 48, y = i / 96 - 48, in = x * x + y * y < 30 * 30;
        guint8 *p = image->rgba + 4 * i;
        p[0] = in ? 220 : flat ? 0 : (i * 37) % 251;
        p[1] = in ? 40 : flat ? 177 : (i * 91) % 241;
        p[2] = in ? 40 : 64;
        p[3] = 255;
    }
    return image;
}

static void test_cutout(void)
{
    MojiClient *client = moji_client_new(NULL);
    g_autoptr(GError) error = NULL, not_flat = NULL;
    g_autoptr(MojiImage) good = disc(TRUE), bad = disc(FALSE);
    good->recipe = g_strdup("{}");
    gboolean ok = moji_client_cutout(client, good, &error);
    MOJI_CHECK(ok, "%s", error ? error->message : "");
    MOJI_CHECK(good->mask && good->mask[0] == 0 && good->mask[48 * 96 + 48] == 255,
               "the disc was not cut out");
    MOJI_CHECK(!g_strcmp0(good->recipe, "{}"), "the recipe is lost");
    ok = moji_client_cutout(client, bad, &not_flat);
    MOJI_CHECK(!ok && g_error_matches(not_flat, MOJI_ERROR, MOJI_ERROR_NOT_FLAT), "%s",
               not_flat ? not_flat->message : "a loud background was cut out");
    MOJI_CHECK(!bad->mask, "a mask in spite of the error");
    moji_client_free(client);
}

/* ---- coming and going ---- */

static void test_second_instance(void)
{
    g_autofree char *out = NULL, *err = NULL;
    pid_t pid = engine_pid(runtime);
    int code = run(&out, &err, "serve", NULL);
    MOJI_CHECK(code == 0, "exit code %d", code);
    MOJI_CHECK(!g_strcmp0(out, MOJI_WIRE_RUNNING), "it said \"%s\"", out);
    MOJI_CHECK(engine_pid(runtime) == pid, "another engine listens now");
}

static void test_idle(void)
{
    g_autofree char *folder = g_build_filename(moji_test_scratch(), "idle", NULL);
    g_autofree char *path = socket_path(folder);
    g_mkdir(folder, 0700);
    g_setenv("XDG_RUNTIME_DIR", folder, TRUE);
    g_autofree char *out = NULL, *err = NULL;
    int code = run(&out, &err, "serve", "--idle", "1", NULL); /* returns when it has left */
    g_setenv("XDG_RUNTIME_DIR", runtime, TRUE);
    MOJI_CHECK(code == 0 && !g_strcmp0(out, MOJI_WIRE_READY), "exit code %d, \"%s\", %s", code, out,
               err);
    MOJI_CHECK(!g_file_test(path, G_FILE_TEST_EXISTS), "it left its socket behind");
}

static void test_open_folder(void)
{
    g_autofree char *folder = g_build_filename(moji_test_scratch(), "open", NULL);
    g_autofree char *inner = g_build_filename(folder, "moji", NULL);
    g_mkdir_with_parents(inner, 0700);
    g_chmod(inner, 0755);
    g_setenv("XDG_RUNTIME_DIR", folder, TRUE);
    g_autofree char *out = NULL, *err = NULL;
    int code = run(&out, &err, "serve", "--idle", "1", NULL);
    g_setenv("XDG_RUNTIME_DIR", runtime, TRUE);
    MOJI_CHECK(code == 3 && strstr(err, "0755"), "exit code %d: %s", code, err);
}

/* Starts an engine that listens in a new runtime folder, which is set for the clients that follow.
 */
static GSubprocess *engine_in(const char *folder, const char *identity)
{
    g_autoptr(GSubprocessLauncher) launcher =
        g_subprocess_launcher_new(G_SUBPROCESS_FLAGS_STDOUT_PIPE);
    g_mkdir(folder, 0700);
    g_setenv("XDG_RUNTIME_DIR", folder, TRUE);
    g_subprocess_launcher_setenv(launcher, "XDG_RUNTIME_DIR", folder, TRUE);
    if (identity)
        g_subprocess_launcher_setenv(launcher, MOJI_WIRE_IDENTITY_VARIABLE, identity, TRUE);
    GSubprocess *engine = g_subprocess_launcher_spawn(launcher, NULL, program, "serve", NULL);
    char line[sizeof MOJI_WIRE_READY] = "";
    g_input_stream_read(g_subprocess_get_stdout_pipe(engine), line, sizeof line - 1, NULL, NULL);
    MOJI_CHECK(!strcmp(line, MOJI_WIRE_READY), "the engine said \"%s\"", line);
    return engine;
}

/* Draws; another engine than `old`, which leaves in peace, must do it. */
static void expect_replaced(GSubprocess *old, const char *folder)
{
    pid_t before = (pid_t)g_ascii_strtoll(g_subprocess_get_identifier(old), NULL, 10);
    gboolean drawn = draws(NULL);
    pid_t after = engine_pid(folder);
    g_setenv("XDG_RUNTIME_DIR", runtime, TRUE);
    MOJI_CHECK(drawn && after && after != before, "engine %d drew, %d had been there", after,
               before);
    g_subprocess_wait(old, NULL, NULL);
    MOJI_CHECK(g_subprocess_get_successful(old), "the old engine did not leave in peace");
    if (after)
        kill(after, SIGTERM);
    MOJI_CHECK(after && gone(after), "SIGTERM does not end the engine");
}

/* An engine of another build leaves when a client of this one comes. */
static void test_replaced(void)
{
    g_autofree char *folder = g_build_filename(moji_test_scratch(), "replaced", NULL);
    g_autoptr(GSubprocess) old = engine_in(folder, "another build");
    expect_replaced(old, folder);
}

static void test_socket_gone(void)
{
    g_autofree char *folder = g_build_filename(moji_test_scratch(), "gone", NULL);
    g_autoptr(GSubprocess) old = engine_in(folder, NULL);
    g_autofree char *path = socket_path(folder);
    MOJI_CHECK(!g_unlink(path), "%s cannot be removed", path);
    expect_replaced(old, folder);
}

static void test_fails_to_start(void)
{
    g_autofree char *script = g_build_filename(moji_test_scratch(), "broken", NULL);
    g_autofree char *folder = g_build_filename(moji_test_scratch(), "none", NULL);
    const char *text = "#!/bin/sh\necho a library is missing >&2\nexit 1\n";
    g_file_set_contents(script, text, -1, NULL);
    g_chmod(script, 0700);
    g_mkdir(folder, 0700);
    g_setenv("XDG_RUNTIME_DIR", folder, TRUE);
    g_setenv("MOJI_ENGINE", script, TRUE);
    Draw d = {.client = moji_client_new(NULL)};
    draw_begin(&d, request_new("cat", 2, 1));
    draw_wait(&d);
    MOJI_CHECK(g_error_matches(d.error, MOJI_ERROR, MOJI_ERROR_BACKEND) &&
                   strstr(d.error->message, "a library is missing"),
               "%s", d.error ? d.error->message : "it was drawn");
    g_clear_error(&d.error);
    d.done = FALSE;
    g_setenv("MOJI_ENGINE", "/nowhere/moji", TRUE);
    draw_begin(&d, request_new("cat", 2, 1));
    draw_wait(&d);
    MOJI_CHECK(g_error_matches(d.error, MOJI_ERROR, MOJI_ERROR_FILE) &&
                   strstr(d.error->message, "/nowhere/moji"),
               "%s", d.error ? d.error->message : "it was drawn");
    draw_clear(&d);
    g_setenv("MOJI_ENGINE", program, TRUE);
    g_setenv("XDG_RUNTIME_DIR", runtime, TRUE);
}

/* ---- standard input and output ---- */

static void test_stdio(void)
{
    g_autofree char *quoted = g_shell_quote(program);
    g_autofree char *command = g_strconcat(quoted, " serve --stdio", NULL);
    expect_same_bytes(command);
}

static void test_stdio_end(void)
{
    g_autoptr(GSubprocess) p =
        g_subprocess_new(G_SUBPROCESS_FLAGS_STDIN_PIPE | G_SUBPROCESS_FLAGS_STDOUT_PIPE, NULL,
                         program, "serve", "--stdio", NULL);
    g_autoptr(GIOStream) stream =
        g_simple_io_stream_new(g_subprocess_get_stdout_pipe(p), g_subprocess_get_stdin_pipe(p));
    g_autoptr(GDBusConnection) bus = g_dbus_connection_new_sync(
        stream, NULL, G_DBUS_CONNECTION_FLAGS_AUTHENTICATION_CLIENT, NULL, NULL, NULL);
    if (!MOJI_CHECK(bus != NULL, "no handshake"))
        return;
    g_autoptr(MojiRequest) r = long_request();
    g_dbus_connection_call(bus, NULL, MOJI_WIRE_PATH, MOJI_WIRE_INTERFACE, "Draw",
                           g_variant_new("(u@a{sv})", 1, moji_request_to_variant(r)), NULL,
                           G_DBUS_CALL_FLAGS_NONE, -1, NULL, NULL, NULL);
    g_dbus_connection_flush_sync(bus, NULL, NULL);
    gint64 start = g_get_monotonic_time();
    g_dbus_connection_close_sync(bus, NULL, NULL);
    g_subprocess_wait(p, NULL, NULL);
    double wait = (g_get_monotonic_time() - start) / 1e6;
    MOJI_CHECK(g_subprocess_get_successful(p), "it did not end well");
    MOJI_CHECK(wait < 20, "it took %.1f s to end with its input", wait);
}

static void test_stdio_command_fails(void)
{
    Draw d = {.client = moji_client_new("sh -c 'echo host is down >&2; exit 255'")};
    draw_begin(&d, request_new("cat", 2, 1));
    draw_wait(&d);
    MOJI_CHECK(g_error_matches(d.error, MOJI_ERROR, MOJI_ERROR_BACKEND) &&
                   strstr(d.error->message, "host is down"),
               "%s", d.error ? d.error->message : "it was drawn");
    draw_clear(&d);
}

/* ---- */

/* On one processor, for the engine too: the tiny model's layers are so short that threads would
 * mostly wait for each other, for very long if the machine has other work. */
static void stay_on_one_processor(void)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(MAX(sched_getcpu(), 0), &set);
    sched_setaffinity(0, sizeof set, &set);
}

static void prepare(void)
{
    stay_on_one_processor();
    g_autofree char *self = g_file_read_link("/proc/self/exe", NULL);
    g_autofree char *folder = g_path_get_dirname(self);
    g_autofree char *model = moji_test_path("tiny-sd");
    g_autofree char *cache = g_build_filename(moji_test_scratch(), "cache", NULL);
    g_autofree char *data = g_build_filename(moji_test_scratch(), "data", NULL);
    program = g_canonicalize_filename("../moji", folder);
    runtime = g_build_filename(moji_test_scratch(), "run", NULL);
    g_mkdir(runtime, 0700);
    g_setenv("XDG_RUNTIME_DIR", runtime, TRUE);
    g_setenv("XDG_CACHE_HOME", cache, TRUE);
    g_setenv("XDG_DATA_HOME", data, TRUE);
    g_setenv("MOJI_ENGINE", program, TRUE);
    g_setenv("MOJI_MODEL", model, TRUE);
    signal(SIGPIPE, SIG_IGN);
}

int main(void)
{
    prepare();
    moji_test("serve: a drawing is the same as the program's, byte for byte", test_same_bytes);
    moji_test("serve: socket and folder are private", test_private);
    moji_test("serve: several pictures of one drawing", test_count);
    moji_test("serve: two clients' drawings are made in order", test_queue);
    moji_test("serve: what the model lacks is said plainly", test_wrong_request);
    moji_test("serve: cancelled in mid-drawing, free at once", test_cancel);
    moji_test("serve: cancelled before it began", test_cancel_before);
    moji_test("serve: a peer that goes away stops its drawing", test_disconnect);
    moji_test("serve: strangers' bytes are survived", test_garbage);
    moji_test("serve: bad calls are answered with errors", test_bad_calls);
    moji_test("serve: facts about the model", test_info);
    moji_test("serve: a client's own MOJI_MODEL counts", test_own_model);
    moji_test("serve: a model by its name", test_model_by_name);
    moji_test("serve: cutting out", test_cutout);
    moji_test("serve: a second engine leaves politely", test_second_instance);
    moji_test("serve: killed in mid-drawing, the next drawing starts it again", test_killed);
    moji_test("serve: killed at rest, nobody notices", test_killed_at_rest);
    moji_test("serve: leaves when idle", test_idle);
    moji_test("serve: a folder open to others is refused", test_open_folder);
    moji_test("serve: an engine of another build is replaced", test_replaced);
    moji_test("serve: an engine whose socket somebody removed is replaced", test_socket_gone);
    moji_test("serve: an engine that cannot start says why", test_fails_to_start);
    moji_test("stdio: the same bytes", test_stdio);
    moji_test("stdio: ends with its input, in mid-drawing too", test_stdio_end);
    moji_test("stdio: a command that fails says why", test_stdio_command_fails);
    pid_t pid = engine_pid(runtime);
    if (pid && !kill(pid, SIGTERM))
        gone(pid);
    g_free(program);
    g_free(runtime);
    return moji_test_end();
}
