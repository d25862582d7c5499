/* shim.cpp: see shim.h and cuda_runtime_api.h.
 *
 * run_block lets each fiber that is ready run until it waits or ends, then frees the warps and the
 * block whose threads all wait at the same place, and again, until all have ended. If nobody is
 * ready and nobody can be freed, threads wait for others that will not come. */
#include "shim.h"
#include <algorithm>
#include <chrono>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <ucontext.h>
#include <unordered_map>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#define FIBERS_ANNOUNCED 1
#else
#define FIBERS_ANNOUNCED 0
#endif
#if FIBERS_ANNOUNCED
static const void *scheduler_stack;
static size_t scheduler_bytes;
#endif

dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace
{
constexpr size_t STACK_BYTES = 256 << 10;
constexpr int WARP = 32;

enum class State { ready, at_barrier, at_warp, ended };

struct Copy {
    void *to;
    const void *from;
    int bytes, group;
};

/* Where the scheduler or a fiber goes on. swapcontext asks the kernel for the signal mask at each
 * switch, which is most of what a switch costs, so a context is for the start of a fiber only. The
 * compiler's own jumps, and not the library's, which the address sanitizer takes for the end of the
 * stack that is left. */
struct Place {
    ucontext_t context;
    void *jump[5];
    bool jumps = false;
};

struct Fiber {
    Place place;
    std::unique_ptr<char[]> stack;
    void *fake_stack = nullptr;
    State state = State::ended;
    int site;
    unsigned exchanges;
    int groups; /* of asynchronous copies, committed */
    std::vector<Copy> copies;
};

struct Warp {
    char slot[2][WARP][SHIM_SLOT];
};

std::vector<Fiber> fibers(1024); /* as many as a block has threads at most; they never move */
std::vector<Warp> warps;
std::vector<int> turn; /* the order of the threads */
Place scheduler;
int present; /* the thread that is running */
int threads;
char *shared;
const std::function<void()> *kernel_now;
unsigned order_now;
char message[200];
bool failed;

std::unordered_map<void *, size_t> blocks; /* of device memory */
size_t device_bytes = (size_t)1 << 30;
int fails_in, fails_left;
MojiShimCounts counts;

void fail(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    if (!failed)
        std::vsnprintf(message, sizeof message, format, args);
    va_end(args);
    failed = true;
}

/* ---- fibers ---- */

/* Not sanitized: it would clear the shadow of the stack before a call that does not return. */
[[gnu::noinline, gnu::no_sanitize("address")]] void go_on(Place &to)
{
    if (to.jumps)
        __builtin_longjmp(to.jump, 1);
    setcontext(&to.context);
}

[[gnu::noinline]] void change(Place &from, Place &to)
{
    from.jumps = true;
    if (!__builtin_setjmp(from.jump))
        go_on(to);
}

void to_scheduler()
{
    Fiber &f = fibers[present];
#if FIBERS_ANNOUNCED
    __sanitizer_start_switch_fiber(&f.fake_stack, scheduler_stack, scheduler_bytes);
#endif
    change(f.place, scheduler);
#if FIBERS_ANNOUNCED
    __sanitizer_finish_switch_fiber(f.fake_stack, &scheduler_stack, &scheduler_bytes);
#endif
}

/* One thread of each block after the other, as long as there are blocks. */
void fiber_main()
{
#if FIBERS_ANNOUNCED
    __sanitizer_finish_switch_fiber(nullptr, &scheduler_stack, &scheduler_bytes);
#endif
    for (;;) {
        (*kernel_now)();
        fibers[present].state = State::ended;
        to_scheduler();
    }
}

void resume(int t)
{
    Fiber &f = fibers[t];
    present = t;
    threadIdx = dim3(t % blockDim.x, t / blockDim.x % blockDim.y, t / blockDim.x / blockDim.y);
#if FIBERS_ANNOUNCED
    void *fake;
    __sanitizer_start_switch_fiber(&fake, f.stack.get(), STACK_BYTES);
#endif
    change(scheduler, f.place);
#if FIBERS_ANNOUNCED
    __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#endif
}

/* A fiber that ended its thread of a block before goes on with this one's; one that is new, or was
 * left in the middle by a launch that failed, starts. */
void begin(Fiber &f)
{
    bool resumes = f.stack && f.state == State::ended;
    f.state = State::ready;
    f.exchanges = 0;
    f.groups = 0;
    f.copies.clear();
    if (resumes)
        return;
    if (!f.stack)
        f.stack.reset(new char[STACK_BYTES]);
    f.place.jumps = false;
    getcontext(&f.place.context);
    f.place.context.uc_stack.ss_sp = f.stack.get();
    f.place.context.uc_stack.ss_size = STACK_BYTES;
    f.place.context.uc_link = nullptr;
    makecontext(&f.place.context, fiber_main, 0);
}

/* Waits where it stands until the scheduler makes it ready. */
void wait(State state, int site)
{
    fibers[present].state = state;
    fibers[present].site = site;
    to_scheduler();
}

/* ---- a block ---- */

/* Frees threads [first, first + n) if all of them wait in `state` at one place. */
bool release(int first, int n, State state)
{
    for (int t = first; t < first + n; t++)
        if (fibers[t].state != state)
            return false;
    for (int t = first; t < first + n; t++)
        if (fibers[t].site != fibers[first].site) {
            fail("thread %d waits at line %d and thread %d at line %d", first, fibers[first].site,
                 t, fibers[t].site);
            return false;
        }
    for (int t = first; t < first + n; t++)
        fibers[t].state = State::ready;
    return true;
}

void stuck()
{
    for (int t = 0; t < threads; t++)
        if (fibers[t].state != State::ended)
            fail("thread %d waits at line %d for threads that do not come", t, fibers[t].site);
}

void shuffle_turns()
{
    turn.resize(threads);
    for (int t = 0; t < threads; t++)
        turn[t] = order_now == 1 ? threads - 1 - t : t;
    unsigned x = order_now * 2654435761u;
    for (int t = threads - 1; order_now > 1 && t > 0; t--) {
        x = x * 1664525u + 1013904223u;
        std::swap(turn[t], turn[(x >> 8) % (t + 1)]);
    }
}

void run_block(size_t shared_bytes)
{
    shared = (char *)std::malloc(shared_bytes ? shared_bytes : 1);
    std::memset(shared, 0xff, shared_bytes);
    for (int t = 0; t < threads; t++)
        begin(fibers[t]);
    for (int alive = threads; alive > 0 && !failed;) {
        bool moved = false;
        for (int t : turn)
            if (fibers[t].state == State::ready) {
                resume(t);
                moved = true;
                alive -= fibers[t].state == State::ended;
            }
        for (int w = 0; w < threads; w += WARP)
            moved |= release(w, WARP, State::at_warp);
        moved |= release(0, threads, State::at_barrier);
        if (!moved)
            stuck();
    }
    std::free(shared);
    shared = nullptr;
}

cudaError_t run_grid(dim3 grid, dim3 block, size_t shared_bytes,
                     const std::function<void()> &kernel)
{
    threads = block.x * block.y * block.z;
    gridDim = grid;
    blockDim = block;
    kernel_now = &kernel;
    failed = false;
    warps.resize(threads / WARP);
    shuffle_turns();
    for (unsigned z = 0; z < grid.z; z++)
        for (unsigned y = 0; y < grid.y; y++)
            for (unsigned x = 0; x < grid.x && !failed; x++) {
                blockIdx = dim3(x, y, z);
                run_block(shared_bytes);
            }
    return failed ? cudaErrorAssert : cudaSuccess;
}
} // namespace

