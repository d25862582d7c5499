/* emoji-maker.c: the GIMP plug-in's procedures, and how each is called.
 *
 * plug-in-moji-draw adds an emoji to an image, plug-in-moji-new makes an image of one,
 * plug-in-moji-edit (edit.c) changes one. The first two are two because GIMP greys out a procedure
 * that wants an image when there is none, and only repeats (Ctrl+F) one that does. */
#include "emoji-maker.h"
#include "dialog.h"
#include "edit.h"
#include "icons.h"
#include "layer.h"
#include "settings.h"
#include "work.h"
#include <libgimp/gimp.h>
#include <libgimp/gimpui.h>
#include <locale.h>

#define GETTEXT_PACKAGE "gimp20-emoji-maker"
#define AUTHOR "The Emoji Maker authors"
#define DATE "2026"

typedef struct {
    GimpRunMode mode;
    gboolean new_image;            /* plug-in-moji-new */
    gboolean edit;                 /* plug-in-moji-edit */
    gint32 image;                  /* where the emojis go, or -1 */
    gint32 above;                  /* the layer given by a script, or -1 for the active one */
    gint32 made_image, made_layer; /* of the last emoji */
} Run;

static char *folder; /* of this program */

const char *moji_plugin_folder(void)
{
    return folder;
}

/* --- query: what GIMP is told when it first sees the program --- */

/* clang-format off */
#define RUN_MODE {GIMP_PDB_INT32, "run-mode", "The run mode { RUN-INTERACTIVE (0), " \
                  "RUN-NONINTERACTIVE (1), RUN-WITH-LAST-VALS (2) }"}
#define PROMPT {GIMP_PDB_STRING, "prompt", "What to draw, in a few words"}
#define NEGATIVE {GIMP_PDB_STRING, "negative", "Words for what not to show, or \"\""}
#define STYLE {GIMP_PDB_STRING, "style", \
               "A style of the model, \"none\", or \"\" for the model's own"}
#define SEED {GIMP_PDB_INT32, "seed", \
              "0 to 2147483647 for an emoji that can be made again, -1 = any"}
#define STEPS {GIMP_PDB_INT32, "steps", "1 to 1000, 0 = the model's own"}
#define GUIDANCE {GIMP_PDB_FLOAT, "guidance", \
                  "How closely to follow the words, 1 to 100; below 0 = the model's own"}
#define BACKGROUND {GIMP_PDB_STRING, "background", \
                    "A color word of the model, \"#rrggbb\", or \"\" for the model's own"}
#define REMOVE {GIMP_PDB_INT32, "remove-background", \
                "Hide the background with a layer mask { TRUE, FALSE }"}
#define LORAS {GIMP_PDB_STRING, "styles", \
               "LoRAs with their weights, \"frog:0.8, ink\": names of the styles folder or files; or \"\""}
#define MODEL {GIMP_PDB_STRING, "model", \
               "Folder or file of a model, or \"\" for the one that the window was told"}
#define EMOJI PROMPT, NEGATIVE, STYLE, SEED, STEPS, GUIDANCE, BACKGROUND, REMOVE, LORAS, MODEL
/* clang-format on */

static const GimpParamDef draw_args[] = {
    RUN_MODE,
    {GIMP_PDB_IMAGE, "image", "The image"},
    {GIMP_PDB_DRAWABLE, "drawable", "The layer above which the emoji goes"},
    EMOJI,
};
static const GimpParamDef edit_args[] = {
    RUN_MODE,
    {GIMP_PDB_IMAGE, "image", "The image"},
    {GIMP_PDB_DRAWABLE, "drawable", "The layer to redraw"},
    {GIMP_PDB_STRING, "prompt", "What to make of it, or \"\" for the layer's own words"},
    {GIMP_PDB_FLOAT, "strength",
     "How much may change, 0.01 to 1; below 0 = as the model is used to"},
    {GIMP_PDB_INT32, "seed", "0 to 2147483647, -1 = the layer's own, or any"},
    {GIMP_PDB_STRING, "negative", "Words for what not to show, or \"\" for the layer's own"},
    {GIMP_PDB_STRING, "style",
     "A style of the model, \"none\", or \"\" for the layer's or the model's own"},
    {GIMP_PDB_INT32, "steps", "1 to 1000, 0 = the layer's or the model's own"},
    {GIMP_PDB_FLOAT, "guidance",
     "How closely to follow the words, 1 to 100; below 0 = the layer's or the model's own"},
};
G_STATIC_ASSERT(G_N_ELEMENTS(edit_args) == MOJI_EDIT_ARGUMENTS);
static const GimpParamDef edit_values[] = {{GIMP_PDB_LAYER, "layer", "The same layer"}};
static const GimpParamDef new_args[] = {RUN_MODE, EMOJI};
static const GimpParamDef draw_values[] = {{GIMP_PDB_LAYER, "layer", "The layer with the emoji"}};
static const GimpParamDef new_values[] = {
    {GIMP_PDB_IMAGE, "new-image", "The new image, which has no display in a non-interactive run"},
    {GIMP_PDB_LAYER, "layer", "Its layer with the emoji"},
};

