/* session.c - the memory of a session that is there from open to close, and the page that tells the client about it.
 *
 * Runs in the session's jobs. A half-built session is released like a whole one: what is not there is NULL. */
#include "session.h"

#include <assert.h>
#include <stdatomic.h>
#include <string.h>

#include "alloc.h"
#include "scissor_error.h"

/* Addresses of fresh buffers and places in the control page, head by head. */
void session_place_heads(struct session *s) {
    struct layout_fresh walk = {0, 0};
    uint32_t size = (uint32_t)kernel_dtype_size(s->compute_dtype);
    uint32_t words = sizeof(struct proto_control) / sizeof(uint32_t);

    for (uint32_t i = 0; i < s->group_count; i++) {
        const struct session_group *g = &s->groups[i];
        for (uint32_t h = g->first_head; h < g->first_head + g->heads; h++) {
            struct layout_place place = layout_fresh_next(&walk, size, s->fresh_rows, g->head_dim);
            s->heads[h].fresh = s->segments[place.segment].address + place.offset;
            s->heads[h].control = words;
            words += proto_control_head_words(g->max_pages);
        }
    }
}

int session_bookkeeping_new(struct session *s) {
    s->clocks = scissor_calloc(s->layer_count, sizeof *s->clocks);
    s->heads = scissor_calloc(s->head_count, sizeof *s->heads);
    s->shown = scissor_calloc(s->head_count, sizeof *s->shown);
    s->shown_next = scissor_calloc(s->head_count, sizeof *s->shown_next);
    s->segments = scissor_calloc(s->fresh_segments, sizeof *s->segments);
    if (!s->clocks || !s->heads || !s->shown || !s->shown_next || !s->segments)
        return SCISSOR_ENOMEM;
    s->segment_capacity = s->fresh_segments;
    for (uint32_t i = 0; i < s->group_count; i++) {
        const struct session_group *g = &s->groups[i];
        for (uint32_t l = g->first_layer; l < g->first_layer + g->layers; l++)
            if (history_clock_init(&s->clocks[l], g->blocks, s->fresh_rows) < 0)
                return SCISSOR_ENOMEM;
        for (uint32_t h = 0; h < g->heads; h++) {
            const struct history_clock *clock = &s->clocks[g->first_layer + h / g->kv_heads];
            struct history *history = &s->heads[g->first_head + h].history;
            if (history_init(history, g->planes, g->extras, s->fresh_rows, clock) < 0)
                return SCISSOR_ENOMEM;
            history->head = h;
        }
    }
    return 0;
}

static int allocate_memory(struct session *s) {
    struct kernel_backend *device = s->pool->config.backend, *host = s->pool->host;

    for (uint32_t i = 0; i < s->fresh_segments; i++) {
        struct session_segment *segment = &s->segments[i];
        if (device->segment_new(device, KERNEL_ACCESS_FRESH, SCISSOR_SEGMENT_BYTES, &segment->memory) < 0)
            return SCISSOR_ENOMEM;
        segment->address = device->segment_address(segment->memory);
    }
    enum kernel_access access = s->keep ? KERNEL_ACCESS_SETTLED_KEPT : KERNEL_ACCESS_SETTLED;
    if (host->segment_new(host, access, s->control_bytes, &s->control) < 0 ||
        host->segment_new(host, KERNEL_ACCESS_FRESH, PROTO_LEASE_BYTES, &s->lease) < 0)
        return SCISSOR_ENOMEM;
    s->control_page = host->segment_address(s->control);
    s->lease_page = host->segment_address(s->lease);
    return device->streams && device->streams->fence_new(device, &s->fence) < 0 ? SCISSOR_ENOMEM : 0;
}

int session_allocate(struct session *s) {
    if (session_bookkeeping_new(s) < 0 || allocate_memory(s) < 0) {
        session_release(s, false, false);
        return SCISSOR_ENOMEM;
    }
    session_place_heads(s);
    s->control_page->magic = PROTO_CONTROL_MAGIC;
    s->control_page->head_count = s->head_count;
    session_write_control(s, 1);
    int code = s->keep ? keep_open(s) : 0;
    if (code < 0)
        session_release(s, false, false);
    return code;
}

