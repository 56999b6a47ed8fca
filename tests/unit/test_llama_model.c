/* test_llama_model.c - a tiny model with random weights in a GGUF file made by hand: its logits against a naive forward
 * pass in double, in steps of any size; and files that do not fit together. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "alloc.h"
#include "llama/forward.h"
#include "test_llama_builder.h"

enum {
    LAYERS = 2,
    WIDTH = 24,
    HIDDEN = 40,
    Q_HEADS = 4,
    KV_HEADS = 2,
    DIM = 10,
    ROPE = 6,
    VOCABULARY = 17,
    TOKENS = 21,
    MOST_TENSORS = 32,
};
#define EPSILON 1e-4f
#define BASE 500.0f

static struct failure failure;

/* ---------- the file ---------- */

struct tiny_tensor {
    char name[48];
    uint32_t columns, rows; /* rows 0: a vector */
    float *weights;
};

struct tiny {
    struct tiny_tensor tensors[MOST_TENSORS];
    size_t tensor_count;
};

static uint32_t noise_state = 99;

static float noise(void) {
    noise_state = noise_state * 1664525u + 1013904223u;
    return (float)(noise_state >> 8) / (float)(1 << 23) - 1.0f;
}

static void tiny_add(struct tiny *tiny, const char *name, int layer, uint32_t columns, uint32_t rows) {
    struct tiny_tensor *tensor = &tiny->tensors[tiny->tensor_count++];
    size_t count = (size_t)columns * (rows ? rows : 1);
    if (layer < 0)
        snprintf(tensor->name, sizeof(tensor->name), "%s", name);
    else
        snprintf(tensor->name, sizeof(tensor->name), "blk.%d.%s.weight", layer, name);
    tensor->columns = columns;
    tensor->rows = rows;
    tensor->weights = malloc(count * sizeof(float));
    assert_non_null(tensor->weights);
    for (size_t i = 0; i < count; i++)
        tensor->weights[i] = rows ? noise() * 0.7f : 1.0f + 0.5f * noise();
}

static void tiny_init(struct tiny *tiny, bool tied, bool factors) {
    *tiny = (struct tiny){0};
    tiny_add(tiny, "token_embd.weight", -1, WIDTH, VOCABULARY);
    tiny_add(tiny, "output_norm.weight", -1, WIDTH, 0);
    if (!tied)
        tiny_add(tiny, "output.weight", -1, WIDTH, VOCABULARY);
    if (factors)
        tiny_add(tiny, "rope_freqs.weight", -1, ROPE / 2, 0);
    for (int layer = 0; layer < LAYERS; layer++) {
        tiny_add(tiny, "attn_norm", layer, WIDTH, 0);
        tiny_add(tiny, "attn_q", layer, WIDTH, Q_HEADS * DIM);
        tiny_add(tiny, "attn_k", layer, WIDTH, KV_HEADS * DIM);
        tiny_add(tiny, "attn_v", layer, WIDTH, KV_HEADS * DIM);
        tiny_add(tiny, "attn_output", layer, Q_HEADS * DIM, WIDTH);
        tiny_add(tiny, "ffn_norm", layer, WIDTH, 0);
        tiny_add(tiny, "ffn_gate", layer, WIDTH, HIDDEN);
        tiny_add(tiny, "ffn_up", layer, WIDTH, HIDDEN);
        tiny_add(tiny, "ffn_down", layer, HIDDEN, WIDTH);
    }
}

static void tiny_deinit(struct tiny *tiny) {
    for (size_t i = 0; i < tiny->tensor_count; i++)
        free(tiny->tensors[i].weights);
}

static const float *tiny_find(const struct tiny *tiny, const char *name, int layer) {
    char full[48];
    snprintf(full, sizeof(full), layer < 0 ? "%s" : "blk.%2$d.%1$s.weight", name, layer);
    for (size_t i = 0; i < tiny->tensor_count; i++)
        if (strcmp(tiny->tensors[i].name, full) == 0)
            return tiny->tensors[i].weights;
    return NULL;
}

static size_t tiny_bytes(const struct tiny_tensor *tensor) {
    return (size_t)tensor->columns * (tensor->rows ? tensor->rows : 1) * sizeof(float);
}

