/* prompt.c: see prompt.h. The surprising rule: each stretch of one weight is tokenised by itself,
 * so a bracket in the middle of a word splits it. */
#include "prompt.h"
#include <math.h>
#include <string.h>

/* ---- the grammar ---- */

typedef struct {
    GArray *parts;          /* MojiPromptPart */
    GArray *round, *square; /* guint: how many parts there were when each open bracket opened */
    GString *run;           /* text on its way into a part */
    gboolean breaks;
} Parser;

static void part_clear(gpointer part)
{
    g_free(((MojiPromptPart *)part)->text);
}

static void end_run(Parser *p)
{
    if (!p->run->len && !p->breaks)
        return;
    MojiPromptPart part = {g_strdup(p->run->str), 1, p->breaks};
    g_array_append_val(p->parts, part);
    g_string_truncate(p->run, 0);
    p->breaks = FALSE;
}

static void multiply(Parser *p, guint from, double factor)
{
    for (guint i = from; i < p->parts->len; i++) {
        double *weight = &g_array_index(p->parts, MojiPromptPart, i).weight;
        *weight = CLAMP(*weight * factor, -MOJI_PROMPT_MAX_WEIGHT, MOJI_PROMPT_MAX_WEIGHT);
    }
}

static void open_bracket(Parser *p, GArray *brackets)
{
    end_run(p);
    g_array_append_val(brackets, p->parts->len);
}

static void close_bracket(Parser *p, GArray *brackets, double factor)
{
    end_run(p);
    multiply(p, g_array_index(brackets, guint, brackets->len - 1), factor);
    g_array_set_size(brackets, brackets->len - 1);
}

/* Length of ":1.3)" at p, and its number; 0 if there is none. */
static gsize weight_at(const char *p, double *weight)
{
    const char *start = p + 1 + strspn(p + 1, " \t\n"), *end = start;
    char *stop;
    end += *end == '+' || *end == '-';
    gsize digits = strspn(end, ".0123456789");
    end += digits;
    double value = g_ascii_strtod(start, &stop);
    const char *close = end + strspn(end, " \t\n");
    if (!digits || stop != end || *close != ')' || !isfinite((float)value))
        return 0;
    *weight = value;
    return close + 1 - p;
}

static gboolean is_word(gunichar c)
{
    return c == '_' || g_unichar_isalnum(c);
}

/* Length of a BREAK at p with the space around it, as far as it is still to come; 0: none. */
static gsize break_at(const char *text, const char *p)
{
    static const char word[] = "BREAK";
    if (!g_str_has_prefix(p, word) || is_word(g_utf8_get_char(p + strlen(word))) ||
        (p > text && is_word(g_utf8_get_char(g_utf8_prev_char(p)))))
        return 0;
    return strlen(word) + strspn(p + strlen(word), " \t\n\r\f\v");
}

/* Takes one token of the grammar; returns its length. */
static gsize parse_token(Parser *p, const char *text, const char *at)
{
    double weight;
    gsize length;
    if (*at == '\\' && at[1] && strchr("()[]\\", at[1])) {
        g_string_append_c(p->run, at[1]);
        return 2;
    }
    if (*at == '(' || *at == '[') {
        open_bracket(p, *at == '(' ? p->round : p->square);
    } else if (*at == ':' && p->round->len && (length = weight_at(at, &weight))) {
        close_bracket(p, p->round, weight);
        return length;
    } else if (*at == ')' && p->round->len) {
        close_bracket(p, p->round, 1.1);
    } else if (*at == ']' && p->square->len) {
        close_bracket(p, p->square, 1 / 1.1);
    } else if ((length = break_at(text, at))) {
        g_strchomp(p->run->str);
        p->run->len = strlen(p->run->str);
        end_run(p);
        p->breaks = TRUE;
        return length;
    } else {
        g_string_append_c(p->run, *at);
    }
    return 1;
}

/* Neighbours of one weight are one text again: "a (b:1) c" is read as "a b c". */
static void join_equals(GArray *parts)
{
    for (guint i = 0; i + 1 < parts->len;) {
        MojiPromptPart *a = &g_array_index(parts, MojiPromptPart, i), *b = a + 1;
        if (b->breaks || a->weight != b->weight) {
            i++;
            continue;
        }
        char *joined = g_strconcat(a->text, b->text, NULL);
        g_free(a->text);
        a->text = joined;
        g_array_remove_index(parts, i + 1);
    }
}

