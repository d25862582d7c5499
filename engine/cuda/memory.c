/* memory.c: the device's memory: allocations, copies, what was in use at most, and what tapes will
 * want.
 *
 * The surprising rule: a forecast is prepare itself, run dry: on a copy of the backend that
 * allocates nothing and fills nothing, so that what is foretold cannot differ from what is done. */
#include "cuda.h"
#include <string.h>

static guint64 bytes_left(void)
{
    size_t left = 0, total = 0;
    return cudaMemGetInfo(&left, &total) ? G_MAXUINT64 : left;
}

guint64 moji_cuda_available(MojiBackend *b)
{
    cudaSetDevice(((Cuda *)b)->device);
    return bytes_left();
}

void moji_cuda_note_use(Cuda *cuda)
{
    cuda->least_left = MIN(cuda->least_left, bytes_left());
}

guint64 moji_cuda_peak(MojiBackend *b)
{
    Cuda *cuda = (Cuda *)b;
    cudaSetDevice(cuda->device);
    moji_cuda_note_use(cuda);
    return cuda->left_at_start - MIN(cuda->left_at_start, cuda->least_left);
}

static gboolean refuse(gsize bytes, const char *what, GError **error)
{
    g_autofree char *wanted = g_format_size_full(bytes, G_FORMAT_SIZE_IEC_UNITS);
    g_autofree char *found = g_format_size_full(bytes_left(), G_FORMAT_SIZE_IEC_UNITS);
    g_set_error(error, MOJI_ERROR, MOJI_ERROR_MEMORY,
                "Not enough GPU memory: %s wants %s, and %s is left", what, wanted, found);
    return FALSE;
}

gboolean moji_cuda_allocate(Cuda *cuda, void **memory, gsize bytes, const char *what,
                            GError **error)
{
    *memory = NULL;
    if (cuda->dry) { /* any address will do that is aligned, and no other's */
        *memory = (void *)cuda->dry_address;
        cuda->dry_address += (bytes + 255) / 256 * 256 + 256;
        return TRUE;
    }
    if (bytes > G_MAXSSIZE || cudaMalloc(memory, bytes)) {
        cudaGetLastError(); /* so that the next call does not find it */
        *memory = NULL;
        return refuse(bytes, what, error);
    }
    moji_cuda_note_use(cuda);
    return TRUE;
}

void moji_cuda_free(Cuda *cuda, void *memory)
{
    if (!cuda->dry)
        cudaFree(memory);
}

gboolean moji_cuda_scratch(Cuda *cuda, gsize bytes, GError **error)
{
    if (bytes <= cuda->scratch_bytes)
        return TRUE;
    cudaStreamSynchronize(cuda->stream);
    moji_cuda_free(cuda, cuda->scratch);
    cuda->scratch_bytes = 0;
    cuda->scratch_turn++;
    if (!moji_cuda_allocate(cuda, &cuda->scratch, bytes, "the networks' working memory", error))
        return FALSE;
    cuda->scratch_bytes = bytes;
    return TRUE;
}

/* ---- to and fro ---- */

/* Page-locked memory for a copy of so many bytes, apart from what copies under way read; NULL if
 * that many never fit. */
static char *pinned_for(Cuda *cuda, gsize bytes)
{
    if (!cuda->pinned || bytes > MOJI_CUDA_PINNED)
        return NULL;
    if (bytes > MOJI_CUDA_PINNED - cuda->pinned_used) {
        cudaStreamSynchronize(cuda->stream);
        cuda->pinned_used = 0;
    }
    char *at = cuda->pinned + cuda->pinned_used;
    cuda->pinned_used += MIN((bytes + 63) / 64 * 64, MOJI_CUDA_PINNED - cuda->pinned_used);
    return at;
}

/* Waits for nothing, unless there is too much for page-locked memory. */
void moji_cuda_write(MojiBackend *b, void *memory, const void *host, gsize bytes)
{
    Cuda *cuda = (Cuda *)b;
    cudaSetDevice(cuda->device);
    char *pinned = pinned_for(cuda, bytes);
    if (pinned)
        memcpy(pinned, host, bytes);
    cudaMemcpyAsync(memory, pinned ? pinned : host, bytes, cudaMemcpyHostToDevice, cuda->stream);
}

