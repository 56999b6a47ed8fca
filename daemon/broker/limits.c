/* limits.c - budgets and priorities that are set while a session is open: what is asked is checked in control_limits.c.
 *
 * The promise and what is shown change at once, as they are the broker's own. The maximum is also read by the session's
 * job, so it is taken over when none runs: at once, or when the one that runs is done. If the session holds more than a
 * new maximum, its next job evicts: a shrink, as soon as the client is in no step, or its settle. */
#include <assert.h>
#include <string.h>

#include "internal.h"

/* Whether the group has pages or rows beyond its maximum. */
static bool holds_more(const struct session *s, const struct session_group *g) {
    if (g->pages > layout_pages_of_rows(g->max_settled))
        return true;
    for (uint32_t h = g->first_head; h < g->first_head + g->heads; h++)
        if (s->heads[h].history.settled > g->max_settled)
            return true;
    return false;
}

/* Room in the store for the guaranteed segments of all groups: what was promised meanwhile, or less. */
static void apply_room(struct session *s) {
    bool differs = s->keep_extra != 0;
    for (uint32_t i = 0; i < s->group_count; i++) {
        differs |= s->groups[i].promised_pages != s->groups[i].guaranteed_pages;
        s->groups[i].promised_pages = s->groups[i].guaranteed_pages;
    }
    if (!s->keep || !differs)
        return;
    s->keep->room += s->keep_extra;
    s->keep_extra = 0;
    keep_trim(s);
}

void limits_apply(struct session *s) {
    for (uint32_t i = 0; i < s->group_count; i++) {
        struct session_group *g = &s->groups[i];
        g->max_settled = g->max_rows - s->fresh_rows;
        g->policy.budget_rows = g->max_settled;
        g->lowered = holds_more(s, g);
    }
    apply_room(s);
}

bool limits_lowered(const struct session *s) {
    for (uint32_t i = 0; i < s->group_count; i++)
        if (s->groups[i].lowered)
            return true;
    return false;
}

void limits_order(struct session *s) {
    for (uint32_t i = 0; i < s->group_count; i++) {
        const struct session_group *g = &s->groups[i];
        struct job_group *orders = &s->job.groups[i];
        uint32_t most = g->lowered ? layout_pages_of_rows(g->max_settled) : JOB_NO_TARGET;
        bool pressed = g->target_pages < most;
        if (most > g->pages && most != JOB_NO_TARGET)
            most = g->pages; /* rows have to go, if not pages */
        orders->target_pages = pressed ? g->target_pages : most;
        orders->reason = pressed ? PROTO_REASON_PRESSURE : PROTO_REASON_OPERATOR;
    }
}

uint64_t limits_promise(const struct session_group *g, uint32_t fresh_rows, uint32_t guaranteed_rows) {
    return session_group_segments(g, layout_pages_of_rows(guaranteed_rows - fresh_rows)) * g->segment_cost;
}

/* The daemon's next process is to know, by a snapshot. A session that is kept has no job now, which would be writing
 * there; if there is no memory for it, it is tried again when the next job is done. */
static void limits_changed(struct session *s) {
    assert(!s->keep || !s->job.running);
    s->keep_limits = true;
    limits_keep(s);
}

/* Whether the pool can make all promises of `rows` together: pool_ask_promise()'s answer. */
static int ask_promises(const struct session *s, const struct keep_budget *rows) {
    uint64_t guaranteed = s->pool->guaranteed, committed = s->pool->committed;
    for (uint32_t i = 0; i < s->group_count; i++) {
        const struct pool_account *had = &s->groups[i].account;
        struct pool_account gets = *had;
        gets.guaranteed = limits_promise(&s->groups[i], s->fresh_rows, rows[i].guaranteed_rows);
        guaranteed = guaranteed - had->guaranteed + gets.guaranteed;
        committed = committed - pool_account_committed(had) + pool_account_committed(&gets);
    }
    return pool_ask_promise(s->pool, guaranteed, committed);
}

/* A segment that is guaranteed is a descriptor that the store must have room for. */
static int promise_room(struct session *s, const struct keep_budget *rows) {
    uint64_t more = 0;
    for (uint32_t i = 0; s->keep && i < s->group_count; i++) {
        const struct session_group *g = &s->groups[i];
        uint64_t had = g->account.guaranteed, gets = limits_promise(g, s->fresh_rows, rows[i].guaranteed_rows);
        more += gets > had ? (gets - had) / g->segment_cost : 0;
    }
    int code = more ? keeper_promise(s->keep->keeper, more, false) : 0;
    if (code == 0)
        s->keep_extra += (uint32_t)more;
    return code;
}

int limits_set_budgets(struct session *s, const struct keep_budget *rows) {
    int code = ask_promises(s, rows);
    if (code == 0)
        code = promise_room(s, rows);
    if (code)
        return code;
    s->guaranteed_cost = s->base_cost;
    for (uint32_t i = 0; i < s->group_count; i++) {
        struct session_group *g = &s->groups[i];
        pool_promise(&g->account, limits_promise(g, s->fresh_rows, rows[i].guaranteed_rows));
        s->guaranteed_cost += g->account.guaranteed;
        g->guaranteed_rows = rows[i].guaranteed_rows;
        g->max_rows = rows[i].max_rows;
        g->guaranteed_pages = layout_pages_of_rows(g->guaranteed_rows - s->fresh_rows);
        if (g->target_pages < g->guaranteed_pages)
            g->target_pages = g->guaranteed_pages;
        if (g->target_pages >= g->shown_pages)
            g->target_pages = JOB_NO_TARGET;
    }
    if (!s->job.running)
        limits_apply(s);
    limits_changed(s);
    return 0;
}

void limits_set_priority(struct session *s, uint32_t priority) {
    s->priority = priority;
    limits_changed(s);
}

void limits_keep(struct session *s) {
    struct keep_counts counts = session_counts(s);
    if (s->keep && s->keep_limits && !s->keep->spoilt && !s->job.running && keep_renew(s, &counts) == 0)
        s->keep_limits = false;
}
