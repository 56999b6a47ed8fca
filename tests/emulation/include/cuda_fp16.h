/* cuda_fp16.h - in the place of NVIDIA's, for g++: see ../device.h. */
#pragma once

struct __half {
    unsigned short bits;
};
static __forceinline__ __half __ushort_as_half(unsigned short bits) {
    return __half{bits};
}
static __forceinline__ unsigned short __half_as_ushort(__half h) {
    return h.bits;
}
static __forceinline__ float __half2float(__half h) {
    return emulator_half_to_float(h.bits);
}
static __forceinline__ __half __float2half_rn(float f) {
    return __half{emulator_float_to_half(f)};
}
