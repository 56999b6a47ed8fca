/* test_broker_sessions.c - what happens to an open session: scores, settles, positions, its end. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "test_broker.h"

/* Writes 64 rows of V that are all ones, but the first element of the session, and settles them. */
static void settle_ones(int s, float first) {
    struct rig_session *session = &rig.sessions[s];
    uint32_t dtype = session->spec.compute_dtype;
    for (uint32_t head = 0; head < 4; head++)
        for (uint32_t i = 0; i < 64 * 256; i++)
            kernel_store(dtype, rig_fresh(session, head), 64 * 256 + i, head == 0 && i == 0 ? first : 1);
    deliver(make_frame(s, 64, 64, 1));
    settle(s, 64);
}

/* A norm is four more bytes a slot, which are charged; one that is not finite is counted. */
static void test_norms(void **state) {
    (void)state;
    rig_init(&rig, 64 * MIB, true);
    uint64_t charged[4], bytes;
    charged[0] = stat_now().charged_bytes;
    int plain = open_one(192, 0, "h2o"), weighed;
    settle_ones(plain, NAN);
    charged[1] = stat_now().charged_bytes;
    assert_int_equal(stat_now().bad_scores, 0);
    weighed = open_one(192, 0, "pivotal");
    settle_ones(weighed, 1);
    charged[2] = stat_now().charged_bytes;
    assert_int_equal(stat_now().bad_scores, 0);
    bytes = (uint64_t)layout_pages_per_segment(rig.sessions[plain].spec.storage_dtype, 256) * SCISSOR_PAGE_ROWS *
            sizeof(float);
    assert_int_equal(charged[2] - charged[1], charged[1] - charged[0] + bytes);
    settle_ones(weighed, NAN);
    settle_ones(weighed, -INFINITY);
    assert_int_equal(stat_now().bad_scores, 2);
}

/* ---------- scores ---------- */

static void test_settle_waits_for_its_frame(void **state) {
    (void)state;
    rig_init(&rig, 64 * MIB, true);
    int s = open_one(192, 0, "scissorhands");
    size_t size = make_frame(s, 64, 64, 1);
    rig_settle(&rig, s, 64, rig.sessions[s].sequence);
    assert_int_equal(rig.job_count, 0);
    deliver(size);
    assert_int_equal(rig.job_count, 1);
    rig_jobs(&rig);
    assert_int_equal(rig.sessions[s].code, 0);
    assert_int_equal(rig.sessions[s].settled.scores_lost, 0);
    assert_int_equal(rig.sessions[s].settled.generation, 2);

    size = make_frame(s, 64, 64, 1); /* this one is too late */
    rig_settle(&rig, s, 64, rig.sessions[s].sequence);
    rig_pass(&rig, rig.config.score_wait_ns - 1);
    assert_int_equal(rig.job_count, 0);
    rig_pass(&rig, 1);
    assert_int_equal(rig.job_count, 1);
    deliver(size);
    rig_jobs(&rig);
    assert_int_equal(rig.sessions[s].settled.scores_lost, 1);
    struct proto_pool_stat stat = stat_now();
    assert_int_equal(stat.frames[PROTO_FRAME_FOLDED], 1);
    assert_int_equal(stat.frames[PROTO_FRAME_LATE], 1);
    assert_int_equal(stat.scores_lost, 1);
    assert_int_equal(rig.events[PROTO_EVENT_SCORES_LOST], 1);

    make_frame(s, 32, 32, 1); /* never sent: the gap shows */
    deliver(make_frame(s, 32, 64, 1));
    settle(s, 64);
    assert_int_equal(rig.sessions[s].settled.scores_lost, 1);
    deliver(make_frame(s, 64, 64, 1));
    settle(s, 64);
    assert_int_equal(rig.sessions[s].settled.scores_lost, 0);
}

static void poke(size_t offset, uint8_t change) {
    frame[offset] ^= change;
}

