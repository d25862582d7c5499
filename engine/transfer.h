/* transfer.h: one file over HTTP by libcurl. Without libcurl when building, both are errors. */
#pragma once
#include <gio/gio.h>
#include "error.h"

/* done: bytes of this file so far. */
typedef void (*MojiTransferProgress)(gint64 done, gpointer user_data);

/* Brings a URL to path. A file there is the beginning of it and is continued, if path with ".etag"
 * says of which version; a connection that breaks is taken up again while anything arrives. bytes:
 * what the whole must have, or -1. On failure what arrived stays, save where it is wrong. token:
 * who asks, or NULL; the url's host alone hears it, not one that it redirects to. */
gboolean moji_transfer(const char *url, const char *path, gint64 bytes, const char *token,
                       MojiTransferProgress progress, gpointer user_data, GCancellable *cancel,
                       GError **error);
/* A small text (up to 16 MB). Caller frees. */
char *moji_transfer_text(const char *url, const char *token, GCancellable *cancel, GError **error);
