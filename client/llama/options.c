/* options.c - see options.h. One word without a dash is the model. */
#include "options.h"

#include <stddef.h>
#include <string.h>

#include "option_table.h"

/* --compute was not given: as --cache, or f16 if rows of that type cannot be fresh. */
#define OPTIONS_AS_CACHE UINT32_MAX

#define AT(field) offsetof(struct options, field)

static const struct option_entry option_entries[] = {
    {.kind = OPTION_HEADING, .text = "What it reads"},
    {OPTION_TEXT, "model", "FILE", "the model, a GGUF file; may also be given without --model", AT(model), 0, 0},
    {OPTION_TEXT, "prompt", "TEXT", "text to go on with; follows --file if both are given", AT(prompt), 0, 0},
    {OPTION_TEXT, "file", "FILE", "text to read from a file; - is standard input", AT(file), 0, 0},
    {OPTION_NUMBER, "max-tokens", "N", "read no more than the first N tokens of --file", AT(max_tokens), 1, 1u << 30},
    {OPTION_FLAG, "chat", NULL, "put the text into the model's chat template", AT(chat), 0, 0},
    {OPTION_TEXT, "system", "TEXT", "the chat's system message", AT(system), 0, 0},
    {.kind = OPTION_HEADING, .text = "What it writes"},
    {OPTION_NUMBER, "n", "N", "write up to N new tokens (128)", AT(new_tokens), 0, 1u << 20},
    {OPTION_REAL, "temp", "T", "sample at this temperature (0: always the likeliest token)", AT(temperature), 0, 100},
    {OPTION_REAL, "top-p", "P", "sample among the likeliest tokens that have this much together (1)", AT(top_p), 0, 1},
    {OPTION_LONG, "seed", "N", "the same seed gives the same text (1)", AT(seed), 0, 0},
    {OPTION_FLAG, "json", NULL, "print one line of JSON at the end instead of the text", AT(json), 0, 0},
    {OPTION_TEXT, "stats-json", "FILE", "write that line to a file", AT(stats_json), 0, 0},
    {OPTION_TEXT, "logits-out", "FILE", "write the last position's logits, raw f32; with --nll all scored ones",
     AT(logits_out), 0, 0},
    {OPTION_FLAG, "progress", NULL, "show progress even if standard error is no terminal", AT(progress), 0, 0},
    {.kind = OPTION_HEADING, .text = "Likelihood of a text instead of new text"},
    {OPTION_TEXT, "nll", "FILE", "print the mean negative log likelihood of a text", AT(nll), 0, 0},
    {OPTION_NUMBER, "tokens", "N", "of its first N tokens (4096)", AT(tokens), 2, 1u << 30},
    {OPTION_NUMBER, "score-from", "N", "predicted from token N on, so that N + 1 is scored first (2048)",
     AT(score_from), 0, 1u << 30},
    {.kind = OPTION_HEADING, .text = "The cache"},
    {OPTION_TEXT, "socket", "DIR", "directory of the daemon's sockets; without it a private daemon is started",
     AT(socket), 0, 0},
    {OPTION_TEXT, "device", "DEVICE",
     "where the cache is: host, cuda, cuda:N or cuda:GPU-UUID (host; with --socket any)", AT(device), 0, 0},
    {OPTION_NUMBER, "budget", "ROWS", "keep at most this many rows per KV head, fresh ones included (all)", AT(budget),
     32, 1u << 30},
    {OPTION_NUMBER, "guarantee", "ROWS", "rows that no other session can take (the budget)", AT(guarantee), 32,
     1u << 30},
    {OPTION_TEXT, "policy", "NAME",
     "which rows go: pivotal (default), scissorhands, h2o, tova, streaming, window, random", AT(policy), 0, 0},
    {OPTION_CALL, "param", "NAME=VALUE", "a parameter of the policy; may be repeated", 0, 0, 0},
    {OPTION_NUMBER, "fresh", "ROWS", "rows of the fresh buffer, a multiple of 16 (64)", AT(fresh), 16, 1024},
    {OPTION_DTYPE, "cache", "TYPE", "how settled rows are kept: f32, f16, bf16, int8, int4, k5v4 or fade (f16)",
     AT(cache_dtype), 0, SCISSOR_FADE},
    {OPTION_DTYPE, "compute", "TYPE", "how fresh rows are kept: f32, f16 or bf16 (as --cache, or f16)",
     AT(compute_dtype), 0, SCISSOR_BF16},
    {OPTION_TEXT, "name", "NAME", "the session's name, for people", AT(name), 0, 0},
    {OPTION_NUMBER, "priority", "N", "weight when memory is short (100)", AT(priority), 1, 1000},
    {OPTION_NUMBER, "wait", "MS", "wait this long for memory if there is none (0)", AT(wait_ms), 0, 600000},
    {OPTION_NUMBER, "pool", "MIB", "pool of the private daemon (what this session needs)", AT(pool_mib), 1, 1u << 24},
    {OPTION_FLAG, "full", NULL, "keep every row in this process: no daemon, the options above have no effect", AT(full),
     0, 0},
    {.kind = OPTION_HEADING, .text = "Other"},
    {OPTION_NUMBER, "threads", "N", "threads for matrix products (one per core)", AT(threads), 1, 256},
    {OPTION_FLAG, "help", NULL, "print this", AT(help), 0, 0},
    {OPTION_FLAG, "version", NULL, "print the version", AT(version), 0, 0},
};

