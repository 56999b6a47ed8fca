/* test_ctl.c - scissorctl, the program, against scissord, the program. */
#include <jansson.h>
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
#include "scissor_error.h"

static struct harness_daemon daemon_;
static int attach_socket;
static char text[65536];

static int setup(void **state) {
    (void)state;
    if (harness_start(&daemon_, NULL) < 0)
        return -1;
    attach_socket = harness_hello(&daemon_);
    return attach_socket < 0 ? -1 : 0;
}

static int teardown(void **state) {
    (void)state;
    close(attach_socket);
    return harness_stop(&daemon_);
}

/* Starts scissorctl with up to four words; what it writes goes to `output`. */
static pid_t ctl_spawn(const char *output, const char *const *words) {
    static char program[512];
    const char *argv[9] = {program, "--dir", daemon_.dir};
    snprintf(program, sizeof program, "%s", harness_program("scissorctl"));
    for (size_t i = 0; i < 5 && words[i]; i++)
        argv[3 + i] = words[i];
    pid_t pid;
    assert_int_equal(harness_spawn(argv, output, &pid), 0);
    return pid;
}

static void output_path(char path[128], const char *name) {
    snprintf(path, 128, "%s/%s", daemon_.base, name);
}

/* Runs scissorctl to its end; its words are in `text` then. */
static int ctl_run(const char *const *words) {
    char path[128];
    int status = -1;
    output_path(path, "ctl.out");
    unlink(path); /* output is appended */
    pid_t pid = ctl_spawn(path, words);
    assert_int_equal(harness_wait(pid, HARNESS_PATIENCE_MS, &status), 0);
    assert_true(harness_read_file(path, text, sizeof text) >= 0);
    return status;
}
#define CTL(...) ctl_run((const char *const[]){__VA_ARGS__, NULL, NULL, NULL, NULL, NULL})

static void assert_said(const char *what) {
    if (!strstr(text, what))
        fail_msg("'%s' is not in: %s", what, text);
}

static json_t *parse_text(void) {
    json_error_t error;
    json_t *value = json_loads(text, 0, &error);
    if (!value)
        fail_msg("%s in: %s", error.text, text);
    return value;
}

static json_int_t integer(const json_t *object, const char *key) {
    json_t *value = json_object_get(object, key);
    if (!json_is_integer(value))
        fail_msg("no integer '%s' in: %s", key, text);
    return json_integer_value(value);
}

static uint64_t open_session(const char *name) {
    struct proto_open open;
    struct proto_opened opened;
    harness_open_default(&open);
    proto_text_set(open.name, sizeof open.name, name);
    assert_int_equal(harness_open(attach_socket, &open, &opened, NULL), 0);
    return opened.session;
}

static void test_not_running(void **state) {
    (void)state;
    char directory[64];
    int status;
    char path[128];
    assert_int_equal(harness_directory(directory, sizeof directory), 0);
    snprintf(path, sizeof path, "%s/out", directory);
    static char program[512];
    snprintf(program, sizeof program, "%s", harness_program("scissorctl"));
    static const char *const commands[] = {"stat", "sessions", "top", "watch", "drain"};
    for (size_t i = 0; i < sizeof commands / sizeof commands[0]; i++) {
        const char *const argv[] = {program, "--dir", directory, commands[i], NULL};
        uint64_t start = harness_now_ns();
        assert_int_equal(harness_run(argv, path, &status), 0);
        assert_int_equal(status, 3);
        assert_true(harness_now_ns() - start < 5000000000u); /* it waits for nothing */
        assert_true(harness_read_file(path, text, sizeof text) > 0);
        assert_said("scissord is not running (no socket at ");
        assert_said("start it with `scissord --pool 1GiB` or name its directory with --dir");
    }
    const char *const argv[] = {program, "--dir", directory, "version", NULL};
    assert_int_equal(harness_run(argv, path, &status), 0);
    assert_int_equal(status, 0);
}

static void test_stat(void **state) {
    (void)state;
    assert_int_equal(CTL("stat"), 0);
    assert_said("limit       64.0 MiB");
    assert_said("sessions    0 open, 0 waiting for memory; 0 opened, 0 closed, 0 refused");
    open_session("one");
    assert_int_equal(CTL("stat", "--json"), 0);
    json_t *root = parse_text();
    const json_t *pool = json_array_get(json_object_get(root, "pools"), 0);
    assert_int_equal(integer(pool, "limit_bytes"), 64 << 20);
    assert_int_equal(integer(pool, "sessions"), 1);
    assert_int_equal(integer(pool, "sessions_opened"), 1);
    assert_true(integer(pool, "charged_bytes") > 2 << 20);
    assert_true(integer(pool, "charged_bytes") <= integer(pool, "peak_bytes"));
    assert_true(integer(pool, "guaranteed_bytes") >= integer(pool, "charged_bytes"));
    assert_int_equal(integer(pool, "lent_bytes"), 0);
    assert_int_equal(integer(json_object_get(pool, "evicted_rows"), "budget"), 0);
    assert_int_equal(integer(json_object_get(pool, "score_frames"), "forged"), 0);
    json_decref(root);
    assert_int_equal(CTL("version"), 0);
    assert_said("scissord 0.");
}

