/* dtype.h - element types of K and V, their sizes and their scalar conversions.
 *
 * The numbers travel in messages and stand in scissor.h; they never change.
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
    KERNEL_DTYPE_COUNT = 3,
};

/* Bytes of one element; 0 for an unknown type. */
static inline size_t kernel_dtype_size(uint32_t dtype) {
    return dtype == KERNEL_F32 ? 4 : dtype < KERNEL_DTYPE_COUNT ? 2 : 0;
}

/* "f32", "f16", "bf16"; "?" for an unknown type. */
const char *kernel_dtype_name(uint32_t dtype);

float kernel_f16_to_f32(uint16_t h);
uint16_t kernel_f32_to_f16(float f);
float kernel_bf16_to_f32(uint16_t h);
uint16_t kernel_f32_to_bf16(float f);

/* Reads or writes element i of an array of the given dtype. */
float kernel_load(uint32_t dtype, const void *array, size_t i);
void kernel_store(uint32_t dtype, void *array, size_t i, float value);
