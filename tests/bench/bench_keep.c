/* bench_keep.c - what it costs that a session outlives the daemon: the time of a settle with a store in ratio to the
 * time of one without, in the same run.
 *
 * The broker alone, in one thread, on the host backend; the shape of SmolLM2-135M: 30 layers, 3 KV heads of 64
 * channels, f16, 832 rows per head with 64 fresh ones, full, so that each settle evicts as many rows as come. A settle
 * is the session's job, from which its client waits: planning, the moves, the control page, and here the snapshot. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "broker.h"

#define LAYERS 30u
#define KV_HEADS 3u
#define HEAD_DIM 64u
#define FRESH 64u
#define ROWS 832u
#define SETTLES 400

struct side {
    struct broker *broker;
    struct broker_peer *peer;
    uint64_t session;
    struct broker_job *job;
    bool answered;
};

static void must(bool condition, const char *what) {
    if (condition)
        return;
    fprintf(stderr, "bench_keep: %s\n", what);
    exit(1);
}

static int put(struct broker_store *s, const char *name, const int *fds, uint32_t count) {
    (void)s, (void)name, (void)fds, (void)count;
    return 0;
}

static void drop(struct broker_store *s, const char *name) {
    (void)s, (void)name;
}

static uint64_t clock_ns(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint64_t now(void) {
    return clock_ns(CLOCK_MONOTONIC);
}

/* Takes what the broker wants done; jobs are left to the caller. */
static void act(struct side *side) {
    struct broker_action a;
    while (broker_action_next(side->broker, &a)) {
        struct proto_header h;
        if (a.type == BROKER_ACTION_JOB)
            side->job = a.job;
        if (a.type != BROKER_ACTION_SEND)
            continue;
        memcpy(&h, a.bytes, sizeof h);
        must(h.type != PROTO_FAILED, "the broker refused");
        if (h.type == PROTO_OPENED)
            memcpy(&side->session, proto_attach_body(a.bytes), sizeof side->session);
        side->answered = true;
        for (uint32_t i = 0; i < a.fd_count; i++)
            close(a.fds[i]);
    }
}

static void say(struct side *side, uint16_t type, const void *body) {
    static char packet[PROTO_ATTACH_MAX];
    size_t size = proto_attach_write(packet, sizeof packet, type, 1, body, NULL, 0);
    broker_peer_message(side->broker, side->peer, packet, size, now());
    act(side);
}

/* Runs the job that waits; returns how long it took of the processor, as the machine may have other work. */
static uint64_t work(struct side *side) {
    struct broker_job *job = side->job;
    must(job != NULL, "there is no job");
    side->job = NULL;
    uint64_t begin = clock_ns(CLOCK_THREAD_CPUTIME_ID);
    broker_job_run(job);
    uint64_t end = clock_ns(CLOCK_THREAD_CPUTIME_ID);
    broker_job_done(side->broker, job, now());
    act(side);
    return end - begin;
}

static void begin(struct side *side, struct broker_store *store, const char *policy) {
    struct broker_config config;
    struct proto_hello hello = {.major = PROTO_VERSION_MAJOR, .capabilities = PROTO_CAP_HOST};
    struct proto_open open = {.compute_dtype = KERNEL_F16,
                              .storage_dtype = KERNEL_F16,
                              .fresh_rows = FRESH,
                              .pool = PROTO_ANY_POOL,
                              .group_count = 1};
    open.groups[0] = (struct proto_group){
        .layers = LAYERS, .kv_heads = KV_HEADS, .q_heads = 9, .head_dim = HEAD_DIM, .guaranteed_rows = ROWS};
    strcpy(open.groups[0].policy, policy);
    broker_config_init(&config);
    config.pools[0] =
        (struct broker_pool_config){.name = "host", .backend = kernel_host_backend(NULL), .limit_bytes = 512ull << 20};
    config.pool_count = 1;
    config.store = store;
    must(broker_new(&config, &side->broker) == 0, "no broker");
    must(broker_peer_new(side->broker, 1, 0, 0, -1, &side->peer) == 0, "no peer");
    say(side, PROTO_HELLO, &hello);
    say(side, PROTO_OPEN, &open);
    work(side);
    must(side->session != 0, "no session");
}

static uint64_t settle(struct side *side) {
    struct proto_settle body = {.session = side->session, .rows = FRESH};
    say(side, PROTO_SETTLE, &body);
    return work(side);
}

static void end(struct side *side) {
    broker_peer_gone(side->broker, side->peer, now());
    act(side);
    work(side);
    broker_free(side->broker);
}

static int compare_times(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* The lower quartile: other work on the machine only makes a settle slower. */
static double typical(uint64_t *times) {
    qsort(times, SETTLES, sizeof *times, compare_times);
    return (double)times[SETTLES / 4];
}

static void compare(const char *policy) {
    static uint64_t plain_times[SETTLES], kept_times[SETTLES];
    struct broker_store store = {.max = 1024, .put = put, .drop = drop};
    struct side plain = {0}, kept = {0};
    begin(&plain, NULL, policy);
    begin(&kept, &store, policy);
    for (uint32_t i = 0; i < 2 * (ROWS / FRESH); i++) {
        settle(&plain);
        settle(&kept);
    }
    for (int i = 0; i < SETTLES; i++) {
        plain_times[i] = settle(&plain);
        kept_times[i] = settle(&kept);
    }
    struct proto_pool_stat with, without;
    broker_pool_stat(kept.broker, 0, now(), &with);
    broker_pool_stat(plain.broker, 0, now(), &without);
    double a = typical(plain_times), b = typical(kept_times);
    printf("  %-12s settle %7.0f us without a store, %7.0f us with: ratio %.3f; bytes charged: ratio %.3f\n", policy,
           a / 1000, b / 1000, b / a, (double)with.charged_bytes / (double)without.charged_bytes);
    end(&plain);
    end(&kept);
}

int main(void) {
    static const char *const policies[] = {"streaming", "h2o", "pivotal", "scissorhands"};
    printf("bench_keep: a settle of 64 rows at 832 rows a head, 90 heads of 64 channels, f16\n");
    for (size_t i = 0; i < sizeof policies / sizeof *policies; i++)
        compare(policies[i]);
    return 0;
}
