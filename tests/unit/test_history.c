/* test_history.c - sums, chances and the window, with numbers worked out by hand; lost frames; memory that fails. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "alloc.h"
#include "history.h"
#include "scissor_error.h"
#include "score.h"

#define ALL_PLANES (PROTO_PLANE_MASS | PROTO_PLANE_HITS | PROTO_PLANE_LAST)
#define F 4

static struct history_clock clock_;
static struct history h;

static void begin(uint32_t planes, uint32_t blocks) {
    assert_int_equal(history_clock_init(&clock_, blocks, F), 0);
    assert_int_equal(history_init(&h, planes, false, F, &clock_), 0);
    assert_int_equal(history_resize(&h, 8), 0);
}

static void end(void) {
    history_check(&h);
    history_deinit(&h);
    history_clock_deinit(&clock_);
    assert_int_equal(alloc_live(), 0);
}

/* A frame in which each settled and fresh row got `hits` of this array. */
static void fold(uint32_t rows, uint32_t fresh, const float *hits) {
    history_clock_fold(&clock_, rows, fresh);
    history_fold(&h, PROTO_PLANE_HITS, hits, fresh);
}

static void next(void) {
    history_clock_next(&clock_);
    history_next_block(&h);
    history_check(&h);
}

static void settle_all(uint32_t position) {
    for (uint32_t j = 0; j < F; j++)
        history_settle(&h, j, h.settled, position + j);
}

static void test_bytes(void **state) {
    (void)state;
    assert_int_equal(history_slot_bytes(0, 0, false), 8);
    assert_int_equal(history_slot_bytes(0, 7, false), 8);
    assert_int_equal(history_slot_bytes(PROTO_PLANE_HITS, 0, false), 12);
    assert_int_equal(history_slot_bytes(PROTO_PLANE_HITS, 7, false), 8 + 28);
    assert_int_equal(history_slot_bytes(ALL_PLANES, 7, false), 8 + 28 + 8);
    assert_int_equal(history_slot_bytes(0, 7, true), 12);
    assert_int_equal(history_slot_bytes(ALL_PLANES, 7, true), 8 + 28 + 8 + 4);
    assert_int_equal(history_fresh_bytes(0), 0);
    assert_int_equal(history_fresh_bytes(ALL_PLANES), 12);
    assert_int_equal(history_clock_bytes(7, 64), 7 * 8 + 128);
}

static void assert_fresh_seen(uint16_t a, uint16_t b, uint16_t c, uint16_t d) {
    assert_int_equal(clock_.fresh_seen[0], a);
    assert_int_equal(clock_.fresh_seen[1], b);
    assert_int_equal(clock_.fresh_seen[2], c);
    assert_int_equal(clock_.fresh_seen[3], d);
}

static void test_clock(void **state) {
    (void)state;
    begin(PROTO_PLANE_HITS, 2);
    history_clock_fold(&clock_, 1, 1); /* query row 0 */
    assert_fresh_seen(1, 0, 0, 0);
    history_clock_fold(&clock_, 3, 4); /* query rows 1, 2, 3 */
    assert_fresh_seen(4, 3, 2, 1);
    assert_int_equal(clock_.rows, 4);
    assert_int_equal(clock_.period_rows, 4);
    history_clock_next(&clock_);
    assert_fresh_seen(0, 0, 0, 0);
    assert_int_equal(clock_.period_rows, 0);
    assert_int_equal(clock_.block, 1);
    assert_int_equal(clock_.block_start[1], 4);
    history_clock_fold(&clock_, 2, 3); /* rows 1 and 2; the frame of row 0 was lost, that of row 3 never comes */
    assert_fresh_seen(2, 2, 1, 0);
    history_clock_next(&clock_);
    assert_int_equal(clock_.block, 0);
    assert_int_equal(clock_.block_start[0], 6);
    history_clock_fold(&clock_, 4, 4);
    assert_fresh_seen(4, 3, 2, 1);
    history_next_block(&h);
    end();
}

