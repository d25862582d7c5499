/* json.h: reading members of a JSON object with errors that name the file and the member.
 *
 * A thin layer over json-glib, which does the parsing. */
#pragma once
#include <json-glib/json-glib.h>
#include "error.h"

/* The file's root object, with the parser that owns it; NULL and MOJI_ERROR_FILE otherwise. Files
 * over 64 MB are refused. Caller unrefs the parser. */
JsonParser *moji_json_open(const char *path, JsonObject **root, GError **error);
/* The same for text in memory, of any length; path is for errors. Nesting over 64, more than a
 * million values and comments are refused; unique: so are two members of one name (else the last
 * one counts). */
JsonParser *moji_json_parse(const char *text, gsize bytes, gboolean unique, const char *path,
                            JsonObject **root, GError **error);

/* Each reads a member into *value and returns TRUE; an absent or null member leaves *value as it
 * is. A member of another type, or a number out of range, is MOJI_ERROR_FILE: path, member, what
 * was found, what was expected. */
gboolean moji_json_int(JsonObject *o, const char *path, const char *member, int min, int max,
                       int *value, GError **error);
gboolean moji_json_double(JsonObject *o, const char *path, const char *member, double *value,
                          GError **error);
gboolean moji_json_bool(JsonObject *o, const char *path, const char *member, gboolean *value,
                        GError **error);
gboolean moji_json_string(JsonObject *o, const char *path, const char *member, char **value,
                          GError **error); /* replaces and frees the old *value */
