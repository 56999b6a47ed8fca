/* test_trace.c - `scissorctl record` of real sessions, and scissor-replay on what it wrote: with the session's own
 * policy and budget the same rows are kept as the daemon keeps. */
#include <jansson.h>
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

#include "attention.h"
#include "harness.h"
#include "scissor.h"

static struct harness_daemon d;
static struct scissor_client *client;
static char text[1 << 20], trace[128];

static struct attention_model model = {.seed = 5,
                                       .layers = 3,
                                       .kv_heads = 2,
                                       .q_heads = 4,
                                       .head_dim = 64,
                                       .compute_dtype = SCISSOR_F32,
                                       .storage_dtype = SCISSOR_F32,
                                       .scale = 0.125f};

static int start(void **state) {
    (void)state;
    const char *const args[] = {"--pool", "256MiB", NULL};
    if (harness_device()) { /* of the tests, whose kernels are slow; the frames are as large */
        model.q_heads = 2;
        model.head_dim = 32;
    }
    return harness_start(&d, args) || scissor_connect(d.dir, &client);
}

static int stop(void **state) {
    (void)state;
    scissor_disconnect(client);
    return harness_stop(&d);
}

static struct scissor_session *opened(const char *name, uint32_t rows, const char *policy) {
    struct scissor_session *session = NULL;
    struct scissor_session_spec spec = {
        .compute_dtype = model.compute_dtype, .storage_dtype = model.storage_dtype, .fresh_rows = 32, .group_count = 1};
    spec.groups[0] = (struct scissor_group_spec){.layers = model.layers,
                                                 .kv_heads = model.kv_heads,
                                                 .q_heads = model.q_heads,
                                                 .head_dim = model.head_dim,
                                                 .guaranteed_rows = rows};
    strncpy(spec.name, name, sizeof spec.name - 1);
    strncpy(spec.groups[0].policy, policy, sizeof spec.groups[0].policy - 1);
    assert_int_equal(scissor_open(client, &spec, &session), 0);
    return session;
}

/* So many steps of 16 rows, and a settle for each two. */
static void steps(struct scissor_session *s, int count) {
    float *out = malloc((size_t)16 * model.q_heads * model.head_dim * sizeof *out);
    for (int i = 0; i < count; i++) {
        assert_int_equal(attention_step(&model, s, 16, 0, out), 0);
        if (!scissor_fresh_room(s))
            assert_int_equal(scissor_settle(s), 0);
    }
    free(out);
}

/* Runs a program with its words; its exit status, and its output in `text`. */
static int run(const char *const *argv) {
    char path[128];
    int status = -1;
    snprintf(path, sizeof path, "%s/out", d.base);
    unlink(path);
    assert_int_equal(harness_run(argv, path, &status), 0);
    assert_true(harness_read_file(path, text, sizeof text) >= 0);
    return status;
}

static int replay(const char *const *words) {
    const char *argv[12] = {harness_program("scissor-replay")};
    for (size_t i = 0; i < 10 && words[i]; i++)
        argv[1 + i] = words[i];
    return run(argv);
}
#define REPLAY(...) replay((const char *const[]){__VA_ARGS__, NULL})

/* The recorder has a moment behind the daemon: waits until the trace has grown no more. */
static void wait_written(void) {
    struct stat file = {0};
    for (off_t before = -1; file.st_size != before;) {
        before = file.st_size;
        harness_sleep_ms(300);
        assert_int_equal(stat(trace, &file), 0);
    }
}

/* Begins to record into `trace`, and waits until it has begun. */
static pid_t record(const char *name) {
    static char program[512], log[128];
    struct stat file;
    pid_t pid;
    snprintf(program, sizeof program, "%s", harness_program("scissorctl"));
    snprintf(trace, sizeof trace, "%s/%s.trace", d.base, name);
    snprintf(log, sizeof log, "%s/record.out", d.base);
    unlink(log);
    const char *const argv[] = {program, "--dir", d.dir, "record", name, trace, NULL};
    assert_int_equal(harness_spawn(argv, log, &pid), 0);
    uint64_t until = harness_now_ns() + HARNESS_PATIENCE_MS * 1000000ull;

    while ((stat(trace, &file) < 0 || file.st_size < 2000) && harness_now_ns() < until) /* shape and first state */
        harness_sleep_ms(5);
    assert_int_equal(stat(trace, &file), 0);
    assert_true(file.st_size > 2000);
    return pid;
}

