/* dequant.c - see dequant.h for the blocks. Runs once per tensor at load, so it is written plainly. */
#include "dequant.h"

#include <assert.h>
#include <string.h>

#include "dtype.h"
#include "gguf.h"

static float dequant_read_f16(const uint8_t *source) {
    uint16_t half;
    memcpy(&half, source, sizeof(half));
    return kernel_f16_to_f32(half);
}

static void dequant_F32(const uint8_t *source, float *ret) {
    memcpy(ret, source, sizeof(*ret));
}

static void dequant_F16(const uint8_t *source, float *ret) {
    *ret = dequant_read_f16(source);
}

static void dequant_Q4_0(const uint8_t *block, float *ret) {
    float d = dequant_read_f16(block);
    for (int i = 0; i < 16; i++) {
        ret[i] = d * (float)((block[2 + i] & 15) - 8);
        ret[i + 16] = d * (float)((block[2 + i] >> 4) - 8);
    }
}

static void dequant_Q4_1(const uint8_t *block, float *ret) {
    float d = dequant_read_f16(block), m = dequant_read_f16(block + 2);
    for (int i = 0; i < 16; i++) {
        ret[i] = d * (float)(block[4 + i] & 15) + m;
        ret[i + 16] = d * (float)(block[4 + i] >> 4) + m;
    }
}

static void dequant_Q8_0(const uint8_t *block, float *ret) {
    float d = dequant_read_f16(block);
    for (int i = 0; i < 32; i++)
        ret[i] = d * (float)(int8_t)block[2 + i];
}

/* The 12 bytes: scale and minimum of runs 0..3 are the low 6 bits of bytes 0..3 and 4..7; those of runs 4..7 have
 * their low 4 bits in bytes 8..11 and their high 2 bits on top of bytes 0..3 and 4..7. */
static void dequant_q4_k_scales(const uint8_t *packed, int run, int *ret_scale, int *ret_minimum) {
    if (run < 4) {
        *ret_scale = packed[run] & 63;
        *ret_minimum = packed[run + 4] & 63;
    } else {
        *ret_scale = (packed[run + 4] & 15) | (packed[run - 4] >> 6) << 4;
        *ret_minimum = (packed[run + 4] >> 4) | (packed[run] >> 6) << 4;
    }
}

static void dequant_Q4_K(const uint8_t *block, float *ret) {
    float d = dequant_read_f16(block), m = dequant_read_f16(block + 2);
    for (int run = 0; run < 8; run++) {
        const uint8_t *bytes = block + 16 + run / 2 * 32;
        int scale, minimum;
        dequant_q4_k_scales(block + 4, run, &scale, &minimum);
        for (int i = 0; i < 32; i++) {
            int q = run % 2 == 0 ? bytes[i] & 15 : bytes[i] >> 4;
            ret[run * 32 + i] = d * (float)scale * (float)q - m * (float)minimum;
        }
    }
}

/* Each half of the block has 64 bytes of low and 32 bytes of high bits; byte i of the high bits belongs to elements
 * i, i + 32, i + 64 and i + 96 of the half, two bits each from the bottom. */
static void dequant_Q6_K(const uint8_t *block, float *ret) {
    float d = dequant_read_f16(block + 208);
    for (int i = 0; i < 256; i++) {
        int half = i / 128, within = i % 128;
        int low = block[half * 64 + within % 64];
        int high = block[128 + half * 32 + within % 32];
        low = within < 64 ? low & 15 : low >> 4;
        high = high >> (within / 32 * 2) & 3;
        int8_t scale = (int8_t)block[192 + i / 16];
        ret[i] = d * (float)scale * (float)((low | high << 4) - 32);
    }
}

/* One case for each type of the table: a type without a function above does not compile. */
void dequant_elements(uint32_t type, const uint8_t *source, size_t elements, float *ret) {
    switch (type) {
#define DEQUANT_BLOCKS(name, number, block_elements, block_bytes)                   \
    case GGUF_TENSOR_##name:                                                        \
        for (size_t i = 0; i < elements / (block_elements); i++)                    \
            dequant_##name(source + i * (block_bytes), ret + i * (block_elements)); \
        return;
        GGUF_TENSOR_TYPE_MAP(DEQUANT_BLOCKS)
#undef DEQUANT_BLOCKS
    default:
        assert(!"a type that gguf.c does not let through");
    }
}
