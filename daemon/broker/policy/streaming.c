/* streaming.c - policy `streaming`: the first rows, which attention uses as sinks, and the newest; needs no plane. */
#include "classes.h"

enum { STREAMING_SINKS };

static uint32_t streaming_planes(const struct policy *p) {
    (void)p;
    return 0;
}

static void streaming_protect(const struct policy *p, uint32_t room, uint64_t next_position, uint64_t *ret_sinks,
                              uint64_t *ret_recent) {
    (void)room;
    *ret_sinks = (uint64_t)p->param[STREAMING_SINKS];
    *ret_recent = next_position;
}

static const struct policy_param_info streaming_params[] = {
    [STREAMING_SINKS] = {"sinks", 0, PROTO_MAX_ROWS, 4, "rows", "first rows that are kept for good", false},
    {0},
};

const struct policy_class policy_streaming = {
    .name = "streaming",
    .text = "keeps the first rows (attention sinks) and the newest",
    .source = "StreamingLLM",
    .params = streaming_params,
    .planes = streaming_planes,
    .score = policy_score_position,
    .protect = streaming_protect,
};
