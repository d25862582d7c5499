/* redraw.c: see redraw.h.
 *
 * Writing goes through GIMP's shadow tiles, the only way that can be undone; merging them heeds the
 * selection, soft edges too, in the layer's own precision. */
#include "redraw.h"
#include "layer.h"
#include "recipe.h"
#include <glib/gi18n.h>

static gboolean refuse(GError **error, const char *text)
{
    g_set_error_literal(error, MOJI_ERROR, MOJI_ERROR_USAGE, text);
    return FALSE;
}

static gboolean check_layer(gint32 layer, GError **error)
{
    if (!gimp_item_is_valid(layer) || !gimp_item_is_layer(layer))
        return refuse(error, _("This is not a layer: choose the layer to be redrawn."));
    if (gimp_item_is_group(layer))
        return refuse(error, _("A layer group has no pixels of its own: choose a layer in it."));
    if (gimp_layer_is_floating_sel(layer))
        return refuse(error, _("Anchor the floating selection first."));
    if (gimp_item_get_lock_content(layer))
        return refuse(error, _("The pixels of this layer are locked."));
    return TRUE;
}

/* Everything of a drawable, in this format. */
static void get_all(gint32 drawable, const Babl *format, void *pixels)
{
    GeglRectangle all = {0, 0, gimp_drawable_width(drawable), gimp_drawable_height(drawable)};
    GeglBuffer *buffer = gimp_drawable_get_buffer(drawable);

    gegl_buffer_get(buffer, &all, 1.0, format, pixels, GEGL_AUTO_ROWSTRIDE, GEGL_ABYSS_NONE);
    g_object_unref(buffer);
}

static void put_all(gint32 drawable, const Babl *format, const void *pixels)
{
    int width = gimp_drawable_width(drawable), height = gimp_drawable_height(drawable);
    GeglRectangle all = {0, 0, width, height};
    GeglBuffer *shadow = gimp_drawable_get_shadow_buffer(drawable);

    gegl_buffer_set(shadow, &all, 0, format, pixels, GEGL_AUTO_ROWSTRIDE);
    g_object_unref(shadow); /* this is what sends the tiles */
    gimp_drawable_merge_shadow(drawable, TRUE);
    gimp_drawable_update(drawable, 0, 0, width, height);
}

/* --- out --- */

static void read_pixels(gint32 layer, MojiImage *image)
{
    const Babl *ours = babl_format("R'G'B'A u8"), *theirs = moji_layer_format(layer);
    GimpColorTransform *transform = moji_layer_transform(layer, TRUE);
    gsize pixels = (gsize)image->width * image->height;

    if (!transform) {
        get_all(layer, ours, image->rgba);
        return;
    }
    g_autofree guint8 *own = g_malloc_n(pixels, babl_format_get_bytes_per_pixel(theirs));
    get_all(layer, theirs, own);
    gimp_color_transform_process_pixels(transform, theirs, own, ours, image->rgba, pixels);
    g_object_unref(transform);
}

static gboolean read_selection(gint32 layer, MojiImage *image, GError **error)
{
    gint32 owner = gimp_item_get_image(layer);
    gsize pixels = (gsize)image->width * image->height;
    GeglRectangle all = {0, 0, image->width, image->height};
    GeglBuffer *selection;
    gboolean any = FALSE;

    if (gimp_selection_is_empty(owner))
        return TRUE;
    gimp_drawable_offsets(layer, &all.x, &all.y);
    image->mask = g_new(guint8, pixels);
    selection = gimp_drawable_get_buffer(gimp_image_get_selection(owner));
    gegl_buffer_get(selection, &all, 1.0, babl_format("Y u8"), image->mask, GEGL_AUTO_ROWSTRIDE,
                    GEGL_ABYSS_NONE);
    g_object_unref(selection);
    for (gsize i = 0; i < pixels; i++) {
        any |= image->mask[i] > 0;
        image->mask[i] = image->mask[i] ? 255 : 0;
    }
    return any || refuse(error, _("The selection does not touch this layer."));
}

MojiImage *moji_redraw_read(gint32 layer, GError **error)
{
    MojiImage *image;

    if (!check_layer(layer, error))
        return NULL;
    moji_layer_start_gegl();
    image = moji_image_new(gimp_drawable_width(layer), gimp_drawable_height(layer));
    read_pixels(layer, image);
    image->recipe = moji_recipe_of(layer);
    if (!read_selection(layer, image, error))
        g_clear_pointer(&image, moji_image_free);
    return image;
}

