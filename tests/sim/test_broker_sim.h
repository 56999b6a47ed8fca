/* test_broker_sim.h - what the simulator of test_broker_sim.c has: its dice, its clients, its recorders, and what it
 * has counted. */
#pragma once

#include <stdio.h>
#include <stdlib.h>

#include "sim/recorded.h"
#include "sim/rig.h"

#define MIB (1024ull * 1024)
#define EPOCH_STEPS 4000
#define KEPT_FRAMES 16

#define MUST(condition)                                                                                       \
    do {                                                                                                      \
        if (!(condition)) {                                                                                   \
            fprintf(stderr, "sim: step %llu: line %d: %s\n", (unsigned long long)step, __LINE__, #condition); \
            abort();                                                                                          \
        }                                                                                                     \
    } while (0)

static struct rig rig;
static uint64_t rng_state, step;
static bool calm;  /* few sessions come, so that much is lent to those there are; then many come and take it back */
static bool clean; /* in this epoch nothing fails but clients */
static bool gpu;   /* in this epoch there is a second pool, on a device */
static bool kept;  /* in this epoch sessions outlive the broker, which ends now and then */
static struct fake_store store;
static struct recorded recorders[RIG_PEERS]; /* what each peer's recording has brought */

/* Frames that were sent or held back, to be sent (again) later. */
static struct old {
    uint8_t bytes[1 << 17];
    size_t size;
} old[KEPT_FRAMES];

/* What the sim remembers of the place of a session. */
static struct place {
    bool step_open;
    uint64_t generation;              /* when the step began */
    uint32_t least[PROTO_MAX_GROUPS]; /* rows that were always guaranteed */
} places[RIG_SESSIONS];

/* What happened, to be printed: a sim that does nothing passes, too. */
static struct {
    uint64_t opened, refused, closed, settles, reclaims, folded, died, failures, restarts, reattached, limits;
    uint64_t recordings, records, records_lost, compared;
    uint64_t gpu_settles, early_settles, quarantined, devices_lost;
} tally;

static inline uint32_t below(uint32_t limit) {
    uint64_t z = (rng_state += 0x9e3779b97f4a7c15u);
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return (uint32_t)((z ^ z >> 31) >> 32) % limit;
}

/* The first peer, or place of an open session, from a random one on; -1: there is none. */
static inline int any_peer(void) {
    uint32_t first = below(RIG_PEERS);
    for (uint32_t i = 0; i < RIG_PEERS; i++) {
        const struct rig_peer *peer = &rig.peers[(first + i) % RIG_PEERS];
        if (peer->handle && peer->welcome)
            return (int)(peer - rig.peers);
    }
    return -1;
}

static inline int session_where(bool free) {
    uint32_t first = below(RIG_SESSIONS);
    for (uint32_t i = 0; i < RIG_SESSIONS; i++) {
        uint32_t place = (first + i) % RIG_SESSIONS;
        const struct rig_session *s = &rig.sessions[place];
        if (s->peer >= 0 && s->opened && (!free || (!s->request && !places[place].step_open)))
            return (int)place;
    }
    return -1;
}

static inline int any_session(void) {
    return session_where(false);
}

/* Its client may send a request. */
static inline int free_session(void) {
    return session_where(true);
}

/* ---------- recorders ---------- */

/* A tool begins to read along, or says what it has read: often enough to lose nothing, or not. */
static inline void do_record(void) {
    int i = any_session(), peer = any_peer();
    if (i < 0 || peer < 0)
        return;
    struct recorded *r = &recorders[peer];
    struct proto_record_read read = {.session = r->shape.session, .bytes = r->unread};
    struct proto_record asked = {.session = rig.sessions[i].id + (below(20) == 0)};
    if (r->begun && below(3) == 0) {
        r->unread = 0;
        rig_send(&rig, peer, PROTO_RECORD_READ, 0, &read, NULL, 0);
    } else if (!r->begun || below(10) == 0) {
        bool begun = r->begun;
        rig_send(&rig, peer, PROTO_RECORD, ++rig.last_request, &asked, NULL, 0);
        tally.recordings += !begun && r->begun;
    }
}

/* Whoever records a session and has missed nothing knows how many rows each head holds. */
static inline void check_recorded(void) {
    int peer = any_peer();
    const struct recorded *r = peer >= 0 ? &recorders[peer] : NULL;
    if (!r || !r->begun || r->blind || !r->replay.begun)
        return;
    for (int i = 0; i < RIG_SESSIONS; i++) {
        const struct rig_session *s = &rig.sessions[i];
        if (s->peer < 0 || s->id != r->shape.session || s->closed || s->control->generation != r->replay.generation)
            continue;
        for (uint32_t h = 0; h < r->replay.head_count; h++)
            MUST(rig_head(s, h)[0] == r->replay.heads[h].settled);
        tally.compared++;
    }
}
