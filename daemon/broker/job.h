/* job.h - the work of one session that may run on another thread: what it is told, and what came of it.
 *
 * The job is embedded in its session: a session has at most one, so starting one cannot fail. The broker's thread
 * fills in the orders, queues it and leaves alone everything of the session that session.h marks as the job's until
 * broker_job_done(); the job touches nothing else. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "control.h"
#include "keep.h"
#include "scissor_error.h"

struct session;

enum job_kind {
    JOB_OPEN,   /* allocate what is there from the start */
    JOB_SETTLE, /* shrink if wanted, grow as far as charged, settle */
    JOB_SHRINK, /* with the lease: give pages back */
    JOB_CLOSE,  /* free everything */
};

#define JOB_NO_TARGET UINT32_MAX

struct job_group {
    /* orders */
    uint32_t target_pages;    /* shrink to so many pages per head, and to the maximum, first; JOB_NO_TARGET */
    enum proto_reason reason; /* why it shrinks: PRESSURE, or OPERATOR, as the maximum was lowered */
    uint32_t want_pages;      /* then grow to so many */
    uint32_t grant;           /* with at most so many new segments: they are charged */
    /* results */
    uint32_t grown, moved, freed; /* segments allocated, taken from the client, and freed */
    double value;
    uint32_t rows; /* settled, of a head in the mean */
};

struct broker_job {
    struct session *session;
    enum job_kind kind;
    bool running; /* from its queueing to broker_job_done() */
    /* orders */
    bool take_lease;     /* do nothing if the client holds it */
    bool hurried;        /* SETTLE: wait for nothing */
    bool keep_pages;     /* CLOSE: the control page and the lease page stay */
    bool leave_rows;     /* CLOSE: rows stay for a client that may be reading them */
    uint32_t rows;       /* SETTLE: fresh rows */
    uint64_t generation; /* of the control page when the job began */
    uint64_t tokens_seen;
    struct keep_counts counts; /* when the job began; of a session that is kept */
    bool scores_lost;          /* SETTLE: it goes on without all of them */
    struct job_group groups[PROTO_MAX_GROUPS];
    /* results */
    /* 0; why nothing was changed (ENOMEM; ESTATE: the client's work on the device has not ended); or ESYSTEM or
     * EDEVICELOST: the session is broken */
    int code;
    char why[128];      /* of EDEVICELOST: the backend's text */
    bool lease_refused; /* the client held it, or its work on the device has not ended: nothing was done */
    bool changed;       /* a new generation was written */
    uint64_t evicted[PROTO_REASON_COUNT];
    uint64_t bad_scores;             /* norms that were not finite */
    uint32_t *grown_ids, *moved_ids; /* segments that came; that went (allocated by the job, freed when done) */
    uint32_t grown_count, moved_count;
};

/* The device failed in the middle of it: what the session holds is worth nothing. */
static inline bool job_broke(const struct broker_job *job) {
    return job->code == SCISSOR_ESYSTEM || job->code == SCISSOR_EDEVICELOST;
}
