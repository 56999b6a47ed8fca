/* attend.cuh - what attend.cu and combine.cu agree on: which splits and vectors an item has, and their logarithms. */
#pragma once

#include "device.cuh"

/* One item's part of a launch. Vector v is query head v % q_heads of row first_row + v / q_heads. */
struct attend_part {
    uint32_t vectors, padded; /* padded: to tiles */
    uint32_t settled_splits, splits;
    uint32_t fresh_most; /* fresh rows that the newest row of this launch sees */
};

template <uint32_t TILE>
static __device__ __forceinline__ struct attend_part attend_part_of(const struct cuda_attend_launch *launch,
                                                                    const struct kernel_attend *what) {
    struct attend_part part = {0, 0, 0, 0, 0};
    if (launch->first_row >= what->rows)
        return part;
    uint32_t rows = smaller(launch->rows, what->rows - launch->first_row);
    part.vectors = rows * what->q_heads;
    part.padded = (part.vectors + TILE - 1) / TILE * TILE;
    part.fresh_most = what->fresh_before + launch->first_row + rows;
    part.settled_splits = (what->settled_rows + launch->split_rows - 1) / launch->split_rows;
    part.splits = part.settled_splits + (part.fresh_most + launch->split_rows - 1) / launch->split_rows;
    return part;
}

/* Fresh rows that vector v sees. */
static __device__ __forceinline__ uint32_t attend_fresh_seen(const struct cuda_attend_launch *launch,
                                                             const struct kernel_attend *what, uint32_t v) {
    return what->fresh_before + launch->first_row + v / what->q_heads + 1;
}

/* Of rows first .. first + split_rows - 1, as many as there are below `seen`. */
static __device__ __forceinline__ uint32_t attend_clip(uint32_t seen, uint32_t first, uint32_t split_rows) {
    return seen > first ? smaller(seen - first, split_rows) : 0;
}

/* What is subtracted from logits before they become powers of two. Where all of them are -infinity it is 0, so that
 * their powers are 0 and not NaN, and do no harm to rows elsewhere; where that goes for all rows, 0 / 0 says so. */
static __device__ __forceinline__ float attend_shift(float largest) {
    return largest == -INFINITY ? 0.0f : largest;
}

/* T floats from shared or global memory, 16 bytes at once. */
template <uint32_t TILE> static __device__ __forceinline__ void tile_load(const float *at, float *ret) {
#pragma unroll
    for (uint32_t i = 0; i < TILE; i += 4) {
        float4 x = *(const float4 *)(at + i);
        ret[i] = x.x, ret[i + 1] = x.y, ret[i + 2] = x.z, ret[i + 3] = x.w;
    }
}
template <> __device__ __forceinline__ void tile_load<1>(const float *at, float *ret) {
    ret[0] = at[0];
}
