/* test_broker_device.c - sessions on a device that works late and cannot take its memory away: who may open them, what
 * comes after what, when their memory is free again, and what happens when the device fails. Pool 0 is the host's, pool
 * 1 is on the device (sim/fake_device.h, which has rules of its own). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "sim/rig.h"

#define MIB (1024ull * 1024)
#define MS 1000000ull

static struct rig rig;

static int teardown(void **state) {
    (void)state;
    rig_deinit(&rig);
    return 0;
}

static struct proto_pool_stat stat_of(uint32_t pool) {
    struct proto_pool_stat stat;
    broker_check(rig.broker);
    broker_pool_stat(rig.broker, pool, rig.now, &stat);
    return stat;
}

/* 2 MiB of fresh rows and 2 MiB of settled ones, guaranteed, in that pool. */
static struct proto_open four_mib(uint32_t pool) {
    struct proto_open spec = rig_spec(2, 2, 256, 64, 64 + 128, 0, "streaming");
    spec.pool = pool;
    return spec;
}

static int open_in(int peer, uint32_t pool) {
    struct proto_open spec = four_mib(pool);
    int s = rig_open_now(&rig, peer, &spec);
    assert_true(s >= 0);
    return s;
}

/* A step whose work has ended, and its settle. */
static void settle(int s) {
    rig_step_begins(&rig, s);
    rig_step_ends(&rig, s);
    if (rig.sessions[s].fence)
        fake_fence_reach(rig.sessions[s].fence);
    rig_settle(&rig, s, rig.sessions[s].fresh_rows, 0);
    rig_jobs(&rig);
}

static struct proto_session_stat session_of(uint64_t id) {
    struct proto_session_stat all[PROTO_ANSWER_MAX / sizeof(struct proto_session_stat)];
    rig_control(&rig, PROTO_OP_SESSIONS, 0, 0, NULL);
    memcpy(all, rig.answer_entries, rig.answer.count * sizeof *all);
    for (uint32_t i = 0; i < rig.answer.count; i++)
        if (all[i].session == id)
            return all[i];
    return (struct proto_session_stat){0};
}

static struct proto_memory_stat memory_of(uint64_t id) {
    struct proto_memory_stat all[PROTO_ANSWER_MAX / sizeof(struct proto_memory_stat)];
    rig_control(&rig, PROTO_OP_MEMORY, 0, 0, NULL);
    memcpy(all, rig.answer_entries, rig.answer.count * sizeof *all);
    for (uint32_t i = 0; i < rig.answer.count; i++)
        if (all[i].session == id)
            return all[i];
    return (struct proto_memory_stat){0};
}

static void close_by_operator(uint64_t id) {
    static uint64_t number = 900;
    rig_control(&rig, PROTO_OP_CLOSE_SESSION, id, ++number, rig_operator(&rig));
    assert_int_equal(rig.answer.code, 0);
}

/* ---------- who may ---------- */

static void test_capabilities(void **state) {
    (void)state;
    rig_init_gpu(&rig, 16 * MIB, 64 * MIB);
    rig.no_cuda = true;
    int plain = rig_connect(&rig);
    rig.no_cuda = false;
    int able = rig_connect(&rig);
    assert_int_equal(rig.peers[plain].capabilities, PROTO_CAP_HOST);
    assert_int_equal(rig.peers[able].capabilities, PROTO_CAP_HOST | PROTO_CAP_CUDA);

    struct proto_open spec = four_mib(1);
    assert_int_equal(rig_open_now(&rig, plain, &spec), -1);
    assert_int_equal(rig.peers[plain].code, SCISSOR_EINVAL);
    assert_string_equal(rig.peers[plain].text,
                        "the pool is on cuda:GPU-fake, and this client speaks host memory only: build its libscissor "
                        "with nvcc, or run scissord --device host");

    /* Where any will do, it is the one with the most room of those that the client can use. */
    spec.pool = PROTO_ANY_POOL;
    int a = rig_open_now(&rig, plain, &spec), b = rig_open_now(&rig, able, &spec);
    assert_true(a >= 0 && !rig.sessions[a].fence && b >= 0 && rig.sessions[b].fence);
    spec.pool = 2;
    assert_int_equal(rig_open_now(&rig, able, &spec), -1);
    assert_int_equal(rig.peers[able].code, SCISSOR_EINVAL);
}

