/* fetch.c: see fetch.h.
 *
 * The surprising rule: a model grows in a folder of its own, .NAME.part, and gets its name last. So
 * whatever has a name is whole, and whatever has not is the beginning of the next attempt. */
#include "fetch.h"
#include "folder.h"
#include "json.h"
#include "names.h"
#include "save.h"
#include "transfer.h"
#include <errno.h>
#include <glib/gstdio.h>
#include <string.h>

static const struct {
    const char *name, *repository;
} known[] = {
    {"sd14", "CompVis/stable-diffusion-v1-4"},
};

/* What is taken of a repository, beside one file of weights for each part. */
static const char *const wanted[] = {
    "model_index.json",
    "moji.json",
    "LICENSE",
    "LICENSE.md",
    "LICENSE.txt",
    "scheduler/scheduler_config.json",
    "tokenizer/vocab.json",
    "tokenizer/merges.txt",
    "tokenizer/tokenizer_config.json",
    "tokenizer/special_tokens_map.json",
    "text_encoder/config.json",
    "unet/config.json",
    "vae/config.json",
};

/* In the order of preference: half precision is what is drawn with, and half as much to fetch. */
static const struct {
    const char *variant, *ending;
} weights[] = {{".fp16", ".safetensors"}, {"", ".safetensors"}, {".fp16", ".bin"}, {"", ".bin"}};

static void free_file(gpointer data)
{
    MojiFetchFile *f = data;
    g_free(f->url);
    g_free(f->path);
    g_free(f->sha256);
    g_free(f);
}

void moji_fetch_free(MojiFetch *f)
{
    if (!f)
        return;
    g_free(f->name);
    g_free(f->source);
    g_free(f->licence);
    g_free(f->page);
    g_free(f->token);
    g_ptr_array_unref(f->files);
    g_free(f);
}

static MojiFetch *fetch_new(const char *name, const char *source, gboolean folder)
{
    MojiFetch *f = g_new0(MojiFetch, 1);
    f->name = g_strdup(name);
    f->source = g_strdup(source);
    f->folder = folder;
    f->files = g_ptr_array_new_with_free_func(free_file);
    return f;
}

/* ---- what there is ---- */

static const char *endpoint(void)
{
    const char *named = g_getenv("MOJI_FETCH_ENDPOINT");
    return named && *named ? named : "https://huggingface.co";
}

/* The token, where it may be sent: to the server that it is for, and so that nobody else hears. */
static const char *token_for(const MojiFetch *f, const char *url)
{
    const char *server = endpoint();
    gsize n = strlen(server);
    gboolean quiet = g_str_has_prefix(url, "https://") ||
                     g_str_has_prefix(url, "http://127.0.0.1:") ||
                     g_str_has_prefix(url, "http://localhost:");
    return quiet && !strncmp(url, server, n) && url[n] == '/' ? f->token : NULL;
}

static JsonNode *get_json(const MojiFetch *f, const char *url, GCancellable *cancel, GError **error)
{
    g_autofree char *text = moji_transfer_text(url, token_for(f, url), cancel, error);
    g_autoptr(GError) why = NULL;
    if (!text)
        return NULL;
    JsonNode *root = json_from_string(text, &why);
    if (!root)
        moji_error_file(error, url, "is not JSON%s%s", why ? ": " : "", why ? why->message : "");
    return root;
}

static const char *text_member(JsonObject *o, const char *member)
{
    JsonNode *node = o ? json_object_get_member(o, member) : NULL;
    return node && JSON_NODE_HOLDS_VALUE(node) && json_node_get_value_type(node) == G_TYPE_STRING
               ? json_node_get_string(node)
               : NULL;
}

static JsonObject *object_member(JsonObject *o, const char *member)
{
    JsonNode *node = o ? json_object_get_member(o, member) : NULL;
    return node && JSON_NODE_HOLDS_OBJECT(node) ? json_node_get_object(node) : NULL;
}

