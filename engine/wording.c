/* wording.c: see wording.h. The surprising rule: a background that the prompt names is taken out
 * of it and said by the template instead, because a model is trained on captions of one form. */
#include "wording.h"
#include <string.h>

/* Appends a part of the template with its words filled in; FALSE (and nothing appended) if it asks
 * for one that is not given. One pass, so that braces in the prompt stay what they are. */
static gboolean expand(GString *out, const char *part, const char *const value[3])
{
    static const char *const hole[3] = {"{prompt}", "{style}", "{background}"};
    gsize start = out->len;
    while (*part) {
        int i = 0;
        while (i < 3 && !g_str_has_prefix(part, hole[i]))
            i++;
        if (i == 3) {
            g_string_append_c(out, *part++);
            continue;
        }
        if (!value[i] || !*value[i]) {
            g_string_truncate(out, start);
            return FALSE;
        }
        g_string_append(out, value[i]);
        part += strlen(hole[i]);
    }
    return TRUE;
}

char *moji_wording_fill(const char *template, const char *prompt, const char *style,
                        const char *background)
{
    if (!template)
        return g_strdup(prompt);
    g_auto(GStrv) parts = g_strsplit(template, ",", -1);
    const char *const value[3] = {prompt, style, background};
    GString *out = g_string_new(NULL);
    for (char **part = parts; *part; part++) {
        gsize before = out->len;
        if (before)
            g_string_append_c(out, ',');
        if (!expand(out, before ? *part : g_strchug(*part), value))
            g_string_truncate(out, before);
    }
    return g_string_free(out, FALSE);
}

/* ---- a background in the prompt ---- */

#define HANGUL "[\\x{ac00}-\\x{d7a3}]"

/* Finds where the pattern matches; FALSE if nowhere. */
static gboolean find(const char *pattern, const char *text, int *from, int *to)
{
    g_autoptr(GRegex) regex = g_regex_new(pattern, G_REGEX_CASELESS, 0, NULL);
    g_autoptr(GMatchInfo) match = NULL;
    g_assert(regex);
    return g_regex_match(regex, text, 0, &match) && g_match_info_fetch_pos(match, 0, from, to);
}

static gboolean find_english(const char *word, const char *text, int *from, int *to)
{
    g_autofree char *literal = g_regex_escape_string(word, -1);
    g_autofree char *pattern =
        g_strdup_printf("\\b(?:(?:on|with|against|in)\\s+)?(?:an?\\s+|the\\s+)?"
                        "(?:(?:plain|solid|flat)\\s+)?%s\\s+background\\b",
                        literal);
    return find(pattern, text, from, to);
}

/* "초록색" is also said "초록", and what follows 배경 may be a particle but no other word. */
static gboolean find_korean(const char *word, const char *text, int *from, int *to)
{
    g_autofree char *stem = g_strdup(word);
    if (g_str_has_suffix(stem, "색") && strlen(stem) > strlen("색"))
        stem[strlen(stem) - strlen("색")] = '\0';
    g_autofree char *literal = g_regex_escape_string(stem, -1);
    g_autofree char *pattern =
        g_strdup_printf("(?<!" HANGUL ")(?:단색\\s*)?%s색?의?\\s*(?:단색\\s*)?(?:배경|바탕)"
                        "(?:으로|에서|위에|에|의|을|이|과|은)?(?!" HANGUL ")",
                        literal);
    return find(pattern, text, from, to);
}

/* The prompt without bytes from..to, and without the comma that this leaves over; NULL if they are
 * inside brackets, which give their contents a weight. */
static char *without(const char *prompt, int from, int to)
{
    int depth = 0;
    for (int i = 0; i < from; i++)
        depth += (prompt[i] == '(' || prompt[i] == '[') - (prompt[i] == ')' || prompt[i] == ']');
    if (depth > 0)
        return NULL;
    g_autofree char *head = g_strndup(prompt, from);
    g_autofree char *tail = g_strdup(prompt + to);
    g_strchomp(head);
    g_strstrip(tail);
    while (*tail == ',')
        g_strchug(memmove(tail, tail + 1, strlen(tail)));
    while (g_str_has_suffix(head, ",") && !*tail) {
        head[strlen(head) - 1] = '\0';
        g_strchomp(head);
    }
    const char *between = !*head || !*tail ? "" : g_str_has_suffix(head, ",") ? " " : ", ";
    return g_strconcat(head, between, tail, NULL);
}

static gboolean take(MojiNamedBackground *named, const MojiColour *colour, const char *korean,
                     const char *prompt, int from, int to)
{
    *named = (MojiNamedBackground){colour, korean, g_strndup(prompt + from, to - from),
                                   without(prompt, from, to)};
    return TRUE;
}

gboolean moji_wording_background(const MojiCard *card, const char *prompt,
                                 MojiNamedBackground *named)
{
    int from, to;
    for (int i = 0; i < card->n_backgrounds; i++) {
        const MojiColour *colour = &card->backgrounds[i];
        if (find_english(colour->word, prompt, &from, &to))
            return take(named, colour, NULL, prompt, from, to);
        for (char **word = colour->korean; word && *word; word++)
            if (find_korean(*word, prompt, &from, &to))
                return take(named, colour, *word, prompt, from, to);
    }
    return FALSE;
}

void moji_named_background_clear(MojiNamedBackground *named)
{
    g_clear_pointer(&named->words, g_free);
    g_clear_pointer(&named->rest, g_free);
}
