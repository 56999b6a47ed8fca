/* test_restart.c - the daemon is killed at any moment, over and over, while clients open, step, settle and close: what
 * attention gives them is to the last bit what it is in a life without a death, and nothing is left behind. On a
 * device, whose memory goes with the daemon, no session is kept, and its client is told.
 *
 * $SCISSOR_TEST_SECONDS: for how long (3). */
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "attention.h"
#include "manager.h"
#include "scissor.h"

#define WORKERS 3
#define KINDS 6

/* nanomsg 1.1.5 loses the message that it is just sending when its socket is closed: a frame for a dead daemon. */
__attribute__((visibility("default"))) const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void) {
    return "leak:nn_chunk_alloc\n";
}

static struct manager m;
static const char *const args[] = {"--score-wait", "10000", "--orphan-wait", "5", NULL};

/* What one life of a session gives. */
struct result {
    uint64_t digest, tokens, evicted, lost;
};

struct worker {
    struct scissor_client *client;
    uint32_t first; /* kind to begin with */
    pthread_t thread;
    atomic_uint lives, beats; /* sessions from open to close; steps */
    uint32_t lossy;           /* sessions whose client was told that scores were lost */
    atomic_bool stop;
    atomic_uint calls;               /* begun */
    uint32_t call_seen, call_deaths; /* the killer's: deaths within one call */
    int code;                        /* that ended it; 0: all is well */
    const char *what;                /* call that gave it */
};

static struct result expected[KINDS];

static void add_bytes(uint64_t *digest, const void *bytes, size_t count) {
    for (const unsigned char *p = bytes; count > 0; count--, p++)
        *digest = (*digest ^ *p) * 1099511628211u;
}

static struct scissor_session_spec spec_of(uint32_t kind, const struct attention_model *model) {
    static const char *const policies[] = {"pivotal", "h2o", "streaming"};
    struct scissor_session_spec spec = {.name = "restart",
                                        .compute_dtype = model->compute_dtype,
                                        .storage_dtype = model->storage_dtype,
                                        .fresh_rows = 16,
                                        .wait_ms = 10000,
                                        .group_count = 1};
    spec.groups[0] = (struct scissor_group_spec){.layers = model->layers,
                                                 .kv_heads = model->kv_heads,
                                                 .q_heads = model->q_heads,
                                                 .head_dim = model->head_dim,
                                                 .guaranteed_rows = 80};
    strcpy(spec.groups[0].policy, policies[kind % 3]);
    return spec;
}

static int settle(struct scissor_session *session, struct result *ret) {
    int r = scissor_settle(session);
    ret->lost += r == SCISSOR_SCORES_LOST;
    return r == SCISSOR_SCORES_LOST ? 0 : r;
}

/* One session: a text that is longer than its budget, more or less, by kind. */
static int live(struct scissor_client *client, uint32_t kind, struct worker *worker, struct result *ret) {
    static const uint32_t types[] = {SCISSOR_F16, SCISSOR_INT8, SCISSOR_FADE};
    struct attention_model model = {.seed = 40 + kind,
                                    .layers = 2,
                                    .kv_heads = 2,
                                    .q_heads = 4,
                                    .head_dim = 64,
                                    .compute_dtype = SCISSOR_F16,
                                    .storage_dtype = types[(kind + kind / 3) % 3],
                                    .scale = 0.125f};
    struct scissor_session_spec spec = spec_of(kind, &model);
    struct scissor_session *session;
    struct scissor_session_info info;
    float out[16 * 4 * 64];
    *ret = (struct result){.digest = 14695981039346656037u};
    worker->what = "open";
    worker->calls++;
    int r = scissor_open(client, &spec, &session);
    if (r)
        return r;
    for (uint32_t i = 0; i < 4 + 5 * kind && !r; i++) {
        worker->what = "step";
        worker->calls++;
        r = attention_step(&model, session, 16, i % 2, out);
        add_bytes(&ret->digest, out, sizeof out);
        atomic_fetch_add(&worker->beats, 1);
        if (!r) {
            worker->what = "settle";
            worker->calls++;
            r = settle(session, ret);
        }
    }
    scissor_session_info(session, &info);
    ret->tokens = info.tokens_seen;
    ret->evicted = info.evicted_rows;
    int closed = scissor_close(session);
    if (!r && closed && closed != SCISSOR_EGONE && closed != SCISSOR_ERESTARTED) {
        /* These two: the daemon died between doing it and saying so. */
        worker->what = "close";
        r = closed;
    }
    return r;
}

