/* json.c: see json.h.
 *
 * The surprising rule: json-glib descends by recursion, skips comments and keeps the last of two
 * members of one name. A linear scan before it bounds the nesting, refuses what is not JSON enough
 * to be scanned, and counts the members so that lost ones are noticed. */
#include "json.h"
#include <math.h>
#include <string.h>

#define MAX_FILE_BYTES (64 * 1024 * 1024)
#define MAX_DEPTH 64
/* Each costs some hundred bytes. A tokenizer's vocabulary has 10^5, a large model's header 10^4. */
#define MAX_VALUES 1000000

/* Returns what is wrong, or NULL. *members counts the colons outside strings: one a member. With
 * the commas and brackets they are at least as many as there are values. */
static const char *scan(const char *text, gsize bytes, gsize *members)
{
    int depth = 0;
    gsize others = 0;
    *members = 0;
    for (gsize i = 0; i < bytes; i++) {
        switch (text[i]) {
        case '"':
            for (i++; i < bytes && text[i] != '"'; i++)
                if (text[i] == '\\')
                    i++;
            if (i >= bytes)
                return "a text that does not end";
            break;
        case '{':
        case '[':
            others++;
            if (++depth > MAX_DEPTH)
                return "nested too deeply";
            break;
        case '}':
        case ']':
            depth--;
            break;
        case ':':
            (*members)++;
            break;
        case ',':
            others++;
            break;
        /* A comment or another kind of quote would hide brackets from this scan. */
        case '/':
        case '#':
        case '\'':
        case '\0':
            return "characters outside quotes that JSON has not";
        default:
            break;
        }
        if (*members + others > MAX_VALUES)
            return "more than " G_STRINGIFY(MAX_VALUES) " values";
    }
    return NULL;
}

static gsize count_members(JsonNode *node)
{
    gsize count = 0;
    if (JSON_NODE_HOLDS_OBJECT(node)) {
        JsonObjectIter iter;
        JsonNode *child;
        json_object_iter_init(&iter, json_node_get_object(node));
        while (json_object_iter_next(&iter, NULL, &child))
            count += 1 + count_members(child);
    } else if (JSON_NODE_HOLDS_ARRAY(node)) {
        JsonArray *array = json_node_get_array(node);
        for (guint i = 0; i < json_array_get_length(array); i++)
            count += count_members(json_array_get_element(array, i));
    }
    return count;
}

JsonParser *moji_json_parse(const char *text, gsize bytes, gboolean unique, const char *path,
                            JsonObject **root, GError **error)
{
    gsize members;
    const char *fault = scan(text, bytes, &members);
    if (fault) {
        moji_error_file(error, path, "not valid JSON: %s", fault);
        return NULL;
    }
    g_autoptr(JsonParser) parser = json_parser_new_immutable();
    g_autoptr(GError) why = NULL;
    if (!json_parser_load_from_data(parser, text, bytes, &why)) {
        moji_error_file(error, path, "not valid JSON: %s", why->message);
        return NULL;
    }
    JsonNode *node = json_parser_get_root(parser);
    if (!node || !JSON_NODE_HOLDS_OBJECT(node)) {
        moji_error_file(error, path, "expected a JSON object");
        return NULL;
    }
    if (unique && count_members(node) != members) {
        moji_error_file(error, path, "two members of one object have the same name");
        return NULL;
    }
    *root = json_node_get_object(node);
    return g_steal_pointer(&parser);
}

