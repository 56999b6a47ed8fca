/* lifecycle.c - a session from its insertion to its end, and the results of its jobs.
 *
 * OPENING -> IDLE -> (WAITING -> SETTLING | SHRINKING) -> IDLE ... -> CLOSING. Whatever happens to a session while its
 * job runs is noted in it and looked at by session_next() when the job is done. Nothing on the way to a session's end
 * needs memory. */
#include <assert.h>
#include <string.h>
#include <utlist.h>

#include "alloc.h"
#include "internal.h"

struct session *session_find(const struct broker *b, uint64_t id) {
    struct session *s = b->buckets[id & (b->bucket_count - 1)];
    while (s && s->id != id)
        s = s->hash_next;
    return s;
}

void session_insert(struct broker *b, struct session *s) {
    if (!s->id)
        s->id = b->last_id + 1;
    if (s->id > b->last_id)
        b->last_id = s->id;
    struct session **bucket = &b->buckets[s->id & (b->bucket_count - 1)];
    s->hash_next = *bucket;
    *bucket = s;
    DL_APPEND(b->sessions, s);
    b->session_count++;
    s->pool->sessions++;
    if (s->peer)
        s->peer->sessions++;
    s->job.session = s;
    s->job_action = (struct action){.type = BROKER_ACTION_JOB, .embedded = true, .job = &s->job};
}

static void session_remove(struct broker *b, struct session *s) {
    struct session **at = &b->buckets[s->id & (b->bucket_count - 1)];
    while (*at != s)
        at = &(*at)->hash_next;
    *at = s->hash_next;
    DL_DELETE(b->sessions, s);
    b->session_count--;
    s->pool->sessions--;
}

void session_free(struct broker *b, struct session *s) {
    assert(!s->job.running && !s->control && !s->segments);
    session_remove(b, s);
    if (s->peer)
        s->peer->sessions--;
    session_stop_orphan(b, s);
    session_drop_keep(s);
    scissor_free(s->released);
    scissor_free(s);
}

void session_drop_keep(struct session *s) {
    if (!s->keep)
        return;
    keep_process_unref(s->keep->process);
    keeper_take_back(s->keep->keeper, s->keep_extra);
    s->keep_extra = 0;
    s->keep = keep_free(s->keep);
}

void session_stop_waiting(struct broker *b, struct session *s) {
    if (s->state == PROTO_SESSION_WAITING && s->waits_for_room)
        DL_DELETE2(b->growing, s, queue_prev, queue_next);
    else if (s->state == PROTO_SESSION_WAITING)
        DL_DELETE2(b->waiting, s, queue_prev, queue_next);
    s->waits_for_room = false;
}

/* As the process ends, they stay: a client that has not read CLOSED yet may be about to take the lease, and must
 * neither find it free nor its control page gone. At other times a client could keep memory by this that nobody is
 * charged for.
 */
static void let_pages_go(const struct broker *b, struct session *s) {
    session_release_pages(s, b->process_ends);
}

void session_forget(const struct broker *b, struct session *s) {
    DL_DELETE(s->peer->ended, s);
    s->peer->sessions--;
    let_pages_go(b, s);
    scissor_free(s->released);
    pool_return(&s->account, s->account.charged);
    pool_leave(&s->account);
    scissor_free(s);
}

/* ---------- starting ---------- */

struct keep_counts session_counts(const struct session *s) {
    struct keep_counts counts = {.generation = s->generation,
                                 .tokens_seen = s->tokens_seen,
                                 .settles = s->settles,
                                 .scores_lost = s->scores_lost,
                                 .last_evicted = s->last_evicted,
                                 .last_lost = s->last_lost,
                                 .spoilt = s->spoilt,
                                 .priority = s->priority};
    memcpy(counts.evicted, s->evicted, sizeof counts.evicted);
    for (uint32_t i = 0; i < s->group_count; i++)
        counts.budgets[i] = (struct keep_budget){s->groups[i].guaranteed_rows, s->groups[i].max_rows};
    return counts;
}

