/* control_ops.c - what scissorctl asks: pools, sessions, heads; closing a session, draining.
 *
 * Reading is free. What changes something needs the admin key, or the token of the session that it is about; and since
 * a tool's socket repeats a request whose answer was slow, the last answers are kept by request id, so that nothing is
 * done twice. */
#include <stdio.h>
#include <string.h>
#include <utlist.h>

#include "alloc.h"
#include "internal.h"

struct answer {
    struct proto_answer head;
    void *entries; /* allocated; NULL: none */
    size_t bytes;
};

static void answer_fail(struct answer *a, int code, const char *why) {
    a->head.code = code;
    proto_text_set(a->head.text, sizeof a->head.text, why);
}

/* Room for the entries from `first` on, as many as an answer holds. NULL if there are none or no memory. */
static void *answer_entries(struct answer *a, const struct proto_request *r, uint32_t total) {
    size_t entry = proto_control_entry_bytes(r->op);
    uint32_t most = (uint32_t)((PROTO_ANSWER_MAX - sizeof a->head) / entry);
    uint32_t first = r->first < total ? r->first : total;
    uint32_t count = total - first < most ? total - first : most;
    a->head.first = first;
    a->head.total = total;
    if (count == 0)
        return NULL;
    a->entries = scissor_calloc(count, entry);
    if (!a->entries) {
        a->head.first = a->head.total = 0;
        answer_fail(a, SCISSOR_ENOMEM, "the daemon has no memory for the answer");
        return NULL;
    }
    a->head.count = count;
    a->bytes = count * entry;
    return a->entries;
}

static void answer_send(struct broker *b, struct answer *a, uint64_t cookie) {
    struct action *action = action_new(BROKER_ACTION_ANSWER, sizeof a->head + a->bytes, 0);
    if (!action && !b->spare_answer.queued) {
        action = &b->spare_answer;
        *action = (struct action){
            .type = BROKER_ACTION_ANSWER, .embedded = true, .bytes = &b->spare_bytes, .size = sizeof b->spare_bytes};
        a->bytes = 0;
        a->head.count = a->head.first = a->head.total = 0;
        if (a->head.code == 0 && !proto_control_changes(a->head.op))
            answer_fail(a, SCISSOR_ENOMEM, "the daemon has no memory for the answer");
    }
    if (action) {
        memcpy(action->bytes, &a->head, sizeof a->head);
        if (a->bytes)
            memcpy((char *)action->bytes + sizeof a->head, a->entries, a->bytes);
        action->cookie = cookie;
        action->queued = true;
        DL_APPEND(b->actions, action);
    }
    scissor_free(a->entries); /* without an action the tool asks again */
}

/* ---------- reading ---------- */

void broker_pool_stat(const struct broker *b, uint32_t index, uint64_t now, struct proto_pool_stat *ret) {
    const struct pool *pool = &b->pools[index];
    *ret = (struct proto_pool_stat){
        .limit_bytes = pool->config.limit_bytes,
        .charged_bytes = pool->charged,
        .peak_bytes = pool->peak,
        .guaranteed_bytes = pool->guaranteed,
        .lent_bytes = pool->committed - pool->guaranteed,
        .segments = pool->segments,
        .reclaims = pool->reclaims,
        .bad_scores = b->bad_scores,
        .settles = pool->settles,
        .scores_lost = pool->scores_lost,
        .opened = pool->opened,
        .closed = pool->closed,
        .refused = pool->refused,
        .front_restarts = b->front_restarts,
        .uptime_ns = b->started_ns && now > b->started_ns ? now - b->started_ns : 0,
        .sessions = pool->sessions - pool->waiting,
        .waiting = pool->waiting,
        .draining = b->draining,
        .version_major_minor = PROTO_VERSION_MAJOR << 16 | PROTO_VERSION_MINOR,
    };
    memcpy(ret->evicted, pool->evicted, sizeof ret->evicted);
    memcpy(ret->frames, b->frames, sizeof ret->frames);
    proto_text_set(ret->name, sizeof ret->name, pool->config.name);
    proto_text_set(ret->version, sizeof ret->version, SCISSOR_VERSION);
}

static void stat_pools(struct broker *b, const struct proto_request *r, struct answer *a, uint64_t now) {
    struct proto_pool_stat *stat = answer_entries(a, r, b->pool_count);
    for (uint32_t i = 0; stat && i < a->head.count; i++)
        broker_pool_stat(b, a->head.first + i, now, &stat[i]);
}

/* What the client says of its fresh rows; believed no further than to show it. */
static uint32_t fresh_count(const struct session *s) {
    if (s->state == PROTO_SESSION_OPENING || s->state == PROTO_SESSION_CLOSING)
        return 0;
    uint32_t count = __atomic_load_n(&s->lease_page->fresh_count, __ATOMIC_RELAXED);
    return count < s->fresh_rows ? count : s->fresh_rows;
}

