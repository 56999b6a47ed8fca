/* test_cuda_move.c - settle, shrink, append, v_norms, page moves and scrub on emulated devices, or on a real one: the
 * bytes of the host backend, and no more of them moved than the heads of the kernels' files say. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#include "cuda/launch.h"
#include "emulation/emulator.h"

#define COUNT(array) (sizeof(array) / sizeof *(array))
#define HEADS 3
#define PAGES 3

static uint64_t random_state = 3;

static uint32_t random_bits(void) {
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(random_state >> 32);
}

/* Any bits: every sixteenth half is an infinity or a NaN. */
static void fill(void *memory, size_t bytes) {
    for (size_t i = 0; i < bytes; i += 2) {
        uint32_t bits = random_bits();
        uint16_t half = (uint16_t)(bits >> 16);
        if (bits % 16 == 0)
            half |= bits & 32 ? 0x7f80 : 0x7c00;
        memcpy((char *)memory + i, &half, sizeof half);
    }
}

static void *filled_new(size_t bytes) {
    void *memory = emulator_memory_new(bytes);
    fill(memory, bytes);
    return memory;
}

static void *copy_of(const void *memory, size_t bytes) {
    void *copy = malloc(bytes);
    assert_non_null(copy);
    return memcpy(copy, memory, bytes);
}

static struct emulator_counts launch(const char *kernel, struct cuda_grid grid, const void *parameter) {
    struct emulator_counts counts;
    if (emulator_launch(emulator_find(kernel), (struct emulator_dim){grid.x, grid.y, 1},
                        (struct emulator_dim){CUDA_THREADS, 1, 1}, grid.shared_bytes, parameter, &counts))
        fail_msg("%s", emulator_message());
    return counts;
}

/* Within 5 % of what the head of the kernel's file says; of the heads, every block loads what it needs, at most all. */
static void check_bytes(struct emulator_counts c, double said, double heads) {
    if (!emulator_counts_bytes())
        return;
    double got = (double)(c.loads.bytes + c.stores.bytes);
    if (got < 0.95 * said || got > 1.05 * (said + heads))
        fail_msg("%.0f bytes moved, %.0f said, and %.0f for the heads", got, said, heads);
}

static double blocks_loads(struct cuda_grid grid, double bytes) {
    return (double)grid.x * grid.y * (CUDA_THREADS / 32) * bytes;
}

/* ---------- one head's memory, on the device and a copy for the host ---------- */

struct side {
    void *fresh;
    void *pages[PAGES];
};
struct head {
    struct side device, host;
    void **page_list; /* device memory */
    struct kernel_move *moves;
    size_t fresh_bytes, page_bytes;
};

static struct head head_new(uint32_t compute, uint32_t storage, uint32_t fresh_rows, uint32_t d, uint32_t moves) {
    struct head h = {.fresh_bytes = layout_area_bytes((uint32_t)kernel_dtype_size(compute), fresh_rows, d),
                     .page_bytes = layout_page_bytes(storage, d)};
    h.device.fresh = filled_new(h.fresh_bytes);
    h.host.fresh = copy_of(h.device.fresh, h.fresh_bytes);
    h.page_list = emulator_memory_new(sizeof h.device.pages);
    for (uint32_t i = 0; i < PAGES; i++) {
        h.page_list[i] = h.device.pages[i] = filled_new(h.page_bytes);
        h.host.pages[i] = copy_of(h.device.pages[i], h.page_bytes);
    }
    h.moves = emulator_memory_new((moves + 1) * sizeof *h.moves);
    return h;
}

static void head_check_free(struct head *h) {
    assert_memory_equal(h->device.fresh, h->host.fresh, h->fresh_bytes);
    emulator_memory_free(h->device.fresh);
    free(h->host.fresh);
    for (uint32_t i = 0; i < PAGES; i++) {
        assert_memory_equal(h->device.pages[i], h->host.pages[i], h->page_bytes);
        emulator_memory_free(h->device.pages[i]);
        free(h->host.pages[i]);
    }
    emulator_memory_free(h->page_list);
    emulator_memory_free(h->moves);
}

