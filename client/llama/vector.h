/* vector.h - the element-wise parts of a transformer step over rows of floats. Pure functions, any thread. */
#pragma once

#include <stddef.h>

/* ret[i] = x[i] / sqrt(mean(x^2) + epsilon) * weight[i] */
void vector_rms_norm(const float *x, const float *weight, float epsilon, size_t count, float *ret);

/* gate[i] = gate[i] / (1 + exp(-gate[i])) * up[i] */
void vector_silu_multiply(float *gate, const float *up, size_t count);

/* x becomes exp(x - max) / sum; count >= 1. */
void vector_softmax(float *x, size_t count);

/* log(sum(exp(x))) in double, for likelihoods. */
double vector_log_sum_exp(const float *x, size_t count);

/* x[i] += y[i] */
void vector_add(float *x, const float *y, size_t count);
