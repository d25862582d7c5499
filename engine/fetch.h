/* fetch.h: models from the net, into the user's folder of models (folder.h).
 *
 *     MojiFetch *f = moji_fetch_new("sd14", NULL, cancel, &error);  // asks the server what there
 * is
 *     ... f->licence, f->bytes ...
 *     char *path = moji_fetch_run(f, on_progress, NULL, cancel, &error);
 *     moji_fetch_free(f);
 *
 * What: "sd14" (CompVis/stable-diffusion-v1-4), a repository of Hugging Face ("owner/name"), of
 * which only the files that drawing needs are taken, or the URL of one file. What arrived before an
 * interruption is kept and continued, if the server can, from the same version of the file. A model
 * is in its place only when every file's size and, where the server names one, SHA-256 agree. */
#pragma once
#include <gio/gio.h>
#include "error.h"

typedef struct {
    char *url, *path; /* path: in the model's folder, "unet/config.json" */
    gint64 bytes;     /* -1: not known before */
    char *sha256;     /* or NULL */
} MojiFetchFile;

typedef struct {
    char *name;       /* in the folder of models */
    char *source;     /* for people: "CompVis/stable-diffusion-v1-4" or the URL */
    char *licence;    /* what the server calls it, "creativeml-openrail-m"; NULL if nothing */
    char *page;       /* where it can be read; NULL for a URL */
    char *token;      /* who asks, or NULL */
    gboolean folder;  /* else one file */
    GPtrArray *files; /* of MojiFetchFile* */
    gint64 bytes;     /* all together, as far as known */
} MojiFetch;

/* sha256: of the one file of a URL, or NULL. token: for what is gated; NULL: HF_TOKEN of the
 * environment. It is sent to Hugging Face (or MOJI_FETCH_ENDPOINT) alone, and never in the clear.
 * MOJI_ERROR_USAGE for a word that is none of the above; MOJI_ERROR_FILE where the server has no
 * such thing, keeps it from you, or has nothing to draw with. */
MojiFetch *moji_fetch_new(const char *what, const char *sha256, const char *token,
                          GCancellable *cancel, GError **error);
void moji_fetch_free(MojiFetch *f); /* NULL is fine */

/* Whether this user has accepted the licence for this source before, and that he does. */
gboolean moji_fetch_accepted(const MojiFetch *f);
gboolean moji_fetch_accept(const MojiFetch *f, GError **error);

/* done, total: bytes of all files; total -1 if not known. */
typedef void (*MojiFetchProgress)(const char *path, gint64 done, gint64 total, gpointer user_data);

/* The path of the model; caller frees. Done at once if it is there already. */
char *moji_fetch_run(const MojiFetch *f, MojiFetchProgress progress, gpointer user_data,
                     GCancellable *cancel, GError **error);
