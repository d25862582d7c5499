/* cmd_explain.c: `moji explain`: a network's tape, and the memory that it will hold, from its
 * configuration alone. */
#include "command.h"
#include "folder.h"
#include "request.h"
#include "stage.h"
#include <stdio.h>
#include <string.h>

#define MIB 1048576.0

typedef struct {
    char *model, *vae, *type, *backend;
    int size, batch;
} Options;

static void print_line(const char *what, guint64 bytes)
{
    printf("  %-12s %13" G_GUINT64_FORMAT " bytes (%.1f MiB)\n", what, bytes, bytes / MIB);
}

/* What these stages hold together. */
static gboolean print_memory(MojiBackend *b, MojiStage *const *stages, int n, MojiType type,
                             GError **error)
{
    MojiForecast f;
    if (!moji_stage_forecast(stages, n, b, &f, error))
        return FALSE;
    printf("memory in %s, %s:\n", moji_type_name(type), b->describe(b));
    print_line("weights", f.weights);
    print_line("activations", f.activations);
    if (b->forecast) {
        print_line("working", f.working);
        print_line("libraries", f.libraries);
    }
    print_line("all", f.weights + f.activations + f.working + f.libraries);
    if (b->forecast)
        printf("  the driver's own for code and graphs is not in this; moji bench measures it\n");
    return TRUE;
}

static MojiStage *stage_new(const MojiModel *m, const char *network, MojiType type, int side,
                            int batch)
{
    return !strcmp(network, "text")   ? moji_stage_text(m, type, batch ? batch : 2, 1, FALSE)
           : !strcmp(network, "unet") ? moji_stage_unet(m, type, batch ? batch : 2, side, side)
                                      : moji_stage_vae(m, type, batch ? batch : 1, side, side);
}

static gboolean explain_network(const Options *o, const MojiModel *m, const char *network, int side,
                                MojiType type, MojiBackend *b, GError **error)
{
    MojiStage *s = stage_new(m, network, type, side, o->batch);
    g_autofree char *text = moji_tape_explain(s->tape);
    fputs(text, stdout);
    gboolean done = !b || print_memory(b, &s, 1, type, error);
    moji_stage_free(s);
    return done;
}

/* A drawing with guidance holds all three networks, and decodes one picture after the other. */
static gboolean explain_drawing(const Options *o, const MojiModel *m, int side, MojiType type,
                                MojiBackend *b, GError **error)
{
    MojiStage *stages[] = {stage_new(m, "text", type, side, 2),
                           moji_stage_step_card(m, type, MAX(o->batch, 1), m->card.steps, side),
                           stage_new(m, "vae", type, side, 1)};
    gboolean done = print_memory(b, stages, 3, type, error);
    for (int i = 0; i < 3; i++)
        moji_stage_free(stages[i]);
    return done;
}

static gboolean explain_on(const Options *o, const MojiModel *m, const char *network, int size,
                           GError **error)
{
    gboolean drawing = !strcmp(network, "draw");
    MojiBackend *b = NULL;
    MojiType type = MOJI_BF16;
    if ((drawing || o->backend) && !(b = moji_backend_open(o->backend, 0, error)))
        return FALSE;
    if (b)
        type = b->preferred(b);
    if (o->type)
        moji_type_parse(o->type, &type);
    int side = size / moji_vae_factor(&m->vae);
    gboolean done = drawing ? explain_drawing(o, m, side, type, b, error)
                            : explain_network(o, m, network, side, type, b, error);
    moji_backend_close(b);
    return done;
}

static int explain(const Options *o, const char *network)
{
    GError *error = NULL;
    g_autofree char *folder = o->model ? moji_folder_find(o->model) : moji_model_bundled();
    if (!folder)
        return moji_command_fail(g_error_new(MOJI_ERROR, MOJI_ERROR_FILE,
                                             "The bundled model is not installed; use --model"));
    g_autofree char *vae = moji_folder_find_vae(o->vae);
    MojiModel *m = moji_model_configs_with_vae(folder, vae, &error);
    if (!m)
        return moji_command_fail(error);
    int size = o->size ? o->size : m->card.size, unit = moji_stage_size_unit(m);
    int code = MOJI_EXIT_OK;
    if (size % unit || size < MOJI_REQUEST_MIN_SIZE || size > MOJI_REQUEST_MAX_SIZE)
        code = moji_command_misuse("--size %d: expected a multiple of %d from %d to %d", size, unit,
                                   MOJI_REQUEST_MIN_SIZE, MOJI_REQUEST_MAX_SIZE);
    else if (!explain_on(o, m, network, size, &error))
        code = moji_command_fail(error);
    moji_model_free(m);
    return code;
}

int moji_cmd_explain(int argc, char **argv)
{
    Options o = {0};
    const GOptionEntry entries[] = {
        {"model", 0, 0, G_OPTION_ARG_FILENAME, &o.model, "Model (the bundled one)", "MODEL"},
        {"vae", 0, 0, G_OPTION_ARG_FILENAME, &o.vae, "A VAE in place of the model's own", "VAE"},
        {"size", 0, 0, G_OPTION_ARG_INT, &o.size, "Pixels on a side (the model's)", "N"},
        {"batch", 0, 0, G_OPTION_ARG_INT, &o.batch, "Pictures at once (2; vae, draw: 1)", "N"},
        {"backend", 0, 0, G_OPTION_ARG_STRING, &o.backend, "State its memory: auto, cpu or cuda",
         "NAME"},
        {"type", 0, 0, G_OPTION_ARG_STRING, &o.type, "f32, bf16 or f16 (bf16, the backend's)", "T"},
        G_OPTION_ENTRY_NULL};
    g_auto(GStrv) words = NULL;
    int code = MOJI_EXIT_USAGE;
    MojiType type;
    static const char *const NETWORKS[] = {"unet", "vae", "text", "draw", NULL};
    if (!moji_command_parse(
            "unet|vae|text|draw",
            "Prints the network as the engine will run it, one line a record:\n"
            "number, op, shapes, type, offset in the block, name. With --backend, also the\n"
            "memory that it will hold there; draw: that of a whole drawing, and nothing else.\n"
            "Needs no weights.",
            entries, argc, argv, &words))
        code = MOJI_EXIT_USAGE;
    else if (g_strv_length(words) != 1 || !g_strv_contains(NETWORKS, words[0]))
        moji_command_misuse("explain takes one of unet, vae, text, draw; see moji explain --help");
    else if (o.batch < 0 || o.batch > 64)
        moji_command_misuse("--batch %d: expected 1 to 64", o.batch);
    else if (o.type && !moji_type_parse(o.type, &type))
        moji_command_misuse("--type \"%s\": expected f32, bf16 or f16", o.type);
    else
        code = explain(&o, words[0]);
    g_free(o.model);
    g_free(o.vae);
    g_free(o.type);
    g_free(o.backend);
    return code;
}
