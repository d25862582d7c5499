/* onednn.h: oneDNN with GError, and weights in the order its primitives like best. */
#pragma once
#include "cpu.h"

/* A primitive with what it is run on. Arguments are bound by number; those bound to NULL get their
 * memory before each run. */
typedef struct {
    dnnl_primitive_desc_t desc;
    dnnl_primitive_t primitive;
    int args;
    dnnl_exec_arg_t arg[8];
} CpuPrimitive;

/* FALSE, with the error set, unless status is success; doing: "conv2d down_blocks.0...: prepare".
 */
gboolean moji_cpu_ok(dnnl_status_t status, const CpuStep *step, const char *doing, GError **error);

/* A dense row-major descriptor when stride is NULL. */
dnnl_memory_desc_t moji_cpu_desc(MojiType type, int rank, const gint64 *dim, const gint64 *stride);
/* The layout is left to the primitive. */
dnnl_memory_desc_t moji_cpu_desc_any(MojiType type, int rank, const gint64 *dim);

/* Takes op_desc's best implementation; scratch memory is the caller's. attr may be NULL. */
gboolean moji_cpu_primitive_init(CpuPrimitive *p, const CpuStep *step, dnnl_engine_t engine,
                                 const_dnnl_op_desc_t op_desc, dnnl_primitive_attr_t attr,
                                 GError **error);
const dnnl_memory_desc_t *moji_cpu_primitive_md(const CpuPrimitive *p, dnnl_query_t what);
const char *moji_cpu_primitive_name(const CpuPrimitive *p); /* the implementation's */
gsize moji_cpu_primitive_scratch(const CpuPrimitive *p);
gboolean moji_cpu_primitive_bind(CpuPrimitive *p, const CpuStep *step, dnnl_engine_t engine,
                                 int arg, const dnnl_memory_desc_t *md, const void *data,
                                 GError **error);
void moji_cpu_primitive_set(CpuPrimitive *p, int arg, const void *data);
dnnl_status_t moji_cpu_primitive_run(const CpuPrimitive *p, dnnl_stream_t stream);
void moji_cpu_primitive_clear(CpuPrimitive *p);

/* The weight's values, described by `plain` (in the file's order, of the wanted type), in the
 * layout `wanted`; made once and kept with the weight, then its pages of the file may leave memory.
 */
const void *moji_cpu_reordered(CpuPlan *plan, const CpuStep *step, MojiWeight *weight,
                               const dnnl_memory_desc_t *plain, const dnnl_memory_desc_t *wanted,
                               GError **error);