/* Quantised rows are for the host's memory; that is said when a session is opened. */
static void test_storage(void **state) {
    (void)state;
    rig_init_gpu(&rig, 16 * MIB, 64 * MIB);
    int peer = rig_connect(&rig);
    struct proto_open spec = four_mib(1);
    spec.storage_dtype = KERNEL_FADE;
    assert_int_equal(rig_open_now(&rig, peer, &spec), -1);
    assert_int_equal(rig.peers[peer].code, SCISSOR_EINVAL);
    assert_non_null(strstr(rig.peers[peer].text, "fade"));
    assert_non_null(strstr(rig.peers[peer].text, "cuda:GPU-fake"));
    spec.pool = PROTO_ANY_POOL;
    int s = rig_open_now(&rig, peer, &spec);
    assert_true(s >= 0 && !rig.sessions[s].fence);
}

static void test_host_alone(void **state) {
    (void)state;
    rig_init(&rig, 16 * MIB, true);
    assert_int_equal(rig.peers[rig_connect(&rig)].capabilities, PROTO_CAP_HOST);
}

/* Handles are in the entries: no descriptor but those of the two pages, whose memory is the host's. */
static void test_handles(void **state) {
    (void)state;
    rig_init_gpu(&rig, 16 * MIB, 64 * MIB);
    int s = open_in(rig_connect(&rig), 1);
    assert_int_equal(rig.descriptors, 2);
    assert_int_equal(rig.host.segments, 2);
    assert_int_equal(rig.gpu.fences, 1);
    settle(s);
    assert_int_equal(rig.sessions[s].code, 0);
    assert_int_equal(rig.descriptors, 2);
    assert_int_equal(rig.gpu.segments, 2);
    rig_close(&rig, s);
    rig_jobs(&rig);
    assert_int_equal(rig.gpu.segments + rig.gpu.fences + rig.host.segments, 0);
}

/* ---------- order ---------- */

static void test_settle_waits_for_the_step(void **state) {
    (void)state;
    rig_init_gpu(&rig, 16 * MIB, 64 * MIB);
    int peer = rig_connect(&rig), i = open_in(peer, 1);
    struct rig_session *s = &rig.sessions[i];
    uint64_t charged = stat_of(1).charged_bytes;
    rig_step_ends(&rig, i);
    rig_settle(&rig, i, 64, 0);
    rig_jobs(&rig);
    assert_int_equal(s->code, SCISSOR_ESTATE);
    assert_string_equal(rig.peers[peer].text, "the step's work has not ended on the device; nothing has changed");
    assert_true(rig.gpu.longest_wait_us > 0 && rig.gpu.longest_wait_us <= 5000); /* others want the thread */
    assert_int_equal(s->control->generation, 1);
    assert_int_equal(stat_of(1).charged_bytes, charged);
    assert_int_equal(stat_of(1).settles, 0);
    assert_null(rig.gpu.work);

    rig.gpu.client_is_quick = true;
    rig_settle(&rig, i, 64, 0);
    rig_jobs(&rig);
    assert_int_equal(s->code, 0);
    assert_int_equal(s->settled.generation, 2);
    assert_non_null(rig.gpu.work); /* nobody waited for it */
    rig_step_begins(&rig, i);
    assert_null(rig.gpu.work);
    assert_int_equal(rig.gpu.settled_rows, 4 * 64);
}

