/* replay.c: runs a fuzz target over the files of its corpus, as one row of the suite.
 *
 *     build/fuzz/fuzz_json                  replays tests/fuzz/corpus/json
 *     build/fuzz/fuzz_json FOLDER|FILE...   replays those
 *
 * A target is LLVMFuzzerTestOneInput and, if it needs one, LLVMFuzzerInitialize. A finding ends the
 * program (crash or sanitizer report), so the file's name goes to standard error beforehand where
 * MOJI_FUZZ_VERBOSE is set. */
#include <glib.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const guint8 *data, size_t bytes);
__attribute__((weak)) int LLVMFuzzerInitialize(int *argc, char ***argv);

static int by_name(gconstpointer a, gconstpointer b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Runs one file, or every file of a folder in the order of their names; returns how many. */
static int replay(const char *path)
{
    if (g_file_test(path, G_FILE_TEST_IS_DIR)) {
        g_autoptr(GDir) dir = g_dir_open(path, 0, NULL);
        g_autoptr(GPtrArray) names = g_ptr_array_new_with_free_func(g_free);
        const char *name;
        int files = 0;
        while (dir && (name = g_dir_read_name(dir)))
            g_ptr_array_add(names, g_build_filename(path, name, NULL));
        g_ptr_array_sort(names, by_name);
        for (guint i = 0; i < names->len; i++)
            files += replay(names->pdata[i]);
        return files;
    }
    if (g_getenv("MOJI_FUZZ_VERBOSE"))
        fprintf(stderr, "%s\n", path);
    g_autofree char *text = NULL;
    gsize bytes;
    if (!g_file_get_contents(path, &text, &bytes, NULL))
        return 0;
    /* A copy of the exact size, so that a sanitizer sees a read past its end. */
    guint8 *data = malloc(bytes ? bytes : 1);
    if (bytes)
        memcpy(data, text, bytes);
    LLVMFuzzerTestOneInput(data, bytes);
    free(data);
    return 1;
}

int main(int argc, char **argv)
{
    g_autofree char *base = g_path_get_basename(argv[0]);
    const char *name = g_str_has_prefix(base, "fuzz_") ? base + strlen("fuzz_") : base;
    g_autofree char *corpus = g_build_filename(MOJI_SOURCE_DIR, "tests/fuzz/corpus", name, NULL);
    int files = 0;

    if (LLVMFuzzerInitialize)
        LLVMFuzzerInitialize(&argc, &argv);
    for (int i = 1; i < argc; i++)
        files += replay(argv[i]);
    if (argc < 2)
        files = replay(corpus);
    printf("%s fuzz %s: %d files\n", files ? "ok" : "FAIL", name, files);
    printf("# %d passed, %d failed, 0 skipped\n", files > 0, files == 0);
    return files ? 0 : 1;
}
