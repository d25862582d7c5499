/* tape.h: record, then run.
 *
 *     MojiTape *tape = moji_tape_new(MOJI_BF16);
 *     MojiTensor *x = moji_input(tape, "sample", MOJI_F32, 4, (gint64[]){2, 64, 64, 4});
 *     MojiTensor *h = moji_cast(tape, x, MOJI_BF16);
 *     h = moji_conv2d(tape, "conv_in", h, (MojiConv){.out = 320, .kernel = 3, .pad = 1});
 *     MojiTensor *y = moji_output(tape, moji_cast(tape, h, MOJI_F32));
 *     moji_tape_plan(tape);                                 // lifetimes -> offsets in one block
 *     if (!moji_tape_prepare(tape, backend, weights, &error)) ...   // primitives, made once
 *     moji_tape_write(tape, x, host_x);
 *     if (!moji_tape_run(tape, cancellable, &error)) ...            // as often as wanted
 *     moji_tape_read(tape, y, host_y);
 *     moji_tape_free(tape);
 *
 * Recording only checks shapes and appends records: it needs no weights, no backend and no memory,
 * so a plan can be printed from a config file alone. A shape mismatch while recording is our own
 * mistake and asserts with both shapes; a weight that is missing or has another shape is the file's
 * and is reported by moji_tape_prepare.
 *
 * The surprising rule: nothing is computed when a recorder is called, and the tensor it returns has
 * no memory until the tape is planned; its memory is reused as soon as its last reader has run, so
 * only inputs (until their last reader) and tensors marked by moji_output can be relied on.
 *
 * Shapes: activations are NHWC, [B,h,w,C] is [B,h*w,C] by moji_reshape. Letters mean one thing
 * everywhere: B batch, h w height and width, C channels, n tokens, m context tokens, E time
 * embedding width, k kernel. */
#pragma once
#include <gio/gio.h>
#include "error.h"

typedef struct MojiTape MojiTape;
typedef struct MojiTensor MojiTensor;
typedef struct MojiBackend MojiBackend; /* backend.h */
typedef struct MojiWeights MojiWeights; /* weights.h */

#define MOJI_MAX_RANK 4

typedef enum { MOJI_F32, MOJI_BF16, MOJI_F16, MOJI_I32, MOJI_I64 } MojiType;
gsize moji_type_bytes(MojiType type);
const char *moji_type_name(MojiType type); /* "f32", "bf16", "f16", "i32", "i64" */
/* The compute type of that name ("f32", "bf16", "f16"); FALSE if it is none. */
gboolean moji_type_parse(const char *name, MojiType *type);

typedef enum {
    MOJI_INPUT,      /* written by the caller before each run */
    MOJI_PARAMETER,  /* read from the weights file, constant */
    MOJI_ACTIVATION, /* lives in the tape's block, from its writer to its last reader */
} MojiKind;

struct MojiTensor {
    int id;
    MojiKind kind;
    MojiType type;
    int rank;
    gint64 dim[MOJI_MAX_RANK];
    char *name;          /* inputs: the caller's; parameters: the name in the weights file */
    MojiTensor *view_of; /* not NULL: the same memory as that tensor under another shape */
    gboolean output;     /* kept until the end of the tape */
    gboolean steady;     /* follows from steady inputs alone: see moji_steady */
    gboolean kept;       /* steady, and kept from run to run; once planned */
    int first, last;     /* records that write it first and read it last, once planned; -1 none */
    gsize offset;        /* in the tape's block, once planned; inputs and activations only */
};

gint64 moji_tensor_count(const MojiTensor *t); /* number of elements */
gsize moji_tensor_bytes(const MojiTensor *t);
/* "[2,64,64,320]" in a buffer of the caller's; returns it. */
const char *moji_tensor_shape(const MojiTensor *t, char *buffer, gsize buffer_bytes);

/* One word in every place an op appears: here, in the backend's table, in the test rows. */
typedef enum {
    MOJI_OP_CONV2D,     /* x [B,h,w,C], weight [O,C,k,k], bias [O]?, residual [B,h',w',O]? */
    MOJI_OP_LINEAR,     /* x [...,C], weight [O,C], bias [O]?, residual [...,O]? */
    MOJI_OP_GROUP_NORM, /* x [B,h,w,C], weight [C], bias [C]; then SiLU if attr.norm.silu */
    MOJI_OP_LAYER_NORM, /* x [B,n,C], weight [C], bias [C] */
    MOJI_OP_ATTENTION,  /* q [B,n,C], k [B,m,C], v [B,m,C], C = heads*d */
    MOJI_OP_SILU,
    MOJI_OP_GELU,       /* exact, by erf */
    MOJI_OP_QUICK_GELU, /* x sigmoid(1.702 x) */
    MOJI_OP_RELU,       /* 0 where x < 0 */
    MOJI_OP_GEGLU,      /* x [...,2C] -> [...,C]: first half * gelu(second half) */
    MOJI_OP_ADD,        /* a + b; b may have 1 where a does not (broadcast) */
    MOJI_OP_SCALE,      /* x * attr.scale.by */
    MOJI_OP_CONCAT,     /* a [B,h,w,C1], b [B,h,w,C2] -> [B,h,w,C1+C2] */
    MOJI_OP_UPSAMPLE,   /* x [B,h,w,C] -> [B,2h,2w,C], nearest */
    MOJI_OP_EMBED,      /* table [V,C], ids i32 [B,n] -> [B,n,C] */
    MOJI_OP_SINUSOID,   /* t f32 [B] -> f32 [B,C]: timestep embedding, cosines first if flip */
    MOJI_OP_CAST,       /* f32 <-> bf16, f16 */
    MOJI_OP_MIX,        /* a f32 [A,...], factors f32 [R,A+B+1], b f32 [B,...]? -> f32 [R,...] */
    MOJI_OP_COUNT
} MojiOp;
const char *moji_op_name(MojiOp op); /* "conv2d", ... */

