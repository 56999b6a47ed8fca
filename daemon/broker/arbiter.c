/* arbiter.c - which lent memory comes back when there is none left: that whose rows matter least.
 *
 * A group's value v is the attention mass per query that its least important F rows carry, measured when it last
 * settled or shrank: what it loses with the next F rows. What it lacks already is estimated from its length, so that
 * nothing has to be kept: of t tokens it holds n, and each F rows that have gone carry an eighth of v. Predictions
 * suffer with the square of what is lacking, so F rows are worth
 *
 *     (l + v)^2 - l^2 = v^2 (1 + (t - n) / 4F)        with l = v (t - n) / 8F
 *
 * times the session's priority: more where much is lost already, and most where few rows carry all of the attention, as
 * in a young session. The unit is the same for all sessions.
 *
 * Memory is taken a segment at a time from the group with the lowest worth, which rises with each page taken, as the
 * rows that are left are the better ones. What is guaranteed is never touched. Taking means to set a target; idle
 * sessions shrink at once, others with their next settle. An operator who prefers it has memory taken from whoever was
 * used longest ago instead. */
#include <math.h>
#include <utlist.h>

#include "internal.h"

/* For a session that wants to grow, another's rows must be worth clearly less, or memory would go to and fro. */
#define CLEARLY 1.25

/* Twice what F rows that have gone carry of what the F least of those that are left do. */
#define LOST 0.25

/* What rows lose with their details, of what would be lost with the rows: a uniform code of two bits leaves an eighth
 * of a normal variable's energy as error (Max, Quantizing for Minimum Distortion, 1960). */
#define FADED 0.125

bool arbiter_asked(const struct session *s) {
    for (uint32_t i = 0; i < s->group_count; i++)
        if (s->job.groups[i].target_pages != JOB_NO_TARGET)
            return true;
    return false;
}

bool arbiter_wants(const struct session *s) {
    for (uint32_t i = 0; i < s->group_count; i++)
        if (s->groups[i].target_pages != JOB_NO_TARGET)
            return true;
    return false;
}

static uint64_t minus(uint64_t a, uint64_t b) {
    return a > b ? a - b : 0;
}

/* Committed bytes that the group gives back when it shrinks to `pages` pages per head. */
static uint64_t gives_at(const struct session_group *g, uint32_t pages) {
    if (pages == JOB_NO_TARGET)
        return 0;
    uint64_t need = session_group_segments(g, pages), lent = pool_account_lent(&g->account);
    uint64_t bytes = g->shown_segments > need ? (g->shown_segments - need) * g->segment_cost : 0;
    return bytes < lent ? bytes : lent;
}

static uint64_t will_give(const struct session_group *g) {
    return gives_at(g, g->target_pages);
}

/* Emptied already, but the client has not let go of it. */
static uint64_t quarantined(const struct session_group *g) {
    uint64_t bytes = g->quarantined * g->segment_cost, lent = pool_account_lent(&g->account);
    return bytes < lent ? bytes : lent;
}

/* What clients that have just been told to close it will release. One that has not done so in time may never do it. */
static uint64_t waits_for_release(const struct broker *b, const struct pool *pool) {
    uint64_t bytes = 0;
    const struct session *s;
    DL_FOREACH(b->sessions, s)
    for (uint32_t i = 0; s->pool == pool && s->releasing && !s->ending && i < s->group_count; i++)
        bytes += quarantined(&s->groups[i]);
    return bytes;
}

uint64_t arbiter_on_its_way(const struct broker *b, const struct pool *pool) {
    uint64_t bytes = waits_for_release(b, pool);
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
            else
                bytes += gives_at(g, s->job.groups[i].target_pages);
        }
    }
    return bytes;
}

/* A session whose settle is just being planned is not: it shrinks in that settle. */
static bool is_idle(const struct session *s) {
    return s->state == PROTO_SESSION_IDLE && !s->ending && !s->job.running && !s->asked.type;
}

