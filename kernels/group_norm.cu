/* group_norm.cu: x [batch,pixels,C] by group of channels to mean 0 and variance 1, then weight,
 * bias and perhaps SiLU; before all that, perhaps, a shift by channel (the time embedding).
 *
 * Two kernels. moments: a block takes a part of the pixels and a tile of whole groups; each thread
 * keeps one pack of channels and walks down the pixels, and the block writes mean and spread of its
 * part for each group. affine: a block puts the parts of its tile's groups together (a warp a
 * group, a lane a part), then walks down its own pixels.
 *
 * The surprising rule: sums are of x minus the image's first pixel, so that a mean far from zero
 * costs no digits; parts are joined by their means (Chan, Golub and LeVeque 1983), always in the
 * same order. Not measured yet. */
#include "device.cuh"

enum { MAX_TILE = 2048, MAX_PARTS = 128, MAX_CHUNKS = 512 };

struct Plan {
    int channels, groups, width; /* width: channels of a group */
    int tile_groups, tile;       /* groups and channels of a tile */
    int lanes;                   /* threads side by side on one pixel */
    int64_t pixels, part, chunk; /* pixels of a part, of a chunk */
    int parts;
    int silu;
    float eps;
};

/* Mean and spread (sum of squared distances from it) of one group in one part. */
struct Moments {
    float mean, spread;
};

template <typename T, int N>
__device__ __forceinline__ void load_shifted(float (&v)[N], const T *x, const T *shift)
{
    load(v, x);
    if (shift) {
        float s[N];
        load(s, shift);
#pragma unroll
        for (int k = 0; k < N; k++)
            v[k] += s[k];
    }
}

/* room: [lines][tile] sums, then as many squares; afterwards line 0 has mean and spread by
 * channel. */
template <typename T, int N>
__device__ void sum_channels(const T *x, const T *shift, const Plan &p, int64_t first, int64_t end,
                             float *room)
{
    int lines = BLOCK / p.lanes, line = threadIdx.x / p.lanes;
    float *square = room + lines * p.tile;
    for (int c = threadIdx.x % p.lanes * N; c < p.tile && line < lines; c += p.lanes * N) {
        float pivot[N], v[N], s[N], q[N];
        load_shifted(pivot, x + c, shift ? shift + c : shift);
#pragma unroll
        for (int k = 0; k < N; k++)
            s[k] = q[k] = 0;
        for (int64_t i = first + line; i < end; i += lines) {
            load_shifted(v, x + i * p.channels + c, shift ? shift + c : shift);
#pragma unroll
            for (int k = 0; k < N; k++) {
                v[k] -= pivot[k];
                s[k] += v[k];
                q[k] += v[k] * v[k];
            }
        }
        store(room + line * p.tile + c, s);
        store(square + line * p.tile + c, q);
    }
    __syncthreads();
    for (int c = threadIdx.x; c < p.tile; c += BLOCK) {
        float s = 0, q = 0, n = (float)(end - first);
        float pivot = to_float(x[c]) + (shift ? to_float(shift[c]) : 0);
        for (int i = 0; i < lines; i++) {
            s += room[i * p.tile + c];
            q += square[i * p.tile + c];
        }
        room[c] = pivot + s / n;
        square[c] = q - s * s / n;
    }
    __syncthreads();
}

/* grid: parts, tiles, images */
template <typename T, int N>
__global__ void moments(Moments *out, const T *x, const T *shift, Plan p)
{
    float *mean = (float *)shared_memory(), *spread = mean + BLOCK / p.lanes * p.tile;
    int first_group = blockIdx.y * p.tile_groups;
    int64_t first = blockIdx.x * p.part, end = min(first + p.part, p.pixels);
    x += blockIdx.z * p.pixels * p.channels + first_group * p.width;
    if (shift)
        shift += (int64_t)blockIdx.z * p.channels + first_group * p.width;
    sum_channels<T, N>(x, shift, p, first, end, mean);
    int g = threadIdx.x;
    if (g >= p.tile_groups)
        return;
    Moments m = {0, 0};
    float n = (float)(end - first);
    for (int c = g * p.width; c < (g + 1) * p.width; c++)
        m.mean += mean[c] / p.width;
    for (int c = g * p.width; c < (g + 1) * p.width; c++)
        m.spread += spread[c] + n * (mean[c] - m.mean) * (mean[c] - m.mean);
    out[((int64_t)blockIdx.z * p.parts + blockIdx.x) * p.groups + first_group + g] = m;
}

/* All parts of one group, by one warp. */
static __device__ Moments join_parts(const Moments *part, const Plan &p)
{
    int lane = threadIdx.x % WARP;
    float sum = 0, spread = 0;
    for (int i = lane; i < p.parts; i += WARP)
        sum += part[(int64_t)i * p.groups].mean * (min((i + 1) * p.part, p.pixels) - i * p.part);
    float mean = warp_sum(sum) / p.pixels;
    for (int i = lane; i < p.parts; i += WARP) {
        Moments m = part[(int64_t)i * p.groups];
        float n = (float)(min((i + 1) * p.part, p.pixels) - i * p.part) * p.width;
        spread += m.spread + n * (m.mean - mean) * (m.mean - mean);
    }
    return {mean, warp_sum(spread)};
}