static gint64 size_member(JsonObject *o)
{
    JsonNode *node = json_object_get_member(o, "size");
    gboolean whole =
        node && JSON_NODE_HOLDS_VALUE(node) && json_node_get_value_type(node) == G_TYPE_INT64;
    return whole && json_node_get_int(node) >= 0 ? json_node_get_int(node) : -1;
}

/* One of the list that the server gave: {"path": ..., "size": ..., "lfs": {"oid": SHA-256}}. */
static JsonObject *find_listed(JsonArray *list, const char *path)
{
    for (guint i = 0; i < json_array_get_length(list); i++) {
        JsonNode *node = json_array_get_element(list, i);
        JsonObject *o = JSON_NODE_HOLDS_OBJECT(node) ? json_node_get_object(node) : NULL;
        if (o && !g_strcmp0(text_member(o, "path"), path))
            return o;
    }
    return NULL;
}

/* What the server has, to choose from. */
typedef struct {
    MojiFetch *fetch;
    JsonArray *list;
    const char *revision;
    GCancellable *cancel;
} Choice;

static char *url_of(const Choice *c, const char *path)
{
    g_autofree char *escaped = g_uri_escape_string(path, "/", FALSE);
    return g_strdup_printf("%s/%s/resolve/%s/%s", endpoint(), c->fetch->source, c->revision,
                           escaped);
}

static gboolean add_file(const Choice *c, const char *path)
{
    MojiFetch *f = c->fetch;
    JsonObject *o = find_listed(c->list, path);
    if (!o)
        return FALSE;
    MojiFetchFile *file = g_new0(MojiFetchFile, 1);
    JsonObject *lfs = object_member(o, "lfs");
    file->url = url_of(c, path);
    file->path = g_strdup(path);
    file->bytes = size_member(lfs && json_object_has_member(lfs, "size") ? lfs : o);
    file->sha256 = g_strdup(text_member(lfs, "oid"));
    f->bytes += MAX(file->bytes, 0);
    g_ptr_array_add(f->files, file);
    return TRUE;
}

/* A name that can be one of a file: no path, nothing hidden. */
static gboolean is_name(const char *name)
{
    return *name && *name != '.' && !strchr(name, '/') && strlen(name) <= 200;
}

/* Every file that an index names, each once. */
static gboolean add_shards(const Choice *c, const char *folder, const char *index, GError **error)
{
    g_autofree char *url = url_of(c, index);
    g_autoptr(JsonNode) root = get_json(c->fetch, url, c->cancel, error);
    if (!root)
        return FALSE;
    JsonObject *map = object_member(
        JSON_NODE_HOLDS_OBJECT(root) ? json_node_get_object(root) : NULL, "weight_map");
    g_autoptr(GHashTable) seen = g_hash_table_new(g_str_hash, g_str_equal);
    g_autoptr(GList) tensors = map ? json_object_get_members(map) : NULL;
    for (GList *t = tensors; t; t = t->next) {
        const char *shard = text_member(map, t->data);
        if (shard && !g_hash_table_add(seen, (gpointer)shard))
            continue;
        g_autofree char *path =
            shard && is_name(shard) ? g_strdup_printf("%s/%s", folder, shard) : NULL;
        if (!path || !add_file(c, path)) {
            moji_error_file(error, c->fetch->source, "has no file \"%s\", which its %s names",
                            shard ? shard : "", index);
            return FALSE;
        }
    }
    if (tensors)
        return TRUE;
    moji_error_file(error, c->fetch->source, "%s names no files (weight_map)", index);
    return FALSE;
}

/* One file, or else the index of several: the names as folder.h has them. TRUE: *done is whether
 * they are there. */
