/* folder.h: the weights of one part of a model folder, under whichever of many names they are.
 *
 * A part's folder has diffusion_pytorch_model.safetensors or model.safetensors, perhaps with a
 * variant (".fp16") in the name, perhaps in several files with an index; or the same as PyTorch
 * archives, ".bin". The first of these is taken that is there: safetensors before archives, one
 * file before several, full precision before others. */
#pragma once
#include "names.h"
#include "weights.h"

/* folder: the part's own, "sd14/unet". Tensors have canonical names. MOJI_ERROR_FILE if there are
 * none. Caller frees. */
MojiWeights *moji_folder_weights(const char *folder, MojiPart part, GError **error);
