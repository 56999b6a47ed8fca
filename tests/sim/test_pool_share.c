/* test_pool_share.c - eight sessions of unequal length in a pool of a fifth: the arbiter's sessions lose less of their
 * attention than with equal static shares, and than with the rows of the least recently used going first; in the mean
 * and the one that loses most.
 *
 * The load is scissor-eval's, and so is the shape: 90 heads of 64 channels in f16. The broker is the real one,
 * attention is made up: a row has a weight that is drawn once, from a distribution with a long tail, and fades with
 * distance; the first four are sinks. A query's probabilities are the weights over their sum, of the rows that are
 * left, and what it lost is the share of those that are not. It takes seconds where scissor-eval takes minutes. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "broker/internal.h"
#include "eval/workload.h"
#include "layout.h"
#include "sim/rig.h"

enum { TOKENS = 4096, LAYERS = 30, KV_HEADS = 3, HEADS = LAYERS * KV_HEADS, F = 64, CHANNELS = 64, KINDS = 6 };
#define SINKS 4u
#define ROW_BYTES (HEADS * CHANNELS * 2ull * 2)
#define SCORED_FROM 3300u /* tokens of all sessions: no way evicts less than it must before */

enum way { ARBITER, EQUAL, LRU, WAYS };

struct load_session {
    int place;
    struct session *session;
    uint32_t tokens, fresh;
    double lost;
    uint32_t scored;
    float mass[KINDS][TOKENS + F]; /* of this period, by slot; heads of a kind have the same rows */
};

struct result {
    double mean, worst;
};

static struct rig rig;
static struct load_session sessions[WORKLOAD_SESSIONS];
static float weights[WORKLOAD_SESSIONS][KINDS][TOKENS], fade[TOKENS];
static uint8_t frame[2 * PROTO_SCORE_MAX];

/* ---------- attention ---------- */

static double draw(uint64_t *state) {
    double sum = 0;
    for (int i = 0; i < 12; i++) {
        *state = *state * 6364136223846793005ull + 1442695040888963407ull;
        sum += (double)(*state >> 40) / (1 << 24);
    }
    return sum - 6; /* as good as normal */
}

static void draw_weights(uint64_t seed) {
    for (uint32_t i = 0; i < TOKENS; i++)
        fade[i] = (float)pow(1 + i, -0.9);
    for (uint32_t s = 0; s < WORKLOAD_SESSIONS; s++)
        for (uint32_t kind = 0; kind < KINDS; kind++) {
            double spread = (1.3 + 0.1 * ((s * 5 + seed) % 6)) * (0.6 + 0.16 * kind);
            for (uint32_t i = 0; i < TOKENS; i++)
                weights[s][kind][i] = i < SINKS ? 60 : (float)exp(spread * draw(&seed));
        }
}

static float weight(uint32_t session, uint32_t kind, uint32_t row, uint32_t query) {
    return weights[session][kind][row] * (row < SINKS ? 1 : fade[query > row ? query - row : 0]);
}

/* Adds up the masses of `rows` queries of one kind of head, all of which are as the middle one; the share it lost. */
static double attend_kind(struct load_session *x, uint32_t index, uint32_t kind, uint32_t rows) {
    const struct history *h = &x->session->heads[kind].history;
    uint32_t first = x->tokens - x->fresh, query = x->tokens + rows / 2;
    double all = 0, kept = 0;
    for (uint32_t i = 0; i <= query; i++) {
        all += (double)weight(index, kind, i, query);
        kept += i >= first ? (double)weight(index, kind, i, query) : 0;
    }
    for (uint32_t i = 0; i < h->settled; i++)
        kept += (double)weight(index, kind, h->position[i], query);
    for (uint32_t i = 0; i < h->settled; i++)
        x->mass[kind][i] += (float)(rows * (double)weight(index, kind, h->position[i], query) / kept);
    for (uint32_t i = 0; i < x->fresh + rows; i++) {
        uint32_t seen = i < x->fresh ? rows : x->fresh + rows - i;
        x->mass[kind][h->settled + i] += (float)(seen * (double)weight(index, kind, first + i, query) / kept);
    }
    return 1 - kept / all;
}

static double attend(struct load_session *x, uint32_t index, uint32_t rows) {
    double lost = 0;
    for (uint32_t kind = 0; kind < KINDS; kind++)
        lost += attend_kind(x, index, kind, rows) / KINDS;
    x->fresh += rows;
    x->tokens += rows;
    return lost;
}

/* ---------- sessions ---------- */

static float mass_of(void *context, uint32_t layer, uint32_t kv_head, uint32_t plane, uint32_t slot) {
    const struct load_session *x = context;
    float mass = x->mass[(layer * KV_HEADS + kv_head) % KINDS][slot];
    (void)plane;
    return mass < F ? mass : F;
}

