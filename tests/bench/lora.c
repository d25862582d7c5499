/* lora.c: times changing a LoRA on a warm engine: merging, then preparing what was merged.
 *
 *     build/bench/lora FOLDER LORA TYPE RUNS THREADS
 *
 * Prints a line a run: seconds of merging and of preparing both networks, MiB that are merged.
 * Every second run has another weight, so nothing is found as it was. */
#include "lora.h"
#include "stage.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static double now(void)
{
    return g_get_monotonic_time() / 1e6;
}

static void fail(GError *error)
{
    fprintf(stderr, "lora: %s\n", error->message);
    exit(1);
}

static void prepare(const MojiModel *m, MojiType type, MojiBackend *backend)
{
    GError *error = NULL;
    MojiStage *stages[] = {moji_stage_text(m, type, 2, 1, FALSE),
                           moji_stage_unet(m, type, 2, 64, 64)};
    for (int i = 0; i < 2; i++) {
        if (!moji_stage_prepare(stages[i], backend, &error))
            fail(error);
        moji_stage_free(stages[i]);
    }
}

int main(int argc, char **argv)
{
    GError *error = NULL;
    if (argc != 6) {
        fputs("usage: lora FOLDER LORA f32|bf16 RUNS THREADS\n", stderr);
        return 2;
    }
    MojiType type = strcmp(argv[3], "f32") ? MOJI_BF16 : MOJI_F32;
    int threads = atoi(argv[5]);
    MojiModel *m = moji_model_open(argv[1], &error);
    MojiLora *l = m ? moji_lora_open(argv[2], &error) : NULL;
    MojiBackend *backend = l ? moji_backend_open("auto", threads, &error) : NULL;
    if (!backend)
        fail(error);
    double start = now();
    prepare(m, type, backend);
    printf("first preparation without LoRAs: %.2f s\n", now() - start);
    for (int run = 0; run < atoi(argv[4]); run++) {
        MojiLoraUse use = {.lora = l, .unet = run % 2 ? 0.8 : 0.5, .text = 0.5};
        start = now();
        if (!moji_lora_merge(m, type, threads, &use, 1, NULL, &error))
            fail(error);
        double merged = now();
        prepare(m, type, backend);
        printf("merged in %.2f s, prepared in %.2f s; %.0f MiB, %u of %u tensors\n", merged - start,
               now() - merged, moji_lora_merged_bytes(m) / 1048576.0, use.applied,
               moji_lora_tensors(l));
    }
    moji_backend_close(backend);
    moji_lora_free(l);
    moji_model_free(m);
    return 0;
}
