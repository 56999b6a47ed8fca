/* test_cuda_work.c - the CUDA backend's work against the host backend's: rows moved to the bit, attention to rounding.
 *
 * Everything goes through struct kernel_backend, with transfers between pinned memory and the device, so that the same
 * program runs on a GPU: with SCISSOR_TEST_GPU=1 in the environment it takes the driver that the machine has, else it
 * starts itself again on the driver in tests/fakecuda. */
#include <errno.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "backend.h"
#include "cuda/cuda_backend.h"
#include "cuda_roles.h"
#include "harness.h"

#define COUNT(array) (sizeof(array) / sizeof *(array))
#define BOUND 4e-6 /* normalised error of attention in f32 */

static struct kernel_backend *device, *host;
static const struct kernel_streams *streams;
static void *stream;
static uint64_t random_state = 5;

static uint32_t random_bits(void) {
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(random_state >> 32);
}

static void done(int r) {
    if (r)
        fail_msg("%d: %s", r, kernel_backend_why());
}

/* ---------- memory on both sides ---------- */

/* `host` is pinned, and what the host backend works on; `device` is what the device works on. */
struct both {
    char *host, *device;
    size_t bytes;
};

static struct both both_new(size_t bytes) {
    struct both m = {.bytes = bytes};
    done(streams->memory_new(device, KERNEL_MEMORY_PINNED, bytes, (void **)&m.host));
    done(streams->memory_new(device, KERNEL_MEMORY_DEVICE, bytes, (void **)&m.device));
    return m;
}

static void both_free(struct both *m) {
    streams->memory_free(device, KERNEL_MEMORY_PINNED, m->host);
    streams->memory_free(device, KERNEL_MEMORY_DEVICE, m->device);
}

static void upload(const struct both *m) {
    done(streams->transfer(device, m->device, m->host, m->bytes, stream));
    done(streams->wait(device, stream));
}

/* What the device has; free() it. */
static void *download(const struct both *m) {
    void *pinned, *copy = malloc(m->bytes);
    assert_non_null(copy);
    done(streams->memory_new(device, KERNEL_MEMORY_PINNED, m->bytes, &pinned));
    done(streams->transfer(device, pinned, m->device, m->bytes, stream));
    done(streams->wait(device, stream));
    memcpy(copy, pinned, m->bytes);
    streams->memory_free(device, KERNEL_MEMORY_PINNED, pinned);
    return copy;
}

static void same(const struct both *m) {
    void *copy = download(m);
    assert_memory_equal(copy, m->host, m->bytes);
    free(copy);
}

/* Any bits: every sixteenth half is an infinity or a NaN. */
static void fill_bits(struct both *m) {
    for (size_t i = 0; i < m->bytes; i += 2) {
        uint32_t bits = random_bits();
        uint16_t half = (uint16_t)(bits >> 16);
        if (bits % 16 == 0)
            half |= bits & 32 ? 0x7f80 : 0x7c00;
        memcpy(m->host + i, &half, sizeof half);
    }
    upload(m);
}

static float random_value(void) {
    return (float)random_bits() / (float)(1u << 31) - 1.0f;
}

/* ---------- rows on the move ---------- */

#define PAGES 4u
#define FRESH 80u

/* Many heads, their buffers and pages in one allocation. */
struct rows {
    uint32_t heads, d, compute, storage;
    size_t fresh_bytes, page_bytes;
    struct both memory;
    void **pages[2]; /* of host and device: [heads][PAGES] */
};

static char *fresh_of(const struct rows *r, char *memory, uint32_t h) {
    return memory + h * (r->fresh_bytes + PAGES * r->page_bytes);
}

static struct rows rows_new(uint32_t heads, uint32_t d, uint32_t compute, uint32_t storage) {
    struct rows r = {.heads = heads,
                     .d = d,
                     .compute = compute,
                     .storage = storage,
                     .fresh_bytes = layout_area_bytes((uint32_t)kernel_dtype_size(compute), FRESH, d),
                     .page_bytes = layout_page_bytes(storage, d)};
    r.memory = both_new(heads * (r.fresh_bytes + PAGES * r.page_bytes));
    fill_bits(&r.memory);
    for (unsigned side = 0; side < 2; side++) {
        r.pages[side] = malloc(heads * PAGES * sizeof(void *));
        assert_non_null(r.pages[side]);
        for (uint32_t i = 0; i < heads * PAGES; i++)
            r.pages[side][i] = fresh_of(&r, side ? r.memory.device : r.memory.host, i / PAGES) + r.fresh_bytes +
                               i % PAGES * r.page_bytes;
    }
    return r;
}

