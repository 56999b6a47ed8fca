/* test_front.c - the front: killed, aborted, flooded and lied to, while sessions go on. */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>
#include <nanomsg/nn.h>
#include <nanomsg/pubsub.h>
#include <nanomsg/reqrep.h>

#include "harness.h"
#include "scissor_error.h"
#include "score.h"

#define RESTARTS offsetof(struct proto_pool_stat, front_restarts)
#define FRAMES(fate) (offsetof(struct proto_pool_stat, frames) + PROTO_FRAME_##fate * sizeof(uint64_t))

/* A session of the policy that needs scores, 2 layers of 2 heads, F 16. */
struct session {
    struct harness_daemon d;
    int fd, push;
    uint32_t score_socket;
    struct proto_opened opened;
    uint64_t sequence, generation;
    uint32_t settled;
};

static int session_start_with(void **state, const char *const *args) {
    struct session *s = calloc(1, sizeof *s);
    struct proto_open open;
    *state = s;
    harness_open_default(&open);
    strcpy(open.groups[0].policy, "scissorhands");
    if (harness_start(&s->d, args) < 0 || (s->fd = harness_hello_scores(&s->d, &s->score_socket)) < 0 ||
        harness_open(s->fd, &open, &s->opened, NULL) < 0)
        return -1;
    s->push = harness_push(&s->d, s->score_socket);
    return s->push < 0 ? -1 : 0;
}

/* Scores are waited for so long that none is lost because the machine is busy. */
static int session_start(void **state) {
    return session_start_with(state, (const char *const[]){"--score-wait", "5000", NULL});
}

/* Scores get lost with a front. */
static int session_start_hasty(void **state) {
    return session_start_with(state, NULL);
}

static int session_stop(void **state) {
    struct session *s = *state;
    nn_close(s->push);
    close(s->fd);
    int r = harness_stop(&s->d);
    free(s);
    return r;
}

/* Writes a right frame for 16 fresh rows; `frame` holds 64 KiB. Gives its bytes. */
static size_t frame_write(const struct session *s, uint8_t *frame) {
    uint32_t planes = s->opened.groups[0].planes;
    struct proto_score score = {.magic = PROTO_SCORE_MAGIC,
                                .version = PROTO_SCORE_VERSION,
                                .planes = (uint8_t)planes,
                                .session = s->opened.session,
                                .sequence = s->sequence,
                                .generation = s->generation,
                                .layer_count = 2,
                                .rows = 16,
                                .fresh = 16};
    memcpy(score.token, s->opened.token, sizeof score.token);
    size_t size = sizeof score;
    float values[512];
    for (size_t i = 0; i < 512; i++)
        values[i] = 0.25f;
    for (uint32_t head = 0; head < 4; head++)
        for (uint32_t p = 0; p < PROTO_PLANE_COUNT; p++)
            if (planes >> p & 1) {
                score.format[p] = PROTO_FORMAT_F32;
                size += proto_score_encode(PROTO_FORMAT_F32, values, s->settled + 16, frame + size);
            }
    score.payload_bytes = (uint32_t)(size - sizeof score);
    memcpy(frame, &score, sizeof score);
    return size;
}

/* A nanomsg socket whose peer dies in the middle of their greeting may never connect again by itself, so one that
 * cannot send for a while is replaced by a new one. */
static void session_send(struct session *s, const void *frame, size_t size) {
    int patience = 1000;
    nn_setsockopt(s->push, NN_SOL_SOCKET, NN_SNDTIMEO, &patience, sizeof patience);
    for (int i = 0; i < 20; i++) {
        if (nn_send(s->push, frame, size, 0) == (int)size)
            return;
        assert_int_equal(nn_errno(), ETIMEDOUT);
        nn_close(s->push);
        s->push = harness_push(&s->d, s->score_socket);
        assert_true(s->push >= 0);
        nn_setsockopt(s->push, NN_SOL_SOCKET, NN_SNDTIMEO, &patience, sizeof patience);
    }
    fail_msg("no frame gets through");
}

