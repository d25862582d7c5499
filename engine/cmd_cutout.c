/* cmd_cutout.c: `moji cutout`. */
#include "command.h"
#include "cutout.h"
#include <stdio.h>

static int cut(const char *in, const char *out)
{
    GError *error = NULL;
    MojiCutout report;
    g_autoptr(MojiImage) image = moji_image_read_png(in, &error);
    if (!image || !moji_cutout(image, NULL, &report, &error) ||
        !moji_image_write_png(image, out, &error))
        return moji_command_fail(error);
    fprintf(stderr, "background #%02x%02x%02x taken out, %.0f %% of the picture kept\n",
            report.background[0], report.background[1], report.background[2], 100 * report.kept);
    return MOJI_EXIT_OK;
}

int moji_cmd_cutout(int argc, char **argv)
{
    g_autofree char *out = NULL;
    const GOptionEntry entries[] = {{"output", 'o', 0, G_OPTION_ARG_FILENAME, &out,
                                     "Where to write it; may be the same file", "OUT.png"},
                                    G_OPTION_ENTRY_NULL};
    g_auto(GStrv) words = NULL;
    if (!moji_command_parse("IN.png -o OUT.png",
                            "Makes the flat background of a picture transparent. A background\n"
                            "that is not flat is an error (exit code 1), and nothing is written.",
                            entries, argc, argv, &words))
        return MOJI_EXIT_USAGE;
    if (g_strv_length(words) != 1)
        return moji_command_misuse("cutout takes one picture; see moji cutout --help");
    if (!out)
        return moji_command_misuse("cutout needs -o OUT.png; see moji cutout --help");
    return cut(words[0], out);
}