static gboolean add_variant(const Choice *c, const char *folder, const char *stem,
                            const char *variant, const char *ending, gboolean *done, GError **error)
{
    g_autofree char *one = g_strdup_printf("%s/%s%s%s", folder, stem, variant, ending);
    g_autofree char *late = g_strdup_printf("%s/%s%s.index%s.json", folder, stem, ending, variant);
    g_autofree char *early = g_strdup_printf("%s.index.json", one);
    const char *index[] = {late, early};
    *done = add_file(c, one);
    for (guint i = 0; i < G_N_ELEMENTS(index) && !*done; i++)
        if ((*done = add_file(c, index[i])) && !add_shards(c, folder, index[i], error))
            return FALSE;
    return TRUE;
}

static gboolean add_weights(const Choice *c, MojiPart part, GError **error)
{
    const char *folder = moji_part_folder(part);
    const char *stems[] = {part == MOJI_PART_TEXT ? "model" : "diffusion_pytorch_model",
                           part == MOJI_PART_TEXT ? "pytorch_model" : "diffusion_pytorch_model"};
    for (guint i = 0; i < G_N_ELEMENTS(weights); i++)
        for (guint k = 0; k < G_N_ELEMENTS(stems); k++) {
            gboolean done;
            if (!add_variant(c, folder, stems[k], weights[i].variant, weights[i].ending, &done,
                             error))
                return FALSE;
            if (done)
                return TRUE;
        }
    moji_error_file(error, c->fetch->source, "has no weights of the %s network",
                    moji_part_name(part));
    return FALSE;
}

static gboolean list_files(MojiFetch *f, const char *revision, GCancellable *cancel, GError **error)
{
    g_autofree char *url =
        g_strdup_printf("%s/api/models/%s/tree/%s?recursive=true", endpoint(), f->source, revision);
    g_autoptr(JsonNode) root = get_json(f, url, cancel, error);
    if (!root)
        return FALSE;
    JsonArray *list = JSON_NODE_HOLDS_ARRAY(root) ? json_node_get_array(root) : NULL;
    if (!list || !find_listed(list, "model_index.json")) {
        moji_error_file(error, f->source,
                        "is no model in diffusers' layout: it has no "
                        "model_index.json. One file of it can be fetched by URL");
        return FALSE;
    }
    Choice c = {f, list, revision, cancel};
    for (guint i = 0; i < G_N_ELEMENTS(wanted); i++)
        add_file(&c, wanted[i]);
    for (int part = 0; part < MOJI_PARTS; part++)
        if (!add_weights(&c, part, error))
            return FALSE;
    return TRUE;
}

/* "gated" is false, or says who decides: "auto", "manual". */
static gboolean is_gated(JsonObject *o)
{
    return text_member(o, "gated") != NULL;
}

static gboolean describe(MojiFetch *f, GCancellable *cancel, GError **error)
{
    g_autofree char *url = g_strdup_printf("%s/api/models/%s", endpoint(), f->source);
    g_autoptr(JsonNode) root = get_json(f, url, cancel, error);
    if (!root)
        return FALSE;
    JsonObject *o = JSON_NODE_HOLDS_OBJECT(root) ? json_node_get_object(root) : NULL;
    const char *revision = text_member(o, "sha");
    if (is_gated(o) && !f->token) {
        moji_error_file(error, f->source,
                        "is gated: ask for access on %s/%s, then give your token by --token or "
                        "HF_TOKEN",
                        endpoint(), f->source);
        return FALSE;
    }
    f->licence = g_strdup(text_member(object_member(o, "cardData"), "license"));
    f->page = g_strdup_printf("%s/%s", endpoint(), f->source);
    for (const char *p = revision ? revision : ""; *p; p++)
        if (!g_ascii_isxdigit(*p))
            revision = NULL;
    return list_files(f, revision && *revision ? revision : "main", cancel, error);
}