/* Different slots in any order. */
static void shuffle_slots(uint32_t *slots, uint32_t count) {
    for (uint32_t i = 0; i < count; i++)
        slots[i] = i;
    for (uint32_t i = count; i > 1; i--) {
        uint32_t j = random_bits() % i, swap = slots[j];
        slots[j] = slots[i - 1];
        slots[i - 1] = swap;
    }
}

static const uint32_t head_dims[] = {16, 64, 80, 96, 112, 128, 256};
static const uint32_t counts_of_rows[] = {0, 1, 15, 16, 17, 64, 65, 128};
static struct kernel_backend *reference;

/* ---------- settle ---------- */

/* Ragged heads: the second has one move less than half, the third none. */
static void settle_case(uint8_t compute, uint8_t storage, uint32_t d, uint32_t rows) {
    struct kernel_settle *heads = emulator_memory_new(HEADS * sizeof *heads), hosts[HEADS];
    struct head h[HEADS];
    double said = 0;
    for (uint32_t i = 0; i < HEADS; i++) {
        uint32_t moves = i == 0 ? rows : i == 1 ? rows / 2 : 0, slots[PAGES * SCISSOR_PAGE_ROWS];
        h[i] = head_new(compute, storage, 128, d, moves);
        shuffle_slots(slots, COUNT(slots));
        for (uint32_t m = 0; m < moves; m++)
            h[i].moves[m] = (struct kernel_move){i ? random_bits() % 128 : m, slots[m]};
        heads[i] = (struct kernel_settle){h[i].device.fresh, h[i].page_list, h[i].moves, NULL, moves, 128, d,
                                          compute,           storage};
        hosts[i] = heads[i];
        hosts[i].fresh = h[i].host.fresh;
        hosts[i].pages = h[i].host.pages;
        said += moves * (2.0 * d * (double)(kernel_dtype_size(compute) + kernel_dtype_size(storage)) + 16);
    }
    assert_int_equal(reference->settle(reference, hosts, HEADS), 0);
    struct cuda_settle_launch parameter = {heads};
    struct cuda_grid grid = cuda_settle_grid(HEADS, rows);
    if (grid.x) {
        struct emulator_counts c = launch("scissor_settle", grid, &parameter);
        check_bytes(c, said, blocks_loads(grid, 48));
    }
    for (uint32_t i = 0; i < HEADS; i++)
        head_check_free(&h[i]);
    emulator_memory_free(heads);
}

static void test_settle(void **state) {
    uint32_t turn = 0;
    (void)state;
    for (size_t d = 0; d < COUNT(head_dims); d++)
        for (size_t n = 0; n < COUNT(counts_of_rows); n++, turn++)
            settle_case(turn % 3, turn / 3 % 3, head_dims[d], counts_of_rows[n]);
    for (uint8_t pair = 0; pair < 9; pair++)
        settle_case(pair % 3, pair / 3, 64, 33);
}

/* ---------- shrink ---------- */

/* Tail rows into holes, or moves of which later ones read what earlier ones wrote. */
static void shrink_case(uint8_t storage, uint32_t d, uint32_t moves, bool chained) {
    struct kernel_shrink *heads = emulator_memory_new(sizeof *heads), host;
    struct head h = head_new(storage, storage, 16, d, moves);
    uint32_t slots[PAGES * SCISSOR_PAGE_ROWS];
    shuffle_slots(slots, COUNT(slots));
    for (uint32_t m = 0; m < moves; m++)
        h.moves[m] = chained ? (struct kernel_move){random_bits() % 40, random_bits() % 40}
                             : (struct kernel_move){slots[m], slots[COUNT(slots) - 1 - m]};
    heads[0] = (struct kernel_shrink){
        .pages = h.page_list, .moves = h.moves, .move_count = moves, .head_dim = d, .storage_dtype = storage};
    host = heads[0];
    host.pages = h.host.pages;
    assert_int_equal(reference->shrink(reference, &host, 1), 0);
    struct cuda_shrink_launch parameter = {heads};
    struct cuda_grid grid = cuda_shrink_grid(1, d);
    struct emulator_counts c = launch("scissor_shrink", grid, &parameter);
    if (!chained)
        check_bytes(c, moves * (4.0 * d * (double)kernel_dtype_size(storage) + 8 * grid.x),
                    blocks_loads(grid, 56) + moves * 16 * grid.x);
    head_check_free(&h);
    emulator_memory_free(heads);
}

