/* top_frame.h - what `scissorctl top` asked the daemon for at one moment, and the rates since the moment before. */
#pragma once

#include <stdbool.h>

#include "link.h"

/* A second, over all pools. */
struct top_rates {
    double tokens, settles;
    double scores_lost; /* settles without all scores */
    double evicted[PROTO_REASON_COUNT];
    double frames, frames_lost; /* score frames that were folded, and that were not for any reason */
};

struct top_row {
    double tokens, evicted; /* a second */
};

struct top_frame {
    struct ctl_answer pools, sessions;
    double seconds; /* since the frame before, by the daemon's clock; 0: there is none, and no rates */
    struct top_rates rates;
    struct top_row *rows; /* one for each session, in the order of `sessions` */
};

/* Asks over `link`. `before` may be empty ({0}). An enum ctl_exit; top_frame_deinit() after success. */
int top_frame_take(struct ctl_link *link, const struct top_frame *before, struct top_frame *ret);
/* Fills in seconds, rates and rows from the answers. False if out of memory. */
bool top_frame_compare(struct top_frame *f, const struct top_frame *before);
/* Harmless on an empty one. */
void top_frame_deinit(struct top_frame *f);

static inline const struct proto_pool_stat *top_frame_pool(const struct top_frame *f, size_t i) {
    return (const struct proto_pool_stat *)f->pools.entries + i;
}

static inline const struct proto_session_stat *top_frame_session(const struct top_frame *f, size_t i) {
    return (const struct proto_session_stat *)f->sessions.entries + i;
}
