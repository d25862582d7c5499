/* fuzz_model.c: any bytes as each of the JSON files of a model folder. The first byte chooses the
 * file; the others come from a good folder, whose topology is then recorded as a tape. */
#include "json.h"
#include "model.h"
#include "wording.h"
#include <glib/gstdio.h>
#include <stdlib.h>

static const char *const parts[] = {
    "model_index.json", "text_encoder/config.json",        "unet/config.json",
    "vae/config.json",  "scheduler/scheduler_config.json", "moji.json"};
static char *folder;

static void remove_folder(void)
{
    for (guint i = 0; i < G_N_ELEMENTS(parts); i++) {
        g_autofree char *path = g_build_filename(folder, parts[i], NULL);
        g_autofree char *parent = g_path_get_dirname(path);
        g_remove(path);
        g_rmdir(parent);
    }
    g_rmdir(folder);
}

/* Writes a part: the given bytes, or the good folder's. */
static void put(const char *part, const void *data, gsize bytes)
{
    g_autofree char *path = g_build_filename(folder, part, NULL);
    g_autofree char *parent = g_path_get_dirname(path);
    g_autofree char *good = g_build_filename(MOJI_SOURCE_DIR, "tests/fixtures/tiny-sd", part, NULL);
    g_autofree char *text = NULL;
    g_mkdir_with_parents(parent, 0700);
    if (data)
        g_file_set_contents_full(path, data, bytes, G_FILE_SET_CONTENTS_NONE, 0600, NULL);
    else if (g_file_get_contents(good, &text, &bytes, NULL))
        g_file_set_contents_full(path, text, bytes, G_FILE_SET_CONTENTS_NONE, 0600, NULL);
    else
        g_remove(path);
}

static void record(const MojiModel *m)
{
    gint64 ids[] = {1, 8}, sample[] = {1, 8, 8, m->unet.in_channels}, time[] = {1};
    gint64 context[] = {1, 8, m->unet.cross_attention_dim};
    gint64 latents[] = {1, 2, 2, m->vae.latent_channels};
    MojiTape *tape = moji_tape_new(MOJI_F32);
    moji_output(tape, moji_clip(tape, &m->clip, moji_input(tape, "ids", MOJI_I32, 2, ids),
                                moji_input(tape, "positions", MOJI_I32, 2, ids)));
    moji_output(tape, moji_unet(tape, &m->unet, moji_input(tape, "sample", MOJI_F32, 4, sample),
                                moji_input(tape, "timestep", MOJI_F32, 1, time), NULL,
                                moji_input(tape, "context", MOJI_F32, 3, context)));
    moji_output(tape,
                moji_vae_decoder(tape, &m->vae, moji_input(tape, "latents", MOJI_F32, 4, latents)));
    moji_tape_free(tape);
}

int LLVMFuzzerTestOneInput(const guint8 *data, size_t bytes)
{
    static int last = -1;
    if (bytes < 1)
        return 0;
    if (!folder) {
        folder = g_dir_make_tmp("moji-fuzz-XXXXXX", NULL);
        atexit(remove_folder);
        for (guint i = 0; i < G_N_ELEMENTS(parts); i++)
            put(parts[i], NULL, 0);
    }
    int part = data[0] % G_N_ELEMENTS(parts);
    if (last >= 0 && last != part)
        put(parts[last], NULL, 0);
    put(parts[part], data + 1, bytes - 1);
    last = part;

    g_autoptr(GError) error = NULL;
    MojiModel *m = moji_model_configs(folder, &error);
    g_assert(!m == !!error);
    if (!m)
        return 0;
    g_autofree char *prompt = moji_wording_fill(m->card.prompt, "a, {style}", "flat", NULL);
    g_assert(prompt);
    record(m);
    moji_model_free(m);
    return 0;
}
