/* h2o.c - policy `h2o` (Heavy-Hitter Oracle): the probabilities that a row has gathered over its life, never divided by
 * the number of rows that could see it; a share of the budget is the newest rows. */
#include <string.h>

#include "../history.h"
#include "classes.h"

#include "score.h"

enum { H2O_SHARE };

static uint32_t h2o_planes(const struct policy *p) {
    (void)p;
    return PROTO_PLANE_MASS;
}

static void h2o_score(const struct policy *p, const struct history *h, uint64_t next_position, float *ret_score) {
    (void)p, (void)next_position;
    if (h->settled)
        memcpy(ret_score, h->mass, h->settled * sizeof *ret_score);
}

static void h2o_protect(const struct policy *p, uint32_t room, uint64_t next_position, uint64_t *ret_sinks,
                        uint64_t *ret_recent) {
    *ret_sinks = 0;
    *ret_recent = policy_first_of_last(policy_share_of_budget(p, p->param[H2O_SHARE], room), next_position);
}

static const struct policy_param_info h2o_params[] = {
    [H2O_SHARE] = {"share", 0, 1, 0.5, "of the budget", "part of the budget that the newest rows have", true},
    {0},
};

const struct policy_class policy_h2o = {
    .name = "h2o",
    .text = "keeps the rows that have gathered the most attention, and the newest",
    .source = "Heavy-Hitter Oracle, Zhang et al., NeurIPS 2023, arXiv 2306.14048",
    .params = h2o_params,
    .planes = h2o_planes,
    .score = h2o_score,
    .protect = h2o_protect,
};
