/* attention.cu: softmax(scale q k') v in one pass over the keys, for 2-byte types on tensor cores.
 *
 * A block of four warps takes 64 queries of one head, a warp 16 of them, and walks over the keys 64
 * at a time: scores = q k' in registers, the running maximum and sum of each row, exponentials,
 * out = out * shrink + exponentials * v. The next keys and values come in meanwhile. A warp's 16
 * rows are its lanes in fours: lane / 4 is the row (and row + 8), lane % 4 the pair of columns.
 * grid: tiles of queries, heads, images. After Dao 2023, arXiv:2307.08691.
 *
 * The surprising rule: heads are padded with zeros to WIDTH, and keys beyond the last are zeros
 * whose scores are then set to minus infinity; their values must be zeros too, lest 0 * NaN spoil a
 * row. Not measured yet. */
#include "device.cuh"

enum {
    QUERIES = 64,
    KEYS = 64,
    WARPS = 4,
    PAD = 8 /* values: rows of shared memory then start in
               eight different groups of banks */
};

/* Rows first .. first + 63 of one head to shared memory, zeros after `rows` and after `width`. */
template <typename T, int WIDTH>
__device__ __forceinline__ void fetch(T *to, const T *from, int64_t first, int64_t rows,
                                      int64_t row, int width)
{
    constexpr int CHUNKS = WIDTH / 8; /* of 16 bytes */
    for (int i = threadIdx.x; i < KEYS * CHUNKS; i += WARPS * WARP) {
        int r = i / CHUNKS, c = i % CHUNKS * 8;
        bool there = first + r < rows && c < width;
        copy_async(to + r * (WIDTH + PAD) + c, there ? from + (first + r) * row + c : from,
                   there ? 16 : 0);
    }
}

/* This warp's 16 queries as the first operand of mma, from shared memory. */
template <typename T, int WIDTH>
__device__ __forceinline__ void take_queries(unsigned (&q)[WIDTH / 16][4], const T *from)
{
    int lane = threadIdx.x % WARP;
    from += (threadIdx.x / WARP * 16 + lane / 4) * (WIDTH + PAD) + lane % 4 * 2;
#pragma unroll
    for (int k = 0; k < WIDTH / 16; k++)
#pragma unroll
        for (int i = 0; i < 4; i++)
            q[k][i] = *(const unsigned *)(from + i % 2 * 8 * (WIDTH + PAD) + k * 16 + i / 2 * 8);
}

template <typename T, int WIDTH>
__device__ __forceinline__ void score(float (&s)[KEYS / 8][4], const unsigned (&q)[WIDTH / 16][4],
                                      const T *keys)
{
    int lane = threadIdx.x % WARP;
    keys += lane / 4 * (WIDTH + PAD) + lane % 4 * 2;
#pragma unroll
    for (int j = 0; j < KEYS / 8; j++) {
        s[j][0] = s[j][1] = s[j][2] = s[j][3] = 0;
#pragma unroll
        for (int k = 0; k < WIDTH / 16; k++) {
            const T *at = keys + j * 8 * (WIDTH + PAD) + k * 16;
            unsigned b[2] = {*(const unsigned *)at, *(const unsigned *)(at + 8)};
            mma(s[j], q[k], b, T());
        }
    }
}

/* Of two lines (row and row + 8): a lane's part, then that of the four lanes of a row. */
struct Lines {
    float most[2], sum[2];
};

