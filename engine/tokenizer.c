/* tokenizer.c: see tokenizer.h.
 *
 * The surprising rule: a byte, not a letter, is the smallest symbol, and the last symbol of each
 * word is another one than the same byte elsewhere ("cat" is c, a, t</w>). Emoji and Hangul are
 * therefore always known, three or four symbols a character before merging. */
#include "tokenizer.h"
#include "json.h"
#include <glib/gstdio.h>
#include <string.h>
#include <sys/stat.h>

enum { MAX_MERGES_BYTES = 16 << 20, MAX_VOCABULARY = 1 << 20 };

typedef struct {
    guint64 pair; /* left id << 32 | right id */
    int rank, id; /* order of merging; what the two become */
} Merge;

/* Text that is one id wherever it stands in a prompt, as "<|endoftext|>". normalized: looked for
 * after lower-casing, not before. */
typedef struct {
    char *text;
    int id;
    gboolean normalized;
} Special;

enum { BEGIN, END, UNKNOWN, PAD, SPECIALS };
static const char *const special_members[SPECIALS] = {"bos_token", "eos_token", "unk_token",
                                                      "pad_token"};

struct MojiTokenizer {
    int length, vocabulary;
    Special special[SPECIALS];
    int inner[256], last[256]; /* a byte's id, and its id at the end of a word */
    Merge *merges;             /* by pair */
    int merge_count;
};

/* ---- opening ---- */

/* In the files a byte is written as one printable character: itself where it is one, else the next
 * of U+0100 and up. Writes its UTF-8. */
static void byte_name(int byte, char name[8])
{
    gunichar shown = byte, next = 256;
    for (int b = 0; b <= byte; b++) {
        gboolean printable = (b > 32 && b < 127) || (b > 160 && b < 256 && b != 173);
        shown = printable ? (gunichar)b : next++;
    }
    name[g_unichar_to_utf8(shown, name)] = '\0';
}

/* -1 if the vocabulary has no such token. */
static int id_of(JsonObject *vocabulary, const char *token)
{
    JsonNode *node = json_object_get_member(vocabulary, token);
    return node ? (int)json_node_get_int(node) : -1;
}

/* Ids must be exactly 0 to n - 1: they index the model's embedding table. */
static gboolean check_vocabulary(JsonObject *vocabulary, const char *path, GError **error)
{
    int n = json_object_get_size(vocabulary);
    if (n < 1 || n > MAX_VOCABULARY) {
        moji_error_file(error, path, "%d tokens, expected 1 to %d", n, MAX_VOCABULARY);
        return FALSE;
    }
    g_autofree guint8 *taken = g_malloc0(n);
    JsonObjectIter iter;
    const char *token;
    JsonNode *node;
    json_object_iter_init(&iter, vocabulary);
    while (json_object_iter_next(&iter, &token, &node)) {
        int id = -1;
        if (!moji_json_int(vocabulary, path, token, 0, n - 1, &id, error))
            return FALSE;
        if (id < 0 || taken[id]) {
            moji_error_file(error, path, "token \"%s\" has %s, expected an id of its own", token,
                            id < 0 ? "no id" : "another's id");
            return FALSE;
        }
        taken[id] = 1;
    }
    return TRUE;
}

static JsonParser *open_vocabulary(MojiTokenizer *t, const char *folder, JsonObject **vocabulary,
                                   GError **error)
{
    g_autofree char *path = g_build_filename(folder, "vocab.json", NULL);
    g_autoptr(JsonParser) parser = moji_json_open(path, vocabulary, error);
    if (!parser || !check_vocabulary(*vocabulary, path, error))
        return NULL;
    t->vocabulary = json_object_get_size(*vocabulary);
    for (int b = 0; b < 256; b++) {
        char name[8];
        byte_name(b, name);
        g_autofree char *at_end = g_strconcat(name, "</w>", NULL);
        t->inner[b] = id_of(*vocabulary, name);
        t->last[b] = id_of(*vocabulary, at_end);
    }
    return g_steal_pointer(&parser);
}