static void *work(void *data) {
    struct worker *worker = data;
    struct result result;
    for (uint32_t kind = worker->first; !worker->code && !worker->stop; kind++) {
        worker->code = live(worker->client, kind % KINDS, worker, &result);
        /* A client gives nanomsg some ms to connect anew and then settles without its scores, as it says: on a busy
         * machine the victims may be others. Nothing else may differ, ever. */
        worker->lossy += result.lost > 0;
        if (!worker->code && (result.tokens != expected[kind % KINDS].tokens ||
                              (result.lost == 0 && memcmp(&result, &expected[kind % KINDS], sizeof result) != 0))) {
            worker->what = "another result";
            worker->code = 1;
        }
        worker->lives++;
    }
    return NULL;
}

/* How it is without a death, and with all scores: on a busy machine some may be lost all the same. */
static void expect(void) {
    struct scissor_client *client;
    struct worker worker = {0};
    assert_int_equal(scissor_connect(m.daemon.dir, &client), 0);
    for (uint32_t kind = 0; kind < KINDS; kind++) {
        uint32_t tries = 0;
        do
            assert_int_equal(live(client, kind, &worker, &expected[kind]), 0);
        while (expected[kind].lost > 0 && ++tries < 100);
        assert_int_equal(expected[kind].lost, 0);
    }
    assert_true(expected[KINDS - 1].evicted > 0);
    scissor_disconnect(client);
}

static uint32_t beats_of(struct worker workers[WORKERS]) {
    uint32_t beats = 0;
    for (int i = 0; i < WORKERS; i++)
        beats += atomic_load(&workers[i].beats);
    return beats;
}

/* Waits until somebody has made a step again; in ns. */
static uint64_t first_step(struct worker workers[WORKERS], uint64_t since) {
    uint64_t end = since + HARNESS_PATIENCE_MS * 1000000ull;
    for (uint32_t before = beats_of(workers); beats_of(workers) == before && harness_now_ns() < end;)
        harness_sleep_ms(1);
    return harness_now_ns() - since;
}

/* A call that is interrupted again and again gives up in the end, as it should: nobody gets there. */
static void spare(struct worker workers[WORKERS]) {
    enum { DEATHS_PER_CALL = 2 };
    uint64_t end = harness_now_ns() + HARNESS_PATIENCE_MS * 1000000ull;
    for (int i = 0; i < WORKERS; i++) {
        struct worker *w = &workers[i];
        while (w->call_deaths >= DEATHS_PER_CALL && w->call_seen == w->calls && !w->code && harness_now_ns() < end)
            harness_sleep_ms(1);
        w->call_deaths = w->call_seen == w->calls ? w->call_deaths + 1 : 1;
        w->call_seen = w->calls;
    }
}

static int by_size(const void *a, const void *b) {
    const uint64_t *x = a, *y = b;
    return (*x > *y) - (*x < *y);
}

static void nothing_is_left(void) {
    struct proto_pool_stat stat;
    /* Opens that nobody has heard the answer of wait for their client for a while. */
    assert_int_equal(harness_wait_sessions(&m.daemon, 0, HARNESS_PATIENCE_MS), 0);
    assert_int_equal(harness_stat(&m.daemon, &stat), 0);
    assert_int_equal(stat.charged_bytes, 0);
    assert_int_equal(stat.stored, 0);
    for (int i = 0; i < 500 && manager_count(&m); i++)
        harness_sleep_ms(10);
    assert_int_equal(manager_count(&m), 0);
}

