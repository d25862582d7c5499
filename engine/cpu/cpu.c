/* cpu.c: the CPU backend: oneDNN for what multiplies, kernels.inc for the rest, OpenMP for threads.
 *
 * The surprising rule: OpenMP's number of threads belongs to the calling thread, so it is set on
 * the way in and put back on the way out, and prepare must run under the same number as run does
 * because oneDNN divides the work when a primitive is made. */
#include "cpu.h"
#include <omp.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define HUGE_PAGE (2 << 20)

static const CpuOp *const ops[MOJI_OP_COUNT] = {
    [MOJI_OP_CONV2D] = &moji_cpu_conv2d,
    [MOJI_OP_LINEAR] = &moji_cpu_linear,
    [MOJI_OP_GROUP_NORM] = &moji_cpu_group_norm,
    [MOJI_OP_LAYER_NORM] = &moji_cpu_layer_norm,
    [MOJI_OP_ATTENTION] = &moji_cpu_attention,
    [MOJI_OP_SILU] = &moji_cpu_unary,
    [MOJI_OP_GELU] = &moji_cpu_unary,
    [MOJI_OP_QUICK_GELU] = &moji_cpu_unary,
    [MOJI_OP_RELU] = &moji_cpu_unary,
    [MOJI_OP_GEGLU] = &moji_cpu_geglu,
    [MOJI_OP_ADD] = &moji_cpu_add,
    [MOJI_OP_SCALE] = &moji_cpu_unary,
    [MOJI_OP_CONCAT] = &moji_cpu_concat,
    [MOJI_OP_UPSAMPLE] = &moji_cpu_upsample,
    [MOJI_OP_EMBED] = &moji_cpu_embed,
    [MOJI_OP_MIX] = &moji_cpu_mix,
    [MOJI_OP_SINUSOID] = &moji_cpu_sinusoid,
    [MOJI_OP_CAST] = &moji_cpu_cast,
};

/* ---- memory ---- */

void *moji_cpu_alloc(gsize bytes, const char *what, GError **error)
{
    void *memory = NULL;
    gsize align = bytes >= 2 * HUGE_PAGE ? HUGE_PAGE : 64;
    if (bytes > G_MAXSSIZE || posix_memalign(&memory, align, MAX(bytes, 64)) != 0) {
        g_set_error(error, MOJI_ERROR, MOJI_ERROR_MEMORY,
                    "Not enough memory: %s wants %" G_GSIZE_FORMAT " bytes", what, bytes);
        return NULL;
    }
#ifdef MADV_HUGEPAGE
    /* fewer page faults and address look-ups; only whole pages, lest the rest count as used */
    if (align == HUGE_PAGE)
        madvise(memory, bytes / HUGE_PAGE * HUGE_PAGE, MADV_HUGEPAGE);
#endif
    return memory;
}

static void *memory_new(MojiBackend *b, gsize bytes, GError **error)
{
    (void)b;
    return moji_cpu_alloc(bytes, "the block of activations", error);
}

static void memory_free(MojiBackend *b, void *memory)
{
    (void)b;
    moji_cpu_free(memory);
}

static void memory_write(MojiBackend *b, void *memory, const void *host, gsize bytes)
{
    (void)b;
    memcpy(memory, host, bytes);
}

static void memory_read(MojiBackend *b, const void *memory, void *host, gsize bytes)
{
    (void)b;
    memcpy(host, memory, bytes);
}

void moji_cpu_convert(Cpu *cpu, void *to, MojiType to_type, const void *from, MojiType from_type,
                      gsize n)
{
    const CpuKernels *k = cpu->kernels;
    if (to_type == from_type) {
        memcpy(to, from, n * moji_type_bytes(to_type));
        return;
    }
    enum { PART = 4096 };
#pragma omp parallel for schedule(static)
    for (gsize i = 0; i < n; i += PART) {
        float part[PART];
        gsize m = MIN(n - i, PART);
        float *f = to_type == MOJI_F32 ? (float *)to + i : part;
        if (from_type == MOJI_F16)
            k->from_f16(f, (const char *)from + 2 * i, m);
        else if (from_type == MOJI_BF16)
            k->from_bf16(f, (const char *)from + 2 * i, m);
        else
            memcpy(f, (const char *)from + 4 * i, 4 * m);
        if (to_type == MOJI_BF16)
            k->to_bf16((guint16 *)to + i, f, m);
    }
}

