/* test_llama_attention.c - the vector functions against libm in double, and full attention against a naive loop. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "alloc.h"
#include "llama/attention.h"
#include "llama/vector.h"

#define TOKENS 150

static struct failure failure;

static uint32_t noise_state = 1;

static float noise(void) {
    noise_state = noise_state * 1664525u + 1013904223u;
    return (float)(noise_state >> 8) / (float)(1 << 23) - 1.0f;
}

static void fill(float *x, size_t count, float scale) {
    for (size_t i = 0; i < count; i++)
        x[i] = noise() * scale;
}

static void assert_near(double got, double wanted, double relative) {
    assert_true(fabs(got - wanted) <= relative * (fabs(wanted) + 1e-30));
}

static void test_softmax(void **state) {
    (void)state;
    float x[23], y[24];
    for (size_t count = 1; count <= 23; count++) {
        fill(x, count, 30.0f);
        memcpy(y, x, sizeof(x));
        y[count] = 777.0f;
        vector_softmax(y, count);
        double max = -1e9, sum = 0;
        for (size_t i = 0; i < count; i++)
            max = fmax(max, (double)x[i]);
        for (size_t i = 0; i < count; i++)
            sum += exp((double)x[i] - max);
        for (size_t i = 0; i < count; i++)
            assert_near((double)y[i], exp((double)x[i] - max) / sum, 1e-5);
        assert_true(y[count] == 777.0f);
        assert_near(vector_log_sum_exp(x, count), max + log(sum), 1e-6);
    }
    /* Far below the largest: nothing is left, and nothing overflows. */
    float wide[5] = {-1e30f, 0, -200.0f, -INFINITY, 0};
    vector_softmax(wide, 5);
    assert_true(wide[0] < 1e-30f && wide[2] < 1e-30f && wide[3] < 1e-30f && wide[1] == 0.5f && wide[4] == 0.5f);
}

/* A NaN comes out as one, whatever its payload; the low bits of a float are where exp keeps its exponent. */
static void test_nan(void **state) {
    (void)state;
    for (uint32_t bits = 0x7fc00000; bits < 0x7fc00400; bits++) {
        float x[5] = {0}, gate[4] = {0}, up[4] = {1, 1, 1, 1};
        memcpy(&x[1], &bits, sizeof(bits));
        memcpy(&gate[2], &bits, sizeof(bits));
        assert_true(isnan(vector_log_sum_exp(x, 5)));
        vector_softmax(x, 5);
        assert_true(isnan(x[1]));
        vector_silu_multiply(gate, up, 4);
        assert_true(isnan(gate[2]) && gate[0] == 0);
    }
}

static void test_elements(void **state) {
    (void)state;
    float gate[11], up[11], x[11], weight[11], got[11];
    fill(gate, 11, 20.0f);
    fill(up, 11, 2.0f);
    gate[0] = -100.0f;
    gate[1] = 100.0f;
    memcpy(got, gate, sizeof(got));
    vector_silu_multiply(got, up, 11);
    for (int i = 0; i < 11; i++) {
        double wanted = (double)gate[i] / (1 + exp(-(double)gate[i])) * (double)up[i];
        assert_true(fabs((double)got[i] - wanted) <= 2e-6 * fabs(wanted) + 1e-30);
    }
    fill(x, 11, 3.0f);
    fill(weight, 11, 1.0f);
    double squares = 0;
    for (int i = 0; i < 11; i++)
        squares += (double)x[i] * (double)x[i];
    vector_rms_norm(x, weight, 0.25f, 11, got);
    for (int i = 0; i < 11; i++)
        assert_near((double)got[i], (double)x[i] / sqrt(squares / 11 + 0.25) * (double)weight[i], 1e-6);
    memcpy(got, x, sizeof(got));
    vector_add(got, weight, 11);
    for (int i = 0; i < 11; i++)
        assert_true(got[i] == x[i] + weight[i]);
}

/* Everything a test has said so far, in the order of the interface: [token][head][head_dim]. */
struct record {
    struct model_shape shape;
    float *q, *k, *v, *out;
};

static void naive_head(const struct record *r, uint32_t token, uint32_t head, double *ret) {
    const struct model_shape *s = &r->shape;
    uint32_t kv_head = head / (s->q_heads / s->kv_heads), dim = s->head_dim;
    const float *q = r->q + ((size_t)token * s->q_heads + head) * dim;
    double weights[TOKENS], sum = 0;
    for (uint32_t j = 0; j <= token; j++) {
        const float *k = r->k + ((size_t)j * s->kv_heads + kv_head) * dim;
        double dot = 0;
        for (uint32_t c = 0; c < dim; c++)
            dot += (double)q[c] * (double)k[c];
        sum += weights[j] = exp(dot / sqrt(dim));
    }
    for (uint32_t c = 0; c < dim; c++) {
        ret[c] = 0;
        for (uint32_t j = 0; j <= token; j++)
            ret[c] += weights[j] / sum * (double)r->v[((size_t)j * s->kv_heads + kv_head) * dim + c];
    }
}

