/* frames.c - score frames: whose they are, whether they can be believed, and what they add.
 *
 * Nothing in a frame is trusted before the token; then every size is compared with what the session has now before the
 * first value is folded, so that a frame counts as a whole or not at all. A frame with the right token moves the
 * session's sequence on even if it cannot be used: the settle that waits for it need not wait any longer. */
#include <string.h>

#include "alloc.h"
#include "internal.h"

/* The group that holds all of the frame's layers; NULL: there is none. */
static struct session_group *frame_group(struct session *s, const struct proto_score *f) {
    for (uint32_t i = 0; i < s->group_count; i++) {
        struct session_group *g = &s->groups[i];
        if (f->first_layer >= g->first_layer && f->first_layer - g->first_layer < g->layers &&
            f->layer_count <= g->layers - (f->first_layer - g->first_layer))
            return g;
    }
    return NULL;
}

static uint32_t first_head(const struct session_group *g, const struct proto_score *f) {
    return g->first_head + (f->first_layer - g->first_layer) * g->kv_heads;
}

/* Bytes that the payload must have, and the longest of its vectors. */
static uint64_t payload_bytes(const struct session *s, const struct session_group *g, const struct proto_score *f,
                              size_t *ret_longest) {
    uint64_t bytes = 0;
    uint32_t head = first_head(g, f);
    *ret_longest = 0;
    for (uint32_t i = 0; i < f->layer_count * g->kv_heads; i++) {
        size_t slots = (size_t)s->heads[head + i].history.settled + f->fresh;
        if (slots > *ret_longest)
            *ret_longest = slots;
        for (uint32_t p = 0; p < PROTO_PLANE_COUNT; p++)
            if (f->planes >> p & 1)
                bytes += proto_score_vector_bytes(f->format[p], slots);
    }
    return bytes;
}

static int reserve_values(struct broker *b, size_t slots) {
    if (slots <= b->value_capacity)
        return 0;
    float *values = scissor_realloc(b->values, slots * sizeof *values);
    if (!values)
        return SCISSOR_ENOMEM;
    b->values = values;
    b->value_capacity = slots;
    return 0;
}

static void fold(struct broker *b, struct session *s, const struct session_group *g, const struct proto_score *f,
                 const uint8_t *payload) {
    uint32_t head = first_head(g, f);
    for (uint32_t i = 0; i < f->layer_count * g->kv_heads; i++) {
        struct history *h = &s->heads[head + i].history;
        size_t slots = (size_t)h->settled + f->fresh;
        for (uint32_t p = 0; p < PROTO_PLANE_COUNT; p++) {
            if (!(f->planes >> p & 1))
                continue;
            proto_score_decode(f->format[p], payload, slots, b->values, &b->bad_scores);
            history_fold(h, 1u << p, b->values, f->fresh);
            payload += proto_score_vector_bytes(f->format[p], slots);
        }
    }
    for (uint32_t l = f->first_layer; l < f->first_layer + f->layer_count; l++)
        history_clock_fold(&s->clocks[l], f->rows, f->fresh);
}

/* Checks the frame against the session, which is idle or waits, and folds it. */
static enum proto_frame try_fold(struct broker *b, struct session *s, const struct proto_score *f,
                                 const uint8_t *payload) {
    const struct session_group *g = frame_group(s, f);
    size_t longest;

    if (f->generation != s->generation)
        return PROTO_FRAME_STALE;
    if (!g || f->planes != g->planes || f->fresh > s->fresh_rows)
        return PROTO_FRAME_MALFORMED;
    if (payload_bytes(s, g, f, &longest) != f->payload_bytes)
        return PROTO_FRAME_MALFORMED;
    for (uint32_t l = f->first_layer; l < f->first_layer + f->layer_count; l++)
        if (f->rows > s->fresh_rows - s->clocks[l].period_rows)
            return PROTO_FRAME_EXCESS;
    if (reserve_values(b, longest) < 0)
        return PROTO_FRAME_OVERRUN;
    fold(b, s, g, f, payload);
    record_frame(b, s, f, payload);
    return PROTO_FRAME_FOLDED;
}

static enum proto_frame frame_fate(struct broker *b, struct session *s, const struct proto_score *f,
                                   const uint8_t *payload) {
    if (s->orphan)
        return PROTO_FRAME_STALE; /* its client sends all of this period again when it is back */
    if (f->sequence <= s->sequence)
        return s->state == PROTO_SESSION_SETTLING ? PROTO_FRAME_LATE : PROTO_FRAME_STALE;
    if (f->sequence != s->sequence + 1)
        s->scores_missing = true;
    s->sequence = f->sequence;

    enum proto_frame fate = PROTO_FRAME_LATE;
    if (s->spoilt)
        fate = PROTO_FRAME_STALE; /* some of this period are in its sums already, and nobody knows which */
    else if (s->state == PROTO_SESSION_SHRINKING)
        fate = PROTO_FRAME_STALE; /* the slots that it speaks of are changing */
    else if (s->state == PROTO_SESSION_IDLE || s->state == PROTO_SESSION_WAITING)
        fate = try_fold(b, s, f, payload);
    if (fate != PROTO_FRAME_FOLDED)
        s->scores_missing = true;
    return fate;
}

void broker_score(struct broker *b, const void *frame, size_t size, uint64_t now) {
    struct proto_score f;
    const char *why;

    if (proto_score_check(frame, size, &why) < 0) {
        b->frames[PROTO_FRAME_MALFORMED]++;
        return;
    }
    memcpy(&f, frame, sizeof f);
    struct session *s = session_find(b, f.session);
    if (!s || !proto_token_equal(s->token, f.token)) {
        b->frames[PROTO_FRAME_FORGED]++;
        return;
    }
    b->frames[frame_fate(b, s, &f, (const uint8_t *)frame + sizeof f)]++;
    if (s->state == PROTO_SESSION_WAITING && !s->waits_for_room && s->sequence >= s->asked.settle.score_sequence)
        settle_start(b, s, s->scores_missing, now);
}

void broker_score_refused(struct broker *b, enum proto_frame fate, uint64_t count) {
    if (fate < PROTO_FRAME_COUNT)
        b->frames[fate] += count;
}
