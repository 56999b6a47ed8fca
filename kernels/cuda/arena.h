/* arena.h - what kernels are told: a ring of pinned memory from which they read their items, lists and moves.
 *
 * The device reads it in place, once for each block, which saves a copy on the stream before each launch. A piece is
 * used again when the launches that read it are done, which an event behind them tells; only who finds the ring full of
 * work that is not done waits, for CUDA_WAIT_MS at most. */
#pragma once

#include <pthread.h>

#include "device.h"

#define CUDA_ARENA_BYTES ((size_t)4 << 20)
/* The most that one launch may take, so that several can be under way. */
#define CUDA_ARENA_PIECE (CUDA_ARENA_BYTES / 4)
#define CUDA_ARENA_USES 512u

struct cuda_arena {
    struct cuda_device *device;
    pthread_mutex_t lock; /* held from begin to end */
    char *memory;
    size_t begin, end;  /* of what is in use, counted on and on; the place in the ring is modulo its size */
    size_t piece, size; /* the piece that is being filled: where it begins, bytes taken of it */
    struct cuda_arena_use {
        size_t end;
        cuda_event event;
    } uses[CUDA_ARENA_USES]; /* oldest first, from `first` on */
    unsigned first, count;
    bool stalled; /* the oldest piece was waited for in vain: from then on it is only looked at */
    bool adrift;  /* launches were queued of which nobody can tell when they are done: nothing is used again */
};

/* The context is current in all of these. */
int cuda_arena_init(struct cuda_arena *a, struct cuda_device *d);
/* All work is done. */
void cuda_arena_deinit(struct cuda_arena *a);
/* Takes the lock and a piece of so many bytes at most; on success cuda_arena_end() must follow. -ETIMEDOUT if the ring
 * stays full; -EIO once the arena is adrift. */
int cuda_arena_begin(struct cuda_arena *a, size_t bytes);
/* The next bytes of the piece, a multiple of 16; there is room, as begin() was told. */
void *cuda_arena_take(struct cuda_arena *a, size_t bytes);
/* The launches that read the piece are on the stream. */
int cuda_arena_end(struct cuda_arena *a, cuda_stream stream);
/* The same, and waits until they are done; results in the piece can be read until cuda_arena_unlock(), which must
 * follow. */
int cuda_arena_finish(struct cuda_arena *a, cuda_stream stream);
void cuda_arena_unlock(struct cuda_arena *a);
