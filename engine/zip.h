/* zip.h: the entries of a zip archive in memory, in place.
 *
 * For PyTorch's archives, whose entries are always stored as they are: a reader of those alone can
 * hand out pointers into the map of the file, which a zip library would copy, and has nothing to
 * unpack that could be larger than the file. Compressed or encrypted entries are errors. Checksums
 * are not looked at: that would read gigabytes to learn what the sizes tell of a file cut short.
 * Format: PKWARE's APPNOTE 6.3, with zip64. */
#pragma once
#include "error.h"

typedef struct MojiZip MojiZip;

/* file must stay; path is for errors. NULL and MOJI_ERROR_FILE if anything does not agree. */
MojiZip *moji_zip_open(const guint8 *file, gsize bytes, const char *path, GError **error);
void moji_zip_free(MojiZip *z); /* NULL is fine */
/* FALSE if there is no such entry. */
gboolean moji_zip_find(const MojiZip *z, const char *name, const guint8 **data, gsize *bytes);
/* The one entry whose name ends so; NULL if there are none or several. Owned by z. */
const char *moji_zip_name(const MojiZip *z, const char *suffix);
