/* clip.h: ids -> embeddings. CLIP's text transformer (Radford et al. 2021) as in transformers'
 * CLIPTextModel; topology from text_encoder/config.json. */
#pragma once
#include <json-glib/json-glib.h>
#include "tape.h"

typedef struct {
    int vocab_size, hidden_size, intermediate_size, layers, heads, positions;
    float eps;
    gboolean quick_gelu; /* hidden_act: "quick_gelu" or "gelu" */
} MojiClipConfig;

gboolean moji_clip_config_read(const char *path, MojiClipConfig *config, GError **error);
/* The same from the file's root object; path is for errors. */
gboolean moji_clip_config_parse(JsonObject *o, const char *path, MojiClipConfig *config,
                                GError **error);

/* ids i32 [B,n], positions i32 [B,n] (0..n-1) -> f32 [B,n,C], final layer norm applied. */
MojiTensor *moji_clip(MojiTape *tape, const MojiClipConfig *c, MojiTensor *ids,
                      MojiTensor *positions);
/* The same from words f32 [B,n,C] in place of ids: rows of MOJI_CLIP_WORDS, or learnt ones. */
#define MOJI_CLIP_WORDS "text_model.embeddings.token_embedding.weight"
MojiTensor *moji_clip_from_words(MojiTape *tape, const MojiClipConfig *c, MojiTensor *words,
                                 MojiTensor *positions);
