/* wire.c: see wire.h. Both sides link this, so neither can drift from the other. */
#include "wire.h"
#include <errno.h>
#include <glib/gstdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

static const char INTERFACE[] =
    "<node><interface name='" MOJI_WIRE_INTERFACE "'>"
    "<method name='Hello'>"
    "  <arg name='protocol' type='u' direction='in'/>"
    "  <arg name='protocol' type='u' direction='out'/>"
    "  <arg name='version' type='s' direction='out'/>"
    "  <arg name='identity' type='s' direction='out'/>"
    "</method>"
    "<method name='Draw'>"
    "  <arg name='id' type='u' direction='in'/>"
    "  <arg name='request' type='a{sv}' direction='in'/>"
    "  <arg name='pictures' type='u' direction='out'/>"
    "</method>"
    "<method name='Cancel'><arg name='id' type='u' direction='in'/></method>"
    "<method name='Info'>"
    "  <arg name='model' type='s' direction='in'/>"
    "  <arg name='facts' type='a{sv}' direction='out'/>"
    "</method>"
    "<method name='Cutout'>"
    "  <arg name='image' type='(iiayays)' direction='in'/>"
    "  <arg name='image' type='(iiayays)' direction='out'/>"
    "</method>"
    "<method name='Quit'/>"
    "<signal name='Progress'><arg name='progress' type='(uiiiiiiiay)'/></signal>"
    "<signal name='Picture'>"
    "  <arg name='id' type='u'/>"
    "  <arg name='image' type='(iiayays)'/>"
    "</signal>"
    "</interface></node>";

static const GDBusErrorEntry ERRORS[] = {
    {MOJI_ERROR_USAGE, "org.moji.Error.Usage"},
    {MOJI_ERROR_FILE, "org.moji.Error.File"},
    {MOJI_ERROR_MEMORY, "org.moji.Error.Memory"},
    {MOJI_ERROR_CANCELLED, "org.moji.Error.Cancelled"},
    {MOJI_ERROR_BACKEND, "org.moji.Error.Backend"},
    {MOJI_ERROR_NOT_FLAT, "org.moji.Error.NotFlat"},
};

static gpointer interface_parse(gpointer unused)
{
    (void)unused;
    g_autoptr(GError) error = NULL;
    GDBusNodeInfo *node = g_dbus_node_info_new_for_xml(INTERFACE, &error);
    g_assert_no_error(error);
    for (gsize i = 0; i < G_N_ELEMENTS(ERRORS); i++)
        g_dbus_error_register_error(MOJI_ERROR, ERRORS[i].error_code, ERRORS[i].dbus_error_name);
    return node;
}

GDBusInterfaceInfo *moji_wire_interface(void)
{
    static GOnce once = G_ONCE_INIT;
    GDBusNodeInfo *node = g_once(&once, interface_parse, NULL);
    return node->interfaces[0];
}

/* Declared in draw.h; here because a client links this file and not the engine. */
const char *moji_phase_name(MojiPhase phase)
{
    static const char *const NAMES[] = {"loading", "text", "step", "decoding", "cutout"};
    g_assert(phase >= MOJI_PHASE_LOADING && phase <= MOJI_PHASE_CUTOUT);
    return NAMES[phase];
}

char *moji_wire_identity(const char *program)
{
    struct stat s;
    if (!program || stat(program, &s))
        return g_strdup("");
    return g_strdup_printf("%" G_GINT64_FORMAT "-%" G_GINT64_FORMAT ".%09ld", (gint64)s.st_size,
                           (gint64)s.st_mtim.tv_sec, (long)s.st_mtim.tv_nsec);
}

/* Somebody else's folder, or one that others may enter, could hold somebody else's socket. */
static gboolean folder_is_private(const char *path, GError **error)
{
    struct stat s;
    if (g_mkdir_with_parents(path, 0700) || lstat(path, &s)) {
        g_set_error(error, MOJI_ERROR, MOJI_ERROR_FILE, "%s: cannot be made: %s", path,
                    g_strerror(errno));
        return FALSE;
    }
    if (!S_ISDIR(s.st_mode) || s.st_uid != geteuid() || (s.st_mode & 077)) {
        g_set_error(error, MOJI_ERROR, MOJI_ERROR_FILE,
                    "%s: the engine's socket needs a folder of mode 0700 that is yours; found %s "
                    "of user %u, mode %04o",
                    path, S_ISDIR(s.st_mode) ? "a folder" : "something else", (guint)s.st_uid,
                    (guint)s.st_mode & 07777);
        return FALSE;
    }
    return TRUE;
}

char *moji_wire_folder(GError **error)
{
    const char *runtime = g_getenv("XDG_RUNTIME_DIR");
    g_autofree char *folder = runtime && *runtime
                                  ? g_build_filename(runtime, "moji", NULL)
                                  : g_build_filename(g_get_user_cache_dir(), "moji", "run", NULL);
    struct sockaddr_un address;
    if (strlen(folder) + sizeof "/engine.sock" > sizeof address.sun_path) {
        g_free(folder);
        folder = g_strdup_printf("%s/moji-%u", g_get_tmp_dir(), (guint)geteuid());
    }
    return folder_is_private(folder, error) ? g_steal_pointer(&folder) : NULL;
}

char *moji_wire_log_path(void)
{
    g_autofree char *folder = g_build_filename(g_get_user_cache_dir(), "moji", NULL);
    g_mkdir_with_parents(folder, 0700);
    return g_build_filename(folder, "engine.log", NULL);
}

GVariant *moji_wire_progress(guint32 id, const MojiProgress *p)
{
    gsize bytes = p->preview ? (gsize)p->preview_width * p->preview_height * 3 : 0;
    return g_variant_new("(uiiiiiii@ay)", id, p->phase, p->step, p->steps, p->image, p->images,
                         p->preview ? p->preview_width : 0, p->preview ? p->preview_height : 0,
                         g_variant_new_fixed_array(G_VARIANT_TYPE_BYTE, p->preview, bytes, 1));
}

gboolean moji_wire_read_progress(GVariant *v, guint32 *id, MojiProgress *p)
{
    g_autoptr(GVariant) preview = NULL;
    int phase;
    gsize bytes;
    g_variant_get(v, "(uiiiiiii@ay)", id, &phase, &p->step, &p->steps, &p->image, &p->images,
                  &p->preview_width, &p->preview_height, &preview);
    const guint8 *data = g_variant_get_fixed_array(preview, &bytes, 1);
    p->phase = phase;
    p->preview = bytes ? data : NULL;
    int w = p->preview_width, h = p->preview_height;
    return phase >= MOJI_PHASE_LOADING && phase <= MOJI_PHASE_CUTOUT && w >= 0 && h >= 0 &&
           w <= 4096 && h <= 4096 && (gsize)w * h * 3 == bytes;
}

GError *moji_wire_error(GError *e)
{
    moji_wire_interface(); /* the peer's errors must be registered to be recognised */
    g_dbus_error_strip_remote_error(e);
    if (e->domain == MOJI_ERROR)
        return e;
    GError *own = g_error_new_literal(MOJI_ERROR,
                                      g_error_matches(e, G_IO_ERROR, G_IO_ERROR_CANCELLED)
                                          ? MOJI_ERROR_CANCELLED
                                          : MOJI_ERROR_BACKEND,
                                      e->message);
    g_error_free(e);
    return own;
}
