/* order.h: a request and a model's card make an order: every setting has its value, every word is
 * one the model knows. The recipe is an order written down. */
#pragma once
#include "model.h"
#include "prompt.h"
#include "request.h"
#include "styles.h"

typedef struct {
    char *prompt, *negative;  /* as asked, but without LoRA tags; negative "" for none */
    char *said, *unsaid;      /* the same in the model's language */
    char *subject;            /* the prompt, without a background that the template says */
    char *text;               /* what the tokenizer gets: the card's template filled in */
    char *style, *background; /* words of the card; NULL: none */
    const char *frame;        /* the card's template, in the language of the background's word */
    char *background_words;   /* what fills that in; NULL: nothing, or the prompt says it */
    char *sampler;
    MojiSpacing spacing;
    MojiSigmas sigmas;
    gboolean cuda;          /* a CUDA device's noise */
    int clip_skip;          /* 1: all of the text model */
    gint64 seed;            /* of the first picture; of all where amount is above 0 */
    double amount;          /* how far noise is turned to that of variation_seed; 0: not */
    gint64 variation_seed;  /* of the first picture */
    const MojiImage *image; /* the request's: to be redrawn, or NULL */
    double strength;        /* of that */
    guint8 backdrop[3];     /* what its transparent parts are put on */
    int steps, size, count;
    int calls; /* of the U-Net for the steps */
    double guidance;
    gboolean transparent;
    MojiInversions *inversions;
    /* What the text model gets: negative (NULL without guidance) and text, of as many chunks. Both
     * NULL for a model opened without its tokenizer. */
    MojiChunks *chunks[2];
    GPtrArray *loras;  /* of MojiStyle*: the request's and those of the prompt's tags */
    char *note;        /* a sentence on settings that a LoRA chose, or NULL */
    GString *warnings; /* sentences for the user; empty if all is well */
} MojiOrder;

/* MOJI_ERROR_USAGE names what the model does not know and lists what it does. */
MojiOrder *moji_order_new(const MojiRequest *r, const MojiModel *m, GError **error);
void moji_order_free(MojiOrder *o); /* NULL is fine */

/* The order's sampler, at its start. Caller frees. */
MojiSampler *moji_order_sampler(const MojiOrder *o, const MojiModel *m);
/* The generator of picture `index`. */
void moji_order_random(const MojiOrder *o, int index, MojiRandom *random);
/* The same of the seed that picture `index` is turned to. */
void moji_order_variation(const MojiOrder *o, int index, MojiRandom *random);

/* Adds a sentence. */
void moji_order_warn(MojiOrder *o, const char *format, ...) G_GNUC_PRINTF(2, 3);

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
