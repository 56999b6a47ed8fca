/* test_budget.c - the pool is a hard limit, whatever eight processes do; guarantees are kept; who does not fit is told
 * so or waits in line; memory that is lent to an idle session comes back at once.
 *
 * The workers are this program again, started with "worker" as its first argument. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "attention.h"
#include "harness.h"
#include "scissor.h"

/* 8 heads with pages of 64 KiB: 256 rows per head in a segment; fresh buffers take a quarter of one. */
static const struct attention_model model = {.seed = 7,
                                             .layers = 4,
                                             .kv_heads = 2,
                                             .q_heads = 2,
                                             .head_dim = 128,
                                             .compute_dtype = SCISSOR_F32,
                                             .storage_dtype = SCISSOR_F32,
                                             .scale = 0.09f};
#define FRESH 32u
#define SEGMENT_ROWS 256u

/* `segments`: settled segments that are guaranteed, and at most. */
static struct scissor_session_spec spec_of(uint32_t guaranteed, uint32_t most, uint32_t wait_ms) {
    struct scissor_session_spec spec = {.fresh_rows = FRESH, .wait_ms = wait_ms, .group_count = 1};
    spec.groups[0] = (struct scissor_group_spec){.layers = model.layers,
                                                 .kv_heads = model.kv_heads,
                                                 .q_heads = model.q_heads,
                                                 .head_dim = model.head_dim,
                                                 .guaranteed_rows = FRESH + guaranteed * SEGMENT_ROWS,
                                                 .max_rows = FRESH + most * SEGMENT_ROWS,
                                                 .policy = "scissorhands"};
    return spec;
}

/* Steps of F rows and settles until `tokens` more have been seen. The first code below 0. */
static int run_tokens(struct scissor_session *s, uint32_t tokens, bool attend) {
    static const struct attention_model none = {.layers = 0, .kv_heads = 1, .q_heads = 1};
    for (uint32_t done = 0; done < tokens; done += FRESH) {
        int r = scissor_settle(s);
        if (r >= 0)
            r = attention_step(attend ? &model : &none, s, FRESH, 0, NULL);
        if (r >= 0)
            r = scissor_settle(s);
        if (r < 0)
            return r;
    }
    return 0;
}

/* ---------- eight processes ---------- */

#define WORKERS 8
#define POOL_MIB 64u

static int fail_worker(const char *what, int code) {
    fprintf(stderr, "worker %d: %s: %s\n", (int)getpid(), what, scissor_errname(code));
    return 1;
}

/* Opens, grows, idles, closes; and is never below its guarantee. */
static int worker_life(struct scissor_client *client, uint32_t seed, uint32_t life) {
    struct scissor_session *s = NULL;
    struct scissor_session_spec spec = spec_of(1 + seed % 2, 5, 15000);
    snprintf(spec.name, sizeof spec.name, "worker %u.%u", seed, life);
    int r = scissor_open(client, &spec, &s);
    if (r)
        return fail_worker(scissor_last_text(client), r);
    for (uint32_t i = 0; i < 40; i++) {
        r = run_tokens(s, FRESH, (i + seed) % 8 == 0);
        if (r < 0)
            return fail_worker("step", r);
        uint64_t tokens = scissor_tokens_seen(s), least = spec.groups[0].guaranteed_rows - FRESH;
        least = tokens < least ? tokens : least;
        for (uint32_t layer = 0; layer < model.layers; layer++)
            if (scissor_settled_count(s, layer, 1) < least)
                return fail_worker("fewer rows than guaranteed", 0);
        if (i % 16 == 15)
            usleep(20000 + seed * 3000);
    }
    r = scissor_close(s);
    return r ? fail_worker("close", r) : 0;
}

static int worker(const char *directory, uint32_t seed) {
    struct scissor_client *client = NULL;
    int r = scissor_connect(directory, &client);
    if (r)
        return fail_worker("connect", r);
    scissor_set_timeout(client, 30000);
    r = 0;
    for (uint32_t life = 0; life < 3 && !r; life++)
        r = worker_life(client, seed, life);
    scissor_disconnect(client);
    return r;
}

