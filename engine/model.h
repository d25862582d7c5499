/* model.h: a model, from a folder in diffusers' layout or from one file, and its card.
 *
 *     MojiModel *m = moji_model_open("model/moji-mini", &error);
 *     ... m->unet, m->unet_weights, m->card.steps ...
 *     moji_model_free(m);
 *
 * model_index.json, tokenizer/, text_encoder/, unet/, vae/, scheduler/; weights under any of the
 * names in folder.h, with the tensors' canonical names (names.h).
 * Topology comes from the config files, so moji_model_configs works without any weights.
 * moji.json, if there, is the card: defaults and vocabulary for people. Without it the defaults are
 * Stable Diffusion's: 50 steps of the model's own sampler, guidance 7.5, 512 px. All its members
 * are optional:
 *
 *     {"name": "moji-mini", "version": "1", "licence": "...",
 *      "defaults": {"steps": 20, "guidance": 2.5, "sampler": "ddim", "size": 512,
 *                   "style": "flat", "background": "white"},
 *      "prompt": "{prompt}, {style}, {background} background", "styles": ["flat", "glossy"],
 *      "prompt_ko": "{prompt}, {style}, {background} 배경",
 *      "backgrounds": {"white": "#ffffff", "green": {"rgb": "#00b140", "ko": ["초록색"]}}}
 *
 * "draws": {"en": ["cat", ...], "ko": ["고양이", ...]} lists all that a model draws, if that is a
 * list. The defaults may also stand outside that object, the last two then named "default_style"
 * and "default_background". A card with prompt_ko says that the model itself reads Korean; that
 * template is for prompts that name their background by one of its Korean words. */
#pragma once
#include "clip.h"
#include "sampler.h"
#include "tokenizer.h"
#include "unet.h"
#include "vae.h"
#include "weights.h"

typedef struct {
    char *word;    /* "green" */
    char **korean; /* "초록색", "녹색"; NULL if the card has none */
    guint8 rgb[3];
} MojiColour;

typedef struct {
    char *name, *version, *licence;
    int steps, size;
    double guidance;
    char *sampler;           /* NULL: the scheduler's own class */
    char *prompt;            /* template "{prompt}, {style}, {background} background"; or NULL */
    char *prompt_ko;         /* the same in Korean, for a model that reads it; or NULL */
    char **styles;           /* NULL-terminated; empty if the model has none */
    char *default_style;     /* or NULL */
    MojiColour *backgrounds; /* n_backgrounds */
    int n_backgrounds;
    char *default_background; /* a word, or NULL */
    char **names, **names_ko; /* what the model draws, if it draws a list of things; else NULL */
} MojiCard;

typedef struct {
    char *folder; /* or file */
    MojiClipConfig clip;
    MojiUnetConfig unet;
    MojiVaeConfig vae;
    MojiSamplerConfig sampler;
    MojiCard card;
    MojiTokenizer *tokenizer;                               /* NULL if opened without weights */
    MojiWeights *clip_weights, *unet_weights, *vae_weights; /* likewise */
    char *other_vae;     /* what people call the VAE in place of the model's own, or NULL */
    gpointer lora_table; /* MojiLoraTable, made by the first merge (lora.c); or NULL */
    GDestroyNotify free_lora_table;
} MojiModel;

/* path: a folder, or a file with a whole checkpoint (checkpoint.h). Checks that the parts fit each
 * other (text width = cross attention, latent channels, lengths). */
MojiModel *moji_model_open(const char *path, GError **error);
/* With another VAE than the model's, unless vae is NULL or "": a file, or a folder. */
MojiModel *moji_model_open_with_vae(const char *path, const char *vae, GError **error);
/* No weights, no tokenizer. */
MojiModel *moji_model_configs(const char *path, GError **error);
MojiModel *moji_model_configs_with_vae(const char *path, const char *vae, GError **error);
void moji_model_free(MojiModel *m);

/* TRUE for a model made for filling holes: its U-Net takes the latents, the mask, and the latents
 * of the picture with holes in it. */
gboolean moji_model_fills(const MojiModel *m);
/* How much of a picture changes where nobody says: 0.7, or 1 if it fills holes. */
double moji_model_strength(const MojiModel *m);

/* Changes when a file of the model, or of the VAE if one is given, does. Caller frees. */
char *moji_model_stamp(const char *path, const char *vae);
/* The folder of the bundled model: MOJI_MODEL in the environment, else beside the program
 * (../share/moji/moji-mini), else where it was built. NULL if there is none. Caller frees. */
char *moji_model_bundled(void);
