/* dequant.h - the tensor types of a GGUF file as f32.
 *
 * Blocks, with d and m in f16 and everything little-endian:
 *     Q4_0  32 elements: d, 16 bytes; element i is the low half of byte i, i + 16 its high half; x = d (q - 8)
 *     Q4_1  32 elements: d, m, 16 bytes as above; x = d q + m
 *     Q8_0  32 elements: d, 32 signed bytes; x = d q
 *     Q4_K  256 elements in 8 runs of 32: d, m, 12 bytes with eight 6-bit scales s and eight 6-bit minima t,
 *           128 bytes; x = d s q - m t
 *     Q6_K  256 elements in 16 runs of 16: 128 bytes with the low 4 bits, 64 bytes with the high 2 bits, 16 signed
 *           scales s, d; x = d s (q - 32) */
#pragma once

#include <stddef.h>
#include <stdint.h>

/* Converts `elements` elements, a multiple of the type's block (gguf.h), from `source`, which need not be aligned.
 * The type must be one of enum gguf_tensor_type. */
void dequant_elements(uint32_t type, const uint8_t *source, size_t elements, float *ret);