void session_start_job(struct broker *b, struct session *s, enum job_kind kind) {
    static const enum proto_session_state states[] = {[JOB_OPEN] = PROTO_SESSION_OPENING,
                                                      [JOB_SETTLE] = PROTO_SESSION_SETTLING,
                                                      [JOB_SHRINK] = PROTO_SESSION_SHRINKING,
                                                      [JOB_CLOSE] = PROTO_SESSION_CLOSING};
    assert(!s->job.running);
    session_stop_waiting(b, s);
    s->state = states[kind];
    s->job.kind = kind;
    s->job.running = true;
    s->job.generation = s->generation;
    s->job.tokens_seen = s->tokens_seen;
    s->job.counts = session_counts(s);
    s->job.scores_lost = s->settle_lost;
    s->job.code = 0;
    s->job.why[0] = 0;
    s->job.hurried = s->job.lease_refused = s->job.changed = false;
    s->job.grown_count = s->job.moved_count = 0;
    memset(s->job.evicted, 0, sizeof s->job.evicted);
    s->job.bad_scores = 0;
    b->session_jobs++;
    struct action *action = &s->job_action;
    DL_APPEND(b->actions, action);
}

static void orders_clear(struct session *s) {
    memset(s->job.groups, 0, sizeof s->job.groups);
    for (uint32_t i = 0; i < PROTO_MAX_GROUPS; i++)
        s->job.groups[i].target_pages = JOB_NO_TARGET;
    s->job.take_lease = s->job.keep_pages = s->job.leave_rows = false;
}

static bool closes_politely(const struct session *s) {
    return s->end_reason == PROTO_REASON_OPERATOR && s->peer && !s->close_asked;
}

void session_close(struct broker *b, struct session *s, bool take_lease) {
    orders_clear(s);
    s->job.take_lease = take_lease;
    s->job.keep_pages = b->process_ends || closes_politely(s);
    s->job.leave_rows = b->process_ends && !take_lease; /* a step may be going on */
    session_start_job(b, s, JOB_CLOSE);
}

/* The client is in a step: it has a little time to end that. */
static void close_later(struct broker *b, struct session *s, uint64_t now) {
    session_stop_waiting(b, s);
    s->state = PROTO_SESSION_CLOSING;
    /* Or a client that does little between its steps would hardly ever be met there. */
    __atomic_store_n(&s->lease_page->closing, 1, __ATOMIC_RELAXED);
    s->end_retry = now + BROKER_CLOSE_RETRY_NS;
    b->polite++;
}

static enum scissor_error end_code(const struct session *s) {
    return s->pool->lost ? SCISSOR_EDEVICELOST : SCISSOR_ECLOSED;
}

/* The news, unless it is known. */
static void tell_closed(struct broker *b, struct session *s) {
    struct proto_closed closed = {.session = s->id, .code = end_code(s)};
    if (s->end_reason != PROTO_REASON_OPERATOR || s->told)
        return;
    s->told = true;
    send_packet(b, s->peer, PROTO_CLOSED, 0, &closed);
}

static void start_close(struct broker *b, struct session *s, uint64_t now) {
    bool take_lease = now < s->end_deadline && !s->pool->lost, waits = quarantine_needed(b, s);
    s->rows_held = 0;
    for (uint32_t h = 0; s->shown && h < s->head_count; h++)
        s->rows_held += s->shown[h].settled;
    if (s->asked.type && s->asked.type != PROTO_CLOSE)
        send_failed(b, s->peer, s->asked.number, s->id, end_code(s), "%s",
                    s->pool->lost ? "the device failed; the session is lost" : "the operator closed the session");
    if (s->asked.type == PROTO_REATTACH && s->peer) { /* to its client it is gone with that answer */
        s->peer->sessions--;
        s->peer = NULL;
    }
    s->asked.type = 0;
    if (!waits) {
        session_close(b, s, take_lease);
    } else if (take_lease && !session_lease_take(s)) {
        close_later(b, s, now);
    } else {
        session_lease_keep(s);
        quarantine_begin(b, s, now);
        tell_closed(b, s);
    }
}

void session_retry_close(struct broker *b, struct session *s, uint64_t now) {
    if (s->end_retry) {
        s->end_retry = 0;
        b->polite--;
    }
    start_close(b, s, now);
}

static bool has_released(const struct session *s) {
    if (s->pool->config.backend->revocable)
        return false;
    for (uint32_t id = s->fresh_segments; id < s->segment_capacity; id++)
        if (s->segments[id].memory && s->segments[id].state == SEGMENT_RELEASED)
            return true;
    return false;
}

static void start_shrink(struct broker *b, struct session *s, bool wanted) {
    orders_clear(s);
    if (wanted)
        limits_order(s);
    s->job.take_lease = wanted;
    session_start_job(b, s, JOB_SHRINK);
}

