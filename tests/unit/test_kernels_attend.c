/* test_kernels_attend.c - attention: the reference against cases worked out by hand, every other path against the
 * reference. Whatever must not be read holds NaN, whatever must not be written stands between sentinels. */
#include "test_kernels_attend.h"

#include <errno.h>

/* ---------- tests: paths against the reference ---------- */

static const uint32_t head_dims[] = {16, 64, 80, 96, 112, 128, 256};
static const uint32_t groups[] = {1, 3, 4, 8, 9};
static const uint32_t settled_counts[] = {0, 1, 15, 16, 17, 63, 64, 65, 1000};

struct fresh_case {
    uint32_t fresh_rows, before, rows;
};
static const struct fresh_case fresh_cases[] = {
    {16, 0, 1}, {16, 15, 1}, {64, 63, 1}, {32, 0, 13}, {64, 31, 5}, {80, 60, 20}, {128, 64, 3},
};

#define PAIRS ((uint32_t)KERNEL_ELEMENT_DTYPES * KERNEL_DTYPE_COUNT)

/* Every combination of shape; the pairs of dtypes and the two thresholds take turns. */
static void test_shapes(void **state) {
    uint32_t turn = 0;
    (void)state;
    for (size_t d = 0; d < COUNT(head_dims); d++)
        for (size_t g = 0; g < COUNT(groups); g++)
            for (size_t n = 0; n < COUNT(settled_counts); n++) {
                /* The largest ones decode only: the reference is slow. */
                size_t cases = settled_counts[n] < 1000 ? COUNT(fresh_cases) : 1;
                for (size_t c = 0; c < cases; c++, turn++)
                    check_shape((struct shape){
                        .head_dim = head_dims[d],
                        .heads = groups[g],
                        .settled = settled_counts[n],
                        .fresh_rows = fresh_cases[c].fresh_rows,
                        .before = fresh_cases[c].before,
                        .rows = fresh_cases[c].rows,
                        .compute = (uint8_t)(turn % KERNEL_ELEMENT_DTYPES),
                        .storage = (uint8_t)(turn / KERNEL_ELEMENT_DTYPES % KERNEL_DTYPE_COUNT),
                        .threshold = (uint8_t)(turn / PAIRS % 2),
                    });
            }
    print_message("largest normalised error of out: %.2g\n", largest_error);
}

/* Every pair of dtypes in one shape, and as many heads as need three tiles. */
static void test_dtypes(void **state) {
    (void)state;
    for (uint8_t compute = 0; compute < KERNEL_ELEMENT_DTYPES; compute++)
        for (uint8_t storage = 0; storage < KERNEL_DTYPE_COUNT; storage++)
            for (uint32_t heads = 1; heads <= 32; heads += heads < 13 ? 1 : 19)
                check_shape((struct shape){
                    .head_dim = 48,
                    .heads = heads,
                    .settled = 90,
                    .fresh_rows = 64,
                    .before = 20,
                    .rows = 9,
                    .compute = compute,
                    .storage = storage,
                });
}

/* A chunk of a prefill. */
static void test_prefill(void **state) {
    (void)state;
    check_shape((struct shape){.head_dim = 64, .heads = 3, .settled = 768, .fresh_rows = 64, .rows = 64});
    check_shape((struct shape){.head_dim = 64, .heads = 3, .fresh_rows = 1024, .before = 500, .rows = 100});
}

/* ---------- tests: each path by itself ---------- */

static const struct shape plain = {.head_dim = 32, .heads = 2, .settled = 40, .fresh_rows = 16, .before = 3, .rows = 8};

static void test_planes_optional(void **state) {
    struct fixture f = fixture_new(plain);
    (void)state;
    check_planes_optional(&f);
    fixture_free(&f);
}

