/* model.c - see model.h. The loader names every tensor that it expects with its shape, and refuses a file with others:
 * a bias or an expert that is silently left out would give text that is merely a little wrong. */
#include "model.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "alloc.h"
#include "dequant.h"

#define MODEL_MAX_LAYERS 1024u
#define MODEL_MAX_WIDTH (1u << 20)

struct model_loader {
    const struct gguf *gguf;
    struct model *model;
    size_t used;         /* floats of model->weights */
    size_t tensors_used; /* must be all of the file's at the end */
    struct failure *failure;
};

/* ---------- shape ---------- */

static int model_read_u32(const struct gguf *gguf, const char *key, uint32_t low, uint32_t high,
                          const uint32_t *fallback, uint32_t *ret, struct failure *failure) {
    uint32_t value;
    int r = gguf_get_u32(gguf, key, fallback, &value, failure);
    if (r != 0)
        return r;
    if (value < low || value > high)
        return failure_set(failure, SCISSOR_EINVAL, "%s is %u; %u to %u are possible", key, value, low, high);
    *ret = value;
    return 0;
}

static int model_check_architecture(const struct gguf *gguf, struct failure *failure) {
    const uint32_t none = 0;
    char printable[GGUF_PRINTABLE_BYTES];
    struct gguf_string text;
    uint32_t experts;
    int r = gguf_get_string(gguf, "general.architecture", NULL, &text, failure);
    if (r == 0 && !gguf_string_equals(text, "llama"))
        return failure_set(failure, SCISSOR_EINVAL, "the architecture is \"%s\"; this program runs \"llama\"",
                           gguf_printable(text, printable));
    if (r == 0)
        r = gguf_get_u32(gguf, "llama.expert_count", &none, &experts, failure);
    if (r == 0 && experts != 0)
        return failure_set(failure, SCISSOR_EINVAL, "mixtures of experts are not supported");
    if (r == 0)
        r = gguf_get_string(gguf, "llama.rope.scaling.type", "none", &text, failure);
    if (r == 0 && !gguf_string_equals(text, "none"))
        return failure_set(failure, SCISSOR_EINVAL, "RoPE scaling \"%s\" is not supported",
                           gguf_printable(text, printable));
    return r;
}

static int model_read_heads(const struct gguf *gguf, struct model_shape *shape, struct failure *failure) {
    int r = model_read_u32(gguf, "llama.attention.head_count", 1, 1024, NULL, &shape->q_heads, failure);
    if (r == 0)
        r = model_read_u32(gguf, "llama.attention.head_count_kv", 1, shape->q_heads, &shape->q_heads, &shape->kv_heads,
                           failure);
    if (r != 0)
        return r;
    uint32_t head_dim = shape->width / shape->q_heads, value_dim;
    r = model_read_u32(gguf, "llama.attention.key_length", 2, 1024, &head_dim, &shape->head_dim, failure);
    if (r == 0)
        r = model_read_u32(gguf, "llama.attention.value_length", 2, 1024, &head_dim, &value_dim, failure);
    if (r == 0)
        r = model_read_u32(gguf, "llama.rope.dimension_count", 0, shape->head_dim, &shape->head_dim, &shape->rope_dims,
                           failure);
    if (r == 0 && (shape->q_heads % shape->kv_heads != 0 || value_dim != shape->head_dim || shape->rope_dims % 2 != 0))
        return failure_set(failure, SCISSOR_EINVAL, "%u query heads, %u KV heads, head sizes %u and %u do not fit",
                           shape->q_heads, shape->kv_heads, shape->head_dim, value_dim);
    return r;
}

static int model_read_shape(const struct gguf *gguf, struct model_shape *shape, struct failure *failure) {
    const float base = 10000.0f;
    const uint32_t context = 2048;
    int r = model_check_architecture(gguf, failure);
    if (r == 0)
        r = model_read_u32(gguf, "llama.block_count", 1, MODEL_MAX_LAYERS, NULL, &shape->layers, failure);
    if (r == 0)
        r = model_read_u32(gguf, "llama.embedding_length", 1, MODEL_MAX_WIDTH, NULL, &shape->width, failure);
    if (r == 0)
        r = model_read_u32(gguf, "llama.feed_forward_length", 1, MODEL_MAX_WIDTH, NULL, &shape->hidden, failure);
    if (r == 0)
        r = model_read_u32(gguf, "llama.context_length", 1, UINT32_MAX, &context, &shape->context, failure);
    if (r == 0)
        r = model_read_heads(gguf, shape, failure);
    if (r == 0)
        r = gguf_get_f32(gguf, "llama.rope.freq_base", &base, &shape->rope_base, failure);
    if (r == 0)
        r = gguf_get_f32(gguf, "llama.attention.layer_norm_rms_epsilon", NULL, &shape->rms_epsilon, failure);
    if (r == 0 && !(isfinite(shape->rope_base) && shape->rope_base > 0 && isfinite(shape->rms_epsilon) &&
                    shape->rms_epsilon >= 0))
        return failure_set(failure, SCISSOR_EINVAL, "the RoPE base or the norm's epsilon is not possible");
    return r;
}

/* ---------- weights ---------- */