static void rows_free(struct rows *r) {
    free(r->pages[0]);
    free(r->pages[1]);
    both_free(&r->memory);
}

/* Different slots from different fresh rows. */
static void settle_case(uint32_t heads, uint32_t d, uint32_t compute, uint32_t storage, uint32_t count) {
    struct rows r = rows_new(heads, d, compute, storage);
    struct kernel_move *moves = malloc((heads * count + 1) * sizeof *moves);
    struct kernel_settle *items = malloc(heads * sizeof *items);
    assert_true(moves && items);
    for (unsigned side = 0; side < 2; side++) {
        for (uint32_t h = 0; h < heads; h++) {
            for (uint32_t i = 0; i < count; i++)
                moves[h * count + i] =
                    (struct kernel_move){(i * 7 + h) % FRESH, (i * 37 + h) % (PAGES * SCISSOR_PAGE_ROWS)};
            items[h] = (struct kernel_settle){.fresh = fresh_of(&r, side ? r.memory.device : r.memory.host, h),
                                              .pages = r.pages[side] + h * PAGES,
                                              .moves = moves + h * count,
                                              .move_count = count,
                                              .fresh_rows = FRESH,
                                              .head_dim = d,
                                              .compute_dtype = (uint8_t)compute,
                                              .storage_dtype = (uint8_t)storage};
        }
        done((side ? device : host)->settle(side ? device : host, items, heads));
        memset(moves, 0xff, heads * count * sizeof *moves); /* the call has taken what it needs */
    }
    done(device->synchronise(device));
    same(&r.memory);
    free(moves);
    free(items);
    rows_free(&r);
}

static void test_settle(void **state) {
    (void)state;
    for (uint32_t pair = 0; pair < 9; pair++)
        settle_case(3, pair % 2 ? 64 : 80, pair % 3, pair / 3, 60);
    settle_case(2, 256, KERNEL_F16, KERNEL_F16, 0);
    settle_case(2000, 16, KERNEL_F16, KERNEL_F16, 64); /* more than one launch's arguments */
}

/* Moves in order, among them chains: a slot that was written is read again. */
static void shrink_case(uint32_t heads, uint32_t d, uint32_t storage, uint32_t count) {
    struct rows r = rows_new(heads, d, KERNEL_F16, storage);
    struct kernel_move *moves = malloc((count + 1) * sizeof *moves);
    struct kernel_shrink *items = malloc(heads * sizeof *items);
    assert_true(moves && items);
    for (uint32_t i = 0; i < count; i++)
        moves[i] = (struct kernel_move){random_bits() % (PAGES * SCISSOR_PAGE_ROWS),
                                        random_bits() % (PAGES * SCISSOR_PAGE_ROWS)};
    for (unsigned side = 0; side < 2; side++) {
        for (uint32_t h = 0; h < heads; h++)
            items[h] = (struct kernel_shrink){.pages = r.pages[side] + h * PAGES,
                                              .moves = moves,
                                              .move_count = h % 3 ? count : 0,
                                              .head_dim = d,
                                              .storage_dtype = (uint8_t)storage};
        done((side ? device : host)->shrink(side ? device : host, items, heads));
    }
    done(device->synchronise(device));
    same(&r.memory);
    free(moves);
    free(items);
    rows_free(&r);
}

static void test_shrink(void **state) {
    (void)state;
    for (uint32_t storage = 0; storage < KERNEL_ELEMENT_DTYPES; storage++)
        shrink_case(4, storage == KERNEL_BF16 ? 112 : 64, storage, 100);
    shrink_case(2, 16, KERNEL_F16, 40000); /* one head's moves in several launches, in order */
    shrink_case(2, 16, KERNEL_F16, 0);
}