/* Whose mean and spread group norms norm by; see moji_tape_norms. */
typedef enum { MOJI_NORMS_OWN, MOJI_NORMS_KEEP, MOJI_NORMS_KEPT } MojiNorms;

typedef union {
    struct {
        int kernel, stride, pad_begin, pad_end;
    } conv; /* the same on both axes */
    struct {
        int groups;
        float eps;
        gboolean silu;
        MojiNorms by;
    } norm; /* layer norm: only eps is used */
    struct {
        int heads;
        float scale;
        gboolean causal;
    } attention;
    struct {
        float by;
    } scale;
    struct {
        gboolean flip;
        float shift;
    } sinusoid;
} MojiAttr;

#define MOJI_MAX_INPUTS 4
typedef struct {
    MojiOp op;
    MojiTensor *in[MOJI_MAX_INPUTS]; /* in the order of the list above; NULL where absent */
    MojiTensor *out;
    MojiAttr attr;
    char *name; /* where in the model: "down_blocks.0.resnets.0.conv1" */
} MojiRecord;

/* ---- recording ---- */

/* compute: the type of parameters and activations: MOJI_F32, MOJI_BF16 or MOJI_F16, of which not
 * every backend has all. */
MojiTape *moji_tape_new(MojiType compute);
void moji_tape_free(MojiTape *tape); /* NULL is fine; releases what the backend prepared */
MojiType moji_tape_compute(const MojiTape *tape);

/* Names nest like module paths: between scope and scope_end every record and parameter gets the
 * prefix "down_blocks.0." */
void moji_scope(MojiTape *tape, const char *format, ...) G_GNUC_PRINTF(2, 3);
void moji_scope_end(MojiTape *tape);

MojiTensor *moji_input(MojiTape *tape, const char *name, MojiType type, int rank,
                       const gint64 *dim);
MojiTensor *moji_output(MojiTape *tape, MojiTensor *t); /* marks and returns t */
/* Marks and returns an input that many runs have in common. What follows from such inputs alone is
 * computed when one of them has been written and kept until one is again; all of them must be
 * written then. */
MojiTensor *moji_steady(MojiTape *tape, MojiTensor *input);
/* A parameter of the compute type named SCOPE.name; the layer recorders below call it. */
MojiTensor *moji_parameter(MojiTape *tape, const char *name, int rank, const gint64 *dim);
MojiTensor *moji_reshape(MojiTape *tape, MojiTensor *x, int rank, const gint64 *dim); /* a view */

typedef struct {
    int out;               /* output channels */
    int kernel;            /* 1 or 3 */
    int stride;            /* 0 means 1 */
    int pad;               /* on every side */
    gboolean pad_end_only; /* pad only right and below: the VAE encoder's downsampling */
    gboolean no_bias;
} MojiConv;

/* The layer recorders: parameters are NAME.weight and NAME.bias in the present scope. */
MojiTensor *moji_conv2d(MojiTape *tape, const char *name, MojiTensor *x, MojiConv conv);
MojiTensor *moji_linear(MojiTape *tape, const char *name, MojiTensor *x, int out, gboolean bias);
MojiTensor *moji_group_norm(MojiTape *tape, const char *name, MojiTensor *x, int groups, float eps,
                            gboolean silu);
MojiTensor *moji_layer_norm(MojiTape *tape, const char *name, MojiTensor *x, float eps);
MojiTensor *moji_embed(MojiTape *tape, const char *name, MojiTensor *ids, int rows, int width);
/* The same from a table that is no parameter, which the ids are the caller's own numbers of. */
MojiTensor *moji_pick(MojiTape *tape, MojiTensor *table, MojiTensor *ids);

MojiTensor *moji_attention(MojiTape *tape, MojiTensor *q, MojiTensor *k, MojiTensor *v, int heads,
                           float scale, gboolean causal);
