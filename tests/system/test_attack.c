/* test_attack.c - ways in which one client, or a front that somebody has taken over, could hurt the daemon or others.
 *
 * Each test is an attack that once worked, or that is easy to make work by accident; after each the daemon must serve
 * as before, with nothing charged. */
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "control_page.h"
#include "harness.h"
#include "scissor_error.h"

static struct harness_daemon daemon_;

static const char *const small_pool[] = {"--pool", "16MiB", NULL};

static void start(const char *const *args) {
    assert_int_equal(harness_start(&daemon_, args), 0);
}

/* All is given back, the daemon serves a stranger, and ends in order. */
static void stop(void) {
    struct proto_pool_stat stat;
    struct proto_open open;
    struct proto_opened opened;
    assert_int_equal(harness_wait_sessions(&daemon_, 0, HARNESS_PATIENCE_MS), 0);
    assert_int_equal(harness_stat(&daemon_, &stat), 0);
    assert_int_equal(stat.charged_bytes, 0);
    assert_int_equal(stat.guaranteed_bytes, 0);
    assert_int_equal(stat.segments, 0);
    int fd = harness_hello(&daemon_);
    assert_true(fd >= 0);
    harness_open_default(&open);
    assert_int_equal(harness_open(fd, &open, &opened, NULL), 0);
    close(fd);
    assert_int_equal(harness_stop(&daemon_), 0);
}

/* A group of 16 heads whose pages, one of each head, just fill a segment: 64 rows more are a segment more. */
static struct proto_group segment_group(uint32_t guaranteed_rows, uint32_t max_rows) {
    return (struct proto_group){.layers = 16,
                                .kv_heads = 1,
                                .q_heads = 1,
                                .head_dim = 256,
                                .guaranteed_rows = 16 + guaranteed_rows,
                                .max_rows = 16 + max_rows,
                                .policy = "window"};
}

static struct proto_open segment_open(uint32_t groups, uint32_t guaranteed_rows, uint32_t max_rows) {
    struct proto_open open;
    harness_open_default(&open);
    open.storage_dtype = 0;
    open.group_count = groups;
    for (uint32_t i = 0; i < groups; i++)
        open.groups[i] = segment_group(guaranteed_rows, max_rows);
    return open;
}

/* Opens and maps the lease page. */
static uint64_t open_with_lease(int fd, const struct proto_open *open, struct proto_lease **ret_lease) {
    static char packet[PROTO_ATTACH_MAX];
    struct proto_header h = {0};
    uint64_t session;
    assert_int_equal(harness_send_message(fd, PROTO_OPEN, 5, open), 0);
    while (h.type != PROTO_OPENED) {
        int fds[PROTO_SEGMENTS_PER_MESSAGE];
        uint32_t count = 0;
        assert_true(harness_receive(fd, packet, sizeof packet, HARNESS_PATIENCE_MS, fds, &count) > 0);
        memcpy(&h, packet, sizeof h);
        assert_true(h.type == PROTO_GROW || h.type == PROTO_OPENED);
        if (h.type == PROTO_OPENED)
            *ret_lease = mmap(NULL, PROTO_LEASE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fds[1], 0);
        for (uint32_t i = 0; i < count; i++)
            close(fds[i]);
    }
    assert_ptr_not_equal(*ret_lease, MAP_FAILED);
    memcpy(&session, proto_attach_body(packet), sizeof session);
    return session;
}

static void wait_queued(void) {
    struct proto_pool_stat stat = {0};
    for (int i = 0; stat.waiting != 1; i++) {
        assert_true(i < 2000);
        assert_int_equal(harness_stat(&daemon_, &stat), 0);
        harness_sleep_ms(2);
    }
}

/* One group of a session must shrink, which its client's lease puts off to the next settle; in that settle the other
 * group wants memory that there is not, so that the arbiter looks for idle sessions: not for this one. */
