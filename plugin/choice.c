/* choice.c: a combo box over a list of (word, label); the model's own choice is the empty word. */
#include "choice.h"
#include <glib/gi18n.h>

enum { WORD, LABEL };

GtkWidget *moji_choice_new(void)
{
    GtkListStore *list = gtk_list_store_new(2, G_TYPE_STRING, G_TYPE_STRING);
    GtkWidget *choice = gtk_combo_box_new_with_model(GTK_TREE_MODEL(list));
    GtkCellRenderer *cell = gtk_cell_renderer_text_new();

    gtk_cell_layout_pack_start(GTK_CELL_LAYOUT(choice), cell, TRUE);
    gtk_cell_layout_add_attribute(GTK_CELL_LAYOUT(choice), cell, "text", LABEL);
    g_object_unref(list);
    moji_choice_fill(choice, NULL, NULL);
    return choice;
}

static void append(GtkWidget *choice, const char *word, const char *label)
{
    GtkListStore *list = GTK_LIST_STORE(gtk_combo_box_get_model(GTK_COMBO_BOX(choice)));

    gtk_list_store_insert_with_values(list, NULL, -1, WORD, word, LABEL, label, -1);
}

static const char *shown(const char *word)
{
    return !strcmp(word, "none") ? _("None") : word;
}

void moji_choice_fill(GtkWidget *choice, const char *const *words, const char *standard)
{
    g_autofree char *chosen = moji_choice_get(choice);
    g_autofree char *own = standard && *standard
                               ? g_strdup_printf(_("The model's own (%s)"), shown(standard))
                               : g_strdup(_("The model's own"));

    gtk_list_store_clear(GTK_LIST_STORE(gtk_combo_box_get_model(GTK_COMBO_BOX(choice))));
    append(choice, "", own);
    for (int i = 0; words && words[i]; i++)
        append(choice, words[i], shown(words[i]));
    moji_choice_set(choice, chosen);
}

void moji_choice_set(GtkWidget *choice, const char *word)
{
    GtkTreeModel *list = gtk_combo_box_get_model(GTK_COMBO_BOX(choice));
    GtkTreeIter iter;

    word = word ? word : "";
    for (gboolean more = gtk_tree_model_get_iter_first(list, &iter); more;
         more = gtk_tree_model_iter_next(list, &iter)) {
        g_autofree char *here = NULL;

        gtk_tree_model_get(list, &iter, WORD, &here, -1);
        if (!strcmp(here, word)) {
            gtk_combo_box_set_active_iter(GTK_COMBO_BOX(choice), &iter);
            return;
        }
    }
    append(choice, word, shown(word));
    gtk_combo_box_set_active(GTK_COMBO_BOX(choice), gtk_tree_model_iter_n_children(list, NULL) - 1);
}

char *moji_choice_get(GtkWidget *choice)
{
    GtkTreeModel *list = gtk_combo_box_get_model(GTK_COMBO_BOX(choice));
    GtkTreeIter iter;
    char *word = NULL;

    if (gtk_combo_box_get_active_iter(GTK_COMBO_BOX(choice), &iter))
        gtk_tree_model_get(list, &iter, WORD, &word, -1);
    if (word && !*word)
        g_clear_pointer(&word, g_free);
    return word;
}
