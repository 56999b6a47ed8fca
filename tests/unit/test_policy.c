/* test_policy.c - the table of policies, parameters and their texts, scores worked out by hand (scissorhands,
 * streaming, window), and victims against a plain sort. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "alloc.h"
#include "backend.h"
#include "scissor_error.h"
#include "test_policy_head.h"

/* ---------- table and parameters ---------- */

static void test_table(void **state) {
    (void)state;
    const struct policy_class *class;
    size_t count = 0;
    for (; (class = policy_class_at(count)); count++) {
        assert_ptr_equal(policy_lookup(class->name), class);
        assert_true(strlen(class->name) < sizeof((struct proto_group *)0)->policy);
        assert_true(class->text && class->source && class->planes && class->score && class->protect);
        size_t params = 0;
        for (const struct policy_param_info *info = class->params; info->name; info++, params++) {
            assert_in_range(strlen(info->name), 1, sizeof((struct proto_param *)0)->name - 1);
            assert_true(info->min <= info->value && info->value <= info->max);
            assert_true((info->real || info->value == floor(info->value)) && info->unit && info->text);
        }
        assert_true(params <= PROTO_MAX_PARAMS);
    }
    assert_int_equal(count, 7);
    assert_null(policy_class_at(1000));
    assert_null(policy_lookup("none"));
    assert_null(policy_lookup(""));
    assert_null(policy_lookup("window2"));
}

static void test_defaults(void **state) {
    (void)state;
    struct proto_group g = group_of("");
    assert_int_equal(policy_init(&policy, "scissorhands", &g, F, why, sizeof why), 0);
    assert_string_equal(policy.class->name, "scissorhands");
    assert_int_equal(policy.fresh_rows, F);
    assert_int_equal(policy.budget_rows, 20);
    assert_int_equal(policy.class->planes(&policy), PROTO_PLANE_HITS);
    assert_int_equal(policy.class->threshold(&policy), KERNEL_THRESHOLD_VISIBLE);
    assert_int_equal(policy.class->window_blocks(&policy), 100);
    assert_int_equal(policy.class->drop(&policy, 3, 20), 3);
    g = group_of("streaming");
    g.max_rows = 104;
    assert_int_equal(policy_init(&policy, "scissorhands", &g, F, why, sizeof why), 0);
    assert_string_equal(policy.class->name, "streaming");
    assert_int_equal(policy.budget_rows, 100);
    assert_true(policy.param[0] == 4);
    assert_int_equal(policy.class->planes(&policy), 0);
}

static void test_window_blocks(void **state) {
    (void)state;
    static const struct {
        uint32_t window, fresh_rows, blocks;
    } cases[] = {{400, 64, 7}, {448, 64, 7}, {449, 64, 8}, {1, 64, 1}, {64, 64, 1}, {16384, 16, 1024}, {10, 1024, 1}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct proto_group g = group_of("scissorhands");
        param(&g, 3, "window", cases[i].window);
        assert_int_equal(policy_init(&policy, "", &g, cases[i].fresh_rows, why, sizeof why), 0);
        assert_int_equal(policy.class->window_blocks(&policy), cases[i].blocks);
    }
}

/* Every word must be in the text. */
static void refused(const struct proto_group *g, const char *const words[]) {
    struct policy untouched;
    memset(&untouched, 0x5a, sizeof untouched);
    policy = untouched;
    memset(why, 0, sizeof why);
    assert_int_equal(policy_init(&policy, "window", g, F, why, sizeof why), SCISSOR_EINVAL);
    assert_memory_equal(&policy, &untouched, sizeof policy);
    for (; *words; words++)
        if (!strstr(why, *words))
            fail_msg("\"%s\" is not in: %s", *words, why);
    for (const char *c = why; *c; c++)
        assert_true(*c >= ' ' && *c < 127);
}

#define REFUSED(g, ...) refused((g), (const char *const[]){__VA_ARGS__, NULL})