const void *moji_cpu_plain(CpuPlan *plan, MojiWeight *weight, MojiType type, GError **error)
{
    if (weight->type == type && (guintptr)weight->data % moji_type_bytes(type) == 0)
        return weight->data;
    const char *key = type == MOJI_F32 ? "cpu plain f32" : "cpu plain bf16";
    void *made = moji_weight_prepared(weight, key);
    if (made)
        return made;
    gsize n = weight->bytes / moji_type_bytes(weight->type);
    made = moji_cpu_alloc(n * moji_type_bytes(type), weight->name, error);
    if (!made)
        return NULL;
    moji_cpu_convert(plan->cpu, made, type, weight->data, weight->type, n);
    moji_weight_set_prepared(weight, key, made, moji_cpu_free);
    return made;
}

/* ---- prepare and run ---- */

static void unprepare(MojiBackend *b, void *prepared)
{
    (void)b;
    CpuPlan *plan = prepared;
    for (int i = 0; i < plan->steps; i++) {
        CpuStep *step = &plan->step[i];
        if (step->state && step->op->release)
            step->op->release(step->state);
    }
    moji_cpu_free(plan->scratch);
    g_free(plan->step);
    g_free(plan);
}

static void *in_block(void *block, MojiTensor *t)
{
    while (t->view_of)
        t = t->view_of;
    return (char *)block + t->offset;
}

static gboolean prepare_step(CpuPlan *plan, CpuStep *step, void *block, MojiWeight **weight,
                             GError **error)
{
    MojiRecord *r = step->record;
    step->out = in_block(block, r->out);
    for (int k = 0; k < MOJI_MAX_INPUTS; k++) {
        if (!r->in[k])
            continue;
        if (r->in[k]->kind == MOJI_PARAMETER)
            step->weight[k] = weight[r->in[k]->id];
        else
            step->in[k] = in_block(block, r->in[k]);
    }
    step->op = ops[r->op];
    if (step->op->prepare && !step->op->prepare(plan, step, error))
        return FALSE;
    plan->scratch_bytes = MAX(plan->scratch_bytes, step->scratch_bytes);
    return TRUE;
}

static gboolean prepare(MojiBackend *b, MojiTape *tape, void *block, MojiWeight **weight,
                        void **prepared, GError **error)
{
    Cpu *cpu = (Cpu *)b;
    CpuPlan *plan = g_new0(CpuPlan, 1);
    plan->cpu = cpu;
    plan->steps = moji_tape_length(tape);
    plan->step = g_new0(CpuStep, plan->steps);
    for (int i = 0; i < plan->steps; i++)
        plan->step[i].record = moji_tape_record(tape, i);

    int before = omp_get_max_threads();
    omp_set_num_threads(cpu->threads);
    gboolean done = TRUE;
    for (int i = 0; done && i < plan->steps; i++)
        done = prepare_step(plan, &plan->step[i], block, weight, error);
    omp_set_num_threads(before);
    moji_cpu_free(plan->staging);
    if (done && plan->scratch_bytes) {
        plan->scratch = moji_cpu_alloc(plan->scratch_bytes, "working memory", error);
        done = plan->scratch != NULL;
    }
    if (!done) {
        unprepare(b, plan);
        return FALSE;
    }
    g_debug("cpu: %d steps, %" G_GSIZE_FORMAT " bytes of working memory", plan->steps,
            plan->scratch_bytes);
    *prepared = plan;
    return TRUE;
}

static gboolean run(MojiBackend *b, void *prepared, int first, int end, GError **error)
{
    Cpu *cpu = (Cpu *)b;
    CpuPlan *plan = prepared;
    int before = omp_get_max_threads();
    omp_set_num_threads(cpu->threads);
    gboolean done = TRUE;
    for (int i = first; done && i < MIN(end, plan->steps); i++)
        done = plan->step[i].op->run(plan, &plan->step[i], error);
    omp_set_num_threads(before);
    return done;
}

static gboolean profile(MojiBackend *b, void *prepared, double *seconds, GError **error)
{
    CpuPlan *plan = prepared;
    gboolean done = TRUE;
    for (int i = 0; done && i < plan->steps; i++) {
        gint64 start = g_get_monotonic_time();
        done = run(b, prepared, i, i + 1, error);
        seconds[i] = (g_get_monotonic_time() - start) / 1e6;
    }
    return done;
}

/* ---- the processor ---- */

static const char *describe(MojiBackend *b)
{
    return ((Cpu *)b)->description;
}

static MojiType preferred(MojiBackend *b)
{
    return ((Cpu *)b)->bf16 ? MOJI_BF16 : MOJI_F32;
}

static gboolean supports(MojiBackend *b, MojiType type)
{
    (void)b;
    return type == MOJI_F32 || type == MOJI_BF16;
}