/* Every second page of a run to the page that is missing behind it, and one move of nothing. */
static void pages_case(uint32_t pages, size_t bytes) {
    struct both m = both_new(pages * bytes);
    struct kernel_page_move *moves = malloc((pages + 1) * sizeof *moves);
    assert_non_null(moves);
    fill_bits(&m);
    for (unsigned side = 0; side < 2; side++) {
        char *memory = side ? m.device : m.host;
        for (uint32_t i = 0; i < pages / 2; i++)
            moves[i] =
                (struct kernel_page_move){memory + (2 * i + 1) * bytes, memory + 2 * i * bytes, bytes - i % 3 * 16};
        moves[pages / 2] = (struct kernel_page_move){memory, memory, 0};
        done((side ? device : host)->move_pages(side ? device : host, moves, pages / 2 + 1));
        memset(moves, 0xff, pages * sizeof *moves);
    }
    done(device->synchronise(device));
    same(&m);
    free(moves);
    both_free(&m);
}

static void test_move_pages(void **state) {
    (void)state;
    pages_case(2, 2 << 20);
    pages_case(100, 20480);
    pages_case(100000, 48); /* more than one launch's arguments */
}

static void test_norms(void **state) {
    static const uint32_t heads = 5, first = 3, count = 61;
    (void)state;
    for (uint32_t compute = 0; compute < KERNEL_ELEMENT_DTYPES; compute++) {
        struct rows r = rows_new(heads, 80, compute, KERNEL_F16);
        float norms[2][5 * 61];
        struct kernel_norms items[5];
        for (unsigned side = 0; side < 2; side++) {
            for (uint32_t h = 0; h < heads; h++)
                items[h] = (struct kernel_norms){.fresh = fresh_of(&r, side ? r.memory.device : r.memory.host, h),
                                                 .first = first,
                                                 .count = h == 2 ? 0 : count,
                                                 .fresh_rows = FRESH,
                                                 .head_dim = 80,
                                                 .compute_dtype = (uint8_t)compute,
                                                 .norms = norms[side] + h * count};
            memset(norms[side], 1, sizeof norms[side]);
            done((side ? device : host)->v_norms(side ? device : host, items, heads));
        }
        for (size_t i = 0; i < COUNT(norms[0]); i++)
            if (norms[0][i] == norms[0][i] || norms[1][i] == norms[1][i])
                assert_memory_equal(&norms[0][i], &norms[1][i], sizeof(float));
        rows_free(&r);
    }
}

/* A thousand launches without a wait: the ring of arguments goes round. */
static void test_append(void **state) {
    enum { HEADS = 2, D = 64, STRIDE = HEADS * D };
    (void)state;
    for (uint32_t pair = 0; pair < 9; pair++) {
        uint32_t compute = pair % 3, input = pair / 3;
        size_t size = kernel_dtype_size(input);
        struct rows r = rows_new(HEADS, D, compute, KERNEL_F16);
        struct both k = both_new(FRESH * STRIDE * size), v = both_new(FRESH * STRIDE * size);
        fill_bits(&k);
        fill_bits(&v);
        for (uint32_t turn = 0; turn < (pair == 0 ? 1000 : 3); turn++) {
            uint32_t rows = 1 + turn % 3 * 9, first = turn * 7 % (FRESH - rows);
            struct kernel_append items[HEADS];
            for (uint32_t h = 0; h < HEADS; h++) {
                size_t at = (first * STRIDE + h * D) * size;
                items[h] = (struct kernel_append){.fresh = fresh_of(&r, r.memory.device, h),
                                                  .k = k.device + at,
                                                  .v = v.device + at,
                                                  .stride = STRIDE,
                                                  .fresh_rows = FRESH,
                                                  .first_row = first,
                                                  .rows = rows,
                                                  .head_dim = D,
                                                  .compute_dtype = (uint8_t)compute,
                                                  .input_dtype = (uint8_t)input};
                done(host->append(host, fresh_of(&r, r.memory.host, h), FRESH, first, rows, D, (uint8_t)compute,
                                  k.host + at, v.host + at, STRIDE, (uint8_t)input));
            }
            done(streams->append(device, items, HEADS, stream));
        }
        done(streams->wait(device, stream));
        same(&r.memory);
        both_free(&k);
        both_free(&v);
        rows_free(&r);
    }
}

/* ---------- attention ---------- */

struct shape {
    uint32_t d, heads, settled, before, rows;
    uint8_t compute, storage, threshold;
};

/* An item on both sides; every part is an allocation of its own. */
struct fixture {
    struct shape shape;
    struct both pages, fresh, q, out, mass, hits, last;
    const void **list[2];
    size_t visible;
};

