/* eval_options.c - see eval_options.h.
 *
 * Each --config is a configuration; what it leaves out is as --policy, --param and --cache say, wherever these stand.
 * One without a budget is tried with each --budget. Without --config there is one that leaves out everything. */
#include "eval_options.h"

#include <stddef.h>
#include <string.h>

#include "llama/option_table.h"
#include "workload.h"

#define TOKENS_MAX (1u << 24)
#define SCORE_FROM_UNSET UINT32_MAX
#define POOL_MIB_MAX (1u << 24)

struct eval_arguments {
    struct eval_options options;
    struct eval_config standard;
    const char *configs[EVAL_MAX_CONFIGS], *budgets[EVAL_MAX_CONFIGS];
    uint32_t config_count, budget_count;
    bool score_from_given;
};

#define AT(field) offsetof(struct eval_arguments, field)

static const struct option_entry eval_option_entries[] = {
    {.kind = OPTION_HEADING, .text = "What it reads"},
    {OPTION_TEXT, "model", "FILE", "the model, a GGUF file; may also be given without --model", AT(options.model), 0,
     0},
    {OPTION_CALL, "text", "FILE", "a text; words that follow are texts, too", 0, 0, 0},
    {OPTION_NUMBER, "tokens", "N", "the first N tokens of each text (8192)", AT(options.tokens), 2, TOKENS_MAX},
    {OPTION_NUMBER, "score-from", "N",
     "compare the predictions after token N, counted from 0, and later (11/16 of them)", AT(options.score_from), 0,
     TOKENS_MAX},
    {OPTION_CALL, "task", "NAME", "passkey: whether a number in the text is found again, instead of predictions", 0, 0,
     0},
    {OPTION_CALL, "pool", "SIZE",
     "eight sessions in one pool, of SIZE in MiB or, with 5x, of a fifth of their full f16 caches; shared by the "
     "daemon's arbiter, equally, and by last use",
     0, 0, 0},
    {.kind = OPTION_HEADING, .text = "What it compares with a full cache"},
    {OPTION_CALL, "budget", "ROWS",
     "rows per KV head, fresh ones included; 5x: that fit into a fifth of a full f16 "
     "cache; all: every row (all); may be repeated",
     0, 0, 0},
    {OPTION_CALL, "policy", "NAME",
     "which rows go: pivotal (default), scissorhands, h2o, tova, streaming, window, random", 0, 0, 0},
    {OPTION_CALL, "param", "NAME=VALUE", "a parameter of the policy; may be repeated", 0, 0, 0},
    {OPTION_DTYPE, "cache", "TYPE", "how settled rows are kept: f32, f16, bf16, int8, int4, k5v4 or fade (f16)",
     AT(standard.cache), 0, SCISSOR_FADE},
    {OPTION_NUMBER, "fresh", "ROWS", "rows of the fresh buffer, a multiple of 16 (64)", AT(standard.fresh), 16,
     CONFIG_MOST_FRESH},
    {OPTION_CALL, "config", "LIST",
     "one of several configurations in one run: policy, type, budget, fresh=ROWS and NAME=VALUE, "
     "separated by commas; the options above say what it leaves out",
     0, 0, 0},
    {.kind = OPTION_HEADING, .text = "Other"},
    {OPTION_FLAG, "json", NULL, "print JSON instead of a table", AT(options.json), 0, 0},
    {OPTION_FLAG, "progress", NULL, "show progress even if standard error is no terminal", AT(options.progress), 0, 0},
    {OPTION_TEXT, "device", "DEVICE", "where the cache is: host, cuda, cuda:N or cuda:GPU-UUID (host)",
     AT(options.device), 0, 0},
    {OPTION_NUMBER, "threads", "N",
     "threads for matrix products, or each for a share of the configurations (one per core)", AT(options.threads), 1,
     256},
    {OPTION_FLAG, "help", NULL, "print this", AT(options.help), 0, 0},
    {OPTION_FLAG, "version", NULL, "print the version", AT(options.version), 0, 0},
};

