/* tune.c: which of several plans is fastest, by timing, remembered on disk.
 *
 * The file is cuda-tuning.ini in the user's cache folder, a group for each GPU with its libraries'
 * versions; a choice is the candidate's number, which the libraries keep for a version. Whatever
 * cannot be read or written there is timed again next time. */
#include "cuda.h"
#include <string.h>

struct CudaTuning {
    GKeyFile *file;
    char *path, *group;
    gboolean changed;
};

CudaTuning *moji_cuda_tuning_new(const char *gpu, const char *libraries)
{
    CudaTuning *t = g_new0(CudaTuning, 1);
    t->file = g_key_file_new();
    t->path = g_build_filename(g_get_user_cache_dir(), "moji", "cuda-tuning.ini", NULL);
    t->group = g_strdup_printf("%s, %s", gpu, libraries);
    g_strdelimit(t->group, "[]\n", '-');
    g_key_file_load_from_file(t->file, t->path, G_KEY_FILE_NONE, NULL);
    return t;
}

void moji_cuda_tuning_free(CudaTuning *t)
{
    if (!t)
        return;
    g_autofree char *folder = g_path_get_dirname(t->path);
    if (t->changed && g_mkdir_with_parents(folder, 0700) == 0)
        g_key_file_save_to_file(t->file, t->path, NULL);
    g_key_file_free(t->file);
    g_free(t->path);
    g_free(t->group);
    g_free(t);
}

/* Milliseconds of one run, the best of a few; infinity if it cannot be run. */
static float time_one(Cuda *cuda, cudaEvent_t from, cudaEvent_t to, CudaTry try, gpointer data,
                      int i)
{
    enum { ROUNDS = 3, EACH = 4 };
    float best = G_MAXFLOAT, ms;
    if (!try(data, i) || cudaStreamSynchronize(cuda->stream)) {
        cudaGetLastError();
        return G_MAXFLOAT;
    }
    for (int round = 0; round < ROUNDS; round++) {
        cudaEventRecord(from, cuda->stream);
        for (int k = 0; k < EACH; k++)
            try(data, i);
        cudaEventRecord(to, cuda->stream);
        if (cudaEventSynchronize(to) || cudaEventElapsedTime(&ms, from, to))
            return G_MAXFLOAT;
        best = MIN(best, ms / EACH);
    }
    return best;
}

int moji_cuda_tune(Cuda *cuda, const char *key, int n, CudaTry try, gpointer data)
{
    CudaTuning *t = cuda->tuning;
    g_autoptr(GError) none = NULL;
    int known = g_key_file_get_integer(t->file, t->group, key, &none);
    if (!none && known >= 0 && known < n && try(data, known))
        return known;
    cudaEvent_t from, to;
    float best = G_MAXFLOAT;
    int chosen = -1;
    if (cudaEventCreateWithFlags(&from, cudaEventDefault))
        return -1;
    if (!cudaEventCreateWithFlags(&to, cudaEventDefault)) {
        for (int i = 0; i < n; i++) {
            float ms = time_one(cuda, from, to, try, data, i);
            if (ms < best) {
                best = ms;
                chosen = i;
            }
        }
        cudaEventDestroy(to);
    }
    cudaEventDestroy(from);
    if (chosen >= 0) {
        g_debug("cuda: %s: candidate %d of %d, %.4f ms", key, chosen, n, best);
        g_key_file_set_integer(t->file, t->group, key, chosen);
        t->changed = TRUE;
    }
    return chosen;
}