/* One period: a frame, then a settle that waits for it. Gives 1 if the scores were lost. */
static uint32_t session_settle(struct session *s) {
    static uint8_t frame[65536];
    struct proto_settled settled = {0};
    s->sequence++;
    size_t size = frame_write(s, frame);
    session_send(s, frame, size);
    assert_int_equal(harness_settle(s->fd, s->opened.session, s->sequence, 16, &settled), 0);
    s->generation = settled.generation;
    s->settled = s->settled + 16 > 48 ? 48 : s->settled + 16;
    return settled.scores_lost;
}

/* Settles until scores arrive: after the start, and when nanomsg has to connect again. */
static void session_warm_up(struct session *s) {
    uint32_t lost = 1;
    for (int i = 0; i < 100 && lost; i++)
        lost = session_settle(s);
    assert_int_equal(lost, 0);
}

static void test_scores_arrive(void **state) {
    struct session *s = *state;
    session_warm_up(s);
    for (int i = 0; i < 20; i++)
        assert_int_equal(session_settle(s), 0);
    assert_int_equal(harness_wait_counter(&s->d, FRAMES(FOLDED), 20, HARNESS_PATIENCE_MS), 0);
}

/* As long as there are no more clients than score sockets, each has one to itself; and any of them will do. */
static void test_score_sockets_are_spread(void **state) {
    struct session *s = *state;
    uint32_t clients[PROTO_SCORE_SOCKETS] = {0}, n = 0;
    int fds[2 * PROTO_SCORE_SOCKETS - 1];
    session_warm_up(s);
    clients[s->score_socket]++;
    for (uint32_t i = 0; i < 2 * PROTO_SCORE_SOCKETS - 1; i++) {
        fds[i] = harness_hello_scores(&s->d, &n);
        assert_true(fds[i] >= 0 && n < PROTO_SCORE_SOCKETS);
        assert_int_equal(clients[n]++, (i + 1) / PROTO_SCORE_SOCKETS);
    }
    for (uint32_t i = 0; i < 2 * PROTO_SCORE_SOCKETS - 1; i++)
        close(fds[i]);
    for (uint32_t i = 0; i < PROTO_SCORE_SOCKETS; i++) {
        nn_close(s->push);
        s->push = harness_push(&s->d, i);
        assert_true(s->push >= 0);
        assert_int_equal(session_settle(s), 0);
    }
}

/* ---------- death ---------- */

static void test_front_killed(void **state) {
    struct session *s = *state;
    session_warm_up(s);
    pid_t front = harness_front_pid(&s->d);
    assert_int_not_equal(front, 0);
    kill(front, SIGKILL);
    session_settle(s); /* with or without scores, but it settles */
    assert_int_equal(harness_wait_counter(&s->d, RESTARTS, 1, HARNESS_PATIENCE_MS), 0);
    assert_int_not_equal(harness_front_pid(&s->d), front);
    assert_int_equal(harness_wait_log(&s->d, "the front was ended by signal 9", 1000), 0);
    /* nanomsg connects again by itself. */
    session_warm_up(s);
}

/* Killed again and again: the pause grows, the daemon does not mind. */
static void test_front_killed_often(void **state) {
    struct session *s = *state;
    for (uint64_t i = 1; i <= 4; i++) {
        pid_t front = 0;
        for (int j = 0; j < 5000 && !front; j++, harness_sleep_ms(1))
            front = harness_front_pid(&s->d);
        assert_int_not_equal(front, 0);
        kill(front, SIGKILL);
        session_settle(s);
        assert_int_equal(harness_wait_counter(&s->d, RESTARTS, i, HARNESS_PATIENCE_MS), 0);
    }
    assert_true(harness_alive(&s->d));
}

/* Speaks the greeting of nanomsg's ipc by hand, then a frame whose type byte is wrong. */
static void send_wrong_byte(const struct harness_daemon *d, const char *name, uint8_t protocol) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    uint8_t greeting[8] = {0, 'S', 'P', 0, 0, protocol, 0, 0}, answer[8];
    uint8_t frame[9] = {0x42, 0, 0, 0, 0, 0, 0, 0, 1};
    snprintf(address.sun_path, sizeof address.sun_path, "%s/%s", d->dir, name);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int r = -1;
    for (int i = 0; i < 5000 && r < 0; i++) {
        r = connect(fd, (struct sockaddr *)&address, sizeof address);
        if (r < 0)
            harness_sleep_ms(1);
    }
    assert_int_equal(r, 0);
    assert_int_equal(send(fd, greeting, sizeof greeting, MSG_NOSIGNAL), sizeof greeting);
    assert_int_equal(recv(fd, answer, sizeof answer, MSG_WAITALL), sizeof answer);
    assert_int_equal(send(fd, frame, sizeof frame, MSG_NOSIGNAL), sizeof frame);
    assert_in_range(recv(fd, answer, 1, 0) + 1, 0, 1); /* the end, or a reset */
    close(fd);
}