/* One too many is counted, and told of when all options have been read. */
static int eval_append(const char **list, uint32_t *count, uint32_t capacity, const char *text) {
    if (*count < capacity)
        list[*count] = text;
    *count += *count <= capacity;
    return 0;
}

/* "5x" or "40MiB". */
static int eval_read_pool(struct eval_options *options, const char *text) {
    char number[32];
    size_t digits = strspn(text, "0123456789.");
    uint64_t mib = 0;
    double divisor = 0;
    if (digits == 0 || digits >= sizeof(number))
        return SCISSOR_EINVAL;
    memcpy(number, text, digits);
    number[digits] = '\0';
    int r = SCISSOR_EINVAL;
    if (strcmp(text + digits, "x") == 0)
        r = option_read_real(number, 1, 1e6, &divisor);
    else if (strcmp(text + digits, "MiB") == 0)
        r = option_read_integer(number, 1, POOL_MIB_MAX, &mib);
    if (r != 0)
        return r;
    options->pool_divisor = divisor;
    options->pool_mib = (uint32_t)mib;
    return 0;
}

static int eval_call(void *context, const char *name, const char *text) {
    struct eval_arguments *arguments = context;
    struct eval_config tried = arguments->standard;
    if (strcmp(name, "text") == 0)
        return eval_append(arguments->options.texts, &arguments->options.text_count, EVAL_MAX_TEXTS, text);
    if (strcmp(name, "budget") == 0)
        return config_read_budget(&tried, text) != 0
                   ? SCISSOR_EINVAL
                   : eval_append(arguments->budgets, &arguments->budget_count, EVAL_MAX_CONFIGS, text);
    if (strcmp(name, "config") == 0)
        return config_read(&tried, text) != 0
                   ? SCISSOR_EINVAL
                   : eval_append(arguments->configs, &arguments->config_count, EVAL_MAX_CONFIGS, text);
    if (strcmp(name, "pool") == 0)
        return eval_read_pool(&arguments->options, text);
    if (strcmp(name, "task") == 0) {
        arguments->options.passkey = strcmp(text, "passkey") == 0;
        return arguments->options.passkey ? 0 : SCISSOR_EINVAL;
    }
    if (strcmp(name, "param") == 0)
        return option_read_param(text, arguments->standard.params, &arguments->standard.param_count);
    if (strlen(text) >= sizeof(arguments->standard.policy))
        return SCISSOR_EINVAL;
    strcpy(arguments->standard.policy, text);
    return 0;
}

/* Behind --text, words are texts: a shell writes them so for *.txt. */
static int eval_word(void *context, const char *word) {
    struct eval_arguments *arguments = context;
    if (arguments->options.text_count > 0)
        return eval_append(arguments->options.texts, &arguments->options.text_count, EVAL_MAX_TEXTS, word);
    if (arguments->options.model)
        return SCISSOR_EINVAL;
    arguments->options.model = word;
    return 0;
}

static const struct option_table eval_option_table = {
    .usage = "usage: scissor-eval MODEL.gguf [options] --text FILE...\n"
             "Compares a model's predictions with rows evicted to those with a full cache.\n",
    .entries = eval_option_entries,
    .count = sizeof(eval_option_entries) / sizeof(eval_option_entries[0]),
    .call = eval_call,
    .word = eval_word,
};

void eval_options_print_help(FILE *stream) {
    option_table_print(&eval_option_table, stream);
}

/* ---------- putting it together ---------- */

static int eval_add_config(struct eval_options *options, const struct eval_config *config, struct failure *failure) {
    if (options->config_count == EVAL_MAX_CONFIGS)
        return failure_set(failure, SCISSOR_EINVAL, "more than %d configurations", EVAL_MAX_CONFIGS);
    options->configs[options->config_count++] = *config;
    return 0;
}

