/* test_daemon.c - starting and ending the real scissord: options, directory, lock, signals, and what it leaves. */
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "backend.h"
#include "harness.h"
#include "score.h"

/* Runs scissord with up to three arguments to its end; what it printed is in `text`. */
static int run_daemon(char *text, size_t bytes, const char *a, const char *b, const char *c) {
    char base[64], output[96];
    int status = -1;
    assert_int_equal(harness_directory(base, sizeof base), 0);
    snprintf(output, sizeof output, "%s/output", base);
    const char *argv[] = {harness_program("scissord"), "--config", "/dev/null", a, b, c, NULL};
    assert_int_equal(harness_run(argv, output, &status), 0);
    assert_true(harness_read_file(output, text, bytes) >= 0);
    return status;
}

static mode_t mode_of(const struct harness_daemon *d, const char *name) {
    char path[128];
    struct stat st;
    snprintf(path, sizeof path, "%s/%s", d->dir, name);
    assert_int_equal(stat(path, &st), 0);
    return st.st_mode & 07777;
}

static size_t files_in(const char *dir) {
    DIR *stream = opendir(dir);
    size_t count = 0;
    if (!stream)
        return 0;
    for (struct dirent *e; (e = readdir(stream));)
        count += strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0;
    closedir(stream);
    return count;
}

static void test_help_and_version(void **state) {
    (void)state;
    char text[8192], version[256], devices[128];
    assert_int_equal(run_daemon(text, sizeof text, "--help", NULL, NULL), 0);
    assert_non_null(strstr(text, "--pool SIZE"));
    assert_int_equal(run_daemon(text, sizeof text, "--version", NULL, NULL), 0);
    snprintf(version, sizeof version, "scissord %s\ndevices: %s\n", SCISSOR_VERSION,
             kernel_backend_built(devices, sizeof devices));
    assert_string_equal(text, version);
}

static void test_bad_options(void **state) {
    (void)state;
    char text[1024];
    assert_int_equal(run_daemon(text, sizeof text, "--pool", "12Q", NULL), 2);
    assert_string_equal(text, "scissord: --pool: '12Q' is not a size; expected e.g. 256MiB (1MiB .. 1PiB)\n");
    assert_int_equal(run_daemon(text, sizeof text, "--policy", "magic", NULL), 2);
    assert_non_null(strstr(text, "there is no policy 'magic'; there are:"));
    assert_non_null(strstr(text, "scissorhands"));
    assert_int_equal(run_daemon(text, sizeof text, "--bogus", NULL, NULL), 2);
    assert_int_equal(run_daemon(text, sizeof text, "bogus", NULL, NULL), 2);
    /* Only with a directory it is the internal one. */
    assert_int_equal(run_daemon(text, sizeof text, "--front", NULL, NULL), 2);
}

/* The same program runs where there is no driver, and says what to do. */
static void test_no_driver(void **state) {
    (void)state;
    char text[1024];
    void *library = dlopen("libcuda.so.1", RTLD_LAZY);
    if (library) {
        print_message("SKIP: there is a driver\n");
        skip();
    }
    assert_int_equal(run_daemon(text, sizeof text, "--device", "cuda", NULL), 1);
    assert_true(strstr(text, "no NVIDIA driver: libcuda.so.1") || strstr(text, "built without nvcc"));
    assert_non_null(strstr(text, "use --device host"));
    assert_int_equal(run_daemon(text, sizeof text, "--device", "tpu", NULL), 1);
    assert_non_null(strstr(text, "\"tpu\" is no device"));
}

static void test_bad_directories(void **state) {
    (void)state;
    char text[1024], base[64], path[192];
    assert_int_equal(run_daemon(text, sizeof text, "--dir", "/no/such/parent", NULL), 1);
    assert_non_null(strstr(text, "cannot make the directory /no/such/parent"));
    assert_int_equal(run_daemon(text, sizeof text, "--dir", "/dev/null", NULL), 1);
    assert_non_null(strstr(text, "is not a directory"));
    assert_int_equal(harness_directory(base, sizeof base), 0);
    assert_int_equal(chmod(base, 0777), 0);
    assert_int_equal(run_daemon(text, sizeof text, "--dir", base, NULL), 1);
    assert_non_null(strstr(text, "everybody may write into"));
    snprintf(path, sizeof path, "--dir=%s/%s", base,
             "this-name-is-too-long-for-the-address-of-a-socket-which-holds-about-a-hundred-bytes");
    assert_int_equal(run_daemon(text, sizeof text, path, NULL, NULL), strlen(path) - 6 > 90 ? 2 : 1);
}

