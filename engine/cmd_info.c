/* cmd_info.c: `moji info`: what this machine and a model have. */
#include "checkpoint.h"
#include "command.h"
#include "folder.h"
#include "model.h"
#include "stage.h"
#include "styles.h"
#include "version.h"
#include <stdio.h>
#include <string.h>

/* "686 tensors, 859.5 million values, f16, 1.6 GiB" */
static void print_tensors(const char *what, MojiWeights *weights)
{
    GPtrArray *list = moji_weights_list(weights);
    guint64 values = 0, bytes = 0;
    guint of_type[MOJI_I64 + 1] = {0};
    g_autoptr(GString) types = g_string_new(NULL);
    for (guint i = 0; i < list->len; i++) {
        const MojiWeight *w = list->pdata[i];
        values += w->bytes / moji_type_bytes(w->type);
        bytes += w->bytes;
        of_type[w->type]++;
    }
    for (int type = 0; type <= MOJI_I64; type++)
        if (of_type[type])
            g_string_append_printf(types, "%s%s", types->len ? " and " : "", moji_type_name(type));
    g_autofree char *size = g_format_size_full(bytes, G_FORMAT_SIZE_IEC_UNITS);
    printf("  %-12s %u tensors, %.1f million values, %s, %s\n", what, list->len, values / 1e6,
           types->len ? types->str : "no type", size);
}

/* How many of a network's parameters are not among the weights, and the first of them. */
static void print_missing(MojiStage *s)
{
    int missing = 0;
    const char *first = NULL;
    for (int i = 0; i < moji_tape_tensors(s->tape); i++) {
        MojiTensor *t = moji_tape_tensor(s->tape, i);
        if (t->kind != MOJI_PARAMETER || t->view_of || moji_weights_find(s->weights, t->name))
            continue;
        first = first ? first : t->name;
        missing++;
    }
    if (missing)
        printf("  %-12s %d tensors of the %s network, the first is %s (%s)\n", "missing", missing,
               s->name, first, moji_weights_absence(s->weights, first));
    moji_stage_free(s);
}

static void print_all_missing(const MojiModel *m)
{
    int side = moji_stage_size_unit(m) / moji_vae_factor(&m->vae);
    print_missing(moji_stage_text(m, MOJI_F32, 1, 1, FALSE));
    print_missing(moji_stage_unet(m, MOJI_F32, 1, side, side));
    print_missing(moji_stage_vae(m, MOJI_F32, 1, side, side));
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
    printf("  %-12s %s\n", "from", m->folder);
    if (*card->licence)
        printf("  %-12s %s\n", "licence", card->licence);
    if (moji_model_fills(m))
        printf("  %-12s %s\n", "kind", "inpainting: moji edit fills masks in with it");
    print_tensors("text", m->clip_weights);
    print_tensors("unet", m->unet_weights);
    print_tensors("vae", m->vae_weights);
    print_all_missing(m);
    printf("  %-12s %d px (multiples of %d), %d steps, guidance %g\n", "draws", card->size,
           moji_stage_size_unit(m), card->steps, card->guidance);
    print_words("samplers", moji_sampler_names(), moji_sampler_name(s));
    print_words("styles", (const char *const *)card->styles, card->default_style);
    print_words("backgrounds", (const char *const *)colours->pdata, card->default_background);
    if (card->names)
        print_words("names", (const char *const *)card->names, NULL);
    if (card->names_ko)
        print_words("in Korean", (const char *const *)card->names_ko, NULL);
    moji_sampler_free(s);
    return TRUE;
}

static int by_text(gconstpointer a, gconstpointer b)
{
    return g_strcmp0(a, b);
}