static const struct proto_session_stat *read_sessions(const struct harness_daemon *d, uint32_t *ret_count) {
    static char answer[PROTO_ANSWER_MAX];
    struct proto_request request = {.op = PROTO_OP_SESSIONS};
    const char *why;
    ssize_t n = harness_control(d, &request, answer, sizeof answer);
    assert_true(n > 0 && proto_answer_check(answer, (size_t)n, PROTO_OP_SESSIONS, &why) == 0);
    *ret_count = ((struct proto_answer *)(void *)answer)->count;
    return (const void *)(answer + sizeof(struct proto_answer));
}

static void sample(const struct harness_daemon *d, struct proto_pool_stat *stat) {
    uint32_t count;
    assert_int_equal(harness_stat(d, stat), 0);
    assert_true(stat->charged_bytes <= stat->limit_bytes);
    assert_true(stat->peak_bytes <= stat->limit_bytes);
    assert_true(stat->guaranteed_bytes <= stat->limit_bytes);
    const struct proto_session_stat *s = read_sessions(d, &count);
    for (uint32_t i = 0; i < count; i++) {
        uint64_t least = s[i].guaranteed_rows - s[i].fresh_rows;
        least = s[i].tokens_seen < least ? s[i].tokens_seen : least;
        if (s[i].state == PROTO_SESSION_IDLE && s[i].settled_min < least)
            fail_msg("%s has %u rows per head, guaranteed are %llu", s[i].name, s[i].settled_min,
                     (unsigned long long)least);
    }
}

static void eight_processes(void **state) {
    (void)state;
    struct harness_daemon d;
    struct proto_pool_stat stat;
    const char *const args[] = {"--pool", "64MiB", NULL};
    pid_t pids[WORKERS];
    char seed[16];
    assert_int_equal(harness_start(&d, args), 0);
    for (int i = 0; i < WORKERS; i++) {
        snprintf(seed, sizeof seed, "%d", i);
        const char *const argv[] = {"/proc/self/exe", "worker", d.dir, seed, NULL};
        assert_int_equal(harness_spawn(argv, NULL, &pids[i]), 0);
    }
    uint64_t samples = 0, most = 0, lent = 0, begin = harness_now_ns();
    for (int alive = 1; alive; harness_sleep_ms(3)) {
        sample(&d, &stat);
        samples++;
        most = stat.charged_bytes > most ? stat.charged_bytes : most;
        lent = stat.lent_bytes > lent ? stat.lent_bytes : lent;
        alive = stat.closed < 3 * WORKERS && harness_now_ns() - begin < 100000000000ull;
    }
    for (int i = 0; i < WORKERS; i++) {
        int status = -1;
        assert_int_equal(harness_wait(pids[i], HARNESS_PATIENCE_MS, &status), 0);
        assert_int_equal(status, 0);
    }
    sample(&d, &stat);
    printf("eight clients: limit %.1f MiB, peak %.1f MiB, most seen %.1f MiB in %llu samples, lent up to %.1f MiB, "
           "%llu segments taken back\n",
           stat.limit_bytes / 1048576.0, stat.peak_bytes / 1048576.0, most / 1048576.0, (unsigned long long)samples,
           lent / 1048576.0, (unsigned long long)stat.reclaims);
    assert_int_equal(stat.limit_bytes, POOL_MIB << 20);
    assert_int_equal(stat.charged_bytes, 0);
    assert_int_equal(stat.guaranteed_bytes, 0);
    assert_int_equal(stat.sessions, 0);
    assert_int_equal(stat.opened, 3 * WORKERS);
    assert_true(stat.peak_bytes > (POOL_MIB - 8) << 20); /* they really met the limit */
    assert_true(stat.evicted[PROTO_REASON_PRESSURE] > 0);
    assert_true(lent > 0 && samples > 20);
    assert_int_equal(harness_stop(&d), 0);
}

/* ---------- who does not fit ---------- */

static struct harness_daemon small;
static struct scissor_client *client;

/* 32 MiB: a session with one guaranteed segment takes a little more than 4 MiB, one with six more than 14. */
static int start_small(void **state) {
    (void)state;
    const char *const args[] = {"--pool", "32MiB", NULL};
    return harness_start(&small, args) || scissor_connect(small.dir, &client);
}

static int stop_small(void **state) {
    (void)state;
    scissor_disconnect(client);
    return harness_stop(&small);
}

