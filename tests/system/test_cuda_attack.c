/* test_cuda_attack.c - ways in which one client on a device could hurt the daemon or other sessions there.
 *
 * The daemon is the program, on the driver in tests/fakecuda, which ends it when it frees memory that a client has
 * open. Some clients only speak the protocol and open nothing. The others are this program again with a role as its
 * first argument, as a process opens the driver once; when one has come to where it shall be, it writes a file. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "attention.h"
#include "cuda_attackers.h"
#include "cuda_roles.h"
#include "harness.h"
#include "scissor.h"

#define DEVICE_FAILED 700 /* CUDA_ERROR_ILLEGAL_ADDRESS */

static struct harness_daemon daemon_;

/* ---------- starting and looking ---------- */

static void start(const char *pool) {
    static char directory[64];
    const char *const args[] = {"--device", "cuda", "--pool", pool, "--verbose", NULL};
    assert_int_equal(harness_directory(directory, sizeof directory), 0);
    setenv("FAKECUDA_DIR", directory, 1);
    assert_int_equal(harness_start(&daemon_, args), 0);
}

static pid_t start_role(const char *name) {
    static int count;
    char mark[160];
    pid_t pid = 0;
    uint64_t end = harness_now_ns() + HARNESS_PATIENCE_MS * 1000000ull;
    snprintf(mark, sizeof mark, "%s/mark%d", daemon_.base, count++);
    const char *const argv[] = {"/proc/self/exe", name, mark, daemon_.dir, NULL};
    assert_int_equal(harness_spawn(argv, NULL, &pid), 0);
    while (access(mark, F_OK) < 0) {
        assert_true(harness_now_ns() < end);
        harness_sleep_ms(1);
    }
    return pid;
}

static struct proto_pool_stat stat_now(void) {
    struct proto_pool_stat stat;
    assert_int_equal(harness_stat(&daemon_, &stat), 0);
    return stat;
}

static bool tool_says(const char *asked, const char *text) {
    char command[512], said[8192];
    int status;
    snprintf(command, sizeof command, "%s --dir %s %s", harness_program("scissorctl"), daemon_.dir, asked);
    assert_int_equal(harness_shell(command, HARNESS_PATIENCE_MS, said, sizeof said, &status), 0);
    return strstr(said, text);
}

static bool ended(pid_t pid) {
    siginfo_t info = {0};
    return waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid == pid;
}

static bool has_said(const char *text) {
    char log[4096];
    return harness_read_file(daemon_.log, log, sizeof log) > 0 && strstr(log, text);
}

/* And the connection with it. */
static void close_session(int fd, uint64_t session) {
    struct proto_close close_it = {.session = session};
    assert_int_equal(harness_send_message(fd, PROTO_CLOSE, 9, &close_it), 0);
    assert_int_equal(harness_expect(fd, PROTO_CLOSED, 9, NULL, 0, NULL), 0);
    close(fd);
}

/* All is given back, the daemon serves a stranger, and ends in order. */
static void stop(void) {
    struct proto_open open;
    struct proto_opened opened;
    assert_int_equal(harness_wait_sessions(&daemon_, 0, HARNESS_PATIENCE_MS), 0);
    struct proto_pool_stat stat = stat_now();
    assert_int_equal(stat.charged_bytes + stat.quarantined_bytes + stat.guaranteed_bytes + stat.segments, 0);
    int fd = harness_hello(&daemon_);
    harness_open_default(&open);
    assert_int_equal(harness_open(fd, &open, &opened, NULL), 0);
    close_session(fd, opened.session);
    assert_int_equal(harness_stop(&daemon_), 0);
}

