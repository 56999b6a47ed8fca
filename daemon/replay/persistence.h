/* persistence.h - whether the rows that attention looks at early are those that it looks at later: the persistence
 * ratio of Liu et al. (arXiv 2305.17118, section 3.2), of a trace.
 *
 * Of l rows, the first t = l / 2 are judged twice. S(early) are those whose mean probability is above 1/t under the
 * query rows up to the first settle at t or after it, S(late) those that have it under the query rows after that. The
 * mean is over the query rows that could see the row, as policies take it. The ratio is |S(late) and S(early)| /
 * |S(late)|. If attention had forgotten what it looked at, that would be about |S(early)| / t, so this belongs beside
 * it. Counts are added up over the KV heads of a layer. */
#pragma once

#include <stdbool.h>

#include "trace.h"

struct persistence {
    uint64_t tokens, half; /* l and t */
    uint32_t layer_count, head_count;
    struct persistence_layer *layers; /* [layer_count] */
    double *early, *late;             /* [head_count][half] sums of probabilities */
    bool evicted;                     /* a row was gone, and so was what it would have got later */
};

struct persistence_layer {
    uint32_t first_head, kv_heads;
    uint32_t *early_seen; /* [half] early query rows that could see the row */
    uint64_t late_seen;   /* late query rows; all of them see the first t rows */
};

/* For a trace of so many rows. 0, or EINVAL or ENOMEM with a static text; persistence_deinit() is due whatever it
 * gives. */
int persistence_init(struct persistence *p, const struct trace_shape *shape, uint64_t tokens, const char **ret_why);
void persistence_deinit(struct persistence *p);

/* What a frame says of one head: the mass of its slots, whose settled ones hold the rows at `position`. */
struct persistence_frame {
    uint64_t first;       /* rows that were settled before the period */
    uint32_t rows, fresh; /* query rows, which are the newest of the fresh ones */
    uint32_t settled;
    const uint32_t *position; /* [settled] */
    const float *mass;        /* [settled + fresh] */
};
void persistence_add(struct persistence *p, uint32_t layer, uint32_t kv_head, const struct persistence_frame *frame);

/* How many rows of a layer, over its KV heads, are in S(early), in S(late), in both, and could be: t a head. */
struct persistence_count {
    uint64_t early, late, both, rows;
};
void persistence_count(const struct persistence *p, uint32_t layer, struct persistence_count *ret);
