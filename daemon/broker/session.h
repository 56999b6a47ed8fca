/* session.h - one client's cache: its shape, its memory, its heads, and where it stands.
 *
 *     session
 *       groups[]    layers of one kind: shape, budget, policy, account
 *       clocks[]    one a layer
 *       heads[]     one a (layer, KV head): history, page list, fresh buffer
 *       segments[]  by id: fresh ones first, then settled ones of 2 MiB, each of one group
 *       control     page that the client reads: generation, settled counts, page lists
 *       lease       page that both write; nothing read in it is trusted
 *
 * Who may touch what: fields marked "job" belong to the session's job while it runs (job.running) and to the broker's
 * thread otherwise; everything else belongs to the broker's thread. What the broker shows of the former at any time
 * (shown_*) are copies taken when a job is done. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "action.h"
#include "control_page.h"
#include "history.h"
#include "job.h"
#include "policy.h"
#include "pool.h"

#define SESSION_SEGMENT_IDS (1u << 22)
#define SESSION_PAGES_PER_SEGMENT_MAX LAYOUT_PAGES_PER_SEGMENT_MAX

enum segment_state {
    SEGMENT_ACTIVE,
    SEGMENT_QUARANTINED, /* empty, but its client may still have it mapped */
    SEGMENT_RELEASED,    /* the client has unmapped it: the next job frees it */
};

struct session_segment {
    struct kernel_segment *memory; /* NULL: this id is free */
    char *address;
    uint32_t group; /* of settled ones */
    uint64_t kept;  /* number of its name in the store; 0: it is not kept */
    enum segment_state state;
    uint32_t used;           /* pages in use */
    uint64_t quarantined_ns; /* since when its client is to close it */
    uint64_t map[SESSION_PAGES_PER_SEGMENT_MAX / 64];
};

struct session_head {
    struct history history;
    uint32_t *page; /* PROTO_PAGE words */
    void **address; /* of each page */
    uint32_t pages, page_capacity;
    uint32_t detail_pages; /* of these, whose detail slots have the owners that the history says (details.h) */
    void *fresh;
    uint32_t control; /* this head's entry in the control page, as an index of 32-bit words */
    uint64_t evicted[PROTO_REASON_COUNT];
};

struct session_group {
    /* fixed at open */
    uint32_t layers, kv_heads, q_heads, head_dim;
    uint32_t first_layer, first_head, heads;
    uint32_t opened_guaranteed_rows, opened_max_rows; /* as asked: fresh rows included */
    uint32_t max_pages;                               /* per head: what the control page has room for */
    uint32_t page_bytes, pages_per_segment;
    uint64_t segment_cost; /* bytes charged for one settled segment: memory and bookkeeping */
    struct policy policy;
    uint32_t planes, extras, threshold, blocks;
    /* broker; rows are kept for the daemon's next process (keep_counts), as is the session's priority */
    uint32_t guaranteed_rows, max_rows; /* as they were set at last */
    uint32_t guaranteed_pages;          /* per head */
    bool lowered;                       /* holds more than max_settled, so rows have to go */
    struct pool_account account;
    uint32_t target_pages;                            /* the arbiter wants the group shrunk to this; JOB_NO_TARGET */
    uint32_t shown_pages, shown_segments, shown_rows; /* rows: settled ones of a head, in the mean */
    uint32_t quarantined;                             /* segments that wait for the client to release them */
    double value; /* attention mass per query that the F least important rows carry */
    /* job */
    /* as they were when the job began: max_rows without the fresh ones, and guaranteed_pages, for which the store has
     * room */
    uint32_t max_settled, promised_pages;
    uint32_t pages;    /* per head */
    uint32_t segments; /* active */
};

/* What the client asked for and has no answer to yet. */
struct session_request {
    uint16_t type; /* enum proto_attach_type; 0: nothing */
    uint32_t number;
    union {
        struct proto_settle settle;
        struct proto_positions positions;
    };
};