static void any_moment(int signal) {
    enum { TIMES = 4096 };
    static uint64_t times[TIMES];
    const char *seconds = getenv("SCISSOR_TEST_SECONDS");
    struct worker workers[WORKERS] = {0};
    struct proto_pool_stat stat;
    uint32_t deaths = 0, lives = 0, lossy = 0;
    unsigned random = (unsigned)harness_now_ns();
    print_message("seed %u\n", random);
    assert_int_equal(manager_init(&m, 1000, true), 0);
    assert_int_equal(manager_start(&m, args), 0);
    expect();
    for (uint32_t i = 0; i < WORKERS; i++) {
        workers[i].first = 2 * i;
        /* Before the first death: whoever connects and has no session yet is told of it, and tries again. */
        assert_int_equal(scissor_connect(m.daemon.dir, &workers[i].client), 0);
        assert_int_equal(pthread_create(&workers[i].thread, NULL, work, &workers[i]), 0);
    }
    uint64_t end = harness_now_ns() + (seconds ? strtoull(seconds, NULL, 10) : 3) * 1000000000u;
    while (harness_now_ns() < end && deaths < TIMES) {
        harness_sleep_ms((unsigned)rand_r(&random) % 40);
        spare(workers);
        uint64_t died = harness_now_ns();
        assert_int_equal(manager_restart(&m, signal, args), 0);
        times[deaths++] = first_step(workers, died);
        assert_int_equal(harness_stat(&m.daemon, &stat), 0);
        assert_int_equal(stat.lost, 0);
        /* A session that was opened and not heard of is had with the next try: it takes nobody's place. */
        assert_true(stat.sessions <= WORKERS && stat.taken_over <= WORKERS);
    }
    for (int i = 0; i < WORKERS; i++)
        workers[i].stop = true;
    for (int i = 0; i < WORKERS; i++) {
        pthread_join(workers[i].thread, NULL);
        scissor_disconnect(workers[i].client);
        if (workers[i].code)
            fail_msg("worker %d, after %u sessions: %s: %s", i, workers[i].lives, workers[i].what,
                     scissor_strerror(workers[i].code));
        lives += workers[i].lives;
        lossy += workers[i].lossy;
    }
    qsort(times, deaths, sizeof *times, by_size);
    print_message("%u deaths by signal %d, %u sessions, %u of them with scores lost; from a death to the first step "
                  "after it: %.0f ms, at most "
                  "%.0f ms\n",
                  deaths, signal, lives, lossy, (double)times[deaths / 2] / 1e6, (double)times[deaths - 1] / 1e6);
    assert_true(deaths > 0 && lives > lossy);
    nothing_is_left();
    assert_int_equal(harness_stop(&m.daemon), 0);
    manager_deinit(&m);
}

static void killed_at_any_moment(void **state) {
    (void)state;
    any_moment(SIGKILL);
}

static void ended_at_any_moment(void **state) {
    (void)state;
    any_moment(SIGTERM);
}

static struct scissor_session *open_on_device(struct scissor_client *client) {
    struct scissor_session *session = NULL;
    struct scissor_session_spec spec = {
        .compute_dtype = SCISSOR_F16, .storage_dtype = SCISSOR_F16, .fresh_rows = 16, .group_count = 1};
    spec.groups[0] = (struct scissor_group_spec){
        .layers = 1, .kv_heads = 1, .q_heads = 2, .head_dim = 32, .guaranteed_rows = 64, .policy = "window"};
    assert_int_equal(scissor_open(client, &spec, &session), 0);
    return session;
}

static void a_device_keeps_nothing(void **state) {
    (void)state;
    /* A daemon that is told to end closes the sessions that it cannot keep. */
    struct end {
        int signal, step, close; /* codes of the calls that follow */
    };
    static const struct end ends[] = {{SIGKILL, SCISSOR_ERESTARTED, 0}, {SIGTERM, SCISSOR_ECLOSED, SCISSOR_ECLOSED}};
    struct scissor_client *client = NULL;
    struct proto_pool_stat stat;
    assert_int_equal(manager_init(&m, 1000, true), 0);
    assert_int_equal(manager_start(&m, args), 0);
    assert_int_equal(scissor_connect(m.daemon.dir, &client), 0);
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        struct scissor_session *session = open_on_device(client);
        assert_int_equal(scissor_step_begin(session, 1), 0);
        assert_int_equal(scissor_step_end(session), 0);
        assert_int_equal(manager_restart(&m, ends[i].signal, args), 0);
        assert_int_equal(scissor_step_begin(session, 1), ends[i].step);
        assert_int_equal(harness_stat(&m.daemon, &stat), 0);
        assert_int_equal(stat.taken_over + stat.lost + stat.sessions + stat.stored, 0);
        assert_int_equal(stat.charged_bytes, 0);
        assert_int_equal(scissor_close(session), ends[i].close);
    }
    /* The client is as good as before. */
    assert_int_equal(scissor_close(open_on_device(client)), 0);
    scissor_disconnect(client);
    nothing_is_left();
    assert_int_equal(harness_stop(&m.daemon), 0);
    manager_deinit(&m);
}

int main(void) {
    const char *seconds = getenv("SCISSOR_TEST_SECONDS");
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(killed_at_any_moment),
        cmocka_unit_test(ended_at_any_moment),
    };
    const struct CMUnitTest on_device[] = {cmocka_unit_test(a_device_keeps_nothing)};
    harness_init(150 + 2 * (seconds ? (unsigned)atoi(seconds) : 0));
    if (harness_device())
        return cmocka_run_group_tests_name("restart", on_device, NULL, NULL);
    return cmocka_run_group_tests_name("restart", tests, NULL, NULL);
}
