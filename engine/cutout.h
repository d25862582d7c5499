/* cutout.h: pixels -> the same pixels and a mask, for drawings on a flat background.
 *
 *     MojiCutout report;
 *     if (!moji_cutout(image, NULL, &report, &error)) ...   // MOJI_ERROR_NOT_FLAT: say so, keep it
 *     // image->mask is set; edge colours in image->rgba are free of the background's colour
 *
 * Estimate the colour from the frame, flood from the border, take confident holes, unmix a narrow
 * edge band, defringe. Colours outside the band stay as they were, so that a mask painted back in
 * an editor shows the original. Flat means: nine tenths of the frame, or of three of its sides,
 * within tolerance of its median colour. Transparent pixels are background; where they are most of
 * the frame, nothing else is. Any size from 16 pixels. */
#pragma once
#include "image.h"

typedef struct {
    double tolerance; /* sRGB distance that still counts as background, 8 to 64; 24. On grey and
                       * white no more of it is used than the frame's unevenness needs. */
    gboolean holes;   /* take enclosed background too (only for saturated colours); TRUE */
    gboolean shadow;  /* take soft shadows on saturated backgrounds; FALSE */
} MojiCutoutOptions;

typedef struct {
    guint8 background[3]; /* the colour found, not the colour asked for */
    double frame_flat;    /* share of the frame that is within tolerance of it, 0 to 1 */
    double kept;          /* share of the picture that is kept, 0 to 1 */
    double touching;      /* share of border pixels kept: the subject is cut off if it is large */
    int specks;           /* islands smaller than 0.2 % of the picture */
} MojiCutout;

/* options NULL: the defaults above. report may be NULL. */
gboolean moji_cutout(MojiImage *image, const MojiCutoutOptions *options, MojiCutout *report,
                     GError **error);
