/* test_users.c - who may do what, with a real daemon that is a user of its own and clients that are others.
 *
 *     DAEMON   runs scissord; its group is the one that the sockets are for
 *     OWNER    in the group; has a session
 *     READER   in the group
 *     STRANGER is not
 *
 * Needs root to become them, and setpriv. The programs are copied to where all of them can run them. */
#include <fcntl.h>
#include <grp.h>
#include <jansson.h>
#include <nanomsg/nn.h>
#include <nanomsg/reqrep.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "harness.h"
#include "scissor_error.h"

#define GROUP 61000
#define WRONG_PASSES 10000

enum { DAEMON = 61001, OWNER, READER, STRANGER, ROOT = 0 };

static struct harness_daemon d;
static char bin[80], text[1 << 18];
static pid_t owner;
static int owner_pipe = -1;
static uint64_t session;

/* ---------- being somebody ---------- */

static int run_as(unsigned uid, const char *output, const char *const *words, pid_t *ret_pid) {
    char reuid[24], regid[24], groups[24];
    const char *argv[24] = {"setpriv", "--pdeathsig", "KILL", reuid, regid, groups};
    size_t n = 6;
    snprintf(reuid, sizeof reuid, "--reuid=%u", uid);
    snprintf(regid, sizeof regid, "--regid=%u", uid == DAEMON ? GROUP : uid);
    snprintf(groups, sizeof groups, uid == STRANGER || uid == ROOT ? "--clear-groups" : "--groups=%d", GROUP);
    for (; *words && n < 23; words++)
        argv[n++] = *words;
    return harness_spawn(argv, output, ret_pid);
}

/* Runs scissorctl as that user; its exit status, and its words in `text`. */
static int ctl(unsigned uid, const char *const *words) {
    char program[96], path[96];
    const char *argv[16] = {program, "--dir", d.dir};
    int status = -1;
    pid_t pid;
    snprintf(program, sizeof program, "%s/scissorctl", bin);
    snprintf(path, sizeof path, "%s/out", d.base);
    for (size_t i = 0; i < 12 && words[i]; i++)
        argv[3 + i] = words[i];
    unlink(path);
    assert_int_equal(run_as(uid, path, argv, &pid), 0);
    assert_int_equal(harness_wait(pid, HARNESS_PATIENCE_MS, &status), 0);
    assert_true(harness_read_file(path, text, sizeof text) >= 0);
    return status;
}
#define CTL(uid, ...) ctl(uid, (const char *const[]){__VA_ARGS__, NULL})

static void assert_said(const char *what) {
    if (!strstr(text, what))
        fail_msg("'%s' is not in: %s", what, text);
}

/* Opens a session as OWNER, settles, says its number, and stays until the pipe ends. */
static void be_owner(int to, int until) {
    struct proto_open open;
    struct proto_opened opened;
    struct proto_settled settled;
    gid_t groups[] = {GROUP};
    char byte;
    if (setgroups(1, groups) || setgid(OWNER) || setuid(OWNER))
        _exit(2);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    int socket = harness_hello(&d);
    harness_open_default(&open);
    open.groups[0].guaranteed_rows = 128;
    open.groups[0].max_rows = 512;
    if (socket < 0 || harness_open(socket, &open, &opened, NULL))
        _exit(3);
    for (int i = 0; i < 40; i++)
        if (harness_settle(socket, opened.session, 0, 16, &settled))
            _exit(4);
    if (write(to, &opened.session, sizeof opened.session) < 0 || read(until, &byte, 1) < 0)
        _exit(5);
    _exit(0);
}

static int start_owner(void) {
    int from[2], until[2];
    if (pipe2(from, O_CLOEXEC) || pipe2(until, O_CLOEXEC))
        return -1;
    owner = fork();
    if (owner == 0) {
        close(from[0]);
        close(until[1]);
        be_owner(from[1], until[0]);
    }
    close(from[1]);
    close(until[0]);
    owner_pipe = until[1];
    bool good = owner > 0 && read(from[0], &session, sizeof session) == sizeof session;
    close(from[0]);
    return good ? 0 : -1;
}

