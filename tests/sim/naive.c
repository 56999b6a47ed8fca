/* naive.c - see naive.h. Slow on purpose: clear first. */
#include "naive.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

struct frame {
    uint64_t period; /* settles before it */
    uint32_t rows, fresh;
};

struct entry {
    size_t frame; /* index in the layer's list */
    float mass, hits, last;
};

struct row {
    uint64_t position;
    uint64_t period; /* in which it was fresh */
    uint32_t fresh;  /* which fresh row it was */
    float norm;
    bool detailed;
    size_t entry_count, entry_room;
    struct entry *entries;
};

struct head {
    uint32_t number; /* within the group */
    uint32_t count;
    struct row **slots;
    struct row **fresh; /* F rows of the current period */
};

struct layer {
    size_t frame_count, frame_room;
    struct frame *frames;
    struct head *heads;
};

struct naive {
    uint32_t layers, kv_heads, fresh_rows;
    enum { SCISSORHANDS, STREAMING, WINDOW, PIVOTAL, H2O, TOVA, RANDOM } policy;
    uint32_t window, recent, drop, reading, sinks, seed;
    double share, age;
    uint64_t tokens, period;
    uint32_t details; /* rows of a head that can be detailed */
    struct layer *layer;
};

static void *grown(void *memory, size_t bytes) {
    memory = realloc(memory, bytes ? bytes : 1);
    if (!memory)
        abort();
    return memory;
}

static void *zeroed(size_t count, size_t bytes) {
    return memset(grown(NULL, count * bytes), 0, count * bytes);
}

static struct row *row_new(uint64_t period, uint32_t fresh) {
    struct row *row = zeroed(1, sizeof *row);
    row->period = period;
    row->fresh = fresh;
    return row;
}

static void row_free(struct row *row) {
    free(row->entries);
    free(row);
}

static double param_real(const struct proto_group *group, const char *name, double otherwise) {
    for (size_t i = 0; i < PROTO_MAX_PARAMS; i++)
        if (strcmp(group->params[i].name, name) == 0)
            return group->params[i].value;
    return otherwise;
}

static uint32_t param(const struct proto_group *group, const char *name, uint32_t otherwise) {
    return (uint32_t)param_real(group, name, otherwise);
}

struct naive *naive_new(const struct proto_group *group, uint32_t fresh_rows) {
    struct naive *n = zeroed(1, sizeof *n);
    n->layers = group->layers;
    n->kv_heads = group->kv_heads;
    n->fresh_rows = fresh_rows;
    static const char *const names[] = {"scissorhands", "streaming", "window", "pivotal", "h2o", "tova", "random"};
    while (strcmp(group->policy, names[n->policy]) != 0)
        if (++n->policy > RANDOM)
            abort();
    n->window = param(group, "window", 400);
    n->recent = param(group, "recent", n->policy == PIVOTAL ? 256 : 10);
    n->share = param_real(group, "share", n->policy == PIVOTAL ? 0.3 : 0.5);
    n->age = param_real(group, "age", 1.35);
    n->seed = param(group, "seed", 0);
    n->drop = param(group, "drop", 0);
    n->reading = param(group, "reading", 0);
    n->sinks = param(group, "sinks", 4);
    n->layer = zeroed(n->layers, sizeof *n->layer);
    for (uint32_t l = 0; l < n->layers; l++) {
        n->layer[l].heads = zeroed(n->kv_heads, sizeof(struct head));
        for (uint32_t h = 0; h < n->kv_heads; h++) {
            struct head *head = &n->layer[l].heads[h];
            head->number = l * n->kv_heads + h;
            head->slots = zeroed(1, sizeof *head->slots);
            head->fresh = zeroed(fresh_rows, sizeof *head->fresh);
            for (uint32_t j = 0; j < fresh_rows; j++)
                head->fresh[j] = row_new(0, j);
        }
    }
    return n;
}

struct naive *naive_free(struct naive *n) {
    if (!n)
        return NULL;
    for (uint32_t l = 0; l < n->layers; l++) {
        for (uint32_t h = 0; h < n->kv_heads; h++) {
            struct head *head = &n->layer[l].heads[h];
            for (uint32_t i = 0; i < head->count; i++)
                row_free(head->slots[i]);
            for (uint32_t j = 0; j < n->fresh_rows; j++)
                row_free(head->fresh[j]);
            free(head->slots);
            free(head->fresh);
        }
        free(n->layer[l].heads);
        free(n->layer[l].frames);
    }
    free(n->layer);
    free(n);
    return NULL;
}

