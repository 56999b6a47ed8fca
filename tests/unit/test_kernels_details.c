/* test_kernels_details.c - attention over rows some of which have a detail slot: the reference against pages of f32
 * with the same values, each path against the reference. */
#include <errno.h>

#include "test_kernels_attend.h"

static const uint32_t head_dims[] = {16, 48, 64, 80, 96, 112, 128, 256};

static uint32_t detail_slots(const struct fixture *f) {
    return f->item.detail_pages * LAYOUT_PAGE_DETAILS;
}

static uint32_t *owner_at(const struct fixture *f, uint32_t detail) {
    char *page = f->pages[detail / LAYOUT_PAGE_DETAILS];
    return (uint32_t *)(page + layout_detail_owner_offset(KERNEL_FADE, f->item.head_dim)) + detail % 16;
}

/* Any low bits are those of some row. What the details of no row hold is looked at, too, and must not matter. */
static void fill_codes(struct fixture *f) {
    for (uint32_t i = 0; i < f->item.detail_pages; i++) {
        uint8_t *codes = (uint8_t *)f->pages[i] + layout_detail_k_offset(KERNEL_FADE, f->item.head_dim);
        for (size_t j = 0; j < layout_detail_bytes(f->item.head_dim); j++)
            codes[j] = (uint8_t)random_bits();
    }
}

/* The settled rows in any order. */
static uint32_t *shuffled_rows(uint32_t count) {
    uint32_t *rows = malloc((count + 1) * sizeof *rows);
    assert_non_null(rows);
    for (uint32_t i = 0; i < count; i++) {
        uint32_t j = random_bits() % (i + 1);
        rows[i] = rows[j];
        rows[j] = i;
    }
    return rows;
}

/* Gives detail slots to rows, each to another one; some to none, some to a row that is not there any more. `more` pages
 * have nothing but details. */
static void give_details(struct fixture *f, uint32_t more) {
    uint32_t settled = f->item.settled_rows, pages = layout_pages_of_rows(settled), next = 0;
    uint32_t *rows = shuffled_rows(settled);
    for (uint32_t i = 0; i < more; i++)
        f->pages[pages + i] = page_new(KERNEL_FADE, 0, f->item.head_dim);
    f->item.detail_pages = pages + more;
    fill_codes(f);
    for (uint32_t i = 0; i < detail_slots(f); i++) {
        uint32_t kind = random_bits() % 8, owner = 0;
        if (kind == 0)
            owner = random_bits() % 4 ? settled + 1 + random_bits() % 100 : UINT32_MAX;
        else if (kind > 1 && next < settled)
            owner = rows[next++] + 1;
        *owner_at(f, i) = owner;
    }
    free(rows);
}

static struct fixture detailed_new(struct shape s, uint32_t more) {
    s.storage = KERNEL_FADE;
    struct fixture f = fixture_new(s);
    give_details(&f, more);
    return f;
}

/* ---------- the reference ---------- */

/* A row as it is without a detail slot (KERNEL_NONE), or with that one, not rotated any more. */
static void row_values(void *const *pages, uint32_t row, uint32_t detail, bool v, uint32_t d, float *ret) {
    const char *page = pages[row / SCISSOR_PAGE_ROWS];
    uint32_t slot = row % SCISSOR_PAGE_ROWS;
    struct quant_row q;
    uint8_t low[256];
    if (v)
        quant_get_v(KERNEL_INT2, page + layout_page_v_offset(KERNEL_FADE, d), slot, d, &q);
    else
        quant_get_k(KERNEL_INT3, page, slot, d, &q);
    if (detail != KERNEL_NONE) {
        page = pages[detail / LAYOUT_PAGE_DETAILS];
        if (v)
            quant_get_v_detail(page + layout_detail_v_offset(KERNEL_FADE, d), detail % 16, d, low);
        else
            quant_get_k_detail(page + layout_detail_k_offset(KERNEL_FADE, d), detail % 16, d, low);
        for (uint32_t c = 0; c < d; c++)
            q.code[c] = (uint8_t)(q.code[c] << 2 | low[c]);
    }
    for (uint32_t c = 0; c < d; c++)
        ret[c] = (detail != KERNEL_NONE ? quant_detailed_value : quant_value)(&q, c);
    quant_rotate(ret, d);
}

