/* broker.h - the daemon without its I/O: pools, sessions, history, policies and the arbiter behind one set of calls.
 *
 * The caller (the libuv loop, or a simulator) brings what happened: a peer came, a message or a score frame arrived, a
 * job is done, time passed. The broker changes its state and queues actions; the caller takes them with
 * broker_action_next() after every call and carries them out in order. The broker opens no socket and reads no clock;
 * the only outside calls are to the backend of a pool, and those that touch memory (allocate, settle, shrink, free)
 * happen inside jobs, which the caller may run on another thread: broker_job_run() touches nothing but the job and
 * what the job's session has handed to it. (A session that the operator closed keeps its control page and lease page
 * beyond its last job; those are freed at once.) All other functions belong to one thread.
 *
 * Memory is charged to the pool before a job that takes it is queued, and given back after the job that freed it. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "attach.h"
#include "backend.h"
#include "control.h"
#include "score.h"

struct broker;
struct broker_peer;
struct broker_job;

struct broker_pool_config {
    const char *name;
    struct kernel_backend *backend;
    /* Of control and lease pages, which the broker itself writes; it has a segment_leave. NULL: backend, or the host's
     * if that has streams. */
    struct kernel_backend *host;
    uint64_t limit_bytes;
    /* Nobody has set the limit: it gives way to sessions that are taken over, up to four times itself. */
    bool worked_out;
};

#define BROKER_MAX_POOLS 16

/* Keeps descriptors for the daemon's next process (systemd's descriptor store, or a stand-in). Called from jobs, too,
 * so from any thread; neither call waits for an answer. A name has 1 to 8 characters of [A-Za-z0-9_-]; several
 * descriptors may have the same one. */
struct broker_store {
    uint32_t max; /* descriptors that it holds at most; the broker counts */
    /* 0 or a negative errno: then none of them is kept. The descriptors stay the caller's. */
    int (*put)(struct broker_store *store, const char *name, const int *fds, uint32_t count);
    /* Forgets all descriptors of that name. */
    void (*drop)(struct broker_store *store, const char *name);
};

/* A descriptor that the store gave back at the start. */
struct broker_kept {
    char name[9];
    int fd;
};

/* Whose lent memory comes back first. */
enum broker_reclaim {
    BROKER_RECLAIM_ATTENTION, /* of the session that loses least by it (arbiter.c) */
    BROKER_RECLAIM_LRU,       /* of the session that was used longest ago */
};

struct broker_config {
    struct broker_pool_config pools[BROKER_MAX_POOLS];
    uint32_t pool_count;
    uint64_t score_wait_ns;  /* how long a settle waits for its score frames */
    uint32_t open_queue_max; /* opens that may wait for memory */
    uint32_t sessions_max;   /* over all peers */
    uint32_t sessions_per_peer_max;
    const char *default_policy;
    enum broker_reclaim reclaim;
    uint64_t seed; /* of tokens' and epoch's generator when `random` is NULL: simulators */
    /* Fills bytes with secrets; 0 or negative errno. */
    int (*random)(void *bytes, size_t size);
    uint32_t owner_uid;         /* of the daemon: may change everything, as root may */
    struct broker_store *store; /* NULL, or one that holds nothing: sessions end with the process */
    /* Whether a process is gone: by its pidfd or, if that is -1, by its number. NULL: when its connection is. */
    bool (*process_gone)(pid_t pid, int pidfd);
    uint64_t orphan_wait_ns; /* how long a session that was taken over waits for its client, from when its process is
                              * heard of again; from the start on, if it cannot be told whether that lives */
    /* The daemon's options for CONFIG: fills in the i-th, false if there is none. May be NULL. */
    bool (*option)(void *data, uint32_t i, struct proto_option *ret);
    void *option_data;
};

/* Fills in the defaults: score wait 200 ms, queue 64, sessions 1024 and 256, policy "pivotal"; no pools. */
void broker_config_init(struct broker_config *config);

/* 0 or a negative scissor_error. */
int broker_new(const struct broker_config *config, struct broker **ret_broker);
/* Takes over what may change at any time: score wait, orphans' wait, default policy, who gives lent memory back, and
 * limits of sessions and of the queue; the rest of `config` is not looked at. What is open or waits stays. 0, or
 * EINVAL: nothing has changed. `config` may have been made by broker_config_init(), and default_policy need not outlive
 * the call. */
int broker_reconfigure(struct broker *b, const struct broker_config *config);
/* Takes over the sessions of the process before from what its store had; before the first peer. All descriptors in
 * `kept` are taken, and the list is left without them (fd -1); what belongs to no session any more is dropped. A
 * session that cannot be taken over (other layout, pool too small, damaged) is given up as a whole: its client, if it
 * lives, has its memory until it hears of it, else that is revoked. */
void broker_take_over(struct broker *b, struct broker_kept *kept, size_t count, uint64_t now);
/* A session that was taken over and waits for its client: its number, and a pidfd of the client's process (-1: not
 * known) for the caller to watch a copy of; the broker closes it when the client is back or the session ends. False
 * after the last; *cursor begins with 0. */
