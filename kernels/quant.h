/* quant.h - rows in 8 to 2 bits: how a row becomes codes, scales and offsets, and where they lie in a page.
 *
 * Groups of 64 channels of one row have an f16 offset and an f16 scale, so that a row can be overwritten without
 * touching another; layout.h draws where all of it lies. With few bits, K and V are rotated before by a Hadamard
 * transform, which spreads outliers over all channels; who attends rotates the query and the output (its transform is
 * its own inverse). A row is quantised once, when it settles, and moved as it is from then on.
 *
 * `type` is a half's code type (layout_k_type(), layout_v_type()): KERNEL_INT8, KERNEL_INT4, KERNEL_INT2, or for K
 * KERNEL_INT5, KERNEL_INT3. A row with details has codes of two bits more, of which its slot has the high ones.
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

/* A row with details, `type` is that of its slot: as above, in codes of two bits more. Scale and offset are those of
 * the slot's codes, and the fit takes their rounding into account. */
void quant_encode_detailed(uint32_t type, const float *x, uint32_t head_dim, struct quant_row *ret);
/* The value of one channel, of such a row; and what is added to that of the slot alone. */
float quant_detailed_value(const struct quant_row *row, uint32_t channel);
float quant_detail(uint16_t scale, uint8_t code);
/* Turns such a row into what its slot has. */
void quant_drop_details(struct quant_row *row, uint32_t head_dim);

/* Between a row and its slot (0 to 63) in the K half or the V half of a page; V is in no int5, and in no int3. */
void quant_put_k(uint32_t type, void *half, uint32_t slot, uint32_t head_dim, const struct quant_row *row);
void quant_put_v(uint32_t type, void *half, uint32_t slot, uint32_t head_dim, const struct quant_row *row);
void quant_get_k(uint32_t type, const void *half, uint32_t slot, uint32_t head_dim, struct quant_row *ret);
void quant_get_v(uint32_t type, const void *half, uint32_t slot, uint32_t head_dim, struct quant_row *ret);

/* The two low bits of codes[head_dim] of K or V, and their detail slot (0 to 15) in a page's K or V details. */
void quant_put_k_detail(void *details, uint32_t slot, uint32_t head_dim, const uint8_t *codes);
void quant_put_v_detail(void *details, uint32_t slot, uint32_t head_dim, const uint8_t *codes);
void quant_get_k_detail(const void *details, uint32_t slot, uint32_t head_dim, uint8_t *ret);
void quant_get_v_detail(const void *details, uint32_t slot, uint32_t head_dim, uint8_t *ret);
