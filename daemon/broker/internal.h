/* internal.h - the broker's own state, and what its files call of each other. All of it is the broker's thread's.
 *
 *     broker.c         new and free, peers, packets in, time
 *     send.c           packets, events and hang-ups out
 *     lifecycle.c      a session from its insertion to its end; starting and finishing jobs
 *     requests.c       SETTLE, POSITIONS, RELEASED, CLOSE
 *     frames.c         score frames
 *     keep.c, snapshot.c, redo.c    what is kept for the next process
 *     take_over.c      what the process before has kept
 *     reattach.c       clients that come back
 *     quarantine.c     sessions that have ended while their client has their memory open
 *     device.c         a device that fails
 *     admission.c      OPEN and the queue for memory; admission_check.c its fields
 *     arbiter.c        who gives memory back
 *     limits.c         budgets and priorities that are set while a session is open
 *     control_ops.c    what scissorctl asks; control_*.c
 *     pass.c           who asks
 *     record.c         who reads along what is folded and settled
 *     job.c, settle.c, shrink.c, session.c, pages.c    what runs in jobs
 *     pool.c, shape.c, action.c, check.c */
#pragma once

#include "action.h"
#include "broker.h"
#include "keep.h"
#include "pool.h"
#include "scissor_error.h"
#include "session.h"

#define BROKER_REMEMBERED 64u               /* changing control requests whose answers are kept */
#define BROKER_CLOSE_GRACE_NS 1000000000ull /* how long the operator's close waits for a step to end */
#define BROKER_CLOSE_RETRY_NS 5000000ull    /* how often it looks */
#define BROKER_SHRINK_RETRY_NS 10000000ull  /* after a lease was refused, while somebody waits for memory */
#define BROKER_RELEASE_NS 200000000ull      /* what a client closes within this time counts as on its way back */
#define BROKER_PRIORITY_MOST 1000u
#define BROKER_POOL_LEAST (1ull << 20)
#define BROKER_POOL_MOST (1ull << 50)
#define BROKER_RECORDERS_MAX 8u
#define BROKER_END_CLIENT PROTO_REASON_COUNT /* end reason: the client asked */

/* What a peer records. */
struct recorder {
    struct session *session; /* NULL: nothing */
    uint64_t next;           /* number of the next record */
    uint32_t unread;         /* bytes on their way */
    bool known;              /* it has been told of every row; else the next STATE has to be whole */
    uint32_t *settled;       /* [head_count] of the last STATE */
};

struct broker_peer {
    struct broker_peer *prev, *next;
    pid_t pid;
    uid_t uid;
    gid_t gid;
    uint32_t capabilities;        /* as HELLO said */
    int pidfd;                    /* -1: not known */
    struct keep_process *process; /* in the store, as soon as it has opened a session; NULL */
    void *data;
    bool greeted, hung_up;
    uint32_t score_socket; /* of one that was greeted */
    uint32_t sessions;     /* its sessions, ended ones included */
    bool has_pass;
    uint8_t pass[PROTO_TOKEN_BYTES]; /* stands for this user in control requests */
    struct session *ended;           /* closed by the operator; their two pages are still there */
    struct recorder recorder;
    struct action hangup;
};

struct broker_remembered {
    struct proto_request request;
    struct proto_answer answer;
};

struct broker {
    struct broker_config config;
    struct pool pools[BROKER_MAX_POOLS];
    uint32_t pool_count;
    uint64_t epoch, started_ns, random_state;
    bool draining, process_ends; /* no new sessions; broker_close_all() was called */
    struct broker_peer *peers;
    uint32_t next_score_socket; /* the first to be looked at */

    struct keeper keeper;      /* without a store nothing is kept */
    uint32_t taken_over, lost; /* sessions at the start */
    uint32_t orphans;          /* of those taken over: their clients have not come back */
    uint32_t quarantined;      /* sessions that have ended, and whose memory cannot be freed yet */