/* It would likely not shrink before its next settle, or nothing would come of it for a while. */
static bool takes_its_time(const struct session *s) {
    return !is_idle(s) || s->in_steps || !s->pool->config.backend->revocable;
}

static bool can_be_asked(const struct session *s) {
    return s->state != PROTO_SESSION_OPENING && s->state != PROTO_SESSION_CLOSING && !s->ending;
}

/* Whom to take from: all that can be asked, or only those that can give at once, or only those that cannot. */
struct reach {
    const struct pool *pool;
    bool idle_only, busy_only;
    const struct session *except;
    double below; /* worth */
    uint64_t now;
};

/* Its client has not closed in time what was taken from it: to take more would bring nothing. */
static bool owes(const struct session *s) {
    bool left = false;
    for (uint32_t i = 0; i < s->group_count; i++)
        left |= s->groups[i].quarantined > 0;
    return left && !s->releasing;
}

static bool may_take(const struct session *s, const struct reach *reach) {
    if (s->pool != reach->pool || s == reach->except || owes(s))
        return false;
    if (reach->busy_only && !takes_its_time(s))
        return false;
    return reach->idle_only ? is_idle(s) && reach->now >= s->shrink_after : can_be_asked(s);
}

/* The next lower target that gives memory back, as a page less may not empty a segment; JOB_NO_TARGET: there is none.
 */
static uint32_t next_target(const struct session_group *g) {
    uint64_t now = will_give(g);
    uint32_t pages = g->target_pages == JOB_NO_TARGET ? g->shown_pages + 1 : g->target_pages;
    while (pages > g->guaranteed_pages && pages > 0)
        if (gives_at(g, --pages) > now)
            return pages;
    return JOB_NO_TARGET;
}

static double worth(const struct session *s, const struct session_group *g) {
    double lost = s->tokens_seen > g->shown_rows ? (double)(s->tokens_seen - g->shown_rows) / s->fresh_rows : 0;
    return g->value * g->value * (1 + LOST * lost) * s->priority / 100;
}

/* Whether the next segment that the group gives has details alone to lose: it took the memory because it was free
 * (growth.c). */
static bool keeps_rows(const struct session *s, const struct session_group *g) {
    uint32_t target = layout_has_details(s->storage_dtype) ? next_target(g) : JOB_NO_TARGET;
    return target != JOB_NO_TARGET && target >= layout_pages_of_rows(g->shown_rows);
}

/* The same, when what it has been told to give is gone. With BROKER_RECLAIM_LRU a session's rows are all worth the
 * same: so much that those of one that was used before go first. */
static double worth_now(const struct broker *b, const struct session *s, const struct session_group *g) {
    if (b->config.reclaim == BROKER_RECLAIM_LRU)
        return (double)s->last_ns;
    uint32_t taken = g->target_pages < g->shown_pages ? g->shown_pages - g->target_pages : 0;
    return worth(s, g) * (keeps_rows(s, g) ? FADED : 1) * (1 + taken);
}

/* The group to take from next: the one with the lowest value. */
static struct session_group *cheapest(const struct broker *b, const struct reach *reach) {
    struct session_group *best = NULL;
    double best_worth = reach->below;
    struct session *s;
    DL_FOREACH(b->sessions, s) {
        if (!may_take(s, reach))
            continue;
        for (uint32_t i = 0; i < s->group_count; i++) {
            struct session_group *g = &s->groups[i];
            double value = worth_now(b, s, g);
            if (value >= best_worth || next_target(g) == JOB_NO_TARGET)
                continue;
            best = g;
            best_worth = value;
        }
    }
    return best;
}

static void take(struct broker *b, const struct reach *reach, uint64_t bytes) {
    while (bytes) {
        struct session_group *g = cheapest(b, reach);
        if (!g)
            return;
        uint64_t before = will_give(g);
        g->target_pages = next_target(g);
        uint64_t more = will_give(g) - before;
        bytes = more < bytes ? bytes - more : 0;
    }
}

