/* client.c: see client.h.
 *
 * The surprising rule: finding, starting and greeting an engine blocks, so for drawings it happens
 * on a thread of its own under `lock`; everything else of a drawing happens in the caller's
 * context. */
#include "client.h"
#include "version.h"
#include "wire.h"
#include <errno.h>
#include <fcntl.h>
#include <gio/gunixsocketaddress.h>
#include <glib-unix.h>
#include <glib/gstdio.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#define PATIENCE_SECONDS 30 /* for an engine to start and to say hello */

struct MojiClient {
    gatomicrefcount refs; /* one the caller's, one for each drawing under way */
    GMutex lock;          /* of what follows */
    char *command, *program;
    GDBusConnection *connection; /* NULL, or the last one made */
    guint32 next_id, next_turn;  /* atomic */
    /* Drawings take turns at connecting, in the order of their calls: their threads would overtake
     * each other. */
    GCond turn_changed;
    guint32 turn;
};

MojiClient *moji_client_new(const char *command)
{
    MojiClient *c = g_new0(MojiClient, 1);
    g_atomic_ref_count_init(&c->refs);
    g_mutex_init(&c->lock);
    g_cond_init(&c->turn_changed);
    c->command = g_strdup(command && *command ? command : NULL);
    moji_wire_interface();
    return c;
}

static void client_unref(MojiClient *c)
{
    if (!g_atomic_ref_count_dec(&c->refs))
        return;
    if (c->connection) {
        g_dbus_connection_close(c->connection, NULL, NULL, NULL);
        g_object_unref(c->connection);
    }
    g_free(c->command);
    g_free(c->program);
    g_mutex_clear(&c->lock);
    g_cond_clear(&c->turn_changed);
    g_free(c);
}

void moji_client_free(MojiClient *client)
{
    if (client)
        client_unref(client);
}

void moji_client_set_program(MojiClient *client, const char *path)
{
    g_mutex_lock(&client->lock);
    g_free(client->program);
    client->program = g_strdup(path);
    g_mutex_unlock(&client->lock);
}

/* ---- the program and its last words ---- */

/* Caller frees; NULL and MOJI_ERROR_FILE if there is none. */
static char *find_program(MojiClient *c, GError **error)
{
    const char *given = g_getenv("MOJI_ENGINE");
    given = given && *given ? given : c->program;
    if (given) {
        if (g_file_test(given, G_FILE_TEST_IS_EXECUTABLE) &&
            !g_file_test(given, G_FILE_TEST_IS_DIR))
            return g_canonicalize_filename(given, NULL);
        g_set_error(error, MOJI_ERROR, MOJI_ERROR_FILE, "%s: the engine is not there", given);
        return NULL;
    }
    g_autofree char *self = g_file_read_link("/proc/self/exe", NULL);
    g_autofree char *folder = g_path_get_dirname(self ? self : "/");
    const char *const places[] = {"moji", "../libexec/moji", "../libexec/moji/moji"};
    for (gsize i = 0; i < G_N_ELEMENTS(places); i++) {
        g_autofree char *path = g_canonicalize_filename(places[i], folder);
        if (g_file_test(path, G_FILE_TEST_IS_EXECUTABLE) && !g_file_test(path, G_FILE_TEST_IS_DIR))
            return g_steal_pointer(&path);
    }
    char *found = g_find_program_in_path("moji");
    if (!found)
        g_set_error(error, MOJI_ERROR, MOJI_ERROR_FILE,
                    "The engine \"moji\" was not found beside this program, in ../libexec or on "
                    "the path; MOJI_ENGINE in the environment can say where it is");
    return found;
}

/* The end of the engine's log in one line for an error message; NULL if it is empty. */
static char *last_words(void)
{
    g_autofree char *path = moji_wire_log_path();
    g_autofree char *text = NULL;
    gsize bytes;
    if (!g_file_get_contents(path, &text, &bytes, NULL))
        return NULL;
    char *tail = bytes > 600 ? text + bytes - 600 : text;
    g_autofree char *valid = g_utf8_make_valid(g_strstrip(tail), -1);
    return *valid ? g_strdelimit(g_steal_pointer(&valid), "\n\r\t", ' ') : NULL;
}

