/* classes.h - the policies, one file each, and what several of them share. */
#pragma once

#include "../policy.h"

extern const struct policy_class policy_scissorhands, policy_pivotal, policy_h2o, policy_tova, policy_streaming,
    policy_window, policy_random;

/* Score of the policies that keep the newest: the slot's position. Above 2^24 neighbours round to the same float;
 * ties go by position, so the order stays right. */
void policy_score_position(const struct policy *p, const struct history *h, uint64_t next_position, float *ret_score);

/* Position of the first of the last `rows` rows. */
uint64_t policy_first_of_last(uint64_t rows, uint64_t next_position);
/* A share of the budget, in rows: of what a head may have now, fresh rows included; rounded down. */
uint32_t policy_share_of_budget(const struct policy *p, double share, uint32_t room);
