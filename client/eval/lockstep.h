/* lockstep.h - one text through a full cache and through every configuration, side by side.
 *
 * The full cache goes ahead by a window of tokens, then each configuration's session follows over the same tokens and
 * is compared with it. So the logits of a window are all that is kept of them, however long the text and however many
 * the configurations are. All sessions are of one private daemon. Each thread steps its share of them together. */
#pragma once

#include <pthread.h>

#include "eval_options.h"
#include "figures.h"
#include "llama/engine.h"
#include "llama/progress.h"

struct private_daemon;

struct lockstep {
    const struct eval_options *options;
    const struct model *model;
    struct private_daemon *daemon;
    struct progress *progress;
    uint32_t score_from;  /* as in the options; another one for the next text may be put here */
    uint32_t threads;     /* shares of the configurations, one thread each */
    pthread_mutex_t lock; /* of what follows, and of `progress` */
    size_t done;          /* tokens of the progress: each text's, for the full cache and for each configuration */
};

/* Starts the daemon, with a pool for all configurations at once, and waits until it answers. EINVAL: a budget is too
 * small. lockstep_deinit undoes it, also after a failure. */
int lockstep_init(struct lockstep *lockstep, const struct eval_options *options, const struct model *model,
                  struct progress *progress, struct failure *failure);
void lockstep_deinit(struct lockstep *lockstep);

/* Runs options->tokens tokens; fills ret_figures[config_count]. ENGINE_INTERRUPTED. */
int lockstep_run(struct lockstep *lockstep, const uint32_t *tokens, struct figures *ret_figures,
                 struct failure *failure);
