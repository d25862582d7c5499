/* serve.c: see serve.h.
 *
 * The surprising rule: everything here but job_draw runs on the main loop's thread, so nothing but
 * the queue and GDBus itself (which is safe to call from any thread) is shared with the worker. A
 * job belongs to the main thread until it is pushed, to the worker until job_finish is invoked. */
#include "serve.h"
#include "cutout.h"
#include "folder.h"
#include "model.h"
#include "styles.h"
#include "version.h"
#include "wire.h"
#include <errno.h>
#include <fcntl.h>
#include <gio/gunixinputstream.h>
#include <gio/gunixoutputstream.h>
#include <glib-unix.h>
#include <glib/gstdio.h>
#include <signal.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAX_WAITING 64 /* drawings one peer may have in the queue */

typedef struct {
    GMainLoop *loop;
    MojiServeOptions *options;
    MojiEngine *engine;
    char *identity;
    GThread *worker;
    GAsyncQueue *jobs;
    GHashTable *peers; /* a set of Peer*, which it owns */
    GDBusServer *bus;  /* NULL on standard input and output */
    char *socket;
    GFileMonitor *watch; /* of the socket's name */
    int lock;            /* of engine.lock; -1 when given back */
    int busy;            /* requests not yet answered */
    guint idle_timer;    /* 0 while busy */
    gboolean leaving;
} Server;

typedef struct {
    Server *server;
    GDBusConnection *connection;
    GHashTable *jobs; /* id -> Job*, not owned */
} Peer;

typedef struct {
    Server *server;
    GDBusConnection *connection;
    GDBusMethodInvocation *call; /* to be answered exactly once */
    guint32 id;
    MojiRequest *request;
    GCancellable *cancel;
    guint pictures;
    GError *error;
} Job;

/* What the worker takes as "no more jobs". */
static Job the_end;

/* ---- idling and leaving ---- */

static gboolean on_idle(gpointer data)
{
    Server *s = data;
    s->idle_timer = 0;
    g_main_loop_quit(s->loop);
    return G_SOURCE_REMOVE;
}

static void request_begin(Server *s)
{
    s->busy++;
    if (s->idle_timer)
        g_source_remove(s->idle_timer);
    s->idle_timer = 0;
}

static void close_peers_without_jobs(Server *s)
{
    GHashTableIter iter;
    gpointer key;
    g_hash_table_iter_init(&iter, s->peers);
    while (g_hash_table_iter_next(&iter, &key, NULL)) {
        Peer *p = key;
        if (g_hash_table_size(p->jobs) == 0)
            g_dbus_connection_close(p->connection, NULL, NULL, NULL);
    }
}

/* Also called once at the start, to begin idling. */
static void request_end(Server *s)
{
    if (s->busy > 0)
        return;
    if (s->leaving)
        g_main_loop_quit(s->loop);
    else if (s->options->idle > 0 && !s->options->stdio && !s->idle_timer)
        s->idle_timer = g_timeout_add_seconds(s->options->idle, on_idle, s);
}

/* No new peers; the name on the disk is free for another engine from now on. */
static void stop_listening(Server *s)
{
    g_clear_object(&s->watch);
    if (s->bus)
        g_dbus_server_stop(s->bus);
    if (s->lock < 0)
        return;
    g_unlink(s->socket);
    close(s->lock);
    s->lock = -1;
}

static gboolean on_signal(gpointer data)
{
    Server *s = data;
    g_main_loop_quit(s->loop);
    return G_SOURCE_CONTINUE;
}

/* ---- drawing ---- */

static void job_free(Job *job)
{
    g_object_unref(job->connection);
    moji_request_free(job->request);
    g_object_unref(job->cancel);
    g_clear_error(&job->error);
    g_free(job);
}

static Peer *peer_of(Server *s, GDBusConnection *connection)
{
    GHashTableIter iter;
    gpointer key;
    g_hash_table_iter_init(&iter, s->peers);
    while (g_hash_table_iter_next(&iter, &key, NULL))
        if (((Peer *)key)->connection == connection)
            return key;
    return NULL;
}

