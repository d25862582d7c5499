/* edit.h: a picture that is to be redrawn: what of it the networks get, and how what they give goes
 * back into it. On host arrays alone.
 *
 *     MojiEdit *e = moji_edit_new(picture, backdrop, 512, 64, &error);
 *     ... e->rgb is encoded, redrawn, decoded to rgb [e->height,e->width,3] ...
 *     MojiImage *image = moji_edit_paste(e, rgb);      // opaque
 *     moji_edit_restore(e, image);                     // transparency; untouched bits
 *     moji_edit_free(e);
 *
 * A picture larger than `size` is redrawn around its mask where it has one, else reduced; a smaller
 * one is enlarged. What is missing to whole units is the picture's mirror image, right and below,
 * and is cut off again. */
#pragma once
#include "image.h"

typedef struct {
    const MojiImage *picture;      /* the caller's; mask: 255 redraws, 0 keeps, NULL redraws all */
    guint8 backdrop[3];            /* what transparent parts are put on */
    int x, y, w, h;                /* the part of the picture that is drawn */
    int inner_width, inner_height; /* that part as it is drawn */
    int width, height;             /* with its mirror image: multiples of the unit */
    float *rgb;                    /* [height,width,3], -1..1 */
    guint8 *hole;                  /* [height,width]: 1 where anything is redrawn, or NULL: all */
} MojiEdit;

/* size: the long side at which to draw. MOJI_ERROR_USAGE if the mask asks for nothing. */
MojiEdit *moji_edit_new(const MojiImage *picture, const guint8 backdrop[3], int size, int unit,
                        GError **error);
void moji_edit_free(MojiEdit *e); /* NULL is fine */

/* cells [height/factor,width/factor]: 1 where any pixel of the cell is redrawn, else 0. */
void moji_edit_cells(const MojiEdit *e, int factor, float *cells);

/* The whole picture on its backdrop, redrawn where its mask says so; opaque. rgb
 * [height,width,3], about -1..1. */
MojiImage *moji_edit_paste(const MojiEdit *e, const float *rgb);
/* Gives a pasted picture its transparency: the picture's own or, where it was redrawn and has been
 * cut out since (image->mask), that. What was not redrawn gets its old bits. */
void moji_edit_restore(const MojiEdit *e, MojiImage *image);
