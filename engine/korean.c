/* korean.c: see korean.h. The surprising rule: spaces between Korean words do not matter to a
 * match, since people write compounds with and without them; a match must still begin where a word
 * or another match does, and end where a word ends but for its particle. */
#include "korean.h"
#include <string.h>

/* Longest first; 들 is the plural. */
static const char *const particles[] = {
    "이라고", "입니다", "이에요", "에서는", "에게서", "으로는", "이랑은", "까지", "부터", "처럼",
    "같은",   "보다",   "마다",   "에게",   "한테",   "에서",   "에는",   "으로", "이랑", "하고",
    "예요",   "이나",   "들이",   "들을",   "들은",   "들의",   "들과",   "이다", "은",   "는",
    "이",     "가",     "을",     "를",     "의",     "에",     "로",     "와",   "과",   "랑",
    "도",     "만",     "야",     "들",     "께",     "씩",     NULL};
static const char *const joining[] = {"와", "과", "랑", "이랑", "하고", "들과", NULL};

typedef struct {
    GHashTable *entries; /* Korean without spaces -> English */
    gsize longest;       /* letters of the longest key */
} Dictionary;

/* ---- the file ---- */

static char *find_file(void)
{
    g_autofree char *program = g_file_read_link("/proc/self/exe", NULL);
    g_autofree char *bin = program ? g_path_get_dirname(program) : NULL;
    g_autofree char *prefix = bin ? g_path_get_dirname(bin) : NULL;
    char *installed =
        prefix ? g_build_filename(prefix, "share", "moji", "korean.tsv", NULL) : g_strdup("");
    if (g_file_test(installed, G_FILE_TEST_EXISTS))
        return installed;
    g_free(installed);
    return g_build_filename(MOJI_SOURCE_DIR, "engine", "korean.tsv", NULL);
}

static char *without_spaces(const char *text)
{
    g_auto(GStrv) words = g_strsplit(text, " ", -1);
    return g_strjoinv("", words);
}

static Dictionary *read_dictionary(GError **error)
{
    g_autofree char *path = find_file(), *text = NULL;
    g_autoptr(GError) why = NULL;
    if (!g_file_get_contents(path, &text, NULL, &why)) {
        moji_error_file(error, path, "the Korean dictionary cannot be read: %s", why->message);
        return NULL;
    }
    Dictionary *d = g_new0(Dictionary, 1);
    d->entries = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);
    for (char **line = lines; *line; line++) {
        char *tab = strchr(*line, '\t');
        if (**line == '#' || !tab)
            continue;
        *tab = '\0';
        char *key = without_spaces(*line);
        d->longest = MAX(d->longest, (gsize)g_utf8_strlen(key, -1));
        g_hash_table_replace(d->entries, key, g_strdup(tab + 1));
    }
    return d;
}

/* Read once, kept to the end. */
static const Dictionary *dictionary(GError **error)
{
    static GMutex lock;
    static Dictionary *read;
    g_mutex_lock(&lock);
    if (!read)
        read = read_dictionary(error);
    g_mutex_unlock(&lock);
    return read;
}

/* ---- words ---- */

static gboolean is_hangul(gunichar c)
{
    return (c >= 0xac00 && c <= 0xd7a3) || (c >= 0x3131 && c <= 0x318e) ||
           (c >= 0x1100 && c <= 0x11ff);
}

gboolean moji_korean_found(const char *text)
{
    for (; *text; text = g_utf8_next_char(text))
        if (is_hangul(g_utf8_get_char(text)))
            return TRUE;
    return FALSE;
}

/* End of the word at p, Hangul with digits among it; p itself if no such word begins there. */
static const char *word_end(const char *p)
{
    const char *q = p;
    gboolean hangul = FALSE;
    for (; *q; q = g_utf8_next_char(q)) {
        gunichar c = g_utf8_get_char(q);
        if (!is_hangul(c) && !g_ascii_isdigit(*q))
            break;
        hangul |= is_hangul(c);
    }
    return hangul ? q : p;
}

/* Words with nothing but spaces between them, their letters in a row. */
typedef struct {
    const Dictionary *d;
    GString *letters;
    GArray *at;      /* gsize: where each letter is in `letters`, and the end */
    GArray *ends;    /* guint: for each letter, the first letter of the next word */
    GArray *divides; /* gboolean: whether what is left of the word from here on is entries of two
                      * letters and more, and perhaps a particle */
    GString *english, *unknown;
} Stretch;

static gsize offset(const Stretch *s, guint letter)
{
    return g_array_index(s->at, gsize, letter);
}

static guint end_of(const Stretch *s, guint letter)
{
    return g_array_index(s->ends, guint, letter);
}

static char *piece(const Stretch *s, guint from, guint to)
{
    return g_strndup(s->letters->str + offset(s, from), offset(s, to) - offset(s, from));
}

static const char *look_up(const Stretch *s, guint from, guint to)
{
    g_autofree char *key = piece(s, from, to);
    return g_hash_table_lookup(s->d->entries, key);
}

