/* replay.c - see replay.h.
 *
 * Rows are known by their position. For speed each head keeps two lists that point at each other: which slot of the
 * trace holds a row that the policy has kept, and the other way round. A slot of the trace that gets another row leaves
 * the kept one without scores: the recording session had evicted it. */
#include "replay.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "alloc.h"
#include "placement.h"
#include "scissor_error.h"

static const char *const plane_names[PROTO_PLANE_COUNT] = {"mass", "hits", "last"};

static int no_memory(struct replay *r) {
    snprintf(r->why, sizeof r->why, "out of memory");
    return SCISSOR_ENOMEM;
}

/* ---------- beginning and end ---------- */

/* Whether the trace has what the policy wants. */
static int has_scores(struct replay *r, const struct policy *p, const struct trace_group *traced) {
    uint32_t planes = p->class->planes(p);
    uint32_t threshold = p->class->threshold ? p->class->threshold(p) : 0;
    for (uint32_t i = 0; i < PROTO_PLANE_COUNT; i++) {
        if (!(planes & ~traced->planes & 1u << i))
            continue;
        snprintf(r->why, sizeof r->why,
                 "policy \"%s\" needs the scores \"%s\", which a session of policy \"%s\" does not send; record one "
                 "that does",
                 p->class->name, plane_names[i], traced->policy);
        return SCISSOR_EINVAL;
    }
    const char *what = p->class->norms && !traced->norms ? "the |V| of its rows"
                       : (planes & PROTO_PLANE_HITS) && threshold != traced->threshold
                           ? "hits of another threshold than the trace's"
                           : NULL;
    if (!what)
        return 0;
    snprintf(r->why, sizeof r->why, "policy \"%s\" needs %s, which a session of policy \"%s\" has not", p->class->name,
             what, traced->policy);
    return SCISSOR_EINVAL;
}

static int group_init(struct replay *r, struct replay_group *g, const struct trace_group *traced,
                      const struct replay_spec *spec) {
    struct proto_group ask = {.max_rows = spec->budget ? spec->budget : traced->max_rows};
    proto_text_set(ask.policy, sizeof ask.policy, spec->policy ? spec->policy : traced->policy);
    memcpy(ask.params, spec->policy ? spec->params : traced->params, sizeof ask.params);
    if (ask.max_rows <= r->fresh_rows || ask.max_rows > PROTO_MAX_ROWS) {
        snprintf(r->why, sizeof r->why, "the budget must be %u to %u rows (the fresh buffer has %u), not %u",
                 r->fresh_rows + 1, PROTO_MAX_ROWS, r->fresh_rows, ask.max_rows);
        return SCISSOR_EINVAL;
    }
    g->planes = traced->planes;
    g->layers = traced->layers;
    g->kv_heads = traced->kv_heads;
    g->first_layer = r->layer_count;
    g->first_head = r->head_count;
    g->room = ask.max_rows - r->fresh_rows;
    r->layer_count += g->layers;
    r->head_count += g->layers * g->kv_heads;
    int code = policy_init(&g->policy, traced->policy, &ask, r->fresh_rows, r->why, sizeof r->why);
    return code ? code : has_scores(r, &g->policy, traced);
}

static int heads_init(struct replay *r, const struct replay_group *g) {
    const struct policy *p = &g->policy;
    uint32_t blocks = p->class->window_blocks ? p->class->window_blocks(p) : 0;
    for (uint32_t l = 0; l < g->layers; l++) {
        struct history_clock *clock = &r->clocks[g->first_layer + l];
        if (history_clock_init(clock, blocks, r->fresh_rows) < 0)
            return no_memory(r);
        for (uint32_t k = 0; k < g->kv_heads; k++) {
            struct history *h = &r->heads[g->first_head + l * g->kv_heads + k].history;
            if (history_init(h, p->class->planes(p), p->class->norms, r->fresh_rows, clock) < 0)
                return no_memory(r);
            h->head = l * g->kv_heads + k;
        }
    }
    return 0;
}