void session_next(struct broker *b, struct session *s, uint64_t now) {
    assert(!s->job.running);
    if (s->ending) {
        start_close(b, s, now);
        return;
    }
    if (s->state == PROTO_SESSION_WAITING)
        return;
    s->state = PROTO_SESSION_IDLE;
    if (s->asked.type)
        request_run(b, s, now);
    else if ((arbiter_wants(s) || limits_lowered(s)) && now >= s->shrink_after)
        start_shrink(b, s, true);
    else if (has_released(s))
        start_shrink(b, s, false);
}

/* ---------- ending ---------- */

void session_end(struct broker *b, struct session *s, enum proto_reason reason, uint64_t now) {
    bool was_ending = s->ending;
    if (s->state == PROTO_SESSION_QUARANTINED) {
        quarantine_look(b, s, now);
        return;
    }
    bool in_call = s->asked.type == PROTO_SETTLE; /* with anything else it may be in a step */

    s->ending = true;
    record_end(b, s, SCISSOR_ECLOSED);
    if (!was_ending || reason == PROTO_REASON_DEATH)
        s->end_reason = reason;
    /* A client that waits for its settle, that asked for this or that is no more touches no memory; and what a device
     * has spoilt nobody should go on with. */
    if (reason != PROTO_REASON_OPERATOR || in_call || job_broke(&s->job))
        s->end_deadline = 0;
    else if (!was_ending)
        s->end_deadline = now + BROKER_CLOSE_GRACE_NS;
    if (s->queued) {
        admission_leave(s);
        if (s->peer)
            admission_refuse(b, s, SCISSOR_ECLOSED, "the operator closed the session while it waited for memory");
        else /* nobody is refused, and nobody is there to hear it */
            session_free(b, s);
        return;
    }
    if (s->job.running)
        return;
    session_retry_close(b, s, now);
}

static void count_evicted(struct session *s, enum proto_reason reason, uint64_t rows) {
    s->evicted[reason] += rows;
    s->pool->evicted[reason] += rows;
}

/* All but `kept` bytes, which stay promised and charged. */
void session_return_charges(struct session *s, uint64_t kept) {
    for (uint32_t i = 0; i < s->group_count; i++)
        if (s->groups[i].account.pool) {
            pool_return(&s->groups[i].account, s->groups[i].account.charged);
            pool_leave(&s->groups[i].account);
        }
    pool_return(&s->account, s->account.charged - kept);
    if (kept && s->account.guaranteed > kept)
        pool_promise(&s->account, kept);
    if (!kept)
        pool_leave(&s->account);
    s->pool->segments -= s->segments_shown;
    s->segments_shown = 0;
}

/* The operator has closed it: what is left is two pages that its client may still look at. */
static void session_become_ended(struct broker *b, struct session *s) {
    session_drop_keep(s);
    session_remove(b, s);
    s->ended = true;
    DL_APPEND(s->peer->ended, s);
}

static void close_done(struct broker *b, struct session *s, uint64_t now) {
    struct proto_event event = {.type = PROTO_EVENT_CLOSED, .session = s->id};
    bool by_client = s->end_reason == BROKER_END_CLIENT;

    if (s->job.lease_refused) {
        if (s->end_deadline == 0) /* meanwhile somebody has made it urgent */
            start_close(b, s, now);
        else
            close_later(b, s, now);
        return;
    }
    if (!by_client && !s->pool->lost)
        count_evicted(s, s->end_reason, s->rows_held);
    event.bytes = s->account.charged;
    for (uint32_t i = 0; i < s->group_count; i++)
        event.bytes += s->groups[i].account.charged;
    event.rows = by_client ? 0 : s->rows_held;
    event.code = by_client ? SCISSOR_OK : end_code(s);
    event.reason = by_client ? 0 : s->end_reason;
    proto_text_set(event.name, sizeof event.name, s->name);
    bool stays = s->generation && s->control && s->peer && !s->close_asked;
    session_return_charges(s, stays ? session_ended_cost(s) : 0);
    if (s->generation) { /* it was open once */
        s->pool->closed++;
        send_event(b, &event);
    }

    struct proto_closed closed = {.session = s->id, .code = SCISSOR_OK};
    if (s->close_asked)
        send_packet(b, s->peer, PROTO_CLOSED, s->asked.number, &closed);
    else
        tell_closed(b, s);
    if (stays) {
        session_become_ended(b, s);
        return;
    }
    let_pages_go(b, s);
    session_free(b, s);
}

/* ---------- results ---------- */

