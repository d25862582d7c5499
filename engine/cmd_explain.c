/* cmd_explain.c: `moji explain`: a network's tape, from its configuration alone. */
#include "command.h"
#include "folder.h"
#include "request.h"
#include "stage.h"
#include <stdio.h>
#include <string.h>

typedef struct {
    char *model, *vae, *type;
    int size, batch;
} Options;

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
    MojiType type = MOJI_BF16;
    if (o->type)
        moji_type_parse(o->type, &type);
    int size = o->size ? o->size : m->card.size, unit = moji_stage_size_unit(m);
    int side = size / moji_vae_factor(&m->vae);
    int code = MOJI_EXIT_OK;
    if (size % unit || size < MOJI_REQUEST_MIN_SIZE || size > MOJI_REQUEST_MAX_SIZE) {
        code = moji_command_misuse("--size %d: expected a multiple of %d from %d to %d", size, unit,
                                   MOJI_REQUEST_MIN_SIZE, MOJI_REQUEST_MAX_SIZE);
    } else {
        int batch = o->batch ? o->batch : strcmp(network, "vae") ? 2 : 1;
        MojiStage *s = !strcmp(network, "text")   ? moji_stage_text(m, type, batch, 1, FALSE)
                       : !strcmp(network, "unet") ? moji_stage_unet(m, type, batch, side, side)
                                                  : moji_stage_vae(m, type, batch, side, side);
        g_autofree char *text = moji_tape_explain(s->tape);
        fputs(text, stdout);
        moji_stage_free(s);
    }
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
        {"batch", 0, 0, G_OPTION_ARG_INT, &o.batch, "Pictures at once (2; vae: 1)", "N"},
        {"type", 0, 0, G_OPTION_ARG_STRING, &o.type, "f32, bf16 or f16 (bf16)", "T"},
        G_OPTION_ENTRY_NULL};
    g_auto(GStrv) words = NULL;
    int code = MOJI_EXIT_USAGE;
    MojiType type;
    if (!moji_command_parse(
            "unet|vae|text",
            "Prints the network as the engine will run it, one line a record:\n"
            "number, op, shapes, type, offset in the block, name. Needs no weights.",
            entries, argc, argv, &words))
        code = MOJI_EXIT_USAGE;
    else if (g_strv_length(words) != 1 ||
             (strcmp(words[0], "unet") && strcmp(words[0], "vae") && strcmp(words[0], "text")))
        moji_command_misuse("explain takes one of unet, vae, text; see moji explain --help");
    else if (o.batch < 0 || o.batch > 64)
        moji_command_misuse("--batch %d: expected 1 to 64", o.batch);
    else if (o.type && !moji_type_parse(o.type, &type))
        moji_command_misuse("--type \"%s\": expected f32, bf16 or f16", o.type);
    else
        code = explain(&o, words[0]);
    g_free(o.model);
    g_free(o.vae);
    g_free(o.type);
    return code;
}
