/* torch.h: weights as torch.save writes them: .ckpt, .pt, .pth, .bin.
 *
 * Used through moji_weights_open. A zip archive with a pickle and a block of bytes for each storage
 * (PyTorch 1.6 and later), or five pickles in a row with the blocks behind them (before). Nothing
 * in the pickles is run (pickle.h). Tensors get the names of the dictionary's keys, those of inner
 * dictionaries behind a dot ("string_to_param.*"), save that "state_dict" is left out; texts and
 * numbers beside them become metadata. */
#pragma once
#include "weights.h"

/* Whether the file begins as one of these. */
gboolean moji_torch_is(const guint8 *file, gsize bytes);
/* Adds the file's tensors to w. They point into the file; those that do not lie in rows (a
 * channels-last convolution) are copied. */
gboolean moji_torch_read(MojiWeights *w, GBytes *file, GError **error);
