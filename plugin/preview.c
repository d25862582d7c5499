/* preview.c: the picture in the window.
 *
 * The small pictures are scaled from the full one, as a chat program will do it, never from the
 * large preview: what matters is whether the face can still be read at 32 pixels. */
#include "preview.h"
#include "icons.h"

#define LARGE 256
#define SPACING 8

static const int small_sizes[] = {128, 64, 32};

struct MojiPreview {
    GtkWidget *box, *large, *small[G_N_ELEMENTS(small_sizes)];
};

MojiPreview *moji_preview_new(void)
{
    MojiPreview *p = g_new0(MojiPreview, 1);
    GtkWidget *frame = gtk_frame_new(NULL);
    GtkWidget *row = gtk_hbox_new(FALSE, SPACING);

    p->box = gtk_vbox_new(FALSE, SPACING);
    g_object_set_data_full(G_OBJECT(p->box), "preview", p, g_free);
    gtk_frame_set_shadow_type(GTK_FRAME(frame), GTK_SHADOW_IN);
    gtk_box_pack_start(GTK_BOX(p->box), frame, FALSE, FALSE, 0);
    p->large = gtk_image_new();
    gtk_widget_set_size_request(p->large, LARGE, LARGE);
    gtk_container_add(GTK_CONTAINER(frame), p->large);
    gtk_box_pack_start(GTK_BOX(p->box), row, FALSE, FALSE, 0);
    for (gsize i = 0; i < G_N_ELEMENTS(small_sizes); i++) {
        p->small[i] = gtk_image_new();
        gtk_widget_set_size_request(p->small[i], small_sizes[i], small_sizes[i]);
        gtk_misc_set_alignment(GTK_MISC(p->small[i]), 0.5, 0);
        gtk_box_pack_start(GTK_BOX(row), p->small[i], FALSE, FALSE, 0);
    }
    moji_preview_clear(p);
    gtk_widget_show_all(p->box);
    return p;
}

GtkWidget *moji_preview_widget(MojiPreview *p)
{
    return p->box;
}

void moji_preview_clear(MojiPreview *p)
{
    GdkPixbuf *icon = gdk_pixbuf_new_from_inline(-1, moji_icon_large, FALSE, NULL);
    GdkPixbuf *faint = gdk_pixbuf_new(GDK_COLORSPACE_RGB, TRUE, 8, gdk_pixbuf_get_width(icon),
                                      gdk_pixbuf_get_height(icon));

    gdk_pixbuf_fill(faint, 0);
    gdk_pixbuf_composite(icon, faint, 0, 0, gdk_pixbuf_get_width(icon), gdk_pixbuf_get_height(icon),
                         0, 0, 1, 1, GDK_INTERP_NEAREST, 110);
    gtk_image_set_from_pixbuf(GTK_IMAGE(p->large), faint);
    for (gsize i = 0; i < G_N_ELEMENTS(small_sizes); i++)
        gtk_image_clear(GTK_IMAGE(p->small[i]));
    g_object_unref(faint);
    g_object_unref(icon);
}

/* The longer side is `size`. */
static void fit(int width, int height, int size, int *fit_width, int *fit_height)
{
    int longer = MAX(width, height);

    *fit_width = MAX(1, width * size / longer);
    *fit_height = MAX(1, height * size / longer);
}

void moji_preview_set_rough(MojiPreview *p, const guint8 *rgb, int width, int height)
{
    GdkPixbuf *rough = gdk_pixbuf_new_from_data(rgb, GDK_COLORSPACE_RGB, FALSE, 8, width, height,
                                                width * 3, NULL, NULL);
    GdkPixbuf *scaled;
    int w, h;

    fit(width, height, LARGE, &w, &h);
    scaled = gdk_pixbuf_scale_simple(rough, w, h, GDK_INTERP_BILINEAR);
    gtk_image_set_from_pixbuf(GTK_IMAGE(p->large), scaled);
    g_object_unref(scaled);
    g_object_unref(rough);
}

/* The picture as it will look, its mask already in its alpha. */
static GdkPixbuf *masked(const MojiImage *picture)
{
    GdkPixbuf *pixbuf =
        gdk_pixbuf_new(GDK_COLORSPACE_RGB, TRUE, 8, picture->width, picture->height);
    guint8 *rows = gdk_pixbuf_get_pixels(pixbuf);
    int stride = gdk_pixbuf_get_rowstride(pixbuf);

    for (int y = 0; y < picture->height; y++) {
        const guint8 *from = picture->rgba + (gsize)y * picture->width * 4;
        const guint8 *mask = picture->mask ? picture->mask + (gsize)y * picture->width : NULL;
        guint8 *to = rows + (gsize)y * stride;

        memcpy(to, from, (gsize)picture->width * 4);
        for (int x = 0; mask && x < picture->width; x++)
            to[4 * x + 3] = (guint8)((from[4 * x + 3] * mask[x] + 127) / 255);
    }
    return pixbuf;
}

static void show_at(GtkWidget *image, GdkPixbuf *pixbuf, int size, int check)
{
    GdkPixbuf *scaled;
    int w, h;

    fit(gdk_pixbuf_get_width(pixbuf), gdk_pixbuf_get_height(pixbuf), size, &w, &h);
    scaled = gdk_pixbuf_composite_color_simple(pixbuf, w, h, GDK_INTERP_BILINEAR, 255, check,
                                               0xffffff, 0xe4e4e4);
    gtk_image_set_from_pixbuf(GTK_IMAGE(image), scaled);
    g_object_unref(scaled);
}

void moji_preview_set_picture(MojiPreview *p, const MojiImage *picture)
{
    GdkPixbuf *pixbuf = masked(picture);

    show_at(p->large, pixbuf, LARGE, 16);
    for (gsize i = 0; i < G_N_ELEMENTS(small_sizes); i++)
        show_at(p->small[i], pixbuf, small_sizes[i], 8);
    g_object_unref(pixbuf);
}