static const char *isa_name(dnnl_cpu_isa_t isa)
{
    if ((isa & dnnl_cpu_isa_avx512_core_amx) == dnnl_cpu_isa_avx512_core_amx)
        return "AVX-512 with AMX";
    if ((isa & dnnl_cpu_isa_avx512_core_bf16) == dnnl_cpu_isa_avx512_core_bf16)
        return "AVX-512 with bf16";
    if ((isa & dnnl_cpu_isa_avx512_core) == dnnl_cpu_isa_avx512_core)
        return "AVX-512";
    return (isa & dnnl_cpu_isa_avx2) == dnnl_cpu_isa_avx2 ? "AVX2" : "baseline instructions";
}

/* oneDNN's answer, so that its ONEDNN_MAX_CPU_ISA holds for our loops too. */
const CpuKernels *moji_cpu_kernels(void)
{
    dnnl_cpu_isa_t isa = dnnl_get_effective_cpu_isa();
#if defined(__x86_64__)
    if ((isa & dnnl_cpu_isa_avx512_core_bf16) == dnnl_cpu_isa_avx512_core_bf16)
        return &moji_cpu_kernels_bf16;
    if ((isa & dnnl_cpu_isa_avx512_core) == dnnl_cpu_isa_avx512_core)
        return &moji_cpu_kernels_avx512;
    if ((isa & dnnl_cpu_isa_avx2) == dnnl_cpu_isa_avx2 && __builtin_cpu_supports("fma"))
        return &moji_cpu_kernels_avx2;
#endif
    (void)isa;
    return &moji_cpu_kernels_base;
}

/* "Intel(R) Xeon(R) Processor", or "processor" where the system does not say. */
static char *processor_name(void)
{
    g_autofree char *text = NULL;
    const char *line = NULL;
    if (g_file_get_contents("/proc/cpuinfo", &text, NULL, NULL))
        line = strstr(text, "model name");
    line = line ? strchr(line, ':') : NULL;
    return line ? g_strstrip(g_strndup(line + 1, strcspn(line + 1, "\n"))) : g_strdup("processor");
}

static int usable_cores(void)
{
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) > 0)
        return CPU_COUNT(&set);
    return MAX(1, (int)g_get_num_processors());
}

/* Linux keeps the tiles' 8 KiB of state only for processes that ask. */
static gboolean may_use_tiles(void)
{
#if defined(__x86_64__) && defined(__linux__)
    const long request_permission = 0x1023, tile_data = 18; /* arch_prctl's, of asm/prctl.h */
    return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
#else
    return FALSE;
#endif
}

static void close_cpu(MojiBackend *b)
{
    Cpu *cpu = (Cpu *)b;
    if (cpu->stream)
        dnnl_stream_destroy(cpu->stream);
    if (cpu->engine)
        dnnl_engine_destroy(cpu->engine);
    g_free(cpu->description);
    g_free(cpu);
}

MojiBackend *moji_backend_cpu(int threads, GError **error)
{
    Cpu *cpu = g_new0(Cpu, 1);
    cpu->base = (MojiBackend){.name = "cpu",
                              .pictures = 1,
                              .span = 1,
                              .describe = describe,
                              .preferred = preferred,
                              .supports = supports,
                              .memory_new = memory_new,
                              .memory_free = memory_free,
                              .write = memory_write,
                              .read = memory_read,
                              .prepare = prepare,
                              .unprepare = unprepare,
                              .run = run,
                              .profile = profile,
                              .close = close_cpu};
    cpu->threads = threads > 0 ? threads : usable_cores();
    if (dnnl_engine_create(&cpu->engine, dnnl_cpu, 0) != dnnl_success ||
        dnnl_stream_create(&cpu->stream, cpu->engine, dnnl_stream_default_flags) != dnnl_success) {
        g_set_error(error, MOJI_ERROR, MOJI_ERROR_BACKEND, "oneDNN does not start on this machine");
        close_cpu(&cpu->base);
        return NULL;
    }
    dnnl_cpu_isa_t isa = dnnl_get_effective_cpu_isa();
    cpu->kernels = moji_cpu_kernels();
    cpu->amx =
        (isa & dnnl_cpu_isa_avx512_core_amx) == dnnl_cpu_isa_avx512_core_amx && may_use_tiles();
    cpu->bf16 = (isa & dnnl_cpu_isa_avx512_core_bf16) == dnnl_cpu_isa_avx512_core_bf16;
    const dnnl_version_t *v = dnnl_version();
    g_autofree char *processor = processor_name();
    cpu->description =
        g_strdup_printf("%s, %s, %d thread%s, oneDNN %d.%d.%d", processor, isa_name(isa),
                        cpu->threads, cpu->threads == 1 ? "" : "s", v->major, v->minor, v->patch);
    return &cpu->base;
}