static void set_start_error(GError **error, const char *program, const char *what)
{
    g_autofree char *words = last_words();
    g_autofree char *log = moji_wire_log_path();
    g_set_error(error, MOJI_ERROR, MOJI_ERROR_BACKEND, "%s: %s%s%s (log: %s)", program, what,
                words ? ": " : "", words ? words : "", log);
}

/* ---- starting the resident engine ---- */

static void in_child(gpointer unused)
{
    (void)unused;
    setsid(); /* so that the terminal's or GIMP's end is not the engine's */
}

/* Starts the engine with its standard output on a pipe, whose reading end is returned; -1 on
 * error. */
static int spawn(const char *program, GError **error)
{
    g_autofree char *log_path = moji_wire_log_path();
    g_autofree char *identity = moji_wire_identity(program);
    g_auto(GStrv) environment =
        g_environ_setenv(g_get_environ(), MOJI_WIRE_IDENTITY_VARIABLE, identity, TRUE);
    const char *const argv[] = {program, "serve", NULL};
    int out[2];
    if (!g_unix_open_pipe(out, FD_CLOEXEC, error))
        return -1;
    int log = open(log_path, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0600);
    gboolean ok = g_spawn_async_with_fds("/", (char **)argv, environment, G_SPAWN_DEFAULT, in_child,
                                         NULL, NULL, -1, out[1], log, error);
    if (log >= 0)
        close(log);
    close(out[1]);
    if (ok)
        return out[0];
    close(out[0]);
    return -1;
}

typedef enum { NOTHING, READY, RUNNING } Started;

/* Waits for the engine's first line: it listens, or another engine does, or it died. */
static Started read_first_line(int fd, gboolean *late)
{
    char line[64];
    gsize used = 0;
    gint64 until = g_get_monotonic_time() + PATIENCE_SECONDS * G_TIME_SPAN_SECOND;
    *late = FALSE;
    while (used < sizeof line - 1 && !memchr(line, '\n', used)) {
        gint64 left = (until - g_get_monotonic_time()) / 1000;
        struct pollfd p = {.fd = fd, .events = POLLIN};
        int n = left > 0 ? poll(&p, 1, (int)left) : 0;
        if (n < 0 && errno == EINTR)
            continue;
        *late = n == 0;
        gssize bytes = n > 0 ? read(fd, line + used, sizeof line - 1 - used) : 0;
        if (bytes <= 0)
            break;
        used += bytes;
    }
    line[used] = 0;
    return !strcmp(line, MOJI_WIRE_READY)     ? READY
           : !strcmp(line, MOJI_WIRE_RUNNING) ? RUNNING
                                              : NOTHING;
}

static gboolean start_engine(const char *program, GError **error)
{
    GError *e = NULL;
    int fd = spawn(program, &e);
    if (fd < 0) {
        g_set_error(error, MOJI_ERROR, MOJI_ERROR_FILE, "%s: cannot be started: %s", program,
                    e->message);
        g_error_free(e);
        return FALSE;
    }
    gboolean late;
    Started started = read_first_line(fd, &late);
    close(fd);
    if (started == RUNNING)
        g_usleep(100 * 1000); /* it holds the lock and is about to listen */
    if (started == NOTHING)
        set_start_error(error, program,
                        late ? "the engine does not get ready" : "the engine ended at its start");
    return started != NOTHING;
}

/* ---- patience ---- */

/* Cancels a handshake that takes too long: an engine that is stopped still has its connections
 * accepted by the system, and an ssh may wait for a password. A socket's own time limit would not
 * do, since it would also hold for the first silence after the handshake. */
typedef struct {
    GMutex lock;
    GCond cond;
    gboolean done;
    GCancellable *cancel;
    GThread *thread;
} Patience;

static gpointer patience_run(gpointer data)
{
    Patience *p = data;
    gint64 until = g_get_monotonic_time() + PATIENCE_SECONDS * G_TIME_SPAN_SECOND;
    gboolean in_time = TRUE;
    g_mutex_lock(&p->lock);
    while (!p->done && in_time)
        in_time = g_cond_wait_until(&p->cond, &p->lock, until);
    gboolean done = p->done;
    g_mutex_unlock(&p->lock);
    if (!done)
        g_cancellable_cancel(p->cancel);
    return NULL;
}

