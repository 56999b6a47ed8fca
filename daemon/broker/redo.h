/* redo.h - the list of what is to be done until a session's memory is as its snapshot says.
 *
 * Records of 16 bytes, each followed by its entries of 8:
 *
 *     ROWS       head, fresh rows -> slots, then slots -> slots, as placement.h plans them
 *     DETAILED   the same of a storage dtype with details; then comes the detail slot of each fresh row, two an entry
 *     DETAILS    head, detail slots -> detail slots, then detail slots -> slots of their owners, as in kernel_shrink
 *     PAGES      group, page words of one segment -> page words of others: copies
 *     SEGMENT    a segment that the copies empty, not in the snapshot any more: id, group, number of its name
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "backend.h"

struct session;
struct session_group;

enum redo_kind {
    REDO_ROWS = 1,
    REDO_PAGES = 2,
    REDO_SEGMENT = 3,
    REDO_DETAILED = 4,
    REDO_DETAILS = 5,
};

struct redo_record {
    uint32_t kind;
    uint32_t of;          /* head; group; id */
    uint32_t count, tail; /* entries of the first and of the second kind. SEGMENT: its group, and 0 */
};

/* Room that a list can take, without settled segments and with each of a group's. */
size_t redo_base_bytes(const struct session *s);
size_t redo_segment_bytes(const struct session_group *g);

/* At the end of the list that keep_begin() has begun. `details` are those of the moves, or NULL. */
void redo_add_rows(struct session *s, uint32_t head, const struct kernel_move *moves, const uint32_t *details,
                   uint32_t move_count, const struct kernel_move *tail, uint32_t tail_count);
void redo_add_details(struct session *s, uint32_t head, const struct kernel_move *moves, uint32_t move_count,
                      const struct kernel_move *owners, uint32_t owner_count);
/* Pages of one segment, to others. */
void redo_add_pages(struct session *s, uint32_t group, const struct kernel_move *moves, uint32_t count);
void redo_add_segment(struct session *s, uint32_t id);

/* Checks every record against the session: 0 or EINVAL. Segments of SEGMENT records are put into its table, without
 * memory and as QUARANTINED. */
int redo_check(struct session *s, const void *list, size_t bytes);
/* Carries out a checked list; `items` are for so many heads at once. 0 or ESYSTEM. */
int redo_run(struct session *s, const void *list, size_t bytes, struct kernel_settle *items, uint32_t item_count);