static gboolean job_finish(gpointer data)
{
    Job *job = data;
    Server *s = job->server;
    Peer *peer = peer_of(s, job->connection);
    if (peer)
        g_hash_table_remove(peer->jobs, GUINT_TO_POINTER(job->id));
    if (job->error)
        g_dbus_method_invocation_return_gerror(job->call, job->error);
    else
        g_dbus_method_invocation_return_value(job->call, g_variant_new("(u)", job->pictures));
    job_free(job);
    s->busy--;
    if (s->leaving)
        close_peers_without_jobs(s);
    request_end(s);
    return G_SOURCE_REMOVE;
}

static void job_progress(const MojiProgress *progress, gpointer data)
{
    Job *job = data;
    GVariant *v = moji_wire_progress(job->id, progress);
    g_dbus_connection_emit_signal(job->connection, NULL, MOJI_WIRE_PATH, MOJI_WIRE_INTERFACE,
                                  "Progress", g_variant_new_tuple(&v, 1), NULL);
}

/* On the worker's thread. */
static void job_draw(Job *job)
{
    MojiProgress waiting_is_over = {.phase = MOJI_PHASE_LOADING, .images = 1};
    job_progress(&waiting_is_over, job);
    GPtrArray *images = NULL;
    if (g_cancellable_is_cancelled(job->cancel))
        g_set_error(&job->error, MOJI_ERROR, MOJI_ERROR_CANCELLED, "Cancelled");
    else
        images = moji_engine_draw(job->server->engine, job->request, job_progress, job, job->cancel,
                                  &job->error);
    for (guint i = 0; images && i < images->len; i++) {
        GVariant *image = moji_image_to_variant(images->pdata[i]);
        g_dbus_connection_emit_signal(job->connection, NULL, MOJI_WIRE_PATH, MOJI_WIRE_INTERFACE,
                                      "Picture", g_variant_new("(u@(iiayays))", job->id, image),
                                      NULL);
        job->pictures++;
    }
    if (images)
        g_ptr_array_unref(images);
    if (job->error && job->error->code != MOJI_ERROR_CANCELLED)
        g_message("a drawing failed: %s", job->error->message);
    /* Not g_main_context_invoke, which would run it here if the loop happens to be at rest. */
    g_idle_add_full(G_PRIORITY_DEFAULT, job_finish, job, NULL);
}

static gpointer worker_run(gpointer data)
{
    Server *s = data;
    for (Job *job; (job = g_async_queue_pop(s->jobs)) != &the_end;)
        job_draw(job);
    return NULL;
}

static void draw(Peer *peer, GVariant *parameters, GDBusMethodInvocation *call)
{
    g_autoptr(GVariant) dict = NULL;
    GError *error = NULL;
    guint32 id;
    g_variant_get(parameters, "(u@a{sv})", &id, &dict);
    g_autoptr(MojiRequest) request = moji_request_from_variant(dict, &error);
    if (request && moji_request_check(request, &error)) {
        if (g_hash_table_contains(peer->jobs, GUINT_TO_POINTER(id)))
            g_set_error(&error, MOJI_ERROR, MOJI_ERROR_USAGE, "drawing %u is under way already",
                        id);
        else if (g_hash_table_size(peer->jobs) >= MAX_WAITING)
            g_set_error(&error, MOJI_ERROR, MOJI_ERROR_USAGE, "%d drawings are waiting already",
                        MAX_WAITING);
    }
    if (error) {
        g_dbus_method_invocation_take_error(call, error);
        return;
    }
    Job *job = g_new0(Job, 1);
    *job = (Job){.server = peer->server,
                 .connection = g_object_ref(peer->connection),
                 .call = call,
                 .id = id,
                 .request = g_steal_pointer(&request),
                 .cancel = g_cancellable_new()};
    g_hash_table_insert(peer->jobs, GUINT_TO_POINTER(id), job);
    request_begin(peer->server);
    g_async_queue_push(peer->server->jobs, job);
}

/* ---- the short requests, each on a thread of the pool ---- */

static const char *or_empty(const char *text)
{
    return text ? text : "";
}

