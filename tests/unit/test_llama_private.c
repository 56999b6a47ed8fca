/* test_llama_private.c - starting and ending a private daemon, with a script in place of scissord: what it is told,
 * what is said when it does not run, and that neither a process nor a directory is left. */
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "alloc.h"
#include "harness.h"
#include "llama/private_daemon.h"

static struct failure failure;
static char scripts[64]; /* all of $PATH that the daemon is looked for in */

/* Puts a script in scissord's place; the program beside this test's executable would be preferred, but there is none.
 */
static void write_script(const char *text) {
    char path[96];
    snprintf(path, sizeof(path), "%s/scissord", scripts);
    FILE *stream = fopen(path, "w");
    assert_non_null(stream);
    fprintf(stream, "#!/bin/sh\n%s\n", text);
    assert_int_equal(fclose(stream), 0);
    assert_int_equal(chmod(path, 0700), 0);
}

static int setup(void **state) {
    char path[4096];
    (void)state;
    if (harness_directory(scripts, sizeof(scripts)) != 0)
        return -1;
    snprintf(path, sizeof(path), "%s:%s", scripts, getenv("PATH"));
    return setenv("PATH", path, 1);
}

/* Waits until the script has written a whole line to `name` in the daemon's directory; its pid and arguments. */
static pid_t wait_for_script(const struct private_daemon *daemon, char *line, size_t bytes) {
    char path[128];
    long pid;
    int skip;
    snprintf(path, sizeof(path), "%s/told", private_daemon_directory(daemon));
    for (int i = 0; i < HARNESS_PATIENCE_MS / 10; i++) {
        ssize_t size = harness_read_file(path, line, bytes);
        if (size > 0 && line[size - 1] == '\n' && sscanf(line, "%ld%n", &pid, &skip) == 1) {
            memmove(line, line + skip + 1, (size_t)(size - skip));
            return (pid_t)pid;
        }
        harness_sleep_ms(10);
    }
    fail_msg("the script did not start");
    return 0;
}

static void assert_gone(const char *directory, pid_t pid) {
    assert_int_equal(access(directory, F_OK), -1);
    assert_int_equal(kill(pid, 0), -1);
    assert_int_equal(errno, ESRCH);
}

static int start(uint32_t pool_mib, struct private_daemon **ret_daemon) {
    return private_daemon_start(&(struct private_daemon_options){.pool_mib = pool_mib}, ret_daemon, &failure);
}

static void test_start_stop(void **state) {
    (void)state;
    struct private_daemon *daemon;
    char directory[128], line[256], wanted[256];
    size_t live = alloc_live();
    write_script("echo $$ \"$@\" >\"$4/told\"; exec sleep 60");
    assert_int_equal(start(77, &daemon), 0);
    snprintf(directory, sizeof(directory), "%s", private_daemon_directory(daemon));
    pid_t pid = wait_for_script(daemon, line, sizeof(line));
    snprintf(wanted, sizeof(wanted), "--pool 77MiB --dir %s --config /dev/null\n", directory);
    assert_string_equal(line, wanted);
    assert_int_equal(private_daemon_check(daemon, &failure), 0);
    private_daemon_stop(daemon);
    assert_gone(directory, pid);
    assert_int_equal(alloc_live(), live);
    private_daemon_stop(NULL);
}

static void test_options(void **state) {
    (void)state;
    struct private_daemon *daemon;
    char line[256];
    write_script("echo $$ \"$@\" >\"$4/told\"; exec sleep 60");
    const struct private_daemon_options options = {1, "cuda:1", "lru"};
    assert_int_equal(private_daemon_start(&options, &daemon, &failure), 0);
    wait_for_script(daemon, line, sizeof(line));
    assert_non_null(strstr(line, " --device cuda:1 --reclaim lru\n"));
    private_daemon_stop(daemon);
}

static int wait_for_end(struct private_daemon *daemon) {
    int r = 0;
    for (int i = 0; i < HARNESS_PATIENCE_MS / 10 && r == 0; i++) {
        harness_sleep_ms(10);
        r = private_daemon_check(daemon, &failure);
    }
    return r;
}

static void test_ends_by_itself(void **state) {
    (void)state;
    struct private_daemon *daemon;
    char directory[128];
    write_script("echo the pool is too large >&2; exit 3");
    assert_int_equal(start(1, &daemon), 0);
    snprintf(directory, sizeof(directory), "%s", private_daemon_directory(daemon));
    assert_int_equal(wait_for_end(daemon), SCISSOR_ENODAEMON);
    assert_non_null(strstr(failure.text, "the pool is too large"));
    assert_int_equal(private_daemon_check(daemon, &failure), SCISSOR_ENODAEMON); /* and again */
    private_daemon_stop(daemon);
    assert_int_equal(access(directory, F_OK), -1);
}

static void test_not_found(void **state) {
    (void)state;
    struct private_daemon *daemon;
    char kept[4096];
    snprintf(kept, sizeof(kept), "%s", getenv("PATH"));
    setenv("PATH", "/nonexistent", 1);
    assert_int_equal(start(1, &daemon), 0);
    assert_int_equal(wait_for_end(daemon), SCISSOR_ENODAEMON);
    assert_non_null(strstr(failure.text, "--socket"));
    private_daemon_stop(daemon);
    setenv("PATH", kept, 1);
}

static void test_no_memory(void **state) {
    (void)state;
    struct private_daemon *daemon = NULL;
    alloc_fail_after(0, 1);
    assert_int_equal(start(1, &daemon), SCISSOR_ENOMEM);
    alloc_fail_never();
    assert_null(daemon);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_start_stop), cmocka_unit_test(test_options),   cmocka_unit_test(test_ends_by_itself),
        cmocka_unit_test(test_not_found),  cmocka_unit_test(test_no_memory),
    };
    harness_init(60);
    return cmocka_run_group_tests_name("llama_private", tests, setup, NULL);
}