static void test_shrink_and_grow_in_one_settle(void **state) {
    (void)state;
    struct proto_lease *lease;
    struct proto_settled settled;
    if (harness_device()) {
        print_message("SKIP: this client closes nothing, so on a device what is taken from it does not come back\n");
        skip();
    }
    start(small_pool);
    int fd = harness_hello(&daemon_), other = harness_hello(&daemon_);
    struct proto_open open = segment_open(2, 64, 640), want = segment_open(1, 128, 128);
    uint64_t session = open_with_lease(fd, &open, &lease);
    for (int i = 0; i < 8; i++)
        assert_int_equal(harness_settle(fd, session, 0, 16, &settled), 0);
    __atomic_store_n(&lease->word, PROTO_LEASE_CLIENT, __ATOMIC_RELEASE);
    want.wait_ms = 60000;
    assert_int_equal(harness_send_message(other, PROTO_OPEN, 7, &want), 0);
    wait_queued();
    assert_int_equal(harness_settle(fd, session, 0, 16, &settled), 0);
    assert_int_equal(harness_expect(other, PROTO_OPENED, 7, NULL, 0, NULL), 0);
    munmap(lease, PROTO_LEASE_BYTES);
    close(fd);
    close(other);
    stop();
}

/* ---------- a front that is somebody else's ---------- */

/* Its end is asked for, not waited for without end. */
static void test_stopped_front(void **state) {
    (void)state;
    start(NULL);
    kill(harness_front_pid(&daemon_), SIGSTOP);
    assert_int_equal(harness_stop(&daemon_), 0);
}

#define RING_BYTES (4u << 20)
#define RING_TAIL 64 /* where the consumer's word is, see ring.c */

