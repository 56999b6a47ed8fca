/* policy.h - what decides which settled rows go: one class a policy, one file each under policy/.
 *
 * A policy sees one (layer, KV head) at a time, through its history: per slot the position, and whatever planes of
 * scores the policy asked for. It gives every settled slot a score; the lowest go first, a tie goes to the older
 * position. What it protects goes only when nothing else is left. It holds no state of its own. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "attach.h"

struct history;

struct policy_param_info {
    const char *name;       /* at most 11 characters */
    double min, max, value; /* bounds and default */
    const char *unit, *text;
    bool real; /* need not be a whole number */
};

struct policy {
    const struct policy_class *class;
    double param[PROTO_MAX_PARAMS]; /* in the order of the class's table */
    uint32_t fresh_rows;            /* F of the session */
    uint32_t budget_rows;           /* settled slots per head at most */
};

struct policy_class {
    const char *name, *text, *source;
    const struct policy_param_info *params; /* ends with a NULL name */
    /* Planes (PROTO_PLANE_*) that it must be sent. */
    uint32_t (*planes)(const struct policy *p);
    /* It weighs rows by |V|_1, which the daemon takes from the fresh buffer: history.norm exists. */
    bool norms;
    /* Threshold of hits: enum kernel_threshold. May be NULL: 1/n. */
    uint32_t (*threshold)(const struct policy *p);
    /* Blocks of one settle each that the history window spans; 0: no window kept. May be NULL: 0. */
    uint32_t (*window_blocks)(const struct policy *p);
    /* How many rows to drop when `needed` must go, for a head of `settled` slots: at least `needed`. May be NULL:
     * needed. */
    uint32_t (*drop)(const struct policy *p, uint32_t needed, uint32_t settled);
    /* ret_score[slot] for each settled slot; lowest goes first; finite. `next_position` is the position after the
     * newest row, fresh rows included. */
    void (*score)(const struct policy *p, const struct history *h, uint64_t next_position, float *ret_score);
    /* Which rows are protected: positions below *ret_sinks, and positions >= *ret_recent. `room` is how many settled
     * slots the head may have now: the budget without the fresh rows, or less where memory is short. Where it is asked
     * who keeps a detail (details.h), it is how many of those there are. */
    void (*protect)(const struct policy *p, uint32_t room, uint64_t next_position, uint64_t *ret_sinks,
                    uint64_t *ret_recent);
};

/* By name; NULL if there is none. */
const struct policy_class *policy_lookup(const char *name);
/* All classes, in order; NULL after the last. */
const struct policy_class *policy_class_at(size_t i);

/* Fills a policy from a group's wire form. 0, or EINVAL with a text for people in `why` (names the parameter, the
 * bounds and what was given). `default_name` is taken if group->policy is empty. */
int policy_init(struct policy *p, const char *default_name, const struct proto_group *group, uint32_t fresh_rows,
                char *why, size_t why_bytes);

/* How many of `rows` fresh rows, the newest, are settled into `room` slots: all of them, but where room is short as
 * many as leave the first rows that the policy protects where they are, and no fewer than fill half of the room.
 * `next_position` is the position after the newest of them. */
uint32_t policy_settle_count(const struct policy *p, const struct history *h, uint32_t room, uint64_t next_position,
                             uint32_t rows);

/* How many of a head's `settled` rows go, so that `rows` more fit into `room` slots: what the policy likes, but no less
 * than that. */
uint32_t policy_victim_count(const struct policy *p, uint32_t settled, uint32_t rows, uint32_t room);

/* Picks the victims of one head, which may have `room` settled slots: `count` settled slots, lowest score first among
 * the unprotected, then the recent protected ones from the oldest, the sinks at last. `scratch` holds
 * history_scratch_bytes(). Victims are written in ascending slot order. count <= settled slots. */
void policy_victims(const struct policy *p, const struct history *h, uint32_t room, uint64_t next_position,
                    uint32_t count, void *scratch, uint32_t *ret_slots);
/* The same among the slots for which `among` is true: those whose rows go, or lose what they have, first. */
void policy_lowest(const struct policy *p, const struct history *h, uint32_t room, uint64_t next_position,
                   const bool *among, uint32_t count, void *scratch, uint32_t *ret_slots);
