/* serve.h: the resident engine. Drawings of all peers wait in one queue and are made in order by
 * one thread; the main loop only listens, so that a Cancel is heard in mid-drawing. */
#pragma once
#include "error.h"

typedef struct {
    gboolean stdio; /* speak on standard input and output, leave at end of file */
    int idle;       /* seconds without a request after which to leave; 0: never */
    guint64 memory; /* bytes to use at most; 0: what there is */
    /* Set on return: another engine of this user is there already, so this one left. */
    gboolean already_running;
} MojiServeOptions;

/* Runs until idle, asked to quit, at end of file or signalled (SIGTERM, SIGINT, SIGHUP). Takes over
 * standard output, and with stdio also standard input. FALSE if it could not start. */
gboolean moji_serve(MojiServeOptions *options, GError **error);
