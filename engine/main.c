/* main.c: the `moji` program: picks the command, which is a file of its own. */
#include "command.h"
#include "version.h"
#include <locale.h>
#include <stdio.h>
#include <string.h>

static const struct {
    const char *word;
    int (*run)(int argc, char **argv);
} COMMANDS[] = {
    {"draw", moji_cmd_draw},       {"edit", moji_cmd_edit},     {"info", moji_cmd_info},
    {"convert", moji_cmd_convert}, {"fetch", moji_cmd_fetch},   {"explain", moji_cmd_explain},
    {"serve", moji_cmd_serve},     {"cutout", moji_cmd_cutout}, {"styles", moji_cmd_styles},
    {"bench", moji_cmd_bench},
};

static const char HELP[] =
    "moji draws emojis with Stable-Diffusion-family models, on this machine alone.\n"
    "\n"
    "  moji draw PROMPT [-o FILE.png]      draw an emoji\n"
    "  moji edit IN.png PROMPT [-o FILE]   redraw a picture, or where a mask says\n"
    "  moji cutout IN.png -o OUT.png       make a flat background transparent\n"
    "  moji info [MODEL]                   what this machine and a model have\n"
    "  moji styles [NAME...]               the LoRAs that have names here\n"
    "  moji fetch sd14|OWNER/REPO|URL      bring a model from the net\n"
    "  moji convert IN OUT                 write a model in another form\n"
    "  moji explain unet|vae|text|draw     print a network as the engine will run it, its memory\n"
    "  moji bench [unet|vae|text|draw]     how fast each stage and op is here\n"
    "  moji serve                          stay resident, for the GIMP plug-in\n"
    "\n"
    "  moji COMMAND --help                 the options of a command\n"
    "  moji --help                         these lines\n"
    "  moji --version                      the version\n"
    "\n"
    "Exit codes: 0 done; 1 the processor, the engine or the picture does not allow it;\n"
    "2 a mistake in the arguments; 3 a file is missing, damaged or cannot be written;\n"
    "4 not enough memory; 5 cancelled.\n"
    "\n"
    "Environment: MOJI_MODEL names the model folder to use instead of the bundled one;\n"
    "MOJI_ENGINE, for the plug-in, this program; MOJI_STYLES, more folders of LoRAs;\n"
    "MOJI_FETCH_ENDPOINT, another server than https://huggingface.co for moji fetch;\n"
    "HF_TOKEN, your token there, for gated models.\n";

int main(int argc, char **argv)
{
    moji_command_spin_briefly(argv);
    setlocale(LC_ALL, "");
    const char *word = argc > 1 ? argv[1] : "";
    for (gsize i = 0; i < G_N_ELEMENTS(COMMANDS); i++)
        if (!strcmp(word, COMMANDS[i].word))
            return COMMANDS[i].run(argc - 1, argv + 1);
    if (!strcmp(word, "--help") || !strcmp(word, "-h") || !strcmp(word, "help")) {
        fputs(HELP, stdout);
        return MOJI_EXIT_OK;
    }
    if (!strcmp(word, "--version")) {
        puts("moji " MOJI_VERSION);
        return MOJI_EXIT_OK;
    }
    if (!*word) {
        fputs(HELP, stderr);
        return MOJI_EXIT_USAGE;
    }
    return moji_command_misuse("there is no command \"%s\"; see moji --help", word);
}
