/* cuda.h: what the files of the CUDA backend share. They are one shared object, opened at run time
 * by backend.c, so nothing outside of this folder includes this.
 *
 *     cuda.c        the device, memory, prepare, run as a graph, profile
 *     memory.c      allocations, copies, and what tapes will want
 *     upload.c      weights on the device, once for all tapes
 *     product.c     conv2d and linear: which library plan or kernel, and running it
 *     attention.c   attention: fused, or put together from products
 *     simple.c      the ops that are one kernel, and norms
 *     cublas.c      plans of cuBLASLt     } replaced by tests/shim/libraries.c where the backend
 *     cudnn.c       plans of cuDNN        } is run on the host
 *     tune.c        the fastest of several by timing, remembered on disk
 *
 * The surprising rule: everything a step needs is settled in prepare, because run is captured: it
 * may only put work on the stream, at addresses that stay. */
#pragma once
#include "backend.h"
#include "kernels.h"

typedef struct CudaLibraries CudaLibraries; /* cublas.c and cudnn.c */
typedef struct CudaTuning CudaTuning;       /* tune.c */
typedef struct CudaSlab CudaSlab;           /* upload.c */

typedef struct {
    MojiBackend base; /* first: the public face */
    char *description;
    char gpu[256];
    int device;
    int capability; /* 90 for 9.0 */
    cudaStream_t stream;
    CudaLibraries *libraries;
    CudaTuning *tuning;
    GHashTable *plans; /* key -> CudaProductPlan or the like, which outlive the tapes */

    /* Shared by all tapes; grows in prepare, after which graphs that knew the old one are made
     * anew. */
    void *scratch;
    gsize scratch_bytes;
    int scratch_turn;

    GPtrArray *slabs; /* of CudaSlab: memory of weights */
    void *staging;    /* a piece of a weight, in the file's type */
    int *bad;         /* device: kernel_embed's complaint */

    /* Page-locked memory that copies go through, used up to `pinned_used` by copies that may still
     * be under way; NULL if there is none to be had. */
    char *pinned;
    gsize pinned_used;

    /* What is peeked at: page-locked, as long as was ever asked for. */
    void *peek;
    gsize peek_room, peek_bytes;
    gboolean peek_failed;
    cudaEvent_t peek_done;

    guint64 left_at_start, least_left; /* bytes of the device */
    gboolean dry;                      /* a copy that allocates nothing: memory.c */
    guintptr dry_address;
} Cuda;

typedef struct CudaOp CudaOp;

typedef struct {
    MojiRecord *record;
    const CudaOp *op;                    /* NULL: done as part of another step */
    const void *in[MOJI_MAX_INPUTS];     /* in the block; NULL where absent or a parameter */
    MojiWeight *weight[MOJI_MAX_INPUTS]; /* not NULL where the input is a parameter */
    void *out;
    gpointer state;    /* the op's own, freed by its release */
    const void *shift; /* group norm: added to x first, or NULL */
} CudaStep;

typedef struct {
    Cuda *cuda;
    CudaStep *step;
    int steps, steady; /* all; the first of them, which later runs leave out */
    gboolean embeds;   /* so that ids have to be checked after a run */
    int runs;          /* of all that are not steady since the scratch memory last moved */
    int scratch_turn;
    cudaGraphExec_t graph; /* all steps that are not steady, from their second run on */

    /* Moments of all group norms, for moji_tape_norms; NULL until they are first kept. */
    char *kept;
    gsize kept_bytes;
    const MojiRecord *norm; /* one of them, which says how they go now, or NULL */
    MojiNorms by;           /* how they went in the last run */
} CudaPlan;

struct CudaOp {
    gboolean (*prepare)(CudaPlan *plan, CudaStep *step, GError **error); /* NULL: nothing to do */
    gboolean (*run)(CudaPlan *plan, CudaStep *step, GError **error);
    void (*release)(gpointer state); /* NULL: there is none */
};

extern const CudaOp moji_cuda_conv2d, moji_cuda_linear; /* product.c */
extern const CudaOp moji_cuda_attention;                /* attention.c */
extern const CudaOp moji_cuda_group_norm, moji_cuda_layer_norm, moji_cuda_unary, moji_cuda_geglu,
    moji_cuda_add, moji_cuda_concat, moji_cuda_upsample, moji_cuda_embed, moji_cuda_sinusoid,
    moji_cuda_cast, moji_cuda_mix; /* simple.c */

/* TRUE if e is cudaSuccess; otherwise MOJI_ERROR_BACKEND (MOJI_ERROR_MEMORY when there is none
 * left) that names the step. */
gboolean moji_cuda_ok(cudaError_t e, const CudaStep *step, GError **error);

/* ---- memory.c ---- */

/* cudaMalloc; MOJI_ERROR_MEMORY that says what wanted how much. */
#define MOJI_CUDA_PINNED ((gsize)4 << 20)
gboolean moji_cuda_allocate(Cuda *cuda, void **memory, gsize bytes, const char *what,
                            GError **error);
