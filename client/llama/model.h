/* model.h - shape and weights of a Llama-architecture model, read from an open GGUF file into f32.
 *
 * A weight matrix has one row per output, as in the file: [outputs][inputs]. The model owns one block of memory that
 * all weights lie in; the file may be closed afterwards. Read-only once loaded, so any number of threads may use it. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "failure.h"
#include "gguf.h"

struct model_shape {
    uint32_t layers;
    uint32_t width;  /* of the residual stream */
    uint32_t hidden; /* of the feed-forward */
    uint32_t q_heads, kv_heads, head_dim;
    uint32_t rope_dims; /* channels of a head that are rotated */
    uint32_t vocabulary;
    uint32_t context; /* tokens that the model was trained for */
    float rope_base;
    float rms_epsilon;
};

struct model_layer {
    const float *attention_norm;    /* [width] */
    const float *q, *k, *v;         /* [heads * head_dim][width] */
    const float *attention_output;  /* [width][q_heads * head_dim] */
    const float *feed_forward_norm; /* [width] */
    const float *gate, *up;         /* [hidden][width] */
    const float *down;              /* [width][hidden] */
};

struct model {
    struct model_shape shape;
    struct model_layer *layers;
    const float *embedding;    /* [vocabulary][width] */
    const float *output_norm;  /* [width] */
    const float *output;       /* [vocabulary][width]; the embedding, if the file has no other */
    const float *rope_factors; /* [rope_dims / 2], divide the frequencies; NULL: all 1 */
    float *weights;            /* the block */
};

/* EINVAL: another architecture, a part that this program does not know, or shapes that do not fit. ENOMEM. */
int model_load(const struct gguf *gguf, struct model **ret_model, struct failure *failure);

/* NULL is allowed; returns NULL. */
struct model *model_free(struct model *model);