int replay_init(struct replay *r, const struct trace_shape *shape, const struct replay_spec *spec) {
    *r = (struct replay){.fresh_rows = shape->fresh_rows};
    int code = 0;
    for (uint32_t i = 0; i < shape->group_count && code == 0; i++, r->group_count++)
        code = group_init(r, &r->groups[i], &shape->groups[i], spec);
    if (code)
        return code;
    r->clocks = scissor_calloc(r->layer_count, sizeof *r->clocks);
    r->mass = scissor_calloc(r->layer_count, sizeof *r->mass);
    r->heads = scissor_calloc(r->head_count, sizeof *r->heads);
    if (!r->clocks || !r->mass || !r->heads)
        return no_memory(r);
    for (uint32_t i = 0; i < r->group_count && code == 0; i++)
        code = heads_init(r, &r->groups[i]);
    return code;
}

void replay_deinit(struct replay *r) {
    for (uint32_t i = 0; r->heads && i < r->head_count; i++) {
        struct replay_head *head = &r->heads[i];
        history_deinit(&head->history);
        scissor_free(head->traced);
        scissor_free(head->position);
        scissor_free(head->norm);
        scissor_free(head->holder);
    }
    for (uint32_t i = 0; r->clocks && i < r->layer_count; i++)
        history_clock_deinit(&r->clocks[i]);
    scissor_free(r->heads);
    scissor_free(r->clocks);
    scissor_free(r->mass);
    scissor_free(r->values);
    scissor_free(r->mine);
    scissor_free(r->scratch);
    scissor_free(r->victims);
    scissor_free(r->tail);
    r->heads = NULL;
    r->clocks = NULL;
}

const struct replay_group *replay_group_of(const struct replay *r, uint32_t layer) {
    const struct replay_group *g = r->groups;
    while (layer - g->first_layer >= g->layers)
        g++;
    return g;
}

uint32_t replay_head_index(const struct replay_group *g, uint32_t layer, uint32_t kv_head) {
    return g->first_head + (layer - g->first_layer) * g->kv_heads + kv_head;
}

/* ---------- room ---------- */

/* Gives the array room for so many; false, and as it was, if there is no memory. */
#define GROW(array, count)                                                   \
    ({                                                                       \
        void *memory_ = scissor_realloc((array), (count) * sizeof *(array)); \
        (array) = memory_ ? memory_ : (array);                               \
        memory_ != NULL;                                                     \
    })

static size_t enough(size_t wanted) {
    size_t count = 256;
    while (count < wanted)
        count *= 2;
    return count;
}

/* For `slots` of the trace. */
static int trace_reserve(struct replay *r, struct replay_head *head, uint32_t slots) {
    if (slots <= head->capacity)
        return 0;
    size_t count = enough(slots);
    if (!GROW(head->position, count) || !GROW(head->norm, count) || !GROW(head->holder, count))
        return no_memory(r);
    head->capacity = (uint32_t)count;
    return 0;
}

/* For `slots` of the policy, which are its room at most. */
static int kept_reserve(struct replay *r, struct replay_head *head, uint32_t slots) {
    size_t count = enough(slots);
    if (slots > head->history.capacity &&
        (!GROW(head->traced, count) || history_resize(&head->history, (uint32_t)count) < 0))
        return no_memory(r);
    if (slots <= r->slot_capacity)
        return 0;
    size_t words = history_scratch_bytes((uint32_t)count) / sizeof *r->scratch;
    if (!GROW(r->scratch, words) || !GROW(r->victims, count) || !GROW(r->tail, count))
        return no_memory(r);
    r->slot_capacity = count;
    return 0;
}

static int values_reserve(struct replay *r, size_t count) {
    if (count <= r->value_capacity)
        return 0;
    count = enough(count);
    if (!GROW(r->values, count) || !GROW(r->mine, count))
        return no_memory(r);
    r->value_capacity = count;
    return 0;
}

/* ---------- what the trace's slots hold ---------- */

/* The slot gets another row. */
static void slot_take(struct replay_head *head, const struct trace_row *row) {
    if (row->slot < head->settled && head->holder[row->slot] != REPLAY_NONE)
        head->traced[head->holder[row->slot]] = REPLAY_NONE;
    head->position[row->slot] = row->position;
    head->norm[row->slot] = row->norm;
    head->holder[row->slot] = REPLAY_NONE;
}