static void test_frames_that_do_not_count(void **state) {
    (void)state;
    rig_init(&rig, 64 * MIB, true);
    int s = open_one(192, 0, "scissorhands");
    size_t size = make_frame(s, 60, 60, 1);
    poke(offsetof(struct proto_score, token) + 15, 0x80);
    deliver(size);
    poke(offsetof(struct proto_score, token) + 15, 0x80);
    poke(offsetof(struct proto_score, session), 0x40);
    deliver(size);
    poke(offsetof(struct proto_score, session), 0x40);
    deliver(size - 4); /* cut */
    assert_int_equal(stat_now().frames[PROTO_FRAME_FORGED], 2);
    assert_int_equal(stat_now().frames[PROTO_FRAME_MALFORMED], 1);
    deliver(size);
    assert_int_equal(stat_now().frames[PROTO_FRAME_FOLDED], 1);
    deliver(size); /* once more */
    assert_int_equal(stat_now().frames[PROTO_FRAME_STALE], 1);
    deliver(make_frame(s, 5, 64, 1)); /* 65 rows */
    assert_int_equal(stat_now().frames[PROTO_FRAME_EXCESS], 1);
    size = make_frame(s, 4, 64, 1);
    poke(offsetof(struct proto_score, generation), 2);
    deliver(size);
    assert_int_equal(stat_now().frames[PROTO_FRAME_STALE], 2);
    size = make_frame(s, 4, 64, 1); /* of two layers that say they are one */
    poke(offsetof(struct proto_score, layer_count), 3);
    deliver(size);
    assert_int_equal(stat_now().frames[PROTO_FRAME_MALFORMED], 2);
    deliver(make_frame(s, 4, 64, -1));
    assert_int_equal(stat_now().frames[PROTO_FRAME_FOLDED], 2);
    assert_true(stat_now().bad_scores > 0);
    broker_score_refused(rig.broker, PROTO_FRAME_OVERRUN, 7);
    assert_int_equal(stat_now().frames[PROTO_FRAME_OVERRUN], 7);
}

/* ---------- requests ---------- */

static void test_requests(void **state) {
    (void)state;
    rig_init(&rig, 64 * MIB, true);
    int s = open_one(192, 0, "window"), other = open_one(192, 0, "window");
    struct rig_session *a = &rig.sessions[s];
    rig_settle(&rig, s, 0, 0);
    assert_int_equal(a->code, SCISSOR_EINVAL);
    rig_settle(&rig, s, 65, 0);
    assert_int_equal(a->code, SCISSOR_EINVAL);
    rig_positions(&rig, s, 2, 0);
    assert_int_equal(a->code, SCISSOR_EINVAL);
    rig_positions(&rig, s, 0, 2);
    assert_int_equal(a->code, SCISSOR_EINVAL);
    rig_positions(&rig, s, 1, 1);
    assert_int_equal(a->code, 0);
    assert_int_equal(a->position_count, 0);

    uint64_t mine = a->id;
    a->id = rig.sessions[other].id; /* another connection's session */
    rig_settle(&rig, s, 64, 0);
    assert_int_equal(a->code, SCISSOR_ENOSESSION);
    a->id = mine;

    rig_settle(&rig, s, 64, 0);
    struct proto_settle again = {.session = a->id, .rows = 64};
    rig_send(&rig, a->peer, PROTO_SETTLE, 999999, &again, NULL, 0);
    assert_int_equal(rig.peers[a->peer].code, SCISSOR_ESTATE);
    rig_jobs(&rig);
    settle(s, 64);
    settle(s, 32);
    assert_int_equal(a->settled.evicted_rows, 4 * 32);
    rig_positions(&rig, s, 0, 1);
    assert_int_equal(a->position_count, 128);
    for (uint32_t i = 0; i < 128; i++)
        assert_true(a->positions[i] >= 32 && a->positions[i] < 160);
    assert_int_equal(stat_now().evicted[PROTO_REASON_BUDGET], 4 * 32);
    assert_int_equal(rig.evicted_events, 4 * 32);
}

static void fill(int s, float mass, int times) {
    for (int i = 0; i < times; i++) {
        deliver(make_frame(s, 64, 64, mass));
        settle(s, 64);
    }
}

/* ---------- ends ---------- */

