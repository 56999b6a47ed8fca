/* test_cuda_attend.c - attention on emulated devices, or on a real one, against the host's reference, in double:
 * outputs and score planes over shapes, dtypes and splits; what must not be used holds NaN; bytes moved as attend.cu
 * and combine.cu say. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "cuda/launch.h"
#include "emulation/emulator.h"

#define COUNT(array) (sizeof(array) / sizeof *(array))
#define STRIDE_GAP 4
#define BOUND 4e-6

static uint64_t random_state = 11;
static struct kernel_backend *reference;

static float random_value(void) {
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (float)(uint32_t)(random_state >> 33) / (float)(1u << 30) - 1.0f;
}

/* ---------- an item, whose memory serves both sides ---------- */

struct shape {
    uint32_t head_dim, heads, settled, fresh_rows, before, rows;
    uint8_t compute, storage, threshold;
    uint32_t split_rows, chunk; /* chunk: query rows of a launch */
    uint32_t mma;               /* tiles of a block of attend_mma.cu; 0: attend.cu */
};

struct planes {
    float *out, *mass, *hits, *last;
};

struct fixture {
    struct kernel_attend item;
    void **pages;
    uint32_t page_count;
    void *fresh;
    float *q;
    size_t q_count, visible;
    struct planes device, host;
};

/* Rows from `used` on hold NaN. */
static void *area_new(uint32_t dtype, uint32_t rows, uint32_t used, uint32_t d) {
    uint32_t size = (uint32_t)kernel_dtype_size(dtype);
    char *area = emulator_memory_new(layout_area_bytes(size, rows, d)), *v = area + layout_v_offset(size, rows, d);
    for (uint32_t r = 0; r < rows; r++)
        for (uint32_t c = 0; c < d; c++) {
            kernel_store(dtype, area, layout_k_index(r, c, d), r < used ? random_value() : NAN);
            kernel_store(dtype, v, layout_v_index(r, c, d), r < used ? random_value() : NAN);
        }
    emulator_memory_writable(area, false);
    return area;
}

static float *floats_new(size_t count, float value) {
    float *floats = emulator_memory_new((count + 1) * sizeof *floats);
    for (size_t i = 0; i < count; i++)
        floats[i] = value;
    return floats;
}

static struct planes planes_new(const struct fixture *f) {
    return (struct planes){floats_new(f->q_count, 7), floats_new(f->visible, 0.25f), floats_new(f->visible, 2),
                           floats_new(f->visible, 7)};
}

static void planes_free(struct planes *p) {
    emulator_memory_free(p->out);
    emulator_memory_free(p->mass);
    emulator_memory_free(p->hits);
    emulator_memory_free(p->last);
}

static struct fixture fixture_new(struct shape s) {
    struct fixture f = {.page_count = layout_pages_of_rows(s.settled),
                        .visible = (size_t)s.settled + s.before + s.rows};
    size_t stride = (size_t)s.heads * s.head_dim + STRIDE_GAP;
    f.pages = emulator_memory_new((f.page_count + 1) * sizeof *f.pages);
    for (uint32_t i = 0; i < f.page_count; i++) {
        uint32_t rest = s.settled - i * SCISSOR_PAGE_ROWS;
        f.pages[i] =
            area_new(s.storage, SCISSOR_PAGE_ROWS, rest < SCISSOR_PAGE_ROWS ? rest : SCISSOR_PAGE_ROWS, s.head_dim);
    }
    f.fresh = area_new(s.compute, s.fresh_rows, s.before + s.rows, s.head_dim);
    f.q_count = stride * s.rows;
    f.q = floats_new(f.q_count, 0);
    for (size_t i = 0; i < f.q_count; i++)
        f.q[i] = i % stride < stride - STRIDE_GAP ? random_value() : NAN;
    f.device = planes_new(&f);
    f.host = planes_new(&f);
    f.item = (struct kernel_attend){.pages = (const void *const *)f.pages,
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
                                    .scale = 6.0f / sqrtf((float)s.head_dim),
                                    .q = f.q,
                                    .q_row_stride = stride};
    return f;
}

