/* work.h: the plug-in's dealings with the engine: where it is, drawing without a window, and what
 * to tell the user meanwhile and afterwards. */
#pragma once
#include "client.h"
#include "settings.h"

/* A client for the engine of these settings, or MOJI_ERROR_FILE that says where it was looked for
 * and what to do. Looked for, in this order: the settings' own command, MOJI_ENGINE in the
 * environment, "moji" beside the plug-in, the path written in "engine.path" beside the plug-in,
 * ~/.local/bin/moji, and the search path. Nothing is started yet. */
MojiClient *moji_work_client(const MojiSettings *s, GError **error);

/* Draws while GIMP's own progress bar moves; blocks. The one picture, or NULL. */
MojiImage *moji_work_draw(MojiClient *client, const MojiRequest *request, GError **error);

/* "Step 3 of 20", in the user's language: g_free it. */
char *moji_work_phase(const MojiProgress *progress);
/* How much of the whole is done, 0 to 1; below 0 while that cannot be told. */
double moji_work_fraction(const MojiProgress *progress);
/* The error for a user: what kind of thing went wrong in their language, then the engine's own
 * words. g_free it. */
char *moji_work_sentence(const GError *error);
/* What the engine says about a picture it drew all the same, or NULL. g_free it. */
char *moji_work_warning(const MojiRequest *request, const MojiImage *picture);
