/* wrong.cu - kernels that each break one rule of the emulator, and beside them what keeps it. test_emulator.c runs
 * them on one block or two of 64 threads with 256 bytes of shared memory; at[0] to at[255] may be accessed. */
#include <stdint.h>

struct wrong_launch {
    uint32_t *at;
};

extern __shared__ uint4 shared_memory[];

static __device__ __forceinline__ uint32_t *shared_words(void) {
    return (uint32_t *)shared_memory;
}

/* A thread reads its neighbour's word. */
extern "C" __global__ void wrong_race_shared(struct wrong_launch launch) {
    shared_words()[threadIdx.x] = threadIdx.x;
    launch.at[threadIdx.x] = shared_words()[threadIdx.x ? threadIdx.x - 1 : 0];
}
extern "C" __global__ void right_race_shared(struct wrong_launch launch) {
    shared_words()[threadIdx.x] = threadIdx.x;
    __syncthreads();
    launch.at[threadIdx.x] = shared_words()[(threadIdx.x + 1) % 64];
}

/* A store after others have loaded. */
extern "C" __global__ void wrong_race_late(struct wrong_launch launch) {
    shared_words()[threadIdx.x] = threadIdx.x;
    __syncthreads();
    launch.at[threadIdx.x] = shared_words()[0];
    if (threadIdx.x == 63)
        shared_words()[0] = 1;
}

/* Warps are ordered by a barrier of the block alone. */
extern "C" __global__ void wrong_race_warp(struct wrong_launch launch) {
    shared_words()[threadIdx.x] = threadIdx.x;
    __syncwarp();
    if (threadIdx.x >= 32)
        launch.at[threadIdx.x] = shared_words()[threadIdx.x ^ 32];
}
extern "C" __global__ void right_race_warp(struct wrong_launch launch) {
    shared_words()[threadIdx.x] = threadIdx.x;
    __syncwarp();
    launch.at[threadIdx.x] = shared_words()[threadIdx.x ^ 31];
}
/* A shuffle orders nothing. */
extern "C" __global__ void wrong_race_shuffle(struct wrong_launch launch) {
    shared_words()[threadIdx.x] = threadIdx.x;
    uint32_t x = __shfl_xor_sync(0xffffffffu, threadIdx.x, 1);
    launch.at[threadIdx.x] = shared_words()[threadIdx.x ^ 31] + x;
}

extern "C" __global__ void wrong_race_global(struct wrong_launch launch) {
    launch.at[threadIdx.x / 2] = threadIdx.x;
}
extern "C" __global__ void right_race_global(struct wrong_launch launch) {
    atomicAdd(&launch.at[threadIdx.x / 2], 1);
}

/* A barrier does not order blocks. */
extern "C" __global__ void wrong_race_blocks(struct wrong_launch launch) {
    if (threadIdx.x == 0)
        launch.at[blockIdx.x] = blockIdx.x;
    __syncthreads();
    if (threadIdx.x == 1 && blockIdx.x == 1)
        launch.at[64] = launch.at[0];
}
extern "C" __global__ void wrong_race_blocks_late(struct wrong_launch launch) {
    if (threadIdx.x == 0)
        launch.at[64 + blockIdx.x] = launch.at[0];
    __syncthreads();
    if (threadIdx.x == 1 && blockIdx.x == 1)
        launch.at[0] = 1;
}
extern "C" __global__ void right_race_blocks(struct wrong_launch launch) {
    launch.at[blockIdx.x * 64 + threadIdx.x] = launch.at[255];
}

