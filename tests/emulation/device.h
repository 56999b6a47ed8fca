/* device.h - what nvcc and the CUDA headers give to a kernel, as far as ours use it, for g++: included before the first
 * line of each .cu. What is not here does not compile, so that nothing is emulated by accident.
 *
 * Shared memory is dynamic and called shared_memory; warps are full; shuffles move 32 bits. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* watch.c: accesses that the compiler must not split. Plain ones where nobody watches. */
#ifndef EMULATOR_UNWATCHED
void emulator_load_into(void *to, const void *from, size_t bytes);
void emulator_store_from(void *to, const void *from, size_t bytes);
uint32_t emulator_atomic_add(uint32_t *at, uint32_t value);
#else
static inline void emulator_load_into(void *to, const void *from, size_t bytes) {
    __builtin_memcpy(to, from, bytes);
}
static inline void emulator_store_from(void *to, const void *from, size_t bytes) {
    __builtin_memcpy(to, from, bytes);
}
static inline uint32_t emulator_atomic_add(uint32_t *at, uint32_t value) {
    uint32_t old = *at;
    *at += value;
    return old;
}
#endif

/* fiber.c */
enum emulator_vote { EMULATOR_VOTE_OR, EMULATOR_VOTE_AND, EMULATOR_VOTE_COUNT };
int emulator_barrier(enum emulator_vote vote, int value, const char *file, int line);
enum emulator_warp_kind {
    EMULATOR_SHUFFLE_INDEX,
    EMULATOR_SHUFFLE_UP,
    EMULATOR_SHUFFLE_DOWN,
    EMULATOR_SHUFFLE_XOR,
    EMULATOR_BALLOT,
    EMULATOR_SYNC,
};
uint32_t emulator_warp(enum emulator_warp_kind kind, uint32_t mask, uint32_t value, uint32_t lane, const char *file,
                       int line);

/* The processor's conversions: a NaN comes out as one fixed NaN. */
float emulator_half_to_float(uint16_t bits);
uint16_t emulator_float_to_half(float f);

#ifdef __cplusplus
}

#include <math.h>

struct uint3 {
    unsigned int x, y, z;
};
typedef uint3 dim3;
extern "C" {
/* A fiber does not change what it is, so calls may be merged. */
uint3 emulator_thread(void) __attribute__((const));
uint3 emulator_block(void) __attribute__((const));
uint3 emulator_block_dim(void) __attribute__((const));
uint3 emulator_grid_dim(void) __attribute__((const));
}
#define threadIdx emulator_thread()
#define blockIdx emulator_block()
#define blockDim emulator_block_dim()
#define gridDim emulator_grid_dim()

#define __global__
#define __device__
#define __host__
#define __shared__
#define __launch_bounds__(...)
#define __forceinline__ inline __attribute__((always_inline))

struct alignas(16) uint4 {
    unsigned int x, y, z, w;
};
struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
static inline uint4 make_uint4(unsigned int x, unsigned int y, unsigned int z, unsigned int w) {
    return uint4{x, y, z, w};
}
static inline float2 make_float2(float x, float y) {
    return float2{x, y};
}

template <typename TO, typename FROM> static __forceinline__ TO emulator_bits(FROM from) {
    static_assert(sizeof(TO) == sizeof(FROM), "same size");
    TO to;
    __builtin_memcpy(&to, &from, sizeof to);
    return to;
}
static __forceinline__ unsigned int __float_as_uint(float f) {
    return emulator_bits<unsigned int>(f);
}
static __forceinline__ float __uint_as_float(unsigned int bits) {
    return emulator_bits<float>(bits);
}

template <typename T> static __forceinline__ T __ldg(const T *at) {
    T x;
    emulator_load_into(&x, at, sizeof x);
    return x;
}
template <typename T> static __forceinline__ void __stwb(T *at, T x) {
    emulator_store_from(at, &x, sizeof x);
}
static __forceinline__ unsigned int atomicAdd(unsigned int *at, unsigned int value) {
    return emulator_atomic_add(at, value);
}

#define __syncthreads() ((void)emulator_barrier(EMULATOR_VOTE_COUNT, 0, __FILE__, __LINE__))
#define __syncthreads_or(value) emulator_barrier(EMULATOR_VOTE_OR, (value) != 0, __FILE__, __LINE__)
#define __syncthreads_and(value) emulator_barrier(EMULATOR_VOTE_AND, (value) != 0, __FILE__, __LINE__)
#define __syncthreads_count(value) emulator_barrier(EMULATOR_VOTE_COUNT, (value) != 0, __FILE__, __LINE__)

template <typename T>
static __forceinline__ T emulator_shuffle(emulator_warp_kind kind, unsigned int mask, T x, unsigned int lane,
                                          const char *file, int line) {
    return emulator_bits<T>(emulator_warp(kind, mask, emulator_bits<uint32_t>(x), lane, file, line));
}
#define __shfl_sync(mask, x, lane) emulator_shuffle(EMULATOR_SHUFFLE_INDEX, mask, x, lane, __FILE__, __LINE__)
#define __shfl_up_sync(mask, x, by) emulator_shuffle(EMULATOR_SHUFFLE_UP, mask, x, by, __FILE__, __LINE__)
#define __shfl_down_sync(mask, x, by) emulator_shuffle(EMULATOR_SHUFFLE_DOWN, mask, x, by, __FILE__, __LINE__)
#define __shfl_xor_sync(mask, x, by) emulator_shuffle(EMULATOR_SHUFFLE_XOR, mask, x, by, __FILE__, __LINE__)
#define __ballot_sync(mask, x) emulator_warp(EMULATOR_BALLOT, mask, (x) != 0, 0, __FILE__, __LINE__)
#define __any_sync(mask, x) (__ballot_sync(mask, x) != 0)
#define __all_sync(mask, x) (__ballot_sync(mask, x) == (mask))
#define __syncwarp() ((void)emulator_warp(EMULATOR_SYNC, 0xffffffffu, 0, 0, __FILE__, __LINE__))
#endif
