/* history.c - sums of scores per slot, and the clock that says how many query rows could have added to them.
 *
 * Each history owns two blocks of memory, one for the slots (starting at `birth`) and one for the fresh rows (starting
 * at the first plane that exists); the arrays lie in them one after another, so that a resize either has all of its
 * memory or changes nothing. A session's histories and clocks are touched by one thread at a time: the broker's, or
 * the one that runs the session's job.
 *
 * Sums are f32: counts of rows stay exact up to 2^24. A frame's value is bounded to 0..F, which is all that F query
 * rows of probabilities can add up to, so that no client can drive a sum to infinity. */
#include "history.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "alloc.h"
#include "backend.h"
#include "scissor_error.h"
#include "score.h"

static uint32_t ring_length(uint32_t blocks) {
    return blocks ? blocks : 1;
}

size_t history_slot_bytes(uint32_t planes, uint32_t blocks, uint32_t extras) {
    size_t bytes = 2 * sizeof(uint32_t);
    if (extras & HISTORY_NORMS)
        bytes += sizeof(float);
    if (extras & HISTORY_DETAILS)
        bytes += sizeof(uint32_t);
    if (planes & PROTO_PLANE_MASS)
        bytes += sizeof(float);
    if (planes & PROTO_PLANE_HITS)
        bytes += sizeof(float) * ring_length(blocks);
    if (planes & PROTO_PLANE_LAST)
        bytes += sizeof(float);
    return bytes;
}

size_t history_fresh_bytes(uint32_t planes) {
    size_t bytes = 0;
    for (uint32_t i = 0; i < PROTO_PLANE_COUNT; i++)
        if (planes & 1u << i)
            bytes += sizeof(float);
    return bytes;
}

size_t history_clock_bytes(uint32_t blocks, uint32_t fresh_rows) {
    return (size_t)blocks * sizeof(uint64_t) + (size_t)fresh_rows * sizeof(uint16_t);
}

size_t history_scratch_bytes(uint32_t settled) {
    return (size_t)settled * 2 * sizeof(uint64_t);
}

/* ---------- clock ---------- */

int history_clock_init(struct history_clock *c, uint32_t blocks, uint32_t fresh_rows) {
    assert(fresh_rows <= PROTO_MAX_FRESH);
    char *memory = scissor_calloc(1, history_clock_bytes(blocks, fresh_rows));
    if (!memory)
        return SCISSOR_ENOMEM;
    *c = (struct history_clock){
        .blocks = blocks,
        .block_start = (uint64_t *)memory,
        .fresh_rows = fresh_rows,
        .fresh_seen = (uint16_t *)(memory + (size_t)blocks * sizeof(uint64_t)),
    };
    return 0;
}

void history_clock_deinit(struct history_clock *c) {
    scissor_free(c->block_start);
    *c = (struct history_clock){0};
}

void history_clock_fold(struct history_clock *c, uint32_t rows, uint32_t fresh) {
    assert(rows >= 1 && rows <= fresh && fresh <= c->fresh_rows);
    assert(rows <= c->fresh_rows - c->period_rows);
    uint32_t first = fresh - rows; /* oldest query row of the frame: sees fresh rows 0 .. first */
    for (uint32_t j = 0; j < fresh; j++)
        c->fresh_seen[j] += (uint16_t)(fresh - (j > first ? j : first));
    c->rows += rows;
    c->period_rows += rows;
}

void history_clock_next(struct history_clock *c) {
    if (c->blocks) {
        c->block = (c->block + 1) % c->blocks;
        c->block_start[c->block] = c->rows;
    }
    memset(c->fresh_seen, 0, c->fresh_rows * sizeof *c->fresh_seen);
    c->period_rows = 0;
}

/* Rows folded before the oldest block of the window began: the ring entry after the open one. */
static uint64_t window_start(const struct history_clock *c) {
    return c->blocks ? c->block_start[(c->block + 1) % c->blocks] : 0;
}

/* ---------- one head ---------- */

int history_init(struct history *h, uint32_t planes, uint32_t extras, uint32_t fresh_rows,
                 const struct history_clock *clock) {
    float *fresh = NULL;
    size_t bytes = history_fresh_bytes(planes) * fresh_rows;

    assert(fresh_rows == clock->fresh_rows);
    if (bytes && !(fresh = scissor_calloc(1, bytes)))
        return SCISSOR_ENOMEM;
    *h = (struct history){.planes = planes,
                          .extras = extras,
                          .blocks = clock->blocks,
                          .fresh_rows = fresh_rows,
                          .settled_share = -1,
                          .clock = clock};
    if (planes & PROTO_PLANE_MASS) {
        h->fresh_mass = fresh;
        fresh += fresh_rows;
    }
    if (planes & PROTO_PLANE_HITS) {
        h->fresh_hits = fresh;
        fresh += fresh_rows;
    }
    if (planes & PROTO_PLANE_LAST)
        h->fresh_last = fresh;
    return 0;
}

