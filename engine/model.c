/* model.c: see model.h.
 *
 * The surprising rule: a folder may hold more than we read (safety_checker, feature_extractor,
 * files of other frameworks) and is taken by what it has, not by the class its model_index.json
 * names; parts that do not fit each other are refused here, so that no stage need ask again. */
#include "model.h"
#include "checkpoint.h"
#include "folder.h"
#include "json.h"
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static void free_card(MojiCard *card)
{
    g_free(card->name);
    g_free(card->version);
    g_free(card->licence);
    g_free(card->sampler);
    g_free(card->prompt);
    g_free(card->prompt_ko);
    g_strfreev(card->styles);
    g_free(card->default_style);
    for (int i = 0; i < card->n_backgrounds; i++) {
        g_free(card->backgrounds[i].word);
        g_strfreev(card->backgrounds[i].korean);
    }
    g_free(card->backgrounds);
    g_free(card->default_background);
    g_strfreev(card->names);
    g_strfreev(card->names_ko);
}

void moji_model_free(MojiModel *m)
{
    if (!m)
        return;
    g_clear_pointer(&m->lora_table, m->free_lora_table);
    moji_tokenizer_free(m->tokenizer);
    moji_weights_free(m->clip_weights);
    moji_weights_free(m->unet_weights);
    moji_weights_free(m->vae_weights);
    free_card(&m->card);
    g_free(m->folder);
    g_free(m->other_vae);
    g_free(m);
}

/* ---- the card ---- */

static gboolean read_colour(const char *text, guint8 rgb[3])
{
    if (text[0] != '#' || strlen(text) != 7)
        return FALSE;
    for (int i = 0; i < 3; i++) {
        int high = g_ascii_xdigit_value(text[1 + 2 * i]);
        int low = g_ascii_xdigit_value(text[2 + 2 * i]);
        if (high < 0 || low < 0)
            return FALSE;
        rgb[i] = high * 16 + low;
    }
    return TRUE;
}

static const char *text_of(JsonNode *node)
{
    return JSON_NODE_HOLDS_VALUE(node) && json_node_get_value_type(node) == G_TYPE_STRING
               ? json_node_get_string(node)
               : NULL;
}

/* A list of words, where there is one. */
static gboolean read_words(JsonObject *o, const char *path, const char *member, char ***words,
                           GError **error)
{
    JsonNode *node = json_object_get_member(o, member);
    if (!node || JSON_NODE_HOLDS_NULL(node))
        return TRUE;
    if (!JSON_NODE_HOLDS_ARRAY(node)) {
        moji_error_file(error, path, "\"%s\" is not a list of words", member);
        return FALSE;
    }
    JsonArray *list = json_node_get_array(node);
    g_autoptr(GPtrArray) read = g_ptr_array_new_with_free_func(g_free);
    for (guint i = 0; i < json_array_get_length(list); i++) {
        const char *word = text_of(json_array_get_element(list, i));
        if (!word || !*word) {
            moji_error_file(error, path, "\"%s\" has an entry that is not a word", member);
            return FALSE;
        }
        g_ptr_array_add(read, g_strdup(word));
    }
    g_ptr_array_add(read, NULL);
    g_strfreev(*words);
    *words = (char **)g_ptr_array_steal(read, NULL);
    return TRUE;
}

/* {"en": [...], "ko": [...]}, or none. */
static gboolean read_names(JsonObject *root, const char *path, MojiCard *card, GError **error)
{
    JsonNode *node = json_object_get_member(root, "draws");
    if (!node || JSON_NODE_HOLDS_NULL(node))
        return TRUE;
    if (!JSON_NODE_HOLDS_OBJECT(node)) {
        moji_error_file(error, path, "\"draws\" is not an object of lists of names");
        return FALSE;
    }
    JsonObject *names = json_node_get_object(node);
    return read_words(names, path, "en", &card->names, error) &&
           read_words(names, path, "ko", &card->names_ko, error);
}

/* "#00b140", or {"rgb": "#00b140", "ko": [...]}. */
static gboolean read_background(JsonNode *node, const char *path, MojiColour *colour,
                                GError **error)
{
    JsonObject *o = JSON_NODE_HOLDS_OBJECT(node) ? json_node_get_object(node) : NULL;
    JsonNode *rgb = o ? json_object_get_member(o, "rgb") : node;
    const char *text = rgb ? text_of(rgb) : NULL;
    if (!text || !read_colour(text, colour->rgb)) {
        moji_error_file(error, path, "background \"%s\" is not a colour as \"#00b140\"",
                        colour->word);
        return FALSE;
    }
    if (o && !read_words(o, path, "ko", &colour->korean, NULL)) {
        moji_error_file(error, path, "background \"%s\": \"ko\" is not a list of words",
                        colour->word);
        return FALSE;
    }
    return TRUE;
}