static void test_wrong_byte(void **state) {
    struct session *s = *state;
    session_warm_up(s);
    char name[32];
    snprintf(name, sizeof name, PROTO_SCORE_SOCKET_FORMAT, s->score_socket);
    send_wrong_byte(&s->d, name, 0x50); /* PUSH */
    session_settle(s);
    assert_int_equal(harness_wait_counter(&s->d, RESTARTS, 1, HARNESS_PATIENCE_MS), 0);
    assert_int_equal(harness_wait_log(&s->d, "the front was ended by signal 6", 1000), 0);
    send_wrong_byte(&s->d, PROTO_CONTROL_SOCKET, 0x30); /* REQ */
    session_settle(s);
    assert_int_equal(harness_wait_counter(&s->d, RESTARTS, 2, HARNESS_PATIENCE_MS), 0);
    session_warm_up(s);
}

/* ---------- lies ---------- */

static void send_frame(struct session *s, const void *frame, size_t size) {
    assert_int_equal(nn_send(s->push, frame, size, 0), (int)size);
}

static void test_forged(void **state) {
    struct session *s = *state;
    static uint8_t frame[65536];
    session_warm_up(s);
    s->sequence++;
    size_t size = frame_write(s, frame);
    uint64_t forged = 0;
    for (size_t i = 0; i < PROTO_TOKEN_BYTES; i++, forged++) {
        frame[offsetof(struct proto_score, token) + i] ^= 1;
        send_frame(s, frame, size);
        frame[offsetof(struct proto_score, token) + i] ^= 1;
    }
    frame[offsetof(struct proto_score, session) + 5] ^= 1;
    send_frame(s, frame, size);
    frame[offsetof(struct proto_score, session) + 5] ^= 1;
    assert_int_equal(harness_wait_counter(&s->d, FRAMES(FORGED), forged + 1, HARNESS_PATIENCE_MS), 0);
    /* The real one with the same number is folded all the same: a forger spoils nothing. */
    struct proto_settled settled;
    send_frame(s, frame, size);
    assert_int_equal(harness_settle(s->fd, s->opened.session, s->sequence, 16, &settled), 0);
    assert_int_equal(settled.scores_lost, 0);
}

static void test_stale(void **state) {
    struct session *s = *state;
    static uint8_t frame[65536];
    session_warm_up(s);
    s->sequence++;
    s->generation--;
    send_frame(s, frame, frame_write(s, frame));
    s->generation++;
    assert_int_equal(harness_wait_counter(&s->d, FRAMES(STALE), 1, HARNESS_PATIENCE_MS), 0);
}

static void test_malformed(void **state) {
    struct session *s = *state;
    static uint8_t frame[PROTO_SCORE_MAX + 4096];
    uint64_t bad = 0;
    session_warm_up(s);
    s->sequence++;
    size_t size = frame_write(s, frame);
    static const size_t fields[] = {0,
                                    4,
                                    6,
                                    offsetof(struct proto_score, layer_count) + 3,
                                    offsetof(struct proto_score, rows) + 3,
                                    offsetof(struct proto_score, format),
                                    offsetof(struct proto_score, payload_bytes)};
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++, bad++) {
        frame[fields[i]] ^= 0x70;
        send_frame(s, frame, size);
        frame[fields[i]] ^= 0x70;
    }
    const size_t sizes[] = {1, sizeof(struct proto_score) - 1, size - 1, size + 1, PROTO_SCORE_MAX};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++, bad++)
        send_frame(s, frame, sizes[i]);
    assert_int_equal(harness_wait_counter(&s->d, FRAMES(MALFORMED), bad, HARNESS_PATIENCE_MS), 0);
    /* Longer than nanomsg takes: the connection goes, nothing else. */
    send_frame(s, frame, PROTO_SCORE_MAX + 1);
    session_warm_up(s);
    struct proto_pool_stat stat;
    assert_int_equal(harness_stat(&s->d, &stat), 0);
    assert_int_equal(stat.front_restarts, 0);
}

