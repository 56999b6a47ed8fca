/* attention.h - where a forward pass keeps K and V and who computes attention over them: an interface with two
 * implementations, a plain one that keeps every row (attention_full.c) and one in which scissord owns the rows
 * (attention_scissor.c). The layer loop does not know which one it uses.
 *
 * Calls come in this order, any number of times, from one thread:
 *     room -> begin(rows) -> attend for layer 0, 1, ... -> end */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "failure.h"
#include "model.h"

struct attention_stat {
    uint64_t tokens_seen;
    uint64_t rows_per_head; /* kept now, of the head that keeps most */
    uint64_t settled;       /* ... of these, not in a fresh buffer */
    uint64_t bytes;         /* of K and V held now */
    uint64_t evictions;     /* rows, over all heads */
    const char *device;     /* that has the rows: "host", "cuda:GPU-..." */
    uint64_t session;       /* the daemon's number for it; 0: no daemon has the rows */
};

struct attention {
    bool abandoned; /* free() waits for nobody, as all is over */
    /* Makes room if there is none; the next step may have 1 to *ret_rows rows. */
    int (*room)(struct attention *attention, uint32_t *ret_rows, struct failure *failure);
    int (*begin)(struct attention *attention, uint32_t rows, struct failure *failure);
    /* Keeps k and v [rows][kv_heads][head_dim], k rotated, and attends: q and out [rows][q_heads][head_dim]. */
    int (*attend)(struct attention *attention, uint32_t layer, const float *q, const float *k, const float *v,
                  float *out, struct failure *failure);
    int (*end)(struct attention *attention, struct failure *failure);
    void (*stat)(const struct attention *attention, struct attention_stat *ret);
    void (*free)(struct attention *attention);
};

/* Full attention for at most `capacity` tokens, in steps of up to `max_rows`. EINVAL past the capacity. */
int attention_full_new(const struct model_shape *shape, uint32_t capacity, uint32_t max_rows,
                       struct attention **ret_attention, struct failure *failure);
