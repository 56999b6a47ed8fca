/* options.h - the command line of scissor-run. One table in options.c is the parser, the limits and the help text. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "failure.h"
#include "scissor.h"

struct options {
    const char *model;
    /* what to read */
    const char *prompt, *file, *system, *nll;
    uint32_t max_tokens; /* of --file; 0: all */
    bool chat;
    /* what to write */
    uint32_t new_tokens;
    double temperature, top_p;
    uint64_t seed;
    const char *logits_out, *stats_json;
    bool json, progress;
    /* likelihoods */
    uint32_t tokens, score_from;
    /* the cache */
    bool full;
    const char *socket, *device, *name, *policy;
    uint32_t budget, guarantee; /* rows per KV head; 0: what the text needs, and the budget */
    uint32_t fresh, priority, wait_ms, pool_mib;
    uint32_t cache_dtype, compute_dtype; /* enum scissor_dtype */
    struct scissor_param params[SCISSOR_MAX_PARAMS];
    uint32_t param_count;
    uint32_t threads; /* 0: one per core */
    bool help, version;
};

/* Fills the defaults and reads the arguments; strings point into argv. EINVAL: the failure says what to change. */
int options_parse(int argc, char **argv, struct options *ret_options, struct failure *failure);

void options_print_help(FILE *stream);
