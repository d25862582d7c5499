/* styles.c: see styles.h. */
#include "styles.h"
#include "json.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define SUFFIX ".safetensors"
#define MAX_WEIGHT 10

void moji_style_free(MojiStyle *s)
{
    if (!s)
        return;
    g_free(s->name);
    moji_lora_free(s->lora);
    g_free(s);
}

/* ---- folders ---- */

char *moji_styles_folder(void)
{
    return g_build_filename(g_get_user_data_dir(), "moji", "styles", NULL);
}

/* All of them, NULL-terminated. Caller frees with g_strfreev. */
static char **folders(void)
{
    g_autofree char *own = moji_styles_folder();
    const char *others = g_getenv("MOJI_STYLES");
    g_autofree char *all = g_strjoin(G_SEARCHPATH_SEPARATOR_S, own, others, NULL);
    return g_strsplit(all, G_SEARCHPATH_SEPARATOR_S, -1);
}

/* The LoRA in a folder as PEFT or diffusers make it, or NULL. Caller frees. */
static char *inside(const char *folder)
{
    static const char *const names[] = {"adapter_model" SUFFIX, "pytorch_lora_weights" SUFFIX};
    for (gsize i = 0; i < G_N_ELEMENTS(names); i++) {
        char *path = g_build_filename(folder, names[i], NULL);
        if (g_file_test(path, G_FILE_TEST_IS_REGULAR))
            return path;
        g_free(path);
    }
    return NULL;
}

/* The file of that name in a folder of styles, or NULL. Caller frees. */
static char *in_folder(const char *folder, const char *name)
{
    g_autofree char *file = g_strconcat(name, SUFFIX, NULL);
    g_autofree char *path = g_build_filename(folder, file, NULL);
    g_autofree char *sub = g_build_filename(folder, name, NULL);
    if (!*folder)
        return NULL;
    return g_file_test(path, G_FILE_TEST_IS_REGULAR) ? g_steal_pointer(&path) : inside(sub);
}

static int by_name(gconstpointer a, gconstpointer b)
{
    return g_utf8_collate(*(char *const *)a, *(char *const *)b);
}

/* The style's name if the entry of a folder is one, else NULL. Caller frees. */
static char *style_of(const char *folder, const char *entry)
{
    g_autofree char *path = g_build_filename(folder, entry, NULL);
    g_autofree char *found = NULL;
    if (!g_utf8_validate(entry, -1, NULL) || *entry == '.')
        return NULL;
    if (g_str_has_suffix(entry, SUFFIX) && g_file_test(path, G_FILE_TEST_IS_REGULAR))
        return g_strndup(entry, strlen(entry) - strlen(SUFFIX));
    found = inside(path);
    return found ? g_strdup(entry) : NULL;
}

GPtrArray *moji_styles_names(void)
{
    GPtrArray *names = g_ptr_array_new_with_free_func(g_free);
    g_autoptr(GHashTable) seen = g_hash_table_new(g_str_hash, g_str_equal);
    g_auto(GStrv) list = folders();
    for (char **folder = list; *folder; folder++) {
        g_autoptr(GDir) dir = **folder ? g_dir_open(*folder, 0, NULL) : NULL;
        const char *entry;
        while (dir && (entry = g_dir_read_name(dir))) {
            char *name = style_of(*folder, entry);
            if (name && g_hash_table_add(seen, name))
                g_ptr_array_add(names, name);
            else
                g_free(name);
        }
    }
    g_ptr_array_sort(names, by_name);
    return names;
}

static void refuse_name(const char *name, GError **error)
{
    g_autoptr(GPtrArray) names = moji_styles_names();
    g_autofree char *folder = moji_styles_folder();
    g_autofree char *shown = g_filename_display_name(folder);
    g_ptr_array_add(names, NULL);
    g_autofree char *choices = g_strjoinv(", ", (char **)names->pdata);
    g_set_error(error, MOJI_ERROR, MOJI_ERROR_USAGE,
                *choices ? "lora: there is no \"%s\"; choose one of: %s (%s)"
                         : "lora: there is no \"%s\"; there are none%s in %s",
                name, choices, shown);
}

/* The file that an entry without its weight means, or NULL. Caller frees. */
static char *find_file(const char *name, GError **error)
{
    gboolean path = strchr(name, G_DIR_SEPARATOR) || g_str_has_suffix(name, SUFFIX);
    g_auto(GStrv) list = path ? g_new0(char *, 1) : folders();
    char *found = NULL;
    for (char **folder = list; *folder && !found && *name && *name != '.'; folder++)
        found = in_folder(*folder, name);
    if (found)
        return found;
    if (g_file_test(name, G_FILE_TEST_IS_DIR) && (found = inside(name)))
        return found;
    if (path || g_file_test(name, G_FILE_TEST_IS_REGULAR))
        return g_strdup(name);
    refuse_name(name, error);
    return NULL;
}

