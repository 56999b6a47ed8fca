/* test_broker_limits.c - pool, budgets and priorities that are set while sessions are open; who may. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "test_broker.h"

#define SEGMENT SCISSOR_SEGMENT_BYTES

static uint64_t last_id;

/* A segment has 512 rows of each of the 4 heads: 256 channels in f32. */
static struct proto_open spec_of(uint32_t guaranteed, uint32_t max, const char *policy) {
    struct proto_open spec = rig_spec(2, 2, 256, 64, guaranteed, max, policy);
    spec.compute_dtype = spec.storage_dtype = KERNEL_F32;
    return spec;
}

static int open_f32(uint32_t guaranteed, uint32_t max, const char *policy) {
    struct proto_open spec = spec_of(guaranteed, max, policy);
    return open_spec(&spec);
}

static void settle_until(int s, uint64_t tokens) {
    while (rig.sessions[s].tokens < tokens) {
        rig_settle(&rig, s, 64, rig.sessions[s].sequence);
        rig_jobs(&rig);
        assert_int_equal(rig.sessions[s].code, 0);
    }
    broker_check(rig.broker);
}

static int change(const uint8_t *pass, uint32_t op, uint64_t session, uint64_t a, uint64_t b, uint64_t c) {
    struct proto_request r = {.op = op, .id = ++last_id, .session = session, .value = {a, b, c}};
    memcpy(r.token, pass, sizeof r.token);
    rig_control_to(&rig, r);
    broker_check(rig.broker);
    return rig.answer.code;
}

static int budget(const uint8_t *pass, int s, uint64_t guaranteed, uint64_t max) {
    return change(pass, PROTO_OP_SET_BUDGET, rig.sessions[s].id, guaranteed, max, PROTO_ALL_GROUPS);
}

static struct proto_session_stat session_stat(int s) {
    const struct proto_session_stat *list = (const struct proto_session_stat *)rig.answer_entries;
    rig_control(&rig, PROTO_OP_SESSIONS, 0, 0, NULL);
    for (uint32_t i = 0; i < rig.answer.count; i++)
        if (list[i].session == rig.sessions[s].id)
            return list[i];
    fail();
    return (struct proto_session_stat){0};
}

static uint32_t held(int s) {
    return rig_head(&rig.sessions[s], 0)[0];
}

#define assert_said(what)                                       \
    do {                                                        \
        if (!strstr(rig.answer.text, what))                     \
            fail_msg("not in '%s': %s", rig.answer.text, what); \
    } while (0)

/* ---------- pool ---------- */

static void test_pool_grows(void **state) {
    (void)state;
    rig_init(&rig, 16 * MIB, true);
    const uint8_t *pass = rig_operator(&rig);
    open_f32(1024, 0, "window");
    struct proto_open spec = spec_of(1024, 0, "window");
    spec.wait_ms = 60000;
    int b = rig_open(&rig, rig_connect(&rig), &spec);
    rig_jobs(&rig);
    assert_false(rig.sessions[b].opened);
    assert_int_equal(change(pass, PROTO_OP_SET_POOL, 0, 0, 32 * MIB, 0), 0);
    assert_int_equal(rig.events[PROTO_EVENT_LIMITS], 1);
    rig_jobs(&rig);
    assert_true(rig.sessions[b].opened); /* at once */
    assert_int_equal(stat_now().limit_bytes, 32 * MIB);
    assert_int_equal(stat_now().target_bytes, 32 * MIB);
}

static void test_pool_not_below_guarantees(void **state) {
    (void)state;
    char least[64];
    rig_init(&rig, 64 * MIB, true);
    const uint8_t *pass = rig_operator(&rig);
    open_f32(1024, 0, "window");
    uint64_t guaranteed = stat_now().guaranteed_bytes;
    assert_int_equal(change(pass, PROTO_OP_SET_POOL, 0, 0, guaranteed - 1, 0), SCISSOR_EINVAL);
    snprintf(least, sizeof least, "%llu is the smallest possible limit", (unsigned long long)guaranteed);
    assert_said(least);
    assert_int_equal(stat_now().limit_bytes, 64 * MIB);
    assert_int_equal(change(pass, PROTO_OP_SET_POOL, 0, 0, guaranteed, 0), 0);
    assert_int_equal(stat_now().limit_bytes, guaranteed);
    assert_int_equal(change(pass, PROTO_OP_SET_POOL, 0, 1, 64 * MIB, 0), SCISSOR_EINVAL);
    assert_said("there is no pool 1");
    assert_int_equal(change(pass, PROTO_OP_SET_POOL, 0, 0, UINT64_MAX, 0), SCISSOR_EINVAL);
    assert_int_equal(change(pass, PROTO_OP_SET_POOL, 0, 0, 0, 0), SCISSOR_EINVAL);
}