static void check_naive(const struct record *r) {
    double wanted[64];
    for (uint32_t token = 0; token < TOKENS; token++)
        for (uint32_t head = 0; head < r->shape.q_heads; head++) {
            naive_head(r, token, head, wanted);
            for (uint32_t c = 0; c < r->shape.head_dim; c++) {
                double got = (double)r->out[((size_t)token * r->shape.q_heads + head) * r->shape.head_dim + c];
                assert_true(fabs(got - wanted[c]) < 2e-6);
            }
        }
}

static void run_full(struct record *records, uint32_t layers) {
    const struct model_shape *s = &records[0].shape;
    struct attention *full;
    struct attention_stat stat;
    uint32_t room, next = 1;
    assert_int_equal(attention_full_new(s, TOKENS, 32, &full, &failure), 0);
    for (uint32_t at = 0; at < TOKENS;) {
        assert_int_equal(full->room(full, &room, &failure), 0);
        uint32_t rows = next < room ? next : room;
        next = next * 2 % 37;
        assert_int_equal(full->begin(full, rows, &failure), 0);
        for (uint32_t layer = 0; layer < layers; layer++) {
            struct record *r = &records[layer];
            size_t q = (size_t)at * s->q_heads * s->head_dim, kv = (size_t)at * s->kv_heads * s->head_dim;
            assert_int_equal(full->attend(full, layer, r->q + q, r->k + kv, r->v + kv, r->out + q, &failure), 0);
        }
        assert_int_equal(full->end(full, &failure), 0);
        at += rows;
    }
    assert_int_equal(full->room(full, &room, &failure), SCISSOR_EINVAL);
    assert_int_equal(full->begin(full, 1, &failure), SCISSOR_EINVAL);
    full->stat(full, &stat);
    assert_int_equal(stat.tokens_seen, TOKENS);
    assert_int_equal(stat.rows_per_head, TOKENS);
    assert_int_equal(stat.bytes, (uint64_t)TOKENS * 2 * layers * s->kv_heads * s->head_dim * 4);
    full->free(full);
}

static void check_shape(uint32_t q_heads, uint32_t kv_heads, uint32_t head_dim) {
    struct record records[2];
    for (int i = 0; i < 2; i++) {
        struct record *r = &records[i];
        size_t q = (size_t)TOKENS * q_heads * head_dim, kv = (size_t)TOKENS * kv_heads * head_dim;
        *r = (struct record){.shape = {.layers = 2, .q_heads = q_heads, .kv_heads = kv_heads, .head_dim = head_dim},
                             .q = malloc(q * sizeof(float)),
                             .k = malloc(kv * sizeof(float)),
                             .v = malloc(kv * sizeof(float)),
                             .out = malloc(q * sizeof(float))};
        assert_true(r->q && r->k && r->v && r->out);
        fill(r->q, q, 2.0f);
        fill(r->k, kv, 2.0f);
        fill(r->v, kv, 1.0f);
    }
    run_full(records, 2);
    for (int i = 0; i < 2; i++) {
        check_naive(&records[i]);
        free(records[i].q);
        free(records[i].k);
        free(records[i].v);
        free(records[i].out);
    }
}

static void test_full(void **state) {
    (void)state;
    check_shape(6, 2, 16);
    check_shape(2, 2, 64);
    check_shape(3, 1, 8);
}

static void test_allocations(void **state) {
    (void)state;
    const struct model_shape shape = {.layers = 1, .q_heads = 2, .kv_heads = 1, .head_dim = 16};
    struct attention *full;
    size_t live = alloc_live(), k;
    for (k = 0; k < 20; k++) {
        alloc_fail_after(k, 1);
        int r = attention_full_new(&shape, 10, 4, &full, &failure);
        alloc_fail_never();
        if (r == 0)
            break;
        assert_int_equal(r, SCISSOR_ENOMEM);
        assert_int_equal(alloc_live(), live);
    }
    assert_in_range(k, 3, 19);
    full->free(full);
    assert_int_equal(alloc_live(), live);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_softmax), cmocka_unit_test(test_nan),         cmocka_unit_test(test_elements),
        cmocka_unit_test(test_full),    cmocka_unit_test(test_allocations),
    };
    return cmocka_run_group_tests_name("llama_attention", tests, NULL, NULL);
}
