/* settings.h: what the window remembers from one session to the next.
 *
 *     MojiSettings *s = moji_settings_load();
 *     s->request->steps = 30;
 *     moji_settings_save(s);
 *     moji_settings_free(s);
 *
 * Kept in `emoji-makerrc` in GIMP's folder. Unlike GIMP's own last values they outlive GIMP, and
 * "Reset all Filters" does not wipe the prompts. */
#pragma once
#include "request.h"

typedef struct {
    MojiRequest *request; /* of the last drawing; seed as it was used */
    gboolean new_seed;    /* pick another seed for each drawing; TRUE */
    gboolean keep_open;   /* the window stays for the next emoji; TRUE */
    char *edit_prompt;    /* of the last edit, or NULL */
    double edit_strength; /* likewise; below 0: the engine's own choice */
    char *command;        /* how to start an engine elsewhere, see client.h; NULL: ours */
    GPtrArray *history;   /* char *: prompts, latest first, each once */
} MojiSettings;

/* Never fails: a missing or damaged file, or a value out of range, gives the default. */
MojiSettings *moji_settings_load(void);
MojiSettings *moji_settings_new(void);
void moji_settings_free(MojiSettings *s);
/* For changing an emoji: the request is that of its recipe (or NULL), on the same model and engine
 * as s; the history is shared. */
MojiSettings *moji_settings_for_edit(const MojiSettings *s, const char *recipe);
/* Puts the prompt in front of the history. */
void moji_settings_remember(MojiSettings *s, const char *prompt);
/* FALSE with a GError of GFileError if the file could not be written. */
gboolean moji_settings_save(const MojiSettings *s, GError **error);
