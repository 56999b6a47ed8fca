/* device.cuh - what the kernels share: elements of a dtype in registers, and where rows lie.
 *
 * layout.h in the device's words. Two kinds of conversion: the exact one of dtype.c for rows on the move, NaN and all,
 * and the processor's own for arithmetic. */
#pragma once

#include <cuda_fp16.h>

#include "launch.h"

#define FULL_WARP 0xffffffffu

/* Dynamic shared memory is the only one that is used: the launch says how much there is. */
extern __shared__ uint4 shared_memory[];

static __device__ __forceinline__ uint32_t element_bytes(uint32_t dtype) {
    return dtype == KERNEL_F32 ? 4 : 2;
}

static __device__ __forceinline__ uint32_t smaller(uint32_t a, uint32_t b) {
    return a < b ? a : b;
}

/* ---------- exact conversion of one element's bits ---------- */

static __device__ __forceinline__ uint32_t f16_bits_to_f32(uint32_t bits) {
    if ((bits & 0x7fff) > 0x7c00)
        return (bits & 0x8000) << 16 | 0x7fc00000 | (bits & 0x3ff) << 13;
    return __float_as_uint(__half2float(__ushort_as_half((unsigned short)bits)));
}

static __device__ __forceinline__ uint32_t f32_bits_to_f16(uint32_t bits) {
    if ((bits & 0x7fffffff) > 0x7f800000)
        return (bits >> 16 & 0x8000) | 0x7e00 | (bits >> 13 & 0x3ff);
    return __half_as_ushort(__float2half_rn(__uint_as_float(bits)));
}

static __device__ __forceinline__ uint32_t f32_bits_to_bf16(uint32_t bits) {
    if ((bits & 0x7fffffff) > 0x7f800000)
        return bits >> 16 | 0x40;
    return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

static __device__ __forceinline__ uint32_t convert_bits(uint32_t to, uint32_t from, uint32_t bits) {
    if (to == from)
        return bits;
    if (from != KERNEL_F32)
        bits = from == KERNEL_F16 ? f16_bits_to_f32(bits) : bits << 16;
    if (to != KERNEL_F32)
        bits = to == KERNEL_F16 ? f32_bits_to_f16(bits) : f32_bits_to_bf16(bits);
    return bits;
}

/* Eight elements' bits, one a register, so that 16 bits and 32 bits go the same way. */
struct eight {
    uint32_t bits[8];
};

static __device__ __forceinline__ void eight_split(struct eight *x, uint32_t pair, uint32_t both) {
    x->bits[2 * pair] = both & 0xffff;
    x->bits[2 * pair + 1] = both >> 16;
}

/* `at` is a multiple of 16 bytes; what is loaded does not change during the launch. */
static __device__ __forceinline__ struct eight eight_load(uint32_t dtype, const void *at) {
    struct eight x;
    const uint4 *wide = (const uint4 *)at;
    uint4 a = __ldg(wide);
    if (dtype != KERNEL_F32) {
        eight_split(&x, 0, a.x);
        eight_split(&x, 1, a.y);
        eight_split(&x, 2, a.z);
        eight_split(&x, 3, a.w);
        return x;
    }
    uint4 b = __ldg(wide + 1);
    x.bits[0] = a.x, x.bits[1] = a.y, x.bits[2] = a.z, x.bits[3] = a.w;
    x.bits[4] = b.x, x.bits[5] = b.y, x.bits[6] = b.z, x.bits[7] = b.w;
    return x;
}

static __device__ __forceinline__ void eight_store(uint32_t dtype, void *at, struct eight x) {
    uint4 *wide = (uint4 *)at;
    if (dtype != KERNEL_F32) {
        __stwb(wide, make_uint4(x.bits[0] | x.bits[1] << 16, x.bits[2] | x.bits[3] << 16, x.bits[4] | x.bits[5] << 16,
                                x.bits[6] | x.bits[7] << 16));
        return;
    }
    __stwb(wide, make_uint4(x.bits[0], x.bits[1], x.bits[2], x.bits[3]));
    __stwb(wide + 1, make_uint4(x.bits[4], x.bits[5], x.bits[6], x.bits[7]));
}

static __device__ __forceinline__ struct eight eight_convert(uint32_t to, uint32_t from, struct eight x) {
    if (to == from)
        return x;
#pragma unroll
    for (uint32_t i = 0; i < 8; i++)
        x.bits[i] = convert_bits(to, from, x.bits[i]);
    return x;
}

/* One element's bits; `at` does not change during the launch. */
static __device__ __forceinline__ uint32_t element_load(uint32_t dtype, const void *at) {
    return dtype == KERNEL_F32 ? __ldg((const unsigned int *)at) : __ldg((const unsigned short *)at);
}

static __device__ __forceinline__ void element_store(uint32_t dtype, void *at, uint32_t bits) {
    if (dtype == KERNEL_F32)
        *(uint32_t *)at = bits;
    else
        *(uint16_t *)at = (uint16_t)bits;
}

/* ---------- elements for arithmetic ---------- */

/* Sixteen bytes as floats: COUNT of them. */
template <uint32_t DTYPE> struct element;

template <> struct element<KERNEL_F32> {
    enum { SIZE = 4, COUNT = 4 };
    static __device__ __forceinline__ void unpack(uint4 v, float *ret) {
        ret[0] = __uint_as_float(v.x);
        ret[1] = __uint_as_float(v.y);
        ret[2] = __uint_as_float(v.z);
        ret[3] = __uint_as_float(v.w);
    }
};

template <> struct element<KERNEL_F16> {
    enum { SIZE = 2, COUNT = 8 };
    static __device__ __forceinline__ void pair(unsigned int both, float *ret) {
        ret[0] = __half2float(__ushort_as_half((unsigned short)both));
        ret[1] = __half2float(__ushort_as_half((unsigned short)(both >> 16)));
    }
    static __device__ __forceinline__ void unpack(uint4 v, float *ret) {
        pair(v.x, ret);
        pair(v.y, ret + 2);
        pair(v.z, ret + 4);
        pair(v.w, ret + 6);
    }
};

template <> struct element<KERNEL_BF16> {
    enum { SIZE = 2, COUNT = 8 };
    static __device__ __forceinline__ void pair(unsigned int both, float *ret) {
        ret[0] = __uint_as_float(both << 16);
        ret[1] = __uint_as_float(both & 0xffff0000u);
    }
    static __device__ __forceinline__ void unpack(uint4 v, float *ret) {
        pair(v.x, ret);
        pair(v.y, ret + 2);
        pair(v.z, ret + 4);
        pair(v.w, ret + 6);
    }
};

/* ---------- places ---------- */

/* Element (row, 0) of a K area; the next channel's is SCISSOR_BLOCK_ROWS further on. */
static __device__ __forceinline__ size_t k_element(uint32_t row, uint32_t head_dim) {
    return (size_t)(row / SCISSOR_BLOCK_ROWS) * head_dim * SCISSOR_BLOCK_ROWS + row % SCISSOR_BLOCK_ROWS;
}