/* What a file says of itself: its licence whole, the beginnings of all else. */
static void print_metadata(MojiWeights *w)
{
    enum { SHORT = 100 };
    GHashTable *metadata = moji_weights_metadata(w);
    g_autoptr(GList) keys = g_list_sort(g_hash_table_get_keys(metadata), by_text);
    for (GList *l = keys; l; l = l->next) {
        const char *key = l->data, *value = g_hash_table_lookup(metadata, key);
        g_autofree char *lower = g_ascii_strdown(key, -1);
        g_autofree char *line = g_strdelimit(g_strdup(value), "\n\r\t\033", ' ');
        gboolean licence = strstr(lower, "license") || strstr(lower, "licence");
        gboolean cut = !licence && g_utf8_strlen(line, -1) > SHORT;
        g_autofree char *start = g_utf8_substring(line, 0, cut ? SHORT : g_utf8_strlen(line, -1));
        printf("  %-12s %s: %s%s\n", licence ? "licence" : "says", key, start, cut ? "..." : "");
    }
}

static void print_unusable(MojiWeights *w)
{
    GHashTableIter iter;
    gpointer name, why;
    g_hash_table_iter_init(&iter, moji_weights_unusable(w));
    if (g_hash_table_iter_next(&iter, &name, &why))
        printf("  %-12s %u tensors, among them %s: %s\n", "passed over",
               g_hash_table_size(moji_weights_unusable(w)), (char *)name, (char *)why);
}

static void print_file(const MojiCheckpoint *c)
{
    guint inside = 0;
    printf("file %s\n  %-12s %s\n", moji_weights_path(c->file), "is", c->what);
    print_tensors("holds", c->file);
    for (int part = 0; part < MOJI_PARTS; part++) {
        if (c->part[part])
            inside += moji_weights_list(c->part[part])->len;
        if (c->part[part] && c->kind != MOJI_FILE_MODEL)
            print_tensors(moji_part_name(part), c->part[part]);
        if (!c->part[part] && c->kind == MOJI_FILE_MODEL)
            printf("  %-12s the %s network\n", "missing", moji_part_name(part));
    }
    guint all = moji_weights_list(c->file)->len;
    if (inside && all > inside)
        printf("  %-12s %u tensors that are not drawn with\n", "beside", all - inside);
    print_unusable(c->file);
    print_metadata(c->file);
}

/* FALSE if there is nothing more to say, or with the error set. */
static gboolean info_file(const char *path, GError **error)
{
    MojiCheckpoint *c = moji_checkpoint_open(path, error);
    if (!c)
        return FALSE;
    print_file(c);
    gboolean whole = c->kind == MOJI_FILE_MODEL;
    for (int part = 0; part < MOJI_PARTS; part++)
        whole = whole && c->part[part];
    moji_checkpoint_free(c);
    return whole;
}

static int info(const char *path)
{
    GError *error = NULL;
    MojiBackend *backend = moji_backend_open("auto", 0, &error);
    if (!backend)
        return moji_command_fail(error);
    printf("moji %s\n%s\n", MOJI_VERSION, backend->describe(backend));
    if (backend->note)
        puts(backend->note);
    moji_backend_close(backend);
    gboolean file = g_file_test(path, G_FILE_TEST_IS_REGULAR);
    if (file && !info_file(path, &error))
        return error ? moji_command_fail(error) : MOJI_EXIT_OK;
    MojiModel *m = moji_model_open(path, &error);
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
    if (!moji_command_parse(
            "[MODEL]",
            "MODEL is a folder in diffusers' layout, any file of weights, or the name of a\n"
            "model of yours; without it, the bundled one. Says what it is, what it holds,\n"
            "what is missing, and what it says of itself; of a LoRA, or a name that moji\n"
            "styles lists, its words too.",
            entries, argc, argv, &words))
        return MOJI_EXIT_USAGE;
    if (g_strv_length(words) > 1)
        return moji_command_misuse("info takes one model; see moji info --help");
    if (words[0] && info_lora(words[0]))
        return MOJI_EXIT_OK;
    g_autofree char *path = words[0] ? moji_folder_find(words[0]) : moji_model_bundled();
    if (!path)
        return moji_command_fail(g_error_new(MOJI_ERROR, MOJI_ERROR_FILE,
                                             "The bundled model is not installed; name a folder"));
    return info(path);
}