/* What the front cannot do at the first start ends the daemon, with the reason. */
static void test_front_cannot_start(void **state) {
    (void)state;
    char text[2048], base[64], path[128];
    assert_int_equal(harness_directory(base, sizeof base), 0);
    snprintf(path, sizeof path, "%s/" PROTO_SCORE_SOCKET_FORMAT, base, 7);
    assert_int_equal(mkdir(path, 0700), 0); /* nobody can bind a socket there */
    assert_int_equal(run_daemon(text, sizeof text, "--dir", base, NULL), 1);
    assert_non_null(strstr(text, "scores.7.sock is in the way: "));
    assert_non_null(strstr(text, "the front cannot start: "));
    assert_null(strstr(text, "ready"));
    assert_int_equal(files_in(base), 1);
}

static void test_files(void **state) {
    (void)state;
    struct harness_daemon d;
    struct stat st;
    assert_int_equal(harness_start(&d, NULL), 0);
    const char *ready = "scissord " SCISSOR_VERSION ": ready; pool 64 MiB of ";
    assert_int_equal(harness_wait_log(&d, ready, 0), 0);
    assert_int_equal(harness_wait_log(&d, harness_device() ? " of cuda:GPU-" : " of host memory (", 0), 0);
    assert_int_equal(stat(d.dir, &st), 0);
    assert_int_equal(st.st_mode & 07777 & ~0750, 0);
    assert_int_equal(mode_of(&d, PROTO_ATTACH_SOCKET), 0660);
    for (uint32_t i = 0; i < PROTO_SCORE_SOCKETS; i++) {
        char name[32];
        snprintf(name, sizeof name, PROTO_SCORE_SOCKET_FORMAT, i);
        assert_int_equal(mode_of(&d, name), 0660);
    }
    assert_int_equal(mode_of(&d, PROTO_CONTROL_SOCKET), 0660);
    assert_int_equal(mode_of(&d, PROTO_EVENT_SOCKET), 0660);
    pid_t front = harness_front_pid(&d);
    assert_int_not_equal(front, 0);
    assert_int_equal(harness_stop(&d), 0);
    /* Nothing is left: no file, not the directory, no process. */
    assert_int_equal(stat(d.dir, &st), -1);
    assert_int_equal(kill(front, 0), -1);
    assert_int_equal(errno, ESRCH);
    assert_int_equal(harness_start_again(&d, NULL), 0);
    assert_int_equal(harness_stop(&d), 0);
}

