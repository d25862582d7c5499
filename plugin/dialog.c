/* dialog.c: the window in which an emoji is asked for.
 *
 * Cancel has two meanings: while the engine draws it ends the drawing and the window stays; after
 * that it closes the window. */
#include "dialog.h"
#include "emoji-maker.h"
#include "form.h"
#include "preview.h"
#include "recipe.h"
#include "work.h"
#include <libgimp/gimp.h>
#include <libgimp/gimpui.h>

#define SPACING 12
#define RESPONSE_RESET 1
#define NEWS_WIDTH 560
#define TICK_MS 150

/* Shared with the thread that asks about the model, which may outlast a change of the command. */
typedef struct {
    MojiClient *client;
    char *command; /* the settings' command it was made with, or NULL */
} Engine;

typedef struct {
    const MojiDialogTask *task;
    MojiSettings *settings; /* what the form shows */
    MojiSettings *kept;     /* what is saved: the same, but for an edit */
    int delivered;

    GtkWidget *window, *cancel, *make, *news, *news_icon, *news_text, *progress;
    MojiForm *form;
    MojiPreview *preview;

    Engine *engine;        /* kept from drawing to drawing, so that it stays warm */
    GCancellable *drawing; /* NULL when nothing is being drawn */
    GCancellable *asking;  /* the question about the model under way */
    char *phase;           /* what is going on, for the progress bar */
    double fraction;       /* below 0: unknown */
    gint64 began;          /* microseconds, monotonic */
    guint tick;
} Dialog;

/* --- telling the user --- */

static void say(Dialog *d, const char *icon, const char *text)
{
    gtk_image_set_from_stock(GTK_IMAGE(d->news_icon), icon, GTK_ICON_SIZE_LARGE_TOOLBAR);
    gtk_label_set_text(GTK_LABEL(d->news_text), text);
    gtk_widget_show(d->news);
}

static void say_nothing(Dialog *d)
{
    gtk_widget_hide(d->news);
}

static void say_error(Dialog *d, const GError *error)
{
    g_autofree char *text = moji_work_sentence(error);

    say(d, GTK_STOCK_DIALOG_ERROR, text);
}

static void set_status(Dialog *d, double fraction, const char *text)
{
    gtk_progress_bar_set_fraction(GTK_PROGRESS_BAR(d->progress), fraction);
    gtk_progress_bar_set_text(GTK_PROGRESS_BAR(d->progress), *text ? text : " "); /* keeps height */
}

static int seconds_gone(Dialog *d)
{
    return (int)((g_get_monotonic_time() - d->began) / G_USEC_PER_SEC);
}

/* Moves the bar even when the engine has nothing to say, so that waiting looks like waiting. */
static gboolean on_tick(gpointer user_data)
{
    Dialog *d = user_data;
    int gone = seconds_gone(d);
    g_autofree char *text =
        gone < 2 ? g_strdup(d->phase) : g_strdup_printf(_("%s (%d s)"), d->phase, gone);

    if (d->fraction < 0) {
        gtk_progress_bar_pulse(GTK_PROGRESS_BAR(d->progress));
        gtk_progress_bar_set_text(GTK_PROGRESS_BAR(d->progress), text);
    } else {
        set_status(d, d->fraction, text);
    }
    return G_SOURCE_CONTINUE;
}

static void set_phase(Dialog *d, double fraction, const char *phase)
{
    g_free(d->phase);
    d->phase = g_strdup(phase);
    d->fraction = fraction;
}

/* --- the engine --- */

static void engine_clear(gpointer data)
{
    Engine *engine = data;

    moji_client_free(engine->client);
    g_free(engine->command);
}

static void engine_unref(gpointer engine)
{
    if (engine)
        g_atomic_rc_box_release_full(engine, engine_clear);
}

/* Keeps the same one while the command stays the same. */
static gboolean have_engine(Dialog *d, GError **error)
{
    MojiClient *client;

    if (d->engine && !g_strcmp0(d->engine->command, d->settings->command))
        return TRUE;
    client = moji_work_client(d->settings, error);
    if (!client)
        return FALSE;
    engine_unref(d->engine);
    d->engine = g_atomic_rc_box_new0(Engine);
    d->engine->client = client;
    d->engine->command = g_strdup(d->settings->command);
    return TRUE;
}

/* --- what the model is like: asked in a thread, since the engine may have to start first --- */

static void ask(GTask *task, gpointer source, gpointer task_data, GCancellable *cancellable)
{
    Engine *engine = task_data;
    GError *error = NULL;
    GVariant *info =
        moji_client_info(engine->client, g_object_get_data(G_OBJECT(task), "model"), &error);

    (void)source;
    (void)cancellable;
    if (info)
        g_task_return_pointer(task, info, (GDestroyNotify)g_variant_unref);
    else
        g_task_return_error(task, error);
}

