/* memory.h - sums over what MEMORY tells, and whether they are right. */
#pragma once

#include <jansson.h>

#include "link.h"
#include "out.h"

struct ctl_memory_sum {
    struct proto_memory_stat sum; /* of the entries of one pool; name and ids are empty */
    size_t sessions;
    uint64_t wrong; /* session whose own parts are not its charge; 0: all are right */
    bool adds_up;   /* and the entries are the pool's charge */
};

/* Bytes of the parts of an entry. */
uint64_t ctl_memory_parts(const struct proto_memory_stat *m);
struct ctl_memory_sum ctl_memory_add(const struct proto_pool_stat *pool, uint32_t index,
                                     const struct proto_memory_stat *entries, size_t count);
/* The part of the settled segments in which no page is, 0 to 1. */
double ctl_memory_fragmentation(const struct proto_memory_stat *m);

void ctl_view_memory(struct out *o, const struct proto_pool_stat *pool, uint32_t index,
                     const struct ctl_memory_sum *sum, const struct proto_memory_stat *entries, size_t count);
/* NULL if out of memory. */
json_t *ctl_json_memory(const struct proto_pool_stat *pool, uint32_t index, const struct ctl_memory_sum *sum,
                        const struct proto_memory_stat *entries, size_t count);
