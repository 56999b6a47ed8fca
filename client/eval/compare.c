/* compare.c - see compare.h.
 *
 * With p and q the two distributions, KL(p || q) = sum p (log p - log q), where log p is a logit less its log sum.
 * Terms nearly cancel where the two agree, so each is formed from the difference of the logits. */
#include "compare.h"

#include <math.h>

#include "llama/vector.h"

static size_t compare_top(const float *logits, size_t count) {
    size_t top = 0;
    for (size_t i = 1; i < count; i++)
        if (logits[i] > logits[top])
            top = i;
    return top;
}

void compare_full_init(struct compare_full *full, const float *logits, size_t vocabulary) {
    *full = (struct compare_full){.logits = logits,
                                  .vocabulary = vocabulary,
                                  .log_sum = vector_log_sum_exp(logits, vocabulary),
                                  .top = compare_top(logits, vocabulary)};
}

void compare_logits(const struct compare_full *full, const float *logits, size_t next, struct comparison *ret) {
    double log_sum = vector_log_sum_exp(logits, full->vocabulary), shift = log_sum - full->log_sum, kl = 0;
    for (size_t i = 0; i < full->vocabulary; i++) {
        double log_p = (double)full->logits[i] - full->log_sum;
        kl += (double)expf((float)log_p) * ((double)full->logits[i] - (double)logits[i] + shift);
    }
    size_t top = compare_top(logits, full->vocabulary);
    *ret = (struct comparison){.nll = log_sum - (double)logits[next],
                               .nll_full = full->log_sum - (double)full->logits[next],
                               .kl = kl,
                               .top1 = top == full->top,
                               .right = top == next,
                               .right_full = full->top == next};
}

void comparison_add(struct comparison_sum *sum, const struct comparison *comparison) {
    sum->nll += comparison->nll;
    sum->nll_full += comparison->nll_full;
    sum->kl += comparison->kl;
    sum->top1 += comparison->top1;
    sum->right += comparison->right;
    sum->right_full += comparison->right_full;
    sum->scored++;
}