static void on_asked(GObject *source, GAsyncResult *result, gpointer user_data)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GVariant) info = g_task_propagate_pointer(G_TASK(result), &error);
    Dialog *d = user_data;
    const char *name = "", *engine = "";
    g_autofree char *text = NULL;

    (void)source;
    if (g_error_matches(error, G_IO_ERROR, G_IO_ERROR_CANCELLED))
        return; /* asked again meanwhile, or the window is gone */
    g_clear_object(&d->asking);
    moji_form_tell(d->form, info);
    if (error)
        say_error(d, error);
    if (d->drawing)
        return;
    if (info) {
        g_variant_lookup(info, "name", "&s", &name);
        g_variant_lookup(info, "engine", "&s", &engine);
        text = *engine ? g_strdup_printf("%s, %s", name, engine) : g_strdup(name);
    }
    set_status(d, 0, text ? text : "");
}

static void stop_asking(Dialog *d)
{
    if (d->asking)
        g_cancellable_cancel(d->asking);
    g_clear_object(&d->asking);
}

static void ask_about_model(gpointer user_data)
{
    Dialog *d = user_data;
    g_autoptr(GError) error = NULL;
    g_autoptr(GTask) task = NULL;

    stop_asking(d);
    moji_form_read(d->form, d->settings);
    if (!have_engine(d, &error)) {
        say_error(d, error);
        return;
    }
    d->asking = g_cancellable_new();
    task = g_task_new(NULL, d->asking, on_asked, d);
    g_task_set_task_data(task, g_atomic_rc_box_acquire(d->engine), engine_unref);
    g_object_set_data_full(G_OBJECT(task), "model", g_strdup(d->settings->request->model), g_free);
    g_task_run_in_thread(task, ask);
    if (!d->drawing)
        set_status(d, 0, _("Starting the engine"));
}

/* --- drawing --- */

static void set_drawing(Dialog *d, gboolean drawing)
{
    gtk_widget_set_sensitive(moji_form_widget(d->form), !drawing);
    gtk_widget_set_sensitive(d->make, !drawing);
    gtk_dialog_set_response_sensitive(GTK_DIALOG(d->window), RESPONSE_RESET, !drawing);
    gtk_button_set_label(GTK_BUTTON(d->cancel),
                         drawing || !d->delivered ? GTK_STOCK_CANCEL : GTK_STOCK_CLOSE);
    if (drawing) {
        d->drawing = g_cancellable_new();
        d->began = g_get_monotonic_time();
        d->tick = g_timeout_add(TICK_MS, on_tick, d);
        /* Not on Cancel: a second Enter must not end what the first began. */
        gtk_window_set_focus(GTK_WINDOW(d->window), NULL);
    } else {
        g_clear_object(&d->drawing);
        g_source_remove(d->tick);
        moji_form_focus(d->form);
    }
}

static void on_progress(const MojiProgress *progress, gpointer user_data)
{
    Dialog *d = user_data;
    g_autofree char *phase = moji_work_phase(progress);

    set_phase(d, moji_work_fraction(progress), phase);
    if (progress->preview)
        moji_preview_set_rough(d->preview, progress->preview, progress->preview_width,
                               progress->preview_height);
}

/* The words of the last new emoji are not those of the last edit. */
static void keep_edit(Dialog *d)
{
    const MojiRequest *r = d->settings->request;

    g_free(d->kept->edit_prompt);
    d->kept->edit_prompt = g_strdup(r->prompt);
    d->kept->edit_strength = r->strength;
    d->kept->keep_open = d->settings->keep_open;
    g_free(d->kept->command);
    d->kept->command = g_strdup(d->settings->command);
    g_free(d->kept->request->model);
    d->kept->request->model = g_strdup(r->model);
}

static void remember(Dialog *d)
{
    g_autoptr(GError) error = NULL;

    moji_settings_remember(d->kept, d->settings->request->prompt);
    if (d->task->edit)
        keep_edit(d);
    moji_form_show(d->form, d->settings);
    if (!moji_settings_save(d->kept, &error))
        g_printerr("%s: %s\n", PLUG_IN_BINARY, error->message);
}

/* The emoji is in GIMP: tell what is to be told, here if the window stays, by GIMP if it does not.
 */
static void after_delivery(Dialog *d, const MojiImage *picture, const char *note)
{
    g_autofree char *warning = moji_work_warning(d->settings->request, picture);
    g_autofree char *done = g_strdup_printf(_("Done in %d s"), MAX(1, seconds_gone(d)));
    const char *news = warning ? warning : note;

    set_status(d, 1, done);
    if (d->settings->keep_open) {
        if (news)
            say(d, warning ? GTK_STOCK_DIALOG_WARNING : GTK_STOCK_DIALOG_INFO, news);
        return;
    }
    if (news)
        g_message("%s", news);
    gtk_main_quit();
}

