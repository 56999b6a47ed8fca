/* test_cuda_ends.c - ends of sessions on a device at awkward moments, and of many: races for the last memory, clients
 * that die at a step of the protocol, closes under work, a device that fails beside a settle; and a daemon that lies.
 */
#include "test_cuda_attack.h"

/* A daemon that lies about devices, events and memory. */
static void test_false_daemon(void **state) {
    char directory[64];
    const char *const argv[] = {"/proc/self/exe", "hears-lies", "-", "-", NULL};
    int status;
    (void)state;
    assert_int_equal(harness_directory(directory, sizeof directory), 0);
    setenv("FAKECUDA_DIR", directory, 1);
    assert_int_equal(harness_run(argv, NULL, &status), 0);
    assert_int_equal(status, 0);
}

/* Of many that want what one can have, one gets it, and the others hear why not. */
static void test_last_memory(void **state) {
    enum { RACERS = 8, ROUNDS = 5, MOST = 16 };
    struct proto_open open;
    struct proto_opened opened;
    uint64_t ids[MOST];
    int fds[RACERS], owner, have = 0;
    (void)state;
    start("24MiB");
    harness_open_default(&open);
    int fd = harness_hello(&daemon_);
    while (have < MOST && harness_open(fd, &open, &opened, NULL) == 0)
        ids[have++] = opened.session;
    assert_in_range(have, 2, MOST - 1);
    for (int i = 0; i < RACERS; i++)
        fds[i] = harness_hello(&daemon_);
    struct proto_pool_stat full = stat_now();
    for (int round = 0; round < ROUNDS; round++) {
        struct proto_close close_it = {.session = ids[have - 1]};
        assert_int_equal(harness_send_message(owner = round ? owner : fd, PROTO_CLOSE, 9, &close_it), 0);
        assert_int_equal(harness_expect(owner, PROTO_CLOSED, 9, NULL, 0, NULL), 0);
        for (int i = 0; i < RACERS; i++)
            assert_int_equal(harness_send_message(fds[i], PROTO_OPEN, 3, &open), 0);
        owner = -1;
        for (int i = 0; i < RACERS; i++) {
            struct proto_failed failed = {.code = 0};
            if (harness_expect(fds[i], PROTO_OPENED, 3, &opened, sizeof opened, &failed) == 0) {
                assert_int_equal(owner, -1);
                owner = fds[i];
                ids[have - 1] = opened.session;
            } else {
                assert_true(failed.code == SCISSOR_FULL || failed.code == SCISSOR_BUSY);
                assert_non_null(strstr(failed.text, "are promised"));
            }
        }
        assert_int_not_equal(owner, -1);
        struct proto_pool_stat now = stat_now();
        assert_int_equal(now.charged_bytes, full.charged_bytes);
        assert_int_equal(now.segments, full.segments);
    }
    close_session(owner, ids[have - 1]);
    for (int i = 0; i < RACERS; i++)
        if (fds[i] != owner)
            close(fds[i]);
    for (int i = 0; i < have - 2; i++) {
        struct proto_close close_it = {.session = ids[i]};
        assert_int_equal(harness_send_message(fd, PROTO_CLOSE, 9, &close_it), 0);
        assert_int_equal(harness_expect(fd, PROTO_CLOSED, 9, NULL, 0, NULL), 0);
    }
    close_session(fd, ids[have - 2]);
    stop();
}

/* The device fails in one session's settle, while another's waits for its scores and a third one rests: all three hear
 * of it, and the daemon is well. */
static void test_fails_beside_a_settle(void **state) {
    struct proto_open open;
    struct proto_opened opened[3];
    struct proto_closed closed;
    int fds[3];
    (void)state;
    setenv("FAKECUDA_FAIL", "cuLaunchKernel:8:700", 1); /* two of each open */
    start("64MiB");
    unsetenv("FAKECUDA_FAIL");
    harness_open_default(&open);
    for (int i = 0; i < 3; i++) {
        fds[i] = harness_hello(&daemon_);
        assert_int_equal(harness_open(fds[i], &open, &opened[i], NULL), 0);
    }
    for (int i = 1, r = 0; r == 0; i++) {
        struct proto_settle waits = {.session = opened[0].session, .rows = 16, .score_sequence = (uint64_t)i * 1000};
        struct proto_failed failed[2] = {{.code = 0}};
        assert_in_range(i, 1, 8);
        assert_int_equal(harness_send_message(fds[0], PROTO_SETTLE, 5, &waits), 0);
        r = harness_settle(fds[1], opened[1].session, 0, 16, &(struct proto_settled){0});
        int other = harness_expect(fds[0], PROTO_SETTLED, 5, NULL, 0, &failed[0]);
        assert_true(other == 0 || failed[0].code == SCISSOR_EDEVICELOST);
        assert_true(r == 0 || other < 0);
        r = r ? r : other;
    }
    assert_int_equal(harness_expect(fds[2], PROTO_CLOSED, 0, &closed, sizeof closed, NULL), 0);
    assert_int_equal(closed.code, SCISSOR_EDEVICELOST);
    assert_true(has_said("the device has failed"));
    for (int i = 0; i < 3; i++)
        close(fds[i]);
    assert_int_equal(harness_wait_sessions(&daemon_, 0, HARNESS_PATIENCE_MS), 0);
    struct proto_pool_stat stat = stat_now();
    assert_int_equal(stat.charged_bytes + stat.quarantined_bytes + stat.guaranteed_bytes + stat.segments, 0);
    assert_true(stat.device_lost && tool_says("stat", "") && tool_says("sessions", "") && tool_says("memory", ""));
    assert_int_equal(harness_stop(&daemon_), 0);
}

