/* evaluation.c - see evaluation.h. */
#include "evaluation.h"

#include "alloc.h"
#include "llama/input.h"
#include "lockstep.h"

static int evaluation_encode(const struct engine *engine, const struct eval_options *options, const char *path,
                             struct token_list *list, struct failure *failure) {
    char *text;
    size_t size, lost;
    int r = input_read(path, &text, &size, failure);
    if (r != 0)
        return r;
    r = tokenizer_encode(engine->tokenizer, text, size, list, &lost, failure);
    scissor_free(text);
    if (r == 0 && list->count < options->tokens && !eval_has_pool(options))
        return failure_set(failure, SCISSOR_EINVAL, "%.160s has %zu tokens; --tokens asks for %u", path, list->count,
                           options->tokens);
    return r;
}

static int evaluation_encode_all(const struct engine *engine, const struct eval_options *options,
                                 struct token_list *lists, struct failure *failure) {
    int r = 0;
    for (uint32_t i = 0; i < options->text_count && r == 0; i++)
        r = evaluation_encode(engine, options, options->texts[i], &lists[i], failure);
    return r;
}

/* Takes the texts as they are. */
static int evaluation_compare(struct evaluation *evaluation, struct lockstep *lockstep, const struct token_list *lists,
                              struct failure *failure) {
    const struct eval_options *options = evaluation->options;
    struct figures figures[EVAL_MAX_CONFIGS];
    int r = 0;
    for (uint32_t i = 0; i < options->text_count && r == 0; i++) {
        r = lockstep_run(lockstep, lists[i].ids, figures, failure);
        for (uint32_t j = 0; j < options->config_count && r == 0; j++)
            evaluation->figures[j * options->text_count + i] = figures[j];
    }
    return r;
}

static size_t evaluation_work(const struct eval_options *options) {
    size_t passes = (size_t)options->text_count * (1 + options->config_count) * (options->passkey ? PASSKEY_DEPTHS : 1);
    return eval_has_pool(options) ? pooled_work(options) : passes * (options->tokens - 1);
}

static int evaluation_lockstep(struct evaluation *evaluation, const struct engine *engine,
                               const struct token_list *lists, struct progress *progress, struct failure *failure) {
    const struct eval_options *options = evaluation->options;
    struct lockstep lockstep;
    int r = lockstep_init(&lockstep, options, engine->model, progress, failure);
    if (r == 0)
        r = options->passkey ? passkey_run(&lockstep, engine->tokenizer, lists, evaluation->counts, failure)
                             : evaluation_compare(evaluation, &lockstep, lists, failure);
    lockstep_deinit(&lockstep);
    return r;
}

static int evaluation_compute(struct evaluation *evaluation, const struct engine *engine,
                              const struct token_list *lists, struct failure *failure) {
    const struct eval_options *options = evaluation->options;
    struct progress progress;
    progress_init(&progress, "comparing", evaluation_work(options), options->progress);
    int r = eval_has_pool(options) ? pooled_run(options, engine->model, lists, &progress, &evaluation->pooled, failure)
                                   : evaluation_lockstep(evaluation, engine, lists, &progress, failure);
    progress_end(&progress);
    evaluation->seconds = progress_now() - progress.start;
    return r;
}

int evaluation_run(struct evaluation *evaluation, const struct eval_options *options, struct failure *failure) {
    const struct options engine_options = {
        .model = options->model, .threads = options->threads, .progress = options->progress};
    struct token_list lists[EVAL_MAX_TEXTS] = {0};
    struct engine engine;
    *evaluation = (struct evaluation){.options = options};
    evaluation->figures =
        scissor_calloc((size_t)options->config_count * options->text_count, sizeof(*evaluation->figures));
    evaluation->counts = scissor_calloc((size_t)options->config_count * PASSKEY_DEPTHS, sizeof(*evaluation->counts));
    if (!evaluation->figures || !evaluation->counts)
        return failure_set_memory(failure);
    int r = engine_init(&engine, &engine_options, failure);
    if (r == 0)
        r = evaluation_encode_all(&engine, options, lists, failure);
    if (r == 0)
        r = evaluation_compute(evaluation, &engine, lists, failure);
    for (uint32_t i = 0; i < options->text_count; i++)
        token_list_deinit(&lists[i]);
    engine_deinit(&engine);
    return r;
}

void evaluation_deinit(struct evaluation *evaluation) {
    scissor_free(evaluation->figures);
    scissor_free(evaluation->counts);
    *evaluation = (struct evaluation){0};
}

const struct figures *evaluation_texts(const struct evaluation *evaluation, uint32_t config) {
    return evaluation->figures + (size_t)config * evaluation->options->text_count;
}