static void fixture_free(struct fixture *f) {
    for (uint32_t i = 0; i < f->page_count; i++)
        emulator_memory_free(f->pages[i]);
    emulator_memory_free(f->pages);
    emulator_memory_free(f->fresh);
    emulator_memory_free(f->q);
    planes_free(&f->device);
    planes_free(&f->host);
}

static struct kernel_attend with_planes(const struct fixture *f, struct planes p, unsigned planes) {
    struct kernel_attend item = f->item;
    item.out = p.out;
    item.mass = planes & 1 ? p.mass : NULL;
    item.hits = planes & 2 ? p.hits : NULL;
    item.last = planes & 4 ? p.last : NULL;
    return item;
}

/* ---------- launches ---------- */

static struct emulator_counts launch(const char *name, uint32_t number, struct cuda_grid grid,
                                     const struct cuda_attend_launch *parameter) {
    struct emulator_counts counts;
    char kernel[32];
    snprintf(kernel, sizeof kernel, "scissor_%s_%u", name, number);
    if (emulator_launch(emulator_find(kernel), (struct emulator_dim){grid.x, grid.y, 1},
                        (struct emulator_dim){CUDA_THREADS, 1, 1}, grid.shared_bytes, parameter, &counts))
        fail_msg("%s", emulator_message());
    return counts;
}

struct moved {
    struct emulator_counts attend, combine;
    uint32_t tile, tiles, splits, padded; /* of the last chunk */
};

/* Several items at once, all chunks of them. */
static struct moved attend_by(struct fixture *f, uint32_t count, uint32_t split_rows, uint32_t chunk, unsigned planes,
                              uint32_t mma) {
    struct cuda_attend_item *items = emulator_memory_new(count * sizeof *items);
    struct moved moved = {0};
    uint32_t rows = 0;
    for (uint32_t i = 0; i < count; i++)
        rows = f[i].item.rows > rows ? f[i].item.rows : rows;
    for (uint32_t first = 0; first < rows; first += chunk) {
        uint32_t splits = 0, vectors = 0, d = 0;
        for (uint32_t i = 0; i < count; i++) {
            const struct kernel_attend *a = &f[i].item;
            uint32_t mine = a->rows > first ? (a->rows - first < chunk ? a->rows - first : chunk) : 0;
            uint32_t s = cuda_attend_splits(a->settled_rows, a->fresh_before + first + mine, split_rows);
            splits = s > splits ? s : splits;
            vectors = mine * a->q_heads > vectors ? mine * a->q_heads : vectors;
            d = a->head_dim > d ? a->head_dim : d;
        }
        assert_true(vectors <= CUDA_CHUNK_VECTORS);
        uint32_t tile = mma ? 8 : cuda_attend_tile(vectors), tiles = cuda_divide_up(vectors, tile);
        struct cuda_attend_workspace w = cuda_attend_workspace(splits, vectors, tile, split_rows, d);
        for (uint32_t i = 0; i < count; i++)
            items[i] = (struct cuda_attend_item){with_planes(&f[i], f[i].device, planes),
                                                 planes ? floats_new(w.logits, NAN) : NULL, floats_new(w.stats, NAN),
                                                 floats_new(w.sums, NAN)};
        uint32_t groups = mma ? cuda_divide_up(tiles, mma) : tiles;
        struct cuda_attend_launch parameter = {items, first, chunk, split_rows, groups};
        moved.attend =
            mma ? launch("attend_mma", mma, cuda_attend_mma_grid(count, splits, groups, mma, split_rows, d), &parameter)
                : launch("attend", tile, cuda_attend_grid(count, splits, tiles, tile, split_rows, d), &parameter);
        moved.combine = launch("combine", tile, cuda_combine_grid(count, splits, vectors), &parameter);
        moved.tile = tile, moved.tiles = tiles, moved.splits = splits, moved.padded = tiles * tile;
        for (uint32_t i = 0; i < count; i++) {
            emulator_memory_free(items[i].logits);
            emulator_memory_free(items[i].stats);
            emulator_memory_free(items[i].sums);
        }
    }
    emulator_memory_free(items);
    return moved;
}