static void session_stat(const struct session *s, uint64_t now, struct proto_session_stat *ret) {
    const struct session_group *g = &s->groups[0];
    *ret = (struct proto_session_stat){
        .session = s->id,
        .pid = s->pid,
        .uid = s->uid,
        .pool = s->pool->index,
        .priority = s->priority,
        .state = s->state,
        .groups = s->group_count,
        .layers = s->layer_count,
        .heads = s->head_count,
        .fresh_rows = s->fresh_rows,
        .fresh_count = fresh_count(s),
        .guaranteed_rows = g->guaranteed_rows,
        .max_rows = g->max_rows,
        .compute_dtype = s->compute_dtype,
        .storage_dtype = s->storage_dtype,
        .charged_bytes = s->account.charged,
        .guaranteed_bytes = s->guaranteed_cost,
        .tokens_seen = s->tokens_seen,
        .settles = s->settles,
        .scores_lost = s->scores_lost,
        .idle_ns = now > s->last_ns ? now - s->last_ns : 0,
    };
    memcpy(ret->name, s->name, sizeof ret->name);
    memcpy(ret->evicted, s->evicted, sizeof ret->evicted);
    proto_text_set(ret->policy, sizeof ret->policy, g->policy.class->name);
    for (uint32_t i = 0; i < s->group_count; i++) {
        ret->charged_bytes += s->groups[i].account.charged;
        if (i == 0 || s->groups[i].value < ret->lowest_mass)
            ret->lowest_mass = s->groups[i].value;
    }
    if (s->state == PROTO_SESSION_OPENING || s->state == PROTO_SESSION_CLOSING)
        return; /* there is nothing to show of its heads */
    ret->settled_min = UINT32_MAX;
    for (uint32_t h = 0; h < s->head_count; h++) {
        ret->settled_min = s->shown[h].settled < ret->settled_min ? s->shown[h].settled : ret->settled_min;
        ret->settled_max = s->shown[h].settled > ret->settled_max ? s->shown[h].settled : ret->settled_max;
    }
}

static void stat_sessions(struct broker *b, const struct proto_request *r, struct answer *a, uint64_t now) {
    struct proto_session_stat *stat = answer_entries(a, r, b->session_count);
    uint32_t i = 0;
    const struct session *s;
    if (!stat)
        return;
    DL_FOREACH(b->sessions, s) {
        if (i >= a->head.first && i - a->head.first < a->head.count)
            session_stat(s, now, &stat[i - a->head.first]);
        i++;
    }
}

static void stat_heads(struct broker *b, const struct proto_request *r, struct answer *a) {
    const struct session *s = session_find(b, r->session);
    if (!s) {
        answer_fail(a, SCISSOR_ENOSESSION, "there is no such session");
        return;
    }
    if (s->state == PROTO_SESSION_OPENING || s->state == PROTO_SESSION_CLOSING)
        return;
    struct proto_head_stat *stat = answer_entries(a, r, s->head_count);
    if (stat)
        memcpy(stat, s->shown + a->head.first, a->bytes);
}

/* ---------- changing ---------- */

static bool allowed(const struct broker *b, const struct proto_request *r) {
    static const uint8_t no_key[PROTO_TOKEN_BYTES];
    if (proto_token_equal(b->config.admin_key, r->token))
        return !proto_token_equal(b->config.admin_key, no_key); /* zeros: there is no key that opens */
    const struct session *s = session_find(b, r->session);
    return r->op == PROTO_OP_CLOSE_SESSION && s && proto_token_equal(s->token, r->token);
}

static void change(struct broker *b, const struct proto_request *r, struct answer *a, uint64_t now) {
    if (r->op == PROTO_OP_DRAIN) {
        broker_drain(b, now);
        return;
    }
    if (r->op != PROTO_OP_CLOSE_SESSION) {
        answer_fail(a, SCISSOR_EPROTO, "this daemon does not change that");
        return;
    }
    struct session *s = session_find(b, r->session);
    if (!s) {
        answer_fail(a, SCISSOR_ENOSESSION, "there is no such session");
    } else if (!s->ending) {
        struct pool *pool = s->pool;
        session_end(b, s, PROTO_REASON_OPERATOR, now);
        admission_pump(b, pool, now); /* it may have stood at the head of the queue */
    }
}

/* An earlier request with the same id, from somebody who knew the same secret. */
static const struct broker_remembered *recall(const struct broker *b, const struct proto_request *r) {
    for (uint32_t i = 0; r->id && i < BROKER_REMEMBERED; i++) {
        const struct broker_remembered *known = &b->remembered[i];
        if (known->request.id == r->id && known->request.op == r->op && known->request.session == r->session &&
            proto_token_equal(known->request.token, r->token))
            return known;
    }
    return NULL;
}

static void change_once(struct broker *b, const struct proto_request *r, struct answer *a, uint64_t now) {
    const struct broker_remembered *known = recall(b, r);
    if (known) {
        a->head = known->answer;
        return;
    }
    if (!allowed(b, r)) {
        answer_fail(a, SCISSOR_EPERM, "this needs the daemon's admin key or the session's token");
        return;
    }
    change(b, r, a, now);
    b->remembered[b->remembered_next] = (struct broker_remembered){*r, a->head};
    b->remembered_next = (b->remembered_next + 1) % BROKER_REMEMBERED;
}

void broker_control(struct broker *b, const void *request, size_t size, uint64_t cookie, uint64_t now) {
    struct answer a = {.head = {.magic = PROTO_ANSWER_MAGIC, .epoch = b->epoch}};
    struct proto_request r;
    const char *why;

    if (size == sizeof r) {
        memcpy(&r, request, sizeof r);
        a.head.op = r.op;
    }
    int code = proto_request_check(request, size, &why);
    if (code < 0)
        answer_fail(&a, code, why);
    else if (proto_control_changes(r.op))
        change_once(b, &r, &a, now);
    else if (r.op == PROTO_OP_STAT)
        stat_pools(b, &r, &a, now);
    else if (r.op == PROTO_OP_SESSIONS)
        stat_sessions(b, &r, &a, now);
    else if (r.op == PROTO_OP_SESSION)
        stat_heads(b, &r, &a);
    else
        answer_fail(&a, SCISSOR_EPROTO, "this daemon does not tell that");
    answer_send(b, &a, cookie);
}