static GVariant *facts_of(Server *s, const MojiModel *m)
{
    const MojiCard *card = &m->card;
    g_autoptr(GPtrArray) colours = g_ptr_array_new();
    for (int i = 0; i < card->n_backgrounds; i++)
        g_ptr_array_add(colours, card->backgrounds[i].word);
    const char *const none[] = {NULL};
    const char *const *styles = card->styles ? (const char *const *)card->styles : none;
    g_autofree char *engine =
        g_strdup_printf("moji %s, %s", MOJI_VERSION, moji_engine_describe(s->engine));
    GVariantBuilder b;
    g_variant_builder_init(&b, G_VARIANT_TYPE("(a{sv})"));
    g_variant_builder_open(&b, G_VARIANT_TYPE_VARDICT);
    g_variant_builder_add(&b, "{sv}", "name", g_variant_new_string(or_empty(card->name)));
    g_variant_builder_add(&b, "{sv}", "styles", g_variant_new_strv(styles, -1));
    g_variant_builder_add(&b, "{sv}", "default-style",
                          g_variant_new_string(or_empty(card->default_style)));
    g_variant_builder_add(
        &b, "{sv}", "backgrounds",
        g_variant_new_strv((const char *const *)colours->pdata, (gssize)colours->len));
    g_variant_builder_add(&b, "{sv}", "default-background",
                          g_variant_new_string(or_empty(card->default_background)));
    g_autoptr(GPtrArray) loras = moji_styles_names();
    g_variant_builder_add(&b, "{sv}", "loras",
                          g_variant_new_strv((const char *const *)loras->pdata, loras->len));
    g_variant_builder_add(&b, "{sv}", "samplers", g_variant_new_strv(moji_sampler_names(), -1));
    g_variant_builder_add(&b, "{sv}", "steps", g_variant_new_int32(card->steps));
    g_variant_builder_add(&b, "{sv}", "guidance", g_variant_new_double(card->guidance));
    g_variant_builder_add(&b, "{sv}", "strength", g_variant_new_double(moji_model_strength(m)));
    g_variant_builder_add(&b, "{sv}", "size", g_variant_new_int32(card->size));
    g_variant_builder_add(&b, "{sv}", "engine", g_variant_new_string(engine));
    g_variant_builder_close(&b);
    return g_variant_builder_end(&b);
}

static GVariant *info(Server *s, GVariant *parameters, GError **error)
{
    const char *name;
    g_variant_get(parameters, "(&s)", &name);
    g_autofree char *folder = *name ? moji_folder_find(name) : moji_model_bundled();
    if (!folder) {
        g_set_error(error, MOJI_ERROR, MOJI_ERROR_FILE, "The bundled model is not installed");
        return NULL;
    }
    MojiModel *m = moji_model_configs(folder, error);
    GVariant *facts = m ? facts_of(s, m) : NULL;
    moji_model_free(m);
    return facts;
}

static GVariant *cutout(Server *s, GVariant *parameters, GError **error)
{
    (void)s;
    g_autoptr(GVariant) v = g_variant_get_child_value(parameters, 0);
    g_autoptr(MojiImage) image = moji_image_from_variant(v, error);
    if (!image || !moji_cutout(image, NULL, NULL, error))
        return NULL;
    GVariant *out = moji_image_to_variant(image);
    return g_variant_new_tuple(&out, 1);
}

typedef struct {
    Server *server;
    GDBusMethodInvocation *call;
    GVariant *(*answer)(Server *s, GVariant *parameters, GError **error);
} Short;

static void short_run(GTask *task, gpointer source, gpointer data, GCancellable *cancel)
{
    (void)source;
    (void)cancel;
    Short *r = data;
    GError *error = NULL;
    GVariant *out = r->answer(r->server, g_dbus_method_invocation_get_parameters(r->call), &error);
    if (out)
        g_dbus_method_invocation_return_value(r->call, out);
    else
        g_dbus_method_invocation_take_error(r->call, error);
    g_task_return_boolean(task, TRUE);
}

static void short_done(GObject *source, GAsyncResult *result, gpointer data)
{
    (void)source;
    (void)result;
    Server *s = data;
    s->busy--;
    request_end(s);
}

static void answer_shortly(Server *s, GDBusMethodInvocation *call,
                           GVariant *(*answer)(Server *, GVariant *, GError **))
{
    Short *r = g_new(Short, 1);
    *r = (Short){s, call, answer};
    GTask *task = g_task_new(NULL, NULL, short_done, s);
    g_task_set_task_data(task, r, g_free);
    request_begin(s);
    g_task_run_in_thread(task, short_run);
    g_object_unref(task);
}

/* ---- peers ---- */

