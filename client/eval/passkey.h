/* passkey.h - the task passkey: a number is put into a long text, at ten depths in turn, and asked for at its end, when
 * the rows that the budget does not hold have gone. */
#pragma once

#include "lockstep.h"

#define PASSKEY_DEPTHS 10u

struct passkey_count {
    uint32_t full;   /* texts of which the full cache had the number */
    uint32_t solved; /* of these, the ones of which the session had it, too */
};

/* Where the number is, as a part of the text: 0.05, 0.15, ... 0.95. */
double passkey_depth(uint32_t depth);

/* A text of exactly `tokens` tokens: of `filler`, with the number in it, the question, and the answer at its end.
 * *ret_score_from is the token that the answer's first one is predicted after. EINVAL: too few tokens for that. */
int passkey_build(const struct tokenizer *tokenizer, const struct token_list *filler, uint32_t tokens, uint32_t depth,
                  uint32_t number, struct token_list *ret_list, uint32_t *ret_score_from, struct failure *failure);

/* Every text at every depth; ret_counts[config_count][PASSKEY_DEPTHS]. */
int passkey_run(struct lockstep *lockstep, const struct tokenizer *tokenizer, const struct token_list *lists,
                struct passkey_count *ret_counts, struct failure *failure);