static struct scissor_session *opened(uint32_t guaranteed, uint32_t most) {
    struct scissor_session *s = NULL;
    struct scissor_session_spec spec = spec_of(guaranteed, most, 0);
    int r = scissor_open(client, &spec, &s);
    if (r)
        fail_msg("open: %s, %s", scissor_errname(r), scissor_last_text(client));
    return s;
}

static int refused(uint32_t guaranteed, uint32_t most, uint32_t wait_ms, double *ret_ms) {
    struct scissor_session *s = NULL;
    struct scissor_session_spec spec = spec_of(guaranteed, most, wait_ms);
    uint64_t begin = harness_now_ns();
    int r = scissor_open(client, &spec, &s);
    *ret_ms = (double)(harness_now_ns() - begin) / 1e6;
    if (r == 0)
        scissor_close(s);
    return r;
}

static void full_is_said_at_once(void **state) {
    (void)state;
    double ms;
    struct scissor_session *a = opened(6, 6), *b = opened(5, 5);
    assert_int_equal(refused(3, 3, 0, &ms), SCISSOR_FULL);
    assert_true(strlen(scissor_last_text(client)) > 0);
    /* What could never fit is not put in line. */
    assert_int_equal(refused(20, 20, 60000, &ms), SCISSOR_FULL);
    assert_true(ms < 5000);
    assert_int_equal(refused(3, 3, 200, &ms), SCISSOR_FULL);
    assert_true(ms >= 190 && ms < 10000);
    assert_int_equal(scissor_close(a), 0);
    assert_int_equal(refused(3, 3, 0, &ms), 0);
    assert_int_equal(scissor_close(b), 0);
}

static void assert_evicts_under(struct scissor_session *s, uint32_t least, uint32_t most) {
    for (uint32_t layer = 0; layer < model.layers; layer++)
        for (uint32_t head = 0; head < model.kv_heads; head++) {
            uint32_t n = scissor_settled_count(s, layer, head);
            if (n < least || n > most)
                fail_msg("%u settled rows, not %u to %u", n, least, most);
        }
}

/* The whole pool is lent to one idle session; another open has it back in the time of an answer. */
static void idle_session_is_shrunk_at_once(void **state) {
    (void)state;
    struct scissor_session *greedy = opened(1, 12);
    struct proto_pool_stat before, after;
    float out[FRESH * 2 * 128];
    assert_int_equal(run_tokens(greedy, 12 * SEGMENT_ROWS, true), 0);
    assert_evicts_under(greedy, 10 * SEGMENT_ROWS, 12 * SEGMENT_ROWS);
    assert_int_equal(harness_stat(&small, &before), 0);
    assert_true(before.lent_bytes > 16u << 20);

    uint64_t begin = harness_now_ns();
    struct scissor_session *other = opened(6, 6);
    printf("open while all is lent to an idle session: %.1f ms\n", (double)(harness_now_ns() - begin) / 1e6);
    assert_int_equal(harness_stat(&small, &after), 0);
    assert_true(after.reclaims > before.reclaims);
    assert_true(after.evicted[PROTO_REASON_PRESSURE] > before.evicted[PROTO_REASON_PRESSURE]);
    assert_true(after.charged_bytes <= after.limit_bytes);

    assert_int_equal(attention_step(&model, greedy, FRESH, 1, out), 0);
    assert_evicts_under(greedy, SEGMENT_ROWS, 8 * SEGMENT_ROWS);
    assert_true(attention_error(&model, greedy, 1, FRESH, out) < 2e-5);
    assert_int_equal(run_tokens(other, 6 * SEGMENT_ROWS, false), 0);
    assert_evicts_under(other, 6 * SEGMENT_ROWS, 6 * SEGMENT_ROWS);
    assert_int_equal(scissor_close(other), 0);
    assert_int_equal(scissor_close(greedy), 0);
}

static void *open_waiting(void *data) {
    struct scissor_session **ret = data;
    struct scissor_session_spec spec = spec_of(6, 6, 20000);
    return (void *)(intptr_t)scissor_open(client, &spec, ret);
}

