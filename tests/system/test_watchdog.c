/* test_watchdog.c - what hangs is not hidden from the service manager; what is passed to the daemon stays with it. */
#include <dirent.h>
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "harness.h"
#include "manager.h"

static struct manager m;

static int tear_down(void **state) {
    (void)state;
    if (m.daemon.pid)
        harness_crash(&m.daemon);
    manager_deinit(&m);
    return 0;
}

static void start(uint64_t watchdog_us) {
    m.watchdog_us = watchdog_us;
    assert_int_equal(manager_start(&m, NULL), 0);
}

/* ---------- signs of life ---------- */

static uint32_t alive(void) {
    pthread_mutex_lock(&m.lock);
    uint32_t count = m.alive;
    pthread_mutex_unlock(&m.lock);
    return count;
}

static void wait_for_life(uint32_t more) {
    assert_int_equal(manager_wait(&m, &m.alive, alive() + more), 0);
}

/* Silence for as long as the manager would wait; generous before that. */
static void wait_for_silence(void) {
    uint64_t now = harness_now_ns(), since = now, end = now + HARNESS_PATIENCE_MS * 1000000ull;
    uint32_t last = alive();
    for (; now - since < m.watchdog_us * 1000; now = harness_now_ns()) {
        uint32_t count = alive();
        if (count != last)
            since = now;
        last = count;
        assert_true(now < end);
        harness_sleep_ms(10);
    }
}

/* Stops every thread but the loop's, as a debugger does; how many, or a negative errno. */
static int stop_workers(pid_t threads[], int most) {
    char path[64];
    int count = 0;
    snprintf(path, sizeof path, "/proc/%d/task", (int)m.daemon.pid);
    DIR *tasks = opendir(path);
    for (struct dirent *e; tasks && count >= 0 && (e = readdir(tasks));) {
        pid_t thread = atoi(e->d_name);
        if (thread <= 0 || thread == m.daemon.pid || count == most)
            continue;
        if (ptrace(PTRACE_SEIZE, thread, NULL, NULL) < 0 || ptrace(PTRACE_INTERRUPT, thread, NULL, NULL) < 0)
            count = -errno;
        else
            threads[count++] = thread;
    }
    if (tasks)
        closedir(tasks);
    for (int i = 0; i < count; i++)
        waitpid(threads[i], NULL, __WALL);
    return count;
}

static void threads_that_hang_are_not_hidden(void **state) {
    (void)state;
    struct proto_open open;
    struct proto_opened opened;
    pid_t threads[256];
    assert_int_equal(manager_init(&m, 0, false), 0);
    start(1000000);
    int client = harness_hello(&m.daemon), count = stop_workers(threads, 256);
    if (count < 0) {
        close(client);
        printf("SKIP: threads of another process cannot be stopped here: %s\n", strerror(-count));
        skip();
    }
    assert_true(count > 0);
    wait_for_life(4); /* nothing is to be done: no harm */
    harness_open_default(&open);
    assert_int_equal(harness_send_message(client, PROTO_OPEN, 7, &open), 0);
    wait_for_silence();
    for (int i = 0; i < count; i++)
        ptrace(PTRACE_DETACH, threads[i], NULL, NULL);
    assert_int_equal(harness_expect(client, PROTO_OPENED, 7, &opened, sizeof opened, NULL), 0);
    wait_for_life(1);
    close(client);
    assert_int_equal(harness_stop(&m.daemon), 0);
}

/* It holds nothing of the sessions, so another one takes its place and the daemon goes on. */
static void front_that_hangs_is_replaced(void **state) {
    (void)state;
    struct proto_pool_stat stat;
    assert_int_equal(manager_init(&m, 0, false), 0);
    start(2000000);
    pid_t front = harness_front_pid(&m.daemon);
    wait_for_life(2);
    assert_true(front > 0);
    kill(front, SIGSTOP);
    assert_int_equal(harness_wait_log(&m.daemon, "the front has not answered for ", HARNESS_PATIENCE_MS), 0);
    assert_int_equal(harness_wait_log(&m.daemon, "the front was ended by signal 9", HARNESS_PATIENCE_MS), 0);
    assert_int_equal(harness_stat(&m.daemon, &stat), 0);
    assert_int_not_equal(harness_front_pid(&m.daemon), front);
    wait_for_life(2);
    assert_int_equal(harness_stop(&m.daemon), 0);
}

/* ---------- what is passed ---------- */

