/* test_kernels_attend.h - what the tests of attention share: an item with its memory, and every path against the
 * reference. Whatever must not be read holds NaN, whatever must not be written stands between sentinels. */
#pragma once

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdlib.h>

#include <cmocka.h>

#include "backend.h"
#include "quant.h"

#define COUNT(array) (sizeof(array) / sizeof *(array))
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

static float settled_size = 1; /* of the values in quantised pages */

/* A page of a quantised dtype, the first `used` rows of which hold values; the others have codes, and NaN for scales.
 */
static void *quantised_new(uint32_t dtype, uint32_t used, uint32_t head_dim) {
    char *page = aligned(layout_page_bytes(dtype, head_dim)), *v = page + layout_page_v_offset(dtype, head_dim);
    for (uint32_t r = 0; r < SCISSOR_PAGE_ROWS; r++) {
        struct quant_row row;
        float values[2][256];
        for (uint32_t c = 0; c < head_dim; c++)
            for (uint32_t half = 0; half < 2; half++)
                values[half][c] = settled_size * random_value();
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
 * over quantised rows, where queries and weights become integers of 16 bits, it is that of their rounding. */
#define FLOAT_BOUND 4e-6
#define DOT_BOUND 4e-4

static double bound_of(const struct fixture *f, const char *path) {
    return !strcmp(path, "reference") || f->item.storage_dtype < KERNEL_ELEMENT_DTYPES ? FLOAT_BOUND : DOT_BOUND;
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

static void check_fixture(const struct fixture *f) {
    struct result want = run(f, "reference", 7);
    for (size_t i = 1; i < PATHS; i++) {
        if (!kernel_host_backend(path_names[i]))
            continue;
        struct result got = run(f, path_names[i], 7);
        compare_out(&got, &want, bound_of(f, path_names[i]));
        compare_planes(f, &got, &want, bound_of(f, path_names[i]));
        result_free(&got);
    }
    result_free(&want);
}

static void check_shape(struct shape s) {
    struct fixture f = fixture_new(s);
    check_fixture(&f);
    fixture_free(&f);
}

/* Planes that are not wanted change neither the output nor the planes that are. */
static inline void check_planes_optional(struct fixture *f) {
    for (size_t i = 0; i < PATHS; i++) {
        if (!kernel_host_backend(path_names[i]))
            continue;
        struct result all = run(f, path_names[i], 7);
        for (unsigned planes = 0; planes < 7; planes++) {
            struct result r = run(f, path_names[i], planes);
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
}

/* Every path has its values that are not finite where the reference has them. */
static inline void check_finite_alike(struct fixture *f, const struct result *want) {
    for (size_t i = 1; i < PATHS; i++) {
        if (!kernel_host_backend(path_names[i]))
            continue;
        struct result got = run(f, path_names[i], 7);
        for (size_t j = 0; j < want->out_count; j++)
            assert_int_equal(!isfinite(want->out[j]), !isfinite(got.out[j]));
        for (size_t j = 0; j < want->plane_count; j++)
            assert_int_equal(!isfinite(want->mass[j]), !isfinite(got.mass[j]));
        result_free(&got);
    }
}