static int by_pair(const void *a, const void *b)
{
    const Merge *x = a, *y = b;
    if (x->pair != y->pair)
        return x->pair < y->pair ? -1 : 1;
    return (x->rank > y->rank) - (x->rank < y->rank);
}

/* One line, "LEFT RIGHT"; line is changed. */
static gboolean read_merge(JsonObject *vocabulary, char *line, int number, const char *path,
                           Merge *merge, GError **error)
{
    g_autofree char *shown = g_utf8_make_valid(line, -1);
    char *space = strchr(line, ' ');
    if (!space || strchr(space + 1, ' ')) {
        moji_error_file(error, path, "line %d is \"%.60s\", expected two tokens", number, shown);
        return FALSE;
    }
    *space = '\0';
    g_autofree char *joined = g_strconcat(line, space + 1, NULL);
    int left = id_of(vocabulary, line), right = id_of(vocabulary, space + 1);
    int id = id_of(vocabulary, joined);
    if (left < 0 || right < 0 || id < 0) {
        moji_error_file(error, path, "line %d, \"%.60s\": %s not in vocab.json", number, shown,
                        left < 0 || right < 0 ? "a token is" : "what they join to is");
        return FALSE;
    }
    *merge = (Merge){(guint64)left << 32 | right, number, id};
    return TRUE;
}

static char *read_text(const char *path, gsize *bytes, GError **error)
{
    g_autofree char *text = NULL;
    g_autoptr(GError) why = NULL;
    GStatBuf about;
    if (g_stat(path, &about) == 0 && (!S_ISREG(about.st_mode) || about.st_size > MAX_MERGES_BYTES))
        moji_error_file(error, path, "expected a file of at most %d MB", MAX_MERGES_BYTES >> 20);
    else if (!g_file_get_contents(path, &text, bytes, &why))
        moji_error_file(error, path, "cannot be read: %s", why->message);
    else if (memchr(text, '\0', *bytes))
        moji_error_file(error, path, "has a zero byte, expected text");
    else
        return g_steal_pointer(&text);
    return NULL;
}

static gboolean read_merges(MojiTokenizer *t, const char *folder, JsonObject *vocabulary,
                            GError **error)
{
    g_autofree char *path = g_build_filename(folder, "merges.txt", NULL);
    gsize bytes;
    g_autofree char *text = read_text(path, &bytes, error);
    int number = 0, n = 0;
    if (!text)
        return FALSE;
    t->merges = g_new(Merge, bytes / 4 + 1); /* the shortest line is "a b\n" */
    for (char *line = text, *next; line; line = next) {
        next = strchr(line, '\n');
        if (next)
            *next++ = '\0';
        number++;
        line[strcspn(line, "\r")] = '\0';
        if (*line == '\0' || g_str_has_prefix(line, "#version"))
            continue;
        if (!read_merge(vocabulary, line, number, path, &t->merges[n++], error))
            return FALSE;
    }
    qsort(t->merges, n, sizeof *t->merges, by_pair);
    /* Of a pair given twice the later line counts. */
    for (int i = 0; i < n; i++)
        if (i + 1 == n || t->merges[i].pair != t->merges[i + 1].pair)
            t->merges[t->merge_count++] = t->merges[i];
    return TRUE;
}

/* A special token is written as a string, or as an object with "content" and "normalized". */
static gboolean read_special(JsonObject *o, const char *path, const char *member, Special *special,
                             GError **error)
{
    JsonNode *node = json_object_get_member(o, member);
    if (!node || JSON_NODE_HOLDS_NULL(node))
        return TRUE;
    special->normalized = FALSE;
    if (!JSON_NODE_HOLDS_OBJECT(node))
        return moji_json_string(o, path, member, &special->text, error);
    JsonObject *inner = json_node_get_object(node);
    return moji_json_string(inner, path, "content", &special->text, error) &&
           moji_json_bool(inner, path, "normalized", &special->normalized, error);
}

