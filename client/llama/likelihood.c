/* likelihood.c - see likelihood.h. */
#include "likelihood.h"

#include <math.h>
#include <stdio.h>

#include "alloc.h"
#include "input.h"
#include "logits_file.h"
#include "report.h"
#include "vector.h"

struct likelihood {
    const uint32_t *tokens;
    size_t vocabulary;
    double sum;
    size_t scored;
    FILE *logits_file;
};

static int likelihood_take(void *context, size_t position, const float *logits, struct failure *failure) {
    struct likelihood *likelihood = context;
    uint32_t next = likelihood->tokens[position + 1];
    likelihood->sum += vector_log_sum_exp(logits, likelihood->vocabulary) - (double)logits[next];
    likelihood->scored++;
    return logits_file_append(likelihood->logits_file, logits, likelihood->vocabulary, failure);
}

static int likelihood_encode(const struct engine *engine, struct token_list *list, struct failure *failure) {
    char *text;
    size_t size, lost;
    int r = input_read(engine->options->nll, &text, &size, failure);
    if (r != 0)
        return r;
    r = tokenizer_encode(engine->tokenizer, text, size, list, &lost, failure);
    scissor_free(text);
    if (r == 0 && list->count < engine->options->tokens)
        return failure_set(failure, SCISSOR_EINVAL, "%.160s has %zu tokens; --tokens asks for %u", engine->options->nll,
                           list->count, engine->options->tokens);
    return r;
}

static int likelihood_print(const struct likelihood *likelihood, const struct engine *engine, struct failure *failure) {
    const struct options *options = engine->options;
    struct report report = {.tokens_read = options->tokens - 1u,
                            .text = "",
                            .tokens_scored = likelihood->scored,
                            .nll = likelihood->sum / (double)likelihood->scored};
    if (!options->json)
        printf("mean negative log likelihood %.4f (perplexity %.3f) of tokens %u to %u, %.1f tokens a second\n",
               report.nll, exp(report.nll), options->score_from + 1, options->tokens - 1,
               (double)report.tokens_read / engine->seconds);
    return report_write(&report, engine, failure);
}

int likelihood_run(struct engine *engine, struct failure *failure) {
    const struct options *options = engine->options;
    struct token_list list = {0};
    struct likelihood likelihood = {.vocabulary = engine->model->shape.vocabulary};
    int r = likelihood_encode(engine, &list, failure);
    size_t read = options->tokens - 1u; /* the last token is only predicted */
    if (r == 0)
        r = engine_attach(engine, read, read - options->score_from, failure);
    if (r == 0)
        r = logits_file_open(options->logits_out, &likelihood.logits_file, failure);
    likelihood.tokens = list.ids;
    if (r == 0)
        r = engine_read(engine, list.ids, read, options->score_from, likelihood_take, &likelihood, failure);
    int closed = logits_file_close(likelihood.logits_file, failure);
    if (r == 0)
        r = closed;
    if (r == 0)
        r = likelihood_print(&likelihood, engine, failure);
    token_list_deinit(&list);
    return r;
}
