/* attention_amx.h: attention in bf16 for processors with matrix tiles. To be called only where
 * Cpu.amx says so: the system has been asked for the tiles' state then. */
#pragma once
#include "kernels.h"

#define MOJI_CPU_AMX_ROWS 32 /* queries at a time */

typedef struct { /* one head of one image; bf16 */
    const CpuKernels *kernels;
    const void *q;     /* [n,width], rows row_bytes apart */
    void *out;         /* likewise */
    const void *k, *v; /* packed */
    gsize row_bytes;
    gint64 m, padded_m, width, padded_width; /* padded to a multiple of 32 */
    float scale;
    gboolean causal;
} CpuAmxHead;

/* Makes all tiles 16 rows of 64 bytes for this thread, which must release them when it is done. */
void moji_cpu_amx_configure(void);

gsize moji_cpu_amx_work_bytes(gint64 padded_width);
/* k or v [m,width], rows row_bytes apart; packed has padded_m * padded_width values. */
void moji_cpu_amx_pack_k(void *packed, const void *k, const CpuAmxHead *head);
void moji_cpu_amx_pack_v(void *packed, const void *v, const CpuAmxHead *head);
/* Queries [first, first + rows), at most MOJI_CPU_AMX_ROWS. */
void moji_cpu_amx_attend(void *work, const CpuAmxHead *head, gint64 first, gint64 rows);
