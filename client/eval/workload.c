/* workload.c - see workload.h. */
#include "workload.h"

#define WORKLOAD_PARTS 16u /* of a text, over all rounds */

static const uint8_t workload_parts[WORKLOAD_SESSIONS][WORKLOAD_ROUNDS] = {
    {1, 1, 2, 1, 1, 2, 1, 1, 2, 1, 1, 2}, /* one eighth of the tokens, all the time */
    {4, 3, 2, 0, 0, 0, 0, 0, 0, 3, 2, 2}, /* two, with a rest */
    {0, 2, 0, 3, 0, 2, 0, 3, 0, 3, 0, 3}, /* every other round */
    {0, 0, 0, 1, 3, 1, 2, 1, 3, 1, 2, 2}, /* late */
    {3, 3, 2, 0, 0, 0, 0, 0, 0, 2, 3, 3}, /* five, with a rest */
    {6, 1, 1, 1, 1, 1, 1, 0, 1, 1, 1, 1}, /* a long first turn, then short ones */
    {1, 2, 1, 2, 1, 2, 1, 2, 1, 1, 1, 1}, /* all the time */
    {2, 3, 3, 0, 0, 0, 0, 0, 0, 3, 3, 2}, /* the longest, with a rest */
};

/* The last token of a text is only predicted. */
static void workload_add(struct workload *workload, uint32_t session, uint32_t before, uint32_t parts) {
    uint64_t tokens = workload->tokens[session] - 1;
    struct workload_turn turn = {session, (uint32_t)(tokens * before / WORKLOAD_PARTS),
                                 (uint32_t)(tokens * (before + parts) / WORKLOAD_PARTS)};
    if (turn.to > turn.from)
        workload->turns[workload->turn_count++] = turn;
}

void workload_init(struct workload *workload, uint32_t tokens) {
    uint32_t read[WORKLOAD_SESSIONS] = {0};
    *workload = (struct workload){0};
    for (uint32_t i = 0; i < WORKLOAD_SESSIONS; i++)
        workload->tokens[i] = (uint32_t)((uint64_t)tokens * (i + 1) / WORKLOAD_SESSIONS);
    for (uint32_t round = 0; round < WORKLOAD_ROUNDS; round++)
        for (uint32_t i = 0; i < WORKLOAD_SESSIONS; i++) {
            workload_add(workload, i, read[i], workload_parts[i][round]);
            read[i] += workload_parts[i][round];
        }
}