/* Window of two settles: a period counts while it is gathered and in the one after, then no more. */
static void test_window(void **state) {
    (void)state;
    begin(PROTO_PLANE_HITS, 2);
    fold(4, 4, (const float[]){4, 2, 1, 1});
    settle_all(100);
    assert_int_equal(h.settled, 4);
    assert_int_equal(h.position[2], 102);
    for (uint32_t i = 0; i < 4; i++) { /* the period just settled counts: slot i was seen by rows i..3 */
        assert_int_equal(history_seen(&h, i), 4 - i);
        assert_int_equal(history_seen_window(&h, i), 4 - i);
    }
    assert_true(history_hits_window(&h, 0) == 4 && history_hits_window(&h, 3) == 1);
    next();
    assert_true(history_hits_window(&h, 0) == 4 && history_seen_window(&h, 0) == 4);

    fold(2, 2, (const float[]){1, 2, 0, 1, 2, 1});
    assert_true(history_hits_window(&h, 0) == 5 && history_hits_window(&h, 1) == 4);
    assert_int_equal(history_seen_window(&h, 0), 6);
    assert_int_equal(history_seen_window(&h, 3), 3);
    history_settle(&h, 0, 1, 104); /* overwrites slot 1 */
    history_settle(&h, 1, 4, 105); /* appends */
    assert_int_equal(h.settled, 5);
    assert_true(history_hits_window(&h, 1) == 2 && history_seen(&h, 1) == 2);
    assert_true(history_hits_window(&h, 4) == 1 && history_seen(&h, 4) == 1);
    next();

    /* Now the first period has left the window: of slot 0 remain 1 hit and 2 chances. */
    assert_true(history_hits_window(&h, 0) == 1);
    assert_int_equal(history_seen_window(&h, 0), 2);
    assert_int_equal(history_seen(&h, 0), 6);
    assert_true(history_hits_window(&h, 1) == 2 && history_seen_window(&h, 1) == 2);
    assert_true(history_hits_window(&h, 4) == 1 && history_seen_window(&h, 4) == 1);
    next(); /* a period whose scores were all lost, and one more */
    next();
    for (uint32_t i = 0; i < h.settled; i++)
        assert_true(history_hits_window(&h, i) == 0 && history_seen_window(&h, i) == 0);
    assert_int_equal(history_seen(&h, 0), 6);
    end();
}

/* A window of one settle holds just the period being gathered. */
static void test_window_of_one(void **state) {
    (void)state;
    begin(PROTO_PLANE_HITS, 1);
    fold(4, 4, (const float[]){3, 3, 2, 1});
    settle_all(0);
    assert_true(history_hits_window(&h, 0) == 3 && history_seen_window(&h, 0) == 4);
    next();
    assert_true(history_hits_window(&h, 0) == 0 && history_seen_window(&h, 0) == 0);
    fold(1, 1, (const float[]){1, 0, 0, 0, 1});
    assert_true(history_hits_window(&h, 0) == 1 && history_seen_window(&h, 0) == 1);
    end();
}

/* Without a window, and with all planes: sums over life, `last` replaced. */
static void test_life(void **state) {
    (void)state;
    const float first[] = {0.5f, 0.25f, 0.125f, 0.125f};
    const float second[] = {0.25f, 0, 1, 0.5f, 0.75f};
    begin(ALL_PLANES, 0);
    for (uint32_t plane = 1; plane <= PROTO_PLANE_LAST; plane <<= 1)
        history_fold(&h, plane, first, 4);
    history_clock_fold(&clock_, 4, 4);
    settle_all(0);
    next();
    for (uint32_t plane = 1; plane <= PROTO_PLANE_LAST; plane <<= 1)
        history_fold(&h, plane, second, 1);
    history_clock_fold(&clock_, 1, 1);
    next();
    assert_true(h.mass[0] == 0.75f && h.mass[1] == 0.25f && h.mass[2] == 1.125f && h.mass[3] == 0.625f);
    assert_true(history_hits_window(&h, 2) == 1.125f);
    assert_true(h.last[0] == 0.25f && h.last[1] == 0 && h.last[2] == 1 && h.last[3] == 0.5f);
    assert_int_equal(history_seen_window(&h, 0), 5);
    assert_int_equal(history_seen_window(&h, 3), 2);
    assert_true(h.fresh_mass[0] == 0 && h.fresh_hits[0] == 0 && h.fresh_last[0] == 0);
    end();
}

static void test_bounded(void **state) {
    (void)state;
    begin(PROTO_PLANE_MASS | PROTO_PLANE_LAST, 0);
    history_clock_fold(&clock_, 4, 4);
    history_fold(&h, PROTO_PLANE_MASS, (const float[]){__builtin_inff(), -1, __builtin_nanf(""), 3e38f}, 4);
    history_fold(&h, PROTO_PLANE_LAST, (const float[]){__builtin_inff(), -1, __builtin_nanf(""), 0.5f}, 4);
    assert_true(h.fresh_mass[0] == F && h.fresh_mass[1] == 0 && h.fresh_mass[2] == 0 && h.fresh_mass[3] == F);
    assert_true(h.fresh_last[0] == F && h.fresh_last[1] == 0 && h.fresh_last[2] == 0 && h.fresh_last[3] == 0.5f);
    end();
}

static void test_move_truncate(void **state) {
    (void)state;
    begin(ALL_PLANES, 3);
    fold(4, 4, (const float[]){1, 2, 1, 1});
    settle_all(10);
    next();
    fold(4, 4, (const float[]){0, 0, 0, 3, 0, 0, 0, 0});
    history_move(&h, 3, 0);
    history_truncate(&h, 3);
    assert_int_equal(h.settled, 3);
    assert_int_equal(h.position[0], 13);
    assert_true(history_hits_window(&h, 0) == 4);
    assert_int_equal(history_seen(&h, 0), 5);
    assert_int_equal(history_seen(&h, 1), 7);
    end();
}

