/* test_policy_mass.c - pivotal, h2o and tova with numbers worked out by hand, and the lots of random. */
#include <float.h>

#include "test_policy_head.h"

/* Two periods, the second in two frames, then one row of a third:
 *     slot      0     1     2     3    4    5     6    7
 *     period 0  2     1     0.5   0.5                      rows 0..3
 *     period 1  1     0     0     1    1    0.5   0.5       rows 4..6
 *               0     0     0     0.5  0    0     0    0.5  row 7
 *     period 2  0.25  0.125 0     0    0.5  0     0    0    row 8
 *     mass      3.25  1.125 0.5   2    1.5  0.5   0.5  0.5
 *     seen      9     8     7     6    5    4     3    2 */
static void gather_mass(const float *norm) {
    static const float one[] = {2, 1, 0.5f, 0.5f}, two[] = {1, 0, 0, 1, 1, 0.5f, 0.5f},
                       three[] = {0, 0, 0, 0.5f, 0, 0, 0, 0.5f}, four[] = {0.25f, 0.125f, 0, 0, 0.5f, 0, 0, 0, 0.125f};
    static const struct {
        uint32_t rows, fresh;
        const float *values;
        bool settle;
    } frames[] = {{4, 4, one, true}, {3, 3, two, false}, {1, 4, three, true}, {1, 1, four, false}};
    for (size_t i = 0; i < sizeof frames / sizeof *frames; i++) {
        history_clock_fold(&clock_, frames[i].rows, frames[i].fresh);
        history_fold(&h, PROTO_PLANE_MASS, frames[i].values, frames[i].fresh);
        history_fold(&h, PROTO_PLANE_LAST, frames[i].values, frames[i].fresh);
        uint32_t position = h.settled;
        if (!frames[i].settle)
            continue;
        for (uint32_t j = 0; j < 4; j++) {
            history_settle(&h, j, h.settled, position + j);
            history_set_norm(&h, position + j, norm ? norm[position + j] : 1);
        }
        history_clock_next(&clock_);
        history_next_block(&h);
    }
}

static void test_pivotal(void **state) {
    (void)state;
    uint64_t sinks, recent;
    begin("pivotal", "sinks", 0);
    policy.param[3] = 1;
    assert_int_equal(policy.class->planes(&policy), PROTO_PLANE_MASS);
    assert_true(policy.class->norms && !policy.class->drop && !policy.class->window_blocks);
    gather_mass((const float[]){9, 16, 28, 3, 10, 1, 0, 8});
    assert_scores((const float[]){3.25f, 2.25f, 2, 1, 3, 0.125f, 0, 2});
    policy.class->protect(&policy, 16, 12, &sinks, &recent); /* 0.3 * (16 + 4) are the last 6 */
    assert_int_equal(sinks, 0);
    assert_int_equal(recent, 6);
    VICTIMS(12, 5);
    VICTIMS(12, 3, 5);
    VICTIMS(12, 2, 3, 5);
    policy.param[3] = 2; /* age: slot 2 of mass 0.5 and norm 28 has been seen by 7 rows, slot 0 by 9 */
    assert_scores(
        (const float[]){3.25f * 9 / 81, 1.125f * 16 / 64, 14 / 49.0f, 6 / 36.0f, 15 / 25.0f, 0.5f / 16, 0, 1});
    VICTIMS(12, 3, 5);
    policy.param[3] = 1;
    VICTIMS(12, 0, 1, 2, 3, 4, 5, 6);                       /* 6 is protected, and goes first of those */
    policy.class->protect(&policy, 2, 12, &sinks, &recent); /* less room: 0.3 * 6 is 1.8, so the last row */
    assert_int_equal(recent, 11);
    end();

    begin("pivotal", NULL, 0); /* what nobody has judged counts as p = 1; four sinks */
    period(NULL);
    period(NULL);
    history_set_norm(&h, 5, 7);
    history_set_norm(&h, 4, 3e38f);
    assert_scores((const float[]){0, 0, 0, 0, 3e38f, 7, 0, 0});
    policy.class->protect(&policy, 1000000, 300, &sinks, &recent);
    assert_int_equal(sinks, 4);
    assert_int_equal(recent, 300 - 256);
    VICTIMS(14, 6, 7);
    VICTIMS(14, 4, 5, 6, 7);
    VICTIMS(14, 0, 4, 5, 6, 7);
    end();
}

