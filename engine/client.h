/* client.h: talk to the resident engine, starting it if it is not there. Needs GIO only.
 *
 *     MojiClient *client = moji_client_new(NULL);
 *     moji_client_draw_async(client, request, on_progress, self, cancellable, on_done, self);
 *     ... a GLib main loop runs ...
 *     GPtrArray *images = moji_client_draw_finish(client, result, &error);
 *
 * The engine is `moji serve` on a private socket in the user's runtime directory. If its process
 * dies in mid-drawing the call ends with MOJI_ERROR_BACKEND and a sentence for the user, and the
 * next call starts a new one. Callbacks come in the main context that was the thread-default when
 * the call began. Link with client.c, wire.c, request.c, image.c, json.c and error.c. */
#pragma once
#include <gio/gio.h>
#include "request.h"
#include "draw.h"

typedef struct MojiClient MojiClient;

/* command: how to start an engine that speaks on standard input and output, as
 * "ssh gpubox moji serve --stdio"; NULL: the program given by MOJI_ENGINE in the environment or
 * "moji" beside this program, in ../libexec or on the path, resident on the user's socket. */
MojiClient *moji_client_new(const char *command);
/* Calls under way still come to their end. NULL is fine. */
void moji_client_free(MojiClient *client);
/* Where the `moji` program is, if the caller knows better (a plug-in knows its own folder).
 * MOJI_ENGINE in the environment still goes first. */
void moji_client_set_program(MojiClient *client, const char *path);

/* Same progress struct as draw.h. Cancelling ends the call with MOJI_ERROR_CANCELLED at once and
 * tells the engine to stop. Several calls may be under way; the engine takes them in order. */
void moji_client_draw_async(MojiClient *client, const MojiRequest *request, MojiProgressFn progress,
                            gpointer progress_data, GCancellable *cancellable,
                            GAsyncReadyCallback done, gpointer user_data);
/* MojiImage* elements, freed with the array; NULL on error. */
GPtrArray *moji_client_draw_finish(MojiClient *client, GAsyncResult *result, GError **error);

/* Facts about a model (NULL: the bundled one): a{sv} with "name" s, "styles" as, "default-style" s,
 * "backgrounds" as, "default-background" s, "samplers" as, "steps" i, "guidance" d,
 * "strength" d, "size" i, "engine" s. Caller unrefs. Blocks, starting the engine if need be. */
GVariant *moji_client_info(MojiClient *client, const char *model, GError **error);

/* Cuts the background out of pixels (cutout.h), which are replaced. Blocks. */
gboolean moji_client_cutout(MojiClient *client, MojiImage *image, GError **error);
