/* vector.c - see vector.h.
 *
 * Attention over some thousand rows takes more exponentials than libm gives in the time of the matrix products, so
 * exp is done here, four lanes at a time with the compiler's vector types: exp(x) = 2^n exp(r), n the nearest integer
 * to x / ln 2, r in +-ln 2 / 2, exp(r) by its Taylor polynomial of degree 7 (error below one unit in the last place of
 * a float). */
#include "vector.h"

#include <math.h>
#include <stdint.h>
#include <string.h>

typedef float lanes_f __attribute__((vector_size(16)));
typedef int32_t lanes_i __attribute__((vector_size(16)));
typedef uint32_t lanes_u __attribute__((vector_size(16)));
#define LANES 4

static inline lanes_f lanes_load(const float *x) {
    lanes_f v;
    memcpy(&v, x, sizeof(v));
    return v;
}

static inline void lanes_store(float *x, lanes_f v) {
    memcpy(x, &v, sizeof(v));
}

/* `count` < LANES floats, the other lanes filled. */
static inline lanes_f lanes_load_part(const float *x, size_t count, float fill) {
    lanes_f v = {fill, fill, fill, fill};
    memcpy(&v, x, count * sizeof(float));
    return v;
}

static inline lanes_f lanes_select(lanes_i mask, lanes_f yes, lanes_f no) {
    return (lanes_f)((mask & (lanes_i)yes) | (~mask & (lanes_i)no));
}

/* Arguments are clamped to where 2^n is a normal float; NaN stays NaN. */
static inline lanes_f lanes_exp(lanes_f x) {
    const lanes_f low = {-87.0f, -87.0f, -87.0f, -87.0f}, high = {88.0f, 88.0f, 88.0f, 88.0f};
    const float round = 12582912.0f; /* 1.5 * 2^23: adding it leaves the nearest integer in the low bits */
    x = lanes_select(x < low, low, x);
    x = lanes_select(x > high, high, x);
    lanes_f shifted = x * 1.44269504f + round;
    lanes_f n = shifted - round;
    lanes_f r = x - n * 0.693359375f + n * 2.12194440e-4f;
    lanes_f p = r * (1.0f / 5040.0f) + 1.0f / 720.0f;
    p = p * r + 1.0f / 120.0f;
    p = p * r + 1.0f / 24.0f;
    p = p * r + 1.0f / 6.0f;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    /* The integer sits in the low mantissa bits of `shifted`; moved up by 23 bits it adds to p's exponent, wrapping
     * around if it is negative. A NaN's payload would do the same there. */
    return lanes_select(x == x, (lanes_f)((lanes_u)p + ((lanes_u)shifted << 23)), x);
}

static inline float lanes_sum(lanes_f v) {
    return (v[0] + v[2]) + (v[1] + v[3]);
}

void vector_rms_norm(const float *x, const float *weight, float epsilon, size_t count, float *ret) {
    double sum = 0;
    for (size_t i = 0; i < count; i++)
        sum += (double)x[i] * x[i];
    float factor = (float)(1.0 / sqrt(sum / (double)count + epsilon));
    for (size_t i = 0; i < count; i++)
        ret[i] = x[i] * factor * weight[i];
}

void vector_silu_multiply(float *gate, const float *up, size_t count) {
    size_t i = 0;
    for (; i + LANES <= count; i += LANES) {
        lanes_f g = lanes_load(gate + i);
        lanes_store(gate + i, g / (1.0f + lanes_exp(-g)) * lanes_load(up + i));
    }
    for (; i < count; i++)
        gate[i] = gate[i] / (1.0f + expf(-gate[i])) * up[i];
}

static float vector_max(const float *x, size_t count) {
    lanes_f best = {x[0], x[0], x[0], x[0]};
    size_t i = 0;
    for (; i + LANES <= count; i += LANES) {
        lanes_f v = lanes_load(x + i);
        best = lanes_select(v > best, v, best);
    }
    float max = best[0];
    for (int lane = 1; lane < LANES; lane++)
        max = best[lane] > max ? best[lane] : max;
    for (; i < count; i++)
        max = x[i] > max ? x[i] : max;
    return max;
}

void vector_softmax(float *x, size_t count) {
    float max = vector_max(x, count);
    lanes_f sum = {0};
    size_t i = 0;
    for (; i + LANES <= count; i += LANES) {
        lanes_f e = lanes_exp(lanes_load(x + i) - max);
        lanes_store(x + i, e);
        sum += e;
    }
    float total = lanes_sum(sum);
    if (i < count) {
        lanes_f e = lanes_exp(lanes_load_part(x + i, count - i, max) - max);
        for (size_t lane = 0; lane < count - i; lane++)
            total += x[i + lane] = e[lane];
    }
    float factor = 1.0f / total;
    for (i = 0; i < count; i++)
        x[i] *= factor;
}

double vector_log_sum_exp(const float *x, size_t count) {
    float max = vector_max(x, count);
    double total = 0;
    for (size_t i = 0; i < count; i += LANES) {
        size_t n = count - i < LANES ? count - i : LANES;
        lanes_f v = n == LANES ? lanes_load(x + i) : lanes_load_part(x + i, n, max);
        lanes_f e = lanes_exp(v - max);
        for (size_t lane = 0; lane < n; lane++)
            total += (double)e[lane];
    }
    return (double)max + log(total);
}

void vector_add(float *x, const float *y, size_t count) {
    for (size_t i = 0; i < count; i++)
        x[i] += y[i];
}
