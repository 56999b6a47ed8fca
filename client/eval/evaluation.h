/* evaluation.h - all texts through all configurations, and what came of it. */
#pragma once

#include "eval_options.h"
#include "figures.h"
#include "passkey.h"
#include "pooled.h"

struct evaluation {
    const struct eval_options *options;
    struct figures *figures;      /* [config_count][text_count] */
    struct passkey_count *counts; /* [config_count][PASSKEY_DEPTHS], of --task passkey instead */
    double seconds;
    struct pooled pooled; /* of --pool instead */
};

/* Reads the texts before anything is computed. evaluation_deinit undoes it, also after a failure. */
int evaluation_run(struct evaluation *evaluation, const struct eval_options *options, struct failure *failure);
void evaluation_deinit(struct evaluation *evaluation);

/* Figures of one configuration. */
const struct figures *evaluation_texts(const struct evaluation *evaluation, uint32_t config);