/* Lent memory comes back first: from an idle session at once, else with its settle; the limit follows. */
static void shrink_pool(bool revocable, bool busy) {
    rig_init(&rig, 64 * MIB, revocable);
    const uint8_t *pass = rig_operator(&rig);
    int a = open_f32(128, 8192, "window");
    settle_until(a, 4096);
    struct proto_pool_stat before = stat_now();
    assert_true(before.lent_bytes > 8 * SEGMENT);
    uint64_t target = before.guaranteed_bytes + 2 * SEGMENT;
    if (busy)
        rig.sessions[a].lease->word = PROTO_LEASE_CLIENT;
    assert_int_equal(change(pass, PROTO_OP_SET_POOL, 0, 0, target, 0), 0);
    struct proto_pool_stat stat = stat_now();
    assert_int_equal(stat.target_bytes, target);
    assert_true(stat.limit_bytes >= stat.charged_bytes && stat.limit_bytes < before.limit_bytes);
    rig_jobs(&rig);
    if (busy) {
        assert_true(stat_now().limit_bytes > target);
        rig_pass(&rig, 5 * MS);
        rig.sessions[a].lease->word = PROTO_LEASE_FREE;
        rig_pass(&rig, 20 * MS); /* it is tried again, though nobody waits for memory */
        rig_jobs(&rig);
    }
    if (!revocable) {
        assert_true(stat_now().limit_bytes > target);
        rig_released(&rig, a);
        rig_jobs(&rig);
    }
    stat = stat_now();
    assert_int_equal(stat.limit_bytes, target);
    assert_true(stat.charged_bytes <= target && stat.reclaims > 0);
    settle_until(a, rig.sessions[a].tokens + 640);
    assert_true(stat_now().charged_bytes <= target);
    teardown(NULL);
}

static void test_pool_shrinks(void **state) {
    (void)state;
    shrink_pool(true, false);
    shrink_pool(true, true);
    shrink_pool(false, false);
    shrink_pool(false, true);
    rig_init(&rig, MIB, true);
}

/* While it goes down nothing is lent, an open that fits below the target waits, one that does not is refused. */
static void test_opens_while_the_pool_shrinks(void **state) {
    (void)state;
    rig_init(&rig, 64 * MIB, true);
    const uint8_t *pass = rig_operator(&rig);
    int a = open_f32(128, 8192, "window");
    settle_until(a, 4096);
    uint64_t target = stat_now().guaranteed_bytes + 8 * MIB;
    rig.sessions[a].lease->word = PROTO_LEASE_CLIENT;
    assert_int_equal(change(pass, PROTO_OP_SET_POOL, 0, 0, target, 0), 0);
    struct proto_open spec = spec_of(128, 0, "window");
    spec.wait_ms = 1000;
    int fits = rig_open(&rig, rig_connect(&rig), &spec), peer = rig_connect(&rig);
    spec = spec_of(4096, 0, "window");
    assert_int_equal(rig_open_now(&rig, peer, &spec), -1);
    assert_int_equal(rig.peers[peer].code, SCISSOR_FULL);
    assert_false(rig.sessions[fits].opened);
    rig.sessions[a].lease->word = PROTO_LEASE_FREE;
    rig_pass(&rig, 20 * MS);
    rig_jobs(&rig);
    assert_true(rig.sessions[fits].opened);
    assert_int_equal(stat_now().limit_bytes, target);
    /* What is left of a session that the operator closes has room, too. */
    settle_until(a, rig.sessions[a].tokens + 64);
    assert_int_equal(change(pass, PROTO_OP_SET_POOL, 0, 0, stat_now().guaranteed_bytes, 0), 0);
    assert_int_equal(change(pass, PROTO_OP_CLOSE_SESSION, rig.sessions[a].id, 0, 0, 0), 0);
    rig_jobs(&rig);
    stat_now();
}