static void test_shrink(void **state) {
    uint32_t turn = 0;
    (void)state;
    for (size_t d = 0; d < COUNT(head_dims); d++)
        for (size_t n = 0; n < COUNT(counts_of_rows); n++, turn++) {
            if (counts_of_rows[n] <= PAGES * SCISSOR_PAGE_ROWS / 2)
                shrink_case(turn % 3, head_dims[d], counts_of_rows[n], false);
            shrink_case(turn % 3, head_dims[d], counts_of_rows[n], true);
        }
}

/* ---------- append ---------- */

static void append_case(uint8_t input, uint8_t compute, uint32_t d, uint32_t first, uint32_t rows, uint32_t gap) {
    size_t stride = d + gap, bytes = (size_t)(rows + 1) * stride * kernel_dtype_size(input);
    struct kernel_append *heads = emulator_memory_new(sizeof *heads);
    struct head h = head_new(compute, compute, 144, d, 0);
    void *k = filled_new(bytes), *v = filled_new(bytes);
    heads[0] = (struct kernel_append){h.device.fresh, k, v, stride, 144, first, rows, d, compute, input};
    assert_int_equal(reference->append(reference, h.host.fresh, 144, first, rows, d, compute, k, v, stride, input), 0);
    struct cuda_append_launch parameter = {heads};
    struct cuda_grid grid = cuda_append_grid(1, rows, d);
    if (grid.x) {
        struct emulator_counts c = launch("scissor_append", grid, &parameter);
        check_bytes(c, rows * 2.0 * d * (double)(kernel_dtype_size(input) + kernel_dtype_size(compute)),
                    blocks_loads(grid, 56));
    }
    head_check_free(&h);
    emulator_memory_free(heads);
    emulator_memory_free(k);
    emulator_memory_free(v);
}

static void test_append(void **state) {
    uint32_t turn = 0;
    (void)state;
    for (size_t d = 0; d < COUNT(head_dims); d++)
        for (size_t n = 0; n < COUNT(counts_of_rows); n++, turn++)
            append_case(turn % 3, turn / 3 % 3, head_dims[d], turn * 5 % 17, counts_of_rows[n], turn % 4 ? 16 : 3);
}

/* ---------- norms ---------- */

static void norms_case(uint8_t compute, uint32_t d, uint32_t first, uint32_t rows) {
    struct kernel_norms *heads = emulator_memory_new(sizeof *heads), host;
    struct head h = head_new(compute, compute, 144, d, 0);
    float *norms = emulator_memory_new((rows + 1) * sizeof *norms), *expected = calloc(rows + 1, sizeof *expected);
    heads[0] = (struct kernel_norms){h.device.fresh, first, rows, 144, d, compute, norms};
    host = heads[0];
    host.norms = expected;
    assert_int_equal(reference->v_norms(reference, &host, 1), 0);
    struct cuda_norms_launch parameter = {heads};
    struct cuda_grid grid = cuda_norms_grid(1, rows);
    if (grid.x) {
        struct emulator_counts c = launch("scissor_v_norms", grid, &parameter);
        check_bytes(c, rows * ((double)d * (double)kernel_dtype_size(compute) + 4), blocks_loads(grid, 40));
    }
    for (uint32_t i = 0; i < rows; i++)
        if (isnan(expected[i]))
            assert_true(isnan(norms[i]));
        else
            assert_memory_equal(&norms[i], &expected[i], sizeof *norms);
    head_check_free(&h);
    emulator_memory_free(heads);
    emulator_memory_free(norms);
    free(expected);
}

static void test_norms(void **state) {
    uint32_t turn = 0;
    (void)state;
    for (size_t d = 0; d < COUNT(head_dims); d++)
        for (size_t n = 0; n < COUNT(counts_of_rows); n++, turn++)
            norms_case(turn % 3, head_dims[d], turn * 5 % 17, counts_of_rows[n]);
}

/* ---------- pages ---------- */

