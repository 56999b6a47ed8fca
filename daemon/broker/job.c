/* job.c - runs the job of a session; on any thread, with nothing in hand but the session. */
#include <assert.h>
#include <stdatomic.h>

#include <errno.h>
#include <stdio.h>

#include "alloc.h"
#include "work.h"

/* Moves of one batch that settle_rows() hands to the device: enough to keep it busy, and bounded. */
#define BATCH_MOVES 32768u

/* How long a settle waits for the client's work on the device while nobody else wants the thread. A client that knows
 * its step's sums has nothing left there. */
#define CLIENT_WORK_US 2000u

static void scratch_deinit(struct job_scratch *scratch) {
    scissor_free(scratch->victims);
    scissor_free(scratch->policy);
    scissor_free(scratch->tail);
    scissor_free(scratch->values);
    scissor_free(scratch->moves);
    scissor_free(scratch->items);
    scissor_free(scratch->plans);
    scissor_free(scratch->norms);
    scissor_free(scratch->norm_items);
    details_scratch_deinit(&scratch->details);
    scissor_free(scratch->row_details);
}

static int scratch_init_norms(struct job_scratch *scratch, const struct session *s) {
    bool wanted = false;
    for (uint32_t i = 0; i < s->group_count; i++)
        wanted |= s->groups[i].policy.class->norms;
    if (!wanted)
        return 0;
    scratch->norms = scissor_malloc((size_t)scratch->batch_heads * s->fresh_rows * sizeof *scratch->norms);
    scratch->norm_items = scissor_malloc(scratch->batch_heads * sizeof *scratch->norm_items);
    return scratch->norms && scratch->norm_items ? 0 : SCISSOR_ENOMEM;
}

static int scratch_init_details(struct job_scratch *scratch, const struct session *s, uint32_t slots) {
    if (!layout_has_details(s->storage_dtype))
        return 0;
    scratch->row_details = scissor_malloc((size_t)scratch->batch_heads * s->fresh_rows * sizeof *scratch->row_details);
    return scratch->row_details ? details_scratch_init(&scratch->details, slots) : SCISSOR_ENOMEM;
}

/* Takes the memory that the job and its results need. */
static int scratch_init(struct job_scratch *scratch, struct session *s, struct broker_job *job) {
    uint32_t slots = 1, slots_after = 1, segments = 1, grants = 1;
    for (uint32_t i = 0; i < s->group_count; i++) {
        uint32_t pages = s->groups[i].pages;
        uint32_t pages_after = job->groups[i].want_pages > pages ? job->groups[i].want_pages : pages;
        slots = pages * SCISSOR_PAGE_ROWS > slots ? pages * SCISSOR_PAGE_ROWS : slots;
        slots_after = pages_after * SCISSOR_PAGE_ROWS > slots_after ? pages_after * SCISSOR_PAGE_ROWS : slots_after;
        segments += s->groups[i].segments;
        grants += job->groups[i].grant;
    }
    uint32_t batch = BATCH_MOVES / s->fresh_rows;
    scratch->batch_heads = batch < s->head_count ? batch : s->head_count;
    scratch->victims = scissor_malloc(slots * sizeof *scratch->victims);
    scratch->policy = scissor_malloc(history_scratch_bytes(slots));
    scratch->tail = scissor_malloc(slots * sizeof *scratch->tail);
    scratch->values = scissor_malloc(slots_after * sizeof *scratch->values);
    scratch->moves = scissor_malloc((size_t)scratch->batch_heads * s->fresh_rows * sizeof *scratch->moves);
    scratch->items = scissor_malloc(scratch->batch_heads * sizeof *scratch->items);
    scratch->plans = scissor_malloc(scratch->batch_heads * sizeof *scratch->plans);
    job->moved_ids = scissor_malloc(segments * sizeof *job->moved_ids);
    job->grown_ids = scissor_malloc(grants * sizeof *job->grown_ids);
    return scratch->victims && scratch->policy && scratch->tail && scratch->values && scratch->moves &&
                   scratch->items && scratch->plans && job->moved_ids && job->grown_ids &&
                   scratch_init_norms(scratch, s) == 0
               ? scratch_init_details(scratch, s, slots_after)
               : SCISSOR_ENOMEM;
}

int job_commit(struct session *s, struct broker_job *job, struct job_scratch *scratch, bool settled) {
    struct keep_counts after = job->counts;
    uint64_t evicted = 0;
    after.generation = job->generation + 1;
    for (uint32_t i = 0; i < PROTO_REASON_COUNT; i++) {
        after.evicted[i] += job->evicted[i];
        evicted += job->evicted[i];
    }
    if (settled) {
        after.tokens_seen += job->rows;
        after.settles++;
        after.last_evicted = evicted;
        after.last_lost = job->scores_lost;
        after.spoilt = false;
    }
    return keep_commit(s, &after, scratch->items, scratch->batch_heads);
}

static int shrink_groups(struct session *s, struct broker_job *job, struct job_scratch *scratch) {
    for (uint32_t i = 0; i < s->group_count; i++) {
        if (job->groups[i].target_pages > s->groups[i].pages)
            continue;
        int code = shrink_group(s, job, i, job->groups[i].target_pages, scratch);
        if (code < 0)
            return code;
        job->changed = true;
    }
    return 0;
}