static void test_operator_close(void **state) {
    (void)state;
    rig_init(&rig, 64 * MIB, true);
    const uint8_t *operator= rig_operator(&rig);
    int s = open_one(192, 0, "window");
    struct rig_session *a = &rig.sessions[s];
    uint64_t id = a->id;
    settle(s, 64);
    rig_control(&rig, PROTO_OP_CLOSE_SESSION, id, 1, NULL);
    assert_int_equal(rig.answer.code, SCISSOR_EPERM);
    rig_control(&rig, PROTO_OP_DRAIN, 0, 2, a->token);
    assert_int_equal(rig.answer.code, SCISSOR_EPERM);
    rig_control(&rig, PROTO_OP_CLOSE_SESSION, id, 3, a->token);
    assert_int_equal(rig.answer.code, 0);
    rig_jobs(&rig);
    assert_true(a->closed);
    assert_int_equal(broker_session_count(rig.broker), 0);
    assert_int_equal(stat_now().evicted[PROTO_REASON_OPERATOR], 4 * 64);
    rig_control(&rig, PROTO_OP_CLOSE_SESSION, id, 3, a->token); /* the same request again */
    assert_int_equal(rig.answer.code, 0);
    rig_control(&rig, PROTO_OP_CLOSE_SESSION, id, 4, operator);
    assert_int_equal(rig.answer.code, SCISSOR_ENOSESSION);
    rig_settle(&rig, s, 64, 0);
    assert_int_equal(a->code, SCISSOR_ENOSESSION);
    assert_true(stat_now().charged_bytes > 0); /* the pages that the client may still look at */
    rig_close(&rig, s);
    assert_int_equal(a->peer, -1);
    assert_int_equal(stat_now().charged_bytes, 0);
}

/* The operator's close waits for the end of a step, but not for ever. */
static void test_operator_close_is_polite(void **state) {
    (void)state;
    rig_init(&rig, 64 * MIB, true);
    const uint8_t *operator= rig_operator(&rig);
    int s = open_one(192, 0, "window"), t = open_one(192, 0, "window"), u = open_one(192, 0, "window");
    for (int i = 0; i < 3; i++)
        rig.sessions[i].lease->word = PROTO_LEASE_CLIENT;
    for (int i = 0; i < 3; i++)
        rig_control(&rig, PROTO_OP_CLOSE_SESSION, rig.sessions[i].id, (uint64_t)i + 1, operator);
    rig_jobs(&rig);
    rig_pass(&rig, 20 * MS);
    rig_jobs(&rig);
    assert_int_equal(broker_session_count(rig.broker), 3);
    broker_check(rig.broker);
    rig.sessions[s].lease->word = PROTO_LEASE_FREE; /* the step ends */
    rig_pass(&rig, 20 * MS);
    rig_jobs(&rig);
    assert_true(rig.sessions[s].closed);
    assert_int_equal(rig.sessions[s].lease->word, PROTO_LEASE_DAEMON);
    rig.sessions[t].lease->word = PROTO_LEASE_FREE; /* ends, and the client asks for something */
    rig_settle(&rig, t, 64, 0);
    assert_int_equal(rig.sessions[t].code, SCISSOR_ECLOSED);
    rig_jobs(&rig);
    assert_true(rig.sessions[t].closed);
    assert_false(rig.sessions[u].closed);
    for (int i = 0; i < 20; i++) {
        rig_pass(&rig, 50 * MS);
        rig_jobs(&rig);
    }
    assert_true(rig.sessions[u].closed);
    assert_int_equal(broker_session_count(rig.broker), 0);
}

/* A client that waits for its settle when the operator closes the session gets its answer. */
static void test_operator_close_in_settle(void **state) {
    (void)state;
    rig_init(&rig, 64 * MIB, true);
    int s = open_one(192, 0, "scissorhands"), t = open_one(192, 0, "scissorhands");
    rig_settle(&rig, s, 64, 5); /* waits for scores */
    rig_settle(&rig, t, 64, 0); /* settles */
    rig_control(&rig, PROTO_OP_CLOSE_SESSION, rig.sessions[s].id, 1, rig.sessions[s].token);
    rig_control(&rig, PROTO_OP_CLOSE_SESSION, rig.sessions[t].id, 2, rig.sessions[t].token);
    rig_jobs(&rig);
    assert_int_equal(rig.sessions[s].request, 0);
    assert_int_equal(rig.sessions[t].request, 0);
    assert_true(rig.sessions[s].closed && rig.sessions[t].closed);
    assert_int_equal(broker_session_count(rig.broker), 0);
}

