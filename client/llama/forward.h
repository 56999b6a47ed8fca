/* forward.h - one step of a Llama model: tokens in, logits out. Owns the buffers of a step of up to max_rows rows;
 * the model and the attention are the caller's. One thread at a time. */
#pragma once

#include "attention.h"
#include "model.h"

struct forward;

int forward_new(const struct model *model, uint32_t max_rows, struct forward **ret_forward, struct failure *failure);

/* NULL is allowed; returns NULL. */
struct forward *forward_free(struct forward *forward);

/* Runs `rows` tokens, at most what attention->room and max_rows allow, at the positions that follow those before.
 * Logits [logit_rows][vocabulary] of the last logit_rows rows are written if logit_rows > 0: most rows of a prompt
 * need none, and the vocabulary's product is a fifth of a small model's work. A failed step leaves the attention
 * unusable. */
int forward_step(struct forward *forward, struct attention *attention, const uint32_t *tokens, uint32_t rows,
                 uint32_t logit_rows, float *ret_logits, struct failure *failure);
