/* weights.h: named tensors from files, read in place by memory map.
 *
 *     MojiWeights *w = moji_weights_open("unet/diffusion_pytorch_model.safetensors", &error);
 *     const MojiWeight *t = moji_weights_find(w, "conv_in.weight");
 *     ... t->data, t->type, t->dim ...
 *     moji_weights_free(w);
 *
 * What a file is shows in its first bytes: safetensors (safetensors.h) or PyTorch's own archives
 * (torch.h). An index (*.index.json) stands for several files, which then are one set. Nothing is
 * taken on trust: whatever a header says is checked against the file's size before it is used. The
 * file must not be cut while it is open: a map of what is gone ends the process. */
#pragma once
#include "tape.h"

typedef struct {
    char *name;
    MojiType type; /* MOJI_F32, MOJI_F16, MOJI_BF16, MOJI_I64, MOJI_I32 */
    int rank;
    gint64 dim[MOJI_MAX_RANK];
    const void *data; /* little endian, in the map; aligned only to its element size or less */
    gsize bytes;
    gboolean mapped; /* data is in a map of a file: its pages may be dropped and are read again */
    /* What a backend made of it (reordered, converted), so that several tapes of one model share
     * it: owned by whoever sets it through moji_weight_set_prepared, freed with the weights. */
    GHashTable *prepared;
    gboolean stale; /* `prepared` is of other values: see moji_weights_renew */
} MojiWeight;

/* MOJI_ERROR_FILE with the path and what is wrong with it. Owned by the caller. */
MojiWeights *moji_weights_open(const char *path, GError **error);
MojiWeights *moji_weights_ref(MojiWeights *w); /* one more owner; not for several threads */
void moji_weights_free(MojiWeights *w); /* NULL is fine; tapes prepared with it must be gone */
const char *moji_weights_path(const MojiWeights *w);

/* The same from memory, which it keeps a reference to; path is for errors. */
MojiWeights *moji_weights_parse(GBytes *bytes, const char *path, GError **error);

/* NULL if there is none of that name. Owned by w. */
MojiWeight *moji_weights_find(MojiWeights *w, const char *name);
/* Why it was not found, for an error: "not in the file" or "stored as F64, which ...". Owned by w.
 */
const char *moji_weights_absence(MojiWeights *w, const char *name);
GPtrArray *moji_weights_list(MojiWeights *w);      /* of MojiWeight*, in file order; owned by w */
GHashTable *moji_weights_metadata(MojiWeights *w); /* char* -> char*, owned by w */

/* Tensors passed over: char* name -> char* why; owned by w. */
GHashTable *moji_weights_unusable(MojiWeights *w);

/* Until moji_weights_restore, `name`, which must be there, finds these values instead of the
 * file's: as many, in the same shape, of `type`. Takes data, which came from malloc or its like.
 * What backends made of the values before is let go, so tapes prepared with it must be gone, unless
 * they can renew it: then it stays, and moji_weights_renew must come before tapes run again. */
void moji_weights_override(MojiWeights *w, const char *name, MojiType type, void *data);
/* The tensor as it is in the file, overridden or not; NULL if there is none. Owned by w. */
MojiWeight *moji_weights_pristine(MojiWeights *w, const char *name);
/* Back to the file's values, all of them; the same holds for what was made of the others. */
void moji_weights_restore(MojiWeights *w);
/* Lets backends make anew, where it is, what they made of values that have changed since. FALSE
 * with their error set: then let go of all of it. */
gboolean moji_weights_renew(MojiWeights *w, GError **error);

/* ---- sets made of others ---- */

/* An empty set. */
MojiWeights *moji_weights_new(const char *path);
/* Adds a tensor like t: name is copied, data is not, prepared is left out. NULL, and nothing added,
 * if the name is taken. */
MojiWeight *moji_weights_add(MojiWeights *w, const MojiWeight *t);
/* Notes a tensor that the file has and we cannot use, and why: see moji_weights_absence. */
void moji_weights_pass_over(MojiWeights *w, const char *name, const char *why, ...)
    G_GNUC_PRINTF(3, 4);
/* Releases `owner`, of what data points into, when w is freed. */
void moji_weights_keep(MojiWeights *w, gpointer owner, GDestroyNotify release);

/* The name in the view of what is stored under this one; NULL leaves it out. Caller frees. */
typedef char *(*MojiWeightsNameFn)(const char *stored, gpointer user_data);
/* The same tensors under other names, with a reference to `of`, which may be freed. Where two get
 * one name, that which is stored under it wins, then the first. */
MojiWeights *moji_weights_view(MojiWeights *of, MojiWeightsNameFn name, gpointer user_data);

/* What a backend keeps with a weight, under a key of its own ("cpu bf16 ..."); value is released
 * by `release` with the weights. Returns what is kept under that key, or NULL. */
gpointer moji_weight_prepared(MojiWeight *t, const char *key);
/* Lets go of all that backends keep, to save memory; tapes prepared with it must be gone. */
void moji_weights_release(MojiWeights *w);
void moji_weight_set_prepared(MojiWeight *t, const char *key, gpointer value,
                              GDestroyNotify release);
/* Makes `value` anew from t's present values, so that whoever holds it sees them. */
typedef gboolean (*MojiWeightRenewFn)(gpointer value, const MojiWeight *t, GError **error);
/* The same for what can be renewed. */
void moji_weight_set_renewable(MojiWeight *t, const char *key, gpointer value,
                               GDestroyNotify release, MojiWeightRenewFn renew);

/* The first tensor with a number that is not finite, or NULL: reads them all. Owned by w. */
MojiWeight *moji_weights_damaged(MojiWeights *w);

/* Elements from, from + 1, ... of a tensor of f32, f16 or bf16, whatever its alignment -> out
 * [count]. */
void moji_weight_numbers(const MojiWeight *t, gsize from, gsize count, float *out);
