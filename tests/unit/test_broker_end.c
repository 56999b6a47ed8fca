/* test_broker_end.c - what a client finds in its memory when the daemon closes its session or ends, whatever it was
 * doing: it must never find the lease free, nor be in the way of a page that goes while it looks at it. With the host's
 * memory.
 */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "control_page.h"
#include "test_broker.h"

/* Mappings that outlive the rig's. */
static struct proto_lease *lease;
static const struct proto_control *control;
static const char *row;
static size_t control_bytes;
static int client, peer;

static void *mapped_again(const void *memory, size_t bytes) {
    void *again = mremap((void *)memory, 0, bytes, MREMAP_MAYMOVE);
    assert_true(again != MAP_FAILED);
    return again;
}

static int start(void **state) {
    (void)state;
    rig_init(&rig, 64 * MIB, true);
    rig.broker = broker_free(rig.broker);
    rig.real = true;
    rig.config.pools[0].backend = rig.config.pools[0].host = kernel_host_backend("reference");
    assert_int_equal(broker_new(&rig.config, &rig.broker), 0);
    struct proto_open spec = rig_spec(2, 2, 64, 16, 64, 64, "streaming");
    peer = rig_connect(&rig);
    client = rig_open_now(&rig, peer, &spec);
    assert_true(client >= 0);
    settle(client, 16);
    const struct rig_session *s = &rig.sessions[client];
    control_bytes = s->control_bytes;
    control = mapped_again(s->control, control_bytes);
    lease = mapped_again(s->lease, PROTO_LEASE_BYTES);
    row = mapped_again(s->segment[PROTO_PAGE_SEGMENT(rig_head(s, 0)[2])], SCISSOR_SEGMENT_BYTES);
    return 0;
}

static int stop(void **state) {
    munmap((void *)control, control_bytes);
    munmap(lease, PROTO_LEASE_BYTES);
    munmap((void *)row, SCISSOR_SEGMENT_BYTES);
    return teardown(state);
}

