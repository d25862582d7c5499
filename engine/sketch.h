/* sketch.h: latents -> a small picture, cheaply, for previews.
 *
 * A linear map from one latent to the mean colour of the pixels it becomes, fitted by least squares
 * to whatever the decoder has decoded so far: a few random latents when a model is loaded, then
 * every finished drawing, so that previews get truer with use. Nothing of it reaches a picture. */
#pragma once
#include <glib.h>

typedef struct MojiSketch MojiSketch;

MojiSketch *moji_sketch_new(int channels);
void moji_sketch_free(MojiSketch *s); /* NULL is fine */

/* latents [h,w,c] and what they decode to, rgb [f*h,f*w,3], about -1..1. */
void moji_sketch_learn(MojiSketch *s, const float *latents, const float *rgb, int h, int w, int f);
/* A picture of 128 px or a little less on the long side (never less than w x h), 3 bytes a pixel,
 * valid until the next call; NULL before anything was learnt. */
const guint8 *moji_sketch_draw(MojiSketch *s, const float *latents, int h, int w, int *width,
                               int *height);
