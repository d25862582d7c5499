/* command.h: what the files cmd_*.c share. Each command is a function of its own arguments that
 * prints and returns the program's exit code; nothing else in the engine prints. */
#pragma once
#include <gio/gio.h>
#include "request.h"

enum { /* exit codes; moji --help documents them */
       MOJI_EXIT_OK = 0,
       MOJI_EXIT_OTHER = 1,
       MOJI_EXIT_USAGE = 2,
       MOJI_EXIT_FILE = 3,
       MOJI_EXIT_MEMORY = 4,
       MOJI_EXIT_CANCELLED = 5,
};

/* argv[0] is the command's word. */
int moji_cmd_draw(int argc, char **argv);
int moji_cmd_edit(int argc, char **argv);
int moji_cmd_info(int argc, char **argv);
int moji_cmd_convert(int argc, char **argv);
int moji_cmd_fetch(int argc, char **argv);
int moji_cmd_explain(int argc, char **argv);
int moji_cmd_styles(int argc, char **argv);
int moji_cmd_serve(int argc, char **argv);
int moji_cmd_cutout(int argc, char **argv);
int moji_cmd_bench(int argc, char **argv);

/* Parses a command's options; what is left of the words is in *words (g_strfreev). usage is what
 * follows "moji COMMAND [OPTION...]" in --help. FALSE after having printed why not. */
gboolean moji_command_parse(const char *usage, const char *description, const GOptionEntry *entries,
                            int argc, char **argv, char ***words);

/* A command that draws: all options of `draw`, and its own. */
typedef struct {
    const char *usage,
        *needs; /* as in --help; what to say if there are too few words or too many */
    const GOptionEntry *entries; /* its own, or NULL */
    guint least, most;           /* words it takes */
    /* Adds what words and own options say to a request that has draw's options. */
    gboolean (*complete)(MojiRequest *r, char **words, gpointer user_data, GError **error);
    gpointer user_data;
} MojiDrawCommand;
int moji_command_draw(const MojiDrawCommand *c, int argc, char **argv);

/* Prints "moji: TEXT" on standard error, frees the error, returns its exit code. */
int moji_command_fail(GError *error);
/* The same for a mistake in the arguments. */
int moji_command_misuse(const char *format, ...) G_GNUC_PRINTF(1, 2);

/* "3G", "1.5G", "800M" -> bytes. FALSE after having said what is wrong. */
gboolean moji_command_bytes(const char *option, const char *text, guint64 *bytes);

/* From now on, the first SIGINT or SIGTERM cancels the cancellable and the second one ends the
 * program. To be called before any other thread is started. */
void moji_command_cancel_on_signal(GCancellable *cancellable);

/* To be called first in main. OpenMP's idle threads spin for milliseconds before they sleep, and on
 * a machine whose processors are busy each spin holds up the thread that is waited for: drawings
 * took ten times as long. It reads how long from the environment before main begins, so this starts
 * the program again, with the same arguments, where that is not set. */
void moji_command_spin_briefly(char **argv);
