/* backend.c: from a name to a backend. */
#include "backend.h"

MojiBackend *moji_backend_open(const char *name, int threads, GError **error)
{
    if (!name || g_str_equal(name, "auto") || g_str_equal(name, "cpu"))
        return moji_backend_cpu(threads, error);
    g_set_error(error, MOJI_ERROR, MOJI_ERROR_USAGE,
                "There is no backend \"%s\" here, expected \"auto\" or \"cpu\"", name);
    return NULL;
}

void moji_backend_close(MojiBackend *b)
{
    if (b)
        b->close(b);
}