/* Clients die where the daemon waits for them, or has just asked or told them something. */
static void test_killed_at_steps(void **state) {
    static const char *const steps[] = {"dies-unanswered", "dies-recorded", "dies-settling", "dies-closing"};
    struct proto_open want = attackers_open(256, 256);
    struct proto_opened opened;
    (void)state;
    start("24MiB");
    setenv("FAKECUDA_DELAY_US", "100000", 1);
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
        harness_kill(start_role(steps[i]));
        assert_int_equal(harness_wait_sessions(&daemon_, 0, HARNESS_PATIENCE_MS), 0);
        assert_int_equal(stat_now().charged_bytes, 0);
    }
    /* Asked to release what another one needs. */
    pid_t pid = start_role("dies-asked");
    int fd = harness_hello(&daemon_);
    want.wait_ms = 10000;
    assert_int_equal(harness_send_message(fd, PROTO_OPEN, 7, &want), 0);
    harness_sleep_ms(100);
    assert_true(tool_says("memory", "  6.0 MiB  ")); /* that are leaving */
    harness_kill(pid);
    assert_int_equal(harness_expect(fd, PROTO_OPENED, 7, &opened, sizeof opened, NULL), 0);
    close_session(fd, opened.session);
    assert_int_equal(harness_wait_sessions(&daemon_, 0, HARNESS_PATIENCE_MS), 0);
    assert_int_equal(stat_now().charged_bytes, 0);
    /* While the daemon drains. */
    pid = start_role("dies-recorded");
    unsetenv("FAKECUDA_DELAY_US");
    assert_true(tool_says("drain", ""));
    harness_kill(pid);
    assert_int_equal(harness_wait_sessions(&daemon_, 0, HARNESS_PATIENCE_MS), 0);
    assert_int_equal(stat_now().charged_bytes, 0);
    assert_int_equal(harness_stop(&daemon_), 0);
}

/* A session is closed with work queued by its client, and every other one at about the same moment by the operator. */
static void test_closed_under_work(void **state) {
    int status;
    (void)state;
    start("64MiB");
    setenv("FAKECUDA_DELAY_US", "1500", 1);
    pid_t pid = start_role("closes-late");
    unsetenv("FAKECUDA_DELAY_US");
    while (!ended(pid)) {
        char command[48];
        int newest = (int)stat_now().opened;
        snprintf(command, sizeof command, "close %d 2>&1; true", newest);
        if (newest % 2)
            (void)tool_says(command, "");
        else
            harness_sleep_ms(1);
    }
    assert_int_equal(harness_wait(pid, HARNESS_PATIENCE_MS, &status), 0);
    assert_int_equal(status, 0);
    stop();
}

static uint64_t resident_bytes(pid_t pid) {
    char path[64], text[128];
    unsigned long pages = 0;
    snprintf(path, sizeof path, "/proc/%d/statm", (int)pid);
    assert_true(harness_read_file(path, text, sizeof text) > 0 && sscanf(text, "%*u %lu", &pages) == 1);
    return (uint64_t)pages * (uint64_t)sysconf(_SC_PAGESIZE);
}

#ifdef __SANITIZE_ADDRESS__ /* it keeps what is freed for a while */
#define GROWTH_MOST (512ull << 20)
#else
#define GROWTH_MOST (6ull << 20)
#endif

/* Sessions come and go, of one client and of many at once: of all that is there afterwards nothing has grown, but for
 * what the daemon keeps of what is over (its record of events, its allocator's arenas): that has an end. */
static void test_opens(void **state) {
    enum { CLIENTS = 20 };
    pid_t pids[CLIENTS];
    char path[64];
    (void)state;
    use_driver("tests/fakecuda/unwatched"); /* for as many as time allows */
    start("256MiB");
    snprintf(path, sizeof path, "/proc/%d/fd", (int)daemon_.pid);
    setenv("FAKECUDA_DELAY_US", "10", 1);
    pid_t pid = start_role("opens"); /* all is there that comes with a first session */
    uint64_t bytes = resident_bytes(daemon_.pid);
    ends_well(pid);
    assert_int_equal(harness_wait_sessions(&daemon_, 0, HARNESS_PATIENCE_MS), 0);
    unsigned descriptors = attackers_files(path), files = attackers_files(getenv("FAKECUDA_DIR"));
    for (int i = 0; i < CLIENTS; i++)
        pids[i] = start_role("opens-some");
    for (int i = 0; i < CLIENTS; i++)
        ends_well(pids[i]);
    unsetenv("FAKECUDA_DELAY_US");
    assert_int_equal(harness_wait_sessions(&daemon_, 0, HARNESS_PATIENCE_MS), 0);
    assert_in_range(attackers_files(path), descriptors - 1, descriptors + 1);
    assert_int_equal(attackers_files(getenv("FAKECUDA_DIR")), files);
    uint64_t now = resident_bytes(daemon_.pid);
    print_message("%u sessions of one client and of %d clients later the daemon has %lld KiB more\n",
                  ATTACKERS_OPENS + CLIENTS * ATTACKERS_OPENS_SOME, CLIENTS,
                  ((long long)now - (long long)bytes) / 1024);
    assert_true(now < bytes + GROWTH_MOST);
    stop();
    use_driver("tests/fakecuda");
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_false_daemon),          cmocka_unit_test(test_last_memory),
        cmocka_unit_test(test_fails_beside_a_settle), cmocka_unit_test(test_killed_at_steps),
        cmocka_unit_test(test_closed_under_work),     cmocka_unit_test(test_opens),
    };
    return run_attacks(argc, argv, "ends on a device", tests, sizeof tests / sizeof *tests);
}
