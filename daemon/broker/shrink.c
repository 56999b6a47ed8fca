/* shrink.c - makes a group of a session smaller, row by row and then segment by segment; part of a job.
 *
 * The policy says which rows go; rows from the end fill their slots, so that the settled slots stay dense. */
#include <assert.h>

#include "placement.h"
#include "redo.h"
#include "scissor_error.h"
#include "work.h"

static int shrink_head(struct session *s, struct broker_job *job, const struct session_group *g, uint32_t index,
                       uint32_t rows, enum proto_reason reason, struct job_scratch *scratch) {
    struct kernel_backend *device = s->pool->config.backend;
    struct session_head *head = &s->heads[index];
    struct history *h = &head->history;
    uint32_t count = h->settled - rows, tail_count;

    policy_victims(&g->policy, h, rows, job->tokens_seen, count, scratch->policy, scratch->victims);
    uint32_t after = placement_plan(h->settled, 0, 0, scratch->victims, count, NULL, scratch->tail, &tail_count);
    struct kernel_shrink item = {.pages = head->address,
                                 .moves = scratch->tail,
                                 .move_count = tail_count,
                                 .head_dim = g->head_dim,
                                 .storage_dtype = (uint8_t)s->storage_dtype};
    if (s->keep)
        redo_add_rows(s, index, NULL, 0, scratch->tail, tail_count);
    else if (tail_count && device->shrink(device, &item, 1) < 0)
        return SCISSOR_ESYSTEM;
    for (uint32_t i = 0; i < tail_count; i++)
        history_move(h, scratch->tail[i].from, scratch->tail[i].to);
    history_truncate(h, after);
    assert(after == rows);
    head->evicted[reason] += count;
    job->evicted[reason] += count;
    return 0;
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
        if (s->heads[h].history.settled > rows) {
            int code = shrink_head(s, job, g, h, rows, job->groups[group].reason, scratch);
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
