/* vae_tiny.h: AutoencoderTiny, for vae.c alone. */
#pragma once
#include <json-glib/json-glib.h>
#include "vae.h"

gboolean moji_vae_tiny_is(JsonObject *config); /* by its _class_name */
gboolean moji_vae_tiny_config(JsonObject *o, const char *path, MojiVaeConfig *config,
                              GError **error);
MojiTensor *moji_vae_tiny_decoder(MojiTape *tape, const MojiVaeConfig *c, MojiTensor *latents);
MojiTensor *moji_vae_tiny_encoder(MojiTape *tape, const MojiVaeConfig *c, MojiTensor *pixels);