static void patience_begin(Patience *p)
{
    g_mutex_init(&p->lock);
    g_cond_init(&p->cond);
    p->done = FALSE;
    p->cancel = g_cancellable_new();
    p->thread = g_thread_new("patience", patience_run, p);
}

static void patience_end(Patience *p)
{
    g_mutex_lock(&p->lock);
    p->done = TRUE;
    g_cond_signal(&p->cond);
    g_mutex_unlock(&p->lock);
    g_thread_join(p->thread);
    g_object_unref(p->cancel);
    g_mutex_clear(&p->lock);
    g_cond_clear(&p->cond);
}

/* ---- connecting ---- */

static gboolean hello(GDBusConnection *connection, char **identity, GError **error)
{
    g_autoptr(GVariant) reply = g_dbus_connection_call_sync(
        connection, NULL, MOJI_WIRE_PATH, MOJI_WIRE_INTERFACE, "Hello",
        g_variant_new("(u)", MOJI_WIRE_PROTOCOL), G_VARIANT_TYPE("(uss)"), G_DBUS_CALL_FLAGS_NONE,
        PATIENCE_SECONDS * 1000, NULL, error);
    if (!reply)
        return FALSE;
    guint32 protocol;
    const char *version;
    g_variant_get(reply, "(u&ss)", &protocol, &version, identity);
    if (protocol == MOJI_WIRE_PROTOCOL && !strcmp(version, MOJI_VERSION))
        return TRUE;
    g_set_error(error, MOJI_ERROR, MOJI_ERROR_BACKEND,
                "The engine is moji %s (protocol %u); this program needs moji %s (protocol %d)",
                version, protocol, MOJI_VERSION, MOJI_WIRE_PROTOCOL);
    g_clear_pointer(identity, g_free);
    return FALSE;
}

static GDBusConnection *greet_socket(const char *path, GCancellable *cancel)
{
    g_autoptr(GSocketClient) maker = g_socket_client_new();
    g_autoptr(GSocketAddress) address = g_unix_socket_address_new(path);
    g_autoptr(GSocketConnection) stream =
        g_socket_client_connect(maker, G_SOCKET_CONNECTABLE(address), cancel, NULL);
    if (!stream)
        return NULL;
    g_autoptr(GCredentials) theirs =
        g_socket_get_credentials(g_socket_connection_get_socket(stream), NULL);
    g_autoptr(GCredentials) ours = g_credentials_new();
    if (!theirs || !g_credentials_is_same_user(theirs, ours, NULL))
        return NULL;
    return g_dbus_connection_new_sync(G_IO_STREAM(stream), NULL,
                                      G_DBUS_CONNECTION_FLAGS_AUTHENTICATION_CLIENT, NULL, cancel,
                                      NULL);
}

/* NULL if nobody of this user listens there. */
static GDBusConnection *connect_socket(const char *path)
{
    Patience patience;
    patience_begin(&patience);
    GDBusConnection *connection = greet_socket(path, patience.cancel);
    patience_end(&patience);
    return connection;
}

/* Connects to the engine on the socket if it is the one we want; asks any other to leave. */
static GDBusConnection *connect_wanted(const char *path, const char *program)
{
    g_autoptr(GDBusConnection) connection = connect_socket(path);
    if (!connection)
        return NULL;
    g_autofree char *wanted = moji_wire_identity(program);
    g_autofree char *identity = NULL;
    if (hello(connection, &identity, NULL) && !strcmp(identity, wanted))
        return g_steal_pointer(&connection);
    g_autoptr(GVariant) reply = g_dbus_connection_call_sync(
        connection, NULL, MOJI_WIRE_PATH, MOJI_WIRE_INTERFACE, "Quit", NULL, NULL,
        G_DBUS_CALL_FLAGS_NONE, PATIENCE_SECONDS * 1000, NULL, NULL);
    return NULL;
}

static GDBusConnection *connect_resident(MojiClient *c, GError **error)
{
    g_autofree char *program = find_program(c, error);
    g_autofree char *folder = program ? moji_wire_folder(error) : NULL;
    if (!folder)
        return NULL;
    g_autofree char *path = g_build_filename(folder, "engine.sock", NULL);
    GDBusConnection *connection = connect_wanted(path, program);
    /* Another client may start an engine at the same time, of another build even. */
    for (int i = 0; i < 5 && !connection; i++) {
        if (!start_engine(program, error))
            return NULL;
        connection = connect_wanted(path, program);
    }
    if (!connection)
        set_start_error(error, program, "the engine started and cannot be reached");
    return connection;
}

