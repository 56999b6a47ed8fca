/* settle.c - moves the fresh rows of every head into settled slots, evicting what the budget asks for; part of a job.
 *
 * Heads are planned one by one and handed to the device in batches (one call moves many heads' rows). A head whose
 * policy drops more than it needs ends its batch, as the rows from its end must move after the fresh ones. Of a session
 * that is kept for the next process, all heads are planned first (keep.h). */
#include <assert.h>

#include "placement.h"
#include "redo.h"
#include "scissor_error.h"
#include "work.h"

static void plan_head(struct session *s, struct broker_job *job, const struct session_group *g, uint32_t index,
                      struct job_scratch *scratch, struct kernel_move *moves, struct settle_plan *ret_plan) {
    struct session_head *head = &s->heads[index];
    const struct history *h = &head->history;
    uint32_t cap = session_group_cap(g);
    uint64_t next = job->tokens_seen + job->rows;
    uint32_t rows = policy_settle_count(&g->policy, h, cap, next, job->rows); /* the newest; older ones go unsettled */
    uint32_t count = policy_victim_count(&g->policy, h->settled, rows, cap);
    uint32_t evicted = count + (job->rows - rows);

    if (count)
        policy_victims(&g->policy, h, cap, next, count, scratch->policy, scratch->victims);
    *ret_plan = (struct settle_plan){.head = index, .moves = moves, .tail = scratch->tail, .move_count = rows};
    if (h->detail) {
        ret_plan->details = scratch->row_details + (moves - scratch->moves);
        details_plan(&g->policy, h, next, head->pages, scratch->victims, count, rows, &scratch->details,
                     scratch->policy, ret_plan->details);
    }
    ret_plan->after = placement_plan(h->settled, job->rows - rows, rows, scratch->victims, count, moves, scratch->tail,
                                     &ret_plan->tail_count);
    assert(ret_plan->after <= cap);
    enum proto_reason reason = cap < g->max_settled ? PROTO_REASON_PRESSURE : PROTO_REASON_BUDGET;
    head->evicted[reason] += evicted;
    job->evicted[reason] += evicted;
}

/* `norms` are those of the job's fresh rows; NULL if the policy does not weigh rows by them. */
static void commit_head(struct session *s, struct broker_job *job, const struct settle_plan *plan, const float *norms,
                        struct details_scratch *details) {
    struct history *h = &s->heads[plan->head].history;
    for (uint32_t i = 0; plan->details && i < plan->move_count; i++)
        if (plan->details[i] != KERNEL_NONE)
            details_take(h, details, plan->details[i]);
    for (uint32_t i = 0; i < plan->move_count; i++) {
        uint32_t from = plan->moves[i].from, to = plan->moves[i].to;
        history_settle(h, from, to, (uint32_t)(job->tokens_seen + from));
        if (norms)
            job->bad_scores += !history_set_norm(h, to, norms[from]);
        if (!plan->details || plan->details[i] == KERNEL_NONE)
            continue;
        h->detail[to] = plan->details[i];
        details_wrote(details, plan->details[i], to);
    }
    for (uint32_t i = 0; i < plan->tail_count; i++)
        history_move(h, plan->tail[i].from, plan->tail[i].to);
    history_truncate(h, plan->after);
}

/* The same for rows that have detail slots; then their owners in memory are what the history says. */
static int commit_detailed_head(struct session *s, struct broker_job *job, const struct session_group *g,
                                const struct settle_plan *plan, const float *norms, struct details_scratch *details) {
    struct kernel_backend *device = s->pool->config.backend;
    struct session_head *head = &s->heads[plan->head];
    details_begin(&head->history, head->detail_pages, head->pages, details);
    commit_head(s, job, plan, norms, details);
    details_end(&head->history, head->pages, details);
    head->detail_pages = head->pages;
    struct kernel_shrink item = {.pages = head->address,
                                 .owners = details->owners,
                                 .owner_count = details->owner_count,
                                 .head_dim = g->head_dim,
                                 .storage_dtype = (uint8_t)s->storage_dtype};
    if (s->keep)
        redo_add_details(s, plan->head, NULL, 0, details->owners, details->owner_count);
    else if (details->owner_count && device->shrink(device, &item, 1) < 0)
        return SCISSOR_ESYSTEM;
    return 0;
}

/* The norms of a batch's fresh rows, at most F for each head. They wait in the scratch memory until the rows have
 * moved: the slots are others' before. */