/* A directory that was there stays, with what is not the daemon's. */
static void test_foreign_directory(void **state) {
    (void)state;
    struct harness_daemon d;
    char path[128];
    assert_int_equal(harness_start(&d, NULL), 0);
    assert_int_equal(harness_stop(&d), 0);
    assert_int_equal(mkdir(d.dir, 0700), 0);
    snprintf(path, sizeof path, "%s/mine", d.dir);
    close(open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
    assert_int_equal(harness_start_again(&d, NULL), 0);
    assert_int_equal(harness_stop(&d), 0);
    assert_int_equal(files_in(d.dir), 1);
}

static void test_second_daemon(void **state) {
    (void)state;
    struct harness_daemon d;
    struct proto_pool_stat stat;
    char text[1024];
    assert_int_equal(harness_start(&d, NULL), 0);
    assert_int_equal(run_daemon(text, sizeof text, "--dir", d.dir, NULL), 1);
    assert_non_null(strstr(text, "another scissord runs in "));
    /* The first one has lost nothing. */
    assert_int_equal(harness_stat(&d, &stat), 0);
    int fd = harness_hello(&d);
    assert_true(fd >= 0);
    close(fd);
    assert_int_equal(harness_stop(&d), 0);
}

/* Sockets and lock of a daemon that was killed hinder nobody. */
static void test_stale_files(void **state) {
    (void)state;
    struct harness_daemon d;
    struct proto_pool_stat stat;
    assert_int_equal(harness_start(&d, NULL), 0);
    pid_t front = harness_front_pid(&d);
    harness_crash(&d);
    assert_int_equal(files_in(d.dir), PROTO_SCORE_SOCKETS + 4); /* three other sockets, lock */
    for (int i = 0; i < 2000 && kill(front, 0) == 0; i++)
        harness_sleep_ms(1);
    assert_int_equal(kill(front, 0), -1); /* the front does not outlive the daemon */
    assert_int_equal(harness_start_again(&d, NULL), 0);
    assert_int_equal(harness_stat(&d, &stat), 0);
    assert_int_equal(harness_stop(&d), 0);
}

static void end_with_sessions(int signal_number) {
    struct harness_daemon d;
    struct proto_open open;
    struct proto_opened opened;
    struct proto_closed closed = {0};
    assert_int_equal(harness_start(&d, NULL), 0);
    harness_open_default(&open);
    int fd = harness_hello(&d), idle = harness_hello(&d);
    assert_true(fd >= 0 && idle >= 0);
    assert_int_equal(harness_open(fd, &open, &opened, NULL), 0);
    kill(d.pid, signal_number);
    assert_int_equal(harness_expect(fd, PROTO_CLOSED, 0, &closed, sizeof closed, NULL), 0);
    assert_int_equal(closed.session, opened.session);
    char packet[PROTO_ATTACH_MAX];
    assert_int_equal(harness_receive(fd, packet, sizeof packet, HARNESS_PATIENCE_MS, NULL, NULL), 0);
    int status = -1;
    assert_int_equal(harness_wait(d.pid, HARNESS_PATIENCE_MS, &status), 0);
    assert_int_equal(status, 0);
    assert_int_equal(files_in(d.dir), 0);
    close(fd);
    close(idle);
}

static void test_ends_with_sessions(void **state) {
    (void)state;
    end_with_sessions(SIGTERM);
    end_with_sessions(SIGINT);
}

/* A settle that waits for its scores when the signal comes is answered before the session is closed. */
static void test_ends_in_a_settle(void **state) {
    (void)state;
    const char *const args[] = {"--score-wait", "300", NULL};
    struct harness_daemon d;
    struct proto_open open;
    struct proto_opened opened;
    struct proto_settled settled = {0};
    assert_int_equal(harness_start(&d, args), 0);
    harness_open_default(&open);
    int fd = harness_hello(&d);
    assert_int_equal(harness_open(fd, &open, &opened, NULL), 0);
    struct proto_settle settle = {.session = opened.session, .score_sequence = 1, .rows = 16};
    assert_int_equal(harness_send_message(fd, PROTO_SETTLE, 77, &settle), 0);
    harness_sleep_ms(50);
    kill(d.pid, SIGTERM);
    assert_int_equal(harness_expect(fd, PROTO_SETTLED, 77, &settled, sizeof settled, NULL), 0);
    assert_int_equal(settled.scores_lost, 1);
    assert_int_equal(harness_expect(fd, PROTO_CLOSED, 0, NULL, 0, NULL), 0);
    int status = -1;
    assert_int_equal(harness_wait(d.pid, HARNESS_PATIENCE_MS, &status), 0);
    assert_int_equal(status, 0);
    close(fd);
}

/* The second signal does not wait for a client that will not come. */
static void test_second_signal(void **state) {
    (void)state;
    const char *const args[] = {"--score-wait", "10000", NULL};
    struct harness_daemon d;
    struct proto_open open;
    struct proto_opened opened;
    assert_int_equal(harness_start(&d, args), 0);
    harness_open_default(&open);
    int fd = harness_hello(&d);
    assert_int_equal(harness_open(fd, &open, &opened, NULL), 0);
    struct proto_settle settle = {.session = opened.session, .score_sequence = 1, .rows = 16};
    assert_int_equal(harness_send_message(fd, PROTO_SETTLE, 77, &settle), 0);
    harness_sleep_ms(50);
    kill(d.pid, SIGTERM);
    assert_int_equal(harness_wait_log(&d, "ending; 1 sessions", HARNESS_PATIENCE_MS), 0);
    uint64_t begin = harness_now_ns();
    kill(d.pid, SIGTERM);
    int status = -1;
    assert_int_equal(harness_wait(d.pid, HARNESS_PATIENCE_MS, &status), 0);
    assert_int_equal(status, 1);
    assert_true(harness_now_ns() - begin < 1500000000u);
    assert_int_equal(files_in(d.dir), 0);
    close(fd);
}

/* The front ignores the signals of a terminal or a supervisor. */
static void test_front_ignores_signals(void **state) {
    (void)state;
    struct harness_daemon d;
    struct proto_pool_stat stat;
    assert_int_equal(harness_start(&d, NULL), 0);
    pid_t front = harness_front_pid(&d);
    kill(front, SIGINT);
    kill(front, SIGTERM);
    kill(front, SIGHUP);
    harness_sleep_ms(50);
    assert_int_equal(harness_stat(&d, &stat), 0);
    assert_int_equal(stat.front_restarts, 0);
    assert_int_equal(harness_front_pid(&d), front);
    assert_int_equal(harness_stop(&d), 0);
}

/* Draining by request: the daemon stays, old sessions stay, new ones are refused. */
static void test_drain(void **state) {
    (void)state;
    struct harness_daemon d;
    struct proto_open open;
    struct proto_opened opened;
    struct proto_failed failed = {0};
    struct proto_settled settled;
    struct proto_pool_stat stat;
    struct proto_request request = {.op = PROTO_OP_DRAIN, .id = 5};
    struct proto_answer answer;
    assert_int_equal(harness_start(&d, NULL), 0);
    harness_open_default(&open);
    int fd = harness_hello(&d);
    assert_int_equal(harness_open(fd, &open, &opened, NULL), 0);
    assert_int_equal(harness_control(&d, &request, &answer, sizeof answer), sizeof answer);
    assert_int_equal(answer.code, -7 /* EPERM */);
    int operator= harness_pass(&d, request.token);
    assert_true(operator>= 0);
    request.id = 6;
    assert_int_equal(harness_control(&d, &request, &answer, sizeof answer), sizeof answer);
    close(operator);
    assert_int_equal(answer.code, 0);
    assert_int_equal(harness_open(fd, &open, &opened, &failed), -EREMOTEIO);
    assert_int_equal(failed.code, 3 /* DRAINING */);
    assert_int_equal(harness_stat(&d, &stat), 0);
    assert_int_equal(stat.draining, 1);
    assert_int_equal(stat.sessions, 1);
    assert_int_equal(harness_settle(fd, opened.session, 0, 4, &settled), 0);
    close(fd);
    assert_int_equal(harness_stop(&d), 0);
}

/* Uptime counts from the start, not from when somebody first asked. */
static void test_uptime(void **state) {
    (void)state;
    struct harness_daemon d;
    struct proto_pool_stat stat;
    assert_int_equal(harness_start(&d, NULL), 0);
    usleep(50000);
    assert_int_equal(harness_stat(&d, &stat), 0);
    assert_true(stat.uptime_ns >= 50000000u);
    assert_int_equal(harness_stop(&d), 0);
}

int main(void) {
    harness_init(180);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_help_and_version),
        cmocka_unit_test(test_bad_options),
        cmocka_unit_test(test_no_driver),
        cmocka_unit_test(test_bad_directories),
        cmocka_unit_test(test_front_cannot_start),
        cmocka_unit_test(test_files),
        cmocka_unit_test(test_foreign_directory),
        cmocka_unit_test(test_second_daemon),
        cmocka_unit_test(test_stale_files),
        cmocka_unit_test(test_front_ignores_signals),
        cmocka_unit_test(test_ends_with_sessions),
        cmocka_unit_test(test_ends_in_a_settle),
        cmocka_unit_test(test_second_signal),
        cmocka_unit_test(test_drain),
        cmocka_unit_test(test_uptime),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
