/* test_keep.h - a client that knows what its rows are, for tests of sessions that outlive the broker. */
#pragma once

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "alloc.h"
#include "keep.h"
#include "sim/rig.h"
#include "snapshot.h"

#define MIB (1024ull * 1024)
#define F 16u

static struct rig rig;
static struct fake_store store;

/* ---------- a client that knows what its rows are ---------- */

static inline uint32_t heads_of(const struct rig_session *s) {
    uint32_t heads = 0;
    for (uint32_t i = 0; i < s->spec.group_count; i++)
        heads += s->spec.groups[i].layers * s->spec.groups[i].kv_heads;
    return heads;
}

static inline float score(void *context, uint32_t layer, uint32_t kv_head, uint32_t plane, uint32_t slot) {
    (void)context;
    return (float)((layer * 7 + kv_head * 3 + plane + slot * slot) % 11) / 11;
}

static inline void write_rows(struct rig_session *s, uint32_t rows) {
    for (uint32_t h = 0; h < heads_of(s); h++)
        for (uint32_t i = 0; i < rows; i++)
            fake_row_write(rig_fresh(s, h), s->fresh_rows, i, s->spec.groups[0].head_dim, s->spec.compute_dtype,
                           (uint32_t)s->tokens + i, h);
}

static inline void send_scores(int place, uint32_t rows) {
    static uint8_t frame[1 << 18];
    struct rig_session *s = &rig.sessions[place];
    if (!s->scores[0].planes)
        return;
    for (uint32_t l = 0; l < rig_layers(s); l++) {
        size_t size = rig_frame(s, l, 1, rows, rows, score, NULL, frame);
        broker_score(rig.broker, frame, size, rig.now);
    }
    rig_act(&rig);
}

/* A period: rows, scores, settle. */
static inline void period(int place, uint32_t rows) {
    struct rig_session *s = &rig.sessions[place];
    write_rows(s, rows);
    send_scores(place, rows);
    rig_settle(&rig, place, rows, s->sequence);
    rig_jobs(&rig);
    assert_int_equal(s->code, SCISSOR_OK);
}

/* Every settled row is the one that its position says, and no position is there twice. */
static inline void check_rows(int place) {
    struct rig_session *s = &rig.sessions[place];
    uint32_t kv_heads = s->spec.groups[0].kv_heads;
    for (uint32_t h = 0; h < heads_of(s); h++) {
        rig_positions(&rig, place, h / kv_heads, h % kv_heads);
        assert_int_equal(s->code, SCISSOR_OK);
        assert_int_equal(s->positions_head.total, rig_head(s, h)[0]);
        for (uint32_t i = 0; i < s->position_count; i++) {
            assert_true(fake_row_is(rig_page(s, h, i / 64), 64, i % 64, s->spec.groups[0].head_dim,
                                    s->spec.storage_dtype, s->positions[i], h));
            for (uint32_t k = 0; k < i; k++)
                assert_int_not_equal(s->positions[i], s->positions[k]);
        }
    }
}

static inline struct proto_pool_stat pool_stat(void) {
    struct proto_pool_stat stat;
    broker_pool_stat(rig.broker, 0, rig.now, &stat);
    return stat;
}

static inline void begin(bool real) {
    fake_store_init(&store, FAKE_STORE_MAX);
    rig_init_kept(&rig, 64 * MIB, &store, real);
}

static inline void end(void) {
    rig_deinit(&rig);
    assert_int_equal(store.count, 0);
    fake_store_deinit(&store);
}

static inline int pidfd_of(pid_t pid) {
    return (int)syscall(SYS_pidfd_open, pid, 0);
}

static inline int open_session(int peer, const char *policy) {
    struct proto_open spec = rig_spec(2, 2, 64, F, 200, 600, policy);
    spec.compute_dtype = spec.storage_dtype = KERNEL_F16;
    int place = rig_open_now(&rig, peer, &spec);
    assert_true(place >= 0);
    return place;
}

static inline struct broker_kept *kept_named(char kind, uint64_t number) {
    char name[9];
    keep_name(kind, number, name);
    for (uint32_t i = 0; i < store.count; i++)
        if (strcmp(store.kept[i].name, name) == 0)
            return &store.kept[i];
    fail();
    return NULL;
}

/* ---------- two sessions of two peers with some rows each ---------- */

static int places[2], peers[2];

static inline void two_sessions(bool real) {
    begin(real);
    rig.pidfd = pidfd_of(getpid());
    for (int i = 0; i < 2; i++) {
        peers[i] = rig_connect(&rig);
        places[i] = open_session(peers[i], "pivotal");
        for (int k = 0; k < 5; k++)
            period(places[i], F);
    }
}

/* Their processes do, and ask for nothing. */
static inline void no_client_comes(void) {
    for (int i = 0; i < RIG_PEERS; i++)
        rig_disconnect(&rig, i);
    for (int i = 0; i < 2; i++) {
        rig.peers[peers[i]].uid = RIG_UID;
        rig_reconnect(&rig, peers[i]);
        rig_disconnect(&rig, peers[i]);
    }
    rig_pass(&rig, 2 * rig.config.orphan_wait_ns);
    rig_jobs(&rig);
    assert_int_equal(broker_session_count(rig.broker), 0);
}

static inline void end_two(void) {
    no_client_comes();
    close(rig.pidfd);
    rig.pidfd = -1;
    end();
}
