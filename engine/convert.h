/* convert.h: a model in one form to another.
 *
 *     moji_convert("v1-5.ckpt", "v1-5", &(MojiConvert){.type = "fp16"}, NULL, &error);
 *
 * From a folder or a checkpoint to a folder in diffusers' layout or a checkpoint (.safetensors). A
 * file that is no whole model (a VAE, a LoRA) is written as .safetensors under the same names. The
 * result appears whole or not at all; what is there already is never touched. */
#pragma once
#include <gio/gio.h>
#include "error.h"

typedef struct {
    const char *to;   /* "folder", "file" or NULL: a file if the new path ends in .safetensors */
    const char *type; /* "fp16", "bf16", "fp32" or NULL: as they are; whole numbers always are */
} MojiConvert;

/* MOJI_ERROR_USAGE for a wrong option. A model whose configuration a checkpoint cannot say, since
 * shapes do not show it, is MOJI_ERROR_FILE by the member's name. */
gboolean moji_convert(const char *from, const char *to, const MojiConvert *options,
                      GCancellable *cancel, GError **error);
