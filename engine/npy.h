/* npy.h: writes a host array as numpy's .npy file, format 1.0, little endian, C order. */
#pragma once
#include "tape.h"

/* type MOJI_F32 or MOJI_I32. FOLDER/NAME.npy; the folder is made. MOJI_ERROR_FILE. */
gboolean moji_npy_write(const char *folder, const char *name, MojiType type, int rank,
                        const gint64 *dim, const void *data, GError **error);
