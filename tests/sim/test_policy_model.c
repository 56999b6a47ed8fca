/* test_policy_model.c - history, policies and placement against the naive model: random sessions with lost frames,
 * early settles, shrinks and changing room; positions compared exactly after each step, and what is known of each
 * slot (hits, chances, mass). Seeds are fixed; a failure names its own. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "history.h"
#include "naive.h"
#include "placement.h"
#include "policy.h"
#include "score.h"

#define LAYERS 2
#define HEADS 2
#define ALL_PLANES (PROTO_PLANE_MASS | PROTO_PLANE_HITS | PROTO_PLANE_LAST)
#define ROWS_MAX 256

static uint64_t rng_state;

static uint32_t below(uint32_t limit) {
    uint64_t z = (rng_state += 0x9e3779b97f4a7c15u);
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return (uint32_t)((z ^ z >> 31) >> 32) % limit;
}

struct session {
    struct policy policy;
    struct history_clock clock[LAYERS];
    struct history head[LAYERS][HEADS];
    uint64_t tokens;
    struct naive *model;
};

static void session_init(struct session *s, const struct proto_group *group, uint32_t fresh_rows) {
    char why[PROTO_TEXT_BYTES] = "";
    memset(s, 0, sizeof *s);
    if (policy_init(&s->policy, "window", group, fresh_rows, why, sizeof why) != 0)
        fail_msg("policy_init: %s", why);
    const struct policy_class *class = s->policy.class;
    uint32_t blocks = class->window_blocks ? class->window_blocks(&s->policy) : 0;
    for (uint32_t l = 0; l < LAYERS; l++) {
        assert_int_equal(history_clock_init(&s->clock[l], blocks, fresh_rows), 0);
        for (uint32_t h = 0; h < HEADS; h++) {
            assert_int_equal(history_init(&s->head[l][h], ALL_PLANES, true, fresh_rows, &s->clock[l]), 0);
            s->head[l][h].head = l * HEADS + h;
        }
    }
    s->model = naive_new(group, fresh_rows);
}

static void session_deinit(struct session *s) {
    for (uint32_t l = 0; l < LAYERS; l++) {
        for (uint32_t h = 0; h < HEADS; h++)
            history_deinit(&s->head[l][h]);
        history_clock_deinit(&s->clock[l]);
    }
    naive_free(s->model);
}

/* One layer's frame; hits are few-valued, so that ties are common, and sums of quarters, so that f32 is exact. */
static void frame(struct session *s, uint32_t layer, uint32_t rows, uint32_t fresh, uint32_t hit_percent) {
    static float values[HEADS][3][ROWS_MAX];
    struct naive_planes planes[HEADS];
    for (uint32_t h = 0; h < HEADS; h++) {
        uint32_t count = s->head[layer][h].settled + fresh;
        assert_true(count <= ROWS_MAX);
        for (uint32_t i = 0; i < count; i++) {
            values[h][0][i] = (float)below(1 + 4 * rows) / 4;
            values[h][1][i] = 0;
            for (uint32_t r = 0; r < rows; r++)
                values[h][1][i] += below(100) < hit_percent;
            values[h][2][i] = (float)below(1000) / 1000;
        }
        planes[h] = (struct naive_planes){values[h][0], values[h][1], values[h][2]};
    }
    if (!naive_fold(s->model, layer, rows, fresh, planes))
        fail_msg("the test folds more than F rows");
    history_clock_fold(&s->clock[layer], rows, fresh);
    for (uint32_t h = 0; h < HEADS; h++) {
        history_fold(&s->head[layer][h], PROTO_PLANE_MASS, values[h][0], fresh);
        history_fold(&s->head[layer][h], PROTO_PLANE_HITS, values[h][1], fresh);
        history_fold(&s->head[layer][h], PROTO_PLANE_LAST, values[h][2], fresh);
    }
}

/* Gathers the scores of f rows in frames of random sizes, losing some, perhaps all. */
static void gather(struct session *s, uint32_t f, uint32_t lost_percent) {
    uint32_t hit_percent = 10 + below(80);
    for (uint32_t done = 0; done < f;) {
        uint32_t rows = 1 + below(f - done);
        done += rows;
        for (uint32_t l = 0; l < LAYERS; l++)
            if (below(100) >= lost_percent)
                frame(s, l, rows, done, hit_percent);
    }
}

static void head_victims(struct session *s, struct history *h, uint32_t room, uint64_t next, uint32_t count,
                         uint32_t *ret) {
    void *scratch = malloc(history_scratch_bytes(h->settled) + 1);
    assert_non_null(scratch);
    policy_victims(&s->policy, h, room, next, count, scratch, ret);
    free(scratch);
}

