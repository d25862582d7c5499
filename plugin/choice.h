/* choice.h: a combo box of words the model knows, the first entry being the model's own choice.
 *
 * The words arrive late, when the engine has answered; what the user chose before stays chosen,
 * even a word this model does not have: the engine then says so. */
#pragma once
#include <gtk/gtk.h>

GtkWidget *moji_choice_new(void);
/* words: NULL-terminated, may be NULL; standard: the model's own choice, named in the first entry,
 * or NULL. The word "none" is shown translated. */
void moji_choice_fill(GtkWidget *choice, const char *const *words, const char *standard);
/* word NULL or "": the model's own choice. */
void moji_choice_set(GtkWidget *choice, const char *word);
/* The word, or NULL for the model's own choice: g_free it. */
char *moji_choice_get(GtkWidget *choice);