/* tokenizer_config.json's newer form lists every special token by id, and that list decides. */
static gboolean read_decoder(MojiTokenizer *t, JsonObject *decoder, const char *path,
                             GError **error)
{
    JsonObjectIter iter;
    const char *id;
    JsonNode *node;
    json_object_iter_init(&iter, decoder);
    while (json_object_iter_next(&iter, &id, &node)) {
        Special listed = {0};
        gboolean read = read_special(decoder, path, id, &listed, error);
        for (int k = 0; read && k < SPECIALS; k++)
            if (g_strcmp0(t->special[k].text, listed.text) == 0)
                t->special[k].normalized = listed.normalized;
        g_free(listed.text);
        if (!read)
            return FALSE;
    }
    return TRUE;
}

/* Reads one of the two optional files; *decided if it says all there is to say. */
static gboolean read_special_file(MojiTokenizer *t, const char *folder, const char *name,
                                  gboolean *decided, GError **error)
{
    g_autofree char *path = g_build_filename(folder, name, NULL);
    if (*decided || !g_file_test(path, G_FILE_TEST_EXISTS))
        return TRUE;
    JsonObject *root;
    g_autoptr(JsonParser) parser = moji_json_open(path, &root, error);
    if (!parser)
        return FALSE;
    for (int k = 0; k < SPECIALS; k++)
        if (!read_special(root, path, special_members[k], &t->special[k], error))
            return FALSE;
    JsonNode *decoder = json_object_get_member(root, "added_tokens_decoder");
    *decided = decoder && JSON_NODE_HOLDS_OBJECT(decoder);
    return !*decided || read_decoder(t, json_node_get_object(decoder), path, error);
}

static gboolean read_specials(MojiTokenizer *t, const char *folder, JsonObject *vocabulary,
                              GError **error)
{
    gboolean decided = FALSE;
    t->special[BEGIN].text = g_strdup("<|startoftext|>");
    for (int k = END; k < SPECIALS; k++)
        t->special[k].text = g_strdup("<|endoftext|>");
    if (!read_special_file(t, folder, "tokenizer_config.json", &decided, error) ||
        !read_special_file(t, folder, "special_tokens_map.json", &decided, error))
        return FALSE;
    for (int k = 0; k < SPECIALS; k++) {
        Special *s = &t->special[k];
        s->id = id_of(vocabulary, s->text);
        if (s->id < 0 || !*s->text) {
            moji_error_file(error, folder, "%s is \"%.60s\", which vocab.json lacks",
                            special_members[k], s->text);
            return FALSE;
        }
        /* The same text under several names is one token, and the last name decides. */
        for (int j = 0; j < k; j++)
            if (strcmp(t->special[j].text, s->text) == 0)
                t->special[j].normalized = s->normalized;
    }
    return TRUE;
}

static gboolean check_folder(const char *folder, GError **error)
{
    g_autofree char *vocabulary = g_build_filename(folder, "vocab.json", NULL);
    g_autofree char *merges = g_build_filename(folder, "merges.txt", NULL);
    g_autofree char *single = g_build_filename(folder, "tokenizer.json", NULL);
    if (g_file_test(vocabulary, G_FILE_TEST_EXISTS) && g_file_test(merges, G_FILE_TEST_EXISTS))
        return TRUE;
    if (g_file_test(single, G_FILE_TEST_EXISTS))
        moji_error_file(error, folder,
                        "has a tokenizer.json only, expected vocab.json and merges.txt, which the "
                        "model's original release has");
    else
        moji_error_file(error, folder, "has no tokenizer, expected vocab.json and merges.txt");
    return FALSE;
}

MojiTokenizer *moji_tokenizer_open(const char *folder, int length, GError **error)
{
    g_assert(length >= 2);
    if (!check_folder(folder, error))
        return NULL;
    MojiTokenizer *t = g_new0(MojiTokenizer, 1);
    JsonObject *vocabulary;
    t->length = length;
    g_autoptr(JsonParser) parser = open_vocabulary(t, folder, &vocabulary, error);
    if (parser && read_specials(t, folder, vocabulary, error) &&
        read_merges(t, folder, vocabulary, error))
        return t;
    moji_tokenizer_free(t);
    return NULL;
}

void moji_tokenizer_free(MojiTokenizer *t)
{
    if (!t)
        return;
    for (int k = 0; k < SPECIALS; k++)
        g_free(t->special[k].text);
    g_free(t->merges);
    g_free(t);
}

