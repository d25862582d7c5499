/* dialog.h: the window in which an emoji is asked for.
 *
 * It opens before the engine is there and stays usable while it draws; GIMP is never held up. */
#pragma once
#include "image.h"
#include "settings.h"

/* Puts a finished picture into GIMP. TRUE, and *note what to tell the user (g_free it, may be
 * NULL); FALSE with an error, and the window stays open. */
typedef gboolean (*MojiDeliverFn)(const MojiImage *picture, char **note, gpointer user_data,
                                  GError **error);

/* Runs the window until it is closed; the number of emojis that were delivered. hint: a line about
 * the image to show at the start, or NULL. gimp_ui_init must have been called. */
int moji_dialog_run(const char *procedure, const char *hint, MojiDeliverFn deliver,
                    gpointer user_data);