static void deliver(Dialog *d, const MojiImage *picture)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *note = NULL;

    moji_preview_set_picture(d->preview, picture);
    if (!d->task->deliver(picture, &note, d->task->user_data, &error)) {
        set_status(d, 0, "");
        say_error(d, error);
        return;
    }
    d->delivered++;
    gtk_button_set_label(GTK_BUTTON(d->cancel), GTK_STOCK_CLOSE);
    remember(d);
    after_delivery(d, picture, note);
}

static void on_drawn(GObject *source, GAsyncResult *result, gpointer user_data)
{
    Dialog *d = user_data;
    g_autoptr(GError) error = NULL;
    GPtrArray *pictures = moji_client_draw_finish(d->engine->client, result, &error);

    (void)source;
    set_drawing(d, FALSE);
    if (pictures) {
        deliver(d, pictures->pdata[0]);
        g_ptr_array_unref(pictures);
        return;
    }
    moji_preview_clear(d->preview); /* the rough picture will not become an emoji */
    if (g_error_matches(error, MOJI_ERROR, MOJI_ERROR_CANCELLED)) {
        set_status(d, 0, _("Cancelled"));
    } else {
        set_status(d, 0, "");
        say_error(d, error);
    }
}

static void make(Dialog *d)
{
    MojiRequest *request = d->settings->request;
    g_autoptr(GError) error = NULL;

    say_nothing(d);
    moji_form_read(d->form, d->settings);
    if (!request->prompt) {
        say(d, GTK_STOCK_DIALOG_INFO, _("Describe the emoji first, in a few words."));
        moji_form_focus(d->form);
        return;
    }
    if (d->settings->new_seed)
        request->seed = g_random_int_range(0, G_MAXINT32);
    if ((d->task->add_picture && !d->task->add_picture(request, d->task->user_data, &error)) ||
        !moji_request_check(request, &error) || !have_engine(d, &error)) {
        say_error(d, error);
        return;
    }
    moji_form_set_seed(d->form, request->seed);
    moji_preview_clear(d->preview);
    set_phase(d, -1, _("Starting the engine"));
    set_drawing(d, TRUE);
    moji_client_draw_async(d->engine->client, request, on_progress, d, d->drawing, on_drawn, d);
}

/* Back to what the emoji was made with. */
static void reset_edit(Dialog *d)
{
    d->kept->edit_strength = -1;
    moji_settings_free(d->settings);
    d->settings = moji_settings_for_edit(d->kept, d->task->recipe);
    moji_form_show(d->form, d->settings);
    say_nothing(d);
}

/* Everything but what the user would not call a setting of the emoji: history, engine, model. */
static void reset(Dialog *d)
{
    MojiSettings *fresh;

    moji_form_read(d->form, d->settings);
    if (d->task->edit) {
        reset_edit(d);
        return;
    }
    fresh = moji_settings_new();
    fresh->request->model = g_strdup(d->settings->request->model);
    fresh->command = g_strdup(d->settings->command);
    fresh->request->seed = d->settings->request->seed;
    g_ptr_array_unref(fresh->history);
    fresh->history = g_ptr_array_ref(d->settings->history);
    moji_settings_free(d->settings);
    d->settings = d->kept = fresh;
    moji_form_show(d->form, fresh);
    say_nothing(d);
}

static void on_response(GtkDialog *window, int response, gpointer user_data)
{
    Dialog *d = user_data;

    (void)window;
    if (response == GTK_RESPONSE_OK)
        make(d);
    else if (response == RESPONSE_RESET)
        reset(d);
    else if (d->drawing)
        g_cancellable_cancel(d->drawing);
    else
        gtk_main_quit();
}

/* --- the window --- */

/* Not a GtkInfoBar: with GIMP's dark theme its text is light on yellow. */
static void build_news(Dialog *d, GtkWidget *box)
{
    d->news = gtk_hbox_new(FALSE, SPACING);
    d->news_icon = gtk_image_new();
    gtk_misc_set_alignment(GTK_MISC(d->news_icon), 0.5, 0);
    d->news_text = gtk_label_new(NULL);
    gtk_label_set_line_wrap(GTK_LABEL(d->news_text), TRUE);
    gtk_label_set_selectable(GTK_LABEL(d->news_text), TRUE); /* for a report of the error */
    gtk_widget_set_can_focus(d->news_text, FALSE);
    gtk_misc_set_alignment(GTK_MISC(d->news_text), 0, 0.5);
    gtk_widget_set_size_request(d->news_text, NEWS_WIDTH, -1);
    gtk_box_pack_start(GTK_BOX(d->news), d->news_icon, FALSE, FALSE, 0);
    gtk_box_pack_start(GTK_BOX(d->news), d->news_text, TRUE, TRUE, 0);
    gtk_widget_show(d->news_icon);
    gtk_widget_show(d->news_text);
    gtk_box_pack_start(GTK_BOX(box), d->news, FALSE, FALSE, 0);
}

