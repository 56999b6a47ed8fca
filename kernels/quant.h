/* quant.h - rows in 8 and in 4 bits: how a row becomes codes, scales and offsets, and where they lie in a page.
 *
 * Groups of 64 channels of one row have an f16 offset (their smallest value) and an f16 scale, so that a row can be
 * overwritten without touching another; layout.h draws where all of it lies. Before int4, K and V are rotated by a
 * Hadamard transform, which spreads outliers over all channels; who attends rotates the query and the output (its
 * transform is its own inverse). A row is quantised once, when it settles, and moved as it is from then on.
 *
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

/* Quantises a row, rotated already if it is int4: the codes nearest to (x - offset) / scale. A group that holds a value
 * that is not finite, or whose offset or scale is none in f16, has NaN for both: all of it reads as NaN.
 * Error of a finite group, a value's: at most scale / 2, and what the rounding of offset and scale to f16 shifts. */
void quant_encode(uint32_t dtype, const float *x, uint32_t head_dim, struct quant_row *ret);
/* The value of one channel. */
float quant_value(const struct quant_row *row, uint32_t channel);

/* Between a row and its slot (0 to 63) in the K half or the V half of a page. */
void quant_put_k(uint32_t dtype, void *half, uint32_t slot, uint32_t head_dim, const struct quant_row *row);
void quant_put_v(uint32_t dtype, void *half, uint32_t slot, uint32_t head_dim, const struct quant_row *row);
void quant_get_k(uint32_t dtype, const void *half, uint32_t slot, uint32_t head_dim, struct quant_row *ret);
void quant_get_v(uint32_t dtype, const void *half, uint32_t slot, uint32_t head_dim, struct quant_row *ret);
