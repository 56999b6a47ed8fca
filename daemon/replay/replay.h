/* replay.h - runs a policy over a trace (proto/trace.h): what it would have kept, and how much of the recorded
 * attention fell on that.
 *
 * The policy and the history are the daemon's own. At each settle of the trace every head picks its victims as in the
 * daemon, within a budget of its own; a row that it keeps gets the scores that the trace has for the row's position. */
#pragma once

#include "daemon/replay/persistence.h"
#include "history.h"
#include "policy.h"
#include "trace.h"

#define REPLAY_NONE UINT32_MAX

struct replay_spec {
    const char *policy; /* NULL: the recorded session's, with its parameters */
    struct proto_param params[PROTO_MAX_PARAMS];
    uint32_t budget; /* rows per KV head, fresh ones included; 0: the recorded session's */
};

/* Attention mass of a layer, added up over its KV heads and all frames. */
struct replay_mass {
    double all, kept; /* on all rows of the trace; on those that the policy had then, fresh ones included */
    double settled_all, settled_kept; /* without the fresh rows, which no policy can drop */
};

struct replay_head {
    struct history history;
    uint32_t *traced;   /* [history.capacity] slot in the trace of each row kept; REPLAY_NONE: not there any more */
    uint32_t settled;   /* slots of the trace */
    uint32_t *position; /* [capacity] of the trace's slots */
    float *norm;
    uint32_t *holder; /* the policy's slot of the same row; REPLAY_NONE */
    uint32_t capacity;
};

struct replay_group {
    struct policy policy;
    uint32_t planes; /* of the frames */
    uint32_t layers, kv_heads, first_layer, first_head;
    uint32_t room; /* settled rows per head */
};

struct replay {
    uint32_t fresh_rows, group_count, layer_count, head_count;
    struct replay_group groups[PROTO_MAX_GROUPS];
    struct history_clock *clocks; /* [layer_count] */
    struct replay_mass *mass;     /* [layer_count] */
    struct replay_head *heads;    /* [head_count] */
    uint64_t tokens, generation, settles, frames;
    bool begun;                      /* a STATE has been read */
    struct persistence *persistence; /* gets the mass of all frames, too; NULL, or the caller's */
    float *values;                   /* of one vector */
    float *mine;                     /* the same for the policy's slots */
    size_t value_capacity;
    uint64_t *scratch; /* of policy_victims() */
    uint32_t *victims;
    struct kernel_move *tail;
    size_t slot_capacity;
    char why[200]; /* what is wrong */
};

/* 0, or EINVAL or ENOMEM with a text in replay->why; replay_deinit() is due whatever it gives. */
int replay_init(struct replay *replay, const struct trace_shape *shape, const struct replay_spec *spec);
/* A record of the trace that trace_check() has passed. 0, or EPROTO or ENOMEM with a text in replay->why. */
int replay_record(struct replay *replay, uint32_t type, const void *bytes);
void replay_deinit(struct replay *replay);

/* The group that a layer belongs to. */
const struct replay_group *replay_group_of(const struct replay *replay, uint32_t layer);
/* The head's place in replay->heads. */
uint32_t replay_head_index(const struct replay_group *group, uint32_t layer, uint32_t kv_head);
