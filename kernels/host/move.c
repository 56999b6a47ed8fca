/* move.c - rows on the move: settle, shrink and append, and the norms of rows, for every path.
 *
 * A row's K lies spread over its block, one element in each line of 16, so moving it is a gather and a scatter of
 * head_dim elements whatever the processor; only the conversion between them is worth vectors. It works on a row that
 * was gathered into a small buffer. V rows are converted in place to place. */
#include <errno.h>
#include <math.h>
#include <stdbool.h>

#include "../quant.h"
#include "host.h"

/* One row of K in plain order, widest dtype. */
struct row_buffer {
    _Alignas(64) char bytes[HOST_MAX_HEAD_DIM * 4];
};

/* Element (row, 0) of a K area; the next channel's is SCISSOR_BLOCK_ROWS further on. */
static char *k_row(const void *area, uint32_t row, uint32_t head_dim, size_t size) {
    return (char *)area + layout_k_index(row, 0, head_dim) * size;
}

static void k_gather(void *to, const char *k, uint32_t head_dim, size_t size) {
    if (size == 4)
        for (uint32_t c = 0; c < head_dim; c++)
            ((uint32_t *)to)[c] = ((const uint32_t *)k)[(size_t)c * SCISSOR_BLOCK_ROWS];
    else
        for (uint32_t c = 0; c < head_dim; c++)
            ((uint16_t *)to)[c] = ((const uint16_t *)k)[(size_t)c * SCISSOR_BLOCK_ROWS];
}

static void k_scatter(char *k, const void *from, uint32_t head_dim, size_t size) {
    if (size == 4)
        for (uint32_t c = 0; c < head_dim; c++)
            ((uint32_t *)k)[(size_t)c * SCISSOR_BLOCK_ROWS] = ((const uint32_t *)from)[c];
    else
        for (uint32_t c = 0; c < head_dim; c++)
            ((uint16_t *)k)[(size_t)c * SCISSOR_BLOCK_ROWS] = ((const uint16_t *)from)[c];
}

/* Start of row `row` in the V part of an area. */
static char *v_row(const void *area, uint32_t area_rows, uint32_t row, uint32_t head_dim, size_t size) {
    return (char *)area + layout_v_offset((uint32_t)size, area_rows, head_dim) +
           layout_v_index(row, 0, head_dim) * size;
}

static int settle_check(const struct kernel_settle *head) {
    if (!kernel_dtype_size(head->compute_dtype) || head->storage_dtype >= KERNEL_DTYPE_COUNT ||
        !host_head_dim_valid(head->head_dim) || !host_fresh_rows_valid(head->fresh_rows))
        return -EINVAL;
    for (uint32_t i = 0; i < head->move_count; i++)
        if (head->moves[i].from >= head->fresh_rows)
            return -EINVAL;
    return head->move_count && !layout_has_details(head->storage_dtype) != !head->details ? -EINVAL : 0;
}

static void settle_head(host_convert_fn convert, const struct kernel_settle *head) {
    size_t in = kernel_dtype_size(head->compute_dtype), out = kernel_dtype_size(head->storage_dtype);
    uint32_t d = head->head_dim;
    struct row_buffer gathered, converted;

    for (uint32_t i = 0; i < head->move_count; i++) {
        uint32_t from = head->moves[i].from, to = head->moves[i].to % SCISSOR_PAGE_ROWS;
        char *page = head->pages[head->moves[i].to / SCISSOR_PAGE_ROWS];

        k_gather(gathered.bytes, k_row(head->fresh, from, d, in), d, in);
        convert(head->storage_dtype, converted.bytes, head->compute_dtype, gathered.bytes, d);
        k_scatter(k_row(page, to, d, out), converted.bytes, d, out);
        convert(head->storage_dtype, v_row(page, SCISSOR_PAGE_ROWS, to, d, out), head->compute_dtype,
                v_row(head->fresh, head->fresh_rows, from, d, in), d);
    }
}

/* A row that was gathered, in f32 from here on. */
static void quantise(uint32_t dtype, uint32_t type, float *x, uint32_t head_dim, struct quant_row *ret) {
    if (layout_is_rotated(dtype))
        quant_rotate(x, head_dim);
    (layout_has_details(dtype) ? quant_encode_detailed : quant_encode)(type, x, head_dim, ret);
}

/* The parts of a page that has a detail slot. */
struct detail_place {
    char *k, *v, *owner;
    uint32_t slot;
};

static struct detail_place detail_place(void *const *pages, uint32_t dtype, uint32_t head_dim, uint32_t detail) {
    char *page = pages[detail / LAYOUT_PAGE_DETAILS];
    uint32_t slot = detail % LAYOUT_PAGE_DETAILS;
    return (struct detail_place){
        .k = page + layout_detail_k_offset(dtype, head_dim),
        .v = page + layout_detail_v_offset(dtype, head_dim),
        .owner = page + layout_detail_owner_offset(dtype, head_dim) + slot * sizeof(uint32_t),
        .slot = slot,
    };
}

