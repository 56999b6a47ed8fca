/* pool.c - see pool.h. */
#include "pool.h"

#include <assert.h>

int pool_ask(const struct pool *pool, uint64_t guaranteed) {
    uint64_t limit = pool->config.limit_bytes;
    if (guaranteed > limit || pool->guaranteed > limit - guaranteed)
        return POOL_FULL;
    return pool->committed > limit - guaranteed ? POOL_LENT : 0;
}

void pool_join(struct pool *pool, struct pool_account *account, uint64_t guaranteed) {
    assert(!account->pool && pool_ask(pool, guaranteed) == 0);
    *account = (struct pool_account){.pool = pool, .guaranteed = guaranteed};
    pool->guaranteed += guaranteed;
    pool->committed += guaranteed;
    pool->accounts++;
}

void pool_leave(struct pool_account *account) {
    struct pool *pool = account->pool;
    if (!pool)
        return;
    assert(account->charged == 0);
    pool->guaranteed -= account->guaranteed;
    pool->committed -= account->guaranteed;
    pool->accounts--;
    *account = (struct pool_account){0};
}

int pool_charge(struct pool_account *account, uint64_t bytes) {
    struct pool *pool = account->pool;
    uint64_t before = pool_account_committed(account);
    struct pool_account charged = *account;
    charged.charged += bytes;
    uint64_t more = pool_account_committed(&charged) - before;
    if (more && (pool->waiting || more > pool->config.limit_bytes - pool->committed))
        return POOL_LENT;
    *account = charged;
    pool->committed += more;
    pool->charged += bytes;
    if (pool->charged > pool->peak)
        pool->peak = pool->charged;
    return 0;
}

void pool_return(struct pool_account *account, uint64_t bytes) {
    struct pool *pool = account->pool;
    assert(bytes <= account->charged);
    uint64_t before = pool_account_committed(account);
    account->charged -= bytes;
    pool->charged -= bytes;
    pool->committed -= before - pool_account_committed(account);
}
