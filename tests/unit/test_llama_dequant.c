/* test_llama_dequant.c - each tensor type against its formula, written here element by element from the description of
 * the blocks in dequant.h, with the bits picked by position and not by loop structure. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "dtype.h"
#include "llama/dequant.h"
#include "test_llama_builder.h"

#define BLOCKS 5

static uint32_t noise_state = 12345;

static uint8_t noise(void) {
    noise_state = noise_state * 1664525u + 1013904223u;
    return (uint8_t)(noise_state >> 24);
}

static float f16_at(const uint8_t *bytes) {
    return kernel_f16_to_f32((uint16_t)(bytes[0] | bytes[1] << 8));
}

/* The n-bit number whose lowest bit is bit `at` of the bytes. */
static int bits_at(const uint8_t *bytes, int at, int n) {
    return bytes[at / 8] >> (at % 8) & ((1 << n) - 1);
}

static double expect_q4_0(const uint8_t *b, int i) {
    return (double)f16_at(b) * (bits_at(b + 2, i < 16 ? 8 * i : 8 * (i - 16) + 4, 4) - 8);
}

static double expect_q4_1(const uint8_t *b, int i) {
    return (double)f16_at(b) * bits_at(b + 4, i < 16 ? 8 * i : 8 * (i - 16) + 4, 4) + (double)f16_at(b + 2);
}

static double expect_q8_0(const uint8_t *b, int i) {
    return (double)f16_at(b) * (int8_t)b[2 + i];
}

static double expect_q4_k(const uint8_t *b, int i) {
    const uint8_t *packed = b + 4;
    int run = i / 32, scale, minimum;
    if (run < 4) {
        scale = bits_at(packed, 8 * run, 6);
        minimum = bits_at(packed, 8 * (run + 4), 6);
    } else {
        scale = bits_at(packed, 8 * (run + 4), 4) + 16 * bits_at(packed, 8 * (run - 4) + 6, 2);
        minimum = bits_at(packed, 8 * (run + 4) + 4, 4) + 16 * bits_at(packed, 8 * run + 6, 2);
    }
    int q = bits_at(b + 16, 8 * (32 * (i / 64) + i % 32) + (i % 64 < 32 ? 0 : 4), 4);
    return (double)f16_at(b) * scale * q - (double)f16_at(b + 2) * minimum;
}

static double expect_q6_k(const uint8_t *b, int i) {
    int half = i / 128, quarter = i % 128 / 32, column = i % 32;
    int low = bits_at(b, 8 * (64 * half + 32 * (quarter % 2) + column) + (quarter < 2 ? 0 : 4), 4);
    int high = bits_at(b + 128, 8 * (32 * half + column) + 2 * quarter, 2);
    return (double)f16_at(b + 208) * (int8_t)b[192 + i / 16] * (low + 16 * high - 32);
}

/* Random bytes, with scales that are ordinary numbers, at an odd address: tensors need not be aligned. */
static void check_type(uint32_t type, int elements, int bytes, const int *scales, int scale_count,
                       double (*expect)(const uint8_t *, int)) {
    static uint8_t memory[BLOCKS * 256 + 1];
    static float result[BLOCKS * 256 + 1];
    uint8_t *source = memory + 1;
    for (int i = 0; i < BLOCKS * bytes; i++)
        source[i] = noise();
    for (int block = 0; block < BLOCKS; block++)
        for (int i = 0; i < scale_count; i++) {
            uint16_t half = kernel_f32_to_f16((float)(noise() - 128) / 64.0f);
            memcpy(source + block * bytes + scales[i], &half, sizeof(half));
        }
    result[BLOCKS * elements] = 12345.0f;
    dequant_elements(type, source, (size_t)(BLOCKS * elements), result);
    for (int block = 0; block < BLOCKS; block++)
        for (int i = 0; i < elements; i++) {
            double wanted = expect(source + block * bytes, i), got = (double)result[block * elements + i];
            assert_true(got - wanted <= 1e-3 && wanted - got <= 1e-3);
        }
    assert_true(result[BLOCKS * elements] == 12345.0f);
}

static void test_q4_0(void **state) {
    (void)state;
    check_type(GGUF_TENSOR_Q4_0, 32, 18, (const int[]){0}, 1, expect_q4_0);
}

static void test_q4_1(void **state) {
    (void)state;
    check_type(GGUF_TENSOR_Q4_1, 32, 20, (const int[]){0, 2}, 2, expect_q4_1);
}

static void test_q8_0(void **state) {
    (void)state;
    check_type(GGUF_TENSOR_Q8_0, 32, 34, (const int[]){0}, 1, expect_q8_0);
}

static void test_q4_k(void **state) {
    (void)state;
    check_type(GGUF_TENSOR_Q4_K, 256, 144, (const int[]){0, 2}, 2, expect_q4_k);
}

static void test_q6_k(void **state) {
    (void)state;
    check_type(GGUF_TENSOR_Q6_K, 256, 210, (const int[]){208}, 1, expect_q6_k);
}

static void test_plain(void **state) {
    (void)state;
    const float values[] = {0.0f, -1.5f, 3.0e-5f, 60000.0f};
    uint8_t bytes[17];
    float result[4];
    memcpy(bytes + 1, values, sizeof(values));
    dequant_elements(GGUF_TENSOR_F32, bytes + 1, 4, result);
    assert_memory_equal(result, values, sizeof(values));
    for (int i = 0; i < 4; i++) {
        uint16_t half = kernel_f32_to_f16(values[i]);
        memcpy(bytes + 1 + 2 * i, &half, sizeof(half));
    }
    dequant_elements(GGUF_TENSOR_F16, bytes + 1, 4, result);
    for (int i = 0; i < 4; i++)
        assert_true(result[i] == kernel_f16_to_f32(kernel_f32_to_f16(values[i])));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_q4_0), cmocka_unit_test(test_q4_1), cmocka_unit_test(test_q8_0),
        cmocka_unit_test(test_q4_k), cmocka_unit_test(test_q6_k), cmocka_unit_test(test_plain),
    };
    return cmocka_run_group_tests_name("llama_dequant", tests, NULL, NULL);
}
