/* backend.c: from a name to a backend, and the shared object with CUDA.
 *
 * The surprising rule: the driver is looked for before the shared object, which drags in hundreds
 * of megabytes of libraries; a machine without one should not wait for them. */
#include "backend.h"
#include <dlfcn.h>

#define LIBRARY "libmoji-cuda.so"

typedef MojiBackend *(*OpenFn)(int abi, GError **error);

static gboolean refuse(GError **error, const char *format, ...) G_GNUC_PRINTF(2, 3);
static gboolean refuse(GError **error, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    g_autofree char *text = g_strdup_vprintf(format, args);
    va_end(args);
    g_set_error(error, MOJI_ERROR, MOJI_ERROR_BACKEND, "CUDA cannot be used: %s", text);
    return FALSE;
}

/* NULL if it is nowhere. Caller frees. MOJI_CUDA names another one, for the tests. */
static char *find_library(void)
{
    if (g_getenv("MOJI_CUDA"))
        return g_strdup(g_getenv("MOJI_CUDA"));
    static const char *const places[] = {".", "..", "../lib/moji"};
    g_autofree char *program = g_file_read_link("/proc/self/exe", NULL);
    g_autofree char *folder = program ? g_path_get_dirname(program) : NULL;
    for (gsize i = 0; folder && i < G_N_ELEMENTS(places); i++) {
        g_autofree char *path = g_build_filename(folder, places[i], LIBRARY, NULL);
        if (g_file_test(path, G_FILE_TEST_IS_REGULAR))
            return g_steal_pointer(&path);
    }
    return NULL;
}

/* The driver's and our own object stay open until the program ends. */
static gboolean load(const char *path, OpenFn *open_fn, GError **error)
{
    if (!g_getenv("MOJI_CUDA") && !dlopen("libcuda.so.1", RTLD_LAZY))
        return refuse(error, "there is no NVIDIA driver (libcuda.so.1)");
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!library)
        return refuse(error, "%s", dlerror());
    *open_fn = (OpenFn)dlsym(library, "moji_backend_cuda");
    return *open_fn || refuse(error, "%s is not moji's", path);
}

static MojiBackend *open_cuda(GError **error)
{
    OpenFn open_fn = NULL;
    g_autofree char *path = find_library();
    if (path)
        return load(path, &open_fn, error) ? open_fn(MOJI_BACKEND_ABI, error) : NULL;
    refuse(error, LIBRARY " is not installed");
    return NULL;
}

static MojiBackend *open_best(int threads, GError **error)
{
    g_autoptr(GError) why = NULL;
    g_autofree char *installed = find_library();
    MojiBackend *b = installed ? open_cuda(&why) : NULL;
    if (b)
        return b;
    b = moji_backend_cpu(threads, error);
    if (b && installed)
        b->note = g_strdup(why->message);
    return b;
}

MojiBackend *moji_backend_open(const char *name, int threads, GError **error)
{
    if (!name || g_str_equal(name, "auto"))
        return open_best(threads, error);
    if (g_str_equal(name, "cpu"))
        return moji_backend_cpu(threads, error);
    if (g_str_equal(name, "cuda"))
        return open_cuda(error);
    g_set_error(error, MOJI_ERROR, MOJI_ERROR_USAGE,
                "There is no backend \"%s\", expected \"auto\", \"cpu\" or \"cuda\"", name);
    return NULL;
}

void moji_backend_close(MojiBackend *b)
{
    if (!b)
        return;
    g_free(b->note);
    b->close(b);
}
