/* layout.h - where K and V of one (layer, KV head) lie in memory.
 *
 * A row is one token's K and V for one KV head. Both the settled pages and
 * the fresh buffer hold R rows (a page: SCISSOR_PAGE_ROWS, a fresh buffer: F)
 * as K first, then V, in one dtype:
 *
 *     K: R / 16 blocks of [head_dim][16]     a lane of a vector is a token,
 *                                            so that no horizontal sum is needed
 *     V: [R][head_dim]                       plain rows
 *
 * Segments are SCISSOR_SEGMENT_BYTES each. A settled segment holds pages of one
 * layer group, packed from its start; fresh segments hold the fresh buffers of
 * all heads of all groups in order, a buffer never crosses a segment.
 * Client and daemon compute the same layout from the same shape. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#define SCISSOR_PAGE_ROWS 64u
#define SCISSOR_BLOCK_ROWS 16u
#define SCISSOR_SEGMENT_BYTES (2u << 20)

/* Index of element (row, channel) in a K area and in a V area of head_dim channels. */
static inline size_t layout_k_index(uint32_t row, uint32_t channel, uint32_t head_dim) {
    return ((size_t)(row / SCISSOR_BLOCK_ROWS) * head_dim + channel) * SCISSOR_BLOCK_ROWS + row % SCISSOR_BLOCK_ROWS;
}
static inline size_t layout_v_index(uint32_t row, uint32_t channel, uint32_t head_dim) {
    return (size_t)row * head_dim + channel;
}

/* Bytes of an area of `rows` rows, K and V, and the offset of V within it. */
static inline size_t layout_area_bytes(uint32_t dtype_size, uint32_t rows, uint32_t head_dim) {
    return (size_t)2 * rows * head_dim * dtype_size;
}
static inline size_t layout_v_offset(uint32_t dtype_size, uint32_t rows, uint32_t head_dim) {
    return (size_t)rows * head_dim * dtype_size;
}

static inline size_t layout_page_bytes(uint32_t dtype_size, uint32_t head_dim) {
    return layout_area_bytes(dtype_size, SCISSOR_PAGE_ROWS, head_dim);
}
static inline uint32_t layout_pages_per_segment(uint32_t dtype_size, uint32_t head_dim) {
    return (uint32_t)(SCISSOR_SEGMENT_BYTES / layout_page_bytes(dtype_size, head_dim));
}
static inline uint32_t layout_pages_of_rows(uint32_t rows) {
    return (rows + SCISSOR_PAGE_ROWS - 1) / SCISSOR_PAGE_ROWS;
}

/* Walks the fresh buffers in order: start with {0, 0}, call once per head in order;
 * returns the place of that head's buffer. `segments` afterwards is the count so far. */
struct layout_fresh {
    uint32_t segments; /* fresh segments opened so far */
    size_t used;       /* bytes used of the last one */
};
struct layout_place {
    uint32_t segment; /* index among the fresh segments */
    size_t offset;
};
static inline struct layout_place layout_fresh_next(struct layout_fresh *walk, uint32_t dtype_size, uint32_t fresh_rows,
                                                    uint32_t head_dim) {
    size_t bytes = layout_area_bytes(dtype_size, fresh_rows, head_dim);
    if (walk->segments == 0 || bytes > SCISSOR_SEGMENT_BYTES - walk->used) {
        walk->segments++;
        walk->used = 0;
    }
    struct layout_place place = {walk->segments - 1, walk->used};
    walk->used += bytes;
    return place;
}