/* A period whose scores are lost stays one, however often its settle is tried. */
static void test_lost_scores_are_not_forgotten(void **state) {
    (void)state;
    rig_init_gpu(&rig, 16 * MIB, 64 * MIB);
    int i = open_in(rig_connect(&rig), 1);
    rig_step_ends(&rig, i);
    rig_settle(&rig, i, 64, 3);
    rig_pass(&rig, rig.config.score_wait_ns);
    rig_jobs(&rig);
    assert_int_equal(rig.sessions[i].code, SCISSOR_ESTATE);
    fake_fence_reach(rig.sessions[i].fence);
    rig_settle(&rig, i, 64, 3);
    rig_jobs(&rig);
    assert_int_equal(rig.sessions[i].code, 0);
    assert_int_equal(rig.sessions[i].settled.scores_lost, 1);
}

static void test_shrink_is_put_off(void **state) {
    (void)state;
    rig_init_gpu(&rig, 16 * MIB, 12 * MIB);
    int peer = rig_connect(&rig);
    struct proto_open spec = rig_spec(2, 2, 256, 64, 64 + 128, 2000, "streaming");
    spec.pool = 1;
    int a = rig_open_now(&rig, peer, &spec);
    for (int k = 0; k < 12; k++)
        settle(a);
    assert_true(stat_of(1).lent_bytes > 0);

    rig_step_begins(&rig, a); /* and its work goes on when the lease is free again */
    rig_step_ends(&rig, a);
    spec = four_mib(1);
    spec.wait_ms = 1000;
    int b = rig_open_now(&rig, peer, &spec);
    assert_int_equal(b, -1);
    for (int k = 0; k < 5; k++) {
        rig_pass(&rig, 10 * MS);
        rig_jobs(&rig);
    }
    assert_int_equal(stat_of(1).reclaims, 0);
    assert_int_equal(rig.sessions[a].lease->word, PROTO_LEASE_FREE);
    assert_int_equal(stat_of(1).waiting, 1);
    fake_fence_reach(rig.sessions[a].fence);
    rig_pass(&rig, 10 * MS);
    rig_jobs(&rig);
    assert_true(stat_of(1).reclaims > 0);
    assert_int_equal(stat_of(1).waiting, 1); /* its client has them open */
    rig_released(&rig, a);
    rig_jobs(&rig);
    assert_int_equal(stat_of(1).waiting, 0);
}

/* What a client is told to close and does not is missing for good: others give it, then. */
static void test_one_that_does_not_release(void **state) {
    (void)state;
    rig_init_gpu(&rig, 16 * MIB, 20 * MIB);
    int deaf = rig_connect(&rig), other = rig_connect(&rig);
    struct proto_open spec = rig_spec(2, 2, 256, 64, 64 + 128, 2000, "streaming");
    spec.pool = 1;
    int a = rig_open_now(&rig, deaf, &spec), b = rig_open_now(&rig, other, &spec);
    for (int k = 0; k < 12; k++) {
        settle(a);
        settle(b);
    }
    spec = four_mib(1);
    spec.wait_ms = 60000;
    int c = rig_open(&rig, other, &spec);
    rig_jobs(&rig);
    uint64_t taken = stat_of(1).reclaims;
    assert_true(taken > 0 && rig.sessions[a].release_count == taken && rig.sessions[b].release_count == 0);
    uint64_t told = rig.now;
    for (int k = 0; k < 15; k++) { /* it may be on its way */
        rig_pass(&rig, 10 * MS);
        rig_jobs(&rig);
    }
    assert_int_equal(stat_of(1).reclaims, taken);
    for (int k = 0; k < 100; k++) {
        rig_pass(&rig, 10 * MS);
        rig_jobs(&rig);
    }
    assert_true(rig.sessions[b].release_count > 0 && !rig.sessions[c].opened);
    rig_released(&rig, b);
    rig_jobs(&rig);
    assert_true(rig.sessions[c].opened);
    assert_int_equal(session_of(rig.sessions[b].id).quarantine_s, 0);
    rig_pass(&rig, 10000 * MS);
    rig_jobs(&rig);
    uint32_t since = (uint32_t)((rig.now - told) / (1000 * MS));
    assert_true(since >= 10);
    assert_int_equal(session_of(rig.sessions[a].id).quarantine_s, since);
    assert_int_equal(session_of(rig.sessions[b].id).quarantine_s, 0);
    rig_released(&rig, a);
    assert_int_equal(session_of(rig.sessions[a].id).quarantine_s, 0);
}

