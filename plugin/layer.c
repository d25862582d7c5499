/* layer.c: the engine's pixels into GEGL buffers.
 *
 * GIMP 2.10 hands plug-ins a buffer's format by name only: its colour space is lost on the way, so
 * GEGL would put sRGB values unchanged into an image that is in another space. With a profile in
 * the image the conversion is therefore ours. */
#include "layer.h"
#include "recipe.h"
#include <glib/gi18n.h>

#define NAME_MAX_LENGTH 48

static gboolean fail(GError **error, const char *text)
{
    g_set_error(error, MOJI_ERROR, MOJI_ERROR_BACKEND, "%s: %s", text,
                gimp_get_pdb_error() ? gimp_get_pdb_error() : "");
    return FALSE;
}

/* The prompt in one line, cut at a word's end where there is one, and the seed: enough to tell
 * twenty drawings apart in the Layers dialog. */
char *moji_layer_name(const char *recipe)
{
    g_autofree char *prompt = moji_recipe_text(recipe, "prompt");
    gint64 seed = moji_recipe_seed(recipe);
    g_autoptr(GString) name = g_string_new(NULL);
    g_auto(GStrv) words = g_strsplit_set(prompt ? prompt : _("Emoji"), " \t\r\n", -1);

    for (int i = 0; words[i]; i++) {
        if (!*words[i])
            continue;
        if (name->len &&
            g_utf8_strlen(name->str, -1) + g_utf8_strlen(words[i], -1) >= NAME_MAX_LENGTH) {
            g_string_append(name, "…");
            break;
        }
        g_string_append_printf(name, "%s%s", name->len ? " " : "", words[i]);
    }
    if (g_utf8_strlen(name->str, -1) > NAME_MAX_LENGTH + 1) { /* the first word is a long one */
        g_string_truncate(name, g_utf8_offset_to_pointer(name->str, NAME_MAX_LENGTH) - name->str);
        g_string_append(name, "…");
    }
    if (seed >= 0)
        g_string_append_printf(name, " (%" G_GINT64_FORMAT ")", seed);
    return g_strdup(name->str);
}

static GimpImageType layer_type(gint32 image)
{
    switch (gimp_image_base_type(image)) {
    case GIMP_GRAY:
        return GIMP_GRAYA_IMAGE;
    case GIMP_INDEXED:
        return GIMP_INDEXEDA_IMAGE;
    default:
        return GIMP_RGBA_IMAGE;
    }
}

/* The layer's own colour model in float: values that are already in the image's profile go in
 * unchanged. A palette is matched in R'G'B'. */
const Babl *moji_layer_format(gint32 layer)
{
    const Babl *format = gimp_drawable_get_format(layer);
    g_autofree char *name = NULL;

    if (gimp_drawable_is_indexed(layer))
        return babl_format("R'G'B'A float");
    name = g_strconcat(babl_get_name(babl_format_get_model(format)), " float", NULL);
    return babl_format(name);
}

GimpColorTransform *moji_layer_transform(gint32 layer, gboolean back)
{
    GimpColorProfile *own = gimp_image_get_color_profile(gimp_item_get_image(layer));
    GimpColorProfile *srgb;
    GimpColorTransform *transform;
    const Babl *ours = babl_format("R'G'B'A u8"), *theirs = moji_layer_format(layer);

    if (!own)
        return NULL; /* built-in profiles: GEGL converts right */
    srgb = gimp_color_profile_new_rgb_srgb();
    transform = gimp_color_transform_new(back ? own : srgb, back ? theirs : ours, back ? srgb : own,
                                         back ? ours : theirs,
                                         GIMP_COLOR_RENDERING_INTENT_RELATIVE_COLORIMETRIC,
                                         GIMP_COLOR_TRANSFORM_FLAGS_BLACK_POINT_COMPENSATION);
    g_object_unref(srgb);
    g_object_unref(own);
    return transform;
}

static void write_pixels(gint32 layer, const MojiImage *picture)
{
    const Babl *from = babl_format("R'G'B'A u8");
    const Babl *to = moji_layer_format(layer);
    GimpColorTransform *transform = moji_layer_transform(layer, FALSE);
    GeglRectangle all = {0, 0, picture->width, picture->height};
    GeglBuffer *buffer = gimp_drawable_get_buffer(layer);

    if (transform) {
        /* Not in place: a transform whose source is its destination is applied twice. */
        gsize pixels = (gsize)picture->width * picture->height;
        g_autofree float *converted = g_new(float, pixels * 4);

        gimp_color_transform_process_pixels(transform, from, picture->rgba, to, converted, pixels);
        gegl_buffer_set(buffer, &all, 0, to, converted, GEGL_AUTO_ROWSTRIDE);
        g_object_unref(transform);
    } else {
        gegl_buffer_set(buffer, &all, 0, from, picture->rgba, GEGL_AUTO_ROWSTRIDE);
    }
    g_object_unref(buffer); /* this is what sends the tiles */
    gimp_drawable_update(layer, 0, 0, picture->width, picture->height);
}