static void test_refused(void **state) {
    (void)state;
    struct proto_group g = group_of("magic");
    REFUSED(&g, "magic", "scissorhands", "pivotal", "h2o", "tova", "streaming", "window", "random");
    g = group_of("sixteen-letters!?"); /* no NUL in the field */
    REFUSED(&g, "sixteen-letters!");
    g = group_of("a\033[2J\nb");
    REFUSED(&g, "a?[2J?b");

    g = group_of("streaming");
    param(&g, 2, "window", 5);
    REFUSED(&g, "\"window\"", "streaming", "5", "sinks");
    g = group_of("window");
    param(&g, 0, "sinks", 5);
    REFUSED(&g, "\"sinks\"", "window", "none");
    g = group_of("streaming");
    param(&g, 0, "sinks-no-nul", 5);
    REFUSED(&g, "sinks-no-nul");
    param(&g, 0, "\x80\001", 5);
    REFUSED(&g, "\"??\"");

    static const double bad[] = {-1, 1048577, 1e300, -1e300, INFINITY, -INFINITY, NAN};
    static const char *const given[] = {"-1", "1048577", "1e+300", "-1e+300", "inf", "-inf", "nan"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        g = group_of("streaming");
        param(&g, 7, "sinks", bad[i]);
        REFUSED(&g, "\"sinks\"", "streaming", "0 to 1048576", given[i]);
    }
    param(&g, 7, "sinks", 2.5);
    REFUSED(&g, "\"sinks\"", "whole", "0 to 1048576", "2.5");
    param(&g, 7, "sinks", 2);
    param(&g, 1, "sinks", 3);
    REFUSED(&g, "\"sinks\"", "twice");

    g = group_of("scissorhands");
    param(&g, 0, "window", 0);
    REFUSED(&g, "\"window\"", "1 to 16384", "not 0");
    param(&g, 0, "reading", 3);
    REFUSED(&g, "\"reading\"", "0 to 2", "not 3");
    param(&g, 0, "threshold", 0.5);
    REFUSED(&g, "\"threshold\"", "0 to 1", "0.5");

    g = group_of("pivotal");
    param(&g, 0, "share", 1.01);
    REFUSED(&g, "\"share\"", "0 to 1", "1.01");
    param(&g, 0, "recent", 2.5);
    REFUSED(&g, "\"recent\"", "whole", "2.5");
    g = group_of("h2o");
    param(&g, 0, "share", NAN);
    REFUSED(&g, "\"share\"", "0 to 1", "nan");
    g = group_of("random");
    param(&g, 0, "seed", 4294967296);
    REFUSED(&g, "\"seed\"", "0 to 4294967295", "4294967296");
    g = group_of("tova");
    param(&g, 0, "sinks", 4);
    REFUSED(&g, "\"sinks\"", "tova", "none");
}

/* The longest text is cut, never overrun. */
static void test_short_text(void **state) {
    (void)state;
    struct proto_group g = group_of("magic");
    char cut[8];
    memset(cut, 'x', sizeof cut);
    assert_int_equal(policy_init(&policy, "window", &g, F, cut, 4), SCISSOR_EINVAL);
    assert_memory_equal(cut, "the\0xxxx", 8);
}

/* Choosing takes no heap memory, so it cannot fail for want of it. */
static void test_no_memory_needed(void **state) {
    (void)state;
    struct proto_group g = group_of("scissorhands");
    alloc_fail_after(0, SIZE_MAX);
    assert_int_equal(policy_init(&policy, "window", &g, F, why, sizeof why), 0);
    alloc_fail_never();
}

static void test_drop(void **state) {
    (void)state;
    struct proto_group g = group_of("scissorhands");
    param(&g, 0, "drop", 10);
    param(&g, 1, "recent", 6);
    assert_int_equal(policy_init(&policy, "", &g, F, why, sizeof why), 0);
    assert_int_equal(policy.class->drop(&policy, 3, 20), 10);
    assert_int_equal(policy.class->drop(&policy, 12, 20), 12);
    assert_int_equal(policy.class->drop(&policy, 3, 15), 9); /* six stay */
    assert_int_equal(policy.class->drop(&policy, 3, 5), 3);
}

/* ---------- scores and protection ---------- */

/* Two of three periods with scores, window of two, seen when a third is gathered:
 *     slot      0     1     2     3    4    5    6    7
 *     period 0  4/4   2/3   1/2   1/1                        leaves the window
 *     period 1  1/4   2/4   0/4   4/4  2/4  3/3  0/2  1/1
 *     period 2  3/4   2/4   0/4   4/4  1/4  0/4  2/4  4/4
 *     window    4/8   4/8   0/8   8/8  3/8  3/7  2/6  5/5 */
static void gather_three(void) {
    period((const float[]){4, 2, 1, 1});
    period((const float[]){1, 2, 0, 4, 2, 3, 0, 1});
    history_clock_fold(&clock_, 4, 4);
    history_fold(&h, PROTO_PLANE_HITS, (const float[]){3, 2, 0, 4, 1, 0, 2, 4, 0, 0, 0, 0}, 4);
}

static void test_fraction(void **state) {
    (void)state;
    begin("scissorhands", NULL, 0);
    gather_three();
    assert_scores((const float[]){4.f / 8, 4.f / 8, 0, 1, 3.f / 8, 3.f / 7, 2.f / 6, 1});
    VICTIMS(12, 2);
    VICTIMS(12, 2, 6);
    VICTIMS(12, 2, 4, 5, 6);
    VICTIMS(12, 0, 2, 4, 5, 6);       /* 0 and 1 tie: the older goes */
    VICTIMS(12, 0, 1, 2, 3, 4, 5, 6); /* 3 and 7 tie */
    VICTIMS(12, 0, 1, 2, 3, 4, 5, 6, 7);
    end();
}

