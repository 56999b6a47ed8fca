/* engine.c - see engine.h. */
#include "engine.h"

#include <cblas.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <time.h>

#include "alloc.h"
#include "attention_scissor.h"
#include "progress.h"

/* Rows of one step: enough for a product to run at full speed; more would only need more memory for the logits. */
#define ENGINE_MAX_ROWS 128u

static atomic_int engine_interrupted; /* the number of the signal */

static void engine_on_signal(int number) {
    engine_interrupted = number;
}

void engine_catch_signals(void) {
    struct sigaction action = {.sa_handler = engine_on_signal, .sa_flags = (int)SA_RESETHAND};
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    if (signal(SIGHUP, SIG_IGN) != SIG_IGN) /* as nohup(1) has it */
        sigaction(SIGHUP, &action, NULL);
    signal(SIGPIPE, SIG_IGN);
}

bool engine_was_interrupted(void) {
    return engine_interrupted != 0;
}

int engine_exit_status(const char *program, int code, const struct failure *failure) {
    if (code == 0)
        return 0;
    if (engine_was_interrupted()) {
        fprintf(stderr, "\n%s: interrupted\n", program);
        return 128 + engine_interrupted;
    }
    fprintf(stderr, "%s: %s\n", program, failure->text);
    return 1;
}

uint32_t engine_threads(uint32_t asked) {
    cpu_set_t set;
    if (asked == 0 && sched_getaffinity(0, sizeof(set), &set) == 0)
        asked = (uint32_t)CPU_COUNT(&set);
    return asked > 0 ? asked : 1;
}

void engine_use_threads(uint32_t threads) {
    openblas_set_num_threads((int)threads);
}

int engine_init(struct engine *engine, const struct options *options, struct failure *failure) {
    struct gguf *gguf;
    *engine = (struct engine){.options = options};
    engine_use_threads(engine_threads(options->threads));
    int r = gguf_open(options->model, &gguf, failure);
    if (r != 0)
        return r;
    r = tokenizer_new(gguf, &engine->tokenizer, failure);
    if (r == 0)
        r = model_load(gguf, &engine->model, failure);
    gguf_free(gguf);
    if (r == 0 && vocabulary_size(engine->tokenizer->vocabulary) != engine->model->shape.vocabulary)
        return failure_set(failure, SCISSOR_EINVAL, "the tokenizer has %u tokens and the model %u",
                           vocabulary_size(engine->tokenizer->vocabulary), engine->model->shape.vocabulary);
    return r;
}

void engine_deinit(struct engine *engine) {
    forward_free(engine->forward);
    if (engine->attention)
        engine->attention->free(engine->attention);
    scissor_free(engine->logits);
    tokenizer_free(engine->tokenizer);
    model_free(engine->model);
    *engine = (struct engine){0};
}

/* Without --budget all rows are kept. The daemon wants some rows beside the fresh buffer. */
static uint32_t engine_default_budget(const struct options *options, size_t tokens) {
    uint32_t least = options->fresh + 16;
    return tokens < least ? least : (uint32_t)tokens;
}

static int engine_open_cache(struct engine *engine, size_t tokens, uint32_t max_rows, struct failure *failure) {
    const struct options *options = engine->options;
    if (options->full)
        return attention_full_new(&engine->model->shape, (uint32_t)tokens, max_rows, &engine->attention, failure);
    uint32_t budget = options->budget ? options->budget : engine_default_budget(options, tokens);
    if (budget < options->guarantee)
        budget = options->guarantee;
    const struct attention_scissor_options scissor = {
        .pool_mib = options->pool_mib,
        .directory = options->socket,
        .device = options->device,
        .name = options->name,
        .policy = options->policy,
        .params = options->params,
        .param_count = options->param_count,
        .budget = budget,
        .guarantee = options->guarantee ? options->guarantee : budget,
        .fresh = options->fresh,
        .priority = options->priority,
        .wait_ms = options->wait_ms,
        .storage_dtype = options->cache_dtype,
        .compute_dtype = options->compute_dtype,
    };
    return attention_scissor_new(&engine->model->shape, &scissor, &engine->attention, failure);
}

int engine_attach(struct engine *engine, size_t tokens, size_t logits, struct failure *failure) {
    uint32_t max_rows =
        engine->options->full || engine->options->fresh > ENGINE_MAX_ROWS ? ENGINE_MAX_ROWS : engine->options->fresh;
    if (tokens > (1u << 30))
        return failure_set(failure, SCISSOR_EINVAL, "%zu tokens are too many", tokens);
    engine->logit_rows = logits < max_rows ? (uint32_t)logits : max_rows;
    engine->logits =
        scissor_malloc((size_t)engine->logit_rows * engine->model->shape.vocabulary * sizeof(*engine->logits));
    if (!engine->logits)
        return failure_set_memory(failure);
    int r = engine_open_cache(engine, tokens, max_rows, failure);
    return r == 0 ? forward_new(engine->model, max_rows, &engine->forward, failure) : r;
}

static uint32_t engine_min(size_t a, size_t b) {
    return (uint32_t)(a < b ? a : b);
}

/* One step from token `at` on; *ret_rows is how many tokens it took. */
static int engine_step(struct engine *engine, const uint32_t *tokens, size_t at, size_t count, size_t logits_from,
                       uint32_t *ret_rows, uint32_t *ret_logits, struct failure *failure) {
    uint32_t room;
    double start = progress_now();
    int r = engine->attention->room(engine->attention, &room, failure);
    if (r != 0)
        return r;
    uint32_t rows = engine_min(count - at, engine_min(room, ENGINE_MAX_ROWS));
    uint32_t scored = at + rows > logits_from ? engine_min(at + rows - logits_from, rows) : 0;
    if (scored > engine->logit_rows) { /* fewer logits than rows: the step ends early */
        rows -= scored - engine->logit_rows;
        scored = engine->logit_rows;
    }
    r = forward_step(engine->forward, engine->attention, tokens + at, rows, scored, engine->logits, failure);
    engine->seconds += progress_now() - start;
    *ret_rows = rows;
    *ret_logits = scored;
    return r;
}

int engine_read(struct engine *engine, const uint32_t *tokens, size_t count, size_t logits_from,
                engine_take_logits *take, void *context, struct failure *failure) {
    struct progress progress;
    progress_init(&progress, "reading", count, engine->options->progress);
    int r = 0;
    for (size_t at = 0; at < count && r == 0;) {
        uint32_t rows, scored;
        if (engine_was_interrupted())
            r = ENGINE_INTERRUPTED;
        if (r == 0)
            r = engine_step(engine, tokens, at, count, logits_from, &rows, &scored, failure);
        if (r != 0)
            break;
        at += rows;
        for (uint32_t i = 0; i < scored && r == 0; i++)
            r = take(context, at - scored + i, engine->logits + (size_t)i * engine->model->shape.vocabulary, failure);
        progress_show(&progress, at);
    }
    progress_end(&progress);
    return r;
}
