/* set_limits.h - what `scissorctl limits set` was asked for. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

enum limits_what { LIMITS_POOL, LIMITS_SESSION };

struct limits_change {
    enum limits_what what;
    const char *name; /* of the pool (NULL: the only one) or, by name or number, of the session */
    uint64_t bytes;
    uint64_t guaranteed_rows, max_rows; /* 0: as it is */
    uint64_t group;                     /* or PROTO_ALL_GROUPS */
    uint64_t priority;                  /* 0: as it is */
};

/* Reads the words behind `limits set`. 0 or CTL_USAGE, said. Texts stay the caller's. */
int limits_parse(char **words, int count, struct limits_change *ret);