bool broker_orphan_next(const struct broker *b, uint64_t *cursor, uint64_t *ret_session, int *ret_pidfd);
/* The process is gone: the session ends, unless its client came back meanwhile. */
void broker_orphan_gone(struct broker *b, uint64_t session, uint64_t now);
/* Frees the broker for good and leaves all sessions to the next process; nothing is revoked. Jobs that were not begun
 * are forgotten; none may be running. Without a store it is broker_free(). NULL allowed; returns NULL. */
struct broker *broker_leave(struct broker *b);
/* All peers must be gone and all jobs done; asserts that every pool came back to zero. Memory in quarantine is left to
 * the end of the process. NULL allowed; returns NULL. */
struct broker *broker_free(struct broker *b);

/* ---------- what happens outside; `now` is CLOCK_MONOTONIC in ns ---------- */

/* `pidfd` is of the peer's process and becomes the broker's on success; -1 if there is none. */
int broker_peer_new(struct broker *b, pid_t pid, uid_t uid, gid_t gid, int pidfd, struct broker_peer **ret_peer);
/* One packet from the attach socket. Anything that the protocol does not allow ends in FAILED and ACTION_HANGUP. */
void broker_peer_message(struct broker *b, struct broker_peer *peer, const void *packet, size_t size, uint64_t now);
/* The peer's socket is closed: its sessions die, the handle is invalid from here on. */
void broker_peer_gone(struct broker *b, struct broker_peer *peer, uint64_t now);
/* A score frame, as the front handed it on; not trusted. */
void broker_score(struct broker *b, const void *frame, size_t size, uint64_t now);
/* The front counted a frame that it did not hand on. */
void broker_score_refused(struct broker *b, enum proto_frame fate, uint64_t count);
void broker_front_restarted(struct broker *b, uint64_t now);
/* A control request; the answer comes as ACTION_ANSWER with the same cookie, at once. */
void broker_control(struct broker *b, const void *request, size_t size, uint64_t cookie, uint64_t now);
/* No new sessions from now on. */
void broker_drain(struct broker *b, uint64_t now);
/* Ends all sessions (their clients get CLOSED with the reason), as if the operator had closed each. The process is
 * about to end: control and lease pages, and rows that a client may be reading, are left to the clients. */
void broker_close_all(struct broker *b, uint64_t now);
/* Time passed; call it at broker_deadline() at the latest. */
void broker_tick(struct broker *b, uint64_t now);
/* When broker_tick() is due; UINT64_MAX: never. */
uint64_t broker_deadline(const struct broker *b);
/* True if time brings nothing any more, or only the end of processes that memory in quarantine waits for. */
bool broker_is_quiet(const struct broker *b);
/* True if memory may have to wait until its client's process is gone: peers should come with a pidfd. */
bool broker_waits_for_processes(const struct broker *b);

/* ---------- jobs ---------- */

/* Does the work, on any thread. Each job is run once; jobs of one session never overlap. */
void broker_job_run(struct broker_job *job);
/* Before it is run: others wait for the thread, so it is not kept for a client's work on a device that takes longer. */
void broker_job_hurry(struct broker_job *job);
/* True if nobody's rows wait for it (a session opens or closes): such jobs may take seconds, so a caller with few
 * threads must not give all of them to these. */
bool broker_job_is_bulk(const struct broker_job *job);
/* Takes the result over and frees the job; on the broker's thread. */
void broker_job_done(struct broker *b, struct broker_job *job, uint64_t now);

/* ---------- actions ---------- */

enum broker_action_type {
    BROKER_ACTION_SEND,   /* packet to peer; `handles` go with it as descriptors (host) in order */
    BROKER_ACTION_HANGUP, /* close the peer's socket, then call broker_peer_gone() */
    BROKER_ACTION_JOB,    /* run job, then broker_job_done() */
    BROKER_ACTION_ANSWER, /* answer to a control request */
    BROKER_ACTION_EVENT,  /* one proto_event for the event socket; time_ns is left for the caller to fill in */
};

struct broker_action {
    enum broker_action_type type;
    struct broker_peer *peer;
    struct broker_job *job;
    uint64_t cookie;
    pid_t pid;         /* EVENT: of the session's client; 0: not known */
    const void *bytes; /* valid until the next broker call */
    size_t size;
    int fds[PROTO_SEGMENTS_PER_MESSAGE]; /* SEND: the caller owns and closes them */
    uint32_t fd_count;
};

/* Takes the oldest action; false if there is none. A SEND to a peer that is gone is never given. */
bool broker_action_next(struct broker *b, struct broker_action *ret);

/* ---------- looking in ---------- */

/* The caller's own pointer, for a peer. */
void broker_peer_set_data(struct broker_peer *peer, void *data);
void *broker_peer_data(const struct broker_peer *peer);

uint32_t broker_session_count(const struct broker *b); /* open, opening or closing */
void broker_pool_stat(const struct broker *b, uint32_t pool, uint64_t now, struct proto_pool_stat *ret);

/* Why nothing works on the pool's device any more; NULL: it works. */
const char *broker_pool_lost(const struct broker *b, uint32_t pool);

/* Walks all state and aborts on a broken invariant (tests, debug builds): bytes charged = bytes allocated, each page
 * owned once, no guarantee broken, no pool over its limit, nothing of a dead session left. */
void broker_check(const struct broker *b);