static gboolean read_backgrounds(JsonObject *root, const char *path, MojiCard *card, GError **error)
{
    JsonNode *node = json_object_get_member(root, "backgrounds");
    if (!node || JSON_NODE_HOLDS_NULL(node))
        return TRUE;
    if (!JSON_NODE_HOLDS_OBJECT(node)) {
        moji_error_file(error, path, "\"backgrounds\" is not an object of words and colours");
        return FALSE;
    }
    JsonObject *o = json_node_get_object(node);
    JsonObjectIter iter;
    const char *word;
    card->backgrounds = g_new0(MojiColour, json_object_get_size(o));
    json_object_iter_init_ordered(&iter, o);
    while (json_object_iter_next_ordered(&iter, &word, &node)) {
        MojiColour *colour = &card->backgrounds[card->n_backgrounds++];
        colour->word = g_strdup(word);
        if (!read_background(node, path, colour, error))
            return FALSE;
    }
    return TRUE;
}

static gboolean has_background(const MojiCard *card, const char *word)
{
    for (int i = 0; i < card->n_backgrounds; i++)
        if (!strcmp(card->backgrounds[i].word, word))
            return TRUE;
    return FALSE;
}

static gboolean check_card(const MojiCard *card, const char *path, int factor, GError **error)
{
    if (card->prompt && !strstr(card->prompt, "{prompt}"))
        moji_error_file(error, path, "\"prompt\" has no {prompt} in it");
    else if (card->prompt_ko && !strstr(card->prompt_ko, "{prompt}"))
        moji_error_file(error, path, "\"prompt_ko\" has no {prompt} in it");
    else if (card->default_style &&
             !g_strv_contains((const char *const *)card->styles, card->default_style))
        moji_error_file(error, path, "\"default_style\" is \"%s\", which \"styles\" has not",
                        card->default_style);
    else if (card->default_background && !has_background(card, card->default_background))
        moji_error_file(error, path,
                        "\"default_background\" is \"%s\", which \"backgrounds\" has not",
                        card->default_background);
    else if (card->sampler && !g_strv_contains(moji_sampler_names(), card->sampler))
        moji_error_file(error, path, "\"sampler\" is \"%s\", which is not known", card->sampler);
    else if (card->size % factor)
        moji_error_file(error, path, "\"size\" is %d, expected a multiple of %d, a latent's pixels",
                        card->size, factor);
    else if (card->guidance < 0 || card->guidance > 100)
        moji_error_file(error, path, "\"guidance\" is %g, expected 0 to 100", card->guidance);
    else
        return TRUE;
    return FALSE;
}

static gboolean read_settings(JsonObject *o, const char *path, MojiCard *card, GError **error)
{
    return moji_json_int(o, path, "steps", 1, 1000, &card->steps, error) &&
           moji_json_int(o, path, "size", 64, 2048, &card->size, error) &&
           moji_json_double(o, path, "guidance", &card->guidance, error) &&
           moji_json_string(o, path, "sampler", &card->sampler, error);
}

/* The object "defaults", or NULL if there is none. */
static gboolean find_defaults(JsonObject *root, const char *path, JsonObject **defaults,
                              GError **error)
{
    JsonNode *node = json_object_get_member(root, "defaults");
    *defaults = NULL;
    if (!node || JSON_NODE_HOLDS_NULL(node))
        return TRUE;
    if (!JSON_NODE_HOLDS_OBJECT(node)) {
        moji_error_file(error, path, "\"defaults\" is not an object of settings");
        return FALSE;
    }
    *defaults = json_node_get_object(node);
    return TRUE;
}

