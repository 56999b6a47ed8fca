/* check.c - broker_check(): walks all that the broker has and aborts where it does not add up.
 *
 * Of a session whose job runs only the accounts are looked at, as the rest is the job's. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "internal.h"
#include "snapshot.h"

#define CHECK(condition)                                                                  \
    do {                                                                                  \
        if (!(condition)) {                                                               \
            fprintf(stderr, "broker_check: %s:%d: %s\n", __FILE__, __LINE__, #condition); \
            abort();                                                                      \
        }                                                                                 \
    } while (0)

/* Each page of a head is in an active segment of its group, marked there, and at the address that is kept for it. */
static void check_head(const struct session *s, uint32_t group, const struct session_head *head, uint64_t *pages) {
    const struct session_group *g = &s->groups[group];
    CHECK(head->pages == g->pages && head->pages <= head->page_capacity);
    CHECK(head->history.settled <= head->pages * SCISSOR_PAGE_ROWS);
    CHECK(head->detail_pages <= head->pages);
    for (uint32_t i = 0; head->history.detail && i < head->history.settled; i++)
        CHECK(head->history.detail[i] == KERNEL_NONE ||
              head->history.detail[i] < head->detail_pages * LAYOUT_PAGE_DETAILS);
    CHECK(head->history.settled <= g->max_settled || g->lowered);
    CHECK(head->history.capacity >= head->history.settled);
    for (uint32_t i = 0; i < head->pages; i++) {
        uint32_t id = PROTO_PAGE_SEGMENT(head->page[i]), index = PROTO_PAGE_INDEX(head->page[i]);
        CHECK(id >= s->fresh_segments && id < s->segment_capacity);
        const struct session_segment *segment = &s->segments[id];
        CHECK(segment->memory && segment->state == SEGMENT_ACTIVE && segment->group == group);
        CHECK(index < g->pages_per_segment && segment->map[index / 64] >> index % 64 & 1);
        CHECK(head->address[i] == segment->address + (size_t)index * g->page_bytes);
        pages[id]++;
    }
}

/* The expensive part: only when something was folded, settled or shrunk since the last time. */
static void check_history(struct session *s) {
    if (s->checked_generation == s->generation && s->checked_sequence == s->sequence)
        return;
    for (uint32_t h = 0; h < s->head_count; h++)
        history_check(&s->heads[h].history);
    s->checked_generation = s->generation;
    s->checked_sequence = s->sequence;
}

/* No page twice: what the bitmaps count is what the heads hold, and no bit is held by two heads. */
static void check_pages_once(const struct session *s) {
    struct bits {
        uint64_t map[SESSION_PAGES_PER_SEGMENT_MAX / 64];
    } *seen = calloc(s->segment_capacity, sizeof *seen);
    CHECK(seen);
    for (uint32_t h = 0; h < s->head_count; h++)
        for (uint32_t i = 0; i < s->heads[h].pages; i++) {
            uint32_t page = s->heads[h].page[i], index = PROTO_PAGE_INDEX(page);
            uint64_t *word = &seen[PROTO_PAGE_SEGMENT(page)].map[index / 64];
            CHECK(!(*word >> index % 64 & 1));
            *word |= 1ull << index % 64;
        }
    for (uint32_t id = s->fresh_segments; id < s->segment_capacity; id++)
        CHECK(memcmp(seen[id].map, s->segments[id].map, sizeof seen[id].map) == 0);
    free(seen);
}

static void check_control_page(const struct session *s) {
    const uint32_t *words = (const uint32_t *)s->control_page;
    CHECK(s->control_page->magic == PROTO_CONTROL_MAGIC && s->control_page->head_count == s->head_count);
    CHECK(s->control_page->generation == s->generation);
    for (uint32_t h = 0; h < s->head_count; h++) {
        const uint32_t *entry = words + s->heads[h].control;
        CHECK(entry[0] == s->heads[h].history.settled && entry[1] == s->heads[h].pages);
        CHECK(!entry[1] || memcmp(entry + 2, s->heads[h].page, entry[1] * sizeof *entry) == 0);
    }
}

/* Memory that is there is memory that is charged. */
static void check_segments(const struct session *s) {
    uint64_t held[PROTO_MAX_GROUPS] = {0}, active[PROTO_MAX_GROUPS] = {0}, all = 0;
    for (uint32_t id = 0; id < s->segment_capacity; id++) {
        const struct session_segment *segment = &s->segments[id];
        all += segment->memory != NULL;
        if (id < s->fresh_segments) {
            CHECK(segment->memory);
        } else if (segment->memory) {
            held[segment->group]++;
            active[segment->group] += segment->state == SEGMENT_ACTIVE;
        } else {
            CHECK(segment->used == 0);
        }
    }
    CHECK(all == s->segments_shown);
    for (uint32_t i = 0; i < s->group_count; i++) {
        CHECK(active[i] == s->groups[i].segments);
        CHECK(held[i] * s->groups[i].segment_cost == s->groups[i].account.charged);
        CHECK(s->groups[i].pages == s->groups[i].shown_pages);
        CHECK(s->groups[i].pages <= layout_pages_of_rows(s->groups[i].max_settled) || s->groups[i].lowered);
        CHECK(s->groups[i].max_settled == s->groups[i].max_rows - s->fresh_rows);
        CHECK((uint64_t)s->groups[i].pages * s->groups[i].heads <= active[i] * s->groups[i].pages_per_segment);
    }
}

