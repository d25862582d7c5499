/* checkpoint.h: one file of weights, whatever is in it.
 *
 *     MojiCheckpoint *c = moji_checkpoint_open("v1-5-pruned.safetensors", &error);
 *     ... c->kind, c->what, c->part[MOJI_PART_UNET] ...
 *     moji_checkpoint_free(c);
 *
 * What a file is shows in the names of its tensors. Those of the networks we know become views of
 * the file under canonical names, each with the configuration that its shapes and Stable Diffusion
 * 1.x's customs make. Copies of the weights averaged over training (model_ema.*), an optimizer's
 * state and schedules are left out. */
#pragma once
#include "names.h"
#include "weights.h"

typedef enum {
    MOJI_FILE_MODEL,     /* Stable Diffusion 1.x: U-Net and at least one more part */
    MOJI_FILE_PART,      /* one part alone: a VAE, a U-Net, a text encoder */
    MOJI_FILE_LORA,      /* weights to add to a model's */
    MOJI_FILE_EMBEDDING, /* words for a text encoder (textual inversion) */
    MOJI_FILE_OTHER,     /* a family that this engine does not run, or nothing known */
} MojiFileKind;

typedef struct {
    MojiWeights *file; /* everything, under the file's own names */
    MojiFileKind kind;
    const char *what;              /* "a Stable Diffusion XL checkpoint", for people; static */
    MojiWeights *part[MOJI_PARTS]; /* NULL where the file has none */
    JsonNode *config[MOJI_PARTS];  /* likewise: what config.json would say */
} MojiCheckpoint;

/* MOJI_ERROR_FILE only if the file cannot be read: a file of an unknown kind is no error. */
MojiCheckpoint *moji_checkpoint_open(const char *path, GError **error);
void moji_checkpoint_free(MojiCheckpoint *c); /* NULL is fine */

/* The folder of what files of Stable Diffusion 1.x do not carry, model/sd1: configurations,
 * schedule, vocabulary. MOJI_ERROR_FILE if it is not installed. Caller frees. */
char *moji_checkpoint_shared(GError **error);
