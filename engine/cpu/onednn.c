/* onednn.c: see onednn.h.
 *
 * The surprising rule: a reordered weight is kept under its layout, so two tapes of one model share
 * it whenever oneDNN chose the same layout for both, and only then. */
#include "onednn.h"
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

gboolean moji_cpu_ok(dnnl_status_t status, const CpuStep *step, const char *doing, GError **error)
{
    static const char *text[] = {"success",       "out of memory",           "invalid arguments",
                                 "not supported", "no more implementations", "run-time error",
                                 "not required"};
    if (status == dnnl_success)
        return TRUE;
    g_set_error(error, MOJI_ERROR,
                status == dnnl_out_of_memory ? MOJI_ERROR_MEMORY : MOJI_ERROR_BACKEND,
                "%s %s: oneDNN could not %s: %s", moji_op_name(step->record->op),
                step->record->name ? step->record->name : "", doing,
                status < G_N_ELEMENTS(text) ? text[status] : "unknown status");
    return FALSE;
}

static dnnl_data_type_t data_type(MojiType type)
{
    return type == MOJI_BF16 ? dnnl_bf16 : type == MOJI_F16 ? dnnl_f16 : dnnl_f32;
}

dnnl_memory_desc_t moji_cpu_desc(MojiType type, int rank, const gint64 *dim, const gint64 *stride)
{
    dnnl_memory_desc_t md;
    gint64 dense[MOJI_MAX_RANK], step = 1;
    for (int i = rank; i-- > 0; step *= dim[i])
        dense[i] = step;
    dnnl_status_t status =
        dnnl_memory_desc_init_by_strides(&md, rank, (const int64_t *)dim, data_type(type),
                                         (const int64_t *)(stride ? stride : dense));
    g_assert(status == dnnl_success);
    return md;
}

dnnl_memory_desc_t moji_cpu_desc_any(MojiType type, int rank, const gint64 *dim)
{
    dnnl_memory_desc_t md;
    dnnl_status_t status = dnnl_memory_desc_init_by_tag(&md, rank, (const int64_t *)dim,
                                                        data_type(type), dnnl_format_tag_any);
    g_assert(status == dnnl_success);
    return md;
}

/* ---- primitives ---- */

gboolean moji_cpu_primitive_init(CpuPrimitive *p, const CpuStep *step, dnnl_engine_t engine,
                                 const_dnnl_op_desc_t op_desc, dnnl_primitive_attr_t attr,
                                 GError **error)
{
    *p = (CpuPrimitive){};
    dnnl_primitive_attr_t own = NULL;
    if (!attr && !moji_cpu_ok(dnnl_primitive_attr_create(&own), step, "prepare", error))
        return FALSE;
    dnnl_primitive_attr_set_scratchpad_mode(attr ? attr : own, dnnl_scratchpad_mode_user);
    dnnl_status_t status =
        dnnl_primitive_desc_create(&p->desc, op_desc, attr ? attr : own, engine, NULL);
    if (status == dnnl_success)
        status = dnnl_primitive_create(&p->primitive, p->desc);
    if (own)
        dnnl_primitive_attr_destroy(own);
    if (status != dnnl_success)
        moji_cpu_primitive_clear(p);
    return moji_cpu_ok(status, step, "make a primitive for it on this processor", error);
}

const dnnl_memory_desc_t *moji_cpu_primitive_md(const CpuPrimitive *p, dnnl_query_t what)
{
    return dnnl_primitive_desc_query_md(p->desc, what, 0);
}

const char *moji_cpu_primitive_name(const CpuPrimitive *p)
{
    const char *name = "";
    dnnl_primitive_desc_query(p->desc, dnnl_query_impl_info_str, 0, &name);
    return name;
}

gsize moji_cpu_primitive_scratch(const CpuPrimitive *p)
{
    return dnnl_memory_desc_get_size(moji_cpu_primitive_md(p, dnnl_query_scratchpad_md));
}

gboolean moji_cpu_primitive_bind(CpuPrimitive *p, const CpuStep *step, dnnl_engine_t engine,
                                 int arg, const dnnl_memory_desc_t *md, const void *data,
                                 GError **error)
{
    g_assert(p->args < (int)G_N_ELEMENTS(p->arg));
    dnnl_exec_arg_t *a = &p->arg[p->args];
    a->arg = arg;
    /* DNNL_MEMORY_NONE is NULL: bound before the run */
    if (!moji_cpu_ok(dnnl_memory_create(&a->memory, md, engine, (void *)data), step,
                     "describe its memory", error))
        return FALSE;
    p->args++;
    return TRUE;
}

void moji_cpu_primitive_set(CpuPrimitive *p, int arg, const void *data)
{
    for (int i = 0; i < p->args; i++)
        if (p->arg[i].arg == arg)
            dnnl_memory_set_data_handle(p->arg[i].memory, (void *)data);
}

