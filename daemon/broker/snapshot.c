/* snapshot.c - see snapshot.h. */
#include "snapshot.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "alloc.h"
#include "scissor_error.h"

static size_t padded(size_t bytes) {
    return (bytes + 7) / 8 * 8;
}

size_t snapshot_base_bytes(const struct session *s) {
    size_t bytes = sizeof(struct snapshot_head) + s->fresh_segments * sizeof(uint64_t);
    for (uint32_t i = 0; i < s->group_count; i++) {
        const struct session_group *g = &s->groups[i];
        bytes += g->layers * (sizeof(struct snapshot_clock) + g->blocks * sizeof(uint64_t));
        bytes += g->heads * (sizeof(struct snapshot_row_head) + 8); /* padding */
    }
    return bytes;
}

size_t snapshot_segment_bytes(const struct session_group *g) {
    size_t slot = history_slot_bytes(g->planes, g->blocks, g->extras);
    return sizeof(struct snapshot_segment) + g->pages_per_segment * (sizeof(uint32_t) + SCISSOR_PAGE_ROWS * slot);
}

/* ---------- writing ---------- */

static char *put(char *at, const void *from, size_t bytes) {
    if (bytes)
        memcpy(at, from, bytes);
    return at + bytes;
}

static char *put_history(char *at, const struct history *h) {
    size_t n = h->settled;
    at = put(at, h->birth, n * sizeof *h->birth);
    at = put(at, h->position, n * sizeof *h->position);
    if (h->mass)
        at = put(at, h->mass, n * sizeof *h->mass);
    for (uint32_t b = 0; h->hits && b < (h->blocks ? h->blocks : 1); b++)
        at = put(at, h->hits + (size_t)b * h->capacity, n * sizeof *h->hits);
    if (h->last)
        at = put(at, h->last, n * sizeof *h->last);
    if (h->norm)
        at = put(at, h->norm, n * sizeof *h->norm);
    if (h->detail)
        at = put(at, h->detail, n * sizeof *h->detail);
    return at;
}

static char *put_head(char *at, const struct session_head *head) {
    struct snapshot_row_head row = {
        .settled = head->history.settled, .pages = head->pages, .settled_share = head->history.settled_share};
    memcpy(row.evicted, head->evicted, sizeof row.evicted);
    char *end = put(at, &row, sizeof row);
    end = put(end, head->page, head->pages * sizeof *head->page);
    end = put_history(end, &head->history);
    while ((end - at) % 8)
        *end++ = 0;
    return end;
}

static char *put_segments(char *at, const struct session *s, uint32_t *ret_count) {
    *ret_count = 0;
    for (uint32_t i = 0; i < s->fresh_segments; i++)
        at = put(at, &s->segments[i].kept, sizeof s->segments[i].kept);
    for (uint32_t id = s->fresh_segments; id < s->segment_capacity; id++) {
        const struct session_segment *segment = &s->segments[id];
        if (!segment->memory || segment->state != SEGMENT_ACTIVE)
            continue;
        struct snapshot_segment entry = {.id = id, .group = segment->group, .number = segment->kept};
        at = put(at, &entry, sizeof entry);
        (*ret_count)++;
    }
    return at;
}

static char *put_clocks(char *at, const struct session *s, bool *ret_begun) {
    *ret_begun = false;
    for (uint32_t l = 0; l < s->layer_count; l++) {
        const struct history_clock *c = &s->clocks[l];
        struct snapshot_clock clock = {.rows = c->rows, .block = c->block};
        at = put(at, &clock, sizeof clock);
        at = put(at, c->block_start, c->blocks * sizeof *c->block_start);
        *ret_begun |= c->period_rows > 0;
    }
    return at;
}

