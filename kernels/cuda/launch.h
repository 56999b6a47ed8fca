/* launch.h - what a launch of each kernel of kernels/cuda/ is given, and the grid that it expects.
 *
 * Seen by the host (C) and by the kernels (C++). A kernel takes one struct by value; every pointer in it and in what it
 * points to is a device address, arrays of items included. The items are those of backend.h, so who launches copies
 * them, their page lists and their moves to the device. Nothing is checked on the device: the rules of backend.h and
 * layout.h hold, the dtypes are types of one element, head_dim is a multiple of 16 up to 256.
 * Launches that touch the same memory are ordered by their stream. */
#pragma once

#include "../backend.h"

/* name, type of its parameter */
#define CUDA_KERNELS(X)                         \
    X(scissor_settle, cuda_settle_launch)       \
    X(scissor_shrink, cuda_shrink_launch)       \
    X(scissor_move_pages, cuda_pages_launch)    \
    X(scissor_v_norms, cuda_norms_launch)       \
    X(scissor_append, cuda_append_launch)       \
    X(scissor_scrub, cuda_scrub_launch)         \
    X(scissor_attend_1, cuda_attend_launch)     \
    X(scissor_attend_4, cuda_attend_launch)     \
    X(scissor_attend_8, cuda_attend_launch)     \
    X(scissor_attend_mma_1, cuda_attend_launch) \
    X(scissor_attend_mma_4, cuda_attend_launch) \
    X(scissor_combine_1, cuda_attend_launch)    \
    X(scissor_combine_4, cuda_attend_launch)    \
    X(scissor_combine_8, cuda_attend_launch)

#define CUDA_THREADS 128u /* of a block of any kernel */

/* Blocks in x and y, and bytes of dynamic shared memory. No launch where x or y is 0; y is 65,535 at most. */
struct cuda_grid {
    uint32_t x, y, shared_bytes;
};

static inline uint32_t cuda_divide_up(size_t a, uint32_t b) {
    return (uint32_t)((a + b - 1) / b);
}

/* ---------- rows on the move ---------- */

#define CUDA_SETTLE_MOVES 16u /* of a block */

struct cuda_settle_launch {
    const struct kernel_settle *heads; /* [gridDim.y] */
};
static inline struct cuda_grid cuda_settle_grid(uint32_t head_count, uint32_t most_moves) {
    struct cuda_grid grid = {cuda_divide_up(most_moves, CUDA_SETTLE_MOVES), head_count, CUDA_SETTLE_MOVES * 16};
    return grid;
}

#define CUDA_SHRINK_MOVES 32u /* that a block looks at together */

struct cuda_shrink_launch {
    const struct kernel_shrink *heads; /* [gridDim.y] */
};
static inline struct cuda_grid cuda_shrink_grid(uint32_t head_count, uint32_t most_head_dim) {
    struct cuda_grid grid = {1 + cuda_divide_up(most_head_dim, CUDA_THREADS), head_count, CUDA_SHRINK_MOVES * 24};
    return grid;
}

#define CUDA_MOVE_BYTES (16u << 10) /* of a block */

struct cuda_pages_launch {
    const struct kernel_page_move *moves; /* [gridDim.y] */
};
static inline struct cuda_grid cuda_pages_grid(uint32_t move_count, size_t most_bytes) {
    struct cuda_grid grid = {cuda_divide_up(most_bytes, CUDA_MOVE_BYTES), move_count, 0};
    return grid;
}

struct cuda_norms_launch {
    const struct kernel_norms *heads; /* [gridDim.y]; norms: device memory, or the device's view of pinned memory */
};
static inline struct cuda_grid cuda_norms_grid(uint32_t head_count, uint32_t most_rows) {
    struct cuda_grid grid = {cuda_divide_up(most_rows, CUDA_THREADS / 4), head_count, 0};
    return grid;
}

struct cuda_append_launch {
    /* [gridDim.y]; loads are wide where k, v and stride * size are multiples of 16 bytes */
    const struct kernel_append *heads;
};
static inline struct cuda_grid cuda_append_grid(uint32_t head_count, uint32_t most_rows, uint32_t most_head_dim) {
    /* Rows that begin in the middle of a block of 16 reach into one block more. */
    uint32_t blocks = most_rows ? cuda_divide_up((size_t)most_rows + SCISSOR_BLOCK_ROWS - 1, SCISSOR_BLOCK_ROWS) : 0;
    struct cuda_grid grid = {blocks, head_count, SCISSOR_BLOCK_ROWS * (most_head_dim + 1) * 4};
    return grid;
}

#define CUDA_SCRUB_BYTES (32u << 10) /* of a block */

/* Addresses and sizes are multiples of 16. */
struct cuda_scrub_range {
    void *at;
    size_t bytes;
};
struct cuda_scrub_launch {
    const struct cuda_scrub_range *ranges; /* [gridDim.y] */
};
static inline struct cuda_grid cuda_scrub_grid(uint32_t range_count, size_t most_bytes) {
    struct cuda_grid grid = {cuda_divide_up(most_bytes, CUDA_SCRUB_BYTES), range_count, 0};
    return grid;
}

