/* fuzz_socket.c: any bytes as what a peer may send to the engine, or an engine to its client. The
 * first byte chooses: 0 a D-Bus message; 1 the handshake and what follows it, as on standard input;
 * 2 to 4 the serialised values of a request, a picture, progress. */
#include "request.h"
#include "wire.h"

static void take_request(GVariant *v)
{
    GError *error = NULL;
    MojiRequest *r = moji_request_from_variant(v, &error);
    g_assert(!r == (error != NULL));
    g_clear_error(&error);
    if (r && moji_request_check(r, NULL)) {
        /* What passes the checks travels on unchanged. */
        g_autoptr(GVariant) sent = g_variant_ref_sink(moji_request_to_variant(r));
        g_autoptr(MojiRequest) back = moji_request_from_variant(sent, NULL);
        g_assert(back && back->seed == r->seed && back->size == r->size);
        g_assert_cmpstr(back->prompt, ==, r->prompt);
    }
    moji_request_free(r);
}

static void take_image(GVariant *v)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(MojiImage) image = moji_image_from_variant(v, &error);
    g_assert(!image == (error != NULL));
    if (image)
        image->rgba[(gsize)image->width * image->height * 4 - 1] ^= 1;
}

static void take_progress(GVariant *v)
{
    MojiProgress p;
    guint32 id;
    if (!moji_wire_read_progress(v, &id, &p))
        return;
    g_assert(moji_phase_name(p.phase));
    volatile guint8 last = 0;
    if (p.preview)
        last = p.preview[(gsize)p.preview_width * p.preview_height * 3 - 1];
    (void)last;
}

static void take_body(GVariant *body)
{
    for (gsize i = 0; i < g_variant_n_children(body); i++) {
        g_autoptr(GVariant) v = g_variant_get_child_value(body, i);
        if (g_variant_is_of_type(v, G_VARIANT_TYPE_VARDICT))
            take_request(v);
        else if (g_variant_is_of_type(v, G_VARIANT_TYPE("(iiayays)")))
            take_image(v);
        else if (g_variant_is_of_type(v, G_VARIANT_TYPE("(uiiiiiiiay)")))
            take_progress(v);
    }
}

static void take_message(const guint8 *data, gsize bytes)
{
    g_autofree guint8 *copy = g_memdup2(data, bytes);
    g_autoptr(GDBusMessage) message =
        g_dbus_message_new_from_blob(copy, bytes, G_DBUS_CAPABILITY_FLAGS_UNIX_FD_PASSING, NULL);
    GVariant *body = message ? g_dbus_message_get_body(message) : NULL;
    if (body && g_variant_is_of_type(body, G_VARIANT_TYPE_TUPLE))
        take_body(body);
}

static void take_handshake(const guint8 *data, gsize bytes)
{
    g_autoptr(GInputStream) in = g_memory_input_stream_new_from_data(data, bytes, NULL);
    g_autoptr(GOutputStream) out = g_memory_output_stream_new_resizable();
    g_autoptr(GIOStream) stream = g_simple_io_stream_new(in, out);
    g_autofree char *guid = g_dbus_generate_guid();
    g_autoptr(GDBusConnection) connection =
        g_dbus_connection_new_sync(stream, guid,
                                   G_DBUS_CONNECTION_FLAGS_AUTHENTICATION_SERVER |
                                       G_DBUS_CONNECTION_FLAGS_AUTHENTICATION_ALLOW_ANONYMOUS,
                                   NULL, NULL, NULL);
    if (connection)
        g_dbus_connection_close_sync(connection, NULL, NULL);
    while (g_main_context_iteration(NULL, FALSE))
        ;
}

static void take_serialised(const guint8 *data, gsize bytes, const char *type,
                            void (*take)(GVariant *))
{
    g_autoptr(GBytes) copy = g_bytes_new(data, bytes);
    g_autoptr(GVariant) v =
        g_variant_ref_sink(g_variant_new_from_bytes(G_VARIANT_TYPE(type), copy, FALSE));
    g_autoptr(GVariant) normal = g_variant_get_normal_form(v);
    take(normal);
}

static GLogWriterOutput be_quiet(GLogLevelFlags level, const GLogField *fields, gsize n, gpointer d)
{
    (void)level, (void)fields, (void)n, (void)d;
    return G_LOG_WRITER_HANDLED;
}

/* GDBus warns of each malformed message. */
int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    g_log_set_writer_func(be_quiet, NULL, NULL);
    moji_wire_interface();
    return 0;
}

int LLVMFuzzerTestOneInput(const guint8 *data, size_t bytes)
{
    if (bytes < 1)
        return 0;
    switch (data[0]) {
    case 0:
        take_message(data + 1, bytes - 1);
        break;
    case 1:
        take_handshake(data + 1, bytes - 1);
        break;
    case 2:
        take_serialised(data + 1, bytes - 1, "a{sv}", take_request);
        break;
    case 3:
        take_serialised(data + 1, bytes - 1, "(iiayays)", take_image);
        break;
    case 4:
        take_serialised(data + 1, bytes - 1, "(uiiiiiiiay)", take_progress);
        break;
    }
    return 0;
}
