/* recipe.c: the parasite on a layer, and the few members of a recipe that the plug-in reads. */
#include "recipe.h"
#include <json-glib/json-glib.h>

void moji_recipe_attach(gint32 layer, const char *json)
{
    GimpParasite *parasite;

    if (!json)
        return;
    parasite =
        gimp_parasite_new(MOJI_RECIPE_PARASITE, GIMP_PARASITE_PERSISTENT | GIMP_PARASITE_UNDOABLE,
                          strlen(json) + 1, json);
    gimp_item_attach_parasite(layer, parasite);
    gimp_parasite_free(parasite);
}

char *moji_recipe_of(gint32 layer)
{
    GimpParasite *parasite = gimp_item_get_parasite(layer, MOJI_RECIPE_PARASITE);
    char *json;

    if (!parasite)
        return NULL;
    json = g_strndup(gimp_parasite_data(parasite), gimp_parasite_data_size(parasite));
    gimp_parasite_free(parasite);
    return json;
}

/* The member's value if it is a plain one; owned by the parser. */
static JsonNode *recipe_member(JsonParser *parser, const char *json, const char *member)
{
    JsonNode *root, *node;

    if (!json || !json_parser_load_from_data(parser, json, -1, NULL))
        return NULL;
    root = json_parser_get_root(parser);
    if (!root || !JSON_NODE_HOLDS_OBJECT(root))
        return NULL;
    node = json_object_get_member(json_node_get_object(root), member);
    return node && JSON_NODE_HOLDS_VALUE(node) ? node : NULL;
}

char *moji_recipe_text(const char *json, const char *member)
{
    g_autoptr(JsonParser) parser = json_parser_new();
    JsonNode *node = recipe_member(parser, json, member);

    return node && json_node_get_value_type(node) == G_TYPE_STRING ? json_node_dup_string(node)
                                                                   : NULL;
}

gint64 moji_recipe_seed(const char *json)
{
    g_autoptr(JsonParser) parser = json_parser_new();
    JsonNode *node = recipe_member(parser, json, "seed");

    return node && json_node_get_value_type(node) == G_TYPE_INT64 ? json_node_get_int(node) : -1;
}