/* Of all sizes in one launch: nothing, less than a block, a block, and a little more. */
static void test_move_pages(void **state) {
    static const size_t sizes[] = {4096, 0, 16, 48, 2064, 16384, 16400, 20480, 32768, 100016};
    struct kernel_page_move *moves = emulator_memory_new(COUNT(sizes) * sizeof *moves);
    struct cuda_pages_launch parameter = {moves};
    char *before[COUNT(sizes)];
    double said = 0;
    (void)state;
    for (size_t i = 0; i < COUNT(sizes); i++) {
        moves[i] = (struct kernel_page_move){filled_new(sizes[i] + 32), filled_new(sizes[i] + 32), sizes[i]};
        before[i] = copy_of(moves[i].to, sizes[i] + 32);
        memcpy(before[i], moves[i].from, sizes[i]);
        said += 2 * (double)sizes[i];
    }
    struct cuda_grid grid = cuda_pages_grid(COUNT(sizes), 100016);
    struct emulator_counts c = launch("scissor_move_pages", grid, &parameter);
    check_bytes(c, said, blocks_loads(grid, 24));
    if (emulator_counts_bytes()) {
        assert_int_equal(c.stores.coalesced, c.stores.instructions);
        assert_int_equal(c.stores.wide, c.stores.instructions);
        assert_true(c.loads.wide >= c.stores.wide); /* and the moves */
    }
    for (size_t i = 0; i < COUNT(sizes); i++) {
        assert_memory_equal(moves[i].to, before[i], sizes[i] + 32);
        emulator_memory_free(moves[i].to);
        emulator_memory_free((void *)moves[i].from);
        free(before[i]);
    }
    emulator_memory_free(moves);
}

/* What would be done in no order is found. */
static void test_move_pages_race(void **state) {
    struct kernel_page_move *moves = emulator_memory_new(2 * sizeof *moves);
    struct cuda_pages_launch parameter = {moves};
    struct cuda_grid grid = cuda_pages_grid(2, 4096);
    char *memory = filled_new(4 * 4096);
    (void)state;
    if (!emulator_counts_bytes())
        skip();
    moves[0] = (struct kernel_page_move){memory, memory + 4096, 4096};
    moves[1] = (struct kernel_page_move){memory + 2 * 4096, memory, 4096}; /* reads what the other one writes */
    for (int i = 0; i < 2; i++) {
        if (emulator_launch(emulator_find("scissor_move_pages"), (struct emulator_dim){grid.x, grid.y, 1},
                            (struct emulator_dim){CUDA_THREADS, 1, 1}, 0, &parameter, NULL) == 0)
            fail_msg("%s", "found nothing");
        moves[1] = (struct kernel_page_move){memory + 16, memory + 2 * 4096, 4096}; /* writes there, too */
    }
    emulator_memory_free(memory);
    emulator_memory_free(moves);
}

/* ---------- scrub ---------- */

static void test_scrub(void **state) {
    static const size_t sizes[] = {0, 16, 4096, 32768, 32784, 200000};
    struct cuda_scrub_range *ranges = emulator_memory_new(COUNT(sizes) * sizeof *ranges);
    struct cuda_scrub_launch parameter = {ranges};
    double said = 0;
    (void)state;
    for (size_t i = 0; i < COUNT(sizes); i++) {
        ranges[i] = (struct cuda_scrub_range){filled_new(sizes[i] + 32), sizes[i]};
        memset((char *)ranges[i].at + sizes[i], 0x5a, 32);
        said += (double)sizes[i];
    }
    struct cuda_grid grid = cuda_scrub_grid(COUNT(sizes), 200000);
    struct emulator_counts c = launch("scissor_scrub", grid, &parameter);
    check_bytes(c, said, blocks_loads(grid, 16));
    assert_int_equal(c.stores.coalesced, c.stores.instructions);
    assert_int_equal(c.stores.wide, c.stores.instructions);
    for (size_t i = 0; i < COUNT(sizes); i++) {
        for (size_t b = 0; b < sizes[i] + 32; b++)
            assert_int_equal(((unsigned char *)ranges[i].at)[b], b < sizes[i] ? 0 : 0x5a);
        emulator_memory_free(ranges[i].at);
    }
    emulator_memory_free(ranges);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_settle), cmocka_unit_test(test_shrink),     cmocka_unit_test(test_append),
        cmocka_unit_test(test_norms),  cmocka_unit_test(test_move_pages), cmocka_unit_test(test_move_pages_race),
        cmocka_unit_test(test_scrub),
    };
    reference = kernel_host_backend("reference");
    return cmocka_run_group_tests_name("cuda: move", tests, NULL, NULL);
}
