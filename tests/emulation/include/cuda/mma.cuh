/* mma.cuh - in the place of kernels/cuda/mma.cuh, for g++: the same functions, done by ../../mma.c. */
#pragma once

#include "cuda/device.cuh"

extern "C" {
void emulator_mma(int bf16, float *c, const uint32_t *a, const uint32_t *b, const char *file, int line);
void emulator_load_matrices_turned(uint32_t *ret, const uint32_t *row, const char *file, int line);
}

template <uint32_t DTYPE> static __forceinline__ void mma(float *c, const uint32_t *a, const uint32_t *b) {
    float sums[4] = {c[0], c[1], c[2], c[3]};
    uint32_t left[4] = {a[0], a[1], a[2], a[3]}, right[2] = {b[0], b[1]};
    emulator_mma(DTYPE == KERNEL_BF16, sums, left, right, __FILE__, __LINE__);
    c[0] = sums[0], c[1] = sums[1], c[2] = sums[2], c[3] = sums[3];
}

static __forceinline__ void load_matrices_turned(uint32_t *ret, const uint4 *row) {
    uint32_t mine[4], got[4];
    emulator_load_into(mine, row, sizeof mine);
    emulator_load_matrices_turned(got, mine, __FILE__, __LINE__);
    ret[0] = got[0], ret[1] = got[1], ret[2] = got[2], ret[3] = got[3];
}