/* Few-valued, too, and some are not finite, which counts as 0. */
static float row_norm(struct session *s, const struct history *h, uint32_t fresh) {
    float norm = below(20) ? (float)below(6) * 0.7f : (float[]){INFINITY, NAN, -1, 1e30f}[below(4)];
    naive_set_norm(s->model, h->head / HEADS, h->head % HEADS, fresh, norm >= 0 && norm < INFINITY ? norm : 0);
    return norm;
}

static uint64_t head_apply(struct session *s, struct history *h, uint32_t f, uint32_t cap) {
    static uint32_t victims[ROWS_MAX];
    static struct kernel_move settle[ROWS_MAX], tail[ROWS_MAX];
    uint32_t stay = policy_settle_count(&s->policy, h, cap, s->tokens + f, f);
    uint32_t need = h->settled + stay > cap ? h->settled + stay - cap : 0;
    uint32_t tails = 0;
    if (need && f && s->policy.class->drop)
        need = s->policy.class->drop(&s->policy, need, h->settled);
    head_victims(s, h, cap, s->tokens + f, need, victims);
    uint32_t now = placement_plan(h->settled, f - stay, stay, victims, need, settle, tail, &tails);
    if (h->capacity < now || below(8) == 0)
        assert_int_equal(history_resize(h, (now > h->settled ? now : h->settled) + below(20)), 0);
    for (uint32_t i = 0; i < stay; i++) {
        history_settle(h, settle[i].from, settle[i].to, (uint32_t)(s->tokens + settle[i].from));
        float norm = row_norm(s, h, settle[i].from);
        assert_int_equal(history_set_norm(h, settle[i].to, norm), norm >= 0 && norm < INFINITY);
    }
    for (uint32_t i = 0; i < tails; i++)
        history_move(h, tail[i].from, tail[i].to);
    history_truncate(h, now);
    return need + f - stay;
}

static uint64_t settle(struct session *s, uint32_t f, uint32_t cap) {
    uint64_t evicted = 0;
    for (uint32_t l = 0; l < LAYERS; l++) {
        for (uint32_t h = 0; h < HEADS; h++)
            evicted += head_apply(s, &s->head[l][h], f, cap);
        history_clock_next(&s->clock[l]);
        for (uint32_t h = 0; h < HEADS; h++)
            history_next_block(&s->head[l][h]);
    }
    s->tokens += f;
    return evicted;
}

static uint64_t shrink(struct session *s, uint32_t target) {
    uint64_t evicted = 0;
    for (uint32_t l = 0; l < LAYERS; l++)
        for (uint32_t h = 0; h < HEADS; h++)
            if (s->head[l][h].settled > target)
                evicted += head_apply(s, &s->head[l][h], 0, target);
    return evicted;
}

static void compare(const struct session *s, uint64_t seed, uint32_t step) {
    for (uint32_t l = 0; l < LAYERS; l++)
        for (uint32_t h = 0; h < HEADS; h++) {
            const struct history *head = &s->head[l][h];
            history_check(head);
            if (head->settled != naive_settled(s->model, l, h))
                fail_msg("seed %lu step %u: %u settled, model %u", seed, step, head->settled,
                         naive_settled(s->model, l, h));
            for (uint32_t i = 0; i < head->settled; i++) {
                struct naive_sums sums = naive_sums(s->model, l, h, i);
                if (head->position[i] != naive_position(s->model, l, h, i))
                    fail_msg("seed %lu step %u layer %u head %u slot %u: position %u, model %u", seed, step, l, h, i,
                             head->position[i], naive_position(s->model, l, h, i));
                if (history_seen(head, i) != sums.seen || history_seen_window(head, i) != sums.seen_window ||
                    history_hits_window(head, i) != sums.hits || head->mass[i] != sums.mass ||
                    head->last[i] != (float)sums.last || head->norm[i] != sums.norm)
                    fail_msg("seed %lu step %u slot %u: seen %lu/%lu window %lu/%lu hits %g/%g mass %g/%g last %g/%g "
                             "norm %g/%g",
                             seed, step, i, history_seen(head, i), sums.seen, history_seen_window(head, i),
                             sums.seen_window, history_hits_window(head, i), sums.hits, head->mass[i], sums.mass,
                             head->last[i], sums.last, head->norm[i], sums.norm);
            }
        }
}

