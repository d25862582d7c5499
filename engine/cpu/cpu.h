/* cpu.h: what the files of the CPU backend share.
 *
 * moji_cpu_plan: prepare makes one CpuStep for each record of the tape and asks the op's entry in
 * the table to fill in `state`; run walks the steps. Addresses are final when prepare begins, so
 * they are resolved once.
 *
 * The surprising rule: nothing is allocated after prepare. Temporary memory is one block for the
 * whole plan, as large as the hungriest step asks for through CpuStep.scratch_bytes. */
#pragma once
#include "backend.h"
#include "kernels.h"
#include <dnnl.h>

typedef struct {
    MojiBackend base; /* first: the public face */
    int threads;
    char *description;
    gboolean bf16; /* this processor multiplies bf16 */
    gboolean amx;  /* and has matrix tiles for it, which the system lets us use */
    const CpuKernels *kernels;
    dnnl_engine_t engine;
    dnnl_stream_t stream;
} Cpu;

typedef struct CpuOp CpuOp;

typedef struct {
    MojiRecord *record;
    const CpuOp *op;                     /* the table's; prepare may put another in its place */
    const void *in[MOJI_MAX_INPUTS];     /* in the block, or a parameter's values; NULL if absent */
    MojiWeight *weight[MOJI_MAX_INPUTS]; /* not NULL where the input is a parameter */
    void *out;
    gpointer state;      /* the op's own, freed by its release */
    gsize scratch_bytes; /* set by prepare */
} CpuStep;

typedef struct {
    Cpu *cpu;
    CpuStep *step;
    int steps;
    void *scratch; /* shared by all steps; there when run is called */
    gsize scratch_bytes;
    void *staging; /* during prepare only: a weight on its way from file to layout */
    gsize staging_bytes;
} CpuPlan;

struct CpuOp {
    gboolean (*prepare)(CpuPlan *plan, CpuStep *step, GError **error); /* NULL: nothing to do */
    gboolean (*run)(CpuPlan *plan, CpuStep *step, GError **error);
    void (*release)(gpointer state); /* NULL: there is no state */
};

extern const CpuOp moji_cpu_conv2d, moji_cpu_linear;         /* product.c */
extern const CpuOp moji_cpu_attention;                       /* attention.c */
extern const CpuOp moji_cpu_group_norm, moji_cpu_layer_norm; /* norm.c */
extern const CpuOp moji_cpu_unary, moji_cpu_geglu, moji_cpu_add,
    moji_cpu_concat, /* elementwise.c */
    moji_cpu_upsample, moji_cpu_embed, moji_cpu_sinusoid, moji_cpu_cast, moji_cpu_mix;

/* 64-byte aligned, in huge pages where it is large; MOJI_ERROR_MEMORY says for whom. */
void *moji_cpu_alloc(gsize bytes, const char *what, GError **error);
#define moji_cpu_free free

/* A parameter as `type`, F32 or BF16, in the order of the file: the file's own memory where it has
 * that type already, else a copy kept with the weight. */
const void *moji_cpu_plain(CpuPlan *plan, MojiWeight *weight, MojiType type, GError **error);

/* A parameter as `type`, F32 or BF16, in the order of the file: the file's own memory, or one that
 * prepare keeps for the next. */
const void *moji_cpu_staged(CpuPlan *plan, const MojiWeight *weight, MojiType type, GError **error);
/* Lets the file's pages that hold nothing but this weight leave memory. */
void moji_cpu_drop_pages(const MojiWeight *weight);

const CpuKernels *moji_cpu_kernels(void); /* the best for this processor */

/* n values from one type (F32, BF16, F16, at any alignment) to another (F32, BF16). */
void moji_cpu_convert(Cpu *cpu, void *to, MojiType to_type, const void *from, MojiType from_type,
                      gsize n);

static inline gboolean moji_cpu_is_bf16(const MojiTensor *t)
{
    return t->type == MOJI_BF16;
}

/* The product of all dimensions but the last. */
static inline gint64 moji_cpu_rows(const MojiTensor *t)
{
    return moji_tensor_count(t) / t->dim[t->rank - 1];
}