/* ---------- control and events ---------- */

static void test_control_garbage(void **state) {
    struct session *s = *state;
    static char request[8192], answer[PROTO_ANSWER_MAX], address[NN_SOCKADDR_MAX];
    const size_t sizes[] = {0, 1, 47, 48, 49, 256, 257, 4096, 8192};
    struct proto_pool_stat stat;
    int wait = 30;
    memset(request, 0x77, sizeof request);
    snprintf(address, sizeof address, "ipc://%s/%s", s->d.dir, PROTO_CONTROL_SOCKET);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        int ask = nn_socket(AF_SP, NN_REQ);
        nn_setsockopt(ask, NN_SOL_SOCKET, NN_RCVTIMEO, &wait, sizeof wait);
        assert_true(nn_connect(ask, address) >= 0);
        nn_send(ask, request, sizes[i], 0);
        int n = nn_recv(ask, answer, sizeof answer, 0);
        if (n >= 0) {
            struct proto_answer head;
            assert_true((size_t)n >= sizeof head);
            memcpy(&head, answer, sizeof head);
            assert_true(head.code < 0);
        }
        nn_close(ask);
    }
    assert_int_equal(harness_stat(&s->d, &stat), 0);
    assert_int_equal(stat.front_restarts, 0);
}

static void *ask_often(void *data) {
    struct proto_pool_stat stat;
    for (int i = 0; i < 40; i++)
        if (harness_stat(data, &stat) < 0)
            return data;
    return NULL;
}

/* harness_stat() keeps its answer in a static buffer, so one thread asks here and the other settles. */
static void test_control_while_settling(void **state) {
    struct session *s = *state;
    pthread_t thread;
    void *result = NULL;
    assert_int_equal(pthread_create(&thread, NULL, ask_often, &s->d), 0);
    for (int i = 0; i < 40; i++)
        session_settle(s);
    pthread_join(thread, &result);
    assert_null(result);
}

static void test_events(void **state) {
    struct session *s = *state;
    char address[NN_SOCKADDR_MAX];
    struct proto_event event = {0};
    struct proto_open open;
    struct proto_opened opened;
    int watch = nn_socket(AF_SP, NN_SUB), wait = HARNESS_PATIENCE_MS;
    nn_setsockopt(watch, NN_SUB, NN_SUB_SUBSCRIBE, "", 0);
    nn_setsockopt(watch, NN_SOL_SOCKET, NN_RCVTIMEO, &wait, sizeof wait);
    snprintf(address, sizeof address, "ipc://%s/%s", s->d.dir, PROTO_EVENT_SOCKET);
    assert_true(nn_connect(watch, address) >= 0);
    harness_sleep_ms(200); /* until it is connected nothing is sent to it */
    harness_open_default(&open);
    strcpy(open.name, "watched");
    assert_int_equal(harness_open(s->fd, &open, &opened, NULL), 0);
    /* An event of the first session may still be on its way. */
    while (event.type != PROTO_EVENT_OPENED || event.session != opened.session) {
        int n = nn_recv(watch, &event, sizeof event, 0);
        assert_int_equal(n, sizeof event);
        assert_int_equal(proto_event_check(&event, sizeof event), 0);
    }
    assert_string_equal(event.name, "watched");
    assert_true(event.time_ns > 1000000000ull * 1000000000);
    nn_close(watch);
}

/* ---------- floods ---------- */

/* A process of its own, as a flooder is: `test_front --flood DIR BYTES` sends well-formed frames with a wrong token as
 * fast as nanomsg takes them, until it is killed. */
