/* forward.h - steps of a Llama model: tokens in, logits out. Owns the buffers of a step of up to max_rows rows; the
 * model and the attentions are the caller's. One thread at a time. */
#pragma once

#include "attention.h"
#include "model.h"

struct forward;

/* One text's share in a step. */
struct forward_part {
    struct attention *attention;
    const uint32_t *tokens;
    uint32_t rows;     /* tokens of it, at most what attention->room allows */
    uint32_t position; /* of the first: how many came before */
};

int forward_new(const struct model *model, uint32_t max_rows, struct forward **ret_forward, struct failure *failure);

/* NULL is allowed; returns NULL. */
struct forward *forward_free(struct forward *forward);

/* Runs the parts, texts that know nothing of each other, together: each weight is read once for all of them. Their rows
 * are at most max_rows in all. A failed step leaves all of their attentions unusable. EINVAL: too many rows or none, a
 * token that is not in the vocabulary; then nothing has been done. */
int forward_step_parts(struct forward *forward, const struct forward_part *parts, uint32_t count,
                       struct failure *failure);

/* Logits [count][vocabulary] of those rows of the last step, which are counted over all of its parts: most rows of a
 * prompt need none, and the vocabulary's product is a fifth of a small model's work. */
void forward_logits(struct forward *forward, const uint32_t *rows, uint32_t count, float *ret_logits);

/* Runs `rows` tokens of the one text that this is for, and gives the logits [logit_rows][vocabulary] of the last
 * logit_rows of them. Errors as above. */
int forward_step(struct forward *forward, struct attention *attention, const uint32_t *tokens, uint32_t rows,
                 uint32_t logit_rows, float *ret_logits, struct failure *failure);