/* There is one such option, --param. */
static int options_take_param(void *context, const char *name, const char *text) {
    struct options *options = context;
    (void)name;
    return option_read_param(text, options->params, &options->param_count);
}

static int options_take_word(void *context, const char *word) {
    struct options *options = context;
    if (options->model)
        return SCISSOR_EINVAL;
    options->model = word;
    return 0;
}

static const struct option_table options_table = {
    .usage = "usage: scissor-run MODEL.gguf --prompt TEXT [options]\n"
             "       scissor-run MODEL.gguf --nll FILE [options]\n"
             "Runs a Llama model whose KV cache scissord keeps within a budget.\n",
    .entries = option_entries,
    .count = sizeof(option_entries) / sizeof(option_entries[0]),
    .call = options_take_param,
    .word = options_take_word,
};

void options_print_help(FILE *stream) {
    option_table_print(&options_table, stream);
}

static int options_check(struct options *options, struct failure *failure) {
    if (options->help || options->version)
        return 0;
    if (options->compute_dtype == OPTIONS_AS_CACHE)
        options->compute_dtype = options->cache_dtype <= SCISSOR_BF16 ? options->cache_dtype : SCISSOR_F16;
    if (!options->guarantee)
        options->guarantee = options->budget;
    if (!options->model)
        return failure_set(failure, SCISSOR_EINVAL, "which model? give a GGUF file");
    if (!options->nll && !options->prompt && !options->file)
        return failure_set(failure, SCISSOR_EINVAL, "nothing to read: give --prompt, --file or --nll");
    if (options->nll && (options->prompt || options->file || options->chat))
        return failure_set(failure, SCISSOR_EINVAL, "--nll stands alone, without --prompt, --file and --chat");
    if (options->score_from + 1 >= options->tokens && options->nll)
        return failure_set(failure, SCISSOR_EINVAL, "--score-from leaves no token to score; raise --tokens");
    if (options->system && !options->chat)
        return failure_set(failure, SCISSOR_EINVAL, "--system needs --chat");
    if (options->device && strcmp(options->device, "host") && strcmp(options->device, "cuda") &&
        strncmp(options->device, "cuda:", 5))
        return failure_set(failure, SCISSOR_EINVAL,
                           "--device cannot be \"%.80s\": give host, cuda, cuda:N or cuda:GPU-UUID", options->device);
    if (options->fresh % 16 != 0)
        return failure_set(failure, SCISSOR_EINVAL, "--fresh must be a multiple of 16");
    if (options->budget && options->budget < options->fresh + 16)
        return failure_set(failure, SCISSOR_EINVAL, "--budget counts the fresh rows: give at least %u",
                           options->fresh + 16);
    if (options->guarantee &&
        (options->guarantee < options->fresh + 16 || (options->budget && options->guarantee > options->budget)))
        return failure_set(failure, SCISSOR_EINVAL, "--guarantee must be between %u and the budget",
                           options->fresh + 16);
    return 0;
}

int options_parse(int argc, char **argv, struct options *ret_options, struct failure *failure) {
    struct options options = {
        .new_tokens = 128,
        .top_p = 1.0,
        .seed = 1,
        .tokens = 4096,
        .score_from = 2048,
        .fresh = 64,
        .cache_dtype = SCISSOR_F16,
        .compute_dtype = OPTIONS_AS_CACHE,
    };
    int r = option_table_parse(&options_table, argc, argv, &options, failure);
    if (r == 0)
        r = options_check(&options, failure);
    if (r == 0)
        *ret_options = options;
    return r;
}