int moji_tokenizer_length(const MojiTokenizer *t)
{
    return t->length;
}

int moji_tokenizer_vocabulary(const MojiTokenizer *t)
{
    return t->vocabulary;
}

/* ---- encoding ---- */

/* What has been encoded so far. */
typedef struct {
    const MojiTokenizer *t;
    GArray *ids;             /* of gint32: the text's own, all of them */
    GString *dropped;        /* from the first word on that is not all in the first length - 2 */
    GArray *symbols, *queue; /* of the word at hand */
} Run;

typedef struct {
    int id, previous, next; /* neighbours in the word, -1 at its ends */
    gboolean gone;
} Symbol;

typedef struct {
    int rank, at, id; /* merge symbol `at` with its next into id */
} Candidate;

static void put(Run *run, gint32 id)
{
    g_array_append_val(run->ids, id);
}

static gboolean is_full(const Run *run)
{
    return (int)run->ids->len > run->t->length - 2;
}

static const Merge *find_merge(const MojiTokenizer *t, int left, int right)
{
    guint64 pair = (guint64)left << 32 | right;
    int low = 0, high = t->merge_count;
    while (low < high) {
        int middle = low + (high - low) / 2;
        if (t->merges[middle].pair < pair)
            low = middle + 1;
        else
            high = middle;
    }
    return low < t->merge_count && t->merges[low].pair == pair ? &t->merges[low] : NULL;
}

static gboolean before(const Candidate *a, const Candidate *b)
{
    return a->rank < b->rank || (a->rank == b->rank && a->at < b->at);
}

/* The queue is a binary heap: a word may be as long as the prompt, and is strangers' text. */
static void push(GArray *queue, Candidate c)
{
    g_array_append_val(queue, c);
    Candidate *q = (Candidate *)queue->data;
    for (guint i = queue->len - 1; i > 0 && before(&q[i], &q[(i - 1) / 2]); i = (i - 1) / 2) {
        Candidate swap = q[i];
        q[i] = q[(i - 1) / 2];
        q[(i - 1) / 2] = swap;
    }
}

static Candidate pop(GArray *queue)
{
    Candidate *q = (Candidate *)queue->data, first = q[0];
    q[0] = q[queue->len - 1];
    g_array_set_size(queue, queue->len - 1);
    for (guint i = 0, child; (child = 2 * i + 1) < queue->len; i = child) {
        if (child + 1 < queue->len && before(&q[child + 1], &q[child]))
            child++;
        if (!before(&q[child], &q[i]))
            break;
        Candidate swap = q[i];
        q[i] = q[child];
        q[child] = swap;
    }
    return first;
}

static void consider(Run *run, int at)
{
    const Symbol *s = (const Symbol *)run->symbols->data;
    if (at < 0 || s[at].next < 0)
        return;
    const Merge *m = find_merge(run->t, s[at].id, s[s[at].next].id);
    if (m)
        push(run->queue, (Candidate){m->rank, at, m->id});
}

/* Joins the symbols of the word by the merges, lowest rank first, leftmost among equals. */
static void merge_symbols(Run *run)
{
    Symbol *s = (Symbol *)run->symbols->data;
    for (guint i = 0; i < run->symbols->len; i++)
        consider(run, i);
    while (run->queue->len > 0) {
        Candidate c = pop(run->queue);
        int right = s[c.at].next;
        if (s[c.at].gone || right < 0)
            continue;
        /* A neighbour may have been merged away since this was put into the queue. */
        const Merge *m = find_merge(run->t, s[c.at].id, s[right].id);
        if (!m || m->id != c.id)
            continue;
        s[c.at].id = c.id;
        s[c.at].next = s[right].next;
        s[right].gone = TRUE;
        if (s[c.at].next >= 0)
            s[s[c.at].next].previous = c.at;
        consider(run, s[c.at].previous);
        consider(run, c.at);
    }
}

