/* vae.h: latents <-> pixels. diffusers' AutoencoderKL (Kingma and Welling 2014; Rombach et al.
 * 2022) and AutoencoderTiny (github.com/madebyollin/taesd); topology from vae/config.json.
 *
 * A decoding is moji_vae_unscale, the decoder, moji_vae_spread; an encoding moji_vae_gather, the
 * encoder, moji_vae_latents. The four around the networks work on the host, where they cost
 * nothing. */
#pragma once
#include <json-glib/json-glib.h>
#include "tape.h"

#define MOJI_VAE_MAX_LEVELS 8

typedef struct {
    gboolean tiny; /* AutoencoderTiny */
    int in_channels, out_channels, latent_channels;
    int levels;
    int channels[MOJI_VAE_MAX_LEVELS]; /* block_out_channels; tiny: decoder_block_out_channels */
    int layers;                        /* layers_per_block; the decoder has one more */
    int norm_groups;
    gboolean mid_attention;   /* mid_block_add_attention */
    gboolean quant_conv;      /* use_quant_conv, the encoder's */
    gboolean post_quant_conv; /* use_post_quant_conv */
    /* Tiny only. */
    int encoder_channels[MOJI_VAE_MAX_LEVELS];
    int encoder_blocks[MOJI_VAE_MAX_LEVELS], decoder_blocks[MOJI_VAE_MAX_LEVELS];
    float scaling_factor, shift_factor;
} MojiVaeConfig;

gboolean moji_vae_config_read(const char *path, MojiVaeConfig *config, GError **error);
/* The same from the file's root object; path is for errors. */
gboolean moji_vae_config_parse(JsonObject *o, const char *path, MojiVaeConfig *config,
                               GError **error);
int moji_vae_factor(const MojiVaeConfig *c); /* pixels per latent: 2^(levels-1) */

/* f32 [B,h,w,latent] -> f32 [B,f*h,f*w,out] */
MojiTensor *moji_vae_decoder(MojiTape *tape, const MojiVaeConfig *c, MojiTensor *latents);
/* f32 [B,f*h,f*w,in] -> f32 [B,h,w,moments]: means, then the logarithms of variances; of a tiny one
 * the latents themselves. */
MojiTensor *moji_vae_encoder(MojiTape *tape, const MojiVaeConfig *c, MojiTensor *pixels);
int moji_vae_moments(const MojiVaeConfig *c); /* channels of the encoder's output */

/* The U-Net's latents -> the decoder's: divided by scaling_factor and shifted; bounded for a tiny
 * one. `to` may be `from`. */
void moji_vae_unscale(const MojiVaeConfig *c, const float *from, float *to, gsize count);
/* The decoder's output -> about -1..1, in place. */
void moji_vae_spread(const MojiVaeConfig *c, float *rgb, gsize count);
/* -1..1 -> the encoder's input, in place. */
void moji_vae_gather(const MojiVaeConfig *c, float *rgb, gsize count);
/* The encoder's output [n,moments] -> the U-Net's latents [n,latent]. noise [n,latent] draws from
 * the posterior, NULL takes its mean; a tiny one has no noise. */
void moji_vae_latents(const MojiVaeConfig *c, const float *moments, const float *noise,
                      float *latents, gsize n);