/* A row that only the newest query sees may hold NaN: the other queries' outputs do not change. */
static void test_causal_nan(void **state) {
    struct fixture f = fixture_new(plain);
    uint32_t newest = plain.before + plain.rows - 1;
    size_t older = (plain.rows - 1) * f.item.q_row_stride;
    (void)state;
    for (size_t i = 0; i < PATHS; i++) {
        if (!kernel_host_backend(path_names[i]))
            continue;
        struct result clean = run(&f, path_names[i], 0);
        float *k = f.fresh, *v = k + (size_t)plain.fresh_rows * plain.head_dim, kept_k, kept_v;
        size_t at_k = layout_k_index(newest, 0, plain.head_dim), at_v = layout_v_index(newest, 0, plain.head_dim);
        kept_k = k[at_k];
        kept_v = v[at_v];
        k[at_k] = v[at_v] = NAN;
        struct result poisoned = run(&f, path_names[i], 0);
        k[at_k] = kept_k;
        v[at_v] = kept_v;
        assert_memory_equal(clean.out, poisoned.out, older * sizeof(float));
        assert_true(isnan(poisoned.out[older]));
        result_free(&clean);
        result_free(&poisoned);
    }
    fixture_free(&f);
}

/* Two fresh rows of 16 channels, one head. K of row 0 is 0 and of row 1 is ln 3 in channel 0, V is 1 and 2:
 * the second query has the probabilities 1/4 and 3/4. */
static void test_by_hand(void **state) {
    float *area = area_new(KERNEL_F32, 16, 2, 16), q[32] = {0}, out[32];
    (void)state;
    for (uint32_t c = 0; c < 16; c++) {
        area[c * 16] = 0;
        area[c * 16 + 1] = c == 0 ? logf(3) : 0;
        area[256 + c] = 1;
        area[256 + 16 + c] = 2;
    }
    q[0] = 5;
    q[16] = 2;
    for (size_t i = 0; i < PATHS; i++) {
        struct kernel_backend *b = kernel_host_backend(path_names[i]);
        for (uint8_t threshold = 0; b && threshold < 2; threshold++) {
            float mass[2] = {0}, hits[2] = {0}, last[2];
            struct kernel_attend item = {
                .fresh = area,
                .fresh_rows = 16,
                .rows = 2,
                .q_heads = 1,
                .head_dim = 16,
                .threshold = threshold,
                .seen = 3, /* so that 1 / t is 1/4 and 1/5 */
                .scale = 0.5f,
                .q = q,
                .out = out,
                .q_row_stride = 16,
                .mass = mass,
                .hits = hits,
                .last = last,
            };
            void *workspace = aligned(kernel_attend_workspace(1, 16, 2));
            assert_int_equal(b->attend(b, &item, 1, workspace), 0);
            free(workspace);
            assert_true(out[0] == 1 && fabsf(out[16] - 1.75f) < 1e-6f);
            assert_true(fabsf(mass[0] - 1.25f) < 1e-6f && fabsf(mass[1] - 0.75f) < 1e-6f);
            assert_true(fabsf(last[0] - 0.25f) < 1e-6f && fabsf(last[1] - 0.75f) < 1e-6f);
            /* 1/n: 1 of 1, then 1/4 is no hit and 3/4 is one. 1/t: all of them. */
            assert_true(hits[0] == (threshold == KERNEL_THRESHOLD_SEEN ? 2 : 1) && hits[1] == 1);
        }
    }
    free(area);
}

/* Logits of some thousands, and infinities, come out as in the reference: one-hot, or NaN all over. */
static void test_extreme_logits(void **state) {
    (void)state;
    for (int infinite = 0; infinite < 2; infinite++) {
        struct fixture f = fixture_new((struct shape){.head_dim = 16, .heads = 1, .fresh_rows = 16, .rows = 16});
        f.item.scale = 1e4f;
        if (infinite)
            ((float *)f.fresh)[layout_k_index(3, 5, 16)] = INFINITY;
        struct result want = run(&f, "reference", 7);
        for (size_t i = 1; i < PATHS; i++) {
            if (!kernel_host_backend(path_names[i]))
                continue;
            struct result got = run(&f, path_names[i], 7);
            for (size_t j = 0; j < want.out_count; j++) {
                assert_int_equal(!isnan(want.out[j]), !isnan(got.out[j]));
                assert_true(isnan(want.out[j]) || fabsf(want.out[j] - got.out[j]) < 2e-2f);
            }
            for (size_t j = 0; j < want.plane_count; j++)
                assert_int_equal(!isnan(want.mass[j]), !isnan(got.mass[j]));
            result_free(&got);
        }
        result_free(&want);
        fixture_free(&f);
    }
}

