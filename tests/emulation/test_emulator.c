/* test_emulator.c - the emulator itself: each of its rules is broken by a kernel of wrong.cu, and found; kernels that
 * come close to breaking one run; and what it counts is right. */
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "emulation/emulator.h"

struct wrong_launch {
    uint32_t *at;
};

#define KERNELS(X)                         \
    X(wrong_race_shared, RACE_SHARED)      \
    X(right_race_shared, NONE)             \
    X(wrong_race_late, RACE_SHARED)        \
    X(wrong_race_warp, RACE_SHARED)        \
    X(right_race_warp, NONE)               \
    X(wrong_race_shuffle, RACE_SHARED)     \
    X(wrong_race_global, RACE_GLOBAL)      \
    X(right_race_global, NONE)             \
    X(wrong_race_blocks, RACE_BLOCKS)      \
    X(wrong_race_blocks_late, RACE_BLOCKS) \
    X(right_race_blocks, NONE)             \
    X(wrong_bounds_global, BOUNDS_GLOBAL)  \
    X(wrong_bounds_below, BOUNDS_GLOBAL)   \
    X(wrong_bounds_shared, BOUNDS_SHARED)  \
    X(wrong_bounds_local, BOUNDS_LOCAL)    \
    X(wrong_read_only, READ_ONLY)          \
    X(wrong_alignment, ALIGNMENT)          \
    X(wrong_unwritten, UNWRITTEN)          \
    X(wrong_barrier_ended, BARRIER)        \
    X(wrong_barrier_elsewhere, BARRIER)    \
    X(wrong_warp_ended, WARP)              \
    X(wrong_warp_elsewhere, WARP)          \
    X(wrong_lane_mask, LANE)               \
    X(wrong_lane_asked, LANE)              \
    X(right_warp, NONE)                    \
    X(right_wide, NONE)                    \
    X(right_word, NONE)                    \
    X(right_apart, NONE)

#define X(kernel, rule)                              \
    void kernel(struct wrong_launch);                \
    static void run_##kernel(const void *given) {    \
        kernel(*(const struct wrong_launch *)given); \
    }
KERNELS(X)
#undef X

static const struct {
    struct emulator_kernel kernel;
    enum emulator_rule rule;
} kernels[] = {
#define X(kernel, rule) {{#kernel, run_##kernel, sizeof(struct wrong_launch)}, EMULATOR_##rule},
    KERNELS(X)
#undef X
};
#define COUNT (sizeof kernels / sizeof *kernels)

static uint32_t *memory;

static enum emulator_rule run(const char *name, uint32_t blocks, struct emulator_counts *ret) {
    struct wrong_launch launch = {memory};
    for (size_t i = 0; i < COUNT; i++)
        if (!strcmp(kernels[i].kernel.name, name)) {
            emulator_memory_writable(memory, kernels[i].rule != EMULATOR_READ_ONLY);
            return emulator_launch(&kernels[i].kernel, (struct emulator_dim){blocks, 1, 1},
                                   (struct emulator_dim){64, 1, 1}, 256, &launch, ret);
        }
    fail_msg("no kernel %s", name);
    return EMULATOR_NONE;
}

static void test_rules(void **state) {
    unsigned found = 0;
    (void)state;
    for (size_t i = 0; i < COUNT; i++) {
        bool between_blocks = strstr(kernels[i].kernel.name, "blocks") != NULL;
        enum emulator_rule got = run(kernels[i].kernel.name, between_blocks ? 2 : 1, NULL);
        if (got != kernels[i].rule)
            fail_msg("%s: \"%s\" instead of \"%s\": %s", kernels[i].kernel.name, emulator_rule_text(got),
                     emulator_rule_text(kernels[i].rule), emulator_message());
        found |= 1u << got;
        if (got) {
            assert_non_null(strstr(emulator_message(), kernels[i].kernel.name));
            assert_non_null(strstr(emulator_message(), emulator_rule_text(got)));
        } else
            assert_string_equal(emulator_message(), "");
    }
    /* Each rule has its kernel; one is about launches. */
    assert_int_equal(found, ((1u << EMULATOR_RULE_COUNT) - 1) & ~(1u << EMULATOR_LAUNCH));
}

/* A launch that was broken off leaves nothing behind that the next one could trip over. */
static void test_goes_on(void **state) {
    (void)state;
    for (int i = 0; i < 3; i++) {
        assert_int_equal(run("wrong_barrier_ended", 1, NULL), EMULATOR_BARRIER);
        assert_int_equal(run("right_race_shared", 1, NULL), EMULATOR_NONE);
        for (uint32_t t = 0; t < 64; t++)
            assert_int_equal(memory[t], (t + 1) % 64);
    }
}

