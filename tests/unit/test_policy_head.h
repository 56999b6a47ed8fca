/* test_policy_head.h - one head of a session, and what its policy says of it; for the tests of the policies. */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "alloc.h"
#include "history.h"
#include "policy.h"
#include "score.h"

#define F 4
#define ALL_PLANES (PROTO_PLANE_MASS | PROTO_PLANE_HITS | PROTO_PLANE_LAST)

static struct policy policy;
static struct history_clock clock_;
static struct history h;
static char why[PROTO_TEXT_BYTES];

/* Fills a wire field; a NUL follows only if there is room. */
static inline void text(char *field, size_t bytes, const char *value) {
    size_t length = strlen(value);
    memset(field, 0, bytes);
    memcpy(field, value, length < bytes ? length : bytes);
}

static inline struct proto_group group_of(const char *name) {
    struct proto_group g = {.layers = 1, .kv_heads = 1, .q_heads = 1, .head_dim = 64, .guaranteed_rows = 24};
    text(g.policy, sizeof g.policy, name);
    return g;
}

static inline void param(struct proto_group *g, uint32_t i, const char *name, double value) {
    text(g->params[i].name, sizeof g->params[i].name, name);
    g->params[i].value = value;
}

static inline void begin(const char *name, const char *param_name, double value) {
    struct proto_group g = group_of(name);
    if (strcmp(name, "scissorhands") == 0) {
        param(&g, 0, "recent", 0); /* the default of 10 would protect nearly all rows of these tests */
        param(&g, 1, "window", 8);
    }
    if (param_name)
        param(&g, strcmp(param_name, "recent") == 0 ? 0 : 2, param_name, value);
    if (policy_init(&policy, "", &g, F, why, sizeof why) != 0)
        fail_msg("%s", why);
    uint32_t blocks = policy.class->window_blocks ? policy.class->window_blocks(&policy) : 0;
    assert_int_equal(history_clock_init(&clock_, blocks, F), 0);
    assert_int_equal(history_init(&h, ALL_PLANES, true, F, &clock_), 0);
    assert_int_equal(history_resize(&h, 16), 0);
}

static inline void end(void) {
    history_deinit(&h);
    history_clock_deinit(&clock_);
    assert_int_equal(alloc_live(), 0);
}

/* The next four rows come; their scores, if any, arrive as one frame. */
static inline void period(const float *hits) {
    uint32_t position = h.settled;
    if (hits) {
        history_clock_fold(&clock_, 4, 4);
        history_fold(&h, PROTO_PLANE_HITS, hits, 4);
    }
    for (uint32_t j = 0; j < 4; j++)
        history_settle(&h, j, h.settled, position + j);
    history_clock_next(&clock_);
    history_next_block(&h);
}

static inline void assert_scores(const float *expected) {
    float score[16];
    policy.class->score(&policy, &h, h.settled + 4, score);
    for (uint32_t i = 0; i < h.settled; i++)
        if (score[i] != expected[i])
            fail_msg("slot %u: %g, not %g", i, score[i], expected[i]);
}

static inline void assert_victims(uint64_t next_position, uint32_t count, const uint32_t *expected) {
    uint32_t slots[16];
    uint64_t scratch[64];
    assert_true(history_scratch_bytes(h.settled) <= sizeof scratch);
    policy_victims(&policy, &h, 16, next_position, count, scratch, slots);
    for (uint32_t i = 0; i < count; i++)
        assert_int_equal(slots[i], expected[i]);
}
#define VICTIMS(next, ...) \
    assert_victims((next), sizeof((uint32_t[]){__VA_ARGS__}) / 4, (const uint32_t[]){__VA_ARGS__})
