/* test_doctor.c - scissorctl doctor at real daemons: a healthy one, and some that are made ill in earnest.
 *
 * What takes a minute to be found (idle hogs, sessions that never settle) is tested with made-up states in unit tests.
 * The screens are printed, to be looked at. */
#include <jansson.h>
#include <nanomsg/nn.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "harness.h"
#include "scissor_error.h"

static struct harness_daemon d;
static int socket_ = -1;
static char text[65536];

static void begin(const char *pool, const char *score_wait) {
    const char *const args[] = {"--pool", pool, "--score-wait", score_wait, NULL};
    assert_int_equal(harness_start(&d, args), 0);
    socket_ = harness_hello(&d);
    assert_true(socket_ >= 0);
}

static int teardown(void **state) {
    (void)state;
    close(socket_);
    return harness_stop(&d);
}

/* Runs `scissorctl [--json] doctor`; its exit status. */
static int doctor(bool json) {
    static char program[512];
    char path[128];
    int status = -1;
    snprintf(program, sizeof program, "%s", harness_program("scissorctl"));
    snprintf(path, sizeof path, "%s/doctor", d.base);
    unlink(path);
    const char *const argv[] = {program, "--dir", d.dir, "doctor", json ? "--json" : NULL, NULL};
    assert_int_equal(harness_run(argv, path, &status), 0);
    assert_true(harness_read_file(path, text, sizeof text) > 0);
    return status;
}

/* Looks twice, once for people; what is found is the same. */
static json_t *examine(int expected) {
    int status = doctor(false);
    printf("$ scissorctl doctor\n%s", text);
    if (status != expected)
        fail_msg("status %d, not %d: %s", status, expected, text);
    assert_int_equal(doctor(true), expected);
    json_error_t error;
    json_t *root = json_loads(text, 0, &error);
    assert_non_null(root);
    return root;
}

/* NULL: there is none; `session` is 0 for one about whatever. */
static const json_t *find(const json_t *root, const char *id, uint64_t session) {
    size_t i;
    json_t *f;
    json_array_foreach(json_object_get(root, "findings"), i, f) {
        if (strcmp(json_string_value(json_object_get(f, "id")), id) == 0 &&
            (!session || (uint64_t)json_integer_value(json_object_get(f, "session")) == session))
            return f;
    }
    return NULL;
}

/* The finding is there, and its figure reaches its threshold. */
static void assert_found(const json_t *root, const char *id, const char *severity, uint64_t session) {
    const json_t *f = find(root, id, session);
    if (!f)
        fail_msg("no finding %s in: %s", id, text);
    assert_string_equal(json_string_value(json_object_get(f, "severity")), severity);
    assert_true(json_number_value(json_object_get(f, "value")) >= json_number_value(json_object_get(f, "threshold")));
    assert_true(strlen(json_string_value(json_object_get(f, "sentence"))) > 20);
    assert_true(strlen(json_string_value(json_object_get(f, "advice"))) > 20);
}

static struct proto_open shape(uint32_t fresh, uint32_t guaranteed, uint32_t max, const char *policy) {
    struct proto_open open;
    harness_open_default(&open);
    open.fresh_rows = fresh;
    open.groups[0].head_dim = 256;
    open.groups[0].guaranteed_rows = guaranteed;
    open.groups[0].max_rows = max;
    proto_text_set(open.groups[0].policy, sizeof open.groups[0].policy, policy);
    proto_text_set(open.name, sizeof open.name, policy);
    return open;
}

static uint64_t open_one(const struct proto_open *open) {
    struct proto_opened opened;
    assert_int_equal(harness_open(socket_, open, &opened, NULL), 0);
    return opened.session;
}

static void settle(uint64_t session, uint32_t rows, int times) {
    struct proto_settled settled;
    for (int i = 0; i < times; i++)
        assert_int_equal(harness_settle(socket_, session, 0, rows, &settled), 0);
}

/* Nothing but notes, which may be of the machine. */
static void test_healthy(void **state) {
    (void)state;
    begin("64MiB", "200");
    struct proto_open open = shape(64, 512, 2048, "pivotal");
    uint64_t a = open_one(&open), b = open_one(&open);
    settle(a, 64, 40);
    settle(b, 64, 10);
    json_t *root = examine(0), *f;
    size_t i;
    json_array_foreach(json_object_get(root, "findings"), i, f)
        assert_string_equal(json_string_value(json_object_get(f, "severity")), "note");
    json_decref(root);
    doctor(false);
    assert_non_null(strstr(text, "nothing is wrong"));
}

