/* stored_row.h - whether the host backend's memory holds a row of fake_backend.h in a storage dtype with details. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

/* Whether that slot of a page holds the row. */
bool stored_row_is(const void *page, uint32_t slot, uint32_t head_dim, uint32_t dtype, uint32_t position,
                   uint32_t head);
/* The slot that a detail slot of a page says it is of; KERNEL_NONE: none. */
uint32_t stored_detail_owner(const void *page, uint32_t detail, uint32_t head_dim, uint32_t dtype);
/* Whether it holds the details of the row. */
bool stored_detail_is(const void *page, uint32_t detail, uint32_t head_dim, uint32_t dtype, uint32_t position,
                      uint32_t head);
