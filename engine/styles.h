/* styles.h: LoRAs by name, and how a request names them.
 *
 * Names are those of files without ".safetensors" (or of PEFT's folders) in moji/styles of
 * XDG_DATA_HOME (~/.local/share), then in the folders of MOJI_STYLES, which is a list as PATH is;
 * the first of a name wins.
 *
 *     frog                       weight 1
 *     frog:0.8                   both networks
 *     frog:unet=0.8,text=0.5     each; one left out stays 1
 *     ./some/frog.safetensors    a file: whatever has a slash or that ending
 *     <lora:frog:0.8>            in a prompt, out of which it is taken */
#pragma once
#include "lora.h"

typedef struct {
    char *name;
    MojiLora *lora;
    double unet, text;
    guint applied; /* tensors; set by merging */
} MojiStyle;

void moji_style_free(MojiStyle *s); /* NULL is fine */

/* Opens what `entry` names, as above. MOJI_ERROR_USAGE for a name that there is not, which lists
 * those that there are, or for a weight that is none. */
MojiStyle *moji_style_open(const char *entry, GError **error);

/* The prompt without its tags; their entries are added to `entries` (char*). NULL and
 * MOJI_ERROR_USAGE for a tag that is not closed. Caller frees. */
char *moji_styles_take_tags(const char *prompt, GPtrArray *entries, GError **error);

/* char*, sorted, each once. Caller unrefs. */
GPtrArray *moji_styles_names(void);
char *moji_styles_folder(void); /* where a user puts them; caller frees */

/* ---- what a file tells about itself ---- */

typedef struct {      /* settings for LoRAs that draw in a few steps */
    const char *kind; /* "LCM-LoRA"; NULL: it is none */
    const char *sampler;
    int steps;
    double guidance;
} MojiStyleSteps;

/* By the file's name and the title in its metadata. */
MojiStyleSteps moji_style_steps(const char *name, GHashTable *metadata);

/* Lines for people: kind, size, base, trigger words, preview, settings; from the file, from a JSON
 * of its name beside it ("activation text", "description", ...) and a PNG. Caller frees. */
char *moji_style_describe(const char *name, const MojiLora *l);
