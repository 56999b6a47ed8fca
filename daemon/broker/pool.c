/* pool.c - see pool.h. */
#include "pool.h"

#include <assert.h>

static void limit_follows(struct pool *pool) {
    if (pool->raised && pool->committed < pool->target)
        pool->target = pool->committed > pool->config.limit_bytes ? pool->committed : pool->config.limit_bytes;
    pool->limit = pool->target > pool->committed ? pool->target : pool->committed;
}

/* The memory of a device with streams is not the processor's to write to. */
static struct kernel_backend *host_of(const struct broker_pool_config *config) {
    if (config->host || !config->backend->streams)
        return config->host ? config->host : config->backend;
    return kernel_host_backend(NULL);
}

void pool_init(struct pool *pool, const struct broker_pool_config *config, uint32_t index) {
    *pool = (struct pool){.config = *config,
                          .host = host_of(config),
                          .index = index,
                          .limit = config->limit_bytes,
                          .target = config->limit_bytes};
}

void pool_set_target(struct pool *pool, uint64_t bytes) {
    assert(bytes >= pool->guaranteed);
    pool->target = bytes;
    pool->raised = false;
    limit_follows(pool);
}

void pool_raise(struct pool *pool, uint64_t bytes) {
    assert(bytes >= pool->target);
    pool->target = bytes;
    pool->raised = true;
    pool->limit = bytes > pool->committed ? bytes : pool->committed;
}

int pool_ask(const struct pool *pool, uint64_t guaranteed) {
    if (guaranteed > pool->target || pool->guaranteed > pool->target - guaranteed)
        return POOL_FULL;
    return pool->committed > pool->target - guaranteed ? POOL_LENT : 0;
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
    limit_follows(pool);
    *account = (struct pool_account){0};
}

int pool_ask_promise(const struct pool *pool, uint64_t guaranteed, uint64_t committed) {
    if (guaranteed > pool->guaranteed && guaranteed > pool->target)
        return POOL_FULL;
    return committed > pool->committed && (pool->waiting || committed > pool->target) ? POOL_LENT : 0;
}

void pool_promise(struct pool_account *account, uint64_t guaranteed) {
    struct pool *pool = account->pool;
    pool->guaranteed -= account->guaranteed;
    pool->committed -= pool_account_committed(account);
    account->guaranteed = guaranteed;
    pool->guaranteed += guaranteed;
    pool->committed += pool_account_committed(account);
    limit_follows(pool);
}

int pool_charge(struct pool_account *account, uint64_t bytes) {
    struct pool *pool = account->pool;
    uint64_t before = pool_account_committed(account);
    struct pool_account charged = *account;
    charged.charged += bytes;
    uint64_t more = pool_account_committed(&charged) - before;
    if (more && (pool->waiting || pool->committed > pool->target || more > pool->target - pool->committed))
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
    limit_follows(pool);
}
