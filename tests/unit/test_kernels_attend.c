/* test_kernels_attend.c - attention: the reference against cases worked out by hand, every other path against the
 * reference. Whatever must not be read holds NaN, whatever must not be written stands between sentinels. */
#include <errno.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#include "backend.h"
#include "quant.h"

#define GUARD 16 /* sentinel floats on either side of an output */
#define SENTINEL 12345.0f
#define STRIDE_GAP 5

static const char *const path_names[] = {"reference", "avx2", "avx512", "avx512vnni"};
#define PATHS (sizeof path_names / sizeof *path_names)

static uint64_t random_state = 1;

static uint32_t random_bits(void) {
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(random_state >> 33);
}
static float random_value(void) {
    return (float)random_bits() / (float)(1u << 30) - 1.0f;
}

/* ---------- one item and its memory ---------- */

struct shape {
    uint32_t head_dim, heads, settled, fresh_rows, before, rows;
    uint8_t compute, storage, threshold;
};

struct fixture {
    struct kernel_attend item;
    void *pages[32];
    void *fresh;
    float *q;
    size_t q_count, visible;
};

struct result {
    float *out, *mass, *hits, *last; /* each behind GUARD sentinels */
    size_t out_count, plane_count;
};

static void *aligned(size_t bytes) {
    void *memory = NULL;
    assert_int_equal(posix_memalign(&memory, 64, bytes), 0);
    return memory;
}

/* An area of `rows` rows, the first `used` of which hold values; NaN in the others. */
static void *area_new(uint32_t dtype, uint32_t rows, uint32_t used, uint32_t head_dim) {
    uint32_t size = (uint32_t)kernel_dtype_size(dtype);
    char *area = aligned(layout_area_bytes(size, rows, head_dim));
    char *v = area + layout_v_offset(size, rows, head_dim);
    for (uint32_t r = 0; r < rows; r++)
        for (uint32_t c = 0; c < head_dim; c++) {
            kernel_store(dtype, area, layout_k_index(r, c, head_dim), r < used ? random_value() : NAN);
            kernel_store(dtype, v, layout_v_index(r, c, head_dim), r < used ? random_value() : NAN);
        }
    return area;
}

/* A page of a quantised dtype, the first `used` rows of which hold values; the others have codes, and NaN for scales.
 */
static void *quantised_new(uint32_t dtype, uint32_t used, uint32_t head_dim) {
    char *page = aligned(layout_page_bytes(dtype, head_dim)), *v = page + layout_page_v_offset(dtype, head_dim);
    for (uint32_t r = 0; r < SCISSOR_PAGE_ROWS; r++) {
        struct quant_row row;
        float values[2][256];
        for (uint32_t c = 0; c < head_dim; c++)
            for (uint32_t half = 0; half < 2; half++)
                values[half][c] = random_value();
        quant_encode(layout_k_type(dtype), values[0], head_dim, &row);
        for (uint32_t g = 0; r >= used && g < QUANT_MAX_GROUPS; g++)
            row.scale[g] = row.offset[g] = 0x7e00;
        quant_put_k(layout_k_type(dtype), page, r, head_dim, &row);
        quant_encode(layout_v_type(dtype), values[1], head_dim, &row);
        for (uint32_t g = 0; r >= used && g < QUANT_MAX_GROUPS; g++)
            row.scale[g] = row.offset[g] = 0x7e00;
        quant_put_v(layout_v_type(dtype), v, r, head_dim, &row);
    }
    return page;
}

static void *page_new(uint32_t dtype, uint32_t used, uint32_t head_dim) {
    return dtype < KERNEL_ELEMENT_DTYPES ? area_new(dtype, SCISSOR_PAGE_ROWS, used, head_dim)
                                         : quantised_new(dtype, used, head_dim);
}