static void tiny_write(const struct tiny *tiny, struct builder *b) {
    uint64_t offset = 0;
    *b = (struct builder){0};
    builder_put_header(b, 3, tiny->tensor_count, 12);
    builder_put_value_string(b, "general.architecture", "llama");
    builder_put_value_u32(b, "llama.block_count", LAYERS);
    builder_put_value_u32(b, "llama.context_length", 64);
    builder_put_value_u32(b, "llama.embedding_length", WIDTH);
    builder_put_value_u32(b, "llama.feed_forward_length", HIDDEN);
    builder_put_value_u32(b, "llama.attention.head_count", Q_HEADS);
    builder_put_value_u32(b, "llama.attention.head_count_kv", KV_HEADS);
    builder_put_value_u32(b, "llama.attention.key_length", DIM);
    builder_put_value_u32(b, "llama.attention.value_length", DIM);
    builder_put_value_u32(b, "llama.rope.dimension_count", ROPE);
    builder_put_value_f32(b, "llama.rope.freq_base", BASE);
    builder_put_value_f32(b, "llama.attention.layer_norm_rms_epsilon", EPSILON);
    for (size_t i = 0; i < tiny->tensor_count; i++) {
        const struct tiny_tensor *tensor = &tiny->tensors[i];
        builder_put_tensor(b, tensor->name, tensor->columns, tensor->rows, GGUF_TENSOR_F32, offset);
        offset += (tiny_bytes(tensor) + 31) / 32 * 32;
    }
    builder_pad(b, 32);
    for (size_t i = 0; i < tiny->tensor_count; i++) {
        builder_put(b, tiny->tensors[i].weights, tiny_bytes(&tiny->tensors[i]));
        builder_pad(b, 32);
    }
}

static int load(const struct builder *b, struct model **ret_model) {
    struct gguf *gguf;
    int r = gguf_open_memory(b->bytes, b->size, &gguf, &failure);
    if (r != 0)
        return r;
    r = model_load(gguf, ret_model, &failure);
    gguf_free(gguf);
    return r;
}

/* ---------- a naive forward pass ---------- */

static double naive_k[LAYERS][TOKENS][KV_HEADS * DIM], naive_v[LAYERS][TOKENS][KV_HEADS * DIM];

static void naive_multiply(const float *weights, const double *x, int inputs, int outputs, double *ret) {
    for (int o = 0; o < outputs; o++) {
        ret[o] = 0;
        for (int i = 0; i < inputs; i++)
            ret[o] += (double)weights[o * inputs + i] * x[i];
    }
}

static void naive_norm(const float *weights, const double *x, double *ret) {
    double squares = 0;
    for (int i = 0; i < WIDTH; i++)
        squares += x[i] * x[i];
    for (int i = 0; i < WIDTH; i++)
        ret[i] = x[i] / sqrt(squares / WIDTH + (double)EPSILON) * (double)weights[i];
}

static void naive_rotate(double *x, int heads, int position, const float *factors) {
    for (int head = 0; head < heads; head++)
        for (int pair = 0; pair < ROPE / 2; pair++) {
            double *at = x + head * DIM + 2 * pair;
            double angle = position * pow((double)BASE, -2.0 * pair / ROPE) / (factors ? (double)factors[pair] : 1);
            double a = at[0], b = at[1];
            at[0] = a * cos(angle) - b * sin(angle);
            at[1] = a * sin(angle) + b * cos(angle);
        }
}

static void naive_attend(int layer, int position, const double *q, double *out) {
    for (int head = 0; head < Q_HEADS; head++) {
        int kv = head / (Q_HEADS / KV_HEADS) * DIM;
        double weights[TOKENS], sum = 0;
        for (int j = 0; j <= position; j++) {
            double dot = 0;
            for (int c = 0; c < DIM; c++)
                dot += q[head * DIM + c] * naive_k[layer][j][kv + c];
            sum += weights[j] = exp(dot / sqrt(DIM));
        }
        for (int c = 0; c < DIM; c++) {
            out[head * DIM + c] = 0;
            for (int j = 0; j <= position; j++)
                out[head * DIM + c] += weights[j] / sum * naive_v[layer][j][kv + c];
        }
    }
}