static void fill_area(char *area, uint32_t dtype, uint32_t rows, uint32_t d) {
    size_t values = (size_t)2 * rows * d;
    for (size_t i = 0; i < values; i++)
        kernel_store(dtype, area, i, random_value());
}

static struct both floats_new(size_t count, float value, bool random) {
    struct both m = both_new(count * sizeof(float));
    for (size_t i = 0; i < count; i++)
        ((float *)m.host)[i] = random ? random_value() : value;
    upload(&m);
    return m;
}

static struct fixture fixture_new(struct shape s) {
    struct fixture f = {.shape = s, .visible = (size_t)s.settled + s.before + s.rows};
    uint32_t pages = layout_pages_of_rows(s.settled), fresh_rows = (s.before + s.rows + 15) / 16 * 16;
    size_t page = layout_page_bytes(s.storage, s.d);
    f.pages = both_new((pages + 1) * page);
    f.fresh = both_new(layout_area_bytes((uint32_t)kernel_dtype_size(s.compute), fresh_rows, s.d));
    for (uint32_t i = 0; i <= pages; i++)
        fill_area(f.pages.host + i * page, s.storage, SCISSOR_PAGE_ROWS, s.d);
    fill_area(f.fresh.host, s.compute, fresh_rows, s.d);
    upload(&f.pages);
    upload(&f.fresh);
    for (unsigned side = 0; side < 2; side++) {
        f.list[side] = malloc((pages + 1) * sizeof(void *));
        assert_non_null(f.list[side]);
        for (uint32_t i = 0; i < pages; i++)
            f.list[side][i] = (side ? f.pages.device : f.pages.host) + i * page;
    }
    f.q = floats_new((size_t)s.rows * s.heads * s.d, 0, true);
    f.out = floats_new((size_t)s.rows * s.heads * s.d, 7, false);
    f.mass = floats_new(f.visible, 0.25f, false);
    f.hits = floats_new(f.visible, 2, false);
    f.last = floats_new(f.visible, 7, false);
    return f;
}

static void fixture_free(struct fixture *f) {
    struct both *all[] = {&f->pages, &f->fresh, &f->q, &f->out, &f->mass, &f->hits, &f->last};
    for (size_t i = 0; i < COUNT(all); i++)
        both_free(all[i]);
    free(f->list[0]);
    free(f->list[1]);
}

static struct kernel_attend item_of(const struct fixture *f, unsigned side, bool planes) {
    const struct shape *s = &f->shape;
#define SIDE(m) ((void *)(side ? (m).device : (m).host))
    return (struct kernel_attend){.pages = f->list[side],
                                  .settled_rows = s->settled,
                                  .fresh = SIDE(f->fresh),
                                  .fresh_rows = (s->before + s->rows + 15) / 16 * 16,
                                  .fresh_before = s->before,
                                  .rows = s->rows,
                                  .q_heads = s->heads,
                                  .head_dim = s->d,
                                  .compute_dtype = s->compute,
                                  .storage_dtype = s->storage,
                                  .threshold = s->threshold,
                                  .seen = 3 * f->visible,
                                  .scale = 3.0f / sqrtf((float)s->d),
                                  .q = SIDE(f->q),
                                  .out = SIDE(f->out),
                                  .q_row_stride = (size_t)s->heads * s->d,
                                  .mass = planes ? SIDE(f->mass) : NULL,
                                  .hits = planes ? SIDE(f->hits) : NULL,
                                  .last = planes ? SIDE(f->last) : NULL};
#undef SIDE
}

static void near(const struct both *m, const char *what) {
    float *a = download(m), *b = (float *)m->host;
    double difference = 0, size = 0;
    for (size_t i = 0; i < m->bytes / sizeof(float); i++) {
        difference += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
        size += (double)b[i] * (double)b[i];
    }
    free(a);
    double error = sqrt(difference / (size > 0 ? size : 1));
    if (!(error <= BOUND))
        fail_msg("normalised error of %s: %g", what, error);
}