static struct moved attend(struct fixture *f, uint32_t count, uint32_t split_rows, uint32_t chunk, unsigned planes) {
    return attend_by(f, count, split_rows, chunk, planes, 0);
}

/* ---------- comparison ---------- */

static double normalised_error(const float *a, const float *b, size_t count) {
    double difference = 0, size = 0;
    for (size_t i = 0; i < count; i++) {
        difference += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
        size += (double)b[i] * (double)b[i];
    }
    return sqrt(difference / (size > 0 ? size : 1));
}

static double largest_error;

static void compare_within(struct fixture *f, double bound) {
    struct kernel_attend item = with_planes(f, f->host, 7);
    void *workspace = NULL;
    size_t bytes = kernel_attend_workspace(item.q_heads, item.head_dim, f->visible);
    assert_int_equal(posix_memalign(&workspace, 64, bytes + 64), 0);
    assert_int_equal(reference->attend(reference, &item, 1, workspace), 0);
    free(workspace);
    double out = normalised_error(f->device.out, f->host.out, f->q_count);
    double mass = normalised_error(f->device.mass, f->host.mass, f->visible);
    double last = normalised_error(f->device.last, f->host.last, f->visible);
    largest_error = out > largest_error ? out : largest_error;
    if (!(out <= bound && mass <= bound && last <= bound))
        fail_msg("normalised errors: out %g, mass %g, last %g", out, mass, last);
    /* A probability at the threshold may fall on either side; with these values hardly one does. */
    size_t other = 0;
    for (size_t j = 0; j < f->visible; j++)
        other += f->device.hits[j] != f->host.hits[j];
    if (other > 1 + f->visible / 200)
        fail_msg("hits of %zu rows of %zu differ", other, f->visible);
}

static void compare(struct fixture *f) {
    compare_within(f, BOUND);
}

static void check_shape(struct shape s) {
    struct fixture f = fixture_new(s);
    attend_by(&f, 1, s.split_rows, s.chunk, 7, s.mma);
    /* Two elements of bf16 for a value are 2^-17 apart from it at most, and products have two such values. */
    bool bf16 = s.mma && (s.compute == KERNEL_BF16 || s.storage == KERNEL_BF16);
    compare_within(&f, bf16 ? 4 * BOUND : BOUND);
    fixture_free(&f);
}

static const uint32_t head_dims[] = {64, 80, 96, 112, 128, 256};
static const uint32_t groups[] = {1, 3, 4, 8, 9};
static const uint32_t settled_counts[] = {0, 1, 15, 16, 17, 64, 65, 400};

/* Shapes; pairs of dtypes, thresholds and splits take turns. */
static void test_decode(void **state) {
    uint32_t turn = 0;
    (void)state;
    for (size_t d = 0; d < COUNT(head_dims); d++)
        for (size_t g = 0; g < COUNT(groups); g++)
            for (size_t n = 0; n < COUNT(settled_counts); n++, turn++)
                check_shape((struct shape){.head_dim = head_dims[d],
                                           .heads = groups[g],
                                           .settled = settled_counts[n],
                                           .fresh_rows = 80,
                                           .before = turn * 7 % 80,
                                           .rows = 1,
                                           .compute = (uint8_t)(turn % 3),
                                           .storage = (uint8_t)(turn / 3 % 3),
                                           .threshold = (uint8_t)(turn / 9 % 2),
                                           .split_rows = turn % 2 ? 64 : 256,
                                           .chunk = 1});
    print_message("largest normalised error of out: %.2g\n", largest_error);
}

static void need_tensor_cores(void) {
    if (emulator_capability() >= 80)
        return;
    print_message("SKIP: the device has no tensor cores of compute capability 8.0\n");
    skip();
}

