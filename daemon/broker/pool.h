/* pool.h - one device's memory as a number of bytes: what is promised, what is given out, what is left.
 *
 * A pool knows accounts, not sessions: an account is one promise (`guaranteed` bytes that are always there) and what
 * is charged against it now. `committed` is the sum over accounts of the larger of the two and never passes the limit,
 * so that a promise can be kept at any moment without taking anything back. Charges above a promise are lent.
 *
 * What may be given out is `target`. When the operator sets it below what is committed, nothing more is lent, and the
 * limit follows down as memory comes back; otherwise both are the same.
 * A target that was raised for sessions of the process before goes back to the configured limit in the same way.
 * Everything here runs on the broker's thread; there is no check that is apart from its charge. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "broker.h"

struct session;

struct pool {
    struct broker_pool_config config;
    struct kernel_backend *host; /* of control and lease pages, which the processor must be able to write */
    uint32_t index;
    bool keeps;     /* its sessions outlive the process */
    bool lost;      /* the device has failed; nothing works on it until the process ends */
    bool cleared;   /* so its sessions were ended */
    char why[128];  /* it has failed */
    uint64_t limit; /* never passed: the target, or what is committed above it */
    bool raised;    /* the target is above the configured limit for those that were taken over */
    uint64_t target, charged, peak, guaranteed, committed;
    uint64_t accounts;     /* that have joined */
    struct session *queue; /* opens that wait for memory, oldest first */
    uint32_t waiting;      /* their number; while there are any, nothing more is lent */
    uint64_t segments;     /* allocated now */
    uint64_t reclaims;     /* segments taken back under pressure */
    uint64_t evicted[PROTO_REASON_COUNT];
    uint64_t settles, scores_lost;
    uint64_t opened, closed, refused;
    uint32_t sessions;
    uint32_t quarantined;       /* of these */
    uint64_t quarantined_bytes; /* charged to them */
};

struct pool_account {
    struct pool *pool; /* NULL: has not joined */
    uint64_t guaranteed, charged;
};

/* Conditions of pool_ask(). */
enum {
    POOL_LENT = 1, /* the memory is there, but lent */
    POOL_FULL = 2, /* the memory is promised to others */
};

void pool_init(struct pool *pool, const struct broker_pool_config *config, uint32_t index);
/* Lets so much be given out, no less than before, until memory comes back: then it falls to what is committed, and to
 * the configured limit at last. */
void pool_raise(struct pool *pool, uint64_t bytes);
/* Sets what may be given out; no less than `guaranteed`. */
void pool_set_target(struct pool *pool, uint64_t bytes);

/* Could an account of `guaranteed` bytes join now? 0, POOL_LENT or POOL_FULL. */
int pool_ask(const struct pool *pool, uint64_t guaranteed);
/* Joins; pool_ask() has said 0 for the sum of all accounts that join together. */
void pool_join(struct pool *pool, struct pool_account *account, uint64_t guaranteed);
/* Gives up the promise; all charges must be back. Of an account that has not joined: nothing. */
void pool_leave(struct pool_account *account);

/* May promises change so that the pool has these sums afterwards? 0, POOL_FULL or POOL_LENT; never if both fall. */
int pool_ask_promise(const struct pool *pool, uint64_t guaranteed, uint64_t committed);
/* Makes the promise larger or smaller; larger only after pool_ask_promise(). */
void pool_promise(struct pool_account *account, uint64_t guaranteed);

/* Charges `bytes`: 0, or POOL_LENT if they would have to be lent and cannot. Up to the promise it never fails. */
int pool_charge(struct pool_account *account, uint64_t bytes);
void pool_return(struct pool_account *account, uint64_t bytes);

/* What has to come back before anything can be lent again. */
static inline uint64_t pool_excess(const struct pool *pool) {
    return pool->committed > pool->target ? pool->committed - pool->target : 0;
}
static inline uint64_t pool_room(const struct pool *pool) {
    return pool->target > pool->committed ? pool->target - pool->committed : 0;
}
/* Whether somebody waits for memory that was lent: an open, or the operator. */
static inline bool pool_presses(const struct pool *pool) {
    return pool->waiting || pool_excess(pool);
}
/* What of the account is lent. */
static inline uint64_t pool_account_lent(const struct pool_account *account) {
    return account->charged > account->guaranteed ? account->charged - account->guaranteed : 0;
}
static inline uint64_t pool_account_committed(const struct pool_account *account) {
    return account->charged > account->guaranteed ? account->charged : account->guaranteed;
}
