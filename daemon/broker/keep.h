/* keep.h - what of a session is kept for the daemon's next process: its descriptors, and two files that say what they
 * are.
 *
 * A descriptor has a name in the store: a letter for its kind and a number in base 62.
 *
 *     a, b    the session's two state files                    number: the session's
 *     c, l    its control page and its lease page              number: the session's
 *     f, s    a fresh, a settled segment                       number: counted through over all sessions
 *     p       pidfd of a client, for all sessions of it        number: counted through as well
 *
 * A state file holds a snapshot (snapshot.h) and, behind it, a list of what is still to be done until memory looks as
 * the snapshot says (redo.h). The two are written in turn; what counts is the one with the higher sequence number,
 * which is written last and zeroed first, so at any instruction there is a whole one. Both files always have room for
 * what the session's segments can hold, and their memory is really there: a snapshot cannot fail for want of it.
 *
 * A change of rows or pages is made like this, by the session's job:
 *
 *     keep_begin()     the other file is no snapshot any more
 *     redo_add_*()     what is to be done is listed there; histories and page lists in the daemon change at once
 *     keep_commit()    the snapshot as it will be is published; then the list is carried out; then it is done
 *
 * Nothing that a list reads may be written by it or be given back before it is done: then it can be carried out again
 * from its beginning, however far a process came with it. */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "broker.h"

struct session;
struct broker_job;
struct kernel_settle;

#define KEEP_NAME_BYTES 9u

/* The broker's; jobs use it from other threads. */
struct keeper {
    struct broker_store *store; /* NULL: nothing is kept */
    _Atomic uint32_t stored;    /* descriptors that the store has of us */
    _Atomic uint32_t promised;  /* those, and those that it must have room for, as segments are guaranteed */
    _Atomic uint64_t next;      /* number of the next one */
};

/* A client's pidfd in the store. The broker's thread. */
struct keep_process {
    struct keeper *keeper;
    uint64_t number;
    uint32_t refs; /* sessions, and the peer */
};

/* Rows per KV head of a group, fresh ones included. */
struct keep_budget {
    uint32_t guaranteed_rows, max_rows;
};

/* What of a session's counters belongs into its snapshot; the job has a copy of its own. */
struct keep_counts {
    uint64_t generation, tokens_seen, settles, scores_lost, evicted[PROTO_REASON_COUNT];
    uint64_t last_evicted; /* by the last settle */
    bool last_lost;        /* it went on without all of its scores */
    bool spoilt;           /* scores of this period are lost already */
    /* As they were set at last; `open` has those that it was opened with. */
    uint32_t priority;
    struct keep_budget budgets[PROTO_MAX_GROUPS];
};

struct keep_file {
    int fd;
    char *memory;
    size_t bytes;
};

struct keep {
    struct keeper *keeper;
    /* broker */
    struct keep_process *process; /* NULL: not known */
    struct proto_open open;       /* as it was found valid, its policies named */
    /* job */
    uint32_t room; /* descriptors that are promised */
    bool put_state[2], put_control, put_lease;
    struct keep_file file[2];
    uint32_t active; /* the file that counts */
    uint64_t sequence;
    size_t redo_at, redo_used; /* the list in the other file */
    bool spoilt;
};

/* Tests: called between any two steps after which the next process would find something else; NULL. */
extern void (*keep_hook)(void);

/* ---------- names ---------- */

void keep_name(char kind, uint64_t number, char ret_name[KEEP_NAME_BYTES]);
/* False if it is no name of ours. */
bool keep_name_parse(const char *name, char *ret_kind, uint64_t *ret_number);

/* ---------- the store ---------- */

uint64_t keeper_number(struct keeper *k);
/* Promises room for so many: 0, or ELIMIT, unless it must be (`anyway`: they are there already). */
int keeper_promise(struct keeper *k, uint64_t count, bool anyway);
void keeper_take_back(struct keeper *k, uint32_t count);
/* One for which room is promised. 0; ESYSTEM: the store did not take it. */
int keeper_put(struct keeper *k, char kind, uint64_t number, int fd);
void keeper_drop(struct keeper *k, char kind, uint64_t number);

/* Puts a pidfd; NULL if that fails, with the code in *ret_code. */
struct keep_process *keep_process_new(struct keeper *k, int pidfd, int *ret_code);
struct keep_process *keep_process_ref(struct keep_process *p);
/* NULL allowed; returns NULL. */
struct keep_process *keep_process_unref(struct keep_process *p);
/* The same, but what is in the store stays there. */
struct keep_process *keep_process_leave(struct keep_process *p);

/* ---------- a session ---------- */

/* NULL: no memory. */
struct keep *keep_new(struct keeper *k, const struct proto_open *open);
struct keep *keep_free(struct keep *k);

/* Of one file: where the list begins and how large the file is, with the segments that the session has now. */
size_t keep_redo_offset(const struct session *s);
size_t keep_file_bytes(const struct session *s);
/* Bytes in both files that come with the session, and with each settled segment of a group: what is charged. */
uint64_t keep_base_cost(const struct session *s);
struct session_group;
uint64_t keep_segment_cost(const struct session *s, const struct session_group *g);

/* Puts all descriptors of a session that has just been allocated, and publishes its first snapshot. 0, ENOMEM, ELIMIT
 * or ESYSTEM: then keep_close() is to follow. */
int keep_open(struct session *s);
/* The session is no more: drops all of it. Its memory is still there. */
void keep_close(struct session *s);
/* Maps a state file of the process before; takes the descriptor over on success only. 0 or EINVAL. */
int keep_file_adopt(struct keep_file *f, int fd);
/* It is not to be taken over, though all of it is still there. */
void keep_spoil(struct session *s);
/* A new snapshot without a list, in files of the right size. 0 or ENOMEM. */
int keep_renew(struct session *s, const struct keep_counts *counts);
/* Unmaps and closes the state files; the store has them. */
void keep_leave(struct session *s);
/* Room for the segments that the session has now plus one of that group, here and in the store. 0, ENOMEM or ELIMIT. */
int keep_grow(struct session *s, uint32_t group);
/* No more room than the segments need that there are, or that are guaranteed. */
void keep_trim(struct session *s);

void keep_begin(struct session *s);
/* Publishes, does, and marks as done. 0 or ESYSTEM: the device failed. */
int keep_commit(struct session *s, const struct keep_counts *after, struct kernel_settle *items, uint32_t item_count);