/* By tensor cores: groups of one tile and of four. */
static void test_mma(void **state) {
    static const uint32_t heads[] = {5, 8, 9};
    uint32_t turn = 0;
    (void)state;
    need_tensor_cores();
    largest_error = 0;
    for (size_t d = 0; d < COUNT(head_dims); d++)
        for (size_t n = 0; n < COUNT(settled_counts); n++, turn++)
            check_shape((struct shape){.head_dim = head_dims[d],
                                       .heads = heads[turn % 3],
                                       .settled = settled_counts[n],
                                       .fresh_rows = 80,
                                       .before = turn * 7 % 80,
                                       .rows = 1,
                                       .compute = turn % 2 ? KERNEL_BF16 : KERNEL_F16,
                                       .storage = turn / 2 % 2 ? KERNEL_BF16 : KERNEL_F16,
                                       .threshold = (uint8_t)(turn / 4 % 2),
                                       .split_rows = turn % 2 ? 64 : 256,
                                       .chunk = 1,
                                       .mma = 1});
    print_message("largest normalised error of out: %.2g\n", largest_error);
}

static void test_mma_prefill(void **state) {
    (void)state;
    need_tensor_cores();
    largest_error = 0;
    for (uint8_t pair = 0; pair < 4; pair++)
        check_shape((struct shape){.head_dim = pair % 2 ? 64 : 128,
                                   .heads = 3,
                                   .settled = 90,
                                   .fresh_rows = 80,
                                   .before = 10,
                                   .rows = 70,
                                   .compute = pair % 2 ? KERNEL_BF16 : KERNEL_F16,
                                   .storage = pair / 2 ? KERNEL_BF16 : KERNEL_F16,
                                   .threshold = pair / 2,
                                   .split_rows = 64,
                                   .chunk = pair ? 70 : 33,
                                   .mma = 4});
    print_message("largest normalised error of out: %.2g\n", largest_error);
}

static void test_prefill(void **state) {
    (void)state;
    for (uint8_t pair = 0; pair < 9; pair++)
        check_shape((struct shape){.head_dim = 64,
                                   .heads = 3,
                                   .settled = 70,
                                   .fresh_rows = 96,
                                   .before = 50,
                                   .rows = 40,
                                   .compute = pair % 3,
                                   .storage = pair / 3,
                                   .split_rows = 64,
                                   .chunk = pair % 2 ? 40 : 13});
    check_shape((struct shape){
        .head_dim = 64, .heads = 4, .fresh_rows = 1024, .before = 924, .rows = 100, .split_rows = 256, .chunk = 64});
}

/* Ragged items in one launch, as a batch of sessions is. */
static void test_ragged(void **state) {
    static const struct shape shapes[] = {
        {.head_dim = 128,
         .heads = 4,
         .settled = 300,
         .fresh_rows = 64,
         .before = 63,
         .rows = 1,
         .compute = 1,
         .storage = 1},
        {.head_dim = 64, .heads = 2, .settled = 0, .fresh_rows = 16, .before = 0, .rows = 1},
        {.head_dim = 80,
         .heads = 3,
         .settled = 129,
         .fresh_rows = 32,
         .before = 16,
         .rows = 5,
         .compute = 2,
         .storage = 1},
    };
    struct fixture f[COUNT(shapes)];
    (void)state;
    for (size_t i = 0; i < COUNT(shapes); i++)
        f[i] = fixture_new(shapes[i]);
    attend(f, COUNT(shapes), 128, 4, 7);
    for (size_t i = 0; i < COUNT(shapes); i++) {
        compare(&f[i]);
        fixture_free(&f[i]);
    }
}

/* What the newest query alone sees may be NaN: the others' outputs are what they were, bit by bit. */
static void test_nan(void **state) {
    struct shape s = {.head_dim = 64, .heads = 2, .settled = 40, .fresh_rows = 16, .before = 3, .rows = 8};
    struct fixture f = fixture_new(s);
    size_t older = (s.rows - 1) * f.item.q_row_stride;
    (void)state;
    attend(&f, 1, 64, 8, 7);
    float *clean = malloc(older * sizeof *clean), *k = f.fresh, *v = k + (size_t)s.fresh_rows * s.head_dim;
    assert_non_null(clean);
    memcpy(clean, f.device.out, older * sizeof *clean);
    k[layout_k_index(10, 0, 64)] = v[layout_v_index(10, 5, 64)] = NAN;
    attend(&f, 1, 64, 8, 7);
    assert_memory_equal(clean, f.device.out, older * sizeof *clean);
    for (size_t c = 0; c < 128; c++)
        assert_true(isnan(f.device.out[older + c]));
    for (size_t j = 0; j < f.visible; j++)
        assert_true(isnan(f.device.last[j]));
    free(clean);
    fixture_free(&f);
}