static void naive_layer(const struct tiny *tiny, int layer, int position, double *x) {
    double normed[WIDTH], q[Q_HEADS * DIM], out[Q_HEADS * DIM], gate[HIDDEN], up[HIDDEN], add[WIDTH];
    const float *factors = tiny_find(tiny, "rope_freqs.weight", -1);
    naive_norm(tiny_find(tiny, "attn_norm", layer), x, normed);
    naive_multiply(tiny_find(tiny, "attn_q", layer), normed, WIDTH, Q_HEADS * DIM, q);
    naive_multiply(tiny_find(tiny, "attn_k", layer), normed, WIDTH, KV_HEADS * DIM, naive_k[layer][position]);
    naive_multiply(tiny_find(tiny, "attn_v", layer), normed, WIDTH, KV_HEADS * DIM, naive_v[layer][position]);
    naive_rotate(q, Q_HEADS, position, factors);
    naive_rotate(naive_k[layer][position], KV_HEADS, position, factors);
    naive_attend(layer, position, q, out);
    naive_multiply(tiny_find(tiny, "attn_output", layer), out, Q_HEADS * DIM, WIDTH, add);
    for (int i = 0; i < WIDTH; i++)
        x[i] += add[i];
    naive_norm(tiny_find(tiny, "ffn_norm", layer), x, normed);
    naive_multiply(tiny_find(tiny, "ffn_gate", layer), normed, WIDTH, HIDDEN, gate);
    naive_multiply(tiny_find(tiny, "ffn_up", layer), normed, WIDTH, HIDDEN, up);
    for (int i = 0; i < HIDDEN; i++)
        gate[i] = gate[i] / (1 + exp(-gate[i])) * up[i];
    naive_multiply(tiny_find(tiny, "ffn_down", layer), gate, HIDDEN, WIDTH, add);
    for (int i = 0; i < WIDTH; i++)
        x[i] += add[i];
}

static void naive_forward(const struct tiny *tiny, const uint32_t *tokens, double ret[TOKENS][VOCABULARY]) {
    const float *embedding = tiny_find(tiny, "token_embd.weight", -1), *output = tiny_find(tiny, "output.weight", -1);
    for (int position = 0; position < TOKENS; position++) {
        double x[WIDTH], normed[WIDTH];
        for (int i = 0; i < WIDTH; i++)
            x[i] = (double)embedding[tokens[position] * WIDTH + i];
        for (int layer = 0; layer < LAYERS; layer++)
            naive_layer(tiny, layer, position, x);
        naive_norm(tiny_find(tiny, "output_norm.weight", -1), x, normed);
        naive_multiply(output ? output : embedding, normed, WIDTH, VOCABULARY, ret[position]);
    }
}

/* ---------- tests ---------- */

/* Steps of the given size; each gives the logits of its last `logit_rows` rows. */
static void check_steps(const struct model *model, const uint32_t *tokens, double wanted[TOKENS][VOCABULARY],
                        uint32_t step, uint32_t logit_rows) {
    struct attention *attention;
    struct forward *forward;
    float logits[TOKENS * VOCABULARY];
    assert_int_equal(attention_full_new(&model->shape, TOKENS, TOKENS, &attention, &failure), 0);
    assert_int_equal(forward_new(model, TOKENS, &forward, &failure), 0);
    for (uint32_t at = 0; at < TOKENS;) {
        uint32_t rows = TOKENS - at < step ? TOKENS - at : step;
        uint32_t scored = rows < logit_rows ? rows : logit_rows;
        assert_int_equal(forward_step(forward, attention, tokens + at, rows, scored, logits, &failure), 0);
        at += rows;
        for (uint32_t i = 0; i < scored; i++)
            for (int j = 0; j < VOCABULARY; j++)
                assert_true(fabs((double)logits[i * VOCABULARY + (uint32_t)j] - wanted[at - scored + i][j]) < 1e-4);
    }
    forward_free(forward);
    attention->free(attention);
}

static void check_model(bool tied, bool factors) {
    struct tiny tiny;
    struct builder b;
    struct model *model;
    static double wanted[TOKENS][VOCABULARY];
    uint32_t tokens[TOKENS];
    for (uint32_t i = 0; i < TOKENS; i++)
        tokens[i] = i * 7 % VOCABULARY;
    tiny_init(&tiny, tied, factors);
    tiny_write(&tiny, &b);
    assert_int_equal(load(&b, &model), 0);
    assert_int_equal(model->shape.vocabulary, VOCABULARY);
    assert_int_equal(model->shape.context, 64);
    naive_forward(&tiny, tokens, wanted);
    check_steps(model, tokens, wanted, TOKENS, TOKENS);
    check_steps(model, tokens, wanted, 1, 1);
    check_steps(model, tokens, wanted, 5, 2);
    check_steps(model, tokens, wanted, 8, 0);
    model_free(model);
    builder_deinit(&b);
    tiny_deinit(&tiny);
}

