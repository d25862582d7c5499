/* config.c: see config.h. */
#include "config.h"
#include <string.h>

/* A scalar as config tables write it: no quotes, 1 for 1.0. Caller frees. */
static char *scalar_text(JsonNode *node)
{
    if (!JSON_NODE_HOLDS_VALUE(node))
        return json_to_string(node, FALSE);
    switch (json_node_get_value_type(node)) {
    case G_TYPE_STRING:
        return g_strdup(json_node_get_string(node));
    case G_TYPE_BOOLEAN:
        return g_strdup(json_node_get_boolean(node) ? "true" : "false");
    default: {
        char number[G_ASCII_DTOSTR_BUF_SIZE];
        return g_strdup(g_ascii_formatd(number, sizeof number, "%.9g", json_node_get_double(node)));
    }
    }
}

static gboolean accepted(JsonNode *node, const char *accept)
{
    if (JSON_NODE_HOLDS_NULL(node))
        return TRUE;
    if (JSON_NODE_HOLDS_ARRAY(node)) {
        JsonArray *list = json_node_get_array(node);
        for (guint i = 0; i < json_array_get_length(list); i++)
            if (!accepted(json_array_get_element(list, i), accept))
                return FALSE;
        return TRUE;
    }
    g_autofree char *text = scalar_text(node);
    g_auto(GStrv) values = g_strsplit(accept, "|", -1);
    return g_strv_contains((const char *const *)values, text);
}

/* What the file has, short enough for an error. Caller frees. */
static char *excerpt(JsonNode *node)
{
    g_autofree char *text = json_to_string(node, FALSE);
    if (g_utf8_strlen(text, -1) <= 60)
        return g_steal_pointer(&text);
    g_autofree char *start = g_utf8_substring(text, 0, 57);
    return g_strconcat(start, "...", NULL);
}

gboolean moji_config_member(JsonObject *o, const char *path, const char *member, const char *accept,
                            GError **error)
{
    JsonNode *node = json_object_get_member(o, member);
    if (!node || accepted(node, accept))
        return TRUE;
    g_autofree char *found = excerpt(node);
    moji_error_file(error, path, "\"%s\" is %s, which this engine does not know; expected %s",
                    member, found, accept);
    return FALSE;
}

gboolean moji_config_check(JsonObject *o, const char *path, const MojiConfigField *fields,
                           GError **error)
{
    g_autoptr(GList) members = json_object_get_members(o);
    for (GList *l = members; l; l = l->next) {
        const char *name = l->data;
        const MojiConfigField *f = fields;
        while (f->name && strcmp(f->name, name) != 0)
            f++;
        const char *accept = f->name ? f->accept : name[0] == '_' ? NULL : "false";
        if (accept && !moji_config_member(o, path, name, accept, error))
            return FALSE;
    }
    return TRUE;
}

/* The member as a list; NULL and an error if it is something else or has another length. */
static JsonArray *list_of(JsonObject *o, const char *path, const char *member, int min, int max,
                          GError **error)
{
    JsonNode *node = json_object_get_member(o, member);
    if (!node) {
        moji_error_file(error, path, "\"%s\" is missing", member);
        return NULL;
    }
    JsonArray *list = JSON_NODE_HOLDS_ARRAY(node) ? json_node_get_array(node) : NULL;
    int length = list ? json_array_get_length(list) : 0;
    if (list && length >= min && length <= max)
        return list;
    g_autofree char *found = excerpt(node);
    if (min == max)
        moji_error_file(error, path, "\"%s\" is %s, expected a list of %d", member, found, min);
    else
        moji_error_file(error, path, "\"%s\" is %s, expected a list of %d to %d", member, found,
                        min, max);
    return NULL;
}

int moji_config_length(JsonObject *o, const char *path, const char *member, int max, GError **error)
{
    JsonArray *list = list_of(o, path, member, 1, max, error);
    return list ? json_array_get_length(list) : 0;
}

gboolean moji_config_ints(JsonObject *o, const char *path, const char *member, int n, int min,
                          int max, int *values, GError **error)
{
    JsonNode *node = json_object_get_member(o, member);
    if (!node || JSON_NODE_HOLDS_NULL(node))
        return TRUE;
    if (!JSON_NODE_HOLDS_ARRAY(node)) {
        int value = 0;
        if (!moji_json_int(o, path, member, min, max, &value, error))
            return FALSE;
        for (int i = 0; i < n; i++)
            values[i] = value;
        return TRUE;
    }
    JsonArray *list = list_of(o, path, member, n, n, error);
    if (!list)
        return FALSE;
    for (int i = 0; i < n; i++) {
        JsonNode *element = json_array_get_element(list, i);
        gboolean whole =
            JSON_NODE_HOLDS_VALUE(element) && json_node_get_value_type(element) == G_TYPE_INT64;
        gint64 value = whole ? json_node_get_int(element) : 0;
        if (!whole || value < min || value > max) {
            g_autofree char *found = excerpt(element);
            moji_error_file(error, path,
                            "\"%s\" has %s in it, expected whole numbers from %d to %d", member,
                            found, min, max);
            return FALSE;
        }
        values[i] = (int)value;
    }
    return TRUE;
}

gboolean moji_config_kinds(JsonObject *o, const char *path, const char *member, int n,
                           const char *plain, const char *special, gboolean *is_special,
                           GError **error)
{
    JsonArray *list = list_of(o, path, member, n, n, error);
    if (!list)
        return FALSE;
    for (int i = 0; i < n; i++) {
        JsonNode *element = json_array_get_element(list, i);
        g_autofree char *name = scalar_text(element);
        gboolean is_plain = g_str_equal(name, plain);
        if (!is_plain && !(special && g_str_equal(name, special))) {
            g_autofree char *found = excerpt(element);
            moji_error_file(error, path, "\"%s\" has %s in it, expected \"%s\"%s%s%s", member,
                            found, plain, special ? " or \"" : "", special ? special : "",
                            special ? "\"" : "");
            return FALSE;
        }
        if (is_special)
            is_special[i] = !is_plain;
    }
    return TRUE;
}

gboolean moji_config_multiple(const char *path, const char *member, int value,
                              const char *of_member, int of, GError **error)
{
    if (value % of == 0)
        return TRUE;
    moji_error_file(error, path, "\"%s\" has %d in it, expected a multiple of \"%s\", which is %d",
                    member, value, of_member, of);
    return FALSE;
}