struct placed {
    uint32_t position, slot;
};

static int by_position(const void *left, const void *right) {
    const struct placed *a = left, *b = right;
    return a->position < b->position ? -1 : a->position > b->position;
}

/* After a whole STATE: finds the kept rows again. */
static int find_kept(struct replay *r, struct replay_head *head) {
    struct placed *list = scissor_malloc((head->settled + 1) * sizeof *list);
    if (!list)
        return no_memory(r);
    for (uint32_t i = 0; i < head->settled; i++)
        list[i] = (struct placed){head->position[i], i};
    qsort(list, head->settled, sizeof *list, by_position);
    for (uint32_t i = 0; i < head->history.settled; i++) {
        struct placed key = {.position = head->history.position[i]};
        struct placed *found = bsearch(&key, list, head->settled, sizeof *list, by_position);
        head->traced[i] = found ? found->slot : REPLAY_NONE;
        if (found)
            head->holder[found->slot] = i;
    }
    scissor_free(list);
    return 0;
}

/* Takes a head of a STATE over; *at moves behind it. */
static int read_head(struct replay *r, struct replay_head *head, bool whole, const char **at) {
    struct trace_head from;
    memcpy(&from, *at, sizeof from);
    *at += sizeof from;
    int code = trace_reserve(r, head, from.settled);
    if (code)
        return code;
    if (whole)
        head->settled = 0;
    else if (from.settled < head->settled || from.settled - head->settled > from.count) {
        snprintf(r->why, sizeof r->why, "a state that does not follow from the one before");
        return SCISSOR_EPROTO;
    }
    for (uint32_t i = head->settled; i < from.settled; i++) { /* none of these is left out, unless by a forger */
        head->position[i] = UINT32_MAX;
        head->norm[i] = 0;
        head->holder[i] = REPLAY_NONE;
    }
    for (uint32_t i = 0; i < from.count; i++) {
        struct trace_row row;
        memcpy(&row, *at + i * sizeof row, sizeof row);
        slot_take(head, &row);
    }
    *at += from.count * sizeof(struct trace_row);
    head->settled = from.settled;
    return whole ? find_kept(r, head) : 0;
}

/* ---------- settles ---------- */

/* The trace's slots of positions first .. first + rows - 1; REPLAY_NONE: it does not have the row. */
static void find_fresh(const struct replay_head *head, uint64_t first, uint32_t rows, uint32_t *ret_slot) {
    for (uint32_t j = 0; j < rows; j++)
        ret_slot[j] = REPLAY_NONE;
    for (uint32_t i = 0; i < head->settled; i++)
        if (head->position[i] >= first && head->position[i] - first < rows)
            ret_slot[head->position[i] - first] = i;
}

static void put_row(struct replay_head *head, uint32_t slot, uint32_t traced) {
    head->traced[slot] = traced;
    if (traced != REPLAY_NONE)
        head->holder[traced] = slot;
}

/* Settles rows of one head as the daemon does (settle.c). */
static int settle_head(struct replay *r, const struct replay_group *g, struct replay_head *head, uint64_t first,
                       uint32_t rows) {
    uint32_t slot[PROTO_MAX_FRESH], fresh[PROTO_MAX_FRESH], known = 0, tail_count;
    struct kernel_move moves[PROTO_MAX_FRESH];
    struct history *h = &head->history;

    find_fresh(head, first, rows, slot);
    for (uint32_t j = 0; j < rows; j++)
        if (slot[j] != REPLAY_NONE)
            fresh[known++] = j;
    uint32_t taken = policy_settle_count(&g->policy, h, g->room, first + rows, known); /* the newest */
    uint32_t skipped = known - taken;
    int code = kept_reserve(r, head, h->settled + taken);
    if (code)
        return code;
    uint32_t count = policy_victim_count(&g->policy, h->settled, taken, g->room);
    policy_victims(&g->policy, h, g->room, first + rows, count, r->scratch, r->victims);
    for (uint32_t i = 0; i < count; i++)
        if (head->traced[r->victims[i]] != REPLAY_NONE)
            head->holder[head->traced[r->victims[i]]] = REPLAY_NONE;
    uint32_t after = placement_plan(h->settled, 0, taken, r->victims, count, moves, r->tail, &tail_count);
    for (uint32_t i = 0; i < taken; i++) {
        uint32_t j = fresh[skipped + moves[i].from], to = moves[i].to;
        history_settle(h, j, to, (uint32_t)(first + j));
        if (g->policy.class->norms)
            history_set_norm(h, to, head->norm[slot[j]]);
        put_row(head, to, slot[j]);
    }
    for (uint32_t i = 0; i < tail_count; i++) {
        history_move(h, r->tail[i].from, r->tail[i].to);
        put_row(head, r->tail[i].to, head->traced[r->tail[i].from]);
    }
    history_truncate(h, after);
    return 0;
}