static void encode_word(Run *run, const char *word, gsize bytes)
{
    const MojiTokenizer *t = run->t;
    g_array_set_size(run->symbols, 0);
    for (gsize i = 0; i < bytes; i++) {
        gboolean last = i + 1 == bytes;
        int id = (last ? t->last : t->inner)[(guint8)word[i]];
        Symbol s = {id >= 0 ? id : t->special[UNKNOWN].id, (int)i - 1, last ? -1 : (int)i + 1,
                    FALSE};
        g_array_append_val(run->symbols, s);
    }
    merge_symbols(run);
    for (int i = 0; i >= 0;) {
        const Symbol *s = &g_array_index(run->symbols, Symbol, i);
        put(run, s->id);
        i = s->next;
    }
}

/* Unicode's White_Space, which is not what C or GLib call a space. */
static gboolean is_space(gunichar c)
{
    return (c >= 9 && c <= 13) || c == 32 || c == 0x85 || c == 0xa0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f ||
           c == 0x205f || c == 0x3000;
}

typedef enum { SPACE, LETTER, NUMBER, OTHER } Class;

static Class class_of(gunichar c)
{
    if (is_space(c))
        return SPACE;
    switch (g_unichar_type(c)) {
    case G_UNICODE_LOWERCASE_LETTER:
    case G_UNICODE_MODIFIER_LETTER:
    case G_UNICODE_OTHER_LETTER:
    case G_UNICODE_TITLECASE_LETTER:
    case G_UNICODE_UPPERCASE_LETTER:
        return LETTER;
    case G_UNICODE_DECIMAL_NUMBER:
    case G_UNICODE_LETTER_NUMBER:
    case G_UNICODE_OTHER_NUMBER:
        return NUMBER;
    default:
        return OTHER;
    }
}

/* Length of the word that starts at p: a contraction's end, a run of letters, one digit, or a run
 * of anything else but space. */
static gsize word_length(const char *p, const char *end)
{
    static const char *const endings[] = {"'s", "'t", "'re", "'ve", "'m", "'ll", "'d"};
    for (gsize i = 0; i < G_N_ELEMENTS(endings); i++)
        if (g_str_has_prefix(p, endings[i]))
            return strlen(endings[i]);
    Class class = class_of(g_utf8_get_char(p));
    const char *q = g_utf8_next_char(p);
    while (class != NUMBER && q < end && class_of(g_utf8_get_char(q)) == class)
        q = g_utf8_next_char(q);
    return q - p;
}

/* Notes, once the ids are full, the text from `from` on as cut. */
static void note_dropped(Run *run, const char *from, const char *end)
{
    if (is_full(run) && !run->dropped)
        run->dropped = g_string_new_len(from, end - from);
}

/* Text without special tokens. */
static void encode_words(Run *run, const char *text, const char *end)
{
    static const char *const written[] = {"<|startoftext|>", "<|endoftext|>"};
    if (run->dropped)
        g_string_append_len(run->dropped, text, end - text);
    for (const char *p = text, *stop = NULL; p < end;) {
        if (class_of(g_utf8_get_char(p)) == SPACE) {
            p = g_utf8_next_char(p);
            continue;
        }
        /* Capitals hide these from the search for special tokens. They are then words of three
         * parts, the last of which does not run on into what follows. */
        for (gsize i = 0; i < G_N_ELEMENTS(written); i++)
            if (g_str_has_prefix(p, written[i]))
                stop = p + strlen(written[i]);
        gsize length = word_length(p, stop && p < stop ? stop : end);
        encode_word(run, p, length);
        note_dropped(run, p, end);
        p += length;
    }
}

/* Splits text at the special tokens of one kind, first those found before normalising, then, in
 * what is between them, those found after. */
static void encode_part(Run *run, const char *text, gsize bytes, gboolean normalized);

static const Special *find_special(const MojiTokenizer *t, const char *text, gboolean normalized)
{
    const Special *longest = NULL;
    for (int k = 0; k < SPECIALS; k++) {
        const Special *s = &t->special[k];
        if (s->normalized == normalized && g_str_has_prefix(text, s->text) &&
            (!longest || strlen(s->text) > strlen(longest->text)))
            longest = s;
    }
    return longest;
}