void session_release_pages(struct session *s, bool leave) {
    struct kernel_backend *host = s->pool->host;
    s->control = leave ? host->segment_leave(host, s->control) : host->segment_free(host, s->control);
    s->lease = leave ? host->segment_leave(host, s->lease) : host->segment_free(host, s->lease);
    s->control_page = NULL;
    s->lease_page = NULL;
}

/* What is the daemon's own memory. */
static void free_bookkeeping(struct session *s) {
    for (uint32_t i = 0; s->heads && i < s->head_count; i++) {
        history_deinit(&s->heads[i].history);
        scissor_free(s->heads[i].page);
        scissor_free(s->heads[i].address);
    }
    for (uint32_t i = 0; s->clocks && i < s->layer_count; i++)
        history_clock_deinit(&s->clocks[i]);
    s->segments = scissor_free(s->segments);
    s->segment_capacity = 0;
    s->heads = scissor_free(s->heads);
    s->clocks = scissor_free(s->clocks);
    s->shown = scissor_free(s->shown);
    s->shown_next = scissor_free(s->shown_next);
    for (uint32_t i = 0; i < s->group_count; i++)
        s->groups[i].pages = s->groups[i].segments = 0;
}

static void free_fence(struct session *s) {
    struct kernel_backend *device = s->pool->config.backend;
    if (s->fence)
        s->fence = device->streams->fence_free(device, s->fence);
}

void session_release(struct session *s, bool keep_pages, bool leave_rows) {
    struct kernel_backend *device = s->pool->config.backend;

    if (s->keep)
        keep_close(s);
    if (keep_pages) /* not before: a next process that took the session over would give it back */
        session_lease_keep(s);
    for (uint32_t i = 0; s->segments && i < s->segment_capacity; i++)
        if (leave_rows && device->revocable)
            device->segment_leave(device, s->segments[i].memory);
        else
            device->segment_free(device, s->segments[i].memory);
    free_fence(s);
    free_bookkeeping(s);
    if (!keep_pages)
        session_release_pages(s, false);
}

void session_abandon(struct session *s) {
    free_fence(s);
    free_bookkeeping(s);
    session_release_pages(s, true);
}

void session_leave(struct session *s) {
    struct kernel_backend *device = s->pool->config.backend;

    if (!s->pool->keeps) {
        session_abandon(s);
        return;
    }
    if (s->keep)
        keep_leave(s);
    for (uint32_t i = 0; s->segments && i < s->segment_capacity; i++)
        device->segment_leave(device, s->segments[i].memory);
    free_bookkeeping(s);
    session_release_pages(s, true);
}

void session_write_control(struct session *s, uint64_t generation) {
    uint32_t *words = (uint32_t *)s->control_page;
    for (uint32_t h = 0; h < s->head_count; h++) {
        const struct session_head *head = &s->heads[h];
        uint32_t *entry = words + head->control;
        entry[0] = head->history.settled;
        entry[1] = head->pages;
        if (head->pages)
            memcpy(entry + 2, head->page, head->pages * sizeof *head->page);
    }
    /* A client that reads the new generation must find all of the above. */
    __atomic_store_n(&s->control_page->generation, generation, __ATOMIC_RELEASE);
}

/* ---------- what is shown of the heads ---------- */