struct session {
    struct session *prev, *next; /* all sessions of the broker, or its peer's ended ones */
    struct session *hash_next;
    struct session *queue_prev, *queue_next; /* the pool's queue, or a list of those that wait to settle */
    uint64_t id;
    uint8_t token[PROTO_TOKEN_BYTES];
    char name[PROTO_NAME_BYTES];
    struct broker_peer *peer;     /* NULL: gone */
    struct broker_peer *recorder; /* reads along; NULL: nobody */
    uint32_t pid, uid;
    struct pool *pool;
    enum proto_session_state state;

    /* shape */
    uint32_t compute_dtype, storage_dtype, fresh_rows, opened_priority;
    uint32_t group_count, layer_count, head_count, fresh_segments;
    uint32_t control_bytes;
    uint64_t base_cost, guaranteed_cost; /* bytes: without settled segments; with the guaranteed ones */
    struct session_group groups[PROTO_MAX_GROUPS];

    struct keep *keep; /* for the next process; NULL: it ends with this one */

    /* broker */
    struct pool_account account; /* of everything but settled segments */
    uint32_t priority;           /* as it was set at last */
    bool keep_limits;            /* budgets or priority are not in the snapshot yet */
    uint32_t keep_extra;         /* descriptors promised by the store that are not in keep->room yet */
    struct session_request asked;
    uint64_t deadline;   /* of waiting for memory, or for scores */
    bool queued;         /* in its pool's queue */
    bool expired;        /* in the queue past its deadline, because jobs that make room are on their way */
    uint64_t last_ns;    /* last message */
    uint64_t opened_ns;  /* when it was asked for, or taken over */
    uint64_t sequence;   /* of the last score frame */
    bool scores_missing; /* of this period: not all came, or not all could be used */
    bool waits_for_room; /* its settle; if not, then for scores */
    bool in_steps;       /* its client held the lease when the daemon wanted it last */
    bool settle_lost;    /* the settle that runs goes on without all of its scores */
    /* Its client was told to close segments, and has until then before nobody counts on it. */
    uint64_t release_by;
    bool releasing;
    uint64_t shrink_after; /* tried in vain, as the client held the lease: not again before this, or its next settle */
    bool ending;           /* is to be closed as soon as no job runs */
    bool close_asked;
    enum proto_reason end_reason;
    uint64_t end_deadline, end_retry; /* of a close that waits for a step to end */
    uint64_t rows_held;               /* settled rows when the close began */
    bool ended;       /* closed by the operator; only its two pages are left, for a client that may look at them */
    bool orphan;      /* taken over, and its client has not come back */
    int client_pidfd; /* of a client whose end is waited for; -1 */
    uint64_t orphan_deadline; /* UINT64_MAX: its process lives and has not been heard of */
    uint64_t quarantined_ns;  /* since when it, or the oldest segment of it that is, is in quarantine; or 0 */
    uint64_t process_look, process_pause; /* when it is looked whether its client's process is gone, and how often */
    bool told;                            /* CLOSED was sent */
    uint64_t last_evicted;                /* rows, by the last settle */
    bool last_lost;                       /* that went on without all of its scores */
    bool spoilt;                          /* taken over in the middle of a period: none of its scores count */
    uint64_t generation, tokens_seen, settles, scores_lost, evicted[PROTO_REASON_COUNT];
    uint64_t checked_generation, checked_sequence; /* what broker_check() has seen */
    uint64_t segments_shown;                       /* segments allocated, of any kind and state */
    uint32_t *released, released_count;            /* segment ids that RELEASED named while a job ran */
    struct proto_head_stat *shown;                 /* [head_count] */
    struct action job_action;
    struct broker_job job;

    /* job */
    struct history_clock *clocks;
    struct session_head *heads;
    struct proto_head_stat *shown_next; /* [head_count], swapped with `shown` when a job is done */
    struct session_segment *segments;
    uint32_t segment_capacity;
    struct kernel_segment *control, *lease;
    struct kernel_fence *fence; /* orders the device's work with the client's; NULL: it has no streams */
    struct proto_control *control_page;
    struct proto_lease *lease_page;
};

/* ---------- shape (shape.c) ---------- */