/* Masks are linear coverage in every precision of 2.10: the bytes go in as they are. */
static gboolean write_mask(gint32 layer, const MojiImage *picture)
{
    GeglRectangle all = {0, 0, picture->width, picture->height};
    gint32 mask = gimp_layer_create_mask(layer, GIMP_ADD_MASK_WHITE);
    GeglBuffer *buffer;

    if (mask < 0 || !gimp_layer_add_mask(layer, mask))
        return FALSE;
    buffer = gimp_drawable_get_buffer(mask);
    gegl_buffer_set(buffer, &all, 0, babl_format("Y u8"), picture->mask, GEGL_AUTO_ROWSTRIDE);
    g_object_unref(buffer);
    gimp_drawable_update(mask, 0, 0, picture->width, picture->height);
    gimp_layer_set_edit_mask(layer, FALSE); /* the next brush stroke goes to the drawing */
    return TRUE;
}

/* GIMP puts a new layer at the bottom while a selection floats. A selection that floats over a mask
 * or a channel cannot become a layer; it is anchored there. */
static gboolean settle_floating(gint32 image)
{
    gint32 floating = gimp_image_get_floating_sel(image);

    if (floating < 0)
        return TRUE;
    if (gimp_item_is_layer(gimp_image_floating_sel_attached_to(image)))
        return gimp_floating_sel_to_layer(floating);
    return gimp_floating_sel_anchor(floating);
}

static gboolean insert(gint32 image, gint32 layer, gint32 above)
{
    if (above >= 0 && gimp_item_is_valid(above) && gimp_item_is_layer(above) &&
        gimp_item_get_image(above) == image)
        return gimp_image_insert_layer(image, layer, gimp_item_get_parent(above),
                                       gimp_image_get_item_position(image, above));
    return gimp_image_insert_layer(image, layer, -1, -1);
}

static gint32 add_layer(gint32 image, gint32 above, const MojiImage *picture, GError **error)
{
    g_autofree char *name = moji_layer_name(picture->recipe);
    gint32 layer;

    if (!settle_floating(image))
        return fail(error, _("The floating selection could not be turned into a layer")), -1;
    layer = gimp_layer_new(image, name, picture->width, picture->height, layer_type(image), 100,
                           gimp_image_get_default_new_layer_mode(image));
    if (layer < 0)
        return fail(error, _("GIMP could not make a layer")), -1;
    if (!insert(image, layer, above)) {
        gimp_item_delete(layer);
        return fail(error, _("GIMP could not add the layer to the image")), -1;
    }
    gimp_layer_set_offsets(layer, (gimp_image_width(image) - picture->width) / 2,
                           (gimp_image_height(image) - picture->height) / 2);
    write_pixels(layer, picture);
    if (picture->mask && !write_mask(layer, picture))
        return fail(error, _("GIMP could not make a layer mask")), -1;
    moji_recipe_attach(layer, picture->recipe);
    return layer;
}

void moji_layer_start_gegl(void)
{
    static gboolean started;

    if (!started)
        gegl_init(NULL, NULL);
    started = TRUE;
}

gint32 moji_layer_add(gint32 image, gint32 above, const MojiImage *picture, GError **error)
{
    gint32 layer;

    moji_layer_start_gegl();
    gimp_image_undo_group_start(image);
    layer = add_layer(image, above, picture, error);
    gimp_image_undo_group_end(image);
    return layer;
}

gint32 moji_layer_new_image(const MojiImage *picture, gint32 *layer, GError **error)
{
    gint32 image;

    moji_layer_start_gegl();
    image = gimp_image_new(picture->width, picture->height, GIMP_RGB);
    if (image < 0)
        return fail(error, _("GIMP could not make an image")), -1;
    gimp_image_undo_disable(image);
    *layer = add_layer(image, -1, picture, error);
    gimp_image_undo_enable(image);
    if (*layer < 0) {
        gimp_image_delete(image);
        return -1;
    }
    return image;
}