static void build_body(Dialog *d)
{
    GtkWidget *box = gtk_vbox_new(FALSE, SPACING);
    GtkWidget *row = gtk_hbox_new(FALSE, SPACING);

    gtk_container_set_border_width(GTK_CONTAINER(box), SPACING);
    gtk_box_pack_start(GTK_BOX(gtk_dialog_get_content_area(GTK_DIALOG(d->window))), box, TRUE, TRUE,
                       0);
    build_news(d, box);
    gtk_box_pack_start(GTK_BOX(box), row, TRUE, TRUE, 0);
    gtk_box_pack_start(GTK_BOX(row), moji_preview_widget(d->preview), FALSE, FALSE, 0);
    gtk_box_pack_start(GTK_BOX(row), moji_form_widget(d->form), TRUE, TRUE, 0);
    d->progress = gtk_progress_bar_new();
    gtk_progress_bar_set_ellipsize(GTK_PROGRESS_BAR(d->progress), PANGO_ELLIPSIZE_END);
    gtk_box_pack_start(GTK_BOX(box), d->progress, FALSE, FALSE, 0);
    gtk_widget_show(d->progress);
    gtk_widget_show(row);
    gtk_widget_show(box);
}

/* The one button that GIMP adds, as a widget without a response, and has not translated into every
 * language of ours. There is none if the user switched help buttons off. */
static void translate_help(GtkWidget *window)
{
    GtkWidget *area = gtk_dialog_get_action_area(GTK_DIALOG(window));
    GList *buttons = gtk_container_get_children(GTK_CONTAINER(area));

    if (buttons)
        gtk_button_set_label(GTK_BUTTON(buttons->data), _("_Help"));
    g_list_free(buttons);
}

static void build(Dialog *d)
{
    const char *procedure = d->task->procedure;

    d->window = gimp_dialog_new(d->task->edit ? _("Edit Emoji") : _("Emoji Maker"), PLUG_IN_ROLE,
                                NULL, 0, gimp_standard_help_func, procedure, NULL);
    translate_help(d->window);
    gimp_dialog_add_button(GIMP_DIALOG(d->window), GIMP_STOCK_RESET, RESPONSE_RESET);
    d->cancel =
        gimp_dialog_add_button(GIMP_DIALOG(d->window), GTK_STOCK_CANCEL, GTK_RESPONSE_CANCEL);
    d->make = gimp_dialog_add_button(GIMP_DIALOG(d->window),
                                     d->task->edit ? _("Redra_w") : _("_Make"), GTK_RESPONSE_OK);
    gtk_dialog_set_default_response(GTK_DIALOG(d->window), GTK_RESPONSE_OK);
    gtk_dialog_set_alternative_button_order(GTK_DIALOG(d->window), RESPONSE_RESET, GTK_RESPONSE_OK,
                                            GTK_RESPONSE_CANCEL, -1);
    gtk_window_set_resizable(GTK_WINDOW(d->window), FALSE); /* follows "Advanced" both ways */
    gimp_window_set_transient(GTK_WINDOW(d->window));
    d->form = moji_form_new(procedure, d->task->edit);
    d->preview = moji_preview_new();
    build_body(d);
    g_signal_connect(d->window, "response", G_CALLBACK(on_response), d);
}

int moji_dialog_run(const MojiDialogTask *task)
{
    Dialog d = {.task = task, .kept = moji_settings_load()};

    d.settings = task->edit ? moji_settings_for_edit(d.kept, task->recipe) : d.kept;
    build(&d);
    moji_form_show(d.form, d.settings);
    moji_form_tell(d.form, NULL);
    moji_form_on_engine(d.form, ask_about_model, &d);
    if (task->hint)
        say(&d, GTK_STOCK_DIALOG_INFO, task->hint);
    gtk_widget_show(d.window);
    moji_form_focus(d.form);
    ask_about_model(&d);
    gtk_main();

    stop_asking(&d);
    gtk_widget_destroy(d.window);
    engine_unref(d.engine);
    if (d.kept != d.settings)
        moji_settings_free(d.kept);
    moji_settings_free(d.settings);
    g_free(d.phase);
    return d.delivered;
}