static void test_sessions(void **state) {
    (void)state;
    char id[32];
    assert_int_equal(CTL("sessions"), 0);
    assert_said("no session is open");
    uint64_t one = open_session("one");
    open_session("two");
    open_session("two");
    assert_int_equal(CTL("sessions"), 0);
    assert_said("one");
    assert_int_equal(CTL("sessions", "--json"), 0);
    json_t *root = parse_text();
    const json_t *sessions = json_object_get(root, "sessions");
    assert_int_equal(json_array_size(sessions), 3);
    const json_t *first = json_array_get(sessions, 0);
    assert_int_equal(integer(first, "session"), one);
    assert_string_equal(json_string_value(json_object_get(first, "name")), "one");
    assert_string_equal(json_string_value(json_object_get(first, "policy")), "streaming");
    assert_string_equal(json_string_value(json_object_get(first, "storage_dtype")), "f16");
    assert_int_equal(integer(first, "pid"), getpid());
    assert_int_equal(integer(first, "max_rows"), 64);
    json_decref(root);

    struct proto_settled settled;
    for (int i = 0; i < 8; i++)
        assert_int_equal(harness_settle(attach_socket, one, 0, 16, &settled), 0);
    snprintf(id, sizeof id, "%llu", (unsigned long long)one);
    assert_int_equal(CTL("session", id, "--json"), 0);
    root = parse_text();
    assert_int_equal(integer(root, "tokens_seen"), 128);
    assert_int_equal(integer(root, "settled_max_rows"), 48);
    assert_int_equal(integer(json_object_get(root, "evicted_rows"), "budget"), 4 * 80);
    const json_t *heads = json_object_get(root, "per_head");
    assert_int_equal(json_array_size(heads), 4);
    const json_t *head = json_array_get(heads, 3);
    assert_int_equal(integer(head, "layer"), 1);
    assert_int_equal(integer(head, "kv_head"), 1);
    assert_int_equal(integer(head, "settled_rows"), 48);
    assert_int_equal(integer(json_object_get(head, "evicted_rows"), "budget"), 80);
    assert_int_equal(integer(head, "oldest_position"), 0); /* a sink */
    assert_int_equal(integer(head, "newest_position"), 127);
    json_decref(root);
    assert_int_equal(CTL("session", "one"), 0);
    assert_said("128 seen");
    assert_said("SETTLED ROWS/HEAD");
    assert_int_equal(CTL("session", "one", "--heads"), 0);
    assert_said("KV HEAD ");

    assert_int_equal(CTL("session", "two"), 1);
    assert_said("2 sessions are called 'two'");
    assert_int_equal(CTL("session", "three"), 1);
    assert_said("there is no session 'three'");
    assert_int_equal(CTL("session"), 2);
}

static void test_close(void **state) {
    (void)state;
    struct proto_closed closed;
    struct proto_settled settled;
    uint64_t one = open_session("one");
    assert_int_equal(harness_settle(attach_socket, one, 0, 16, &settled), 0);
    assert_int_equal(CTL("close", "one"), 0);
    assert_said("is closed");
    assert_int_equal(harness_expect(attach_socket, PROTO_CLOSED, 0, &closed, sizeof closed, NULL), 0);
    assert_int_equal(closed.session, one);
    assert_int_equal(closed.code, SCISSOR_ECLOSED);
    /* Not twice; on a device its client has the memory open still. */
    assert_int_equal(CTL("close", "one"), 1);
    assert_said(harness_device() ? "session 1 is closed already; its memory is in quarantine until process "
                                 : "there is no session 'one'");
    assert_int_equal(CTL("stat"), 0);
    assert_said("sessions    0 open");
    if (harness_device()) {
        const struct proto_close close_it = {.session = one};
        assert_int_equal(harness_send_message(attach_socket, PROTO_CLOSE, 9, &close_it), 0);
        assert_int_equal(harness_expect(attach_socket, PROTO_CLOSED, 9, &closed, sizeof closed, NULL), 0);
    }
    struct proto_pool_stat stat;
    assert_int_equal(harness_stat(&daemon_, &stat), 0);
    assert_int_equal(stat.sessions, 0);
    assert_int_equal(stat.segments, 0);
    assert_int_equal(stat.evicted[PROTO_REASON_OPERATOR], 4 * 16);
}

