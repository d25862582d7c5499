/* upload.c: weights on the device, converted there from the file's type and order.
 *
 * Every tape of a model finds the same copy, kept with the MojiWeight. Copies are cut one after
 * another from slabs, since the driver rounds each allocation of its own up to 2 MiB.
 *
 * A weight whose values change (LoRA) is uploaded again to where it is, so that what knows its
 * address (tapes, graphs) goes on.
 *
 * The surprising rule: a slab is given back when the last weight in it is let go, not before. */
#include "cuda.h"

#define SLAB_BYTES ((gsize)64 << 20)
#define ALIGNMENT 256

struct CudaSlab {
    Cuda *cuda;
    char *memory;
    gsize bytes, used;
    int living;
};

typedef struct {
    CudaSlab *slab;
    void *data;
    MojiType type;
    gint64 out, in, taps; /* how fill cuts it into rows */
} Copy;

static void slab_free(CudaSlab *slab)
{
    moji_cuda_free(slab->cuda, slab->memory);
    g_ptr_array_remove_fast(slab->cuda->slabs, slab);
    g_free(slab);
}

void moji_cuda_slabs_free(Cuda *cuda)
{
    g_assert(!cuda->slabs || cuda->slabs->len == 0); /* weights must be gone first */
    g_clear_pointer(&cuda->slabs, g_ptr_array_unref);
    moji_cuda_free(cuda, cuda->staging);
}

guint64 moji_cuda_slabs_bytes(const Cuda *cuda)
{
    guint64 bytes = 0;
    for (guint i = 0; i < cuda->slabs->len; i++)
        bytes += ((const CudaSlab *)cuda->slabs->pdata[i])->bytes;
    return bytes;
}

static void copy_free(gpointer data)
{
    Copy *copy = data;
    if (--copy->slab->living == 0)
        slab_free(copy->slab);
    g_free(copy);
}

static CudaSlab *slab_with_room(Cuda *cuda, gsize bytes, const char *what, GError **error)
{
    for (guint i = 0; i < cuda->slabs->len; i++) {
        CudaSlab *slab = cuda->slabs->pdata[i];
        if (slab->bytes - slab->used >= bytes)
            return slab;
    }
    CudaSlab *slab = g_new0(CudaSlab, 1);
    slab->cuda = cuda;
    slab->bytes = MAX(bytes, SLAB_BYTES);
    if (!moji_cuda_allocate(cuda, (void **)&slab->memory, slab->bytes, what, error)) {
        g_free(slab);
        return NULL;
    }
    g_ptr_array_add(cuda->slabs, slab);
    return slab;
}

static gsize aligned(gsize bytes)
{
    return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

static Copy *copy_new(CudaSlab *slab, gsize bytes)
{
    Copy *copy = g_new0(Copy, 1);
    copy->slab = slab;
    copy->data = slab->memory + slab->used;
    slab->used += aligned(bytes);
    slab->living++;
    return copy;
}

/* Through the staging memory, as many of `out` rows of `in` values times `taps` at once as fit. */
static cudaError_t fill(const Copy *to, const MojiWeight *w)
{
    Cuda *cuda = to->slab->cuda;
    gsize size = moji_type_bytes(w->type), row = to->in * to->taps;
    gint64 step = MAX(MOJI_CUDA_STAGING / (row * size), 1);
    cudaError_t e = cudaSuccess;
    for (gint64 o = 0; o < to->out && !e; o += step) {
        gint64 rows = MIN(step, to->out - o);
        e = cudaMemcpyAsync(cuda->staging, (const char *)w->data + o * row * size,
                            rows * row * size, cudaMemcpyHostToDevice, cuda->stream);
        if (!e)
            e = kernel_weight((char *)to->data + o * row * moji_type_bytes(to->type),
                              moji_cuda_type(to->type), cuda->staging, moji_cuda_type(w->type),
                              rows, to->in, to->taps, cuda->stream);
    }
    return e;
}

/* On the stream like everything else: after what was put there with the old values. */
static gboolean renew(gpointer data, const MojiWeight *w, GError **error)
{
    Copy *copy = data;
    cudaSetDevice(copy->slab->cuda->device);
    return moji_cuda_ok(fill(copy, w), NULL, error);
}

static void key_of(char *key, gsize bytes, MojiType type, gint64 taps)
{
    g_snprintf(key, bytes, "cuda %s%s", moji_type_name(type), taps > 1 ? " taps last" : "");
}

static gint64 numbers(const MojiWeight *weight)
{
    return weight->bytes / moji_type_bytes(weight->type);
}

static gboolean have_staging(Cuda *cuda, const char *what, GError **error)
{
    return cuda->staging ||
           moji_cuda_allocate(cuda, &cuda->staging, MOJI_CUDA_STAGING, what, error);
}

/* In `slab`, which has room for it, or NULL: in whichever has. */
static const void *make(Cuda *cuda, CudaSlab *slab, MojiWeight *weight, MojiType type, gint64 taps,
                        GError **error)
{
    char key[64];
    gint64 n = numbers(weight), bytes = n * moji_type_bytes(type);
    /* a row must fit into the staging memory; without taps there are no rows to keep together */
    gint64 in = taps > 1 ? weight->dim[1] : 1, out = n / (in * taps);
    if (in * taps * moji_type_bytes(weight->type) > MOJI_CUDA_STAGING) {
        g_set_error(error, MOJI_ERROR, MOJI_ERROR_BACKEND, "%s is too wide for the CUDA backend",
                    weight->name);
        return NULL;
    }
    if (!have_staging(cuda, weight->name, error) ||
        (!slab && !(slab = slab_with_room(cuda, aligned(bytes), weight->name, error))))
        return NULL;
    Copy *copy = copy_new(slab, bytes);
    copy->type = type;
    copy->out = out;
    copy->in = in;
    copy->taps = taps;
    if (!cuda->dry && !moji_cuda_ok(fill(copy, weight), NULL, error)) {
        copy_free(copy);
        return NULL;
    }
    key_of(key, sizeof key, type, taps);
    moji_weight_set_renewable(weight, key, copy, copy_free, renew);
    return copy->data;
}

static const void *find(MojiWeight *weight, MojiType type, gint64 taps)
{
    char key[64];
    key_of(key, sizeof key, type, taps);
    const Copy *copy = moji_weight_prepared(weight, key);
    return copy ? copy->data : NULL;
}

const void *moji_cuda_weight(Cuda *cuda, MojiWeight *weight, MojiType type, gint64 taps,
                             GError **error)
{
    const void *found = find(weight, type, taps);
    return found ? found : make(cuda, NULL, weight, type, taps, error);
}

gboolean moji_cuda_weights(Cuda *cuda, MojiWeight *const *weight, int n, MojiType type,
                           const void **at, GError **error)
{
    gsize bytes = aligned(numbers(weight[0]) * moji_type_bytes(type));
    gboolean none = TRUE;
    CudaSlab *slab = NULL;
    for (int i = 0; i < n; i++)
        none = none && !find(weight[i], type, 1);
    if (!have_staging(cuda, weight[0]->name, error) || /* a slab with nothing in it would stay */
        (n > 1 && none && !(slab = slab_with_room(cuda, n * bytes, weight[0]->name, error))))
        return FALSE;
    for (int i = 0; i < n; i++) {
        at[i] = find(weight[i], type, 1); /* one may be there twice */
        if (!at[i] && !(at[i] = make(cuda, slab, weight[i], type, 1, error)))
            return FALSE;
    }
    return TRUE;
}
