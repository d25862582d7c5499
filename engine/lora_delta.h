/* lora_delta.h: what one module of a LoRA file adds to one tensor of the model.
 *
 * A weight [O,I] or [O,I,k,k] is a matrix of O rows and I*k*k columns here, a bias or a norm one
 * row. W is the model's own, W' what it becomes at weight 1:
 *
 *     LoRA, LoCon    W' = W + s up down                       up [O,r], down [r,I*k*k]
 *       with mid     W' = W + s up (mid . down)               mid [r,r,k,k], down [r,I]
 *     LoHa           W' = W + s (w1_a w1_b) * (w2_a w2_b)     element by element
 *     LoKr           W' = W + s kron(w1, w2)                  either may be a product a b
 *     full           W' = W + diff
 *     DoRA           W' = magnitude * (W + change) / |W + change|
 *
 * s is alpha / r, and 1 without an alpha or for a LoKr of two whole matrices; alpha / sqrt(r) where
 * PEFT's settings say use_rslora. A norm is of an output's row, or in LyCORIS' older files of all
 * that one input channel has (dora_scale [1,I]); its shape tells.
 *
 * At another weight m the tensor becomes W + m (W' - W), for DoRA too, as ComfyUI has it: several
 * LoRAs add up in any order. Sources: kohya-ss/sd-scripts networks/lora.py, KohakuBlueleaf/LyCORIS,
 * huggingface/peft; papers 2106.09685, 2108.06098 (LoHa), 2212.10650 (LoKr), 2402.09353 (DoRA). */
#pragma once
#include "weights.h"

typedef enum {
    MOJI_LORA_DOWN,
    MOJI_LORA_UP,
    MOJI_LORA_MID,
    MOJI_LORA_UP_BIAS, /* PEFT's lora_B.bias */
    MOJI_LORA_HADA_W1_A,
    MOJI_LORA_HADA_W1_B,
    MOJI_LORA_HADA_W2_A,
    MOJI_LORA_HADA_W2_B,
    MOJI_LORA_HADA_T1,
    MOJI_LORA_HADA_T2,
    MOJI_LORA_LOKR_W1,
    MOJI_LORA_LOKR_W1_A,
    MOJI_LORA_LOKR_W1_B,
    MOJI_LORA_LOKR_W2,
    MOJI_LORA_LOKR_W2_A,
    MOJI_LORA_LOKR_W2_B,
    MOJI_LORA_LOKR_T2,
    MOJI_LORA_DIFF,
    MOJI_LORA_DIFF_B,
    MOJI_LORA_ALPHA,
    MOJI_LORA_DORA_SCALE,
    MOJI_LORA_MAGNITUDE, /* PEFT's, always by output */
    MOJI_LORA_PARTS
} MojiLoraPart;

typedef struct { /* what a file has for one module */
    const char *path;
    MojiWeight *part[MOJI_LORA_PARTS]; /* NULL where absent */
    double alpha;                      /* of the file's settings; NAN: none */
    gboolean root;                     /* use_rslora */
} MojiLoraModule;

typedef enum {
    MOJI_LORA_LOW_RANK,
    MOJI_LORA_HADAMARD,
    MOJI_LORA_KRONECKER,
    MOJI_LORA_FULL,
    MOJI_LORA_BIAS_ONLY,
} MojiLoraKind;

/* What kind it is; MOJI_ERROR_FILE if parts of several kinds are mixed, or one too many. */
gboolean moji_lora_module_kind(const MojiLoraModule *m, MojiLoraKind *kind, GError **error);
gboolean moji_lora_module_has_bias(const MojiLoraModule *m);
/* The rank, or 0 where there is none. */
gint64 moji_lora_module_rank(const MojiLoraModule *m);

typedef struct {
    gint64 rows, in, area; /* O, I, k*k */
} MojiLoraShape;

typedef struct MojiLoraDelta MojiLoraDelta;

/* Reads the parts and checks them: shapes, ranks, numbers that are not finite. MOJI_ERROR_FILE
 * names file and key, what was found and expected. bias: the change of the module's bias. */
MojiLoraDelta *moji_lora_delta_new(const MojiLoraModule *m, gboolean bias, MojiLoraShape shape,
                                   GError **error);
void moji_lora_delta_free(MojiLoraDelta *d); /* NULL is fine */

/* Rows first .. first+n: y += by * (W' - W). w: those rows of W; scratch: 3 n columns. */
void moji_lora_delta_add(const MojiLoraDelta *d, gint64 first, gint64 n, const float *w, float by,
                         float *y, float *scratch);

/* Norms by input channel need all rows beforehand: if wants, squares for every block of rows into
 * one sum [I], then norms, then add. scratch: 3 n columns. */
gboolean moji_lora_delta_wants_norms(const MojiLoraDelta *d);
void moji_lora_delta_squares(const MojiLoraDelta *d, gint64 first, gint64 n, const float *w,
                             double *sum, float *scratch);
void moji_lora_delta_norms(MojiLoraDelta *d, const double *sum);
