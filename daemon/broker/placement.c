/* placement.c - see placement.h; no state, no allocation, any thread. */
#include "placement.h"

#include <assert.h>

uint32_t placement_plan(uint32_t settled, uint32_t fresh_first, uint32_t fresh_count, const uint32_t *victims,
                        uint32_t victim_count, struct kernel_move *ret_settle, struct kernel_move *ret_tail,
                        uint32_t *ret_tail_count) {
    uint32_t count = settled;
    uint32_t tail_count = 0;

    assert(victim_count <= settled);
    for (uint32_t i = 0; i < fresh_count; i++)
        ret_settle[i] = (struct kernel_move){fresh_first + i, i < victim_count ? victims[i] : count++};

    /* Holes left are victims[hole .. end). One that is the last slot just falls off; any other takes the last row,
     * which lies above every hole filled so far and so is neither a hole nor a row that came with this plan. */
    uint32_t hole = fresh_count;
    uint32_t end = victim_count;
    while (hole < end) {
        count--;
        if (victims[end - 1] == count)
            end--;
        else
            ret_tail[tail_count++] = (struct kernel_move){count, victims[hole++]};
    }
    *ret_tail_count = tail_count;
    return count;
}
