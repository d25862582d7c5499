/* redraw.h: a layer's pixels for the engine and, redrawn, back into the same layer.
 *
 *     MojiImage *sent = moji_redraw_read(layer, &error);    // with the selection as its mask
 *     ... the engine makes `drawn` of it ...
 *     if (!moji_redraw_write(layer, sent, drawn, &error)) ...
 *
 * What the engine did not change is not written, so it stays as it is in any precision. */
#pragma once
#include <libgimp/gimp.h>
#include "image.h"

/* The layer as sRGB with its recipe. Where something is selected, a mask: 255 wherever any of it
 * is; GIMP itself blends by the selection when the pixels come back. MOJI_ERROR_USAGE if this is no
 * layer with pixels that may be changed, or the selection lies beside it. Caller frees. */
MojiImage *moji_redraw_read(gint32 layer, GError **error);

/* One step to undo: pixels, the layer mask if the emoji was cut out again, recipe, and the name if
 * it is still the one that the old recipe gave. */
gboolean moji_redraw_write(gint32 layer, const MojiImage *sent, const MojiImage *drawn,
                           GError **error);