static int eval_make_configs(struct eval_arguments *arguments, struct failure *failure) {
    uint32_t configs = arguments->config_count ? arguments->config_count : 1;
    int r = 0;
    for (uint32_t i = 0; i < configs && r == 0; i++) {
        struct eval_config config = arguments->standard;
        if (arguments->config_count && config_read(&config, arguments->configs[i]) != 0)
            return failure_set(failure, SCISSOR_EINVAL, "--config \"%.80s\" and --param give too many parameters",
                               arguments->configs[i]);
        if (config.budget_given || arguments->budget_count == 0)
            r = eval_add_config(&arguments->options, &config, failure);
        else
            for (uint32_t j = 0; j < arguments->budget_count && r == 0; j++) {
                config_read_budget(&config, arguments->budgets[j]);
                r = eval_add_config(&arguments->options, &config, failure);
            }
    }
    return r;
}

/* What would have no meaning beside --pool. */
static int eval_check_pool(const struct eval_arguments *arguments, struct failure *failure) {
    const struct eval_options *options = &arguments->options;
    if (arguments->budget_count || options->config_count != 1 || options->configs[0].budget_given)
        return failure_set(failure, SCISSOR_EINVAL, "--pool takes one configuration, without a budget");
    if (options->passkey)
        return failure_set(failure, SCISSOR_EINVAL, "--pool and --task are two tasks");
    if (arguments->score_from_given)
        return failure_set(failure, SCISSOR_EINVAL,
                           "--pool compares what is read when the pool is full, so it takes "
                           "no --score-from");
    if (options->tokens < WORKLOAD_LEAST_TOKENS)
        return failure_set(failure, SCISSOR_EINVAL, "--pool needs at least %u --tokens", WORKLOAD_LEAST_TOKENS);
    return 0;
}

static int eval_check(struct eval_arguments *arguments, struct failure *failure) {
    struct eval_options *options = &arguments->options;
    if (options->help || options->version)
        return 0;
    if (arguments->config_count > EVAL_MAX_CONFIGS || arguments->budget_count > EVAL_MAX_CONFIGS)
        return failure_set(failure, SCISSOR_EINVAL, "more than %d configurations", EVAL_MAX_CONFIGS);
    if (options->text_count > EVAL_MAX_TEXTS)
        return failure_set(failure, SCISSOR_EINVAL, "more than %d texts", EVAL_MAX_TEXTS);
    if (!options->model)
        return failure_set(failure, SCISSOR_EINVAL, "which model? give a GGUF file before the texts");
    if (options->text_count == 0)
        return failure_set(failure, SCISSOR_EINVAL, "which text? give --text FILE");
    arguments->score_from_given = options->score_from != SCORE_FROM_UNSET;
    if (!arguments->score_from_given)
        options->score_from = options->tokens / 16 * 11;
    if (options->score_from + 1 >= options->tokens)
        return failure_set(failure, SCISSOR_EINVAL, "--score-from leaves no token to score; raise --tokens");
    if (arguments->standard.fresh % 16 != 0)
        return failure_set(failure, SCISSOR_EINVAL, "--fresh must be a multiple of 16");
    int r = eval_make_configs(arguments, failure);
    return r == 0 && eval_has_pool(options) ? eval_check_pool(arguments, failure) : r;
}

int eval_options_parse(int argc, char **argv, struct eval_options *ret_options, struct failure *failure) {
    struct eval_arguments arguments = {
        .options = {.tokens = 8192, .score_from = SCORE_FROM_UNSET},
        .standard = {.policy = "pivotal", .cache = SCISSOR_F16, .fresh = CONFIG_FRESH},
    };
    int r = option_table_parse(&eval_option_table, argc, argv, &arguments, failure);
    if (r == 0)
        r = eval_check(&arguments, failure);
    if (r == 0)
        *ret_options = arguments.options;
    return r;
}