static void test_resize(void **state) {
    (void)state;
    begin(ALL_PLANES, 3);
    fold(4, 4, (const float[]){1, 2, 1, 1});
    settle_all(10);
    next();
    fold(4, 4, (const float[]){0, 1, 0, 3, 0, 0, 0, 0});
    for (uint32_t capacity = 4; capacity <= 300; capacity += 148) {
        assert_int_equal(history_resize(&h, capacity), 0);
        assert_int_equal(h.capacity, capacity);
        assert_int_equal(h.position[3], 13);
        assert_true(history_hits_window(&h, 1) == 3 && history_hits_window(&h, 3) == 4);
        assert_true(history_seen(&h, 0) == 8 && history_seen(&h, 3) == 5);
        history_check(&h);
    }
    history_truncate(&h, 0);
    assert_int_equal(history_resize(&h, 0), 0);
    assert_null(h.birth);
    history_fold(&h, PROTO_PLANE_HITS, (const float[]){1}, 1);
    next();
    end();
}

/* Birth has 32 bits: it is the difference that counts when the clock has gone beyond them. */
static void test_many_rows(void **state) {
    (void)state;
    begin(ALL_PLANES, 3);
    assert_int_equal(history_resize(&h, 12), 0);
    clock_.rows = clock_.block_start[0] = UINT32_MAX - 2;
    fold(4, 4, (const float[]){1, 2, 1, 1});
    settle_all(10);
    next();
    fold(4, 4, (const float[]){0, 1, 0, 3, 0, 0, 0, 0});
    assert_true(clock_.rows > UINT32_MAX);
    assert_int_equal(history_seen(&h, 0), 8);
    assert_int_equal(history_seen(&h, 3), 5);
    assert_int_equal(history_seen_window(&h, 0), 8);
    settle_all(14);
    next();
    settle_all(18);
    next();
    assert_int_equal(history_seen(&h, 0), 8);
    assert_int_equal(history_seen_window(&h, 0), 4);
    assert_int_equal(history_seen_window(&h, 3), 4);
    end();
}

/* A policy without planes still has positions and births. */
static void test_no_planes(void **state) {
    (void)state;
    begin(0, 0);
    history_clock_fold(&clock_, 4, 4);
    settle_all(7);
    next();
    history_move(&h, 3, 1);
    history_truncate(&h, 3);
    assert_int_equal(history_resize(&h, 9), 0);
    assert_int_equal(h.position[1], 10);
    assert_int_equal(history_seen(&h, 1), 1);
    end();
}

/* A norm goes with its row; one that is not finite counts as 0. */
static void test_norms(void **state) {
    (void)state;
    assert_int_equal(history_clock_init(&clock_, 0, F), 0);
    assert_int_equal(history_init(&h, ALL_PLANES, true, F, &clock_), 0);
    assert_int_equal(history_resize(&h, 4), 0);
    settle_all(0);
    assert_true(h.norm[0] == 0 && h.norm[3] == 0);
    assert_true(history_set_norm(&h, 0, 1.5f) && history_set_norm(&h, 1, 0) && history_set_norm(&h, 3, 3e38f));
    assert_int_equal(history_resize(&h, 100), 0);
    assert_true(h.norm[0] == 1.5f && h.norm[1] == 0 && h.norm[3] == 3e38f);
    history_move(&h, 3, 1);
    assert_true(h.norm[1] == 3e38f);
    assert_false(history_set_norm(&h, 0, __builtin_inff()));
    assert_false(history_set_norm(&h, 1, __builtin_nanf("")));
    assert_false(history_set_norm(&h, 2, -1));
    assert_true(h.norm[0] == 0 && h.norm[1] == 0 && h.norm[2] == 0);
    history_settle(&h, 0, 3, 9); /* another row */
    assert_true(h.norm[3] == 0);
    end();
}

static void test_out_of_memory(void **state) {
    (void)state;
    for (size_t k = 0;; k++) {
        int done = 0;
        alloc_fail_after(k, SIZE_MAX);
        int r = history_clock_init(&clock_, 3, F);
        if (r == 0) {
            r = history_init(&h, ALL_PLANES, true, F, &clock_);
            if (r == 0) {
                r = history_resize(&h, 4);
                if (r == 0) {
                    settle_all(20);
                    r = history_resize(&h, 100);
                    assert_int_equal(h.capacity, r ? 4 : 100);
                    assert_int_equal(h.position[3], 23);
                    done = r == 0;
                } else {
                    assert_int_equal(h.capacity, 0);
                }
                history_check(&h);
                history_deinit(&h);
            }
            history_clock_deinit(&clock_);
        }
        alloc_fail_never();
        assert_int_equal(alloc_live(), 0);
        if (done) {
            assert_int_equal(k, 4);
            break;
        }
        assert_int_equal(r, SCISSOR_ENOMEM);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bytes),         cmocka_unit_test(test_clock),  cmocka_unit_test(test_window),
        cmocka_unit_test(test_window_of_one), cmocka_unit_test(test_life),   cmocka_unit_test(test_bounded),
        cmocka_unit_test(test_move_truncate), cmocka_unit_test(test_resize), cmocka_unit_test(test_many_rows),
        cmocka_unit_test(test_no_planes),     cmocka_unit_test(test_norms),  cmocka_unit_test(test_out_of_memory),
    };
    return cmocka_run_group_tests_name("history", tests, NULL, NULL);
}