JsonParser *moji_json_open(const char *path, JsonObject **root, GError **error)
{
    g_autoptr(GMappedFile) file = NULL;
    g_autoptr(GError) why = NULL;
    if (g_file_test(path, G_FILE_TEST_IS_DIR)) {
        moji_error_file(error, path, "is a folder, expected a JSON file");
        return NULL;
    }
    file = g_mapped_file_new(path, FALSE, &why);
    if (!file) {
        moji_error_file(error, path, "cannot be read: %s", why->message);
        return NULL;
    }
    gsize bytes = g_mapped_file_get_length(file);
    const char *text = bytes ? g_mapped_file_get_contents(file) : "";
    if (bytes > MAX_FILE_BYTES) {
        moji_error_file(error, path,
                        "is %" G_GSIZE_FORMAT " bytes long, expected JSON of at most %d", bytes,
                        MAX_FILE_BYTES);
        return NULL;
    }
    gsize mark = bytes >= 3 && !memcmp(text, "\xef\xbb\xbf", 3) ? 3 : 0; /* a byte order mark */
    return moji_json_parse(text + mark, bytes - mark, FALSE, path, root, error);
}

/* What a member holds, as its reader would say it. Caller frees. */
static char *found(JsonNode *node)
{
    if (JSON_NODE_HOLDS_OBJECT(node))
        return g_strdup("an object");
    if (JSON_NODE_HOLDS_ARRAY(node))
        return g_strdup("a list");
    g_autofree char *text = json_to_string(node, FALSE);
    if (g_utf8_strlen(text, -1) <= 40)
        return g_steal_pointer(&text);
    g_autofree char *start = g_utf8_substring(text, 0, 40);
    return g_strconcat(start, "...", NULL);
}

static gboolean wrong(JsonNode *node, const char *path, const char *member, const char *expected,
                      GError **error)
{
    g_autofree char *text = found(node);
    moji_error_file(error, path, "\"%s\" is %s, expected %s", member, text, expected);
    return FALSE;
}

/* The member's node, or NULL if it is absent or null. */
static JsonNode *get(JsonObject *o, const char *member)
{
    JsonNode *node = json_object_get_member(o, member);
    return node && !JSON_NODE_HOLDS_NULL(node) ? node : NULL;
}

static GType value_type(JsonNode *node)
{
    return JSON_NODE_HOLDS_VALUE(node) ? json_node_get_value_type(node) : G_TYPE_INVALID;
}

gboolean moji_json_int(JsonObject *o, const char *path, const char *member, int min, int max,
                       int *value, GError **error)
{
    JsonNode *node = get(o, member);
    if (!node)
        return TRUE;
    /* Some writers put 2.0 for 2; as doubles both can be held against the range. */
    GType type = value_type(node);
    double number = type == G_TYPE_INT64    ? (double)json_node_get_int(node)
                    : type == G_TYPE_DOUBLE ? json_node_get_double(node)
                                            : NAN;
    if (!(number >= min && number <= max) || number != floor(number)) {
        g_autofree char *range = g_strdup_printf("a whole number from %d to %d", min, max);
        return wrong(node, path, member, range, error);
    }
    *value = (int)number;
    return TRUE;
}

gboolean moji_json_double(JsonObject *o, const char *path, const char *member, double *value,
                          GError **error)
{
    JsonNode *node = get(o, member);
    if (!node)
        return TRUE;
    GType type = value_type(node);
    double number = type == G_TYPE_INT64    ? (double)json_node_get_int(node)
                    : type == G_TYPE_DOUBLE ? json_node_get_double(node)
                                            : NAN;
    if (!isfinite(number))
        return wrong(node, path, member, "a number", error);
    *value = number;
    return TRUE;
}

gboolean moji_json_bool(JsonObject *o, const char *path, const char *member, gboolean *value,
                        GError **error)
{
    JsonNode *node = get(o, member);
    if (!node)
        return TRUE;
    if (value_type(node) != G_TYPE_BOOLEAN)
        return wrong(node, path, member, "true or false", error);
    *value = json_node_get_boolean(node);
    return TRUE;
}

gboolean moji_json_string(JsonObject *o, const char *path, const char *member, char **value,
                          GError **error)
{
    JsonNode *node = get(o, member);
    if (!node)
        return TRUE;
    if (value_type(node) != G_TYPE_STRING)
        return wrong(node, path, member, "a text", error);
    g_free(*value);
    *value = g_strdup(json_node_get_string(node));
    return TRUE;
}