/* What failed on the way here shows as numbers that are not numbers, never as old ones. */
void moji_cuda_read(MojiBackend *b, const void *memory, void *host, gsize bytes)
{
    Cuda *cuda = (Cuda *)b;
    cudaSetDevice(cuda->device);
    char *pinned = pinned_for(cuda, bytes);
    if (cudaMemcpyAsync(pinned ? pinned : host, memory, bytes, cudaMemcpyDeviceToHost,
                        cuda->stream) ||
        cudaStreamSynchronize(cuda->stream))
        memset(host, 0xff, bytes);
    else if (pinned)
        memcpy(host, pinned, bytes);
    cuda->pinned_used = 0;
}

void moji_cuda_peek(MojiBackend *b, const void *memory, gsize bytes)
{
    Cuda *cuda = (Cuda *)b;
    cudaSetDevice(cuda->device);
    if (bytes > cuda->peek_room) {
        cudaFreeHost(cuda->peek);
        cuda->peek = NULL;
        cuda->peek_room = cudaMallocHost(&cuda->peek, bytes) ? 0 : bytes;
    }
    cuda->peek_bytes = bytes;
    cuda->peek_failed =
        bytes > cuda->peek_room ||
        cudaMemcpyAsync(cuda->peek, memory, bytes, cudaMemcpyDeviceToHost, cuda->stream) ||
        cudaEventRecord(cuda->peek_done, cuda->stream);
}

void moji_cuda_peeked(MojiBackend *b, void *host)
{
    Cuda *cuda = (Cuda *)b;
    cudaSetDevice(cuda->device);
    if (cuda->peek_failed || cudaEventSynchronize(cuda->peek_done))
        memset(host, 0xff, cuda->peek_bytes);
    else
        memcpy(host, cuda->peek, cuda->peek_bytes);
}

/* ---- the forecast ---- */

/* As if a file had it, in f32. */
static MojiWeight *weight_like(const MojiTensor *t)
{
    MojiWeight *w = g_new0(MojiWeight, 1);
    w->name = t->name;
    w->type = MOJI_F32;
    w->rank = t->rank;
    memcpy(w->dim, t->dim, sizeof w->dim);
    w->bytes = moji_tensor_count(t) * sizeof(float);
    return w;
}

static void weight_free(gpointer data)
{
    MojiWeight *w = data;
    if (w->prepared)
        g_hash_table_unref(w->prepared);
    g_free(w);
}

/* made: gets the weights, which hold the slabs until all tapes are counted. */
static gboolean prepare_dry(Cuda *dry, MojiTape *tape, GPtrArray *made, GError **error)
{
    g_autofree MojiWeight **weight = g_new0(MojiWeight *, moji_tape_tensors(tape));
    void *block, *prepared;
    for (int i = 0; i < moji_tape_tensors(tape); i++) {
        const MojiTensor *t = moji_tape_tensor(tape, i);
        if (t->kind == MOJI_PARAMETER)
            g_ptr_array_add(made, weight[i] = weight_like(t));
    }
    gsize bytes = moji_tape_block_bytes(tape);
    if (!moji_cuda_allocate(dry, &block, bytes, "", error) ||
        !dry->base.prepare(&dry->base, tape, block, weight, &prepared, error))
        return FALSE;
    dry->base.unprepare(&dry->base, prepared);
    return TRUE;
}

gboolean moji_cuda_forecast(MojiBackend *b, MojiTape *const *tapes, int n, MojiForecast *f,
                            GError **error)
{
    Cuda dry = *(Cuda *)b;
    g_autoptr(GPtrArray) made = g_ptr_array_new_with_free_func(weight_free);
    gboolean done = TRUE;
    dry.dry = TRUE;
    dry.dry_address = 256;
    dry.slabs = g_ptr_array_new();
    dry.scratch = dry.staging = NULL;
    dry.scratch_bytes = 0;
    *f = (MojiForecast){.libraries = moji_cuda_libraries_bytes(dry.libraries)};
    for (int i = 0; done && i < n; i++) {
        done = prepare_dry(&dry, tapes[i], made, error);
        f->activations += moji_tape_block_bytes(tapes[i]);
    }
    f->weights = moji_cuda_slabs_bytes(&dry);
    f->working = dry.scratch_bytes + (dry.staging ? MOJI_CUDA_STAGING : 0) + sizeof *dry.bad;
    g_clear_pointer(&made, g_ptr_array_unref);
    g_ptr_array_unref(dry.slabs);
    return done;
}
