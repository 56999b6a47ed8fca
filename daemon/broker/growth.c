/* growth.c - memory for a settle: what a session takes, and when it waits for what others give.
 *
 * A settle that finds no room asks the arbiter, and waits while those who can give at once do so: a job of theirs,
 * which takes milliseconds. Otherwise a session would evict its own rows where others' matter less; and one that
 * settles seldom would never grow, as whoever settles first takes what was freed for it. Who is in a step when asked
 * gives no earlier than with its own settle, which may be long. Nobody waits for that: such sessions are asked a settle
 * ahead, as are all whose memory the backend cannot take away. A wait ends with the last job that gives, and after
 * WAIT_NS in any case: while others go on opening and closing there may be no last one. */
#include <utlist.h>

#include "internal.h"

#define WAIT_NS 50000000ull

static uint32_t pages_for(const struct session_group *g, uint64_t rows) {
    return layout_pages_of_rows(rows < g->max_settled ? (uint32_t)rows : g->max_settled);
}

/* Pages that give each of so many rows a detail slot, as far as the budget goes; where there are no details, pages that
 * hold them. A row that has lost its detail does not get it back, so none loses it while there is memory; but nobody is
 * asked to give memory for that. */
static uint32_t pages_in_full(const struct session *s, const struct session_group *g, uint64_t rows) {
    uint64_t pages = (rows + LAYOUT_PAGE_DETAILS - 1) / LAYOUT_PAGE_DETAILS, most = pages_for(g, g->max_settled);
    return !layout_has_details(s->storage_dtype) ? pages_for(g, rows) : pages < most ? (uint32_t)pages : (uint32_t)most;
}

/* Settled rows of the head that has most. */
static uint32_t most_settled(const struct session *s, const struct session_group *g) {
    uint32_t most = 0;
    for (uint32_t h = g->first_head; h < g->first_head + g->heads; h++)
        if (s->heads[h].history.settled > most)
            most = s->heads[h].history.settled;
    return most;
}

/* Bytes that the pool lacks for a group with `segments` to take `rows` more rows per head. */
static uint64_t missing_for(const struct session *s, const struct session_group *g, uint64_t segments, uint64_t rows) {
    uint64_t need = session_group_segments(g, pages_for(g, most_settled(s, g) + rows)) * g->segment_cost;
    uint64_t have = segments * g->segment_cost, room = pool_room(s->pool);
    have = have > g->account.guaranteed ? have : g->account.guaranteed;
    return need > have && need - have > room ? need - have - room : 0;
}

/* What the settle that was asked for lacks; nothing if the group is to shrink. */
static uint64_t missing_now(const struct session *s, const struct session_group *g) {
    return g->target_pages <= g->pages || g->lowered ? 0 : missing_for(s, g, g->segments, s->asked.settle.rows);
}

static bool lacks_room(const struct session *s) {
    for (uint32_t i = 0; i < s->group_count; i++)
        if (missing_now(s, &s->groups[i]))
            return true;
    return false;
}

/* Asks others for what is missing. True if some of it is on its way. */
static bool ask_for_room(struct broker *b, struct session *s, uint64_t now) {
    if (s->pool->waiting || !s->pool->config.backend->revocable)
        return false;
    for (uint32_t i = 0; i < s->group_count; i++) {
        uint64_t bytes = missing_now(s, &s->groups[i]);
        if (bytes)
            arbiter_make_room(b, s, &s->groups[i], bytes, false, now);
    }
    return lacks_room(s) && arbiter_on_its_way(b, s->pool) > 0;
}

bool growth_wait(struct broker *b, struct session *s, uint64_t now) {
    if (!ask_for_room(b, s, now))
        return false;
    s->state = PROTO_SESSION_WAITING;
    s->waits_for_room = true;
    s->deadline = now + WAIT_NS;
    DL_APPEND2(b->growing, s, queue_prev, queue_next);
    return true;
}

void growth_look(struct broker *b, const struct pool *pool, uint64_t now) {
    struct session *s, *next;
    DL_FOREACH_SAFE2(b->growing, s, next, queue_next) {
        if (s->pool == pool && (!lacks_room(s) || !ask_for_room(b, s, now)))
            settle_run(b, s, now);
    }
}

void growth_tick(struct broker *b, uint64_t now) {
    while (b->growing && b->growing->deadline <= now)
        settle_run(b, b->growing, now);
}

/* Charges what the group needs to take the settle's rows, as much of it as there is. */
void growth_plan(struct broker *b, struct session *s, uint32_t index, uint64_t now) {
    struct session_group *g = &s->groups[index];
    struct job_group *orders = &s->job.groups[index];

    orders->want_pages = g->pages;
    if (orders->target_pages <= g->pages) { /* it is to shrink, not to grow */
        orders->want_pages = orders->target_pages;
        return;
    }
    for (uint32_t pages = pages_in_full(s, g, most_settled(s, g) + s->job.rows); pages > g->pages; pages--) {
        uint64_t need = session_group_segments(g, pages);
        uint32_t grant = need > g->segments ? (uint32_t)(need - g->segments) : 0;
        if (pool_charge(&g->account, grant * g->segment_cost) == 0) {
            orders->want_pages = pages;
            orders->grant = grant;
            break;
        }
    }
    uint64_t next = missing_for(s, g, g->segments + orders->grant, s->job.rows + s->fresh_rows);
    if (next)
        arbiter_make_room(b, s, g, next, true, now);
}
