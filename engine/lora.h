/* lora.h: LoRA files, and merging them into a model's weights.
 *
 *     MojiLora *frog = moji_lora_open("frog.safetensors", &error);
 *     MojiLoraUse use = {.lora = frog, .unet = 0.8, .text = 0.8};
 *     if (!moji_lora_merge(model, MOJI_BF16, 0, &use, 1, NULL, &error)) ...
 *     printf("%u of %u tensors applied\n", use.applied, moji_lora_tensors(frog));
 *     moji_lora_merge(model, MOJI_BF16, 0, NULL, 0, NULL, NULL);     // none: the file's own values
 *     moji_lora_free(frog);
 *
 * LoRA, LoCon, LoHa, LoKr, full differences and DoRA (lora_delta.h), under the names of kohya's
 * scripts, LDM, diffusers and PEFT (lora_names.h).
 *
 * The surprising rule: a file is taken whole or not at all. A tensor that fits nothing in the model
 * is an error that says what the LoRA was made for, since half a style is not that style. */
#pragma once
#include <gio/gio.h>
#include "model.h"

typedef struct MojiLora MojiLora;

/* Reads the file's header; MOJI_ERROR_FILE if it is no LoRA. PEFT's adapter_config.json beside it
 * is read where the file does not tell alpha itself. */
MojiLora *moji_lora_open(const char *path, GError **error);
/* The same of weights at hand, which it takes. */
MojiLora *moji_lora_new(MojiWeights *weights, GError **error);
void moji_lora_free(MojiLora *l); /* NULL is fine */

const char *moji_lora_path(const MojiLora *l);
guint moji_lora_tensors(const MojiLora *l);
GHashTable *moji_lora_metadata(const MojiLora *l); /* char* -> char*, owned by l */
/* "SD 1.x", "SD 2.x", "SDXL" or "Flux or SD 3", by its tensors, else its metadata; NULL: unknown.
 */
const char *moji_lora_base(const MojiLora *l);
/* "LoRA, rank 32, 192 modules of the U-Net, 72 of the text encoder". Caller frees. */
char *moji_lora_describe(const MojiLora *l);

typedef struct {
    MojiLora *lora;
    double unet, text; /* weights; may be negative; 0 leaves that network alone */
    guint applied;     /* set by merging: tensors of the file that took part */
} MojiLoraUse;

/* Overrides the weights of m that these LoRAs touch, and no others, with merged ones; n = 0: none.
 * Always from the file's own values, so nothing is left of what was merged before. Computed in f32
 * and stored as `type`, in which the networks will run: rounded once, as the file's own values are,
 * and no larger than need be; biases and norms stay f32. No tape may be prepared with m's weights.
 * On error (also MOJI_ERROR_CANCELLED) none is merged. threads 0: one a core. */
gboolean moji_lora_merge(MojiModel *m, MojiType type, int threads, MojiLoraUse *uses, int n,
                         GCancellable *cancellable, GError **error);
guint64 moji_lora_merged_bytes(const MojiModel *m); /* of the weights that are merged now */