void history_deinit(struct history *h) {
    scissor_free(h->birth);
    scissor_free(h->fresh_mass ? h->fresh_mass : h->fresh_hits ? h->fresh_hits : h->fresh_last);
    *h = (struct history){0};
}

/* Points the arrays of `h` into a block of history_slot_bytes() * capacity. */
static void lay_out(struct history *h, void *memory, uint32_t capacity) {
    h->capacity = capacity;
    h->birth = memory;
    h->position = h->birth + capacity;
    float *next = (float *)(h->position + capacity);
    if (h->planes & PROTO_PLANE_MASS) {
        h->mass = next;
        next += capacity;
    }
    if (h->planes & PROTO_PLANE_HITS) {
        h->hits = next;
        next += (size_t)ring_length(h->blocks) * capacity;
    }
    if (h->planes & PROTO_PLANE_LAST) {
        h->last = next;
        next += capacity;
    }
    if (h->extras & HISTORY_NORMS) {
        h->norm = next;
        next += capacity;
    }
    if (h->extras & HISTORY_DETAILS)
        h->detail = (uint32_t *)next;
}

int history_resize(struct history *h, uint32_t capacity) {
    assert(capacity >= h->settled);
    if (capacity == h->capacity)
        return 0;
    struct history to = *h;
    to.birth = NULL, to.position = NULL, to.mass = to.hits = to.last = to.norm = NULL, to.detail = NULL;
    to.capacity = 0;
    if (capacity) {
        void *memory = scissor_malloc(history_slot_bytes(h->planes, h->blocks, h->extras) * capacity);
        if (!memory)
            return SCISSOR_ENOMEM;
        lay_out(&to, memory, capacity);
    }
    if (h->settled) {
        memcpy(to.birth, h->birth, h->settled * sizeof *h->birth);
        memcpy(to.position, h->position, h->settled * sizeof *h->position);
        if (h->mass)
            memcpy(to.mass, h->mass, h->settled * sizeof *h->mass);
        for (uint32_t b = 0; h->hits && b < ring_length(h->blocks); b++)
            memcpy(to.hits + (size_t)b * capacity, h->hits + (size_t)b * h->capacity, h->settled * sizeof *h->hits);
        if (h->last)
            memcpy(to.last, h->last, h->settled * sizeof *h->last);
        if (h->norm)
            memcpy(to.norm, h->norm, h->settled * sizeof *h->norm);
        if (h->detail)
            memcpy(to.detail, h->detail, h->settled * sizeof *h->detail);
    }
    scissor_free(h->birth);
    *h = to;
    return 0;
}

/* The hits of the period that is being gathered. */
static float *open_block(const struct history *h) {
    return h->hits + (size_t)h->clock->block * h->capacity;
}

static float bounded(const struct history *h, float value) {
    float most = (float)h->fresh_rows;
    return value > 0 ? (value < most ? value : most) : 0; /* NaN: 0 */
}

/* Returns what was added. */
static double add_up(const struct history *h, float *sums, const float *values, uint32_t count) {
    double sum = 0;
    for (uint32_t i = 0; i < count; i++) {
        float value = bounded(h, values[i]);
        sums[i] += value;
        sum += (double)value;
    }
    return sum;
}

static void replace(const struct history *h, float *sums, const float *values, uint32_t count) {
    for (uint32_t i = 0; i < count; i++)
        sums[i] = bounded(h, values[i]);
}

void history_fold(struct history *h, uint32_t plane, const float *values, uint32_t fresh) {
    assert(h->planes & plane && fresh <= h->fresh_rows);
    const float *fresh_values = values + h->settled;
    switch (plane) {
    case PROTO_PLANE_MASS:
        h->period_settled += add_up(h, h->mass, values, h->settled);
        h->period_fresh += add_up(h, h->fresh_mass, fresh_values, fresh);
        break;
    case PROTO_PLANE_HITS:
        if (h->settled)
            add_up(h, open_block(h), values, h->settled);
        add_up(h, h->fresh_hits, fresh_values, fresh);
        break;
    case PROTO_PLANE_LAST:
        replace(h, h->last, values, h->settled);
        replace(h, h->fresh_last, fresh_values, fresh);
        break;
    }
}

void history_settle(struct history *h, uint32_t fresh, uint32_t slot, uint32_t position) {
    assert(fresh < h->fresh_rows && slot <= h->settled && slot < h->capacity);
    if (slot == h->settled)
        h->settled++;
    h->position[slot] = position;
    h->birth[slot] = (uint32_t)(h->clock->rows - h->clock->fresh_seen[fresh]);
    if (h->mass)
        h->mass[slot] = h->fresh_mass[fresh];
    if (h->hits) {
        for (uint32_t b = 0; b < ring_length(h->blocks); b++)
            h->hits[(size_t)b * h->capacity + slot] = 0;
        open_block(h)[slot] = h->fresh_hits[fresh];
    }
    if (h->last)
        h->last[slot] = h->fresh_last[fresh];
    if (h->norm)
        h->norm[slot] = 0;
    if (h->detail)
        h->detail[slot] = KERNEL_NONE;
}