/* ---- entries ---- */

static gboolean read_number(const char *text, double *value)
{
    char *end;
    double number = g_ascii_strtod(text, &end);
    if (end == text || *end || !isfinite(number) || fabs(number) > MAX_WEIGHT)
        return FALSE;
    *value = number;
    return TRUE;
}

/* "0.8", "unet=0.8,text=0.5", or as other programs write it, "0.5:0.8": text, then U-Net. */
static gboolean read_weights(const char *text, double *unet, double *weight_text)
{
    g_auto(GStrv) parts = g_strsplit_set(text, ",:", -1);
    int numbers = 0;
    for (char **p = parts; *p; p++) {
        char *part = g_strstrip(*p), *equals = strchr(part, '=');
        gboolean is_unet = g_str_has_prefix(part, "unet=");
        if (equals && !is_unet && !g_str_has_prefix(part, "text=") &&
            !g_str_has_prefix(part, "te="))
            return FALSE;
        if (equals && !read_number(equals + 1, is_unet ? unet : weight_text))
            return FALSE;
        if (equals)
            continue;
        if (numbers > 1 || !read_number(part, unet))
            return FALSE;
        if (numbers++ == 0)
            *weight_text = *unet;
    }
    return *parts != NULL;
}

/* The name and the weights of an entry; a colon may also belong to a file's name. */
static gboolean split_entry(const char *entry, char **name, MojiStyle *s, GError **error)
{
    s->unet = s->text = 1;
    *name = g_strstrip(g_strdup(entry));
    char *colon = strchr(*name, ':');
    if (!colon || g_file_test(*name, G_FILE_TEST_EXISTS))
        return TRUE;
    for (; colon; colon = strchr(colon + 1, ':')) {
        MojiStyle read = {.unet = 1, .text = 1};
        if (!read_weights(colon + 1, &read.unet, &read.text))
            continue;
        s->unet = read.unet;
        s->text = read.text;
        *colon = 0;
        g_strchomp(*name);
        return TRUE;
    }
    g_set_error(
        error, MOJI_ERROR, MOJI_ERROR_USAGE,
        "lora: \"%s\" ends with no weight; expected NAME:0.8 or NAME:unet=0.8,text=0.5, each "
        "from -%d to %d",
        entry, MAX_WEIGHT, MAX_WEIGHT);
    return FALSE;
}

/* The file's stem, or its folder's name where the file's is always the same. */
static char *shown_name(const char *path)
{
    g_autofree char *folder = g_path_get_dirname(path);
    g_autofree char *within = inside(folder);
    g_autofree char *base = g_path_get_basename(
        within && g_str_has_prefix(path + strlen(folder), within + strlen(folder)) ? folder : path);
    if (g_str_has_suffix(base, SUFFIX))
        base[strlen(base) - strlen(SUFFIX)] = 0;
    return g_filename_display_name(base);
}

MojiStyle *moji_style_open(const char *entry, GError **error)
{
    MojiStyle *s = g_new0(MojiStyle, 1);
    g_autofree char *name = NULL, *path = NULL;
    if (!split_entry(entry, &name, s, error) || !(path = find_file(name, error)) ||
        !(s->lora = moji_lora_open(path, error))) {
        moji_style_free(s);
        return NULL;
    }
    s->name = shown_name(path);
    return s;
}

/* ---- tags ---- */

static gboolean starts_tag(const char *text, gsize *skip)
{
    static const char *const starts[] = {"<lora:", "<lyco:"};
    for (gsize i = 0; i < G_N_ELEMENTS(starts); i++)
        if (!g_ascii_strncasecmp(text, starts[i], strlen(starts[i]))) {
            *skip = strlen(starts[i]);
            return TRUE;
        }
    return FALSE;
}

