/* details.c - see details.h. */
#include "details.h"

#include <assert.h>
#include <string.h>

#include "alloc.h"
#include "scissor_error.h"

int details_scratch_init(struct details_scratch *scratch, uint32_t slots) {
    size_t details = (size_t)layout_pages_of_rows(slots) * LAYOUT_PAGE_DETAILS;
    *scratch = (struct details_scratch){
        .among = scissor_malloc(slots * sizeof *scratch->among),
        .lowest = scissor_malloc(slots * sizeof *scratch->lowest),
        .before = scissor_malloc(details * sizeof *scratch->before),
        .after = scissor_malloc(details * sizeof *scratch->after),
        .moves = scissor_malloc(details * sizeof *scratch->moves),
        .owners = scissor_malloc(details * sizeof *scratch->owners),
    };
    return scratch->among && scratch->lowest && scratch->before && scratch->after && scratch->moves && scratch->owners
               ? 0
               : SCISSOR_ENOMEM;
}

void details_scratch_deinit(struct details_scratch *scratch) {
    scissor_free(scratch->among);
    scissor_free(scratch->lowest);
    scissor_free(scratch->before);
    scissor_free(scratch->after);
    scissor_free(scratch->moves);
    scissor_free(scratch->owners);
    *scratch = (struct details_scratch){0};
}

/* Which slot has which detail slot. */
static void owners_of(const struct history *h, uint32_t pages, uint32_t *ret) {
    for (uint32_t i = 0; i < pages * LAYOUT_PAGE_DETAILS; i++)
        ret[i] = KERNEL_NONE;
    for (uint32_t slot = 0; slot < h->settled; slot++)
        if (h->detail[slot] != KERNEL_NONE)
            ret[h->detail[slot]] = slot;
}

/* Rows that have one; marked in `among`. */
static uint32_t mark_owners(const struct history *h, bool *among) {
    uint32_t count = 0;
    for (uint32_t slot = 0; slot < h->settled; slot++)
        count += among[slot] = h->detail[slot] != KERNEL_NONE;
    return count;
}

void details_plan(const struct policy *p, const struct history *h, uint64_t next_position, uint32_t pages,
                  const uint32_t *victims, uint32_t victim_count, uint32_t move_count, struct details_scratch *scratch,
                  void *policy_scratch, uint32_t *ret_details) {
    uint32_t all = pages * LAYOUT_PAGE_DETAILS, wanted = move_count < all ? move_count : all;
    uint32_t used = mark_owners(h, scratch->among), *taken = scratch->after;

    owners_of(h, pages, taken);
    for (uint32_t i = 0; i < victim_count; i++) {
        used -= scratch->among[victims[i]];
        scratch->among[victims[i]] = false;
        if (h->detail[victims[i]] != KERNEL_NONE)
            taken[h->detail[victims[i]]] = KERNEL_NONE;
    }
    uint32_t lost = wanted > all - used ? wanted - (all - used) : 0;
    policy_lowest(p, h, all, next_position, scratch->among, lost, policy_scratch, scratch->lowest);
    for (uint32_t i = 0; i < lost; i++)
        taken[h->detail[scratch->lowest[i]]] = KERNEL_NONE;
    for (uint32_t i = 0; i < move_count - wanted; i++)
        ret_details[i] = KERNEL_NONE;
    for (uint32_t i = move_count - wanted, next = 0; i < move_count; i++, next++) {
        while (taken[next] != KERNEL_NONE)
            next++;
        ret_details[i] = next;
    }
}

/* No slot: what stands there in memory is not known. */
#define UNKNOWN (KERNEL_NONE - 1)

void details_begin(const struct history *h, uint32_t known_pages, uint32_t pages, struct details_scratch *scratch) {
    owners_of(h, pages, scratch->before);
    for (uint32_t i = known_pages * LAYOUT_PAGE_DETAILS; i < pages * LAYOUT_PAGE_DETAILS; i++)
        scratch->before[i] = UNKNOWN;
    scratch->move_count = scratch->owner_count = 0;
}

void details_take(struct history *h, const struct details_scratch *scratch, uint32_t detail) {
    uint32_t owner = scratch->before[detail];
    if (owner < UNKNOWN && h->detail[owner] == detail)
        h->detail[owner] = KERNEL_NONE;
}

void details_wrote(struct details_scratch *scratch, uint32_t detail, uint32_t slot) {
    scratch->before[detail] = slot;
}

void details_end(const struct history *h, uint32_t pages, struct details_scratch *scratch) {
    owners_of(h, pages, scratch->after);
    for (uint32_t i = 0; i < pages * LAYOUT_PAGE_DETAILS; i++)
        if (scratch->after[i] != scratch->before[i])
            scratch->owners[scratch->owner_count++] = (struct kernel_move){i, scratch->after[i]};
}

void details_shrink(const struct policy *p, struct history *h, uint64_t next_position, uint32_t pages,
                    uint32_t pages_after, struct details_scratch *scratch, void *policy_scratch) {
    uint32_t left = pages_after * LAYOUT_PAGE_DETAILS, used = mark_owners(h, scratch->among);
    uint32_t lost = used > left ? used - left : 0, next = 0;

    policy_lowest(p, h, left, next_position, scratch->among, lost, policy_scratch, scratch->lowest);
    for (uint32_t i = 0; i < lost; i++)
        h->detail[scratch->lowest[i]] = KERNEL_NONE;
    owners_of(h, pages, scratch->after);
    for (uint32_t slot = 0; slot < h->settled; slot++) {
        uint32_t from = h->detail[slot];
        if (from == KERNEL_NONE || from < left)
            continue;
        while (scratch->after[next] != KERNEL_NONE)
            next++;
        assert(next < left);
        scratch->moves[scratch->move_count++] = (struct kernel_move){from, next};
        scratch->before[next] = scratch->before[from];
        h->detail[slot] = next++;
    }
    details_end(h, pages, scratch);
}
