/* layer.h: pixels -> layer, the last arrow of the way. With redraw.c the only code that touches
 * GIMP's pixels.
 *
 *     gint32 layer = moji_layer_add(image, -1, picture, &error);
 *
 * The engine's pixels are sRGB; an image with another colour profile, precision or mode gets them
 * converted. The cut-out becomes a layer mask, so that painting on the mask brings background back.
 */
#pragma once
#include <libgimp/gimp.h>
#include "image.h"

/* A new layer in the middle of image, above the layer `above` (-1: above the active one, in its
 * group); one step to undo. A floating selection becomes a layer first, as it does in GIMP when a
 * layer is added by hand. The new layer's id, or -1 with MOJI_ERROR_BACKEND. */
gint32 moji_layer_add(gint32 image, gint32 above, const MojiImage *picture, GError **error);

/* A new RGB image of the picture's size with the picture as its one layer, whose id goes to *layer.
 * The image's id, or -1 with MOJI_ERROR_BACKEND. It has no display yet. */
gint32 moji_layer_new_image(const MojiImage *picture, gint32 *layer, GError **error);

/* What follows is for redraw.c. */

/* The name of the layer that this recipe makes: g_free it. */
char *moji_layer_name(const char *recipe);
/* The layer's own colour model in float. */
const Babl *moji_layer_format(gint32 layer);
/* Between the engine's pixels and the layer's, in moji_layer_format: sRGB to the image's profile
 * or, with `back`, the other way. NULL where there is nothing that GEGL would not do by itself. */
GimpColorTransform *moji_layer_transform(gint32 layer, gboolean back);
/* GEGL takes a third of a second to start, so it is not started before the window is open. */
void moji_layer_start_gegl(void);
