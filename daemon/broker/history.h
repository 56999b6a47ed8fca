/* history.h - what is remembered of each row of one (layer, KV head): its position and its scores.
 *
 * Arrays run over the settled slots, then, apart, over the fresh rows. A row's history moves with the row. Scores of
 * the fresh period being gathered are kept apart for settled slots as well ("open block"), so that a period counts as
 * one block of the window. All values are f32; rows are counted per head group, in history_clock, so that a
 * row's chances (query rows that could see it and whose scores arrived) are exact when frames are lost.
 *
 * Order of calls, for a layer; the heads share its clock, so each line is done for all heads before the next:
 *
 *     a frame:   history_clock_fold() once, history_fold() per head and plane, in either order
 *     a settle:  policy_victims()              the period just gathered counts: it is the newest block of the window
 *                history_settle(), history_move(), history_truncate()      the period's sums go with the fresh rows
 *                history_clock_next()          once
 *                history_next_block()          the window now has its newest block empty
 *     a shrink, at any time: policy_victims(), history_move(), history_truncate()
 *
 * The window is the W newest blocks, the open one included. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "attach.h"

/* What is kept of a row beside its scores. */
enum history_extra {
    HISTORY_NORMS = 1,   /* |V|_1 */
    HISTORY_DETAILS = 2, /* which detail slot it has (layout.h) */
};

/* Shared by the heads of one layer: query rows folded so far, also at the border of each block of the window. */
struct history_clock {
    uint64_t rows;         /* folded since the session began */
    uint32_t blocks;       /* W: blocks of the window; 0: none */
    uint32_t block;        /* index of the open block in the ring, 0..W-1 */
    uint64_t *block_start; /* [W] `rows` when each block of the ring began */
    uint32_t fresh_rows;   /* F */
    uint16_t *fresh_seen;  /* [F] folded rows of this period that could see fresh row j */
    uint32_t period_rows;  /* folded in this period */
};

struct history {
    uint32_t planes;     /* PROTO_PLANE_*: which of the arrays exist */
    uint32_t blocks;     /* W of the hits ring; 0: hits are kept as one sum over life */
    uint32_t capacity;   /* slots the arrays have room for */
    uint32_t settled;    /* slots in use */
    uint32_t fresh_rows; /* F */
    uint32_t head;       /* which of its group's it is, for policies that draw lots */
    uint32_t extras;     /* HISTORY_*: whether `norm` and `detail` exist */
    uint32_t *position;  /* [capacity] */
    uint32_t *birth;     /* [capacity] clock->rows before the first folded row that saw it, modulo 2^32 */
    float *mass;         /* [capacity] sum over life; NULL without that plane */
    float *hits;         /* [max(W,1)][capacity]: ring of block sums; NULL without */
    float *last;         /* [capacity] */
    float *norm;         /* [capacity] |V|_1 of the row; NULL: not kept */
    uint32_t *detail;    /* [capacity] the row's detail slot, KERNEL_NONE: none; NULL: not kept */
    float *fresh_mass, *fresh_hits, *fresh_last; /* [F], this period */
    double period_settled, period_fresh;         /* mass of this period: on all settled slots, on the fresh rows */
    double settled_share; /* of the mass of the last period with both, on the settled slots; -1: none so far */
    const struct history_clock *clock; /* not owned */
};

/* Bytes of host memory per slot, per fresh row of a head, and of a whole clock: what a session is charged for its
 * bookkeeping. */
size_t history_slot_bytes(uint32_t planes, uint32_t blocks, uint32_t extras);
size_t history_fresh_bytes(uint32_t planes);
size_t history_clock_bytes(uint32_t blocks, uint32_t fresh_rows);

int history_clock_init(struct history_clock *c, uint32_t blocks, uint32_t fresh_rows); /* 0 or ENOMEM */
void history_clock_deinit(struct history_clock *c);
/* A frame of `rows` query rows, the newest of `fresh` fresh ones, was folded for this layer. The caller sees to it
 * that 1 <= rows <= fresh <= F and that no period has more than F rows. */
void history_clock_fold(struct history_clock *c, uint32_t rows, uint32_t fresh);
/* The period is settled: begins the next block (its ring entry is to be cleared by history_next_block of each head). */
void history_clock_next(struct history_clock *c);

int history_init(struct history *h, uint32_t planes, uint32_t extras, uint32_t fresh_rows,
                 const struct history_clock *clock);
void history_deinit(struct history *h);
/* Makes room for `capacity` slots, or gives room back; 0 or ENOMEM, then nothing has changed. */
int history_resize(struct history *h, uint32_t capacity);
/* Adds one plane of a frame: settled + fresh values; each counts as no less than 0 and no more than F. */
void history_fold(struct history *h, uint32_t plane, const float *values, uint32_t fresh);
/* Row `fresh` of the period, at `position`, moves into `slot` (slot <= settled; slot == settled appends). Its norm is 0
 * until it is told, and it has no detail slot until one is given to it. */
void history_settle(struct history *h, uint32_t fresh, uint32_t slot, uint32_t position);
/* |V|_1 of the row in `slot`. False if it is not finite: then it counts as 0. */
bool history_set_norm(struct history *h, uint32_t slot, float norm);
/* Copies slot `from` over slot `to`. */
void history_move(struct history *h, uint32_t from, uint32_t to);
/* Forgets the slots from `settled` on. */
void history_truncate(struct history *h, uint32_t settled);
/* Ends the period for this head: clears the fresh sums and the ring entry that the next block will use, and works out
 * settled_share; call it after history_clock_next(). */
void history_next_block(struct history *h);

/* Query rows that could see the slot: over its life, and within the window. */
uint64_t history_seen(const struct history *h, uint32_t slot);
uint64_t history_seen_window(const struct history *h, uint32_t slot);
/* Sum of hits within the window. */
float history_hits_window(const struct history *h, uint32_t slot);

/* Scratch that policy_victims() needs for `settled` slots. */
size_t history_scratch_bytes(uint32_t settled);

/* Aborts on a broken invariant (tests). */
void history_check(const struct history *h);
