/* folder.c: see folder.h.
 *
 * The surprising rule: what is at the path that was given wins over a model of that name, so that
 * a folder beside the user is never hidden by one far away. */
#include "folder.h"
#include <string.h>

/* Per variant, then per stem; the index of several files has the variant behind or before. */
static const char *const kinds[] = {
    "%s%s.safetensors", "%s.safetensors.index%s.json", "%s%s.safetensors.index.json",
    "%s%s.bin",         "%s.bin.index%s.json",         "%s%s.bin.index.json"};
static const char *const variants[] = {"", ".fp32", ".fp16", ".bf16", ".ema", ".non_ema"};
static const char *const stems[] = {"diffusion_pytorch_model", "model", "pytorch_model"};

/* The first name that is there, or NULL. Caller frees. */
static char *find_file(const char *folder)
{
    for (guint kind = 0; kind < G_N_ELEMENTS(kinds); kind++)
        for (guint variant = 0; variant < G_N_ELEMENTS(variants); variant++)
            for (guint stem = 0; stem < G_N_ELEMENTS(stems); stem++) {
                g_autofree char *name =
                    g_strdup_printf(kinds[kind], stems[stem], variants[variant]);
                g_autofree char *path = g_build_filename(folder, name, NULL);
                if (g_file_test(path, G_FILE_TEST_EXISTS))
                    return g_steal_pointer(&path);
            }
    return NULL;
}

/* What a folder has in place of weights we can read, or NULL. Caller frees. */
static char *other_weights(const char *folder)
{
    static const char *const suffixes[] = {".ckpt", ".pt",   ".pth",        ".safetensors",
                                           ".bin",  ".onnx", ".index.json", ".msgpack"};
    g_autoptr(GDir) dir = g_dir_open(folder, 0, NULL);
    g_autofree char *best = NULL;
    const char *name;
    while (dir && (name = g_dir_read_name(dir)))
        for (guint i = 0; i < G_N_ELEMENTS(suffixes); i++)
            if (g_str_has_suffix(name, suffixes[i]) && (!best || g_strcmp0(name, best) < 0)) {
                g_free(best);
                best = g_strdup(name);
            }
    return best ? g_filename_display_name(best) : NULL;
}

static char *canonical(const char *stored, gpointer part)
{
    return moji_name_canonical(GPOINTER_TO_INT(part), stored);
}

MojiWeights *moji_folder_weights(const char *folder, MojiPart part, GError **error)
{
    g_autofree char *path = find_file(folder);
    const char *expected = part == MOJI_PART_TEXT ? "model" : "diffusion_pytorch_model";
    if (!path) {
        g_autofree char *other = other_weights(folder);
        moji_error_file(error, folder, "has %s, expected %s.safetensors or %s.fp16.safetensors",
                        other ? other : "no weights", expected, expected);
        return NULL;
    }
    MojiWeights *stored = moji_weights_open(path, error);
    MojiWeights *w =
        stored ? moji_weights_view(stored, canonical, GINT_TO_POINTER((int)part)) : NULL;
    moji_weights_free(stored);
    return w;
}

char *moji_folder_installed(const char *name)
{
    g_autofree char *program = g_file_read_link("/proc/self/exe", NULL);
    if (program) {
        g_autofree char *bin = g_path_get_dirname(program);
        g_autofree char *prefix = g_path_get_dirname(bin);
        g_autofree char *folder = g_build_filename(prefix, "share", "moji", name, NULL);
        g_autofree char *index = g_build_filename(folder, "model_index.json", NULL);
        if (g_file_test(index, G_FILE_TEST_EXISTS))
            return g_steal_pointer(&folder);
    }
    g_autofree char *folder = g_build_filename(MOJI_SOURCE_DIR, "model", name, NULL);
    g_autofree char *index = g_build_filename(folder, "model_index.json", NULL);
    return g_file_test(index, G_FILE_TEST_EXISTS) ? g_steal_pointer(&folder) : NULL;
}

char *moji_folder_models(void)
{
    return g_build_filename(g_get_user_data_dir(), "moji", "models", NULL);
}

/* Of models that are one file; "" is a folder, or a name with its suffix. */
static const char *const suffixes[] = {"", ".safetensors", ".ckpt"};

char *moji_folder_find(const char *name)
{
    g_autofree char *models = moji_folder_models();
    if (g_file_test(name, G_FILE_TEST_EXISTS) || strchr(name, '/'))
        return g_strdup(name);
    for (guint i = 0; i < G_N_ELEMENTS(suffixes); i++) {
        g_autofree char *file = g_strconcat(name, suffixes[i], NULL);
        g_autofree char *path = g_build_filename(models, file, NULL);
        if (*name && g_file_test(path, G_FILE_TEST_EXISTS))
            return g_steal_pointer(&path);
    }
    return g_strdup(name);
}

char *moji_folder_name(const char *path)
{
    g_autofree char *name = g_path_get_basename(path);
    if (!strcmp(name, "vae")) {
        g_autofree char *model = g_path_get_dirname(path);
        g_free(name);
        name = g_path_get_basename(model);
    }
    for (gsize i = 1; i < G_N_ELEMENTS(suffixes); i++)
        if (g_str_has_suffix(name, suffixes[i]))
            name[strlen(name) - strlen(suffixes[i])] = 0;
    return g_filename_display_name(name);
}

char *moji_folder_find_vae(const char *name)
{
    return name && *name && strcmp(name, "none") ? moji_folder_find(name) : NULL;
}
