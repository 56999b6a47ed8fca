/* test_broker_failures.c - the k-th allocation fails, for every k, once and for ever; segments, exports and moves
 * fail: nothing leaks, every charge comes back, and the client gets an answer or is hung up. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "alloc.h"
#include "sim/rig.h"

#define MIB (1024ull * 1024)

static struct rig rig;
static bool fade; /* storage dtype of the story's sessions */
static uint8_t frame[PROTO_SCORE_MAX];

static float one(void *context, uint32_t layer, uint32_t kv_head, uint32_t plane, uint32_t slot) {
    (void)context, (void)layer, (void)kv_head, (void)plane, (void)slot;
    return 1;
}

/* A little of everything: opens, frames, growth, a shrink for another open, control requests, closes. */
static void story(void) {
    int peer = rig_connect(&rig);
    struct proto_open spec = rig_spec(2, 2, 256, 64, 192, fade ? 16384 : 2048, "pivotal");
    if (fade)
        spec.storage_dtype = KERNEL_FADE;
    if (peer < 0)
        return;
    int a = rig_open_now(&rig, peer, &spec), b = -1;
    for (int i = 0; i < 9 && a >= 0 && rig.sessions[a].peer >= 0; i++) {
        size_t size = rig_frame(&rig.sessions[a], 0, 2, 64, 64, one, NULL, frame);
        broker_score(rig.broker, frame, size, rig.now);
        rig_act(&rig);
        rig_settle(&rig, a, 64, rig.sessions[a].sequence);
        rig_jobs(&rig);
        broker_check(rig.broker);
    }
    if (rig.peers[peer].handle)
        b = rig_open_now(&rig, peer, &spec);
    rig_control(&rig, PROTO_OP_SESSIONS, 0, 0, NULL);
    rig_control(&rig, PROTO_OP_STAT, 0, 0, NULL);
    if (a >= 0 && rig.sessions[a].peer >= 0)
        rig_positions(&rig, a, 0, 0);
    if (b >= 0 && rig.sessions[b].peer >= 0)
        rig_control(&rig, PROTO_OP_CLOSE_SESSION, rig.sessions[b].id, 1, rig.sessions[b].token);
    rig_jobs(&rig);
    if (a >= 0 && rig.sessions[a].peer >= 0)
        rig_close(&rig, a);
    rig_jobs(&rig);
    broker_check(rig.broker);
    for (int i = 0; i < RIG_SESSIONS; i++) /* nobody waits for an answer */
        assert_true(rig.sessions[i].peer < 0 || rig.sessions[i].request == 0);
}

/* True if the story had fewer than k allocations, so that none of them was made to fail. */
static bool nothing_failed(size_t k, size_t failures) {
    bool failed = false;
    for (size_t i = 0; i <= k && !failed; i++) {
        void *probe = scissor_malloc(1);
        failed = !probe;
        scissor_free(probe);
        if (failures == SIZE_MAX)
            return !failed;
    }
    return failed; /* the one that was to fail was still to come */
}

static void fail_every(size_t failures) {
    size_t live = alloc_live(), k = 0;
    bool ended = false;
    for (; !ended; k++) {
        rig_init(&rig, 12 * MIB, k % 2);
        alloc_fail_after(k, failures);
        story();
        ended = nothing_failed(k, failures);
        alloc_fail_never();
        rig_deinit(&rig);
        assert_int_equal(alloc_live(), live);
        assert_true(k < 1000);
    }
    assert_true(k > 100); /* the story was told */
}

static void fail_every_of_both(size_t failures) {
    for (int turn = 0; turn < 2; turn++) {
        fade = turn;
        fail_every(failures);
    }
    fade = false;
}

static void test_each_allocation_once(void **state) {
    (void)state;
    fail_every_of_both(1);
}

static void test_each_allocation_for_ever(void **state) {
    (void)state;
    fail_every_of_both(SIZE_MAX);
}

static void test_new_fails(void **state) {
    (void)state;
    struct broker *broker = NULL;
    size_t live = alloc_live();
    rig_init(&rig, 12 * MIB, true);
    for (size_t k = 0; k < 2; k++) {
        alloc_fail_after(k, 1);
        assert_int_equal(broker_new(&rig.config, &broker), SCISSOR_ENOMEM);
        alloc_fail_never();
    }
    assert_null(broker);
    rig.config.default_policy = "no such";
    assert_int_equal(broker_new(&rig.config, &broker), SCISSOR_EINVAL);
    rig_deinit(&rig);
    assert_int_equal(alloc_live(), live);
}