static gboolean read_card(MojiModel *m, GError **error)
{
    MojiCard *card = &m->card;
    g_autofree char *path = g_build_filename(m->folder, "moji.json", NULL);
    g_autofree char *base = g_path_get_basename(m->folder);
    char *dot = strrchr(base, '.');
    if (dot && dot > base && !g_file_test(m->folder, G_FILE_TEST_IS_DIR))
        *dot = '\0'; /* a file's suffix */
    *card = (MojiCard){.name = g_filename_display_name(base),
                       .version = g_strdup(""),
                       .licence = g_strdup(""),
                       .steps = 50,
                       .size = 512,
                       .guidance = 7.5,
                       .styles = g_new0(char *, 1)};
    if (!g_file_test(path, G_FILE_TEST_EXISTS))
        return TRUE;

    JsonObject *root, *defaults;
    g_autoptr(JsonParser) parser = moji_json_open(path, &root, error);
    return parser && moji_json_string(root, path, "name", &card->name, error) &&
           moji_json_string(root, path, "version", &card->version, error) &&
           moji_json_string(root, path, "licence", &card->licence, error) &&
           moji_json_string(root, path, "prompt", &card->prompt, error) &&
           moji_json_string(root, path, "prompt_ko", &card->prompt_ko, error) &&
           read_words(root, path, "styles", &card->styles, error) &&
           moji_json_string(root, path, "default_style", &card->default_style, error) &&
           read_backgrounds(root, path, card, error) && read_names(root, path, card, error) &&
           moji_json_string(root, path, "default_background", &card->default_background, error) &&
           read_settings(root, path, card, error) && find_defaults(root, path, &defaults, error) &&
           (!defaults ||
            (read_settings(defaults, path, card, error) &&
             moji_json_string(defaults, path, "style", &card->default_style, error) &&
             moji_json_string(defaults, path, "background", &card->default_background, error))) &&
           check_card(card, path, moji_vae_factor(&m->vae), error);
}

/* ---- the folder ---- */

static gboolean check_folder(const char *folder, GError **error)
{
    g_autofree char *index = g_build_filename(folder, "model_index.json", NULL);
    JsonObject *root;
    if (!g_file_test(index, G_FILE_TEST_EXISTS)) {
        moji_error_file(error, folder, "is not a model folder: it has no model_index.json");
        return FALSE;
    }
    g_autoptr(JsonParser) parser = moji_json_open(index, &root, error);
    if (!parser)
        return FALSE;
    if (json_object_has_member(root, "text_encoder_2") ||
        json_object_has_member(root, "transformer")) {
        moji_error_file(error, index, "is of another family, expected Stable Diffusion 1.x or 2.x");
        return FALSE;
    }
    return TRUE;
}

gboolean moji_model_fills(const MojiModel *m)
{
    return m->unet.in_channels == 2 * m->vae.latent_channels + 1;
}

double moji_model_strength(const MojiModel *m)
{
    return moji_model_fills(m) ? 1 : 0.7;
}

/* Checks that the parts fit each other. */
static gboolean check_fit(const MojiModel *m, GError **error)
{
    if (m->clip.hidden_size != m->unet.cross_attention_dim)
        moji_error_file(error, m->folder,
                        "text_encoder gives %d numbers a token (hidden_size), unet takes %d "
                        "(cross_attention_dim)",
                        m->clip.hidden_size, m->unet.cross_attention_dim);
    else if (m->unet.in_channels != m->vae.latent_channels && !moji_model_fills(m))
        moji_error_file(error, m->folder,
                        "unet takes %d channels (in_channels), vae has %d (latent_channels)",
                        m->unet.in_channels, m->vae.latent_channels);
    else if (m->unet.out_channels != m->vae.latent_channels)
        moji_error_file(error, m->folder,
                        "unet gives %d channels (out_channels), vae has %d (latent_channels)",
                        m->unet.out_channels, m->vae.latent_channels);
    else if (m->vae.out_channels != 3)
        moji_error_file(error, m->folder, "vae gives %d channels (out_channels), expected 3",
                        m->vae.out_channels);
    else
        return TRUE;
    return FALSE;
}

/* ---- reading ---- */

/* Where a model's parts come from: a folder, or a checkpoint in one file. */
typedef struct {
    MojiModel *m;
    gboolean weights;           /* else configurations alone */
    MojiCheckpoint *checkpoint; /* NULL: a folder */
    char *shared;               /* what a checkpoint lacks, or NULL */
} Source;

static gboolean parse_config(MojiModel *m, MojiPart part, JsonObject *o, const char *path,
                             GError **error)
{
    switch (part) {
    case MOJI_PART_TEXT:
        return moji_clip_config_parse(o, path, &m->clip, error);
    case MOJI_PART_UNET:
        return moji_unet_config_parse(o, path, &m->unet, error);
    default:
        return moji_vae_config_parse(o, path, &m->vae, error);
    }
}