static void test_misses(void **state) {
    (void)state;
    begin("scissorhands", "reading", 1);
    gather_three();
    assert_scores((const float[]){-4, -4, -8, 0, -5, -4, -4, 0});
    VICTIMS(12, 2, 4);
    VICTIMS(12, 0, 1, 2, 4);
    end();
}

static void test_hits(void **state) {
    (void)state;
    begin("scissorhands", "reading", 2);
    gather_three();
    assert_scores((const float[]){4, 4, 0, 8, 3, 3, 2, 5});
    VICTIMS(12, 2, 4, 6);
    VICTIMS(12, 0, 2, 4, 5, 6);
    end();
}

/* Scores that never came: what was not seen counts as 1; all unseen: the oldest go. */
static void test_lost(void **state) {
    (void)state;
    begin("scissorhands", NULL, 0);
    period(NULL);
    assert_scores((const float[]){1, 1, 1, 1});
    VICTIMS(8, 0, 1);
    period((const float[]){1, 4, 0, 4, 4, 3, 2, 0});
    assert_scores((const float[]){0.25f, 1, 0, 1, 1, 1, 1, 0});
    VICTIMS(12, 0, 2, 7);
    period(NULL);
    assert_scores((const float[]){1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1});
    end();
}

static void test_lost_misses(void **state) {
    (void)state;
    begin("scissorhands", "reading", 1);
    period(NULL);
    assert_scores((const float[]){0, 0, 0, 0});
    period((const float[]){1, 4, 0, 4, 4, 3, 2, 0});
    assert_scores((const float[]){-3, 0, -4, 0, 0, 0, 0, -1});
    end();
}

static void test_recent(void **state) {
    (void)state;
    uint64_t sinks, recent;
    begin("scissorhands", "recent", 7);
    gather_three();
    policy.class->protect(&policy, 16, 12, &sinks, &recent);
    assert_int_equal(sinks, 0);
    assert_int_equal(recent, 5);
    VICTIMS(12, 2, 4);                /* 5 and 6 are protected now */
    VICTIMS(12, 0, 1, 2, 3, 4, 5);    /* ... and go from the oldest when nothing else is left */
    VICTIMS(12, 0, 1, 2, 3, 4, 5, 6); /* not by score: 7 is better than 6 anyway */
    policy.class->protect(&policy, 16, 6, &sinks, &recent);
    assert_int_equal(recent, 0);
    VICTIMS(6, 0, 1);
    end();
    begin("scissorhands", "recent", 0); /* F rows at least */
    policy.class->protect(&policy, 16, 12, &sinks, &recent);
    assert_int_equal(recent, 8);
    end();
}

static void test_streaming(void **state) {
    (void)state;
    uint64_t sinks, recent;
    begin("streaming", "sinks", 3);
    period(NULL);
    period(NULL);
    policy.class->protect(&policy, 16, 12, &sinks, &recent);
    assert_int_equal(sinks, 3);
    assert_int_equal(recent, 12);
    VICTIMS(12, 3);
    VICTIMS(12, 3, 4, 5, 6, 7);
    VICTIMS(12, 0, 3, 4, 5, 6, 7); /* sinks at last, the oldest first */
    history_move(&h, 7, 0);        /* slots need no order */
    history_truncate(&h, 7);
    VICTIMS(12, 3, 4);
    VICTIMS(12, 0, 3, 4, 5, 6);
    end();
}

/* Where room is as short as the fresh rows are many, the sinks stay and older fresh rows are left out instead; but they
 * do not fill more than half of the room. */
static void test_settle_count(void **state) {
    (void)state;
    begin("streaming", "sinks", 3);
    period(NULL);
    assert_int_equal(policy_settle_count(&policy, &h, 8, 8, 4), 4);
    assert_int_equal(policy_settle_count(&policy, &h, 7, 8, 4), 4);
    assert_int_equal(policy_settle_count(&policy, &h, 5, 8, 4), 3);
    assert_int_equal(policy_settle_count(&policy, &h, 4, 8, 4), 2);
    assert_int_equal(policy_settle_count(&policy, &h, 1, 8, 4), 1);
    end();
    begin("window", NULL, 0);
    period(NULL);
    assert_int_equal(policy_settle_count(&policy, &h, 4, 8, 4), 4);
    assert_int_equal(policy_settle_count(&policy, &h, 3, 8, 4), 3);
    end();
}

static void test_window(void **state) {
    (void)state;
    begin("window", NULL, 0);
    period(NULL);
    period(NULL);
    VICTIMS(12, 0, 1, 2);
    history_move(&h, 7, 0);
    history_truncate(&h, 7);
    VICTIMS(12, 1, 2, 3);
    h.position[1] = 4000000001u; /* beyond what a float tells apart */
    h.position[2] = 4000000000u;
    h.position[3] = 4000000002u;
    VICTIMS(4000000005u, 0, 2, 4, 5, 6);
    VICTIMS(4000000005u, 0, 1, 2, 4, 5, 6);
    end();
}

