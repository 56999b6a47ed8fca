/* forward.c - the layer loop of forward.h: pre-norm, GQA attention with RoPE, SwiGLU feed-forward. Products by
 * OpenBLAS over all rows of the step at once. */
#include "forward.h"

#include <cblas.h>
#include <math.h>
#include <string.h>

#include "alloc.h"
#include "vector.h"

struct forward {
    const struct model *model;
    uint32_t max_rows;
    uint32_t position;      /* of forward_step's next token */
    float *x;               /* [rows][width], the residual stream */
    float *normed;          /* [rows][width]; also what a product adds to the stream */
    float *q, *k, *v;       /* [rows][heads][head_dim] */
    float *attended;        /* [rows][q_heads][head_dim] */
    float *gate, *up;       /* [rows][hidden] */
    float *cosines, *sines; /* [rows][rope_dims / 2] */
    uint32_t *scored;       /* [rows], those that forward_step gives the logits of */
};

/* ret[rows][outputs] = x[rows][inputs] * weights^T */
static void forward_multiply(const float *weights, const float *x, uint32_t rows, size_t inputs, size_t outputs,
                             float *ret) {
    int k = (int)inputs, n = (int)outputs;
    if (rows == 1)
        cblas_sgemv(CblasRowMajor, CblasNoTrans, n, k, 1.0f, weights, k, x, 1, 0.0f, ret, 1);
    else
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)rows, n, k, 1.0f, x, k, weights, k, 0.0f, ret, n);
}

static void forward_norm(const struct forward *forward, const float *weight, const float *x, uint32_t rows,
                         float *ret) {
    size_t width = forward->model->shape.width;
    for (size_t i = 0; i < rows; i++)
        vector_rms_norm(x + i * width, weight, forward->model->shape.rms_epsilon, width, ret + i * width);
}

/* The angles of so many positions, for rows from first_row on; in double: position times frequency loses too much as a
 * float. */
static void forward_prepare_rope(struct forward *forward, uint32_t first_row, uint32_t position, uint32_t rows) {
    const struct model_shape *shape = &forward->model->shape;
    uint32_t pairs = shape->rope_dims / 2;
    for (uint32_t pair = 0; pair < pairs; pair++) {
        double frequency = pow(shape->rope_base, -2.0 * pair / shape->rope_dims);
        if (forward->model->rope_factors)
            frequency /= forward->model->rope_factors[pair];
        for (uint32_t i = 0; i < rows; i++) {
            double angle = (double)(position + i) * frequency;
            size_t at = (size_t)(first_row + i) * pairs + pair;
            forward->cosines[at] = (float)cos(angle);
            forward->sines[at] = (float)sin(angle);
        }
    }
}

/* Rotates channels 2 i and 2 i + 1 of each head; GGUF files have the rows of q and k permuted for this pairing. */
static void forward_rotate(const struct forward *forward, float *x, uint32_t rows, uint32_t heads) {
    const struct model_shape *shape = &forward->model->shape;
    uint32_t pairs = shape->rope_dims / 2;
    for (size_t i = 0; i < rows; i++)
        for (size_t head = 0; head < heads; head++) {
            float *at = x + (i * heads + head) * shape->head_dim;
            for (size_t pair = 0; pair < pairs; pair++) {
                float c = forward->cosines[i * pairs + pair], s = forward->sines[i * pairs + pair];
                float a = at[2 * pair], b = at[2 * pair + 1];
                at[2 * pair] = a * c - b * s;
                at[2 * pair + 1] = a * s + b * c;
            }
        }
}

static int forward_attend(struct forward *forward, const struct forward_part *parts, uint32_t count, uint32_t layer,
                          struct failure *failure) {
    const struct model_shape *shape = &forward->model->shape;
    size_t q = (size_t)shape->q_heads * shape->head_dim, kv = (size_t)shape->kv_heads * shape->head_dim, row = 0;
    int r = 0;
    for (uint32_t i = 0; i < count && r == 0; i++) {
        r = parts[i].attention->attend(parts[i].attention, layer, forward->q + row * q, forward->k + row * kv,
                                       forward->v + row * kv, forward->attended + row * q, failure);
        row += parts[i].rows;
    }
    return r;
}