static struct fixture fixture_new(struct shape s) {
    struct fixture f = {.visible = (size_t)s.settled + s.before + s.rows};
    uint32_t pages = layout_pages_of_rows(s.settled);
    for (uint32_t i = 0; i < pages; i++) {
        uint32_t rest = s.settled - i * SCISSOR_PAGE_ROWS;
        f.pages[i] = page_new(s.storage, rest < SCISSOR_PAGE_ROWS ? rest : SCISSOR_PAGE_ROWS, s.head_dim);
    }
    f.fresh = area_new(s.compute, s.fresh_rows, s.before + s.rows, s.head_dim);
    size_t stride = (size_t)s.heads * s.head_dim + STRIDE_GAP;
    f.q_count = stride * s.rows;
    f.q = aligned(f.q_count * sizeof(float));
    for (size_t i = 0; i < f.q_count; i++)
        f.q[i] = i % stride < stride - STRIDE_GAP ? random_value() : NAN;
    f.item = (struct kernel_attend){
        .settled_rows = s.settled,
        .fresh = f.fresh,
        .fresh_rows = s.fresh_rows,
        .fresh_before = s.before,
        .rows = s.rows,
        .q_heads = s.heads,
        .head_dim = s.head_dim,
        .compute_dtype = s.compute,
        .storage_dtype = s.storage,
        .threshold = s.threshold,
        .seen = 3 * f.visible,
        .scale = 6.0f / sqrtf((float)s.head_dim), /* logits with a deviation of about 2 */
        .q = f.q,
        .q_row_stride = stride,
    };
    return f;
}

static void fixture_free(struct fixture *f) {
    for (size_t i = 0; i < sizeof f->pages / sizeof *f->pages; i++)
        free(f->pages[i]);
    free(f->fresh);
    free(f->q);
}

static float *guarded_new(size_t count, float value) {
    float *memory = malloc((count + 2 * GUARD) * sizeof(float));
    assert_non_null(memory);
    for (size_t i = 0; i < count + 2 * GUARD; i++)
        memory[i] = i < GUARD || i >= count + GUARD ? SENTINEL : value;
    return memory + GUARD;
}

static void guarded_free(float *values, size_t count) {
    for (size_t i = 0; i < GUARD; i++) {
        assert_true(values[-1 - (ptrdiff_t)i] == SENTINEL);
        assert_true(values[count + i] == SENTINEL);
    }
    free(values - GUARD);
}

static void result_free(struct result *r) {
    guarded_free(r->out, r->out_count);
    guarded_free(r->mass, r->plane_count);
    guarded_free(r->hits, r->plane_count);
    guarded_free(r->last, r->plane_count);
}

/* Runs the item on a path with a workspace of exactly the promised size, full of NaN. `planes`: bits of which exist. */
static struct result run(const struct fixture *f, const char *path, unsigned planes) {
    struct kernel_backend *b = kernel_host_backend(path);
    struct kernel_attend item = f->item;
    size_t bytes = kernel_attend_workspace(item.q_heads, item.head_dim, f->visible);
    void *workspace = aligned(bytes);
    struct result r = {.out_count = f->q_count, .plane_count = f->visible};

    assert_non_null(b);
    memset(workspace, 0xff, bytes);
    r.out = guarded_new(r.out_count, SENTINEL);
    r.mass = guarded_new(r.plane_count, 0.25f); /* the planes are added to ... */
    r.hits = guarded_new(r.plane_count, 2);
    r.last = guarded_new(r.plane_count, SENTINEL); /* ... and this one is overwritten */
    item.pages = (const void *const *)f->pages;
    item.out = r.out;
    item.mass = planes & 1 ? r.mass : NULL;
    item.hits = planes & 2 ? r.hits : NULL;
    item.last = planes & 4 ? r.last : NULL;
    assert_int_equal(b->attend(b, &item, 1, workspace), 0);
    free(workspace);
    for (size_t row = 0; row < item.rows; row++)
        for (size_t gap = 1; gap <= STRIDE_GAP; gap++)
            assert_true(r.out[(row + 1) * item.q_row_stride - gap] == SENTINEL);
    return r;
}

/* ---------- comparison ---------- */

/* Root of the squared difference over that of the reference; the gaps are equal on both sides. NaN if one is. */
static double normalised_error(const float *a, const float *reference, size_t count) {
    double difference = 0, size = 0;
    for (size_t i = 0; i < count; i++) {
        if (reference[i] == SENTINEL && a[i] == SENTINEL)
            continue;
        difference += ((double)a[i] - (double)reference[i]) * ((double)a[i] - (double)reference[i]);
        size += (double)reference[i] * (double)reference[i];
    }
    return sqrt(difference / (size > 0 ? size : 1));
}

/* All paths read the same stored values, so the bound is that of float sums against double ones whatever the dtype; but
 * where queries and weights become integers of 16 bits, it is that of their rounding. */
#define FLOAT_BOUND 4e-6
#define DOT_BOUND 4e-4

