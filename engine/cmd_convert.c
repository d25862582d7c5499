/* cmd_convert.c: `moji convert`: a model in one form to another. */
#include "command.h"
#include "convert.h"
#include "folder.h"
#include <stdio.h>

static int convert(const char *from, const char *to, const MojiConvert *options)
{
    GError *error = NULL;
    g_autoptr(GCancellable) cancel = g_cancellable_new();
    g_autofree char *path = moji_folder_find(from);
    moji_command_cancel_on_signal(cancel);
    if (!moji_convert(path, to, options, cancel, &error))
        return moji_command_fail(error);
    puts(to);
    return MOJI_EXIT_OK;
}

int moji_cmd_convert(int argc, char **argv)
{
    g_autofree char *to = NULL, *type = NULL;
    const GOptionEntry entries[] = {
        {"to", 0, 0, G_OPTION_ARG_FILENAME, &to,
         "folder (diffusers' layout) or file (a file if OUT ends in .safetensors)", "FORM"},
        {"type", 0, 0, G_OPTION_ARG_FILENAME, &type, "fp16, bf16 or fp32 (as they are)", "T"},
        G_OPTION_ENTRY_NULL};
    g_auto(GStrv) words = NULL;
    if (!moji_command_parse(
            "IN OUT",
            "IN is a model: a folder, .safetensors, .ckpt, .bin or a name of yours. OUT\n"
            "appears whole or not at all, and must not be there yet. A file that is\n"
            "no whole model (a VAE, a LoRA) becomes .safetensors under the same names.",
            entries, argc, argv, &words))
        return MOJI_EXIT_USAGE;
    if (g_strv_length(words) != 2)
        return moji_command_misuse("convert takes IN and OUT; see moji convert --help");
    return convert(words[0], words[1], &(MojiConvert){.to = to, .type = type});
}