    struct session *sessions; /* in order of their opening, ended ones not included */
    struct session **buckets; /* by id; fixed size, chained through hash_next */
    uint64_t bucket_count;
    uint32_t session_count, session_jobs; /* jobs that are running */
    uint32_t polite;                      /* sessions whose close waits for a step to end */
    uint64_t last_id;
    struct session *waiting; /* for scores, first deadline first */
    struct session *growing; /* settles that wait for memory, first come first */

    struct action *actions, *taken;
    struct action spare_answer; /* for want of memory */
    struct proto_answer spare_bytes;
    uint64_t event_sequence;

    uint64_t frames[PROTO_FRAME_COUNT], bad_scores, front_restarts;
    uint32_t denied; /* control requests of somebody who may not */
    uint32_t recorders;
    float *values; /* one decoded vector of a score frame */
    size_t value_capacity;

    struct broker_remembered remembered[BROKER_REMEMBERED];
    uint32_t remembered_next;
};

/* ---------- broker.c ---------- */

int broker_random(struct broker *b, void *bytes, size_t size);

/* ---------- send.c: without memory for a packet, its peer is hung up ---------- */

/* Nothing more is sent to the peer, and nothing that it says is heard. */
void peer_hang_up(struct broker *b, struct broker_peer *peer);
/* `peer` may be NULL (gone): then nothing happens. */
void send_packet(struct broker *b, struct broker_peer *peer, uint16_t type, uint32_t request, const void *body);
__attribute__((format(printf, 6, 7))) void send_failed(struct broker *b, struct broker_peer *peer, uint32_t request,
                                                       uint64_t session, int code, const char *format, ...);
void send_shrink(struct broker *b, struct session *s, const uint32_t *ids, uint32_t count);
/* GROW packets for the segments named. 0, ENOMEM or ESYSTEM (a segment could not be exported): nothing was sent. */
int send_grow(struct broker *b, struct session *s, uint32_t request, const uint32_t *ids, uint32_t count);
/* All fresh segments as GROW, then OPENED. As send_grow(). */
int send_opened(struct broker *b, struct session *s, uint32_t request);
/* All segments as GROW, then REATTACHED. As send_grow(). */
int send_reattached(struct broker *b, struct session *s, uint32_t request);
void send_event(struct broker *b, const struct proto_event *event);

/* ---------- pass.c ---------- */

/* Root and the daemon's user may change everything. */
bool pass_is_operator(const struct broker *b, uid_t uid);
/* Answers PASS; a peer gets the same one however often it asks. */
void pass_give(struct broker *b, struct broker_peer *peer, uint32_t request);
/* Whose pass it is; NULL: nobody's, or nobody's any more. */
const struct broker_peer *pass_holder(const struct broker *b, const uint8_t token[PROTO_TOKEN_BYTES]);

/* ---------- record.c ---------- */

/* Answers RECORD. */
void record_begin(struct broker *b, struct broker_peer *peer, uint32_t request, const struct proto_record *asked);
void record_read(struct broker_peer *peer, const struct proto_record_read *read);
/* The frame was folded. Each of these does nothing if nobody records the session. */
void record_frame(struct broker *b, struct session *s, const struct proto_score *frame, const uint8_t *payload);
/* The rows have changed: `rows` were settled; 0: it was shrunk. No job runs. */
void record_state(struct broker *b, struct session *s, uint32_t rows);
/* The session ends: its recorder hears of it. */
void record_end(struct broker *b, struct session *s, int code);
/* The peer goes. */
void record_stop(struct broker *b, struct broker_peer *peer);

/* ---------- lifecycle.c ---------- */