static void test_forward(void **state) {
    (void)state;
    check_model(true, false);
    check_model(false, true);
}

/* Two texts in one step, of different lengths and at different positions, are as each of them alone. */
static void test_parts(void **state) {
    (void)state;
    struct tiny tiny;
    struct builder b;
    struct model *model;
    struct attention *attentions[2];
    struct forward *forward;
    static double wanted[2][TOKENS][VOCABULARY];
    uint32_t tokens[2][TOKENS];
    float logits[3 * VOCABULARY];
    tiny_init(&tiny, true, false);
    tiny_write(&tiny, &b);
    assert_int_equal(load(&b, &model), 0);
    for (uint32_t i = 0; i < 2; i++) {
        for (uint32_t j = 0; j < TOKENS; j++)
            tokens[i][j] = (j * 7 + i * 3) % VOCABULARY;
        naive_forward(&tiny, tokens[i], wanted[i]);
        assert_int_equal(attention_full_new(&model->shape, TOKENS, TOKENS, &attentions[i], &failure), 0);
    }
    assert_int_equal(forward_new(model, 8, &forward, &failure), 0);
    assert_int_equal(forward_step(forward, attentions[1], tokens[1], 2, 0, NULL, &failure), 0);
    const struct forward_part parts[2] = {
        {.attention = attentions[0], .tokens = tokens[0], .rows = 5, .position = 0},
        {.attention = attentions[1], .tokens = tokens[1] + 2, .rows = 3, .position = 2}};
    assert_int_equal(forward_step_parts(forward, parts, 2, &failure), 0);
    static const struct { uint32_t row, text, position; } read[3] = {{7, 1, 4}, {0, 0, 0}, {5, 1, 2}};
    const uint32_t rows[3] = {read[0].row, read[1].row, read[2].row};
    forward_logits(forward, rows, 3, logits);
    for (uint32_t i = 0; i < 3; i++)
        for (int j = 0; j < VOCABULARY; j++)
            assert_true(fabs((double)logits[i * VOCABULARY + (uint32_t)j] - wanted[read[i].text][read[i].position][j]) <
                        1e-4);
    const struct forward_part many[2] = {parts[0], {attentions[1], tokens[1] + 5, 4, 5}};
    assert_int_equal(forward_step_parts(forward, many, 2, &failure), SCISSOR_EINVAL);
    for (uint32_t i = 0; i < 2; i++)
        attentions[i]->free(attentions[i]);
    forward_free(forward);
    model_free(model);
    builder_deinit(&b);
    tiny_deinit(&tiny);
}

static void test_step_limits(void **state) {
    (void)state;
    struct tiny tiny;
    struct builder b;
    struct model *model;
    struct attention *attention;
    struct forward *forward;
    const uint32_t tokens[4] = {0, 1, 2, VOCABULARY};
    tiny_init(&tiny, true, false);
    tiny_write(&tiny, &b);
    assert_int_equal(load(&b, &model), 0);
    assert_int_equal(attention_full_new(&model->shape, 4, 4, &attention, &failure), 0);
    assert_int_equal(forward_new(model, 4, &forward, &failure), 0);
    assert_int_equal(forward_step(forward, attention, tokens, 0, 0, NULL, &failure), SCISSOR_EINVAL);
    assert_int_equal(forward_step(forward, attention, tokens, 5, 0, NULL, &failure), SCISSOR_EINVAL);
    assert_int_equal(forward_step(forward, attention, tokens, 4, 0, NULL, &failure), SCISSOR_EINVAL);
    assert_int_equal(forward_step(forward, attention, tokens, 3, 0, NULL, &failure), 0);
    forward_free(forward);
    attention->free(attention);
    model_free(model);
    builder_deinit(&b);
    tiny_deinit(&tiny);
}

static void assert_refused(const struct builder *b, const char *said) {
    struct model *model = NULL;
    size_t live = alloc_live();
    assert_int_equal(load(b, &model), SCISSOR_EINVAL);
    assert_null(model);
    assert_non_null(strstr(failure.text, said));
    assert_int_equal(alloc_live(), live);
}