static MojiFetch *new_from_url(const char *url, const char *sha256, GError **error)
{
    g_autoptr(GUri) uri = g_uri_parse(url, G_URI_FLAGS_NONE, NULL);
    g_autofree char *name = uri ? g_path_get_basename(g_uri_get_path(uri)) : g_strdup("");
    if (!is_name(name)) {
        g_set_error(error, MOJI_ERROR, MOJI_ERROR_USAGE, "%s: expected the URL of a file", url);
        return NULL;
    }
    MojiFetch *f = fetch_new(name, url, FALSE);
    MojiFetchFile *file = g_new0(MojiFetchFile, 1);
    file->url = g_strdup(url);
    file->path = g_strdup(name);
    file->bytes = f->bytes = -1;
    file->sha256 = g_strdup(sha256);
    g_ptr_array_add(f->files, file);
    return f;
}

/* FALSE for one that would not fit a line of HTTP. */
static gboolean take_token(MojiFetch *f, const char *token, GError **error)
{
    const char *given = token ? token : g_getenv("HF_TOKEN");
    g_autofree char *own = g_strstrip(g_strdup(given ? given : ""));
    for (const char *p = own; *p; p++)
        if (!g_ascii_isgraph(*p)) {
            g_set_error(error, MOJI_ERROR, MOJI_ERROR_USAGE,
                        "token: expected letters, digits and signs");
            return FALSE;
        }
    if (*own)
        f->token = g_steal_pointer(&own);
    return TRUE;
}

MojiFetch *moji_fetch_new(const char *what, const char *sha256, const char *token,
                          GCancellable *cancel, GError **error)
{
    if (g_str_has_prefix(what, "https://") || g_str_has_prefix(what, "http://")) {
        MojiFetch *f = new_from_url(what, sha256, error);
        if (f && !take_token(f, token, error))
            g_clear_pointer(&f, moji_fetch_free);
        return f;
    }
    const char *repository = what, *name = NULL;
    for (guint i = 0; i < G_N_ELEMENTS(known); i++)
        if (!strcmp(what, known[i].name)) {
            repository = known[i].repository;
            name = what;
        }
    g_auto(GStrv) words = g_strsplit(repository, "/", -1);
    if (g_strv_length(words) != 2 || !is_name(words[0]) || !is_name(words[1]) ||
        strpbrk(repository, "?#% ")) {
        g_set_error(error, MOJI_ERROR, MOJI_ERROR_USAGE,
                    "%s: expected sd14, a repository as owner/name, or a URL", what);
        return NULL;
    }
    MojiFetch *f = fetch_new(name ? name : words[1], repository, TRUE);
    if (!take_token(f, token, error) || !describe(f, cancel, error))
        g_clear_pointer(&f, moji_fetch_free);
    return f;
}

/* ---- the licence ---- */

static char *accepted_file(void)
{
    g_autofree char *models = moji_folder_models();
    return g_build_filename(models, ".accepted-licences", NULL);
}

static char *accepted_line(const MojiFetch *f)
{
    return g_strdup_printf("%s %s", f->source, f->licence ? f->licence : "");
}

gboolean moji_fetch_accepted(const MojiFetch *f)
{
    g_autofree char *path = accepted_file(), *line = accepted_line(f), *text = NULL;
    if (!g_file_get_contents(path, &text, NULL, NULL))
        return FALSE;
    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);
    return g_strv_contains((const char *const *)lines, line);
}

static gboolean make_folder(const char *path, GError **error)
{
    if (g_mkdir_with_parents(path, 0755) == 0)
        return TRUE;
    moji_error_file(error, path, "cannot be made: %s", g_strerror(errno));
    return FALSE;
}

gboolean moji_fetch_accept(const MojiFetch *f, GError **error)
{
    g_autofree char *models = moji_folder_models(), *path = accepted_file();
    g_autofree char *line = accepted_line(f), *before = NULL;
    g_autoptr(GError) why = NULL;
    if (moji_fetch_accepted(f))
        return TRUE;
    if (!make_folder(models, error))
        return FALSE;
    g_file_get_contents(path, &before, NULL, NULL);
    g_autofree char *text = g_strdup_printf("%s%s\n", before ? before : "", line);
    if (g_file_set_contents(path, text, -1, &why))
        return TRUE;
    moji_error_file(error, path, "cannot be written: %s", why->message);
    return FALSE;
}