/* ---------- quarantine ---------- */

static void test_dead_connection(void **state) {
    (void)state;
    rig_init_gpu(&rig, 16 * MIB, 10 * MIB);
    int peer = rig_connect(&rig), other = rig_connect(&rig), s = open_in(peer, 1);
    settle(s);
    uint64_t id = rig.sessions[s].id, charged = stat_of(1).charged_bytes;
    rig_step_ends(&rig, s); /* never reached */
    rig_hang_up(&rig, peer);
    rig_jobs(&rig);
    struct proto_pool_stat stat = stat_of(1);
    assert_int_equal(stat.charged_bytes, charged);
    assert_int_equal(stat.quarantined_bytes, charged);
    assert_int_equal(stat.quarantined, 1);
    assert_int_equal(stat.guaranteed_bytes, 0);
    assert_int_equal(rig.gpu.segments, 2);
    assert_int_equal(rig.events[PROTO_EVENT_QUARANTINED], 1);
    assert_int_equal(rig.events[PROTO_EVENT_CLOSED], 0);
    assert_int_equal(session_of(id).state, PROTO_SESSION_QUARANTINED);
    assert_int_equal(memory_of(id).quarantined_bytes, 4 * MIB);
    assert_int_equal(memory_of(id).fresh_bytes + memory_of(id).used_bytes + memory_of(id).free_bytes, 0);

    /* It counts against the pool, and an open that it stands in the way of is told so. */
    struct proto_open large = rig_spec(2, 2, 256, 64, 64 + 512, 0, "streaming");
    large.pool = 1;
    assert_int_equal(rig_open_now(&rig, other, &large), -1);
    assert_int_equal(rig.peers[other].code, SCISSOR_BUSY);
    assert_non_null(strstr(rig.peers[other].text, "in quarantine"));
    large.wait_ms = 60000;
    int waits = rig_open(&rig, other, &large);
    rig_pass(&rig, 11000 * MS);
    rig_jobs(&rig);
    assert_int_equal(session_of(id).quarantine_s, 11);
    assert_false(rig.sessions[waits].opened);
    rig_exit(&rig, peer);
    rig_pass(&rig, 250 * MS);
    rig_jobs(&rig);
    assert_true(rig.sessions[waits].opened);
    assert_int_equal(stat_of(1).quarantined_bytes, 0);
    assert_int_equal(rig.events[PROTO_EVENT_CLOSED], 1);
    assert_int_equal(broker_deadline(rig.broker), UINT64_MAX);
}

/* Most deaths are of the whole process: then there is nothing to wait for. */
static void test_dead_process(void **state) {
    (void)state;
    rig_init_gpu(&rig, 16 * MIB, 10 * MIB);
    int peer = rig_connect(&rig);
    settle(open_in(peer, 1));
    rig_disconnect(&rig, peer);
    rig_jobs(&rig);
    assert_int_equal(rig.events[PROTO_EVENT_QUARANTINED], 0);
    assert_int_equal(stat_of(1).charged_bytes, 0);
    assert_int_equal(rig.gpu.segments, 0);
}

