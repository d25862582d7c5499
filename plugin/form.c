/* form.c: the fields of the window.
 *
 * Zero in a number field means "the model's own" and is shown as those words, so that a model with
 * other habits is not held to the numbers of the last one. */
#include "form.h"
#include "choice.h"
#include "emoji-maker.h"
#include "icons.h"
#include <libgimp/gimp.h>
#include <libgimp/gimpui.h>

#define SPACING 6
#define USUAL_STRENGTH 0.7 /* until the engine has told the model's */

struct MojiForm {
    const char *help_id;
    GtkWidget *strength;   /* or NULL */
    double usual_strength; /* the model's own */
    gboolean own_strength; /* that is what is shown, as the user did not touch it */
    GtkWidget *box, *prompt, *style, *seed, *new_seed, *transparent, *keep_open;
    GtkWidget *loras;
    GtkWidget *negative, *steps, *guidance, *background, *sampler, *model, *command;
    GtkWidget *advanced;
    void (*changed)(gpointer user_data);
    gpointer changed_data;
};

static void explain(MojiForm *f, GtkWidget *widget, const char *text)
{
    gimp_help_set_help_data(widget, text, f->help_id);
}

/* --- numbers that may be the model's own --- */

static gboolean show_own(GtkSpinButton *spin, gpointer user_data)
{
    const char *own = g_object_get_data(G_OBJECT(spin), "own");
    g_autofree char *text = NULL;

    (void)user_data;
    if (gtk_spin_button_get_value(spin) > 0)
        return FALSE;
    text = own ? g_strdup_printf(_("The model's own (%s)"), own) : g_strdup(_("The model's own"));
    if (strcmp(gtk_entry_get_text(GTK_ENTRY(spin)), text))
        gtk_entry_set_text(GTK_ENTRY(spin), text);
    return TRUE;
}

static GtkWidget *own_spin_new(double most, double step, int digits)
{
    GtkWidget *spin = gtk_spin_button_new_with_range(0, most, step);

    gtk_spin_button_set_digits(GTK_SPIN_BUTTON(spin), digits);
    gtk_spin_button_set_numeric(GTK_SPIN_BUTTON(spin), FALSE); /* or it would refuse our words */
    gtk_entry_set_width_chars(GTK_ENTRY(spin), 22);
    gtk_entry_set_activates_default(GTK_ENTRY(spin), TRUE);
    g_signal_connect(spin, "output", G_CALLBACK(show_own), NULL);
    return spin;
}

static void own_spin_tell(GtkWidget *spin, char *own)
{
    g_object_set_data_full(G_OBJECT(spin), "own", own, g_free);
    show_own(GTK_SPIN_BUTTON(spin), NULL);
}

/* --- the fields one sees at once --- */

static GtkWidget *attach(GtkWidget *table, int row, const char *label, GtkWidget *widget)
{
    gimp_table_attach_aligned(GTK_TABLE(table), 0, row, label, 0.0, 0.5, widget, 1, FALSE);
    return widget;
}

static GtkWidget *table_new(int rows)
{
    GtkWidget *table = gtk_table_new(rows, 2, FALSE);

    gtk_table_set_row_spacings(GTK_TABLE(table), SPACING);
    gtk_table_set_col_spacings(GTK_TABLE(table), SPACING);
    return table;
}

static GtkWidget *pack_check(MojiForm *f, const char *label, const char *tip)
{
    GtkWidget *check = gtk_check_button_new_with_mnemonic(label);

    gtk_box_pack_start(GTK_BOX(f->box), check, FALSE, FALSE, 0);
    explain(f, check, tip);
    return check;
}

static GtkWidget *prompt_entry(MojiForm *f)
{
    return gtk_bin_get_child(GTK_BIN(f->prompt));
}

static void build_prompt(MojiForm *f)
{
    GtkWidget *label = gtk_label_new_with_mnemonic(_("_Describe the emoji:"));
    GtkWidget *entry;

    gtk_misc_set_alignment(GTK_MISC(label), 0, 0.5);
    gtk_box_pack_start(GTK_BOX(f->box), label, FALSE, FALSE, 0);
    f->prompt = gtk_combo_box_text_new_with_entry();
    entry = prompt_entry(f);
    gtk_entry_set_width_chars(GTK_ENTRY(entry), 40);
    gtk_entry_set_activates_default(GTK_ENTRY(entry), TRUE);
    gtk_label_set_mnemonic_widget(GTK_LABEL(label), entry);
    gtk_box_pack_start(GTK_BOX(f->box), f->prompt, FALSE, FALSE, 0);
    explain(f, entry,
            _("What to draw, in a few words: “panda with a crown”. Earlier "
              "descriptions are in the list."));
}

