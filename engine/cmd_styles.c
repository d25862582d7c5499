/* cmd_styles.c: `moji styles`: the LoRAs that have names here. */
#include "command.h"
#include "styles.h"
#include <stdio.h>

static void print_style(const char *name)
{
    g_autoptr(GError) error = NULL;
    MojiStyle *s = moji_style_open(name, &error);
    g_autofree char *text = s ? moji_style_describe(name, s->lora) : NULL;
    if (s)
        fputs(text, stdout);
    else
        printf("lora %s\n  cannot be used: %s\n", name, error->message);
    moji_style_free(s);
}

int moji_cmd_styles(int argc, char **argv)
{
    const GOptionEntry entries[] = {G_OPTION_ENTRY_NULL};
    g_auto(GStrv) words = NULL;
    if (!moji_command_parse("[NAME...]",
                            "Without names, all of them. They are LoRA files in moji/styles of "
                            "XDG_DATA_HOME\n(~/.local/share) and in the folders of MOJI_STYLES.",
                            entries, argc, argv, &words))
        return MOJI_EXIT_USAGE;
    for (char **word = words; *word; word++) {
        GError *error = NULL;
        MojiStyle *s = moji_style_open(*word, &error);
        if (!s)
            return moji_command_fail(error);
        g_autofree char *text = moji_style_describe(s->name, s->lora);
        fputs(text, stdout);
        moji_style_free(s);
    }
    if (*words)
        return MOJI_EXIT_OK;
    g_autoptr(GPtrArray) names = moji_styles_names();
    for (guint i = 0; i < names->len; i++)
        print_style(names->pdata[i]);
    if (!names->len) {
        g_autofree char *folder = moji_styles_folder();
        g_autofree char *shown = g_filename_display_name(folder);
        fprintf(stderr, "There are no styles yet; LoRA files go to %s\n", shown);
    }
    return MOJI_EXIT_OK;
}
