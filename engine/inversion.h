/* inversion.h: textual inversions: words that were learnt, as vectors in a file (Gal et al. 2022,
 * arXiv:2208.01618).
 *
 *     MojiInversions *set = moji_inversions_open(NULL, 768);
 *     const MojiInversion *word = moji_inversions_match(set, "frogstyle, a cat", &bytes, &error);
 *     moji_inversions_free(set);
 *
 * Each file of the folder whose name ends in .safetensors, .pt or .bin is a word of that name, by
 * which a prompt asks for it ("embedding:NAME" is the same). The file holds one tensor [n,C] or
 * [C], or among others one called emb_params or string_to_param.*: n words that belong together. */
#pragma once
#include "error.h"

typedef struct {
    char *name; /* the file's, without its ending */
    char *path;
    int count;      /* vectors, each in the place of a token */
    float *vectors; /* [count,C] */
} MojiInversion;

typedef struct MojiInversions MojiInversions;

/* folder NULL: $XDG_DATA_HOME/moji/embeddings. A folder that is not there is an empty one. width:
 * C. Files are read when a prompt names them. */
MojiInversions *moji_inversions_open(const char *folder, int width);
void moji_inversions_free(MojiInversions *set); /* NULL is fine */
int moji_inversions_width(const MojiInversions *set);
/* The inversion whose name text begins with, as a whole word and in any case, the longest if
 * several do: owned by set; *bytes is what to skip. NULL: none does, or, with error set, its file
 * cannot be read or is for models of another width. */
const MojiInversion *moji_inversions_match(MojiInversions *set, const char *text, gsize *bytes,
                                           GError **error);
/* The one that this vector is of, or NULL. */
const MojiInversion *moji_inversions_whose(const MojiInversions *set, const float *vector);