/* Converts the tensor into the block. `rows` of 0 stands for a vector. */
static int loader_take_tensor(struct model_loader *loader, const char *name, uint64_t columns, uint64_t rows,
                              const float **ret) {
    const struct gguf_tensor *tensor = gguf_find_tensor(loader->gguf, name);
    if (!tensor)
        return failure_set(loader->failure, SCISSOR_EINVAL, "the file has no tensor %s", name);
    if (tensor->sizes[0] != columns || tensor->sizes[1] != (rows ? rows : 1) || tensor->sizes[2] != 1 ||
        tensor->sizes[3] != 1)
        return failure_set(loader->failure, SCISSOR_EINVAL,
                           "tensor %s is %llu x %llu where the model's shape asks for %llu x %llu", name,
                           (unsigned long long)tensor->sizes[0], (unsigned long long)tensor->sizes[1],
                           (unsigned long long)columns, (unsigned long long)(rows ? rows : 1));
    float *weights = loader->model->weights + loader->used;
    dequant_elements(tensor->type, tensor->data, (size_t)tensor->elements, weights);
    loader->used += (size_t)tensor->elements;
    loader->tensors_used++;
    *ret = weights;
    return 0;
}

static int loader_take_layer(struct model_loader *loader, uint32_t layer) {
    const struct model_shape *shape = &loader->model->shape;
    struct model_layer *to = &loader->model->layers[layer];
    uint64_t q = (uint64_t)shape->q_heads * shape->head_dim, kv = (uint64_t)shape->kv_heads * shape->head_dim;
    const struct {
        const char *name;
        uint64_t columns, rows;
        const float **ret;
    } parts[] = {
        {"attn_norm", shape->width, 0, &to->attention_norm},
        {"attn_q", shape->width, q, &to->q},
        {"attn_k", shape->width, kv, &to->k},
        {"attn_v", shape->width, kv, &to->v},
        {"attn_output", q, shape->width, &to->attention_output},
        {"ffn_norm", shape->width, 0, &to->feed_forward_norm},
        {"ffn_gate", shape->width, shape->hidden, &to->gate},
        {"ffn_up", shape->width, shape->hidden, &to->up},
        {"ffn_down", shape->hidden, shape->width, &to->down},
    };
    for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
        char name[64];
        snprintf(name, sizeof(name), "blk.%u.%s.weight", layer, parts[i].name);
        int r = loader_take_tensor(loader, name, parts[i].columns, parts[i].rows, parts[i].ret);
        if (r != 0)
            return r;
    }
    return 0;
}

static int loader_take_ends(struct model_loader *loader) {
    struct model *model = loader->model;
    const struct model_shape *shape = &model->shape;
    int r = loader_take_tensor(loader, "token_embd.weight", shape->width, shape->vocabulary, &model->embedding);
    if (r == 0)
        r = loader_take_tensor(loader, "output_norm.weight", shape->width, 0, &model->output_norm);
    model->output = model->embedding;
    if (r == 0 && gguf_find_tensor(loader->gguf, "output.weight"))
        r = loader_take_tensor(loader, "output.weight", shape->width, shape->vocabulary, &model->output);
    if (r == 0 && gguf_find_tensor(loader->gguf, "rope_freqs.weight"))
        r = loader_take_tensor(loader, "rope_freqs.weight", shape->rope_dims / 2, 0, &model->rope_factors);
    return r;
}

/* The vocabulary's size is the embedding's; the key that repeats it is optional in old files. */
static int loader_find_vocabulary(struct model_loader *loader) {
    const struct gguf_tensor *embedding = gguf_find_tensor(loader->gguf, "token_embd.weight");
    if (!embedding)
        return failure_set(loader->failure, SCISSOR_EINVAL, "the file has no tensor token_embd.weight");
    if (embedding->sizes[1] > INT32_MAX)
        return failure_set(loader->failure, SCISSOR_EINVAL, "the vocabulary is too large");
    loader->model->shape.vocabulary = (uint32_t)embedding->sizes[1];
    return 0;
}

static int loader_allocate(struct model_loader *loader) {
    struct model *model = loader->model;
    uint64_t floats = 0;
    for (size_t i = 0; i < loader->gguf->tensor_count; i++) {
        if (loader->gguf->tensors[i].elements > SIZE_MAX / sizeof(float) - floats)
            return failure_set_memory(loader->failure);
        floats += loader->gguf->tensors[i].elements;
    }
    model->layers = scissor_calloc(model->shape.layers, sizeof(*model->layers));
    model->weights = scissor_malloc((size_t)floats * sizeof(float));
    return model->layers && model->weights ? 0 : failure_set_memory(loader->failure);
}

static int loader_run(struct model_loader *loader) {
    int r = model_read_shape(loader->gguf, &loader->model->shape, loader->failure);
    if (r == 0)
        r = loader_find_vocabulary(loader);
    if (r == 0)
        r = loader_allocate(loader);
    if (r == 0)
        r = loader_take_ends(loader);
    for (uint32_t i = 0; i < loader->model->shape.layers && r == 0; i++)
        r = loader_take_layer(loader, i);
    if (r == 0 && loader->tensors_used != loader->gguf->tensor_count)
        return failure_set(loader->failure, SCISSOR_EINVAL,
                           "the file has %zu tensors, of which this program knows %zu; it would compute nonsense",
                           loader->gguf->tensor_count, loader->tensors_used);
    return r;
}

int model_load(const struct gguf *gguf, struct model **ret_model, struct failure *failure) {
    struct model *model = scissor_calloc(1, sizeof(*model));
    if (!model)
        return failure_set_memory(failure);
    struct model_loader loader = {.gguf = gguf, .model = model, .failure = failure};
    int r = loader_run(&loader);
    if (r != 0) {
        model_free(model);
        return r;
    }
    *ret_model = model;
    return 0;
}

struct model *model_free(struct model *model) {
    if (!model)
        return NULL;
    scissor_free(model->layers);
    scissor_free(model->weights);
    return scissor_free(model);
}
