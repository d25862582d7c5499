/* edit.c: see edit.h. What a call does not say is taken from the layer's recipe. */
#include "edit.h"
#include "dialog.h"
#include "emoji-maker.h"
#include "recipe.h"
#include "redraw.h"
#include "work.h"
#include <libgimp/gimpui.h>

typedef struct {
    gint32 layer;
    gboolean flush;  /* what is changed is looked at */
    MojiImage *sent; /* what the engine was given, or NULL */
} Edit;

static gboolean add_picture(MojiRequest *r, gpointer user_data, GError **error)
{
    Edit *edit = user_data;

    g_clear_pointer(&edit->sent, moji_image_free);
    g_clear_pointer(&r->image, moji_image_free);
    edit->sent = moji_redraw_read(edit->layer, error);
    if (!edit->sent)
        return FALSE;
    r->image = moji_image_copy(edit->sent);
    return TRUE;
}

/* MojiDeliverFn, and the end of an edit without a window too. */
static gboolean deliver(const MojiImage *picture, char **note, gpointer user_data, GError **error)
{
    Edit *edit = user_data;

    (void)note;
    if (!moji_redraw_write(edit->layer, edit->sent, picture, error))
        return FALSE;
    if (edit->flush)
        gimp_displays_flush();
    return TRUE;
}

/* --- without a window --- */

static void take_text(char **field, const char *text)
{
    if (text && *text)
        *field = g_strdup(text);
}

/* The procedure's own arguments, after image and drawable. */
static MojiRequest *read_arguments(const GimpParam *param)
{
    MojiRequest *r = moji_request_new();

    take_text(&r->prompt, param[0].data.d_string);
    r->strength = param[1].data.d_float;
    r->seed = param[2].data.d_int32;
    take_text(&r->negative, param[3].data.d_string);
    take_text(&r->style, param[4].data.d_string);
    r->steps = param[5].data.d_int32;
    r->guidance = param[6].data.d_float;
    return r;
}

/* What Ctrl+F repeats: the last edit's words on the layer that is active now. */
static MojiRequest *read_last(const MojiSettings *s)
{
    MojiRequest *r = moji_request_new();

    r->prompt = g_strdup(s->edit_prompt);
    r->strength = s->edit_strength;
    return r;
}

static gboolean redraw(Edit *edit, const MojiSettings *s, const MojiRequest *r, GError **error)
{
    MojiClient *client = moji_work_client(s, error);
    g_autoptr(MojiImage) picture = NULL;
    g_autofree char *warning = NULL;

    if (!client)
        return FALSE;
    picture = moji_work_draw(client, r, error);
    moji_client_free(client);
    if (!picture || !deliver(picture, NULL, edit, error))
        return FALSE;
    warning = moji_work_warning(r, picture);
    if (warning)
        g_message("%s", warning);
    return TRUE;
}

static GimpPDBStatusType run_quietly(Edit *edit, const GimpParam *arguments, GError **error)
{
    MojiSettings *s = moji_settings_load();
    g_autofree char *recipe = moji_recipe_of(edit->layer);
    g_autoptr(MojiRequest) r = arguments ? read_arguments(arguments) : read_last(s);
    GimpPDBStatusType status = GIMP_PDB_CALLING_ERROR;

    r->model = g_strdup(s->request->model);
    moji_request_take_recipe(r, recipe);
    if (!r->prompt)
        g_set_error_literal(error, MOJI_ERROR, MOJI_ERROR_USAGE,
                            _("This layer tells no description of its own: say what to make of "
                              "it."));
    else if (moji_request_check(r, error) && add_picture(r, edit, error))
        status = redraw(edit, s, r, error) ? GIMP_PDB_SUCCESS : GIMP_PDB_EXECUTION_ERROR;
    moji_settings_free(s);
    return status;
}

/* --- with one --- */

static GimpPDBStatusType run_window(Edit *edit, GError **error)
{
    g_autofree char *recipe = NULL;
    MojiDialogTask task = {.procedure = PROC_EDIT,
                           .edit = TRUE,
                           .add_picture = add_picture,
                           .deliver = deliver,
                           .user_data = edit};

    if (!gtk_init_check(NULL, NULL)) {
        g_set_error(error, MOJI_ERROR, MOJI_ERROR_USAGE,
                    _("There is no display for the window; use RUN-NONINTERACTIVE."));
        return GIMP_PDB_EXECUTION_ERROR;
    }
    gimp_ui_init(PLUG_IN_BINARY, FALSE);
    task.recipe = recipe = moji_recipe_of(edit->layer);
    if (!recipe)
        task.hint = _("Emoji Maker did not make this layer: say what it shows, and what it "
                      "should become.");
    return moji_dialog_run(&task) ? GIMP_PDB_SUCCESS : GIMP_PDB_CANCEL;
}

GimpPDBStatusType moji_edit_run(const GimpParam *param, gint32 *layer, GError **error)
{
    GimpRunMode mode = param[0].data.d_int32;
    Edit edit = {.layer = param[2].data.d_drawable, .flush = mode != GIMP_RUN_NONINTERACTIVE};
    gint32 image = param[1].data.d_image;
    GimpPDBStatusType status = GIMP_PDB_CALLING_ERROR;

    if (gimp_item_get_image(edit.layer) != image)
        g_set_error(error, MOJI_ERROR, MOJI_ERROR_USAGE, "drawable %d is not of image %d",
                    edit.layer, image);
    else if (gimp_item_is_layer_mask(edit.layer)) /* what is active may be the mask */
        edit.layer = gimp_layer_from_mask(edit.layer);
    *layer = edit.layer;
    if (!*error)
        status =
            mode == GIMP_RUN_INTERACTIVE
                ? run_window(&edit, error)
                : run_quietly(&edit, mode == GIMP_RUN_NONINTERACTIVE ? param + 3 : NULL, error);
    moji_image_free(edit.sent);
    return status;
}