static int forward_attention(struct forward *forward, const struct forward_part *parts, uint32_t count, uint32_t layer,
                             uint32_t rows, struct failure *failure) {
    const struct model_shape *shape = &forward->model->shape;
    const struct model_layer *weights = &forward->model->layers[layer];
    size_t q = (size_t)shape->q_heads * shape->head_dim, kv = (size_t)shape->kv_heads * shape->head_dim;
    forward_norm(forward, weights->attention_norm, forward->x, rows, forward->normed);
    forward_multiply(weights->q, forward->normed, rows, shape->width, q, forward->q);
    forward_multiply(weights->k, forward->normed, rows, shape->width, kv, forward->k);
    forward_multiply(weights->v, forward->normed, rows, shape->width, kv, forward->v);
    forward_rotate(forward, forward->q, rows, shape->q_heads);
    forward_rotate(forward, forward->k, rows, shape->kv_heads);
    int r = forward_attend(forward, parts, count, layer, failure);
    if (r != 0)
        return r;
    forward_multiply(weights->attention_output, forward->attended, rows, q, shape->width, forward->normed);
    vector_add(forward->x, forward->normed, (size_t)rows * shape->width);
    return 0;
}

static void forward_feed(struct forward *forward, uint32_t layer, uint32_t rows) {
    const struct model_shape *shape = &forward->model->shape;
    const struct model_layer *weights = &forward->model->layers[layer];
    forward_norm(forward, weights->feed_forward_norm, forward->x, rows, forward->normed);
    forward_multiply(weights->gate, forward->normed, rows, shape->width, shape->hidden, forward->gate);
    forward_multiply(weights->up, forward->normed, rows, shape->width, shape->hidden, forward->up);
    vector_silu_multiply(forward->gate, forward->up, (size_t)rows * shape->hidden);
    forward_multiply(weights->down, forward->gate, rows, shape->hidden, shape->width, forward->normed);
    vector_add(forward->x, forward->normed, (size_t)rows * shape->width);
}

/* How many rows the parts have together. */
static int forward_check(const struct forward *forward, const struct forward_part *parts, uint32_t count,
                         uint32_t *ret_rows, struct failure *failure) {
    uint32_t rows = 0;
    for (uint32_t i = 0; i < count; i++) {
        if (parts[i].rows == 0 || parts[i].rows > forward->max_rows - rows)
            return failure_set(failure, SCISSOR_EINVAL, "a step of %u rows is not possible", parts[i].rows);
        for (uint32_t j = 0; j < parts[i].rows; j++)
            if (parts[i].tokens[j] >= forward->model->shape.vocabulary)
                return failure_set(failure, SCISSOR_EINVAL, "token %u is not in the vocabulary", parts[i].tokens[j]);
        rows += parts[i].rows;
    }
    *ret_rows = rows;
    return 0;
}

static void forward_embed(struct forward *forward, const struct forward_part *parts, uint32_t count) {
    size_t width = forward->model->shape.width;
    uint32_t row = 0;
    for (uint32_t i = 0; i < count; i++) {
        forward_prepare_rope(forward, row, parts[i].position, parts[i].rows);
        for (uint32_t j = 0; j < parts[i].rows; j++, row++)
            memcpy(forward->x + row * width, forward->model->embedding + parts[i].tokens[j] * width,
                   width * sizeof(float));
    }
}

