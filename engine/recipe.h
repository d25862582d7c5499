/* recipe.h: an order written down, as it stands in a picture, and what an order heeds of the recipe
 * of the picture that it redraws. */
#pragma once
#include <json-glib/json-glib.h>
#include "order.h"

/* A short name for the weights themselves: hexadecimal digits of the SHA-256 of their file's size,
 * first and last MiB (a whole file of gigabytes would take longer than the drawing). "" if the file
 * cannot be read. Caller frees. */
char *moji_weights_identity(const char *path);

/* JSON of everything needed to draw picture `index` again. No times, dates or paths: the same order
 * gives the same bytes. cutout: the background's colour if it was cut out, else NULL. Caller frees.
 *
 *     {"engine": "moji 0.1.0", "model": ..., "version": ..., "weights": ..., "type": "bf16",
 *      "prompt": ..., "text": ..., "negative": ..., "style": ..., "background": ..., "seed": 1,
 *      "steps": 20, "guidance": 7.5, "sampler": "pndm", "spacing": "leading", "sigmas": "plain",
 *      "rng": "cpu", "clip_skip": 1, "size": 512, "transparent": false,
 *      "cutout": "#00b140", "warning": ..., "note": ...,
 *      "loras": [{"name": "frog", "unet": 0.8, "text": 0.8, "weights": ..., "applied": 792,
 *                 "tensors": 792}],
 *      "vae": {"name": "sd-vae-ft-mse", "weights": ...},
 *      "inversions": [{"name": "frogstyle", "weights": ...}]}
 *
 * text is what the model read, prompt what was asked; negative_text is there where that differs.
 * style and background are "none" where there is none; what follows "transparent" may be missing.
 * vae is there if it is not the model's own, inversions are those that the texts name. A variation
 * has "amount" and "variation_seed" too. A redrawn picture has "strength", and "mask": true if not
 * all of it was redrawn; it cannot be drawn again from its recipe alone. */
char *moji_order_recipe(const MojiOrder *o, const MojiModel *m, const char *weights, MojiType type,
                        int index, const guint8 cutout[3]);

/* The recipe of the picture that is redrawn; NULL if there is none. Caller unrefs; *recipe is owned
 * by what is returned. */
JsonParser *moji_recipe_of_picture(const MojiOrder *o, JsonObject **recipe);
/* Warns of learnt words that the picture was made with and that are others here, or none. */
void moji_recipe_compare(MojiOrder *o);
