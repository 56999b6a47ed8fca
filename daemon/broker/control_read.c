/* control_read.c - what scissorctl reads: pools, sessions, heads. */
#include <string.h>
#include <utlist.h>

#include "control_ops.h"

void broker_pool_stat(const struct broker *b, uint32_t index, uint64_t now, struct proto_pool_stat *ret) {
    const struct pool *pool = &b->pools[index];
    *ret = (struct proto_pool_stat){
        .limit_bytes = pool->limit,
        .target_bytes = pool->target,
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
        .sessions = pool->sessions - pool->waiting - pool->quarantined,
        .waiting = pool->waiting,
        .draining = b->draining,
        .stored = b->keeper.stored,
        .stored_max = b->keeper.store ? b->keeper.store->max : 0,
        .taken_over = b->taken_over,
        .lost = b->lost,
        .orphans = b->orphans,
        .denied = b->denied,
        .quarantined_bytes = pool->quarantined_bytes,
        .quarantined = pool->quarantined,
        .device_lost = pool->lost,
        .version_major_minor = PROTO_VERSION_MAJOR << 16 | PROTO_VERSION_MINOR,
    };
    memcpy(ret->evicted, pool->evicted, sizeof ret->evicted);
    memcpy(ret->frames, b->frames, sizeof ret->frames);
    proto_text_set(ret->name, sizeof ret->name, pool->config.name);
    proto_text_set(ret->device, sizeof ret->device, pool->config.backend->device);
    proto_text_set(ret->version, sizeof ret->version, SCISSOR_VERSION);
}

static void stat_pools(struct broker *b, const struct proto_request *r, struct control_answer *a, uint64_t now) {
    struct proto_pool_stat *stat = control_entries(a, r, b->pool_count);
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
        .lowest_mass = -1,
        .orphan = s->orphan,
        .idle_ns = now > s->last_ns ? now - s->last_ns : 0,
        .quarantine_s =
            s->quarantined_ns && now > s->quarantined_ns ? (uint32_t)((now - s->quarantined_ns) / 1000000000u) : 0,
        .age_ns = now > s->opened_ns ? now - s->opened_ns : 0,
    };
    memcpy(ret->name, s->name, sizeof ret->name);
    memcpy(ret->evicted, s->evicted, sizeof ret->evicted);
    proto_text_set(ret->policy, sizeof ret->policy, g->policy.class->name);
    for (uint32_t i = 0; i < s->group_count; i++) {
        ret->charged_bytes += s->groups[i].account.charged;
        bool gathered = s->groups[i].planes & PROTO_PLANE_MASS;
        if (gathered && (ret->lowest_mass < 0 || s->groups[i].value < ret->lowest_mass))
            ret->lowest_mass = s->groups[i].value;
    }
    if (!session_shows_heads(s))
        return;
    ret->settled_min = UINT32_MAX;
    for (uint32_t h = 0; h < s->head_count; h++) {
        ret->settled_min = s->shown[h].settled < ret->settled_min ? s->shown[h].settled : ret->settled_min;
        ret->settled_max = s->shown[h].settled > ret->settled_max ? s->shown[h].settled : ret->settled_max;
    }
}

static void stat_sessions(struct broker *b, const struct proto_request *r, struct control_answer *a, uint64_t now) {
    struct proto_session_stat *stat = control_entries(a, r, b->session_count);
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

static void group_stat(const struct session *s, uint32_t index, struct proto_group_stat *ret) {
    const struct session_group *g = &s->groups[index];
    *ret = (struct proto_group_stat){.session = s->id,
                                     .group = index,
                                     .first_layer = g->first_layer,
                                     .layers = g->layers,
                                     .kv_heads = g->kv_heads,
                                     .guaranteed_rows = g->guaranteed_rows,
                                     .max_rows = g->max_rows};
    proto_text_set(ret->policy, sizeof ret->policy, g->policy.class->name);
}

/* Of session `id`, or of all if that is 0. */
static void stat_groups(const struct broker *b, const struct proto_request *r, struct control_answer *a) {
    const struct session *s;
    uint32_t total = 0, at = 0;
    if (r->session && !session_find(b, r->session)) {
        control_fail(a, SCISSOR_ENOSESSION, "there is no such session");
        return;
    }
    DL_FOREACH(b->sessions, s)
    total += !r->session || s->id == r->session ? s->group_count : 0;
    struct proto_group_stat *stat = control_entries(a, r, total);
    if (!stat)
        return;
    DL_FOREACH(b->sessions, s)
    for (uint32_t i = 0; (!r->session || s->id == r->session) && i < s->group_count; i++, at++)
        if (at - a->head.first < a->head.count)
            group_stat(s, i, &stat[at - a->head.first]);
}

static void stat_heads(struct broker *b, const struct proto_request *r, struct control_answer *a) {
    const struct session *s = session_find(b, r->session);
    if (!s) {
        control_fail(a, SCISSOR_ENOSESSION, "there is no such session");
        return;
    }
    if (!session_shows_heads(s))
        return;
    struct proto_head_stat *stat = control_entries(a, r, s->head_count);
    if (stat)
        memcpy(stat, s->shown + a->head.first, a->bytes);
}

void control_read(struct broker *b, const struct proto_request *r, struct control_answer *a, uint64_t now) {
    switch (r->op) {
    case PROTO_OP_STAT:
        stat_pools(b, r, a, now);
        break;
    case PROTO_OP_SESSIONS:
        stat_sessions(b, r, a, now);
        break;
    case PROTO_OP_SESSION:
        stat_heads(b, r, a);
        break;
    case PROTO_OP_GROUPS:
        stat_groups(b, r, a);
        break;
    case PROTO_OP_MEMORY:
        control_memory(b, r, a);
        break;
    case PROTO_OP_POSITIONS:
        control_positions(b, r, a);
        break;
    case PROTO_OP_CONFIG:
        control_config(b, r, a);
        break;
    case PROTO_OP_POLICIES:
        control_policies(b, r, a);
        break;
    default:
        control_fail(a, SCISSOR_EPROTO, "this daemon does not answer %s", proto_op_name(r->op));
    }
}