static int compare_times(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* ---------- tests ---------- */

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

/* Settles of others do not wait for those whose work is not done. */
static void test_never_done(void **state) {
    enum { SETTLES = 40 };
    struct proto_open open;
    struct proto_opened opened;
    struct proto_settled settled;
    uint64_t took[SETTLES];
    (void)state;
    start("512MiB");
    setenv("FAKECUDA_DELAY_US", "60000000", 1);
    pid_t pid = start_role("never-done");
    unsetenv("FAKECUDA_DELAY_US");
    int fd = harness_hello(&daemon_);
    harness_open_default(&open);
    assert_int_equal(harness_open(fd, &open, &opened, NULL), 0);
    assert_int_equal(harness_settle(fd, opened.session, 0, 16, &settled), 0); /* takes memory, which is scrubbed */
    for (int i = 0; i < SETTLES; i++) {
        uint64_t begin = harness_now_ns();
        assert_int_equal(harness_settle(fd, opened.session, 0, 16, &settled), 0);
        took[i] = harness_now_ns() - begin;
    }
    qsort(took, SETTLES, sizeof *took, compare_times);
    print_message("a settle beside %d sessions whose work is not done: %.1f ms, at most %.1f ms\n",
                  ATTACKERS_NEVER_DONE, (double)took[SETTLES / 2] / 1e6, (double)took[SETTLES - 1] / 1e6);
    assert_true(took[SETTLES / 2] < 5000000u);
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
    assert_int_equal(kept, 3);
    say_released(fds[1], liar, ids, kept); /* of a session that is not its own */
    uint32_t count = expect_shrink(fds[1], ids, 8);
    for (int i = 0; i < 3; i++) /* and more than once */
        say_released(fds[1], other, ids, count);
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

static void test_opens(void **state) {
    char path[64];
    int status;
    (void)state;
    start("64MiB");
    snprintf(path, sizeof path, "/proc/%d/fd", (int)daemon_.pid);
    setenv("FAKECUDA_DELAY_US", "10", 1);
    pid_t first = start_role("borrows"); /* so that all is there that comes with a first session */
    harness_kill(first);
    assert_int_equal(harness_wait_sessions(&daemon_, 0, HARNESS_PATIENCE_MS), 0);
    unsigned before = attackers_files(path);
    pid_t pid = start_role("opens");
    unsetenv("FAKECUDA_DELAY_US");
    assert_int_equal(harness_wait(pid, HARNESS_PATIENCE_MS, &status), 0);
    assert_int_equal(status, 0);
    assert_int_equal(harness_wait_sessions(&daemon_, 0, HARNESS_PATIENCE_MS), 0);
    assert_in_range(attackers_files(path), before - 1, before + 1);
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
        start("32MiB");
        for (int k = 0; k < CLIENTS; k++)
            pids[k] = start_role("borrows");
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
    setenv("FAKECUDA_DELAY_US", "10", 1);
    for (unsigned n = 1; n < 400; n += n < 40 ? 3 : 17)
        life_with_failure(devices, n, n % 2 ? DEVICE_FAILED : CUDA_OUT_OF_MEMORY);
    for (size_t i = 0; i < sizeof grows / sizeof *grows; i++) {
        life_with_failure(devices, grows[i], DEVICE_FAILED);
        life_with_failure(devices, grows[i], CUDA_OUT_OF_MEMORY);
    }
    unsetenv("FAKECUDA_DELAY_US");
}

/* ---------- the program ---------- */

/* A program that was built without nvcc has no kernels. */
static bool has_kernels(void) {
    char command[256], said[256];
    int status;
    snprintf(command, sizeof command, "%s --version", harness_program("scissord"));
    return harness_shell(command, HARNESS_PATIENCE_MS, said, sizeof said, &status) == 0 && strstr(said, "cuda");
}

static void test_none(void **state) {
    (void)state;
    print_message("SKIP: built without nvcc, so there are no kernels for the driver to run\n");
    skip();
}

int main(int argc, char **argv) {
    char library[256];
    const struct CMUnitTest none[] = {cmocka_unit_test(test_none)}, tests[] = {
                                                                        cmocka_unit_test(test_false_daemon),
                                                                        cmocka_unit_test(test_last_memory),
                                                                        cmocka_unit_test(test_fails_beside_a_settle),
                                                                        cmocka_unit_test(test_killed_at_steps),
                                                                        cmocka_unit_test(test_closed_under_work),
                                                                        cmocka_unit_test(test_never_done),
                                                                        cmocka_unit_test(test_released_lies),
                                                                        cmocka_unit_test(test_never_released),
                                                                        cmocka_unit_test(test_failures),
                                                                        cmocka_unit_test(test_opens),
                                                                        cmocka_unit_test(test_stopped_client),
                                                                        cmocka_unit_test(test_deaths),
                                                                        cmocka_unit_test(test_daemon_dies),
                                                                    };
    if (argc == 4)
        return attackers_play(argv[1], argv[2], argv[3]);
    harness_init(240);
    if (argc == 2)
        cmocka_set_test_filter(argv[1]); /* one test, for looking into it */
    if (!has_kernels())
        return cmocka_run_group_tests_name("attacks on a device", none, NULL, NULL);
    snprintf(library, sizeof library, "%s", harness_program("tests/fakecuda"));
    setenv("LD_LIBRARY_PATH", library, 1); /* for the processes that are started */
    return cmocka_run_group_tests_name("attacks on a device", tests, NULL, NULL);
}
