/* wording.h: what a user wrote and what a model's card adds -> the text that a model is given.
 *
 *     MojiNamedBackground named;
 *     if (moji_wording_background(card, "웃는 고양이, 파란색 배경", &named)) ...
 *         // named.colour->word "blue", named.korean "파란색", named.rest "웃는 고양이"
 *     char *text = moji_wording_fill(card->prompt_ko, named.rest, "flat", named.korean);
 *
 * All texts are UTF-8. */
#pragma once
#include "model.h"

/* The template with each part that is given, parts being what is between its commas: one whose
 * {prompt}, {style} or {background} is NULL or "" is left out together with its comma. The prompt
 * alone if the template is NULL. Caller frees. */
char *moji_wording_fill(const char *template, const char *prompt, const char *style,
                        const char *background);

typedef struct {
    const MojiColour *colour; /* the card's */
    const char *korean;       /* its Korean word; NULL if it was named in English */
    char *words;              /* as they stand in the prompt: "on a blue background" */
    char *rest;               /* the prompt without them; NULL where they are inside brackets */
} MojiNamedBackground;

/* Whether the prompt itself names a background of the card's, as "blue background" or, by the
 * card's Korean words, "파란색 배경", "파란 배경의". FALSE leaves *named as it is. */
gboolean moji_wording_background(const MojiCard *card, const char *prompt,
                                 MojiNamedBackground *named);
void moji_named_background_clear(MojiNamedBackground *named);