static GDBusConnection *greet_process(GSubprocess *process, GCancellable *cancel, GError **error)
{
    g_autoptr(GIOStream) stream =
        g_simple_io_stream_new(g_subprocess_get_stdout_pipe(process),
                               G_OUTPUT_STREAM(g_subprocess_get_stdin_pipe(process)));
    g_autoptr(GDBusConnection) connection = g_dbus_connection_new_sync(
        stream, NULL, G_DBUS_CONNECTION_FLAGS_AUTHENTICATION_CLIENT, NULL, cancel, error);
    g_autofree char *identity = NULL;
    if (connection && hello(connection, &identity, error))
        return g_steal_pointer(&connection);
    return NULL;
}

static GDBusConnection *connect_command(MojiClient *c, GError **error)
{
    g_auto(GStrv) argv = NULL;
    GError *e = NULL;
    if (!g_shell_parse_argv(c->command, NULL, &argv, &e)) {
        g_set_error(error, MOJI_ERROR, MOJI_ERROR_USAGE, "engine command \"%s\": %s", c->command,
                    e->message);
        g_error_free(e);
        return NULL;
    }
    g_autoptr(GSubprocessLauncher) launcher =
        g_subprocess_launcher_new(G_SUBPROCESS_FLAGS_STDIN_PIPE | G_SUBPROCESS_FLAGS_STDOUT_PIPE);
    g_autofree char *log = moji_wire_log_path();
    g_unlink(log);
    g_subprocess_launcher_set_stderr_file_path(launcher, log);
    g_autoptr(GSubprocess) process =
        g_subprocess_launcher_spawnv(launcher, (const char *const *)argv, &e);
    GDBusConnection *connection = NULL;
    if (process) {
        Patience patience;
        patience_begin(&patience);
        connection = greet_process(process, patience.cancel, &e);
        patience_end(&patience);
        if (!connection)
            g_subprocess_force_exit(process);
    }
    if (!connection) {
        set_start_error(error, c->command, e->message);
        g_error_free(e);
    }
    return connection;
}

/* With the lock held: the connection kept, or a new one; caller unrefs. */
static GDBusConnection *client_connect_locked(MojiClient *c, GError **error)
{
    if (c->connection && g_dbus_connection_is_closed(c->connection))
        g_clear_object(&c->connection);
    if (!c->connection)
        c->connection = c->command ? connect_command(c, error) : connect_resident(c, error);
    return c->connection ? g_object_ref(c->connection) : NULL;
}

static GDBusConnection *client_connect(MojiClient *c, GError **error)
{
    g_mutex_lock(&c->lock);
    GDBusConnection *connection = client_connect_locked(c, error);
    g_mutex_unlock(&c->lock);
    return connection;
}

/* Lets the next call connect anew. */
static void client_forget(MojiClient *c, GDBusConnection *connection)
{
    g_mutex_lock(&c->lock);
    if (c->connection == connection)
        g_clear_object(&c->connection);
    g_mutex_unlock(&c->lock);
}

/* Whether the engine went away by itself, without having begun what it was asked for. */
static gboolean engine_left(const GError *e)
{
    if (!g_dbus_error_is_remote_error(e))
        return !g_error_matches(e, G_IO_ERROR, G_IO_ERROR_TIMED_OUT);
    g_autofree char *name = g_dbus_error_get_remote_error(e);
    return !g_strcmp0(name, MOJI_WIRE_LEAVING);
}

/* What the engine is told. The resident one runs elsewhere in the tree, and may have been started
 * under another MOJI_MODEL than ours; one that a command starts has folders of its own. Names of
 * the user's models are the engine's to find. */
static char *model_folder(MojiClient *c, const char *model)
{
    if (c->command)
        return g_strdup(model);
    const char *folder = model && *model ? model : g_getenv("MOJI_MODEL");
    if (!folder || !*folder)
        return g_strdup(model);
    gboolean name = !strchr(folder, '/') && !g_file_test(folder, G_FILE_TEST_EXISTS);
    return name ? g_strdup(folder) : g_canonicalize_filename(folder, NULL);
}

