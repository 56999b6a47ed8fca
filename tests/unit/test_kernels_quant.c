/* test_kernels_quant.c - rows in 8 to 2 bits, with and without details: the rotation against its matrix, values against
 * their bounds, and places against the drawing in layout.h. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdlib.h>

#include <cmocka.h>

#include "quant.h"

#define COUNT(array) (sizeof(array) / sizeof *(array))

static const uint32_t head_dims[] = {16, 48, 64, 80, 96, 112, 128, 256};
static const uint32_t types[] = {KERNEL_INT8, KERNEL_INT5, KERNEL_INT4, KERNEL_INT3, KERNEL_INT2};
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

/* What a row is encoded as. */
struct kind {
    uint32_t type;
    bool detailed;
};
static const struct kind kinds[] = {
    {KERNEL_INT8, false}, {KERNEL_INT5, false}, {KERNEL_INT4, false}, {KERNEL_INT3, false},
    {KERNEL_INT2, false}, {KERNEL_INT3, true},  {KERNEL_INT2, true},
};

static uint32_t most_of(struct kind kind) {
    static const uint8_t bits[] = {
        [KERNEL_INT8] = 8, [KERNEL_INT5] = 5, [KERNEL_INT4] = 4, [KERNEL_INT3] = 3, [KERNEL_INT2] = 2};
    return (1u << (bits[kind.type] + (kind.detailed ? 2 : 0))) - 1;
}

static void encode(struct kind kind, const float *x, uint32_t head_dim, struct quant_row *ret) {
    (kind.detailed ? quant_encode_detailed : quant_encode)(kind.type, x, head_dim, ret);
}

static float value(struct kind kind, const struct quant_row *row, uint32_t channel) {
    return (kind.detailed ? quant_detailed_value : quant_value)(row, channel);
}

/* Half a step from the smallest value to the largest; offset and scale are rounded to 11 bits, or to multiples of 2^-24
 * where they are tiny. With details, the offset is a step and a half further on. */
static double bound_of(struct kind kind, double low, double high) {
    double most = most_of(kind), step = (high - low) / most, shift = kind.detailed ? 1.5 * step : 0;
    return (step / 2 + (fabs(low) + shift + high - low) / 2048 + (most + 1) * ldexp(1, -25)) * 1.0001;
}

static double f16_of(double x) {
    return (double)kernel_f16_to_f32(kernel_f32_to_f16((float)x));
}

/* The sum of squared errors with the grid that reaches from the smallest value to the largest. */
static double plain_error(struct kind kind, const float *x, uint32_t channels, double low, double high) {
    double most = most_of(kind), offset = f16_of(low), scale = f16_of((high - low) / most), sum = 0;
    if (kind.detailed) {
        scale = f16_of(4 * (high - low) / most) / 4;
        offset = f16_of(low + 1.5 * scale) - 1.5 * scale;
    }
    for (uint32_t c = 0; c < channels; c++) {
        double code = scale > 0 ? rint(((double)x[c] - offset) / scale) : 0;
        code = code < 0 ? 0 : code > most ? most : code;
        sum += pow(offset + scale * code - (double)x[c], 2);
    }
    return sum;
}

/* int8: each value within its bound. The others are fitted, and an outermost value may pay for the others: the group's
 * squared error within the bound, and no more than without the fit. */
static void check_bounds(struct kind kind, const float *x, uint32_t head_dim) {
    struct quant_row row;
    encode(kind, x, head_dim, &row);
    for (uint32_t first = 0; first < head_dim; first += LAYOUT_GROUP_CHANNELS) {
        uint32_t rest = head_dim - first, channels = rest < LAYOUT_GROUP_CHANNELS ? rest : LAYOUT_GROUP_CHANNELS;
        double low = (double)x[first], high = low, sum = 0;
        for (uint32_t c = first; c < first + channels; c++) {
            low = fmin(low, (double)x[c]);
            high = fmax(high, (double)x[c]);
        }
        double bound = bound_of(kind, low, high), plain = plain_error(kind, x + first, channels, low, high);
        for (uint32_t c = first; c < first + channels; c++) {
            double error = fabs((double)value(kind, &row, c) - (double)x[c]);
            assert_true(row.code[c] <= most_of(kind));
            assert_true(kind.type != KERNEL_INT8 || error <= bound);
            sum += error * error;
        }
        assert_true(sum <= channels * bound * bound);
        assert_true(sum <= plain * 1.001 + channels * ldexp(1, -40) * (low * low + high * high));
    }
}

/* Without its details a row has the high bits of its codes, and each value is the middle of the four that it may have
 * been: a step and a half away at most, where four steps are the scale. */
