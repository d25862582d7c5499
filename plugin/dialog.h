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

/* What the window is for. */
typedef struct {
    const char *procedure;
    const char *hint; /* a line to show at the start, or NULL */
    MojiDeliverFn deliver;
    gpointer user_data;
    /* An emoji is changed, not made. */
    gboolean edit;
    const char *recipe; /* its recipe, or NULL */
    /* Adds the picture as it is now to a request that is about to be drawn. */
    gboolean (*add_picture)(MojiRequest *r, gpointer user_data, GError **error);
} MojiDialogTask;

/* Runs the window until it is closed; the number of emojis that were delivered. gimp_ui_init must
 * have been called. */
int moji_dialog_run(const MojiDialogTask *task);