/* ---------- scores ---------- */

static void row_log(struct row *row, size_t frame, const struct naive_planes *planes, uint32_t index) {
    if (row->entry_count == row->entry_room) {
        row->entry_room = row->entry_room ? 2 * row->entry_room : 16;
        row->entries = grown(row->entries, row->entry_room * sizeof *row->entries);
    }
    row->entries[row->entry_count++] = (struct entry){
        .frame = frame,
        .mass = planes->mass ? planes->mass[index] : 0,
        .hits = planes->hits ? planes->hits[index] : 0,
        .last = planes->last ? planes->last[index] : 0,
    };
}

bool naive_fold(struct naive *n, uint32_t layer, uint32_t rows, uint32_t fresh, const struct naive_planes *heads) {
    struct layer *l = &n->layer[layer];
    uint32_t so_far = 0;

    assert(rows >= 1 && rows <= fresh && fresh <= n->fresh_rows);
    for (size_t i = 0; i < l->frame_count; i++)
        if (l->frames[i].period == n->period)
            so_far += l->frames[i].rows;
    if (so_far + rows > n->fresh_rows)
        return false;
    if (l->frame_count == l->frame_room) {
        l->frame_room = l->frame_room ? 2 * l->frame_room : 16;
        l->frames = grown(l->frames, l->frame_room * sizeof *l->frames);
    }
    l->frames[l->frame_count] = (struct frame){n->period, rows, fresh};
    for (uint32_t h = 0; h < n->kv_heads; h++) {
        struct head *head = &l->heads[h];
        for (uint32_t i = 0; i < head->count; i++)
            row_log(head->slots[i], l->frame_count, &heads[h], i);
        for (uint32_t j = 0; j < fresh; j++)
            row_log(head->fresh[j], l->frame_count, &heads[h], head->count + j);
    }
    l->frame_count++;
    return true;
}

void naive_set_norm(struct naive *n, uint32_t layer, uint32_t head, uint32_t fresh, float norm) {
    n->layer[layer].heads[head].fresh[fresh]->norm = norm;
}

/* Query rows of a frame that could see a row: all of them once it is settled; while it is fresh, itself and those
 * after it. */
static uint32_t could_see(const struct frame *f, const struct row *row) {
    uint32_t count = 0;
    if (f->period != row->period)
        return f->period > row->period ? f->rows : 0;
    for (uint32_t query = f->fresh - f->rows; query < f->fresh; query++)
        if (query >= row->fresh)
            count++;
    return count;
}

/* The newest settles that the history window spans, the current period being the first of them. */
static bool in_window(const struct naive *n, uint64_t period) {
    uint64_t blocks = 0;
    if (n->policy != SCISSORHANDS)
        return true;
    while (blocks * n->fresh_rows < n->window)
        blocks++;
    return period + blocks > n->period;
}

static struct naive_sums row_sums(const struct naive *n, const struct layer *l, const struct row *row) {
    struct naive_sums s = {.norm = row->norm};
    for (size_t i = 0; i < l->frame_count; i++) {
        uint32_t seen = could_see(&l->frames[i], row);
        s.seen += seen;
        if (in_window(n, l->frames[i].period))
            s.seen_window += seen;
    }
    for (size_t i = 0; i < row->entry_count; i++) {
        const struct entry *e = &row->entries[i];
        s.mass += e->mass;
        s.last = e->last;
        if (in_window(n, l->frames[e->frame].period))
            s.hits += e->hits;
    }
    return s;
}

/* ---------- who goes ---------- */

struct candidate {
    uint32_t slot;
    int class; /* 0: may go, 1: recent, 2: sink */
    float score;
    uint64_t position;
};

static uint64_t lot_step(uint64_t x) {
    x += 0x9e3779b97f4a7c15ull;
    x ^= x >> 30;
    x *= 0xbf58476d1ce4e5b9ull;
    x ^= x >> 27;
    x *= 0x94d049bb133111ebull;
    x ^= x >> 31;
    return x;
}