/* A death in every state gives all back. */
static void test_death(void **state) {
    (void)state;
    rig_init(&rig, 64 * MIB, true);
    int opening = rig_connect(&rig);
    struct proto_open spec = rig_spec(2, 2, 256, 64, 192, 0, "scissorhands");
    rig_open(&rig, opening, &spec);
    rig_disconnect(&rig, opening);
    rig_jobs(&rig);
    int s = open_one(192, 0, "scissorhands");
    settle(s, 64);
    rig_settle(&rig, s, 64, 5);
    rig_disconnect(&rig, rig.sessions[s].peer); /* waiting */
    rig_jobs(&rig);
    s = open_one(192, 0, "scissorhands");
    rig_settle(&rig, s, 64, 0);
    rig_disconnect(&rig, rig.sessions[s].peer); /* settling */
    rig_jobs(&rig);
    s = open_one(192, 0, "scissorhands");
    rig_close(&rig, s);
    rig_disconnect(&rig, rig.sessions[s].peer); /* closing */
    rig_jobs(&rig);
    s = open_one(192, 0, "scissorhands");
    rig_control(&rig, PROTO_OP_CLOSE_SESSION, rig.sessions[s].id, 1, rig.sessions[s].token);
    rig_jobs(&rig);
    rig_disconnect(&rig, rig.sessions[s].peer); /* ended */
    assert_int_equal(stat_now().charged_bytes, 0);
    assert_int_equal(stat_now().segments, 0);
    assert_true(stat_now().evicted[PROTO_REASON_DEATH] >= 64 * 4);
    assert_int_equal(broker_session_count(rig.broker), 0);
}

/* ---------- what is shown ---------- */

static void test_control_reads(void **state) {
    struct proto_session_stat session;
    struct proto_head_stat head;
    (void)state;
    rig_init(&rig, 64 * MIB, true);
    int s = open_one(192, 300, "scissorhands"), t = open_one(192, 0, "streaming");
    fill(s, 1, 3);
    rig.sessions[s].lease->fresh_count = 1000;
    rig_control(&rig, PROTO_OP_STAT, 0, 0, NULL);
    assert_int_equal(rig.answer.count, 1);
    rig_control(&rig, PROTO_OP_SESSIONS, 0, 0, NULL);
    assert_int_equal(rig.answer.count, 2);
    memcpy(&session, rig.answer_entries, sizeof session);
    assert_int_equal(session.session, rig.sessions[s].id);
    assert_string_equal(session.policy, "scissorhands");
    assert_int_equal(session.settled_min, 192);
    assert_int_equal(session.fresh_count, 64); /* believed no further than F */
    assert_true(session.lowest_mass > 0);
    assert_int_equal(session.tokens_seen, 192);
    rig_control(&rig, PROTO_OP_SESSION, rig.sessions[s].id, 0, NULL);
    assert_int_equal(rig.answer.total, 4);
    memcpy(&head, rig.answer_entries + 3 * sizeof head, sizeof head);
    assert_int_equal(head.layer, 1);
    assert_int_equal(head.kv_head, 1);
    assert_int_equal(head.settled, 192);
    assert_int_equal(head.newest, 191);
    assert_true(head.lowest_share > 0 && head.lowest_share <= 1);
    rig_settle(&rig, t, 64, 0);
    rig_control(&rig, PROTO_OP_SESSION, rig.sessions[t].id, 0, NULL); /* while its job runs */
    assert_int_equal(rig.answer.count, 4);
    rig_jobs(&rig);
    rig_control(&rig, PROTO_OP_SESSION, 99, 0, NULL);
    assert_int_equal(rig.answer.code, SCISSOR_ENOSESSION);
    rig_control(&rig, 77, 0, 0, NULL);
    assert_int_equal(rig.answer.code, SCISSOR_EPROTO);
    broker_control(rig.broker, "short", 5, 1, rig.now);
    rig_act(&rig);
    assert_int_equal(rig.answer.code, SCISSOR_EPROTO);
}

