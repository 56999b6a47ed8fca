/* dtype.c - scalar conversions between f32, f16 and bf16.
 *
 * Integer arithmetic only, so that the result depends neither on the processor nor on its rounding mode, and a NaN
 * is never touched by the floating point unit. The results are bit for bit those of the F16C instructions: a NaN keeps
 * its sign and the high bits of its payload and becomes quiet. */
#include "dtype.h"

static const char *const dtype_names[KERNEL_DTYPE_COUNT] = {
    [KERNEL_F32] = "f32",   [KERNEL_F16] = "f16",   [KERNEL_BF16] = "bf16", [KERNEL_INT8] = "int8",
    [KERNEL_INT4] = "int4", [KERNEL_K5V4] = "k5v4", [KERNEL_FADE] = "fade",
};

const char *kernel_dtype_name(uint32_t dtype) {
    return dtype < KERNEL_DTYPE_COUNT ? dtype_names[dtype] : "?";
}

static uint32_t bits_of(float f) {
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return bits;
}

static float float_of(uint32_t bits) {
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

float kernel_f16_to_f32(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000) << 16;
    uint32_t exponent = (h >> 10) & 0x1f, mantissa = h & 0x3ff;

    if (exponent == 0x1f)
        return float_of(sign | 0x7f800000 | mantissa << 13 | (mantissa ? 0x400000 : 0));
    if (exponent == 0) {
        if (mantissa == 0)
            return float_of(sign);
        uint32_t shift = (uint32_t)__builtin_clz(mantissa) - 21; /* brings the leading one to bit 10 */
        return float_of(sign | (113 - shift) << 23 | ((mantissa << shift) & 0x3ff) << 13);
    }
    return float_of(sign | (exponent + 112) << 23 | mantissa << 13);
}

/* A value below the smallest normal f16, as a multiple of 2^-24. */
static uint16_t f16_subnormal(uint32_t magnitude) {
    if (magnitude <= 0x33000000) /* up to half of the smallest one, the tie goes to even */
        return 0;
    uint32_t mantissa = (magnitude & 0x7fffff) | 0x800000;
    uint32_t shift = 126 - (magnitude >> 23);
    uint32_t result = mantissa >> shift, rest = mantissa & ((1u << shift) - 1), half = 1u << (shift - 1);
    return (uint16_t)(result + (rest > half || (rest == half && (result & 1))));
}

uint16_t kernel_f32_to_f16(float f) {
    uint32_t bits = bits_of(f), magnitude = bits & 0x7fffffff;
    uint16_t sign = (uint16_t)((bits >> 16) & 0x8000);

    if (magnitude > 0x7f800000)
        return (uint16_t)(sign | 0x7e00 | ((magnitude >> 13) & 0x3ff));
    if (magnitude >= 0x477ff000) /* 65520, from where on the nearest is infinity */
        return sign | 0x7c00;
    if (magnitude < 0x38800000)
        return sign | f16_subnormal(magnitude);
    return (uint16_t)(sign | ((magnitude - (112u << 23) + 0xfff + ((magnitude >> 13) & 1)) >> 13));
}

float kernel_bf16_to_f32(uint16_t h) {
    return float_of((uint32_t)h << 16);
}

uint16_t kernel_f32_to_bf16(float f) {
    uint32_t bits = bits_of(f);
    if ((bits & 0x7fffffff) > 0x7f800000)
        return (uint16_t)((bits >> 16) | 0x40);
    return (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

float kernel_load(uint32_t dtype, const void *array, size_t i) {
    float f;
    uint16_t h;
    switch (dtype) {
    case KERNEL_F32:
        memcpy(&f, (const char *)array + i * sizeof f, sizeof f);
        return f;
    case KERNEL_F16:
        memcpy(&h, (const char *)array + i * sizeof h, sizeof h);
        return kernel_f16_to_f32(h);
    default:
        memcpy(&h, (const char *)array + i * sizeof h, sizeof h);
        return kernel_bf16_to_f32(h);
    }
}

void kernel_store(uint32_t dtype, void *array, size_t i, float value) {
    uint16_t h;
    if (dtype == KERNEL_F32) {
        memcpy((char *)array + i * sizeof value, &value, sizeof value);
        return;
    }
    h = dtype == KERNEL_F16 ? kernel_f32_to_f16(value) : kernel_f32_to_bf16(value);
    memcpy((char *)array + i * sizeof h, &h, sizeof h);
}