/* ---------- budgets ---------- */

static void test_max_is_lowered(void **state) {
    (void)state;
    rig_init(&rig, 64 * MIB, true);
    const uint8_t *pass = rig_operator(&rig);
    int a = open_f32(128, 8192, "window");
    settle_until(a, 2048);
    assert_int_equal(held(a), 2048);
    uint64_t charged = stat_now().charged_bytes;
    assert_int_equal(budget(pass, a, 0, 1000), 0);
    assert_int_equal(session_stat(a).max_rows, 1000); /* is shown at once */
    rig_jobs(&rig);
    assert_int_equal(held(a), 1000 - 64);
    struct proto_pool_stat stat = stat_now();
    assert_true(stat.charged_bytes < charged);
    assert_int_equal(stat.reclaims, 0); /* that was not pressure */
    assert_int_equal(stat.evicted[PROTO_REASON_OPERATOR], 4 * (2048 - 936));
    assert_int_equal(stat.evicted[PROTO_REASON_PRESSURE], 0);
    assert_int_equal(rig.events[PROTO_EVENT_PRESSURE], 0);
    settle_until(a, 4096);
    assert_int_equal(held(a), 1000 - 64);
    /* Up again, no further than it was opened with. */
    assert_int_equal(budget(pass, a, 0, 8193), SCISSOR_EINVAL);
    assert_said("it was opened with 8192");
    assert_int_equal(budget(pass, a, 0, 8192), 0);
    settle_until(a, 8192);
    assert_int_equal(held(a), 1000 - 64 + 4096);
    /* Rows go even where no page does. */
    assert_int_equal(budget(pass, a, 0, held(a) + 64 - 1), 0);
    uint32_t before = held(a);
    rig_jobs(&rig);
    assert_int_equal(held(a), before - 1);
}

static void test_max_is_lowered_in_a_step(void **state) {
    (void)state;
    rig_init(&rig, 64 * MIB, true);
    const uint8_t *pass = rig_operator(&rig);
    int a = open_f32(128, 8192, "pivotal");
    settle_until(a, 1024);
    rig.sessions[a].lease->word = PROTO_LEASE_CLIENT;
    assert_int_equal(budget(pass, a, 0, 512), 0);
    rig_jobs(&rig);
    assert_int_equal(held(a), 1024); /* its memory stands still */
    rig_pass(&rig, 15 * MS);
    rig_jobs(&rig);
    assert_int_equal(held(a), 1024);
    rig.sessions[a].lease->word = PROTO_LEASE_FREE;
    rig_pass(&rig, 15 * MS);
    rig_jobs(&rig);
    assert_int_equal(held(a), 448);
    assert_true(broker_deadline(rig.broker) == UINT64_MAX); /* and it is not tried for ever */
}

static void test_changes_during_a_job(void **state) {
    (void)state;
    rig_init(&rig, 64 * MIB, true);
    const uint8_t *pass = rig_operator(&rig);
    int a = open_f32(128, 8192, "h2o");
    settle_until(a, 1024);
    rig_settle(&rig, a, 64, 0);
    assert_int_equal(budget(pass, a, 256, 512), 0);
    assert_int_equal(change(pass, PROTO_OP_SET_PRIORITY, rig.sessions[a].id, 7, 0, 0), 0);
    struct proto_session_stat stat = session_stat(a);
    assert_int_equal(stat.state, PROTO_SESSION_SETTLING);
    assert_true(stat.guaranteed_rows == 256 && stat.max_rows == 512 && stat.priority == 7);
    rig_job(&rig, 0);
    assert_int_equal(held(a), 1024 + 64); /* what it was told when it began */
    rig_jobs(&rig);
    assert_int_equal(held(a), 448);
    stat = session_stat(a);
    assert_true(stat.guaranteed_rows == 256 && stat.max_rows == 512 && stat.priority == 7);
    /* With the next settle, if the client asks for one first. */
    settle_until(a, rig.sessions[a].tokens + 64);
    rig_settle(&rig, a, 64, 0);
    assert_int_equal(budget(pass, a, 0, 300), 0);
    rig_jobs(&rig);
    assert_int_equal(held(a), 236);
}

