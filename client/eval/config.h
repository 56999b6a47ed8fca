/* config.h - one configuration that an evaluation tries: a policy, how rows are kept, and how many of them. */
#pragma once

#include <stdint.h>

#include "llama/model.h"
#include "scissor.h"

#define CONFIG_NAME_BYTES 160
#define CONFIG_FRESH 64 /* rows of the fresh buffer, unless something else is said */
#define CONFIG_MOST_FRESH 1024

struct eval_config {
    char policy[16];
    struct scissor_param params[SCISSOR_MAX_PARAMS];
    uint32_t param_count;
    uint32_t cache; /* enum scissor_dtype of settled rows */
    uint32_t fresh; /* rows of the fresh buffer */
    /* The budget: rows per KV head, or what a full f16 cache is divided by; both 0: every row. */
    uint32_t rows;
    double divisor;
    bool budget_given;
};

/* "832", "5x", "3.6x" or "all". EINVAL. */
int config_read_budget(struct eval_config *config, const char *text);
/* Words between commas, in any order: a policy, a type, a budget, NAME=VALUE for a parameter, fresh=ROWS. What is not
 * mentioned stays as it is. EINVAL. */
int config_read(struct eval_config *config, const char *text);

/* "pivotal int4 5x sinks=4"; with " fresh=32" if that is not CONFIG_FRESH. */
void config_name(const struct eval_config *config, char ret_name[CONFIG_NAME_BYTES]);
void config_budget_name(const struct eval_config *config, char ret_name[32]);

/* Fresh rows are kept in this type: as the settled ones, or f16 if those are quantised. */
uint32_t config_compute(const struct eval_config *config);

/* Rows per KV head, fresh ones included, for a text of that many tokens. For "5x": as many as fit, so that all that
 * the session holds (fresh buffer, settled rows, their scales and offsets) is at most a fifth of a full f16 cache of
 * the text. 0: fewer than the daemon takes, a fresh buffer and 16. */
uint32_t config_rows(const struct eval_config *config, const struct model_shape *shape, uint32_t tokens);

/* Bytes of a session with so many settled rows per KV head, of `most` that it may have, its whole fresh buffer
 * included; and of an f16 cache. Of a dtype with details, with what it is lent so that each row has one (growth.c of
 * the daemon). */
uint64_t config_bytes(const struct eval_config *config, const struct model_shape *shape, uint32_t most,
                      uint64_t settled);
uint64_t config_full_bytes(const struct model_shape *shape, uint32_t tokens);