static bool readable(const void *memory) {
    int status;
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        signal(SIGBUS, SIG_DFL); /* not cmocka's, nor a sanitizer's */
        _exit(*(const volatile char *)memory & 0);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

/* What a client does that has not heard of anything yet. */
static bool step_begins(void) {
    uint32_t expected = PROTO_LEASE_FREE;
    return !__atomic_load_n(&lease->closing, __ATOMIC_RELAXED) &&
           __atomic_compare_exchange_n(&lease->word, &expected, PROTO_LEASE_CLIENT, false, __ATOMIC_ACQUIRE,
                                       __ATOMIC_RELAXED);
}

static void step_ends(void) {
    uint32_t expected = PROTO_LEASE_CLIENT;
    __atomic_compare_exchange_n(&lease->word, &expected, PROTO_LEASE_FREE, false, __ATOMIC_RELEASE, __ATOMIC_RELAXED);
}

static void assert_pages_stay(void) {
    assert_false(step_begins());
    assert_int_equal(lease->word, PROTO_LEASE_DAEMON);
    assert_true(readable(control));
    assert_int_equal(control->magic, PROTO_CONTROL_MAGIC);
}

static void ends(void) {
    broker_drain(rig.broker, rig.now);
    broker_close_all(rig.broker, rig.now);
    rig_act(&rig);
}

static void operator_closes(void) {
    rig_control(&rig, PROTO_OP_CLOSE_SESSION, rig.sessions[client].id, 1, rig_operator(&rig));
    assert_int_equal(rig.answer.code, 0);
}

static void test_ends_in_order(void **state) {
    (void)state;
    ends();
    rig_jobs(&rig);
    assert_true(rig.sessions[client].closed);
    assert_pages_stay();
    rig_disconnect(&rig, peer);
    assert_pages_stay();
    assert_false(readable(row));
}

/* There was no time to close it before the connection ended. */
static void test_ends_before_it_is_closed(void **state) {
    (void)state;
    ends();
    rig_disconnect(&rig, peer);
    rig_jobs(&rig);
    assert_int_equal(broker_session_count(rig.broker), 0);
    assert_pages_stay();
}

/* A step that goes on for longer than the daemon does ends as if nothing had happened. */
static void test_ends_in_a_step(void **state) {
    (void)state;
    assert_true(step_begins());
    ends();
    rig_pass(&rig, 500 * MS);
    rig_jobs(&rig);
    assert_int_equal(broker_session_count(rig.broker), 1);
    rig_disconnect(&rig, peer);
    rig_jobs(&rig);
    assert_int_equal(broker_session_count(rig.broker), 0);
    assert_true(readable(row));
    step_ends();
    assert_pages_stay();
}

/* The same, and its client is still there when the time is up. */
static void test_ends_in_a_longer_step(void **state) {
    (void)state;
    assert_true(step_begins());
    ends();
    rig_jobs(&rig);
    assert_false(rig.sessions[client].closed);
    rig_pass(&rig, 1100 * MS);
    rig_jobs(&rig);
    assert_true(rig.sessions[client].closed);
    assert_true(readable(row));
    step_ends();
    assert_pages_stay();
}

/* A session that was just being opened is no more than refused. */
static void test_ends_while_one_opens(void **state) {
    (void)state;
    struct proto_open spec = rig_spec(2, 2, 64, 16, 64, 64, "streaming");
    int opens = rig_open(&rig, peer, &spec);
    ends();
    rig_jobs(&rig);
    assert_int_equal(rig.sessions[opens].peer, -1);
    assert_true(rig.sessions[client].closed);
    size_t pages = control_bytes + PROTO_LEASE_BYTES;
    assert_in_range(stat_now().charged_bytes, pages, 2 * pages - 1); /* of one session */
}

/* A client that is out of its step for moments alone begins no other one, so the daemon need not meet such a moment. */
static void test_closed_between_steps(void **state) {
    (void)state;
    assert_true(step_begins());
    operator_closes();
    rig_jobs(&rig);
    assert_false(rig.sessions[client].closed);
    step_ends();
    assert_int_equal(lease->word, PROTO_LEASE_FREE);
    assert_false(step_begins());
    rig_pass(&rig, 5 * MS);
    rig_jobs(&rig);
    assert_true(rig.sessions[client].closed);
    assert_pages_stay();
}

/* Of a session that is closed while the daemon goes on, rows go when the step has had its time. No other step begins.
 */
static void test_closed_in_a_long_step(void **state) {
    (void)state;
    assert_true(step_begins());
    operator_closes();
    rig_pass(&rig, 500 * MS);
    rig_jobs(&rig);
    assert_true(readable(row));
    rig_pass(&rig, 600 * MS);
    rig_jobs(&rig);
    assert_true(rig.sessions[client].closed);
    assert_false(readable(row));
    step_ends();
    assert_pages_stay();
}

/* A client may ask for positions in a step: that does not cut short what time the step has. */
static void test_asks_for_positions_in_a_step(void **state) {
    (void)state;
    assert_true(step_begins());
    operator_closes();
    rig_jobs(&rig);
    rig_positions(&rig, client, 0, 0);
    assert_int_equal(rig.sessions[client].code, SCISSOR_ECLOSED);
    rig_jobs(&rig);
    assert_true(readable(row));
    step_ends();
    rig_pass(&rig, 10 * MS);
    rig_jobs(&rig);
    assert_true(rig.sessions[client].closed);
    assert_pages_stay();
}

/* Nor if they cannot be had yet, as a job runs, in either pool; and they are refused at once. */
static void test_positions_wait_for_a_job(void **state) {
    (void)state;
    rig_init_gpu(&rig, 64 * MIB, 64 * MIB);
    for (uint32_t pool = 0; pool < 2; pool++) {
        struct proto_open spec = rig_spec(2, 2, 256, 64, 64 + 64, 64 + 2048, "streaming");
        spec.pool = pool;
        int i = open_spec(&spec);
        struct rig_session *s = &rig.sessions[i];
        for (int k = 0; k < 8; k++) {
            if (s->fence)
                fake_fence_reach(s->fence);
            settle(i, 64);
        }
        fake_device_run(&rig.gpu, UINT64_MAX);
        s->lease->word = PROTO_LEASE_CLIENT;
        struct proto_request lower = {
            .id = 77 + pool, .op = PROTO_OP_SET_BUDGET, .session = s->id, .value = {0, 64 + 64, PROTO_ALL_GROUPS}};
        memcpy(lower.token, s->token, sizeof lower.token);
        rig_control_to(&rig, lower);
        assert_int_equal(rig.answer.code, 0);
        assert_int_equal(rig.job_count, 1);
        rig_positions(&rig, i, 0, 0);
        assert_true(s->request != 0);
        rig_control(&rig, PROTO_OP_CLOSE_SESSION, s->id, 1, rig_operator(&rig));
        rig_job(&rig, 0);
        broker_check(rig.broker);
        rig_jobs(&rig);
        assert_int_equal(s->request, 0);
        assert_int_equal(s->code, SCISSOR_ECLOSED);
        assert_false(s->closed);
        assert_true(s->lease->closing);
        s->lease->word = PROTO_LEASE_FREE;
        rig_pass(&rig, 10 * MS);
        rig_jobs(&rig);
        assert_true(s->closed);
        broker_check(rig.broker);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_ends_in_order, start, stop),
        cmocka_unit_test_setup_teardown(test_ends_before_it_is_closed, start, stop),
        cmocka_unit_test_setup_teardown(test_ends_in_a_step, start, stop),
        cmocka_unit_test_setup_teardown(test_ends_in_a_longer_step, start, stop),
        cmocka_unit_test_setup_teardown(test_ends_while_one_opens, start, stop),
        cmocka_unit_test_setup_teardown(test_closed_between_steps, start, stop),
        cmocka_unit_test_setup_teardown(test_closed_in_a_long_step, start, stop),
        cmocka_unit_test_setup_teardown(test_asks_for_positions_in_a_step, start, stop),
        cmocka_unit_test_teardown(test_positions_wait_for_a_job, teardown),
    };
    return cmocka_run_group_tests_name("broker_end", tests, NULL, NULL);
}