/* ---- drawing ---- */

typedef struct {
    MojiClient *client;
    GVariant *request;
    MojiProgressFn progress;
    gpointer progress_data;
    GSource *cancel_source; /* or NULL */
    GDBusConnection *connection;
    guint32 id;
    guint progress_signal, picture_signal;
    GPtrArray *images;
    gboolean begun;   /* the engine has said something about this drawing */
    gboolean retried; /* it left before that, once */
    gboolean done;    /* the caller has had the answer */
} Drawing;

static void image_free(gpointer image)
{
    moji_image_free(image);
}

static void drawing_disconnect(Drawing *d)
{
    if (!d->connection)
        return;
    g_dbus_connection_signal_unsubscribe(d->connection, d->progress_signal);
    g_dbus_connection_signal_unsubscribe(d->connection, d->picture_signal);
    g_clear_object(&d->connection);
}

static void drawing_free(gpointer data)
{
    Drawing *d = data;
    g_variant_unref(d->request);
    g_clear_pointer(&d->images, g_ptr_array_unref);
    client_unref(d->client);
    g_free(d);
}

/* Gives the caller images or error (one of them, taken), once. */
static void drawing_end(GTask *task, GError *error)
{
    Drawing *d = g_task_get_task_data(task);
    g_assert(!d->done);
    d->done = TRUE;
    drawing_disconnect(d);
    if (d->cancel_source) {
        g_source_destroy(d->cancel_source);
        g_clear_pointer(&d->cancel_source, g_source_unref);
    }
    if (error)
        g_task_return_error(task, error);
    else
        g_task_return_pointer(task, g_steal_pointer(&d->images), (GDestroyNotify)g_ptr_array_unref);
}

static void on_progress(GDBusConnection *connection, const char *sender, const char *path,
                        const char *interface, const char *signal, GVariant *parameters,
                        gpointer data)
{
    (void)connection, (void)sender, (void)path, (void)interface, (void)signal;
    Drawing *d = g_task_get_task_data(data);
    if (d->done || !g_variant_is_of_type(parameters, G_VARIANT_TYPE("((uiiiiiiiay))")))
        return;
    g_autoptr(GVariant) v = g_variant_get_child_value(parameters, 0);
    MojiProgress progress;
    guint32 id;
    if (!moji_wire_read_progress(v, &id, &progress) || id != d->id)
        return;
    d->begun = TRUE;
    if (d->progress)
        d->progress(&progress, d->progress_data);
}

static void on_picture(GDBusConnection *connection, const char *sender, const char *path,
                       const char *interface, const char *signal, GVariant *parameters,
                       gpointer data)
{
    (void)connection, (void)sender, (void)path, (void)interface, (void)signal;
    Drawing *d = g_task_get_task_data(data);
    if (d->done || !g_variant_is_of_type(parameters, G_VARIANT_TYPE("(u(iiayays))")))
        return;
    g_autoptr(GVariant) v = NULL;
    guint32 id;
    g_variant_get(parameters, "(u@(iiayays))", &id, &v);
    MojiImage *image = id == d->id ? moji_image_from_variant(v, NULL) : NULL;
    if (image)
        g_ptr_array_add(d->images, image);
}

static void drawing_begin(GTask *task);

static GError *stopped_error(void)
{
    g_autofree char *words = last_words();
    return g_error_new(MOJI_ERROR, MOJI_ERROR_BACKEND,
                       "The engine stopped unexpectedly (%s). The next drawing starts it again.",
                       words ? words : "perhaps for want of memory");
}

static void on_reply(GObject *source, GAsyncResult *result, gpointer data)
{
    g_autoptr(GTask) task = data;
    Drawing *d = g_task_get_task_data(task);
    GError *error = NULL;
    g_autoptr(GVariant) reply =
        g_dbus_connection_call_finish(G_DBUS_CONNECTION(source), result, &error);
    if (d->done) {
        g_clear_error(&error);
        return;
    }
    if (error && engine_left(error)) {
        client_forget(d->client, d->connection);
        if (!d->begun && !d->retried) {
            g_error_free(error);
            drawing_disconnect(d);
            d->retried = TRUE;
            drawing_begin(task);
            return;
        }
        g_error_free(error);
        error = stopped_error();
    } else if (error) {
        error = moji_wire_error(error);
    } else {
        guint32 pictures;
        g_variant_get(reply, "(u)", &pictures);
        if (pictures != d->images->len)
            error = g_error_new(MOJI_ERROR, MOJI_ERROR_BACKEND,
                                "The engine announced %u pictures and sent %u", pictures,
                                d->images->len);
    }
    drawing_end(task, error);
}