/* ---------- attention ----------
 *
 * Two launches, one after the other with the same parameter: scissor_attend_T works on splits of an item's rows, then
 * scissor_combine_T makes the outputs and the score planes of what the splits left in the item's workspace. T, the
 * tile, is how many query vectors (a query row of one head, counted row by row) share what a block loads:
 * cuda_attend_tile() says which. Settled rows and fresh rows are split apart, in pieces of split_rows.
 *
 * A launch covers query rows first_row .. first_row + rows - 1 of each item, as far as the item has them, so that a
 * long prefill does with a bounded workspace: chunk by chunk, from row 0 on, on one stream. */

#define CUDA_CHUNK_VECTORS 512u /* rows * q_heads of a launch, at most */

struct cuda_attend_item {
    struct kernel_attend what; /* q and out as well: device memory, multiples of 16 bytes */
    /* Workspace, multiples of 16 bytes; see cuda_attend_workspace(). Vectors are padded to tiles.
     *     logits  [tile][split * split_rows + row in it][T]   times log2(e); NULL where no plane is wanted
     *     stats   [split][vector][2]                          largest logit, sum of 2^(logit - largest)
     *     sums    [split][vector][head_dim]                   sum of 2^(logit - largest) * V */
    float *logits, *stats, *sums;
};
struct cuda_attend_launch {
    const struct cuda_attend_item *items; /* [gridDim.y] */
    uint32_t first_row, rows;
    uint32_t split_rows; /* a multiple of SCISSOR_PAGE_ROWS, 1,024 at most */
    uint32_t tiles;      /* attend: most tiles of an item; block x is tile x % tiles of split x / tiles */
};

static inline uint32_t cuda_attend_tile(uint32_t most_vectors) {
    return most_vectors <= 1 ? 1 : most_vectors <= 4 ? 4 : 8;
}
/* Splits of an item with `settled` rows and `fresh` ones that the newest row of the launch sees. */
static inline uint32_t cuda_attend_splits(uint32_t settled, uint32_t fresh, uint32_t split_rows) {
    return cuda_divide_up(settled, split_rows) + cuda_divide_up(fresh, split_rows);
}
/* Floats of logits, stats and sums, in this order; each is a multiple of 4. */
struct cuda_attend_workspace {
    size_t logits, stats, sums;
};
static inline struct cuda_attend_workspace cuda_attend_workspace(uint32_t splits, uint32_t vectors, uint32_t tile,
                                                                 uint32_t split_rows, uint32_t head_dim) {
    size_t padded = (size_t)cuda_divide_up(vectors, tile) * tile;
    struct cuda_attend_workspace floats = {padded * splits * split_rows, (padded * splits * 2 + 3) / 4 * 4,
                                           padded * splits * head_dim};
    return floats;
}
static inline struct cuda_grid cuda_attend_grid(uint32_t item_count, uint32_t most_splits, uint32_t tiles,
                                                uint32_t tile, uint32_t split_rows, uint32_t most_head_dim) {
    /* Queries, weights, page addresses, and room to reduce in; then two vectors' sums over them. */
    uint32_t work = (most_head_dim + split_rows) * tile * 4 + split_rows / SCISSOR_PAGE_ROWS * 16 + 2 * tile * 16;
    uint32_t sums = (tile < 2 ? tile : 2) * CUDA_THREADS * 8 * 4;
    struct cuda_grid grid = {most_splits * tiles, item_count, work > sums ? work : sums};
    return grid;
}

/* scissor_attend_mma_N in the place of scissor_attend_8, on sm_80 and newer, where all rows have 16 bits: a block has N
 * tiles of 8, so that launch.tiles is a count of such groups. */
#define CUDA_MMA_STAGE_BYTES 2048u /* of a warp */
static inline struct cuda_grid cuda_attend_mma_grid(uint32_t item_count, uint32_t most_splits, uint32_t groups,
                                                    uint32_t group_tiles, uint32_t split_rows, uint32_t most_head_dim) {
    /* Stages, queries in two parts, weights, page addresses, and room to reduce in. */
    uint32_t bytes = CUDA_THREADS / 32 * CUDA_MMA_STAGE_BYTES + group_tiles * 8 * (most_head_dim + 8) * 2 * 2 +
                     group_tiles * 8 * split_rows * 4 + split_rows / SCISSOR_PAGE_ROWS * 16 + 2 * 8 * 16;
    struct cuda_grid grid = {most_splits * groups, item_count, bytes};
    return grid;
}
static inline struct cuda_grid cuda_combine_grid(uint32_t item_count, uint32_t most_splits, uint32_t most_vectors) {
    struct cuda_grid grid = {most_splits, item_count, most_vectors * 8};
    return grid;
}
