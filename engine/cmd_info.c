/* cmd_info.c: `moji info`: what this machine and a model have. */
#include "command.h"
#include "model.h"
#include "stage.h"
#include "styles.h"
#include "version.h"
#include <stdio.h>

static void print_weights(const char *name, MojiWeights *weights)
{
    GPtrArray *list = moji_weights_list(weights);
    guint64 values = 0, bytes = 0;
    for (guint i = 0; i < list->len; i++) {
        const MojiWeight *w = list->pdata[i];
        values += w->bytes / moji_type_bytes(w->type);
        bytes += w->bytes;
    }
    g_autofree char *size = g_format_size_full(bytes, G_FORMAT_SIZE_IEC_UNITS);
    printf("  %-12s %.1f million values, %s, %s\n", name, values / 1e6, size,
           moji_weights_path(weights));
}

static void print_words(const char *what, const char *const *words, const char *preferred)
{
    printf("  %-12s", what);
    for (int i = 0; words[i]; i++)
        printf("%s %s%s", i ? "," : "", words[i],
               preferred && g_str_equal(words[i], preferred) ? " (default)" : "");
    puts(words[0] ? "" : " none");
}

static gboolean print_model(const MojiModel *m, GError **error)
{
    const MojiCard *card = &m->card;
    MojiSampler *s = moji_sampler_new(&m->sampler, card->sampler, card->steps, error);
    if (!s)
        return FALSE;
    g_autoptr(GPtrArray) colours = g_ptr_array_new();
    for (int i = 0; i < card->n_backgrounds; i++)
        g_ptr_array_add(colours, card->backgrounds[i].word);
    g_ptr_array_add(colours, NULL);
    printf("model %s %s\n", card->name, card->version);
    printf("  %-12s %s\n", "folder", m->folder);
    if (*card->licence)
        printf("  %-12s %s\n", "licence", card->licence);
    print_weights("text", m->clip_weights);
    print_weights("unet", m->unet_weights);
    print_weights("vae", m->vae_weights);
    printf("  %-12s %d px (multiples of %d), %d steps, guidance %g\n", "draws", card->size,
           moji_stage_size_unit(m), card->steps, card->guidance);
    print_words("samplers", moji_sampler_names(), moji_sampler_name(s));
    print_words("styles", (const char *const *)card->styles, card->default_style);
    print_words("backgrounds", (const char *const *)colours->pdata, card->default_background);
    moji_sampler_free(s);
    return TRUE;
}

static int info(const char *folder)
{
    GError *error = NULL;
    MojiBackend *backend = moji_backend_open("auto", 0, &error);
    if (!backend)
        return moji_command_fail(error);
    printf("moji %s\n%s\n", MOJI_VERSION, backend->describe(backend));
    if (backend->note)
        puts(backend->note);
    moji_backend_close(backend);
    MojiModel *m = moji_model_open(folder, &error);
    gboolean ok = m && print_model(m, &error);
    moji_model_free(m);
    return ok ? MOJI_EXIT_OK : moji_command_fail(error);
}

/* TRUE if it is a LoRA, which is then described; whatever else it is, others will say. */
static gboolean info_lora(const char *path)
{
    MojiStyle *s = moji_style_open(path, NULL);
    g_autofree char *text = s ? moji_style_describe(s->name, s->lora) : NULL;
    if (s)
        fputs(text, stdout);
    moji_style_free(s);
    return text != NULL;
}

int moji_cmd_info(int argc, char **argv)
{
    const GOptionEntry entries[] = {G_OPTION_ENTRY_NULL};
    g_auto(GStrv) words = NULL;
    if (!moji_command_parse("[MODEL]",
                            "MODEL is a folder in diffusers' layout; without it, the bundled one.\n"
                            "A LoRA file, or a name that moji styles lists, is described too.",
                            entries, argc, argv, &words))
        return MOJI_EXIT_USAGE;
    if (g_strv_length(words) > 1)
        return moji_command_misuse("info takes one model; see moji info --help");
    if (words[0] && info_lora(words[0]))
        return MOJI_EXIT_OK;
    g_autofree char *folder = words[0] ? g_strdup(words[0]) : moji_model_bundled();
    if (!folder)
        return moji_command_fail(g_error_new(MOJI_ERROR, MOJI_ERROR_FILE,
                                             "The bundled model is not installed; name a folder"));
    return info(folder);
}