static void attend_case(const struct shape *shapes, size_t count, bool planes) {
    struct fixture *f = malloc(count * sizeof *f);
    struct kernel_attend *items = malloc(count * sizeof *items);
    size_t most = 0;
    void *workspace;
    assert_true(f && items);
    for (size_t i = 0; i < count; i++) {
        f[i] = fixture_new(shapes[i]);
        items[i] = item_of(&f[i], 0, planes);
        size_t bytes = kernel_attend_workspace(items[i].q_heads, items[i].head_dim, f[i].visible);
        most = bytes > most ? bytes : most;
    }
    assert_int_equal(posix_memalign(&workspace, 64, most), 0);
    done(host->attend(host, items, count, workspace));
    free(workspace);
    for (size_t i = 0; i < count; i++)
        items[i] = item_of(&f[i], 1, planes);
    size_t bytes = streams->attend_workspace(device, items, count);
    assert_true(bytes > 0);
    done(streams->memory_new(device, KERNEL_MEMORY_DEVICE, bytes, &workspace));
    done(streams->attend(device, items, count, workspace, stream));
    memset(items, 0xff, count * sizeof *items);
    done(streams->wait(device, stream));
    streams->memory_free(device, KERNEL_MEMORY_DEVICE, workspace);
    for (size_t i = 0; i < count; i++) {
        near(&f[i].out, "outputs");
        near(&f[i].mass, "mass");
        near(&f[i].last, "last");
        float *hits = download(&f[i].hits);
        size_t other = 0;
        for (size_t j = 0; j < f[i].visible; j++)
            other += hits[j] != ((float *)f[i].hits.host)[j];
        assert_true(other <= 1 + f[i].visible / 200); /* a probability at the threshold may fall on either side */
        free(hits);
        fixture_free(&f[i]);
    }
    free(f);
    free(items);
}

static void test_attend(void **state) {
    static const struct shape decode[] = {
        {64, 3, 300, 20, 1, KERNEL_F16, KERNEL_F16, 0},    {64, 3, 0, 0, 1, KERNEL_F32, KERNEL_F16, 1},
        {128, 4, 1100, 5, 1, KERNEL_BF16, KERNEL_BF16, 1}, {80, 9, 17, 63, 1, KERNEL_F16, KERNEL_F32, 0},
        {256, 1, 64, 1, 1, KERNEL_F16, KERNEL_F16, 0},
    };
    static const struct shape prefill[] = {
        {64, 3, 200, 10, 70, KERNEL_F16, KERNEL_F16, 0},
        {64, 3, 70, 10, 200, KERNEL_F32, KERNEL_F16, 1}, /* two chunks */
        {64, 3, 70, 0, 3, KERNEL_F32, KERNEL_F16, 1},
    };
    (void)state;
    /* All rows of 16 bits: by tensor cores, in groups of one tile and of four. */
    static const struct shape wide[] = {
        {64, 8, 300, 20, 1, KERNEL_F16, KERNEL_F16, 0},
        {128, 5, 70, 5, 1, KERNEL_F16, KERNEL_F16, 1},
    };
    static const struct shape wide_prefill[] = {
        {64, 3, 200, 10, 200, KERNEL_F16, KERNEL_F16, 0},
        {128, 4, 70, 0, 30, KERNEL_F16, KERNEL_F16, 1},
    };
    /* The largest fresh buffer at once. */
    static const struct shape whole = {64, 1, 64, 0, 1024, KERNEL_F16, KERNEL_F16, 0};
    attend_case(&whole, 1, true);
    attend_case(wide, COUNT(wide), true);
    attend_case(wide_prefill, COUNT(wide_prefill), true);
    attend_case(decode, COUNT(decode), true);
    attend_case(decode, 1, false);
    attend_case(prefill, COUNT(prefill), true);
}

/* More items than one launch's arguments: page lists of 1,100 rows are 144 bytes. */
static void test_many_items(void **state) {
    enum { MANY = 1500 };
    struct kernel_attend *items = malloc(MANY * sizeof *items);
    struct shape s = {16, 1, 4096, 0, 1, KERNEL_F16, KERNEL_F16, 0};
    struct fixture f = fixture_new(s);
    struct both out = floats_new((size_t)MANY * s.d, 0, false);
    void *workspace;
    (void)state;
    assert_non_null(items);
    for (size_t i = 0; i < MANY; i++) {
        items[i] = item_of(&f, 1, false);
        items[i].settled_rows = i % 400 ? 64 : 4096;
        items[i].out = (float *)out.device + i * s.d;
    }
    done(streams->memory_new(device, KERNEL_MEMORY_DEVICE, streams->attend_workspace(device, items, MANY), &workspace));
    done(streams->attend(device, items, MANY, workspace, stream));
    done(streams->wait(device, stream));
    float *got = download(&out);
    for (size_t i = 1; i < MANY; i++)
        assert_memory_equal(got + i * s.d, got + (i % 400 ? 1 : 0) * s.d, s.d * sizeof(float));
    assert_memory_not_equal(got, got + s.d, s.d * sizeof(float));
    streams->memory_free(device, KERNEL_MEMORY_DEVICE, workspace);
    free(got);
    free(items);
    both_free(&out);
    fixture_free(&f);
}