static void check_dropped(struct kind kind, const float *x, uint32_t head_dim) {
    struct quant_row row, dropped;
    quant_encode_detailed(kind.type, x, head_dim, &row);
    dropped = row;
    quant_drop_details(&dropped, head_dim);
    assert_memory_equal(row.scale, dropped.scale, layout_groups(head_dim) * sizeof *row.scale);
    assert_memory_equal(row.offset, dropped.offset, layout_groups(head_dim) * sizeof *row.offset);
    for (uint32_t c = 0; c < head_dim; c++) {
        double scale = (double)kernel_f16_to_f32(row.scale[c / LAYOUT_GROUP_CHANNELS]);
        double without = (double)quant_value(&dropped, c), with = (double)quant_detailed_value(&row, c);
        double size = fabs(without) + fabs(with) + scale;
        assert_true(dropped.code[c] == row.code[c] / 4 && dropped.code[c] <= most_of((struct kind){kind.type, false}));
        assert_true(fabs(without + scale / 4 * (row.code[c] % 4 - 1.5) - with) <= ldexp(size, -22));
    }
}

/* Values as a rotated row has them, about normal: the fit takes a part of the squared error away. */
static void test_fit(void **state) {
    double fitted = 0, plain = 0;
    (void)state;
    for (int turn = 0; turn < 200; turn++) {
        struct quant_row row;
        float x[64], low = 0, high = 0;
        for (uint32_t c = 0; c < 64; c++) {
            x[c] = 0;
            for (int i = 0; i < 12; i++)
                x[c] += random_value();
            low = fminf(low, x[c]);
            high = fmaxf(high, x[c]);
        }
        quant_encode(KERNEL_INT4, x, 64, &row);
        for (uint32_t c = 0; c < 64; c++)
            fitted += pow((double)quant_value(&row, c) - (double)x[c], 2);
        plain += plain_error((struct kind){KERNEL_INT4, false}, x, 64, (double)low, (double)high);
    }
    assert_true(fitted < 0.93 * plain);
    assert_true(fitted > 0.85 * plain);
}

static void test_bounds(void **state) {
    (void)state;
    for (size_t k = 0; k < COUNT(kinds); k++)
        for (size_t d = 0; d < COUNT(head_dims); d++)
            for (int size = -20; size <= 12; size += 4) {
                float x[256], shift = ldexpf(random_value(), size + 2);
                for (uint32_t c = 0; c < head_dims[d]; c++)
                    x[c] = ldexpf(random_value(), size) + shift;
                check_bounds(kinds[k], x, head_dims[d]);
                if (kinds[k].detailed)
                    check_dropped(kinds[k], x, head_dims[d]);
            }
}

/* What has as many steps as there are codes comes back exactly; so does a constant. */
static void test_exact(void **state) {
    struct quant_row row;
    float x[64];
    (void)state;
    for (size_t k = 0; k < COUNT(kinds); k++) {
        uint32_t most = most_of(kinds[k]);
        for (uint32_t c = 0; c < 64; c++)
            x[c] = 0.5f * (float)(c * 7 % (most + 1)) - 3;
        x[0] = -3;
        x[1] = 0.5f * (float)most - 3;
        encode(kinds[k], x, 64, &row);
        for (uint32_t c = 0; c < 64; c++)
            assert_true(value(kinds[k], &row, c) == x[c]);
        for (uint32_t c = 0; c < 64; c++)
            x[c] = -2.25f;
        encode(kinds[k], x, 64, &row);
        for (uint32_t c = 0; c < 64; c++)
            assert_true(value(kinds[k], &row, c) == -2.25f);
    }
}

/* A value that is not finite, or too large for f16, makes its group NaN and leaves the others alone. */
static void test_not_finite(void **state) {
    static const float bad[] = {NAN, -NAN, INFINITY, -INFINITY, 7e4f, -9e4f, 3e38f};
    (void)state;
    for (size_t k = 0; k < COUNT(kinds); k++)
        for (size_t i = 0; i < COUNT(bad); i++) {
            struct quant_row row;
            float x[128];
            for (uint32_t c = 0; c < 128; c++)
                x[c] = random_value();
            x[64 + i] = bad[i];
            encode(kinds[k], x, 128, &row);
            bool nan = bad[i] != 7e4f; /* the smallest value and the scale are in f16, the largest value is not */
            for (uint32_t c = 64; c < 128; c++)
                assert_int_equal(isnan(value(kinds[k], &row, c)), nan);
            check_bounds(kinds[k], x, 64);
        }
}

/* ---------- places ---------- */