/* The machine has less memory than the pool says. */
static void test_segments_fail(void **state) {
    (void)state;
    struct proto_pool_stat stat;
    rig_init(&rig, 64 * MIB, true);
    int peer = rig_connect(&rig);
    struct proto_open spec = rig_spec(2, 2, 256, 64, 192, 2048, "streaming");
    rig.device.allocate_fails_after = 0;
    assert_int_equal(rig_open_now(&rig, peer, &spec), -1);
    assert_int_equal(rig.peers[peer].code, SCISSOR_ENOMEM);
    rig.device.allocate_fails_after = UINT64_MAX;
    for (uint64_t k = 0; k < 2; k++) {
        rig.host.allocate_fails_after = k;
        assert_int_equal(rig_open_now(&rig, peer, &spec), -1);
        rig.host.allocate_fails_after = UINT64_MAX;
    }
    broker_pool_stat(rig.broker, 0, rig.now, &stat);
    assert_int_equal(stat.charged_bytes, 0);
    rig.device.allocate_fails_after = 2; /* fresh rows and the first settled segment: it grows no further */
    int s = rig_open_now(&rig, peer, &spec);
    for (int i = 0; i < 10; i++) {
        rig_settle(&rig, s, 64, 0);
        rig_jobs(&rig);
        assert_int_equal(rig.sessions[s].code, 0);
        broker_check(rig.broker);
    }
    assert_int_equal(rig_head(&rig.sessions[s], 0)[0], 256);
    broker_pool_stat(rig.broker, 0, rig.now, &stat);
    assert_int_equal(stat.evicted[PROTO_REASON_PRESSURE], 6 * 64 * 4);
    assert_true(stat.charged_bytes < 5 * MIB);
    rig_deinit(&rig);
}

static void test_exports_fail(void **state) {
    (void)state;
    rig_init(&rig, 64 * MIB, true);
    int peer = rig_connect(&rig);
    struct proto_open spec = rig_spec(2, 2, 256, 64, 192, 2048, "streaming");
    rig.device.export_fails = true;
    assert_int_equal(rig_open_now(&rig, peer, &spec), -1);
    assert_int_equal(rig.peers[peer].code, SCISSOR_ESYSTEM);
    rig.device.export_fails = false;
    rig.host.export_fails = true;
    assert_int_equal(rig_open_now(&rig, peer, &spec), -1);
    assert_int_equal(rig.peers[peer].code, SCISSOR_ESYSTEM);
    rig.host.export_fails = false;
    assert_int_equal(broker_session_count(rig.broker), 0);
    int s = rig_open_now(&rig, peer, &spec);
    rig.device.export_fails = true; /* the client cannot be told of its first settled segment */
    rig_settle(&rig, s, 64, 0);
    rig_jobs(&rig);
    assert_int_equal(rig.hangups, 1);
    assert_int_equal(broker_session_count(rig.broker), 0);
    rig.device.export_fails = false;
    rig_deinit(&rig);
}

static unsigned open_descriptors(void) {
    unsigned count = 0;
    for (int fd = 0; fd < 256; fd++)
        count += fcntl(fd, F_GETFD) >= 0;
    return count;
}

/* Descriptors of packets that are never taken are closed. */
static void test_descriptors(void **state) {
    (void)state;
    unsigned before = open_descriptors();
    rig_init(&rig, 64 * MIB, true);
    rig.device.descriptors = true;
    int peer = rig_connect(&rig);
    struct proto_open spec = rig_spec(8, 8, 256, 64, 1024, 0, "streaming");
    struct broker_action a;
    spec.compute_dtype = spec.storage_dtype = KERNEL_F16;
    spec.groups[0].guaranteed_rows = 128;
    int s = rig_open_now(&rig, peer, &spec);
    assert_true(s >= 0);
    uint64_t seen = rig.descriptors;
    assert_int_equal(seen, 2 + 2); /* two segments of fresh rows, and the two pages */
    rig_settle(&rig, s, 64, 0);
    struct broker_job *job = rig.jobs[0];
    rig.job_count = 0;
    broker_job_run(job);
    broker_job_done(rig.broker, job, rig.now);
    broker_peer_gone(rig.broker, rig.peers[peer].handle, rig.now); /* GROW and SETTLED are still queued */
    rig.peers[peer].handle = NULL;
    while (broker_action_next(rig.broker, &a)) {
        assert_true(a.type == BROKER_ACTION_JOB || a.type == BROKER_ACTION_EVENT);
        if (a.type == BROKER_ACTION_JOB)
            rig.jobs[rig.job_count++] = a.job;
    }
    rig_jobs(&rig);
    rig_deinit(&rig);
    assert_int_equal(open_descriptors(), before);
}

/* A device that fails in the middle of a settle has spoilt the session, and no other. */
static void test_moves_fail(void **state) {
    (void)state;
    rig_init(&rig, 64 * MIB, true);
    int peer = rig_connect(&rig);
    struct proto_open spec = rig_spec(2, 2, 256, 64, 192, 0, "streaming");
    int s = rig_open_now(&rig, peer, &spec), t = rig_open_now(&rig, peer, &spec);
    rig.device.move_fails = true;
    rig_settle(&rig, s, 64, 0);
    rig_jobs(&rig);
    rig.device.move_fails = false;
    assert_true(rig.sessions[s].closed);
    assert_int_equal(broker_session_count(rig.broker), 1);
    rig_settle(&rig, t, 64, 0);
    rig_jobs(&rig);
    assert_int_equal(rig.sessions[t].code, 0);
    rig_deinit(&rig);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_allocation_once),
        cmocka_unit_test(test_each_allocation_for_ever),
        cmocka_unit_test(test_new_fails),
        cmocka_unit_test(test_segments_fail),
        cmocka_unit_test(test_exports_fail),
        cmocka_unit_test(test_descriptors),
        cmocka_unit_test(test_moves_fail),
    };
    return cmocka_run_group_tests_name("broker: failures", tests, NULL, NULL);
}