/* Lower case as Unicode's simple and special mappings have it; GLib leaves out numbers, symbols,
 * and the second character of a dotted capital I. */
static void append_lower(GString *out, gunichar c)
{
    if ((c >= 0x2160 && c <= 0x216f) || (c >= 0x24b6 && c <= 0x24cf))
        g_string_append_unichar(out, c + (c < 0x24b6 ? 16 : 26));
    else if (c == 0x130)
        g_string_append(out, "i\u0307");
    else
        g_string_append_unichar(out, g_unichar_tolower(c));
}

/* Composed, lower case, and one space for any run of them. */
static GString *normalize(const char *text, gsize bytes)
{
    g_autofree char *composed = g_utf8_normalize(text, bytes, G_NORMALIZE_NFC);
    GString *out = g_string_sized_new(bytes);
    gboolean spaced = FALSE;
    for (const char *p = composed; *p; p = g_utf8_next_char(p)) {
        gunichar c = g_utf8_get_char(p);
        gboolean space = is_space(c);
        if (!space)
            append_lower(out, c);
        else if (!spaced)
            g_string_append_c(out, ' ');
        spaced = space;
    }
    return out;
}

static void encode_between(Run *run, const char *text, gsize bytes, gboolean normalized)
{
    if (normalized) {
        /* An end of its own, so that a prefix is not found across it. */
        g_autofree char *part = g_strndup(text, bytes);
        encode_words(run, part, part + bytes);
    } else {
        GString *lower = normalize(text, bytes);
        encode_part(run, lower->str, lower->len, TRUE);
        g_string_free(lower, TRUE);
    }
}

static void encode_part(Run *run, const char *text, gsize bytes, gboolean normalized)
{
    gsize start = 0;
    for (gsize i = 0; i < bytes;) {
        const Special *s = find_special(run->t, text + i, normalized);
        if (!s) {
            i++;
            continue;
        }
        encode_between(run, text + start, i - start, normalized);
        if (run->dropped)
            g_string_append(run->dropped, s->text);
        put(run, s->id);
        start = i += strlen(s->text);
        note_dropped(run, s->text, s->text + strlen(s->text));
    }
    if (start < bytes)
        encode_between(run, text + start, bytes - start, normalized);
}

/* Appends the text's ids; returns what did not fit into one prompt, or NULL. */
static char *encode_text(const MojiTokenizer *t, const char *text, GArray *ids)
{
    g_autofree char *valid = g_utf8_make_valid(text, -1);
    Run run = {.t = t, .ids = ids};
    run.symbols = g_array_new(FALSE, FALSE, sizeof(Symbol));
    run.queue = g_array_new(FALSE, FALSE, sizeof(Candidate));
    encode_part(&run, valid, strlen(valid), FALSE);
    g_array_unref(run.symbols);
    g_array_unref(run.queue);
    return run.dropped ? g_strstrip(g_string_free(run.dropped, FALSE)) : NULL;
}

void moji_tokenizer_frame(const MojiTokenizer *t, const gint32 *content, int count, gint32 *ids)
{
    g_assert(count >= 0 && count <= t->length - 2);
    ids[0] = t->special[BEGIN].id;
    if (count)
        memcpy(ids + 1, content, count * sizeof *ids);
    ids[1 + count] = t->special[END].id;
    for (int i = 2 + count; i < t->length; i++)
        ids[i] = t->special[PAD].id;
}

GArray *moji_tokenizer_content(const MojiTokenizer *t, const char *text)
{
    GArray *ids = g_array_new(FALSE, FALSE, sizeof(gint32));
    g_free(encode_text(t, text, ids));
    return ids;
}

int moji_tokenizer_encode(const MojiTokenizer *t, const char *prompt, gint32 *ids, char **dropped)
{
    g_autoptr(GArray) content = g_array_new(FALSE, FALSE, sizeof(gint32));
    char *cut = encode_text(t, prompt, content);
    int used = (int)content->len;
    moji_tokenizer_frame(t, (const gint32 *)content->data, MIN(used, t->length - 2), ids);
    if (dropped)
        *dropped = cut;
    else
        g_free(cut);
    return used;
}
