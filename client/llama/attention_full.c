/* attention_full.c - attention over every row ever seen, in this process's own memory: the yardstick for the cached
 * one.
 *
 * K and V lie as [layer][kv_head][capacity][head_dim]. The query heads of a group see the same K and V, so their rows
 * are stacked: one product with K, a causal softmax, one product with V per KV head. */
#include <cblas.h>
#include <math.h>
#include <string.h>

#include "alloc.h"
#include "attention.h"
#include "vector.h"

struct attention_full {
    struct attention base; /* first, so that the two pointers are the same */
    struct model_shape shape;
    uint32_t capacity, max_rows;
    uint32_t seen; /* tokens of ended steps */
    uint32_t rows; /* of the open step */
    float *k, *v;
    float *q_group, *out_group; /* [group * rows][head_dim] */
    float *scores;              /* [group * rows][seen + rows] */
};

static int attention_full_room(struct attention *base, uint32_t *ret_rows, struct failure *failure) {
    struct attention_full *full = (struct attention_full *)base;
    uint32_t left = full->capacity - full->seen;
    if (left == 0)
        return failure_set(failure, SCISSOR_EINVAL, "no room for more than %u tokens", full->capacity);
    *ret_rows = left < full->max_rows ? left : full->max_rows;
    return 0;
}

static int attention_full_begin(struct attention *base, uint32_t rows, struct failure *failure) {
    struct attention_full *full = (struct attention_full *)base;
    if (rows == 0 || rows > full->max_rows || rows > full->capacity - full->seen)
        return failure_set(failure, SCISSOR_EINVAL, "a step of %u rows is not possible", rows);
    full->rows = rows;
    return 0;
}

/* Copies a head's rows between [rows][heads][head_dim] and a dense [rows][head_dim]. */
static void attention_full_gather(const struct attention_full *full, const float *from, uint32_t heads, uint32_t head,
                                  float *to) {
    size_t dim = full->shape.head_dim;
    for (size_t i = 0; i < full->rows; i++)
        memcpy(to + i * dim, from + (i * heads + head) * dim, dim * sizeof(float));
}

static void attention_full_scatter(const struct attention_full *full, const float *from, uint32_t heads, uint32_t head,
                                   float *to) {
    size_t dim = full->shape.head_dim;
    for (size_t i = 0; i < full->rows; i++)
        memcpy(to + (i * heads + head) * dim, from + i * dim, dim * sizeof(float));
}

static void attention_full_head(struct attention_full *full, const float *k, const float *v) {
    int dim = (int)full->shape.head_dim;
    uint32_t group = full->shape.q_heads / full->shape.kv_heads;
    int queries = (int)(group * full->rows), visible = (int)(full->seen + full->rows);
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, queries, visible, dim, 1.0f / sqrtf((float)dim), full->q_group,
                dim, k, dim, 0.0f, full->scores, visible);
    for (uint32_t i = 0; i < group * full->rows; i++) {
        float *row = full->scores + (size_t)i * (size_t)visible;
        size_t own = (size_t)full->seen + i % full->rows + 1;
        vector_softmax(row, own);
        memset(row + own, 0, ((size_t)visible - own) * sizeof(float));
    }
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, queries, dim, visible, 1.0f, full->scores, visible, v, dim,
                0.0f, full->out_group, dim);
}

static int attention_full_attend(struct attention *base, uint32_t layer, const float *q, const float *k, const float *v,
                                 float *out, struct failure *failure) {
    struct attention_full *full = (struct attention_full *)base;
    const struct model_shape *shape = &full->shape;
    uint32_t group = shape->q_heads / shape->kv_heads;
    size_t dense = (size_t)full->rows * shape->head_dim;
    (void)failure;
    for (uint32_t head = 0; head < shape->kv_heads; head++) {
        size_t start = ((size_t)layer * shape->kv_heads + head) * full->capacity * shape->head_dim;
        size_t fresh = start + (size_t)full->seen * shape->head_dim;
        attention_full_gather(full, k, shape->kv_heads, head, full->k + fresh);
        attention_full_gather(full, v, shape->kv_heads, head, full->v + fresh);
        for (uint32_t i = 0; i < group; i++)
            attention_full_gather(full, q, shape->q_heads, head * group + i, full->q_group + i * dense);
        attention_full_head(full, full->k + start, full->v + start);
        for (uint32_t i = 0; i < group; i++)
            attention_full_scatter(full, full->out_group + i * dense, shape->q_heads, head * group + i, out);
    }
    return 0;
}

static int attention_full_end(struct attention *base, struct failure *failure) {
    struct attention_full *full = (struct attention_full *)base;
    (void)failure;
    full->seen += full->rows;
    full->rows = 0;
    return 0;
}

static void attention_full_stat(const struct attention *base, struct attention_stat *ret) {
    const struct attention_full *full = (const struct attention_full *)base;
    uint64_t row = (uint64_t)2 * full->shape.layers * full->shape.kv_heads * full->shape.head_dim * sizeof(float);
    *ret = (struct attention_stat){.tokens_seen = full->seen,
                                   .rows_per_head = full->seen,
                                   .settled = full->seen,
                                   .bytes = full->seen * row,
                                   .device = "host"};
}

static void attention_full_free(struct attention *base) {
    struct attention_full *full = (struct attention_full *)base;
    if (!full)
        return;
    scissor_free(full->k);
    scissor_free(full->v);
    scissor_free(full->q_group);
    scissor_free(full->out_group);
    scissor_free(full->scores);
    scissor_free(full);
}

int attention_full_new(const struct model_shape *shape, uint32_t capacity, uint32_t max_rows,
                       struct attention **ret_attention, struct failure *failure) {
    struct attention_full *full = scissor_calloc(1, sizeof(*full));
    if (!full)
        return failure_set_memory(failure);
    full->base = (struct attention){.room = attention_full_room,
                                    .begin = attention_full_begin,
                                    .attend = attention_full_attend,
                                    .end = attention_full_end,
                                    .stat = attention_full_stat,
                                    .free = attention_full_free};
    full->shape = *shape;
    full->capacity = capacity;
    full->max_rows = max_rows;
    size_t row = (size_t)shape->head_dim * sizeof(float);
    size_t kept = (size_t)shape->layers * shape->kv_heads * capacity;
    size_t queries = (size_t)(shape->q_heads / shape->kv_heads) * max_rows;
    full->k = scissor_malloc(kept * row);
    full->v = scissor_malloc(kept * row);
    full->q_group = scissor_malloc(queries * row);
    full->out_group = scissor_malloc(queries * row);
    full->scores = scissor_malloc(queries * capacity * sizeof(float));
    if (!full->k || !full->v || !full->q_group || !full->out_group || !full->scores) {
        attention_full_free(&full->base);
        return failure_set_memory(failure);
    }
    *ret_attention = &full->base;
    return 0;
}