static void test_launch(void **state) {
    const struct emulator_kernel *kernel = &kernels[1].kernel;
    struct emulator_dim one = {1, 1, 1}, none = {1, 0, 1}, many = {1, 65536, 1}, wide = {1025, 1, 1};
    struct wrong_launch launch = {memory};
    (void)state;
    assert_int_equal(emulator_launch(NULL, one, one, 0, &launch, NULL), EMULATOR_LAUNCH);
    assert_int_equal(emulator_launch(kernel, none, one, 0, &launch, NULL), EMULATOR_LAUNCH);
    assert_int_equal(emulator_launch(kernel, many, one, 0, &launch, NULL), EMULATOR_LAUNCH);
    assert_int_equal(emulator_launch(kernel, one, wide, 0, &launch, NULL), EMULATOR_LAUNCH);
    assert_int_equal(emulator_launch(kernel, one, none, 0, &launch, NULL), EMULATOR_LAUNCH);
    assert_int_equal(emulator_launch(kernel, one, one, 228 << 10, &launch, NULL), EMULATOR_LAUNCH);
    assert_null(emulator_find("right_warp"));
    assert_string_equal(emulator_find("scissor_settle")->name, "scissor_settle");
}

static void test_warp(void **state) {
    (void)state;
    assert_int_equal(run("right_warp", 1, NULL), EMULATOR_NONE);
    for (uint32_t t = 0; t < 64; t++) {
        uint32_t lane = t % 32, down = lane == 31 ? t : t + 1, up = lane < 2 ? t : t - 2;
        assert_int_equal(memory[t], (((t ^ 3) * 100 + down) * 100 + up) * 100 + t / 32 * 32 + 9);
        if (t % 32 < 16)
            assert_int_equal(memory[64 + t], t < 32 ? 0x9249 : 0x2492); /* 0, 3, 6 ...; 33, 36 ... */
        assert_int_equal(memory[128 + t], 1000 + 100 + 22);
    }
}

static void test_counts(void **state) {
    struct emulator_counts c;
    (void)state;
    assert_int_equal(run("right_wide", 1, &c), EMULATOR_NONE);
    assert_int_equal(c.stores.bytes, 1024);
    assert_int_equal(c.stores.sectors, 32);
    assert_int_equal(c.stores.instructions, 2);
    assert_int_equal(c.stores.coalesced, 2);
    assert_int_equal(c.stores.wide, 2);
    assert_int_equal(c.loads.instructions, 0);
    assert_int_equal(run("right_word", 1, &c), EMULATOR_NONE);
    assert_int_equal(c.loads.bytes, 8);
    assert_int_equal(c.loads.sectors, 2);
    assert_int_equal(c.loads.coalesced, 2);
    assert_int_equal(c.loads.wide, 0);
    assert_int_equal(c.shared_accesses, 64);
    assert_int_equal(run("right_apart", 1, &c), EMULATOR_NONE);
    assert_int_equal(c.loads.bytes, 256);
    assert_int_equal(c.loads.sectors, 64);
    assert_int_equal(c.loads.instructions, 2);
    assert_int_equal(c.loads.coalesced, 0);
    assert_int_equal(run("right_race_shared", 1, &c), EMULATOR_NONE);
    assert_int_equal(c.barriers, 1);
}

struct touched {
    unsigned count;
    void *memory;
    bool loaded, stored;
};

static void note_touched(void *data, void *at, bool loaded, bool stored) {
    struct touched *t = data;
    *t = (struct touched){t->count + 1, at, loaded, stored};
}

static struct touched touched_by(const char *name) {
    struct touched t = {0};
    run(name, 1, NULL);
    emulator_memory_touched(note_touched, &t);
    return t;
}

static void test_touched(void **state) {
    struct touched t;
    (void)state;
    void *other = emulator_memory_new(256);
    t = touched_by("right_wide");
    assert_true(t.count == 1 && t.memory == memory && !t.loaded && t.stored);
    assert_null(emulator_fault());
    t = touched_by("right_word");
    assert_true(t.count == 1 && t.memory == memory && t.loaded && !t.stored);
    t = touched_by("right_race_blocks");
    assert_true(t.count == 1 && t.loaded && t.stored);
    t = touched_by("wrong_bounds_global");
    assert_true(t.count == 1 && t.stored);
    assert_ptr_equal(emulator_fault(), memory + 256);
    t = touched_by("wrong_barrier_elsewhere");
    assert_int_equal(t.count, 0);
    assert_null(emulator_fault());
    emulator_memory_free(other);
}

static int set_up(void **state) {
    (void)state;
    memory = emulator_memory_new(1024);
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    emulator_memory_free(memory);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rules), cmocka_unit_test(test_goes_on), cmocka_unit_test(test_launch),
        cmocka_unit_test(test_warp),  cmocka_unit_test(test_counts),  cmocka_unit_test(test_touched),
    };
    return cmocka_run_group_tests_name("emulator", tests, set_up, tear_down);
}
