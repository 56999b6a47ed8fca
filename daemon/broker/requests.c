/* requests.c - what a client may ask of its session: SETTLE, POSITIONS, CLOSE, and RELEASED, which has no answer.
 *
 * A session has one request in flight. One that comes while the daemon shrinks the session waits for that job; a settle
 * also waits for the score frames that its client says it has sent, but only so long, and then for memory that others
 * give at once (growth.c). */
#include <stdio.h>
#include <string.h>
#include <utlist.h>

#include "alloc.h"
#include "internal.h"

/* ---------- settle ---------- */

void settle_run(struct broker *b, struct session *s, uint64_t now) {
    session_stop_waiting(b, s);
    s->state = PROTO_SESSION_IDLE;
    s->shrink_after = 0;
    s->job.take_lease = s->job.keep_pages = false;
    s->job.rows = s->asked.settle.rows;
    memset(s->job.groups, 0, sizeof s->job.groups);
    limits_order(s);
    for (uint32_t i = 0; i < s->group_count; i++)
        growth_plan(b, s, i, now);
    session_start_job(b, s, JOB_SETTLE);
}

void settle_start(struct broker *b, struct session *s, bool lost, uint64_t now) {
    const struct proto_settle *asked = &s->asked.settle;

    session_stop_waiting(b, s);
    s->state = PROTO_SESSION_IDLE;
    s->settle_lost = lost;
    s->scores_missing = false;
    if (asked->score_sequence > s->sequence)
        s->sequence = asked->score_sequence; /* what still comes of this period is late */
    if (lost) {
        struct proto_event event = {.type = PROTO_EVENT_SCORES_LOST, .session = s->id};
        proto_text_set(event.name, sizeof event.name, s->name);
        s->scores_lost++;
        s->pool->scores_lost++;
        send_event(b, &event);
    }
    if (!growth_wait(b, s, now))
        settle_run(b, s, now);
}

static void settle_or_wait(struct broker *b, struct session *s, uint64_t now) {
    if (s->sequence >= s->asked.settle.score_sequence) {
        settle_start(b, s, s->scores_missing || s->spoilt, now);
        return;
    }
    s->state = PROTO_SESSION_WAITING;
    s->deadline = now + b->config.score_wait_ns;
    DL_APPEND2(b->waiting, s, queue_prev, queue_next);
}

/* ---------- positions ---------- */

static void answer_positions(struct broker *b, struct session *s) {
    const struct proto_positions *asked = &s->asked.positions;
    uint32_t request = s->asked.number;
    const struct session_group *g = s->groups;

    s->asked.type = 0;
    while (asked->layer >= g->first_layer + g->layers)
        g++;
    uint32_t index = g->first_head + (asked->layer - g->first_layer) * g->kv_heads + asked->kv_head;
    const struct history *h = &s->heads[index].history;
    uint32_t first = asked->first_slot < h->settled ? asked->first_slot : h->settled;
    uint32_t count = h->settled - first;
    if (count > PROTO_POSITIONS_PER_MESSAGE)
        count = PROTO_POSITIONS_PER_MESSAGE;
    struct proto_positions_are body = {.session = s->id, .total = h->settled, .first_slot = first};
    /* An entry is its position and nothing else. */
    const uint32_t *entries = count ? h->position + first : NULL;
    if (action_add_packet(&b->actions, s->peer, PROTO_POSITIONS_ARE, request, &body, entries, (uint16_t)count, 0,
                          NULL) < 0)
        peer_hang_up(b, s->peer);
}

static const char *bad_positions(const struct session *s, const struct proto_positions *asked) {
    for (uint32_t i = 0; i < s->group_count; i++) {
        const struct session_group *g = &s->groups[i];
        if (asked->layer - g->first_layer < g->layers)
            return asked->kv_head < g->kv_heads ? NULL : "kv_head is not a KV head of that layer";
    }
    return "layer is not a layer of the session";
}

void request_run(struct broker *b, struct session *s, uint64_t now) {
    if (s->asked.type == PROTO_SETTLE)
        settle_or_wait(b, s, now);
    else if (s->asked.type == PROTO_REATTACH)
        reattach_answer(b, s);
    else
        answer_positions(b, s);
}

/* ---------- released ---------- */

/* Marks a quarantined segment; what is not in quarantine is not the client's to release. */
static void mark_released(struct session *s, uint32_t id) {
    if (id >= s->fresh_segments && id < s->segment_capacity && s->segments[id].memory &&
        s->segments[id].state == SEGMENT_QUARANTINED)
        s->segments[id].state = SEGMENT_RELEASED;
}

static uint64_t oldest_quarantined(const struct session *s) {
    uint64_t oldest = 0, left = 0;
    for (uint32_t i = 0; i < s->group_count; i++)
        left += s->groups[i].quarantined;
    for (uint32_t id = s->fresh_segments; left && id < s->segment_capacity; id++) {
        const struct session_segment *segment = &s->segments[id];
        if (segment->memory && segment->state == SEGMENT_QUARANTINED && (!oldest || segment->quarantined_ns < oldest))
            oldest = segment->quarantined_ns;
    }
    return oldest;
}

