/* quant.h - rows in 8, 5 and 4 bits: how a row becomes codes, scales and offsets, and where they lie in a page.
 *
 * Groups of 64 channels of one row have an f16 offset and an f16 scale, so that a row can be overwritten without
 * touching another; layout.h draws where all of it lies. Before int4 and int5, K and V are rotated by a Hadamard
 * transform, which spreads outliers over all channels; who attends rotates the query and the output (its transform is
 * its own inverse). A row is quantised once, when it settles, and moved as it is from then on.
 *
 * `type` is a half's code type (layout_k_type(), layout_v_type()): KERNEL_INT8, KERNEL_INT4, or KERNEL_INT5 for K.
 * This is the reference for every path, and its results depend on no vector width. Used by the host backend alone. */
#pragma once

#include "layout.h"

#define QUANT_MAX_GROUPS 4u /* head_dim 256 */

/* One half (K or V) of one row. */
struct quant_row {
    uint8_t code[256];                                          /* [head_dim] */
    uint16_t scale[QUANT_MAX_GROUPS], offset[QUANT_MAX_GROUPS]; /* f16 */
};

/* x <- H x, orthonormal, over blocks of channels that are powers of two: the largest ones that fit, from the front (80
 * = 64 + 16). Its own inverse. head_dim is a multiple of 16. */
void quant_rotate(float *x, uint32_t head_dim);

/* Quantises a row, rotated already if it is to be: the codes nearest to (x - offset) / scale, where offset and scale
 * reach from the group's smallest value to its largest. With fewer than 8 bits they are then fitted to the values by
 * least squares, twice, as long as that makes the group's sum of squared errors smaller.
 * A group that holds a value that is not finite, or whose offset or scale is none in f16, has NaN for both: all of it
 * reads as NaN. Error of a finite group, a value's in the mean (root of the mean square): at most half of the step
 * from its smallest to its largest value, and what the rounding of offset and scale to f16 shifts. */
void quant_encode(uint32_t type, const float *x, uint32_t head_dim, struct quant_row *ret);
/* The value of one channel. */
float quant_value(const struct quant_row *row, uint32_t channel);

/* Between a row and its slot (0 to 63) in the K half or the V half of a page; V is in no int5. */
void quant_put_k(uint32_t type, void *half, uint32_t slot, uint32_t head_dim, const struct quant_row *row);
void quant_put_v(uint32_t type, void *half, uint32_t slot, uint32_t head_dim, const struct quant_row *row);
void quant_get_k(uint32_t type, const void *half, uint32_t slot, uint32_t head_dim, struct quant_row *ret);
void quant_get_v(uint32_t type, const void *half, uint32_t slot, uint32_t head_dim, struct quant_row *ret);
