/* form.h: the fields of the window, as widgets and as settings.
 *
 *     MojiForm *form = moji_form_new(PROC_DRAW, FALSE);
 *     moji_form_show(form, settings);
 *     ... the user types ...
 *     moji_form_read(form, settings);
 *
 * The fields can be filled before anything is known of the model; moji_form_tell adds what the
 * engine says about it. */
#pragma once
#include <gtk/gtk.h>
#include "settings.h"

typedef struct MojiForm MojiForm;

/* The struct lives as long as its widget, which belongs to GTK once it is packed. */
MojiForm *moji_form_new(const char *help_id, gboolean edit); /* edit: with a strength */
GtkWidget *moji_form_widget(MojiForm *f);
void moji_form_show(MojiForm *f, const MojiSettings *s);
void moji_form_read(MojiForm *f, MojiSettings *s);
/* info: of moji_client_info, or NULL when it is not known (any more). */
void moji_form_tell(MojiForm *f, GVariant *info);
void moji_form_set_seed(MojiForm *f, gint64 seed);
void moji_form_focus(MojiForm *f); /* to the prompt, its text selected */
/* Called when the model or the engine's command was changed. */
void moji_form_on_engine(MojiForm *f, void (*changed)(gpointer user_data), gpointer user_data);
