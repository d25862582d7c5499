/* command.c: see command.h. */
#include "command.h"
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

gboolean moji_command_parse(const char *usage, const char *description, const GOptionEntry *entries,
                            int argc, char **argv, char ***words)
{
    g_autoptr(GOptionContext) context = g_option_context_new(usage);
    g_auto(GStrv) copy = g_new0(char *, argc + 1);
    GError *error = NULL;
    g_autofree char *name = g_strdup_printf("moji %s", argv[0]);
    g_set_prgname(name);
    for (int i = 0; i < argc; i++)
        copy[i] = g_strdup(argv[i]);
    g_option_context_set_description(context, description);
    g_option_context_add_main_entries(context, entries, NULL);
    g_option_context_parse_strv(context, &copy, &error);
    if (error) {
        moji_command_misuse("%s; see moji %s --help", error->message, argv[0]);
        g_error_free(error);
        return FALSE;
    }
    /* GOption leaves a "--" there if a word after it begins with a hyphen. */
    GStrvBuilder *left = g_strv_builder_new();
    gboolean ended = FALSE;
    for (char **word = copy + 1; *word; word++) {
        if (ended || strcmp(*word, "--"))
            g_strv_builder_add(left, *word);
        else
            ended = TRUE;
    }
    *words = g_strv_builder_end(left);
    g_strv_builder_unref(left);
    return TRUE;
}

int moji_command_fail(GError *error)
{
    static const int CODES[] = {
        [MOJI_ERROR_USAGE] = MOJI_EXIT_USAGE,   [MOJI_ERROR_FILE] = MOJI_EXIT_FILE,
        [MOJI_ERROR_MEMORY] = MOJI_EXIT_MEMORY, [MOJI_ERROR_CANCELLED] = MOJI_EXIT_CANCELLED,
        [MOJI_ERROR_BACKEND] = MOJI_EXIT_OTHER, [MOJI_ERROR_NOT_FLAT] = MOJI_EXIT_OTHER,
    };
    int code = error->domain == MOJI_ERROR ? CODES[error->code] : MOJI_EXIT_OTHER;
    fprintf(stderr, "moji: %s\n", error->message);
    g_error_free(error);
    return code;
}

int moji_command_misuse(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    g_autofree char *text = g_strdup_vprintf(format, args);
    va_end(args);
    fprintf(stderr, "moji: %s\n", text);
    return MOJI_EXIT_USAGE;
}

gboolean moji_command_bytes(const char *option, const char *text, guint64 *bytes)
{
    static const char units[] = "KMGT";
    char *end;
    double value = g_ascii_strtod(text, &end);
    const char *unit = *end ? strchr(units, g_ascii_toupper(*end)) : NULL;
    if (end != text && unit && value > 0 && value <= 1e6 &&
        (!end[1] || !g_ascii_strcasecmp(end + 1, "iB") || !g_ascii_strcasecmp(end + 1, "B"))) {
        *bytes = (guint64)(value * (G_GUINT64_CONSTANT(1024) << (10 * (unit - units))));
        if (*bytes)
            return TRUE;
    }
    moji_command_misuse("%s \"%s\": expected a number and a unit, as 3G or 800M", option, text);
    return FALSE;
}

/* A handler may not take locks, and cancelling does; so a thread waits for the signal instead. */
static gpointer wait_for_signal(gpointer cancellable)
{
    sigset_t set;
    int number;
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    sigwait(&set, &number);
    g_cancellable_cancel(cancellable);
    sigwait(&set, &number);
    _exit(128 + number);
}

void moji_command_cancel_on_signal(GCancellable *cancellable)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    g_thread_unref(g_thread_new("signals", wait_for_signal, g_object_ref(cancellable)));
}

void moji_command_spin_briefly(char **argv)
{
    if (g_getenv("OMP_WAIT_POLICY") || g_getenv("GOMP_SPINCOUNT"))
        return;
    g_setenv("GOMP_SPINCOUNT", "1000", TRUE);
    g_autofree char *program = g_file_read_link("/proc/self/exe", NULL);
    if (program)
        execv(program, argv); /* where that fails, all works as before, only slower */
}