int forward_step_parts(struct forward *forward, const struct forward_part *parts, uint32_t count,
                       struct failure *failure) {
    uint32_t rows;
    int r = forward_check(forward, parts, count, &rows, failure);
    if (r != 0)
        return r;
    forward_embed(forward, parts, count);
    for (uint32_t i = 0; i < count && r == 0; i++)
        r = parts[i].attention->begin(parts[i].attention, parts[i].rows, failure);
    for (uint32_t layer = 0; layer < forward->model->shape.layers && r == 0; layer++) {
        r = forward_attention(forward, parts, count, layer, rows, failure);
        if (r == 0)
            forward_feed(forward, layer, rows);
    }
    for (uint32_t i = 0; i < count && r == 0; i++)
        r = parts[i].attention->end(parts[i].attention, failure);
    return r;
}

void forward_logits(struct forward *forward, const uint32_t *rows, uint32_t count, float *ret_logits) {
    const struct model_shape *shape = &forward->model->shape;
    if (count == 0)
        return;
    for (uint32_t i = 0; i < count; i++)
        vector_rms_norm(forward->x + rows[i] * (size_t)shape->width, forward->model->output_norm, shape->rms_epsilon,
                        shape->width, forward->normed + i * (size_t)shape->width);
    forward_multiply(forward->model->output, forward->normed, count, shape->width, shape->vocabulary, ret_logits);
}

int forward_step(struct forward *forward, struct attention *attention, const uint32_t *tokens, uint32_t rows,
                 uint32_t logit_rows, float *ret_logits, struct failure *failure) {
    const struct forward_part part = {
        .attention = attention, .tokens = tokens, .rows = rows, .position = forward->position};
    if (logit_rows > rows)
        return failure_set(failure, SCISSOR_EINVAL, "a step of %u rows has no logits of %u", rows, logit_rows);
    int r = forward_step_parts(forward, &part, 1, failure);
    if (r != 0)
        return r;
    forward->position += rows;
    for (uint32_t i = 0; i < logit_rows; i++)
        forward->scored[i] = rows - logit_rows + i;
    forward_logits(forward, forward->scored, logit_rows, ret_logits);
    return 0;
}

static float *forward_buffer(uint32_t rows, size_t columns) {
    return scissor_malloc((size_t)rows * columns * sizeof(float));
}

int forward_new(const struct model *model, uint32_t max_rows, struct forward **ret_forward, struct failure *failure) {
    const struct model_shape *shape = &model->shape;
    struct forward *forward = scissor_calloc(1, sizeof(*forward));
    if (!forward)
        return failure_set_memory(failure);
    size_t q = (size_t)shape->q_heads * shape->head_dim, kv = (size_t)shape->kv_heads * shape->head_dim;
    *forward = (struct forward){
        .model = model,
        .max_rows = max_rows,
        .x = forward_buffer(max_rows, shape->width),
        .normed = forward_buffer(max_rows, shape->width),
        .q = forward_buffer(max_rows, q),
        .k = forward_buffer(max_rows, kv),
        .v = forward_buffer(max_rows, kv),
        .attended = forward_buffer(max_rows, q),
        .gate = forward_buffer(max_rows, shape->hidden),
        .up = forward_buffer(max_rows, shape->hidden),
        .cosines = forward_buffer(max_rows, shape->rope_dims / 2),
        .sines = forward_buffer(max_rows, shape->rope_dims / 2),
        .scored = scissor_malloc((size_t)max_rows * sizeof(uint32_t)),
    };
    if (!forward->x || !forward->normed || !forward->q || !forward->k || !forward->v || !forward->attended ||
        !forward->gate || !forward->up || !forward->cosines || !forward->sines || !forward->scored) {
        forward_free(forward);
        return failure_set_memory(failure);
    }
    *ret_forward = forward;
    return 0;
}

struct forward *forward_free(struct forward *forward) {
    if (!forward)
        return NULL;
    float *buffers[] = {forward->x,        forward->normed, forward->q,  forward->k,       forward->v,
                        forward->attended, forward->gate,   forward->up, forward->cosines, forward->sines};
    for (size_t i = 0; i < sizeof(buffers) / sizeof(buffers[0]); i++)
        scissor_free(buffers[i]);
    scissor_free(forward->scored);
    return scissor_free(forward);
}