static int recorded(pid_t pid) {
    char path[128];
    int status = -1;
    assert_int_equal(harness_wait(pid, HARNESS_PATIENCE_MS, &status), 0);
    snprintf(path, sizeof path, "%s/record.out", d.base);
    assert_true(harness_read_file(path, text, sizeof text) >= 0);
    return status;
}

static json_t *parse(void) {
    json_error_t error;
    json_t *value = json_loads(text, 0, &error);
    if (!value)
        fail_msg("%s in: %s", error.text, text);
    return value;
}

static int by_value(const void *left, const void *right) {
    const uint32_t *a = left, *b = right;
    return *a < *b ? -1 : *a > *b;
}

/* The rows that a head of the replay has kept are those that the daemon holds. */
static void compare_head(const json_t *result, struct scissor_session *s, uint32_t layer, uint32_t head) {
    uint32_t held = scissor_settled_count(s, layer, head);
    uint32_t *positions = calloc(held, sizeof *positions), count = 0;
    assert_int_equal(scissor_positions(s, layer, head, positions, held, &count), 0);
    assert_int_equal(count, held);
    qsort(positions, held, sizeof *positions, by_value);
    json_t *kept =
        json_array_get(json_object_get(json_array_get(json_object_get(result, "layers"), layer), "kept"), head);
    assert_int_equal(json_array_size(kept), held);
    for (uint32_t i = 0; i < held; i++)
        assert_int_equal(json_integer_value(json_array_get(kept, i)), positions[i]);
    free(positions);
}

static void own_policy(const char *policy, int count) {
    struct scissor_session *s = opened(policy, 32 + 200, policy);
    pid_t pid = record(policy);
    steps(s, count);
    wait_written();
    kill(pid, SIGINT);
    assert_int_equal(recorded(pid), 0);
    assert_non_null(strstr(text, " 0 records lost"));
    if (REPLAY("--json", trace))
        fail_msg("%s", text);
    json_t *result = parse();
    assert_int_equal(json_integer_value(json_object_get(result, "tokens")), scissor_tokens_seen(s));
    assert_int_equal(json_integer_value(json_object_get(result, "unknown_rows")), 0);
    for (uint32_t l = 0; l < model.layers; l++)
        for (uint32_t h = 0; h < model.kv_heads; h++)
            compare_head(result, s, l, h);
    json_decref(result);
    assert_int_equal(scissor_close(s), 0);
}

static void the_same_rows_as_the_daemon(void **state) {
    (void)state;
    static const char *const policies[] = {"pivotal", "h2o", "tova", "scissorhands", "streaming", "random"};
    for (size_t i = 0; i < sizeof policies / sizeof *policies; i++)
        own_policy(policies[i], 40);
}

/* All rows are in the trace, so any policy can be tried; the end comes with the session. */
static void other_policies(void **state) {
    (void)state;
    struct scissor_session *s = opened("whole", 1024, "pivotal");
    steps(s, 4);
    pid_t pid = record("whole");
    steps(s, 40);
    assert_int_equal(scissor_close(s), 0);
    assert_int_equal(recorded(pid), 0);
    assert_int_equal(REPLAY("--json", trace), 0);
    json_t *result = parse();
    assert_true(json_number_value(json_object_get(result, "retained")) == 1);
    assert_string_equal(json_string_value(json_object_get(result, "end")), "ECLOSED");
    json_decref(result);
    static const char *const policies[] = {"pivotal", "h2o", "streaming", "window", "random"};
    double retained[5];
    for (size_t i = 0; i < 5; i++) {
        assert_int_equal(REPLAY("--json", "--policy", policies[i], "--budget", "160", trace), 0);
        result = parse();
        retained[i] = json_number_value(json_object_get(result, "retained"));
        assert_true(retained[i] > 0.1 && retained[i] < 1);
        json_decref(result);
    }
    assert_true(retained[1] > retained[4]); /* what attention chose holds more of it than chance */
    assert_int_equal(REPLAY("--policy", "streaming", "--param", "sinks=8", "--budget", "160", trace), 0);
    assert_non_null(strstr(text, "layers 0 to 2: streaming, 160 rows per KV head"));
    assert_int_equal(REPLAY("--json", "--persistence", trace), 0);
    result = parse();
    assert_int_equal(json_integer_value(json_object_get(result, "half")), (4 + 40) * 16 / 2);
    assert_int_equal(json_array_size(json_object_get(result, "layers")), model.layers);
    json_int_t both = json_integer_value(json_object_get(result, "both"));
    assert_true(json_number_value(json_object_get(result, "share_early")) > 0);
    assert_true(both <= json_integer_value(json_object_get(result, "early")));
    assert_true(both <= json_integer_value(json_object_get(result, "late")));
    json_decref(result);
    assert_int_equal(REPLAY("--persistence", trace), 0);
    assert_non_null(strstr(text, "\n  all"));
    assert_int_equal(REPLAY("--persistence", "--policy", "h2o", trace), 2);
    assert_int_equal(REPLAY("--policy", "tova", trace), 1);
    assert_non_null(strstr(text, "needs the scores \"last\""));
    assert_int_equal(REPLAY("--budget", "0", trace), 2);
    assert_int_equal(truncate(trace, 5000), 0);
    assert_int_equal(REPLAY(trace), 1);
    assert_non_null(strstr(text, "it was cut off"));
}

