/* product_amx.h: products of bf16 rows and weights for processors with matrix tiles. To be called
 * only where Cpu.amx says so: the system has been asked for the tiles' state then.
 *
 * A product is a sum over steps: in a step 32 channels of a position, or of one of its neighbours,
 * meet their weights for 32 outputs. A linear layer has a step for each 32 channels; a convolution
 * for each 32 channels and each of its taps. */
#pragma once
#include <glib.h>

#define MOJI_CPU_AMX_COLUMNS 32      /* outputs at a time */
#define MOJI_CPU_AMX_DEPTH 32        /* channels of a step */
#define MOJI_CPU_AMX_STEP_BYTES 2048 /* the weights of a step, packed */

typedef struct {
    const char *x;        /* of position 0; any 32 positions from one that counts can be read */
    gsize row_bytes;      /* from one position to the next */
    gint64 positions;     /* those from -31 on can be read too if this is no multiple of 32 */
    const gint32 *offset; /* [steps]: bytes from a position to the step's channels */
    gint64 steps;
    gint64 part;        /* steps at a time */
    const char *weight; /* [steps] packed */
    const char *next;   /* weights wanted next, as many; NULL if none */
    float *sum;         /* [positions rounded up to 32, 64 at least,32], room */

    const gint32 *pixel; /* [positions]: where they go, -1 for nowhere; NULL: one after the other */
    gint64 columns;      /* outputs that there are, at most 32 */
    const float *bias;   /* [columns] or NULL */
    const char *residual; /* like out, which it may be; NULL if there is none */
    char *out;            /* of pixel 0, first column */
    gsize out_bytes;      /* from one pixel to the next */
    gboolean stream;      /* past the caches: 32 columns, out aligned to 64 bytes */
} CpuAmxProduct;

void moji_cpu_amx_multiply(const CpuAmxProduct *p);

/* Weights of one step: value(output, channel) = from[output * out_stride + channel * in_stride] for
 * what there is, zeros beyond. */
void moji_cpu_amx_pack_step(void *packed, const guint16 *from, gsize out_stride, gsize in_stride,
                            gint64 outputs, gint64 channels);