static int settle(struct replay *r, uint32_t rows) {
    for (uint32_t i = 0; i < r->group_count; i++) {
        const struct replay_group *g = &r->groups[i];
        uint32_t heads = g->layers * g->kv_heads;
        for (uint32_t h = g->first_head; h < g->first_head + heads; h++) {
            int code = settle_head(r, g, &r->heads[h], r->tokens, rows);
            if (code)
                return code;
        }
        for (uint32_t l = g->first_layer; l < g->first_layer + g->layers; l++)
            history_clock_next(&r->clocks[l]);
        for (uint32_t h = g->first_head; h < g->first_head + heads; h++)
            history_next_block(&r->heads[h].history);
    }
    r->tokens += rows;
    return 0;
}

/* The first position that a STATE brings and that was not settled before. */
static uint64_t first_new(const struct replay *r, uint64_t end) {
    uint64_t first = end;
    for (uint32_t h = 0; h < r->head_count; h++)
        for (uint32_t i = 0; i < r->heads[h].settled; i++)
            if (r->heads[h].position[i] >= r->tokens && r->heads[h].position[i] < first)
                first = r->heads[h].position[i];
    return first;
}

/* Rows that were settled before the recording began, or while records were lost, settle in one go, without scores. */
static int read_state(struct replay *r, const char *bytes) {
    struct trace_state state;
    const char *at = bytes + sizeof state;
    memcpy(&state, bytes, sizeof state);
    if (state.tokens_seen < r->tokens || (!state.whole && (!r->begun || state.tokens_seen - r->tokens != state.rows))) {
        snprintf(r->why, sizeof r->why, "a state that does not follow from the one before");
        return SCISSOR_EPROTO;
    }
    for (uint32_t h = 0; h < r->head_count; h++) {
        int code = read_head(r, &r->heads[h], state.whole, &at);
        if (code)
            return code;
    }
    r->begun = true;
    r->generation = state.generation;
    r->settles += state.rows > 0;
    uint64_t period = state.tokens_seen - state.rows; /* where the rows begin that this settle is about */
    while (r->tokens < state.tokens_seen) {
        if (state.whole) /* what is not in the trace was gone before */
            r->tokens = first_new(r, period > r->tokens ? period : r->tokens);
        if (r->tokens == state.tokens_seen)
            break;
        uint64_t left = state.tokens_seen - r->tokens, before = left > state.rows ? left - state.rows : left;
        int code = settle(r, (uint32_t)(before < r->fresh_rows ? before : r->fresh_rows));
        if (code)
            return code;
    }
    return 0;
}

/* ---------- frames ---------- */

static const char *bad_frame(const struct replay *r, const struct proto_score *f) {
    if (!r->begun || f->generation != r->generation)
        return "a frame of another state than the last";
    if (f->first_layer >= r->layer_count || f->fresh > r->fresh_rows)
        return "a frame that does not fit the shape";
    const struct replay_group *g = replay_group_of(r, f->first_layer);
    if (f->layer_count > g->layers - (f->first_layer - g->first_layer) || f->planes != g->planes)
        return "a frame that does not fit the shape";
    uint64_t bytes = 0;
    uint32_t head = replay_head_index(g, f->first_layer, 0);
    for (uint32_t i = 0; i < f->layer_count * g->kv_heads; i++)
        for (uint32_t p = 0; p < PROTO_PLANE_COUNT; p++)
            if (f->planes >> p & 1)
                bytes += proto_score_vector_bytes(f->format[p], (size_t)r->heads[head + i].settled + f->fresh);
    if (bytes != f->payload_bytes)
        return "a frame whose size does not fit the slots";
    for (uint32_t l = f->first_layer; l < f->first_layer + f->layer_count; l++)
        if (f->rows > r->fresh_rows - r->clocks[l].period_rows)
            return "more rows in a period than the fresh buffer holds";
    return NULL;
}

