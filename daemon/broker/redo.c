/* redo.c - see redo.h. What a list says is checked when it comes from a process before; then it is just done. */
#include "redo.h"

#include <assert.h>
#include <string.h>

#include "keep.h"
#include "scissor_error.h"
#include "session.h"

size_t redo_base_bytes(const struct session *s) {
    size_t record = sizeof(struct redo_record), row = sizeof(struct kernel_move), head = record;
    if (layout_has_details(s->storage_dtype)) {
        row += sizeof(uint32_t);
        head += record + sizeof(uint32_t); /* where the detail slots fill half of an entry */
    }
    return s->head_count * (head + s->fresh_rows * row) + s->group_count * record;
}

/* Rows from the end fill holes below it, so at most every second slot is moved. */
size_t redo_segment_bytes(const struct session_group *g) {
    size_t page = SCISSOR_PAGE_ROWS / 2 * sizeof(struct kernel_move) + sizeof(struct redo_record) + 8;
    if (g->extras & HISTORY_DETAILS)
        page += (size_t)2 * LAYOUT_PAGE_DETAILS * sizeof(struct kernel_move);
    return g->pages_per_segment * page + sizeof(struct redo_record) + sizeof(uint64_t);
}

/* ---------- writing ---------- */

static void append(struct session *s, const void *from, size_t bytes) {
    struct keep *keep = s->keep;
    struct keep_file *file = &keep->file[!keep->active];
    assert(bytes <= file->bytes - keep->redo_at - keep->redo_used);
    if (bytes)
        memcpy(file->memory + keep->redo_at + keep->redo_used, from, bytes);
    keep->redo_used += bytes;
}

void redo_add_rows(struct session *s, uint32_t head, const struct kernel_move *moves, const uint32_t *details,
                   uint32_t move_count, const struct kernel_move *tail, uint32_t tail_count) {
    struct redo_record record = {details ? REDO_DETAILED : REDO_ROWS, head, move_count, tail_count};
    const uint32_t none = KERNEL_NONE;
    append(s, &record, sizeof record);
    append(s, moves, move_count * sizeof *moves);
    append(s, tail, tail_count * sizeof *tail);
    if (details)
        append(s, details, move_count * sizeof *details);
    if (details && move_count % 2)
        append(s, &none, sizeof none);
}

void redo_add_details(struct session *s, uint32_t head, const struct kernel_move *moves, uint32_t move_count,
                      const struct kernel_move *owners, uint32_t owner_count) {
    struct redo_record record = {REDO_DETAILS, head, move_count, owner_count};
    if (move_count + owner_count == 0)
        return;
    append(s, &record, sizeof record);
    append(s, moves, move_count * sizeof *moves);
    append(s, owners, owner_count * sizeof *owners);
}

void redo_add_pages(struct session *s, uint32_t group, const struct kernel_move *moves, uint32_t count) {
    struct redo_record record = {REDO_PAGES, group, count, 0};
    if (count == 0)
        return;
    append(s, &record, sizeof record);
    append(s, moves, count * sizeof *moves);
}

void redo_add_segment(struct session *s, uint32_t id) {
    struct redo_record record = {REDO_SEGMENT, id, s->segments[id].group, 0};
    append(s, &record, sizeof record);
    append(s, &s->segments[id].kept, sizeof s->segments[id].kept);
}

/* ---------- walking ---------- */

struct list {
    const char *at;
    size_t left;
};

/* The next record and its entries; false at the end or where the list is cut. */
static bool next_record(struct list *list, struct redo_record *ret, const struct kernel_move **ret_entries) {
    if (list->left < sizeof *ret)
        return false;
    memcpy(ret, list->at, sizeof *ret);
    uint64_t entries = ret->kind == REDO_SEGMENT ? 1 : (uint64_t)ret->count + ret->tail;
    if (ret->kind == REDO_DETAILED)
        entries += ((uint64_t)ret->count + 1) / 2;
    if (entries * sizeof(struct kernel_move) > list->left - sizeof *ret)
        return false;
    *ret_entries = (const struct kernel_move *)(list->at + sizeof *ret);
    list->at += sizeof *ret + entries * sizeof(struct kernel_move);
    list->left -= sizeof *ret + entries * sizeof(struct kernel_move);
    return true;
}

static const struct session_group *group_of_head(const struct session *s, uint32_t head) {
    const struct session_group *g = s->groups;
    while (head - g->first_head >= g->heads)
        g++;
    return g;
}

/* Those of a DETAILED record's fresh rows. */
static const uint32_t *details_of(const struct redo_record *record, const struct kernel_move *entries) {
    return (const uint32_t *)(entries + record->count + record->tail);
}

