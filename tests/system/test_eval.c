/* test_eval.c - scissor-eval with the test model: a session that keeps every row predicts what the full cache does, one
 * that does not is worse and within its bytes, and a run leaves nothing behind. */
#include <glob.h>
#include <jansson.h>
#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "harness.h"

static const char text_path[] = "/usr/share/common-licenses/GPL-3";
static const char *skip_reason;
static char output[96];

static int setup(void **state) {
    char directory[64];
    const char *model = getenv("MODEL");
    (void)state;
    if (!model || access(model, R_OK) || access(text_path, R_OK))
        skip_reason = "needs the test model ($MODEL) and Debian's GPL-3";
    if (harness_directory(directory, sizeof directory))
        return -1;
    snprintf(output, sizeof output, "%s/output", directory);
    return 0;
}

static void skip_if_told(void) {
    if (skip_reason) {
        printf("SKIP: %s\n", skip_reason);
        skip();
    }
}

/* Runs scissor-eval with the model on 256 tokens of the text and up to 24 more arguments; its exit status. */
static int run(const char *const *more) {
    const char *argv[40] = {harness_program("scissor-eval"), getenv("MODEL"), "--tokens", "256", "--score-from", "128"};
    int argc = 6, status = -1;
    pid_t pid;
    while (*more)
        argv[argc++] = *more++;
    argv[argc++] = "--text";
    argv[argc] = text_path;
    unlink(output);
    assert_int_equal(harness_spawn(argv, output, &pid), 0);
    assert_int_equal(harness_wait(pid, 120000, &status), 0);
    return status;
}
#define RUN(...) run((const char *const[]){__VA_ARGS__, NULL})

static double number(const json_t *object, const char *key) {
    json_t *value = json_object_get(object, key);
    if (!json_is_number(value))
        fail_msg("no number '%s'", key);
    return json_number_value(value);
}

/* The figures of the one text. */
static const json_t *text_of(const json_t *configs, size_t i) {
    return json_array_get(json_object_get(json_array_get(configs, i), "texts"), 0);
}

static void check_kept(const json_t *text, double kl) {
    assert_true(number(text, "kl") > -1e-6 && number(text, "kl") < kl);
    assert_true(fabs(number(text, "ppl_ratio") - 1) < 0.01);
    assert_true(number(text, "top1") > 0.95);
    assert_true(number(text, "rows") == 255);
}

static void test_figures(void **state) {
    json_error_t error;
    (void)state;
    skip_if_told();
    if (RUN("--json", "--budget", "all", "--config", "f32", "--config", "f16", "--config", "streaming,f16,96",
            "--config", "int4,2x") != 0) {
        char text[4096];
        harness_read_file(output, text, sizeof text);
        fail_msg("%s", text);
    }
    json_t *json = json_load_file(output, 0, &error);
    if (!json)
        fail_msg("%s", error.text);
    const json_t *configs = json_object_get(json, "configurations");
    assert_int_equal(json_array_size(configs), 4);
    for (size_t i = 0; i < 4; i++) {
        assert_true(number(text_of(configs, i), "scored") == 127);
        assert_true(number(text_of(configs, i), "bytes_full") == 256 * 23040);
        assert_true(number(text_of(configs, i), "nll_full") == number(text_of(configs, 0), "nll_full"));
        assert_true(number(text_of(configs, i), "bytes_mean") <= number(text_of(configs, i), "bytes_peak"));
        assert_true(number(text_of(configs, i), "bytes_daemon") > 90 * 64 * 8); /* position and birth of each row */
    }
    check_kept(text_of(configs, 0), 1e-6);
    check_kept(text_of(configs, 1), 1e-4); /* f16 rounds */
    const json_t *streaming = text_of(configs, 2), *half = text_of(configs, 3);
    assert_true(number(streaming, "kl") > 0.05 && number(streaming, "top1") < 0.95);
    assert_true(number(streaming, "rows") == 96);
    assert_true(number(streaming, "bytes_peak") == 96 * 23040);
    assert_true(number(streaming, "bytes_daemon") < number(text_of(configs, 1), "bytes_daemon"));
    assert_true(number(half, "bytes_peak") <= number(half, "bytes_full") / 2);
    assert_true(number(half, "kl") > 0 && number(half, "kl") < number(streaming, "kl"));
    json_decref(json);
}

