/* shrink.c - makes a group of a session smaller, row by row and then segment by segment; part of a job.
 *
 * The policy says which rows go; rows from the end fill their slots, so that the settled slots stay dense. */
#include <assert.h>

#include "placement.h"
#include "redo.h"
#include "scissor_error.h"
#include "work.h"

/* Rows that are left have their details in the pages that are left. */
static int shrink_details(struct session *s, const struct session_group *g, struct session_head *head, uint32_t pages,
                          uint64_t next_position, struct job_scratch *scratch) {
    struct kernel_backend *device = s->pool->config.backend;
    struct details_scratch *details = &scratch->details;
    details_shrink(&g->policy, &head->history, next_position, head->pages, pages, details, scratch->policy);
    head->detail_pages = head->pages;
    struct kernel_shrink item = {.pages = head->address,
                                 .detail_moves = details->moves,
                                 .detail_move_count = details->move_count,
                                 .owners = details->owners,
                                 .owner_count = details->owner_count,
                                 .head_dim = g->head_dim,
                                 .storage_dtype = (uint8_t)s->storage_dtype};
    if (s->keep)
        redo_add_details(s, (uint32_t)(head - s->heads), details->moves, details->move_count, details->owners,
                         details->owner_count);
    else if (details->move_count + details->owner_count && device->shrink(device, &item, 1) < 0)
        return SCISSOR_ESYSTEM;
    return 0;
}

static int shrink_head(struct session *s, struct broker_job *job, const struct session_group *g, uint32_t index,
                       uint32_t rows, uint32_t pages, enum proto_reason reason, struct job_scratch *scratch) {
    struct kernel_backend *device = s->pool->config.backend;
    struct session_head *head = &s->heads[index];
    struct history *h = &head->history;
    uint32_t count = h->settled > rows ? h->settled - rows : 0, tail_count;

    if (h->detail)
        details_begin(h, head->detail_pages, head->pages, &scratch->details);
    policy_victims(&g->policy, h, rows, job->tokens_seen, count, scratch->policy, scratch->victims);
    uint32_t after = placement_plan(h->settled, 0, 0, scratch->victims, count, NULL, scratch->tail, &tail_count);
    struct kernel_shrink item = {.pages = head->address,
                                 .moves = scratch->tail,
                                 .move_count = tail_count,
                                 .head_dim = g->head_dim,
                                 .storage_dtype = (uint8_t)s->storage_dtype};
    if (s->keep)
        redo_add_rows(s, index, NULL, NULL, 0, scratch->tail, tail_count);
    else if (tail_count && device->shrink(device, &item, 1) < 0)
        return SCISSOR_ESYSTEM;
    for (uint32_t i = 0; i < tail_count; i++)
        history_move(h, scratch->tail[i].from, scratch->tail[i].to);
    history_truncate(h, after);
    assert(after <= rows);
    head->evicted[reason] += count;
    job->evicted[reason] += count;
    return h->detail ? shrink_details(s, g, head, pages, job->tokens_seen, scratch) : 0;
}

int shrink_group(struct session *s, struct broker_job *job, uint32_t group, uint32_t pages,
                 struct job_scratch *scratch) {
    const struct session_group *g = &s->groups[group];
    uint32_t rows = pages * SCISSOR_PAGE_ROWS;
    if (rows > g->max_settled)
        rows = g->max_settled;

    if (s->keep)
        keep_begin(s);
    for (uint32_t h = g->first_head; h < g->first_head + g->heads; h++)
        if (s->heads[h].history.settled > rows || s->heads[h].history.detail) {
            int code = shrink_head(s, job, g, h, rows, pages, job->groups[group].reason, scratch);
            if (code < 0)
                return code;
        }
    if (s->keep) {
        int code = job_commit(s, job, scratch, false);
        if (code < 0)
            return code;
    }
    return session_group_cut(s, group, pages, job, scratch);
}
