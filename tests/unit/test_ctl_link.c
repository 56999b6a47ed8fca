/* test_ctl_link.c - how scissorctl finds and talks to a daemon: its directory, sockets that answer as told in a thread
 * of the test, events with gaps in them. */
#include <fcntl.h>
#include <nanomsg/nn.h>
#include <nanomsg/pubsub.h>
#include <nanomsg/reqrep.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "alloc.h"
#include "client/ctl/command.h"
#include "client/ctl/json.h"
#include "client/ctl/link.h"
#include "client/ctl/pass.h"
#include "client/ctl/place.h"
#include "scissor_error.h"

static char directory[64];

static int setup_directory(void **state) {
    (void)state;
    const char *base = getenv("TMPDIR");
    snprintf(directory, sizeof directory, "%s/ctl.XXXXXX", base && strlen(base) < 40 ? base : "/tmp");
    return mkdtemp(directory) ? 0 : -1;
}

static int teardown_directory(void **state) {
    (void)state;
    char path[128];
    static const char *const names[] = {PROTO_CONTROL_SOCKET, PROTO_EVENT_SOCKET, PROTO_ATTACH_SOCKET, "scissord",
                                        "out"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        snprintf(path, sizeof path, "%s/%s", directory, names[i]);
        remove(path);
    }
    return rmdir(directory);
}

/* ---------- place ---------- */

static void test_place_default(void **state) {
    (void)state;
    char path[256], expected[128];
    setenv("SCISSORD_DIR", "/some/where", 1);
    ctl_place_default(path, sizeof path);
    assert_string_equal(path, "/some/where");
    unsetenv("SCISSORD_DIR");
    setenv("XDG_RUNTIME_DIR", directory, 1);
    ctl_place_default(path, sizeof path);
    assert_string_equal(path, "/run/scissord"); /* not there yet */
    snprintf(expected, sizeof expected, "%s/scissord", directory);
    assert_int_equal(mkdir(expected, 0700), 0);
    ctl_place_default(path, sizeof path);
    assert_string_equal(path, expected);
    unsetenv("XDG_RUNTIME_DIR");
}

static void test_place_check(void **state) {
    (void)state;
    assert_int_equal(ctl_place_check(directory, PROTO_CONTROL_SOCKET, true), CTL_NOT_RUNNING);
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    snprintf(at.sun_path, sizeof at.sun_path, "%s/%s", directory, PROTO_CONTROL_SOCKET);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&at, sizeof at), 0);
    assert_int_equal(ctl_place_check(directory, PROTO_CONTROL_SOCKET, true), CTL_NOT_RUNNING);
    assert_int_equal(listen(fd, 1), 0);
    for (int i = 0; i < 4; i++) /* its queue is full in the end */
        assert_int_equal(ctl_place_check(directory, PROTO_CONTROL_SOCKET, true), 0);
    close(fd);
    assert_int_equal(ctl_place_check(directory, PROTO_CONTROL_SOCKET, true), CTL_NOT_RUNNING); /* left by the dead */
    char deep[200];
    memset(deep, 'x', sizeof deep - 1);
    deep[sizeof deep - 1] = 0;
    assert_int_equal(ctl_place_check(deep, PROTO_CONTROL_SOCKET, true), CTL_REFUSED);
}

/* ---------- passes ---------- */

/* Takes one connection and says `answers`, one for each packet that comes; a message of no bytes is a hang-up. */
struct fake_attach {
    pthread_t thread;
    int socket;
    struct {
        uint16_t type;
        const void *body;
        size_t cut;
    } answers[2];
};

static void *fake_attach_run(void *data) {
    struct fake_attach *f = data;
    char packet[PROTO_ATTACH_MAX];
    int fd = accept(f->socket, NULL, NULL);
    for (int i = 0; i < 2 && f->answers[i].type; i++) {
        struct proto_header header = {0};
        if (recv(fd, packet, sizeof packet, 0) <= 0)
            break;
        memcpy(&header, packet, sizeof header);
        size_t size =
            proto_attach_write(packet, sizeof packet, f->answers[i].type, header.request, f->answers[i].body, NULL, 0);
        send(fd, packet, size - f->answers[i].cut, MSG_NOSIGNAL);
    }
    close(fd);
    return NULL;
}

static int fake_pass(struct fake_attach *f, struct ctl_pass *pass) {
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    snprintf(at.sun_path, sizeof at.sun_path, "%s/%s", directory, PROTO_ATTACH_SOCKET);
    unlink(at.sun_path);
    f->socket = socket(AF_UNIX, SOCK_SEQPACKET, 0);
    assert_int_equal(bind(f->socket, (struct sockaddr *)&at, sizeof at), 0);
    assert_int_equal(listen(f->socket, 1), 0);
    assert_int_equal(pthread_create(&f->thread, NULL, fake_attach_run, f), 0);
    int status = ctl_pass_open(pass, directory);
    pthread_join(f->thread, NULL);
    close(f->socket);
    return status;
}

