/* scissorhands.c - policy `scissorhands` (Liu et al., NeurIPS 2023, arXiv 2305.17118, Algorithms 1 and 2).
 *
 * Over the last w query rows it counts, per slot, the rows whose probability reached the threshold ("hits"). The
 * paper's listing can be read in three ways, all offered; in each the lowest score goes first:
 *
 *     fraction   hits / seen        fair to age; default
 *     misses     -(seen - hits)     the most misses go; favours young slots, which fewer rows could miss
 *     hits       hits               the fewest hits go; favours old slots
 *
 * `seen` is the number of query rows of the window that could see the slot and whose scores arrived. A slot that
 * none has seen (its scores were lost) counts as fraction 1: nothing speaks against it, as `misses` has it too, and
 * the paper's claim - what was important stays so - says nothing of a row without a history. If the scores of a whole
 * window are lost, all slots tie and the oldest go, as with `window`.
 *
 * The window counts in whole settles: ceil(w / F) blocks. The last r rows are protected, at least the F that may be
 * fresh. `drop` 0 replaces only as many rows as came; m rows at once is the paper's way (m = B / 2). */
#include "../history.h"
#include "classes.h"

#include "backend.h"
#include "score.h"

enum { SCISSORHANDS_WINDOW, SCISSORHANDS_RECENT, SCISSORHANDS_DROP, SCISSORHANDS_THRESHOLD, SCISSORHANDS_READING };
enum { READING_FRACTION, READING_MISSES, READING_HITS };

static uint32_t protected_rows(const struct policy *p) {
    uint32_t recent = (uint32_t)p->param[SCISSORHANDS_RECENT];
    return recent > p->fresh_rows ? recent : p->fresh_rows;
}

static uint32_t scissorhands_planes(const struct policy *p) {
    (void)p;
    return PROTO_PLANE_HITS;
}

static uint32_t scissorhands_threshold(const struct policy *p) {
    return p->param[SCISSORHANDS_THRESHOLD] == 0 ? KERNEL_THRESHOLD_VISIBLE : KERNEL_THRESHOLD_SEEN;
}

static uint32_t scissorhands_window_blocks(const struct policy *p) {
    uint32_t window = (uint32_t)p->param[SCISSORHANDS_WINDOW];
    return (window + p->fresh_rows - 1) / p->fresh_rows;
}

/* More than what is needed goes only as long as as many rows stay as are protected. */
static uint32_t scissorhands_drop(const struct policy *p, uint32_t needed, uint32_t settled) {
    uint32_t drop = (uint32_t)p->param[SCISSORHANDS_DROP];
    uint32_t keep = protected_rows(p);
    uint32_t most = settled > keep ? settled - keep : 0;
    if (drop > most)
        drop = most;
    return drop > needed ? drop : needed;
}

static float slot_score(uint32_t reading, float hits, float seen) {
    switch (reading) {
    case READING_MISSES:
        return hits - seen;
    case READING_HITS:
        return hits;
    default:
        return seen > 0 ? hits / seen : 1;
    }
}

static void scissorhands_score(const struct policy *p, const struct history *h, uint64_t next_position,
                               float *ret_score) {
    (void)next_position;
    uint32_t reading = (uint32_t)p->param[SCISSORHANDS_READING];
    uint32_t blocks = h->blocks ? h->blocks : 1;
    /* Block by block, as the ring lies in memory; adds in the order of history_hits_window(). */
    for (uint32_t i = 0; i < h->settled; i++)
        ret_score[i] = 0;
    for (uint32_t b = 0; b < blocks; b++) {
        const float *hits = h->hits + (size_t)b * h->capacity;
        for (uint32_t i = 0; i < h->settled; i++)
            ret_score[i] += hits[i];
    }
    for (uint32_t i = 0; i < h->settled; i++)
        ret_score[i] = slot_score(reading, ret_score[i], (float)history_seen_window(h, i));
}

static void scissorhands_protect(const struct policy *p, uint32_t room, uint64_t next_position, uint64_t *ret_sinks,
                                 uint64_t *ret_recent) {
    (void)room;
    *ret_sinks = 0;
    *ret_recent = policy_first_of_last(protected_rows(p), next_position);
}

static const struct policy_param_info scissorhands_params[] = {
    [SCISSORHANDS_WINDOW] = {"window", 1, 16384, 400, "rows", "history window w, rounded up to whole settles", false},
    [SCISSORHANDS_RECENT] = {"recent", 0, PROTO_MAX_ROWS, 10, "rows",
                             "recent window r: the newest rows, protected; at least the fresh rows are", false},
    [SCISSORHANDS_DROP] = {"drop", 0, PROTO_MAX_ROWS, 0, "rows",
                           "rows dropped at once when any must go; 0: just those that must", false},
    [SCISSORHANDS_THRESHOLD] = {"threshold", 0, 1, 0, "choice",
                                "0: 1 / rows the query can see, 1: 1 / tokens seen so far", false},
    [SCISSORHANDS_READING] = {"reading", 0, 2, 0, "choice", "0: fraction of hits, 1: most misses go, 2: fewest hits go",
                              false},
    {0},
};

const struct policy_class policy_scissorhands = {
    .name = "scissorhands",
    .text = "keeps the rows that had a substantial share of attention within the history window",
    .source = "Liu et al., NeurIPS 2023, arXiv 2305.17118",
    .params = scissorhands_params,
    .planes = scissorhands_planes,
    .threshold = scissorhands_threshold,
    .window_blocks = scissorhands_window_blocks,
    .drop = scissorhands_drop,
    .score = scissorhands_score,
    .protect = scissorhands_protect,
};
