/* unet.h: latents, timestep, embeddings -> prediction. The denoising U-Net of Rombach et al. 2022
 * (latent diffusion) as in diffusers' UNet2DConditionModel; topology from unet/config.json. */
#pragma once
#include <json-glib/json-glib.h>
#include "tape.h"

#define MOJI_UNET_MAX_LEVELS 8

typedef struct {
    int in_channels, out_channels;
    int levels;
    int channels[MOJI_UNET_MAX_LEVELS];            /* block_out_channels */
    int layers[MOJI_UNET_MAX_LEVELS];              /* layers_per_block */
    gboolean attention_down[MOJI_UNET_MAX_LEVELS]; /* CrossAttnDownBlock2D, else DownBlock2D */
    gboolean attention_up[MOJI_UNET_MAX_LEVELS];   /* in up_block_types' order */
    int heads[MOJI_UNET_MAX_LEVELS];               /* attention_head_dim, which counts heads */
    int transformer_layers[MOJI_UNET_MAX_LEVELS];
    int cross_attention_dim;
    gboolean mid_block; /* UNetMidBlock2DCrossAttn; FALSE if null */
    int norm_groups;
    float norm_eps;
    gboolean linear_projection; /* use_linear_projection */
    gboolean flip_sin_to_cos;
    float freq_shift;
    int sample_size; /* latents on a side by default */
} MojiUnetConfig;

/* Fields this engine does not know and that are set to something else than their default are
 * MOJI_ERROR_FILE, by name: a picture from half a model would be a lie. */
gboolean moji_unet_config_read(const char *path, MojiUnetConfig *config, GError **error);
/* The same from the file's root object; path is for errors. */
gboolean moji_unet_config_parse(JsonObject *o, const char *path, MojiUnetConfig *config,
                                GError **error);

/* h and w are multiples of 2^(levels-1), as every level halves them and the way up doubles them.
 * sample f32 [B,h,w,in], timesteps f32 [S], step i32 [B,1], context f32 [P,m,cross] -> f32
 * [B,h,w,out]. step says which of the timesteps each sample is at, so that what follows from them
 * can be computed once for many runs; NULL: S is B, and each sample has its own. P prompts divide
 * B: the first B/P samples are of the first prompt, and so on. */
MojiTensor *moji_unet(MojiTape *tape, const MojiUnetConfig *c, MojiTensor *sample,
                      MojiTensor *timesteps, MojiTensor *step, MojiTensor *context);