/* ---------- checking ---------- */

static bool rows_valid(const struct session *s, const struct redo_record *record, const struct kernel_move *moves) {
    if (record->of >= s->head_count)
        return false;
    uint32_t slots = s->heads[record->of].pages * SCISSOR_PAGE_ROWS;
    for (uint32_t i = 0; i < record->count; i++)
        if (moves[i].from >= s->fresh_rows || moves[i].to >= slots)
            return false;
    for (uint32_t i = record->count; i < record->count + record->tail; i++)
        if (moves[i].from >= slots || moves[i].to >= slots)
            return false;
    return true;
}

static bool detailed_rows_valid(const struct session *s, const struct redo_record *record,
                                const struct kernel_move *moves) {
    if (!layout_has_details(s->storage_dtype) || !rows_valid(s, record, moves))
        return false;
    const uint32_t *details = details_of(record, moves);
    for (uint32_t i = 0; i < record->count; i++)
        if (details[i] != KERNEL_NONE && details[i] >= s->heads[record->of].pages * LAYOUT_PAGE_DETAILS)
            return false;
    return true;
}

static bool details_valid(const struct session *s, const struct redo_record *record, const struct kernel_move *moves) {
    if (!layout_has_details(s->storage_dtype) || record->of >= s->head_count)
        return false;
    uint32_t pages = s->heads[record->of].pages, details = pages * LAYOUT_PAGE_DETAILS;
    const struct kernel_move *owners = moves + record->count;
    for (uint32_t i = 0; i < record->count; i++)
        if (moves[i].from >= details || moves[i].to >= details)
            return false;
    for (uint32_t i = 0; i < record->tail; i++)
        if (owners[i].from >= details || (owners[i].to != KERNEL_NONE && owners[i].to >= pages * SCISSOR_PAGE_ROWS))
            return false;
    return true;
}

static bool page_valid(const struct session *s, uint32_t group, uint32_t page) {
    uint32_t id = PROTO_PAGE_SEGMENT(page);
    return id >= s->fresh_segments && id < s->segment_capacity && s->segments[id].kept &&
           s->segments[id].group == group && PROTO_PAGE_INDEX(page) < s->groups[group].pages_per_segment;
}

/* The copies of a record are done in any order, so none may write where one reads. */
static bool pages_valid(const struct session *s, const struct redo_record *record, const struct kernel_move *moves) {
    if (record->of >= s->group_count || record->tail)
        return false;
    for (uint32_t i = 0; i < record->count; i++)
        if (!page_valid(s, record->of, moves[i].from) || !page_valid(s, record->of, moves[i].to) ||
            PROTO_PAGE_SEGMENT(moves[i].from) != PROTO_PAGE_SEGMENT(moves[0].from) ||
            PROTO_PAGE_SEGMENT(moves[i].to) == PROTO_PAGE_SEGMENT(moves[0].from))
            return false;
    return true;
}

/* The emptied segment comes back for as long as something is to be copied out of it. */
static int segment_restore(struct session *s, const struct redo_record *record, const void *entry) {
    uint64_t number;
    memcpy(&number, entry, sizeof number);
    /* It may lie far beyond those that are left: the emptied ones are those with the highest ids. */
    if (record->of < s->fresh_segments || record->of >= session_id_limit(s) || record->count >= s->group_count ||
        !number)
        return SCISSOR_EINVAL;
    if (session_segment_reserve(s, record->of) < 0)
        return SCISSOR_ENOMEM;
    if (s->segments[record->of].kept)
        return SCISSOR_EINVAL;
    s->segments[record->of] =
        (struct session_segment){.group = record->count, .state = SEGMENT_QUARANTINED, .kept = number};
    return 0;
}

int redo_check(struct session *s, const void *bytes, size_t size) {
    struct redo_record record;
    const struct kernel_move *entries;
    struct list list = {bytes, size};
    int code = 0;
    while (code == 0 && next_record(&list, &record, &entries))
        if (record.kind == REDO_SEGMENT)
            code = segment_restore(s, &record, entries);
    if (code < 0 || list.left)
        return code < 0 ? code : SCISSOR_EINVAL;
    list = (struct list){bytes, size};
    while (next_record(&list, &record, &entries))
        if (!(record.kind == REDO_ROWS       ? rows_valid(s, &record, entries)
              : record.kind == REDO_DETAILED ? detailed_rows_valid(s, &record, entries)
              : record.kind == REDO_DETAILS  ? details_valid(s, &record, entries)
              : record.kind == REDO_PAGES    ? pages_valid(s, &record, entries)
                                             : record.kind == REDO_SEGMENT))
            return SCISSOR_EINVAL;
    return 0;
}