/* --- back in --- */

/* The engine's pixels as the layer's: [pixels, components]. Caller frees. */
static float *convert(gint32 layer, const MojiImage *drawn, int components)
{
    const Babl *ours = babl_format("R'G'B'A u8"), *theirs = moji_layer_format(layer);
    GimpColorTransform *transform = moji_layer_transform(layer, FALSE);
    gsize pixels = (gsize)drawn->width * drawn->height;
    float *own = g_new(float, pixels *components);

    if (transform) {
        gimp_color_transform_process_pixels(transform, ours, drawn->rgba, theirs, own, pixels);
        g_object_unref(transform);
    } else {
        babl_process(babl_fish(ours, theirs), drawn->rgba, own, (glong)pixels);
    }
    return own;
}

static gboolean same_pixel(const MojiImage *sent, const MojiImage *drawn, gsize i)
{
    return !memcmp(sent->rgba + 4 * i, drawn->rgba + 4 * i, 4) &&
           (!drawn->mask || (sent->mask && !sent->mask[i]));
}

/* to_alpha: what was cut out goes into the layer's alpha, there being no layer mask. */
static void write_pixels(gint32 layer, const MojiImage *sent, const MojiImage *drawn,
                         gboolean to_alpha)
{
    const Babl *format = moji_layer_format(layer);
    int n = babl_format_get_n_components(format);
    gsize pixels = (gsize)drawn->width * drawn->height;
    g_autofree float *old = g_new(float, pixels *n), *own = convert(layer, drawn, n);
    gboolean alpha = babl_format_has_alpha(format);

    get_all(layer, format, old);
    for (gsize i = 0; i < pixels; i++) {
        float *pixel = own + i * n;

        if (same_pixel(sent, drawn, i))
            memcpy(pixel, old + i * n, n * sizeof *pixel);
        else if (alpha && to_alpha)
            pixel[n - 1] *= drawn->mask[i] / 255.0f;
        else if (alpha && !drawn->mask)
            pixel[n - 1] = old[i * n + n - 1]; /* more of it than a byte holds */
    }
    put_all(layer, format, own);
}

/* Where the emoji was redrawn, the layer mask hides what is now its background. */
static gboolean write_mask(gint32 layer, gint32 mask, const MojiImage *sent, const MojiImage *drawn,
                           GError **error)
{
    gsize pixels = (gsize)drawn->width * drawn->height;
    g_autofree guint8 *own = g_new(guint8, pixels);

    if (mask < 0) {
        mask = gimp_layer_create_mask(layer, GIMP_ADD_MASK_WHITE);
        if (mask < 0 || !gimp_layer_add_mask(layer, mask))
            return refuse(error, _("GIMP could not make a layer mask"));
        gimp_layer_set_edit_mask(layer, FALSE);
    }
    get_all(mask, babl_format("Y u8"), own);
    for (gsize i = 0; i < pixels; i++)
        if (!sent->mask || sent->mask[i])
            own[i] = drawn->mask[i];
    put_all(mask, babl_format("Y u8"), own);
    return TRUE;
}

/* A name that the user gave stays. */
static void rename_layer(gint32 layer, const char *before, const char *after)
{
    g_autofree char *name = gimp_item_get_name(layer);
    g_autofree char *old = moji_layer_name(before), *new = moji_layer_name(after);

    if (before && !strcmp(name, old))
        gimp_item_set_name(layer, new);
}

gboolean moji_redraw_write(gint32 layer, const MojiImage *sent, const MojiImage *drawn,
                           GError **error)
{
    gint32 image, mask;
    gboolean to_alpha, done = TRUE;

    if (!check_layer(layer, error))
        return FALSE;
    if (gimp_drawable_width(layer) != drawn->width || gimp_drawable_height(layer) != drawn->height)
        return refuse(error, _("The layer has another size by now; nothing was changed."));
    moji_layer_start_gegl();
    image = gimp_item_get_image(layer);
    mask = gimp_layer_get_mask(layer);
    to_alpha = drawn->mask && mask < 0 && gimp_drawable_has_alpha(layer);
    gimp_image_undo_group_start(image);
    write_pixels(layer, sent, drawn, to_alpha);
    if (drawn->mask && !to_alpha)
        done = write_mask(layer, mask, sent, drawn, error);
    moji_recipe_attach(layer, drawn->recipe);
    rename_layer(layer, sent->recipe, drawn->recipe);
    gimp_image_undo_group_end(image);
    return done;
}