/* Without planes there are no logits, and the output is the same. */
static void test_no_planes(void **state) {
    struct shape s = {.head_dim = 96, .heads = 4, .settled = 200, .fresh_rows = 16, .before = 3, .rows = 1};
    struct fixture f = fixture_new(s);
    (void)state;
    attend(&f, 1, 128, 1, 7);
    float *all = malloc(f.q_count * sizeof *all);
    assert_non_null(all);
    memcpy(all, f.device.out, f.q_count * sizeof *all);
    attend(&f, 1, 128, 1, 0);
    assert_memory_equal(all, f.device.out, (f.q_count - STRIDE_GAP) * sizeof *all);
    free(all);
    fixture_free(&f);
}

static void check_bytes(const char *kernel, struct emulator_counts c, double said, double items) {
    if (!emulator_counts_bytes())
        return;
    double got = (double)(c.loads.bytes + c.stores.bytes);
    print_message(
        "%s: %.0f bytes moved, %.0f said and %.0f for items; loads coalesced %.1f %%, 16 bytes wide %.1f %%\n", kernel,
        got, said, items, 100.0 * (double)c.loads.coalesced / (double)c.loads.instructions,
        100.0 * (double)c.loads.wide / (double)c.loads.instructions);
    double coalesced = (double)c.loads.coalesced / (double)c.loads.instructions;
    if (coalesced < 0.85)
        fail_msg("%s: only %.1f %% of the loads are coalesced", kernel, 100 * coalesced);
    if (got < 0.95 * said || got > 1.05 * (said + items))
        fail_msg("%s: %.0f bytes moved, %.0f said, and %.0f for items", kernel, got, said, items);
}

/* A long decode: n = 2,048 settled rows, d = 128, four query heads, f16. */
static void test_bytes(void **state) {
    struct shape s = {.head_dim = 128,
                      .heads = 4,
                      .settled = 2048,
                      .fresh_rows = 64,
                      .before = 31,
                      .rows = 1,
                      .compute = 1,
                      .storage = 1};
    struct fixture f = fixture_new(s);
    (void)state;
    struct moved m = attend(&f, 1, 256, 1, 7);
    double n = 2080, d = 128, splits = 9, q = 4;
    assert_int_equal(m.splits, 9);
    assert_int_equal(m.tile, 4);
    check_bytes("attend", m.attend, n * d * 2 * 2 + 4 * (splits * q * d + splits * q * (d + 2) + n * q) + 33 * 8,
                splits * 4 * 160);
    check_bytes("combine", m.combine,
                4 * (splits * splits * q * 2 + splits * q * d + q * 4 * splits + n * q + 2 * n + q * d + 3 * n),
                splits * 4 * 160);
    compare(&f);
    fixture_free(&f);
    s.heads = q = 8;
    f = fixture_new(s);
    m = attend_by(&f, 1, 256, 1, 7, 1);
    check_bytes("attend_mma", m.attend, n * d * 2 * 2 + 4 * (splits * q * d + splits * q * (d + 2) + n * q) + 33 * 8,
                splits * 4 * 160);
    compare(&f);
    fixture_free(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_decode),      cmocka_unit_test(test_prefill), cmocka_unit_test(test_mma),
        cmocka_unit_test(test_mma_prefill), cmocka_unit_test(test_ragged),  cmocka_unit_test(test_nan),
        cmocka_unit_test(test_no_planes),   cmocka_unit_test(test_bytes),
    };
    reference = kernel_host_backend("reference");
    return cmocka_run_group_tests_name("cuda: attend", tests, NULL, NULL);
}
