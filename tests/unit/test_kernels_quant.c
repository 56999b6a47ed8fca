/* test_kernels_quant.c - rows in 8 and in 4 bits: the rotation against its matrix, values against their bounds, and
 * places against the drawing in layout.h. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdlib.h>

#include <cmocka.h>

#include "quant.h"

#define COUNT(array) (sizeof(array) / sizeof *(array))

static const uint32_t head_dims[] = {16, 48, 64, 80, 96, 112, 128, 256};
static const uint32_t dtypes[] = {KERNEL_INT8, KERNEL_INT4};
static uint64_t random_state = 3;

static uint32_t random_bits(void) {
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(random_state >> 33);
}

static float random_value(void) {
    return (float)random_bits() / (float)(1u << 30) - 1.0f;
}

/* ---------- rotation ---------- */

/* The transform by its definition: entry (i, j) of a block of n is (-1)^popcount(i & j) / sqrt(n). */
static void rotate_model(const float *x, uint32_t head_dim, double *ret) {
    for (uint32_t at = 0; at < head_dim;) {
        uint32_t n = 256;
        while (n > head_dim - at)
            n /= 2;
        for (uint32_t i = 0; i < n; i++) {
            ret[at + i] = 0;
            for (uint32_t j = 0; j < n; j++)
                ret[at + i] += (__builtin_popcount(i & j) % 2 ? -1.0 : 1.0) * (double)x[at + j] / sqrt(n);
        }
        at += n;
    }
}

static void test_rotation(void **state) {
    (void)state;
    for (size_t d = 0; d < COUNT(head_dims); d++) {
        float x[256], kept[256];
        double model[256];
        for (uint32_t c = 0; c < head_dims[d]; c++)
            x[c] = kept[c] = 10 * random_value();
        rotate_model(x, head_dims[d], model);
        quant_rotate(x, head_dims[d]);
        for (uint32_t c = 0; c < head_dims[d]; c++)
            assert_true(fabs((double)x[c] - model[c]) < 2e-5);
        quant_rotate(x, head_dims[d]);
        for (uint32_t c = 0; c < head_dims[d]; c++)
            assert_true(fabsf(x[c] - kept[c]) < 2e-5f);
    }
}

/* One outlier of 100 becomes 100 / sqrt(64) in each channel: that is what the rotation is for. */
static void test_rotation_spreads(void **state) {
    float x[64] = {[17] = 100};
    (void)state;
    quant_rotate(x, 64);
    for (uint32_t c = 0; c < 64; c++)
        assert_true(fabsf(x[c]) == 12.5f);
}

/* ---------- values ---------- */

static void check_bounds(uint32_t dtype, const float *x, uint32_t head_dim) {
    struct quant_row row;
    double most = dtype == KERNEL_INT4 ? 15 : 255;
    quant_encode(dtype, x, head_dim, &row);
    for (uint32_t c = 0; c < head_dim; c++) {
        uint32_t g = c / LAYOUT_GROUP_CHANNELS;
        double scale = (double)kernel_f16_to_f32(row.scale[g]), offset = (double)kernel_f16_to_f32(row.offset[g]);
        /* half a step; offset and scale are rounded to 11 bits, or to multiples of 2^-24 where they are tiny */
        double bound = scale / 2 + (fabs(offset) + most * scale) / 2048 + (most + 1) * ldexp(1, -25);
        assert_true(row.code[c] <= most);
        assert_true(fabs((double)quant_value(&row, c) - (double)x[c]) <= bound * 1.0001);
    }
}

static void test_bounds(void **state) {
    (void)state;
    for (size_t t = 0; t < COUNT(dtypes); t++)
        for (size_t d = 0; d < COUNT(head_dims); d++)
            for (int size = -20; size <= 12; size += 4) {
                float x[256], shift = ldexpf(random_value(), size + 2);
                for (uint32_t c = 0; c < head_dims[d]; c++)
                    x[c] = ldexpf(random_value(), size) + shift;
                check_bounds(dtypes[t], x, head_dims[d]);
            }
}

/* What has as many steps as there are codes comes back exactly; so does a constant. */
static void test_exact(void **state) {
    struct quant_row row;
    float x[64];
    (void)state;
    for (size_t t = 0; t < COUNT(dtypes); t++) {
        uint32_t most = dtypes[t] == KERNEL_INT4 ? 15 : 255;
        for (uint32_t c = 0; c < 64; c++)
            x[c] = 0.5f * (float)(c * 7 % (most + 1)) - 3;
        x[0] = -3;
        x[1] = 0.5f * (float)most - 3;
        quant_encode(dtypes[t], x, 64, &row);
        for (uint32_t c = 0; c < 64; c++)
            assert_true(quant_value(&row, c) == x[c]);
        for (uint32_t c = 0; c < 64; c++)
            x[c] = -2.25f;
        quant_encode(dtypes[t], x, 64, &row);
        for (uint32_t c = 0; c < 64; c++)
            assert_true(quant_value(&row, c) == -2.25f);
    }
}

/* A value that is not finite, or too large for f16, makes its group NaN and leaves the others alone. */
static void test_not_finite(void **state) {
    static const float bad[] = {NAN, -NAN, INFINITY, -INFINITY, 7e4f, -7e4f, 3e38f};
    (void)state;
    for (size_t t = 0; t < COUNT(dtypes); t++)
        for (size_t i = 0; i < COUNT(bad); i++) {
            struct quant_row row;
            float x[128];
            for (uint32_t c = 0; c < 128; c++)
                x[c] = random_value();
            x[64 + i] = bad[i];
            quant_encode(dtypes[t], x, 128, &row);
            bool nan = bad[i] != 7e4f; /* the smallest value and the scale are in f16, the largest value is not */
            for (uint32_t c = 64; c < 128; c++)
                assert_int_equal(isnan(quant_value(&row, c)), nan);
            check_bounds(dtypes[t], x, 64);
        }
}