GArray *moji_prompt_parse(const char *prompt)
{
    Parser p = {.parts = g_array_new(FALSE, FALSE, sizeof(MojiPromptPart)),
                .round = g_array_new(FALSE, FALSE, sizeof(guint)),
                .square = g_array_new(FALSE, FALSE, sizeof(guint)),
                .run = g_string_new(NULL)};
    g_autofree char *text = g_utf8_make_valid(prompt, -1);
    g_array_set_clear_func(p.parts, part_clear);
    for (const char *at = text; *at;)
        at += parse_token(&p, text, at);
    while (p.round->len)
        close_bracket(&p, p.round, 1.1);
    while (p.square->len)
        close_bracket(&p, p.square, 1 / 1.1);
    end_run(&p);
    join_equals(p.parts);
    g_array_unref(p.round);
    g_array_unref(p.square);
    g_string_free(p.run, TRUE);
    return p.parts;
}

/* ---- chunks ---- */

typedef struct {
    gint32 id;
    double weight;
    const float *vector;
} Token;

/* What has been laid out so far. */
typedef struct {
    const MojiTokenizer *t;
    MojiInversions *inversions;
    GPtrArray *chunks; /* GArray* of Token, each at most `room` long; the last is being filled */
    int room;
    int comma;   /* tokens of the last chunk up to and with its last comma, or 0 */
    gint32 mark; /* the comma's id */
} Layout;

static GArray *last_chunk(const Layout *l)
{
    return l->chunks->pdata[l->chunks->len - 1];
}

static void begin_chunk(Layout *l)
{
    g_ptr_array_add(l->chunks, g_array_new(FALSE, FALSE, sizeof(Token)));
    l->comma = 0;
}

/* A full chunk gives up what stands after a comma near its end, so that a phrase stays whole. */
static void overflow(Layout *l)
{
    GArray *full = last_chunk(l);
    int keep = l->comma, reach = 20 * l->room / 75;
    begin_chunk(l);
    if (keep > 0 && l->room - keep < reach) {
        GArray *chunk = last_chunk(l);
        g_array_append_vals(chunk, &g_array_index(full, Token, keep), full->len - keep);
        g_array_set_size(full, keep);
    }
}

static void add_token(Layout *l, Token token)
{
    gboolean comma = token.id == l->mark && !token.vector;
    if ((int)last_chunk(l)->len == l->room) {
        /* A comma itself is no reason to move the phrase before it. */
        if (comma)
            begin_chunk(l);
        else
            overflow(l);
    }
    g_array_append_val(last_chunk(l), token);
    if (comma)
        l->comma = (int)last_chunk(l)->len;
}

static void add_text(Layout *l, const char *text, gsize bytes, double weight)
{
    g_autofree char *part = g_strndup(text, bytes);
    g_autoptr(GArray) ids = moji_tokenizer_content(l->t, part);
    for (guint i = 0; i < ids->len; i++)
        add_token(l, (Token){g_array_index(ids, gint32, i), weight, NULL});
}

/* An inversion's vectors stay in one chunk if they fit one. */
static void add_vectors(Layout *l, const MojiInversion *word, int width, double weight)
{
    if ((int)last_chunk(l)->len + word->count > l->room && word->count <= l->room)
        begin_chunk(l);
    for (int i = 0; i < word->count; i++)
        add_token(l, (Token){0, weight, word->vectors + i * width});
}

/* Text of one weight, with the inversions that it names. */
static gboolean add_part(Layout *l, const char *text, double weight, GError **error)
{
    const char *from = text;
    for (const char *p = text; l->inversions && *p; p = g_utf8_next_char(p)) {
        gboolean inside = p > text && is_word(g_utf8_get_char(g_utf8_prev_char(p)));
        GError *why = NULL;
        gsize bytes;
        const MojiInversion *word =
            inside ? NULL : moji_inversions_match(l->inversions, p, &bytes, &why);
        if (why) {
            g_propagate_error(error, why);
            return FALSE;
        }
        if (!word)
            continue;
        add_text(l, from, p - from, weight);
        add_vectors(l, word, moji_inversions_width(l->inversions), weight);
        from = p + bytes;
        p = from;
        if (!*p)
            break;
        p = g_utf8_prev_char(p);
    }
    add_text(l, from, strlen(from), weight);
    return TRUE;
}

static gboolean lay_out(Layout *l, const GArray *parts, GError **error)
{
    for (guint i = 0; i < parts->len; i++) {
        const MojiPromptPart *part = &g_array_index(parts, MojiPromptPart, i);
        if (part->breaks)
            begin_chunk(l);
        if (!add_part(l, part->text, part->weight, error))
            return FALSE;
    }
    return TRUE;
}