/* ---------- victims against a plain sort ---------- */

#define MANY 3000

static float given_score[MANY];
static uint64_t given_sinks, given_recent;

static void given_scores(const struct policy *p, const struct history *history, uint64_t next_position, float *ret) {
    (void)p, (void)next_position;
    memcpy(ret, given_score, history->settled * sizeof *ret);
}

static void given_protect(const struct policy *p, uint32_t room, uint64_t next_position, uint64_t *ret_sinks,
                          uint64_t *ret_recent) {
    (void)p, (void)room, (void)next_position;
    *ret_sinks = given_sinks;
    *ret_recent = given_recent;
}

static int before(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    uint32_t px = h.position[x], py = h.position[y];
    int cx = px < given_sinks ? 2 : px >= given_recent, cy = py < given_sinks ? 2 : py >= given_recent;
    if (cx != cy)
        return cx - cy;
    float sx = isfinite(given_score[x]) ? given_score[x] : 0, sy = isfinite(given_score[y]) ? given_score[y] : 0;
    if (cx == 0 && sx != sy)
        return sx < sy ? -1 : 1;
    return px < py ? -1 : px > py;
}

static int by_slot(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

static float any_score(int kind) {
    static const float odd[] = {0.f, -0.f,     1e-45f,    -1e-45f, 3.4e38f,   -3.4e38f,
                                1,   INFINITY, -INFINITY, NAN,     1.000001f, -1};
    switch (kind) {
    case 0:
        return odd[(size_t)random() % (sizeof odd / sizeof *odd)];
    case 1:
        return (float)(random() % 4);
    case 2:
        return (float)(random() % 1000000) / 1000000 - 0.5f;
    case 3:
        return 0.5f;
    default:
        return -(float)(random() % 400);
    }
}

static void one_sort(uint32_t n, int kind) {
    static const struct policy_class given = {.score = given_scores, .protect = given_protect};
    static uint32_t order[MANY], slots[MANY + 1];
    static uint64_t scratch[2 * MANY + 1];
    uint32_t count = n ? (uint32_t)random() % (n + 1) : 0;
    policy = (struct policy){.class = &given, .fresh_rows = F};
    h.settled = n;
    for (uint32_t i = 0; i < n; i++) {
        h.position[i] = kind == 2 ? i * 1000003u : i; /* distinct either way */
        given_score[i] = any_score(kind);
        order[i] = i;
    }
    for (uint32_t i = n; i > 1; i--) { /* shuffled */
        uint32_t k = (uint32_t)random() % i, position = h.position[k];
        h.position[k] = h.position[i - 1];
        h.position[i - 1] = position;
    }
    given_sinks = random() % 3 ? (uint64_t)random() % 5 : 0;
    given_recent = random() % 3 ? n - (n ? (uint64_t)random() % n : 0) : UINT64_MAX;
    qsort(order, n, sizeof *order, before);
    qsort(order, count, sizeof *order, by_slot);
    scratch[history_scratch_bytes(n) / 8] = 0x1234;
    slots[count] = 0x5678;
    policy_victims(&policy, &h, n, n, count, scratch, slots);
    assert_memory_equal(slots, order, count * sizeof *slots);
    assert_int_equal(slots[count], 0x5678);
    assert_int_equal(scratch[history_scratch_bytes(n) / 8], 0x1234);
}

static void test_victims(void **state) {
    (void)state;
    srandom(3);
    assert_int_equal(history_clock_init(&clock_, 0, F), 0);
    assert_int_equal(history_init(&h, 0, false, F, &clock_), 0);
    assert_int_equal(history_resize(&h, MANY), 0);
    for (int round = 0; round < 3000; round++)
        one_sort((uint32_t)random() % (round % 50 ? 60 : MANY), round % 5);
    h.settled = 0;
    end();
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table),      cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_refused),    cmocka_unit_test(test_window_blocks),
        cmocka_unit_test(test_short_text), cmocka_unit_test(test_no_memory_needed),
        cmocka_unit_test(test_drop),       cmocka_unit_test(test_fraction),
        cmocka_unit_test(test_misses),     cmocka_unit_test(test_hits),
        cmocka_unit_test(test_lost),       cmocka_unit_test(test_lost_misses),
        cmocka_unit_test(test_recent),     cmocka_unit_test(test_settle_count),
        cmocka_unit_test(test_streaming),  cmocka_unit_test(test_window),
        cmocka_unit_test(test_victims),
    };
    return cmocka_run_group_tests_name("policy", tests, NULL, NULL);
}
