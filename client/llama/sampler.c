/* sampler.c - see sampler.h. */
#include "sampler.h"

#include <math.h>
#include <stdlib.h>

#include "alloc.h"

struct sampler_choice {
    uint32_t id;
    double weight;
};

struct sampler {
    uint32_t vocabulary;
    double temperature, top_p;
    uint64_t state;
    struct sampler_choice *choices;
};

int sampler_new(uint32_t vocabulary, double temperature, double top_p, uint64_t seed, struct sampler **ret_sampler,
                struct failure *failure) {
    struct sampler *sampler = scissor_calloc(1, sizeof(*sampler));
    struct sampler_choice *choices = scissor_calloc(vocabulary, sizeof(*choices));
    if (!sampler || !choices) {
        scissor_free(sampler);
        scissor_free(choices);
        return failure_set_memory(failure);
    }
    *sampler = (struct sampler){vocabulary, temperature, top_p, seed, choices};
    *ret_sampler = sampler;
    return 0;
}

struct sampler *sampler_free(struct sampler *sampler) {
    if (!sampler)
        return NULL;
    scissor_free(sampler->choices);
    return scissor_free(sampler);
}

/* Uniform in 0 <= x < 1: a Weyl sequence through a mixing function that spreads each bit over all others. */
static double sampler_draw(struct sampler *sampler) {
    uint64_t x = sampler->state += 0x9e3779b97f4a7c15u;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return (double)((x ^ x >> 31) >> 11) * 0x1p-53;
}

static uint32_t sampler_best(const struct sampler *sampler, const float *logits) {
    uint32_t best = 0;
    for (uint32_t id = 1; id < sampler->vocabulary; id++)
        if (logits[id] > logits[best] || isnan(logits[best]))
            best = id;
    return best;
}

static int sampler_compare(const void *left, const void *right) {
    const struct sampler_choice *a = left, *b = right;
    if (a->weight != b->weight)
        return a->weight < b->weight ? 1 : -1;
    return a->id < b->id ? -1 : a->id > b->id;
}

/* Fills the choices that can be among the top_p and returns their number; *ret_total is the weight of all tokens. A
 * token with less than (1 - top_p) / vocabulary of the total cannot be needed to reach top_p: all of its kind together
 * have less than 1 - top_p. Leaving these out keeps the sort short. */
static uint32_t sampler_collect(struct sampler *sampler, const float *logits, double *ret_total) {
    double max = (double)logits[sampler_best(sampler, logits)], total = 0;
    for (uint32_t id = 0; id < sampler->vocabulary; id++) {
        double weight = exp(((double)logits[id] - max) / sampler->temperature);
        sampler->choices[id] = (struct sampler_choice){id, isfinite(weight) ? weight : 0};
        total += sampler->choices[id].weight;
    }
    double least = (1 - sampler->top_p) / sampler->vocabulary * total;
    uint32_t count = 0;
    for (uint32_t id = 0; id < sampler->vocabulary; id++)
        if (sampler->choices[id].weight > 0 && sampler->choices[id].weight >= least)
            sampler->choices[count++] = sampler->choices[id];
    *ret_total = total;
    return count;
}

uint32_t sampler_pick(struct sampler *sampler, const float *logits) {
    double total, kept = 0;
    if (sampler->temperature <= 0)
        return sampler_best(sampler, logits);
    uint32_t count = sampler_collect(sampler, logits, &total), last = 0;
    if (count == 0)
        return sampler_best(sampler, logits);
    qsort(sampler->choices, count, sizeof(*sampler->choices), sampler_compare);
    for (last = 0; last < count; last++) {
        kept += sampler->choices[last].weight;
        if (kept >= sampler->top_p * total)
            break;
    }
    double left = sampler_draw(sampler) * kept;
    for (uint32_t i = 0; i < count && i <= last; i++) {
        left -= sampler->choices[i].weight;
        if (left < 0)
            return sampler->choices[i].id;
    }
    return sampler->choices[last < count ? last : count - 1].id;
}
