/* folder.h: where models are: folders of models, and the weights of one part of a model folder,
 * under whichever of many names they are.
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

/* The folder of that name that came with the program: beside it (../share/moji/NAME), else where it
 * was built (model/NAME). NULL if there is none. Caller frees. */
char *moji_folder_installed(const char *name);
/* The user's models: $XDG_DATA_HOME/moji/models, which need not be there. Caller frees. */
char *moji_folder_models(void);
/* A model as people name it: a path of a folder or file, or what the user's models call it, with or
 * without a suffix. The name itself if there is neither. Caller frees. */
char *moji_folder_find(const char *name);
/* What it is called there: the last part of the path, without a suffix; of ".../sd14/vae" it is
 * "sd14". Caller frees. */
char *moji_folder_name(const char *path);
/* A VAE as people name it: likewise, but NULL for NULL, "" and "none". */
char *moji_folder_find_vae(const char *name);
