/* window.c - policy `window`: keeps the newest rows, whatever their scores; needs no plane. */
#include "classes.h"

static uint32_t window_planes(const struct policy *p) {
    (void)p;
    return 0;
}

static void window_protect(const struct policy *p, uint32_t room, uint64_t next_position, uint64_t *ret_sinks,
                           uint64_t *ret_recent) {
    (void)p, (void)room;
    *ret_sinks = 0;
    *ret_recent = next_position;
}

static const struct policy_param_info window_params[] = {{0}};

const struct policy_class policy_window = {
    .name = "window",
    .text = "keeps the newest rows",
    .source = "sliding-window attention",
    .params = window_params,
    .planes = window_planes,
    .score = policy_score_position,
    .protect = window_protect,
};
