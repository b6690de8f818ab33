// CUDA's words for a C++ compiler. A block's threads are fibers of one thread, which change at barriers only; blocks run one
// after the other. The order in which threads run can be turned around: a result that depends on it lacks a barrier.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <csetjmp>
#include <ucontext.h>
#include <vector>

#define __global__
#define __device__
#define __shared__ static thread_local
#define __restrict__ __restrict

struct dim3 { unsigned x, y, z; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(16) float4 { float x, y, z, w; };
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline unsigned __umulhi(unsigned a, unsigned b) { return (uint64_t)a * b >> 32; }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline float __uint_as_float(unsigned x) {
    float f;
    memcpy(&f, &x, sizeof f);
    return f;
}

inline unsigned __float_as_uint(float x) {
    unsigned u;
    memcpy(&u, &x, sizeof u);
    return u;
}

static thread_local dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulation {

constexpr size_t STACK = 64 << 10;

// A thread of a block. It is started once, and runs one block after the other.
struct Fiber {
    std::unique_ptr<char[]> stack{new char[STACK]};
    jmp_buf at;
    bool started = false, done = false;
};

struct Block {
    jmp_buf scheduler;
    Fiber *running = nullptr;
    const std::function<void()> *body = nullptr;
};
static thread_local Block block;

// Back to the scheduler, until it comes here again. setjmp does not change the signal mask, which swapcontext asks the system to
// do.
inline void pause() {
    if (_setjmp(block.running->at) == 0) _longjmp(block.scheduler, 1);
}

inline void enter() {
    for (;;) {
        (*block.body)();
        block.running->done = true;
        pause();
    }
}

// Runs a fiber up to the next barrier, or to the end of its block.
inline void resume(Fiber &fiber) {
    block.running = &fiber;
    if (_setjmp(block.scheduler) != 0) return;
    if (fiber.started) _longjmp(fiber.at, 1);
    fiber.started = true;
    ucontext_t context;
    getcontext(&context);
    context.uc_stack.ss_sp = fiber.stack.get();
    context.uc_stack.ss_size = STACK;
    makecontext(&context, enter, 0);
    setcontext(&context);
}

// The order in which the threads of a block and the blocks of a grid run. A result that depends on it is wrong.
enum Order { FORWARDS, BACKWARDS };

// Runs `body` as threads of blocks. Returns false if threads of a block wait at a barrier that others never reach.
inline bool run(const unsigned *grid, unsigned threads, Order order, const std::function<void()> &body) {
    static thread_local std::vector<Fiber> fibers;
    if (fibers.size() < threads) fibers = std::vector<Fiber>(threads);
    block.body = &body;
    gridDim = {grid[0], grid[1], grid[2]}, blockDim = {threads, 1, 1};
    const unsigned blocks = grid[0] * grid[1] * grid[2];
    for (unsigned i = 0; i < blocks; i++) {
        unsigned b = order == BACKWARDS ? blocks - 1 - i : i;
        blockIdx = {b % grid[0], b / grid[0] % grid[1], b / grid[0] / grid[1]};
        for (unsigned t = 0; t < threads; t++) fibers[t].done = false;
        for (unsigned done = 0; done < threads;) {
            // Up to the next barrier, or to the end.
            done = 0;
            for (unsigned i = 0; i < threads; i++) {
                unsigned t = order == BACKWARDS ? threads - 1 - i : i;
                threadIdx = {t, 0, 0};
                resume(fibers[t]);
                done += fibers[t].done;
            }
            if (done != 0 && done != threads) {
                // The others are still inside this kernel.
                fibers.clear();
                return false;
            }
        }
    }
    return true;
}

// A kernel with its arguments as the driver's cuLaunchKernel takes them: pointers to their values.
using Launch = std::function<bool(const unsigned *grid, unsigned threads, Order order, void **arguments)>;

template <typename... A, size_t... I>
Launch unpack(void (*kernel)(A...), std::index_sequence<I...>) {
    return [kernel](const unsigned *grid, unsigned threads, Order order, void **arguments) {
        return run(grid, threads, order, [&] { kernel(*(std::remove_reference_t<A> *)arguments[I]...); });
    };
}

template <typename... A> Launch kernel(void (*k)(A...)) { return unpack(k, std::index_sequence_for<A...>()); }

}  // namespace emulation

// Every thread of the block comes here before one goes on.
inline void __syncthreads() {
    dim3 index = threadIdx;
    emulation::pause();
    threadIdx = index;
}