/* Allocates what was granted. Where the machine has no memory after all, the group stays smaller and evicts. */
static void grow_group(struct session *s, struct broker_job *job, uint32_t group) {
    struct job_group *orders = &job->groups[group];
    uint32_t id;
    while (orders->grown < orders->grant && session_segment_add(s, group, &id) == 0) {
        orders->grown++;
        job->grown_ids[job->grown_count++] = id;
    }
    (void)session_group_grow(s, group, orders->want_pages);
}

/* A device with streams does what it is told later. Its stream never waits for a client, as all sessions share it: what
 * the host has looked at, its client may have recorded again by then, for work that does not end. What is queued after
 * the host has seen the event comes after the client's work anyway. 0, -EAGAIN or another errno. */
static int wait_for_client(struct session *s, uint32_t timeout_us) {
    struct kernel_backend *device = s->pool->config.backend;
    return device->streams ? device->streams->fence_wait(device, s->fence, false, timeout_us) : 0;
}

/* From here on the client sees what was done: it is done, or the client's stream waits for it. */
static int publish(struct session *s) {
    struct kernel_backend *device = s->pool->config.backend;
    const struct kernel_streams *streams = device->streams;
    return streams ? streams->fence_signal(device, s->fence, streams->own(device)) : device->synchronise(device);
}

static int finish(struct session *s, struct broker_job *job, struct job_scratch *scratch) {
    if (job->changed && publish(s) < 0)
        return SCISSOR_ESYSTEM;
    if (job->changed)
        session_write_control(s, job->generation + 1);
    session_measure(s, job, scratch->values);
    return 0;
}

static int run_settle(struct session *s, struct broker_job *job, struct job_scratch *scratch) {
    int r = wait_for_client(s, job->hurried ? 0 : CLIENT_WORK_US);
    if (r < 0)
        return r == -EAGAIN ? SCISSOR_ESTATE : SCISSOR_ESYSTEM;
    int code = shrink_groups(s, job, scratch);
    if (code < 0)
        return code;
    for (uint32_t i = 0; i < s->group_count; i++)
        grow_group(s, job, i);
    job->changed = true;
    code = settle_rows(s, job, scratch);
    return code < 0 ? code : finish(s, job, scratch);
}

bool session_lease_take(struct session *s) {
    uint32_t expected = PROTO_LEASE_FREE;
    return __atomic_compare_exchange_n(&s->lease_page->word, &expected, PROTO_LEASE_DAEMON, false, __ATOMIC_ACQ_REL,
                                       __ATOMIC_RELAXED);
}

void session_lease_keep(struct session *s) {
    __atomic_store_n(&s->lease_page->word, PROTO_LEASE_DAEMON, __ATOMIC_SEQ_CST);
}

static void lease_give(struct session *s) {
    uint32_t expected = PROTO_LEASE_DAEMON; /* whatever else a client has written there is its own affair */
    __atomic_compare_exchange_n(&s->lease_page->word, &expected, PROTO_LEASE_FREE, false, __ATOMIC_ACQ_REL,
                                __ATOMIC_RELAXED);
}

static int run_shrink(struct session *s, struct broker_job *job, struct job_scratch *scratch) {
    int r = job->take_lease ? wait_for_client(s, 0) : 0;
    job->lease_refused = r == -EAGAIN;
    if (r < 0)
        return job->lease_refused ? 0 : SCISSOR_ESYSTEM;
    int code = shrink_groups(s, job, scratch);
    return code < 0 ? code : finish(s, job, scratch);
}

static int run_with_scratch(struct session *s, struct broker_job *job) {
    struct job_scratch scratch = {0};
    session_free_released(s, job);
    int code = scratch_init(&scratch, s, job);
    if (code == 0)
        code = job->kind == JOB_SETTLE ? run_settle(s, job, &scratch) : run_shrink(s, job, &scratch);
    scratch_deinit(&scratch);
    return code;
}

void broker_job_hurry(struct broker_job *job) {
    job->hurried = true;
}

bool broker_job_is_bulk(const struct broker_job *job) {
    return job->kind == JOB_OPEN || job->kind == JOB_CLOSE;
}

/* What failed with the device, or is queued on it, is lost, whatever else it looked like. (A session that has opened is
 * ended after it.) */
static void note_loss(struct session *s, struct broker_job *job) {
    struct kernel_backend *device = s->pool->config.backend;
    if (!device->streams || !device->streams->lost(device))
        return;
    if (job->kind != JOB_OPEN || job->code < 0)
        job->code = SCISSOR_EDEVICELOST;
    snprintf(job->why, sizeof job->why, "%s", kernel_backend_why());
}

void broker_job_run(struct broker_job *job) {
    struct session *s = job->session;
    assert(job->running);

    if (job->take_lease && !session_lease_take(s)) {
        job->lease_refused = true;
        return;
    }
    switch (job->kind) {
    case JOB_OPEN:
        job->code = session_allocate(s);
        if (job->code == 0)
            session_measure(s, job, NULL);
        break;
    case JOB_CLOSE:
        session_release(s, job->keep_pages, job->leave_rows);
        break;
    case JOB_SETTLE:
    case JOB_SHRINK:
        job->code = run_with_scratch(s, job);
        break;
    }
    note_loss(s, job);
    /* A session that is being closed or will be, as it is broken, keeps its lease: its client must not go on. */
    if (job->take_lease && job->kind == JOB_SHRINK && !job_broke(job))
        lease_give(s);
}
