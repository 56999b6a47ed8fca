/* stored_row.c - see stored_row.h. Rows are quantised here anew, by the backend's own functions, which have tests of
 * their own. */
#include "stored_row.h"

#include <string.h>

#include "fake_backend.h"
#include "quant.h"

#define DIM_MAX 256

static struct quant_row row_of(uint32_t head_dim, uint32_t dtype, bool v, uint32_t position, uint32_t head) {
    float area[2 * SCISSOR_BLOCK_ROWS * DIM_MAX], x[DIM_MAX];
    struct quant_row row = {0};
    fake_row_write(area, SCISSOR_BLOCK_ROWS, 0, head_dim, KERNEL_F32, position, head);
    for (uint32_t c = 0; c < head_dim; c++)
        x[c] =
            area[v ? SCISSOR_BLOCK_ROWS * head_dim + layout_v_index(0, c, head_dim) : layout_k_index(0, c, head_dim)];
    quant_rotate(x, head_dim);
    quant_encode_detailed(v ? layout_v_type(dtype) : layout_k_type(dtype), x, head_dim, &row);
    return row;
}

static bool same(const struct quant_row *a, const struct quant_row *b, uint32_t head_dim) {
    size_t scales = layout_groups(head_dim) * sizeof a->scale[0];
    return memcmp(a->code, b->code, head_dim) == 0 && memcmp(a->scale, b->scale, scales) == 0 &&
           memcmp(a->offset, b->offset, scales) == 0;
}

bool stored_row_is(const void *page, uint32_t slot, uint32_t head_dim, uint32_t dtype, uint32_t position,
                   uint32_t head) {
    struct quant_row k = row_of(head_dim, dtype, false, position, head),
                     v = row_of(head_dim, dtype, true, position, head);
    struct quant_row stored_k = {0}, stored_v = {0};
    quant_drop_details(&k, head_dim);
    quant_drop_details(&v, head_dim);
    quant_get_k(layout_k_type(dtype), page, slot, head_dim, &stored_k);
    quant_get_v(layout_v_type(dtype), (const char *)page + layout_page_v_offset(dtype, head_dim), slot, head_dim,
                &stored_v);
    return same(&k, &stored_k, head_dim) && same(&v, &stored_v, head_dim);
}

uint32_t stored_detail_owner(const void *page, uint32_t detail, uint32_t head_dim, uint32_t dtype) {
    uint32_t owner;
    memcpy(&owner, (const char *)page + layout_detail_owner_offset(dtype, head_dim) + detail * sizeof owner,
           sizeof owner);
    return owner ? owner - 1 : KERNEL_NONE;
}

bool stored_detail_is(const void *page, uint32_t detail, uint32_t head_dim, uint32_t dtype, uint32_t position,
                      uint32_t head) {
    struct quant_row k = row_of(head_dim, dtype, false, position, head),
                     v = row_of(head_dim, dtype, true, position, head);
    uint8_t stored_k[DIM_MAX], stored_v[DIM_MAX];
    quant_get_k_detail((const char *)page + layout_detail_k_offset(dtype, head_dim), detail, head_dim, stored_k);
    quant_get_v_detail((const char *)page + layout_detail_v_offset(dtype, head_dim), detail, head_dim, stored_v);
    for (uint32_t c = 0; c < head_dim; c++)
        if (stored_k[c] != (k.code[c] & 3) || stored_v[c] != (v.code[c] & 3))
            return false;
    return true;
}