/* ---------- set up ---------- */

static int copy(const char *name) {
    char to[128], from[512];
    int status;
    snprintf(from, sizeof from, "%s", harness_program(name));
    snprintf(to, sizeof to, "%s/%s", bin, name);
    const char *const argv[] = {"install", "-m", "755", from, to, NULL};
    return harness_run(argv, NULL, &status) < 0 || status ? -1 : 0;
}

static int setup(void **state) {
    (void)state;
    char program[96];
    unsetenv("TMPDIR"); /* which the others may not enter */
    if (harness_directory(d.base, sizeof d.base) < 0 || chmod(d.base, 0755))
        return -1;
    snprintf(d.dir, sizeof d.dir, "%s/run", d.base);
    snprintf(d.log, sizeof d.log, "%s/log", d.base);
    snprintf(bin, sizeof bin, "%s/bin", d.base);
    snprintf(program, sizeof program, "%s/scissord", bin);
    if (mkdir(d.dir, 0750) || chown(d.dir, DAEMON, GROUP) || mkdir(bin, 0755) || copy("scissord") || copy("scissorctl"))
        return -1;
    const char *const argv[] = {program, "--config", "/dev/null", "--dir", d.dir, "--pool", "64MiB", NULL};
    if (run_as(DAEMON, d.log, argv, &d.pid) < 0 || harness_wait_log(&d, "ready", HARNESS_PATIENCE_MS) < 0)
        return -1;
    return start_owner();
}

static int teardown(void **state) {
    int status = 0;
    (void)state;
    close(owner_pipe);
    if (owner > 0)
        waitpid(owner, &status, 0);
    return harness_stop(&d) || status;
}

/* ---------- who may ---------- */

static json_t *ask(unsigned uid, const char *const *words) {
    json_error_t error;
    int status = ctl(uid, words);
    json_t *root = json_loads(text, 0, &error);
    if (!root || status)
        fail_msg("%s: status %d, %s in: %s", words[0], status, error.text, text);
    return root;
}
#define ASK(uid, ...) ask(uid, (const char *const[]){__VA_ARGS__, "--json", NULL})

static json_int_t integer(const json_t *object, const char *key) {
    json_t *value = json_object_get(object, key);
    if (!json_is_integer(value))
        fail_msg("no integer '%s' in: %s", key, text);
    return json_integer_value(value);
}

static void check_memory(void) {
    static const char *const parts[] = {"fresh_bytes",   "used_page_bytes",   "free_page_bytes", "quarantined_bytes",
                                        "granted_bytes", "shared_page_bytes", "state_bytes",     "bookkeeping_bytes"};
    json_t *root = ASK(READER, "memory"), *pool = json_array_get(json_object_get(root, "pools"), 0), *one;
    json_int_t all = 0;
    size_t i;
    assert_true(json_is_true(json_object_get(pool, "adds_up")));
    json_array_foreach(json_object_get(pool, "sessions"), i, one) {
        json_int_t sum = 0;
        for (size_t p = 0; p < sizeof parts / sizeof *parts; p++)
            sum += integer(one, parts[p]);
        assert_int_equal(sum, integer(one, "charged_bytes"));
        all += sum;
    }
    assert_int_equal(i, 1);
    assert_int_equal(all, integer(pool, "charged_bytes"));
    json_decref(root);
}

/* Who is in the group reads everything, and it is JSON. */
static void test_reader_reads(void **state) {
    (void)state;
    static const char *const commands[] = {"stat",   "sessions", "config", "policies",
                                           "limits", "doctor",   "memory", "version"};
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
        json_decref(ASK(READER, commands[i]));
    json_decref(ASK(READER, "session", "1"));
    json_decref(ASK(READER, "session", "1", "--heads"));
    json_decref(ASK(READER, "config", "pool"));
    json_t *root = ASK(READER, "positions", "1", "--layer", "1", "--head", "1");
    assert_int_equal(json_array_size(json_object_get(root, "positions")), 512 - 16);
    json_decref(root);
    root = ASK(READER, "sessions");
    assert_int_equal(integer(json_array_get(json_object_get(root, "sessions"), 0), "uid"), OWNER);
    json_decref(root);
    check_memory();
}

