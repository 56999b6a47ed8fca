/* test_llama_run.c - scissor-run as a program, on the real model: the cached mode gives the logits of full attention
 * while nothing is evicted, stays within its budget when rows are, and leaves nothing behind. */
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

#define VOCABULARY 49152
#define TOKENS "200" /* of the text: more than three fresh buffers, and no multiple of one */

static char directory[64];
static const char *skip_reason;

/* A text that every Debian has, and that needs no file of ours. */
static const char text_path[] = "/usr/share/common-licenses/GPL-3";

/* Runs scissor-run with the model and up to 24 more arguments; its exit status. Output goes to `output`. */
static int run(const char *output, const char *const *more) {
    const char *argv[32] = {harness_program("scissor-run"), getenv("MODEL")};
    int argc = 2, status = -1;
    while (*more)
        argv[argc++] = *more++;
    assert_int_equal(harness_run(argv, output, &status), 0);
    return status;
}

#define RUN(output, ...) run(output, (const char *const[]){__VA_ARGS__, NULL})

static const char *in_directory(const char *name, char path[96]) {
    snprintf(path, 96, "%s/%s", directory, name);
    return path;
}

static int setup(void **state) {
    const char *model = getenv("MODEL");
    (void)state;
    if (!model || access(model, R_OK) != 0)
        skip_reason = "the environment's MODEL names no model file";
    else if (access(harness_program("scissor-run"), X_OK) != 0 || access(harness_program("scissord"), X_OK) != 0)
        skip_reason = "the programs are not built";
    else if (access(text_path, R_OK) != 0)
        skip_reason = "there is no /usr/share/common-licenses/GPL-3";
    return harness_directory(directory, sizeof(directory));
}

static void skip_if_told(void) {
    if (skip_reason) {
        print_message("SKIP: %s\n", skip_reason);
        skip();
    }
}

static double read_number(const char *path, const char *key) {
    char text[4096], wanted[64];
    assert_true(harness_read_file(path, text, sizeof(text)) > 0);
    snprintf(wanted, sizeof(wanted), "\"%s\": ", key);
    const char *at = strstr(text, wanted);
    assert_non_null(at);
    return strtod(at + strlen(wanted), NULL);
}

static float *read_logits(const char *path) {
    float *logits = malloc(VOCABULARY * sizeof(float));
    FILE *stream = fopen(path, "r");
    assert_non_null(logits);
    assert_non_null(stream);
    assert_int_equal(fread(logits, sizeof(float), VOCABULARY, stream), VOCABULARY);
    assert_int_equal(fgetc(stream), EOF);
    fclose(stream);
    return logits;
}

/* Largest difference between the logits after TOKENS tokens with full attention and with the given cache options. */
static double compare_logits(const char *budget, const char *fresh, const char *type) {
    char full[96], cached[96];
    double largest = 0;
    in_directory("full", full);
    in_directory("cached", cached);
    if (access(full, R_OK) != 0)
        assert_int_equal(
            RUN(NULL, "--file", text_path, "--max-tokens", TOKENS, "-n", "0", "--full", "--logits-out", full), 0);
    assert_int_equal(RUN(NULL, "--file", text_path, "--max-tokens", TOKENS, "-n", "0", "--budget", budget, "--fresh",
                         fresh, "--cache", type, "--logits-out", cached),
                     0);
    float *a = read_logits(full), *b = read_logits(cached);
    for (int i = 0; i < VOCABULARY; i++)
        largest = fmax(largest, fabs((double)a[i] - (double)b[i]));
    free(a);
    free(b);
    return largest;
}

static void test_same_logits(void **state) {
    (void)state;
    skip_if_told();
    assert_true(compare_logits(TOKENS, "64", "f32") < 2e-3);
    assert_true(compare_logits(TOKENS, "16", "f32") < 2e-3);
    assert_true(compare_logits("300", "128", "f32") < 2e-3);
    assert_true(compare_logits(TOKENS, "64", "f16") < 0.1);
    assert_true(compare_logits("96", "64", "f32") > 0.01); /* without most rows it cannot be the same */
}

