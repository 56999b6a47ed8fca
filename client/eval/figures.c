/* figures.c - see figures.h. */
#include "figures.h"

#include <math.h>
#include <stdlib.h>

#include "alloc.h"
#include "scissor_error.h"

#define FIGURES_SAMPLES 10000

struct figures figures_of(const struct comparison_sum *sum) {
    double scored = sum->scored;
    return (struct figures){.scored = scored,
                            .nll = sum->nll / scored,
                            .nll_full = sum->nll_full / scored,
                            .kl = sum->kl / scored,
                            .top1 = sum->top1 / scored,
                            .right = sum->right / scored,
                            .right_full = sum->right_full / scored};
}

double figures_ppl_ratio(const struct figures *figures) {
    return exp(figures->nll - figures->nll_full);
}

void figures_mean(const struct figures *texts, size_t count, struct figures *ret) {
    struct figures mean = {0};
    for (size_t i = 0; i < count; i++) {
        const double part = 1.0 / (double)count;
        mean.tokens += part * texts[i].tokens;
        mean.scored += part * texts[i].scored;
        mean.nll += part * texts[i].nll;
        mean.nll_full += part * texts[i].nll_full;
        mean.kl += part * texts[i].kl;
        mean.top1 += part * texts[i].top1;
        mean.right += part * texts[i].right;
        mean.right_full += part * texts[i].right_full;
        mean.bytes_peak += part * texts[i].bytes_peak;
        mean.bytes_mean += part * texts[i].bytes_mean;
        mean.bytes_full += part * texts[i].bytes_full;
        mean.bytes_daemon += part * texts[i].bytes_daemon;
        mean.rows += part * texts[i].rows;
    }
    *ret = mean;
}

/* ---------- the bootstrap ---------- */

/* splitmix64: any seed will do, and the same one gives the same samples everywhere. */
static uint64_t bootstrap_next(uint64_t *state) {
    uint64_t x = *state += 0x9e3779b97f4a7c15u;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

static int bootstrap_compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

int bootstrap_mean(const double *values, size_t count, size_t samples, struct interval *ret) {
    double *means = scissor_malloc(samples * sizeof(*means));
    uint64_t state = 1;
    if (!means)
        return SCISSOR_ENOMEM;
    for (size_t i = 0; i < samples; i++) {
        double sum = 0;
        for (size_t j = 0; j < count; j++)
            sum += values[bootstrap_next(&state) % count];
        means[i] = sum / (double)count;
    }
    qsort(means, samples, sizeof(*means), bootstrap_compare);
    size_t cut = samples / 40; /* 2.5 % at each end */
    *ret = (struct interval){means[cut], means[samples - 1 - cut]};
    scissor_free(means);
    return 0;
}

int figures_intervals(const struct figures *texts, size_t count, struct figures_intervals *ret) {
    struct figures_intervals found;
    if (count < 2)
        return 1;
    double *values = scissor_malloc(3 * count * sizeof(*values));
    if (!values)
        return SCISSOR_ENOMEM;
    for (size_t i = 0; i < count; i++) {
        values[i] = texts[i].nll - texts[i].nll_full;
        values[count + i] = texts[i].kl;
        values[2 * count + i] = texts[i].top1;
    }
    int r = bootstrap_mean(values, count, FIGURES_SAMPLES, &found.ppl_ratio);
    if (r == 0)
        r = bootstrap_mean(values + count, count, FIGURES_SAMPLES, &found.kl);
    if (r == 0)
        r = bootstrap_mean(values + 2 * count, count, FIGURES_SAMPLES, &found.top1);
    scissor_free(values);
    if (r != 0)
        return r;
    found.ppl_ratio.low = exp(found.ppl_ratio.low); /* of the logarithms till here */
    found.ppl_ratio.high = exp(found.ppl_ratio.high);
    *ret = found;
    return 0;
}
