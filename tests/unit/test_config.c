/* test_config.c - the configuration file: what is taken from it, what stands above it, and the words of its refusals.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "daemon/config.h"
#include "harness.h"
#include "scissor_error.h"

static char path[96];

static int set_up(void **state) {
    char base[64];
    (void)state;
    if (harness_directory(base, sizeof base) < 0)
        return -1;
    snprintf(path, sizeof path, "%s/conf", base);
    return 0;
}

static void write_file(const void *text, size_t bytes) {
    FILE *f = fopen(path, "we");
    assert_non_null(f);
    assert_int_equal(fwrite(text, 1, bytes, f), bytes);
    assert_int_equal(fclose(f), 0);
}

static int load(const char *text, const char *argument, struct daemon_options *ret, char *why, size_t why_bytes) {
    char *argv[] = {"scissord", "--config", path, (char *)argument, NULL};
    write_file(text, strlen(text));
    *why = 0;
    return daemon_config_load(argument ? 4 : 3, argv, ret, why, why_bytes);
}

static void test_values(void **state) {
    (void)state;
    struct daemon_options o;
    char why[512];
    assert_int_equal(load("# of this machine\n\n; and another comment\r\npool=1.5GiB\n  score-wait = 7 ; short\n"
                          "sessions-max : 3\r\nclient-sessions-max= 2\ndir = /a b\npolicy =window\nverbose = On",
                          NULL, &o, why, sizeof why),
                     0);
    assert_true(o.pool_bytes == 3ull << 29);
    assert_int_equal(o.score_wait_ms, 7);
    assert_int_equal(o.sessions_max, 3);
    assert_int_equal(o.client_sessions_max, 2);
    assert_string_equal(o.dir, "/a b");
    assert_string_equal(o.policy, "window");
    assert_true(o.verbose);
    assert_string_equal(o.config, path);
    assert_int_equal(load("", NULL, &o, why, sizeof why), 0);
    assert_int_equal(o.score_wait_ms, 200);
    assert_int_equal(load("\xef\xbb\xbfverbose = no\n", NULL, &o, why, sizeof why), 0);
    assert_false(o.verbose);
}

static void test_command_line_is_above(void **state) {
    (void)state;
    struct daemon_options o;
    char why[512];
    assert_int_equal(load("score-wait = 7\nsessions-max = 5\n", "--score-wait=9", &o, why, sizeof why), 0);
    assert_int_equal(o.score_wait_ms, 9);
    assert_int_equal(o.sessions_max, 5);
    /* Below the command line a wrong value still is wrong, and so is a second one. */
    assert_int_equal(load("score-wait = 7s\n", "--score-wait=9", &o, why, sizeof why), SCISSOR_EINVAL);
    assert_int_equal(load("score-wait = 7\nscore-wait = 7\n", "--score-wait=9", &o, why, sizeof why), SCISSOR_EINVAL);
}

