/* attention.c - see attention.h. */
#include "attention.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "quant.h"

static float value_of(const struct attention_model *m, uint32_t what, uint32_t layer, uint32_t head, uint64_t position,
                      uint32_t channel) {
    uint64_t x = m->seed * 0x9e3779b97f4a7c15u + what * 0xbf58476d1ce4e5b9u + layer * 0x94d049bb133111ebu +
                 head * 0xd6e8feb86659fd93u + position * 0xa0761d6478bd642fu + channel * 0xe7037ed1a0b428dbu;
    x ^= x >> 32;
    x *= 0xd6e8feb86659fd93u;
    x ^= x >> 29;
    x *= 0xa0761d6478bd642fu;
    x ^= x >> 32;
    return (float)((double)(x >> 11) / (double)(1ull << 52) - 1.0);
}

void attention_row(const struct attention_model *m, enum attention_what what, uint32_t layer, uint64_t position,
                   float *ret) {
    uint32_t heads = what == ATTENTION_Q ? m->q_heads : m->kv_heads;
    for (uint32_t h = 0; h < heads; h++)
        for (uint32_t c = 0; c < m->head_dim; c++)
            *ret++ = value_of(m, what, layer, h, position, c);
}

static float rounded(uint32_t dtype, float value) {
    float room;
    kernel_store(dtype, &room, 0, value);
    return kernel_load(dtype, &room, 0);
}

/* What attention makes of a quantised row, which has its details if there are any: the rotation is taken back. */
static void quantised(const struct attention_model *m, bool v, float *row) {
    struct quant_row codes;
    if (layout_is_rotated(m->storage_dtype))
        quant_rotate(row, m->head_dim);
    bool details = layout_has_details(m->storage_dtype);
    (details ? quant_encode_detailed : quant_encode)(
        v ? layout_v_type(m->storage_dtype) : layout_k_type(m->storage_dtype), row, m->head_dim, &codes);
    for (uint32_t c = 0; c < m->head_dim; c++)
        row[c] = details ? quant_detailed_value(&codes, c) : quant_value(&codes, c);
    if (layout_is_rotated(m->storage_dtype))
        quant_rotate(row, m->head_dim);
}

/* A row as it is after it was written, and settled if it is. */
static void stored(const struct attention_model *m, enum attention_what what, uint32_t layer, uint32_t head,
                   uint64_t position, int settled, float *ret) {
    for (uint32_t c = 0; c < m->head_dim; c++)
        ret[c] = rounded(m->compute_dtype, value_of(m, what, layer, head, position, c));
    if (settled && m->storage_dtype >= KERNEL_ELEMENT_DTYPES)
        quantised(m, what == ATTENTION_V, ret);
    else if (settled)
        for (uint32_t c = 0; c < m->head_dim; c++)
            ret[c] = rounded(m->storage_dtype, ret[c]);
}

void attention_expect(const struct attention_model *m, uint32_t layer, uint32_t q_head, uint64_t position,
                      const uint32_t *settled, uint32_t settled_count, uint64_t first_fresh, uint32_t fresh_count,
                      float *ret_out, double *ret_mass) {
    uint32_t n = settled_count + fresh_count, group = m->q_heads / m->kv_heads, head = q_head / group;
    double *p = malloc(n * sizeof *p), most = -INFINITY, sum = 0;
    double *out = calloc(m->head_dim, sizeof *out);
    float row[256];
    for (uint32_t j = 0; j < n; j++) {
        uint64_t at = j < settled_count ? settled[j] : first_fresh + (j - settled_count);
        double dot = 0;
        stored(m, ATTENTION_K, layer, head, at, j < settled_count, row);
        for (uint32_t c = 0; c < m->head_dim; c++)
            dot += (double)value_of(m, ATTENTION_Q, layer, q_head, position, c) * (double)row[c];
        p[j] = dot * m->scale;
        most = p[j] > most ? p[j] : most;
    }
    for (uint32_t j = 0; j < n; j++)
        sum += p[j] = exp(p[j] - most);
    for (uint32_t j = 0; j < n; j++) {
        uint64_t at = j < settled_count ? settled[j] : first_fresh + (j - settled_count);
        p[j] /= sum;
        if (ret_mass)
            ret_mass[j] += p[j] / group;
        stored(m, ATTENTION_V, layer, head, at, j < settled_count, row);
        for (uint32_t c = 0; c < m->head_dim; c++)
            out[c] += p[j] * (double)row[c];
    }
    for (uint32_t c = 0; c < m->head_dim; c++)
        ret_out[c] = (float)out[c];
    free(out);
    free(p);
}

static int run_layer(const struct attention_model *m, struct scissor_session *s, uint32_t rows, uint32_t layer,
                     uint64_t first, float *k, float *q, float *out) {
    size_t kv = (size_t)m->kv_heads * m->head_dim, qs = (size_t)m->q_heads * m->head_dim;
    float *v = k + rows * kv;
    for (uint32_t r = 0; r < rows; r++) {
        attention_row(m, ATTENTION_K, layer, first + r, k + r * kv);
        attention_row(m, ATTENTION_V, layer, first + r, v + r * kv);
        attention_row(m, ATTENTION_Q, layer, first + r, q + r * qs);
    }
    int r = scissor_append(s, layer, k, v, SCISSOR_F32);
    struct scissor_attend_item item = {s, layer, m->scale, q, out};
    return r ? r : scissor_attend(&item, 1);
}

int attention_step(const struct attention_model *m, struct scissor_session *s, uint32_t rows, uint32_t layer,
                   float *ret_out) {
    size_t kv = (size_t)rows * m->kv_heads * m->head_dim, qs = (size_t)rows * m->q_heads * m->head_dim;
    uint64_t first = scissor_tokens_seen(s);
    int r = scissor_step_begin(s, rows);
    if (r)
        return r;
    float *room = malloc((2 * kv + 2 * qs) * sizeof *room);
    for (uint32_t l = 0; l < m->layers && !r; l++) {
        float *out = ret_out && l == layer ? ret_out : room + 2 * kv + qs;
        r = run_layer(m, s, rows, l, first, room, room + 2 * kv, out);
    }
    free(room);
    int end = scissor_step_end(s);
    return r ? r : end;
}

double attention_error(const struct attention_model *m, struct scissor_session *s, uint32_t layer, uint32_t rows,
                       const float *out) {
    uint32_t group = m->q_heads / m->kv_heads, fresh = scissor_fresh_count(s);
    uint64_t first_fresh = scissor_tokens_seen(s) - fresh;
    double worst = 0;
    float expected[256];
    for (uint32_t h = 0; h < m->kv_heads; h++) {
        uint32_t n = scissor_settled_count(s, layer, h), count = 0;
        uint32_t *positions = malloc((n + 1) * sizeof *positions);
        if (scissor_positions(s, layer, h, positions, n, &count) || count != n)
            worst = INFINITY;
        for (uint32_t r = 0; r < rows && worst < INFINITY; r++)
            for (uint32_t i = h * group; i < (h + 1) * group; i++) {
                attention_expect(m, layer, i, first_fresh + fresh - rows + r, positions, n, first_fresh,
                                 fresh - rows + r + 1, expected, NULL);
                for (uint32_t c = 0; c < m->head_dim; c++) {
                    double error = fabs(out[((size_t)r * m->q_heads + i) * m->head_dim + c] - expected[c]);
                    worst = error > worst || error != error ? error : worst;
                }
            }
        free(positions);
    }
    return worst;
}