static void test_failures(void **state) {
    char text[4096];
    (void)state;
    skip_if_told();
    assert_int_equal(RUN("--budget", "20x"), 1);
    assert_true(harness_read_file(output, text, sizeof text) > 0);
    assert_non_null(strstr(text, "pivotal f16 20x: fewer rows"));
    assert_int_equal(RUN("--policy", "best"), 1);
    assert_true(harness_read_file(output, text, sizeof text) > 0);
    assert_non_null(strstr(text, "best f16 all: "));
    assert_int_equal(RUN("--config", "pivotal,,"), 2);
    assert_int_equal(RUN("--text", "/nonexistent"), 1);
    assert_true(harness_read_file(output, text, sizeof text) > 0);
    assert_non_null(strstr(text, "cannot open /nonexistent"));
}

/* A signal ends it and its daemon, even one that does not answer: tests/run.sh complains about a process that stays. */
static void interrupted_by(int signal, bool stuck) {
    const char *argv[] = {harness_program("scissor-eval"),
                          getenv("MODEL"),
                          "--tokens",
                          "4096",
                          "--budget",
                          "5x",
                          "--budget",
                          "6x",
                          "--budget",
                          "7x",
                          "--progress",
                          "--text",
                          text_path,
                          NULL};
    char text[4096];
    int status;
    pid_t pid;
    unlink(output); /* it is appended to */
    assert_int_equal(harness_spawn(argv, output, &pid), 0);
    for (int i = 0; i < 1000; i++) {
        harness_sleep_ms(20);
        if (harness_read_file(output, text, sizeof text) > 0 && strstr(text, " left"))
            break;
    }
    assert_non_null(strstr(text, "comparing "));
    pid_t daemon = harness_child(pid);
    assert_true(daemon > 0);
    if (stuck) {
        kill(daemon, SIGSTOP);
        harness_sleep_ms(200);
    }
    assert_int_equal(kill(pid, signal), 0);
    assert_int_equal(harness_wait(pid, 25000, &status), 0); /* a call to a daemon that does not answer takes 10 s */
    assert_int_equal(status, 128 + signal);
    assert_int_equal(kill(daemon, 0), -1);
    glob_t left;
    snprintf(text, sizeof text, "%s/scissor-run-*", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
    assert_int_equal(glob(text, 0, NULL, &left), GLOB_NOMATCH);
}

static void test_interrupted(void **state) {
    (void)state;
    skip_if_told();
    interrupted_by(SIGINT, false);
    interrupted_by(SIGHUP, false);
    interrupted_by(SIGINT, true);
}

/* A window has forgotten what is not in it; with every row a session knows what the full cache knows. */
static void test_passkey(void **state) {
    json_error_t error;
    (void)state;
    skip_if_told();
    assert_int_equal(RUN("--json", "--task", "passkey", "--tokens", "192", "--threads", "1", "--config", "f32,all",
                         "--config", "window,f16,80"),
                     0);
    json_t *json = json_load_file(output, 0, &error);
    if (!json)
        fail_msg("%s", error.text);
    const json_t *configs = json_object_get(json, "configurations");
    const json_t *all = json_array_get(configs, 0), *window = json_array_get(configs, 1);
    assert_true(number(all, "full") >= 8 && number(all, "solved") == number(all, "full"));
    assert_true(number(window, "full") == number(all, "full") && number(window, "solved") >= 1);
    for (size_t i = 0; i < 5; i++)
        assert_true(number(json_array_get(json_object_get(window, "depths"), i), "solved") == 0);
    json_decref(json);
    char text[2048];
    int status;
    setenv("FIGURES", output, 1);
    assert_int_equal(harness_shell("python3 tests/eval_report.py $FIGURES $FIGURES.md $FIGURES.gnuplot && "
                                   "cat $FIGURES.md && test ! -e $FIGURES.gnuplot",
                                   10000, text, sizeof text, &status),
                     0);
    if (status || !strstr(text, "\n| window f16 | 80 | ") || !strstr(text, "| 85 % | 95 % |\n"))
        fail_msg("exit status %d: %s", status, text);
}

/* Eight sessions in a pool that has no page too many: who wants a second one gets none. The eight of them and the full
 * caches are what takes the time, with the fewest tokens that make anybody want one. */
static void test_pool(void **state) {
    json_error_t error;
    const char *argv[] = {harness_program("scissor-eval"),
                          getenv("MODEL"),
                          "--pool",
                          "34MiB",
                          "--tokens",
                          "96",
                          "--fresh",
                          "16",
                          "--json",
                          "--text",
                          text_path,
                          NULL};
    int status;
    pid_t pid;
    (void)state;
    skip_if_told();
    unlink(output);
    assert_int_equal(harness_spawn(argv, output, &pid), 0);
    assert_int_equal(harness_wait(pid, 120000, &status), 0);
    assert_int_equal(status, 0);
    json_t *json = json_load_file(output, 0, &error);
    if (!json)
        fail_msg("%s", error.text);
    const json_t *ways = json_object_get(json, "ways");
    assert_int_equal(json_array_size(ways), 3);
    for (size_t i = 0; i < 3; i++) {
        const json_t *way = json_array_get(ways, i), *texts = json_object_get(way, "texts");
        const json_t *shortest = json_array_get(texts, 0), *longest = json_array_get(texts, 7);
        assert_int_equal(json_array_size(texts), 8);
        assert_true(number(shortest, "tokens") == 12 && number(longest, "tokens") == 96);
        assert_true(number(shortest, "kl") > -1e-6 && number(shortest, "kl") < 1e-3); /* it lost nothing */
        assert_true(number(longest, "kl") > 1e-4 && number(longest, "rows") <= 80);
        assert_true(number(longest, "scored") > 0 && number(json_object_get(way, "worst"), "kl") > 0);
        assert_true(number(json_object_get(way, "mean"), "kl") < number(json_object_get(way, "worst"), "kl"));
    }
    json_decref(json);
}

/* What `make eval` runs, on little: figures, table and, with gnuplot, the plot. */
static void test_table(void **state) {
    char text[8192], folder[64];
    int status;
    (void)state;
    skip_if_told();
    assert_int_equal(harness_directory(folder, sizeof folder), 0);
    setenv("T", folder, 1);
    setenv("EVAL_TOKENS", "256", 1);
    setenv("EVAL_CONFIGS", "streaming,f16,2x pivotal,int4,2x,recent=32 pivotal,int4,3x,recent=32", 1);
    assert_int_equal(harness_shell("cp /usr/share/common-licenses/GPL-3 $T/a.txt && cp $T/a.txt $T/b.txt && "
                                   "cp $T/a.txt $T/c.txt && TEXTS=$T EVAL_OUT=$T/out tests/eval.sh quick",
                                   100000, text, sizeof text, &status),
                     0);
    if (status || !strstr(text, "2 texts of 256 tokens, 3 configurations and the full cache: about ") ||
        !strstr(text, "\n| pivotal int4, recent 32 | 3x | ") || !strstr(text, "\n| streaming f16 | 2x | "))
        fail_msg("exit status %d: %s", status, text);
    assert_int_equal(harness_shell("cd $T/out && test -s eval.json && test -s eval.md && test -s eval.gnuplot && "
                                   "if command -v gnuplot >/dev/null; then test -s eval.svg && test -s eval.png; fi",
                                   10000, text, sizeof text, &status),
                     0);
    assert_int_equal(status, 0);
    assert_int_equal(harness_shell("TEXTS=$T/nothing tests/eval.sh 2>&1", 10000, text, sizeof text, &status), 0);
    assert_int_equal(status, 1);
    assert_non_null(strstr(text, "name a folder with TEXTS="));
}

/* What `make eval-persistence` runs, on little. */
static void test_persistence(void **state) {
    char text[8192], folder[64];
    int status;
    (void)state;
    skip_if_told();
    assert_int_equal(harness_directory(folder, sizeof folder), 0);
    setenv("T", folder, 1);
    setenv("EVAL_TOKENS", "192", 1);
    assert_int_equal(harness_shell("cp /usr/share/common-licenses/GPL-3 $T/a.txt && TEXTS=$T EVAL_OUT=$T/out "
                                   "tests/eval_persistence.sh",
                                   100000, text, sizeof text, &status),
                     0);
    if (status || !strstr(text, "\n| 29 | ") || !strstr(text, "\n| all | "))
        fail_msg("exit status %d: %s", status, text);
    assert_int_equal(harness_shell("cd $T/out && test -s persistence.json && test -s persistence.md && "
                                   "if command -v gnuplot >/dev/null; then test -s persistence.svg; fi",
                                   10000, text, sizeof text, &status),
                     0);
    assert_int_equal(status, 0);
}

int main(void) {
    harness_init(240);
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_figures),     cmocka_unit_test(test_failures),
                                       cmocka_unit_test(test_interrupted), cmocka_unit_test(test_passkey),
                                       cmocka_unit_test(test_pool),        cmocka_unit_test(test_table),
                                       cmocka_unit_test(test_persistence)};
    return cmocka_run_group_tests_name("eval", tests, setup, NULL);
}