/* ---- the files ---- */

typedef struct {
    MojiFetchProgress progress;
    gpointer user_data;
    const char *path;
    gint64 before, total; /* bytes of the files before this one; of all */
} Progress;

static void on_progress(gint64 done, gpointer data)
{
    const Progress *p = data;
    if (p->progress)
        p->progress(p->path, p->before + done, p->total, p->user_data);
}

static gboolean check_sum(const char *path, const char *sha256, GCancellable *cancel,
                          GError **error)
{
    FILE *file = fopen(path, "rb");
    g_autoptr(GChecksum) sum = g_checksum_new(G_CHECKSUM_SHA256);
    g_autofree guint8 *part = g_malloc(1 << 20);
    for (gsize n;
         file && !g_cancellable_is_cancelled(cancel) && (n = fread(part, 1, 1 << 20, file)) > 0;)
        g_checksum_update(sum, part, (gssize)n);
    if (file)
        fclose(file);
    if (g_cancellable_is_cancelled(cancel))
        g_set_error(error, MOJI_ERROR, MOJI_ERROR_CANCELLED, "Cancelled");
    else if (g_ascii_strcasecmp(g_checksum_get_string(sum), sha256))
        moji_error_file(error, path, "has SHA-256 %s, expected %s", g_checksum_get_string(sum),
                        sha256);
    else
        return TRUE;
    return FALSE;
}

/* Lets go of a file that came wrong, so that the next attempt begins anew. */
static void drop(const char *partial)
{
    g_autofree char *tag = g_strconcat(partial, ".etag", NULL);
    g_remove(partial);
    g_remove(tag);
}

/* path is there afterwards, whole. */
static gboolean bring(const MojiFetchFile *f, const char *token, const char *path, Progress *p,
                      GCancellable *cancel, GError **error)
{
    g_autofree char *partial = g_strconcat(path, ".partial", NULL);
    g_autofree char *tag = g_strconcat(partial, ".etag", NULL);
    g_autofree char *parent = g_path_get_dirname(path);
    g_autoptr(GError) why = NULL;
    p->path = f->path;
    if (g_file_test(path, G_FILE_TEST_EXISTS))
        return TRUE;
    if (!make_folder(parent, error) ||
        !moji_transfer(f->url, partial, f->bytes, token, on_progress, p, cancel, error))
        return FALSE;
    if (f->sha256 && !check_sum(partial, f->sha256, cancel, &why)) {
        if (!g_error_matches(why, MOJI_ERROR, MOJI_ERROR_CANCELLED))
            drop(partial);
        g_propagate_error(error, g_steal_pointer(&why));
        return FALSE;
    }
    g_remove(tag);
    return moji_save_rename(partial, path, error);
}

char *moji_fetch_run(const MojiFetch *f, MojiFetchProgress progress, gpointer user_data,
                     GCancellable *cancel, GError **error)
{
    g_autofree char *models = moji_folder_models();
    g_autofree char *path = g_build_filename(models, f->name, NULL);
    g_autofree char *hidden = g_strdup_printf(".%s.part", f->name);
    g_autofree char *part = g_build_filename(models, hidden, NULL);
    Progress p = {.progress = progress, .user_data = user_data, .total = f->bytes};
    if (g_file_test(path, G_FILE_TEST_EXISTS))
        return g_steal_pointer(&path);
    for (guint i = 0; i < f->files->len; i++) {
        const MojiFetchFile *file = f->files->pdata[i];
        g_autofree char *to = g_build_filename(part, file->path, NULL);
        if (!bring(file, token_for(f, file->url), to, &p, cancel, error))
            return NULL;
        p.before += MAX(file->bytes, 0);
    }
    g_autofree char *only = g_build_filename(part, f->name, NULL);
    if (!moji_save_rename(f->folder ? part : only, path, error))
        return NULL;
    if (!f->folder)
        moji_save_remove(part);
    return g_steal_pointer(&path);
}