static void test_pass(void **state) {
    (void)state;
    struct ctl_pass pass = {.socket = -1};
    const struct proto_welcome welcome = {.major = 1};
    const struct proto_pass_is is = {.pass = "0123456789abcde", .uid = 77, .operator= 1 };
    const struct proto_failed failed = {.code = SCISSOR_ELIMIT, .text = "as many as it takes"};
    struct proto_failed endless = failed;
    memset(endless.text, 'x', sizeof endless.text);
    assert_int_equal(ctl_pass_open(&pass, directory), CTL_NOT_RUNNING);
    struct fake_attach good = {.answers = {{PROTO_WELCOME, &welcome, 0}, {PROTO_PASS_IS, &is, 0}}};
    assert_int_equal(fake_pass(&good, &pass), CTL_DONE);
    assert_memory_equal(pass.is.pass, is.pass, sizeof is.pass);
    assert_int_equal(pass.is.uid, 77);
    ctl_pass_close(&pass);
    ctl_pass_close(&pass);
    struct fake_attach bad[] = {
        {.answers = {{PROTO_FAILED, &failed, 0}}},
        {.answers = {{PROTO_WELCOME, &welcome, 0}, {PROTO_FAILED, &failed, 0}}},
        {.answers = {{PROTO_FAILED, &endless, 0}}},
        {.answers = {{PROTO_WELCOME, &welcome, 1}}},
        {.answers = {{PROTO_WELCOME, &welcome, 0}, {PROTO_WELCOME, &welcome, 0}}},
        {.answers = {{PROTO_PASS_IS, &is, 0}}},
        {.answers = {{PROTO_WELCOME, &welcome, 0}}}, /* and hangs up */
        {.answers = {{0, NULL, 0}}},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(fake_pass(&bad[i], &pass), CTL_REFUSED);
        assert_int_equal(pass.socket, -1);
    }
}

/* ---------- the link ---------- */

/* Answers `requests` requests: SESSIONS with `total` sessions in pages of two; the rest as told. */
struct fake {
    pthread_t thread;
    int socket, requests;
    uint32_t total;
    int32_t code;
    size_t cut; /* bytes missing at the end */
    struct proto_request last;
};

static void fake_answer(struct fake *f) {
    struct proto_answer head = {.magic = PROTO_ANSWER_MAGIC, .op = f->last.op, .code = f->code, .epoch = 1};
    char packet[sizeof head + 2 * sizeof(struct proto_session_stat)];
    size_t size = sizeof head;
    if (f->code)
        proto_text_set(head.text, sizeof head.text, "not today");
    if (f->last.op == PROTO_OP_SESSIONS && !f->code) {
        head.total = f->total;
        head.first = f->last.first;
        for (; head.count < 2 && head.first + head.count < head.total; head.count++) {
            struct proto_session_stat s = {.session = 100 + head.first + head.count};
            memcpy(packet + size, &s, sizeof s);
            size += sizeof s;
        }
    }
    memcpy(packet, &head, sizeof head);
    nn_send(f->socket, packet, size - f->cut, 0);
}

static void *fake_run(void *data) {
    struct fake *f = data;
    while (f->requests-- > 0) {
        if (nn_recv(f->socket, &f->last, sizeof f->last, 0) != sizeof f->last)
            break;
        fake_answer(f);
    }
    return NULL;
}

static void fake_start(struct fake *f) {
    char url[128];
    int patience = 10000;
    snprintf(url, sizeof url, "ipc://%s/%s", directory, PROTO_CONTROL_SOCKET);
    f->socket = nn_socket(AF_SP, NN_REP);
    assert_true(f->socket >= 0);
    assert_int_equal(nn_setsockopt(f->socket, NN_SOL_SOCKET, NN_RCVTIMEO, &patience, sizeof patience), 0);
    assert_true(nn_bind(f->socket, url) >= 0);
    assert_int_equal(pthread_create(&f->thread, NULL, fake_run, f), 0);
}

static void fake_stop(struct fake *f) {
    pthread_join(f->thread, NULL);
    nn_close(f->socket);
}

static int ask_sessions(struct ctl_answer *answer) {
    struct ctl ctl = {.json = false};
    snprintf(ctl.directory, sizeof ctl.directory, "%s", directory);
    return ctl_ask(&ctl, PROTO_OP_SESSIONS, 0, answer);
}

static void test_link_pages(void **state) {
    (void)state;
    struct fake f = {.requests = 3, .total = 5};
    struct ctl_answer answer;
    size_t before = alloc_live();
    fake_start(&f);
    assert_int_equal(ask_sessions(&answer), 0);
    fake_stop(&f);
    assert_int_equal(answer.count, 5);
    const struct proto_session_stat *sessions = answer.entries;
    for (size_t i = 0; i < 5; i++)
        assert_int_equal(sessions[i].session, 100 + i);
    ctl_answer_deinit(&answer);
    assert_int_equal(alloc_live(), before);
}

