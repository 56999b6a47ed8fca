/* tova.c - policy `tova`: the row with the smallest probability under the newest query goes; nothing is protected.
 *
 * A row that no query has judged (its scores were lost) counts as 1, as in scissorhands.c. */
#include "../history.h"
#include "classes.h"

#include "score.h"

static uint32_t tova_planes(const struct policy *p) {
    (void)p;
    return PROTO_PLANE_LAST;
}

static void tova_score(const struct policy *p, const struct history *h, uint64_t next_position, float *ret_score) {
    (void)p, (void)next_position;
    for (uint32_t i = 0; i < h->settled; i++)
        ret_score[i] = history_seen(h, i) ? h->last[i] : 1;
}

static void tova_protect(const struct policy *p, uint32_t room, uint64_t next_position, uint64_t *ret_sinks,
                         uint64_t *ret_recent) {
    (void)p, (void)room;
    *ret_sinks = 0;
    *ret_recent = next_position;
}

static const struct policy_param_info tova_params[] = {{0}};

const struct policy_class policy_tova = {
    .name = "tova",
    .text = "keeps the rows that the newest query attends to",
    .source = "TOVA, Oren et al., 2024, arXiv 2401.06104",
    .params = tova_params,
    .planes = tova_planes,
    .score = tova_score,
    .protect = tova_protect,
};