/* What is kept is what there is, in files of the size that is charged, of which one counts. */
static void check_kept(const struct session *s) {
    const struct keep *keep = s->keep;
    uint64_t cost = keep_base_cost(s), files = 0;
    if (!keep || keep->spoilt)
        return;
    for (uint32_t id = 0; id < s->segment_capacity; id++)
        CHECK((s->segments[id].kept != 0) == (s->segments[id].memory != NULL));
    for (uint32_t i = 0; i < s->group_count; i++)
        cost += s->groups[i].segments * keep_segment_cost(s, &s->groups[i]);
    for (uint32_t i = 0; i < 2; i++) {
        CHECK(keep->put_state[i] && keep->file[i].bytes == keep_file_bytes(s));
        files += keep->file[i].bytes;
    }
    CHECK(files + sizeof *keep <= cost && keep->put_control && keep->put_lease);
    struct snapshot_head head;
    const struct keep_file *file = &keep->file[keep->active];
    CHECK(snapshot_read_head(file->memory, file->bytes, &head) == 0);
    CHECK(head.sequence == keep->sequence && head.session == s->id && head.redo_bytes == 0);
    CHECK(head.generation == s->generation && head.tokens_seen == s->tokens_seen && head.settles == s->settles);
}

static void check_idle_session(struct session *s) {
    uint64_t *pages = calloc(s->segment_capacity, sizeof *pages);
    CHECK(pages);
    for (uint32_t i = 0; i < s->group_count; i++) {
        const struct session_group *g = &s->groups[i];
        for (uint32_t h = 0; h < g->heads; h++)
            check_head(s, i, &s->heads[g->first_head + h], pages);
    }
    for (uint32_t id = s->fresh_segments; id < s->segment_capacity; id++)
        CHECK(s->segments[id].used == pages[id]);
    free(pages);
    check_history(s);
    check_pages_once(s);
    check_segments(s);
    check_control_page(s);
    check_kept(s);
}

struct sums {
    uint64_t charged, guaranteed, committed, segments, accounts, shown;
    uint32_t stored; /* descriptors in the store */
    uint32_t sessions, quarantined;
    uint64_t quarantined_bytes;
};

static void add_account(struct sums *sums, const struct pool *pool, const struct pool_account *account) {
    if (!account->pool) {
        CHECK(account->charged == 0 && account->guaranteed == 0);
        return;
    }
    CHECK(account->pool == pool);
    sums->accounts++;
    sums->charged += account->charged;
    sums->guaranteed += account->guaranteed;
    sums->committed += pool_account_committed(account);
}

/* What MEMORY tells of a session is its charge, part by part. */
static void check_memory(const struct session *s, struct sums *sums) {
    struct proto_memory_stat m;
    session_memory(s, &m);
    uint64_t charged = s->account.charged;
    for (uint32_t i = 0; !s->ended && i < s->group_count; i++)
        charged += s->groups[i].account.charged;
    CHECK(m.charged_bytes == charged);
    CHECK(m.charged_bytes == m.fresh_bytes + m.used_bytes + m.free_bytes + m.quarantined_bytes + m.granted_bytes +
                                 m.page_bytes + m.state_bytes + m.bookkeeping_bytes);
    /* None of them is the rest of a sum that went below zero. */
    CHECK(m.used_bytes <= charged && m.free_bytes <= charged && m.granted_bytes <= charged &&
          m.bookkeeping_bytes <= charged);
    CHECK(m.granted_bytes == 0 || s->job.running);
    CHECK(s->ended || m.filled_rows <= m.room_rows);
    sums->shown += m.charged_bytes;
}

/* It is promised nothing, but pays for all that it holds. */
static void check_quarantined(const struct session *s, struct sums *sums) {
    if (s->state != PROTO_SESSION_QUARANTINED)
        return;
    CHECK(s->ending && !s->close_asked && !s->pool->config.backend->revocable && !s->pool->lost);
    CHECK(s->account.guaranteed == 0 && s->segments_shown >= s->fresh_segments);
    sums->quarantined++;
    sums->quarantined_bytes += s->account.charged;
    for (uint32_t i = 0; i < s->group_count; i++) {
        CHECK(s->groups[i].account.guaranteed == 0);
        sums->quarantined_bytes += s->groups[i].account.charged;
    }
}