/* The attach socket is the same file for all processes, and takes connections between them. */
static void socket_outlives_the_daemon(void **state) {
    (void)state;
    struct proto_hello hello = {
        .major = PROTO_VERSION_MAJOR, .minor = PROTO_VERSION_MINOR, .capabilities = PROTO_CAP_HOST, .name = "test"};
    struct stat before, after;
    char path[128];
    assert_int_equal(manager_init(&m, 0, true), 0);
    snprintf(path, sizeof path, "%s/%s", m.daemon.dir, PROTO_ATTACH_SOCKET);
    assert_int_equal(stat(path, &before), 0);
    for (int round = 0; round < 2; round++) {
        int client = harness_attach(&m.daemon); /* nobody is there to accept it yet */
        assert_true(client >= 0);
        start(0);
        assert_int_equal(harness_send_message(client, PROTO_HELLO, 1, &hello), 0);
        assert_int_equal(harness_expect(client, PROTO_WELCOME, 1, NULL, 0, NULL), 0);
        close(client);
        if (round == 0)
            assert_int_equal(harness_stop(&m.daemon), 0);
        else
            harness_crash(&m.daemon);
        assert_int_equal(stat(path, &after), 0);
        assert_int_equal(before.st_ino, after.st_ino);
    }
}

/* What belongs to nothing is taken out of the store, and breaks nothing. */
static void strange_descriptors_are_dropped(void **state) {
    (void)state;
    static const char *const names[] = {"x0", "s1", "p2", "t3", "stored", "longernamethan8"};
    struct proto_pool_stat stat;
    assert_int_equal(manager_init(&m, 100, false), 0);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        snprintf(m.kept[i].name, sizeof m.kept[i].name, "%s", names[i]);
        m.kept[i].fd = memfd_create("strange", MFD_CLOEXEC);
        m.count++;
    }
    start(0);
    assert_int_equal(harness_stat(&m.daemon, &stat), 0);
    assert_int_equal(stat.taken_over, 0);
    assert_int_equal(stat.stored, 0);
    assert_int_equal(harness_stop(&m.daemon), 0);
    for (int i = 0; i < 500 && manager_count(&m); i++)
        harness_sleep_ms(10);
    assert_int_equal(manager_count(&m), 0);
}

/* The process that reads what strangers send has none of it, nor hears where it came from. */
static void front_inherits_nothing(void **state) {
    (void)state;
    struct proto_open open;
    struct proto_opened opened;
    char path[64], name[400], target[256], environment[8192] = "";
    int memory = 0;
    if (harness_device()) {
        print_message("SKIP: memory of a device is not kept over a restart, so there is none to inherit\n");
        skip();
    }
    assert_int_equal(manager_init(&m, 500, true), 0);
    start(0);
    int client = harness_hello(&m.daemon);
    harness_open_default(&open);
    assert_int_equal(harness_open(client, &open, &opened, NULL), 0);
    assert_int_equal(manager_restart(&m, SIGKILL, NULL), 0);
    assert_true(manager_count(&m) > 0);
    pid_t front = harness_front_pid(&m.daemon);
    snprintf(path, sizeof path, "/proc/%d/fd", (int)front);
    DIR *fds = opendir(path);
    assert_non_null(fds);
    for (struct dirent *e; (e = readdir(fds));) {
        snprintf(name, sizeof name, "%s/%s", path, e->d_name);
        ssize_t n = readlink(name, target, sizeof target - 1);
        target[n < 0 ? 0 : n] = 0;
        memory += strncmp(target, "/memfd:", 7) == 0;
        assert_null(strstr(target, "pidfd"));
    }
    closedir(fds);
    assert_int_equal(memory, 1); /* the ring */
    snprintf(path, sizeof path, "/proc/%d/environ", (int)front);
    ssize_t n = harness_read_file(path, environment, sizeof environment);
    assert_true(n > 0);
    assert_null(memmem(environment, (size_t)n, "LISTEN_", 7));
    close(client);
    assert_int_equal(harness_stop(&m.daemon), 0);
}

#define WATCHDOG_TEST(f) cmocka_unit_test_teardown(f, tear_down)

int main(void) {
    harness_init(150);
    const struct CMUnitTest tests[] = {
        WATCHDOG_TEST(threads_that_hang_are_not_hidden), WATCHDOG_TEST(front_that_hangs_is_replaced),
        WATCHDOG_TEST(socket_outlives_the_daemon),       WATCHDOG_TEST(strange_descriptors_are_dropped),
        WATCHDOG_TEST(front_inherits_nothing),
    };
    return cmocka_run_group_tests_name("watchdog", tests, NULL, NULL);
}