static void refusals(void **state) {
    (void)state;
    struct scissor_session *s = opened("twice", 128, "h2o");
    pid_t pid = record("twice");
    char program[512];
    snprintf(program, sizeof program, "%s", harness_program("scissorctl"));
    const char *again[] = {program, "--dir", d.dir, "record", "twice", trace, NULL};
    assert_int_equal(run(again), 1);
    assert_non_null(strstr(text, "File exists"));
    char other[160];
    snprintf(other, sizeof other, "%s.2", trace);
    again[5] = other;
    assert_int_equal(run(again), 1);
    assert_non_null(strstr(text, "somebody records the session already"));
    assert_int_equal(access(other, F_OK), -1);
    kill(pid, SIGTERM);
    assert_int_equal(recorded(pid), 0);
    const char *counted[] = {program, "--dir", d.dir, "--json", "record", "--settles", "2", "twice", other, NULL};
    char log[128];
    snprintf(log, sizeof log, "%s/record.out", d.base);
    unlink(log);
    assert_int_equal(harness_spawn(counted, log, &pid), 0);
    struct stat file;
    while (stat(other, &file) < 0 || file.st_size < 2000)
        harness_sleep_ms(5);
    steps(s, 8);
    assert_int_equal(recorded(pid), 0);
    json_t *result = parse();
    assert_int_equal(json_integer_value(json_object_get(result, "settles")), 2);
    json_decref(result);
    assert_int_equal(scissor_close(s), 0);
}

/* A recorder that does not read: every settle is answered as ever, the trace says what it lacks, and what it has can be
 * replayed. */
static void a_recorder_that_stops(void **state) {
    (void)state;
    struct scissor_session *s = opened("stopped", 1024, "pivotal");
    steps(s, 60);
    pid_t pid = record("stopped");
    steps(s, 4);
    wait_written();
    kill(pid, SIGSTOP);
    steps(s, 300); /* 150 frames of 24 KiB, for which there are 3 MiB */
    assert_true(harness_alive(&d));
    kill(pid, SIGCONT);
    wait_written();
    steps(s, 4);
    assert_int_equal(scissor_close(s), 0);
    assert_int_equal(recorded(pid), 0);
    assert_null(strstr(text, " 0 records lost"));
    assert_int_equal(REPLAY(trace), 0);
    assert_non_null(strstr(text, " records were lost while it was recorded"));
}

/* The trace of a daemon that dies has an end all the same. */
static void daemon_dies(void **state) {
    (void)state;
    struct scissor_session *s = opened("orphaned", 128, "h2o");
    pid_t pid = record("orphaned");
    steps(s, 4);
    wait_written();
    harness_crash(&d);
    assert_int_equal(recorded(pid), 1);
    assert_non_null(strstr(text, "scissord went away"));
    assert_int_equal(REPLAY(trace), 0);
    assert_non_null(strstr(text, "the daemon went away while it was recorded"));
    scissor_disconnect(client);
    assert_int_equal(harness_start_again(&d, NULL), 0);
    assert_int_equal(scissor_connect(d.dir, &client), 0);
}

int main(void) {
    harness_init(240);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_same_rows_as_the_daemon), cmocka_unit_test(other_policies), cmocka_unit_test(refusals),
        cmocka_unit_test(a_recorder_that_stops),       cmocka_unit_test(daemon_dies),
    };
    return cmocka_run_group_tests_name("traces of real sessions", tests, start, stop);
}
