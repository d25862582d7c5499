/* save.h: writing safetensors files, and putting files in place all at once. */
#pragma once
#include <gio/gio.h>
#include "weights.h"

typedef struct {
    const MojiWeight *from;
    char *name; /* in the new file */
    int rank;   /* there too: the same numbers in another shape */
    gint64 dim[MOJI_MAX_RANK];
    MojiType type; /* from's, or MOJI_F32, MOJI_F16 or MOJI_BF16 if from's is one of those */
} MojiSaved;

/* Writes to a temporary file beside path and renames it once all is on the disk: path is there
 * whole or not at all. list: of MojiSaved*. metadata: char* -> char*, or NULL. Memory does not grow
 * with the tensors. MOJI_ERROR_FILE also for a number that the type cannot hold, by tensor. */
gboolean moji_save_safetensors(const char *path, GPtrArray *list, GHashTable *metadata,
                               GCancellable *cancel, GError **error);

/* n numbers from one float type to another, rounded to the nearest, to even at halves. Returns how
 * many became infinite. Neither side need be aligned. */
gsize moji_save_convert(void *to, MojiType to_type, const void *from, MojiType from_type, gsize n);

/* Renames a file or folder and has the folder it is in on the disk. */
gboolean moji_save_rename(const char *from, const char *to, GError **error);
/* Has a file on the disk and closes it. */
gboolean moji_save_close(int file, const char *path, GError **error);
/* Removes a folder with all in it; a file too. */
void moji_save_remove(const char *path);
