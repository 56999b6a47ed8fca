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
 * A page of a quantised dtype (int8, int4, k5v4, fade) has its codes in another order, and
 * after them the scales and offsets: see below.
 *
 * Segments are SCISSOR_SEGMENT_BYTES each. A settled segment holds pages of one
 * layer group, packed from its start; fresh segments hold the fresh buffers of
 * all heads of all groups in order, a buffer never crosses a segment.
 * Client and daemon compute the same layout from the same shape. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "dtype.h"

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

/* Quantised pages: a K half and a V half, each in its own code type: int8, int4, int5 (K alone), int3 (K alone) or
 * int2. A group is 64 channels of one row (the last one of a row may be smaller); value = offset + scale * code, code 0
 * to 2^bits - 1, scale and offset f16. A half is:
 *
 *     codes     units of 64 bytes, 16 lanes of 4 bytes; lane l holds E codes of what it stands for, E = 4 (int8), 8
 *               (int4) or 16 (int2): code e of a lane is in byte e % 4, from bit (e / 4) * bits on
 *               K: a lane is a row, e are channels:    unit (row / 16) * (head_dim / E) + channel / E
 *               V: a lane is a channel, e are rows:    unit (row / E) * (head_dim / 16) + channel / 16
 *               int5, int3: for each block of 16 rows, the high bits of its codes as int4 or int2 has them, then their
 *                   lowest bits, a unit for each 32 channels or part of them: of channel e of these, bit e / 4 of byte
 *                   e % 4
 *     scales    for each block of 16 rows, for each group: f16 scale[16], f16 offset[16]
 *
 * so that a vector of lanes gets its codes with a shift or two, and a block's scales with one load.
 *
 * fade: every row has a slot with the high bits of its codes (K: 3 of 5 in an int3 half, V: 2 of 4 in an int2 half),
 * and some have a *detail slot* with the two low bits of K and of V, of which a page has 16. Behind the halves of the
 * 64 slots come
 *
 *     K detail  codes of 16 rows as a K half of int2 has them
 *     V detail  codes of 16 rows as a V half of int2 has them
 *     owners    uint32_t[16]: 1 + the slot whose row the detail slot belongs to; 0: none
 *
 * Detail slots are numbered over the page list (16 in each page), as slots are (64 in each), and any may belong to any
 * row of the head: a row loses its detail by the detail slot being given to another row, and is itself not written. Its
 * value is offset + scale * high without its detail, and
 *     offset + scale * high + scale / 4 * (low - 1.5)
 * with it, so that it is in the middle of what the lost bits could have been. */
#define LAYOUT_GROUP_CHANNELS 64u
#define LAYOUT_PAGE_DETAILS 16u

/* The code types of a quantised dtype's halves. */
static inline uint32_t layout_k_type(uint32_t dtype) {
    return dtype == KERNEL_K5V4 ? (uint32_t)KERNEL_INT5 : dtype == KERNEL_FADE ? (uint32_t)KERNEL_INT3 : dtype;
}
static inline uint32_t layout_v_type(uint32_t dtype) {
    return dtype == KERNEL_K5V4 ? (uint32_t)KERNEL_INT4 : dtype == KERNEL_FADE ? (uint32_t)KERNEL_INT2 : dtype;
}
/* Bits of a code. */
static inline uint32_t layout_code_bits(uint32_t type) {
    return type == KERNEL_INT8 ? 8 : type == KERNEL_INT5 ? 5 : type == KERNEL_INT3 ? 3 : type == KERNEL_INT2 ? 2 : 4;
}
/* Whether rows are rotated before they are quantised (quant.h): with few bits. */
static inline int layout_is_rotated(uint32_t dtype) {
    return dtype == KERNEL_INT4 || dtype == KERNEL_K5V4 || dtype == KERNEL_FADE;
}
/* Whether pages have detail slots. */
static inline int layout_has_details(uint32_t dtype) {
    return dtype == KERNEL_FADE;
}
/* Whether a code's lowest bit lies apart from the others. */
static inline int layout_low_bit_apart(uint32_t type) {
    return type == KERNEL_INT5 || type == KERNEL_INT3;
}

