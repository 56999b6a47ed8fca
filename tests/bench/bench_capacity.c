/* bench_capacity.c - how many sessions of 4,096 tokens a pool of 256 MiB holds, and how fast they decode together: with
 * full f16 caches, and with a budget that takes a fifth of their bytes.
 *
 * Starts a real scissord and uses it through libscissor, in the shape of SmolLM2-135M. Keys, values and queries are
 * random: only the cache's work is timed (append, attention over all sessions in one call, score frames, settles), not
 * a model's. Full caches use the policy that needs no scores, the others the daemon's default one. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "alloc.h"
#include "harness.h"
#include "scissor.h"

#define LAYERS 30u
#define KV_HEADS 3u
#define Q_HEADS 9u
#define HEAD_DIM 64u
#define FRESH 64u
#define TOKENS 4096u
#define DECODE 128u /* tokens of each session that are timed: two settles */
#define ROUNDS 3    /* of which the best counts: other work on the machine only makes it slower */
#define SESSIONS_MAX 64u

struct bench {
    struct harness_daemon daemon;
    struct scissor_client *client;
    struct scissor_session *session[SESSIONS_MAX];
    size_t sessions;
    float *k, *v;    /* FRESH rows, the same for all */
    float *q, *outs; /* one row per session */
};

struct result {
    size_t sessions;
    double bytes_each, tokens_per_second;
};

static void die(const char *what, int code) {
    fprintf(stderr, "bench_capacity: %s: %s\n", what, scissor_strerror(code));
    exit(1);
}

static float *random_floats(size_t count, uint32_t seed) {
    float *values = scissor_malloc(count * sizeof *values);
    if (!values)
        die("memory", SCISSOR_ENOMEM);
    for (size_t i = 0; i < count; i++) {
        seed = seed * 1664525u + 1013904223u;
        values[i] = (float)(int32_t)seed / 2147483648.0f;
    }
    return values;
}

/* 0, BUSY or FULL. */
static int bench_open(struct bench *b, uint32_t rows, const char *policy) {
    struct scissor_session_spec spec = {
        .compute_dtype = SCISSOR_F16,
        .storage_dtype = SCISSOR_F16,
        .fresh_rows = FRESH,
        .group_count = 1,
        .groups = {{.layers = LAYERS,
                    .kv_heads = KV_HEADS,
                    .q_heads = Q_HEADS,
                    .head_dim = HEAD_DIM,
                    .guaranteed_rows = rows,
                    .max_rows = rows}},
    };
    snprintf(spec.groups[0].policy, sizeof spec.groups[0].policy, "%s", policy);
    int r = scissor_open(b->client, &spec, &b->session[b->sessions]);
    if (r < 0)
        die("open", r);
    if (r == 0)
        b->sessions++;
    return r;
}

static void bench_close_all(struct bench *b) {
    while (b->sessions)
        scissor_close(b->session[--b->sessions]);
}

static uint64_t bench_guaranteed(struct bench *b) {
    struct proto_pool_stat stat;
    if (harness_stat(&b->daemon, &stat) < 0)
        exit(1);
    return stat.guaranteed_bytes;
}

/* What the daemon promises to one session of this budget. */
static uint64_t bench_price(struct bench *b, uint32_t rows, const char *policy) {
    if (bench_open(b, rows, policy))
        die("one session", SCISSOR_FULL);
    uint64_t bytes = bench_guaranteed(b);
    bench_close_all(b);
    return bytes;
}

/* Writes `tokens` tokens to all sessions without asking anything of them. */
static void bench_fill(struct bench *b, uint32_t tokens) {
    for (size_t i = 0; i < b->sessions; i++) {
        for (uint32_t done = 0; done < tokens; done += FRESH) {
            int r = scissor_step_begin(b->session[i], FRESH);
            for (uint32_t layer = 0; layer < LAYERS && r == 0; layer++)
                r = scissor_append(b->session[i], layer, b->k, b->v, SCISSOR_F32);
            if (r == 0)
                r = scissor_step_end(b->session[i]);
            if (r == 0)
                r = scissor_settle(b->session[i]);
            if (r && r != SCISSOR_SCORES_LOST)
                die("fill", r);
        }
    }
}

