/* pages.c - settled segments of a group, the pages in them, and who has which.
 *
 * Runs in the session's jobs. A page is found by its segment's bitmap; all heads of a group have the same number of
 * pages. To give memory back, pages are copied out of the emptiest segments into free pages of the fullest, so that
 * what is left stands in as few segments as can hold it. */
#include <assert.h>
#include <string.h>

#include "alloc.h"
#include "redo.h"
#include "scissor_error.h"
#include "work.h"

int session_segment_reserve(struct session *s, uint32_t id) {
    uint32_t capacity = s->segment_capacity;
    if (id < capacity)
        return 0;
    while (capacity <= id)
        capacity *= 2;
    if (capacity > SESSION_SEGMENT_IDS)
        return SCISSOR_ENOMEM;
    struct session_segment *table = scissor_realloc(s->segments, capacity * sizeof *table);
    if (!table)
        return SCISSOR_ENOMEM;
    memset(table + s->segment_capacity, 0, (capacity - s->segment_capacity) * sizeof *table);
    s->segments = table;
    s->segment_capacity = capacity;
    return 0;
}

/* The lowest free id; grows the table when there is none. */
static int segment_id(struct session *s, uint32_t *ret_id) {
    uint32_t id = s->fresh_segments;
    while (id < s->segment_capacity && s->segments[id].memory)
        id++;
    *ret_id = id;
    return session_segment_reserve(s, id);
}

/* Memory that the next process can take over, in the store under a name of its own. */
static int kept_segment_new(struct session *s, uint32_t group, struct kernel_segment **ret_memory,
                            uint64_t *ret_number) {
    struct kernel_backend *device = s->pool->config.backend;
    struct keeper *keeper = s->keep->keeper;
    struct kernel_segment *memory;
    if (keep_grow(s, group) < 0)
        return SCISSOR_ENOMEM;
    if (device->segment_new(device, KERNEL_ACCESS_SETTLED_KEPT, SCISSOR_SEGMENT_BYTES, &memory) < 0) {
        keep_trim(s);
        return SCISSOR_ENOMEM;
    }
    uint64_t number = keeper_number(keeper);
    if (keeper_put(keeper, 's', number, device->segment_descriptor(memory)) < 0) {
        device->segment_free(device, memory);
        keep_trim(s);
        return SCISSOR_ENOMEM;
    }
    *ret_memory = memory;
    *ret_number = number;
    return 0;
}

int session_segment_add(struct session *s, uint32_t group, uint32_t *ret_id) {
    struct kernel_backend *device = s->pool->config.backend;
    struct kernel_segment *memory;
    uint64_t number = 0;
    uint32_t id;

    if (segment_id(s, &id) < 0)
        return SCISSOR_ENOMEM;
    if (s->keep ? kept_segment_new(s, group, &memory, &number) < 0
                : device->segment_new(device, KERNEL_ACCESS_SETTLED, SCISSOR_SEGMENT_BYTES, &memory) < 0)
        return SCISSOR_ENOMEM;
    s->segments[id] = (struct session_segment){.memory = memory,
                                               .address = device->segment_address(memory),
                                               .group = group,
                                               .kept = number,
                                               .state = SEGMENT_ACTIVE};
    s->groups[group].segments++;
    *ret_id = id;
    return 0;
}

static void segment_free(struct session *s, uint32_t id) {
    struct kernel_backend *device = s->pool->config.backend;
    if (s->segments[id].kept)
        keeper_drop(s->keep->keeper, 's', s->segments[id].kept);
    device->segment_free(device, s->segments[id].memory);
    s->segments[id] = (struct session_segment){0};
}

bool session_segment_remove(struct session *s, uint32_t id) {
    struct session_segment *segment = &s->segments[id];
    assert(segment->memory && segment->used == 0 && segment->state == SEGMENT_ACTIVE);
    s->groups[segment->group].segments--;
    segment->state = SEGMENT_QUARANTINED;
    if (s->keep) {
        redo_add_segment(s, id); /* pages have yet to be copied out of it */
        return false;
    }
    if (!s->pool->config.backend->revocable)
        return false;
    segment_free(s, id);
    return true;
}

void session_free_released(struct session *s, struct broker_job *job) {
    for (uint32_t id = s->fresh_segments; id < s->segment_capacity; id++) {
        if (!s->segments[id].memory || s->segments[id].state != SEGMENT_RELEASED)
            continue;
        job->groups[s->segments[id].group].freed++;
        segment_free(s, id);
    }
}