/* The same values in f32. */
static struct fixture plain_of(const struct fixture *f) {
    struct fixture plain = *f;
    uint32_t d = f->item.head_dim;
    memset(plain.pages, 0, sizeof plain.pages);
    plain.item.storage_dtype = KERNEL_F32;
    plain.item.detail_pages = 0;
    for (uint32_t i = 0; i < layout_pages_of_rows(f->item.settled_rows); i++)
        plain.pages[i] = page_new(KERNEL_F32, 0, d);
    for (uint32_t r = 0; r < f->item.settled_rows; r++) {
        float *page = plain.pages[r / SCISSOR_PAGE_ROWS], x[256];
        uint32_t slot = r % SCISSOR_PAGE_ROWS, i = 0;
        while (i < detail_slots(f) && *owner_at(f, i) != r + 1)
            i++;
        uint32_t detail = i < detail_slots(f) ? i : KERNEL_NONE;
        row_values(f->pages, r, detail, false, d, x);
        for (uint32_t c = 0; c < d; c++)
            page[layout_k_index(slot, c, d)] = x[c];
        row_values(f->pages, r, detail, true, d, x);
        memcpy(page + (size_t)SCISSOR_PAGE_ROWS * d + layout_v_index(slot, 0, d), x, d * sizeof *x);
    }
    return plain;
}

static void test_reference(void **state) {
    (void)state;
    for (size_t d = 0; d < COUNT(head_dims); d++) {
        struct shape s = {
            .head_dim = head_dims[d], .heads = 2, .settled = 150, .fresh_rows = 16, .rows = 3, .before = 2};
        struct fixture f = detailed_new(s, d % 3), plain = plain_of(&f);
        struct result want = run(&plain, "reference", 7), got = run(&f, "reference", 7);
        compare_out(&got, &want, FLOAT_BOUND);
        compare_planes(&plain, &got, &want, FLOAT_BOUND);
        f.item.detail_pages = 0; /* which makes a difference */
        struct result without = run(&f, "reference", 7);
        assert_true(normalised_error(without.out, want.out, want.out_count) > 0.02);
        result_free(&without);
        result_free(&got);
        result_free(&want);
        for (size_t i = 0; i < COUNT(plain.pages); i++)
            free(plain.pages[i]);
        fixture_free(&f);
    }
}

/* ---------- each path ---------- */

/* All groups of query heads of one tile, pages that end with any row, and pages of nothing but details. */
static void test_shapes(void **state) {
    static const uint32_t settled[] = {1, 16, 17, 63, 64, 65, 300};
    uint32_t turn = 0;
    (void)state;
    for (size_t d = 0; d < COUNT(head_dims); d++)
        for (uint32_t heads = 1; heads <= 12; heads++, turn++) {
            struct fixture f = detailed_new((struct shape){.head_dim = head_dims[d],
                                                           .heads = heads,
                                                           .settled = settled[turn % COUNT(settled)],
                                                           .fresh_rows = 16,
                                                           .before = turn % 12,
                                                           .rows = turn % 3 + 1,
                                                           .compute = (uint8_t)(turn % KERNEL_ELEMENT_DTYPES)},
                                            turn % 4);
            check_fixture(&f);
            fixture_free(&f);
        }
    print_message("largest normalised error of out: %.2g\n", largest_error);
}

/* More heads than a tile has, and rows that share one. */
static void test_tiles(void **state) {
    (void)state;
    for (uint32_t heads = 13; heads <= 32; heads += 19) {
        struct fixture f =
            detailed_new((struct shape){.head_dim = 64, .heads = heads, .settled = 90, .fresh_rows = 16, .rows = 2}, 1);
        check_fixture(&f);
        fixture_free(&f);
    }
    struct fixture f =
        detailed_new((struct shape){.head_dim = 64, .heads = 3, .settled = 768, .fresh_rows = 64, .rows = 64}, 0);
    check_fixture(&f);
    fixture_free(&f);
}

/* Small and large scales, down to those that are no normal numbers in f16. */
static void test_sizes(void **state) {
    (void)state;
    for (int power = -20; power <= 15; power += 5) {
        settled_size = ldexpf(1, power);
        struct fixture f =
            detailed_new((struct shape){.head_dim = 128, .heads = 4, .settled = 150, .fresh_rows = 16, .rows = 2}, 1);
        settled_size = 1;
        f.item.scale = ldexpf(f.item.scale, -power);
        check_fixture(&f);
        fixture_free(&f);
    }
}

