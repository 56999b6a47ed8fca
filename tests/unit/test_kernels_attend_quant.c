/* test_kernels_attend_quant.c - attention over quantised pages, whose products are in integers: each path against the
 * reference where rounding, ends of pages and what is not finite matter. */
#include "test_kernels_attend.h"

static const uint32_t head_dims[] = {16, 64, 80, 96, 112, 128, 256};

/* Quantised pages that end with every row, and all groups of query heads of one tile. */
static void test_quantised_rows(void **state) {
    (void)state;
    for (uint32_t storage = KERNEL_ELEMENT_DTYPES; storage < KERNEL_DTYPE_COUNT; storage++)
        for (uint32_t settled = 1; settled <= 2 * SCISSOR_PAGE_ROWS; settled++)
            check_shape((struct shape){
                .head_dim = head_dims[settled % COUNT(head_dims)],
                .heads = settled * 5 % 12 + 1,
                .settled = settled,
                .fresh_rows = 16,
                .before = settled % 16,
                .rows = 1,
                .compute = KERNEL_F16,
                .storage = (uint8_t)storage,
            });
}

/* Values that fill f16, and some that are small in it: the integers' scale follows them. */
static void test_quantised_sizes(void **state) {
    (void)state;
    for (uint32_t storage = KERNEL_ELEMENT_DTYPES; storage < KERNEL_DTYPE_COUNT; storage++)
        for (int power = -8; power <= 15; power++) {
            settled_size = ldexpf(1, power);
            struct fixture f = fixture_new((struct shape){
                .head_dim = 128, .heads = 4, .settled = 150, .fresh_rows = 16, .rows = 2, .storage = (uint8_t)storage});
            settled_size = 1;
            f.item.scale = ldexpf(f.item.scale, -power);
            check_fixture(&f);
            fixture_free(&f);
        }
}

/* Scales or offsets of one row that are not finite make the same outputs not finite as in the reference. */
static void check_not_finite(uint32_t storage, bool v, bool offset, uint16_t bits) {
    struct shape s = {
        .head_dim = 128, .heads = 3, .settled = 100, .fresh_rows = 16, .rows = 1, .storage = (uint8_t)storage};
    struct fixture f = fixture_new(s);
    char *half = (char *)f.pages[1] + (v ? layout_page_v_offset(storage, s.head_dim) : 0);
    uint32_t type = v ? layout_v_type(storage) : layout_k_type(storage);
    memcpy(half + layout_scale_offset(type, 21, 1, s.head_dim) + (offset ? 32 : 0), &bits, sizeof bits);
    struct result want = run(&f, "reference", 7);
    check_finite_alike(&f, &want);
    result_free(&want);
    fixture_free(&f);
}

static void test_quantised_not_finite(void **state) {
    static const uint16_t values[] = {0x7e00, 0x7c00, 0xfc00}; /* NaN, the infinities */
    (void)state;
    for (uint32_t storage = KERNEL_ELEMENT_DTYPES; storage < KERNEL_DTYPE_COUNT; storage++)
        for (size_t i = 0; i < COUNT(values); i++)
            for (unsigned place = 0; place < 4; place++)
                check_not_finite(storage, place & 1, place & 2, values[i]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_quantised_rows),
        cmocka_unit_test(test_quantised_sizes),
        cmocka_unit_test(test_quantised_not_finite),
    };
    unsetenv("SCISSOR_HOST_PATH");
    return cmocka_run_group_tests_name("kernels: attend, quantised", tests, NULL, NULL);
}