/* Scores to exponentials; out and the sums shrink where the maximum grew. by: scale * log2 e. */
template <int WIDTH>
__device__ __forceinline__ void exponentials(float (&s)[KEYS / 8][4], float (&out)[WIDTH / 8][4],
                                             Lines &l, float by)
{
#pragma unroll
    for (int h = 0; h < 2; h++) {
        float most = l.most[h];
#pragma unroll
        for (int j = 0; j < KEYS / 8; j++)
            most = fmaxf(most, fmaxf(s[j][2 * h], s[j][2 * h + 1]));
        most = fmaxf(most, __shfl_xor_sync(ALL_LANES, most, 1));
        most = fmaxf(most, __shfl_xor_sync(ALL_LANES, most, 2));
        float base = most == -INFINITY ? 0 : most * by; /* no key seen yet */
        float shrink = exp2f(l.most[h] * by - base);
        l.most[h] = most;
        l.sum[h] *= shrink;
#pragma unroll
        for (int j = 0; j < KEYS / 8; j++)
#pragma unroll
            for (int i = 2 * h; i < 2 * h + 2; i++) {
                s[j][i] = exp2f(s[j][i] * by - base);
                l.sum[h] += s[j][i];
            }
#pragma unroll
        for (int j = 0; j < WIDTH / 8; j++) {
            out[j][2 * h] *= shrink;
            out[j][2 * h + 1] *= shrink;
        }
    }
}

template <typename T, int WIDTH>
__device__ __forceinline__ void add_values(float (&out)[WIDTH / 8][4],
                                           const float (&p)[KEYS / 8][4], const T *values)
{
    int lane = threadIdx.x % WARP;
    values += lane % 16 * (WIDTH + PAD);
#pragma unroll
    for (int k = 0; k < KEYS / 16; k++) {
        unsigned a[4] = {pair<T>(p[2 * k][0], p[2 * k][1]), pair<T>(p[2 * k][2], p[2 * k][3]),
                         pair<T>(p[2 * k + 1][0], p[2 * k + 1][1]),
                         pair<T>(p[2 * k + 1][2], p[2 * k + 1][3])};
#pragma unroll
        for (int j = 0; j < WIDTH / 8; j++) {
            unsigned b[2];
            load_transposed(b, values + k * 16 * (WIDTH + PAD) + j * 8);
            mma(out[j], a, b, T());
        }
    }
}

/* Keys that are not there, or not to be seen, count for nothing. */
[[maybe_unused]] static __device__ __forceinline__ void
mask(float (&s)[KEYS / 8][4], int64_t first_key, int64_t keys, int64_t query, bool causal)
{
    int lane = threadIdx.x % WARP;
#pragma unroll
    for (int j = 0; j < KEYS / 8; j++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int64_t key = first_key + j * 8 + lane % 4 * 2 + i % 2;
            if (key >= keys || (causal && key > query + i / 2 * 8))
                s[j][i] = -INFINITY;
        }
}

template <typename T, int WIDTH>
__device__ void write_out(T *y, float (&out)[WIDTH / 8][4], const Lines &l, int64_t query,
                          const KernelAttention &s)
{
    int lane = threadIdx.x % WARP;
#pragma unroll
    for (int h = 0; h < 2; h++) {
        float sum = l.sum[h];
        sum += __shfl_xor_sync(ALL_LANES, sum, 1);
        sum += __shfl_xor_sync(ALL_LANES, sum, 2);
        int64_t row = query + 8 * h;
        for (int j = 0; j < WIDTH / 8; j++) {
            int c = j * 8 + lane % 4 * 2;
            if (row < s.n && c < s.width)
                *(unsigned *)(y + row * s.y_row + c) =
                    pair<T>(out[j][2 * h] / sum, out[j][2 * h + 1] / sum);
        }
    }
}