struct CUstream_st {
    bool capturing;
    cudaGraph_t graph;
};
struct CUgraph_st {
    std::vector<std::function<cudaError_t()>> nodes;
};
struct CUevent_st {
    std::chrono::steady_clock::time_point at;
};

static cudaError_t submit(cudaStream_t stream, std::function<cudaError_t()> work)
{
    if (!stream || !stream->capturing)
        return work();
    stream->graph->nodes.push_back(std::move(work));
    return cudaSuccess;
}

/* ---- what kernels call ---- */

cudaError_t shim_launch(dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream,
                        std::function<void()> kernel)
{
    unsigned count = block.x * block.y * block.z;
    /* as on a GPU; whole warps besides, which all of kernels/ keeps to */
    if (!grid.x || !grid.y || !grid.z || grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535 ||
        !count || count > 1024 || count % WARP || shared_bytes > 232448)
        return cudaErrorInvalidConfiguration;
    return submit(stream, [=] { return run_grid(grid, block, shared_bytes, kernel); });
}

void shim_barrier(int site)
{
    wait(State::at_barrier, site);
}

char *shim_shared(void)
{
    return shared;
}

int shim_lane(void)
{
    return present % WARP;
}

/* Two sets of slots: a lane can be one exchange ahead of another, never two. */
const char *shim_exchange(const void *mine, size_t bytes, int site)
{
    Warp &w = warps[present / WARP];
    auto &slot = w.slot[fibers[present].exchanges++ & 1];
    std::memcpy(slot[present % WARP], mine, bytes);
    wait(State::at_warp, site);
    return slot[0];
}

void shim_copy(void *to, const void *from, int bytes)
{
    fibers[present].copies.push_back({to, from, bytes, fibers[present].groups});
}

void shim_copy_commit(void)
{
    fibers[present].groups++;
}

