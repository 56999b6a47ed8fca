/* cuda_fp16.h - in the place of NVIDIA's, for clang: see ../clang_device.h. */
#pragma once

struct __half {
    unsigned short bits;
};
__device__ __half __ushort_as_half(unsigned short bits);
__device__ unsigned short __half_as_ushort(__half h);
__device__ float __half2float(__half h);
__device__ __half __float2half_rn(float f);