static double bound_of(const struct fixture *f, const char *path) {
    return strcmp(path, "avx512vnni") || f->item.storage_dtype < KERNEL_ELEMENT_DTYPES ? FLOAT_BOUND : DOT_BOUND;
}

static double largest_error;

static void compare_out(const struct result *got, const struct result *want, double bound) {
    double error = normalised_error(got->out, want->out, want->out_count);
    if (error > largest_error)
        largest_error = error;
    if (!(error <= bound))
        fail_msg("out: normalised error %g", error);
}

/* For each row, the number of query rows under which p is so close to the threshold, relative to it, that rounding
 * decides whether it is a hit: one item for each query row. */
static uint8_t *edges_new(const struct fixture *f, double edge) {
    uint8_t *edges = calloc(f->visible, 1);
    assert_non_null(edges);
    for (uint32_t i = 0; i < f->item.rows; i++) {
        struct fixture one = *f;
        one.item.fresh_before += i;
        one.item.rows = 1;
        one.item.q += i * f->item.q_row_stride;
        one.q_count = f->item.q_row_stride;
        one.visible = (size_t)f->item.settled_rows + one.item.fresh_before + 1;
        struct result r = run(&one, "reference", 4);
        double seen = f->item.threshold == KERNEL_THRESHOLD_SEEN ? (double)(f->item.seen + i + 1) : (double)one.visible;
        for (size_t j = 0; j < one.visible; j++)
            edges[j] += fabs((double)r.last[j] * seen - 1) <= edge;
        result_free(&r);
    }
    return edges;
}

/* Hits are equal, but where p is at the edge; looking where that is takes long, so only if they are not. */
static void compare_hits(const struct fixture *f, const struct result *got, const struct result *want, double bound) {
    if (!memcmp(got->hits, want->hits, want->plane_count * sizeof(float)))
        return;
    uint8_t *edges = edges_new(f, 3 * bound);
    for (size_t j = 0; j < want->plane_count; j++)
        assert_true(fabsf(got->hits[j] - want->hits[j]) <= edges[j]);
    free(edges);
}

static void compare_planes(const struct fixture *f, const struct result *got, const struct result *want, double bound) {
    double mass_error = normalised_error(got->mass, want->mass, want->plane_count);
    double last_error = normalised_error(got->last, want->last, want->plane_count);
    double mass = 0;

    if (!(mass_error <= bound) || !(last_error <= bound))
        fail_msg("mass: normalised error %g, last: %g", mass_error, last_error);
    for (size_t j = 0; j < want->plane_count; j++)
        mass += (double)got->mass[j] - 0.25;
    assert_true(fabs(mass - f->item.rows) <= 1e-5 * f->item.rows + 1e-7 * (double)want->plane_count);
    compare_hits(f, got, want, bound);
}

static void check_shape(struct shape s) {
    struct fixture f = fixture_new(s);
    struct result want = run(&f, "reference", 7);
    for (size_t i = 1; i < PATHS; i++) {
        if (!kernel_host_backend(path_names[i]))
            continue;
        struct result got = run(&f, path_names[i], 7);
        compare_out(&got, &want, bound_of(&f, path_names[i]));
        compare_planes(&f, &got, &want, bound_of(&f, path_names[i]));
        result_free(&got);
    }
    result_free(&want);
    fixture_free(&f);
}

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

#define COUNT(array) (sizeof(array) / sizeof *(array))
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

/* Planes that are not wanted change neither the output nor the planes that are. */
static void test_planes_optional(void **state) {
    struct fixture f = fixture_new(plain);
    (void)state;
    for (size_t i = 0; i < PATHS; i++) {
        if (!kernel_host_backend(path_names[i]))
            continue;
        struct result all = run(&f, path_names[i], 7);
        for (unsigned planes = 0; planes < 7; planes++) {
            struct result r = run(&f, path_names[i], planes);
            assert_memory_equal(r.out, all.out, all.out_count * sizeof(float));
            for (size_t j = 0; j < all.plane_count; j++) {
                assert_true(r.mass[j] == (planes & 1 ? all.mass[j] : 0.25f));
                assert_true(r.hits[j] == (planes & 2 ? all.hits[j] : 2));
                assert_true(r.last[j] == (planes & 4 ? all.last[j] : SENTINEL));
            }
            result_free(&r);
        }
        result_free(&all);
    }
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
