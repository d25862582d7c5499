/* cmd_serve.c: `moji serve`. */
#include "command.h"
#include "serve.h"
#include <stdio.h>

int moji_cmd_serve(int argc, char **argv)
{
    MojiServeOptions options = {.idle = 600};
    g_autofree char *memory = NULL;
    const GOptionEntry entries[] = {
        {"stdio", 0, 0, G_OPTION_ARG_NONE, &options.stdio,
         "Speak on standard input and output and leave at their end", NULL},
        {"idle", 0, 0, G_OPTION_ARG_INT, &options.idle,
         "Leave after this time without a request; 0: never (600)", "SECONDS"},
        {"memory", 0, 0, G_OPTION_ARG_FILENAME, &memory,
         "How much to use at most, as 3G (what there is); see moji draw --help", "SIZE"},
        G_OPTION_ENTRY_NULL};
    g_auto(GStrv) words = NULL;
    GError *error = NULL;
    if (!moji_command_parse(
            NULL,
            "Keeps the model loaded for the GIMP plug-in, which starts it by itself. Listens on\n"
            "moji/engine.sock in XDG_RUNTIME_DIR, for this user only; one engine a user. With\n"
            "--stdio it can be used through ssh: ssh HOST moji serve --stdio",
            entries, argc, argv, &words))
        return MOJI_EXIT_USAGE;
    if (words[0])
        return moji_command_misuse("serve takes no argument \"%s\"", words[0]);
    if (options.idle < 0)
        return moji_command_misuse("--idle %d: expected 0 or more seconds", options.idle);
    if (memory && !moji_command_bytes("--memory", memory, &options.memory))
        return MOJI_EXIT_USAGE;
    if (!moji_serve(&options, &error))
        return moji_command_fail(error);
    if (options.already_running)
        fprintf(stderr, "moji: an engine of yours is running already\n");
    return MOJI_EXIT_OK;
}
