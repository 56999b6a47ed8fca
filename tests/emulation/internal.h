/* internal.h - what the emulator's own files share: fibers, who runs, and what is told about memory. */
#pragma once

#include "emulator.h"

#define EMULATOR_LANES 32u
#define EMULATOR_THREADS 1024u
#define EMULATOR_SHARED (227u << 10) /* what a block can have at most on any device */

/* What a fiber waits for. */
enum fiber_state { FIBER_READY, FIBER_AT_BARRIER, FIBER_AT_WARP, FIBER_ENDED };

struct fiber {
    void *stack;         /* where it was when it stopped */
    uintptr_t low, high; /* its stack's memory */
    uint32_t index;      /* in the block */
    struct emulator_dim thread;
    enum fiber_state state;
    const char *file; /* of the barrier or the warp operation */
    int line;
    /* A warp operation: who takes part, what it brings and asks for, what it gets. */
    uint32_t mask;
    int kind;
    uint32_t value, lane, result;
};

/* The launch that is running. */
struct emulation {
    const struct emulator_kernel *kernel;
    const void *parameter;
    struct emulator_dim grid, block, at; /* at: the block */
    uint32_t threads;
    size_t shared_bytes;
    struct fiber *fibers;
    struct fiber *now; /* NULL outside of kernels */
    void *scheduler;   /* the stack to go back to */
    uint32_t barrier_votes[2];
    /* Memory's clock: rises with every barrier of a block, and with every block. */
    uint32_t epoch, block_epoch, launch_epoch;
    uint32_t warp_epochs[EMULATOR_THREADS / EMULATOR_LANES];
    enum emulator_rule broken;
    uintptr_t fault; /* 0: none */
    bool counting;
    struct emulator_counts counts;
};
extern struct emulation emulation;

/* Notes the broken rule and leaves the fiber for good. */
void emulation_break(enum emulator_rule rule, const char *format, ...) __attribute__((format(printf, 2, 3), noreturn));

/* watch.c */
void watch_block_begin(void);
void watch_block_end(void); /* counts what its threads did */

/* memory.c: a cell is what happened to two bytes. */
struct cell {
    uint32_t write_epoch, read_epoch, first_read; /* first_read: of this launch */
    uint32_t write_warp_epoch, read_warp_epoch;
    uint16_t write_thread, read_thread;
    uint8_t atomic, many_threads, many_warps;
};
#define CELL_BYTES 2u

struct region {
    uintptr_t begin, end;
    struct cell *cells;
    bool writable, own;
    uint32_t loaded, stored; /* in the launch that began at this time of memory's clock */
};
/* The region that holds all of the bytes, or NULL. */
struct region *region_find(uintptr_t at, size_t bytes);
/* The nearest one, for a message; NULL if there is none. */
const struct region *region_nearest(uintptr_t at);
