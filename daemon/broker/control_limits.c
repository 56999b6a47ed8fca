/* control_limits.c - SET_POOL, SET_BUDGET, SET_PRIORITY: what is asked is checked as a whole before anything changes.
 */
#include <string.h>

#include "control_ops.h"

typedef unsigned long long ull;

static void changed(struct broker *b, uint64_t session, const char *name, uint64_t rows, uint64_t bytes) {
    struct proto_event event = {.type = PROTO_EVENT_LIMITS, .session = session, .rows = rows, .bytes = bytes};
    proto_text_set(event.name, sizeof event.name, name);
    send_event(b, &event);
}

/* ---------- a pool ---------- */

void control_set_pool(struct broker *b, const struct proto_request *r, struct control_answer *a, uint64_t now) {
    uint64_t bytes = r->value[1];
    if (r->value[0] >= b->pool_count) {
        control_fail(a, SCISSOR_EINVAL, "there is no pool %llu; they are 0 to %u", (ull)r->value[0], b->pool_count - 1);
        return;
    }
    struct pool *pool = &b->pools[r->value[0]];
    if (bytes < pool->guaranteed || bytes < BROKER_POOL_LEAST) {
        uint64_t least = pool->guaranteed > BROKER_POOL_LEAST ? pool->guaranteed : BROKER_POOL_LEAST;
        control_fail(a, SCISSOR_EINVAL,
                     "pool %s cannot have %llu bytes: %llu are guaranteed to its sessions, so %llu is the smallest "
                     "possible limit",
                     pool->config.name, (ull)bytes, (ull)pool->guaranteed, (ull)least);
        return;
    }
    if (bytes > BROKER_POOL_MOST) {
        control_fail(a, SCISSOR_EINVAL, "a pool has %llu bytes at most, not %llu", (ull)BROKER_POOL_MOST, (ull)bytes);
        return;
    }
    pool_set_target(pool, bytes);
    changed(b, 0, pool->config.name, 0, bytes);
    admission_pump(b, pool, now);
}

/* ---------- a session ---------- */

/* False, with the reason, of one that is not there yet or goes already; or that could not be written down for the
 * daemon's next process just now, as its job is writing there. */
static bool can_be_set(const struct session *s, struct control_answer *a) {
    if (s->ending)
        control_fail(a, SCISSOR_ECLOSED, "session %llu is being closed", (ull)s->id);
    else if (s->state == PROTO_SESSION_OPENING)
        control_fail(a, SCISSOR_ESTATE, "session %llu is not open yet; ask again when it is", (ull)s->id);
    else if (s->keep && s->job.running)
        control_fail(a, SCISSOR_ESTATE, "session %llu is %s just now; ask again", (ull)s->id,
                     proto_session_state_name(s->state));
    else
        return true;
    return false;
}

/* What one group gets, and whether it may. */
static bool group_budget(const struct session *s, uint32_t index, const struct proto_request *r, bool operator,
                         struct control_answer * a, struct keep_budget *rows) {
    const struct session_group *g = &s->groups[index];
    uint64_t guaranteed = r->value[0] ? r->value[0] : g->guaranteed_rows;
    uint64_t most = r->value[1] ? r->value[1] : g->max_rows;
    uint32_t least = s->fresh_rows + 16;
    if (guaranteed < least || most < least)
        control_fail(a, SCISSOR_EINVAL,
                     "group %u cannot have %llu rows: its fresh buffer takes %u, so %u is the smallest budget", index,
                     (ull)(guaranteed < least ? guaranteed : most), s->fresh_rows, least);
    else if (most > g->opened_max_rows)
        control_fail(a, SCISSOR_EINVAL,
                     "group %u cannot have %llu rows at most: it was opened with %u, which its page lists were laid "
                     "out for",
                     index, (ull)most, g->opened_max_rows);
    else if (guaranteed > most)
        control_fail(a, SCISSOR_EINVAL, "group %u: guaranteed rows (%llu) cannot be more than its most rows (%llu)",
                     index, (ull)guaranteed, (ull)most);
    else if (!operator&& guaranteed> g->opened_guaranteed_rows && guaranteed> g->guaranteed_rows)
        control_fail(a, SCISSOR_EPERM,
                     "group %u was opened with %u guaranteed rows; only root and the daemon's user may guarantee it "
                     "%llu",
                     index, g->opened_guaranteed_rows, (ull)guaranteed);
    else {
        *rows = (struct keep_budget){(uint32_t)guaranteed, (uint32_t)most};
        return true;
    }
    return false;
}

