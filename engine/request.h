/* request.h: what to draw. The command line, the plug-in and the wire all fill this one struct.
 *
 *     g_autoptr(MojiRequest) r = moji_request_new();
 *     r->prompt = g_strdup("grinning cat");
 *     if (!moji_request_check(r, &error)) ...
 *
 * Strings are UTF-8 and owned by the struct: set them with g_strdup. */
#pragma once
#include "image.h"

#define MOJI_REQUEST_MAX_STEPS 1000
#define MOJI_REQUEST_MAX_GUIDANCE 100.0
#define MOJI_REQUEST_MIN_SIZE 64
#define MOJI_REQUEST_MAX_SIZE 2048
#define MOJI_REQUEST_MAX_COUNT 64
#define MOJI_REQUEST_MAX_CLIP_SKIP 64
#define MOJI_REQUEST_MAX_LORAS 16
#define MOJI_REQUEST_MAX_TEXT                                                                      \
    8192 /* bytes of a prompt; a model reads some 50 words at once, see prompt.h */

typedef struct {
    char *prompt;
    char *negative;   /* NULL or "": none */
    char *style;      /* a style word of the model's card; NULL: the card's default; "none" */
    char *background; /* a colour word of the card, also Korean, or #rrggbb; NULL: the card's
                         default; "none" */
    char *sampler;    /* a name of sampler.h; NULL: the card's */
    char *spacing;    /* of the timesteps, a name of sampler.h; NULL: the model's */
    char *sigmas;     /* likewise */
    char *rng;        /* "cpu" or "cuda": whose noise a seed gives, random.h; NULL: "cpu" */
    char *model;      /* a folder, a checkpoint, or a name of the user's; NULL: the bundled one */
    char *vae;    /* a file, folder or name like model's, in place of the model's own; NULL: its own
                     or, for a picture that this model drew, that one's; "none": its own */
    char **loras; /* "frog:0.8", "./ink.safetensors:unet=0.8,text=0.5" (styles.h); NULL or "none" */
    gint64 seed;  /* 0 to 2^63-1; -1: pick one, which the recipe then tells */
    int steps;    /* 0: the card's */
    double guidance; /* below 0: the card's; 1: no guidance, half the work */
    int size;        /* pixels on a side; 0: the card's */
    int clip_skip;   /* 2: the text model without its last layer, 3: without two; 0 and 1: all of it
                      */
    int count;       /* pictures, seeds seed, seed+1, ...; 0 means 1 */
    gboolean transparent; /* cut the flat background out */

    /* Pictures that resemble each other: all from the noise of `seed`, turned towards those of
     * variation_seed, variation_seed+1, ... */
    double amount;         /* 0: no; 1: all the way */
    gint64 variation_seed; /* -1: seed+1 */

    /* A picture to redraw, instead of starting from nothing. Its mask says where: 255 redraws, 0
     * keeps every bit, between them blends; NULL: everywhere. `size` is then the long side at which
     * it is redrawn; a larger picture is redrawn around its mask, or reduced, a smaller one
     * enlarged. Transparency stays as it is, or with `transparent` is made anew where it redraws.
     */
    MojiImage *image;
    double strength; /* how much of it may change, up to 1; below 0: 0.7, or 1 of a model made for
                      * filling masks in */
} MojiRequest;

/* Everything at "the card's", seed -1. */
MojiRequest *moji_request_new(void);
MojiRequest *moji_request_copy(const MojiRequest *r);
void moji_request_free(MojiRequest *r); /* NULL is fine */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(MojiRequest, moji_request_free)

/* MOJI_ERROR_USAGE names the setting, its value and the range: prompt not empty and valid UTF-8,
 * size 0 or a multiple of 8 in the range above, ... Whether the model knows a style, a background
 * or a sampler is for moji_engine_draw to say. */
gboolean moji_request_check(const MojiRequest *r, GError **error);

/* Takes from a recipe (order.h) what is still at "the card's" in r: words, seed, steps, ...; of
 * whatever else json may be, nothing. */
void moji_request_take_recipe(MojiRequest *r, const char *json);

/* "frog:0.8, ink:unet=1,text=0.5" as a list for r->loras, and back: how a user writes it in one
 * line. NULL for none. Caller frees. */
char **moji_request_split_loras(const char *text);
char *moji_request_join_loras(char *const *loras);

/* For the wire: a{sv} under the struct's names, unset fields left out. Floating. */
GVariant *moji_request_to_variant(const MojiRequest *r);
/* Unknown names, repeated names and wrong types are MOJI_ERROR_USAGE. Ranges are not looked at:
 * call moji_request_check as well. */
MojiRequest *moji_request_from_variant(GVariant *dict, GError **error);
