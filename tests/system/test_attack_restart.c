/* test_attack_restart.c - ways in which clients, tools and signals could hurt a daemon whose sessions outlive it.
 *
 * After each attack the daemon must serve as before and end in order, with nothing charged, and with nothing of it left
 * in the store. $SCISSOR_TEST_SECONDS: for how long what is random goes on (1). */
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "attacked.h"
#include "attention.h"
#include "scissor.h"
#include "scissor_error.h"

/* ---------- coming back with what is wrong ---------- */

/* What another process, which has all that it needs but its number, is told. */
static int of_another_process(const struct proto_reattach *body) {
    int status;
    pid_t pid = fork();
    if (pid == 0) {
        int fd = harness_hello(&attacked.daemon);
        _exit(fd < 0 ? 1 : -attacked_reattach(fd, body, NULL));
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    return -WEXITSTATUS(status);
}

static void test_wrong_reattach(void **state) {
    (void)state;
    struct proto_reattached reattached;
    struct proto_settle settle = {.rows = 16};
    struct proto_close close_ = {0};
    attacked_start(1000, attacked_patient);
    int one = attacked_greet(), two = attacked_greet();
    struct proto_opened first = attacked_open(one, 5), second = attacked_open(two, 2);
    assert_int_equal(manager_restart(&attacked, SIGKILL, attacked_patient), 0);
    close(one);
    close(two);
    struct proto_reattach right = attacked_reattach_of(&first), wrong = right;
    int fd = harness_attach(&attacked.daemon);
    assert_int_equal(attacked_reattach(fd, &right, NULL), SCISSOR_EPROTO); /* before HELLO */
    close(fd);
    fd = attacked_greet();
    static const uint64_t ids[] = {0, 1000, UINT32_MAX, UINT64_MAX, (uint64_t)1 << 63};
    for (size_t i = 0; i < sizeof ids / sizeof *ids; i++) {
        wrong.session = ids[i];
        assert_int_equal(attacked_reattach(fd, &wrong, NULL), SCISSOR_ERESTARTED);
    }
    for (uint32_t bit = 0; bit < 8 * PROTO_TOKEN_BYTES; bit += 7) {
        wrong = right;
        wrong.token[bit / 8] ^= (uint8_t)(1u << bit % 8);
        assert_int_equal(attacked_reattach(fd, &wrong, NULL), SCISSOR_ERESTARTED);
    }
    wrong = attacked_reattach_of(&second);
    wrong.session = first.session;
    assert_int_equal(attacked_reattach(fd, &wrong, NULL), SCISSOR_ERESTARTED);
    assert_int_equal(of_another_process(&right), SCISSOR_EPERM);
    settle.session = close_.session = first.session; /* of an orphan */
    assert_int_equal(attacked_ask(fd, PROTO_SETTLE, 5, &settle, PROTO_SETTLED), SCISSOR_ENOSESSION);
    assert_int_equal(attacked_ask(fd, PROTO_CLOSE, 6, &close_, PROTO_CLOSED), SCISSOR_ENOSESSION);
    right.score_sequence = UINT64_MAX;
    assert_int_equal(attacked_reattach(fd, &right, &reattached), 0);
    assert_int_equal(reattached.tokens_seen, 80);
    assert_int_equal(attacked_reattach(fd, &right, NULL), SCISSOR_ESTATE);
    int other = attacked_greet();
    assert_int_equal(attacked_reattach(other, &right, NULL), SCISSOR_ESTATE);
    /* In the middle of a settle, and of the end. */
    assert_int_equal(harness_send_message(fd, PROTO_SETTLE, 7, &settle), 0);
    assert_int_equal(attacked_reattach(other, &right, NULL), SCISSOR_ESTATE);
    assert_int_equal(harness_expect(fd, PROTO_SETTLED, 7, NULL, 0, NULL), 0);
    assert_int_equal(harness_send_message(fd, PROTO_CLOSE, 8, &close_), 0);
    int code = attacked_reattach(other, &right, NULL);
    assert_true(code == SCISSOR_ESTATE || code == SCISSOR_ECLOSED || code == SCISSOR_ERESTARTED);
    assert_int_equal(harness_expect(fd, PROTO_CLOSED, 8, NULL, 0, NULL), 0);
    right = attacked_reattach_of(&second);
    assert_int_equal(attacked_reattach(other, &right, NULL), 0);
    close(fd);
    close(other);
    attacked_stop();
}

/* ---------- coming back to die ---------- */

enum { DYING = 6 };

/* Opens, and after each end of the daemon comes back, for as long as it lives. */
static void dying(unsigned seed, int tell) {
    int fd = attacked_greet();
    struct proto_opened session = attacked_open(fd, seed % 7);
    struct proto_reattach back = attacked_reattach_of(&session);
    struct proto_settle settle = {.session = session.session, .rows = 16};
    char byte;
    (void)!write(tell, "", 1);
    for (;;) {
        while (recv(fd, &byte, 1, 0) > 0)
            ;
        close(fd);
        while ((fd = harness_hello(&attacked.daemon)) < 0)
            usleep(500);
        harness_send_message(fd, PROTO_REATTACH, 3, &back);
        if (rand_r(&seed) % 4 == 0)
            _exit(0); /* it has not read what it asked for */
        harness_send_message(fd, PROTO_SETTLE, 4, &settle);
        if (rand_r(&seed) % 4 == 0)
            _exit(0);
    }
}

static void test_back_to_die(void **state) {
    (void)state;
    pid_t pids[DYING];
    int tell[2];
    char byte;
    attacked_start(1000, attacked_patient);
    uint64_t end = attacked_end();
    uint32_t rounds = 0;
    do {
        assert_int_equal(pipe2(tell, O_CLOEXEC), 0);
        for (int i = 0; i < DYING; i++) {
            pids[i] = fork();
            if (pids[i] == 0)
                dying(attacked_random + (unsigned)i, tell[1]);
        }
        for (int i = 0; i < DYING; i++)
            assert_int_equal(read(tell[0], &byte, 1), 1);
        close(tell[0]);
        close(tell[1]);
        for (int i = 0; i < DYING; i++) { /* the daemon and one of them, at about the same time */
            kill(attacked_random_below(2) ? pids[i] : attacked.daemon.pid, SIGKILL);
            usleep(attacked_random_below(300));
            kill(pids[i], SIGKILL);
            assert_int_equal(manager_restart(&attacked, SIGKILL, attacked_patient), 0);
            usleep(attacked_random_below(3000));
        }
        for (int i = 0; i < DYING; i++)
            waitpid(pids[i], NULL, 0);
        rounds++;
        assert_int_equal(harness_wait_sessions(&attacked.daemon, 0, HARNESS_PATIENCE_MS), 0);
    } while (harness_now_ns() < end);
    print_message("%u rounds, %u ends of the daemon\n", rounds, rounds * DYING);
    attacked_stop();
}

/* ---------- limits ---------- */

static const struct attention_model model = {.seed = 9,
                                             .layers = 2,
                                             .kv_heads = 2,
                                             .q_heads = 4,
                                             .head_dim = 64,
                                             .compute_dtype = SCISSOR_F16,
                                             .storage_dtype = SCISSOR_F16,
                                             .scale = 0.125f};

struct stepper {
    const char *name;
    uint32_t guaranteed, most;
    _Atomic uint64_t session;
    atomic_bool stop;
    atomic_uint steps;
    double error; /* of a session whose rows nobody takes */
    int code;
    pthread_t thread;
};

static void *step(void *data) {
    struct stepper *stepper = data;
    struct scissor_client *client;
    struct scissor_session *session = NULL;
    struct scissor_session_spec spec = {
        .fresh_rows = 16, .compute_dtype = SCISSOR_F16, .storage_dtype = SCISSOR_F16, .group_count = 1};
    float out[16 * 4 * 64];
    spec.groups[0] = (struct scissor_group_spec){.layers = 2,
                                                 .kv_heads = 2,
                                                 .q_heads = 4,
                                                 .head_dim = 64,
                                                 .guaranteed_rows = stepper->guaranteed,
                                                 .max_rows = stepper->most,
                                                 .policy = "h2o"};
    snprintf(spec.name, sizeof spec.name, "%s", stepper->name);
    stepper->code = scissor_connect(attacked.daemon.dir, &client);
    if (stepper->code)
        return NULL;
    int r = scissor_open(client, &spec, &session);
    if (!r) {
        stepper->session = scissor_session_id(session);
    }
    while (!r && !stepper->stop) {
        r = attention_step(&model, session, 16, 0, out);
        if (!r && stepper->guaranteed == stepper->most) {
            double error = attention_error(&model, session, 0, 16, out);
            stepper->error = error > stepper->error ? error : stepper->error;
        }
        if (!r)
            r = scissor_settle(session);
        if (r == SCISSOR_SCORES_LOST)
            r = 0;
        stepper->steps++;
    }
    stepper->code = r;
    scissor_disconnect(client);
    return NULL;
}

static const uint64_t extremes[] = {0,       1,        2,          16,         31,         32,
                                    79,      80,       144,        1000,       4096,       1 << 20,
                                    4 << 20, 64 << 20, UINT32_MAX, 1ull << 32, 1ull << 63, UINT64_MAX};
#define EXTREMES (sizeof extremes / sizeof *extremes)

static void test_extreme_limits(void **state) {
    (void)state;
    static const uint32_t ops[] = {PROTO_OP_SET_POOL,     PROTO_OP_SET_BUDGET, PROTO_OP_SET_BUDGET, PROTO_OP_SET_BUDGET,
                                   PROTO_OP_SET_PRIORITY, PROTO_OP_POSITIONS,  PROTO_OP_SESSION,    PROTO_OP_CONFIG,
                                   PROTO_OP_MEMORY,       PROTO_OP_POLICIES,   PROTO_OP_GROUPS};
    struct stepper steppers[3] = {{.name = "left alone", .guaranteed = 272, .most = 272},
                                  {.name = "victim", .guaranteed = 80, .most = 20000},
                                  {.name = "victim", .guaranteed = 80, .most = 20000}};
    uint8_t pass[PROTO_TOKEN_BYTES], none[PROTO_TOKEN_BYTES] = {0};
    attacked_start(1000, attacked_patient);
    int tool = harness_pass(&attacked.daemon, pass);
    assert_true(tool >= 0);
    for (int i = 0; i < 3; i++)
        assert_int_equal(pthread_create(&steppers[i].thread, NULL, step, &steppers[i]), 0);
    for (int i = 0; i < 3; i++)
        while (!steppers[i].steps)
            harness_sleep_ms(1);
    uint64_t end = attacked_end();
    uint32_t asked = 0, done = 0;
    while (harness_now_ns() < end) {
        uint32_t op = ops[attacked_random_below(sizeof ops / sizeof *ops)];
        uint64_t a = extremes[attacked_random_below(EXTREMES)], b = extremes[attacked_random_below(EXTREMES)];
        uint64_t c = attacked_random_below(2) ? PROTO_ALL_GROUPS : extremes[attacked_random_below(EXTREMES)];
        uint64_t session = steppers[1 + attacked_random_below(2)].session;
        session = attacked_random_below(16) ? session : extremes[attacked_random_below(EXTREMES)];
        a = op == PROTO_OP_SET_POOL && attacked_random_below(8) ? 0 : a;
        bool stranger = attacked_random_below(4) == 0;
        int code = attacked_control(op, session, stranger ? none : pass,
                                    attacked_random_below(4) ? 0 : (uint32_t)extremes[attacked_random_below(EXTREMES)],
                                    a, b, c);
        if (stranger && (op == PROTO_OP_SET_POOL || op == PROTO_OP_SET_BUDGET || op == PROTO_OP_SET_PRIORITY))
            assert_int_equal(code, SCISSOR_EPERM);
        asked++;
        done += code == 0;
        if (asked % 50 == 0) {
            struct proto_pool_stat stat;
            assert_int_equal(harness_stat(&attacked.daemon, &stat), 0);
            assert_true(stat.charged_bytes <= stat.limit_bytes && stat.guaranteed_bytes <= stat.target_bytes);
        }
        if (asked % 400 == 0)
            assert_int_equal(manager_restart(&attacked, SIGKILL, attacked_patient), 0);
        if (asked % 400 == 0) {
            close(tool);
            tool = harness_pass(&attacked.daemon, pass);
        }
    }
    uint32_t steps = 0;
    for (int i = 0; i < 3; i++) {
        steppers[i].stop = true;
        pthread_join(steppers[i].thread, NULL);
        steps += steppers[i].steps;
        if (steppers[i].code)
            fail_msg("%s: %s", steppers[i].name, scissor_strerror(steppers[i].code));
    }
    print_message("%u requests, %u of them done, %u steps beside them, error %g\n", asked, done, steps,
                  steppers[0].error);
    assert_true(steppers[0].error < 2e-3);
    close(tool);
    attacked_stop();
}

/* ---------- signals ---------- */

/* Whenever a signal comes, and however often: a session that was there is there in the end. */
static void test_storm_of_signals(void **state) {
    (void)state;
    static const int storm[] = {SIGHUP, SIGHUP, SIGHUP, SIGTERM, SIGTERM, SIGINT, SIGKILL};
    struct proto_reattached reattached;
    struct proto_settled settled;
    attacked_start(1000, attacked_patient);
    int fd = attacked_greet();
    struct proto_opened session = attacked_open(fd, 8);
    struct proto_reattach back = attacked_reattach_of(&session);
    uint64_t end = attacked_end();
    uint32_t ends = 0, signals = 0, tokens = 8 * 16;
    while (harness_now_ns() < end) {
        int status;
        for (uint32_t i = attacked_random_below(12); i > 0; i--, signals++) {
            kill(attacked.daemon.pid, storm[attacked_random_below(sizeof storm / sizeof *storm)]);
            usleep(attacked_random_below(2) ? attacked_random_below(300) : attacked_random_below(4000));
        }
        kill(attacked.daemon.pid, SIGTERM);
        assert_int_equal(harness_wait(attacked.daemon.pid, HARNESS_PATIENCE_MS, &status), 0);
        close(fd);
        if (status < 0 ? status != -SIGHUP && status != -SIGTERM && status != -SIGINT && status != -SIGKILL
                       : status > 1)
            fail_msg("ended with %d", status);
        ends++;
        if (attacked_random_below(3) == 0) { /* another one, that is not waited for */
            assert_int_equal(manager_spawn(&attacked, attacked_patient), 0);
            usleep(attacked_random_below(6000));
            continue;
        }
        assert_int_equal(manager_start(&attacked, attacked_patient), 0);
        fd = attacked_greet();
        assert_int_equal(attacked_reattach(fd, &back, &reattached), 0);
        assert_int_equal(reattached.tokens_seen, tokens);
        assert_int_equal(harness_settle(fd, session.session, 0, 16, &settled), 0);
        tokens += 16;
    }
    print_message("%u signals, %u ends\n", signals, ends);
    if (!attacked.daemon.pid || !harness_alive(&attacked.daemon))
        assert_int_equal(manager_start(&attacked, attacked_patient), 0);
    close(fd);
    attacked_close_all();
    attacked_stop();
}

int main(void) {
    const char *seconds = getenv("SCISSOR_TEST_SECONDS");
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_wrong_reattach),
        cmocka_unit_test(test_back_to_die),
        cmocka_unit_test(test_extreme_limits),
        cmocka_unit_test(test_storm_of_signals),
    };
    harness_init(120 + 8 * (seconds ? (unsigned)atoi(seconds) : 0));
    return cmocka_run_group_tests_name("attack on restarts", tests, NULL, NULL);
}