static void run(const struct proto_group *group, uint32_t fresh_rows, uint64_t seed, uint32_t steps) {
    struct session s;
    uint32_t budget = group->max_rows - fresh_rows;
    rng_state = seed;
    uint32_t lost_percent = (uint32_t[]){0, 5, 40, 100}[below(4)];
    session_init(&s, group, fresh_rows);
    for (uint32_t step = 0; step < steps; step++) {
        uint32_t f = below(4) ? fresh_rows : 1 + below(fresh_rows);
        uint32_t cap = below(6) ? budget : 1 + below(budget);
        gather(&s, f, lost_percent);
        if (below(10) == 0) { /* an idle session is shrunk in the middle of a period */
            uint32_t target = below(budget + 1);
            assert_int_equal(shrink(&s, target), naive_shrink(s.model, target));
            compare(&s, seed, step);
        }
        uint64_t evicted = settle(&s, f, cap); /* first: it tells the model the norms */
        assert_int_equal(evicted, naive_settle(s.model, f, cap));
        assert_int_equal(s.tokens, naive_tokens(s.model));
        compare(&s, seed, step);
    }
    session_deinit(&s);
}

static struct proto_group group_of(const char *policy) {
    struct proto_group g = {.layers = LAYERS, .kv_heads = HEADS, .q_heads = HEADS, .head_dim = 64};
    strcpy(g.policy, policy);
    return g;
}

static void param(struct proto_group *g, uint32_t i, const char *name, double value) {
    strcpy(g->params[i].name, name);
    g->params[i].value = value;
}

static void test_scissorhands(void **state) {
    (void)state;
    static const uint32_t windows[] = {1, 16, 17, 40, 64, 400};
    for (uint64_t seed = 1; seed <= 72; seed++) {
        struct proto_group g = group_of("scissorhands");
        rng_state = ~seed;
        uint32_t fresh_rows = below(3) ? 16 : 32;
        g.max_rows = fresh_rows + 16 + below(60);
        param(&g, 0, "reading", (double)(seed % 3));
        param(&g, 1, "window", windows[below(6)]);
        if (below(3))
            param(&g, 2, "recent", below(50));
        if (below(2))
            param(&g, 3, "drop", below(60));
        param(&g, 4, "threshold", below(2));
        run(&g, fresh_rows, seed, 40);
    }
}

static void test_streaming(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 12; seed++) {
        struct proto_group g = group_of("streaming");
        rng_state = ~seed;
        g.max_rows = 16 + 16 + below(60);
        if (below(3))
            param(&g, 0, "sinks", below(40));
        run(&g, 16, seed, 40);
    }
}

static void test_window(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 6; seed++) {
        struct proto_group g = group_of("window");
        rng_state = ~seed;
        g.max_rows = 16 + 16 + below(60);
        run(&g, 16, seed, 40);
    }
}

static void test_pivotal(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 36; seed++) {
        struct proto_group g = group_of("pivotal");
        rng_state = ~seed;
        uint32_t fresh_rows = below(3) ? 16 : 32;
        g.max_rows = fresh_rows + 16 + below(60);
        if (below(3))
            param(&g, 0, "recent", below(50));
        if (below(3))
            param(&g, 1, "share", below(101) / 100.0);
        if (below(3))
            param(&g, 2, "sinks", below(20));
        if (below(2))
            param(&g, 3, "age", below(9) / 4.0);
        run(&g, fresh_rows, seed, 40);
    }
}

static void test_h2o(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 18; seed++) {
        struct proto_group g = group_of("h2o");
        rng_state = ~seed;
        g.max_rows = 16 + 16 + below(60);
        if (below(3))
            param(&g, 0, "share", below(101) / 100.0);
        run(&g, 16, seed, 40);
    }
}

static void test_tova(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 12; seed++) {
        struct proto_group g = group_of("tova");
        rng_state = ~seed;
        g.max_rows = 16 + 16 + below(60);
        run(&g, 16, seed, 40);
    }
}

static void test_random(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 12; seed++) {
        struct proto_group g = group_of("random");
        rng_state = ~seed;
        g.max_rows = 16 + 16 + below(60);
        param(&g, 0, "seed", below(3) ? below(UINT32_MAX) : UINT32_MAX);
        if (below(3))
            param(&g, 1, "sinks", below(20));
        run(&g, 16, seed, 40);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_scissorhands), cmocka_unit_test(test_streaming), cmocka_unit_test(test_window),
        cmocka_unit_test(test_pivotal),      cmocka_unit_test(test_h2o),       cmocka_unit_test(test_tova),
        cmocka_unit_test(test_random),
    };
    return cmocka_run_group_tests_name("policies against the naive model", tests, NULL, NULL);
}
