/* stages.c: see stages.h. Linked into every test program beside test.c. */
#include "stages.h"
#include "json.h"
#include <string.h>

/* The first of the files that weights.txt lists whose checksum is another now, or NULL. */
static char *changed_file(const char *folder, const char *list)
{
    g_auto(GStrv) lines = g_strsplit(list, "\n", -1);
    for (char **line = lines; *line; line++) {
        char *name = strstr(*line, "  ");
        if (!name)
            continue;
        *name = '\0';
        name += 2;
        g_autofree char *path = g_build_filename(folder, name, NULL);
        g_autofree char *sum = NULL;
        g_autoptr(GMappedFile) file = g_mapped_file_new(path, FALSE, NULL);
        if (file)
            sum = g_compute_checksum_for_data(G_CHECKSUM_SHA256,
                                              (guint8 *)g_mapped_file_get_contents(file),
                                              g_mapped_file_get_length(file));
        if (g_strcmp0(sum, *line))
            return g_strdup(name);
    }
    return NULL;
}

/* The bundled model is made again from time to time; its dumps belong to one version of it. */
static void find_bundled(StageModel *m)
{
    *m = (StageModel){.name = "moji-mini",
                      .folder = moji_test_path("../../model/moji-mini"),
                      .dumps = moji_test_path("mini"),
                      .thin = 4};
    g_autofree char *path = stage_dump(m, "weights.txt");
    g_autofree char *index = g_build_filename(m->folder, "model_index.json", NULL);
    g_autofree char *list = NULL;
    gboolean model = g_file_test(index, G_FILE_TEST_EXISTS);
    if (!g_file_get_contents(path, &list, NULL, NULL)) {
        m->missing = model ? "model/moji-mini is there and tests/fixtures/mini is not: run "
                             "make_stages.py mini"
                           : "model/moji-mini is not there";
        m->stale = model;
        return;
    }
    char *changed = changed_file(m->folder, list);
    if (changed) {
        m->missing = g_strdup_printf("model/moji-mini/%s is not the file that tests/fixtures/mini "
                                     "belongs to: run make_stages.py mini",
                                     changed);
        m->stale = TRUE;
        g_free(changed);
    }
}

const StageModel *stage_models(int *n)
{
    static StageModel models[3];
    if (!models[0].name) {
        static const char *const tiny[] = {"tiny-sd", "tiny-v"};
        for (int i = 0; i < 2; i++) {
            models[i] = (StageModel){.name = tiny[i], .folder = moji_test_path(tiny[i]), .thin = 1};
            models[i].dumps = g_build_filename(models[i].folder, "dumps", NULL);
        }
        find_bundled(&models[2]);
    }
    *n = G_N_ELEMENTS(models);
    return models;
}

gboolean stage_usable(const StageModel *m)
{
    if (m->missing && !m->stale)
        moji_test_skip("%s", m->missing);
    else
        MOJI_CHECK(!m->missing, "%s", m->missing);
    return !m->missing;
}

char *stage_dump(const StageModel *m, const char *file)
{
    return g_build_filename(m->dumps, file, NULL);
}

char *stage_text(const StageModel *m, const char *file)
{
    g_autofree char *path = stage_dump(m, file);
    char *text;
    if (!g_file_get_contents(path, &text, NULL, NULL))
        g_error("fixture %s cannot be read", path);
    return text;
}

/* The member at "a.b" of dumps/reference.json; *parser owns it. */
static JsonNode *reference(const StageModel *m, const char *name, JsonParser **parser)
{
    g_autofree char *path = stage_dump(m, "reference.json");
    g_auto(GStrv) parts = g_strsplit(name, ".", -1);
    JsonObject *o;
    *parser = moji_json_open(path, &o, NULL);
    if (!*parser)
        g_error("fixture %s cannot be read", path);
    JsonNode *node = NULL;
    for (char **part = parts; *part; part++) {
        node = json_object_get_member(o, *part);
        if (!node)
            g_error("fixture %s lacks %s", path, name);
        if (JSON_NODE_HOLDS_OBJECT(node))
            o = json_node_get_object(node);
    }
    return node;
}

double stage_reference(const StageModel *m, const char *name)
{
    g_autoptr(JsonParser) parser = NULL;
    return json_node_get_double(reference(m, name, &parser));
}

char **stage_samplers(const StageModel *m)
{
    g_autoptr(JsonParser) parser = NULL;
    JsonArray *list = json_node_get_array(reference(m, "samplers", &parser));
    guint n = json_array_get_length(list);
    char **names = g_new0(char *, n + 1);
    for (guint i = 0; i < n; i++)
        names[i] = g_strdup(json_array_get_string_element(list, i));
    return names;
}