MojiTensor *moji_silu(MojiTape *tape, MojiTensor *x);
MojiTensor *moji_gelu(MojiTape *tape, MojiTensor *x);
MojiTensor *moji_quick_gelu(MojiTape *tape, MojiTensor *x);
MojiTensor *moji_relu(MojiTape *tape, MojiTensor *x);
MojiTensor *moji_geglu(MojiTape *tape, MojiTensor *x);
MojiTensor *moji_add(MojiTape *tape, MojiTensor *a, MojiTensor *b);
MojiTensor *moji_scale(MojiTape *tape, MojiTensor *x, float by);
MojiTensor *moji_concat(MojiTape *tape, MojiTensor *a, MojiTensor *b);
MojiTensor *moji_upsample(MojiTape *tape, MojiTensor *x);
MojiTensor *moji_sinusoid(MojiTape *tape, MojiTensor *t, int width, gboolean flip, float shift);
MojiTensor *moji_cast(MojiTape *tape, MojiTensor *x, MojiType type); /* x itself if it is already */
/* Sums of planes: out's plane r is the sum of all planes of a and then b (NULL: of a), each times
 * factors[r][k], clipped to +-factors[r][A+B]. Plane 0 is made first and stands in the place of a's
 * for the others; where a factor is 0 a plane may hold anything. At most MOJI_MIX_ROWS planes. */
#define MOJI_MIX_ROWS 8
MojiTensor *moji_mix(MojiTape *tape, MojiTensor *a, MojiTensor *b, MojiTensor *factors);

/* ---- looking at it ---- */

int moji_tape_length(const MojiTape *tape);
/* How many records from the first on follow from steady inputs alone, once planned: later runs
 * begin after them. */
int moji_tape_steady(const MojiTape *tape);
MojiRecord *moji_tape_record(MojiTape *tape, int i); /* owned by the tape */
int moji_tape_tensors(const MojiTape *tape);
MojiTensor *moji_tape_tensor(MojiTape *tape, int id);

/* ---- planning, preparing, running ---- */

/* Folds an add into the conv2d or linear before it (as that record's residual) where nothing else
 * reads the intermediate, puts what is steady first, then gives every input and activation an
 * offset such that no two that are live at once overlap. Call once, after the last recorder. */
void moji_tape_plan(MojiTape *tape);
/* TRUE for silu, gelu, quick_gelu, relu, scale, add and mix: out may be exactly in[0]'s memory, so
 * these must read an element of in[0], mix in all planes, before they write it. (add's operands
 * change places if only b dies.) */
gboolean moji_op_in_place(MojiOp op);
/* TRUE, once planned, for linear layers of one input and one shape, without a residual, whose
 * outputs are wanted until the same record: those of such records in a row lie one after another at
 * one distance, and all may be written when the first is, so that a backend can compute them as one
 * product (queries, keys and values). */
gboolean moji_records_alike(const MojiRecord *a, const MojiRecord *b);
gsize moji_tape_block_bytes(const MojiTape *tape);     /* the planned block, 64-byte offsets */
gsize moji_tape_unplanned_bytes(const MojiTape *tape); /* what it would be with no reuse */

/* One line a record (number, op, shapes, type, offset, name), then a summary. Caller frees. */
char *moji_tape_explain(MojiTape *tape);

/* Checks every parameter against the weights (MOJI_ERROR_FILE names file, tensor, found, expected),
 * allocates the block and lets the backend make what it needs. Weights must outlive the tape.
 * weights may be NULL if the tape has no parameters. */
gboolean moji_tape_prepare(MojiTape *tape, MojiBackend *backend, MojiWeights *weights,
                           GError **error);

void moji_tape_write(MojiTape *tape, MojiTensor *input, const void *host); /* whole tensor */
void moji_tape_read(MojiTape *tape, MojiTensor *output, void *host);       /* whole tensor */
/* The same of `count` elements from `at` on. */
void moji_tape_write_part(MojiTape *tape, MojiTensor *input, gint64 at, gint64 count,
                          const void *host);
void moji_tape_read_part(MojiTape *tape, MojiTensor *output, gint64 at, gint64 count, void *host);
/* MojiBackend.peek and peeked. */
void moji_tape_peek(MojiTape *tape, MojiTensor *output, gint64 at, gint64 count);
void moji_tape_peeked(MojiTape *tape, void *host);

/* Runs all records. Cancelling takes effect between two records, or later on a backend that takes
 * many at once. Inputs must be written again
 * before the next run unless they are also marked by moji_output or are steady. */
gboolean moji_tape_run(MojiTape *tape, GCancellable *cancellable, GError **error);
/* The same, for `moji bench`, always from the first record: seconds[i] is what record i took. */
gboolean moji_tape_profile(MojiTape *tape, double *seconds, GError **error);

/* Parts of a picture whose group norms each go by their own mean and spread come out in other
 * colours than the whole. So run a small copy of the whole with MOJI_NORMS_KEEP, then the parts
 * with MOJI_NORMS_KEPT, which norm by what that run kept. Once prepared. */
void moji_tape_norms(MojiTape *tape, MojiNorms by);
