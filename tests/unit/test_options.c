/* test_options.c - sizes, the option table, and the words of its refusals. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "daemon/options.h"
#include "scissor_error.h"

static void test_sizes(void **state) {
    (void)state;
    static const struct {
        const char *text;
        uint64_t bytes;
    } good[] = {
        {"256MiB", 256ull << 20},
        {"8GiB", 8ull << 30},
        {"1.5GiB", 3ull << 29},
        {"100MB", 100000000},
        {"4096", 4096},
        {"1KiB", 1024},
        {"1PiB", 1ull << 50},
        {"0.5mib", 512ull << 10},
        {"2TB", 2000000000000ull},
        {"7B", 7},
    };
    static const char *const bad[] = {"",
                                      "12Q",
                                      "MiB",
                                      "-1MiB",
                                      "+1",
                                      "1e9",
                                      "0x10",
                                      "inf",
                                      "nan",
                                      "1 GiB",
                                      "1..5",
                                      ".",
                                      "1GiBx",
                                      "1.5.2G",
                                      " 1MiB",
                                      "9999999999PiB",
                                      "99999999999999999999999999999999999999"};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        uint64_t bytes = 0;
        assert_int_equal(daemon_size_parse(good[i].text, &bytes), 0);
        assert_true(bytes == good[i].bytes);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        uint64_t bytes = 1234;
        assert_int_equal(daemon_size_parse(bad[i], &bytes), SCISSOR_EINVAL);
        assert_true(bytes == 1234);
    }
}

static void test_size_texts(void **state) {
    (void)state;
    char text[32];
    assert_string_equal(daemon_size_text(256ull << 20, " ", text, sizeof text), "256 MiB");
    assert_string_equal(daemon_size_text(3ull << 29, "", text, sizeof text), "1.5GiB");
    assert_string_equal(daemon_size_text(0, " ", text, sizeof text), "0 bytes");
    assert_string_equal(daemon_size_text(1ull << 50, "", text, sizeof text), "1PiB");
}

#define PARSE(options, why, ...)                                                              \
    daemon_options_parse((int)(sizeof((char *[]){"scissord", __VA_ARGS__}) / sizeof(char *)), \
                         (char *[]){"scissord", __VA_ARGS__, NULL}, options, why, sizeof why)

static void test_values(void **state) {
    (void)state;
    struct daemon_options o;
    char why[256] = "";
    assert_int_equal(PARSE(&o, why, "--pool", "64MiB", "--dir=/x/y", "--score-wait", "7", "--sessions-max=3",
                           "--policy", "window", "--verbose"),
                     0);
    assert_true(o.pool_bytes == 64u << 20);
    assert_string_equal(o.dir, "/x/y");
    assert_int_equal(o.score_wait_ms, 7);
    assert_int_equal(o.sessions_max, 3);
    assert_string_equal(o.policy, "window");
    assert_true(o.verbose && !o.help && !o.version);
}

static void test_defaults(void **state) {
    (void)state;
    struct daemon_options o;
    char why[256] = "", *argv[] = {"scissord", NULL};
    assert_int_equal(daemon_options_parse(1, argv, &o, why, sizeof why), 0);
    assert_true(o.pool_bytes == 0 && !*o.dir && !o.verbose);
    assert_int_equal(o.score_wait_ms, 200);
    assert_int_equal(o.sessions_max, 1024);
    assert_string_equal(o.policy, "pivotal");
    assert_string_equal(o.reclaim, "attention");
}

static void test_refusals(void **state) {
    (void)state;
    struct daemon_options o = {.score_wait_ms = 4242};
    char why[256];
    assert_int_equal(PARSE(&o, why, "--pool", "12Q"), SCISSOR_EINVAL);
    assert_string_equal(why, "--pool: '12Q' is not a size; expected e.g. 256MiB (1MiB .. 1PiB)");
    assert_int_equal(PARSE(&o, why, "--pool", "1023KiB"), SCISSOR_EINVAL);
    assert_int_equal(PARSE(&o, why, "--pool", "2PiB"), SCISSOR_EINVAL);
    assert_int_equal(PARSE(&o, why, "--score-wait", "10001"), SCISSOR_EINVAL);
    assert_string_equal(why, "--score-wait: '10001' is not a number in range; expected e.g. 200 (0 .. 10000 ms)");
    assert_int_equal(PARSE(&o, why, "--score-wait", "-1"), SCISSOR_EINVAL);
    assert_int_equal(PARSE(&o, why, "--score-wait", "99999999999999999999999"), SCISSOR_EINVAL);
    assert_int_equal(PARSE(&o, why, "--sessions-max", "0"), SCISSOR_EINVAL);
    assert_int_equal(PARSE(&o, why, "--policy", "a-name-that-is-too-long"), SCISSOR_EINVAL);
    assert_int_equal(PARSE(&o, why, "--dir", ""), SCISSOR_EINVAL);
    assert_int_equal(PARSE(&o, why, "--no-such"), SCISSOR_EINVAL);
    assert_non_null(strstr(why, "--no-such"));
    assert_int_equal(PARSE(&o, why, "--pool"), SCISSOR_EINVAL);
    assert_non_null(strstr(why, "--pool needs a value"));
    assert_int_equal(PARSE(&o, why, "--verbose=1"), SCISSOR_EINVAL);
    assert_int_equal(PARSE(&o, why, "-x"), SCISSOR_EINVAL);
    assert_int_equal(PARSE(&o, why, "word"), SCISSOR_EINVAL);
    assert_non_null(strstr(why, "'word'"));
    assert_int_equal(o.score_wait_ms, 4242); /* untouched */
}