/* A drawing's turn at connecting, and what came of it. */
typedef struct {
    MojiClient *client;
    guint32 turn;
    GTask *task; /* the drawing's */
    GDBusConnection *connection;
    GError *error;
} Connecting;

static void connecting_free(gpointer data)
{
    Connecting *c = data;
    g_clear_object(&c->connection);
    g_clear_error(&c->error);
    g_object_unref(c->task);
    client_unref(c->client);
    g_free(c);
}

static gboolean on_connected(gpointer data)
{
    Connecting *c = data;
    Drawing *d = g_task_get_task_data(c->task);
    if (d->done)
        return G_SOURCE_REMOVE;
    if (!c->connection) {
        drawing_end(c->task, g_steal_pointer(&c->error));
        return G_SOURCE_REMOVE;
    }
    d->connection = g_steal_pointer(&c->connection);
    d->progress_signal = g_dbus_connection_signal_subscribe(
        d->connection, NULL, MOJI_WIRE_INTERFACE, "Progress", MOJI_WIRE_PATH, NULL,
        G_DBUS_SIGNAL_FLAGS_NONE, on_progress, g_object_ref(c->task), g_object_unref);
    d->picture_signal = g_dbus_connection_signal_subscribe(
        d->connection, NULL, MOJI_WIRE_INTERFACE, "Picture", MOJI_WIRE_PATH, NULL,
        G_DBUS_SIGNAL_FLAGS_NONE, on_picture, g_object_ref(c->task), g_object_unref);
    g_dbus_connection_call(d->connection, NULL, MOJI_WIRE_PATH, MOJI_WIRE_INTERFACE, "Draw",
                           g_variant_new("(u@a{sv})", d->id, d->request), G_VARIANT_TYPE("(u)"),
                           G_DBUS_CALL_FLAGS_NONE, G_MAXINT, NULL, on_reply, g_object_ref(c->task));
    return G_SOURCE_REMOVE;
}

static gpointer connect_thread(gpointer data)
{
    Connecting *mine = data;
    MojiClient *c = mine->client;
    g_autoptr(GSource) answer = g_idle_source_new();
    g_source_set_priority(answer, G_PRIORITY_DEFAULT);
    g_source_set_callback(answer, on_connected, mine, connecting_free);
    g_mutex_lock(&c->lock);
    while (c->turn != mine->turn)
        g_cond_wait(&c->turn_changed, &c->lock);
    mine->connection = client_connect_locked(c, &mine->error);
    if (mine->error)
        mine->error = moji_wire_error(mine->error);
    c->turn++;
    g_cond_broadcast(&c->turn_changed);
    /* Before the next one's turn, so that the answers stand in line in the caller's context. The
     * reference is for the unlocking: the answer may end the last drawing. */
    g_atomic_ref_count_inc(&c->refs);
    g_source_attach(answer, g_task_get_context(mine->task));
    g_mutex_unlock(&c->lock);
    client_unref(c);
    return NULL;
}

static void drawing_begin(GTask *task)
{
    Drawing *d = g_task_get_task_data(task);
    Connecting *c = g_new0(Connecting, 1);
    g_atomic_ref_count_inc(&d->client->refs);
    c->client = d->client;
    c->task = g_object_ref(task);
    /* Without the lock, which another drawing may hold until its engine has started. */
    c->turn = (guint32)g_atomic_int_add((gint *)&d->client->next_turn, 1);
    g_thread_unref(g_thread_new("connect", connect_thread, c));
}

static gboolean on_cancelled(GCancellable *cancellable, gpointer data)
{
    (void)cancellable;
    g_autoptr(GTask) task = g_object_ref(data);
    Drawing *d = g_task_get_task_data(task);
    if (d->connection)
        g_dbus_connection_call(d->connection, NULL, MOJI_WIRE_PATH, MOJI_WIRE_INTERFACE, "Cancel",
                               g_variant_new("(u)", d->id), NULL, G_DBUS_CALL_FLAGS_NONE, -1, NULL,
                               NULL, NULL);
    drawing_end(task, g_error_new(MOJI_ERROR, MOJI_ERROR_CANCELLED, "Cancelled"));
    return G_SOURCE_REMOVE;
}