/* Each tensor in turn is missing under its name, or has another shape. */
static void test_wrong_tensors(void **state) {
    (void)state;
    struct tiny tiny;
    struct builder b;
    tiny_init(&tiny, true, false);
    for (size_t i = 0; i < tiny.tensor_count; i++) {
        struct tiny_tensor *tensor = &tiny.tensors[i];
        struct tiny_tensor kept = *tensor;
        tensor->name[strlen(tensor->name) - 1] = 'x';
        tiny_write(&tiny, &b);
        assert_refused(&b, kept.name);
        builder_deinit(&b);
        *tensor = kept;
        tensor->columns /= 2;
        tiny_write(&tiny, &b);
        assert_refused(&b, "tensor ");
        builder_deinit(&b);
        *tensor = kept;
    }
    tiny_add(&tiny, "attn_q.bias", -1, WIDTH, 0);
    tiny_write(&tiny, &b);
    assert_refused(&b, "nonsense");
    builder_deinit(&b);
    tiny_deinit(&tiny);
}

/* The value of the given key, 12 bytes past its text's start and length, replaced by another number. */
static void assert_value_refused(const struct tiny *tiny, const char *key, uint32_t value) {
    struct builder b;
    tiny_write(tiny, &b);
    uint8_t *at = memmem(b.bytes, b.size, key, strlen(key));
    assert_non_null(at);
    memcpy(at + strlen(key) + 4, &value, sizeof(value));
    assert_refused(&b, "");
    builder_deinit(&b);
}

static void test_wrong_values(void **state) {
    (void)state;
    struct tiny tiny;
    tiny_init(&tiny, true, false);
    const uint32_t numbers[] = {0, 1u << 31, UINT32_MAX, 1025};
    static const char *const keys[] = {"llama.block_count",          "llama.embedding_length",
                                       "llama.feed_forward_length",  "llama.attention.head_count",
                                       "llama.attention.key_length", "llama.attention.head_count_kv"};
    for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++)
        for (size_t j = 0; j < sizeof(numbers) / sizeof(numbers[0]); j++)
            assert_value_refused(&tiny, keys[i], numbers[j]);
    assert_value_refused(&tiny, "llama.attention.head_count_kv", 3);
    assert_value_refused(&tiny, "llama.rope.dimension_count", 5);
    assert_value_refused(&tiny, "llama.rope.dimension_count", DIM + 1);
    assert_value_refused(&tiny, "llama.rope.freq_base", 0x7fc00000);                   /* NaN */
    assert_value_refused(&tiny, "llama.attention.layer_norm_rms_epsilon", 0xbf800000); /* -1 */
    struct builder b;
    tiny_write(&tiny, &b);
    memcpy((uint8_t *)memmem(b.bytes, b.size, "llama", 5), "mamba", 5); /* the architecture's value comes first */
    assert_refused(&b, "mamba");
    memcpy((uint8_t *)memmem(b.bytes, b.size, "mamba", 5), "\x1b[2J!", 5); /* no order to a terminal gets through */
    assert_refused(&b, "\"?[2J!\"");
    builder_deinit(&b);
    tiny_deinit(&tiny);
}

static void test_allocations(void **state) {
    (void)state;
    struct tiny tiny;
    struct builder b;
    size_t live = alloc_live(), k;
    tiny_init(&tiny, false, true);
    tiny_write(&tiny, &b);
    for (k = 0; k < 100; k++) {
        struct model *model = NULL;
        struct forward *forward = NULL;
        alloc_fail_after(k, 1);
        int r = load(&b, &model);
        if (r == 0)
            r = forward_new(model, 4, &forward, &failure);
        alloc_fail_never();
        forward_free(forward);
        model_free(model);
        assert_int_equal(alloc_live(), live);
        if (r == 0)
            break;
        assert_int_equal(r, SCISSOR_ENOMEM);
    }
    assert_in_range(k, 10, 99);
    builder_deinit(&b);
    tiny_deinit(&tiny);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_forward),       cmocka_unit_test(test_parts),        cmocka_unit_test(test_step_limits),
        cmocka_unit_test(test_wrong_tensors), cmocka_unit_test(test_wrong_values), cmocka_unit_test(test_allocations),
    };
    return cmocka_run_group_tests_name("llama_model", tests, NULL, NULL);
}