void moji_cuda_free(Cuda *cuda, void *memory);
/* Looks how much is in use, for moji_cuda_peak. */
void moji_cuda_note_use(Cuda *cuda);
guint64 moji_cuda_available(MojiBackend *b);
guint64 moji_cuda_peak(MojiBackend *b);
gboolean moji_cuda_forecast(MojiBackend *b, MojiTape *const *tapes, int n, MojiForecast *f,
                            GError **error);

/* The backend's own. */
void moji_cuda_write(MojiBackend *b, void *memory, const void *host, gsize bytes);
void moji_cuda_read(MojiBackend *b, const void *memory, void *host, gsize bytes);
void moji_cuda_peek(MojiBackend *b, const void *memory, gsize bytes);
void moji_cuda_peeked(MojiBackend *b, void *host);

/* Makes sure that cuda->scratch has this many bytes. */
gboolean moji_cuda_scratch(Cuda *cuda, gsize bytes, GError **error);

static inline KernelType moji_cuda_type(MojiType type)
{
    G_STATIC_ASSERT((int)MOJI_F32 == KERNEL_F32 && (int)MOJI_BF16 == KERNEL_BF16 &&
                    (int)MOJI_F16 == KERNEL_F16);
    return (KernelType)type;
}

/* The product of all dimensions but the last, and the last. */
static inline gint64 moji_cuda_rows(const MojiTensor *t)
{
    return moji_tensor_count(t) / t->dim[t->rank - 1];
}
static inline gint64 moji_cuda_width(const MojiTensor *t)
{
    return t->dim[t->rank - 1];
}

/* ---- upload.c ---- */

/* The parameter on the device as `type`, a [O,C,k,k] weight as [O,k,k,C]; made once for all tapes
 * and freed with the weights. NULL with the error set. */
const void *moji_cuda_weight(Cuda *cuda, MojiWeight *weight, MojiType type, gint64 taps,
                             GError **error);
/* The same of n parameters of one shape, into at[n]: one after another at one distance, unless some
 * were made before. FALSE with the error set. */
gboolean moji_cuda_weights(Cuda *cuda, MojiWeight *const *weight, int n, MojiType type,
                           const void **at, GError **error);
#define MOJI_CUDA_STAGING ((gsize)16 << 20)
void moji_cuda_slabs_free(Cuda *cuda);
guint64 moji_cuda_slabs_bytes(const Cuda *cuda);

/* ---- tune.c ---- */

CudaTuning *moji_cuda_tuning_new(const char *gpu, const char *libraries);
void moji_cuda_tuning_free(CudaTuning *t); /* writes what is new */
/* Puts candidate i's work on the stream; FALSE if it cannot be run after all. */
typedef gboolean (*CudaTry)(gpointer data, int i);
/* The fastest of n candidates: remembered for this GPU and these libraries, else timed now. -1 if
 * none runs. */
int moji_cuda_tune(Cuda *cuda, const char *key, int n, CudaTry try, gpointer data);

/* ---- cublas.c and cudnn.c ---- */

/* Bytes of the libraries' own working memory, which all plans share and none may exceed. */
#define MOJI_CUDA_WORKSPACE ((gsize)64 << 20)

/* NULL with the error set if a library cannot be used. */
CudaLibraries *moji_cuda_libraries_new(Cuda *cuda, GError **error);
void moji_cuda_libraries_free(CudaLibraries *l);
const char *moji_cuda_libraries_name(CudaLibraries *l); /* "cuBLAS 13.0, cuDNN 9.19" */
gsize moji_cuda_libraries_bytes(CudaLibraries *l);

typedef struct { /* what a plan works on; NULL where absent */
    const void *x, *w, *bias, *residual;
    void *y;
} CudaOperands;

typedef struct CudaLibraryPlan CudaLibraryPlan;
struct CudaLibraryPlan { /* the first member of each library's own */
    gboolean (*run)(Cuda *cuda, CudaLibraryPlan *plan, const CudaOperands *o);
    void (*free)(CudaLibraryPlan *plan);
};

/* A plan for y = alpha x w' (+ bias) (+ residual), the bias of y's type; NULL if cuBLASLt has none.
 * The fastest by timing on `o`. Owned by cuda->plans. */
CudaLibraryPlan *moji_cuda_product_plan(Cuda *cuda, const KernelProduct *shape, MojiType type,
                                        const CudaOperands *o);
/* A plan for the convolution with what `o` has of bias (f32) and residual; NULL if cuDNN has none.
 * Owned by cuda->plans. */
CudaLibraryPlan *moji_cuda_conv_plan(Cuda *cuda, const KernelConv *shape, MojiType type,
                                     const CudaOperands *o);
/* A plan for attention, o->x, w, bias being q, k, v; NULL if cuDNN has none. */
CudaLibraryPlan *moji_cuda_attention_plan(Cuda *cuda, const KernelAttention *shape, MojiType type,
                                          const CudaOperands *o);
