/* pooled.h - eight sessions in one pool that is too small for them, shared in three ways.
 *
 * Each way has a private daemon of its own with a pool of the same bytes, and sessions that read the same texts in the
 * same turns (workload.h). The full caches go ahead by a window of tokens, then the sessions of each way follow and are
 * compared with them, at the same positions: those that are read when the arbiter's pool has been full before. */
#pragma once

#include "eval_options.h"
#include "figures.h"
#include "llama/engine.h"
#include "llama/progress.h"
#include "llama/tokenizer.h"
#include "workload.h"

enum pooled_way {
    POOLED_ARBITER, /* a small guarantee for each, the rest lent by the daemon's arbiter */
    POOLED_EQUAL,   /* the same number of segments for each, guaranteed */
    POOLED_LRU,     /* as the arbiter's, but lent rows come back from whoever was used longest ago */
    POOLED_WAYS
};

extern const char *const pooled_way_names[POOLED_WAYS];

struct pooled {
    uint32_t pool_mib;
    uint64_t bytes_full;              /* full f16 caches of all texts */
    uint32_t read_before;             /* tokens of all sessions together before the first position that counts */
    uint32_t text[WORKLOAD_SESSIONS]; /* which one each session reads */
    struct figures figures[POOLED_WAYS][WORKLOAD_SESSIONS];
};

/* The session that lost most, by KL. */
uint32_t pooled_worst(const struct figures figures[WORKLOAD_SESSIONS]);

/* Tokens that are computed in all, for the progress. */
size_t pooled_work(const struct eval_options *options);

/* Reads stretches of lists[text_count], each text's one after another, for the sessions in turn. EINVAL: a text is too
 * short, or the pool too small for eight sessions. ENGINE_INTERRUPTED. */
int pooled_run(const struct eval_options *options, const struct model *model, const struct token_list *lists,
               struct progress *progress, struct pooled *ret_pooled, struct failure *failure);
