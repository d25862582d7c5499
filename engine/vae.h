/* vae.h: latents -> pixels. The decoder of diffusers' AutoencoderKL (Kingma and Welling 2014;
 * Rombach et al. 2022); topology from vae/config.json. */
#pragma once
#include <json-glib/json-glib.h>
#include "tape.h"

#define MOJI_VAE_MAX_LEVELS 8

typedef struct {
    int in_channels, out_channels, latent_channels;
    int levels;
    int channels[MOJI_VAE_MAX_LEVELS]; /* block_out_channels */
    int layers;                        /* layers_per_block; the decoder has one more */
    int norm_groups;
    gboolean mid_attention;   /* mid_block_add_attention */
    gboolean post_quant_conv; /* use_post_quant_conv */
    float scaling_factor, shift_factor;
} MojiVaeConfig;

gboolean moji_vae_config_read(const char *path, MojiVaeConfig *config, GError **error);
/* The same from the file's root object; path is for errors. */
gboolean moji_vae_config_parse(JsonObject *o, const char *path, MojiVaeConfig *config,
                               GError **error);
int moji_vae_factor(const MojiVaeConfig *c); /* pixels per latent: 2^(levels-1) */

/* latents f32 [B,h,w,latent], already divided by scaling_factor (and shifted)
 * -> f32 [B,f*h,f*w,out], about -1..1 */
MojiTensor *moji_vae_decoder(MojiTape *tape, const MojiVaeConfig *c, MojiTensor *latents);
