/* order.h: a request and a model's card make an order: every setting has its value, every word is
 * one the model knows. */
#pragma once
#include "model.h"
#include "prompt.h"
#include "random.h"
#include "request.h"
#include "styles.h"

#define MOJI_NONE "none" /* the word by which a user says: no style, no background */

typedef struct {
    char *prompt, *negative;  /* as asked, but without LoRA tags; negative "" for none */
    char *said, *unsaid;      /* the same in the model's language */
    char *subject;            /* the prompt, without a background that the template says */
    char *text;               /* what the tokenizer gets: the card's template filled in */
    char *style, *background; /* words of the card; NULL: none */
    const char *frame;        /* the card's template, in the language of the background's word */
    char *background_words;   /* what fills that in; NULL: nothing, or the prompt says it */
    MojiSampler *sampler;
    gboolean cuda;          /* a CUDA device's noise */
    int clip_skip;          /* 1: all of the text model */
    gint64 seed;            /* of the first picture; of all where amount is above 0 */
    double amount;          /* how far noise is turned to that of variation_seed; 0: not */
    gint64 variation_seed;  /* of the first picture */
    const MojiImage *image; /* the request's: to be redrawn, or NULL */
    double strength;        /* of that */
    guint8 backdrop[3];     /* what its transparent parts are put on */
    int steps, size, count;
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

/* The generator of picture `index`. */
void moji_order_random(const MojiOrder *o, int index, MojiRandom *random);
/* The same of the seed that picture `index` is turned to. */
void moji_order_variation(const MojiOrder *o, int index, MojiRandom *random);

/* Adds a sentence. */
void moji_order_warn(MojiOrder *o, const char *format, ...) G_GNUC_PRINTF(2, 3);
