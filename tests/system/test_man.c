/* test_man.c - the manual pages: no warning of a formatter, and everything in them that the programs and headers have.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "harness.h"
#include "scissor_error.h"

static char page[65536], text[65536];

static const char *const pages[] = {"scissord.8",     "scissord.conf.5",  "scissorctl.1", "scissor-run.1",
                                    "scissor-eval.1", "scissor-replay.1", "libscissor.3"};

/* What a shell command prints, $1 being a page. */
static int run(const char *command, const char *name) {
    char base[64], output[96], path[256], relative[64];
    int status = -1;
    assert_int_equal(harness_directory(base, sizeof base), 0);
    snprintf(output, sizeof output, "%s/output", base);
    snprintf(relative, sizeof relative, "man/%s", name);
    snprintf(path, sizeof path, "%s", harness_program(relative));
    const char *argv[] = {"sh", "-c", command, "sh", path, NULL};
    assert_int_equal(harness_run(argv, output, &status), 0);
    assert_true(harness_read_file(output, text, sizeof text) >= 0);
    return status;
}

static void read_page(const char *name) {
    assert_int_equal(run("cat \"$1\"", name), 0);
    memcpy(page, text, sizeof page);
}

static void page_has(const char *what) {
    if (!strstr(page, what))
        fail_msg("the page lacks '%s'", what);
}

static void test_formatters(void **state) {
    (void)state;
    bool mandoc = run("command -v mandoc", "") == 0, man = run("command -v man", "") == 0;
    if (!mandoc && !man) {
        printf("SKIP: needs mandoc or man to check the manual pages with\n");
        skip();
    }
    for (size_t i = 0; i < sizeof pages / sizeof *pages; i++) {
        if (mandoc && (run("mandoc -T lint -W warning \"$1\" 2>&1", pages[i]) != 0 || *text))
            fail_msg("mandoc: %s", text);
        if (man &&
            (run("LC_ALL=C.UTF-8 man --warnings -E UTF-8 -l -Tutf8 -Z \"$1\" 2>&1 >/dev/null", pages[i]) != 0 || *text))
            fail_msg("man: %s", text);
        read_page(pages[i]);
        assert_null(strstr(page, "\n@")); /* nothing was left to be filled in */
    }
}

/* Each "--option" of a help text. */
static void page_has_options(const char *help, const char *prefix) {
    char item[96];
    size_t count = 0;
    for (const char *at = help; (at = strstr(at, "\n  --")); count++) {
        at += 5;
        snprintf(item, sizeof item, "%s\\-%.*s", prefix, (int)strcspn(at, " \n"), at);
        page_has(item);
    }
    assert_true(count >= 4);
}

static void test_scissord(void **state) {
    (void)state;
    read_page("scissord.8");
    assert_int_equal(run("\"${1%/man/*}/scissord\" --help", "scissord.8"), 0);
    page_has_options(text, ".It Fl ");
    page_has(".It Cm scissorhands\n");
    page_has(".It Ic sinks\n");
    assert_null(strstr(page, "man-options"));
    read_page("scissord.conf.5");
    page_has(".It Ic pool No = Ar SIZE\n");
    assert_null(strstr(page, ".It Ic check"));
}

static void test_scissorctl(void **state) {
    (void)state;
    read_page("scissorctl.1");
    assert_int_equal(run("\"${1%/man/*}/scissorctl\" help", ""), 0);
    page_has_options(text, ".It Fl ");
    char *commands = strstr(text, "\n\n  stat ");
    assert_non_null(commands);
    size_t count = 0;
    for (char *at = commands + 1; strncmp(at, "\n  ", 3) == 0; count++) {
        char item[96];
        at += 3;
        snprintf(item, sizeof item, ".It Cm %.*s", (int)strcspn(at, " "), at);
        page_has(item);
        at += strcspn(at, "\n");
    }
    assert_true(count >= 9);
    page_has(".It Fl \\-once\n");
    page_has(".It Fl \\-heads\n");
    page_has(".It Fl \\-count Ar N\n");
    page_has(".It Fl \\-listen Ar ADDR\n");
    static const char *const sections[] = {"FILES", "EXIT STATUS", "EXAMPLES", "ENVIRONMENT"};
    for (size_t i = 0; i < sizeof sections / sizeof *sections; i++) {
        char title[32];
        snprintf(title, sizeof title, "\n.Sh %s\n", sections[i]);
        page_has(title);
    }
}

static void test_scissor_run(void **state) {
    (void)state;
    read_page("scissor-run.1");
    assert_int_equal(run("\"${1%/man/*}/scissor-run\" --help", ""), 0);
    page_has_options(text, ".It Fl ");
    page_has(".It Fl n Ar N\n");
    page_has(".It Fl \\-param Ar NAME=VALUE\na parameter of the policy; may be repeated.\n");
}

static void test_scissor_eval(void **state) {
    (void)state;
    read_page("scissor-eval.1");
    assert_int_equal(run("\"${1%/man/*}/scissor-eval\" --help", ""), 0);
    page_has_options(text, ".It Fl ");
    page_has(".It Fl \\-param Ar NAME=VALUE\na parameter of the policy; may be repeated.\n");
}

static void test_scissor_replay(void **state) {
    (void)state;
    read_page("scissor-replay.1");
    assert_int_equal(run("\"${1%/man/*}/scissor-replay\" --help", ""), 0);
    page_has_options(text, ".It Fl ");
    page_has("\n.Sh WHAT A REPLAY CANNOT KNOW\n");
}

static void test_libscissor(void **state) {
    (void)state;
    read_page("libscissor.3");
    assert_int_equal(
        run("nm -D --defined-only \"${1%/man/*}/libscissor.so\" | sed -n 's/.* T \\(scissor_\\)/\\1/p'", ""), 0);
    size_t count = 0;
    for (char *name = strtok(text, "\n"); name; name = strtok(NULL, "\n"), count++)
        page_has(name);
    assert_true(count >= 21);
#define HAS(name, number, words)                             \
    page_has(".It Bq Er SCISSOR_" #name " (" #number ")\n"); \
    page_has(words);
    SCISSOR_ERROR_MAP(HAS)
#undef HAS
    page_has("\n#include <scissor.h>\n");
    page_has("\"%d tokens, %u rows held per head: %s\\en\"");
}

int main(void) {
    harness_init(120);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_formatters),  cmocka_unit_test(test_scissord),     cmocka_unit_test(test_scissorctl),
        cmocka_unit_test(test_scissor_run), cmocka_unit_test(test_scissor_eval), cmocka_unit_test(test_scissor_replay),
        cmocka_unit_test(test_libscissor),
    };
    return cmocka_run_group_tests_name("manual pages", tests, NULL, NULL);
}