static void hello(Server *s, GDBusMethodInvocation *call)
{
    g_dbus_method_invocation_return_value(
        call, g_variant_new("(uss)", (guint32)MOJI_WIRE_PROTOCOL, MOJI_VERSION, s->identity));
}

/* Ends when the drawings under way are done. */
static void leave(Server *s, const char *why)
{
    g_message("leaving: %s", why);
    s->leaving = TRUE;
    stop_listening(s);
    close_peers_without_jobs(s);
    request_end(s);
}

static void quit(Server *s, GDBusMethodInvocation *call)
{
    g_dbus_method_invocation_return_value(call, NULL);
    leave(s, "asked to");
}

static void on_call(GDBusConnection *connection, const char *sender, const char *path,
                    const char *interface, const char *method, GVariant *parameters,
                    GDBusMethodInvocation *call, gpointer data)
{
    (void)sender;
    (void)path;
    (void)interface;
    Server *s = data;
    Peer *peer = peer_of(s, connection);
    if (!peer || s->leaving) { /* the peer will ask another engine */
        g_dbus_method_invocation_return_dbus_error(call, MOJI_WIRE_LEAVING,
                                                   "This engine is leaving");
    } else if (g_str_equal(method, "Hello")) {
        hello(s, call);
    } else if (g_str_equal(method, "Draw")) {
        draw(peer, parameters, call);
    } else if (g_str_equal(method, "Cancel")) {
        guint32 id;
        g_variant_get(parameters, "(u)", &id);
        Job *job = g_hash_table_lookup(peer->jobs, GUINT_TO_POINTER(id));
        if (job)
            g_cancellable_cancel(job->cancel);
        g_dbus_method_invocation_return_value(call, NULL);
    } else if (g_str_equal(method, "Info")) {
        answer_shortly(s, call, info);
    } else if (g_str_equal(method, "Cutout")) {
        answer_shortly(s, call, cutout);
    } else {
        g_assert_cmpstr(method, ==, "Quit"); /* GDBus turns away what the interface lacks */
        quit(s, call);
    }
}

static void cancel_jobs(Peer *peer)
{
    GHashTableIter iter;
    gpointer job;
    g_hash_table_iter_init(&iter, peer->jobs);
    while (g_hash_table_iter_next(&iter, NULL, &job))
        g_cancellable_cancel(((Job *)job)->cancel);
}

static void on_closed(GDBusConnection *connection, gboolean vanished, GError *error, gpointer data)
{
    (void)vanished;
    (void)error;
    Server *s = data;
    Peer *peer = peer_of(s, connection);
    if (!peer)
        return;
    cancel_jobs(peer);
    g_hash_table_remove(s->peers, peer);
    if (s->options->stdio)
        g_main_loop_quit(s->loop);
}

static void peer_free(gpointer data)
{
    Peer *peer = data;
    g_signal_handlers_disconnect_by_data(peer->connection, peer->server);
    g_object_unref(peer->connection);
    g_hash_table_unref(peer->jobs);
    g_free(peer);
}

static gboolean on_peer(GDBusServer *bus, GDBusConnection *connection, gpointer data)
{
    (void)bus;
    Server *s = data;
    static const GDBusInterfaceVTable VTABLE = {.method_call = on_call};
    Peer *peer = g_new0(Peer, 1);
    *peer = (Peer){s, g_object_ref(connection), g_hash_table_new(NULL, NULL)};
    g_hash_table_add(s->peers, peer);
    g_signal_connect(connection, "closed", G_CALLBACK(on_closed), s);
    /* A peer that is gone already has had its signal before anybody listened. */
    if (g_dbus_connection_is_closed(connection)) {
        g_hash_table_remove(s->peers, peer);
        return FALSE;
    }
    g_dbus_connection_register_object(connection, MOJI_WIRE_PATH, moji_wire_interface(), &VTABLE, s,
                                      NULL, NULL);
    return TRUE;
}

/* The socket's folder keeps other users out already; this holds even if somebody opens it up. */
static gboolean on_authorize(GDBusAuthObserver *observer, GIOStream *stream,
                             GCredentials *credentials, gpointer data)
{
    (void)observer;
    (void)stream;
    (void)data;
    g_autoptr(GCredentials) own = g_credentials_new();
    return credentials && g_credentials_is_same_user(credentials, own, NULL);
}