static void test_drain(void **state) {
    (void)state;
    struct proto_open open;
    struct proto_opened opened;
    struct proto_failed failed = {.code = 0};
    open_session("stays");
    assert_int_equal(CTL("drain", "--json"), 0);
    assert_said("\"draining\": true");
    harness_open_default(&open);
    assert_true(harness_open(attach_socket, &open, &opened, &failed) < 0);
    assert_int_equal(failed.code, SCISSOR_DRAINING);
    assert_int_equal(CTL("stat"), 0);
    assert_said("draining: no new sessions");
    assert_said("sessions    1 open");
}

static void test_top(void **state) {
    (void)state;
    char path[128];
    int status;
    open_session("one");
    assert_int_equal(CTL("top"), 0); /* no terminal: one frame */
    assert_said("of 64.0 MiB charged");
    assert_said("one");
    assert_int_equal(CTL("top", "--once", "--json"), 0);
    json_t *root = parse_text();
    assert_int_equal(json_array_size(json_object_get(root, "sessions")), 1);
    json_decref(root);

    output_path(path, "top.out");
    pid_t pid = ctl_spawn(path, (const char *const[]){"top", "--json", NULL});
    for (int lines = 0, i = 0; lines < 2; i++) {
        assert_true(i < HARNESS_PATIENCE_MS / 50);
        harness_sleep_ms(50);
        lines = 0;
        if (harness_read_file(path, text, sizeof text) > 0)
            for (const char *at = text; (at = strchr(at, '\n')); at++)
                lines++;
    }
    kill(pid, SIGTERM);
    assert_int_equal(harness_wait(pid, HARNESS_PATIENCE_MS, &status), 0);
    assert_int_equal(status, 0);
}

static void test_watch(void **state) {
    (void)state;
    char path[128];
    int status, waited;
    struct proto_settled settled;
    output_path(path, "watch.out");
    pid_t pid = ctl_spawn(path, (const char *const[]){"watch", "--json", "--count", "6", NULL});
    /* Whoever subscribes gets what comes afterwards; so go on until it has seen enough. */
    for (int i = 0;; i++) {
        uint64_t id = open_session("one");
        for (int j = 0; j < 6; j++)
            assert_int_equal(harness_settle(attach_socket, id, 0, 16, &settled), 0);
        struct proto_close close_it = {.session = id};
        assert_int_equal(harness_send_message(attach_socket, PROTO_CLOSE, 1000, &close_it), 0);
        assert_int_equal(harness_expect(attach_socket, PROTO_CLOSED, 1000, NULL, 0, NULL), 0);
        waited = harness_wait(pid, 100, &status);
        if (waited == 0)
            break;
        assert_true(i < HARNESS_PATIENCE_MS / 100);
    }
    assert_int_equal(status, 0);
    assert_true(harness_read_file(path, text, sizeof text) > 0);
    int lines = 0;
    json_int_t before = 0;
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n"), lines++) {
        json_t *event = json_loads(line, 0, NULL);
        assert_non_null(event);
        assert_non_null(json_string_value(json_object_get(event, "event")));
        assert_string_equal(json_string_value(json_object_get(event, "name")), "one");
        json_int_t sequence = json_integer_value(json_object_get(event, "sequence"));
        if (before)
            assert_int_equal(sequence, before + 1 + integer(event, "dropped_events"));
        before = sequence;
        json_decref(event);
    }
    assert_int_equal(lines, 6);
}

static void test_watch_gone(void **state) {
    (void)state;
    char path[128];
    int status;
    output_path(path, "watch.out");
    pid_t pid = ctl_spawn(path, (const char *const[]){"watch", NULL});
    harness_sleep_ms(200);
    assert_int_equal(harness_stop(&daemon_), 0);
    assert_int_equal(harness_wait(pid, HARNESS_PATIENCE_MS, &status), 0);
    assert_int_equal(status, 3);
    assert_int_equal(harness_start_again(&daemon_, NULL), 0); /* for teardown() */
}

int main(void) {
    harness_init(240);
#define WITH_DAEMON(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_not_running),
        WITH_DAEMON(test_stat),
        WITH_DAEMON(test_sessions),
        WITH_DAEMON(test_close),
        WITH_DAEMON(test_drain),
        WITH_DAEMON(test_top),
        WITH_DAEMON(test_watch),
        WITH_DAEMON(test_watch_gone),
    };
    return cmocka_run_group_tests_name("scissorctl", tests, NULL, NULL);
}
