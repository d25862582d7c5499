/* cmd_fetch.c: `moji fetch`: a model from the net, with its licence shown and accepted once. */
#include "command.h"
#include "fetch.h"
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static void on_progress(const char *path, gint64 done, gint64 total, gpointer last)
{
    gint64 now = g_get_monotonic_time();
    if (now - *(gint64 *)last < G_USEC_PER_SEC / 5)
        return;
    *(gint64 *)last = now;
    g_autofree char *so_far = g_format_size_full(done, G_FORMAT_SIZE_IEC_UNITS);
    g_autofree char *all = total > 0 ? g_format_size_full(total, G_FORMAT_SIZE_IEC_UNITS) : NULL;
    fprintf(stderr, "\r\033[K%s%s%s  %s", so_far, all ? " of " : "", all ? all : "", path);
    fflush(stderr);
}

/* Says what is about to be fetched, and asks if nobody has agreed yet. */
static gboolean agree(const MojiFetch *f, gboolean accept, GError **error)
{
    g_autofree char *size = f->bytes > 0 ? g_format_size_full(f->bytes, G_FORMAT_SIZE_IEC_UNITS)
                                         : g_strdup("of unknown size");
    const char *licence = f->licence ? f->licence : "not stated";
    fprintf(stderr, "%s: %s, licence %s%s%s\n", f->source, size, licence, f->page ? ", " : "",
            f->page ? f->page : "");
    if (accept)
        return moji_fetch_accept(f, error);
    if (moji_fetch_accepted(f))
        return TRUE;
    char answer[16] = "";
    if (isatty(0) && isatty(2)) {
        fprintf(stderr, "Have you read the licence, and do you accept it? [y/N] ");
        if (fgets(answer, sizeof answer, stdin) && (*answer == 'y' || *answer == 'Y'))
            return moji_fetch_accept(f, error);
    }
    g_set_error(error, MOJI_ERROR, MOJI_ERROR_USAGE,
                "%s: its licence (%s) was not accepted. Read it, then give --accept-licence",
                f->source, licence);
    return FALSE;
}

static int fetch(const char *what, const char *sha256, const char *token, gboolean accept)
{
    GError *error = NULL;
    gint64 last = 0;
    g_autoptr(GCancellable) cancel = g_cancellable_new();
    moji_command_cancel_on_signal(cancel);
    MojiFetch *f = moji_fetch_new(what, sha256, token, cancel, &error);
    g_autofree char *path = NULL;
    if (f && agree(f, accept, &error)) {
        path = moji_fetch_run(f, isatty(2) ? on_progress : NULL, &last, cancel, &error);
        if (last)
            fprintf(stderr, "\r\033[K");
    }
    moji_fetch_free(f);
    if (!path)
        return moji_command_fail(error);
    puts(path);
    return MOJI_EXIT_OK;
}

int moji_cmd_fetch(int argc, char **argv)
{
    gboolean accept = FALSE;
    g_autofree char *sha256 = NULL, *token = NULL;
    const GOptionEntry entries[] = {
        {"accept-licence", 0, 0, G_OPTION_ARG_NONE, &accept,
         "You have read the licence and accept it; remembered", NULL},
        {"sha256", 0, 0, G_OPTION_ARG_STRING, &sha256, "What the file of a URL must have", "HEX"},
        {"token", 0, 0, G_OPTION_ARG_STRING, &token,
         "Yours at Hugging Face, for gated models (HF_TOKEN of the environment)", "TOKEN"},
        G_OPTION_ENTRY_NULL};
    g_auto(GStrv) words = NULL;
    if (!moji_command_parse(
            "sd14|OWNER/REPO|URL",
            "Brings a model into moji/models in XDG_DATA_HOME (~/.local/share), after which\n"
            "--model takes its name: sd14, REPO, or the file's name. Interrupted, it goes\n"
            "on where it was when called again. Of a repository only what drawing needs is\n"
            "taken. The model's path is printed on standard output.",
            entries, argc, argv, &words))
        return MOJI_EXIT_USAGE;
    if (g_strv_length(words) != 1)
        return moji_command_misuse("fetch takes one name; see moji fetch --help");
    return fetch(words[0], sha256, token, accept);
}
