/* attention.h - made-up tokens and plain full attention over any set of them, in double, to compare a cache with.
 *
 * Row values are a hash of (seed, what, layer, head, position, channel), so nothing has to be kept: a row that was
 * written thousands of tokens ago can be computed again. */
#pragma once

#include <stdint.h>

#include "scissor.h"

struct attention_model {
    uint32_t seed;
    uint32_t layers, kv_heads, q_heads, head_dim;
    uint32_t compute_dtype, storage_dtype;
    float scale;
};

enum attention_what { ATTENTION_K, ATTENTION_V, ATTENTION_Q };

/* Heads' values of one token: [heads][head_dim]; kv_heads of them for K and V, q_heads for Q. */
void attention_row(const struct attention_model *m, enum attention_what what, uint32_t layer, uint64_t position,
                   float *ret);

/* Output of one query head over the given settled positions (rounded to compute, then storage type) and the fresh
 * positions first_fresh .. first_fresh + fresh_count - 1 (compute type): ret_out[head_dim]. With `ret_mass`, adds each
 * row's probability divided by the query heads of a group: settled rows, then fresh ones. */
void attention_expect(const struct attention_model *m, uint32_t layer, uint32_t q_head, uint64_t position,
                      const uint32_t *settled, uint32_t settled_count, uint64_t first_fresh, uint32_t fresh_count,
                      float *ret_out, double *ret_mass);

/* Runs one step of `rows` tokens through all layers of a session; the outputs of `layer` go to ret_out
 * ([rows][q_heads][head_dim]) if it is not NULL. Gives the first code that is not 0. */
int attention_step(const struct attention_model *m, struct scissor_session *session, uint32_t rows, uint32_t layer,
                   float *ret_out);

/* Largest difference to naive attention of what a step gave, over all rows and heads of a layer; `positions` of each
 * KV head are asked from the daemon. Call it after the step, before anything else is settled; first_fresh: position of
 * fresh row 0. */
double attention_error(const struct attention_model *m, struct scissor_session *session, uint32_t layer, uint32_t rows,
                       const float *out);
