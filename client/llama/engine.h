/* engine.h - everything one run of scissor-run needs, put together: the model and its tokenizer, the cache, the layer
 * loop; and reading a list of tokens through them in steps. One thread. */
#pragma once

#include "attention.h"
#include "forward.h"
#include "options.h"
#include "tokenizer.h"

/* Not a failure: the user pressed Ctrl-C (or sent SIGTERM or SIGHUP) between two steps. */
#define ENGINE_INTERRUPTED 1000

struct engine {
    const struct options *options;
    struct model *model;
    struct tokenizer *tokenizer;
    struct attention *attention;
    struct forward *forward;
    float *logits;       /* [logit_rows][vocabulary] */
    uint32_t logit_rows; /* most rows of logits in a step */
    double seconds;      /* spent in steps */
};

/* Loads model and tokenizer; options must outlive the engine. engine_deinit undoes it, also after a failure. */
int engine_init(struct engine *engine, const struct options *options, struct failure *failure);
void engine_deinit(struct engine *engine);

/* Opens the cache for `tokens` tokens in all, and makes buffers for the logits of up to `logits` positions a step. */
int engine_attach(struct engine *engine, size_t tokens, size_t logits, struct failure *failure);

/* Gets the logits after one position. Not 0 ends the reading with that code. */
typedef int engine_take_logits(void *context, size_t position, const float *logits, struct failure *failure);

/* Runs the tokens, and gives the logits after tokens logits_from .. count - 1, counted within this list. `take` may be
 * NULL if logits_from >= count. */
int engine_read(struct engine *engine, const uint32_t *tokens, size_t count, size_t logits_from,
                engine_take_logits *take, void *context, struct failure *failure);

/* Has Ctrl-C, SIGTERM and SIGHUP end engine_read with ENGINE_INTERRUPTED, so that a private daemon is cleaned up; a
 * second one ends the process at once. Ignores SIGPIPE. */
void engine_catch_signals(void);
/* Whether one of them came. */
bool engine_was_interrupted(void);
/* What a program ends with that has given `code`: 0; 1, and the failure is told; 128 and the signal's number. */
int engine_exit_status(const char *program, int code, const struct failure *failure);

/* `asked` of the command line; 0: one per core that this process may run on. */
uint32_t engine_threads(uint32_t asked);
/* How many threads share one matrix product, whichever thread asks for it: with the OpenBLAS that has threads of its
 * own, as Debian installs it. That for OpenMP counts them for each thread. */
void engine_use_threads(uint32_t threads);