static void test_operator(void **state) {
    (void)state;
    rig_init_gpu(&rig, 16 * MIB, 10 * MIB);
    int peer = rig_connect(&rig), i = open_in(peer, 1);
    struct rig_session *s = &rig.sessions[i];
    uint64_t id = s->id;
    settle(i);
    s->lease->word = PROTO_LEASE_CLIENT; /* it may end its step */
    close_by_operator(id);
    rig_pass(&rig, 20 * MS);
    assert_false(s->closed);
    s->lease->word = PROTO_LEASE_FREE;
    rig_pass(&rig, 20 * MS);
    assert_true(s->closed);
    assert_int_equal(s->code, SCISSOR_ECLOSED);
    assert_int_equal(s->lease->word, PROTO_LEASE_DAEMON);
    assert_int_equal(stat_of(1).quarantined, 1);
    assert_int_equal(broker_deadline(rig.broker), UINT64_MAX);

    rig_settle(&rig, i, 64, 0);
    assert_int_equal(rig.peers[peer].code, SCISSOR_ENOSESSION);
    assert_int_equal(stat_of(1).quarantined, 1);
    assert_int_equal(stat_of(1).sessions, 0);
    rig_control(&rig, PROTO_OP_CLOSE_SESSION, id, 1, rig_operator(&rig));
    assert_int_equal(rig.answer.code, SCISSOR_ENOSESSION);
    assert_non_null(strstr(rig.answer.text, "is closed already; its memory is in quarantine until process "));
    rig_close(&rig, i);
    rig_jobs(&rig);
    assert_int_equal(s->peer, -1); /* answered */
    assert_int_equal(stat_of(1).charged_bytes, 0);
    assert_int_equal(rig.gpu.segments + rig.host.segments, 0);
    assert_int_equal(stat_of(1).evicted[PROTO_REASON_OPERATOR], 4 * 64);
}

/* One that does not end its step is closed all the same, and its memory is there until its process is gone. */
static void test_operator_and_a_deaf_client(void **state) {
    (void)state;
    rig_init_gpu(&rig, 16 * MIB, 10 * MIB);
    int peer = rig_connect(&rig), i = open_in(peer, 1);
    rig.sessions[i].lease->word = PROTO_LEASE_CLIENT;
    close_by_operator(rig.sessions[i].id);
    for (int k = 0; k < 300; k++)
        rig_pass(&rig, 5 * MS);
    assert_true(rig.sessions[i].closed);
    assert_int_equal(rig.sessions[i].lease->word, PROTO_LEASE_DAEMON);
    assert_int_equal(stat_of(1).quarantined, 1);
    rig_hang_up(&rig, peer);
    rig_jobs(&rig);
    assert_int_equal(stat_of(1).quarantined, 1);
    rig_exit(&rig, peer);
    rig_pass(&rig, 250 * MS);
    rig_jobs(&rig);
    assert_int_equal(stat_of(1).charged_bytes, 0);
}

/* What no client was told of, none has open. */
static void test_never_told(void **state) {
    (void)state;
    rig_init_gpu(&rig, 16 * MIB, 10 * MIB);
    int peer = rig_connect(&rig);
    struct proto_open spec = four_mib(1);
    rig.gpu.export_fails = true;
    assert_int_equal(rig_open_now(&rig, peer, &spec), -1);
    assert_int_equal(rig.peers[peer].code, SCISSOR_ESYSTEM);
    assert_int_equal(stat_of(1).charged_bytes, 0);
    rig.gpu.export_fails = false;
    (void)rig_open(&rig, peer, &spec);
    rig_hang_up(&rig, peer);
    rig_jobs(&rig);
    assert_int_equal(stat_of(1).charged_bytes, 0);
    assert_int_equal(rig.gpu.segments + rig.gpu.fences, 0);
    assert_int_equal(rig.events[PROTO_EVENT_QUARANTINED], 0);
    rig_exit(&rig, peer);
}

