/* tokenizer.h: prompt -> ids, CLIP's byte-pair encoding.
 *
 *     MojiTokenizer *t = moji_tokenizer_open("sd14/tokenizer", 77, &error);
 *     gint32 ids[77];
 *     int used = moji_tokenizer_encode(t, "grinning cat", ids, NULL);
 *     moji_tokenizer_free(t);
 *
 * Reads vocab.json and merges.txt, and the special tokens of tokenizer_config.json and
 * special_tokens_map.json where those are; ids equal those of transformers' CLIPTokenizer (the fast
 * one). Letters of a Unicode version later than GLib's may be split or lower-cased otherwise.
 * Source: Radford et al. 2021 (CLIP), openai/CLIP simple_tokenizer.py. */
#pragma once
#include "error.h"

typedef struct MojiTokenizer MojiTokenizer;

/* MOJI_ERROR_FILE for a folder without the two files, or with damaged ones.
 * length: ids per prompt, at least 2; 77 for SD 1.x (tokenizer_config.json's model_max_length). */
MojiTokenizer *moji_tokenizer_open(const char *folder, int length, GError **error);
void moji_tokenizer_free(MojiTokenizer *t);
int moji_tokenizer_length(const MojiTokenizer *t);
int moji_tokenizer_vocabulary(const MojiTokenizer *t); /* number of ids */

/* Writes moji_tokenizer_length ids: begin, the prompt's, end, then padding (the end token, unless
 * the folder says another). Returns how many content tokens the prompt has, which may be more than
 * fit (length - 2): the rest is cut, and *dropped, if not NULL, gets the text that was cut, from
 * the first word that lost a token on and in lower case as the model reads it, or NULL (caller
 * frees). The prompt is UTF-8; invalid bytes are replaced. */
int moji_tokenizer_encode(const MojiTokenizer *t, const char *prompt, gint32 *ids, char **dropped);

/* The two halves of that, for prompts of several chunks: the text's own ids, without begin, end and
 * padding, however many they are (gint32 elements, caller unrefs); and up to length - 2 of them
 * with begin, end and padding around them -> ids [length]. */
GArray *moji_tokenizer_content(const MojiTokenizer *t, const char *text);
void moji_tokenizer_frame(const MojiTokenizer *t, const gint32 *content, int count, gint32 *ids);