/* Fills in the shape and what it costs from a request whose fields are valid (admission_check.c). */
void session_shape(struct session *s, const struct proto_open *open);
/* Settled segments that hold `pages` pages of every head of the group. */
uint64_t session_group_segments(const struct session_group *group, uint64_t pages);
/* Ids of segments that a session of this shape can come to. */
uint64_t session_id_limit(const struct session *s);
static inline uint64_t session_round(uint64_t bytes) {
    return (bytes + 4095) / 4096 * 4096;
}
/* What is charged for a session that has ended while its client may still look at its pages. */
uint64_t session_ended_cost(const struct session *s);

/* ---------- memory (session.c), in jobs ---------- */

/* Allocates what is there from the start. 0, ENOMEM, or why it cannot be kept (ELIMIT, ESYSTEM); then nothing is left.
 */
int session_allocate(struct session *s);
/* Heads, clocks, the table of segments: what of it is the daemon's own memory. 0 or ENOMEM, then session_release(). */
int session_bookkeeping_new(struct session *s);
/* Addresses of fresh buffers and places in the control page, when the fresh segments are there. */
void session_place_heads(struct session *s);
/* As session_release(), but nothing is revoked: the store has the descriptors. */
void session_leave(struct session *s);
/* The same where the device's memory ends with the process: it may still be open elsewhere, so nothing frees it before.
 */
void session_abandon(struct session *s);
/* Frees whatever there is. With `keep_pages` the two pages stay, and the lease is the daemon's; with `leave_rows` rows
 * are left to a client that may be reading them, where they could be taken away. */
void session_release(struct session *s, bool keep_pages, bool leave_rows);
/* With `leave` the two pages stay as they are for whoever has them mapped. */
void session_release_pages(struct session *s, bool leave);
/* Takes the lease for the daemon; false if the client has it. When no job runs, on the broker's thread as well. */
bool session_lease_take(struct session *s);
/* The lease is the daemon's from now on, whoever had it: no step begins any more. */
void session_lease_keep(struct session *s);
/* Writes counts and page lists, then the new generation. */
void session_write_control(struct session *s, uint64_t generation);
/* Fills in shown_next and the groups' values after a job. `values` has room for the slots of one head, or is NULL. */
void session_measure(struct session *s, struct broker_job *job, float *values);

/* ---------- pages (pages.c), in jobs ---------- */

/* Room for that id in the table; 0 or ENOMEM. */
int session_segment_reserve(struct session *s, uint32_t id);
/* Room for so many pages of a head and their rows; 0 or ENOMEM. */
int session_head_reserve(struct session_head *head, uint32_t pages);
void *session_page_address(const struct session *s, uint32_t page);
/* One more settled segment for a group; 0 or SCISSOR_ENOMEM. */
int session_segment_add(struct session *s, uint32_t group, uint32_t *ret_id);
/* Gives an empty segment back: frees it at once if the backend revokes, else puts it into quarantine. True if freed. */
bool session_segment_remove(struct session *s, uint32_t id);
/* Frees what the client has released; counts per group are added to the job's. */
void session_free_released(struct session *s, struct broker_job *job);
/* Brings every head of the group to `pages` pages, as the segments allow; 0, or SCISSOR_ENOMEM and nothing changed. */
int session_group_grow(struct session *s, uint32_t group, uint32_t pages);
/* Takes the pages beyond `pages` off every head (their rows are gone), then empties and gives back segments. 0, or
 * ESYSTEM if the device failed. */
struct job_scratch;
int session_group_cut(struct session *s, uint32_t group, uint32_t pages, struct broker_job *job,
                      struct job_scratch *scratch);

/* Whether s->shown may be looked at: there is something, and no job that opens or closes owns it. */
static inline bool session_shows_heads(const struct session *s) {
    return s->state != PROTO_SESSION_OPENING && s->state != PROTO_SESSION_CLOSING;
}

/* Most slots that a head can have with the pages it has now. */
static inline uint32_t session_group_cap(const struct session_group *group) {
    uint64_t rows = (uint64_t)group->pages * SCISSOR_PAGE_ROWS;
    return rows < group->max_settled ? (uint32_t)rows : group->max_settled;
}