/* An end of the daemon does not wait for it; the driver frees it with the process. */
static void test_end_of_the_daemon(void **state) {
    (void)state;
    rig_init_gpu(&rig, 16 * MIB, 10 * MIB);
    int peer = rig_connect(&rig);
    settle(open_in(peer, 1));
    rig_hang_up(&rig, peer);
    rig_jobs(&rig);
    assert_true(broker_is_quiet(rig.broker));
    rig.gpu.ending = true;
    rig.broker = broker_free(rig.broker);
    assert_int_equal(rig.gpu.segments, 2);
    fake_device_end(&rig.gpu);
    assert_int_equal(rig.host.segments, 0);
    assert_int_equal(broker_new(&rig.config, &rig.broker), 0);
}

/* A session that a failed move has broken is told so, and its memory waits like any other's. */
static void test_failed_move(void **state) {
    (void)state;
    rig_init_gpu(&rig, 16 * MIB, 10 * MIB);
    int peer = rig_connect(&rig), i = open_in(peer, 1);
    rig.gpu.move_fails = true;
    settle(i);
    assert_int_equal(rig.peers[peer].code, SCISSOR_ESYSTEM);
    assert_true(rig.sessions[i].closed);
    assert_int_equal(stat_of(1).quarantined, 1);
    assert_int_equal(stat_of(1).device_lost, 0);
    rig_close(&rig, i);
    rig_jobs(&rig);
    assert_int_equal(stat_of(1).charged_bytes, 0);
}

/* ---------- the device fails ---------- */

static void test_lost(void **state) {
    (void)state;
    rig_init_gpu(&rig, 16 * MIB, 16 * MIB);
    int peer = rig_connect(&rig), other = rig_connect(&rig), gone = rig_connect(&rig);
    int a = open_in(peer, 1), b = open_in(other, 1), host = open_in(peer, 0), dead = open_in(gone, 1);
    (void)dead;
    rig_hang_up(&rig, gone);
    struct proto_open spec = rig_spec(2, 2, 256, 64, 64 + 512, 0, "streaming");
    spec.pool = 1;
    spec.wait_ms = 60000;
    (void)rig_open(&rig, other, &spec);
    assert_int_equal(stat_of(1).waiting, 1);
    rig.sessions[b].lease->word = PROTO_LEASE_CLIENT; /* in a step: that changes nothing */
    assert_null(broker_pool_lost(rig.broker, 1));

    rig.gpu.client_is_quick = true;
    rig_settle(&rig, a, 64, 0);
    fake_device_lose(&rig.gpu);
    rig_jobs(&rig);
    assert_int_equal(rig.sessions[a].code, SCISSOR_EDEVICELOST);
    assert_true(rig.sessions[a].closed && rig.sessions[b].closed && !rig.sessions[host].closed);
    assert_int_equal(rig.sessions[b].code, SCISSOR_EDEVICELOST);
    assert_int_equal(rig.peers[other].code, SCISSOR_EDEVICELOST); /* that waited */
    assert_int_equal(rig.events[PROTO_EVENT_DEVICE_LOST], 1);
    assert_non_null(broker_pool_lost(rig.broker, 1));
    struct proto_pool_stat stat = stat_of(1);
    assert_int_equal(stat.device_lost, 1);
    assert_int_equal(stat.sessions + stat.waiting + stat.quarantined, 0);
    assert_int_equal(stat.segments, 0);
    assert_int_equal(stat.evicted[PROTO_REASON_OPERATOR], 0);

    settle(host);
    assert_int_equal(rig.sessions[host].code, 0);
    spec = four_mib(1);
    assert_int_equal(rig_open_now(&rig, peer, &spec), -1);
    assert_int_equal(rig.peers[peer].code, SCISSOR_EDEVICELOST);
    assert_non_null(strstr(rig.peers[peer].text, "cuda:GPU-fake"));
    spec.pool = PROTO_ANY_POOL;
    int c = rig_open_now(&rig, peer, &spec);
    assert_true(c >= 0 && !rig.sessions[c].fence);

    rig_close(&rig, a);
    rig_jobs(&rig);
    assert_int_equal(rig.peers[peer].code, SCISSOR_EDEVICELOST);
    rig_exit(&rig, gone);
}