static uint32_t lane_codes(uint32_t type) {
    return type == KERNEL_INT8 ? 4 : type == KERNEL_INT5 || type == KERNEL_INT4 ? 8 : 16;
}

/* Bits of a code in a lane. */
static uint32_t lane_bits(uint32_t type) {
    return type == KERNEL_INT8 ? 8 : type == KERNEL_INT5 || type == KERNEL_INT4 ? 4 : 2;
}

static bool has_low_bits(uint32_t type) {
    return type == KERNEL_INT5 || type == KERNEL_INT3;
}

/* Bytes of a block of 16 rows of K. */
static uint32_t block_bytes(uint32_t type, uint32_t d) {
    return d / lane_codes(type) * 64 + (has_low_bits(type) ? (d + 31) / 32 * 64 : 0);
}

/* Byte and shift of a code by the drawing; of int5 and int3, of its high bits. */
static size_t k_place(uint32_t type, uint32_t row, uint32_t c, uint32_t d, uint32_t *ret_shift) {
    uint32_t e = lane_codes(type);
    *ret_shift = c % e / 4 * lane_bits(type);
    return row / 16 * block_bytes(type, d) + c / e * 64u + row % 16 * 4 + c % 4;
}

static size_t low_place(uint32_t type, uint32_t row, uint32_t c, uint32_t d, uint32_t *ret_shift) {
    *ret_shift = c % 32 / 4;
    return row / 16 * block_bytes(type, d) + d / lane_codes(type) * 64 + c / 32 * 64 + row % 16 * 4 + c % 4;
}

static size_t v_place(uint32_t type, uint32_t row, uint32_t c, uint32_t d, uint32_t *ret_shift) {
    uint32_t e = lane_codes(type), unit = row / e * (d / 16) + c / 16;
    *ret_shift = row % e / 4 * lane_bits(type);
    return unit * 64u + c % 16 * 4 + row % 4;
}

static void model_put(uint8_t *model, size_t at, uint32_t shift, uint32_t bits, uint32_t code) {
    uint32_t mask = ((1u << bits) - 1) << shift;
    model[at] = (uint8_t)((model[at] & ~mask) | code << shift);
}

static size_t scale_place(uint32_t type, uint32_t row, uint32_t group, uint32_t d) {
    return 4 * block_bytes(type, d) + (row / 16 * ((d + 63) / 64) + group) * 64u + row % 16 * 2;
}

static void random_row(uint32_t type, uint32_t d, struct quant_row *ret) {
    memset(ret, 0, sizeof *ret);
    for (uint32_t c = 0; c < d; c++)
        ret->code[c] = (uint8_t)(random_bits() % (most_of((struct kind){type, false}) + 1));
    for (uint32_t g = 0; g < layout_groups(d); g++) {
        ret->scale[g] = (uint16_t)random_bits();
        ret->offset[g] = (uint16_t)random_bits();
    }
}

/* Writes one row into a half of random bytes: exactly its bits change, and it comes back. */
static void check_place(uint32_t type, uint32_t d, uint32_t slot, bool v) {
    size_t bytes = layout_half_bytes(type, d);
    uint8_t *half = malloc(bytes), *model = malloc(bytes);
    struct quant_row row, back = {0};
    assert_true(half && model);
    for (size_t i = 0; i < bytes; i++)
        half[i] = model[i] = (uint8_t)random_bits();
    random_row(type, d, &row);
    for (uint32_t c = 0; c < d; c++) {
        uint32_t shift, code = row.code[c];
        if (has_low_bits(type)) {
            size_t low = low_place(type, slot, c, d, &shift);
            model_put(model, low, shift, 1, code & 1);
            code >>= 1;
        }
        size_t at = (v ? v_place : k_place)(type, slot, c, d, &shift);
        model_put(model, at, shift, lane_bits(type), code);
    }
    for (uint32_t g = 0; g < layout_groups(d); g++) {
        memcpy(model + scale_place(type, slot, g, d), &row.scale[g], 2);
        memcpy(model + scale_place(type, slot, g, d) + 32, &row.offset[g], 2);
    }
    (v ? quant_put_v : quant_put_k)(type, half, slot, d, &row);
    assert_memory_equal(half, model, bytes);
    (v ? quant_get_v : quant_get_k)(type, half, slot, d, &back);
    assert_memory_equal(row.code, back.code, d);
    assert_memory_equal(row.scale, back.scale, layout_groups(d) * sizeof *row.scale);
    assert_memory_equal(row.offset, back.offset, layout_groups(d) * sizeof *row.offset);
    free(half);
    free(model);
}

