/* test_pool.c - promises, charges and loans of a pool, in small numbers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "pool.h"

static struct pool pool;

static int setup(void **state) {
    (void)state;
    pool_init(&pool,
              &(struct broker_pool_config){.name = "test", .backend = kernel_host_backend(NULL), .limit_bytes = 1000},
              0);
    return 0;
}

static void test_promises_end_at_the_limit(void **state) {
    struct pool_account a = {0}, b = {0};
    (void)state;
    assert_int_equal(pool_ask(&pool, 1001), POOL_FULL);
    assert_int_equal(pool_ask(&pool, 1000), 0);
    pool_join(&pool, &a, 600);
    assert_int_equal(pool_ask(&pool, 401), POOL_FULL);
    assert_int_equal(pool_ask(&pool, UINT64_MAX), POOL_FULL);
    pool_join(&pool, &b, 400);
    assert_int_equal(pool_ask(&pool, 1), POOL_FULL);
    assert_int_equal(pool_charge(&a, 600), 0);
    assert_int_equal(pool_charge(&b, 400), 0);
    assert_int_equal(pool_charge(&b, 1), POOL_LENT);
    assert_int_equal(pool.charged, 1000);
    pool_return(&a, 600);
    pool_return(&b, 400);
    pool_leave(&a);
    pool_leave(&b);
    assert_int_equal(pool.committed + pool.guaranteed + pool.charged + pool.accounts, 0);
    assert_int_equal(pool.peak, 1000);
}

static void test_loans_stand_in_nobodys_way_forever(void **state) {
    struct pool_account a = {0}, b = {0};
    (void)state;
    pool_join(&pool, &a, 100);
    assert_int_equal(pool_charge(&a, 900), 0); /* 800 of them lent */
    assert_int_equal(pool_account_lent(&a), 800);
    assert_int_equal(pool_ask(&pool, 100), 0);
    assert_int_equal(pool_ask(&pool, 200), POOL_LENT); /* it could be had */
    assert_int_equal(pool_ask(&pool, 901), POOL_FULL); /* it could not */
    pool_return(&a, 100);
    assert_int_equal(pool_ask(&pool, 200), 0);
    pool_join(&pool, &b, 200);
    assert_int_equal(pool_charge(&a, 1), POOL_LENT); /* a promise counts as given out */
    assert_int_equal(pool_charge(&b, 200), 0);
    pool_return(&a, 800);
    pool_return(&b, 200);
    pool_leave(&a);
    pool_leave(&b);
    assert_int_equal(pool.committed, 0);
}

static void test_nothing_is_lent_while_somebody_waits(void **state) {
    struct pool_account a = {0};
    (void)state;
    pool_join(&pool, &a, 100);
    pool.waiting = 1;
    assert_int_equal(pool_charge(&a, 101), POOL_LENT);
    assert_int_equal(a.charged, 0);
    assert_int_equal(pool_charge(&a, 100), 0); /* what is promised is always there */
    pool.waiting = 0;
    assert_int_equal(pool_charge(&a, 1), 0);
    pool_return(&a, 101);
    pool_leave(&a);
    pool_leave(&a); /* has left: nothing */
    assert_int_equal(pool.accounts, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_promises_end_at_the_limit, setup),
        cmocka_unit_test_setup(test_loans_stand_in_nobodys_way_forever, setup),
        cmocka_unit_test_setup(test_nothing_is_lent_while_somebody_waits, setup),
    };
    return cmocka_run_group_tests_name("pool", tests, NULL, NULL);
}