/* The open that meets it, and one whose memory is there already. */
static void test_lost_while_opening(void **state) {
    (void)state;
    rig_init_gpu(&rig, 16 * MIB, 16 * MIB);
    int peer = rig_connect(&rig);
    struct proto_open spec = four_mib(1);
    int a = rig_open(&rig, peer, &spec);
    broker_job_run(rig.jobs[0]);
    fake_device_lose(&rig.gpu);
    struct broker_job *job = rig.jobs[0];
    rig.job_count = 0;
    int b = rig_open(&rig, peer, &spec);
    rig_jobs(&rig);
    assert_int_equal(rig.sessions[b].peer, -1);
    assert_int_equal(rig.peers[peer].code, SCISSOR_EDEVICELOST);
    broker_job_done(rig.broker, job, rig.now);
    rig_jobs(&rig);
    assert_int_equal(rig.sessions[a].peer, -1);
    assert_int_equal(rig.peers[peer].code, SCISSOR_EDEVICELOST);
    assert_int_equal(stat_of(1).charged_bytes, 0);
}

/* ---------- the next process ---------- */

static void test_kept_beside_it(void **state) {
    struct fake_store store;
    (void)state;
    fake_store_init(&store, FAKE_STORE_MAX);
    rig_init_kept(&rig, 16 * MIB, &store, false);
    rig.broker = broker_free(rig.broker);
    rig_add_gpu(&rig, 16 * MIB);
    assert_int_equal(broker_new(&rig.config, &rig.broker), 0);
    int peer = rig_connect(&rig);
    assert_int_equal(rig.peers[peer].capabilities, PROTO_CAP_HOST | PROTO_CAP_CUDA | PROTO_CAP_KEEP);
    int host = open_in(peer, 0), gpu = open_in(peer, 1);
    uint32_t stored = stat_of(0).stored;
    settle(host);
    settle(gpu);
    assert_int_equal(stat_of(0).stored, stored + 1); /* of the host's session alone */
    rig_restart(&rig);
    rig_reconnect(&rig, peer);
    rig_reattach(&rig, host);
    assert_int_equal(rig.sessions[host].code, 0);
    rig_reattach(&rig, gpu);
    assert_int_equal(rig.peers[peer].code, SCISSOR_ERESTARTED);
    settle(host);
    assert_int_equal(rig.sessions[host].code, 0);
    rig_deinit(&rig);
    fake_store_deinit(&store);
    rig_init(&rig, MIB, true); /* for the teardown */
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_capabilities, teardown),
        cmocka_unit_test_teardown(test_storage, teardown),
        cmocka_unit_test_teardown(test_host_alone, teardown),
        cmocka_unit_test_teardown(test_handles, teardown),
        cmocka_unit_test_teardown(test_settle_waits_for_the_step, teardown),
        cmocka_unit_test_teardown(test_lost_scores_are_not_forgotten, teardown),
        cmocka_unit_test_teardown(test_shrink_is_put_off, teardown),
        cmocka_unit_test_teardown(test_one_that_does_not_release, teardown),
        cmocka_unit_test_teardown(test_dead_connection, teardown),
        cmocka_unit_test_teardown(test_dead_process, teardown),
        cmocka_unit_test_teardown(test_operator, teardown),
        cmocka_unit_test_teardown(test_operator_and_a_deaf_client, teardown),
        cmocka_unit_test_teardown(test_never_told, teardown),
        cmocka_unit_test_teardown(test_end_of_the_daemon, teardown),
        cmocka_unit_test_teardown(test_failed_move, teardown),
        cmocka_unit_test_teardown(test_lost, teardown),
        cmocka_unit_test_teardown(test_lost_while_opening, teardown),
        cmocka_unit_test_teardown(test_kept_beside_it, teardown),
    };
    return cmocka_run_group_tests_name("the broker on a device", tests, NULL, NULL);
}