/* ---------- pages ---------- */

void *session_page_address(const struct session *s, uint32_t page) {
    const struct session_segment *segment = &s->segments[PROTO_PAGE_SEGMENT(page)];
    return segment->address + (size_t)PROTO_PAGE_INDEX(page) * s->groups[segment->group].page_bytes;
}

/* Takes the first free page of a segment that has one. */
static uint32_t page_take(struct session *s, uint32_t id) {
    struct session_segment *segment = &s->segments[id];
    for (uint32_t word = 0;; word++) {
        assert(word < SESSION_PAGES_PER_SEGMENT_MAX / 64);
        if (segment->map[word] == UINT64_MAX)
            continue;
        uint32_t index = word * 64 + (uint32_t)__builtin_ctzll(~segment->map[word]);
        assert(index < s->groups[segment->group].pages_per_segment);
        segment->map[word] |= 1ull << index % 64;
        segment->used++;
        return PROTO_PAGE(id, index);
    }
}

static void page_give(struct session *s, uint32_t page) {
    struct session_segment *segment = &s->segments[PROTO_PAGE_SEGMENT(page)];
    uint32_t index = PROTO_PAGE_INDEX(page);
    assert(segment->map[index / 64] >> index % 64 & 1);
    segment->map[index / 64] &= ~(1ull << index % 64);
    segment->used--;
}

static bool segment_of(const struct session *s, uint32_t id, uint32_t group) {
    const struct session_segment *segment = &s->segments[id];
    return segment->memory && segment->state == SEGMENT_ACTIVE && segment->group == group;
}

/* The group's segment with the most pages in use among those with a free one, but not `except`. */
static uint32_t segment_with_room(const struct session *s, uint32_t group, uint32_t except) {
    uint32_t best = UINT32_MAX;
    for (uint32_t id = s->fresh_segments; id < s->segment_capacity; id++) {
        if (id == except || !segment_of(s, id, group) || s->segments[id].used == s->groups[group].pages_per_segment)
            continue;
        if (best == UINT32_MAX || s->segments[id].used > s->segments[best].used)
            best = id;
    }
    return best;
}

static uint32_t segment_emptiest(const struct session *s, uint32_t group) {
    uint32_t best = UINT32_MAX;
    for (uint32_t id = s->fresh_segments; id < s->segment_capacity; id++)
        if (segment_of(s, id, group) && (best == UINT32_MAX || s->segments[id].used <= s->segments[best].used))
            best = id;
    return best;
}

int session_head_reserve(struct session_head *head, uint32_t pages) {
    if (pages > head->page_capacity) {
        uint32_t *page = scissor_realloc(head->page, pages * sizeof *page);
        if (!page)
            return SCISSOR_ENOMEM;
        head->page = page;
        void **address = scissor_realloc(head->address, pages * sizeof *address);
        if (!address)
            return SCISSOR_ENOMEM;
        head->address = address;
        head->page_capacity = pages;
    }
    return pages * SCISSOR_PAGE_ROWS > head->history.capacity
               ? history_resize(&head->history, pages * SCISSOR_PAGE_ROWS)
               : 0;
}

int session_group_grow(struct session *s, uint32_t group, uint32_t pages) {
    struct session_group *g = &s->groups[group];
    uint64_t room = (uint64_t)g->segments * g->pages_per_segment / g->heads;
    if (pages > room)
        pages = (uint32_t)room;
    if (pages <= g->pages)
        return 0;
    for (uint32_t h = g->first_head; h < g->first_head + g->heads; h++)
        if (session_head_reserve(&s->heads[h], pages) < 0)
            return SCISSOR_ENOMEM;
    uint32_t id = s->fresh_segments;
    for (uint32_t h = g->first_head; h < g->first_head + g->heads; h++) {
        struct session_head *head = &s->heads[h];
        while (head->pages < pages) {
            while (!segment_of(s, id, group) || s->segments[id].used == g->pages_per_segment)
                id++;
            uint32_t page = page_take(s, id);
            head->page[head->pages] = page;
            head->address[head->pages++] = session_page_address(s, page);
        }
    }
    g->pages = pages;
    return 0;
}

/* ---------- giving back ---------- */

#define MOVE_BATCH 256u

/* Pages of one segment on their way to others: no page that is written is one of those that are read. */
struct page_batch {
    uint32_t count;
    uint32_t *page[MOVE_BATCH]; /* where the head has it, and its address */
    void **address[MOVE_BATCH];
    struct kernel_move words[MOVE_BATCH];
    struct kernel_page_move moves[MOVE_BATCH];
};

