/* attend_split.cuh - what a block of attend.cu and of attend_mma.cu have in common: which split of which item it has,
 * and the softmax of that split. */
#pragma once

#include "attend.cuh"

#define PAGE_ROWS SCISSOR_PAGE_ROWS
#define WARPS (CUDA_THREADS / 32)

/* Where a page's worth of rows lies. */
struct attend_place {
    const char *k, *v;
};

/* A block's work, the same in all of its threads. */
struct attend_block {
    struct attend_part part;
    uint32_t split, tile;
    uint32_t first;        /* row of the settled or of the fresh ones that the split begins with */
    uint32_t common, most; /* rows of the split that all vectors of the tile see, and that the newest one sees */
    uint32_t dtype;
    bool fresh;
};

/* Rows of the split that vector v sees. */
static __device__ __forceinline__ uint32_t attend_seen(const struct cuda_attend_launch *launch,
                                                       const struct kernel_attend *what, const struct attend_block *b,
                                                       uint32_t v) {
    uint32_t seen = b->fresh ? attend_fresh_seen(launch, what, smaller(v, b->part.vectors - 1)) : what->settled_rows;
    return attend_clip(seen, b->first, launch->split_rows);
}

/* A block has TILES tiles next to each other, `tile` is the first. False if there is nothing to do. */
template <uint32_t TILE, uint32_t TILES = 1>
static __device__ __forceinline__ bool attend_block_of(const struct cuda_attend_launch *launch,
                                                       const struct kernel_attend *what, struct attend_block *b) {
    b->part = attend_part_of<TILE>(launch, what);
    b->split = blockIdx.x / launch->tiles;
    b->tile = blockIdx.x % launch->tiles * TILES;
    if (b->split >= b->part.splits || b->tile * TILE >= b->part.vectors)
        return false;
    b->fresh = b->split >= b->part.settled_splits;
    b->first = (b->split - (b->fresh ? b->part.settled_splits : 0)) * launch->split_rows;
    b->dtype = b->fresh ? what->compute_dtype : what->storage_dtype;
    b->common = attend_seen(launch, what, b, b->tile * TILE);
    b->most = attend_seen(launch, what, b, (b->tile + TILES) * TILE - 1);
    return b->most > 0;
}

/* ---------- softmax of a split ---------- */

/* The largest, or the sum, of what the threads of the same vector have: thread t has vector t % T. */
template <uint32_t TILE, bool LARGEST> static __device__ __forceinline__ float softmax_reduce(float x, float *room) {
#pragma unroll
    for (uint32_t distance = TILE; distance < 32; distance *= 2) {
        float y = __shfl_xor_sync(FULL_WARP, x, (int)distance);
        x = LARGEST ? fmaxf(x, y) : x + y;
    }
    if (threadIdx.x % 32 < TILE)
        room[threadIdx.x / 32 * TILE + threadIdx.x % TILE] = x;
    __syncthreads();
    x = room[threadIdx.x % TILE];
#pragma unroll
    for (uint32_t warp = 1; warp < WARPS; warp++) {
        float y = room[warp * TILE + threadIdx.x % TILE];
        x = LARGEST ? fmaxf(x, y) : x + y;
    }
    return x;
}

/* Of one tile: `weights` ([split_rows][T]) hold logits before, and powers of two after; `room` is 2 * WARPS * T floats.
 * All threads of the block take part. */
template <uint32_t TILE>
static __device__ __forceinline__ void softmax(const struct cuda_attend_launch *launch,
                                               const struct cuda_attend_item *item, const struct attend_block *b,
                                               uint32_t tile, float *weights, float *room) {
    uint32_t v = tile * TILE + threadIdx.x % TILE;
    uint32_t seen = attend_seen(launch, &item->what, b, v) * TILE; /* as an end of indices into the weights */
    float largest = -INFINITY, sum = 0;
    for (uint32_t i = threadIdx.x; i < seen; i += CUDA_THREADS)
        largest = fmaxf(largest, weights[i]);
    largest = softmax_reduce<TILE, true>(largest, room);
    if (item->logits) {
        float *logits = item->logits + ((size_t)tile * b->part.splits + b->split) * launch->split_rows * TILE;
        for (uint32_t i = threadIdx.x; i < b->most * TILE; i += CUDA_THREADS)
            logits[i] = weights[i];
    }
    for (uint32_t i = threadIdx.x; i < seen; i += CUDA_THREADS) {
        float weight = exp2f(weights[i] - attend_shift(largest));
        weights[i] = weight;
        sum += weight;
    }
    sum = softmax_reduce<TILE, false>(sum, room + WARPS * TILE);
    if (threadIdx.x < TILE)
        ((float2 *)item->stats)[(size_t)b->split * b->part.padded + v] = make_float2(largest, sum);
}