template <typename T, int WIDTH>
__global__ void __launch_bounds__(WARPS *WARP)
    attention(T *y, const T *q, const T *k, const T *v, KernelAttention s)
{
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
    constexpr int TILE = KEYS * (WIDTH + PAD);
    T *keys = (T *)shared_memory(), *values = keys + 2 * TILE; /* two of each */
    int64_t head = (int64_t)blockIdx.y * s.width, first = (int64_t)blockIdx.x * QUERIES;
    q += blockIdx.z * s.n * s.q_row + head;
    k += blockIdx.z * s.m * s.kv_row + head;
    v += blockIdx.z * s.m * s.kv_row + head;
    y += blockIdx.z * s.n * s.y_row + head;
    int64_t query = first + threadIdx.x / WARP * 16 + threadIdx.x % WARP / 4;
    int64_t seen = s.causal ? min(s.m, first + QUERIES) : s.m;
    unsigned mine[WIDTH / 16][4];
    float out[WIDTH / 8][4] = {}, p[KEYS / 8][4];
    Lines l = {{-INFINITY, -INFINITY}, {0, 0}};

    fetch<T, WIDTH>(values, q, first, s.n, s.q_row, s.width); /* the values' place is still free */
    copy_commit();
    fetch<T, WIDTH>(keys, k, 0, s.m, s.kv_row, s.width);
    copy_wait<0>();
    __syncthreads();
    take_queries<T, WIDTH>(mine, values);
    __syncthreads();
    fetch<T, WIDTH>(values, v, 0, s.m, s.kv_row, s.width);
    copy_commit();
    for (int64_t at = 0, turn = 0; at < seen; at += KEYS, turn ^= 1) {
        int64_t next = at + KEYS;
        if (next < seen) {
            fetch<T, WIDTH>(keys + (turn ^ 1) * TILE, k, next, s.m, s.kv_row, s.width);
            fetch<T, WIDTH>(values + (turn ^ 1) * TILE, v, next, s.m, s.kv_row, s.width);
        }
        copy_commit();
        copy_wait<1>();
        __syncthreads();
        score<T, WIDTH>(p, mine, keys + turn * TILE);
        if (next > s.m || s.causal)
            mask(p, at, s.m, query, s.causal);
        exponentials<WIDTH>(p, out, l, s.scale * 1.44269504f);
        add_values<T, WIDTH>(out, p, values + turn * TILE);
        __syncthreads();
    }
    write_out<T, WIDTH>(y, out, l, query, s);
#endif
}

template <typename T, int WIDTH>
static cudaError_t launch(void *y, const void *q, const void *k, const void *v,
                          const KernelAttention *shape, cudaStream_t stream)
{
    KernelAttention s = *shape;
    size_t shared = 4 * KEYS * (WIDTH + PAD) * sizeof(T);
    cudaError_t error = ALLOW_SHARED((attention<T, WIDTH>), shared);
    if (error)
        return error;
    return LAUNCH((attention<T, WIDTH>), dim3(blocks_for(s.n, QUERIES), s.heads, (unsigned)s.batch),
                  WARPS * WARP, shared, stream, (T *)y, (const T *)q, (const T *)k, (const T *)v,
                  s);
}

template <typename T>
static cudaError_t choose(void *y, const void *q, const void *k, const void *v,
                          const KernelAttention *s, cudaStream_t stream)
{
    return s->width <= 32    ? launch<T, 32>(y, q, k, v, s, stream)
           : s->width <= 48  ? launch<T, 48>(y, q, k, v, s, stream)
           : s->width <= 64  ? launch<T, 64>(y, q, k, v, s, stream)
           : s->width <= 80  ? launch<T, 80>(y, q, k, v, s, stream)
           : s->width <= 128 ? launch<T, 128>(y, q, k, v, s, stream)
                             : launch<T, 160>(y, q, k, v, s, stream);
}

int kernel_attention_takes(int width, KernelType type)
{
    return type != KERNEL_F32 && width % 8 == 0 && width <= 160;
}

cudaError_t kernel_attention(void *y, const void *q, const void *k, const void *v,
                             const KernelAttention *shape, KernelType type, cudaStream_t stream)
{
    if (!kernel_attention_takes(shape->width, type))
        return cudaErrorInvalidValue;
    return type == KERNEL_F16 ? choose<f16>(y, q, k, v, shape, stream)
                              : choose<bf16>(y, q, k, v, shape, stream);
}