/* grid: chunks, tiles, images */
template <typename T, int N>
__global__ void affine(T *y, const T *x, const T *shift, const float *weight, const float *bias,
                       const Moments *part, Plan p)
{
    float *factor = (float *)shared_memory(), *term = factor + p.tile;
    int first_group = blockIdx.y * p.tile_groups, first_channel = first_group * p.width;
    part += (int64_t)blockIdx.z * p.parts * p.groups + first_group;
    if (shift)
        shift += (int64_t)blockIdx.z * p.channels + first_channel;
    for (int g = threadIdx.x / WARP; g < p.tile_groups; g += BLOCK / WARP) {
        Moments m = join_parts(part + g, p);
        float scale = rsqrtf(m.spread / ((float)p.pixels * p.width) + p.eps);
        for (int c = g * p.width + threadIdx.x % WARP; c < (g + 1) * p.width; c += WARP) {
            float f = weight[first_channel + c] * scale;
            factor[c] = f;
            term[c] = bias[first_channel + c] + ((shift ? to_float(shift[c]) : 0) - m.mean) * f;
        }
    }
    __syncthreads();
    int64_t first = blockIdx.x * p.chunk, end = min(first + p.chunk, p.pixels);
    int lines = BLOCK / p.lanes, line = threadIdx.x / p.lanes;
    int64_t image = blockIdx.z * p.pixels * p.channels + first_channel;
    for (int c = threadIdx.x % p.lanes * N; c < p.tile && line < lines; c += p.lanes * N)
        for (int64_t i = first + line; i < end; i += lines) {
            float v[N];
            load(v, x + image + i * p.channels + c);
#pragma unroll
            for (int k = 0; k < N; k++) {
                v[k] = v[k] * factor[c + k] + term[c + k];
                if (p.silu)
                    v[k] = silu(v[k]);
            }
            store(y + image + i * p.channels + c, v);
        }
}

/* n: values of a pack */
static Plan make_plan(const KernelGroupNorm *s, int n)
{
    Plan p;
    p.channels = (int)s->channels;
    p.groups = s->groups;
    p.width = p.channels / p.groups;
    p.tile_groups = p.groups;
    while (p.tile_groups > 1 && (p.tile_groups * p.width > MAX_TILE || p.tile_groups > BLOCK ||
                                 p.groups % p.tile_groups))
        p.tile_groups--;
    p.tile = p.tile_groups * p.width;
    if (p.tile % n)
        n = 1;
    p.lanes = p.tile / n < BLOCK ? p.tile / n : BLOCK;
    p.pixels = s->pixels;
    p.parts = (int)min((int64_t)MAX_PARTS, (p.pixels + 127) / 128);
    p.part = (p.pixels + p.parts - 1) / p.parts;
    p.parts = (int)blocks_for(p.pixels, p.part);
    int64_t chunks = min((int64_t)MAX_CHUNKS, (p.pixels + 63) / 64);
    p.chunk = (p.pixels + chunks - 1) / chunks;
    p.silu = s->silu;
    p.eps = s->eps;
    return p;
}

template <typename T, int N>
static cudaError_t launch(T *y, const T *x, const T *shift, const float *weight, const float *bias,
                          Moments *work, const KernelGroupNorm *s, cudaStream_t stream)
{
    Plan p = make_plan(s, N);
    unsigned tiles = p.groups / p.tile_groups, images = (unsigned)s->batch;
    size_t room = 2 * sizeof(float) * (BLOCK / p.lanes) * p.tile;
    cudaError_t error = s->measured ? cudaSuccess
                                    : LAUNCH((moments<T, N>), dim3(p.parts, tiles, images), BLOCK,
                                             room, stream, work, x, shift, p);
    if (error)
        return error;
    return LAUNCH((affine<T, N>), dim3(blocks_for(p.pixels, p.chunk), tiles, images), BLOCK,
                  2 * sizeof(float) * p.tile, stream, y, x, shift, weight, bias, work, p);
}

template <typename T>
static cudaError_t choose(void *y, const void *x, const void *shift, const float *weight,
                          const float *bias, void *work, const KernelGroupNorm *s,
                          cudaStream_t stream)
{
    constexpr int N = wide<T>();
    Plan p = make_plan(s, N);
    if (p.tile % N == 0 && takes_packs<T>(s->channels, x, y) && (uintptr_t)shift % 16 == 0)
        return launch<T, N>((T *)y, (const T *)x, (const T *)shift, weight, bias, (Moments *)work,
                            s, stream);
    return launch<T, 1>((T *)y, (const T *)x, (const T *)shift, weight, bias, (Moments *)work, s,
                        stream);
}

size_t kernel_group_norm_bytes(const KernelGroupNorm *s)
{
    return (size_t)s->batch * MAX_PARTS * s->groups * sizeof(Moments);
}

cudaError_t kernel_group_norm(void *y, const void *x, const void *shift, const float *weight,
                              const float *bias, void *work, const KernelGroupNorm *s,
                              KernelType type, cudaStream_t stream)
{
    BY_TYPE(type, return choose<T>(y, x, shift, weight, bias, work, s, stream));
    return cudaErrorInvalidValue;
}
