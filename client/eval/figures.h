/* figures.h - what an evaluation found for one text, the mean over texts, and how sure that mean is. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "compare.h"

/* Of a configuration and a text; of the mean, everything is the mean. */
struct figures {
    double tokens, scored;    /* of the text; positions that were compared */
    double nll, nll_full;     /* mean over them */
    double kl, top1;          /* nats a token; share of the positions */
    double right, right_full; /* share of the positions whose likeliest token came; of the full cache's */
    double bytes_peak, bytes_mean, bytes_full;
    double bytes_daemon; /* that the daemon charges at the end beside the rows' memory */
    double rows;         /* most that a KV head held */
};

/* The means over the positions; what else there is stays 0. */
struct figures figures_of(const struct comparison_sum *sum);

/* Perplexity over that of the full cache; of a mean the geometric one. */
double figures_ppl_ratio(const struct figures *figures);

void figures_mean(const struct figures *texts, size_t count, struct figures *ret);

/* Where the mean would lie with other texts of this kind: 95 % of bootstrap samples. */
struct interval {
    double low, high;
};
struct figures_intervals {
    struct interval ppl_ratio, kl, top1;
};

/* The intervals of the mean over the texts; 1 if there are fewer than two. The same texts give the same intervals.
 * ENOMEM. */
int figures_intervals(const struct figures *texts, size_t count, struct figures_intervals *ret);

/* The interval of the mean of `values`, from that many samples with replacement. ENOMEM. */
int bootstrap_mean(const double *values, size_t count, size_t samples, struct interval *ret);