/* What the job has measured is what is shown from now on. */
static void show_measured(struct session *s) {
    struct proto_head_stat *shown = s->shown;
    s->shown = s->shown_next;
    s->shown_next = shown;
}

static void open_done(struct broker *b, struct session *s, uint64_t now) {
    uint32_t request = s->asked.number;
    s->asked.type = 0;
    if (s->job.code < 0) {
        session_return_charges(s, 0);
        s->pool->refused++;
        send_failed(b, s->peer, request, 0, s->job.code, "%s", admission_why_not_kept(s->job.code));
        session_free(b, s);
        return;
    }
    show_measured(s);
    s->segments_shown = s->fresh_segments;
    s->pool->segments += s->fresh_segments;
    int code = s->ending ? 0 : send_opened(b, s, request);
    if (code < 0 || s->ending) {
        s->pool->refused++;
        if (code < 0)
            send_failed(b, s->peer, request, 0, code, "the session's memory could not be sent");
        else
            send_failed(b, s->peer, request, 0, end_code(s), "the %s while the session was opening",
                        s->pool->lost ? "device failed" : "operator closed it");
        s->ending = false;
        session_end(b, s, BROKER_END_CLIENT, now);
        return;
    }
    s->generation = 1;
    s->pool->opened++;
    struct proto_event event = {.type = PROTO_EVENT_OPENED, .session = s->id, .bytes = s->account.charged};
    proto_text_set(event.name, sizeof event.name, s->name);
    send_event(b, &event);
    session_next(b, s, now);
}

static void evicted_event(struct broker *b, struct session *s, enum proto_reason reason) {
    struct proto_event event = {
        .type = PROTO_EVENT_EVICTED, .session = s->id, .rows = s->job.evicted[reason], .reason = reason};
    if (event.rows == 0)
        return;
    proto_text_set(event.name, sizeof event.name, s->name);
    send_event(b, &event);
}

/* Segments that the job took from the session: the client, the counters and the event socket hear of it. */
static void tell_shrunk(struct broker *b, struct session *s) {
    if (s->job.moved_count == 0)
        return;
    uint64_t pressed = 0;
    for (uint32_t i = 0; i < s->group_count; i++)
        pressed += s->job.groups[i].reason == PROTO_REASON_PRESSURE ? s->job.groups[i].moved : 0;
    s->pool->reclaims += pressed;
    if (s->asked.type != PROTO_REATTACH) /* its answer says what there is */
        send_shrink(b, s, s->job.moved_ids, s->job.moved_count);
    if (pressed == 0)
        return;
    struct proto_event event = {
        .type = PROTO_EVENT_PRESSURE, .session = s->id, .bytes = pressed * SCISSOR_SEGMENT_BYTES};
    proto_text_set(event.name, sizeof event.name, s->name);
    send_event(b, &event);
}

static const char *why_not_settled(int code) {
    return code == SCISSOR_ENOMEM   ? "no memory to settle; nothing has changed, try again"
           : code == SCISSOR_ESTATE ? "the step's work has not ended on the device; nothing has changed"
                                    : "the device failed; the session is lost";
}

/* The settle is done, but its client cannot hear of all the memory that the session has now. On the host it connects
 * again and is told anew. On a device that is the end of this session, but not of its client's other ones. */
static void grow_unsent(struct broker *b, struct session *s, uint32_t request) {
    device_note(b, s->pool, "");
    int code = s->pool->lost ? SCISSOR_EDEVICELOST : SCISSOR_ESYSTEM;
    send_failed(b, s->peer, request, s->id, code, "the session's new memory could not be sent");
    if (s->pool->config.backend->revocable)
        peer_hang_up(b, s->peer);
    else
        s->job.code = code;
}