static void check_session(const struct broker *b, struct session *s, struct sums *sums) {
    CHECK(session_find(b, s->id) == s && !s->ended);
    CHECK(s->peer || s->orphan || s->ending);
    sums->sessions++;
    if (s->keep && s->keep->file[0].memory)
        sums->stored += (uint32_t)s->segments_shown + 4;
    sums->segments += s->segments_shown;
    add_account(sums, s->pool, &s->account);
    for (uint32_t i = 0; i < s->group_count; i++) {
        add_account(sums, s->pool, &s->groups[i].account);
        CHECK((s->groups[i].account.pool != NULL) == (s->account.pool != NULL));
    }
    CHECK(s->queued == (s->account.pool == NULL));
    CHECK(s->account.pool == NULL || s->account.charged == s->base_cost);
    check_memory(s, sums);
    if (s->job.running || s->queued)
        return;
    CHECK(s->state == PROTO_SESSION_IDLE || s->state == PROTO_SESSION_WAITING || (s->ending && s->end_retry) ||
          s->state == PROTO_SESSION_QUARANTINED);
    check_quarantined(s, sums);
    CHECK(s->asked.type == 0 || s->state == PROTO_SESSION_WAITING);
    if (job_broke(&s->job)) /* what it was in the midst of is not true any more */
        check_segments(s);
    else
        check_idle_session(s);
}

static void check_peers(const struct broker *b, struct sums *sums) {
    const struct broker_peer *peer;
    const struct session *s;
    DL_FOREACH(b->peers, peer) {
        uint32_t count = 0;
        DL_FOREACH(peer->ended, s) {
            CHECK(s->ended && s->peer == peer && !s->segments && s->control && s->lease);
            CHECK(session_find(b, s->id) == NULL);
            CHECK(s->account.charged == session_ended_cost(s));
            add_account(&sums[s->pool->index], s->pool, &s->account);
            check_memory(s, &sums[s->pool->index]);
            count++;
        }
        DL_FOREACH(b->sessions, s)
        count += s->peer == peer;
        CHECK(count == peer->sessions);
    }
}

/* While no job runs, what the store has is what sessions and their processes have put there. */
static void check_store(const struct broker *b, const struct sums *sums, uint32_t jobs) {
    uint32_t stored = 0;
    const struct session *s, *other;
    const struct broker_peer *peer;
    if (!b->keeper.store || jobs)
        return;
    for (uint32_t i = 0; i < b->pool_count; i++)
        stored += sums[i].stored;
    DL_FOREACH(b->peers, peer)
    stored += peer->process != NULL;
    DL_FOREACH(b->sessions, s) {
        const struct keep_process *process = s->keep ? s->keep->process : NULL;
        bool counted = process == NULL;
        DL_FOREACH(b->peers, peer)
        counted |= peer->process == process;
        for (other = b->sessions; other != s; other = other->next)
            counted |= other->keep && other->keep->process == process;
        stored += !counted;
    }
    CHECK(stored == b->keeper.stored && stored <= b->keeper.promised);
    CHECK(b->taken_over || b->keeper.promised <= b->keeper.store->max);
}

void broker_check(const struct broker *b) {
    struct sums sums[BROKER_MAX_POOLS] = {{0}};
    uint32_t sessions = 0, jobs = 0, polite = 0, orphans = 0, quarantined = 0, recorders = 0;
    struct session *s;
    DL_FOREACH(b->sessions, s) {
        check_session(b, s, &sums[s->pool->index]);
        sessions++;
        jobs += s->job.running;
        polite += s->end_retry != 0;
        orphans += s->orphan;
        CHECK(!s->recorder || (!s->ending && s->recorder->recorder.session == s));
        recorders += s->recorder != NULL;
    }
    CHECK(sessions == b->session_count && jobs == b->session_jobs && polite == b->polite);
    CHECK(orphans == b->orphans && recorders == b->recorders);
    check_peers(b, sums);
    check_store(b, sums, jobs);
    for (uint32_t i = 0; i < b->pool_count; i++) {
        const struct pool *pool = &b->pools[i];
        uint32_t waiting = 0;
        DL_FOREACH2(pool->queue, s, queue_next) {
            CHECK(s->queued && s->pool == pool);
            waiting++;
        }
        CHECK(waiting == pool->waiting && sums[i].sessions == pool->sessions);
        CHECK(pool->charged == sums[i].shown);
        CHECK(pool->charged == sums[i].charged && pool->guaranteed == sums[i].guaranteed);
        CHECK(pool->committed == sums[i].committed && pool->accounts == sums[i].accounts);
        CHECK(pool->segments == sums[i].segments);
        CHECK(pool->quarantined == sums[i].quarantined && pool->quarantined_bytes == sums[i].quarantined_bytes);
        quarantined += pool->quarantined;
        CHECK(pool->committed <= pool->limit && pool->charged <= pool->committed && pool->peak >= pool->charged);
        CHECK(pool->guaranteed <= pool->target && pool->target <= pool->limit);
        CHECK(pool->limit == pool->target || pool->limit == pool->committed);
    }
    CHECK(quarantined == b->quarantined);
    uint64_t deadline = 0;
    DL_FOREACH2(b->waiting, s, queue_next) {
        CHECK(s->state == PROTO_SESSION_WAITING && s->asked.type == PROTO_SETTLE && !s->waits_for_room &&
              s->deadline >= deadline);
        deadline = s->deadline;
    }
    DL_FOREACH2(b->growing, s, queue_next)
    CHECK(s->state == PROTO_SESSION_WAITING && s->asked.type == PROTO_SETTLE && s->waits_for_room);
}
