/* pivotal.c - policy `pivotal`, this project's own: what a row adds to the output.
 *
 *     score = |V|_1 * sum of its probabilities / (query rows that could see it) ^ age
 *
 * over the slot's whole life: a query's output is the sum of p * V over the rows, so with age = 1, the mean of p times
 * the size of V is what the output loses, on the average, without the row. A greater power prefers the younger of two
 * rows of the same mean: attention fades with distance, so the mean of an old row tells more of its youth. Powers of
 * 1.2 to 1.5 are alike in scissor-eval. The newest rows, of which too little is known, and the first ones are
 * protected. A row that no query has judged (its scores were lost) counts as one that has all of the attention, as in
 * scissorhands.c: nothing speaks against it. */
#include <float.h>
#include <math.h>

#include "../history.h"
#include "classes.h"

#include "score.h"

enum { PIVOTAL_RECENT, PIVOTAL_SHARE, PIVOTAL_SINKS, PIVOTAL_AGE };

static uint32_t pivotal_planes(const struct policy *p) {
    (void)p;
    return PROTO_PLANE_MASS;
}

static void pivotal_score(const struct policy *p, const struct history *h, uint64_t next_position, float *ret_score) {
    (void)p, (void)next_position;
    for (uint32_t i = 0; i < h->settled; i++) {
        uint64_t seen = history_seen(h, i);
        double score = h->norm[i] * (seen ? h->mass[i] / pow((double)seen, p->param[PIVOTAL_AGE]) : 1.0);
        ret_score[i] = score < FLT_MAX ? (float)score : FLT_MAX; /* a client chooses its V and its scores */
    }
}

static void pivotal_protect(const struct policy *p, uint32_t room, uint64_t next_position, uint64_t *ret_sinks,
                            uint64_t *ret_recent) {
    uint32_t rows = (uint32_t)p->param[PIVOTAL_RECENT];
    uint32_t share = policy_share_of_budget(p, p->param[PIVOTAL_SHARE], room);
    *ret_sinks = (uint64_t)p->param[PIVOTAL_SINKS];
    *ret_recent = policy_first_of_last(rows < share ? rows : share, next_position);
}

static const struct policy_param_info pivotal_params[] = {
    [PIVOTAL_RECENT] = {"recent", 0, PROTO_MAX_ROWS, 256, "rows", "newest rows that are protected", false},
    [PIVOTAL_SHARE] = {"share", 0, 1, 0.3, "of the budget", "but no more than this part of the budget", true},
    [PIVOTAL_SINKS] = {"sinks", 0, PROTO_MAX_ROWS, 4, "rows", "first rows that are kept for good", false},
    [PIVOTAL_AGE] = {"age", 0, 4, 1.35, "power", "of the query rows that could see a row, by which its sum is divided",
                     true},
    {0},
};

const struct policy_class policy_pivotal = {
    .name = "pivotal",
    .text = "keeps the rows that add most to the output: probability times |V|, faded by age",
    .source = "this project",
    .params = pivotal_params,
    .planes = pivotal_planes,
    .norms = true,
    .score = pivotal_score,
    .protect = pivotal_protect,
};