static void detail_give(struct detail_place detail, uint32_t to) {
    uint32_t owner = to == KERNEL_NONE ? 0 : to + 1;
    memcpy(detail.owner, &owner, sizeof owner);
}

/* What a detail slot takes of a row, and what is left of the row for its own slot. */
static void settle_details(const struct kernel_settle *head, uint32_t i, bool v, struct quant_row *row) {
    uint32_t d = head->head_dim;
    if (head->details[i] != KERNEL_NONE) {
        struct detail_place to = detail_place(head->pages, head->storage_dtype, d, head->details[i]);
        if (v)
            quant_put_v_detail(to.v, to.slot, d, row->code);
        else
            quant_put_k_detail(to.k, to.slot, d, row->code);
        detail_give(to, head->moves[i].to);
    }
    quant_drop_details(row, d);
}

static void settle_head_quantised(host_convert_fn convert, const struct kernel_settle *head) {
    size_t in = kernel_dtype_size(head->compute_dtype);
    uint32_t d = head->head_dim, dtype = head->storage_dtype, k_type = layout_k_type(dtype),
             v_type = layout_v_type(dtype);
    struct row_buffer gathered, wide;
    struct quant_row row;

    for (uint32_t i = 0; i < head->move_count; i++) {
        uint32_t from = head->moves[i].from, to = head->moves[i].to % SCISSOR_PAGE_ROWS;
        char *page = head->pages[head->moves[i].to / SCISSOR_PAGE_ROWS];

        k_gather(gathered.bytes, k_row(head->fresh, from, d, in), d, in);
        convert(KERNEL_F32, wide.bytes, head->compute_dtype, gathered.bytes, d);
        quantise(dtype, k_type, (float *)wide.bytes, d, &row);
        if (head->details)
            settle_details(head, i, false, &row);
        quant_put_k(k_type, page, to, d, &row);
        convert(KERNEL_F32, wide.bytes, head->compute_dtype, v_row(head->fresh, head->fresh_rows, from, d, in), d);
        quantise(dtype, v_type, (float *)wide.bytes, d, &row);
        if (head->details)
            settle_details(head, i, true, &row);
        quant_put_v(v_type, page + layout_page_v_offset(dtype, d), to, d, &row);
    }
}

int host_settle(host_convert_fn convert, const struct kernel_settle *heads, size_t head_count) {
    for (size_t i = 0; i < head_count; i++)
        if (settle_check(&heads[i]) < 0)
            return -EINVAL;
    for (size_t i = 0; i < head_count; i++)
        (heads[i].storage_dtype < KERNEL_ELEMENT_DTYPES ? settle_head : settle_head_quantised)(convert, &heads[i]);
    return 0;
}

static void shrink_head(const struct kernel_shrink *head) {
    size_t size = kernel_dtype_size(head->storage_dtype);
    uint32_t d = head->head_dim;
    struct row_buffer gathered;

    for (uint32_t i = 0; i < head->move_count; i++) {
        uint32_t from = head->moves[i].from, to = head->moves[i].to;
        const char *from_page = head->pages[from / SCISSOR_PAGE_ROWS];
        char *to_page = head->pages[to / SCISSOR_PAGE_ROWS];
        from %= SCISSOR_PAGE_ROWS;
        to %= SCISSOR_PAGE_ROWS;

        k_gather(gathered.bytes, k_row(from_page, from, d, size), d, size);
        k_scatter(k_row(to_page, to, d, size), gathered.bytes, d, size);
        /* A row may be moved onto itself. */
        memmove(v_row(to_page, SCISSOR_PAGE_ROWS, to, d, size), v_row(from_page, SCISSOR_PAGE_ROWS, from, d, size),
                d * size);
    }
}

static void shrink_head_quantised(const struct kernel_shrink *head) {
    uint32_t d = head->head_dim, dtype = head->storage_dtype, k_type = layout_k_type(dtype),
             v_type = layout_v_type(dtype);
    size_t v = layout_page_v_offset(dtype, d);
    struct quant_row row;

    for (uint32_t i = 0; i < head->move_count; i++) {
        uint32_t from = head->moves[i].from, to = head->moves[i].to;
        const char *from_page = head->pages[from / SCISSOR_PAGE_ROWS];
        char *to_page = head->pages[to / SCISSOR_PAGE_ROWS];

        quant_get_k(k_type, from_page, from % SCISSOR_PAGE_ROWS, d, &row);
        quant_put_k(k_type, to_page, to % SCISSOR_PAGE_ROWS, d, &row);
        quant_get_v(v_type, from_page + v, from % SCISSOR_PAGE_ROWS, d, &row);
        quant_put_v(v_type, to_page + v, to % SCISSOR_PAGE_ROWS, d, &row);
    }
}

