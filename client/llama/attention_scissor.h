/* attention_scissor.h - attention over rows that scissord owns: the cache of fixed size. */
#pragma once

#include "attention.h"
#include "scissor.h"

struct attention_scissor_options {
    uint32_t pool_mib;     /* of the private daemon; 0: what this session needs */
    const char *directory; /* of the daemon's sockets; NULL: start a private daemon */
    const char *device;    /* where the rows are to be, as scissord's --device; NULL: wherever the daemon has them */
    const char *name, *policy;
    const struct scissor_param *params;
    uint32_t param_count;
    uint32_t budget, guarantee; /* rows per KV head, fresh ones included */
    uint32_t fresh, priority, wait_ms;
    uint32_t storage_dtype, compute_dtype; /* enum scissor_dtype */
};

/* Connects and opens a session, and starts a daemon before if none is named. BUSY, FULL, DRAINING and the library's
 * failures come with a text that says what to do. */
int attention_scissor_new(const struct model_shape *shape, const struct attention_scissor_options *options,
                          struct attention **ret_attention, struct failure *failure);

/* The pool that a private daemon has for a session of these options alone. */
uint32_t attention_scissor_pool_mib(const struct model_shape *shape, const struct attention_scissor_options *options);