char *moji_styles_take_tags(const char *prompt, GPtrArray *entries, GError **error)
{
    GString *out = g_string_new(NULL);
    gsize skip;
    for (const char *p = prompt; *p; p++) {
        if (!starts_tag(p, &skip)) {
            g_string_append_c(out, *p);
            continue;
        }
        const char *end = strchr(p, '>');
        if (!end) {
            g_set_error(error, MOJI_ERROR, MOJI_ERROR_USAGE,
                        "prompt: \"%s\" is not closed; expected <lora:NAME:0.8>", p);
            g_string_free(out, TRUE);
            return NULL;
        }
        g_ptr_array_add(entries, g_strndup(p + skip, end - p - skip));
        /* One of the two spaces around a tag goes with it. */
        if (out->len && out->str[out->len - 1] == ' ' && (!end[1] || strchr(" ,.", end[1])))
            g_string_truncate(out, out->len - 1);
        else if (!out->len)
            end += strspn(end + 1, " ,");
        p = end;
    }
    return g_string_free(out, FALSE);
}

/* ---- few steps ---- */

/* Lower case, words between single spaces, a space at both ends. Caller frees. */
static char *words_of(const char *name, GHashTable *metadata)
{
    const char *const texts[] = {name, g_hash_table_lookup(metadata, "modelspec.title"),
                                 g_hash_table_lookup(metadata, "ss_output_name")};
    GString *out = g_string_new(" ");
    for (gsize i = 0; i < G_N_ELEMENTS(texts); i++) {
        for (const char *p = texts[i]; p && *p; p++)
            if (g_ascii_isalnum(*p))
                g_string_append_c(out, g_ascii_tolower(*p));
            else if (out->str[out->len - 1] != ' ')
                g_string_append_c(out, ' ');
        if (out->str[out->len - 1] != ' ')
            g_string_append_c(out, ' ');
    }
    return g_string_free(out, FALSE);
}

/* The number in " 4steps " or " 4 steps ", else 4. */
static int steps_in(const char *words)
{
    for (const char *p = strstr(words, "step"); p; p = strstr(p + 1, "step")) {
        const char *digit = p;
        while (digit > words && digit[-1] == ' ')
            digit--;
        while (digit > words && g_ascii_isdigit(digit[-1]))
            digit--;
        int steps = atoi(digit);
        if (digit > words && digit[-1] == ' ' && steps >= 1 && steps <= 50)
            return steps;
    }
    return 4;
}

MojiStyleSteps moji_style_steps(const char *name, GHashTable *metadata)
{
    g_autofree char *words = words_of(name, metadata);
    MojiStyleSteps s = {.guidance = 1, .steps = steps_in(words)};
    if (strstr(words, " hyper sd") || strstr(words, " hypersd")) {
        s.kind = "Hyper-SD";
        s.sampler = "tcd";
        if (strstr(words, "cfg")) /* those keep guidance: 5 to 8 */
            s.guidance = 5;
    } else if (strstr(words, " tcd ")) {
        s.kind = "TCD-LoRA";
        s.sampler = "tcd";
    } else if (strstr(words, " lcm ")) {
        s.kind = "LCM-LoRA";
        s.sampler = "lcm";
    }
    return s;
}

/* ---- describing ---- */

static void line(GString *out, const char *what, const char *text)
{
    if (text && *text)
        g_string_append_printf(out, "  %-12s %s\n", what, text);
}

typedef struct {
    const char *tag;
    gint64 count;
} Tag;

static int by_count(gconstpointer a, gconstpointer b)
{
    const Tag *x = a, *y = b;
    return x->count != y->count ? (x->count < y->count ? 1 : -1) : strcmp(x->tag, y->tag);
}

/* {"10_frog": {"frog": 12, "green": 7}, ...}: folders of training pictures with their repeats, and
 * how often each tag was there. -> "frog, lily pad; tags frog 15, green 7" */
static char *trained_words(const char *json)
{
    enum { MOST = 8 };
    JsonObject *root;
    g_autoptr(JsonParser) parser =
        json ? moji_json_parse(json, strlen(json), FALSE, "ss_tag_frequency", &root, NULL) : NULL;
    if (!parser)
        return NULL;
    g_autoptr(GString) out = g_string_new(NULL);
    g_autoptr(GHashTable) counts = g_hash_table_new_full(g_str_hash, g_str_equal, NULL, g_free);
    g_autoptr(GArray) tags = g_array_new(FALSE, FALSE, sizeof(Tag));
    JsonObjectIter folder, tag;
    const char *name, *word;
    JsonNode *node, *number;
    json_object_iter_init_ordered(&folder, root);
    while (json_object_iter_next_ordered(&folder, &name, &node)) {
        if (!JSON_NODE_HOLDS_OBJECT(node))
            continue;
        const char *under = strchr(name, '_');
        gboolean repeats = under && strspn(name, "0123456789") == (gsize)(under - name);
        g_string_append_printf(out, "%s%s", out->len ? ", " : "", repeats ? under + 1 : name);
        json_object_iter_init_ordered(&tag, json_node_get_object(node));
        while (json_object_iter_next_ordered(&tag, &word, &number)) {
            gint64 *sum = g_hash_table_lookup(counts, word);
            if (!sum)
                g_hash_table_insert(counts, (gpointer)word, sum = g_new0(gint64, 1));
            if (JSON_NODE_HOLDS_VALUE(number) && json_node_get_value_type(number) == G_TYPE_INT64)
                *sum += CLAMP(json_node_get_int(number), 0, G_MAXINT32);
        }
    }
    GHashTableIter iter;
    gpointer key, value;
    g_hash_table_iter_init(&iter, counts);
    while (g_hash_table_iter_next(&iter, &key, &value)) {
        Tag t = {key, *(gint64 *)value};
        g_array_append_val(tags, t);
    }
    g_array_sort(tags, by_count);
    for (guint i = 0; i < MIN(tags->len, MOST); i++) {
        const Tag *t = &g_array_index(tags, Tag, i);
        g_string_append_printf(out, "%s%s %" G_GINT64_FORMAT, i ? ", " : "; tags ", t->tag,
                               t->count);
    }
    return g_strdup(out->str);
}

