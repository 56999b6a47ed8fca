/* test_config.c - the real scissord with configuration files: --check, exit statuses, and SIGHUP. */
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "harness.h"
#include "scissor_error.h"

static char base[64], path[96];

static int set_up(void **state) {
    (void)state;
    if (harness_directory(base, sizeof base) < 0)
        return -1;
    snprintf(path, sizeof path, "%s/scissord.conf", base);
    return 0;
}

static void write_file(const char *text) {
    FILE *f = fopen(path, "we");
    assert_non_null(f);
    assert_true(fputs(text, f) >= 0);
    assert_int_equal(fclose(f), 0);
}

static int check(char *text, size_t bytes) {
    char output[96];
    int status = -1;
    snprintf(output, sizeof output, "%s/output", base);
    unlink(output); /* it would be appended to */
    const char *argv[] = {harness_program("scissord"), "--check", "--score-wait", "9", "--config", path, NULL};
    assert_int_equal(harness_run(argv, output, &status), 0);
    assert_true(harness_read_file(output, text, bytes) >= 0);
    return status;
}

static void test_check(void **state) {
    (void)state;
    char text[4096], expected[256];
    write_file("pool = 64MiB\nscore-wait = 7\n");
    assert_int_equal(check(text, sizeof text), 0);
    assert_non_null(strstr(text, "\npool = 64MiB ; file\n"));
    assert_non_null(strstr(text, "\nscore-wait = 9 ; command line\n"));
    assert_non_null(strstr(text, "\npolicy = pivotal ; default\n"));
    write_file("\npool = 64Mib\npool = 64\n");
    assert_int_equal(check(text, sizeof text), 2);
    snprintf(expected, sizeof expected, "scissord: %s:3: pool is given a second time; expected once\n", path);
    assert_string_equal(text, expected);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(check(text, sizeof text), 2);
    assert_non_null(strstr(text, "cannot read "));
}

/* Waits for a line that the reload writes. */
static void reload(const struct harness_daemon *d, const char *last_line) {
    assert_int_equal(kill(d->pid, SIGHUP), 0);
    assert_int_equal(harness_wait_log(d, last_line, HARNESS_PATIENCE_MS), 0);
}

static void test_reload(void **state) {
    (void)state;
    const char *const args[] = {"--config", path, NULL};
    struct harness_daemon d;
    struct proto_open open;
    struct proto_opened opened;
    struct proto_failed failed = {0};
    struct proto_settled settled;
    write_file("sessions-max = 1\nscore-wait = 10000\n");
    assert_int_equal(harness_start(&d, args), 0);
    harness_open_default(&open);
    int fd = harness_hello(&d);
    assert_int_equal(harness_open(fd, &open, &opened, NULL), 0);
    assert_int_equal(harness_open(fd, &open, &opened, &failed), -EREMOTEIO);
    assert_int_equal(failed.code, SCISSOR_ELIMIT);

    /* A bad file, of which the good half must not be taken either. */
    write_file("sessions-max = 2\nscore-wait = 1 day\n");
    reload(&d, "scissord.conf:2: score-wait: '1 day' is not a number in range; expected e.g. 200 (0 .. 10000 ms); all");
    assert_int_equal(harness_open(fd, &open, &opened, &failed), -EREMOTEIO);
    assert_int_equal(failed.code, SCISSOR_ELIMIT);

    /* A good one; what takes a start says so. */
    write_file("sessions-max = 2\nscore-wait = 1\ndir = /elsewhere\npolicy = magic\n");
    reload(&d, "scissord.conf:4: policy: there is no policy 'magic'");
    write_file("sessions-max = 2\nscore-wait = 1\npolicy = window\nverbose = yes\n");
    reload(&d, "scissord.conf is in force");
    assert_int_equal(harness_wait_log(&d, "reload: sessions-max is 2 now, was 1\n", 0), 0);
    assert_int_equal(harness_wait_log(&d, "reload: score-wait is 1 now, was 10000\n", 0), 0);
    assert_int_equal(harness_wait_log(&d, "reload: policy is window now, was pivotal\n", 0), 0);
    assert_int_equal(harness_open(fd, &open, &opened, NULL), 0);
    uint64_t begin = harness_now_ns();
    assert_int_equal(harness_settle(fd, opened.session, 1, 4, &settled), 0);
    assert_int_equal(settled.scores_lost, 1);
    assert_true(harness_now_ns() - begin < 5000000000u);
    assert_int_equal(harness_wait_log(&d, "opened: ", HARNESS_PATIENCE_MS), 0); /* verbose */
    close(fd);
    assert_int_equal(harness_stop(&d), 0);
}

/* What the command line says stays above the file, and a pool needs a start. */
static void test_reload_of_what_stays(void **state) {
    (void)state;
    const char *const args[] = {"--config", path, "--score-wait", "77", NULL};
    struct harness_daemon d;
    struct proto_pool_stat stat;
    char log[4096];
    write_file("");
    assert_int_equal(harness_start(&d, args), 0);
    write_file("pool = 1GiB\nscore-wait = 1\n");
    reload(&d, "scissord.conf is in force");
    assert_true(harness_read_file(d.log, log, sizeof log) > 0);
    assert_null(strstr(log, "score-wait"));
    assert_null(strstr(log, "reload: pool")); /* --pool is above it */
    assert_int_equal(unlink(path), 0);
    reload(&d, "all values stay as they were");
    write_file("client-sessions-max = 3\n");
    reload(&d, "client-sessions-max is 3 now, was 256");
    assert_int_equal(harness_stat(&d, &stat), 0);
    assert_int_equal(harness_stop(&d), 0);
}

/* A second daemon, whose pool is from the file. */
static void test_pool_from_file(void **state) {
    (void)state;
    char text[4096], output[96], run[96];
    pid_t pid;
    int status;
    struct harness_daemon d = {0};
    snprintf(output, sizeof output, "%s/log", base);
    snprintf(run, sizeof run, "dir = %s/run\npool = 48MiB\n", base);
    write_file(run);
    const char *argv[] = {harness_program("scissord"), "--config", path, NULL};
    assert_int_equal(harness_spawn(argv, output, &pid), 0);
    snprintf(d.log, sizeof d.log, "%.79s", output);
    d.pid = pid;
    assert_int_equal(harness_wait_log(&d, ": ready; pool 48 MiB of host memory", HARNESS_PATIENCE_MS), 0);
    write_file("pool = 50MiB\n");
    reload(&d, "scissord.conf is in force");
    assert_true(harness_read_file(output, text, sizeof text) > 0);
    assert_non_null(strstr(text, "reload: pool stays as it is (48MiB) until the next start"));
    assert_non_null(strstr(text, "reload: dir stays as it is ("));
    write_file("descriptor-store = 5\n");
    reload(&d, "reload: descriptor-store stays as it is (0) until the next start");
    write_file("descriptor-store = 6\nverbose = yes\n");
    reload(&d, "reload: verbose is yes now");
    assert_true(harness_read_file(output, text, sizeof text) > 0);
    assert_null(strstr(text, "descriptor-store stays as it is (5)"));
    kill(pid, SIGTERM);
    assert_int_equal(harness_wait(pid, HARNESS_PATIENCE_MS, &status), 0);
    assert_int_equal(status, 0);
}

int main(void) {
    harness_init(180);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_check),
        cmocka_unit_test(test_reload),
        cmocka_unit_test(test_reload_of_what_stays),
        cmocka_unit_test(test_pool_from_file),
    };
    return cmocka_run_group_tests(tests, set_up, NULL);
}