/* A pool that has no room for what its clients want guaranteed. */
static void test_small_pool(void **state) {
    (void)state;
    begin("13MiB", "200");
    struct proto_open open = shape(64, 512, 0, "window");
    struct proto_opened opened;
    int count = 0;
    while (harness_open(socket_, &open, &opened, NULL) == 0)
        count++;
    assert_true(count >= 2 && count < 19);
    open.wait_ms = 300000;
    assert_true(harness_send_message(socket_, PROTO_OPEN, 4000, &open) >= 0);
    struct proto_pool_stat stat;
    do
        assert_int_equal(harness_stat(&d, &stat), 0);
    while (!stat.waiting);
    json_t *root = examine(10);
    assert_found(root, "pool-promised", "warning", 0);
    assert_found(root, "opens-refused", "warning", 0);
    assert_found(root, "opens-waiting", "warning", 0);
    assert_string_equal(json_string_value(json_object_get(root, "result")), "warning");
    json_decref(root);
}

/* Two that borrow and are made to give back again and again, and one whose budget is hardly more than its fresh buffer.
 */
static void test_thrashing(void **state) {
    (void)state;
    begin("24MiB", "200");
    struct proto_open open = shape(256, 512, 65536, "window");
    uint64_t a = open_one(&open), b = open_one(&open);
    open = shape(256, 512, 0, "streaming");
    uint64_t c = open_one(&open);
    for (int i = 0; i < 40; i++) {
        settle(a, 256, 1);
        settle(b, 256, 1);
    }
    settle(c, 256, 8);
    json_t *root = examine(10);
    assert_found(root, "thrashes", "warning", a);
    assert_found(root, "thrashes", "warning", b);
    assert_found(root, "budget-too-small", "warning", c);
    json_decref(root);
}

/* Scores that never arrive, frames that are none, and a front that has to be started again. */
static void test_lost_scores(void **state) {
    (void)state;
    begin("64MiB", "0");
    uint32_t score_socket;
    int scores = harness_hello_scores(&d, &score_socket), push = harness_push(&d, score_socket);
    assert_true(scores >= 0 && push >= 0);
    struct proto_open open = shape(64, 512, 2048, "pivotal");
    uint64_t a = open_one(&open);
    for (uint64_t sequence = 1; sequence <= 25; sequence++) {
        struct proto_settled settled;
        assert_int_equal(harness_settle(socket_, a, sequence, 64, &settled), 0);
        assert_int_equal(settled.scores_lost, 1);
    }
    for (int i = 0; i < 5; i++)
        assert_int_equal(nn_send(push, "this is no frame", 16, 0), 16);
    size_t malformed = offsetof(struct proto_pool_stat, frames[PROTO_FRAME_MALFORMED]);
    assert_int_equal(harness_wait_counter(&d, malformed, 5, HARNESS_PATIENCE_MS), 0);
    pid_t front = harness_front_pid(&d);
    assert_true(front > 0);
    kill(front, SIGKILL);
    assert_int_equal(harness_wait_log(&d, "front", HARNESS_PATIENCE_MS), 0);
    assert_int_equal(harness_wait_counter(&d, offsetof(struct proto_pool_stat, front_restarts), 1, HARNESS_PATIENCE_MS),
                     0);
    json_t *root = examine(20);
    assert_found(root, "settles-without-scores", "critical", 0);
    assert_found(root, "frames-malformed", "warning", 0);
    assert_found(root, "front-restarts", "warning", 0);
    assert_string_equal(json_string_value(json_object_get(root, "result")), "critical");
    json_decref(root);
    nn_close(push);
    close(scores);
}

/* A limit that no machine can hold, and a daemon that is about to end. The machine's memory and descriptors are not
 * what a pool on a device takes. */
static void test_too_large(void **state) {
    (void)state;
    static char program[512];
    int status;
    begin("64MiB", "200");
    snprintf(program, sizeof program, "%s", harness_program("scissorctl"));
    const char *const grow[] = {program, "--dir", d.dir, "limits", "set", "pool", "900TiB", NULL};
    const char *const drain[] = {program, "--dir", d.dir, "drain", NULL};
    assert_int_equal(harness_run(grow, d.log, &status), 0);
    assert_int_equal(status, 0);
    assert_int_equal(harness_run(drain, d.log, &status), 0);
    json_t *root = examine(harness_device() ? 10 : 20);
    if (harness_device()) {
        assert_null(find(root, "limit-above-memory", 0));
        assert_null(find(root, "few-descriptors", 0));
    } else {
        assert_found(root, "limit-above-memory", "critical", 0);
        assert_found(root, "few-descriptors", "warning", 0);
    }
    assert_found(root, "draining", "warning", 0);
    json_decref(root);
}

int main(void) {
    harness_init(120);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_healthy, teardown),   cmocka_unit_test_teardown(test_small_pool, teardown),
        cmocka_unit_test_teardown(test_thrashing, teardown), cmocka_unit_test_teardown(test_lost_scores, teardown),
        cmocka_unit_test_teardown(test_too_large, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
