/* image.h: pixels at the end of the pipeline, and PNG files.
 *
 * Straight (not premultiplied) alpha, sRGB, rows top to bottom without padding. */
#pragma once
#include "error.h"

#define MOJI_IMAGE_MAX_SENT (1 << 24) /* pixels of a picture that travels, by D-Bus's rules */

typedef struct {
    int width, height;
    guint8 *rgba; /* width*height*4 */
    guint8 *mask; /* width*height, 255 keeps: the cut-out, or NULL if none was made */
    char *recipe; /* JSON of everything needed to draw it again, or NULL */
} MojiImage;

MojiImage *moji_image_new(int width, int height); /* zeroed pixels, no mask, no recipe */
void moji_image_free(MojiImage *image);           /* NULL is fine */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(MojiImage, moji_image_free)

/* 8-bit RGB or RGBA (if a mask is there or any alpha is below 255: the mask multiplies alpha, and
 * colour that it hides is zeroed). The recipe goes into an iTXt chunk "moji", and as readable text
 * into "parameters"; with one, the file also says that a trained algorithm made it. The same image
 * gives the same bytes. Written to a temporary name and renamed, so a failed write leaves what
 * was. */
gboolean moji_image_write_png(const MojiImage *image, const char *path, GError **error);
/* The same bytes in memory. */
GBytes *moji_image_encode_png(const MojiImage *image, GError **error);

/* Any PNG as RGBA8 (16-bit is rounded, gray and palette expanded), up to 16384 on a side and 2^26
 * pixels in all; recipe from its "moji" chunk if any. MOJI_ERROR_FILE names the path and the
 * fault. name: for errors. */
MojiImage *moji_image_read_png(const char *path, GError **error);
MojiImage *moji_image_decode_png(const void *data, gsize bytes, const char *name, GError **error);

MojiImage *moji_image_copy(const MojiImage *image);
/* (iiayays): width, height, RGBA, mask (empty: none), recipe ("": none). Floating. */
GVariant *moji_image_to_variant(const MojiImage *image);
/* NULL and MOJI_ERROR_USAGE if the bytes are not width times height. */
MojiImage *moji_image_from_variant(GVariant *v, GError **error);
