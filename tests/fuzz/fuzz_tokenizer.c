/* fuzz_tokenizer.c: strangers' prompts, and strangers' tokenizer files.
 *
 * The first byte chooses: 'p', the rest is a prompt for a sound tokenizer; 'g', it is one with
 * emphasis, laid out in chunks; 'k', it is Korean to be translated; otherwise the rest is
 * vocab.json, merges.txt, tokenizer_config.json and a prompt, one byte 0xff between them. */
#include "korean.h"
#include "prompt.h"
#include <glib/gstdio.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const guint8 *data, size_t bytes);
int LLVMFuzzerInitialize(int *argc, char ***argv);

enum { LENGTH = 12 };

static const char *const files[] = {"vocab.json", "merges.txt", "tokenizer_config.json"};
static char *folder;
static MojiTokenizer *sound;

static void put_file(const char *name, const void *data, gsize bytes)
{
    g_autofree char *path = g_build_filename(folder, name, NULL);
    FILE *file = g_fopen(path, "wb");
    g_assert(file && fwrite(data, 1, bytes, file) == bytes);
    fclose(file);
}

static void clean_up(void)
{
    moji_tokenizer_free(sound);
    for (gsize i = 0; i < G_N_ELEMENTS(files); i++) {
        g_autofree char *path = g_build_filename(folder, files[i], NULL);
        g_unlink(path);
    }
    g_rmdir(folder);
    g_free(folder);
}

/* All bytes as symbols, a few merges. */
int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    static const char *const joined[] = {"th", "the</w>", "ca", "cat</w>", "'s</w>", "!!", "!!!!"};
    static const char merges[] = "t h\nth e</w>\nc a\nca t</w>\n' s</w>\n! !\n!! !!\n";
    GString *text = g_string_new("{");
    int id = 0;
    for (gunichar c = 33; c < 256 + 68; c++) {
        char name[8] = {0};
        if ((c > 126 && c < 161) || c == 173)
            continue;
        g_unichar_to_utf8(c, name);
        const char *escape = c == '"' || c == '\\' ? "\\" : "";
        g_string_append_printf(text, "\"%s%s\":%d,", escape, name, id++);
        g_string_append_printf(text, "\"%s%s</w>\":%d,", escape, name, id++);
    }
    for (gsize i = 0; i < G_N_ELEMENTS(joined); i++)
        g_string_append_printf(text, "\"%s\":%d,", joined[i], id++);
    g_string_append_printf(text, "\"<|startoftext|>\":%d,\"<|endoftext|>\":%d}", id, id + 1);
    folder = g_dir_make_tmp("moji-fuzz-XXXXXX", NULL);
    g_assert(folder);
    put_file(files[0], text->str, text->len);
    put_file(files[1], merges, strlen(merges));
    put_file(files[2], "{}", 2);
    g_string_free(text, TRUE);
    sound = moji_tokenizer_open(folder, LENGTH, NULL);
    g_assert(sound);
    atexit(clean_up);
    (void)argc;
    (void)argv;
    return 0;
}

static void encode(const MojiTokenizer *t, const guint8 *data, gsize bytes)
{
    gint32 ids[LENGTH];
    g_autofree char *prompt = g_strndup((const char *)data, bytes), *dropped = NULL;
    int used = moji_tokenizer_encode(t, prompt, ids, &dropped);
    g_assert(used >= 0 && (used > LENGTH - 2) == (dropped != NULL));
    g_assert(!dropped || g_utf8_validate(dropped, -1, NULL));
    for (int i = 0; i < LENGTH; i++)
        g_assert(ids[i] >= 0 && ids[i] < moji_tokenizer_vocabulary(t));
}

static void lay_out(const guint8 *data, gsize bytes)
{
    enum { WIDTH = 2 };
    float z[LENGTH * WIDTH];
    g_autofree char *prompt = g_strndup((const char *)data, bytes);
    g_autoptr(GError) error = NULL;
    int lacking = -1;
    MojiChunks *c = moji_prompt_chunks(prompt, sound, NULL, &lacking, &error);
    g_assert(c && !error && c->n == LENGTH && lacking >= 0);
    g_assert(c->count >= 1 && c->count <= MOJI_PROMPT_MAX_CHUNKS);
    g_assert(lacking == 0 || c->count == MOJI_PROMPT_MAX_CHUNKS);
    for (int i = 0; i < c->count * LENGTH; i++)
        g_assert(c->ids[i] >= 0 && c->ids[i] < moji_tokenizer_vocabulary(sound) &&
                 fabsf(c->weights[i]) <= MOJI_PROMPT_MAX_WEIGHT && !c->vectors[i]);
    for (int i = 0; i < LENGTH * WIDTH; i++)
        z[i] = 0.5f + i;
    for (int k = 0; k < c->count; k++)
        moji_chunks_weigh(c, k, z, WIDTH);
    moji_chunks_free(c);
}

int LLVMFuzzerTestOneInput(const guint8 *data, size_t bytes)
{
    if (bytes == 0)
        return 0;
    const guint8 *p = data + 1, *end = data + bytes;
    if (data[0] == 'p') {
        encode(sound, p, end - p);
        return 0;
    }
    if (data[0] == 'k') {
        g_autofree char *text = g_utf8_make_valid((const char *)p, end - p), *unknown = NULL;
        g_autofree char *english = moji_korean_translate(text, &unknown, NULL);
        g_assert(english && !moji_korean_found(english) && (!unknown || *unknown));
        return 0;
    }
    if (data[0] == 'g') {
        lay_out(p, end - p);
        return 0;
    }
    for (gsize i = 0; i < G_N_ELEMENTS(files); i++) {
        const guint8 *stop = memchr(p, 0xff, end - p);
        put_file(files[i], p, (stop ? stop : end) - p);
        p = stop ? stop + 1 : end;
    }
    g_autoptr(GError) error = NULL;
    MojiTokenizer *t = moji_tokenizer_open(folder, LENGTH, &error);
    g_assert(!t == !!error);
    if (t)
        encode(t, p, end - p);
    moji_tokenizer_free(t);
    return 0;
}