void session_apply_released(struct session *s) {
    for (uint32_t i = 0; i < s->released_count; i++)
        mark_released(s, s->released[i]);
    s->released = scissor_free(s->released);
    s->released_count = 0;
    if (s->state != PROTO_SESSION_QUARANTINED)
        s->quarantined_ns = oldest_quarantined(s);
}

/* While a job runs the segments are the job's, so the ids are kept until it is done. */
static void released(struct broker *b, struct session *s, const struct proto_segment_id *ids, uint32_t count,
                     uint64_t now) {
    if (s->pool->config.backend->revocable)
        return;
    if (count > s->segments_shown - s->released_count)
        count = (uint32_t)(s->segments_shown - s->released_count);
    if (count == 0)
        return;
    uint32_t *kept = scissor_realloc(s->released, (s->released_count + count) * sizeof *kept);
    if (!kept) {
        peer_hang_up(b, s->peer);
        return;
    }
    memcpy(kept + s->released_count, ids, count * sizeof *kept);
    s->released = kept;
    s->released_count += count;
    if (s->job.running)
        return;
    session_apply_released(s);
    if (s->state == PROTO_SESSION_IDLE)
        session_next(b, s, now);
}

/* ---------- arrival ---------- */

static void close_ended(struct broker *b, struct broker_peer *peer, const struct proto_header *header, uint64_t id,
                        uint64_t now) {
    struct proto_closed closed = {.session = id, .code = SCISSOR_OK};
    struct session *s;
    DL_FOREACH(peer->ended, s) {
        if (s->id != id)
            continue;
        struct pool *pool = s->pool;
        session_forget(b, s);
        send_packet(b, peer, PROTO_CLOSED, header->request, &closed);
        admission_pump(b, pool, now);
        return;
    }
    send_failed(b, peer, header->request, id, SCISSOR_ENOSESSION, "there is no session %llu of this connection",
                (unsigned long long)id);
}

static void request_close(struct broker *b, struct session *s, uint32_t request, uint64_t now) {
    s->close_asked = true;
    s->asked = (struct session_request){.type = PROTO_CLOSE, .number = request};
    session_end(b, s, BROKER_END_CLIENT, now);
}

/* A request that has an answer, of a session that can be asked. */
static void request_begin(struct broker *b, struct session *s, const struct proto_header *header, const void *body,
                          uint64_t now) {
    struct session_request asked = {.type = header->type, .number = header->request};
    if (header->type == PROTO_SETTLE) {
        memcpy(&asked.settle, body, sizeof asked.settle);
        if (asked.settle.rows < 1 || asked.settle.rows > s->fresh_rows) {
            send_failed(b, s->peer, asked.number, s->id, SCISSOR_EINVAL, "rows must be 1 to %u, not %u", s->fresh_rows,
                        asked.settle.rows);
            return;
        }
        if (s->tokens_seen > UINT32_MAX - PROTO_MAX_FRESH) {
            send_failed(b, s->peer, asked.number, s->id, SCISSOR_ELIMIT, "positions end at %u", UINT32_MAX);
            return;
        }
    } else {
        memcpy(&asked.positions, body, sizeof asked.positions);
        const char *why = bad_positions(s, &asked.positions);
        if (why) {
            send_failed(b, s->peer, asked.number, s->id, SCISSOR_EINVAL, "%s (layer %u, KV head %u)", why,
                        asked.positions.layer, asked.positions.kv_head);
            return;
        }
    }
    s->asked = asked;
    if (!s->job.running)
        request_run(b, s, now);
}

void request_arrived(struct broker *b, struct broker_peer *peer, const struct proto_header *header, const void *body,
                     const void *entries, uint64_t now) {
    uint64_t id;
    memcpy(&id, body, sizeof id); /* every such body begins with its session */
    struct session *s = session_find(b, id);

    bool ended = s && s->state == PROTO_SESSION_QUARANTINED && header->type != PROTO_CLOSE;
    if (!s || s->peer != peer || s->state == PROTO_SESSION_OPENING || ended) {
        if (header->type == PROTO_CLOSE)
            close_ended(b, peer, header, id, now);
        else if (header->type != PROTO_RELEASED)
            send_failed(b, peer, header->request, id, SCISSOR_ENOSESSION, "there is no session %llu of this connection",
                        (unsigned long long)id);
        return;
    }
    s->last_ns = now;
    if (header->type == PROTO_RELEASED) {
        released(b, s, entries, header->count, now);
    } else if (s->asked.type || s->close_asked) {
        send_failed(b, peer, header->request, id, SCISSOR_ESTATE,
                    "an earlier request of the session has no answer yet");
    } else if (header->type == PROTO_CLOSE) {
        request_close(b, s, header->request, now);
    } else if (s->ending) {
        send_failed(b, peer, header->request, id, SCISSOR_ECLOSED, "the operator closed the session");
        if (header->type == PROTO_SETTLE) /* its client is in no step */
            s->end_deadline = 0;
        if (!s->job.running)
            session_retry_close(b, s, now);
    } else {
        request_begin(b, s, header, body, now);
    }
}
