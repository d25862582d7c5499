/* wire.h: what the resident engine and its clients say to each other: D-Bus, peer to peer, in the
 * interface org.moji.Engine at /org/moji/Engine, on a private socket or on standard input and
 * output. No bus is involved.
 *
 * One exchange: Hello, then Draw(id, request) with an id of the client's choosing; while it waits
 * its turn and draws, Progress signals; then one Picture signal a picture; then Draw's reply with
 * the number of pictures. Signals of one connection keep their order with its replies, so when the
 * reply is there the pictures are too. Pictures are signals because one message ends at 128 MiB.
 * Errors are MOJI_ERROR's own, under org.moji.Error.*; moji_wire_error gives them back. */
#pragma once
#include <gio/gio.h>
#include "draw.h"

#define MOJI_WIRE_PROTOCOL 1 /* goes up whenever the interface changes */
#define MOJI_WIRE_INTERFACE "org.moji.Engine"
#define MOJI_WIRE_PATH "/org/moji/Engine"
/* The error of an engine that is about to go: ask another one. */
#define MOJI_WIRE_LEAVING "org.moji.Error.Leaving"
/* The client tells the engine it starts what the program file looked like, for Hello. */
#define MOJI_WIRE_IDENTITY_VARIABLE "MOJI_ENGINE_IDENTITY"
/* What a started engine writes on standard output once its socket listens. */
#define MOJI_WIRE_READY "ready\n"
#define MOJI_WIRE_RUNNING "running\n" /* another engine of this user does */

GDBusInterfaceInfo *moji_wire_interface(void); /* owned here */

/* Size and time of a program file, or "" if there is none: an engine started from a file that has
 * since been replaced is asked to leave. Caller frees. */
char *moji_wire_identity(const char *program);

/* The folder of socket and lock, made if need be: moji/ in XDG_RUNTIME_DIR, else in the user's
 * cache, else (the names being too long for a socket) below the folder for temporary files.
 * MOJI_ERROR_FILE if it is not this user's alone. Caller frees. */
char *moji_wire_folder(GError **error);
/* engine.log in the user's cache folder; its parent is made. Caller frees. */
char *moji_wire_log_path(void);

/* (uiiiiiiiay): id, phase, step, steps, image, images, preview width, height, bytes. Floating. */
GVariant *moji_wire_progress(guint32 id, const MojiProgress *p);
/* FALSE if the numbers do not fit each other. preview points into v. */
gboolean moji_wire_read_progress(GVariant *v, guint32 *id, MojiProgress *p);

/* Turns what GDBus reports into MOJI_ERROR: the peer's own error with its text, or
 * MOJI_ERROR_BACKEND. Takes e, returns a new one. */
GError *moji_wire_error(GError *e);
