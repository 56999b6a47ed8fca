/* details.h - which rows of a head have detail slots, where the storage dtype has them (layout.h): those that the
 * policy would evict last if the detail slots were its budget. So a policy that protects a share of its budget for the
 * newest rows protects that share of the detail slots, and those that have shown to matter keep the others. With as
 * many as it protects from eviction, the newest rows would have all detail slots of a short session. The rows of a
 * settle get theirs first, whatever the share, as details that are not stored then cannot be had later.
 *
 * A row has its detail slot from when it settles until the policy ranks it below others that have one: then the slot is
 * given away, and of the row's codes the high bits are left. The history says which row has which detail slot
 * (history.detail). In memory a detail slot names its owner; what has to be written there so that it does is worked out
 * from the histories before and after. No state of its own; runs in the session's jobs. */
#pragma once

#include "backend.h"
#include "history.h"
#include "policy.h"

/* Room for the work on one head of up to `slots` slots, a page's for each of its details. */
struct details_scratch {
    bool *among;                        /* [slots] */
    uint32_t *lowest;                   /* [slots] */
    uint32_t *before, *after;           /* [details] their owners; KERNEL_NONE */
    struct kernel_move *moves, *owners; /* [details] for the backend; see kernel_shrink */
    uint32_t move_count, owner_count;
};

int details_scratch_init(struct details_scratch *scratch, uint32_t slots); /* 0 or ENOMEM */
void details_scratch_deinit(struct details_scratch *scratch);

/* Which detail slots, of `pages` pages, the rows of a settle get: ret_details[move_count], KERNEL_NONE for the oldest
 * where there are fewer detail slots than rows. They are free ones, those of the victims, and those of the rows with
 * the lowest scores. Changes nothing. `policy_scratch` is what policy_lowest() asks for. */
void details_plan(const struct policy *p, const struct history *h, uint64_t next_position, uint32_t pages,
                  const uint32_t *victims, uint32_t victim_count, uint32_t move_count, struct details_scratch *scratch,
                  void *policy_scratch, uint32_t *ret_details);

/* In this order around a settle's changes of the history: details_begin(); each row's old owner forgets a detail slot
 * that is given to another (details_take()), history.detail of the settled rows is set; details_end() then leaves in
 * scratch->owners what the backend has to write beside what it has written with the rows. `known_pages` are those whose
 * owners in memory are as the history said. */
void details_begin(const struct history *h, uint32_t known_pages, uint32_t pages, struct details_scratch *scratch);
void details_take(struct history *h, const struct details_scratch *scratch, uint32_t detail);
/* The backend has written that `detail` is of `slot`. */
void details_wrote(struct details_scratch *scratch, uint32_t detail, uint32_t slot);
void details_end(const struct history *h, uint32_t pages, struct details_scratch *scratch);

/* Rows that are left after a shrink keep the detail slots of `pages_after` pages, of `pages`: the lowest-ranked rows
 * beyond lose theirs, others' details move, and no detail slot of the other pages has an owner any more. Call it when
 * the history is as it will be, after details_begin() before it was changed; ends as details_end() does, with
 * scratch->moves as well. */
void details_shrink(const struct policy *p, struct history *h, uint64_t next_position, uint32_t pages,
                    uint32_t pages_after, struct details_scratch *scratch, void *policy_scratch);
