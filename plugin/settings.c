/* settings.c: the plug-in's settings as a key file.
 *
 * Values are read one by one, and one that is wrong falls back alone: a hand-edited file must never
 * keep the window from opening. */
#include "settings.h"
#include <libgimp/gimp.h>

#define VERSION 1
#define GROUP "Emoji Maker"
#define HISTORY_MAX 40

static char *settings_path(void)
{
    return g_build_filename(gimp_directory(), "emoji-makerrc", NULL);
}

MojiSettings *moji_settings_new(void)
{
    MojiSettings *s = g_new0(MojiSettings, 1);

    s->request = moji_request_new();
    s->request->transparent = TRUE;
    s->new_seed = TRUE;
    s->edit_strength = -1;
    s->keep_open = TRUE;
    s->history = g_ptr_array_new_with_free_func(g_free);
    return s;
}

void moji_settings_free(MojiSettings *s)
{
    if (!s)
        return;
    moji_request_free(s->request);
    g_free(s->command);
    g_free(s->edit_prompt);
    g_ptr_array_unref(s->history);
    g_free(s);
}

MojiSettings *moji_settings_for_edit(const MojiSettings *s, const char *recipe)
{
    MojiSettings *edit = moji_settings_new();
    MojiRequest *r = edit->request;

    r->model = g_strdup(s->request->model);
    r->transparent = FALSE;
    r->strength = s->edit_strength;
    moji_request_take_recipe(r, recipe);
    edit->new_seed = r->seed < 0;
    edit->keep_open = s->keep_open;
    edit->command = g_strdup(s->command);
    g_ptr_array_unref(edit->history);
    edit->history = g_ptr_array_ref(s->history);
    return edit;
}

/* An empty word means "the default", as a missing one does. */
static void read_string(GKeyFile *file, const char *key, char **value)
{
    char *text = g_key_file_get_string(file, GROUP, key, NULL);

    if (text && *text) {
        g_free(*value);
        *value = text;
    } else {
        g_free(text);
    }
}

static void read_boolean(GKeyFile *file, const char *key, gboolean *value)
{
    g_autoptr(GError) error = NULL;
    gboolean found = g_key_file_get_boolean(file, GROUP, key, &error);

    if (!error)
        *value = found;
}

static double read_number(GKeyFile *file, const char *key, double low, double high, double value)
{
    g_autoptr(GError) error = NULL;
    double found = g_key_file_get_double(file, GROUP, key, &error);

    return !error && found >= low && found <= high ? found : value;
}

static void read_history(GKeyFile *file, MojiSettings *s)
{
    g_auto(GStrv) prompts = g_key_file_get_string_list(file, GROUP, "history", NULL, NULL);

    for (int i = 0; prompts && prompts[i] && s->history->len < HISTORY_MAX; i++)
        if (*prompts[i])
            g_ptr_array_add(s->history, g_strdup(prompts[i]));
}

MojiSettings *moji_settings_load(void)
{
    MojiSettings *s = moji_settings_new();
    MojiRequest *r = s->request;
    g_autofree char *path = settings_path(), *loras = NULL;
    g_autoptr(GKeyFile) file = g_key_file_new();

    if (!g_key_file_load_from_file(file, path, G_KEY_FILE_NONE, NULL))
        return s;
    read_string(file, "prompt", &r->prompt);
    read_string(file, "negative", &r->negative);
    read_string(file, "style", &r->style);
    read_string(file, "background", &r->background);
    read_string(file, "sampler", &r->sampler);
    read_string(file, "model", &r->model);
    read_string(file, "command", &s->command);
    read_string(file, "edit-prompt", &s->edit_prompt);
    s->edit_strength = read_number(file, "edit-strength", 0.01, 1, -1);
    read_string(file, "loras", &loras);
    r->loras = moji_request_split_loras(loras);
    r->seed = (gint64)read_number(file, "seed", 0, G_MAXINT32, 0);
    r->steps = (int)read_number(file, "steps", 0, 1000, 0);
    r->guidance = read_number(file, "guidance", -1, 100, -1);
    read_boolean(file, "remove-background", &r->transparent);
    read_boolean(file, "new-seed", &s->new_seed);
    read_boolean(file, "keep-open", &s->keep_open);
    read_history(file, s);
    return s;
}

void moji_settings_remember(MojiSettings *s, const char *prompt)
{
    for (guint i = 0; i < s->history->len; i++)
        if (!strcmp(s->history->pdata[i], prompt))
            g_ptr_array_remove_index(s->history, i--);
    g_ptr_array_insert(s->history, 0, g_strdup(prompt));
    if (s->history->len > HISTORY_MAX)
        g_ptr_array_set_size(s->history, HISTORY_MAX);
}

static void write_string(GKeyFile *file, const char *key, const char *value)
{
    g_key_file_set_string(file, GROUP, key, value ? value : "");
}

gboolean moji_settings_save(const MojiSettings *s, GError **error)
{
    const MojiRequest *r = s->request;
    g_autofree char *path = settings_path(), *loras = moji_request_join_loras(r->loras);
    g_autoptr(GKeyFile) file = g_key_file_new();

    g_key_file_set_integer(file, GROUP, "version", VERSION);
    write_string(file, "prompt", r->prompt);
    write_string(file, "negative", r->negative);
    write_string(file, "style", r->style);
    write_string(file, "background", r->background);
    write_string(file, "sampler", r->sampler);
    write_string(file, "model", r->model);
    write_string(file, "command", s->command);
    write_string(file, "edit-prompt", s->edit_prompt);
    g_key_file_set_double(file, GROUP, "edit-strength", s->edit_strength);
    write_string(file, "loras", loras);
    g_key_file_set_int64(file, GROUP, "seed", r->seed);
    g_key_file_set_integer(file, GROUP, "steps", r->steps);
    g_key_file_set_double(file, GROUP, "guidance", r->guidance);
    g_key_file_set_boolean(file, GROUP, "remove-background", r->transparent);
    g_key_file_set_boolean(file, GROUP, "new-seed", s->new_seed);
    g_key_file_set_boolean(file, GROUP, "keep-open", s->keep_open);
    g_key_file_set_string_list(file, GROUP, "history", (const char *const *)s->history->pdata,
                               s->history->len);
    return g_key_file_save_to_file(file, path, error);
}
