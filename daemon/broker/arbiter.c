/* arbiter.c - which lent memory comes back when there is none left: that whose rows matter least.
 *
 * A group's value is the attention mass per query that its least important F rows carry, times the session's priority,
 * measured when it last settled. Memory is taken a segment at a time from the group with the lowest value, which rises
 * with each page taken, as the rows that are left are the better ones. What is guaranteed is never touched.
 * Taking means to set a target; idle sessions shrink at once, others with their next settle. */
#include <math.h>
#include <utlist.h>

#include "internal.h"

/* For a session that wants to grow, another's rows must be worth clearly less, or memory would go to and fro. */
#define CLEARLY 1.25

bool arbiter_wants(const struct session *s) {
    for (uint32_t i = 0; i < s->group_count; i++)
        if (s->groups[i].target_pages != JOB_NO_TARGET)
            return true;
    return false;
}

/* Committed bytes of the group when it is down to `pages` pages per head. */
static uint64_t committed_at(const struct session_group *g, uint32_t pages) {
    if (pages == JOB_NO_TARGET)
        return pool_account_committed(&g->account);
    uint64_t bytes = session_group_segments(g, pages) * g->segment_cost;
    uint64_t floor = bytes > g->account.guaranteed ? bytes : g->account.guaranteed;
    uint64_t now = pool_account_committed(&g->account);
    return floor < now ? floor : now;
}

static uint64_t will_give(const struct session_group *g) {
    return pool_account_committed(&g->account) - committed_at(g, g->target_pages);
}

uint64_t arbiter_on_its_way(const struct broker *b, const struct pool *pool) {
    uint64_t bytes = 0;
    const struct session *s;
    DL_FOREACH(b->sessions, s) {
        if (s->pool != pool || !s->job.running || s->job.kind == JOB_OPEN)
            continue;
        if (s->ending && !(s->job.kind == JOB_CLOSE && s->job.take_lease))
            bytes += pool_account_committed(&s->account);
        for (uint32_t i = 0; i < s->group_count; i++) {
            const struct session_group *g = &s->groups[i];
            if (s->ending && !(s->job.kind == JOB_CLOSE && s->job.take_lease))
                bytes += pool_account_committed(&g->account);
            else if (s->job.groups[i].target_pages != JOB_NO_TARGET)
                bytes += pool_account_committed(&g->account) - committed_at(g, s->job.groups[i].target_pages);
        }
    }
    return bytes;
}

static bool can_shrink_now(const struct session *s) {
    return s->state == PROTO_SESSION_IDLE && !s->ending && !s->job.running && !s->shrink_later;
}

static bool can_be_asked(const struct session *s) {
    return s->state != PROTO_SESSION_OPENING && s->state != PROTO_SESSION_CLOSING && !s->ending;
}

static bool may_take(const struct session *s, const struct pool *pool, bool idle_only) {
    return s->pool == pool && (idle_only ? can_shrink_now(s) : can_be_asked(s));
}

/* The next lower target that gives memory back, as a page less may not empty a segment; JOB_NO_TARGET: there is none. */
static uint32_t next_target(const struct session_group *g) {
    uint64_t now = committed_at(g, g->target_pages);
    uint32_t pages = g->target_pages == JOB_NO_TARGET ? g->shown_pages + 1 : g->target_pages;
    while (pages > g->guaranteed_pages && pages > 0)
        if (committed_at(g, --pages) < now)
            return pages;
    return JOB_NO_TARGET;
}

static double value_now(const struct session_group *g) {
    uint32_t taken = g->target_pages < g->shown_pages ? g->shown_pages - g->target_pages : 0;
    return g->value * (1 + taken);
}

/* The group to take from next: of those below `below` the one with the lowest value. */
static struct session_group *cheapest(const struct broker *b, const struct pool *pool, bool idle_only,
                                      const struct session *except, double below) {
    struct session_group *best = NULL;
    struct session *s;
    DL_FOREACH(b->sessions, s) {
        if (s == except || !may_take(s, pool, idle_only))
            continue;
        for (uint32_t i = 0; i < s->group_count; i++) {
            struct session_group *g = &s->groups[i];
            double value = value_now(g);
            if (value < below && (!best || value < value_now(best)) && next_target(g) != JOB_NO_TARGET)
                best = g;
        }
    }
    return best;
}

static void take(struct broker *b, struct pool *pool, uint64_t bytes, bool idle_only, const struct session *except,
                 double below) {
    while (bytes) {
        struct session_group *g = cheapest(b, pool, idle_only, except, below);
        if (!g)
            return;
        uint64_t before = will_give(g);
        g->target_pages = next_target(g);
        uint64_t more = will_give(g) - before;
        bytes = more < bytes ? bytes - more : 0;
    }
}

static void start_idle(struct broker *b, const struct pool *pool, uint64_t now) {
    struct session *s, *next;
    DL_FOREACH_SAFE(b->sessions, s, next) {
        if (s->pool == pool && can_shrink_now(s) && arbiter_wants(s))
            session_next(b, s, now);
    }
}

/* What has been asked for already and has not come back. */
static uint64_t asked_for(const struct broker *b, const struct pool *pool) {
    uint64_t bytes = 0;
    const struct session *s;
    DL_FOREACH(b->sessions, s) {
        if (s->pool != pool || s->ending)
            continue;
        for (uint32_t i = 0; i < s->group_count; i++)
            bytes += will_give(&s->groups[i]);
    }
    return bytes;
}

static uint64_t lent_by_idle(const struct broker *b, const struct pool *pool) {
    uint64_t bytes = 0;
    const struct session *s;
    DL_FOREACH(b->sessions, s) {
        if (!may_take(s, pool, true))
            continue;
        for (uint32_t i = 0; i < s->group_count; i++)
            bytes += pool_account_lent(&s->groups[i].account);
    }
    return bytes;
}

void arbiter_reclaim(struct broker *b, struct pool *pool, uint64_t bytes, uint64_t now) {
    if (lent_by_idle(b, pool) >= bytes) {
        take(b, pool, bytes, true, NULL, INFINITY);
    } else {
        uint64_t asked = asked_for(b, pool);
        if (asked < bytes)
            take(b, pool, bytes - asked, false, NULL, INFINITY);
    }
    start_idle(b, pool, now);
}

void arbiter_make_room(struct broker *b, const struct session *grower, const struct session_group *group,
                       uint64_t bytes, uint64_t now) {
    struct pool *pool = grower->pool;
    uint64_t asked = asked_for(b, pool);
    if (asked < bytes && !pool->waiting)
        take(b, pool, bytes - asked, false, grower, group->value / CLEARLY);
    start_idle(b, pool, now);
}