/* Every row of the table is in the help. */
static void test_help(void **state) {
    (void)state;
    char *text = NULL;
    size_t size = 0;
    FILE *f = open_memstream(&text, &size);
    daemon_options_help(f);
    fclose(f);
#define HAS(field, name, type, scope, min, max, standard, unit, words)           \
    assert_int_equal(!strstr(text, "--" name), DAEMON_##scope == DAEMON_HIDDEN); \
    assert_int_equal(!strstr(text, words), DAEMON_##scope == DAEMON_HIDDEN);
    DAEMON_OPTION_MAP(HAS)
#undef HAS
    free(text);
}

/* Of the manual pages, one has all options, the other what may stand in a file. */
static void test_man(void **state) {
    (void)state;
    for (int file = 0; file < 2; file++) {
        char *text = NULL, item[64];
        size_t size = 0;
        FILE *f = open_memstream(&text, &size);
        daemon_options_man(f, file);
        fclose(f);
#define HAS(field, name, type, scope, min, max, standard, unit, words)                                   \
    snprintf(item, sizeof item, file ? ".It Ic %s" : ".It Fl \\-%s", name);                              \
    assert_int_equal(strstr(text, item) != NULL, DAEMON_##scope < (file ? DAEMON_LINE : DAEMON_HIDDEN)); \
    assert_int_equal(strstr(text, words) != NULL, DAEMON_##scope < (file ? DAEMON_LINE : DAEMON_HIDDEN));
        DAEMON_OPTION_MAP(HAS)
#undef HAS
        free(text);
    }
}

/* Takes the ';' from the line of one option in the template, as an administrator would, and gives its value to the
 * parser. */
static int uncomment(const char *template, const char *name, struct daemon_options *o, char *why, size_t why_bytes) {
    char start[64], value[256];
    snprintf(start, sizeof start, "\n;%s = ", name);
    const char *at = strstr(template, start);
    assert_non_null(at);
    at += strlen(start);
    snprintf(value, sizeof value, "%.*s", (int)strcspn(at, "\n"), at);
    return daemon_options_set_from_file(o, name, value, why, why_bytes);
}

/* The default configuration has every option that a file may have, says what it takes, and changes nothing. */
static void test_template(void **state) {
    (void)state;
    char *text = NULL, why[512], *argv[] = {"scissord", NULL};
    size_t size = 0;
    struct daemon_options standard, o;
    FILE *f = open_memstream(&text, &size);
    daemon_options_template(f);
    fclose(f);
    assert_int_equal(daemon_options_parse(1, argv, &standard, why, sizeof why), 0);
    o = standard;
#define IN_TEMPLATE(field, name, type, scope, min, max, standard_text, unit, words) \
    if (DAEMON_##scope == DAEMON_LIVE || DAEMON_##scope == DAEMON_START) {          \
        int r = uncomment(text, name, &o, why, sizeof why);                         \
        if (*standard_text || strcmp(#type, "FLAG") == 0) {                         \
            assert_int_equal(r, 0);                                                 \
            assert_memory_equal(&o.field, &standard.field, sizeof o.field);         \
        } else if (r < 0) {                                                         \
            assert_non_null(strstr(why, "expected"));                               \
        }                                                                           \
    } else {                                                                        \
        assert_null(strstr(text, "\n;" name " ="));                                 \
    }
    DAEMON_OPTION_MAP(IN_TEMPLATE)
#undef IN_TEMPLATE
    /* As it is, it is comments and empty lines of bounded length. */
    for (const char *line = text; *line; line += strcspn(line, "\n") + 1) {
        assert_true(*line == ';' || *line == '\n');
        assert_in_range(strcspn(line, "\n"), 0, 100);
    }
    free(text);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sizes),    cmocka_unit_test(test_size_texts), cmocka_unit_test(test_values),
        cmocka_unit_test(test_defaults), cmocka_unit_test(test_refusals),   cmocka_unit_test(test_help),
        cmocka_unit_test(test_man),      cmocka_unit_test(test_template),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