static float lot(const struct naive *n, const struct head *head, uint64_t position, uint64_t next_position) {
    uint64_t x = lot_step(n->seed);
    x = lot_step(x + head->number);
    x = lot_step(x + next_position);
    x = lot_step(x + position);
    return (float)(x / (1ull << 40));
}

static float row_score(const struct naive *n, const struct layer *l, const struct head *head, const struct row *row,
                       uint64_t next_position) {
    if (n->policy == STREAMING || n->policy == WINDOW)
        return 0; /* all the same: the oldest goes */
    if (n->policy == RANDOM)
        return lot(n, head, row->position, next_position);
    struct naive_sums s = row_sums(n, l, row);
    if (n->policy == PIVOTAL)
        return (float)(s.norm * (s.seen ? s.mass / pow((double)s.seen, n->age) : 1));
    if (n->policy == H2O)
        return (float)s.mass;
    if (n->policy == TOVA)
        return s.seen ? (float)s.last : 1;
    if (n->reading == 1)
        return (float)-((double)s.seen_window - s.hits);
    if (n->reading == 2)
        return (float)s.hits;
    return s.seen_window ? (float)(s.hits / (double)s.seen_window) : 1;
}

/* Newest rows that are protected, of a head that may have `room` settled rows. */
static uint64_t recent_rows(const struct naive *n, uint32_t room) {
    uint64_t share = (uint64_t)(n->share * (room + n->fresh_rows));
    switch (n->policy) {
    case SCISSORHANDS:
        return n->recent > n->fresh_rows ? n->recent : n->fresh_rows;
    case PIVOTAL:
        return n->recent < share ? n->recent : share;
    case H2O:
        return share;
    default:
        return 0;
    }
}

static int row_class(const struct naive *n, const struct row *row, uint32_t room, uint64_t next_position) {
    bool sinks = n->policy == STREAMING || n->policy == PIVOTAL || n->policy == RANDOM;
    if (sinks && row->position < n->sinks)
        return 2;
    return row->position + recent_rows(n, room) >= next_position ? 1 : 0;
}

static int compare(const void *a, const void *b) {
    const struct candidate *x = a, *y = b;
    if (x->class != y->class)
        return x->class < y->class ? -1 : 1;
    if (x->class == 0 && x->score != y->score)
        return x->score < y->score ? -1 : 1;
    return x->position < y->position ? -1 : x->position > y->position;
}

/* The rows of a head that are worth least first, in slots that are no holes; returns how many there are. */
static uint32_t order_rows(const struct naive *n, const struct layer *l, const struct head *head, uint32_t room,
                           uint64_t next, struct candidate *order) {
    uint32_t count = 0;
    for (uint32_t i = 0; i < head->count; i++) {
        const struct row *row = head->slots[i];
        if (row)
            order[count++] =
                (struct candidate){i, row_class(n, row, room, next), row_score(n, l, head, row, next), row->position};
    }
    qsort(order, count, sizeof *order, compare);
    return count;
}

/* Of the detailed rows, all but the `keep` that are worth most, if the details were the budget, lose what they have. */
static void lose_details(const struct naive *n, const struct layer *l, struct head *head, uint32_t keep,
                         uint64_t next) {
    struct candidate *order = zeroed(head->count + 1, sizeof *order);
    uint32_t count = order_rows(n, l, head, n->details, next, order);
    for (uint32_t k = count; k-- > 0;) {
        struct row *row = head->slots[order[k].slot];
        if (row->detailed && keep)
            keep--;
        else
            row->detailed = false;
    }
    free(order);
}

/* Makes holes (NULL) of the `count` rows that are worth least, where there is room for `room`. */
static void evict(const struct naive *n, const struct layer *l, struct head *head, uint32_t room, uint32_t count,
                  uint64_t next) {
    struct candidate *order = zeroed(head->count, sizeof *order);
    order_rows(n, l, head, room, next, order);
    for (uint32_t k = 0; k < count; k++) {
        row_free(head->slots[order[k].slot]);
        head->slots[order[k].slot] = NULL;
    }
    free(order);
}