static uint32_t float_bits(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

/* Sum of the `count` smallest of n values, none of which is negative, so that their bits are in the same order as
 * they are. By one byte at a time from the top, as policy.c selects its keys, because a client chooses its masses: a
 * quickselect could be made to take the square of n. Overwrites `values`. */
static double sum_lowest(float *values, uint32_t n, uint32_t count) {
    double sum = 0;
    for (int shift = 24; shift >= 0 && count < n; shift -= 8) {
        uint32_t counts[256] = {0}, byte = 0, kept = 0, rank = count;
        for (uint32_t i = 0; i < n; i++)
            counts[float_bits(values[i]) >> shift & 255]++;
        while (rank > counts[byte])
            rank -= counts[byte++];
        for (uint32_t i = 0; i < n; i++) {
            uint32_t its = float_bits(values[i]) >> shift & 255;
            if (its < byte)
                sum += values[i];
            else if (its == byte)
                values[kept++] = values[i];
        }
        n = kept;
        count = rank;
    }
    for (uint32_t i = 0; i < count; i++) /* all that are left, or equal ones */
        sum += values[i];
    return sum;
}

/* Mass on the `lowest` least important slots where no query row has judged any, as scores were lost: as if it rose
 * evenly from slot to slot. Sessions that are measured come to about that, so nobody wins by sending no scores. */
static double mass_unjudged(uint32_t settled, uint32_t lowest) {
    double part = settled > lowest ? (double)lowest / settled : 1;
    return part * part;
}

/* Mean mass per query row on the head's `lowest` least important slots, and its share of that on all slots (-1 if there
 * is none). */
static void measure_mass(const struct history *h, uint32_t lowest, float *values, double *ret_share,
                         double *ret_lowest) {
    uint32_t n = 0;
    double all = 0;
    for (uint32_t i = 0; i < h->settled; i++) {
        uint64_t seen = history_seen(h, i);
        if (!seen)
            continue; /* no query row has judged it yet */
        values[n] = (float)(h->mass[i] / (double)seen);
        all += values[n++];
    }
    double low = sum_lowest(values, n, n < lowest ? n : lowest);
    *ret_share = all > 0 ? low / all : -1;
    *ret_lowest = n || !h->settled ? low : mass_unjudged(h->settled, lowest);
}

/* Bucket of a row's age; see proto_head_stat. */
static uint32_t age_bucket(uint64_t age) {
    uint32_t bucket = 0;
    for (uint64_t end = PROTO_AGE_BUCKET_FIRST; age > end && bucket + 1 < PROTO_AGE_BUCKETS; end *= 4)
        bucket++;
    return bucket;
}

/* `tokens` are those that the session has seen by now. */
static void measure_head(struct session *s, const struct session_group *g, uint32_t index, uint64_t tokens,
                         float *values, struct proto_head_stat *stat, double *ret_lowest) {
    const struct session_head *head = &s->heads[index];
    const struct history *h = &head->history;
    uint32_t within = index - g->first_head;

    *stat = (struct proto_head_stat){
        .layer = g->first_layer + within / g->kv_heads,
        .kv_head = within % g->kv_heads,
        .settled = h->settled,
        .pages = head->pages,
        .oldest = h->settled ? UINT32_MAX : 0,
        .lowest_share = -1,
        .mass = h->settled_share,
    };
    memcpy(stat->evicted, head->evicted, sizeof stat->evicted);
    for (uint32_t i = 0; i < h->settled; i++) {
        if (h->position[i] < stat->oldest)
            stat->oldest = h->position[i];
        if (h->position[i] > stat->newest)
            stat->newest = h->position[i];
        stat->age[age_bucket(tokens - h->position[i])]++;
    }
    *ret_lowest = 0;
    if (h->mass && values)
        measure_mass(h, s->fresh_rows, values, &stat->lowest_share, ret_lowest);
}

void session_measure(struct session *s, struct broker_job *job, float *values) {
    uint64_t tokens = job->tokens_seen + (job->kind == JOB_SETTLE ? job->rows : 0);
    for (uint32_t i = 0; i < s->group_count; i++) {
        const struct session_group *g = &s->groups[i];
        double sum = 0, lowest;
        uint64_t rows = 0;
        for (uint32_t h = g->first_head; h < g->first_head + g->heads; h++) {
            measure_head(s, g, h, tokens, values, &s->shown_next[h], &lowest);
            sum += lowest;
            rows += s->shown_next[h].settled;
        }
        job->groups[i].value = sum / g->heads;
        job->groups[i].rows = (uint32_t)(rows / g->heads);
    }
}