static void test_places(void **state) {
    (void)state;
    for (size_t t = 0; t < COUNT(types); t++)
        for (size_t d = 0; d < COUNT(head_dims); d++)
            for (uint32_t slot = 0; slot < SCISSOR_PAGE_ROWS; slot += d ? 5 : 1)
                for (int v = 0; v < (has_low_bits(types[t]) ? 1 : 2); v++)
                    check_place(types[t], head_dims[d], slot, v);
}

/* The low bits of one row into details of random bytes, as a half of int2 has them. */
static void check_detail_place(uint32_t d, uint32_t slot, bool v) {
    size_t bytes = layout_detail_code_bytes(d);
    uint8_t *details = malloc(bytes), *model = malloc(bytes), codes[256], back[256];
    assert_true(details && model);
    for (size_t i = 0; i < bytes; i++)
        details[i] = model[i] = (uint8_t)random_bits();
    for (uint32_t c = 0; c < d; c++) {
        uint32_t shift;
        size_t at = (v ? v_place : k_place)(KERNEL_INT2, slot, c, d, &shift);
        codes[c] = (uint8_t)random_bits();
        model_put(model, at, shift, 2, codes[c] & 3);
    }
    (v ? quant_put_v_detail : quant_put_k_detail)(details, slot, d, codes);
    assert_memory_equal(details, model, bytes);
    (v ? quant_get_v_detail : quant_get_k_detail)(details, slot, d, back);
    for (uint32_t c = 0; c < d; c++)
        assert_int_equal(back[c], codes[c] & 3);
    free(details);
    free(model);
}

static void test_detail_places(void **state) {
    (void)state;
    for (size_t d = 0; d < COUNT(head_dims); d++)
        for (uint32_t slot = 0; slot < LAYOUT_PAGE_DETAILS; slot++)
            for (int v = 0; v < 2; v++)
                check_detail_place(head_dims[d], slot, v);
}

/* 36 bytes for 64 values of int4, 44 of int5, 68 of int8, 28 of int3, 20 of int2, 16 of its codes alone; no more pages
 * in a segment than an index can name. */
static void test_sizes(void **state) {
    (void)state;
    assert_int_equal(layout_page_bytes(KERNEL_INT4, 64), 2 * 64 * 36);
    assert_int_equal(layout_page_bytes(KERNEL_INT8, 128), 2 * 64 * 2 * 68);
    assert_int_equal(layout_page_bytes(KERNEL_K5V4, 64), 64 * (44 + 36));
    assert_int_equal(layout_page_bytes(KERNEL_K5V4, 80), 64 * (52 + 8 + 40 + 8)); /* 16 of 32 lowest bits unused */
    assert_int_equal(layout_page_v_offset(KERNEL_K5V4, 64), 64 * 44);
    assert_int_equal(layout_page_bytes(KERNEL_INT4, 80), 2 * 64 * (40 + 8));
    assert_int_equal(layout_page_v_offset(KERNEL_FADE, 64), 64 * 28);
    assert_int_equal(layout_detail_k_offset(KERNEL_FADE, 64), 64 * (28 + 20));
    assert_int_equal(layout_detail_v_offset(KERNEL_FADE, 64), 64 * (28 + 20) + 16 * 16);
    assert_int_equal(layout_detail_owner_offset(KERNEL_FADE, 64), 64 * (28 + 20) + 16 * 32);
    assert_int_equal(layout_page_bytes(KERNEL_FADE, 64), 64 * (28 + 20) + 16 * 36);
    assert_int_equal(layout_page_bytes(KERNEL_FADE, 80), 64 * (20 + 12 + 8 + 20 + 8) + 16 * 44);
    assert_int_equal(layout_page_bytes(KERNEL_F16, 64), 2 * 64 * 64 * 2);
    assert_int_equal(layout_page_bytes(KERNEL_DTYPE_COUNT, 64), 0);
    assert_int_equal(layout_page_v_offset(KERNEL_INT4, 64), 64 * 36);
    assert_int_equal(layout_pages_per_segment(KERNEL_INT4, 64), (2 << 20) / (2 * 64 * 36));
    assert_int_equal(layout_pages_per_segment(KERNEL_INT4, 16), LAYOUT_PAGES_PER_SEGMENT_MAX);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rotation), cmocka_unit_test(test_rotation_spreads),
        cmocka_unit_test(test_bounds),   cmocka_unit_test(test_fit),
        cmocka_unit_test(test_exact),    cmocka_unit_test(test_not_finite),
        cmocka_unit_test(test_places),   cmocka_unit_test(test_detail_places),
        cmocka_unit_test(test_sizes),
    };
    return cmocka_run_group_tests_name("kernels: quant", tests, NULL, NULL);
}
