/* placement.h - which row goes into which slot when rows settle or go.
 *
 * A pure function of counts and victims: it knows neither history nor pages, so that history, kernels and tests can
 * be driven from the same plan. The rule is part of what a client may observe (positions per slot):
 *
 *     victims (ascending)     2  5  6  9            settled = 10, fresh rows a b
 *     fresh rows, in order    a  b                  into the first holes; rows without a hole append at the end
 *     holes left, ascending         6  9            9 is the end: dropped; 6 takes the last row, slot 8
 *     new count               8 */
#pragma once

#include <stdint.h>

#include "backend.h"

/* Plans one head's settle (fresh_count 0: a shrink).
 *
 * `victims` are victim_count distinct slots below `settled`, ascending. Fresh rows fresh_first .. fresh_first +
 * fresh_count - 1 go to the victims' slots in order, then to settled, settled + 1, ...; ret_settle gets fresh_count
 * moves (fresh row -> slot). Holes that are left take rows from the end; ret_tail gets *ret_tail_count moves (slot ->
 * slot), at most victim_count - fresh_count of them, to be executed in order, after those of ret_settle. Tail moves
 * read no slot that another move of the plan writes. ret_tail may be NULL if fresh_count >= victim_count.
 *
 * Returns the settled count afterwards; slots from there on are free. */
uint32_t placement_plan(uint32_t settled, uint32_t fresh_first, uint32_t fresh_count, const uint32_t *victims,
                        uint32_t victim_count, struct kernel_move *ret_settle, struct kernel_move *ret_tail,
                        uint32_t *ret_tail_count);