/* One token of each session; they share the call for each layer. */
static int bench_step(struct bench *b, uint32_t token) {
    const size_t kv_row = (size_t)KV_HEADS * HEAD_DIM, q_row = (size_t)Q_HEADS * HEAD_DIM;
    struct scissor_attend_item items[SESSIONS_MAX];
    size_t row = token % FRESH * kv_row;
    int r = 0;
    for (size_t i = 0; i < b->sessions && r == 0; i++)
        r = scissor_step_begin(b->session[i], 1);
    for (uint32_t layer = 0; layer < LAYERS && r == 0; layer++) {
        for (size_t i = 0; i < b->sessions && r == 0; i++) {
            r = scissor_append(b->session[i], layer, b->k + row, b->v + row, SCISSOR_F32);
            items[i] =
                (struct scissor_attend_item){b->session[i], layer, 0.125f, b->q + i * q_row, b->outs + i * q_row};
        }
        if (r == 0)
            r = scissor_attend(items, b->sessions);
    }
    for (size_t i = 0; i < b->sessions && r == 0; i++) {
        r = scissor_step_end(b->session[i]);
        if (r == 0 && scissor_fresh_room(b->session[i]) == 0)
            r = scissor_settle(b->session[i]);
        if (r == SCISSOR_SCORES_LOST)
            r = 0;
    }
    return r;
}

static struct result bench_run(struct bench *b, uint32_t rows, const char *policy) {
    while (b->sessions < SESSIONS_MAX && bench_open(b, rows, policy) == 0) {
    }
    struct result result = {.sessions = b->sessions};
    if (!b->sessions)
        die("one session", SCISSOR_FULL);
    result.bytes_each = (double)bench_guaranteed(b) / (double)b->sessions;
    bench_fill(b, TOKENS - DECODE);
    uint64_t start = harness_now_ns();
    for (uint32_t token = 0; token < DECODE; token++) {
        int r = bench_step(b, token);
        if (r)
            die("step", r);
    }
    double seconds = (double)(harness_now_ns() - start) / 1e9;
    result.tokens_per_second = (double)(DECODE * b->sessions) / seconds;
    bench_close_all(b);
    return result;
}

static void keep_better(struct result *best, struct result next) {
    if (next.tokens_per_second > best->tokens_per_second)
        *best = next;
}

static void print_row(const char *what, uint32_t rows, const struct result *r) {
    printf("  %-12s %5u rows/head  %3zu sessions  %6.1f MiB each  %8.1f tokens/s together\n", what, rows, r->sessions,
           r->bytes_each / 1048576, r->tokens_per_second);
}

int main(void) {
    static struct bench b;
    static const char *const arguments[] = {"--pool", "256MiB", NULL};
    harness_init(300);
    if (harness_start(&b.daemon, arguments) < 0)
        return 1;
    int r = scissor_connect(b.daemon.dir, &b.client);
    if (r)
        die("connect", r);
    b.k = random_floats(FRESH * KV_HEADS * HEAD_DIM, 1);
    b.v = random_floats(FRESH * KV_HEADS * HEAD_DIM, 2);
    b.q = random_floats(SESSIONS_MAX * Q_HEADS * HEAD_DIM, 3);
    b.outs = random_floats(SESSIONS_MAX * Q_HEADS * HEAD_DIM, 4);

    uint64_t full_bytes = bench_price(&b, TOKENS, "window");
    uint32_t rows = TOKENS / 5 / 64 * 64 + FRESH;
    while (rows > 2 * FRESH && bench_price(&b, rows, "") > full_bytes / 5)
        rows -= 64;

    printf("capacity of a pool of 256 MiB: sessions of %u tokens, %u layers, %u KV heads, %u query heads, %u channels, "
           "f16\n",
           TOKENS, LAYERS, KV_HEADS, Q_HEADS, HEAD_DIM);
    struct result full = {.sessions = 0}, fifth = {.sessions = 0};
    for (int round = 0; round < ROUNDS; round++) {
        keep_better(&full, bench_run(&b, TOKENS, "window"));
        keep_better(&fifth, bench_run(&b, rows, ""));
    }
    print_row("full caches", TOKENS, &full);
    print_row("a fifth", rows, &fifth);
    printf("  ratio        %.1f times the sessions, %.1f times the tokens per second (of the cache's work alone)\n",
           (double)fifth.sessions / (double)full.sessions, fifth.tokens_per_second / full.tokens_per_second);

    scissor_disconnect(b.client);
    scissor_free(b.k);
    scissor_free(b.v);
    scissor_free(b.q);
    scissor_free(b.outs);
    return harness_stop(&b.daemon) == 0 ? 0 : 1;
}
