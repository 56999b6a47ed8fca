/* test_placement.c - plans of settles and shrinks: worked by hand, then executed on random ones. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "placement.h"

#define MOST 64

static struct kernel_move settle[MOST], tail[MOST];
static uint32_t tails;

static void assert_move(struct kernel_move move, uint32_t from, uint32_t to) {
    assert_int_equal(move.from, from);
    assert_int_equal(move.to, to);
}

static void test_append(void **state) {
    (void)state;
    assert_int_equal(placement_plan(5, 0, 2, NULL, 0, settle, NULL, &tails), 7);
    assert_int_equal(tails, 0);
    assert_move(settle[0], 0, 5);
    assert_move(settle[1], 1, 6);
    assert_int_equal(placement_plan(0, 0, 0, NULL, 0, NULL, NULL, &tails), 0);
    assert_int_equal(tails, 0);
}

static void test_replace(void **state) {
    (void)state;
    const uint32_t exact[] = {1, 4};
    assert_int_equal(placement_plan(5, 0, 2, exact, 2, settle, NULL, &tails), 5);
    assert_int_equal(tails, 0);
    assert_move(settle[0], 0, 1);
    assert_move(settle[1], 1, 4);
    /* Some into holes, the rest behind; the first fresh row has no room at all. */
    assert_int_equal(placement_plan(5, 1, 4, exact, 2, settle, NULL, &tails), 7);
    assert_int_equal(tails, 0);
    assert_move(settle[0], 1, 1);
    assert_move(settle[1], 2, 4);
    assert_move(settle[2], 3, 5);
    assert_move(settle[3], 4, 6);
}

static void test_drop_more(void **state) {
    (void)state;
    const uint32_t victims[] = {2, 5, 6, 9}; /* the picture in placement.h */
    assert_int_equal(placement_plan(10, 0, 2, victims, 4, settle, tail, &tails), 8);
    assert_move(settle[0], 0, 2);
    assert_move(settle[1], 1, 5);
    assert_int_equal(tails, 1);
    assert_move(tail[0], 8, 6);
}

static void test_shrink(void **state) {
    (void)state;
    const uint32_t ends[] = {0, 3, 4, 7};
    assert_int_equal(placement_plan(8, 0, 0, ends, 4, NULL, tail, &tails), 4);
    assert_int_equal(tails, 2);
    assert_move(tail[0], 6, 0);
    assert_move(tail[1], 5, 3); /* 4 is the last slot by then and falls off */
    const uint32_t last[] = {4, 5, 6, 7};
    assert_int_equal(placement_plan(8, 0, 0, last, 4, NULL, tail, &tails), 4);
    assert_int_equal(tails, 0);
    const uint32_t all[] = {0, 1, 2};
    assert_int_equal(placement_plan(3, 0, 0, all, 3, NULL, tail, &tails), 0);
    assert_int_equal(tails, 0);
    assert_int_equal(placement_plan(3, 0, 1, all, 3, settle, tail, &tails), 1);
    assert_int_equal(tails, 0);
    assert_move(settle[0], 0, 0);
}

/* Rows are numbers: 0.. the settled ones, 100.. the fresh ones. Executes a plan and looks at who is where. */
static void execute(uint32_t settled, uint32_t first, uint32_t fresh, const uint32_t *victims, uint32_t victim_count) {
    int slot[2 * MOST], victim[MOST] = {0}, count[200] = {0};
    uint32_t now = placement_plan(settled, first, fresh, victims, victim_count, settle, tail, &tails);
    assert_int_equal(now, settled + fresh - victim_count);
    assert_true(tails <= (victim_count > fresh ? victim_count - fresh : 0));
    for (uint32_t i = 0; i < 2 * MOST; i++)
        slot[i] = i < settled ? (int)i : -1;
    for (uint32_t i = 0; i < victim_count; i++)
        victim[victims[i]] = 1;
    for (uint32_t i = 0; i < fresh; i++) {
        assert_int_equal(settle[i].from, first + i);
        if (i)
            assert_true(settle[i].to > settle[i - 1].to);
        slot[settle[i].to] = 100 + (int)settle[i].from;
    }
    for (uint32_t i = 0; i < tails; i++) {
        assert_true(tail[i].from >= now && tail[i].to < now && slot[tail[i].from] < 100);
        slot[tail[i].to] = slot[tail[i].from];
    }
    for (uint32_t i = 0; i < now; i++) {
        assert_true(slot[i] >= 0);
        assert_int_equal(count[slot[i]]++, 0);
    }
    for (uint32_t i = 0; i < settled; i++) {
        assert_int_equal(count[i], !victim[i]);
        if (!victim[i] && i < now)
            assert_int_equal(slot[i], i); /* nobody moves without need */
    }
    for (uint32_t i = first; i < first + fresh; i++)
        assert_int_equal(count[100 + i], 1);
}

static void test_random(void **state) {
    (void)state;
    srandom(1);
    for (int round = 0; round < 20000; round++) {
        uint32_t victims[MOST], victim_count = 0;
        uint32_t settled = (uint32_t)random() % (MOST / 2);
        uint32_t percent = (uint32_t)random() % 101;
        for (uint32_t i = 0; i < settled; i++)
            if ((uint32_t)random() % 100 < percent)
                victims[victim_count++] = i;
        execute(settled, (uint32_t)random() % 3, (uint32_t)random() % 20, victims, victim_count);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_append), cmocka_unit_test(test_replace), cmocka_unit_test(test_drop_more),
        cmocka_unit_test(test_shrink), cmocka_unit_test(test_random),
    };
    return cmocka_run_group_tests_name("placement", tests, NULL, NULL);
}