/* The ring outlives the front in a process that it gave the memory to, and is never empty. */
static void test_ring_without_end(void **state) {
    (void)state;
    char path[64];
    start(NULL);
    pid_t front = harness_front_pid(&daemon_);
    snprintf(path, sizeof path, "/proc/%d/fd/4", (int)front);
    int fd = open(path, O_RDWR);
    if (fd < 0) { /* needs the right to look into the front */
        harness_stop(&daemon_);
        print_message("SKIP: needs the right to look into the front\n");
        skip();
    }
    char *ring = mmap(NULL, 4096 + RING_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    assert_ptr_not_equal(ring, MAP_FAILED);
    close(fd);
    for (size_t i = 0; i < RING_BYTES; i += 8) /* frames of four bytes */
        memcpy(ring + 4096 + i, &(uint32_t){4}, 4);
    kill(front, SIGKILL);
    bool met = false;
    for (uint64_t end = harness_now_ns() + 1000000000u; harness_now_ns() < end && !met;) {
        uint64_t tail = __atomic_load_n((uint64_t *)(ring + RING_TAIL), __ATOMIC_SEQ_CST);
        __atomic_store_n((uint64_t *)ring, tail + RING_BYTES, __ATOMIC_SEQ_CST);
        pid_t next = harness_front_pid(&daemon_);
        met = next && next != front;
    }
    assert_true(met);
    munmap(ring, 4096 + RING_BYTES);
    stop();
}

/* ---------- descriptors ---------- */

static void start_with_descriptors(const char *limit) {
    const char *const args[] = {
        "sh",    "-c", "ulimit -n $0; exec \"$@\"", limit, harness_program("scissord"), "--dir", daemon_.dir, "--pool",
        "64MiB", NULL};
    memset(&daemon_, 0, sizeof daemon_);
    assert_int_equal(harness_directory(daemon_.base, sizeof daemon_.base), 0);
    snprintf(daemon_.dir, sizeof daemon_.dir, "%s/run", daemon_.base);
    snprintf(daemon_.log, sizeof daemon_.log, "%s/log", daemon_.base);
    assert_int_equal(harness_spawn(args, daemon_.log, &daemon_.pid), 0);
    assert_int_equal(harness_wait_log(&daemon_, ": ready; ", HARNESS_PATIENCE_MS), 0);
}

/* Whoever takes all connections that there are does not take the descriptors that sessions need. */
static void test_connections_leave_descriptors(void **state) {
    (void)state;
    enum { MANY = 300 };
    int fds[MANY];
    struct proto_settled settled;
    struct proto_opened opened;
    start_with_descriptors("128");
    int fd = harness_hello(&daemon_);
    struct proto_open open = segment_open(1, 256, 256);
    assert_true(fd >= 0);
    for (int i = 0; i < MANY; i++)
        fds[i] = harness_attach(&daemon_);
    assert_int_equal(harness_open(fd, &open, &opened, NULL), 0);
    for (int i = 0; i < 20; i++)
        assert_int_equal(harness_settle(fd, opened.session, 0, 16, &settled), 0);
    for (int i = 0; i < MANY; i++)
        close(fds[i]);
    close(fd);
    stop();
}

/* ---------- time ---------- */

static uint32_t count_opened(int fd, unsigned timeout_ms) {
    static char packet[PROTO_ATTACH_MAX];
    struct proto_header h;
    uint32_t count = 0;
    while (harness_receive(fd, packet, sizeof packet, timeout_ms, NULL, NULL) > 0) {
        memcpy(&h, packet, sizeof h);
        assert_int_not_equal(h.type, PROTO_FAILED);
        count += h.type == PROTO_OPENED;
    }
    return count;
}

/* Sessions of 64 MiB that open keep threads busy, but not all of them: a settle does not stand in line behind them. */
static void test_settle_beside_large_opens(void **state) {
    (void)state;
    enum { LARGE = 6 };
    struct proto_opened opened;
    struct proto_settled settled;
    struct proto_open open, large = segment_open(1, 16, 16);
    start((const char *const[]){"--pool", "600MiB", NULL});
    int fd = harness_hello(&daemon_), other = harness_hello(&daemon_);
    harness_open_default(&open);
    assert_int_equal(harness_open(fd, &open, &opened, NULL), 0);
    large.fresh_rows = 1024;
    large.compute_dtype = 0;
    large.groups[0].layers = 32;
    large.groups[0].guaranteed_rows = large.groups[0].max_rows = 1040;
    for (uint32_t i = 0; i < LARGE; i++)
        assert_int_equal(harness_send_message(other, PROTO_OPEN, 1 + i, &large), 0);
    assert_int_equal(harness_settle(fd, opened.session, 0, 16, &settled), 0);
    assert_in_range(count_opened(other, 0), 0, LARGE / 2);
    close(other);
    close(fd);
    stop();
}

/* ---------- words ---------- */

/* A client's name stands in the log, but makes no line of its own there and does nothing to a terminal. */
static void test_name_in_the_log(void **state) {
    (void)state;
    static char log[1 << 16];
    struct proto_open open;
    struct proto_opened opened;
    start((const char *const[]){"--verbose", NULL});
    int fd = harness_hello(&daemon_);
    harness_open_default(&open);
    strcpy(open.name, "x\nscissord: forged \033[2J");
    assert_int_equal(harness_open(fd, &open, &opened, NULL), 0);
    close(fd);
    assert_int_equal(
        harness_wait_log(&daemon_, harness_device() ? "memory quarantined" : "session closed", HARNESS_PATIENCE_MS), 0);
    assert_true(harness_read_file(daemon_.log, log, sizeof log) > 0);
    assert_null(strstr(log, "\nscissord: forged"));
    assert_null(strchr(log, 033));
    assert_non_null(strstr(log, "x?scissord: forged ?[2J"));
    stop();
}

int main(void) {
    harness_init(100);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shrink_and_grow_in_one_settle),
        cmocka_unit_test(test_stopped_front),
        cmocka_unit_test(test_ring_without_end),
        cmocka_unit_test(test_connections_leave_descriptors),
        cmocka_unit_test(test_settle_beside_large_opens),
        cmocka_unit_test(test_name_in_the_log),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