/* False if there is no room. */
static bool batch_add(struct session *s, uint32_t group, struct page_batch *b, uint32_t *page, void **address) {
    uint32_t i = b->count, id = segment_with_room(s, group, PROTO_PAGE_SEGMENT(*page));
    if (id == UINT32_MAX)
        return false;
    uint32_t to = page_take(s, id);
    b->page[i] = page;
    b->address[i] = address;
    b->words[i] = (struct kernel_move){*page, to};
    b->moves[i] = (struct kernel_page_move){session_page_address(s, to), *address, s->groups[group].page_bytes};
    b->count++;
    return true;
}

/* Moves them all; false if the device fails: then all of them stay. */
static bool batch_move(struct session *s, uint32_t group, struct page_batch *b) {
    struct kernel_backend *device = s->pool->config.backend;
    bool moved = true;
    if (s->keep)
        redo_add_pages(s, group, b->words, b->count);
    else
        moved = b->count == 0 || device->move_pages(device, b->moves, b->count) >= 0;
    for (uint32_t i = 0; i < b->count; i++) {
        page_give(s, moved ? b->words[i].from : b->words[i].to);
        if (moved) {
            *b->page[i] = b->words[i].to;
            *b->address[i] = b->moves[i].to;
        }
    }
    b->count = 0;
    return moved;
}

/* False if there is no room or the device fails: then pages stay that were not moved before. */
static bool segment_empty(struct session *s, uint32_t group, uint32_t id) {
    struct session_group *g = &s->groups[group];
    struct page_batch batch;
    batch.count = 0;
    for (uint32_t h = g->first_head; h < g->first_head + g->heads && batch.count < s->segments[id].used; h++) {
        struct session_head *head = &s->heads[h];
        for (uint32_t i = 0; i < head->pages; i++) {
            if (PROTO_PAGE_SEGMENT(head->page[i]) != id)
                continue;
            if (batch.count == MOVE_BATCH && !batch_move(s, group, &batch))
                return false;
            if (!batch_add(s, group, &batch, &head->page[i], &head->address[i])) {
                (void)batch_move(s, group, &batch);
                return false;
            }
        }
    }
    return batch_move(s, group, &batch);
}

static void empty_segments(struct session *s, uint32_t group, struct broker_job *job) {
    struct kernel_backend *device = s->pool->config.backend;
    struct session_group *g = &s->groups[group];
    uint64_t need = session_group_segments(g, g->pages);
    while (g->segments > need) {
        uint32_t id = segment_emptiest(s, group);
        if (!segment_empty(s, group, id))
            break;
        /* Where work is queued, a segment is freed behind it. */
        if (!device->streams && device->synchronise(device) < 0)
            break;
        job->moved_ids[job->moved_count++] = id;
        job->groups[group].moved++;
        if (session_segment_remove(s, id))
            job->groups[group].freed++;
    }
}

/* The pages that were taken off the heads above are free to be written to, as nothing in the store speaks of them any
 * more when the copies begin; those that are copied now are not, until all is done. */
static int empty_kept_segments(struct session *s, uint32_t group, struct broker_job *job, struct job_scratch *scratch) {
    uint32_t first = job->moved_count;
    keep_begin(s);
    empty_segments(s, group, job);
    int code = job_commit(s, job, scratch, false);
    if (code < 0)
        return code;
    for (uint32_t i = first; i < job->moved_count; i++) {
        segment_free(s, job->moved_ids[i]);
        job->groups[group].freed++;
    }
    keep_trim(s);
    return 0;
}

int session_group_cut(struct session *s, uint32_t group, uint32_t pages, struct broker_job *job,
                      struct job_scratch *scratch) {
    struct session_group *g = &s->groups[group];

    for (uint32_t h = g->first_head; h < g->first_head + g->heads; h++) {
        struct session_head *head = &s->heads[h];
        assert(head->history.settled <= pages * SCISSOR_PAGE_ROWS);
        while (head->pages > pages)
            page_give(s, head->page[--head->pages]);
        head->detail_pages = head->detail_pages < pages ? head->detail_pages : pages;
        /* Without memory for a smaller copy the larger one stays. */
        (void)history_resize(&head->history, pages * SCISSOR_PAGE_ROWS);
    }
    g->pages = pages;
    if (s->keep)
        return empty_kept_segments(s, group, job, scratch);
    empty_segments(s, group, job);
    return 0;
}
