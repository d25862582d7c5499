/* error.c: the one error domain of libmoji. */
#include "error.h"

/* clang-format off: it would take the name's hyphens for minus signs */
G_DEFINE_QUARK(moji - error - quark, moji_error)
/* clang-format on */

void moji_error_file(GError **error, const char *path, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    g_autofree char *text = g_strdup_vprintf(format, args);
    va_end(args);
    g_autofree char *name = g_filename_display_name(path);
    g_set_error(error, MOJI_ERROR, MOJI_ERROR_FILE, "%s: %s", name, text);
}