/* The heads have their numbers from the first moment on. */
static void test_heads_of_a_new_session(void **state) {
    struct proto_head_stat heads[4];
    (void)state;
    rig_init(&rig, 64 * MIB, true);
    int s = open_one(192, 0, "window");
    rig_control(&rig, PROTO_OP_SESSION, rig.sessions[s].id, 0, NULL);
    assert_int_equal(rig.answer.count, 4);
    memcpy(heads, rig.answer_entries, sizeof heads);
    for (uint32_t i = 0; i < 4; i++) {
        assert_int_equal(heads[i].layer, i / 2);
        assert_int_equal(heads[i].kv_head, i % 2);
    }
}

static float scattered(void *context, uint32_t layer, uint32_t kv_head, uint32_t plane, uint32_t slot) {
    (void)context, (void)layer, (void)kv_head, (void)plane;
    return (float)(slot * 2654435761u >> 16) / 65536;
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The value of a session is what its F least important rows carry. */
static void test_lowest_mass(void **state) {
    struct proto_session_stat stat;
    double mass[512 + 64], lowest = 0;
    (void)state;
    rig_init(&rig, 64 * MIB, true);
    struct proto_open spec = rig_spec(1, 1, 64, 64, 192, 1024, "window");
    int s = rig_open_now(&rig, rig_connect(&rig), &spec);
    for (int i = 0; i < 8; i++)
        settle(s, 64);
    deliver(rig_frame(&rig.sessions[s], 0, 1, 64, 64, scattered, NULL, frame));
    settle(s, 64);
    for (uint32_t i = 0; i < 512 + 64; i++)
        mass[i] = scattered(NULL, 0, 0, 0, i) / (i < 512 ? 64 : 64 - (i - 512)); /* a fresh row is seen by fewer */
    qsort(mass, 512 + 64, sizeof *mass, by_value);
    for (uint32_t i = 0; i < 64; i++)
        lowest += mass[i];
    rig_control(&rig, PROTO_OP_SESSIONS, 0, 0, NULL);
    memcpy(&stat, rig.answer_entries, sizeof stat);
    assert_int_equal(stat.settled_min, 512 + 64);
    assert_true(stat.lowest_mass > lowest * 0.9999 && stat.lowest_mass < lowest * 1.0001);
}

/* A client that asks for the end twice gets two answers. */
static void test_close_twice(void **state) {
    (void)state;
    rig_init(&rig, 64 * MIB, true);
    int s = open_one(192, 0, "window"), peer = rig.sessions[s].peer;
    struct proto_close again = {.session = rig.sessions[s].id};
    rig_close(&rig, s);
    rig_send(&rig, peer, PROTO_CLOSE, 999999, &again, NULL, 0);
    assert_int_equal(rig.peers[peer].code, SCISSOR_ESTATE);
    rig_jobs(&rig);
    assert_int_equal(rig.sessions[s].peer, -1); /* its own request was answered */
    assert_int_equal(broker_session_count(rig.broker), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_settle_waits_for_its_frame, teardown),
        cmocka_unit_test_teardown(test_frames_that_do_not_count, teardown),
        cmocka_unit_test_teardown(test_norms, teardown),
        cmocka_unit_test_teardown(test_requests, teardown),
        cmocka_unit_test_teardown(test_operator_close, teardown),
        cmocka_unit_test_teardown(test_operator_close_is_polite, teardown),
        cmocka_unit_test_teardown(test_operator_close_in_settle, teardown),
        cmocka_unit_test_teardown(test_death, teardown),
        cmocka_unit_test_teardown(test_control_reads, teardown),
        cmocka_unit_test_teardown(test_heads_of_a_new_session, teardown),
        cmocka_unit_test_teardown(test_lowest_mass, teardown),
        cmocka_unit_test_teardown(test_close_twice, teardown),
    };
    return cmocka_run_group_tests_name("broker: sessions", tests, NULL, NULL);
}
