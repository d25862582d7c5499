/* safetensors.h: the safetensors format, https://huggingface.co/docs/safetensors.
 *
 * Used through moji_weights_open. Header at most 100 MB; tensors of other types (F64, U8, F8...) or
 * of a rank over 4 are passed over, so that a file that has them beside what is wanted works. */
#pragma once
#include "weights.h"

/* Adds the file's tensors, which point into it, and its metadata to w. */
gboolean moji_safetensors_read(MojiWeights *w, GBytes *file, GError **error);
