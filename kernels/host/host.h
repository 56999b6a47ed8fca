/* host.h - what the files of the host backend share; nobody else includes it.
 *
 * A path ("reference", "avx2", "avx512", "avx512vnni") is two functions: one that converts a run of elements and one
 * that attends. Everything else (checks, moves, memory) is common to all paths. */
#pragma once

#include "../backend.h"

#define HOST_MAX_HEAD_DIM 256u
#define HOST_TILE_QUERIES 12u /* (row, query head) pairs that a vector path works on at once */

/* Converts `count` elements; the same dtype on both sides copies the bits. All paths give the same bits. */
typedef void (*host_convert_fn)(uint32_t to_dtype, void *to, uint32_t from_dtype, const void *from, size_t count);
/* One item that attend_check() in host.c has accepted. */
typedef void (*host_attend_fn)(const struct kernel_attend *item, void *workspace);

void host_convert_reference(uint32_t to_dtype, void *to, uint32_t from_dtype, const void *from, size_t count);
void host_convert_avx2(uint32_t to_dtype, void *to, uint32_t from_dtype, const void *from, size_t count);

void host_attend_reference(const struct kernel_attend *item, void *workspace);
void host_attend_avx2(const struct kernel_attend *item, void *workspace);
void host_attend_vnni(const struct kernel_attend *item, void *workspace);
void host_attend_avx512(const struct kernel_attend *item, void *workspace);

/* move.c: rows between buffers, and their norms. They check everything first: on -EINVAL nothing was written. */
int host_settle(host_convert_fn convert, const struct kernel_settle *heads, size_t head_count);
int host_shrink(const struct kernel_shrink *heads, size_t head_count);
int host_v_norms(host_convert_fn convert, const struct kernel_norms *heads, size_t head_count);
int host_append(host_convert_fn convert, void *fresh, uint32_t fresh_rows, uint32_t first_row, uint32_t rows,
                uint32_t head_dim, uint8_t compute_dtype, const void *k, const void *v, size_t stride,
                uint8_t input_dtype);

/* memory.c: the segment operations of struct kernel_backend. */
int host_segment_new(struct kernel_backend *b, enum kernel_access access, size_t bytes, struct kernel_segment **ret);
struct kernel_segment *host_segment_free(struct kernel_backend *b, struct kernel_segment *s);
int host_segment_export(struct kernel_backend *b, struct kernel_segment *s, struct kernel_handle *ret);
int host_segment_import(struct kernel_backend *b, enum kernel_access access, const struct kernel_handle *handle,
                        size_t bytes, struct kernel_segment **ret);
void *host_segment_address(struct kernel_segment *s);
int host_segment_descriptor(struct kernel_segment *s);
int host_segment_adopt(struct kernel_backend *b, enum kernel_access access, int fd, size_t bytes,
                       struct kernel_segment **ret);
struct kernel_segment *host_segment_leave(struct kernel_backend *b, struct kernel_segment *s);

static inline int host_head_dim_valid(uint32_t head_dim) {
    return head_dim != 0 && head_dim <= HOST_MAX_HEAD_DIM && head_dim % 16 == 0;
}
static inline int host_fresh_rows_valid(uint32_t fresh_rows) {
    return fresh_rows % SCISSOR_BLOCK_ROWS == 0;
}
