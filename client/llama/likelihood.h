/* likelihood.h - the mode --nll: how well the model predicts a given text, through the cache or with full attention. */
#pragma once

#include "engine.h"

/* Reads the first --tokens tokens of the file and prints the mean negative log likelihood of tokens score_from + 1 to
 * the last, each predicted by the tokens before it. */
int likelihood_run(struct engine *engine, struct failure *failure);