static void set_check(GtkWidget *check, gboolean on)
{
    gtk_toggle_button_set_active(GTK_TOGGLE_BUTTON(check), on);
}

/* Whoever asks for a certain seed does not want another one each time. */
static void on_seed(GtkSpinButton *spin, gpointer user_data)
{
    MojiForm *f = user_data;

    (void)spin;
    set_check(f->new_seed, FALSE);
}

static void on_dice(GtkButton *button, gpointer user_data)
{
    MojiForm *f = user_data;

    (void)button;
    gtk_spin_button_set_value(GTK_SPIN_BUTTON(f->seed), g_random_int_range(0, G_MAXINT32));
}

static GtkWidget *build_seed(MojiForm *f)
{
    GtkWidget *row = gtk_hbox_new(FALSE, SPACING), *throw;
    GdkPixbuf *dice = gdk_pixbuf_new_from_inline(-1, moji_icon_dice, FALSE, NULL);

    f->seed = gtk_spin_button_new_with_range(0, G_MAXINT32, 1);
    gtk_entry_set_activates_default(GTK_ENTRY(f->seed), TRUE);
    explain(f, f->seed, _("The same description with the same seed gives the same emoji"));
    throw = gtk_button_new();
    gtk_container_add(GTK_CONTAINER(throw), gtk_image_new_from_pixbuf(dice));
    g_object_unref(dice);
    explain(f, throw, _("Pick another seed and keep it"));
    g_signal_connect(throw, "clicked", G_CALLBACK(on_dice), f);
    f->new_seed = gtk_check_button_new_with_mnemonic(_("_New each time"));
    explain(f, f->new_seed, _("Pick another seed for each emoji"));
    g_signal_connect(f->seed, "value-changed", G_CALLBACK(on_seed), f);
    gtk_box_pack_start(GTK_BOX(row), f->seed, TRUE, TRUE, 0);
    gtk_box_pack_start(GTK_BOX(row), throw, FALSE, FALSE, 0);
    gtk_box_pack_start(GTK_BOX(row), f->new_seed, FALSE, FALSE, 0);
    return row;
}

/* --- LoRAs: a line of names and weights, and a list whose names join it --- */

static GtkWidget *loras_entry(MojiForm *f)
{
    return gtk_bin_get_child(GTK_BIN(f->loras));
}

/* What was written before a name was chosen, which takes the line's place. */
static void on_loras_written(GtkEntry *entry, gpointer user_data)
{
    MojiForm *f = user_data;

    if (gtk_combo_box_get_active(GTK_COMBO_BOX(f->loras)) < 0)
        g_object_set_data_full(G_OBJECT(entry), "written", g_strdup(gtk_entry_get_text(entry)),
                               g_free);
}

static void on_lora(GtkComboBox *combo, gpointer user_data)
{
    MojiForm *f = user_data;
    GtkWidget *entry = loras_entry(f);
    const char *before = g_object_get_data(G_OBJECT(entry), "written");
    g_autofree char *name = NULL, *text = NULL;

    if (gtk_combo_box_get_active(combo) < 0)
        return;
    name = gtk_combo_box_text_get_active_text(GTK_COMBO_BOX_TEXT(combo));
    text = before && *before ? g_strconcat(before, ", ", name, NULL) : g_strdup(name);
    gtk_combo_box_set_active(combo, -1);
    gtk_entry_set_text(GTK_ENTRY(entry), text);
    gtk_editable_set_position(GTK_EDITABLE(entry), -1);
}

static GtkWidget *build_loras(MojiForm *f)
{
    GtkWidget *entry;

    f->loras = gtk_combo_box_text_new_with_entry();
    entry = loras_entry(f);
    gtk_entry_set_activates_default(GTK_ENTRY(entry), TRUE);
    g_signal_connect(entry, "changed", G_CALLBACK(on_loras_written), f);
    g_signal_connect(f->loras, "changed", G_CALLBACK(on_lora), f);
    explain(f, entry,
            _("Learned styles with their weights, as “frog:0.8, ink”: names of files in the folder "
              "of styles, which the list has, or files anywhere"));
    return f->loras;
}