/* Detail slots of nobody leave everything as it is without them. */
static void test_nobody(void **state) {
    struct fixture f =
        detailed_new((struct shape){.head_dim = 80, .heads = 5, .settled = 100, .fresh_rows = 16, .rows = 2}, 1);
    (void)state;
    for (uint32_t i = 0; i < detail_slots(&f); i++)
        *owner_at(&f, i) = i % 3 == 0 ? 0 : i % 3 == 1 ? 101 + i : UINT32_MAX - i;
    for (size_t i = 0; i < PATHS; i++) {
        struct fixture none = f;
        none.item.detail_pages = 0;
        if (!kernel_host_backend(path_names[i]))
            continue;
        struct result got = run(&f, path_names[i], 7), want = run(&none, path_names[i], 7);
        for (size_t j = 0; j < want.out_count; j++)
            assert_true(got.out[j] == want.out[j]);
        assert_memory_equal(got.mass, want.mass, want.plane_count * sizeof *want.mass);
        result_free(&got);
        result_free(&want);
    }
    fixture_free(&f);
}

/* Scales or offsets of a row that are not finite, with a detail slot or without, make the same outputs and planes not
 * finite as in the reference. */
static void check_not_finite(bool owned, bool v, bool offset, uint16_t bits) {
    struct fixture f =
        detailed_new((struct shape){.head_dim = 128, .heads = 3, .settled = 100, .fresh_rows = 16, .rows = 1}, 0);
    char *half = (char *)f.pages[1] + (v ? layout_page_v_offset(KERNEL_FADE, 128) : 0);
    memcpy(half + layout_scale_offset(v ? KERNEL_INT2 : KERNEL_INT3, 21, 1, 128) + (offset ? 32 : 0), &bits, 2);
    for (uint32_t i = 0; i < detail_slots(&f); i++)
        if (*owner_at(&f, i) == 64 + 21 + 1)
            *owner_at(&f, i) = 0;
    if (owned)
        *owner_at(&f, 19) = 64 + 21 + 1;
    struct result want = run(&f, "reference", 7);
    assert_false(isfinite(want.out[0]));
    check_finite_alike(&f, &want);
    result_free(&want);
    fixture_free(&f);
}

static void test_not_finite(void **state) {
    static const uint16_t values[] = {0x7e00, 0x7c00, 0xfc00}; /* NaN, the infinities */
    (void)state;
    for (size_t i = 0; i < COUNT(values); i++)
        for (unsigned place = 0; place < 8; place++)
            check_not_finite(place & 4, place & 1, place & 2, values[i]);
}

static void test_planes_optional(void **state) {
    struct fixture f =
        detailed_new((struct shape){.head_dim = 32, .heads = 2, .settled = 40, .fresh_rows = 16, .rows = 8}, 2);
    (void)state;
    check_planes_optional(&f);
    fixture_free(&f);
}

/* Rows without any details; without settled rows nobody looks for details; of a dtype without them there are none to be
 * looked for. */
static void test_no_details(void **state) {
    struct fixture f =
        fixture_new((struct shape){.head_dim = 32, .heads = 2, .fresh_rows = 16, .rows = 4, .storage = KERNEL_FADE});
    (void)state;
    check_shape(
        (struct shape){.head_dim = 96, .heads = 3, .settled = 90, .fresh_rows = 16, .rows = 2, .storage = KERNEL_FADE});
    f.item.detail_pages = 3;
    check_fixture(&f);
    for (size_t i = 0; i < PATHS; i++) {
        struct kernel_backend *b = kernel_host_backend(path_names[i]);
        struct kernel_attend item = f.item;
        item.storage_dtype = KERNEL_K5V4;
        if (b)
            assert_int_equal(b->attend(b, &item, 1, NULL), -EINVAL);
    }
    fixture_free(&f);
}

/* ---------- settle and shrink ---------- */

#define SETTLED_PAGES 3u

/* A fresh buffer of 16 rows of f32. */
struct rows {
    float k[16 * 256], v[16 * 256];
};