static void test_stranger_does_not(void **state) {
    (void)state;
    assert_int_not_equal(CTL(STRANGER, "stat"), 0);
    assert_int_not_equal(CTL(STRANGER, "close", "1"), 0);
}

static void test_reader_changes_nothing(void **state) {
    (void)state;
    assert_int_equal(CTL(READER, "close", "1"), 1);
    assert_said(
        "session 1 is uid 61002's; you are uid 61003; only its owner, root and the daemon's user (uid 61001) may");
    assert_int_equal(CTL(READER, "limits", "set", "session", "1", "max-rows=64"), 1);
    assert_said("is uid 61002's");
    assert_int_equal(CTL(READER, "limits", "set", "session", "1", "priority=1"), 1);
    assert_int_equal(CTL(READER, "limits", "set", "pool", "1GiB"), 1);
    assert_said("you are uid 61003; this is for root and the daemon's user (uid 61001)");
    assert_int_equal(CTL(READER, "drain"), 1);
    json_t *root = ASK(READER, "stat"), *pool = json_array_get(json_object_get(root, "pools"), 0);
    assert_int_equal(integer(pool, "limit_bytes"), 64 << 20);
    assert_int_equal(integer(pool, "changes_denied"), 5);
    assert_int_equal(integer(pool, "sessions"), 1);
    json_decref(root);
}

static void test_owner_changes_what_is_theirs(void **state) {
    (void)state;
    json_t *root = ASK(OWNER, "limits", "set", "session", "1", "max-rows=256", "priority=50"), *now;
    now = json_object_get(root, "new");
    assert_int_equal(integer(now, "max_rows"), 256);
    assert_int_equal(integer(now, "priority"), 50);
    json_decref(root);
    assert_int_equal(CTL(OWNER, "limits", "set", "session", "1", "guaranteed-rows=200"), 1);
    assert_said("only root and the daemon's user may guarantee it 200");
    assert_int_equal(CTL(OWNER, "limits", "set", "pool", "1GiB"), 1);
    do
        root = ASK(READER, "sessions"), now = json_array_get(json_object_get(root, "sessions"), 0);
    while (integer(now, "settled_max_rows") > 256 - 16 && (json_decref(root), true)); /* is done at once, in a job */
    json_decref(root);
    root = ASK(READER, "stat"), now = json_array_get(json_object_get(root, "pools"), 0);
    assert_int_equal(integer(now, "reclaims"), 0);
    json_decref(root);
    check_memory();
}

static void test_operators_change_everything(void **state) {
    (void)state;
    assert_int_equal(CTL(DAEMON, "limits", "set", "session", "1", "guaranteed-rows=200"), 0);
    assert_int_equal(CTL(DAEMON, "limits", "set", "pool", "32MiB"), 0);
    assert_said("limit 64.0 MiB -> 32.0 MiB");
    assert_int_equal(CTL(ROOT, "limits", "set", "pool", "1MiB"), 1);
    assert_said("is the smallest possible limit");
    assert_int_equal(CTL(ROOT, "limits", "set", "pool", "48MiB"), 0);
}

/* ---------- wrong passes ---------- */