/* A session in a step keeps its rows until its next settle: BUSY, or wait for that. */
static void busy_session_is_shrunk_at_its_settle(void **state) {
    (void)state;
    double ms;
    pthread_t thread;
    void *code;
    struct scissor_session *greedy = opened(1, 12), *other = NULL;
    assert_int_equal(run_tokens(greedy, 12 * SEGMENT_ROWS, true), 0);
    assert_int_equal(scissor_step_begin(greedy, 1), 0);
    assert_int_equal(refused(6, 6, 0, &ms), SCISSOR_BUSY);
    assert_int_equal(pthread_create(&thread, NULL, open_waiting, &other), 0);
    harness_sleep_ms(100);
    assert_null(other);
    assert_int_equal(scissor_step_end(greedy), 0);
    assert_int_equal(scissor_settle(greedy), 0);
    pthread_join(thread, &code);
    assert_int_equal((intptr_t)code, 0);
    assert_int_equal(scissor_step_begin(greedy, 1), 0);
    assert_evicts_under(greedy, SEGMENT_ROWS, 8 * SEGMENT_ROWS);
    assert_int_equal(scissor_step_end(greedy), 0);
    assert_int_equal(scissor_close(other), 0);
    assert_int_equal(scissor_close(greedy), 0);
}

/* ---------- the line ---------- */

struct waiter {
    pthread_t thread;
    uint32_t guaranteed, wait_ms;
    struct scissor_session *session;
    int code;
    _Atomic bool done; /* written last: the rest may be read then */
    double ms;
};

static void *wait_in_line(void *data) {
    struct waiter *w = data;
    struct scissor_session_spec spec = spec_of(w->guaranteed, w->guaranteed, w->wait_ms);
    uint64_t begin = harness_now_ns();
    w->code = scissor_open(client, &spec, &w->session);
    w->ms = (double)(harness_now_ns() - begin) / 1e6;
    w->done = true;
    return NULL;
}

static void queue_up(struct waiter *w, uint32_t guaranteed, uint32_t wait_ms, uint32_t waiting) {
    struct proto_pool_stat stat = {.waiting = 0};
    *w = (struct waiter){.guaranteed = guaranteed, .wait_ms = wait_ms};
    assert_int_equal(pthread_create(&w->thread, NULL, wait_in_line, w), 0);
    for (int i = 0; i < 500 && stat.waiting != waiting; i++) {
        harness_sleep_ms(5);
        assert_int_equal(harness_stat(&small, &stat), 0);
    }
    assert_int_equal(stat.waiting, waiting);
}

static bool served_within(struct waiter *w, unsigned ms) {
    for (unsigned i = 0; i < ms && !w->done; i++)
        harness_sleep_ms(1);
    return w->done;
}

static void first_come_first_served(void **state) {
    (void)state;
    struct waiter large, little, impatient;
    struct scissor_session *a = opened(6, 6), *b = opened(5, 5);
    queue_up(&large, 13, 30000, 1); /* needs both */
    queue_up(&little, 2, 30000, 2); /* would fit as soon as one is gone */
    queue_up(&impatient, 2, 300, 3);
    assert_true(served_within(&impatient, 10000));
    assert_int_equal(impatient.code, SCISSOR_FULL);
    assert_true(impatient.ms >= 290);
    pthread_join(impatient.thread, NULL);
    assert_int_equal(scissor_close(b), 0);
    assert_false(served_within(&little, 150)); /* nobody overtakes */
    assert_false(large.done);
    assert_int_equal(scissor_close(a), 0);
    assert_true(served_within(&large, 10000));
    assert_int_equal(large.code, 0);
    pthread_join(large.thread, NULL);
    assert_false(served_within(&little, 50));
    assert_int_equal(scissor_close(large.session), 0);
    assert_true(served_within(&little, 10000));
    assert_int_equal(little.code, 0);
    pthread_join(little.thread, NULL);
    assert_int_equal(scissor_close(little.session), 0);
}

int main(int argc, char **argv) {
    if (argc == 4 && strcmp(argv[1], "worker") == 0)
        return worker(argv[2], (uint32_t)atoi(argv[3]));
    harness_init(240);
    const struct CMUnitTest processes[] = {cmocka_unit_test(eight_processes)};
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(full_is_said_at_once),
        cmocka_unit_test(idle_session_is_shrunk_at_once),
        cmocka_unit_test(busy_session_is_shrunk_at_its_settle),
        cmocka_unit_test(first_come_first_served),
    };
    int failed = cmocka_run_group_tests_name("budget, eight processes", processes, NULL, NULL);
    return failed + cmocka_run_group_tests_name("budget", tests, start_small, stop_small);
}