static void tell_loras(MojiForm *f, GVariant *info)
{
    g_autofree const char **list = NULL;

    gtk_list_store_clear(GTK_LIST_STORE(gtk_combo_box_get_model(GTK_COMBO_BOX(f->loras))));
    if (info)
        g_variant_lookup(info, "loras", "^a&s", &list);
    for (int i = 0; list && list[i]; i++)
        gtk_combo_box_text_append_text(GTK_COMBO_BOX_TEXT(f->loras), list[i]);
}

static void on_strength(GtkRange *range, gpointer user_data)
{
    MojiForm *f = user_data;

    (void)range;
    f->own_strength = FALSE;
}

/* strength: below 0 for the model's own. */
static void show_strength(MojiForm *f, double strength)
{
    gtk_range_set_value(GTK_RANGE(f->strength),
                        100 * (strength > 0 ? strength : f->usual_strength));
    f->own_strength = strength <= 0;
}

/* In percent, since nobody thinks of it otherwise. */
static void build_strength(MojiForm *f, GtkWidget *table, int row)
{
    f->strength = gtk_hscale_new_with_range(5, 100, 5);
    gtk_scale_set_value_pos(GTK_SCALE(f->strength), GTK_POS_RIGHT);
    attach(table, row, _("_Strength:"), f->strength);
    f->usual_strength = USUAL_STRENGTH;
    g_signal_connect(f->strength, "value-changed", G_CALLBACK(on_strength), f);
    explain(f, f->strength,
            _("How much may change: 30 retouches, 70 redraws in the same place and colors, 100 "
              "starts over"));
}

static void build_main(MojiForm *f, gboolean edit)
{
    GtkWidget *table = table_new(edit ? 4 : 3);
    int row = 0;

    gtk_box_pack_start(GTK_BOX(f->box), table, FALSE, FALSE, 0);
    if (edit)
        build_strength(f, table, row++);
    f->style = attach(table, row++, _("S_tyle:"), moji_choice_new());
    explain(f, f->style, _("The look of the emoji, one of the styles the model has learned"));
    attach(table, row++, _("S_eed:"), build_seed(f));
    attach(table, row, _("Lo_RAs:"), build_loras(f));
    f->transparent =
        pack_check(f, _("Remove the _background"),
                   _("The emoji gets a layer mask that hides the plain background; paint "
                     "on the mask to correct the edge"));
    f->keep_open = pack_check(f, _("_Keep this window open"),
                              _("The window stays for the next emoji after one is made"));
}

/* --- the fields behind "Advanced" --- */

static gboolean on_engine_left(GtkWidget *entry, GdkEventFocus *event, gpointer user_data)
{
    MojiForm *f = user_data;
    const char *before = g_object_get_data(G_OBJECT(entry), "before");
    const char *now = gtk_entry_get_text(GTK_ENTRY(entry));

    (void)event;
    if (g_strcmp0(before ? before : "", now)) {
        g_object_set_data_full(G_OBJECT(entry), "before", g_strdup(now), g_free);
        if (f->changed)
            f->changed(f->changed_data);
    }
    return FALSE;
}

static GtkWidget *engine_entry_new(MojiForm *f)
{
    GtkWidget *entry = gtk_entry_new();

    gtk_entry_set_activates_default(GTK_ENTRY(entry), TRUE);
    g_signal_connect(entry, "focus-out-event", G_CALLBACK(on_engine_left), f);
    return entry;
}

static void browse(MojiForm *f, const char *title, GtkFileChooserAction action)
{
    GtkWidget *chooser = gtk_file_chooser_dialog_new(
        title, GTK_WINDOW(gtk_widget_get_toplevel(f->box)), action, GTK_STOCK_CANCEL,
        GTK_RESPONSE_CANCEL, GTK_STOCK_OPEN, GTK_RESPONSE_ACCEPT, NULL);

    if (gtk_dialog_run(GTK_DIALOG(chooser)) == GTK_RESPONSE_ACCEPT) {
        g_autofree char *folder = gtk_file_chooser_get_filename(GTK_FILE_CHOOSER(chooser));

        gtk_entry_set_text(GTK_ENTRY(f->model), folder ? folder : "");
        on_engine_left(f->model, NULL, f);
    }
    gtk_widget_destroy(chooser);
}

static void on_browse_folder(GtkButton *button, gpointer user_data)
{
    (void)button;
    browse(user_data, _("Folder of a Model"), GTK_FILE_CHOOSER_ACTION_SELECT_FOLDER);
}

static void on_browse_file(GtkButton *button, gpointer user_data)
{
    (void)button;
    browse(user_data, _("File of a Model"), GTK_FILE_CHOOSER_ACTION_OPEN);
}