void snapshot_write(const struct session *s, const struct keep_counts *counts, size_t redo_at, size_t redo_bytes,
                    void *ret_bytes) {
    struct snapshot_head head = {.magic = SNAPSHOT_MAGIC,
                                 .version = SNAPSHOT_VERSION,
                                 .redo_at = redo_at,
                                 .redo_bytes = redo_bytes,
                                 .session = s->id,
                                 .process = s->keep->process ? s->keep->process->number : 0,
                                 .pid = s->pid,
                                 .uid = s->uid,
                                 .generation = counts->generation,
                                 .tokens_seen = counts->tokens_seen,
                                 .settles = counts->settles,
                                 .scores_lost = counts->scores_lost,
                                 .last_evicted = counts->last_evicted,
                                 .last_lost = counts->last_lost,
                                 .open = s->keep->open};
    bool begun;
    char *at = (char *)ret_bytes + sizeof head;
    at = put_segments(at, s, &head.settled_segments);
    at = put_clocks(at, s, &begun);
    for (uint32_t h = 0; h < s->head_count; h++)
        at = put_head(at, &s->heads[h]);
    memcpy(head.token, s->token, sizeof head.token);
    memcpy(head.evicted, counts->evicted, sizeof head.evicted);
    proto_text_set(head.pool, sizeof head.pool, s->pool->config.name);
    head.spoilt = counts->spoilt || begun;
    head.priority = counts->priority;
    memcpy(head.budgets, counts->budgets, sizeof head.budgets);
    head.bytes = (uint64_t)(at - (char *)ret_bytes);
    memcpy(ret_bytes, &head, sizeof head);
}

static uint64_t *word_at(void *bytes, size_t offset) {
    return (uint64_t *)((char *)bytes + offset);
}

void snapshot_publish(void *bytes, uint64_t sequence) {
    __atomic_store_n(word_at(bytes, offsetof(struct snapshot_head, sequence)), sequence, __ATOMIC_SEQ_CST);
}

void snapshot_done(void *bytes) {
    __atomic_store_n(word_at(bytes, offsetof(struct snapshot_head, redo_bytes)), 0, __ATOMIC_SEQ_CST);
}

void snapshot_spoil(void *bytes) {
    snapshot_publish(bytes, 0);
}

/* ---------- reading ---------- */

struct reader {
    const char *at;
    size_t left;
};

static bool take(struct reader *r, void *to, size_t bytes) {
    if (bytes > r->left)
        return false;
    if (bytes)
        memcpy(to, r->at, bytes);
    r->at += bytes;
    r->left -= bytes;
    return true;
}

static bool aligned_in(uint64_t offset, uint64_t bytes, size_t size) {
    return offset % 8 == 0 && offset <= size && bytes <= size - offset;
}

int snapshot_read_head(const void *bytes, size_t size, struct snapshot_head *ret) {
    struct snapshot_head head;
    if (size < sizeof head)
        return SCISSOR_EINVAL;
    memcpy(&head, bytes, sizeof head);
    if (head.sequence == 0)
        return 1;
    if (head.magic != SNAPSHOT_MAGIC || head.version != SNAPSHOT_VERSION || head.bytes < sizeof head ||
        head.bytes > size || head.session == 0 || head.last_lost > 1 || head.spoilt > 1)
        return SCISSOR_EINVAL;
    if (head.redo_bytes && (!aligned_in(head.redo_at, head.redo_bytes, size) || head.redo_at < head.bytes))
        return SCISSOR_EINVAL;
    if (head.generation == 0 || head.tokens_seen > UINT32_MAX || !proto_text_valid(head.pool, sizeof head.pool))
        return SCISSOR_EINVAL;
    *ret = head;
    return 0;
}

static int read_segments(struct reader *r, struct session *s, uint32_t count) {
    uint64_t limit = session_id_limit(s), next = s->fresh_segments;
    for (uint32_t i = 0; i < s->fresh_segments; i++)
        if (!take(r, &s->segments[i].kept, sizeof s->segments[i].kept) || !s->segments[i].kept)
            return SCISSOR_EINVAL;
    for (uint32_t i = 0; i < count; i++) {
        struct snapshot_segment entry;
        if (!take(r, &entry, sizeof entry) || entry.id < next || entry.id >= limit || entry.group >= s->group_count ||
            !entry.number)
            return SCISSOR_EINVAL;
        if (session_segment_reserve(s, entry.id) < 0)
            return SCISSOR_ENOMEM;
        s->segments[entry.id] =
            (struct session_segment){.group = entry.group, .state = SEGMENT_ACTIVE, .kept = entry.number};
        s->groups[entry.group].segments++;
        next = entry.id + 1u;
    }
    return 0;
}

