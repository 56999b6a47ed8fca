/* test_kernels_move.c - conversions, settle, shrink, append and copy: every path gives exactly the bytes that a naive
 * model gives, and touches no others. */
#include <errno.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#include "backend.h"
#include "quant.h"

static const char *const path_names[] = {"reference", "avx2", "avx512", "avx512vnni"};
#define PATHS (sizeof path_names / sizeof *path_names)
#define COUNT(array) (sizeof(array) / sizeof *(array))
#define PAGES 3

static uint64_t random_state = 7;

static uint32_t random_bits(void) {
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(random_state >> 32);
}

static float float_of(uint32_t bits) {
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static uint32_t bits_of(float f) {
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return bits;
}

/* ---------- scalar conversions ---------- */

static void test_names(void **state) {
    (void)state;
    assert_string_equal(kernel_dtype_name(KERNEL_F32), "f32");
    assert_string_equal(kernel_dtype_name(KERNEL_F16), "f16");
    assert_string_equal(kernel_dtype_name(KERNEL_BF16), "bf16");
    assert_string_equal(kernel_dtype_name(KERNEL_INT8), "int8");
    assert_string_equal(kernel_dtype_name(KERNEL_INT4), "int4");
    assert_string_equal(kernel_dtype_name(KERNEL_K5V4), "k5v4");
    assert_string_equal(kernel_dtype_name(KERNEL_FADE), "fade");
    assert_string_equal(kernel_dtype_name(KERNEL_DTYPE_COUNT), "?");
    assert_string_equal(kernel_dtype_name(UINT32_MAX), "?");
    assert_int_equal(kernel_dtype_size(KERNEL_F32), 4);
    assert_int_equal(kernel_dtype_size(KERNEL_BF16), 2);
    assert_int_equal(kernel_dtype_size(KERNEL_INT8), 0);
    assert_int_equal(kernel_dtype_size(KERNEL_DTYPE_COUNT), 0);
}

/* The value of a finite f16 by its definition. */
static double f16_value(uint16_t h) {
    int exponent = (h >> 10) & 31, mantissa = h & 1023;
    double magnitude = exponent ? ldexp(1024 + mantissa, exponent - 25) : ldexp(mantissa, -24);
    return h & 0x8000 ? -magnitude : magnitude;
}

static void test_f16_all(void **state) {
    (void)state;
    for (uint32_t h = 0; h < 0x10000; h++) {
        float f = kernel_f16_to_f32((uint16_t)h);
        if ((h & 0x7fff) > 0x7c00) {
            assert_true(isnan(f));
            assert_int_equal(kernel_f32_to_f16(f), h | 0x200); /* quiet, sign and payload kept */
            continue;
        }
        if ((h & 0x7fff) == 0x7c00)
            assert_true(isinf(f) && (f < 0) == (h >> 15));
        else
            assert_true((double)f == f16_value((uint16_t)h) && bits_of(f) >> 31 == h >> 15);
        assert_int_equal(kernel_f32_to_f16(f), h);
    }
}

/* Half way between two neighbours goes to the even one, anything else to the nearer one. */
static void test_f16_rounding(void **state) {
    (void)state;
    for (uint32_t h = 0; h < 0x7bff; h++) {
        float middle = (float)((f16_value((uint16_t)h) + f16_value((uint16_t)(h + 1))) / 2);
        assert_int_equal(kernel_f32_to_f16(middle), (h + 1) & ~1u);
        assert_int_equal(kernel_f32_to_f16(nextafterf(middle, 0)), h);
        assert_int_equal(kernel_f32_to_f16(nextafterf(middle, INFINITY)), h + 1);
        assert_int_equal(kernel_f32_to_f16(-middle), 0x8000 | ((h + 1) & ~1u));
    }
    assert_int_equal(kernel_f32_to_f16(65519.996f), 0x7bff);
    assert_int_equal(kernel_f32_to_f16(65520.0f), 0x7c00);
    assert_int_equal(kernel_f32_to_f16(-3e38f), 0xfc00);
    assert_int_equal(kernel_f32_to_f16(INFINITY), 0x7c00);
    assert_int_equal(kernel_f32_to_f16(1e-45f), 0);
    assert_int_equal(kernel_f32_to_f16(-1e-45f), 0x8000);
    assert_int_equal(kernel_f32_to_f16(float_of(0x7f800001)), 0x7e00); /* a NaN whose payload is lost stays one */
}

static void test_bf16(void **state) {
    (void)state;
    for (uint32_t h = 0; h < 0x10000; h++) {
        uint32_t bits = h << 16;
        assert_int_equal(bits_of(kernel_bf16_to_f32((uint16_t)h)), bits);
        if ((h & 0x7fff) > 0x7f80) {
            assert_int_equal(kernel_f32_to_bf16(float_of(bits)), h | 0x40);
            continue;
        }
        assert_int_equal(kernel_f32_to_bf16(float_of(bits)), h);
        if ((h & 0x7fff) < 0x7f80) { /* 0x7f7f is the largest finite one; past its middle comes infinity */
            assert_int_equal(kernel_f32_to_bf16(float_of(bits | 0x7fff)), h);
            assert_int_equal(kernel_f32_to_bf16(float_of(bits | 0x8000)), (h + 1) & ~1u);
            assert_int_equal(kernel_f32_to_bf16(float_of(bits | 0x8001)), h + 1);
        }
    }
    assert_int_equal(kernel_f32_to_bf16(float_of(0x7f800001)), 0x7fc0);
    assert_int_equal(kernel_f32_to_bf16(float_of(0xffffffff)), 0xffff);
}

/* ---------- moves ---------- */

/* Any bits: denormals, infinities and NaN of both kinds come up. */
static void fill(void *memory, size_t bytes) {
    for (size_t i = 0; i < bytes; i += 2) {
        uint32_t bits = random_bits();
        uint16_t half = (uint16_t)(bits >> 16);
        if (bits % 16 == 0)
            half |= bits & 32 ? 0x7f80 : 0x7c00;
        memcpy((char *)memory + i, &half, sizeof half);
    }
}

static void *copy_of(const void *memory, size_t bytes) {
    void *copy = malloc(bytes);
    assert_non_null(copy);
    return memcpy(copy, memory, bytes);
}

static void *filled_new(size_t bytes) {
    void *memory = NULL;
    assert_int_equal(posix_memalign(&memory, 64, bytes), 0);
    fill(memory, bytes);
    return memory;
}

/* One element the slow way. */
static void model_element(uint32_t to_dtype, void *to, size_t i, uint32_t from_dtype, const void *from, size_t j) {
    size_t size = kernel_dtype_size(to_dtype);
    if (to_dtype == from_dtype)
        memcpy((char *)to + i * size, (const char *)from + j * size, size);
    else
        kernel_store(to_dtype, to, i, kernel_load(from_dtype, from, j));
}

static void model_row(uint32_t to_dtype, void *to, uint32_t to_rows, uint32_t row, uint32_t from_dtype,
                      const void *from, uint32_t from_rows, uint32_t from_row, uint32_t head_dim) {
    uint32_t to_size = (uint32_t)kernel_dtype_size(to_dtype), from_size = (uint32_t)kernel_dtype_size(from_dtype);
    for (uint32_t c = 0; c < head_dim; c++) {
        model_element(to_dtype, to, layout_k_index(row, c, head_dim), from_dtype, from,
                      layout_k_index(from_row, c, head_dim));
        model_element(to_dtype, (char *)to + layout_v_offset(to_size, to_rows, head_dim),
                      layout_v_index(row, c, head_dim), from_dtype,
                      (const char *)from + layout_v_offset(from_size, from_rows, head_dim),
                      layout_v_index(from_row, c, head_dim));
    }
}

static void model_owner(uint32_t dtype, void *const *pages, uint32_t detail, uint32_t owner, uint32_t head_dim) {
    char *page = pages[detail / 16];
    memcpy(page + layout_page_bytes(dtype, head_dim) - 64 + detail % 16 * 4, &owner, sizeof owner);
}

/* The codes of detail slots: K, V. */
static void *model_details(uint32_t dtype, void *const *pages, uint32_t detail, uint32_t half, uint32_t head_dim) {
    uint32_t bytes = head_dim * 4;
    return (char *)pages[detail / 16] + layout_page_bytes(dtype, head_dim) - 64 - bytes * (2 - half);
}

/* What a settle makes of a row in a slot of quantised pages, and in a detail slot, or none. */
static void model_quantised(uint32_t dtype, void *const *pages, uint32_t to, uint32_t detail, uint32_t from_dtype,
                            const void *from, uint32_t from_rows, uint32_t from_row, uint32_t head_dim) {
    char *page = pages[to / SCISSOR_PAGE_ROWS];
    uint32_t row = to % SCISSOR_PAGE_ROWS;
    const char *v = (const char *)from + layout_v_offset((uint32_t)kernel_dtype_size(from_dtype), from_rows, head_dim);
    float x[2][256];
    struct quant_row quantised;
    for (uint32_t c = 0; c < head_dim; c++) {
        x[0][c] = kernel_load(from_dtype, from, layout_k_index(from_row, c, head_dim));
        x[1][c] = kernel_load(from_dtype, v, layout_v_index(from_row, c, head_dim));
    }
    for (uint32_t half = 0; half < 2; half++) {
        uint32_t type = half ? layout_v_type(dtype) : layout_k_type(dtype);
        if (layout_is_rotated(dtype))
            quant_rotate(x[half], head_dim);
        (layout_has_details(dtype) ? quant_encode_detailed : quant_encode)(type, x[half], head_dim, &quantised);
        if (detail != KERNEL_NONE)
            (half ? quant_put_v_detail : quant_put_k_detail)(model_details(dtype, pages, detail, half, head_dim),
                                                             detail % 16, head_dim, quantised.code);
        if (layout_has_details(dtype))
            quant_drop_details(&quantised, head_dim);
        (half ? quant_put_v : quant_put_k)(type, page + half * layout_page_v_offset(dtype, head_dim), row, head_dim,
                                           &quantised);
    }
    if (detail != KERNEL_NONE)
        model_owner(dtype, pages, detail, to + 1, head_dim);
}

/* A detail slot over another one. */
static void model_detail_move(uint32_t dtype, void *const *pages, uint32_t from, uint32_t to, uint32_t head_dim) {
    uint8_t codes[256];
    uint32_t owner;
    for (uint32_t half = 0; half < 2; half++) {
        (half ? quant_get_v_detail : quant_get_k_detail)(model_details(dtype, pages, from, half, head_dim), from % 16,
                                                         head_dim, codes);
        (half ? quant_put_v_detail : quant_put_k_detail)(model_details(dtype, pages, to, half, head_dim), to % 16,
                                                         head_dim, codes);
    }
    memcpy(&owner, (char *)pages[from / 16] + layout_page_bytes(dtype, head_dim) - 64 + from % 16 * 4, sizeof owner);
    model_owner(dtype, pages, to, owner, head_dim);
}

/* A row of a page to another slot, whatever it holds. */
static void model_move(uint32_t dtype, void *to, uint32_t to_row, const void *from, uint32_t from_row,
                       uint32_t head_dim) {
    struct quant_row row;
    size_t v = layout_page_v_offset(dtype, head_dim);
    if (dtype < KERNEL_ELEMENT_DTYPES) {
        model_row(dtype, to, SCISSOR_PAGE_ROWS, to_row, dtype, from, SCISSOR_PAGE_ROWS, from_row, head_dim);
        return;
    }
    quant_get_k(layout_k_type(dtype), from, from_row, head_dim, &row);
    quant_put_k(layout_k_type(dtype), to, to_row, head_dim, &row);
    quant_get_v(layout_v_type(dtype), (const char *)from + v, from_row, head_dim, &row);
    quant_put_v(layout_v_type(dtype), (char *)to + v, to_row, head_dim, &row);
}

struct pages {
    void *real[PAGES], *model[PAGES];
    size_t bytes;
};

static struct pages pages_new(uint32_t dtype, uint32_t head_dim) {
    struct pages p = {.bytes = layout_page_bytes(dtype, head_dim)};
    for (size_t i = 0; i < PAGES; i++) {
        p.real[i] = filled_new(p.bytes);
        p.model[i] = copy_of(p.real[i], p.bytes);
    }
    return p;
}

static void pages_compare_free(struct pages *p) {
    for (size_t i = 0; i < PAGES; i++) {
        assert_memory_equal(p->real[i], p->model[i], p->bytes);
        free(p->real[i]);
        free(p->model[i]);
    }
}

static const uint32_t head_dims[] = {16, 80, 256};

static void settle_case(struct kernel_backend *b, uint8_t compute, uint8_t storage, uint32_t d, uint32_t fresh_rows) {
    struct pages p = pages_new(storage, d);
    size_t bytes = layout_area_bytes((uint32_t)kernel_dtype_size(compute), fresh_rows, d);
    void *fresh = filled_new(bytes), *kept = copy_of(fresh, bytes);
    struct kernel_move moves[70];
    uint32_t details[COUNT(moves)]; /* few are given, and more than once */
    for (uint32_t i = 0; i < COUNT(moves); i++) {
        uint32_t to = random_bits() % (PAGES * SCISSOR_PAGE_ROWS), given = random_bits() % 64;
        moves[i] = (struct kernel_move){random_bits() % fresh_rows, to};
        details[i] = layout_has_details(storage) && given < PAGES * 16 ? given : KERNEL_NONE;
        if (storage < KERNEL_ELEMENT_DTYPES)
            model_row(storage, p.model[to / SCISSOR_PAGE_ROWS], SCISSOR_PAGE_ROWS, to % SCISSOR_PAGE_ROWS, compute,
                      fresh, fresh_rows, moves[i].from, d);
        else
            model_quantised(storage, p.model, to, details[i], compute, fresh, fresh_rows, moves[i].from, d);
    }
    struct kernel_settle heads[2]; /* the same work in two parts */
    for (uint32_t i = 0; i < 2; i++)
        heads[i] = (struct kernel_settle){.fresh = fresh,
                                          .pages = p.real,
                                          .moves = moves + 35 * i,
                                          .details = layout_has_details(storage) ? details + 35 * i : NULL,
                                          .move_count = 35,
                                          .fresh_rows = fresh_rows,
                                          .head_dim = d,
                                          .compute_dtype = compute,
                                          .storage_dtype = storage};
    assert_int_equal(b->settle(b, heads, 2), 0);
    assert_memory_equal(fresh, kept, bytes);
    pages_compare_free(&p);
    free(fresh);
    free(kept);
}

static void test_settle(void **state) {
    (void)state;
    for (size_t i = 0; i < PATHS; i++) {
        struct kernel_backend *b = kernel_host_backend(path_names[i]);
        for (size_t d = 0; b && d < COUNT(head_dims); d++)
            for (uint8_t compute = 0; compute < KERNEL_ELEMENT_DTYPES; compute++)
                for (uint8_t storage = 0; storage < KERNEL_DTYPE_COUNT; storage++)
                    for (uint32_t fresh_rows = 16; fresh_rows <= 80; fresh_rows += 64)
                        settle_case(b, compute, storage, head_dims[d], fresh_rows);
    }
}

static void test_shrink(void **state) {
    (void)state;
    for (size_t i = 0; i < PATHS; i++) {
        struct kernel_backend *b = kernel_host_backend(path_names[i]);
        for (uint8_t dtype = 0; b && dtype < KERNEL_DTYPE_COUNT; dtype++) {
            uint32_t d = head_dims[dtype % COUNT(head_dims)];
            struct pages p = pages_new(dtype, d);
            struct kernel_move moves[50];
            for (uint32_t m = 0; m < COUNT(moves); m++) { /* in order: a later one may read what an earlier one wrote */
                moves[m] = (struct kernel_move){random_bits() % (PAGES * SCISSOR_PAGE_ROWS),
                                                random_bits() % (PAGES * SCISSOR_PAGE_ROWS)};
                if (m == 0)
                    moves[m].to = moves[m].from;
                model_move(dtype, p.model[moves[m].to / SCISSOR_PAGE_ROWS], moves[m].to % SCISSOR_PAGE_ROWS,
                           p.model[moves[m].from / SCISSOR_PAGE_ROWS], moves[m].from % SCISSOR_PAGE_ROWS, d);
            }
            struct kernel_shrink head = {
                .pages = p.real, .moves = moves, .move_count = COUNT(moves), .head_dim = d, .storage_dtype = dtype};
            assert_int_equal(b->shrink(b, &head, 1), 0);
            pages_compare_free(&p);
        }
    }
}

/* Rows, then detail slots, then owners, each in order; a detail slot may be moved onto itself. */
static void test_shrink_details(void **state) {
    (void)state;
    for (size_t n = 0; n < COUNT(head_dims); n++) {
        struct kernel_backend *b = kernel_host_backend("reference");
        uint32_t d = head_dims[n], slots = PAGES * SCISSOR_PAGE_ROWS, details = PAGES * LAYOUT_PAGE_DETAILS;
        struct pages p = pages_new(KERNEL_FADE, d);
        struct kernel_move moves[20], detail_moves[30], owners[10];
        for (uint32_t m = 0; m < COUNT(moves); m++) {
            moves[m] = (struct kernel_move){random_bits() % slots, random_bits() % slots};
            model_move(KERNEL_FADE, p.model[moves[m].to / 64], moves[m].to % 64, p.model[moves[m].from / 64],
                       moves[m].from % 64, d);
        }
        for (uint32_t m = 0; m < COUNT(detail_moves); m++) {
            detail_moves[m] = (struct kernel_move){random_bits() % details, random_bits() % details};
            if (m == 0)
                detail_moves[m].to = detail_moves[m].from;
            model_detail_move(KERNEL_FADE, p.model, detail_moves[m].from, detail_moves[m].to, d);
        }
        for (uint32_t m = 0; m < COUNT(owners); m++) {
            owners[m] = (struct kernel_move){random_bits() % details, m % 3 ? random_bits() % slots : KERNEL_NONE};
            model_owner(KERNEL_FADE, p.model, owners[m].from, m % 3 ? owners[m].to + 1 : 0, d);
        }
        struct kernel_shrink head = {p.real,        moves, detail_moves, owners, COUNT(moves), COUNT(detail_moves),
                                     COUNT(owners), d,     KERNEL_FADE};
        assert_int_equal(b->shrink(b, &head, 1), 0);
        pages_compare_free(&p);
    }
}

static void append_case(struct kernel_backend *b, uint8_t input, uint8_t compute, uint32_t d) {
    enum { FRESH = 48, FIRST = 13, ROWS = 21, GAP = 7 };
    uint32_t size = (uint32_t)kernel_dtype_size(compute);
    size_t bytes = layout_area_bytes(size, FRESH, d), stride = d + GAP;
    size_t input_bytes = ROWS * stride * kernel_dtype_size(input);
    void *fresh = filled_new(bytes), *model = copy_of(fresh, bytes);
    void *k = filled_new(input_bytes), *v = filled_new(input_bytes);
    for (uint32_t r = 0; r < ROWS; r++)
        for (uint32_t c = 0; c < d; c++) {
            model_element(compute, model, layout_k_index(FIRST + r, c, d), input, k, r * stride + c);
            model_element(compute, (char *)model + layout_v_offset(size, FRESH, d), layout_v_index(FIRST + r, c, d),
                          input, v, r * stride + c);
        }
    assert_int_equal(b->append(b, fresh, FRESH, FIRST, ROWS, d, compute, k, v, stride, input), 0);
    assert_memory_equal(fresh, model, bytes);
    free(fresh);
    free(model);
    free(k);
    free(v);
}

static void test_append(void **state) {
    (void)state;
    for (size_t i = 0; i < PATHS; i++) {
        struct kernel_backend *b = kernel_host_backend(path_names[i]);
        for (size_t d = 0; b && d < COUNT(head_dims); d++)
            for (uint8_t input = 0; input < KERNEL_ELEMENT_DTYPES; input++)
                for (uint8_t compute = 0; compute < KERNEL_ELEMENT_DTYPES; compute++)
                    append_case(b, input, compute, head_dims[d]);
    }
}

/* Bits of the paths are the same; to the exact sum they are as close as sums of f32 can be. */
static void norms_case(struct kernel_backend *b, uint8_t compute, uint32_t d) {
    enum { FRESH = 32, FIRST = 5, ROWS = 20 };
    uint32_t size = (uint32_t)kernel_dtype_size(compute);
    char *fresh = calloc(1, layout_area_bytes(size, FRESH, d));
    float norms[2][ROWS + 1], reference[ROWS];
    double exact[ROWS] = {0};
    for (uint32_t r = 0; r < FRESH; r++)
        for (uint32_t c = 0; c < d; c++) {
            void *v = fresh + layout_v_offset(size, FRESH, d);
            kernel_store(compute, v, layout_v_index(r, c, d), (float)(random_bits() % 20001) / 1000 - 10);
            if (r >= FIRST && r < FIRST + ROWS)
                exact[r - FIRST] += fabs(kernel_load(compute, v, layout_v_index(r, c, d)));
        }
    norms[0][ROWS] = 77;
    struct kernel_norms heads[2] = {{fresh, FIRST, ROWS, FRESH, d, compute, norms[0]},
                                    {fresh, FIRST + 1, ROWS - 1, FRESH, d, compute, norms[1]}};
    assert_int_equal(b->v_norms(b, heads, 2), 0);
    for (uint32_t r = 0; r < ROWS; r++)
        assert_true(fabs(norms[0][r] - exact[r]) <= 1e-6 * exact[r]);
    assert_memory_equal(norms[0] + 1, norms[1], (ROWS - 1) * sizeof **norms);
    assert_true(norms[0][ROWS] == 77);
    heads[0].norms = reference;
    struct kernel_backend *plain = kernel_host_backend("reference");
    assert_int_equal(plain->v_norms(plain, heads, 1), 0);
    assert_memory_equal(reference, norms[0], sizeof reference);
    free(fresh);
}

static void test_norms(void **state) {
    (void)state;
    for (size_t i = 0; i < PATHS; i++) {
        struct kernel_backend *b = kernel_host_backend(path_names[i]);
        for (size_t d = 0; b && d < COUNT(head_dims); d++)
            for (uint8_t compute = 0; compute < KERNEL_ELEMENT_DTYPES; compute++)
                norms_case(b, compute, head_dims[d]);
    }
}

/* By hand: 1 + 2 + ... + 16 with signs; then one that is not finite, and one that is too large. */
static void test_norms_by_hand(void **state) {
    (void)state;
    float fresh[2 * 16 * 16] = {0}, *v = fresh + 16 * 16, norms[3];
    struct kernel_backend *b = kernel_host_backend(NULL);
    for (uint32_t c = 0; c < 16; c++) {
        v[3 * 16 + c] = c % 2 ? (float)(c + 1) : -(float)(c + 1);
        v[5 * 16 + c] = 3e38f;
    }
    v[4 * 16 + 9] = NAN;
    struct kernel_norms head = {fresh, 3, 3, 16, 16, KERNEL_F32, norms};
    assert_int_equal(b->v_norms(b, &head, 1), 0);
    assert_true(norms[0] == 136 && isnan(norms[1]) && isinf(norms[2]));
}

static void test_move_pages(void **state) {
    char memory[256], expected[256];
    struct kernel_backend *b = kernel_host_backend("reference");
    (void)state;
    for (size_t i = 0; i < sizeof memory; i++)
        memory[i] = expected[i] = (char)i;
    memcpy(expected + 100, expected, 100);
    memcpy(expected + 201, expected + 250, 3);
    struct kernel_page_move moves[] = {
        {memory + 100, memory, 100}, {memory + 201, memory + 250, 3}, {memory, memory + 9, 10}};
    assert_int_equal(b->move_pages(b, moves, 3), -EINVAL); /* the last one overlaps */
    assert_int_equal(b->move_pages(b, moves, 2), 0);
    assert_int_equal(b->move_pages(b, NULL, 0), 0);
    assert_memory_equal(memory, expected, sizeof memory);
}

static void test_refused(void **state) {
    struct kernel_backend *b = kernel_host_backend("reference");
    char untouched[4 * 16 * 16 * 4] = {0};
    void *pages[1] = {untouched};
    struct kernel_move good = {0, 0}, bad = {16, 0};
    (void)state;

    struct kernel_settle settle[2] = {{untouched, pages, &good, NULL, 1, 16, 16, KERNEL_F32, KERNEL_F32}};
    settle[1] = settle[0];
    settle[1].moves = &bad; /* no such fresh row */
    assert_int_equal(b->settle(b, settle, 2), -EINVAL);
    settle[1] = settle[0];
    settle[1].head_dim = 20;
    assert_int_equal(b->settle(b, settle, 2), -EINVAL);
    settle[1] = settle[0];
    settle[1].storage_dtype = KERNEL_DTYPE_COUNT;
    assert_int_equal(b->settle(b, settle, 2), -EINVAL);

    settle[1] = settle[0];
    settle[1].storage_dtype = KERNEL_FADE; /* without a word about details */
    assert_int_equal(b->settle(b, settle, 2), -EINVAL);
    settle[1] = settle[0];
    settle[1].details = &(uint32_t){KERNEL_NONE};
    assert_int_equal(b->settle(b, settle, 2), -EINVAL);

    struct kernel_shrink shrink = {.pages = pages, .moves = &good, .move_count = 1, .head_dim = 512};
    assert_int_equal(b->shrink(b, &shrink, 1), -EINVAL);
    shrink.head_dim = 16;
    shrink.storage_dtype = KERNEL_DTYPE_COUNT;
    assert_int_equal(b->shrink(b, &shrink, 1), -EINVAL);
    shrink.storage_dtype = KERNEL_K5V4;
    shrink.move_count = 0;
    shrink.owners = &good;
    shrink.owner_count = 1; /* of what has no details */
    assert_int_equal(b->shrink(b, &shrink, 1), -EINVAL);

    float norm = 77;
    struct kernel_norms norms[2] = {{untouched, 0, 1, 16, 16, KERNEL_F32, &norm}, {untouched, 16, 1, 16, 16, 0, &norm}};
    assert_int_equal(b->v_norms(b, norms, 2), -EINVAL);
    assert_true(norm == 77);
    norms[0].count = UINT32_MAX;
    assert_int_equal(b->v_norms(b, norms, 1), -EINVAL);
    norms[0].count = 1;
    norms[0].compute_dtype = KERNEL_INT8;
    assert_int_equal(b->v_norms(b, norms, 1), -EINVAL);

    assert_int_equal(b->append(b, untouched, 16, 16, 1, 16, 0, untouched, untouched, 16, 0), -EINVAL);
    assert_int_equal(b->append(b, untouched, 16, 1, UINT32_MAX, 16, 0, untouched, untouched, 16, 0), -EINVAL);
    assert_int_equal(b->append(b, untouched, 16, 0, 1, 16, 0, untouched, untouched, 15, 0), -EINVAL);
    assert_int_equal(b->append(b, untouched, 16, 0, 1, 16, 3, untouched, untouched, 16, 0), -EINVAL);
    assert_int_equal(b->append(b, untouched, 16, 0, 1, 16, 0, untouched, untouched, 16, 3), -EINVAL);
    assert_int_equal(b->append(b, untouched, 16, 16, 0, 16, 0, untouched, untouched, 16, 0), 0); /* nothing to do */
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names),  cmocka_unit_test(test_f16_all),       cmocka_unit_test(test_f16_rounding),
        cmocka_unit_test(test_bf16),   cmocka_unit_test(test_settle),        cmocka_unit_test(test_shrink),
        cmocka_unit_test(test_append), cmocka_unit_test(test_move_pages),    cmocka_unit_test(test_refused),
        cmocka_unit_test(test_norms),  cmocka_unit_test(test_norms_by_hand), cmocka_unit_test(test_shrink_details),
    };
    unsetenv("SCISSOR_HOST_PATH");
    return cmocka_run_group_tests_name("kernels: move", tests, NULL, NULL);
}
