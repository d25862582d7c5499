/* korean.h: Korean words -> English ones, for models whose text encoder reads English only.
 *
 *     char *unknown, *english = moji_korean_translate("웃는 고양이, 모자", &unknown, &error);
 *     // "smiling cat, hat"; unknown NULL
 *
 * A dictionary, no grammar: the longest entries that fit, one after another in the order of the
 * prompt, particles (조사) left out. It comes from CLDR's names and keywords of emojis and a list
 * of situations made by hand; korean/make_dictionary.py makes it. What is not Hangul stays as it
 * is. */
#pragma once
#include "error.h"

/* Whether there is any Hangul in it. */
gboolean moji_korean_found(const char *text);
/* Caller frees. *unknown: the words, separated by ", ", that no entry fits and that were left out,
 * or NULL (caller frees). MOJI_ERROR_FILE if the dictionary is missing. */
char *moji_korean_translate(const char *text, char **unknown, GError **error);