/* A client that lies about its scores: no infinity. */
static void test_pivotal_huge(void **state) {
    (void)state;
    begin("pivotal", "share", 0);
    history_clock_fold(&clock_, 1, 1);
    history_fold(&h, PROTO_PLANE_MASS, (const float[]){4}, 1);
    history_settle(&h, 0, 0, 0);
    history_set_norm(&h, 0, FLT_MAX);
    assert_scores((const float[]){FLT_MAX});
    end();
}

static void test_h2o(void **state) {
    (void)state;
    uint64_t sinks, recent;
    begin("h2o", NULL, 0);
    assert_int_equal(policy.class->planes(&policy), PROTO_PLANE_MASS);
    assert_false(policy.class->norms);
    gather_mass(NULL);
    assert_scores((const float[]){3.25f, 1.125f, 0.5f, 2, 1.5f, 0.5f, 0.5f, 0.5f});
    policy.class->protect(&policy, 16, 14, &sinks, &recent); /* half of 20 */
    assert_int_equal(sinks, 0);
    assert_int_equal(recent, 4);
    VICTIMS(14, 2);
    VICTIMS(14, 1, 2, 3);
    VICTIMS(14, 0, 1, 2, 3, 4);
    VICTIMS(20, 2, 5); /* none is recent; 2, 5, 6 and 7 tie */
    end();
}

static void test_tova(void **state) {
    (void)state;
    begin("tova", NULL, 0);
    assert_int_equal(policy.class->planes(&policy), PROTO_PLANE_LAST);
    gather_mass(NULL);
    assert_scores((const float[]){0.25f, 0.125f, 0, 0, 0.5f, 0, 0, 0});
    VICTIMS(9, 2, 3, 5);
    VICTIMS(9, 2, 3, 5, 6, 7);
    VICTIMS(9, 0, 1, 2, 3, 5, 6, 7);
    end();
    begin("tova", NULL, 0);
    period(NULL);
    assert_scores((const float[]){1, 1, 1, 1});
    end();
}

/* How often each of 100 rows is among the 10 that go, over 2,000 draws: 200 times, and 13.4 is one deviation. */
static void test_random(void **state) {
    (void)state;
    static uint32_t position[100];
    uint32_t gone[100] = {0}, slots[10], again[10], same = 0;
    uint64_t scratch[2 * 100];
    begin("random", "seed", 7);
    struct history all = {.position = position, .settled = 100, .clock = &clock_};
    assert_int_equal(policy.class->planes(&policy), 0);
    for (uint32_t i = 0; i < 100; i++)
        position[i] = 4 + i; /* behind the sinks */
    for (uint32_t draw = 0; draw < 2000; draw++) {
        policy_victims(&policy, &all, 100, 200 + draw, 10, scratch, slots);
        policy_victims(&policy, &all, 50, 200 + draw, 10, scratch, again);
        assert_memory_equal(slots, again, sizeof slots);
        for (uint32_t k = 0; k < 10; k++)
            gone[slots[k]]++;
        all.head = 1;
        policy_victims(&policy, &all, 100, 200 + draw, 10, scratch, again);
        same += memcmp(slots, again, sizeof slots) == 0;
        all.head = 0;
    }
    assert_int_equal(same, 0); /* heads draw each their own */
    for (uint32_t i = 0; i < 100; i++)
        assert_in_range(gone[i], 200 - 67, 200 + 67);

    /* The rows in another order: the same go. */
    policy_victims(&policy, &all, 100, 500, 10, scratch, slots);
    for (uint32_t i = 0; i < 100; i++)
        position[i] = 4 + 99 - i;
    policy_victims(&policy, &all, 100, 500, 10, scratch, again);
    for (uint32_t k = 0; k < 10; k++)
        assert_int_equal(again[k], 99 - slots[9 - k]);
    policy.param[0] = 8;
    policy_victims(&policy, &all, 100, 500, 10, scratch, slots);
    assert_memory_not_equal(slots, again, sizeof slots);

    for (uint32_t i = 0; i < 12; i++)
        position[i] = i;
    all.settled = 12;
    policy_victims(&policy, &all, 100, 500, 9, scratch, slots);
    for (uint32_t k = 0; k < 9; k++)
        assert_int_equal(slots[k], k ? k + 3 : 0); /* all that may go, then the first sink */
    end();
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pivotal), cmocka_unit_test(test_pivotal_huge), cmocka_unit_test(test_h2o),
        cmocka_unit_test(test_tova),    cmocka_unit_test(test_random),
    };
    return cmocka_run_group_tests_name("policy: mass, last and lots", tests, NULL, NULL);
}