extern "C" __global__ void wrong_bounds_global(struct wrong_launch launch) {
    launch.at[threadIdx.x * 4 + 4] = 0;
}
extern "C" __global__ void wrong_bounds_below(struct wrong_launch launch) {
    launch.at[threadIdx.x] = launch.at[(int)threadIdx.x - 1];
}
extern "C" __global__ void wrong_bounds_shared(struct wrong_launch launch) {
    shared_words()[threadIdx.x + 1] = 0;
    (void)launch;
}
extern "C" __global__ void wrong_bounds_local(struct wrong_launch launch) {
    uint32_t mine = threadIdx.x;
    uint32_t **shared = (uint32_t **)shared_memory;
    if (threadIdx.x == 0)
        shared[0] = &mine;
    __syncthreads();
    *shared[0] = threadIdx.x;
    __syncthreads();
    launch.at[threadIdx.x] = mine;
}
extern "C" __global__ void wrong_read_only(struct wrong_launch launch) {
    launch.at[threadIdx.x] = 0;
}
extern "C" __global__ void wrong_alignment(struct wrong_launch launch) {
    __stwb((uint4 *)(launch.at + 1), make_uint4(0, 0, 0, 0));
}
extern "C" __global__ void wrong_unwritten(struct wrong_launch launch) {
    if (threadIdx.x < 63)
        shared_words()[threadIdx.x] = 0;
    __syncthreads();
    launch.at[threadIdx.x] = shared_words()[threadIdx.x];
}

extern "C" __global__ void wrong_barrier_ended(struct wrong_launch launch) {
    if (threadIdx.x == 5)
        return;
    __syncthreads();
    launch.at[threadIdx.x] = 0;
}
extern "C" __global__ void wrong_barrier_elsewhere(struct wrong_launch launch) {
    if (threadIdx.x < 32)
        __syncthreads();
    else
        __syncthreads();
    launch.at[threadIdx.x] = 0;
}
extern "C" __global__ void wrong_warp_ended(struct wrong_launch launch) {
    if (threadIdx.x == 7)
        return;
    launch.at[threadIdx.x] = __shfl_down_sync(0xffffffffu, threadIdx.x, 1);
}
extern "C" __global__ void wrong_warp_elsewhere(struct wrong_launch launch) {
    if (threadIdx.x < 16)
        launch.at[threadIdx.x] = __ballot_sync(0xffffffffu, 1);
    else
        launch.at[threadIdx.x] = __ballot_sync(0xffffffffu, 0);
}
extern "C" __global__ void wrong_lane_mask(struct wrong_launch launch) {
    launch.at[threadIdx.x] = __ballot_sync(0xffffu, 1);
}
extern "C" __global__ void wrong_lane_asked(struct wrong_launch launch) {
    if (threadIdx.x % 32 < 16)
        launch.at[threadIdx.x] = __shfl_xor_sync(0xffffu, threadIdx.x, 16);
}

/* What warp operations and votes give: at[0 .. 63] shuffles, at[64 ..] ballots, at[128 ..] votes. */
extern "C" __global__ void right_warp(struct wrong_launch launch) {
    uint32_t t = threadIdx.x, x = __shfl_xor_sync(0xffffffffu, t, 3);
    x = x * 100 + __shfl_down_sync(0xffffffffu, t, 1);
    x = x * 100 + __shfl_up_sync(0xffffffffu, t, 2);
    launch.at[t] = x * 100 + __shfl_sync(0xffffffffu, t, 9);
    if (t % 32 < 16)
        launch.at[64 + t] = __ballot_sync(0xffffu, t % 3 == 0);
    uint32_t all = (uint32_t)__syncthreads_and(t < 64), some = (uint32_t)__syncthreads_or(t == 17);
    launch.at[128 + t] = all * 1000 + some * 100 + (uint32_t)__syncthreads_count(t % 3 == 0);
}

/* What is counted: 16 bytes a lane side by side, a word for all lanes, words 32 bytes apart. */
extern "C" __global__ void right_wide(struct wrong_launch launch) {
    __stwb((uint4 *)launch.at + threadIdx.x, make_uint4(1, 2, 3, 4));
}
extern "C" __global__ void right_word(struct wrong_launch launch) {
    shared_words()[threadIdx.x] = __ldg(launch.at);
}
extern "C" __global__ void right_apart(struct wrong_launch launch) {
    shared_words()[threadIdx.x] = __ldg(launch.at + threadIdx.x % 32 * 8);
}