static void pack_browse(MojiForm *f, GtkWidget *row, const char *icon, const char *tip,
                        GCallback clicked)
{
    GtkWidget *button = gtk_button_new();

    gtk_container_add(GTK_CONTAINER(button), gtk_image_new_from_stock(icon, GTK_ICON_SIZE_MENU));
    explain(f, button, tip);
    g_signal_connect(button, "clicked", clicked, f);
    gtk_box_pack_start(GTK_BOX(row), button, FALSE, FALSE, 0);
}

static GtkWidget *build_model(MojiForm *f)
{
    GtkWidget *row = gtk_hbox_new(FALSE, SPACING);

    f->model = engine_entry_new(f);
    explain(f, f->model,
            _("The folder or the file of a Stable Diffusion 1.x model; empty: the model that came "
              "along"));
    gtk_box_pack_start(GTK_BOX(row), f->model, TRUE, TRUE, 0);
    pack_browse(f, row, GTK_STOCK_OPEN, _("Choose the folder"), G_CALLBACK(on_browse_folder));
    pack_browse(f, row, GTK_STOCK_FILE, _("Choose the file"), G_CALLBACK(on_browse_file));
    return row;
}

static void build_advanced(MojiForm *f)
{
    GtkWidget *table = table_new(7);

    f->advanced = gtk_expander_new_with_mnemonic(_("_Advanced"));
    gtk_box_pack_start(GTK_BOX(f->box), f->advanced, FALSE, FALSE, 0);
    gtk_container_add(GTK_CONTAINER(f->advanced), table);
    f->negative = attach(table, 0, _("A_void:"), gtk_entry_new());
    gtk_entry_set_activates_default(GTK_ENTRY(f->negative), TRUE);
    explain(f, f->negative, _("Words for what the emoji should not show"));
    f->background = attach(table, 1, _("Back_ground:"), moji_choice_new());
    explain(f, f->background, _("The plain color that the emoji is drawn on"));
    f->steps = attach(table, 2, _("Ste_ps:"), own_spin_new(1000, 1, 0));
    explain(f, f->steps, _("More steps take longer and give finer drawings"));
    f->guidance = attach(table, 3, _("G_uidance:"), own_spin_new(100, 0.5, 1));
    explain(f, f->guidance, _("How closely the drawing follows the words"));
    f->sampler = attach(table, 4, _("Samp_ler:"), moji_choice_new());
    explain(f, f->sampler, _("The method that takes the steps"));
    attach(table, 5, _("M_odel:"), build_model(f));
    f->command = attach(table, 6, _("Eng_ine:"), engine_entry_new(f));
    explain(
        f, f->command,
        _("A command that starts an engine elsewhere, as “ssh gpubox moji serve --stdio”; empty: "
          "the engine of this computer"));
}

MojiForm *moji_form_new(const char *help_id, gboolean edit)
{
    MojiForm *f = g_new0(MojiForm, 1);

    f->help_id = help_id;
    f->box = gtk_vbox_new(FALSE, SPACING);
    g_object_set_data_full(G_OBJECT(f->box), "form", f, g_free);
    build_prompt(f);
    build_main(f, edit);
    build_advanced(f);
    gtk_widget_show_all(f->box);
    return f;
}

GtkWidget *moji_form_widget(MojiForm *f)
{
    return f->box;
}

/* --- settings to widgets and back --- */

static void set_text(GtkWidget *entry, const char *text)
{
    gtk_entry_set_text(GTK_ENTRY(entry), text ? text : "");
}

static void show_history(MojiForm *f, const GPtrArray *history)
{
    gtk_list_store_clear(GTK_LIST_STORE(gtk_combo_box_get_model(GTK_COMBO_BOX(f->prompt))));
    for (guint i = 0; i < history->len; i++)
        gtk_combo_box_text_append_text(GTK_COMBO_BOX_TEXT(f->prompt), history->pdata[i]);
}

void moji_form_show(MojiForm *f, const MojiSettings *s)
{
    const MojiRequest *r = s->request;
    g_autofree char *loras = moji_request_join_loras(r->loras);

    show_history(f, s->history);
    set_text(prompt_entry(f), r->prompt);
    moji_choice_set(f->style, r->style);
    moji_form_set_seed(f, r->seed < 0 ? 0 : r->seed);
    if (f->strength)
        show_strength(f, r->strength);
    set_check(f->new_seed, s->new_seed);
    set_check(f->transparent, r->transparent);
    set_check(f->keep_open, s->keep_open);
    set_text(f->negative, r->negative);
    moji_choice_set(f->background, r->background);
    set_text(loras_entry(f), loras);
    gtk_spin_button_set_value(GTK_SPIN_BUTTON(f->steps), r->steps);
    gtk_spin_button_set_value(GTK_SPIN_BUTTON(f->guidance), r->guidance > 0 ? r->guidance : 0);
    moji_choice_set(f->sampler, r->sampler);
    set_text(f->model, r->model);
    set_text(f->command, s->command);
    on_engine_left(f->model, NULL, f);
    on_engine_left(f->command, NULL, f);
}