/* In a process of its own: asks for `count` changes with passes that are nobody's. */
static int guess(const char *dir, int count) {
    char url[256], answer[sizeof(struct proto_answer)];
    struct proto_answer head;
    struct proto_request r = {.magic = PROTO_REQUEST_MAGIC,
                              .major = PROTO_VERSION_MAJOR,
                              .minor = PROTO_VERSION_MINOR,
                              .op = PROTO_OP_CLOSE_SESSION,
                              .session = 1};
    snprintf(url, sizeof url, "ipc://%s/%s", dir, PROTO_CONTROL_SOCKET);
    int socket = nn_socket(AF_SP, NN_REQ), refused = 0;
    if (socket < 0 || nn_connect(socket, url) < 0)
        return 2;
    for (int i = 0; i < count; i++) {
        r.id = (uint64_t)i + 1;
        for (size_t b = 0; b < sizeof r.token; b++)
            r.token[b] = (uint8_t)rand();
        if (nn_send(socket, &r, sizeof r, 0) < 0 || nn_recv(socket, answer, sizeof answer, 0) != sizeof answer)
            return 3;
        memcpy(&head, answer, sizeof head);
        refused += head.code == SCISSOR_EPERM && strstr(head.text, "the pass is not valid") != NULL;
    }
    nn_close(socket);
    return refused == count ? 0 : 4;
}

/* Milliseconds that a settle takes, as the slowest of `count`. */
static double slowest_settle(int socket, uint64_t id, int count) {
    uint64_t most = 0;
    for (int i = 0; i < count; i++) {
        struct proto_settled settled;
        uint64_t start = harness_now_ns();
        assert_int_equal(harness_settle(socket, id, 0, 16, &settled), 0);
        uint64_t took = harness_now_ns() - start;
        most = took > most ? took : most;
    }
    return (double)most / 1e6;
}

static void test_wrong_passes(void **state) {
    (void)state;
    char count[16];
    struct proto_pool_stat before, after;
    struct proto_open open;
    struct proto_opened opened;
    pid_t pid;
    int status, socket = harness_hello(&d);
    harness_open_default(&open);
    assert_int_equal(harness_open(socket, &open, &opened, NULL), 0);
    assert_int_equal(harness_stat(&d, &before), 0);
    double alone = slowest_settle(socket, opened.session, 200);
    snprintf(count, sizeof count, "%d", WRONG_PASSES);
    const char *const argv[] = {"/proc/self/exe", "--guess", d.dir, count, NULL};
    assert_int_equal(harness_spawn(argv, NULL, &pid), 0);
    double beside = slowest_settle(socket, opened.session, 200);
    assert_int_equal(harness_wait(pid, 3 * HARNESS_PATIENCE_MS, &status), 0);
    assert_int_equal(status, 0);
    assert_int_equal(harness_stat(&d, &after), 0);
    assert_int_equal(after.denied - before.denied, WRONG_PASSES);
    assert_int_equal(after.sessions, before.sessions);
    printf("the slowest of 200 settles: %.1f ms alone, %.1f ms while somebody guesses passes\n", alone, beside);
    close(socket);
}

static void test_close(void **state) {
    (void)state;
    assert_int_equal(CTL(READER, "close", "1"), 1);
    assert_int_equal(CTL(OWNER, "close", "1"), 0);
    assert_int_equal(CTL(READER, "session", "1"), 1);
}

static void test_skipped(void **state) {
    (void)state;
    printf("SKIP: only root, with setpriv, can become three users\n");
    skip();
}

int main(int argc, char **argv) {
    harness_init(180);
    if (argc == 4 && strcmp(argv[1], "--guess") == 0)
        return guess(argv[2], atoi(argv[3]));
    if (geteuid() != 0 || access("/usr/bin/setpriv", X_OK)) {
        const struct CMUnitTest nothing[] = {cmocka_unit_test(test_skipped)};
        return cmocka_run_group_tests(nothing, NULL, NULL);
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reader_reads),
        cmocka_unit_test(test_stranger_does_not),
        cmocka_unit_test(test_reader_changes_nothing),
        cmocka_unit_test(test_owner_changes_what_is_theirs),
        cmocka_unit_test(test_operators_change_everything),
        cmocka_unit_test(test_wrong_passes),
        cmocka_unit_test(test_close),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
