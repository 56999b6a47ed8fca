/* work.h - what the jobs are made of: shrink.c and settle.c, run by job.c on whatever thread the caller likes. */
#pragma once

#include "details.h"
#include "session.h"

/* Memory that a job needs on the way, taken before it changes anything, so that it cannot fail half-way. */
struct job_scratch {
    uint32_t *victims;        /* for the slots of the largest head */
    void *policy;             /* what policy_victims() asks for */
    struct kernel_move *tail; /* for the slots of the largest head */
    float *values;            /* the same, after growth */
    /* settles are handed to the device in batches */
    struct kernel_move *moves;   /* [batch_heads * F] */
    struct kernel_settle *items; /* [batch_heads] */
    struct settle_plan *plans;   /* [batch_heads] */
    uint32_t batch_heads;
    /* NULL unless a group's policy weighs rows by their norms */
    float *norms;                    /* [batch_heads * F] */
    struct kernel_norms *norm_items; /* [batch_heads] */
    /* without arrays unless the session's dtype has details */
    struct details_scratch details;
    uint32_t *row_details; /* [batch_heads * F] */
};

struct settle_plan {
    uint32_t head;
    const struct kernel_move *moves, *tail;
    uint32_t *details; /* of each move, or NULL */
    uint32_t move_count, tail_count;
    uint32_t after; /* settled rows then */
};

/* Shrinks a group to `pages` pages per head: rows beyond go by policy, then segments are emptied. 0, or SCISSOR_ESYSTEM
 * if the device failed. */
int shrink_group(struct session *s, struct broker_job *job, uint32_t group, uint32_t pages,
                 struct job_scratch *scratch);
/* Publishes what the session is after a change, and makes it so (keep.h); `settled`: its rows are, too. 0 or
 * SCISSOR_ESYSTEM. */
int job_commit(struct session *s, struct broker_job *job, struct job_scratch *scratch, bool settled);
/* Settles job->rows fresh rows of every head. 0 or SCISSOR_ESYSTEM. */
int settle_rows(struct session *s, struct broker_job *job, struct job_scratch *scratch);
