/* clang_device.h - what CUDA's headers declare, as far as our kernels use it, for clang's front end, whose own headers
 * for CUDA do not go with those of a new Toolkit. Nothing is defined here: clang.sh checks and makes no code. */
#pragma once

#include <math.h>
#include <stddef.h>
#include <stdint.h>

#define __global__ __attribute__((global))
#define __device__ __attribute__((device))
#define __host__ __attribute__((host))
#define __shared__ __attribute__((shared))
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...) __attribute__((launch_bounds(__VA_ARGS__)))

struct uint3 {
    unsigned int x, y, z;
};
struct dim3 {
    unsigned int x, y, z;
};
struct alignas(16) uint4 {
    unsigned int x, y, z, w;
};
struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
#include <__clang_cuda_builtin_vars.h>

__device__ uint4 make_uint4(unsigned int x, unsigned int y, unsigned int z, unsigned int w);
__device__ float2 make_float2(float x, float y);
__device__ unsigned int __float_as_uint(float f);
__device__ float __uint_as_float(unsigned int bits);
__device__ unsigned int __ldg(const unsigned int *at);
__device__ unsigned short __ldg(const unsigned short *at);
__device__ float __ldg(const float *at);
__device__ float2 __ldg(const float2 *at);
__device__ uint4 __ldg(const uint4 *at);
__device__ void __stwb(uint4 *at, uint4 x);
__device__ void __syncthreads(void) __attribute__((convergent));
__device__ void __syncwarp(unsigned int mask = 0xffffffff) __attribute__((convergent));
__device__ int __syncthreads_or(int value) __attribute__((convergent));
__device__ size_t __cvta_generic_to_shared(const void *at);
__device__ float __shfl_xor_sync(unsigned int mask, float x, int lanes, int width = 32) __attribute__((convergent));
__device__ float __shfl_down_sync(unsigned int mask, float x, unsigned int by, int width = 32)
    __attribute__((convergent));
__device__ float fmaxf(float a, float b);
__device__ float exp2f(float x);
__device__ float fabsf(float x);