#define HELP_TEXT                                                                                  \
    "The engine \"moji\", a program beside the plug-in, draws the emoji with a latent diffusion "  \
    "model; it is started when needed and stays ready for the next call. With remove-background "  \
    "the emoji gets a layer mask that hides its plain background; if the background is not plain " \
    "enough, the emoji is kept as drawn and a message says so. How the emoji was made is kept in " \
    "the parasite \"plug-in-moji/recipe\" of its layer, as JSON."

static void install(const char *name, const char *blurb, const char *help, const char *label,
                    const char *image_types, const GimpParamDef *args, int n_args,
                    const GimpParamDef *values, int n_values, const char *menu)
{
    gimp_install_procedure(name, blurb, help, AUTHOR, AUTHOR, DATE, label, image_types, GIMP_PLUGIN,
                           n_args, n_values, args, values);
    gimp_plugin_menu_register(name, menu);
    gimp_plugin_icon_register(name, GIMP_ICON_TYPE_INLINE_PIXBUF, moji_icon_menu);
}

static void query(void)
{
    g_autofree char *locale = g_build_filename(folder, "locale", NULL);
    g_autofree char *help = g_build_filename(folder, "help", NULL);
    g_autofree char *help_uri = g_filename_to_uri(help, NULL, NULL);

    gimp_plugin_domain_register(GETTEXT_PACKAGE, locale);
    gimp_plugin_help_register(HELP_DOMAIN, help_uri);
    gimp_plugin_menu_branch_register("<Image>/Filters", N_("Emo_ji Maker"));
    install(PROC_DRAW, N_("Draw an emoji from a description as a new layer"),
            "Draws an emoji from a description and adds it as a new layer in the middle of the "
            "image, above the given layer, in one step to undo. " HELP_TEXT,
            N_("_Make Emoji..."), "*", draw_args, G_N_ELEMENTS(draw_args), draw_values,
            G_N_ELEMENTS(draw_values), "<Image>/Filters/Emoji Maker");
    install(PROC_NEW, N_("Draw an emoji from a description as a new image"),
            "Draws an emoji from a description and makes a new image of it. " HELP_TEXT,
            N_("_Emoji..."), "", new_args, G_N_ELEMENTS(new_args), new_values,
            G_N_ELEMENTS(new_values), "<Image>/File/Create");
    install(PROC_EDIT, N_("Redraw an emoji, or any layer, from a changed description"),
            "Redraws a layer in place from a changed description, inside the selection if there is "
            "one, in one step to undo. What is not given is taken from the layer's recipe, the "
            "parasite \"plug-in-moji/recipe\", which is brought up to date. Strength says how much "
            "may change. An emoji whose background was removed is cut out again.",
            N_("E_dit Emoji..."), "*", edit_args, G_N_ELEMENTS(edit_args), edit_values,
            G_N_ELEMENTS(edit_values), "<Image>/Filters/Emoji Maker");
}

/* --- run --- */

