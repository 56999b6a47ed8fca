/* test_readme.c - the C program in README.md, which make has taken out and compiled, against a real daemon. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "harness.h"

static void run_example(const char *directory, char *text, size_t size, int *ret_status) {
    static char program[512], output[128];
    char base[64];
    assert_int_equal(harness_directory(base, sizeof base), 0);
    snprintf(output, sizeof output, "%s/out", base);
    snprintf(program, sizeof program, "%s", harness_program("tests/readme_example"));
    setenv("SCISSORD_DIR", directory, 1);
    const char *const argv[] = {program, NULL};
    assert_int_equal(harness_run(argv, output, ret_status), 0);
    assert_true(harness_read_file(output, text, size) > 0);
}

static void test_example(void **state) {
    (void)state;
    struct harness_daemon daemon;
    char text[4096];
    int status;
    assert_int_equal(harness_start(&daemon, NULL), 0);
    run_example(daemon.dir, text, sizeof text, &status);
    if (status)
        fail_msg("%s", text);
    /* 15 settles of 64 rows; 40 fresh ones are left */
    assert_string_equal(text, "1000 tokens, 232 rows held per head: success\n");
    assert_int_equal(harness_stop(&daemon), 0);
    run_example(daemon.dir, text, sizeof text, &status);
    assert_int_equal(status, 1);
    assert_non_null(strstr(text, "no daemon answers at this socket"));
}

int main(void) {
    harness_init(120);
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_example)};
    return cmocka_run_group_tests_name("README", tests, NULL, NULL);
}