static bool all_budgets(const struct session *s, const struct proto_request *r, bool operator,
                        struct control_answer * a, struct keep_budget rows[PROTO_MAX_GROUPS]) {
    uint64_t group = r->value[2];
    if (!r->value[0] && !r->value[1]) {
        control_fail(a, SCISSOR_EINVAL, "neither guaranteed nor most rows are given");
        return false;
    }
    if (group != PROTO_ALL_GROUPS && group >= s->group_count) {
        control_fail(a, SCISSOR_EINVAL, "session %llu has no group %llu; they are 0 to %u", (ull)s->id, (ull)group,
                     s->group_count - 1);
        return false;
    }
    for (uint32_t i = 0; i < s->group_count; i++) {
        rows[i] = (struct keep_budget){s->groups[i].guaranteed_rows, s->groups[i].max_rows};
        if ((group == PROTO_ALL_GROUPS || group == i) && !group_budget(s, i, r, operator, a, &rows[i]))
            return false;
    }
    return true;
}

/* The pool cannot promise it now. What is only lent is asked back, so that it can be had in a moment. */
static void refuse_promise(struct broker *b, struct session *s, const struct keep_budget *rows, int code, uint64_t now,
                           struct control_answer *a) {
    struct pool *pool = s->pool;
    uint64_t had = 0, wants = 0;
    for (uint32_t i = 0; i < s->group_count; i++) {
        had += s->groups[i].account.guaranteed;
        wants += limits_promise(&s->groups[i], s->fresh_rows, rows[i].guaranteed_rows);
    }
    uint64_t more = wants - had;
    if (code == SCISSOR_ELIMIT) {
        control_fail(a, code, "the store for the daemon's next process has no room for the segments of %llu bytes more",
                     (ull)more);
        return;
    }
    if (code == POOL_FULL) {
        control_fail(a, SCISSOR_FULL, "%llu bytes more cannot be guaranteed: of the pool's %llu, %llu are promised",
                     (ull)more, (ull)pool->target, (ull)pool->guaranteed);
        return;
    }
    control_fail(a, SCISSOR_BUSY,
                 "%llu bytes more cannot be guaranteed just now: they are lent to other sessions, which are asked for "
                 "them, or opens wait; try again",
                 (ull)more);
    uint64_t room = pool_room(pool);
    if (!pool->waiting && more > room)
        arbiter_reclaim(b, pool, more - room, now);
}

void control_set_budget(struct broker *b, struct session *s, const struct proto_request *r, bool operator,
                        struct control_answer * a, uint64_t now) {
    struct keep_budget rows[PROTO_MAX_GROUPS];
    if (!can_be_set(s, a) || !all_budgets(s, r, operator, a, rows))
        return;
    int code = limits_set_budgets(s, rows);
    if (code) {
        refuse_promise(b, s, rows, code, now, a);
        return;
    }
    struct pool *pool = s->pool;
    uint32_t group = r->value[2] == PROTO_ALL_GROUPS ? 0 : (uint32_t)r->value[2];
    changed(b, s->id, s->name, s->groups[group].max_rows, s->guaranteed_cost);
    if (s->state == PROTO_SESSION_IDLE && !s->job.running && limits_lowered(s)) {
        s->shrink_after = 0;
        session_next(b, s, now);
    }
    admission_pump(b, pool, now); /* a smaller guarantee is room for others */
}

void control_set_priority(struct broker *b, struct session *s, const struct proto_request *r, bool operator,
                          struct control_answer * a) {
    uint64_t priority = r->value[0];
    if (!can_be_set(s, a))
        return;
    if (priority < 1 || priority > BROKER_PRIORITY_MOST)
        control_fail(a, SCISSOR_EINVAL, "a priority is 1 to %u, not %llu", BROKER_PRIORITY_MOST, (ull)priority);
    else if (!operator&& priority> s->opened_priority && priority> s->priority)
        control_fail(a, SCISSOR_EPERM,
                     "the session was opened with priority %u; only root and the daemon's user may give it %llu",
                     s->opened_priority, (ull)priority);
    else {
        limits_set_priority(s, (uint32_t)priority);
        changed(b, s->id, s->name, 0, s->guaranteed_cost);
    }
}