static gboolean on_mechanism(GDBusAuthObserver *observer, const char *mechanism, gpointer data)
{
    (void)observer;
    return g_str_equal(mechanism, data);
}

/* ---- starting ---- */

static gboolean take_lock(Server *s, const char *folder, GError **error)
{
    g_autofree char *path = g_build_filename(folder, "engine.lock", NULL);
    s->lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (s->lock >= 0 && !flock(s->lock, LOCK_EX | LOCK_NB))
        return TRUE;
    if (s->lock >= 0 && errno == EWOULDBLOCK)
        s->options->already_running = TRUE;
    else
        g_set_error(error, MOJI_ERROR, MOJI_ERROR_FILE, "%s: cannot be locked: %s", path,
                    g_strerror(errno));
    if (s->lock >= 0)
        close(s->lock);
    s->lock = -1;
    return FALSE;
}

/* Without its name on the disk nobody finds this engine, and its lock would keep others from
 * starting: somebody emptied the cache folder, or an engine of a folder since replaced took the
 * name with it when it ended. */
static void on_socket_changed(GFileMonitor *watch, GFile *file, GFile *other,
                              GFileMonitorEvent event, gpointer data)
{
    (void)watch, (void)file, (void)other, (void)event;
    Server *s = data;
    if (!s->leaving && !g_file_test(s->socket, G_FILE_TEST_EXISTS))
        leave(s, "the socket is gone");
}

static void watch_socket(Server *s)
{
    g_autoptr(GFile) file = g_file_new_for_path(s->socket);
    s->watch = g_file_monitor_file(file, G_FILE_MONITOR_NONE, NULL, NULL);
    if (s->watch)
        g_signal_connect(s->watch, "changed", G_CALLBACK(on_socket_changed), s);
}

static gboolean listen_on_socket(Server *s, GError **error)
{
    g_autofree char *folder = moji_wire_folder(error);
    if (!folder || !take_lock(s, folder, error))
        return FALSE;
    s->socket = g_build_filename(folder, "engine.sock", NULL);
    /* We hold the lock, so whatever socket is there belongs to an engine that died. */
    g_unlink(s->socket);
    g_autofree char *escaped = g_dbus_address_escape_value(s->socket);
    g_autofree char *address = g_strconcat("unix:path=", escaped, NULL);
    g_autofree char *guid = g_dbus_generate_guid();
    g_autoptr(GDBusAuthObserver) observer = g_dbus_auth_observer_new();
    g_signal_connect(observer, "authorize-authenticated-peer", G_CALLBACK(on_authorize), NULL);
    g_signal_connect(observer, "allow-mechanism", G_CALLBACK(on_mechanism), "EXTERNAL");
    mode_t mask = umask(0177); /* the socket is born with mode 0600 */
    s->bus = g_dbus_server_new_sync(address, G_DBUS_SERVER_FLAGS_AUTHENTICATION_REQUIRE_SAME_USER,
                                    guid, observer, NULL, error);
    umask(mask);
    if (!s->bus) {
        g_prefix_error(error, "%s: ", s->socket);
        return FALSE;
    }
    g_signal_connect(s->bus, "new-connection", G_CALLBACK(on_peer), s);
    g_dbus_server_start(s->bus);
    watch_socket(s);
    return TRUE;
}

/* Whatever else prints on standard output from now on must not end up between the messages. */
static int take_descriptor(int fd, int replacement)
{
    int own = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    dup2(replacement, fd);
    return own;
}

static gboolean speak_on_stdio(Server *s, GError **error)
{
    int nothing = open("/dev/null", O_RDWR | O_CLOEXEC);
    g_autoptr(GInputStream) in = g_unix_input_stream_new(take_descriptor(0, nothing), TRUE);
    g_autoptr(GOutputStream) out = g_unix_output_stream_new(take_descriptor(1, 2), TRUE);
    close(nothing);
    g_autoptr(GIOStream) stream = g_simple_io_stream_new(in, out);
    g_autoptr(GDBusAuthObserver) observer = g_dbus_auth_observer_new();
    g_signal_connect(observer, "allow-mechanism", G_CALLBACK(on_mechanism), "ANONYMOUS");
    g_autofree char *guid = g_dbus_generate_guid();
    g_autoptr(GDBusConnection) connection =
        g_dbus_connection_new_sync(stream, guid,
                                   G_DBUS_CONNECTION_FLAGS_AUTHENTICATION_SERVER |
                                       G_DBUS_CONNECTION_FLAGS_AUTHENTICATION_ALLOW_ANONYMOUS |
                                       G_DBUS_CONNECTION_FLAGS_DELAY_MESSAGE_PROCESSING,
                                   observer, NULL, error);
    if (!connection)
        return FALSE;
    on_peer(NULL, connection, s);
    g_dbus_connection_start_message_processing(connection);
    return TRUE;
}