dnnl_status_t moji_cpu_primitive_run(const CpuPrimitive *p, dnnl_stream_t stream)
{
    return dnnl_primitive_execute(p->primitive, stream, p->args, p->arg);
}

void moji_cpu_primitive_clear(CpuPrimitive *p)
{
    for (int i = 0; i < p->args; i++)
        dnnl_memory_destroy(p->arg[i].memory);
    if (p->primitive)
        dnnl_primitive_destroy(p->primitive);
    if (p->desc)
        dnnl_primitive_desc_destroy(p->desc);
    *p = (CpuPrimitive){};
}

/* ---- weights ---- */

/* Everything in a descriptor that says where a value stands. */
static char *layout_key(const dnnl_memory_desc_t *md)
{
    GString *key = g_string_new("cpu");
    g_string_append_printf(key, " %d %d", md->data_type, md->format_kind);
    for (int i = 0; i < md->ndims; i++)
        g_string_append_printf(key, " %" G_GINT64_FORMAT "/%" G_GINT64_FORMAT ":%" G_GINT64_FORMAT,
                               (gint64)md->dims[i], (gint64)md->padded_dims[i],
                               (gint64)md->format_desc.blocking.strides[i]);
    for (int i = 0; i < md->format_desc.blocking.inner_nblks; i++)
        g_string_append_printf(key, " %" G_GINT64_FORMAT "*%" G_GINT64_FORMAT,
                               (gint64)md->format_desc.blocking.inner_blks[i],
                               (gint64)md->format_desc.blocking.inner_idxs[i]);
    return g_string_free(key, FALSE);
}

const void *moji_cpu_staged(CpuPlan *plan, const MojiWeight *w, MojiType type, GError **error)
{
    if (w->type == type && (guintptr)w->data % moji_type_bytes(type) == 0)
        return w->data;
    gsize n = w->bytes / moji_type_bytes(w->type), bytes = n * moji_type_bytes(type);
    if (plan->staging_bytes < bytes) {
        moji_cpu_free(plan->staging);
        plan->staging = moji_cpu_alloc(bytes, w->name, error);
        plan->staging_bytes = plan->staging ? bytes : 0;
    }
    if (plan->staging)
        moji_cpu_convert(plan->cpu, plan->staging, type, w->data, w->type, n);
    return plan->staging;
}

void moji_cpu_drop_pages(const MojiWeight *w)
{
    gsize page = sysconf(_SC_PAGESIZE);
    guintptr start = ((guintptr)w->data + page - 1) / page * page;
    guintptr end = ((guintptr)w->data + w->bytes) / page * page;
    if (w->mapped && end > start)
        madvise((void *)start, end - start, MADV_DONTNEED);
}

static gboolean reorder(CpuPlan *plan, const CpuStep *step, const dnnl_memory_desc_t *from,
                        const void *source, const dnnl_memory_desc_t *to, void *target,
                        GError **error)
{
    CpuPrimitive p = {};
    dnnl_engine_t engine = plan->cpu->engine;
    gboolean done =
        moji_cpu_ok(dnnl_reorder_primitive_desc_create(&p.desc, from, engine, to, engine, NULL),
                    step, "reorder its weight", error) &&
        moji_cpu_ok(dnnl_primitive_create(&p.primitive, p.desc), step, "reorder its weight",
                    error) &&
        moji_cpu_primitive_bind(&p, step, engine, DNNL_ARG_FROM, from, source, error) &&
        moji_cpu_primitive_bind(&p, step, engine, DNNL_ARG_TO, to, target, error) &&
        moji_cpu_ok(moji_cpu_primitive_run(&p, plan->cpu->stream), step, "reorder its weight",
                    error);
    moji_cpu_primitive_clear(&p);
    return done;
}

const void *moji_cpu_reordered(CpuPlan *plan, const CpuStep *step, MojiWeight *weight,
                               const dnnl_memory_desc_t *plain, const dnnl_memory_desc_t *wanted,
                               GError **error)
{
    g_autofree char *key = layout_key(wanted);
    void *made = moji_weight_prepared(weight, key);
    if (made)
        return made;
    /* oneDNN reads f32 and bf16 */
    MojiType type = wanted->data_type == dnnl_bf16 ? MOJI_BF16 : MOJI_F32;
    MojiType found = weight->type == MOJI_F16 ? type : weight->type;
    const void *source = moji_cpu_staged(plan, weight, found, error);
    if (!source)
        return NULL;
    made = moji_cpu_alloc(dnnl_memory_desc_get_size(wanted), weight->name, error);
    dnnl_memory_desc_t from = *plain;
    from.data_type = data_type(found);
    if (made && !reorder(plan, step, &from, source, wanted, made, error))
        g_clear_pointer(&made, moji_cpu_free);
    if (made)
        moji_weight_set_prepared(weight, key, made, moji_cpu_free);
    moji_cpu_drop_pages(weight);
    return made;
}