/* ---------- refused ---------- */

static void test_refused(void **state) {
    struct rows r = rows_new(1, 64, KERNEL_F16, KERNEL_F16);
    char *fresh = r.memory.device;
    const struct kernel_move out_of_it = {FRESH, 0};
    struct kernel_settle settle = {.fresh = fresh,
                                   .pages = r.pages[1],
                                   .moves = &out_of_it,
                                   .move_count = 1,
                                   .fresh_rows = FRESH,
                                   .head_dim = 64,
                                   .compute_dtype = KERNEL_F16,
                                   .storage_dtype = KERNEL_F16};
    struct shape s = {64, 3, 64, 0, 1, KERNEL_F16, KERNEL_F16, 0};
    struct fixture f = fixture_new(s);
    struct kernel_attend good = item_of(&f, 1, true), bad[6] = {good, good, good, good, good, good};
    (void)state;
    assert_int_equal(device->settle(device, &settle, 1), -EINVAL);
    settle.move_count = 0;
    settle.storage_dtype = KERNEL_INT4;
    assert_int_equal(device->settle(device, &settle, 1), -EOPNOTSUPP);
    assert_non_null(strstr(kernel_backend_why(), "quantised"));
    settle.storage_dtype = KERNEL_F16;
    settle.head_dim = 72;
    assert_int_equal(device->settle(device, &settle, 1), -EINVAL);
    bad[0].q_heads = 513;
    bad[1].rows = 1000;
    bad[2].pages = NULL;
    bad[3].threshold = 2;
    bad[4].compute_dtype = KERNEL_INT8;
    bad[5].head_dim = 0;
    for (size_t i = 0; i < COUNT(bad); i++) {
        struct kernel_attend pair[2] = {good, bad[i]};
        assert_int_equal(streams->attend(device, pair, 2, NULL, stream), -EINVAL);
    }
    struct kernel_page_move pages[2] = {{fresh, fresh + 64, 64}, {fresh + 128, fresh + 160, 48}};
    assert_int_equal(device->move_pages(device, pages, 2), -EINVAL); /* over itself */
    pages[1] = (struct kernel_page_move){fresh + 128, fresh + 256, 40};
    assert_int_equal(device->move_pages(device, pages, 2), -EINVAL);
    assert_non_null(strstr(kernel_backend_why(), "whole 16 bytes"));
    assert_int_equal(streams->fill_zero(device, fresh + 2, 4, stream), -EINVAL);
    done(streams->attend(device, NULL, 0, NULL, stream));
    done(streams->fill_zero(device, fresh, 0, stream));
    done(streams->wait(device, stream));
    same(&r.memory);
    same(&f.out);
    rows_free(&r);
    fixture_free(&f);
}

/* ---------- the program ---------- */

static int on_device(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_settle),     cmocka_unit_test(test_shrink),  cmocka_unit_test(test_norms),
        cmocka_unit_test(test_move_pages), cmocka_unit_test(test_append),  cmocka_unit_test(test_attend),
        cmocka_unit_test(test_many_items), cmocka_unit_test(test_refused),
    };
    char why[256];
    host = kernel_host_backend("reference");
    device = kernel_backend_open("cuda", why, sizeof why);
    if (!host || !device) {
        fprintf(stderr, "%s\n", why);
        return 1;
    }
    streams = device->streams;
    stream = streams->own(device);
    int failed = cmocka_run_group_tests_name("cuda: work", tests, NULL, NULL);
    kernel_backend_close(device);
    return failed;
}

int main(int argc, char **argv) {
    (void)argc;
    harness_init(240);
    return cuda_again_main(argv, on_device);
}