static void shrink_details(const struct kernel_shrink *head) {
    uint32_t d = head->head_dim, dtype = head->storage_dtype;
    uint8_t codes[HOST_MAX_HEAD_DIM];

    for (uint32_t i = 0; i < head->detail_move_count; i++) {
        struct detail_place from = detail_place(head->pages, dtype, d, head->detail_moves[i].from);
        struct detail_place to = detail_place(head->pages, dtype, d, head->detail_moves[i].to);
        quant_get_k_detail(from.k, from.slot, d, codes);
        quant_put_k_detail(to.k, to.slot, d, codes);
        quant_get_v_detail(from.v, from.slot, d, codes);
        quant_put_v_detail(to.v, to.slot, d, codes);
        memmove(to.owner, from.owner, sizeof(uint32_t)); /* one may be moved onto itself, too */
    }
    for (uint32_t i = 0; i < head->owner_count; i++)
        detail_give(detail_place(head->pages, dtype, d, head->owners[i].from), head->owners[i].to);
}

static int shrink_check(const struct kernel_shrink *head) {
    if (head->storage_dtype >= KERNEL_DTYPE_COUNT || !host_head_dim_valid(head->head_dim))
        return -EINVAL;
    return !layout_has_details(head->storage_dtype) && (head->detail_move_count || head->owner_count) ? -EINVAL : 0;
}

int host_shrink(const struct kernel_shrink *heads, size_t head_count) {
    for (size_t i = 0; i < head_count; i++)
        if (shrink_check(&heads[i]) < 0)
            return -EINVAL;
    for (size_t i = 0; i < head_count; i++) {
        (heads[i].storage_dtype < KERNEL_ELEMENT_DTYPES ? shrink_head : shrink_head_quantised)(&heads[i]);
        shrink_details(&heads[i]);
    }
    return 0;
}

static int norms_check(const struct kernel_norms *head) {
    if (!kernel_dtype_size(head->compute_dtype) || !host_head_dim_valid(head->head_dim) ||
        !host_fresh_rows_valid(head->fresh_rows))
        return -EINVAL;
    return head->first > head->fresh_rows || head->count > head->fresh_rows - head->first ? -EINVAL : 0;
}

/* Sixteen sums side by side, so that an addition need not wait for the one before; in this order on every path, so that
 * all of them give the same bits and evict the same rows. */
static float norm_of(const float *row, uint32_t head_dim) {
    float sums[16] = {0};
    for (uint32_t c = 0; c < head_dim; c += 16)
        for (uint32_t i = 0; i < 16; i++)
            sums[i] += fabsf(row[c + i]);
    for (uint32_t half = 8; half; half /= 2)
        for (uint32_t i = 0; i < half; i++)
            sums[i] += sums[i + half];
    return sums[0];
}

int host_v_norms(host_convert_fn convert, const struct kernel_norms *heads, size_t head_count) {
    for (size_t i = 0; i < head_count; i++)
        if (norms_check(&heads[i]) < 0)
            return -EINVAL;
    for (size_t i = 0; i < head_count; i++) {
        const struct kernel_norms *head = &heads[i];
        size_t size = kernel_dtype_size(head->compute_dtype);
        for (uint32_t r = 0; r < head->count; r++) {
            struct row_buffer row;
            convert(KERNEL_F32, row.bytes, head->compute_dtype,
                    v_row(head->fresh, head->fresh_rows, head->first + r, head->head_dim, size), head->head_dim);
            head->norms[r] = norm_of((const float *)row.bytes, head->head_dim);
        }
    }
    return 0;
}

int host_append(host_convert_fn convert, void *fresh, uint32_t fresh_rows, uint32_t first_row, uint32_t rows,
                uint32_t head_dim, uint8_t compute_dtype, const void *k, const void *v, size_t stride,
                uint8_t input_dtype) {
    size_t in = kernel_dtype_size(input_dtype), out = kernel_dtype_size(compute_dtype);
    struct row_buffer converted;

    if (!in || !out || !host_head_dim_valid(head_dim) || !host_fresh_rows_valid(fresh_rows) || first_row > fresh_rows ||
        rows > fresh_rows - first_row || stride < head_dim)
        return -EINVAL;
    for (uint32_t i = 0; i < rows; i++) {
        uint32_t row = first_row + i;
        convert(compute_dtype, converted.bytes, input_dtype, (const char *)k + i * stride * in, head_dim);
        k_scatter(k_row(fresh, row, head_dim, out), converted.bytes, head_dim, out);
        convert(compute_dtype, v_row(fresh, fresh_rows, row, head_dim, out), input_dtype,
                (const char *)v + i * stride * in, head_dim);
    }
    return 0;
}