void shim_copy_wait(int pending)
{
    Fiber &f = fibers[present];
    auto done = [&f, pending](const Copy &c) { return c.group < f.groups - pending; };
    for (const Copy &c : f.copies)
        if (done(c)) {
            char padded[16] = {0};
            std::memcpy(padded, c.from, c.bytes);
            std::memcpy(c.to, padded, 16);
        }
    f.copies.erase(std::remove_if(f.copies.begin(), f.copies.end(), done), f.copies.end());
}

/* ---- what launchers and the backend call ---- */

extern "C" {

void moji_shim_order(unsigned order)
{
    order_now = order;
}

const char *moji_shim_error(void)
{
    return message;
}

void moji_shim_memory(size_t bytes)
{
    device_bytes = bytes;
    counts.most = counts.bytes;
}

void moji_shim_fail(int n, int times)
{
    fails_in = n;
    fails_left = times;
}

MojiShimCounts moji_shim_counts(void)
{
    counts.blocks = (int)blocks.size();
    return counts;
}

const char *cudaGetErrorString(cudaError_t error)
{
    return error == cudaErrorAssert             ? message
           : error == cudaErrorMemoryAllocation ? "out of memory"
                                                : "refused by the shim";
}

cudaError_t cudaGetLastError(void)
{
    return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int *count)
{
    *count = 1;
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int device)
{
    return device == 0 ? cudaSuccess : cudaErrorInvalidValue;
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *prop, int device)
{
    *prop = cudaDeviceProp();
    std::snprintf(prop->name, sizeof prop->name, "the host shim");
    prop->totalGlobalMem = device_bytes;
    prop->major = 9;
    prop->multiProcessorCount = 4;
    return cudaSetDevice(device);
}

cudaError_t cudaDriverGetVersion(int *version)
{
    *version = CUDART_VERSION;
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int *version)
{
    return cudaDriverGetVersion(version);
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total)
{
    *free_bytes = device_bytes - std::min(device_bytes, counts.bytes);
    *total = device_bytes;
    return cudaSuccess;
}

cudaError_t cudaMalloc(void **memory, size_t bytes)
{
    bool fails = fails_in == 1 && fails_left > 0;
    if (fails)
        fails_left--;
    else if (fails_in > 1)
        fails_in--;
    *memory = nullptr;
    counts.allocations++;
    if (fails || bytes > device_bytes - std::min(device_bytes, counts.bytes))
        return cudaErrorMemoryAllocation;
    *memory = std::malloc(bytes);
    std::memset(*memory, 0xff, bytes);
    blocks[*memory] = bytes;
    counts.bytes += bytes;
    counts.most = std::max(counts.most, counts.bytes);
    return cudaSuccess;
}

cudaError_t cudaFree(void *memory)
{
    if (!memory)
        return cudaSuccess;
    auto block = blocks.find(memory);
    if (block == blocks.end())
        return cudaErrorInvalidValue;
    counts.bytes -= block->second;
    blocks.erase(block);
    std::free(memory);
    return cudaSuccess;
}

cudaError_t cudaMallocHost(void **memory, size_t bytes)
{
    *memory = std::malloc(bytes);
    return *memory ? cudaSuccess : cudaErrorMemoryAllocation;
}

cudaError_t cudaFreeHost(void *memory)
{
    std::free(memory);
    return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, enum cudaMemcpyKind,
                            cudaStream_t stream)
{
    return submit(stream, [=] {
        std::memcpy(to, from, bytes);
        return cudaSuccess;
    });
}

cudaError_t cudaMemsetAsync(void *memory, int value, size_t bytes, cudaStream_t stream)
{
    return submit(stream, [=] {
        std::memset(memory, value, bytes);
        return cudaSuccess;
    });
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned)
{
    *stream = new CUstream_st();
    return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
    delete stream;
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream)
{
    return stream->capturing ? cudaErrorInvalidValue : cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned)
{
    *event = new CUevent_st();
    return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    delete event;
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t)
{
    event->at = std::chrono::steady_clock::now();
    return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t)
{
    return cudaSuccess;
}

cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t from, cudaEvent_t to)
{
    *ms = std::chrono::duration<float, std::milli>(to->at - from->at).count();
    return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, enum cudaStreamCaptureMode)
{
    stream->capturing = true;
    stream->graph = new CUgraph_st();
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph)
{
    stream->capturing = false;
    *graph = stream->graph;
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t *exec, cudaGraph_t graph,
                                          unsigned long long)
{
    *exec = new CUgraph_st(*graph);
    counts.graphs++;
    return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t)
{
    cudaError_t error = cudaSuccess;
    for (auto &node : exec->nodes)
        error = error ? error : node();
    return error;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
    delete graph;
    return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec)
{
    delete exec;
    return cudaSuccess;
}
}
