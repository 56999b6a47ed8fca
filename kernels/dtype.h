/* dtype.h - types of K and V, their sizes and their scalar conversions.
 *
 * The numbers travel in messages and stand in scissor.h; they never change.
 * The first three are types of one element: compute dtypes, and storage dtypes
 * as well. The others exist in settled rows alone, where several elements share
 * a scale and an offset (quant.h).
 * Conversions round to nearest even and keep infinities and NaN; they are the
 * reference that the vector paths are tested against. */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum scissor_kernel_dtype {
    KERNEL_F32 = 0,
    KERNEL_F16 = 1,
    KERNEL_BF16 = 2,
    KERNEL_ELEMENT_DTYPES = 3, /* the ones before it are types of one element */
    KERNEL_INT8 = 3,
    KERNEL_INT4 = 4,
    KERNEL_K5V4 = 5, /* K in 5 bits, V in 4 */
    KERNEL_FADE = 6, /* the same, but most rows have lost the two lowest bits of K and of V (layout.h) */
    KERNEL_DTYPE_COUNT = 7,
    /* no storage dtypes: what halves of K5V4 and FADE are in (layout.h) */
    KERNEL_INT5 = 7,
    KERNEL_INT3 = 8,
    KERNEL_INT2 = 9,
};

/* Bytes of one element; 0 for a type that has no elements of its own, and for an unknown one. */
static inline size_t kernel_dtype_size(uint32_t dtype) {
    return dtype == KERNEL_F32 ? 4 : dtype < KERNEL_ELEMENT_DTYPES ? 2 : 0;
}

/* "f32", "f16", "bf16", "int8", "int4", "k5v4", "fade"; "?" for an unknown type. */
const char *kernel_dtype_name(uint32_t dtype);

float kernel_f16_to_f32(uint16_t h);
uint16_t kernel_f32_to_f16(float f);
float kernel_bf16_to_f32(uint16_t h);
uint16_t kernel_f32_to_bf16(float f);

/* Reads or writes element i of an array of the given dtype. */
float kernel_load(uint32_t dtype, const void *array, size_t i);
void kernel_store(uint32_t dtype, void *array, size_t i, float value);
