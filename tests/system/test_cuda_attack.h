/* test_cuda_attack.h - a daemon on the driver in tests/fakecuda, which ends it when it frees memory that a client has
 * open, for the tests of attacks on it.
 *
 * Some clients only speak the protocol and open nothing. The others are the test's program again with a role as its
 * first argument (cuda_attackers.h), as a process opens the driver once; when one has come to where it shall be, it
 * writes a file. */
#pragma once

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

#include "cuda_attackers.h"
#include "harness.h"
#include "scissor.h"

static struct harness_daemon daemon_;

/* ---------- starting and looking ---------- */

/* For the processes that are started from now on. */
static inline void use_driver(const char *directory) {
    setenv("LD_LIBRARY_PATH", harness_program(directory), 1);
}

static inline void start(const char *pool) {
    static char directory[64];
    const char *const args[] = {"--device", "cuda", "--pool", pool, "--verbose", NULL};
    assert_int_equal(harness_directory(directory, sizeof directory), 0);
    setenv("FAKECUDA_DIR", directory, 1);
    assert_int_equal(harness_start(&daemon_, args), 0);
}

static inline pid_t start_role(const char *name) {
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

static inline struct proto_pool_stat stat_now(void) {
    struct proto_pool_stat stat;
    assert_int_equal(harness_stat(&daemon_, &stat), 0);
    return stat;
}

static inline bool tool_says(const char *asked, const char *text) {
    char command[512], said[8192];
    int status;
    snprintf(command, sizeof command, "%s --dir %s %s", harness_program("scissorctl"), daemon_.dir, asked);
    assert_int_equal(harness_shell(command, HARNESS_PATIENCE_MS, said, sizeof said, &status), 0);
    return strstr(said, text);
}

static inline bool ended(pid_t pid) {
    siginfo_t info = {0};
    return waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid == pid;
}

static inline bool has_said(const char *text) {
    char log[4096];
    return harness_read_file(daemon_.log, log, sizeof log) > 0 && strstr(log, text);
}

/* And the connection with it. */
static inline void close_session(int fd, uint64_t session) {
    struct proto_close close_it = {.session = session};
    assert_int_equal(harness_send_message(fd, PROTO_CLOSE, 9, &close_it), 0);
    assert_int_equal(harness_expect(fd, PROTO_CLOSED, 9, NULL, 0, NULL), 0);
    close(fd);
}

/* All is given back, the daemon serves a stranger, and ends in order. */
static inline void stop(void) {
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

static inline void ends_well(pid_t pid) {
    int status;
    assert_int_equal(harness_wait(pid, HARNESS_PATIENCE_MS, &status), 0);
    assert_int_equal(status, 0);
}

/* ---------- the program ---------- */

/* A program that was built without nvcc has no kernels. */
static inline bool has_kernels(void) {
    char command[256], said[256];
    int status;
    snprintf(command, sizeof command, "%s --version", harness_program("scissord"));
    return harness_shell(command, HARNESS_PATIENCE_MS, said, sizeof said, &status) == 0 && strstr(said, "cuda");
}

static inline void test_none(void **state) {
    (void)state;
    print_message("SKIP: built without nvcc, so there are no kernels for the driver to run\n");
    skip();
}

static inline int run_attacks(int argc, char **argv, const char *group, const struct CMUnitTest *tests, size_t count) {
    const struct CMUnitTest none = cmocka_unit_test(test_none);
    if (argc == 4)
        return attackers_play(argv[1], argv[2], argv[3]);
    harness_init(240);
    if (argc == 2)
        cmocka_set_test_filter(argv[1]); /* one test, for looking into it */
    if (!has_kernels())
        return _cmocka_run_group_tests(group, &none, 1, NULL, NULL);
    use_driver("tests/fakecuda");
    return _cmocka_run_group_tests(group, tests, count, NULL, NULL);
}