/* Whether the rest of the word from `letter` on, `rest` if not NULL, is a particle. */
static gboolean is_particle(const Stretch *s, guint letter, char **rest)
{
    g_autofree char *text = piece(s, letter, end_of(s, letter));
    gboolean is = g_strv_contains(particles, text);
    if (is && rest)
        *rest = g_steal_pointer(&text);
    return is;
}

static void add_word(Stretch *s, const char *from, const char *to)
{
    guint first = s->at->len;
    for (const char *p = from; p < to; p = g_utf8_next_char(p)) {
        g_array_append_val(s->at, s->letters->len);
        g_string_append_len(s->letters, p, g_utf8_next_char(p) - p);
    }
    guint end = s->at->len;
    for (guint i = first; i < end; i++)
        g_array_append_val(s->ends, end);
}

/* From the words' ends backwards. */
static void find_divisions(Stretch *s)
{
    guint n = s->at->len;
    g_array_append_val(s->at, s->letters->len);
    g_array_set_size(s->divides, n + 1);
    for (guint i = n; i-- > 0;) {
        guint end = end_of(s, i);
        gboolean divides = is_particle(s, i, NULL);
        for (guint to = i + 2; !divides && to <= end && to - i <= s->d->longest; to++)
            divides = (to == end || g_array_index(s->divides, gboolean, to)) && look_up(s, i, to);
        g_array_index(s->divides, gboolean, i) = divides;
    }
}

static void say(GString *out, const char *word, const char *between)
{
    if (out->len)
        g_string_append(out, between);
    g_string_append(out, word);
}

/* Translates what begins at `from` by the longest entry that fits; returns where to go on. */
static guint match(Stretch *s, guint from)
{
    guint last = s->at->len - 1;
    for (guint to = MIN(last, from + (guint)s->d->longest); to > from; to--) {
        const char *english = look_up(s, from, to);
        gboolean whole = to == last || end_of(s, to - 1) == to;
        if (!english)
            continue;
        g_autofree char *particle = NULL;
        if (!whole && is_particle(s, to, &particle)) {
            say(s->english, english, " ");
            if (g_strv_contains(joining, particle))
                say(s->english, "and", " ");
            return end_of(s, to);
        }
        if (whole || (to - from >= 2 && g_array_index(s->divides, gboolean, to))) {
            say(s->english, english, " ");
            return to;
        }
    }
    guint end = end_of(s, from);
    g_autofree char *word = piece(s, from, end);
    say(s->unknown, word, ", ");
    return end;
}

/* Translates the words from p on; returns the end of the last. */
static const char *translate_stretch(const Dictionary *d, const char *p, GString *out,
                                     GString *unknown)
{
    Stretch s = {.d = d,
                 .letters = g_string_new(NULL),
                 .at = g_array_new(FALSE, FALSE, sizeof(gsize)),
                 .ends = g_array_new(FALSE, FALSE, sizeof(guint)),
                 .divides = g_array_new(FALSE, TRUE, sizeof(gboolean)),
                 .english = g_string_new(NULL),
                 .unknown = unknown};
    const char *end = p, *next = p, *to;
    while ((to = word_end(next)) > next) {
        add_word(&s, next, to);
        end = to;
        next = to + strspn(to, " ");
    }
    find_divisions(&s);
    for (guint at = 0; at + 1 < s.at->len;)
        at = match(&s, at);
    g_string_append(out, s.english->str);
    g_string_free(s.letters, TRUE);
    g_string_free(s.english, TRUE);
    g_array_unref(s.at);
    g_array_unref(s.ends);
    g_array_unref(s.divides);
    return end;
}

/* Words that were left out leave their commas behind. */
static char *tidy(const char *text)
{
    g_autoptr(GRegex) commas = g_regex_new("(?:\\s*,)+\\s*,", 0, 0, NULL);
    g_autoptr(GRegex) ends = g_regex_new("^[\\s,]+|[\\s,]+$", 0, 0, NULL);
    g_autofree char *single = g_regex_replace_literal(commas, text, -1, 0, ",", 0, NULL);
    return g_regex_replace_literal(ends, single, -1, 0, "", 0, NULL);
}

char *moji_korean_translate(const char *text, char **unknown, GError **error)
{
    const Dictionary *d = dictionary(error);
    *unknown = NULL;
    if (!d)
        return NULL;
    g_autofree char *composed = g_utf8_normalize(text, -1, G_NORMALIZE_NFC);
    GString *out = g_string_new(NULL), *missed = g_string_new(NULL);
    for (const char *p = composed ? composed : ""; *p;) {
        if (word_end(p) > p) {
            p = translate_stretch(d, p, out, missed);
            continue;
        }
        g_string_append_len(out, p, g_utf8_next_char(p) - p);
        p = g_utf8_next_char(p);
    }
    char *english = tidy(out->str);
    g_string_free(out, TRUE);
    *unknown = g_string_free(missed, missed->len == 0);
    return english;
}
