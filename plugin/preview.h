/* preview.h: the picture in the window: large, and at the sizes an emoji is looked at.
 *
 * Rough pictures come while the engine draws, the finished one with its cut-out over squares. */
#pragma once
#include <gtk/gtk.h>
#include "image.h"

typedef struct MojiPreview MojiPreview;

/* The widget belongs to GTK once it is packed; the struct lives as long as the widget. */
MojiPreview *moji_preview_new(void);
GtkWidget *moji_preview_widget(MojiPreview *p);
void moji_preview_clear(MojiPreview *p);
void moji_preview_set_rough(MojiPreview *p, const guint8 *rgb, int width, int height);
void moji_preview_set_picture(MojiPreview *p, const MojiImage *picture);
