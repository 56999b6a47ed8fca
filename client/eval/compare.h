/* compare.h - how far a model's predictions are from those with a full cache: negative log likelihood, KL divergence
 * and top-1 agreement of one position, from both vectors of logits. Sums in double. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What is computed once from the full cache's logits and used for every configuration. */
struct compare_full {
    const float *logits; /* [vocabulary], the caller's */
    size_t vocabulary;
    double log_sum; /* log(sum(exp(logits))) */
    size_t top;     /* index of the largest; of equal ones the first */
};

void compare_full_init(struct compare_full *full, const float *logits, size_t vocabulary);

struct comparison {
    double nll, nll_full;   /* of the token that came, natural logarithm */
    double kl;              /* full || logits, over the whole vocabulary, in nats */
    bool top1;              /* both have the same likeliest token */
    bool right, right_full; /* that is the one that came */
};

/* Of several positions. */
struct comparison_sum {
    double nll, nll_full, kl, top1, right, right_full;
    uint32_t scored;
};

void comparison_add(struct comparison_sum *sum, const struct comparison *comparison);

void compare_logits(const struct compare_full *full, const float *logits, size_t next, struct comparison *ret);