/* Blocks of the window began one after another, and none after now. */
static bool clock_valid(const struct history_clock *c) {
    if (c->blocks ? c->block >= c->blocks : c->block != 0)
        return false;
    for (uint32_t i = 1; i <= c->blocks; i++) {
        uint64_t start = c->block_start[(c->block + i) % c->blocks];
        uint64_t end = i < c->blocks ? c->block_start[(c->block + i + 1) % c->blocks] : c->rows;
        if (start > end)
            return false;
    }
    return true;
}

static int read_clocks(struct reader *r, struct session *s) {
    for (uint32_t l = 0; l < s->layer_count; l++) {
        struct history_clock *c = &s->clocks[l];
        struct snapshot_clock clock;
        if (!take(r, &clock, sizeof clock) || !take(r, c->block_start, c->blocks * sizeof *c->block_start))
            return SCISSOR_EINVAL;
        c->rows = clock.rows;
        c->block = clock.block;
        if (!clock_valid(c))
            return SCISSOR_EINVAL;
    }
    return 0;
}

static int compare_positions(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

/* Policies rely on it that no two rows of a head have the same position. 0, EINVAL or ENOMEM. */
static int positions_valid(const struct history *h, uint64_t tokens_seen) {
    bool ascending = true;
    for (uint32_t i = 0; i < h->settled; i++) {
        if (h->position[i] >= tokens_seen)
            return SCISSOR_EINVAL;
        ascending &= i == 0 || h->position[i] > h->position[i - 1];
    }
    if (ascending)
        return 0;
    uint32_t *sorted = scissor_malloc(h->settled * sizeof *sorted);
    if (!sorted)
        return SCISSOR_ENOMEM;
    memcpy(sorted, h->position, h->settled * sizeof *sorted);
    qsort(sorted, h->settled, sizeof *sorted, compare_positions);
    int code = 0;
    for (uint32_t i = 1; i < h->settled && code == 0; i++)
        code = sorted[i] == sorted[i - 1] ? SCISSOR_EINVAL : 0;
    scissor_free(sorted);
    return code;
}

static bool sums_valid(const float *sums, uint32_t count) {
    for (uint32_t i = 0; i < count; i++)
        if (!isfinite(sums[i]) || sums[i] < 0)
            return false;
    return true;
}

static bool take_sums(struct reader *r, float *sums, uint32_t count) {
    return !sums || (take(r, sums, count * sizeof *sums) && sums_valid(sums, count));
}

/* No two rows have the same detail slot, of those that there are. 0, EINVAL or ENOMEM. */
static int take_details(struct reader *r, struct history *h, uint32_t settled, uint32_t details) {
    if (!h->detail)
        return 0;
    if (!take(r, h->detail, settled * sizeof *h->detail))
        return SCISSOR_EINVAL;
    bool *taken = scissor_calloc(details ? details : 1, sizeof *taken);
    if (!taken)
        return SCISSOR_ENOMEM;
    int code = 0;
    for (uint32_t i = 0; i < settled && code == 0; i++) {
        uint32_t detail = h->detail[i];
        if (detail == KERNEL_NONE)
            continue;
        code = detail >= details || taken[detail] ? SCISSOR_EINVAL : 0;
        if (code == 0)
            taken[detail] = true;
    }
    scissor_free(taken);
    return code;
}

static int read_history(struct reader *r, struct history *h, uint32_t settled, uint32_t pages, uint64_t tokens_seen) {
    if (!take(r, h->birth, settled * sizeof *h->birth) || !take(r, h->position, settled * sizeof *h->position) ||
        !take_sums(r, h->mass, settled))
        return SCISSOR_EINVAL;
    for (uint32_t b = 0; h->hits && b < (h->blocks ? h->blocks : 1); b++)
        if (!take_sums(r, h->hits + (size_t)b * h->capacity, settled))
            return SCISSOR_EINVAL;
    if (!take_sums(r, h->last, settled) || !take_sums(r, h->norm, settled))
        return SCISSOR_EINVAL;
    int code = take_details(r, h, settled, pages * LAYOUT_PAGE_DETAILS);
    if (code < 0)
        return code;
    h->settled = settled;
    for (uint32_t i = 0; i < settled; i++)
        if (history_seen(h, i) > h->clock->rows)
            return SCISSOR_EINVAL;
    return positions_valid(h, tokens_seen);
}

/* Marks the page in its segment; false if it cannot be the group's, or is another head's. */
static bool page_claim(struct session *s, uint32_t group, uint32_t page) {
    uint32_t id = PROTO_PAGE_SEGMENT(page), index = PROTO_PAGE_INDEX(page);
    if (id < s->fresh_segments || id >= s->segment_capacity || index >= s->groups[group].pages_per_segment)
        return false;
    struct session_segment *segment = &s->segments[id];
    if (!segment->kept || segment->group != group || segment->map[index / 64] >> index % 64 & 1)
        return false;
    segment->map[index / 64] |= 1ull << index % 64;
    segment->used++;
    return true;
}

static int read_row_head(struct reader *r, struct session *s, uint32_t group, struct session_head *head,
                         uint64_t tokens_seen) {
    struct session_group *g = &s->groups[group];
    struct snapshot_row_head row;
    size_t before = r->left;
    if (!take(r, &row, sizeof row) || row.pages != g->pages || row.settled > session_group_cap(g) ||
        !(row.settled_share == -1 || (row.settled_share >= 0 && row.settled_share <= 1)) ||
        row.pages * sizeof(uint32_t) > r->left)
        return SCISSOR_EINVAL;
    if (session_head_reserve(head, row.pages) < 0)
        return SCISSOR_ENOMEM;
    memcpy(head->evicted, row.evicted, sizeof head->evicted);
    head->pages = head->detail_pages = row.pages;
    head->history.settled_share = row.settled_share;
    (void)take(r, head->page, row.pages * sizeof *head->page);
    for (uint32_t i = 0; i < row.pages; i++)
        if (!page_claim(s, group, head->page[i]))
            return SCISSOR_EINVAL;
    int code = read_history(r, &head->history, row.settled, row.pages, tokens_seen);
    char skipped[8];
    size_t bytes = before - r->left;
    return code < 0 ? code : take(r, skipped, padded(bytes) - bytes) ? 0 : SCISSOR_EINVAL;
}

/* All heads of a group have as many pages as its first one says. */
static int read_group(struct reader *r, struct session *s, uint32_t group, uint64_t tokens_seen) {
    struct session_group *g = &s->groups[group];
    struct snapshot_row_head first;
    struct reader ahead = *r;
    if (!take(&ahead, &first, sizeof first) || first.pages > g->max_pages ||
        (uint64_t)first.pages * g->heads > (uint64_t)g->segments * g->pages_per_segment)
        return SCISSOR_EINVAL;
    g->pages = first.pages;
    for (uint32_t h = g->first_head; h < g->first_head + g->heads; h++) {
        int code = read_row_head(r, s, group, &s->heads[h], tokens_seen);
        if (code < 0)
            return code;
    }
    return 0;
}

int snapshot_read(const void *bytes, size_t size, const struct snapshot_head *head, struct session *s) {
    struct reader r = {(const char *)bytes + sizeof *head, head->bytes - sizeof *head};
    if (head->bytes > size)
        return SCISSOR_EINVAL;
    int code = read_segments(&r, s, head->settled_segments);
    if (code == 0)
        code = read_clocks(&r, s);
    for (uint32_t i = 0; i < s->group_count && code == 0; i++)
        code = read_group(&r, s, i, head->tokens_seen);
    return code < 0 ? code : r.left == 0 ? 0 : SCISSOR_EINVAL;
}
