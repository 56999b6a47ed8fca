/* snapshot.h - a session as bytes, and back.
 *
 *     struct snapshot_head
 *     uint64_t            number of each fresh segment's name
 *     struct snapshot_segment    one for each settled segment, ids ascending
 *     per layer           struct snapshot_clock, block_start[W]
 *     per head            struct snapshot_row_head, page words, then the history's arrays of settled slots;
 * padded to 8 bytes
 *
 * Scores of the period that is being gathered are not in it, nor what follows from the rest (addresses, bitmaps). It is
 * read by a program with the same version and, in effect, the same compiler: structs go as they are. The bytes are
 * believed no more than a packet: each field is checked before it is used. */
#pragma once

#include <assert.h>
#include <stddef.h>
#include <stdint.h>

#include "attach.h"
#include "control.h"
#include "session.h"

#define SNAPSHOT_MAGIC 0x4b494353u /* "SCIK" */
#define SNAPSHOT_VERSION 3u        /* of everything here and in redo.h */

struct snapshot_head {
    uint64_t sequence; /* 0: this is no snapshot */
    uint32_t magic, version;
    uint64_t bytes;               /* of the snapshot, this head included */
    uint64_t redo_at, redo_bytes; /* the list; 0 bytes: done */
    uint64_t session, process;    /* number of the client's pidfd; 0: none */
    uint8_t token[PROTO_TOKEN_BYTES];
    char pool[PROTO_NAME_BYTES];
    uint32_t pid, uid;
    uint64_t generation, tokens_seen, settles, scores_lost, evicted[PROTO_REASON_COUNT];
    uint64_t last_evicted;
    uint32_t last_lost, spoilt;
    uint32_t settled_segments, priority; /* and budgets: as they were set at last */
    struct keep_budget budgets[PROTO_MAX_GROUPS];
    struct proto_open open;
};
static_assert(sizeof(struct snapshot_head) == 2184, "a new layout needs a new SNAPSHOT_VERSION");

struct snapshot_segment {
    uint32_t id, group;
    uint64_t number;
};

struct snapshot_clock {
    uint64_t rows;
    uint32_t block, reserved;
};

struct snapshot_row_head {
    uint32_t settled, pages;
    uint64_t evicted[PROTO_REASON_COUNT];
    double settled_share; /* see history.h */
};

/* Bytes that the snapshot of a session can take, without settled segments and with each of a group's. */
size_t snapshot_base_bytes(const struct session *s);
size_t snapshot_segment_bytes(const struct session_group *g);

/* Writes all but the sequence, which becomes 0; the list is `redo_bytes` from `redo_at` on. */
void snapshot_write(const struct session *s, const struct keep_counts *counts, size_t redo_at, size_t redo_bytes,
                    void *ret_bytes);
/* Makes it the one that counts. */
void snapshot_publish(void *bytes, uint64_t sequence);
/* Marks the list as done. */
void snapshot_done(void *bytes);
/* It is no snapshot any more. */
void snapshot_spoil(void *bytes);

/* Copies the head of what is a snapshot as far as that can be told without the session. 0; 1: there is none (sequence
 * 0); EINVAL: it is damaged or of another version. */
int snapshot_read_head(const void *bytes, size_t size, struct snapshot_head *ret);
/* Fills in segment table (without memory), clocks, heads, pages (without addresses) and histories of a session that has
 * its shape and its bookkeeping (session_bookkeeping_new). 0, EINVAL or ENOMEM: then what there is of it is to be
 * released. */
int snapshot_read(const void *bytes, size_t size, const struct snapshot_head *head, struct session *s);