static void settle_done(struct broker *b, struct session *s) {
    uint32_t request = s->asked.number;
    s->asked.type = 0;
    if (s->job.code < 0) {
        s->scores_missing |= s->settle_lost; /* of the period, which has not ended */
        send_failed(b, s->peer, request, s->id, s->job.code, "%s", why_not_settled(s->job.code));
        return;
    }
    s->tokens_seen += s->job.rows;
    s->settles++;
    s->last_lost = s->settle_lost;
    s->spoilt = false;
    s->last_evicted = 0;
    for (uint32_t i = 0; i < PROTO_REASON_COUNT; i++)
        s->last_evicted += s->job.evicted[i];
    s->pool->settles++;
    tell_shrunk(b, s);
    if (s->ending && s->end_reason == PROTO_REASON_OPERATOR)
        send_failed(b, s->peer, request, s->id, SCISSOR_ECLOSED, "the operator closed the session");
    else if (send_grow(b, s, request, s->job.grown_ids, s->job.grown_count) < 0)
        grow_unsent(b, s, request);
    else {
        struct proto_settled settled = {.session = s->id,
                                        .generation = s->generation,
                                        .evicted_rows = s->last_evicted,
                                        .scores_lost = s->last_lost};
        send_packet(b, s->peer, PROTO_SETTLED, request, &settled);
    }
    evicted_event(b, s, PROTO_REASON_BUDGET);
    evicted_event(b, s, PROTO_REASON_PRESSURE);
    evicted_event(b, s, PROTO_REASON_OPERATOR);
}

static void shrink_done(struct broker *b, struct session *s, uint64_t now) {
    if (s->job.take_lease)
        s->in_steps = s->job.lease_refused;
    /* Whatever the reason is that nothing came of it, to try again at once would help nobody. */
    if (arbiter_asked(s) && s->job.moved_count == 0)
        s->shrink_after = now + BROKER_SHRINK_RETRY_NS;
    tell_shrunk(b, s);
    evicted_event(b, s, PROTO_REASON_PRESSURE);
    evicted_event(b, s, PROTO_REASON_OPERATOR);
}

/* Charges and counters of a settle or a shrink, whatever came of it. */
static void take_over(struct session *s) {
    bool worked = s->job.code == 0 && !s->job.lease_refused;
    for (uint32_t i = 0; i < s->group_count; i++) {
        struct session_group *g = &s->groups[i];
        const struct job_group *j = &s->job.groups[i];
        pool_return(&g->account, (uint64_t)(j->grant - j->grown + j->freed) * g->segment_cost);
        s->segments_shown = s->segments_shown + j->grown - j->freed;
        s->pool->segments = s->pool->segments + j->grown - j->freed;
        g->shown_pages = g->pages;
        g->shown_segments = g->segments;
        g->quarantined = g->quarantined + j->moved - j->freed;
        if (!worked)
            continue;
        g->value = j->value;
        g->shown_rows = j->rows;
        if (g->target_pages >= g->pages)
            g->target_pages = JOB_NO_TARGET;
    }
    if (s->job.changed)
        s->generation++;
    limits_apply(s);
    if (worked)
        show_measured(s);
    for (uint32_t i = 0; i < PROTO_REASON_COUNT; i++)
        count_evicted(s, i, s->job.evicted[i]);
}

/* Segments that the job took wait for the client to close them. */
static void note_release(struct session *s, uint64_t now) {
    bool left = false;
    for (uint32_t i = 0; i < s->job.moved_count; i++) {
        struct session_segment *segment = &s->segments[s->job.moved_ids[i]];
        if (segment->memory)
            segment->quarantined_ns = now;
    }
    for (uint32_t i = 0; i < s->group_count; i++)
        left |= s->groups[i].quarantined > 0;
    if (left && s->job.moved_count > 0)
        s->release_by = now + BROKER_RELEASE_NS;
    s->releasing = left && now < s->release_by;
}

void broker_job_done(struct broker *b, struct broker_job *job, uint64_t now) {
    struct session *s = job->session;
    struct pool *pool = s->pool;
    enum job_kind kind = job->kind;
    assert(job->running);

    job->running = false;
    b->session_jobs--;
    device_note(b, pool, job->why);
    if (kind == JOB_OPEN) {
        open_done(b, s, now);
    } else if (kind == JOB_CLOSE) {
        close_done(b, s, now);
    } else {
        take_over(s);
        note_release(s, now);
        b->bad_scores += job->bad_scores;
        session_apply_released(s);
        if (kind == JOB_SETTLE)
            settle_done(b, s);
        else
            shrink_done(b, s, now);
        if (job->changed && job->code == 0)
            record_state(b, s, kind == JOB_SETTLE ? job->rows : 0);
        limits_keep(s);
        job->grown_ids = scissor_free(job->grown_ids);
        job->moved_ids = scissor_free(job->moved_ids);
        if (job_broke(job) && s->keep)
            keep_spoil(s);
        if (job_broke(job))
            session_end(b, s, PROTO_REASON_OPERATOR, now);
        else
            session_next(b, s, now);
    }
    admission_pump(b, pool, now);
    growth_look(b, pool, now);
}
