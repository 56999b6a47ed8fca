/* naive.h - the whole of slots, scores and policies once more, as plainly as it can be written, to test the real one.
 *
 * A model of one layer group of one session. Every slot is a row object that knows its position, when it came, and
 * every score that it ever got, frame by frame. Each decision is worked out anew from that log: no ring, no running
 * sums, no keys. It shares nothing with the daemon but the wire structs; it uses the C library's heap, so that a test
 * that fails the daemon's allocations does not fail the model. One thread. Aborts when out of memory. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "attach.h"

struct naive;

/* Layers, KV heads, policy and its parameters are taken from the group; they must be valid, and the policy named. */
struct naive *naive_new(const struct proto_group *group, uint32_t fresh_rows);
struct naive *naive_free(struct naive *n);

/* What a frame has for one head: settled + fresh values per plane, in slot order; a NULL plane was not sent. */
struct naive_planes {
    const float *mass, *hits, *last;
};

/* A frame of one layer arrived: `rows` query rows, the newest of `fresh`. heads[kv_heads]. False, and nothing changed,
 * if the layer would have more than F rows in this period. A lost frame is one that is not folded. */
bool naive_fold(struct naive *n, uint32_t layer, uint32_t rows, uint32_t fresh, const struct naive_planes *heads);

/* What the next settle finds |V|_1 of a fresh row to be; until it is told, 0. */
void naive_set_norm(struct naive *n, uint32_t layer, uint32_t head, uint32_t fresh, float norm);

/* Settles f fresh rows in all heads, with room for `cap` rows per head; returns the rows evicted, over all heads.
 * Fresh rows that never got a slot (f > cap) count as evicted. */
uint64_t naive_settle(struct naive *n, uint32_t f, uint32_t cap);

/* Evicts down to `target` rows in every head that has more; returns the rows evicted. */
uint64_t naive_shrink(struct naive *n, uint32_t target);

uint64_t naive_tokens(const struct naive *n);
uint32_t naive_settled(const struct naive *n, uint32_t layer, uint32_t head);
uint32_t naive_position(const struct naive *n, uint32_t layer, uint32_t head, uint32_t slot);

/* What is known of one slot, added up from its log. */
struct naive_sums {
    double mass; /* over its life */
    double hits; /* within the window (over its life if the policy has none) */
    double last; /* of the newest frame folded */
    float norm;
    uint64_t seen, seen_window; /* query rows that could see it */
};
struct naive_sums naive_sums(const struct naive *n, uint32_t layer, uint32_t head, uint32_t slot);
/* How many rows of a head can be detailed from now on, and whether the row in a slot is. */
void naive_set_details(struct naive *n, uint32_t rows);
bool naive_detailed(const struct naive *n, uint32_t layer, uint32_t head, uint32_t slot);