static MojiWeights **weights_of(MojiModel *m, MojiPart part)
{
    return part == MOJI_PART_TEXT   ? &m->clip_weights
           : part == MOJI_PART_UNET ? &m->unet_weights
                                    : &m->vae_weights;
}

/* A part that has a folder of its own. */
static gboolean read_folder(Source *s, MojiPart part, const char *folder, GError **error)
{
    g_autofree char *path = g_build_filename(folder, "config.json", NULL);
    JsonObject *root;
    g_autoptr(JsonParser) parser = moji_json_open(path, &root, error);
    return parser && parse_config(s->m, part, root, path, error) &&
           (!s->weights || (*weights_of(s->m, part) = moji_folder_weights(folder, part, error)));
}

static gboolean read_checkpoint(Source *s, const MojiCheckpoint *c, MojiPart part, GError **error)
{
    const char *path = moji_weights_path(c->file);
    if (!c->part[part]) {
        moji_error_file(error, path, "is %s and has no %s (tensors named %s...)", c->what,
                        part == MOJI_PART_TEXT   ? "text encoder"
                        : part == MOJI_PART_UNET ? "U-Net"
                                                 : "VAE; name one by --vae",
                        moji_part_prefix(part));
        return FALSE;
    }
    if (s->weights)
        *weights_of(s->m, part) = moji_weights_ref(c->part[part]);
    return parse_config(s->m, part, json_node_get_object(c->config[part]), path, error);
}

/* A VAE that was named by itself: a file, its folder, or a model's folder. */
static gboolean read_vae(Source *s, const char *vae, GError **error)
{
    if (!g_file_test(vae, G_FILE_TEST_EXISTS)) {
        moji_error_file(error, vae, "there is no such VAE; \"none\" is the model's own");
        return FALSE;
    }
    if (g_file_test(vae, G_FILE_TEST_IS_DIR)) {
        g_autofree char *inner = g_build_filename(vae, "vae", NULL);
        gboolean model = g_file_test(inner, G_FILE_TEST_IS_DIR);
        return read_folder(s, MOJI_PART_VAE, model ? inner : vae, error);
    }
    MojiCheckpoint *c = moji_checkpoint_open(vae, error);
    gboolean ok = FALSE;
    if (c && !c->part[MOJI_PART_VAE])
        moji_error_file(error, vae, "is %s, expected a VAE", c->what);
    else
        ok = c && read_checkpoint(s, c, MOJI_PART_VAE, error);
    moji_checkpoint_free(c);
    return ok;
}

static gboolean read_part(Source *s, MojiPart part, const char *vae, GError **error)
{
    if (part == MOJI_PART_VAE && vae)
        return read_vae(s, vae, error);
    if (s->checkpoint)
        return read_checkpoint(s, s->checkpoint, part, error);
    g_autofree char *folder = g_build_filename(s->m->folder, moji_part_folder(part), NULL);
    return read_folder(s, part, folder, error);
}

/* Ids per prompt: the tokenizer's own limit, where it has one that the text model can take. */
static gboolean prompt_length(const MojiModel *m, const char *tokenizer, int *length,
                              GError **error)
{
    g_autofree char *path = g_build_filename(tokenizer, "tokenizer_config.json", NULL);
    double most = 0;
    if (g_file_test(path, G_FILE_TEST_EXISTS)) {
        JsonObject *root;
        g_autoptr(JsonParser) parser = moji_json_open(path, &root, error);
        if (!parser || !moji_json_double(root, path, "model_max_length", &most, error))
            return FALSE;
    }
    /* "No limit" is written as a number of thirty digits, which the parser takes for anything. */
    *length = most >= 3 && most < m->clip.positions ? (int)most : m->clip.positions;
    return TRUE;
}

static gboolean read_tokenizer(MojiModel *m, const char *model, GError **error)
{
    g_autofree char *folder = g_build_filename(model, "tokenizer", NULL);
    int length;
    if (!prompt_length(m, folder, &length, error) ||
        !(m->tokenizer = moji_tokenizer_open(folder, length, error)))
        return FALSE;
    if (moji_tokenizer_vocabulary(m->tokenizer) <= m->clip.vocab_size)
        return TRUE;
    moji_error_file(error, m->folder, "tokenizer has %d words, text_encoder %d (vocab_size)",
                    moji_tokenizer_vocabulary(m->tokenizer), m->clip.vocab_size);
    return FALSE;
}