/* PATH without ".safetensors", with another end; NULL if there is no such file. Caller frees. */
static char *beside(const char *path, const char *end)
{
    gsize n = strlen(path) - (g_str_has_suffix(path, SUFFIX) ? strlen(SUFFIX) : 0);
    char *other = g_strdup_printf("%.*s%s", (int)n, path, end);
    if (!g_file_test(other, G_FILE_TEST_IS_REGULAR))
        g_clear_pointer(&other, g_free);
    return other;
}

/* What a program for managing such files wrote beside it. */
static void describe_json(GString *out, const char *path)
{
    static const char *const members[][2] = {{"activation text", "trigger"},
                                             {"description", "about"},
                                             {"sd version", "base"},
                                             {"notes", "notes"}};
    g_autofree char *json = beside(path, ".json");
    JsonObject *root;
    g_autoptr(JsonParser) parser = json ? moji_json_open(json, &root, NULL) : NULL;
    for (gsize i = 0; parser && i < G_N_ELEMENTS(members); i++) {
        g_autofree char *text = NULL;
        if (moji_json_string(root, json, members[i][0], &text, NULL))
            line(out, members[i][1], text);
    }
}

static void describe_file(GString *out, const MojiLora *l)
{
    const char *path = moji_lora_path(l);
    g_autofree char *shown = g_filename_display_name(path);
    g_autoptr(GFile) file = g_file_new_for_path(path);
    g_autoptr(GFileInfo) info =
        g_file_query_info(file, G_FILE_ATTRIBUTE_STANDARD_SIZE, G_FILE_QUERY_INFO_NONE, NULL, NULL);
    g_autofree char *size =
        info ? g_format_size_full(g_file_info_get_size(info), G_FORMAT_SIZE_IEC_UNITS) : NULL;
    g_autofree char *kind = moji_lora_describe(l);
    g_autofree char *whole = g_strdup_printf("%s, %u tensors%s%s", kind, moji_lora_tensors(l),
                                             size ? ", " : "", size ? size : "");
    line(out, "kind", whole);
    line(out, "file", shown);
}

char *moji_style_describe(const char *name, const MojiLora *l)
{
    GString *out = g_string_new(NULL);
    const char *path = moji_lora_path(l);
    GHashTable *metadata = moji_lora_metadata(l);
    g_autofree char *trained = trained_words(g_hash_table_lookup(metadata, "ss_tag_frequency"));
    g_autofree char *png = beside(path, ".png");
    g_autofree char *preview = png ? g_strdup(png) : beside(path, ".preview.png");
    MojiStyleSteps few = moji_style_steps(name, metadata);
    g_string_append_printf(out, "lora %s\n", name);
    line(out, "title", g_hash_table_lookup(metadata, "modelspec.title"));
    describe_file(out, l);
    line(out, "base", moji_lora_base(l));
    line(out, "trigger", g_hash_table_lookup(metadata, "modelspec.trigger_phrase"));
    line(out, "trained on", trained);
    line(out, "about", g_hash_table_lookup(metadata, "modelspec.description"));
    line(out, "licence", g_hash_table_lookup(metadata, "modelspec.license"));
    describe_json(out, path);
    line(out, "preview", preview);
    if (few.kind)
        g_string_append_printf(out,
                               "  %-12s %s: %d steps of %s, guidance %g, unless told otherwise\n",
                               "draws", few.kind, few.steps, few.sampler, few.guidance);
    return g_string_free(out, FALSE);
}