static inline uint32_t layout_groups(uint32_t head_dim) {
    return (head_dim + LAYOUT_GROUP_CHANNELS - 1) / LAYOUT_GROUP_CHANNELS;
}
/* Codes in a lane of a unit; of int5 and int3, without their lowest bits. */
static inline uint32_t layout_lane_codes(uint32_t type) {
    return type == KERNEL_INT8 ? 4 : type == KERNEL_INT3 || type == KERNEL_INT2 ? 16 : 8;
}
/* Bytes of the codes of a block of 16 rows, and where the lowest bits of int5 or int3 begin within them. */
static inline size_t layout_low_bits_offset(uint32_t type, uint32_t head_dim) {
    return (size_t)head_dim / layout_lane_codes(type) * 64;
}
static inline size_t layout_block_bytes(uint32_t type, uint32_t head_dim) {
    size_t low_bits = layout_low_bit_apart(type) ? ((size_t)head_dim + 31) / 32 * 64 : 0;
    return layout_low_bits_offset(type, head_dim) + low_bits;
}
/* Bytes of the codes of one half of a page. */
static inline size_t layout_code_bytes(uint32_t type, uint32_t head_dim) {
    return SCISSOR_PAGE_ROWS / SCISSOR_BLOCK_ROWS * layout_block_bytes(type, head_dim);
}
static inline size_t layout_half_bytes(uint32_t type, uint32_t head_dim) {
    return layout_code_bytes(type, head_dim) + (size_t)SCISSOR_PAGE_ROWS * layout_groups(head_dim) * 4;
}
/* Where a group's f16 scale of a row lies within its half; its offset is 32 bytes further on. */
static inline size_t layout_scale_offset(uint32_t type, uint32_t row, uint32_t group, uint32_t head_dim) {
    return layout_code_bytes(type, head_dim) +
           ((size_t)(row / SCISSOR_BLOCK_ROWS) * layout_groups(head_dim) + group) * 64 + row % SCISSOR_BLOCK_ROWS * 2;
}

/* The detail slots of a page: bytes of all of it, and where its parts begin. */
static inline size_t layout_detail_code_bytes(uint32_t head_dim) {
    return (size_t)head_dim / 16 * 64; /* K or V of 16 rows in 2 bits */
}
static inline size_t layout_detail_bytes(uint32_t head_dim) {
    return 2 * layout_detail_code_bytes(head_dim) + LAYOUT_PAGE_DETAILS * sizeof(uint32_t);
}
/* Of a page in a storage dtype; 0 for an unknown one. */
static inline size_t layout_page_bytes(uint32_t dtype, uint32_t head_dim) {
    if (dtype >= KERNEL_DTYPE_COUNT)
        return 0;
    if (dtype < KERNEL_ELEMENT_DTYPES)
        return layout_area_bytes((uint32_t)kernel_dtype_size(dtype), SCISSOR_PAGE_ROWS, head_dim);
    return layout_half_bytes(layout_k_type(dtype), head_dim) + layout_half_bytes(layout_v_type(dtype), head_dim) +
           (layout_has_details(dtype) ? layout_detail_bytes(head_dim) : 0);
}
/* Where the details of a page begin: K, V, owners. */
static inline size_t layout_detail_k_offset(uint32_t dtype, uint32_t head_dim) {
    return layout_page_bytes(dtype, head_dim) - layout_detail_bytes(head_dim);
}
static inline size_t layout_detail_v_offset(uint32_t dtype, uint32_t head_dim) {
    return layout_detail_k_offset(dtype, head_dim) + layout_detail_code_bytes(head_dim);
}
static inline size_t layout_detail_owner_offset(uint32_t dtype, uint32_t head_dim) {
    return layout_detail_v_offset(dtype, head_dim) + layout_detail_code_bytes(head_dim);
}
/* Offset of the V half of a page. */
static inline size_t layout_page_v_offset(uint32_t dtype, uint32_t head_dim) {
    return dtype < KERNEL_ELEMENT_DTYPES
               ? layout_v_offset((uint32_t)kernel_dtype_size(dtype), SCISSOR_PAGE_ROWS, head_dim)
               : layout_half_bytes(layout_k_type(dtype), head_dim);
}
/* As many as a page's index within its segment can name, at most. */
#define LAYOUT_PAGES_PER_SEGMENT_MAX 1024u
static inline uint32_t layout_pages_per_segment(uint32_t dtype, uint32_t head_dim) {
    uint32_t pages = (uint32_t)(SCISSOR_SEGMENT_BYTES / layout_page_bytes(dtype, head_dim));
    return pages < LAYOUT_PAGES_PER_SEGMENT_MAX ? pages : LAYOUT_PAGES_PER_SEGMENT_MAX;
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