/* MojiDeliverFn, and the end of every drawing without a window too. */
static gboolean deliver(const MojiImage *picture, char **note, gpointer user_data, GError **error)
{
    Run *run = user_data;
    gboolean into = !run->new_image && gimp_image_is_valid(run->image);

    if (into) {
        run->made_image = run->image;
        run->made_layer = moji_layer_add(run->image, run->above, picture, error);
    } else {
        run->made_image = moji_layer_new_image(picture, &run->made_layer, error);
    }
    if (run->made_image < 0 || run->made_layer < 0)
        return FALSE;
    if (run->mode != GIMP_RUN_NONINTERACTIVE) {
        if (!into)
            gimp_display_new(run->made_image);
        gimp_displays_flush();
    }
    if (!into && !run->new_image) {
        *note = g_strdup(_("The image was closed meanwhile: the emoji is in a new image."));
        run->image = run->made_image; /* the next emoji joins this one */
    }
    return TRUE;
}

/* The emoji's own arguments, which both procedures have in the same order. GIMP has checked number
 * and types. */
static MojiRequest *read_arguments(const GimpParam *param, GError **error)
{
    MojiRequest *r = moji_request_new();

    r->prompt = g_strdup(param[0].data.d_string);
    r->negative = g_strdup(param[1].data.d_string);
    if (param[2].data.d_string && *param[2].data.d_string)
        r->style = g_strdup(param[2].data.d_string);
    r->seed = param[3].data.d_int32;
    r->steps = param[4].data.d_int32;
    r->guidance = param[5].data.d_float;
    if (param[6].data.d_string && *param[6].data.d_string)
        r->background = g_strdup(param[6].data.d_string);
    r->transparent = param[7].data.d_int32 != 0;
    r->loras = moji_request_split_loras(param[8].data.d_string);
    if (param[9].data.d_string && *param[9].data.d_string)
        r->model = g_strdup(param[9].data.d_string);
    if (!moji_request_check(r, error))
        g_clear_pointer(&r, moji_request_free);
    return r;
}

/* What Ctrl+F repeats: the last emoji's words, with another seed unless the user keeps seeds. */
static MojiRequest *read_last(MojiSettings *s, GError **error)
{
    if (!s->request->prompt) {
        g_set_error(
            error, MOJI_ERROR, MOJI_ERROR_USAGE,
            _("There is no emoji to repeat yet: make one with Filters ▸ Emoji Maker first."));
        return NULL;
    }
    if (s->new_seed)
        s->request->seed = -1;
    return moji_request_check(s->request, error) ? moji_request_copy(s->request) : NULL;
}

static gboolean draw(Run *run, const MojiSettings *s, MojiRequest *request, GError **error)
{
    MojiClient *client = moji_work_client(s, error);
    g_autoptr(MojiImage) picture = NULL;
    g_autofree char *note = NULL, *warning = NULL;
    gboolean done;

    if (!client)
        return FALSE;
    picture = moji_work_draw(client, request, error);
    moji_client_free(client);
    done = picture && deliver(picture, &note, run, error);
    if (done && note)
        g_message("%s", note);
    if (done && (warning = moji_work_warning(request, picture)))
        g_message("%s", warning);
    return done;
}

/* Without a window. The settings still say which engine and which model. */
static GimpPDBStatusType run_quietly(Run *run, const GimpParam *arguments, GError **error)
{
    MojiSettings *s = moji_settings_load();
    gboolean script = run->mode == GIMP_RUN_NONINTERACTIVE;
    MojiRequest *request = script ? read_arguments(arguments, error) : read_last(s, error);
    GimpPDBStatusType status = script ? GIMP_PDB_CALLING_ERROR : GIMP_PDB_EXECUTION_ERROR;

    if (request) {
        if (!request->model)
            request->model = g_strdup(s->request->model);
        status = draw(run, s, request, error) ? GIMP_PDB_SUCCESS : GIMP_PDB_EXECUTION_ERROR;
    }
    moji_request_free(request);
    moji_settings_free(s);
    return status;
}

/* A gray or indexed image cannot hold the emoji's colours: said before the drawing. */
static const char *image_hint(gint32 image)
{
    switch (image < 0 ? GIMP_RGB : gimp_image_base_type(image)) {
    case GIMP_GRAY:
        return _("This image is grayscale: the emoji will have no color. "
                 "Image ▸ Mode ▸ RGB changes that.");
    case GIMP_INDEXED:
        return _("This image is indexed: the emoji will take the nearest colors of its palette. "
                 "Image ▸ Mode ▸ RGB changes that.");
    default:
        return NULL;
    }
}