static void settle(struct load_session *x) {
    struct rig_session *s = &rig.sessions[x->place];
    size_t size = rig_frame(s, 0, LAYERS, x->fresh, x->fresh, mass_of, x, frame);
    broker_score(rig.broker, frame, size, rig.now);
    rig_act(&rig);
    rig_settle(&rig, x->place, x->fresh, s->sequence);
    rig_jobs(&rig);
    assert_int_equal(s->code, 0);
    memset(x->mass, 0, sizeof x->mass);
    x->fresh = 0;
    rig.now += 1000000;
}

/* All rows of V have the same norm. */
static void write_fresh(struct load_session *x) {
    for (uint32_t h = 0; h < HEADS; h++) {
        uint16_t *fresh = rig_fresh(&rig.sessions[x->place], h);
        for (uint32_t i = 0; i < F * CHANNELS * 2; i++)
            fresh[i] = 0x3c00; /* 1 */
    }
}

static bool open_one(struct load_session *x, int peer, uint32_t guaranteed, uint32_t most) {
    struct proto_open spec = rig_spec(LAYERS, KV_HEADS, CHANNELS, F, guaranteed, most, "pivotal");
    spec.compute_dtype = spec.storage_dtype = KERNEL_F16;
    x->place = rig_open_now(&rig, peer, &spec);
    if (x->place < 0)
        return false;
    x->session = session_find(rig.broker, rig.sessions[x->place].id);
    write_fresh(x);
    return true;
}

/* `segments` for all together, as in pooled.c; 0: each may have every row, and is guaranteed the fewest. */
static bool open_all(int peer, uint32_t segments) {
    uint32_t per_segment = layout_pages_per_segment(KERNEL_F16, CHANNELS);
    memset(sessions, 0, sizeof sessions);
    for (uint32_t i = 0; i < WORKLOAD_SESSIONS; i++) {
        bool more = i >= WORKLOAD_SESSIONS - segments % WORKLOAD_SESSIONS;
        uint32_t rows = F + (segments / WORKLOAD_SESSIONS + more) * per_segment / HEADS * SCISSOR_PAGE_ROWS;
        if (open_one(&sessions[i], peer, segments ? rows : F + 16, segments ? rows : TOKENS))
            continue;
        while (i-- > 0) {
            rig_close(&rig, sessions[i].place);
            rig_jobs(&rig);
        }
        return false;
    }
    return true;
}

static void read_turn(struct load_session *x, uint32_t index, const struct workload_turn *turn, uint32_t *read) {
    for (uint32_t at = turn->from, rows; at < turn->to; at += rows) {
        if (x->fresh == F)
            settle(x);
        rows = F - x->fresh < turn->to - at ? F - x->fresh : turn->to - at;
        double lost = attend(x, index, rows);
        *read += rows;
        if (*read <= SCORED_FROM)
            continue;
        x->lost += lost * rows;
        x->scored += rows;
    }
}

static struct result run(enum way way, const struct workload *load) {
    uint64_t full = 0;
    struct result result = {0};
    struct broker_config config;
    for (uint32_t i = 0; i < WORKLOAD_SESSIONS; i++)
        full += load->tokens[i] * ROW_BYTES;
    rig_init(&rig, full / 5, true);
    broker_config_init(&config);
    config.reclaim = way == LRU ? BROKER_RECLAIM_LRU : BROKER_RECLAIM_ATTENTION;
    assert_int_equal(broker_reconfigure(rig.broker, &config), 0);
    int peer = rig_connect(&rig);
    uint32_t segments = way == EQUAL ? (uint32_t)(full / 5 / SCISSOR_SEGMENT_BYTES) : 0, read = 0;
    while (!open_all(peer, segments))
        assert_true(--segments >= WORKLOAD_SESSIONS);
    for (uint32_t t = 0; t < load->turn_count; t++)
        read_turn(&sessions[load->turns[t].session], load->turns[t].session, &load->turns[t], &read);
    for (uint32_t i = 0; i < WORKLOAD_SESSIONS; i++) {
        double lost = sessions[i].lost / sessions[i].scored;
        result.mean += lost / WORKLOAD_SESSIONS;
        result.worst = lost > result.worst ? lost : result.worst;
    }
    broker_check(rig.broker);
    rig_deinit(&rig);
    return result;
}

static void test_arbiter_loses_least(void **state) {
    static const char *const names[WAYS] = {"arbiter", "equal", "lru"};
    struct workload load;
    struct result results[WAYS];
    (void)state;
    workload_init(&load, TOKENS);
    for (uint64_t seed = 1; seed <= 2; seed++) {
        draw_weights(seed);
        for (enum way way = 0; way < WAYS; way++) {
            results[way] = run(way, &load);
            printf("%s: %.4f of the attention is lost, %.4f of the worst session's\n", names[way], results[way].mean,
                   results[way].worst);
        }
        for (enum way way = EQUAL; way < WAYS; way++) {
            assert_true(results[ARBITER].mean < 0.95 * results[way].mean);
            assert_true(results[ARBITER].worst < 0.9 * results[way].worst);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_arbiter_loses_least)};
    return cmocka_run_group_tests_name("pool share", tests, NULL, NULL);
}