bool history_set_norm(struct history *h, uint32_t slot, float norm) {
    assert(slot < h->settled && h->norm);
    bool good = isfinite(norm) && norm >= 0;
    h->norm[slot] = good ? norm : 0;
    return good;
}

void history_move(struct history *h, uint32_t from, uint32_t to) {
    assert(from < h->settled && to < h->settled);
    h->position[to] = h->position[from];
    h->birth[to] = h->birth[from];
    if (h->mass)
        h->mass[to] = h->mass[from];
    for (uint32_t b = 0; h->hits && b < ring_length(h->blocks); b++)
        h->hits[(size_t)b * h->capacity + to] = h->hits[(size_t)b * h->capacity + from];
    if (h->last)
        h->last[to] = h->last[from];
    if (h->norm)
        h->norm[to] = h->norm[from];
    if (h->detail)
        h->detail[to] = h->detail[from];
}

void history_truncate(struct history *h, uint32_t settled) {
    assert(settled <= h->settled);
    h->settled = settled;
}

void history_next_block(struct history *h) {
    size_t bytes = h->fresh_rows * sizeof(float);
    if (h->period_settled > 0)
        h->settled_share = h->period_settled / (h->period_settled + h->period_fresh);
    h->period_settled = h->period_fresh = 0;
    if (h->fresh_mass)
        memset(h->fresh_mass, 0, bytes);
    if (h->fresh_hits)
        memset(h->fresh_hits, 0, bytes);
    if (h->fresh_last)
        memset(h->fresh_last, 0, bytes);
    if (h->hits && h->blocks)
        memset(open_block(h), 0, h->settled * sizeof(float));
}

uint64_t history_seen(const struct history *h, uint32_t slot) {
    assert(slot < h->settled);
    return (uint32_t)(h->clock->rows - h->birth[slot]);
}

uint64_t history_seen_window(const struct history *h, uint32_t slot) {
    assert(slot < h->settled);
    uint64_t window = h->clock->rows - window_start(h->clock), seen = history_seen(h, slot);
    return seen < window ? seen : window;
}

float history_hits_window(const struct history *h, uint32_t slot) {
    assert(slot < h->settled && h->hits);
    float sum = 0;
    for (uint32_t b = 0; b < ring_length(h->blocks); b++)
        sum += h->hits[(size_t)b * h->capacity + slot];
    return sum;
}

/* ---------- invariants ---------- */

#define CHECK(condition)  \
    do {                  \
        if (!(condition)) \
            abort();      \
    } while (0)

static void check_clock(const struct history_clock *c) {
    CHECK(c->blocks == 0 ? c->block == 0 : c->block < c->blocks);
    for (uint32_t i = 1; i <= c->blocks; i++) { /* from the oldest block to the open one */
        uint64_t start = c->block_start[(c->block + i) % c->blocks];
        uint64_t end = i < c->blocks ? c->block_start[(c->block + i + 1) % c->blocks] : c->rows;
        CHECK(start <= end);
    }
    CHECK(c->period_rows <= c->fresh_rows && c->period_rows <= c->rows);
    for (uint32_t j = 0; j < c->fresh_rows; j++)
        CHECK(c->fresh_seen[j] <= (j ? c->fresh_seen[j - 1] : c->period_rows));
}

static void check_sums(const float *sums, uint32_t count) {
    for (uint32_t i = 0; sums && i < count; i++)
        CHECK(isfinite(sums[i]) && sums[i] >= 0);
}

void history_check(const struct history *h) {
    check_clock(h->clock);
    CHECK(h->blocks == h->clock->blocks && h->fresh_rows == h->clock->fresh_rows);
    CHECK(h->settled <= h->capacity);
    CHECK(!h->capacity == !h->birth);
    for (uint32_t i = 0; i < h->settled; i++) {
        CHECK(history_seen(h, i) <= h->clock->rows);
        for (uint32_t k = 0; k < i; k++) {
            CHECK(h->position[i] != h->position[k]);
            CHECK(!h->detail || h->detail[i] == KERNEL_NONE || h->detail[i] != h->detail[k]);
        }
    }
    check_sums(h->mass, h->settled);
    check_sums(h->last, h->settled);
    check_sums(h->norm, h->settled);
    for (uint32_t b = 0; h->hits && b < ring_length(h->blocks); b++)
        check_sums(h->hits + (size_t)b * h->capacity, h->settled);
    check_sums(h->fresh_mass, h->fresh_rows);
    check_sums(h->fresh_hits, h->fresh_rows);
    check_sums(h->fresh_last, h->fresh_rows);
    CHECK(h->period_settled >= 0 && h->period_fresh >= 0 && h->settled_share <= 1);
}