static void test_guarantee(void **state) {
    (void)state;
    rig_init(&rig, 32 * MIB, true);
    const uint8_t *pass = rig_operator(&rig);
    int a = open_f32(128, 8192, "window"), b = open_f32(128, 8192, "window");
    uint64_t before = session_stat(a).guaranteed_bytes;
    assert_int_equal(budget(pass, a, 1024, 0), 0);
    assert_true(session_stat(a).guaranteed_bytes > before);
    assert_int_equal(stat_now().guaranteed_bytes, session_stat(a).guaranteed_bytes + session_stat(b).guaranteed_bytes);
    assert_int_equal(budget(pass, a, 8192, 0), SCISSOR_FULL);
    assert_said("cannot be guaranteed: of the pool's");
    assert_int_equal(session_stat(a).guaranteed_rows, 1024);

    /* What is lent is asked back; then it can be had. */
    settle_until(b, 8192);
    assert_true(stat_now().lent_bytes > 8 * MIB);
    assert_int_equal(budget(pass, a, 2048, 0), SCISSOR_BUSY);
    assert_said("try again");
    rig_jobs(&rig);
    assert_int_equal(budget(pass, a, 2048, 0), 0);
    assert_true(held(b) < 8192 - 64);

    /* A smaller one lets others in. */
    struct proto_open spec = spec_of(1024, 0, "window");
    spec.wait_ms = 60000;
    int peer = rig_connect(&rig);
    assert_int_equal(budget(pass, b, 0, 128), 0);
    rig_jobs(&rig);
    int c = rig_open(&rig, peer, &spec);
    rig_jobs(&rig);
    assert_false(rig.sessions[c].opened);
    assert_int_equal(budget(pass, a, 512, 0), 0);
    rig_jobs(&rig);
    assert_true(rig.sessions[c].opened);
}

static void test_bad_budgets(void **state) {
    (void)state;
    rig_init(&rig, 64 * MIB, true);
    const uint8_t *pass = rig_operator(&rig);
    int a = open_f32(128, 1024, "window");
    uint64_t id = rig.sessions[a].id;
    assert_int_equal(budget(pass, a, 0, 0), SCISSOR_EINVAL);
    assert_int_equal(budget(pass, a, 79, 0), SCISSOR_EINVAL);
    assert_said("80 is the smallest budget");
    assert_int_equal(budget(pass, a, 0, 127), SCISSOR_EINVAL);
    assert_said("guaranteed rows (128) cannot be more than its most rows (127)");
    assert_int_equal(budget(pass, a, 1ull << 40, 1ull << 41), SCISSOR_EINVAL);
    assert_int_equal(change(pass, PROTO_OP_SET_BUDGET, id, 256, 0, 1), SCISSOR_EINVAL);
    assert_said("has no group 1; they are 0 to 0");
    assert_int_equal(change(pass, PROTO_OP_SET_BUDGET, id + 1, 256, 0, 0), SCISSOR_ENOSESSION);
    assert_int_equal(change(pass, PROTO_OP_SET_BUDGET, id, 256, 0, 0), 0);
    assert_int_equal(change(pass, PROTO_OP_SET_PRIORITY, id, 0, 0, 0), SCISSOR_EINVAL);
    assert_int_equal(change(pass, PROTO_OP_SET_PRIORITY, id, 1001, 0, 0), SCISSOR_EINVAL);
    assert_said("a priority is 1 to 1000, not 1001");
    struct proto_session_stat stat = session_stat(a);
    assert_true(stat.guaranteed_rows == 256 && stat.max_rows == 1024 && stat.priority == 100);
    struct proto_open spec = spec_of(128, 0, "window");
    int b = rig_open(&rig, rig_connect(&rig), &spec);
    assert_int_equal(change(pass, PROTO_OP_SET_PRIORITY, id + 1, 5, 0, 0), SCISSOR_ESTATE);
    rig_jobs(&rig);
    assert_int_equal(change(pass, PROTO_OP_SET_PRIORITY, rig.sessions[b].id, 5, 0, 0), 0);
    assert_int_equal(change(pass, PROTO_OP_CLOSE_SESSION, id, 0, 0, 0), 0);
    assert_int_equal(budget(pass, a, 128, 0), SCISSOR_ECLOSED);
}

