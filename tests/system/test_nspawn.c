/* test_nspawn.c - the life of the service from the installation of its package to the purge, with a real systemd.
 *
 * The packages go into a container that tests/container.sh boots; tests/life.sh does there what an administrator and
 * users do. All of it runs once, before the first test; each test then says what became of one part. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "harness.h"

/* In the order of a life. */
#define PARTS(X) \
    X(install)   \
    X(status)    \
    X(exposure)  \
    X(users)     \
    X(use)       \
    X(stranger)  \
    X(socket)    \
    X(tools)     \
    X(metrics)   \
    X(reload)    \
    X(journal)   \
    X(kill)      \
    X(restart)   \
    X(watchdog)  \
    X(upgrade)   \
    X(remove)    \
    X(purge)

static char base[64];
static char text[1 << 18];
static char reason[1024]; /* why nothing could be run; empty: all was */

/* The last line that the last command printed. */
static void keep_reason(void) {
    size_t length = strlen(text);
    while (length && text[length - 1] == '\n')
        text[--length] = 0;
    const char *line = strrchr(text, '\n');
    snprintf(reason, sizeof reason, "%s", line ? line + 1 : text);
}

#define NAME(part) " " #part

static int set_up(void **state) {
    (void)state;
    if (harness_directory(base, sizeof base) < 0)
        return -1;
    setenv("L", base, 1);
    setenv("PARTS", PARTS(NAME), 1);
#ifdef __SANITIZE_ADDRESS__
    snprintf(reason, sizeof reason, "packages are not built with sanitizers");
    return 0;
#endif
    int status = -1;
    harness_leave_make();
    if (harness_shell("exec tests/life.sh start \"$L\" $PARTS", 880000, text, sizeof text, &status) < 0)
        return -1;
    if (status == 77)
        keep_reason();
    else if (status)
        fprintf(stderr, "%s", text);
    return status && status != 77 ? -1 : 0;
}

static void check_part(const char *name) {
    char path[128], line[64];
    if (*reason) {
        printf("SKIP: %s\n", reason);
        skip();
    }
    snprintf(path, sizeof path, "%s/results", base);
    snprintf(line, sizeof line, "\n%s passed ", name);
    *text = '\n';
    assert_true(harness_read_file(path, text + 1, sizeof text - 1) >= 0);
    if (strstr(text, line))
        return;
    snprintf(path, sizeof path, "%s/%s.log", base, name);
    if (harness_read_file(path, text, sizeof text) < 0)
        snprintf(text, sizeof text, "it was not run\n");
    size_t length = strlen(text), most = 4000;
    fail_msg("%s", length > most ? text + length - most : text);
}

#define TEST(part)                          \
    static void test_##part(void **state) { \
        (void)state;                        \
        check_part(#part);                  \
    }
PARTS(TEST)

/* A container whose script is killed leaves no process, no cgroup and no file. */
static void test_killed(void **state) {
    (void)state;
    int status = -1;
    if (*reason) {
        printf("SKIP: %s\n", reason);
        skip();
    }
    assert_int_equal(
        harness_shell(
            "K=\"$L/killed\"; mkdir \"$K\" \"$K/tmp\"; printf '#!/bin/sh\\necho up; exec sleep 999\\n' >\"$K/main\";"
            "chmod +x \"$K/main\"; TMPDIR=\"$K/tmp\" tests/life.sh container \"$L\" \"$K\" & P=$!;"
            "until [ -s \"$K/log\" ]; do kill -0 $P || exit 1; sleep 0.05; done; kill -KILL $P;"
            "while ls \"$K/tmp\" | grep -q .; do sleep 0.05; done; find /sys/fs/cgroup -name \"life-$P-*\" 2>/dev/null "
            "|| true",
            60000, text, sizeof text, &status),
        0);
    if (status || strstr(text, "life-"))
        fail_msg("status %d: %s", status, text);
}

#define ENTRY(part) cmocka_unit_test(test_##part),

int main(void) {
    harness_init(890);
    const struct CMUnitTest tests[] = {PARTS(ENTRY) cmocka_unit_test(test_killed)};
    return cmocka_run_group_tests_name("nspawn", tests, set_up, NULL);
}
