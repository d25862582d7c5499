/* soak.c: many drawings on one engine, with random sizes, batches, LoRAs and cancels: memory must
 * not grow and nothing may fail.
 *
 *     build/bench/soak [--backend cuda] [--model DIR] [--lora FILE]... [--drawings 2000] [--seed 1]
 *
 * Prints a line every hundredth drawing and one at the end; the exit status is 0 if all went well.
 * Memory is the process's, and the GPU's where there is one; it may grow in the first fifth, while
 * everything is met for the first time, and after that by 2 % at most. */
#include "backend.h"
#include "command.h"
#include "draw.h"
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static char *backend_name, *folder, **loras;
static int drawings = 2000, seed = 1;
static MojiBackend *probe; /* only to ask how much memory is left; NULL on the processor */

static double process_mib(void)
{
    long pages = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    if (!f || fscanf(f, "%*d %ld", &pages) != 1)
        pages = 0;
    if (f)
        fclose(f);
    return (double)pages * sysconf(_SC_PAGESIZE) / (1 << 20);
}

/* Less free memory is more used. */
static double gpu_mib(void)
{
    return probe ? -(double)probe->available(probe) / (1 << 20) : 0;
}

typedef struct {
    GCancellable *cancel;
    int at; /* the step to cancel at; -1: never */
} Plan;

static void on_progress(const MojiProgress *p, gpointer data)
{
    const Plan *plan = data;
    if (p->phase == MOJI_PHASE_STEP && p->step == plan->at)
        g_cancellable_cancel(plan->cancel);
}

/* Each LoRA in half of the drawings, at one of three weights. Caller frees. */
static char **choose_loras(GRand *dice)
{
    g_autoptr(GStrvBuilder) chosen = g_strv_builder_new();
    for (char **path = loras; path && *path; path++)
        if (g_rand_boolean(dice)) {
            int halves = g_rand_int_range(dice, 1, 4);
            g_autofree char *entry = g_strdup_printf("%s:%g", *path, halves / 2.0);
            g_strv_builder_add(chosen, entry);
        }
    return g_strv_builder_end(chosen);
}

/* FALSE with the error if this drawing ended as it should not have. */
static gboolean draw(MojiEngine *engine, GRand *dice, int *cancelled, GError **error)
{
    static const int sizes[] = {64, 128, 192, 256, 512};
    g_autoptr(MojiRequest) r = moji_request_new();
    g_autoptr(GCancellable) cancel = g_cancellable_new();
    GError *e = NULL;
    Plan plan = {cancel, -1};
    r->prompt = g_strdup("grinning cat");
    r->model = g_strdup(folder);
    r->size = sizes[g_rand_int_range(dice, 0, G_N_ELEMENTS(sizes))];
    r->steps = g_rand_int_range(dice, 1, 6);
    r->count = g_rand_int_range(dice, 1, 3);
    r->seed = g_rand_int_range(dice, 0, 1000);
    r->loras = choose_loras(dice);
    r->guidance = g_rand_boolean(dice) ? 1 : 3;
    if (g_rand_int_range(dice, 0, 4) == 0)
        plan.at = g_rand_int_range(dice, 1, r->steps + 1);
    GPtrArray *images = moji_engine_draw(engine, r, on_progress, &plan, cancel, &e);
    gboolean expected = images || g_error_matches(e, MOJI_ERROR, MOJI_ERROR_CANCELLED);
    *cancelled += images == NULL;
    if (!expected)
        g_propagate_error(error, g_steal_pointer(&e));
    g_clear_error(&e);
    g_clear_pointer(&images, g_ptr_array_unref);
    return expected;
}

static gboolean soak(MojiEngine *engine, GError **error)
{
    g_autoptr(GRand) dice = g_rand_new_with_seed(seed);
    double process = 0, gpu = 0;
    int cancelled = 0;
    for (int i = 1; i <= drawings; i++) {
        if (!draw(engine, dice, &cancelled, error))
            return FALSE;
        if (i == MAX(drawings / 5, 1)) {
            process = process_mib();
            gpu = gpu_mib();
        }
        if (i % 100 == 0)
            printf("%d drawings, %d cancelled, %.0f MiB of the process\n", i, cancelled,
                   process_mib());
        fflush(stdout);
    }
    double more = process_mib() - process, more_gpu = gpu_mib() - gpu;
    printf("%d drawings, %d cancelled; since a fifth of them the process grew by %.1f MiB of %.0f, "
           "the GPU's memory by %.1f MiB\n",
           drawings, cancelled, more, process, more_gpu);
    if (more <= MAX(0.02 * process, 16) && more_gpu <= 64)
        return TRUE;
    g_set_error(error, MOJI_ERROR, MOJI_ERROR_MEMORY, "memory grows");
    return FALSE;
}

int main(int argc, char **argv)
{
    moji_command_spin_briefly(argv);
    const GOptionEntry entries[] = {
        {"backend", 0, 0, G_OPTION_ARG_STRING, &backend_name, "auto, cpu or cuda (auto)", "NAME"},
        {"model", 0, 0, G_OPTION_ARG_FILENAME, &folder, "Model folder (the bundled one)", "DIR"},
        {"lora", 0, 0, G_OPTION_ARG_FILENAME_ARRAY, &loras, "In some drawings; may be repeated",
         "FILE"},
        {"drawings", 0, 0, G_OPTION_ARG_INT, &drawings, "So many (2000)", "N"},
        {"seed", 0, 0, G_OPTION_ARG_INT, &seed, "Of the dice (1)", "N"},
        G_OPTION_ENTRY_NULL};
    GError *error = NULL;
    g_autoptr(GOptionContext) context = g_option_context_new("");
    g_option_context_add_main_entries(context, entries, NULL);
    MojiEngine *engine = NULL;
    gboolean done = g_option_context_parse(context, &argc, &argv, &error) &&
                    (engine = moji_engine_new(backend_name, 0, &error));
    if (done)
        probe = moji_backend_open(backend_name, 1, &error);
    if (probe && !probe->available)
        g_clear_pointer(&probe, moji_backend_close);
    done = done && !error && soak(engine, &error);
    if (!done)
        fprintf(stderr, "soak: %s\n", error->message);
    moji_engine_free(engine);
    moji_backend_close(probe);
    return !done;
}