static MojiChunks *chunks_new(const MojiTokenizer *t)
{
    MojiChunks *c = g_new0(MojiChunks, 1);
    c->n = moji_tokenizer_length(t);
    return c;
}

/* Room for one more, framed and empty unless there are tokens. */
static void append_chunk(MojiChunks *c, const MojiTokenizer *t, const GArray *tokens)
{
    int n = c->n, at = c->count++ * n, used = tokens ? (int)tokens->len : 0;
    c->ids = g_renew(gint32, c->ids, c->count * n);
    c->weights = g_renew(float, c->weights, c->count *n);
    c->vectors = g_renew(const float *, c->vectors, c->count *n);
    g_autofree gint32 *content = g_new(gint32, used + 1);
    for (int i = 0; i < n; i++) {
        c->weights[at + i] = 1;
        c->vectors[at + i] = NULL;
    }
    for (int i = 0; i < used; i++) {
        Token token = g_array_index(tokens, Token, i);
        content[i] = token.id;
        c->weights[at + 1 + i] = (float)token.weight;
        c->vectors[at + 1 + i] = token.vector;
        c->learnt |= token.vector != NULL;
    }
    moji_tokenizer_frame(t, content, used, c->ids + at);
}

static void chunk_free(gpointer chunk)
{
    g_array_unref(chunk);
}

MojiChunks *moji_prompt_chunks(const char *prompt, const MojiTokenizer *t,
                               MojiInversions *inversions, int *lacking, GError **error)
{
    g_autoptr(GArray) parts = moji_prompt_parse(prompt);
    g_autoptr(GArray) comma = moji_tokenizer_content(t, ",");
    g_autoptr(GPtrArray) chunks = g_ptr_array_new_with_free_func(chunk_free);
    Layout l = {.t = t,
                .inversions = inversions,
                .chunks = chunks,
                .room = moji_tokenizer_length(t) - 2,
                .mark = comma->len == 1 ? g_array_index(comma, gint32, 0) : -1};
    begin_chunk(&l);
    if (!lay_out(&l, parts, error))
        return NULL;
    if (chunks->len > 1 && !last_chunk(&l)->len) /* BREAK at the end */
        g_ptr_array_set_size(chunks, chunks->len - 1);
    MojiChunks *c = chunks_new(t);
    for (guint i = 0; i < MIN(chunks->len, MOJI_PROMPT_MAX_CHUNKS); i++)
        append_chunk(c, t, chunks->pdata[i]);
    if (lacking)
        *lacking = (int)chunks->len - c->count;
    return c;
}

static void judge_word(const char *word, gsize bytes, const MojiTokenizer *t, GString *strange)
{
    g_autofree char *text = g_strndup(word, bytes);
    g_autoptr(GArray) ids = moji_tokenizer_content(t, text);
    if (ids->len > 1)
        g_string_append_printf(strange, "%s%s", strange->len ? ", " : "", text);
}

char *moji_prompt_strange_words(const char *prompt, const MojiTokenizer *t)
{
    g_autoptr(GArray) parts = moji_prompt_parse(prompt);
    g_autoptr(GString) strange = g_string_new(NULL);
    for (guint i = 0; i < parts->len; i++) {
        const char *word = g_array_index(parts, MojiPromptPart, i).text;
        while (*word) {
            const char *end = word;
            while (*end && g_unichar_isalpha(g_utf8_get_char(end)))
                end = g_utf8_next_char(end);
            if (end > word)
                judge_word(word, end - word, t, strange);
            word = *end ? g_utf8_next_char(end) : end;
        }
    }
    return strange->len ? g_strdup(strange->str) : NULL;
}

void moji_chunks_free(MojiChunks *c)
{
    if (!c)
        return;
    g_free(c->ids);
    g_free(c->weights);
    g_free(c->vectors);
    g_free(c);
}

void moji_chunks_pad(MojiChunks *c, const MojiTokenizer *t, int count)
{
    while (c->count < count)
        append_chunk(c, t, NULL);
}

void moji_chunks_weigh(const MojiChunks *c, int chunk, float *z, int width)
{
    const float *weights = c->weights + chunk * c->n;
    double before = 0, after = 0;
    gboolean plain = TRUE;
    for (int i = 0; i < c->n; i++) {
        plain &= weights[i] == 1;
        for (int k = 0; k < width; k++) {
            before += z[i * width + k];
            after += z[i * width + k] * weights[i];
        }
    }
    if (plain)
        return;
    /* A mean of nothing cannot be restored. */
    float factor = after != 0 ? (float)(before / after) : 1;
    for (int i = 0; i < c->n; i++)
        for (int k = 0; k < width; k++)
            z[i * width + k] *= weights[i] * factor;
}