static void test_budget(void **state) {
    (void)state;
    char stats[96], output[96];
    skip_if_told();
    in_directory("stats", stats);
    in_directory("output", output);
    assert_int_equal(RUN(output, "--file", text_path, "--max-tokens", TOKENS, "-n", "0", "--budget", "100", "--policy",
                         "streaming", "--stats-json", stats, "--name", "a \"name\""),
                     0);
    assert_int_equal((int)read_number(stats, "tokens_seen"), 200);
    /* Settles at 36, so that 100 rows are reached exactly, at 100 and at 164; the last 36 tokens are fresh. */
    assert_int_equal((int)read_number(stats, "rows_per_head"), 36 + 36);
    assert_int_equal((int)read_number(stats, "evictions"), 30 * 3 * (2 * 64));
    assert_int_equal((int)read_number(stats, "bytes_full"), 200 * 2 * 2 * 30 * 3 * 64);
}

static void test_text(void **state) {
    (void)state;
    char full[96], cached[96], a[1024], b[1024];
    skip_if_told();
    in_directory("full.txt", full);
    in_directory("cached.txt", cached);
    assert_int_equal(RUN(full, "--chat", "--prompt", "What is the capital of France?", "-n", "12", "--full"), 0);
    assert_int_equal(RUN(cached, "--chat", "--prompt", "What is the capital of France?", "-n", "12"), 0);
    assert_true(harness_read_file(full, a, sizeof(a)) > 0);
    assert_true(harness_read_file(cached, b, sizeof(b)) > 0);
    assert_non_null(strstr(a, "Paris"));
    assert_string_equal(a, b);
}

/* A private daemon's pool holds its one session, also where the daemon keeps more beside a row than usual. */
static void test_private_pool(void **state) {
    (void)state;
    skip_if_told();
    assert_int_equal(RUN(NULL, "--prompt", "x", "-n", "1", "--json", "--budget", "8192", "--fresh", "16"), 0);
    assert_int_equal(RUN(NULL, "--prompt", "x", "-n", "1", "--json", "--budget", "1024", "--fresh", "16", "--policy",
                         "scissorhands", "--param", "window=16384"),
                     0);
}

static void test_refusals(void **state) {
    (void)state;
    char output[96], text[4096];
    skip_if_told();
    in_directory("refused", output);
    assert_int_equal(RUN(output, "--prompt", "x", "--budget", "10"), 2);
    assert_int_equal(RUN(output, "--prompt", "x", "--socket", directory), 1);
    assert_true(harness_read_file(output, text, sizeof(text)) > 0);
    assert_non_null(strstr(text, "start scissord"));
    assert_int_equal(RUN(output, "--prompt", "x", "--device", "gpu"), 2);
    struct harness_daemon daemon;
    assert_int_equal(harness_start(&daemon, NULL), 0);
    assert_int_equal(RUN(output, "--prompt", "x", "-n", "1", "--socket", daemon.dir, "--device", "cuda"), 1);
    assert_true(harness_read_file(output, text, sizeof(text)) > 0);
    assert_non_null(strstr(text, "the daemon has its pool on host, not on cuda"));
    assert_int_equal(RUN(output, "--prompt", "x", "-n", "1", "--socket", daemon.dir, "--device", "host"), 0);
    assert_int_equal(harness_stop(&daemon), 0);
    assert_int_equal(RUN(output, "--prompt", "x", "--policy", "nonsense"), 1);
    assert_true(harness_read_file(output, text, sizeof(text)) > 0);
    assert_non_null(strstr(text, "nonsense"));
    assert_int_equal(RUN(output, "--prompt", "x", "--budget", "4000", "--pool", "32"), 1);
    assert_true(harness_read_file(output, text, sizeof(text)) > 0);
    assert_non_null(strstr(text, "--guarantee"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same_logits),  cmocka_unit_test(test_budget),   cmocka_unit_test(test_text),
        cmocka_unit_test(test_private_pool), cmocka_unit_test(test_refusals),
    };
    harness_init(280);
    return cmocka_run_group_tests_name("llama_run", tests, setup, NULL);
}