struct session *session_find(const struct broker *b, uint64_t id);
void session_insert(struct broker *b, struct session *s);
/* Takes a session that holds no memory any more out of everything and frees it. */
void session_free(struct broker *b, struct session *s);
/* Queues the session's job with the orders that are in s->job.groups. */
void session_start_job(struct broker *b, struct session *s, enum job_kind kind);
/* Nothing runs: what is next? Ends, answers, shrinks or rests. */
void session_next(struct broker *b, struct session *s, uint64_t now);
/* Closes the session as soon as it can be; `reason` is OPERATOR, DEATH or BROKER_END_CLIENT. */
void session_end(struct broker *b, struct session *s, enum proto_reason reason, uint64_t now);
/* Tries again to close a session whose client was in a step. */
void session_retry_close(struct broker *b, struct session *s, uint64_t now);
/* Queues the job that frees the session's memory; with the lease, or as it is no more needed. */
void session_close(struct broker *b, struct session *s, bool take_lease);
/* Gives all charges back but `kept` bytes, which stay promised, too. */
void session_return_charges(struct session *s, uint64_t kept);
/* What its next snapshot says of it, if nothing changes. */
struct keep_counts session_counts(const struct session *s);
/* Nothing of it is in the store any more. */
void session_drop_keep(struct session *s);
/* Frees a session that the operator had closed. */
void session_forget(const struct broker *b, struct session *s);
void session_stop_waiting(struct broker *b, struct session *s);

/* ---------- requests.c ---------- */

void request_arrived(struct broker *b, struct broker_peer *peer, const struct proto_header *header, const void *body,
                     const void *entries, uint64_t now);
/* Goes on with what the session was asked; it is idle. */
void request_run(struct broker *b, struct session *s, uint64_t now);
/* The segments that the client has released meanwhile may be freed by the next job. */
void session_apply_released(struct session *s);
/* Begins the settle that was asked for, with the scores that there are. */
void settle_start(struct broker *b, struct session *s, bool lost, uint64_t now);
/* The same, with the memory that there is. */
void settle_run(struct broker *b, struct session *s, uint64_t now);

/* ---------- growth.c ---------- */

/* True if the session's settle waits for memory that others are giving. */
bool growth_wait(struct broker *b, struct session *s, uint64_t now);
/* Memory has come back, or will not come: goes on with settles that waited for it. */
void growth_look(struct broker *b, const struct pool *pool, uint64_t now);
/* Ends the waits that have lasted too long; the first in the list is the oldest. */
void growth_tick(struct broker *b, uint64_t now);
/* Fills in how far a group grows with the settle that begins, and charges it. */
void growth_plan(struct broker *b, struct session *s, uint32_t group, uint64_t now);

/* ---------- take_over.c, reattach.c ---------- */

/* REATTACH, and its answer when no job runs any more. */
void reattach_answer(struct broker *b, struct session *s);
/* Gives the peer an orphan that it asked to open before its connection ended; false if there is none. */
bool reattach_open(struct broker *b, struct broker_peer *peer, uint32_t request, const struct proto_open *open,
                   uint64_t now);
void reattach_arrived(struct broker *b, struct broker_peer *peer, uint32_t request, const struct proto_reattach *ask,
                      uint64_t now);
/* A process says HELLO: the sessions that it had and does not ask for are waited for from now on. */
void orphans_process_back(struct broker *b, const struct broker_peer *peer, uint64_t now);
/* Ends orphans whose time is up. */
void orphans_tick(struct broker *b, uint64_t now);
uint64_t orphans_deadline(const struct broker *b);
/* Its client is back, or it ends. */
void session_stop_orphan(struct broker *b, struct session *s);

/* ---------- quarantine.c ---------- */

/* Whether the session's memory cannot be freed yet, though it ends. */
bool quarantine_needed(const struct broker *b, const struct session *s);
void quarantine_begin(struct broker *b, struct session *s, uint64_t now);
/* The session leaves it; a job, or the end of the process, is to free its memory. */
void quarantine_end(struct broker *b, struct session *s);
/* Something has changed, or it is time: closes the session if it can be. */
void quarantine_look(struct broker *b, struct session *s, uint64_t now);
void quarantine_tick(struct broker *b, uint64_t now);
uint64_t quarantine_deadline(const struct broker *b);
/* The peer is about to go, and the session's memory may have to wait for its process. */
void quarantine_know_process(struct session *s, const struct broker_peer *peer);
/* Forgets all of them, as this process is about to end. */
void quarantine_abandon(struct broker *b);