void moji_client_draw_async(MojiClient *client, const MojiRequest *request, MojiProgressFn progress,
                            gpointer progress_data, GCancellable *cancellable,
                            GAsyncReadyCallback done, gpointer user_data)
{
    g_autoptr(GTask) task = g_task_new(NULL, NULL, done, user_data);
    GError *error = NULL;
    if (!moji_request_check(request, &error)) {
        g_task_return_error(task, error);
        return;
    }
    g_autoptr(MojiRequest) sent = moji_request_copy(request);
    g_free(sent->model);
    sent->model = model_folder(client, request->model);
    Drawing *d = g_new0(Drawing, 1);
    g_atomic_ref_count_inc(&client->refs);
    d->client = client;
    d->request = g_variant_ref_sink(moji_request_to_variant(sent));
    d->progress = progress;
    d->progress_data = progress_data;
    d->images = g_ptr_array_new_with_free_func(image_free);
    d->id = (guint32)g_atomic_int_add((gint *)&client->next_id, 1);
    g_task_set_task_data(task, d, drawing_free);
    if (cancellable) {
        d->cancel_source = g_cancellable_source_new(cancellable);
        g_source_set_callback(d->cancel_source, G_SOURCE_FUNC(on_cancelled), g_object_ref(task),
                              g_object_unref);
        g_autoptr(GMainContext) context = g_main_context_ref_thread_default();
        g_source_attach(d->cancel_source, context);
    }
    drawing_begin(task);
}

GPtrArray *moji_client_draw_finish(MojiClient *client, GAsyncResult *result, GError **error)
{
    (void)client;
    return g_task_propagate_pointer(G_TASK(result), error);
}

/* ---- the short calls ---- */

static GVariant *call(MojiClient *c, const char *method, GVariant *parameters, const char *type,
                      GError **error)
{
    g_autoptr(GVariant) sent = g_variant_ref_sink(parameters);
    GError *e = NULL;
    for (int attempt = 0; attempt < 2; attempt++) {
        g_clear_error(&e);
        g_autoptr(GDBusConnection) connection = client_connect(c, &e);
        if (!connection)
            break;
        GVariant *reply = g_dbus_connection_call_sync(
            connection, NULL, MOJI_WIRE_PATH, MOJI_WIRE_INTERFACE, method, sent,
            G_VARIANT_TYPE(type), G_DBUS_CALL_FLAGS_NONE, 120 * 1000, NULL, &e);
        if (reply)
            return reply;
        if (!engine_left(e))
            break;
        client_forget(c, connection);
    }
    g_propagate_error(error, moji_wire_error(e));
    return NULL;
}

GVariant *moji_client_info(MojiClient *client, const char *model, GError **error)
{
    g_autofree char *folder = model_folder(client, model ? model : "");
    g_autoptr(GVariant) reply =
        call(client, "Info", g_variant_new("(s)", folder), "(a{sv})", error);
    return reply ? g_variant_get_child_value(reply, 0) : NULL;
}

gboolean moji_client_cutout(MojiClient *client, MojiImage *image, GError **error)
{
    if ((gsize)image->width * image->height > MOJI_IMAGE_MAX_SENT) {
        g_set_error(error, MOJI_ERROR, MOJI_ERROR_USAGE,
                    "%d x %d px is too large to be cut out; at most %d pixels are taken",
                    image->width, image->height, MOJI_IMAGE_MAX_SENT);
        return FALSE;
    }
    GVariant *v = moji_image_to_variant(image);
    g_autoptr(GVariant) reply =
        call(client, "Cutout", g_variant_new_tuple(&v, 1), "((iiayays))", error);
    if (!reply)
        return FALSE;
    g_autoptr(GVariant) out = g_variant_get_child_value(reply, 0);
    g_autoptr(MojiImage) cut = moji_image_from_variant(out, error);
    if (!cut)
        return FALSE;
    /* Swap, so that what the caller held is freed with `cut`. */
    MojiImage before = *image;
    *image = *cut;
    *cut = before;
    return TRUE;
}
