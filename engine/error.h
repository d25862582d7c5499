/* error.h: what can go wrong, by who can act on it.
 *
 * A user's file or machine is at fault: a GError of this domain, whose text names the file, the
 * thing in it, what was found and what was expected. We are at fault: g_assert, with both shapes
 * printed where shapes are concerned. The library never prints and never exits. */
#pragma once
#include <glib.h>

typedef enum {
    MOJI_ERROR_USAGE,     /* a setting out of range or unknown: ask again */
    MOJI_ERROR_FILE,      /* a file that is missing, damaged or not what it should be */
    MOJI_ERROR_MEMORY,    /* not enough memory for this request */
    MOJI_ERROR_CANCELLED, /* the caller's GCancellable was cancelled */
    MOJI_ERROR_BACKEND,   /* the processor, oneDNN, CUDA, or the engine process failed */
    MOJI_ERROR_NOT_FLAT,  /* a cut-out was asked for and the background is not flat */
} MojiError;

#define MOJI_ERROR moji_error_quark()
GQuark moji_error_quark(void);

/* Sets MOJI_ERROR_FILE with the text "PATH: ..."; the path is shown as UTF-8 whatever its bytes. */
void moji_error_file(GError **error, const char *path, const char *format, ...) G_GNUC_PRINTF(3, 4);