static void fill_rows(float *fresh, uint32_t d, struct rows *ret) {
    for (uint32_t r = 0; r < 16; r++)
        for (uint32_t c = 0; c < d; c++) {
            ret->k[r * d + c] = fresh[layout_k_index(r, c, d)] = random_value();
            ret->v[r * d + c] = fresh[16 * d + layout_v_index(r, c, d)] = random_value();
        }
}

/* Root of the mean square of what K and V in a slot differ from row `row`. */
static double row_error(void *const *pages, uint32_t slot, uint32_t detail, const struct rows *rows, uint32_t row,
                        uint32_t d) {
    double sum = 0;
    for (uint32_t v = 0; v < 2; v++) {
        float x[256];
        row_values(pages, slot, detail, v, d, x);
        for (uint32_t c = 0; c < d; c++)
            sum += pow((double)x[c] - (double)(v ? rows->v : rows->k)[row * d + c], 2);
    }
    return sqrt(sum / (2 * d));
}

/* A row settles with a detail slot, which another row then takes: the first is as good as it is without, the second as
 * good as with. The moves of a shrink change nothing of that. */
static void stolen_case(struct kernel_backend *b, uint32_t d) {
    float fresh[2 * 16 * 256];
    struct rows rows;
    void *pages[SETTLED_PAGES];
    struct kernel_move moves[] = {{3, 130}, {9, 5}}, tail = {130, 17}, detail_move = {40, 7};
    struct kernel_move owners[] = {{7, 5}, {40, KERNEL_NONE}};
    uint32_t details[] = {40, 40};
    struct kernel_settle settle = {fresh, pages, moves, details, 1, 16, d, KERNEL_F32, KERNEL_FADE};
    struct kernel_shrink shrink = {pages, &tail, &detail_move, owners, 1, 1, 2, d, KERNEL_FADE};
    for (uint32_t i = 0; i < SETTLED_PAGES; i++)
        pages[i] = memset(aligned(layout_page_bytes(KERNEL_FADE, d)), 0xff, layout_page_bytes(KERNEL_FADE, d));
    struct fixture f = {.item.head_dim = d};
    memcpy(f.pages, pages, sizeof pages);
    fill_rows(fresh, d, &rows);

    assert_int_equal(b->settle(b, &settle, 1), 0);
    double with = row_error(pages, 130, 40, &rows, 3, d), without = row_error(pages, 130, KERNEL_NONE, &rows, 3, d);
    assert_int_equal(*owner_at(&f, 40), 131);
    assert_true(with < 0.06 && without > 2.5 * with && without < 6 * with);

    settle.move_count = 2;
    assert_int_equal(b->settle(b, &settle, 1), 0);
    assert_int_equal(*owner_at(&f, 40), 6);
    assert_true(row_error(pages, 130, KERNEL_NONE, &rows, 3, d) == without);
    assert_true(row_error(pages, 5, 40, &rows, 9, d) < 0.06);

    assert_int_equal(b->shrink(b, &shrink, 1), 0);
    assert_int_equal(*owner_at(&f, 7), 6);
    assert_int_equal(*owner_at(&f, 40), 0);
    assert_true(row_error(pages, 17, KERNEL_NONE, &rows, 3, d) == without);
    assert_true(row_error(pages, 5, 7, &rows, 9, d) < 0.06);
    for (uint32_t i = 0; i < SETTLED_PAGES; i++)
        free(pages[i]);
}

static void test_stolen(void **state) {
    (void)state;
    for (size_t i = 0; i < PATHS; i++) {
        struct kernel_backend *b = kernel_host_backend(path_names[i]);
        for (size_t d = 0; b && d < COUNT(head_dims); d++)
            stolen_case(b, head_dims[d]);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reference),       cmocka_unit_test(test_shapes),     cmocka_unit_test(test_tiles),
        cmocka_unit_test(test_sizes),           cmocka_unit_test(test_nobody),     cmocka_unit_test(test_not_finite),
        cmocka_unit_test(test_planes_optional), cmocka_unit_test(test_no_details), cmocka_unit_test(test_stolen),
    };
    unsetenv("SCISSOR_HOST_PATH");
    return cmocka_run_group_tests_name("kernels: details", tests, NULL, NULL);
}