static int flood_main(const char *dir, size_t size) {
    struct harness_daemon d = {0};
    struct proto_score head = {.magic = PROTO_SCORE_MAGIC,
                               .version = PROTO_SCORE_VERSION,
                               .planes = 1,
                               .session = 1,
                               .sequence = 1,
                               .format = {PROTO_FORMAT_F32},
                               .layer_count = 1,
                               .rows = 1,
                               .fresh = 1,
                               .payload_bytes = (uint32_t)(size - sizeof head)};
    snprintf(d.dir, sizeof d.dir, "%s", dir);
    uint8_t *frame = calloc(1, size);
    uint32_t score_socket = 0;
    int push = harness_hello_scores(&d, &score_socket) < 0 ? -1 : harness_push(&d, score_socket);
    if (!frame || push < 0)
        return 1;
    memcpy(frame, &head, sizeof head);
    for (;;)
        nn_send(push, frame, size, 0);
}

static int compare_u64(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

struct latency {
    double median_us, p90_us, p99_us;
    uint32_t lost;
};

/* Settles as a client does that computes a little in between. */
#define FLOOD_SETTLES 500

static struct latency settle_latency(struct session *s) {
    uint64_t took[FLOOD_SETTLES];
    struct latency l = {0};
    for (int i = 0; i < FLOOD_SETTLES; i++) {
        harness_sleep_ms(1);
        uint64_t begin = harness_now_ns();
        l.lost += session_settle(s);
        took[i] = harness_now_ns() - begin;
    }
    qsort(took, FLOOD_SETTLES, sizeof *took, compare_u64);
    l.median_us = (double)took[FLOOD_SETTLES / 2] / 1e3;
    l.p90_us = (double)took[FLOOD_SETTLES * 9 / 10] / 1e3;
    l.p99_us = (double)took[FLOOD_SETTLES * 99 / 100] / 1e3;
    return l;
}

static void flood(struct session *s, const char *size) {
    const char *const argv[] = {"/proc/self/exe", "--flood", s->d.dir, size, NULL};
    struct proto_pool_stat stat, before;
    pid_t flooder;
    session_warm_up(s);
    struct latency quiet = settle_latency(s);
    assert_int_equal(harness_spawn(argv, NULL, &flooder), 0);
    assert_int_equal(harness_wait_counter(&s->d, FRAMES(FORGED), 50, HARNESS_PATIENCE_MS), 0);
    assert_int_equal(harness_stat(&s->d, &before), 0);
    struct latency loud = settle_latency(s);
    assert_int_equal(harness_stat(&s->d, &stat), 0);
    harness_kill(flooder);
    print_message("flood of %s-byte frames: %llu arrived while %d settles ran, %llu overrun; a settle took %.0f us "
                  "(median; quiet %.0f), %.0f us (p90; quiet %.0f), %.0f us (p99; quiet %.0f); %u without scores\n",
                  size, (unsigned long long)(stat.frames[PROTO_FRAME_FORGED] - before.frames[PROTO_FRAME_FORGED]),
                  FLOOD_SETTLES, (unsigned long long)stat.frames[PROTO_FRAME_OVERRUN], loud.median_us, quiet.median_us,
                  loud.p90_us, quiet.p90_us, loud.p99_us, quiet.p99_us, loud.lost);
    assert_int_equal(stat.front_restarts, 0);
    assert_int_equal(quiet.lost, 0);
    assert_int_equal(loud.lost, 0);
}

static void test_flood_small(void **state) {
    flood(*state, "84");
}

static void test_flood_large(void **state) {
    flood(*state, "1048576");
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, session_start, session_stop)
#define TEST_HASTY(name) cmocka_unit_test_setup_teardown(name, session_start_hasty, session_stop)

int main(int argc, char **argv) {
    harness_init(240);
    if (argc == 4 && strcmp(argv[1], "--flood") == 0)
        return flood_main(argv[2], (size_t)atoi(argv[3]));
    const struct CMUnitTest tests[] = {
        TEST(test_scores_arrive),
        TEST(test_score_sockets_are_spread),
        TEST_HASTY(test_front_killed),
        TEST_HASTY(test_front_killed_often),
        TEST_HASTY(test_wrong_byte),
        TEST(test_forged),
        TEST(test_stale),
        TEST_HASTY(test_malformed),
        TEST(test_control_garbage),
        TEST(test_control_while_settling),
        TEST(test_events),
        TEST(test_flood_small),
        TEST(test_flood_large),
    };
    if (argc == 2)
        cmocka_set_test_filter(argv[1]); /* one test, for looking into it */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