/* Starts whatever was asked for and can start. */
static void start_all(struct broker *b, const struct pool *pool, uint64_t now) {
    struct session *s, *next;
    DL_FOREACH_SAFE(b->sessions, s, next) {
        if (s->pool == pool && is_idle(s) && now >= s->shrink_after && arbiter_wants(s))
            session_next(b, s, now);
    }
}

/* Whether the session, which could not start, is tried again before its next settle. */
static bool is_retried(const struct session *s, const struct pool *pool) {
    return s->pool == pool && is_idle(s) && (limits_lowered(s) || (pool_presses(pool) && arbiter_wants(s)));
}

void arbiter_tick(struct broker *b, const struct pool *pool, uint64_t now) {
    struct session *s, *next;
    DL_FOREACH_SAFE(b->sessions, s, next) {
        if (s->pool == pool && s->releasing && now >= s->release_by)
            s->releasing = false;
        if (is_retried(s, pool) && now >= s->shrink_after)
            session_next(b, s, now);
    }
}

uint64_t arbiter_deadline(const struct broker *b, const struct pool *pool) {
    uint64_t first = UINT64_MAX;
    const struct session *s;
    DL_FOREACH(b->sessions, s) {
        if (is_retried(s, pool) && s->shrink_after < first)
            first = s->shrink_after;
        if (s->pool == pool && s->releasing && s->release_by < first)
            first = s->release_by;
    }
    return first;
}

/* What the group's job, if it has one, will give back. */
static uint64_t job_gives(const struct session *s, uint32_t group) {
    return s->job.running ? gives_at(&s->groups[group], s->job.groups[group].target_pages) : 0;
}

/* What groups have been told to give and have not given; with or without what jobs are taking now. */
static uint64_t asked_for(const struct broker *b, const struct pool *pool, bool with_jobs) {
    uint64_t bytes = 0;
    const struct session *s;
    DL_FOREACH(b->sessions, s)
    for (uint32_t i = 0; s->pool == pool && !s->ending && i < s->group_count; i++)
        bytes += minus(will_give(&s->groups[i]), with_jobs ? 0 : job_gives(s, i));
    return bytes;
}

static uint64_t can_give(const struct broker *b, const struct reach *reach) {
    uint64_t bytes = 0;
    const struct session *s;
    DL_FOREACH(b->sessions, s)
    for (uint32_t i = 0; may_take(s, reach) && i < s->group_count; i++)
        bytes += gives_at(&s->groups[i], s->groups[i].guaranteed_pages);
    return bytes;
}

void arbiter_reclaim(struct broker *b, struct pool *pool, uint64_t bytes, uint64_t now) {
    struct reach reach = {.pool = pool, .idle_only = true, .below = INFINITY, .now = now};
    /* Those who can give at once do so even if busy ones have been asked before: somebody waits. */
    if (can_give(b, &reach) < bytes) {
        reach.idle_only = false;
        bytes = minus(bytes, asked_for(b, pool, false));
    }
    take(b, &reach, bytes);
    start_all(b, pool, now);
}

/* What may be taken for a session that wants to grow: everything worth less. */
static double worth_of_growth(const struct broker *b, const struct session *s, const struct session_group *g) {
    return b->config.reclaim == BROKER_RECLAIM_LRU ? INFINITY : worth(s, g) / CLEARLY;
}

void arbiter_make_room(struct broker *b, const struct session *grower, const struct session_group *group,
                       uint64_t bytes, bool ahead, uint64_t now) {
    struct pool *pool = grower->pool;
    struct reach reach = {
        .pool = pool, .busy_only = ahead, .except = grower, .below = worth_of_growth(b, grower, group), .now = now};
    bytes = minus(bytes, waits_for_release(b, pool) + asked_for(b, pool, true));
    if (!pool->waiting)
        take(b, &reach, bytes);
    start_all(b, pool, now);
}
