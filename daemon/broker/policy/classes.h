/* classes.h - the policies, one file each, and what several of them share. */
#pragma once

#include "../policy.h"

extern const struct policy_class policy_scissorhands, policy_streaming, policy_window;

/* Score of the policies that keep the newest: the slot's position. Above 2^24 neighbours round to the same float;
 * ties go by position, so the order stays right. */
void policy_score_position(const struct policy *p, const struct history *h, uint64_t next_position, float *ret_score);
