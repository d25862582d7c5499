/* work.c: finding the engine, and a drawing without a window.
 *
 * The engine is another process and outlives this one; nothing here waits without a main loop
 * running. */
#include "work.h"
#include "emoji-maker.h"
#include "recipe.h"
#include <libgimp/gimp.h>

/* The first line of engine.path, written at installation when the engine lies elsewhere. */
static char *path_file(void)
{
    g_autofree char *file = g_build_filename(moji_plugin_folder(), "engine.path", NULL);
    char *text = NULL;

    if (!g_file_get_contents(file, &text, NULL, NULL))
        return NULL;
    text[strcspn(text, "\r\n")] = '\0';
    return g_strstrip(text);
}

static gboolean is_program(const char *path)
{
    return path && g_file_test(path, G_FILE_TEST_IS_REGULAR) &&
           g_file_test(path, G_FILE_TEST_IS_EXECUTABLE);
}

static char *find_engine(GError **error)
{
    const char *named = g_getenv("MOJI_ENGINE");
    g_autofree char *beside = g_build_filename(moji_plugin_folder(), "moji", NULL);
    g_autofree char *written = path_file();
    g_autofree char *home = g_build_filename(g_get_home_dir(), ".local", "bin", "moji", NULL);
    char *found;

    if (named && *named) {
        if (is_program(named))
            return g_strdup(named);
        g_set_error(error, MOJI_ERROR, MOJI_ERROR_FILE,
                    _("MOJI_ENGINE names %s, which is not a program"), named);
        return NULL;
    }
    if (is_program(beside))
        return g_steal_pointer(&beside);
    if (is_program(written))
        return g_steal_pointer(&written);
    if (is_program(home))
        return g_steal_pointer(&home);
    found = g_find_program_in_path("moji");
    if (!found)
        g_set_error(
            error, MOJI_ERROR, MOJI_ERROR_FILE,
            _("The engine of Emoji Maker, the program “moji”, was not found: neither %s nor %s "
              "nor one on the search path. Run install.sh of Emoji Maker again, or set "
              "MOJI_ENGINE to the program."),
            written && *written ? written : beside, home);
    return found;
}

MojiClient *moji_work_client(const MojiSettings *s, GError **error)
{
    g_autofree char *program = NULL;
    MojiClient *client;

    if (s->command)
        return moji_client_new(s->command);
    program = find_engine(error);
    if (!program)
        return NULL;
    client = moji_client_new(NULL);
    moji_client_set_program(client, program);
    return client;
}

char *moji_work_phase(const MojiProgress *progress)
{
    switch (progress->phase) {
    case MOJI_PHASE_LOADING:
        return g_strdup(_("Loading the model"));
    case MOJI_PHASE_TEXT:
        return g_strdup(_("Reading the description"));
    case MOJI_PHASE_STEP:
        return g_strdup_printf(_("Step %d of %d"), progress->step, progress->steps);
    case MOJI_PHASE_DECODING:
        return g_strdup(_("Turning it into pixels"));
    case MOJI_PHASE_CUTOUT:
        return g_strdup(_("Removing the background"));
    }
    return g_strdup("");
}

double moji_work_fraction(const MojiProgress *progress)
{
    switch (progress->phase) {
    case MOJI_PHASE_TEXT:
        return 0.02;
    case MOJI_PHASE_STEP:
        return progress->steps ? 0.05 + 0.85 * progress->step / progress->steps : -1;
    case MOJI_PHASE_DECODING:
        return 0.92;
    case MOJI_PHASE_CUTOUT:
        return 0.97;
    default:
        return -1;
    }
}

char *moji_work_sentence(const GError *error)
{
    const char *kind = NULL;

    if (error->domain == MOJI_ERROR && error->code == MOJI_ERROR_MEMORY)
        kind = _("There is not enough memory for this drawing.");
    else if (error->domain == MOJI_ERROR && error->code == MOJI_ERROR_BACKEND)
        kind = _("The engine could not draw.");
    else if (error->domain == MOJI_ERROR && error->code == MOJI_ERROR_FILE)
        kind = _("A file is missing or damaged.");
    return kind ? g_strdup_printf("%s\n%s", kind, error->message) : g_strdup(error->message);
}

char *moji_work_warning(const MojiRequest *request, const MojiImage *picture)
{
    g_autofree char *words = moji_recipe_text(picture->recipe, "warning");

    if (!words || !*words)
        return NULL;
    if (!request->transparent || picture->mask)
        return g_steal_pointer(&words);
    return g_strdup_printf("%s\n%s", _("The emoji was drawn, but keeps its background."), words);
}

typedef struct {
    GMainLoop *loop;
    GAsyncResult *result;
} Wait;

static void on_progress(const MojiProgress *progress, gpointer user_data)
{
    g_autofree char *phase = moji_work_phase(progress);
    double fraction = moji_work_fraction(progress);

    (void)user_data;
    gimp_progress_set_text(phase);
    if (fraction < 0)
        gimp_progress_pulse();
    else
        gimp_progress_update(fraction);
}

static void on_done(GObject *source, GAsyncResult *result, gpointer user_data)
{
    Wait *wait = user_data;

    (void)source;
    wait->result = g_object_ref(result);
    g_main_loop_quit(wait->loop);
}

MojiImage *moji_work_draw(MojiClient *client, const MojiRequest *request, GError **error)
{
    Wait wait = {g_main_loop_new(NULL, FALSE), NULL};
    GPtrArray *pictures;
    MojiImage *picture = NULL;

    gimp_progress_init(_("Making an emoji"));
    moji_client_draw_async(client, request, on_progress, NULL, NULL, on_done, &wait);
    g_main_loop_run(wait.loop);
    pictures = moji_client_draw_finish(client, wait.result, error);
    if (pictures) {
        picture = g_ptr_array_steal_index(pictures, 0);
        g_ptr_array_unref(pictures);
    }
    g_object_unref(wait.result);
    g_main_loop_unref(wait.loop);
    gimp_progress_end();
    return picture;
}
