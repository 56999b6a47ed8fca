/* control_memory.c - MEMORY: what each session's charge is made of.
 *
 * Nothing here touches what belongs to a running job: the parts are counted from what the broker's thread charged and
 * from what the last job showed. Memory that a job allocates, empties or frees just now changes its part when the job
 * is done; until then it counts as before, so that the parts are the charge at any moment. */
#include <string.h>
#include <utlist.h>

#include "control_ops.h"

static uint32_t saturated(uint64_t n) {
    return n < UINT32_MAX ? (uint32_t)n : UINT32_MAX;
}

/* Nothing of it can be used any more. */
static void all_quarantined(struct proto_memory_stat *m) {
    m->quarantined_bytes += m->fresh_bytes + m->used_bytes + m->free_bytes;
    m->fresh_bytes = m->used_bytes = m->free_bytes = 0;
}

static void add_group(const struct session *s, const struct session_group *g, struct proto_memory_stat *ret) {
    uint64_t charged = g->account.charged / g->segment_cost; /* segments */
    uint64_t active = g->shown_segments, leaving = g->quarantined;
    uint64_t used = (uint64_t)g->shown_pages * g->heads * g->page_bytes;

    ret->charged_bytes += g->account.charged;
    ret->used_bytes += used;
    ret->free_bytes += active * SCISSOR_SEGMENT_BYTES - used;
    ret->quarantined_bytes += leaving * SCISSOR_SEGMENT_BYTES;
    ret->granted_bytes += (charged - active - leaving) * SCISSOR_SEGMENT_BYTES;
    ret->state_bytes += charged * keep_segment_cost(s, g);
    ret->bookkeeping_bytes += charged * (g->segment_cost - SCISSOR_SEGMENT_BYTES - keep_segment_cost(s, g));
    ret->settled_segments = saturated((uint64_t)ret->settled_segments + active + leaving);
    ret->room_rows = saturated(ret->room_rows + (uint64_t)g->shown_pages * g->heads * SCISSOR_PAGE_ROWS);
    for (uint32_t h = g->first_head; session_shows_heads(s) && h < g->first_head + g->heads; h++)
        ret->filled_rows = saturated((uint64_t)ret->filled_rows + s->shown[h].settled);
}

/* What is there from the start to the end, or, of a session that has ended, its two pages. */
static void add_base(const struct session *s, struct proto_memory_stat *ret) {
    ret->charged_bytes = s->account.charged;
    if (!s->account.charged) /* it waits for memory */
        return;
    ret->page_bytes = s->control_bytes + PROTO_LEASE_BYTES;
    if (!s->ended) {
        ret->fresh_bytes = (uint64_t)s->fresh_segments * SCISSOR_SEGMENT_BYTES;
        ret->fresh_segments = s->fresh_segments;
        ret->state_bytes = keep_base_cost(s);
    }
    ret->bookkeeping_bytes = s->account.charged - ret->page_bytes - ret->fresh_bytes - ret->state_bytes;
}

void session_memory(const struct session *s, struct proto_memory_stat *ret) {
    *ret = (struct proto_memory_stat){.session = s->id, .pool = s->pool->index, .state = s->state};
    memcpy(ret->name, s->name, sizeof ret->name);
    add_base(s, ret);
    ret->guaranteed_bytes = s->account.guaranteed;
    for (uint32_t i = 0; !s->ended && i < s->group_count; i++) {
        ret->guaranteed_bytes += s->groups[i].account.guaranteed;
        if (s->groups[i].account.pool)
            add_group(s, &s->groups[i], ret);
    }
    if (s->state == PROTO_SESSION_QUARANTINED)
        all_quarantined(ret);
}

void control_memory(const struct broker *b, const struct proto_request *r, struct control_answer *a) {
    const struct broker_peer *peer;
    const struct session *s;
    uint32_t total = b->session_count, i = 0;
    DL_FOREACH(b->peers, peer)
    DL_FOREACH(peer->ended, s)
    total++;
    struct proto_memory_stat *stat = control_entries(a, r, total);
    if (!stat)
        return;
    DL_FOREACH(b->sessions, s) {
        if (i - a->head.first < a->head.count)
            session_memory(s, &stat[i - a->head.first]);
        i++;
    }
    DL_FOREACH(b->peers, peer) {
        DL_FOREACH(peer->ended, s) {
            if (i - a->head.first < a->head.count)
                session_memory(s, &stat[i - a->head.first]);
            i++;
        }
    }
}
