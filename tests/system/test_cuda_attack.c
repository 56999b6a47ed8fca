/* test_cuda_attack.c - ways in which one client on a device could hurt the daemon or other sessions there, and the
 * daemon its clients by dying. */
#include "test_cuda_attack.h"

#define DEVICE_FAILED 700 /* CUDA_ERROR_ILLEGAL_ADDRESS */

static int compare_times(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* ---------- tests ---------- */

/* The median time of settles of a session with nothing on its device. */
static uint64_t settle_ns(int fd, uint64_t session) {
    enum { SETTLES = 40 };
    struct proto_settled settled;
    uint64_t took[SETTLES];
    for (int i = 0; i < SETTLES; i++) {
        uint64_t begin = harness_now_ns();
        assert_int_equal(harness_settle(fd, session, 0, 16, &settled), 0);
        took[i] = harness_now_ns() - begin;
    }
    qsort(took, SETTLES, sizeof *took, compare_times);
    return took[SETTLES / 2];
}

/* Settles of others do not wait for those whose work is not done, for each of which a thread may look for 2 ms. */
static void test_never_done(void **state) {
    struct proto_open open;
    struct proto_opened opened;
    struct proto_settled settled;
    (void)state;
    start("512MiB");
    int fd = harness_hello(&daemon_);
    harness_open_default(&open);
    assert_int_equal(harness_open(fd, &open, &opened, NULL), 0);
    assert_int_equal(harness_settle(fd, opened.session, 0, 16, &settled), 0); /* takes memory, which is scrubbed */
    uint64_t alone = settle_ns(fd, opened.session);
    setenv("FAKECUDA_DELAY_US", "60000000", 1);
    pid_t pid = start_role("never-done");
    unsetenv("FAKECUDA_DELAY_US");
    uint64_t beside = settle_ns(fd, opened.session);
    print_message("a settle alone: %.2f ms; beside %d sessions whose work is not done: %.2f ms\n", (double)alone / 1e6,
                  ATTACKERS_NEVER_DONE, (double)beside / 1e6);
    assert_true(beside < 50 * alone);
    harness_kill(pid);
    close_session(fd, opened.session);
    stop();
}

/* Receives SHRINK; the number of segments and their ids. */
static uint32_t expect_shrink(int fd, struct proto_segment_id *ids, uint32_t most) {
    static char packet[PROTO_ATTACH_MAX];
    struct proto_header h = {0};
    while (h.type != PROTO_SHRINK) {
        assert_true(harness_receive(fd, packet, sizeof packet, HARNESS_PATIENCE_MS, NULL, NULL) > 0);
        memcpy(&h, packet, sizeof h);
    }
    assert_in_range(h.count, 1, most);
    memcpy(ids, proto_attach_entries(packet), h.count * sizeof *ids);
    return h.count;
}

static void say_released(int fd, uint64_t session, const struct proto_segment_id *ids, uint32_t count) {
    char packet[PROTO_ATTACH_MAX];
    struct proto_shrink body = {.session = session};
    size_t size = proto_attach_write(packet, sizeof packet, PROTO_RELEASED, 0, &body, ids, (uint16_t)count);
    assert_int_equal(harness_send(fd, packet, size), 0);
}

static int open_lent(const struct proto_open *open, uint32_t settles, uint64_t *ret_session) {
    struct proto_opened opened;
    struct proto_settled settled;
    int fd = harness_hello(&daemon_);
    assert_true(fd >= 0);
    assert_int_equal(harness_open(fd, open, &opened, NULL), 0);
    for (uint32_t i = 0; i < settles; i++)
        assert_int_equal(harness_settle(fd, opened.session, 0, 16, &settled), 0);
    *ret_session = opened.session;
    return fd;
}

/* Segments that nobody has taken, and those of others, are not a client's to give back. */
static void test_released_lies(void **state) {
    enum { LIES = 6 };
    static const struct proto_segment_id lies[LIES] = {{0}, {1}, {2}, {3}, {UINT32_MAX}, {1}};
    struct proto_open open = attackers_open(64, 512);
    struct proto_settled settled;
    uint64_t sessions[2];
    int fds[2];
    (void)state;
    start("64MiB");
    for (int i = 0; i < 2; i++)
        fds[i] = open_lent(&open, 16, &sessions[i]);
    struct proto_pool_stat before = stat_now();
    for (int i = 0; i < 100; i++) {
        say_released(fds[0], sessions[i % 2], lies, LIES);
        for (int k = 0; k < 2; k++)
            assert_int_equal(harness_settle(fds[k], sessions[k], 0, 1, &settled), 0);
    }
    struct proto_pool_stat after = stat_now();
    assert_int_equal(after.sessions, 2);
    assert_true(after.segments >= before.segments && after.charged_bytes >= before.charged_bytes);
    close_session(fds[0], sessions[0]);
    close_session(fds[1], sessions[1]);
    stop();
}

/* Who does not close what was taken from it holds up nobody for long: others give instead, and everybody can see it. */
static void test_never_released(void **state) {
    struct proto_open open = attackers_open(64, 512), want = attackers_open(128, 128);
    struct proto_segment_id ids[8];
    uint64_t liar, other, third;
    (void)state;
    start("24MiB");
    int fds[2] = {open_lent(&open, 20, &liar), open_lent(&open, 16, &other)}, fd = harness_hello(&daemon_);
    struct proto_opened opened;
    want.wait_ms = 10000;
    uint64_t begin = harness_now_ns();
    assert_int_equal(harness_send_message(fd, PROTO_OPEN, 7, &want), 0);
    uint32_t kept = expect_shrink(fds[0], ids, 8);
    assert_true(kept >= 1);
    say_released(fds[1], liar, ids, kept); /* of a session that is not its own */
    for (uint32_t given = 0; given < 3;) { /* some of it before it is seen that the first one does not give */
        uint32_t count = expect_shrink(fds[1], ids, 8);
        given += count;
        for (int i = 0; i < 3; i++) /* and more than once */
            say_released(fds[1], other, ids, count);
    }
    assert_int_equal(harness_expect(fd, PROTO_OPENED, 7, &opened, sizeof opened, NULL), 0);
    third = opened.session;
    print_message("the other one gave, and the third was open, after %.0f ms\n",
                  (double)(harness_now_ns() - begin) / 1e6);
    assert_true(tool_says("memory", "  6.0 MiB  ")); /* that are leaving */
    close_session(fds[0], liar);
    close_session(fds[1], other);
    close_session(fd, third);
    stop();
}

/* Clients die at any moment, of which no other one notices anything. */
static void test_deaths(void **state) {
    enum { DEATHS = 60, CLIENTS = 3 };
    pid_t pids[CLIENTS] = {0};
    (void)state;
    start("32MiB");
    setenv("FAKECUDA_DELAY_US", "100", 1);
    pid_t honest = start_role("borrows");
    for (int i = 0; i < DEATHS; i++) {
        pid_t *pid = &pids[i % CLIENTS];
        if (*pid) {
            assert_false(ended(*pid));
            harness_kill(*pid);
        }
        *pid = start_role("borrows");
        harness_sleep_ms((unsigned)(i * 37 % 90));
    }
    for (int i = 0; i < CLIENTS; i++)
        harness_kill(pids[i]);
    unsetenv("FAKECUDA_DELAY_US");
    uint64_t settles = stat_now().settles;
    assert_int_equal(harness_wait_counter(&daemon_, offsetof(struct proto_pool_stat, settles), settles + 20, 10000), 0);
    assert_false(ended(honest));
    harness_kill(honest);
    stop();
}

/* The whole pool is a stopped process's whose sessions have been closed: others hear that it is full, not for how long;
 * drain and SIGTERM come to an end. */
static void test_stopped_client(void **state) {
    struct proto_open open = attackers_open(64, 64);
    struct proto_opened opened;
    struct proto_failed failed = {.code = 0};
    (void)state;
    start("24MiB");
    pid_t pid = start_role("borrows");
    assert_int_equal(harness_wait_counter(&daemon_, offsetof(struct proto_pool_stat, segments), 9, 5000), 0);
    assert_int_equal(kill(pid, SIGSTOP), 0);
    (void)tool_says("close 1", "");
    for (int i = 2; i < 20 && !stat_now().quarantined; i++) {
        char command[32];
        snprintf(command, sizeof command, "close %d 2>&1; true", i);
        (void)tool_says(command, "");
        harness_sleep_ms(20);
    }
    assert_int_equal(harness_wait_counter(&daemon_, offsetof(struct proto_pool_stat, quarantined_bytes), 1, 5000), 0);
    int fd = harness_hello(&daemon_);
    open.groups[0].guaranteed_rows = open.groups[0].max_rows = 16 + 512;
    assert_true(harness_open(fd, &open, &opened, &failed) < 0);
    print_message("%s\n", failed.text);
    assert_int_equal(failed.code, SCISSOR_BUSY);
    open.wait_ms = 300;
    assert_true(harness_open(fd, &open, &opened, &failed) < 0);
    print_message("%s\n", failed.text);
    open.wait_ms = 60000;
    assert_int_equal(harness_send_message(fd, PROTO_OPEN, 3, &open), 0);
    assert_true(tool_says("drain", ""));
    assert_true(harness_expect(fd, PROTO_OPENED, 3, NULL, 0, &failed) < 0);
    print_message("%s\n", failed.text);
    close(fd);
    uint64_t begin = harness_now_ns();
    assert_int_equal(harness_stop(&daemon_), 0);
    assert_true(harness_now_ns() - begin < 4000000000u);
    harness_kill(pid);
}

/* The daemon dies at any moment: its clients hear of it, and soon, even where work of the daemon's that never ends now
 * is in the way of theirs. */
static void test_daemon_dies(void **state) {
    enum { DEATHS = 8, CLIENTS = 3 };
    pid_t pids[CLIENTS];
    int status;
    uint64_t most = 0;
    (void)state;
    for (int i = 0; i < DEATHS; i++) {
        start("64MiB");
        for (int k = 0; k < CLIENTS; k++)
            pids[k] = start_role("borrows-beside");
        harness_sleep_ms((unsigned)(20 + i * 53 % 200));
        harness_crash(&daemon_);
        uint64_t died = harness_now_ns();
        for (int k = 0; k < CLIENTS; k++) {
            assert_int_equal(harness_wait(pids[k], HARNESS_PATIENCE_MS, &status), 0);
            assert_int_equal(status, 10);
        }
        uint64_t took = harness_now_ns() - died;
        most = took > most ? took : most;
    }
    print_message("the last of %d clients had heard of its daemon's death after %.0f ms at most\n", CLIENTS,
                  (double)most / 1e6);
    assert_true(most < 5000000000u); /* of which a second is for another daemon to come */
}

/* The n-th of all the daemon's calls of the driver fails, in a small life: the daemon does not start and says why, or
 * it lives, answers all, and has everything back, or has lost the device and says so. */
static void life_with_failure(const char *devices, unsigned n, unsigned code) {
    char fail[32];
    int status = -1;
    setenv("FAKECUDA_DIR", devices, 1);
    snprintf(fail, sizeof fail, "*:%u:%u", n, code);
    setenv("FAKECUDA_FAIL", fail, 1);
    memset(&daemon_, 0, sizeof daemon_);
    assert_int_equal(harness_directory(daemon_.base, sizeof daemon_.base), 0);
    snprintf(daemon_.dir, sizeof daemon_.dir, "%s/run", daemon_.base);
    snprintf(daemon_.log, sizeof daemon_.log, "%s/log", daemon_.base);
    const char *const argv[] = {
        harness_program("scissord"), "--dir", daemon_.dir, "--device", "cuda", "--pool", "24MiB", NULL};
    assert_int_equal(harness_spawn(argv, daemon_.log, &daemon_.pid), 0);
    unsetenv("FAKECUDA_FAIL");
    while (!ended(daemon_.pid) && !has_said(": ready; "))
        harness_sleep_ms(2);
    if (ended(daemon_.pid)) {
        assert_int_equal(harness_wait(daemon_.pid, HARNESS_PATIENCE_MS, &status), 0);
        assert_int_equal(status, 1);
        assert_true(has_said("use --device host"));
        return;
    }
    const char *const life[] = {"/proc/self/exe", "lives", "-", daemon_.dir, NULL};
    assert_int_equal(harness_run(life, NULL, &status), 0);
    assert_int_equal(status, 0);
    assert_int_equal(harness_wait_sessions(&daemon_, 0, HARNESS_PATIENCE_MS), 0);
    struct proto_pool_stat stat = stat_now();
    assert_int_equal(stat.charged_bytes + stat.quarantined_bytes + stat.segments, 0);
    assert_true(!stat.device_lost || has_said("the device has failed"));
    assert_true(stat.device_lost || code != DEVICE_FAILED || stat.settles >= 28);
    assert_int_equal(harness_stop(&daemon_), 0);
}

static void test_failures(void **state) {
    static const unsigned grows[] = {72, 73, 74}; /* of a settle whose new segment cannot be exported */
    char devices[64];
    (void)state;
    assert_int_equal(harness_directory(devices, sizeof devices), 0);
    use_driver("tests/fakecuda/unwatched"); /* it is many lives, and not about kernels */
    setenv("FAKECUDA_DELAY_US", "10", 1);
    for (unsigned n = 1; n < 400; n += n < 40 ? 3 : 17)
        life_with_failure(devices, n, n % 2 ? DEVICE_FAILED : CUDA_OUT_OF_MEMORY);
    for (size_t i = 0; i < sizeof grows / sizeof *grows; i++) {
        life_with_failure(devices, grows[i], DEVICE_FAILED);
        life_with_failure(devices, grows[i], CUDA_OUT_OF_MEMORY);
    }
    unsetenv("FAKECUDA_DELAY_US");
    use_driver("tests/fakecuda");
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_never_done),     cmocka_unit_test(test_released_lies),
        cmocka_unit_test(test_never_released), cmocka_unit_test(test_failures),
        cmocka_unit_test(test_stopped_client), cmocka_unit_test(test_deaths),
        cmocka_unit_test(test_daemon_dies),
    };
    return run_attacks(argc, argv, "attacks on a device", tests, sizeof tests / sizeof *tests);
}