/* The first hole, or the end. */
static uint32_t first_hole(const struct head *head) {
    uint32_t i = 0;
    while (i < head->count && head->slots[i])
        i++;
    return i;
}

/* Rows from the end fill what holes are left. */
static void close_holes(struct head *head) {
    while (first_hole(head) < head->count) {
        struct row *end = head->slots[head->count - 1];
        if (end)
            head->slots[first_hole(head)] = end;
        head->count--;
    }
}

/* First rows stay where they are, but for half of the room. */
static uint32_t newest_that_stay(const struct naive *n, const struct head *head, uint32_t f, uint32_t cap) {
    uint32_t first = 0;
    for (uint32_t i = 0; i < head->count; i++)
        first += row_class(n, head->slots[i], cap, n->tokens + f) == 2;
    uint32_t left = cap - (first < cap / 2 ? first : cap / 2);
    if (head->count + f <= cap)
        return f;
    return f < left ? f : left;
}

static uint32_t settle_head(struct naive *n, const struct layer *l, struct head *head, uint32_t f, uint32_t cap) {
    uint32_t stay = newest_that_stay(n, head, f, cap);
    uint32_t out = head->count + stay > cap ? head->count + stay - cap : 0;
    uint32_t protect = n->recent > n->fresh_rows ? n->recent : n->fresh_rows;

    if (out > 0 && n->policy == SCISSORHANDS)
        while (out < n->drop && head->count > out + protect)
            out++;
    uint32_t detailed = stay < n->details ? stay : n->details;
    evict(n, l, head, cap, out, n->tokens + f);
    lose_details(n, l, head, n->details - detailed, n->tokens + f);
    head->slots = grown(head->slots, (head->count + stay) * sizeof *head->slots);
    for (uint32_t j = 0; j < f; j++) {
        struct row *row = head->fresh[j];
        row->position = n->tokens + j;
        row->detailed = j >= f - detailed;
        if (j < f - stay) {
            row_free(row);
        } else {
            uint32_t hole = first_hole(head);
            if (hole == head->count)
                head->count++;
            head->slots[hole] = row;
        }
    }
    close_holes(head);
    for (uint32_t j = 0; j < n->fresh_rows; j++) {
        if (j >= f)
            row_free(head->fresh[j]);
        head->fresh[j] = row_new(n->period + 1, j);
    }
    return out + f - stay;
}

uint64_t naive_settle(struct naive *n, uint32_t f, uint32_t cap) {
    uint64_t evicted = 0;
    for (uint32_t l = 0; l < n->layers; l++)
        for (uint32_t h = 0; h < n->kv_heads; h++)
            evicted += settle_head(n, &n->layer[l], &n->layer[l].heads[h], f, cap);
    n->tokens += f;
    n->period++;
    return evicted;
}

uint64_t naive_shrink(struct naive *n, uint32_t target) {
    uint64_t evicted = 0;
    for (uint32_t l = 0; l < n->layers; l++)
        for (uint32_t h = 0; h < n->kv_heads; h++) {
            struct head *head = &n->layer[l].heads[h];
            if (head->count > target) {
                uint32_t out = head->count - target;
                evict(n, &n->layer[l], head, target, out, n->tokens);
                close_holes(head);
                evicted += out;
            }
            lose_details(n, &n->layer[l], head, n->details, n->tokens);
        }
    return evicted;
}

/* ---------- looking in ---------- */

uint64_t naive_tokens(const struct naive *n) {
    return n->tokens;
}

uint32_t naive_settled(const struct naive *n, uint32_t layer, uint32_t head) {
    return n->layer[layer].heads[head].count;
}

uint32_t naive_position(const struct naive *n, uint32_t layer, uint32_t head, uint32_t slot) {
    return (uint32_t)n->layer[layer].heads[head].slots[slot]->position;
}

void naive_set_details(struct naive *n, uint32_t rows) {
    n->details = rows;
}

bool naive_detailed(const struct naive *n, uint32_t layer, uint32_t head, uint32_t slot) {
    return n->layer[layer].heads[head].slots[slot]->detailed;
}

struct naive_sums naive_sums(const struct naive *n, uint32_t layer, uint32_t head, uint32_t slot) {
    return row_sums(n, &n->layer[layer], n->layer[layer].heads[head].slots[slot]);
}
