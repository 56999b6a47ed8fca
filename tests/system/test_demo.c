/* test_demo.c - a short run of the demo, and what it says in summary.json. */
#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "harness.h"

static json_int_t integer(const json_t *object, const char *key) {
    json_t *value = json_object_get(object, key);
    if (!json_is_integer(value))
        fail_msg("no integer '%s'", key);
    return json_integer_value(value);
}

static void check_session(const json_t *session, json_int_t tokens) {
    assert_int_equal(json_object_size(session), 8);
    assert_true(strlen(json_string_value(json_object_get(session, "name"))) > 0);
    assert_true(strlen(json_string_value(json_object_get(session, "text"))) > 0);
    assert_true(integer(session, "tokens_seen") > tokens);
    assert_true(integer(session, "rows_per_head") > 0);
    assert_int_equal(integer(session, "bytes_full"), integer(session, "tokens_seen") * 23040);
    assert_true(integer(session, "bytes") > 0);
    assert_true(integer(session, "evictions") >= 0);
    assert_true(json_number_value(json_object_get(session, "tokens_per_second")) > 0);
}

static void test_summary(void **state) {
    (void)state;
    char out[64], path[128], log[128];
    static char text[16384];
    int status;
    json_error_t error;
    if (!getenv("MODEL") || access(getenv("MODEL"), R_OK) || access("/usr/share/common-licenses/MPL-2.0", R_OK)) {
        printf("SKIP: needs the test model ($MODEL) and Debian's licences\n");
        skip();
    }
    assert_int_equal(harness_directory(out, sizeof out), 0);
    snprintf(path, sizeof path, "%s/demo/summary.json", out);
    snprintf(log, sizeof log, "%s/log", out);
    snprintf(text, sizeof text, "%s/demo", out);
    setenv("DEMO_OUT", text, 1);
    if (harness_device())
        setenv("DEMO_DEVICE", harness_device(), 1);
    const json_int_t tokens = harness_device() ? 120 : 300;
    snprintf(text, sizeof text, "%d", (int)tokens);
    setenv("DEMO_TOKENS", text, 1);
    setenv("DEMO_NEW", "8", 1);
    setenv("DEMO_POOL_MIB", "48", 1);
    const char *const argv[] = {"tests/demo.sh", NULL};
    pid_t pid;
    assert_int_equal(harness_spawn(argv, log, &pid), 0);
    assert_int_equal(harness_wait(pid, 200000, &status), 0);
    assert_true(harness_read_file(log, text, sizeof text) > 0);
    if (status)
        fail_msg("exit status %d: %s", status, text);
    json_t *summary = json_load_file(path, 0, &error);
    if (!summary)
        fail_msg("%s", error.text);
    assert_int_equal(json_object_size(summary), 2);
    const json_t *pool = json_object_get(summary, "pool"), *sessions = json_object_get(summary, "sessions");
    assert_int_equal(json_object_size(pool), 3);
    assert_int_equal(integer(pool, "limit_bytes"), 48 << 20);
    assert_true(integer(pool, "peak_bytes") > 0 && integer(pool, "peak_bytes") <= 48 << 20);
    assert_true(integer(pool, "reclaims") >= 0);
    assert_int_equal(json_array_size(sessions), 3);
    for (size_t i = 0; i < 3; i++)
        check_session(json_array_get(sessions, i), tokens);
    json_decref(summary);
}

int main(void) {
    harness_init(240);
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_summary)};
    return cmocka_run_group_tests_name("demo", tests, NULL, NULL);
}