static void test_refused(void **state) {
    struct fixture f = fixture_new(plain);
    struct kernel_attend good = f.item, bad[11];
    float *out = guarded_new(f.q_count, SENTINEL);
    (void)state;
    good.pages = (const void *const *)f.pages;
    good.out = out;
    for (size_t i = 0; i < COUNT(bad); i++)
        bad[i] = good;
    bad[0].head_dim = 24;
    bad[1].head_dim = 272;
    bad[2].head_dim = 0;
    bad[3].compute_dtype = KERNEL_INT8;
    bad[4].storage_dtype = KERNEL_DTYPE_COUNT;
    bad[5].fresh_before = 9; /* 9 + 8 > 16 */
    bad[6].fresh_before = UINT32_MAX;
    bad[7].pages = NULL;
    bad[8].threshold = 2;
    bad[9].q_heads = 0;
    bad[10].q_row_stride = (size_t)plain.heads * plain.head_dim - 1; /* outputs would overlap */
    for (size_t i = 0; i < PATHS; i++) {
        struct kernel_backend *b = kernel_host_backend(path_names[i]);
        for (size_t j = 0; b && j < COUNT(bad); j++) {
            struct kernel_attend pair[2] = {good, bad[j]};
            assert_true(b->attend(b, pair, 2, NULL) < 0); /* refused before the good one is looked at */
        }
    }
    assert_true(out[0] == SENTINEL);
    guarded_free(out, f.q_count);
    fixture_free(&f);
}

/* Nothing to do is no error. */
static void test_no_rows(void **state) {
    (void)state;
    for (size_t i = 0; i < PATHS; i++) {
        struct kernel_backend *b = kernel_host_backend(path_names[i]);
        struct kernel_attend item = {.q_heads = 1, .head_dim = 16};
        if (b) {
            assert_int_equal(b->attend(b, &item, 1, NULL), 0);
            assert_int_equal(b->attend(b, NULL, 0, NULL), 0);
            assert_int_equal(b->synchronise(b), 0);
        }
    }
}

static void test_paths(void **state) {
    (void)state;
    for (size_t i = 0; i < PATHS; i++) {
        struct kernel_backend *b = kernel_host_backend(path_names[i]);
        if (b)
            assert_string_equal(b->path, path_names[i]);
        else
            print_message("SKIP %s: this processor cannot run it\n", path_names[i]);
    }
    assert_null(kernel_host_backend("mmx"));
    assert_int_equal(errno, EINVAL);
    setenv("SCISSOR_HOST_PATH", "reference", 1);
    assert_string_equal(kernel_host_backend(NULL)->path, "reference");
    setenv("SCISSOR_HOST_PATH", "mmx", 1);
    assert_null(kernel_host_backend(NULL));
    unsetenv("SCISSOR_HOST_PATH");
    assert_string_equal(kernel_host_backend(NULL)->name, "host");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_paths),      cmocka_unit_test(test_by_hand),
        cmocka_unit_test(test_shapes),     cmocka_unit_test(test_dtypes),
        cmocka_unit_test(test_prefill),    cmocka_unit_test(test_planes_optional),
        cmocka_unit_test(test_causal_nan), cmocka_unit_test(test_extreme_logits),
        cmocka_unit_test(test_refused),    cmocka_unit_test(test_no_rows),
    };
    unsetenv("SCISSOR_HOST_PATH");
    return cmocka_run_group_tests_name("kernels: attend", tests, NULL, NULL);
}
