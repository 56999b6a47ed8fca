/* test_details.c - who gets a detail slot, who loses one, and what has to be written for it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#include "attach.h"
#include "details.h"
#include "scissor_error.h"
#include "score.h"

enum { F = 16, SLOTS = 128 };

static struct history_clock clock_;
static struct history h;
static struct policy policy;
static struct details_scratch scratch;
static uint64_t policy_scratch[2 * SLOTS];
static uint32_t details[F], victims[SLOTS];

/* `settled` rows at positions 0, 1, ...; the oldest rank lowest. */
static int start(void **state) {
    struct proto_group group = {.policy = "window", .guaranteed_rows = F + SLOTS};
    char why[128];
    (void)state;
    assert_int_equal(history_clock_init(&clock_, 0, F), 0);
    assert_int_equal(history_init(&h, 0, HISTORY_DETAILS, F, &clock_), 0);
    assert_int_equal(history_resize(&h, SLOTS), 0);
    assert_int_equal(policy_init(&policy, "window", &group, F, why, sizeof why), 0);
    return details_scratch_init(&scratch, SLOTS);
}

static int stop(void **state) {
    (void)state;
    details_scratch_deinit(&scratch);
    history_deinit(&h);
    history_clock_deinit(&clock_);
    return 0;
}

static void rows(uint32_t count) {
    for (uint32_t i = 0; i < count; i++)
        history_settle(&h, 0, i, i);
}

static void plan(uint32_t pages, uint32_t victim_count, uint32_t moves) {
    details_plan(&policy, &h, h.settled + moves, pages, victims, victim_count, moves, &scratch, policy_scratch,
                 details);
}

static bool owner_is(uint32_t i, uint32_t detail, uint32_t slot) {
    return scratch.owners[i].from == detail && scratch.owners[i].to == slot;
}

/* A row that has just settled has none until it is given one. */
static void test_free_ones(void **state) {
    (void)state;
    rows(3);
    for (uint32_t i = 0; i < 3; i++)
        assert_int_equal(h.detail[i], KERNEL_NONE);
    h.detail[1] = 1;
    plan(1, 0, 3);
    assert_int_equal(details[0], 0);
    assert_int_equal(details[1], 2);
    assert_int_equal(details[2], 3);
    assert_int_equal(h.detail[1], 1);
}

/* First those of victims, then those of the rows that rank lowest. */
static void test_taken_ones(void **state) {
    (void)state;
    rows(20);
    for (uint32_t i = 0; i < 16; i++)
        h.detail[i + 4] = i;
    victims[0] = 7; /* has 3 */
    plan(1, 1, 3);
    assert_int_equal(details[0], 0); /* of slot 4 */
    assert_int_equal(details[1], 1); /* of slot 5 */
    assert_int_equal(details[2], 3);
}

/* More rows than detail slots: the newest have them. */
static void test_few(void **state) {
    (void)state;
    rows(4);
    plan(0, 0, 2);
    assert_int_equal(details[0], KERNEL_NONE);
    assert_int_equal(details[1], KERNEL_NONE);
    plan(1, 0, F);
    for (uint32_t i = 0; i < F; i++)
        assert_int_equal(details[i], i);
}

/* What a settle writes itself is not written again; what stands in new pages is not known, so it is. */
static void test_written(void **state) {
    (void)state;
    rows(2);
    h.detail[0] = 5;
    h.detail[1] = 6;
    details_begin(&h, 1, 2, &scratch);
    details_take(&h, &scratch, 5);
    assert_int_equal(h.detail[0], KERNEL_NONE);
    history_settle(&h, 0, 2, 2);
    h.detail[2] = 5;
    details_wrote(&scratch, 5, 2);
    history_settle(&h, 1, 1, 3); /* in the place of a row that had 6 */
    history_settle(&h, 2, 3, 4);
    h.detail[3] = 17;
    details_wrote(&scratch, 17, 3);
    details_end(&h, 2, &scratch);
    assert_int_equal(scratch.move_count, 0);
    assert_int_equal(scratch.owner_count, 1 + 15);
    assert_true(owner_is(0, 6, KERNEL_NONE));
    assert_true(owner_is(1, 16, KERNEL_NONE));
    assert_true(owner_is(2, 18, KERNEL_NONE));
}

/* Details of pages that go find a place in those that stay, but for those of the rows that rank lowest. */
static void test_shrink(void **state) {
    (void)state;
    rows(18);
    for (uint32_t i = 0; i < 18; i++)
        h.detail[i] = 17 - i;
    details_begin(&h, 2, 2, &scratch);
    details_shrink(&policy, &h, 18, 2, 1, &scratch, policy_scratch);
    for (uint32_t i = 0; i < 18; i++)
        assert_true(i < 2 ? h.detail[i] == KERNEL_NONE : h.detail[i] == 17 - i);
    assert_int_equal(scratch.move_count, 0);
    assert_int_equal(scratch.owner_count, 2);
    assert_true(owner_is(0, 16, KERNEL_NONE) && owner_is(1, 17, KERNEL_NONE));

    h.detail[17] = 20;
    details_begin(&h, 2, 2, &scratch);
    details_shrink(&policy, &h, 18, 2, 1, &scratch, policy_scratch);
    assert_int_equal(h.detail[17], 0);
    assert_int_equal(scratch.move_count, 1);
    assert_int_equal(scratch.moves[0].from, 20);
    assert_int_equal(scratch.moves[0].to, 0);
    assert_int_equal(scratch.owner_count, 1); /* the owner comes with the copy */
    assert_true(owner_is(0, 20, KERNEL_NONE));
}

/* The newest rows have no more of the detail slots than they would have of a budget of as many rows: those that have
 * shown to matter keep theirs, although no row is in danger of being evicted. */
static void test_share_of_the_newest(void **state) {
    struct proto_group group = {.policy = "pivotal", .guaranteed_rows = F + SLOTS};
    char why[128];
    (void)state;
    history_deinit(&h);
    assert_int_equal(history_init(&h, PROTO_PLANE_MASS, HISTORY_NORMS | HISTORY_DETAILS, F, &clock_), 0);
    assert_int_equal(history_resize(&h, SLOTS), 0);
    assert_int_equal(policy_init(&policy, "pivotal", &group, F, why, sizeof why), 0);
    history_clock_fold(&clock_, F, F);
    rows(32);
    for (uint32_t i = 0; i < 32; i++) {
        h.mass[i] = i < 20 ? 2 : 1;
        h.norm[i] = 1;
        h.detail[i] = i;
    }
    plan(2, 0, 8); /* 14 newest, of all 40 rows, are protected */
    for (uint32_t i = 0; i < 8; i++)
        assert_int_equal(details[i], i < 2 ? 4 + i : 18 + i);

    details_begin(&h, 2, 2, &scratch);
    details_shrink(&policy, &h, 32, 2, 1, &scratch, policy_scratch); /* 9 newest are */
    for (uint32_t i = 0; i < 32; i++)
        assert_int_equal(h.detail[i] != KERNEL_NONE, i < 4 || (i >= 17 && i < 20) || i >= 23);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_free_ones, start, stop),
        cmocka_unit_test_setup_teardown(test_taken_ones, start, stop),
        cmocka_unit_test_setup_teardown(test_few, start, stop),
        cmocka_unit_test_setup_teardown(test_written, start, stop),
        cmocka_unit_test_setup_teardown(test_shrink, start, stop),
        cmocka_unit_test_setup_teardown(test_share_of_the_newest, start, stop),
    };
    return cmocka_run_group_tests_name("details", tests, NULL, NULL);
}