static void test_refusals(void **state) {
    (void)state;
    static const struct {
        const char *text, *why; /* behind "FILE:" */
    } cases[] = {
        {"pool = 12Q\n", "1: pool: '12Q' is not a size; expected e.g. 256MiB (1MiB .. 1PiB)"},
        {"\n\npool = 8GiB # much\n", "3: pool: '8GiB # much' is not a size; expected e.g. 256MiB (1MiB .. 1PiB)"},
        {"pool = 4KiB\n", "1: pool: '4KiB' is not a size; expected e.g. 256MiB (1MiB .. 1PiB)"},
        {"# x\nscore-wait = 1s\n", "2: score-wait: '1s' is not a number in range; expected e.g. 200 (0 .. 10000 ms)"},
        {"sessions-max = 0\n", "1: sessions-max: '0' is not a number in range; expected e.g. 1024 (1 .. 65536)"},
        {"verbose = maybe\n", "1: verbose: 'maybe' is neither yes nor no; expected yes or no"},
        {"dir =\n", "1: dir: '' is not a text of 1 to 90 bytes"},
        {"reclaim = age\n", "1: reclaim: there is no rule 'age'; there are: attention lru"},
        {"policy = magic\n", "1: policy: there is no policy 'magic'; there are: "},
        {"colour = red\n", "1: unknown option 'colour'; expected one of: pool device dir score-wait "},
        {"Pool = 8GiB\n", "1: unknown option 'Pool'; expected one of: "},
        {"man-options = 8\n", "1: unknown option 'man-options'; expected one of: "},
        {"config = /x\n", "1: config can stand on the command line only"},
        {"verbose = yes\nverbose = yes\n", "2: verbose is given a second time; expected once"},
        {"verbose = yes\n  yes\n", "2: expected NAME = VALUE"},
        {"verbose\npool = 12Q\n", "1: expected NAME = VALUE"},
        {"[pool]\n\nverbose = yes\n", "3: verbose stands in a section [pool]; expected no sections"},
        {"[pool\n", "1: expected NAME = VALUE"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct daemon_options o = {.score_wait_ms = 4242};
        char why[512], expected[256];
        assert_int_equal(load(cases[i].text, NULL, &o, why, sizeof why), SCISSOR_EINVAL);
        snprintf(expected, sizeof expected, "%s:%s", path, cases[i].why);
        if (strncmp(why, expected, strlen(expected)) != 0)
            fail_msg("'%s' instead of '%s'", why, expected);
        assert_int_equal(o.score_wait_ms, 4242); /* untouched */
    }
}

static void test_odd_files(void **state) {
    (void)state;
    struct daemon_options o;
    char why[512], line[400], *argv[] = {"scissord", "--config", path, NULL};
    write_file("verbose = yes\0\n", 15);
    assert_int_equal(daemon_config_load(3, argv, &o, why, sizeof why), SCISSOR_EINVAL);
    assert_non_null(strstr(why, "conf:1: the line has a zero byte"));
    memset(line, 'x', sizeof line);
    memcpy(line, "dir = /", 7);
    write_file(line, sizeof line);
    assert_int_equal(daemon_config_load(3, argv, &o, why, sizeof why), SCISSOR_EINVAL);
    assert_non_null(strstr(why, "conf:1: the line is too long; expected at most "));
    assert_int_equal(unlink(path), 0);
    assert_int_equal(daemon_config_load(3, argv, &o, why, sizeof why), SCISSOR_EINVAL);
    assert_non_null(strstr(why, "cannot read "));
    argv[2] = "/";
    assert_int_equal(daemon_config_load(3, argv, &o, why, sizeof why), SCISSOR_EINVAL);
    assert_non_null(strstr(why, "cannot read /: Is a directory"));
}

/* What --check prints is a file that says the same. */
static void test_print_is_a_file(void **state) {
    (void)state;
    struct daemon_options o, again;
    char why[512], *text = NULL;
    size_t size;
    assert_int_equal(load("pool = 1.5GiB\nclient-sessions-max = 2\n", "--score-wait=9", &o, why, sizeof why), 0);
    FILE *f = open_memstream(&text, &size);
    daemon_options_print(f, &o);
    fclose(f);
    assert_non_null(strstr(text, "pool = 1536MiB ; file\n"));
    assert_non_null(strstr(text, "score-wait = 9 ; command line\n"));
    assert_non_null(strstr(text, "sessions-max = 1024 ; default\n"));
    assert_non_null(strstr(text, "; dir: where the sockets are"));
    assert_int_equal(load(text, NULL, &again, why, sizeof why), 0);
    assert_true(again.pool_bytes == o.pool_bytes && again.score_wait_ms == 9 && again.client_sessions_max == 2);
    assert_string_equal(again.policy, o.policy);
    free(text);
}

int main(void) {
    harness_init(60);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_values),    cmocka_unit_test(test_command_line_is_above), cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_odd_files), cmocka_unit_test(test_print_is_a_file),
    };
    return cmocka_run_group_tests(tests, set_up, NULL);
}