/* ---------- device.c ---------- */

/* Notes whether the pool's device has failed; `why`: in words, if that is known, or "". */
void device_note(struct broker *b, struct pool *pool, const char *why);
/* Ends all sessions of a pool whose device has failed. */
void device_look(struct broker *b, struct pool *pool, uint64_t now);

/* ---------- admission.c ---------- */

void admission_open(struct broker *b, struct broker_peer *peer, uint32_t request, const struct proto_open *open,
                    uint64_t now);
/* Memory has come back, or time has passed: who can go on, who has waited long enough? */
void admission_pump(struct broker *b, struct pool *pool, uint64_t now);
/* Takes a session out of the queue. */
void admission_leave(struct session *s);
void admission_drain(struct broker *b, uint64_t now);
uint64_t admission_deadline(const struct pool *pool);
/* In words: ENOMEM, or why the store does not have it. */
const char *admission_why_not_kept(int code);
/* Says no, counts it, and frees the session, which has no account. */
void admission_refuse(struct broker *b, struct session *s, int code, const char *why);

/* admission_check.c: checks every field and fills in what the shape is computed from. 0, or EINVAL with the field, its
 * bounds and its value in `why`. */
int admission_check(const struct broker *b, const struct proto_open *open, struct session *s, char *why,
                    size_t why_bytes);

/* ---------- control_memory.c ---------- */

/* What the session's charge is made of; of one that has ended, too. */
void session_memory(const struct session *s, struct proto_memory_stat *ret);

/* ---------- limits.c ---------- */

/* Takes over budgets that were set while a job ran, as the job must not see them change, and notes whether rows have to
 * go. No job of the session runs. */
void limits_apply(struct session *s);
/* Whether a maximum was set below what the session holds. */
bool limits_lowered(const struct session *s);
/* Fills in what the session's next job has to give back, and why: to the pool, or as a maximum was lowered. */
void limits_order(struct session *s);
/* What is promised for a group with so many guaranteed rows. */
uint64_t limits_promise(const struct session_group *g, uint32_t fresh_rows, uint32_t guaranteed_rows);
/* Sets the rows of each group, which have been checked. 0, or POOL_FULL, POOL_LENT or ELIMIT (the store has no room),
 * and nothing has changed. */
int limits_set_budgets(struct session *s, const struct keep_budget *rows);
void limits_set_priority(struct session *s, uint32_t priority);
/* Writes them down for the daemon's next process if that is still to be done and no job runs. */
void limits_keep(struct session *s);

/* ---------- arbiter.c ---------- */

/* Committed bytes that jobs which run now, or clients that have just been told to, will give back. */
uint64_t arbiter_on_its_way(const struct broker *b, const struct pool *pool);
/* Sets targets so that `bytes` of committed memory come back, and starts what can start. */
void arbiter_reclaim(struct broker *b, struct pool *pool, uint64_t bytes, uint64_t now);
/* The same for a group that could not grow, from those whose rows matter clearly less; `ahead`: that would not be able
 * to, so only from those that take their time. */
void arbiter_make_room(struct broker *b, const struct session *grower, const struct session_group *group,
                       uint64_t bytes, bool ahead, uint64_t now);
/* Starts what could not start when it was asked for, if somebody waits; and when that is due. */
void arbiter_tick(struct broker *b, const struct pool *pool, uint64_t now);
uint64_t arbiter_deadline(const struct broker *b, const struct pool *pool);
/* True if the session has been asked to give memory back. */
bool arbiter_wants(const struct session *s);
/* True if the session's job was told to. */
bool arbiter_asked(const struct session *s);
