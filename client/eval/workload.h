/* workload.h - what eight sessions of unequal length read, and when: the same load for every way of sharing a pool.
 *
 * Session i reads (i + 1) eighths of a length. There are twelve rounds, and in each a session reads between none and
 * six sixteenths of its text, one turn at a time as in conversations. Sessions of two, five and eight eighths rest for
 * the middle six rounds and come back, that of four comes late, that of three is there every other round, that of six
 * begins with a long turn, and those of one and seven are there all the time. */
#pragma once

#include <stdint.h>

#define WORKLOAD_SESSIONS 8u
#define WORKLOAD_ROUNDS 12u

/* Tokens `from` to `to` - 1 of the session's text. */
struct workload_turn {
    uint32_t session, from, to;
};

struct workload {
    uint32_t tokens[WORKLOAD_SESSIONS]; /* of each text; the last one is only predicted */
    struct workload_turn turns[WORKLOAD_SESSIONS * WORKLOAD_ROUNDS];
    uint32_t turn_count;
};

/* `tokens` is the longest session's, at least WORKLOAD_LEAST_TOKENS. Turns without a token are left out. */
#define WORKLOAD_LEAST_TOKENS 64u
void workload_init(struct workload *workload, uint32_t tokens);