static void take(char **field, char *value)
{
    g_free(*field);
    *field = value;
}

/* An empty text is no text. */
static char *get_text(GtkWidget *entry)
{
    char *text = g_strstrip(g_strdup(gtk_entry_get_text(GTK_ENTRY(entry))));

    if (!*text)
        g_clear_pointer(&text, g_free);
    return text;
}

static gboolean get_check(GtkWidget *check)
{
    return gtk_toggle_button_get_active(GTK_TOGGLE_BUTTON(check));
}

static double get_number(GtkWidget *spin)
{
    gtk_spin_button_update(GTK_SPIN_BUTTON(spin)); /* what was typed and not yet left */
    return gtk_spin_button_get_value(GTK_SPIN_BUTTON(spin));
}

void moji_form_read(MojiForm *f, MojiSettings *s)
{
    MojiRequest *r = s->request;
    double guidance = get_number(f->guidance);
    g_autofree char *loras = get_text(loras_entry(f));

    g_strfreev(r->loras);
    r->loras = moji_request_split_loras(loras);
    take(&r->prompt, get_text(prompt_entry(f)));
    take(&r->style, moji_choice_get(f->style));
    r->seed = (gint64)get_number(f->seed); /* may switch "New each time" off */
    if (f->strength)
        r->strength = f->own_strength ? -1 : gtk_range_get_value(GTK_RANGE(f->strength)) / 100;
    s->new_seed = get_check(f->new_seed);
    r->transparent = get_check(f->transparent);
    s->keep_open = get_check(f->keep_open);
    take(&r->negative, get_text(f->negative));
    take(&r->background, moji_choice_get(f->background));
    r->steps = (int)get_number(f->steps);
    r->guidance = guidance > 0 ? guidance : -1;
    take(&r->sampler, moji_choice_get(f->sampler));
    take(&r->model, get_text(f->model));
    take(&s->command, get_text(f->command));
}

static void tell_choice(GtkWidget *choice, GVariant *info, const char *words, const char *standard)
{
    g_autofree const char **list = NULL;
    const char *own = NULL;

    if (info) {
        g_variant_lookup(info, words, "^a&s", &list);
        if (standard)
            g_variant_lookup(info, standard, "&s", &own);
    }
    moji_choice_fill(choice, list, own);
}

void moji_form_tell(MojiForm *f, GVariant *info)
{
    gint32 steps = 0;
    double guidance = 0, strength = USUAL_STRENGTH;
    char text[G_ASCII_DTOSTR_BUF_SIZE];

    if (info) {
        g_variant_lookup(info, "steps", "i", &steps);
        g_variant_lookup(info, "guidance", "d", &guidance);
        g_variant_lookup(info, "strength", "d", &strength);
    }
    f->usual_strength = strength;
    if (f->strength && f->own_strength)
        show_strength(f, -1);
    tell_choice(f->style, info, "styles", "default-style");
    tell_choice(f->background, info, "backgrounds", "default-background");
    tell_loras(f, info);
    tell_choice(f->sampler, info, "samplers", NULL);
    own_spin_tell(f->steps, steps > 0 ? g_strdup_printf("%d", steps) : NULL);
    g_ascii_formatd(text, sizeof text, "%.4g", guidance);
    own_spin_tell(f->guidance, guidance > 0 ? g_strdup(text) : NULL);
}

void moji_form_set_seed(MojiForm *f, gint64 seed)
{
    g_signal_handlers_block_by_func(f->seed, on_seed, f);
    gtk_spin_button_set_value(GTK_SPIN_BUTTON(f->seed), (double)seed);
    g_signal_handlers_unblock_by_func(f->seed, on_seed, f);
}

void moji_form_focus(MojiForm *f)
{
    gtk_widget_grab_focus(prompt_entry(f));
}

void moji_form_on_engine(MojiForm *f, void (*changed)(gpointer user_data), gpointer user_data)
{
    f->changed = changed;
    f->changed_data = user_data;
}