static void add_mass(struct replay_mass *m, const struct replay_head *head, const float *values, uint32_t fresh) {
    double settled = 0, kept = 0, rest = 0;
    for (uint32_t i = 0; i < head->settled; i++) {
        settled += values[i];
        kept += head->holder[i] != REPLAY_NONE ? values[i] : 0;
    }
    for (uint32_t j = 0; j < fresh; j++)
        rest += values[head->settled + j];
    m->settled_all += settled;
    m->settled_kept += kept;
    m->all += settled + rest;
    m->kept += kept + rest;
}

/* What is learnt from a vector of mass, whatever the policy makes of it. */
static void see_mass(struct replay *r, const struct proto_score *f, uint32_t layer, uint32_t kv_head,
                     const struct replay_head *head) {
    add_mass(&r->mass[layer], head, r->values, f->fresh);
    if (r->persistence)
        persistence_add(r->persistence, layer, kv_head,
                        &(struct persistence_frame){.first = r->tokens,
                                                    .rows = f->rows,
                                                    .fresh = f->fresh,
                                                    .settled = head->settled,
                                                    .position = head->position,
                                                    .mass = r->values});
}

/* Gives the kept rows their values. */
static int fold_head(struct replay *r, struct replay_head *head, uint32_t plane, uint32_t fresh) {
    struct history *h = &head->history;
    int code = values_reserve(r, (size_t)h->settled + fresh);
    if (code)
        return code;
    for (uint32_t i = 0; i < h->settled; i++)
        r->mine[i] = head->traced[i] != REPLAY_NONE ? r->values[head->traced[i]] : 0;
    memcpy(r->mine + h->settled, r->values + head->settled, fresh * sizeof *r->mine);
    history_fold(h, plane, r->mine, fresh);
    return 0;
}

static int read_frame(struct replay *r, const char *bytes) {
    struct proto_score f;
    uint64_t bad = 0;
    memcpy(&f, bytes, sizeof f);
    const char *why = bad_frame(r, &f), *payload = bytes + sizeof f;
    if (why) {
        snprintf(r->why, sizeof r->why, "%s", why);
        return SCISSOR_EPROTO;
    }
    const struct replay_group *g = replay_group_of(r, f.first_layer);
    uint32_t planes = g->policy.class->planes(&g->policy), first = replay_head_index(g, f.first_layer, 0);
    for (uint32_t i = 0; i < f.layer_count * g->kv_heads; i++) {
        struct replay_head *head = &r->heads[first + i];
        size_t slots = (size_t)head->settled + f.fresh;
        for (uint32_t p = 0; p < PROTO_PLANE_COUNT; p++) {
            if (!(f.planes >> p & 1))
                continue;
            int code = values_reserve(r, slots);
            if (code)
                return code;
            proto_score_decode(f.format[p], payload, slots, r->values, &bad);
            payload += proto_score_vector_bytes(f.format[p], slots);
            if (1u << p == PROTO_PLANE_MASS)
                see_mass(r, &f, f.first_layer + i / g->kv_heads, i % g->kv_heads, head);
            code = planes >> p & 1 ? fold_head(r, head, 1u << p, f.fresh) : 0;
            if (code)
                return code;
        }
    }
    for (uint32_t l = f.first_layer; l < f.first_layer + f.layer_count; l++)
        history_clock_fold(&r->clocks[l], f.rows, f.fresh);
    r->frames++;
    return 0;
}

int replay_record(struct replay *r, uint32_t type, const void *bytes) {
    return type == TRACE_STATE ? read_state(r, bytes) : type == TRACE_FRAME ? read_frame(r, bytes) : 0;
}
