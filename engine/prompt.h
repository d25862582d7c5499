/* prompt.h: a prompt with emphasis, of any length -> chunks of ids with a weight each.
 *
 *     MojiChunks *c = moji_prompt_chunks("a (red:1.3) cat", tokenizer, NULL, NULL, &error);
 *     ... c->ids [count,n] through the text model -> z [n,C] for each chunk ...
 *     moji_chunks_weigh(c, 0, z, width);
 *     moji_chunks_free(c);
 *
 * The grammar is A1111's, as most published prompts are written in it:
 *
 *     (x)        1.1 times as strong, ((x)) 1.21 times
 *     (x:1.3)    1.3 times
 *     [x]        1.1 times weaker
 *     \( \[ \\   the character itself
 *     BREAK      what follows begins a new chunk
 *
 * A bracket that is never closed reaches to the end; one that was never opened is itself. A chunk
 * has as many tokens as the model reads at once, less begin and end: 75 for SD 1.x. A word that
 * does not fit begins the next one, and takes along what stands after a comma shortly before it.
 * The embeddings are multiplied by the weights and then by one factor a chunk that restores their
 * mean, A1111's "original" emphasis. A text without brackets that fits one chunk comes out as
 * moji_tokenizer_encode has it, with every weight 1. */
#pragma once
#include "inversion.h"
#include "tokenizer.h"

/* Of one prompt; a longer one is cut. Each makes every step slower. */
#define MOJI_PROMPT_MAX_CHUNKS 8
/* Nothing is louder, or the numbers would end. */
#define MOJI_PROMPT_MAX_WEIGHT 1000.0

typedef struct {
    char *text; /* brackets and escapes gone */
    double weight;
    gboolean breaks; /* begins a new chunk */
} MojiPromptPart;

/* MojiPromptPart elements, freed with the array. */
GArray *moji_prompt_parse(const char *prompt);

/* The words of letters that the vocabulary spells in several tokens, separated by ", "; NULL if there
 * are none. To a model whose vocabulary was made from its own captions they say next to nothing.
 * Caller frees. */
char *moji_prompt_strange_words(const char *prompt, const MojiTokenizer *t);

typedef struct {
    int count, n;          /* chunks; ids a chunk, moji_tokenizer_length */
    gint32 *ids;           /* [count,n] */
    float *weights;        /* [count,n]; begin, end and padding have 1 */
    const float **vectors; /* [count,n]: a learnt vector [C] in the id's place, or NULL */
    gboolean learnt;       /* whether there is any */
} MojiChunks;

/* At least one chunk, at most MOJI_PROMPT_MAX_CHUNKS; *lacking, if not NULL, is how many more the
 * prompt would have taken: its end is cut. inversions, or NULL, must outlive the chunks.
 * MOJI_ERROR_FILE for an inversion that is named and cannot be used. */
MojiChunks *moji_prompt_chunks(const char *prompt, const MojiTokenizer *t,
                               MojiInversions *inversions, int *lacking, GError **error);
void moji_chunks_free(MojiChunks *c); /* NULL is fine */
/* Appends empty chunks up to count, so that two prompts are of one length. */
void moji_chunks_pad(MojiChunks *c, const MojiTokenizer *t, int count);
/* z [n,C], what the text model made of a chunk: weighs it in place. */
void moji_chunks_weigh(const MojiChunks *c, int chunk, float *z, int width);
