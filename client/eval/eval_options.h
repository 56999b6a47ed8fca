/* eval_options.h - the command line of scissor-eval. One table in eval_options.c is the parser, the limits and the help
 * text. */
#pragma once

#include <stdbool.h>
#include <stdio.h>

#include "config.h"
#include "llama/failure.h"

#define EVAL_MAX_CONFIGS 32
#define EVAL_MAX_TEXTS 64

struct eval_options {
    const char *model, *device;
    const char *texts[EVAL_MAX_TEXTS];
    uint32_t text_count;
    uint32_t tokens, score_from; /* positions score_from .. tokens - 2 are scored */
    struct eval_config configs[EVAL_MAX_CONFIGS];
    uint32_t config_count;
    uint32_t threads; /* 0: one per core */
    bool passkey;     /* --task passkey */
    /* --pool: its size, or what the full f16 caches are divided by; both 0: not that task. */
    uint32_t pool_mib;
    double pool_divisor;
    bool json, progress, help, version;
};

static inline bool eval_has_pool(const struct eval_options *options) {
    return options->pool_mib > 0 || options->pool_divisor > 0;
}

/* Fills the defaults, reads the arguments and puts the configurations together; strings point into argv. EINVAL: the
 * failure says what to change. */
int eval_options_parse(int argc, char **argv, struct eval_options *ret_options, struct failure *failure);

void eval_options_print_help(FILE *stream);
