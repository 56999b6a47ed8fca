/* test_llama_sampler.c - greedy choice, top-p and the shape of what is drawn. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "alloc.h"
#include "llama/sampler.h"

#define DRAWS 20000

static struct failure failure;

static struct sampler *make(uint32_t vocabulary, double temperature, double top_p, uint64_t seed) {
    struct sampler *sampler = NULL;
    assert_int_equal(sampler_new(vocabulary, temperature, top_p, seed, &sampler, &failure), 0);
    return sampler;
}

static void test_greedy(void **state) {
    (void)state;
    const float logits[] = {NAN, 1.0f, 3.0f, 3.0f, -INFINITY};
    struct sampler *sampler = make(5, 0, 1, 1);
    assert_int_equal(sampler_pick(sampler, logits), 2);
    assert_int_equal(sampler_pick(sampler, logits), 2);
    sampler_free(sampler);
}

static void test_distribution(void **state) {
    (void)state;
    const float logits[] = {logf(0.5f), logf(0.125f), logf(0.25f), logf(0.125f)};
    const double wanted[] = {0.5, 0.125, 0.25, 0.125};
    int counts[4] = {0};
    struct sampler *sampler = make(4, 1, 1, 7);
    for (int i = 0; i < DRAWS; i++)
        counts[sampler_pick(sampler, logits)]++;
    for (int i = 0; i < 4; i++)
        assert_true(fabs((double)counts[i] / DRAWS - wanted[i]) < 0.02);
    sampler_free(sampler);
}

static void test_temperature(void **state) {
    (void)state;
    /* At temperature 0.5 the odds of 2 to 1 become 4 to 1. */
    const float logits[] = {logf(2), 0};
    int first = 0;
    struct sampler *sampler = make(2, 0.5, 1, 7);
    for (int i = 0; i < DRAWS; i++)
        first += sampler_pick(sampler, logits) == 0;
    assert_true(fabs((double)first / DRAWS - 0.8) < 0.02);
    sampler_free(sampler);
}

static void test_top_p(void **state) {
    (void)state;
    const float logits[] = {logf(0.05f), logf(0.5f), logf(0.15f), logf(0.3f)};
    int counts[4] = {0};
    struct sampler *sampler = make(4, 1, 0.75, 3); /* 0.5 + 0.3 reach it */
    for (int i = 0; i < DRAWS; i++)
        counts[sampler_pick(sampler, logits)]++;
    assert_int_equal(counts[0] + counts[2], 0);
    assert_true(fabs((double)counts[1] / DRAWS - 0.625) < 0.02);
    sampler_free(sampler);
    sampler = make(4, 1, 0, 3); /* only the likeliest is left */
    for (int i = 0; i < 100; i++)
        assert_int_equal(sampler_pick(sampler, logits), 1);
    sampler_free(sampler);
}

static void test_seeds(void **state) {
    (void)state;
    float logits[64] = {0};
    struct sampler *a = make(64, 1, 1, 5), *b = make(64, 1, 1, 5), *c = make(64, 1, 1, 6);
    int differ = 0;
    for (int i = 0; i < 50; i++) {
        uint32_t picked = sampler_pick(a, logits);
        assert_int_equal(sampler_pick(b, logits), picked);
        differ += sampler_pick(c, logits) != picked;
    }
    assert_true(differ > 30);
    sampler_free(a);
    sampler_free(b);
    sampler_free(c);
}

static void test_nonsense(void **state) {
    (void)state;
    const float logits[] = {NAN, NAN, NAN};
    struct sampler *sampler = make(3, 1, 0.9, 1);
    assert_in_range(sampler_pick(sampler, logits), 0, 2);
    sampler_free(sampler);
    size_t live = alloc_live();
    for (size_t k = 0; k < 2; k++) {
        alloc_fail_after(k, 1);
        assert_int_equal(sampler_new(3, 1, 1, 1, &sampler, &failure), SCISSOR_ENOMEM);
        alloc_fail_never();
    }
    assert_int_equal(alloc_live(), live);
    assert_null(sampler_free(NULL));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_greedy), cmocka_unit_test(test_distribution), cmocka_unit_test(test_temperature),
        cmocka_unit_test(test_top_p),  cmocka_unit_test(test_seeds),        cmocka_unit_test(test_nonsense),
    };
    return cmocka_run_group_tests_name("llama_sampler", tests, NULL, NULL);
}