/* ---------- places ---------- */

/* Byte and shift of a code by the drawing. */
static size_t k_place(uint32_t dtype, uint32_t row, uint32_t c, uint32_t d, uint32_t *ret_shift) {
    uint32_t e = dtype == KERNEL_INT4 ? 8 : 4, unit = row / 16 * (d / e) + c / e;
    *ret_shift = c % e >= 4 ? 4 : 0;
    return unit * 64u + row % 16 * 4 + c % 4;
}

static size_t v_place(uint32_t dtype, uint32_t row, uint32_t c, uint32_t d, uint32_t *ret_shift) {
    uint32_t e = dtype == KERNEL_INT4 ? 8 : 4, unit = row / e * (d / 16) + c / 16;
    *ret_shift = row % e >= 4 ? 4 : 0;
    return unit * 64u + c % 16 * 4 + row % 4;
}

static size_t scale_place(uint32_t dtype, uint32_t row, uint32_t group, uint32_t d) {
    size_t codes = (size_t)64 * d / (dtype == KERNEL_INT4 ? 2 : 1);
    return codes + (row / 16 * ((d + 63) / 64) + group) * 64u + row % 16 * 2;
}

static void random_row(uint32_t dtype, uint32_t d, struct quant_row *ret) {
    memset(ret, 0, sizeof *ret);
    for (uint32_t c = 0; c < d; c++)
        ret->code[c] = (uint8_t)(random_bits() % (dtype == KERNEL_INT4 ? 16 : 256));
    for (uint32_t g = 0; g < layout_groups(d); g++) {
        ret->scale[g] = (uint16_t)random_bits();
        ret->offset[g] = (uint16_t)random_bits();
    }
}

/* Writes one row into a half of random bytes: exactly its bits change, and it comes back. */
static void check_place(uint32_t dtype, uint32_t d, uint32_t slot, bool v) {
    size_t bytes = layout_quantised_half_bytes(dtype, d);
    uint8_t *half = malloc(bytes), *model = malloc(bytes);
    struct quant_row row, back = {0};
    assert_true(half && model);
    for (size_t i = 0; i < bytes; i++)
        half[i] = model[i] = (uint8_t)random_bits();
    random_row(dtype, d, &row);
    for (uint32_t c = 0; c < d; c++) {
        uint32_t shift;
        size_t at = (v ? v_place : k_place)(dtype, slot, c, d, &shift);
        uint32_t mask = dtype == KERNEL_INT4 ? 15u << shift : 255u;
        shift = dtype == KERNEL_INT4 ? shift : 0;
        model[at] = (uint8_t)((model[at] & ~mask) | (uint32_t)row.code[c] << shift);
    }
    for (uint32_t g = 0; g < layout_groups(d); g++) {
        memcpy(model + scale_place(dtype, slot, g, d), &row.scale[g], 2);
        memcpy(model + scale_place(dtype, slot, g, d) + 32, &row.offset[g], 2);
    }
    (v ? quant_put_v : quant_put_k)(dtype, half, slot, d, &row);
    assert_memory_equal(half, model, bytes);
    (v ? quant_get_v : quant_get_k)(dtype, half, slot, d, &back);
    assert_memory_equal(row.code, back.code, d);
    assert_memory_equal(row.scale, back.scale, layout_groups(d) * sizeof *row.scale);
    assert_memory_equal(row.offset, back.offset, layout_groups(d) * sizeof *row.offset);
    free(half);
    free(model);
}

static void test_places(void **state) {
    (void)state;
    for (size_t t = 0; t < COUNT(dtypes); t++)
        for (size_t d = 0; d < COUNT(head_dims); d++)
            for (uint32_t slot = 0; slot < SCISSOR_PAGE_ROWS; slot += d ? 5 : 1)
                for (int v = 0; v < 2; v++)
                    check_place(dtypes[t], head_dims[d], slot, v);
}

/* 36 bytes for 64 values of int4, 68 for int8; no more pages in a segment than an index can name. */
static void test_sizes(void **state) {
    (void)state;
    assert_int_equal(layout_page_bytes(KERNEL_INT4, 64), 2 * 64 * 36);
    assert_int_equal(layout_page_bytes(KERNEL_INT8, 128), 2 * 64 * 2 * 68);
    assert_int_equal(layout_page_bytes(KERNEL_INT4, 80), 2 * 64 * (40 + 8));
    assert_int_equal(layout_page_bytes(KERNEL_F16, 64), 2 * 64 * 64 * 2);
    assert_int_equal(layout_page_bytes(KERNEL_DTYPE_COUNT, 64), 0);
    assert_int_equal(layout_page_v_offset(KERNEL_INT4, 64), 64 * 36);
    assert_int_equal(layout_pages_per_segment(KERNEL_INT4, 64), (2 << 20) / (2 * 64 * 36));
    assert_int_equal(layout_pages_per_segment(KERNEL_INT4, 16), LAYOUT_PAGES_PER_SEGMENT_MAX);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rotation), cmocka_unit_test(test_rotation_spreads), cmocka_unit_test(test_bounds),
        cmocka_unit_test(test_exact),    cmocka_unit_test(test_not_finite),       cmocka_unit_test(test_places),
        cmocka_unit_test(test_sizes),
    };
    return cmocka_run_group_tests_name("kernels: quant", tests, NULL, NULL);
}