static gboolean read_model(Source *s, const char *vae, GError **error)
{
    MojiModel *m = s->m;
    const char *shared = s->shared ? s->shared : m->folder;
    g_autofree char *sampler = g_build_filename(shared, "scheduler", "scheduler_config.json", NULL);
    for (int part = 0; part < MOJI_PARTS; part++)
        if (!read_part(s, part, vae, error))
            return FALSE;
    return moji_sampler_config_read(sampler, &m->sampler, error) && check_fit(m, error) &&
           read_card(m, error) && (!s->weights || read_tokenizer(m, shared, error));
}

/* What is in one file; also says what is not there at all. */
static gboolean open_file(Source *s, GError **error)
{
    const char *path = s->m->folder;
    if (!g_file_test(path, G_FILE_TEST_EXISTS)) {
        moji_error_file(error, path, "there is no such model folder or file");
        return FALSE;
    }
    if (!(s->checkpoint = moji_checkpoint_open(path, error)) ||
        !(s->shared = moji_checkpoint_shared(error)))
        return FALSE;
    if (s->checkpoint->kind == MOJI_FILE_MODEL)
        return TRUE;
    moji_error_file(error, path, "is %s, expected a Stable Diffusion 1.x checkpoint or folder",
                    s->checkpoint->what);
    return FALSE;
}

static MojiModel *open_model(const char *path, const char *vae, gboolean weights, GError **error)
{
    Source s = {.m = g_new0(MojiModel, 1), .weights = weights};
    s.m->folder = g_strdup(path);
    vae = vae && *vae ? vae : NULL;
    s.m->other_vae = vae ? moji_folder_name(vae) : NULL;
    gboolean folder = g_file_test(path, G_FILE_TEST_IS_DIR);
    gboolean ok =
        (folder ? check_folder(path, error) : open_file(&s, error)) && read_model(&s, vae, error);
    moji_checkpoint_free(s.checkpoint);
    g_free(s.shared);
    if (!ok)
        g_clear_pointer(&s.m, moji_model_free);
    return s.m;
}

MojiModel *moji_model_configs(const char *path, GError **error)
{
    return open_model(path, NULL, FALSE, error);
}

MojiModel *moji_model_configs_with_vae(const char *path, const char *vae, GError **error)
{
    return open_model(path, vae, FALSE, error);
}

MojiModel *moji_model_open(const char *path, GError **error)
{
    return open_model(path, NULL, TRUE, error);
}

MojiModel *moji_model_open_with_vae(const char *path, const char *vae, GError **error)
{
    return open_model(path, vae, TRUE, error);
}

/* ---- which model ---- */

static int by_text(gconstpointer a, gconstpointer b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static void stamp_file(GString *stamp, const char *path)
{
    struct stat s;
    if (!stat(path, &s))
        g_string_append_printf(stamp, "|%s %" G_GINT64_FORMAT " %" G_GINT64_FORMAT ".%09ld", path,
                               (gint64)s.st_size, (gint64)s.st_mtim.tv_sec,
                               (long)s.st_mtim.tv_nsec);
}

/* The files of a folder, and of the folders in it if deep; few, as models have. */
static void stamp_folder(GString *stamp, const char *folder, gboolean deep)
{
    g_autoptr(GDir) dir = g_dir_open(folder, 0, NULL);
    g_autoptr(GPtrArray) names = g_ptr_array_new_with_free_func(g_free);
    const char *name;
    while (dir && (name = g_dir_read_name(dir)))
        g_ptr_array_add(names, g_build_filename(folder, name, NULL));
    g_ptr_array_sort(names, by_text);
    for (guint i = 0; i < names->len; i++) {
        stamp_file(stamp, names->pdata[i]);
        if (deep && g_file_test(names->pdata[i], G_FILE_TEST_IS_DIR))
            stamp_folder(stamp, names->pdata[i], FALSE);
    }
}

char *moji_model_stamp(const char *path, const char *vae)
{
    GString *stamp = g_string_new(path);
    stamp_file(stamp, path);
    stamp_folder(stamp, path, TRUE);
    if (vae && *vae) {
        g_string_append_printf(stamp, "|%s", vae); /* also if it is not there */
        stamp_file(stamp, vae);
        stamp_folder(stamp, vae, TRUE);
    }
    return g_string_free(stamp, FALSE);
}

char *moji_model_bundled(void)
{
    const char *named = g_getenv("MOJI_MODEL");
    return named && *named ? g_strdup(named) : moji_folder_installed("moji-mini");
}