static GimpPDBStatusType run_window(Run *run, GError **error)
{
    MojiDialogTask task = {.procedure = run->new_image ? PROC_NEW : PROC_DRAW,
                           .hint = image_hint(run->image),
                           .deliver = deliver,
                           .user_data = run};

    if (!gtk_init_check(NULL, NULL)) {
        g_set_error(error, MOJI_ERROR, MOJI_ERROR_USAGE,
                    _("There is no display for the window; use RUN-NONINTERACTIVE."));
        return GIMP_PDB_EXECUTION_ERROR;
    }
    gimp_ui_init(PLUG_IN_BINARY, FALSE);
    return moji_dialog_run(&task) ? GIMP_PDB_SUCCESS : GIMP_PDB_CANCEL;
}

static GimpPDBStatusType run_checked(Run *run, int nparams, const GimpParam *param, GError **error)
{
    int before = run->new_image ? 1 : 3; /* arguments before the emoji's own */
    int expected = run->new_image ? G_N_ELEMENTS(new_args)
                   : run->edit    ? G_N_ELEMENTS(edit_args)
                                  : G_N_ELEMENTS(draw_args);

    if (run->mode == GIMP_RUN_NONINTERACTIVE && nparams != expected) {
        g_set_error(error, MOJI_ERROR, MOJI_ERROR_USAGE, "%d arguments were given, %d are needed",
                    nparams, expected);
        return GIMP_PDB_CALLING_ERROR;
    }
    if (run->edit)
        return moji_edit_run(param, &run->made_layer, error);
    if (!run->new_image && nparams >= 3) {
        run->image = param[1].data.d_image;
        if (run->mode == GIMP_RUN_NONINTERACTIVE)
            run->above = param[2].data.d_drawable;
    }
    if (run->above >= 0 && gimp_item_get_image(run->above) != run->image) {
        g_set_error(error, MOJI_ERROR, MOJI_ERROR_USAGE, "drawable %d is not of image %d",
                    run->above, run->image);
        return GIMP_PDB_CALLING_ERROR;
    }
    if (run->mode == GIMP_RUN_INTERACTIVE)
        return run_window(run, error);
    return run_quietly(run, param + before, error);
}

/* GIMP shows the one string that comes with an error, and expects all values with a success. */
static int answer(GimpParam *values, const Run *run, GimpPDBStatusType status, const GError *error)
{
    static char *sentence;
    int count = 1;

    values[0].type = GIMP_PDB_STATUS;
    values[0].data.d_status = status;
    if (status == GIMP_PDB_SUCCESS) {
        if (run->new_image) {
            values[count].type = GIMP_PDB_IMAGE;
            values[count++].data.d_image = run->made_image;
        }
        values[count].type = GIMP_PDB_LAYER;
        values[count++].data.d_layer = run->made_layer;
    } else if (error) {
        g_free(sentence);
        sentence = moji_work_sentence(error);
        values[count].type = GIMP_PDB_STRING;
        values[count++].data.d_string = sentence;
    }
    return count;
}

static void start_translation(void)
{
    g_autofree char *locale = g_build_filename(folder, "locale", NULL);

    setlocale(LC_ALL, "");
    bindtextdomain(GETTEXT_PACKAGE, locale);
    bind_textdomain_codeset(GETTEXT_PACKAGE, "UTF-8");
    textdomain(GETTEXT_PACKAGE);
}

static void run(const char *name, int nparams, const GimpParam *param, int *nvalues,
                GimpParam **return_values)
{
    static GimpParam values[3];
    g_autoptr(GError) error = NULL;
    Run run = {.mode = param[0].data.d_int32,
               .new_image = !strcmp(name, PROC_NEW),
               .edit = !strcmp(name, PROC_EDIT),
               .image = -1,
               .above = -1,
               .made_image = -1,
               .made_layer = -1};
    GimpPDBStatusType status;

    start_translation();
    status = run_checked(&run, nparams, param, &error);
    *nvalues = answer(values, &run, status, error);
    *return_values = values;
}

const GimpPlugInInfo PLUG_IN_INFO = {NULL, NULL, query, run};

/* GIMP's MAIN() would lose argv[0], the only word about where this program lies. */
int main(int argc, char *argv[])
{
    folder = g_path_get_dirname(argv[0]);
    return gimp_main(&PLUG_IN_INFO, argc, argv);
}
