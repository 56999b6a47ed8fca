/* random.c - policy `random`: any of the rows but the first few, what a clever policy has to beat; needs no plane.
 *
 * A lot is a hash of the seed, the head, the row's position and when lots are drawn: it depends neither on the order of
 * the slots nor on what was drawn before, so a run can be repeated, and each draw gives all rows the same chance. (One
 * lot for a row's whole life would not: the rows that have survived hold good ones, and the new ones would go.) */
#include "../history.h"
#include "classes.h"

enum { RANDOM_SEED, RANDOM_SINKS };

static uint32_t random_planes(const struct policy *p) {
    (void)p;
    return 0;
}

/* The last steps of SplitMix64, with which close numbers become unlike ones. */
static uint64_t mix(uint64_t z) {
    z += 0x9e3779b97f4a7c15ull;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
}

static void random_score(const struct policy *p, const struct history *h, uint64_t next_position, float *ret_score) {
    uint64_t draw = mix(mix(mix((uint64_t)p->param[RANDOM_SEED]) + h->head) + next_position);
    for (uint32_t i = 0; i < h->settled; i++)
        ret_score[i] = (float)(mix(draw + h->position[i]) >> 40); /* as many bits as a float tells apart */
}

static void random_protect(const struct policy *p, uint32_t room, uint64_t next_position, uint64_t *ret_sinks,
                           uint64_t *ret_recent) {
    (void)room;
    *ret_sinks = (uint64_t)p->param[RANDOM_SINKS];
    *ret_recent = next_position;
}

static const struct policy_param_info random_params[] = {
    [RANDOM_SEED] = {"seed", 0, UINT32_MAX, 0, "number", "another seed draws other lots", false},
    [RANDOM_SINKS] = {"sinks", 0, PROTO_MAX_ROWS, 4, "rows", "first rows that are kept for good", false},
    {0},
};

const struct policy_class policy_random = {
    .name = "random",
    .text = "keeps the first rows and any others",
    .source = "a baseline",
    .params = random_params,
    .planes = random_planes,
    .score = random_score,
    .protect = random_protect,
};