static void test_groups(void **state) {
    (void)state;
    rig_init(&rig, 64 * MIB, true);
    const uint8_t *pass = rig_operator(&rig);
    struct proto_open spec = spec_of(128, 4096, "window");
    spec.groups[1] = spec.groups[0];
    spec.groups[1].max_rows = 256;
    spec.group_count = 2;
    int a = rig_open_now(&rig, rig_connect(&rig), &spec);
    settle_until(a, 1024);
    assert_int_equal(change(pass, PROTO_OP_SET_BUDGET, rig.sessions[a].id, 0, 512, 0), 0);
    rig_jobs(&rig);
    assert_int_equal(rig_head(&rig.sessions[a], 0)[0], 448);
    assert_int_equal(rig_head(&rig.sessions[a], 4)[0], 192);
    /* One of them cannot: neither does. */
    assert_int_equal(budget(pass, a, 0, 300), SCISSOR_EINVAL);
    assert_said("group 1");
    assert_int_equal(session_stat(a).max_rows, 512);
    int b = rig_open_now(&rig, rig_connect(&rig), &spec);
    struct proto_group_stat g[4];
    rig_control(&rig, PROTO_OP_GROUPS, 0, 0, NULL);
    assert_int_equal(rig.answer.count, 4);
    memcpy(g, rig.answer_entries, sizeof g);
    for (uint32_t i = 0; i < 4; i++) {
        assert_int_equal(g[i].session, rig.sessions[i < 2 ? a : b].id);
        assert_int_equal(g[i].group, i % 2);
        assert_int_equal(g[i].first_layer, i % 2 * 2);
        assert_int_equal(g[i].guaranteed_rows, 128);
        assert_string_equal(g[i].policy, "window");
    }
    assert_int_equal(g[0].max_rows, 512);
    assert_int_equal(g[1].max_rows, 256);
    rig_control(&rig, PROTO_OP_GROUPS, rig.sessions[b].id, 0, NULL);
    assert_int_equal(rig.answer.count, 2);
    memcpy(g, rig.answer_entries, 2 * sizeof *g);
    assert_int_equal(g[0].session, rig.sessions[b].id);
    assert_int_equal(g[0].max_rows, 4096);
    rig_control(&rig, PROTO_OP_GROUPS, 999, 0, NULL);
    assert_int_equal(rig.answer.code, SCISSOR_ENOSESSION);
}

/* ---------- priority ---------- */

/* Settles with scores, so that the rows are worth something. */
static void settle_scored(int s, uint64_t tokens) {
    while (rig.sessions[s].tokens < tokens) {
        broker_score(rig.broker, frame, make_frame(s, 64, 64, 0.5f), rig.now);
        settle_until(s, rig.sessions[s].tokens + 64);
    }
}

/* Of two equals the one with the lower priority gives; a new priority counts without another settle. */
static void test_priority(void **state) {
    (void)state;
    rig_init(&rig, 64 * MIB, true);
    const uint8_t *pass = rig_operator(&rig);
    int a = open_f32(128, 2048, "h2o"), b = open_f32(128, 2048, "h2o");
    settle_scored(a, 2048);
    settle_scored(b, 2048);
    uint32_t all = held(a);
    assert_int_equal(held(b), all);
    assert_int_equal(change(pass, PROTO_OP_SET_POOL, 0, 0, stat_now().charged_bytes, 0), 0);
    assert_int_equal(change(pass, PROTO_OP_SET_PRIORITY, rig.sessions[a].id, 1000, 0, 0), 0);
    struct proto_open spec = spec_of(80, 0, "window");
    assert_true(rig_open_now(&rig, rig_connect(&rig), &spec) >= 0);
    uint32_t left = held(b);
    assert_int_equal(held(a), all);
    assert_true(left < all);
    assert_int_equal(change(pass, PROTO_OP_SET_PRIORITY, rig.sessions[a].id, 1, 0, 0), 0);
    assert_true(rig_open_now(&rig, rig_connect(&rig), &spec) >= 0);
    assert_true(held(a) < all);
    assert_int_equal(held(b), left);
    assert_int_equal(rig.events[PROTO_EVENT_LIMITS], 3);
}

/* ---------- who may ---------- */