/* ---------- doing ---------- */

static int settle_items(struct session *s, const struct kernel_settle *items, uint32_t count) {
    struct kernel_backend *device = s->pool->config.backend;
    return count == 0 || device->settle(device, items, count) >= 0 ? 0 : SCISSOR_ESYSTEM;
}

static struct kernel_settle settle_item(const struct session *s, const struct redo_record *record,
                                        const struct kernel_move *moves) {
    const struct session_head *head = &s->heads[record->of];
    return (struct kernel_settle){.fresh = head->fresh,
                                  .pages = head->address,
                                  .moves = moves,
                                  .details = record->kind == REDO_DETAILED ? details_of(record, moves) : NULL,
                                  .move_count = record->count,
                                  .fresh_rows = s->fresh_rows,
                                  .head_dim = group_of_head(s, record->of)->head_dim,
                                  .compute_dtype = (uint8_t)s->compute_dtype,
                                  .storage_dtype = (uint8_t)s->storage_dtype};
}

/* The fresh rows of all heads, many heads at a time. */
static int run_fresh(struct session *s, struct list list, struct kernel_settle *items, uint32_t item_count) {
    struct redo_record record;
    const struct kernel_move *entries;
    uint32_t n = 0;
    while (next_record(&list, &record, &entries)) {
        if ((record.kind != REDO_ROWS && record.kind != REDO_DETAILED) || record.count == 0)
            continue;
        items[n++] = settle_item(s, &record, entries);
        if (n < item_count)
            continue;
        if (settle_items(s, items, n) < 0)
            return SCISSOR_ESYSTEM;
        n = 0;
    }
    return settle_items(s, items, n);
}

static int run_tail(struct session *s, const struct redo_record *record, const struct kernel_move *moves) {
    struct kernel_backend *device = s->pool->config.backend;
    struct kernel_shrink item = {.pages = s->heads[record->of].address,
                                 .moves = moves + record->count,
                                 .move_count = record->tail,
                                 .head_dim = group_of_head(s, record->of)->head_dim,
                                 .storage_dtype = (uint8_t)s->storage_dtype};
    return device->shrink(device, &item, 1) < 0 ? SCISSOR_ESYSTEM : 0;
}

static int run_details(struct session *s, const struct redo_record *record, const struct kernel_move *moves) {
    struct kernel_backend *device = s->pool->config.backend;
    struct kernel_shrink item = {.pages = s->heads[record->of].address,
                                 .detail_moves = moves,
                                 .detail_move_count = record->count,
                                 .owners = moves + record->count,
                                 .owner_count = record->tail,
                                 .head_dim = group_of_head(s, record->of)->head_dim,
                                 .storage_dtype = (uint8_t)s->storage_dtype};
    return device->shrink(device, &item, 1) < 0 ? SCISSOR_ESYSTEM : 0;
}

static int run_pages(struct session *s, const struct redo_record *record, const struct kernel_move *moves) {
    struct kernel_backend *device = s->pool->config.backend;
    struct kernel_page_move pages[64];
    uint32_t n = 0;
    for (uint32_t i = 0; i < record->count; i++) {
        pages[n++] =
            (struct kernel_page_move){session_page_address(s, moves[i].to), session_page_address(s, moves[i].from),
                                      s->groups[record->of].page_bytes};
        if (n < sizeof pages / sizeof *pages && i + 1 < record->count)
            continue;
        if (device->move_pages(device, pages, n) < 0)
            return SCISSOR_ESYSTEM;
        n = 0;
    }
    return 0;
}

int redo_run(struct session *s, const void *bytes, size_t size, struct kernel_settle *items, uint32_t item_count) {
    struct kernel_backend *device = s->pool->config.backend;
    struct list list = {bytes, size};
    struct redo_record record;
    const struct kernel_move *entries;
    int code = run_fresh(s, list, items, item_count);
    while (code == 0 && next_record(&list, &record, &entries)) {
        if ((record.kind == REDO_ROWS || record.kind == REDO_DETAILED) && record.tail)
            code = run_tail(s, &record, entries);
        else if (record.kind == REDO_DETAILS)
            code = run_details(s, &record, entries);
        else if (record.kind == REDO_PAGES)
            code = run_pages(s, &record, entries);
    }
    return code < 0 || device->synchronise(device) < 0 ? SCISSOR_ESYSTEM : 0;
}
