/* sampler.h - picks the next token from logits. Owns its scratch memory and its random state; one thread at a time. */
#pragma once

#include <stdint.h>

#include "failure.h"

struct sampler;

/* temperature 0: always the likeliest, of equals the lowest id. Otherwise one of the likeliest tokens that together
 * have the probability top_p (0..1), drawn by a generator that `seed` fixes. */
int sampler_new(uint32_t vocabulary, double temperature, double top_p, uint64_t seed, struct sampler **ret_sampler,
                struct failure *failure);

/* NULL is allowed; returns NULL. */
struct sampler *sampler_free(struct sampler *sampler);

uint32_t sampler_pick(struct sampler *sampler, const float *logits);