static int batch_norms(struct session *s, const struct broker_job *job, const struct session_group *g,
                       const struct job_scratch *scratch, uint32_t count) {
    struct kernel_backend *device = s->pool->config.backend;
    for (uint32_t i = 0; i < count; i++)
        scratch->norm_items[i] = (struct kernel_norms){.fresh = s->heads[scratch->plans[i].head].fresh,
                                                       .count = job->rows,
                                                       .fresh_rows = s->fresh_rows,
                                                       .head_dim = g->head_dim,
                                                       .compute_dtype = (uint8_t)s->compute_dtype,
                                                       .norms = scratch->norms + (size_t)i * s->fresh_rows};
    return device->v_norms(device, scratch->norm_items, count) < 0 ? SCISSOR_ESYSTEM : 0;
}

/* Moves the rows of a batch; only its last head may have moves from its end. */
static int move_batch(struct session *s, const struct session_group *g, const struct job_scratch *scratch,
                      uint32_t count) {
    struct kernel_backend *device = s->pool->config.backend;
    for (uint32_t i = 0; i < count; i++) {
        const struct session_head *head = &s->heads[scratch->plans[i].head];
        scratch->items[i] = (struct kernel_settle){.fresh = head->fresh,
                                                   .pages = head->address,
                                                   .moves = scratch->plans[i].moves,
                                                   .details = scratch->plans[i].details,
                                                   .move_count = scratch->plans[i].move_count,
                                                   .fresh_rows = s->fresh_rows,
                                                   .head_dim = g->head_dim,
                                                   .compute_dtype = (uint8_t)s->compute_dtype,
                                                   .storage_dtype = (uint8_t)s->storage_dtype};
    }
    if (device->settle(device, scratch->items, count) < 0)
        return SCISSOR_ESYSTEM;
    const struct settle_plan *last = &scratch->plans[count - 1];
    struct kernel_shrink tail = {.pages = s->heads[last->head].address,
                                 .moves = last->tail,
                                 .move_count = last->tail_count,
                                 .head_dim = g->head_dim,
                                 .storage_dtype = (uint8_t)s->storage_dtype};
    return last->tail_count && device->shrink(device, &tail, 1) < 0 ? SCISSOR_ESYSTEM : 0;
}

/* Moves the rows of a batch, or lists the moves: those of a session that is kept are made when all are listed. */
static int run_batch(struct session *s, struct broker_job *job, const struct session_group *g,
                     struct job_scratch *scratch, uint32_t count) {
    bool norms = g->policy.class->norms;
    if (count == 0)
        return 0;
    if (norms && batch_norms(s, job, g, scratch, count) < 0)
        return SCISSOR_ESYSTEM;
    if (!s->keep && move_batch(s, g, scratch, count) < 0)
        return SCISSOR_ESYSTEM;
    for (uint32_t i = 0; i < count; i++) {
        const struct settle_plan *plan = &scratch->plans[i];
        if (s->keep)
            redo_add_rows(s, plan->head, plan->moves, plan->details, plan->move_count, plan->tail, plan->tail_count);
        const float *row_norms = norms ? scratch->norms + (size_t)i * s->fresh_rows : NULL;
        if (!plan->details)
            commit_head(s, job, plan, row_norms, NULL);
        else if (commit_detailed_head(s, job, g, plan, row_norms, &scratch->details) < 0)
            return SCISSOR_ESYSTEM;
    }
    return 0;
}

static int settle_group(struct session *s, struct broker_job *job, const struct session_group *g,
                        struct job_scratch *scratch) {
    uint32_t count = 0;
    for (uint32_t h = g->first_head; h < g->first_head + g->heads; h++) {
        struct settle_plan *plan = &scratch->plans[count];
        plan_head(s, job, g, h, scratch, scratch->moves + (size_t)count * s->fresh_rows, plan);
        count++;
        if (plan->tail_count == 0 && count < scratch->batch_heads)
            continue;
        int code = run_batch(s, job, g, scratch, count);
        if (code < 0)
            return code;
        count = 0;
    }
    return run_batch(s, job, g, scratch, count);
}

/* The period is over for all heads: the next frames count for the next block. */
static void next_period(struct session *s, const struct session_group *g) {
    for (uint32_t l = g->first_layer; l < g->first_layer + g->layers; l++)
        history_clock_next(&s->clocks[l]);
    for (uint32_t h = g->first_head; h < g->first_head + g->heads; h++)
        history_next_block(&s->heads[h].history);
}

int settle_rows(struct session *s, struct broker_job *job, struct job_scratch *scratch) {
    if (s->keep)
        keep_begin(s);
    for (uint32_t i = 0; i < s->group_count; i++) {
        int code = settle_group(s, job, &s->groups[i], scratch);
        if (code < 0)
            return code;
        next_period(s, &s->groups[i]);
    }
    return s->keep ? job_commit(s, job, scratch, true) : 0;
}