static void test_link_refused(void **state) {
    (void)state;
    struct fake f = {.requests = 2, .code = SCISSOR_EPERM};
    struct ctl_answer answer;
    struct ctl_link link;
    uint8_t key[PROTO_TOKEN_BYTES] = "0123456789abcde";
    fake_start(&f);
    assert_int_equal(ask_sessions(&answer), CTL_REFUSED);
    assert_int_equal(ctl_link_open(&link, directory), 0);
    const uint64_t value[3] = {8, 9, 10};
    assert_int_equal(ctl_link_change_to(&link, PROTO_OP_CLOSE_SESSION, 7, value, key, &answer), CTL_REFUSED);
    ctl_link_close(&link);
    ctl_link_close(&link);
    fake_stop(&f);
    assert_int_equal(f.last.op, PROTO_OP_CLOSE_SESSION);
    assert_int_equal(f.last.session, 7);
    assert_int_equal(f.last.value[1], 9);
    assert_memory_equal(f.last.token, key, sizeof key);
    assert_true(f.last.id != 0);
}

static void test_link_garbage(void **state) {
    (void)state;
    struct fake f = {.requests = 1, .total = 2, .cut = 1};
    struct ctl_answer answer;
    fake_start(&f);
    assert_int_equal(ask_sessions(&answer), CTL_REFUSED);
    fake_stop(&f);
}

static void test_link_silent(void **state) {
    (void)state;
    struct fake f = {.requests = 0};
    struct ctl_answer answer;
    fake_start(&f);
    assert_int_equal(ask_sessions(&answer), CTL_REFUSED); /* after CTL_TIMEOUT_MS */
    fake_stop(&f);
}

static void test_link_memory(void **state) {
    (void)state;
    size_t before = alloc_live();
    for (size_t k = 0; k < 2; k++) {
        struct fake f = {.requests = k > 0, .total = 1};
        struct ctl_answer answer;
        fake_start(&f);
        alloc_fail_after(k, SIZE_MAX);
        assert_int_equal(ask_sessions(&answer), CTL_REFUSED);
        alloc_fail_never();
        fake_stop(&f);
        assert_int_equal(alloc_live(), before);
    }
}

/* ---------- watch ---------- */

/* Publishes events until told to stop: every third one is left out, as if it had been lost. */
struct fake_events {
    pthread_t thread;
    int socket;
    atomic_bool over;
};

static void *fake_publish(void *data) {
    struct fake_events *f = data;
    for (uint64_t i = 1; !f->over; i++) {
        struct proto_event event = {
            .magic = PROTO_EVENT_MAGIC, .type = PROTO_EVENT_PRESSURE, .sequence = i, .bytes = i};
        if (i % 3)
            nn_send(f->socket, &event, i % 8 == 7 ? sizeof event - 1 : sizeof event, 0); /* some are not whole */
        usleep(2000);
    }
    return NULL;
}

/* Runs `watch` with what it prints going to a file, and reads that. */
static void watch_into(bool json, char *text, size_t size) {
    struct ctl ctl = {.json = json, .count = 8};
    char path[128];
    snprintf(ctl.directory, sizeof ctl.directory, "%s", directory);
    snprintf(path, sizeof path, "%s/out", directory);
    fflush(stdout);
    int file = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600), before = dup(STDOUT_FILENO);
    assert_true(file >= 0 && before >= 0);
    dup2(file, STDOUT_FILENO);
    int status = ctl_watch(&ctl);
    fflush(stdout);
    dup2(before, STDOUT_FILENO);
    close(before);
    ssize_t got = pread(file, text, size - 1, 0);
    close(file);
    assert_int_equal(status, 0);
    assert_true(got > 0);
    text[got] = 0;
}

static void test_watch_dropped(void **state) {
    (void)state;
    struct fake_events f = {.socket = nn_socket(AF_SP, NN_PUB)};
    char url[128], text[8192];
    snprintf(url, sizeof url, "ipc://%s/%s", directory, PROTO_EVENT_SOCKET);
    assert_true(f.socket >= 0 && nn_bind(f.socket, url) >= 0);
    assert_int_equal(pthread_create(&f.thread, NULL, fake_publish, &f), 0);
    watch_into(false, text, sizeof text);
    assert_non_null(strstr(text, "-- 1 event dropped on the way\n"));
    assert_non_null(strstr(text, "memory taken back"));
    watch_into(true, text, sizeof text);
    assert_non_null(strstr(text, "\"dropped_events\":1,"));
    assert_non_null(strstr(text, "\"event\":\"pressure\""));
    f.over = true;
    pthread_join(f.thread, NULL);
    nn_close(f.socket);
}

int main(void) {
    ctl_json_init();
#define WITH_DIRECTORY(test) cmocka_unit_test_setup_teardown(test, setup_directory, teardown_directory)
    const struct CMUnitTest tests[] = {
        WITH_DIRECTORY(test_place_default), WITH_DIRECTORY(test_place_check),  WITH_DIRECTORY(test_pass),
        WITH_DIRECTORY(test_link_pages),    WITH_DIRECTORY(test_link_refused), WITH_DIRECTORY(test_link_garbage),
        WITH_DIRECTORY(test_link_silent),   WITH_DIRECTORY(test_link_memory),  WITH_DIRECTORY(test_watch_dropped),
    };
    return cmocka_run_group_tests_name("ctl link", tests, NULL, NULL);
}