static void test_who_may(void **state) {
    (void)state;
    rig_init(&rig, 64 * MIB, true);
    int a = open_f32(256, 1024, "window"); /* RIG_UID's */
    int mine = rig_connect_as(&rig, RIG_UID), other = rig_connect_as(&rig, RIG_UID + 1);
    int owner = rig_connect_as(&rig, RIG_OWNER_UID);
    const uint8_t *my_pass = rig_ask_pass(&rig, mine), *other_pass = rig_ask_pass(&rig, other);
    const uint8_t *owner_pass = rig_ask_pass(&rig, owner);
    uint64_t id = rig.sessions[a].id;

    assert_int_equal(budget(my_pass, a, 128, 512), 0);
    assert_int_equal(budget(my_pass, a, 256, 1024), 0); /* back to what it was opened with */
    assert_int_equal(budget(my_pass, a, 257, 0), SCISSOR_EPERM);
    assert_said("opened with 256 guaranteed rows; only root and the daemon's user may guarantee it 257");
    assert_int_equal(change(my_pass, PROTO_OP_SET_PRIORITY, id, 50, 0, 0), 0);
    assert_int_equal(change(my_pass, PROTO_OP_SET_PRIORITY, id, 101, 0, 0), SCISSOR_EPERM);
    assert_int_equal(change(rig.sessions[a].token, PROTO_OP_SET_PRIORITY, id, 60, 0, 0), 0);
    assert_int_equal(change(my_pass, PROTO_OP_SET_POOL, 0, 0, 32 * MIB, 0), SCISSOR_EPERM);
    assert_said("you are uid 1000; this is for root and the daemon's user (uid 500)");
    assert_int_equal(stat_now().denied, 1);

    assert_int_equal(budget(other_pass, a, 128, 0), SCISSOR_EPERM);
    assert_said("is uid 1000's; you are uid 1001");
    assert_int_equal(change(other_pass, PROTO_OP_SET_PRIORITY, id, 5, 0, 0), SCISSOR_EPERM);
    assert_int_equal(change(other_pass, PROTO_OP_CLOSE_SESSION, id, 0, 0, 0), SCISSOR_EPERM);
    assert_int_equal(stat_now().denied, 4);

    assert_int_equal(budget(owner_pass, a, 512, 0), 0);
    assert_int_equal(budget(my_pass, a, 0, 600), 0); /* the guarantee stays what the operator gave */
    assert_int_equal(change(owner_pass, PROTO_OP_SET_PRIORITY, id, 500, 0, 0), 0);
    assert_int_equal(change(owner_pass, PROTO_OP_SET_POOL, 0, 0, 32 * MIB, 0), 0);
    struct proto_session_stat stat = session_stat(a);
    assert_true(stat.guaranteed_rows == 512 && stat.max_rows == 600 && stat.priority == 500);
    assert_int_equal(stat_now().denied, 4);
}

/* The same request again changes nothing a second time. */
static void test_once(void **state) {
    (void)state;
    rig_init(&rig, 64 * MIB, true);
    struct proto_request r = {.op = PROTO_OP_SET_POOL, .id = 99, .value = {0, 32 * MIB}};
    const uint8_t *pass = rig_operator(&rig);
    memcpy(r.token, pass, sizeof r.token);
    rig_control_to(&rig, r);
    assert_int_equal(rig.answer.code, 0);
    assert_int_equal(change(pass, PROTO_OP_SET_POOL, 0, 0, 48 * MIB, 0), 0);
    rig_control_to(&rig, r);
    assert_int_equal(rig.answer.code, 0);
    assert_int_equal(stat_now().limit_bytes, 48 * MIB);
    assert_int_equal(rig.events[PROTO_EVENT_LIMITS], 2);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_pool_grows, teardown),
        cmocka_unit_test_teardown(test_pool_not_below_guarantees, teardown),
        cmocka_unit_test_teardown(test_pool_shrinks, teardown),
        cmocka_unit_test_teardown(test_opens_while_the_pool_shrinks, teardown),
        cmocka_unit_test_teardown(test_max_is_lowered, teardown),
        cmocka_unit_test_teardown(test_max_is_lowered_in_a_step, teardown),
        cmocka_unit_test_teardown(test_changes_during_a_job, teardown),
        cmocka_unit_test_teardown(test_guarantee, teardown),
        cmocka_unit_test_teardown(test_bad_budgets, teardown),
        cmocka_unit_test_teardown(test_groups, teardown),
        cmocka_unit_test_teardown(test_priority, teardown),
        cmocka_unit_test_teardown(test_who_may, teardown),
        cmocka_unit_test_teardown(test_once, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
