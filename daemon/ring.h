/* ring.h - score frames on their way from the front to the daemon: one producer, one consumer, shared memory.
 *
 * The daemon creates the memory (a sealed memfd, so that nobody can take it away under the other) and consumes; the
 * front maps it and produces. A record is a 32-bit size and the frame, padded to 8 bytes; it may wrap around the end.
 * The front speaks to clients and may be taken over by one, so the consumer trusts nothing: it keeps its own cursor,
 * checks each size and copies a frame before anybody looks at it.
 *
 * It is kept short on purpose, in bytes and in records: a flooder's frames would otherwise queue up in front of
 * everybody else's, while the front takes frames from its clients in turn. */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define RING_BYTES (4u << 20)
#define RING_RECORDS_MAX 64u /* on their way at most */

/* What the producer tells about frames that it did not hand on. */
struct ring_counts {
    uint64_t malformed, overrun;
};

struct ring_shared;

struct ring {
    struct ring_shared *shared;
    uint8_t *data;
    uint64_t cursor; /* producer: the head; consumer: the tail; in bytes ever moved */
    uint64_t records;
    struct ring_counts seen; /* consumer: counts taken so far */
};

#define RING_FULL 1  /* ring_push: no room */
#define RING_EMPTY 1 /* ring_pop: no record */

/* Consumer: creates the memory; *ret_fd is for the producer and belongs to the caller. 0 or a negative errno. */
int ring_new(struct ring *ring, int *ret_fd);
/* Producer: maps what the consumer made; `fd` stays the caller's. Starts where an empty ring starts. */
int ring_attach(struct ring *ring, int fd);
void ring_deinit(struct ring *ring);

/* Producer. 0, RING_FULL, or -EINVAL for a size of 0 or above PROTO_SCORE_MAX. *ret_wake: the consumer may sleep. */
int ring_push(struct ring *ring, const void *frame, size_t size, bool *ret_wake);
/* Producer, after RING_FULL: true if it is still full; then the consumer will say when there is room again. */
bool ring_wait_for_room(struct ring *ring);
void ring_count_malformed(struct ring *ring);
void ring_count_overrun(struct ring *ring);

/* Consumer. Copies the oldest frame to `frame` (room for PROTO_SCORE_MAX). 0, RING_EMPTY, or -EBADMSG: what the
 * producer wrote is no ring. *ret_wake: the producer waits for room. */
int ring_pop(struct ring *ring, void *frame, size_t *ret_size, bool *ret_wake);
bool ring_is_empty(const struct ring *ring);
/* Consumer: what was counted since the last call. */
struct ring_counts ring_take_counts(struct ring *ring);