static void say(const char *line)
{
    int nothing = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (write(1, line, strlen(line)) < 0)
        g_message("standard output: %s", g_strerror(errno));
    dup2(nothing, 1);
    close(nothing);
}

static void run(Server *s)
{
    guint signals[] = {g_unix_signal_add(SIGTERM, on_signal, s),
                       g_unix_signal_add(SIGINT, on_signal, s),
                       g_unix_signal_add(SIGHUP, on_signal, s)};
    request_end(s);
    g_main_loop_run(s->loop);
    stop_listening(s);
    GHashTableIter iter;
    gpointer peer;
    g_hash_table_iter_init(&iter, s->peers);
    while (g_hash_table_iter_next(&iter, &peer, NULL))
        cancel_jobs(peer);
    /* Every request still gets its answer, most of them "cancelled". */
    s->leaving = TRUE;
    if (s->busy > 0)
        g_main_loop_run(s->loop);
    for (gsize i = 0; i < G_N_ELEMENTS(signals); i++)
        g_source_remove(signals[i]);
}

static gboolean on_patience_end(gpointer data)
{
    *(gboolean *)data = TRUE;
    return G_SOURCE_REMOVE;
}

/* Closing writes what is still to be said; a peer that does not read is not waited for. */
static void close_all_peers(Server *s)
{
    GHashTableIter iter;
    gpointer peer;
    g_hash_table_iter_init(&iter, s->peers);
    while (g_hash_table_iter_next(&iter, &peer, NULL))
        g_dbus_connection_close(((Peer *)peer)->connection, NULL, NULL, NULL);
    gboolean late = FALSE;
    guint timer = g_timeout_add(1000, on_patience_end, &late);
    while (g_hash_table_size(s->peers) && !late)
        g_main_context_iteration(NULL, TRUE);
    if (!late)
        g_source_remove(timer);
}

static void server_end(Server *s)
{
    if (s->worker) {
        g_async_queue_push(s->jobs, &the_end);
        g_thread_join(s->worker);
    }
    close_all_peers(s);
    stop_listening(s);
    g_clear_object(&s->bus);
    g_hash_table_unref(s->peers);
    g_async_queue_unref(s->jobs);
    moji_engine_free(s->engine);
    g_main_loop_unref(s->loop);
    if (s->idle_timer)
        g_source_remove(s->idle_timer);
    g_free(s->identity);
    g_free(s->socket);
}

gboolean moji_serve(MojiServeOptions *options, GError **error)
{
    const char *given = g_getenv(MOJI_WIRE_IDENTITY_VARIABLE);
    Server s = {
        .loop = g_main_loop_new(NULL, FALSE),
        .options = options,
        .identity = given ? g_strdup(given) : moji_wire_identity("/proc/self/exe"),
        .jobs = g_async_queue_new(),
        .peers = g_hash_table_new_full(NULL, NULL, peer_free, NULL),
        .lock = -1,
    };
    moji_wire_interface();
    signal(SIGPIPE, SIG_IGN);
    options->already_running = FALSE;
    s.engine = moji_engine_new("auto", 0, error);
    gboolean ok = s.engine != NULL;
    if (ok) {
        moji_engine_set_previews(s.engine, TRUE);
        moji_engine_set_memory(s.engine, options->memory);
        s.worker = g_thread_new("draw", worker_run, &s);
        ok = options->stdio ? speak_on_stdio(&s, error) : listen_on_socket(&s, error);
    }
    if (ok) {
        if (!options->stdio)
            say(MOJI_WIRE_READY);
        run(&s);
    }
    if (options->already_running)
        say(MOJI_WIRE_RUNNING);
    server_end(&s);
    return ok || options->already_running;
}
