/* memory.c - `scissorctl memory`: who holds what.
 *
 * The daemon's counters and its list come in two answers, and something may be charged in between. So the counters are
 * asked for before and after the list: the same charge twice beside a sum that differs from it is wrong, anything else
 * is asked for again. */
#include "memory.h"

#include "json.h"
#include "live.h"
#include "view.h"

#define TRIES 20
#define TRY_MS 5

uint64_t ctl_memory_parts(const struct proto_memory_stat *m) {
    return m->fresh_bytes + m->used_bytes + m->free_bytes + m->quarantined_bytes + m->granted_bytes + m->page_bytes +
           m->state_bytes + m->bookkeeping_bytes;
}

struct ctl_memory_sum ctl_memory_add(const struct proto_pool_stat *pool, uint32_t index,
                                     const struct proto_memory_stat *entries, size_t count) {
    struct ctl_memory_sum all = {.wrong = 0};
    struct proto_memory_stat *sum = &all.sum;
    for (size_t i = 0; i < count; i++) {
        const struct proto_memory_stat *m = &entries[i];
        if (m->pool != index)
            continue;
        all.sessions++;
        if (!all.wrong && ctl_memory_parts(m) != m->charged_bytes)
            all.wrong = m->session;
        sum->charged_bytes += m->charged_bytes;
        sum->fresh_bytes += m->fresh_bytes;
        sum->used_bytes += m->used_bytes;
        sum->free_bytes += m->free_bytes;
        sum->quarantined_bytes += m->quarantined_bytes;
        sum->granted_bytes += m->granted_bytes;
        sum->page_bytes += m->page_bytes;
        sum->state_bytes += m->state_bytes;
        sum->bookkeeping_bytes += m->bookkeeping_bytes;
        sum->guaranteed_bytes += m->guaranteed_bytes;
        sum->settled_segments += m->settled_segments;
        sum->fresh_segments += m->fresh_segments;
        sum->filled_rows += m->filled_rows;
        sum->room_rows += m->room_rows;
    }
    all.adds_up = !all.wrong && sum->charged_bytes == pool->charged_bytes;
    return all;
}

double ctl_memory_fragmentation(const struct proto_memory_stat *m) {
    uint64_t settled = m->used_bytes + m->free_bytes + m->quarantined_bytes;
    return settled ? (double)m->free_bytes / (double)settled : 0;
}

static void memory_row(struct table *t, const struct proto_memory_stat *m, const char *state) {
    table_cell(t, "%s", BYTES(m->fresh_bytes));
    table_cell(t, "%s", BYTES(m->used_bytes));
    table_cell(t, "%s", BYTES(m->free_bytes));
    table_cell(t, "%s", BYTES(m->quarantined_bytes));
    table_cell(t, "%s", BYTES(m->granted_bytes));
    table_cell(t, "%s", BYTES(m->page_bytes));
    table_cell(t, "%s", BYTES(m->state_bytes));
    table_cell(t, "%s", BYTES(m->bookkeeping_bytes));
    table_cell(t, "%s", BYTES(m->charged_bytes));
    table_cell(t, "%s", BYTES(m->guaranteed_bytes));
    table_cell(t, "%s", PERCENT(m->filled_rows, m->room_rows));
    table_cell(t, "%s", state);
}

void ctl_view_memory(struct out *o, const struct proto_pool_stat *pool, uint32_t index,
                     const struct ctl_memory_sum *sum, const struct proto_memory_stat *entries, size_t count) {
    static const char *const titles[] = {">SESSION", "NAME",        ">FRESH",     ">USED PAGES", ">FREE PAGES",
                                         ">LEAVING", ">GRANTED",    ">SHARED",    ">KEPT STATE", ">BOOKKEEPING",
                                         ">CHARGED", ">GUARANTEED", ">ROWS USED", "STATE"};
    uint64_t limit = pool->limit_bytes;
    out_bold(o, "pool %s", NAME(pool->name));
    out_printf(o, "  %s of %s charged (%s), guaranteed %s, lent %s, free %s, fragmentation %s\n",
               BYTES(pool->charged_bytes), BYTES(limit), PERCENT(pool->charged_bytes, limit),
               BYTES(pool->guaranteed_bytes), BYTES(pool->lent_bytes),
               BYTES(limit > pool->charged_bytes ? limit - pool->charged_bytes : 0),
               PERCENT(ctl_memory_fragmentation(&sum->sum), 1));
    if (pool->quarantined)
        out_printf(o, "%s are quarantined: sessions that ended, while a process may have their memory open\n",
                   BYTES(pool->quarantined_bytes));
    struct table t;
    table_init(&t, titles, sizeof titles / sizeof titles[0]);
    for (size_t i = 0; i < count; i++) {
        if (entries[i].pool != index)
            continue;
        table_cell(&t, "%llu", (unsigned long long)entries[i].session);
        table_cell(&t, "%s", NAME(entries[i].name));
        memory_row(&t, &entries[i], proto_session_state_name(entries[i].state));
    }
    table_cell(&t, "sum");
    table_cell(&t, "%s", "");
    memory_row(&t, &sum->sum, "");
    table_print(&t, o, "");
    table_deinit(&t);
}

static json_t *pack_entry(const struct proto_memory_stat *m) {
    return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "charged_bytes",
                     INT(m->charged_bytes), "fresh_bytes", INT(m->fresh_bytes), "used_page_bytes", INT(m->used_bytes),
                     "free_page_bytes", INT(m->free_bytes), "quarantined_bytes", INT(m->quarantined_bytes),
                     "granted_bytes", INT(m->granted_bytes), "shared_page_bytes", INT(m->page_bytes), "state_bytes",
                     INT(m->state_bytes), "bookkeeping_bytes", INT(m->bookkeeping_bytes), "guaranteed_bytes",
                     INT(m->guaranteed_bytes), "settled_segments", INT(m->settled_segments), "fresh_segments",
                     INT(m->fresh_segments), "filled_rows", INT(m->filled_rows), "room_rows", INT(m->room_rows));
}

static int add_entry(json_t *list, const struct proto_memory_stat *m) {
    json_t *one = pack_entry(m);
    if (!one || json_object_set_new(one, "session", json_integer(INT(m->session))) < 0 ||
        json_object_set_new(one, "name", ctl_json_text(m->name)) < 0 ||
        json_object_set_new(one, "state", json_string(proto_session_state_name(m->state))) < 0) {
        json_decref(one);
        return -1;
    }
    return json_array_append_new(list, one);
}

json_t *ctl_json_memory(const struct proto_pool_stat *pool, uint32_t index, const struct ctl_memory_sum *sum,
                        const struct proto_memory_stat *entries, size_t count) {
    json_t *list = json_array();
    for (size_t i = 0; list && i < count; i++) {
        if (entries[i].pool == index && add_entry(list, &entries[i]) < 0) {
            json_decref(list);
            list = NULL;
        }
    }
    uint64_t limit = pool->limit_bytes, charged = pool->charged_bytes;
    return json_pack("{s:o, s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:b, s:o, s:o}", "pool", ctl_json_text(pool->name),
                     "limit_bytes", INT(limit), "charged_bytes", INT(charged), "guaranteed_bytes",
                     INT(pool->guaranteed_bytes), "lent_bytes", INT(pool->lent_bytes), "free_bytes",
                     INT(limit > charged ? limit - charged : 0), "quarantined_bytes", INT(pool->quarantined_bytes),
                     "fragmentation", ctl_memory_fragmentation(&sum->sum), "adds_up", sum->adds_up, "sum",
                     pack_entry(&sum->sum), "sessions", list);
}

struct memory {
    struct ctl_answer pools, entries;
};

static void memory_deinit(struct memory *m) {
    ctl_answer_deinit(&m->pools);
    ctl_answer_deinit(&m->entries);
}

static bool memory_adds_up(const struct memory *m) {
    const struct proto_pool_stat *pools = m->pools.entries;
    for (uint32_t i = 0; i < m->pools.count; i++)
        if (!ctl_memory_add(&pools[i], i, m->entries.entries, m->entries.count).adds_up)
            return false;
    return true;
}

/* Whether anything was charged or given back between two looks. */
static bool memory_moved(const struct ctl_answer *before, const struct ctl_answer *after) {
    const struct proto_pool_stat *old = before->entries, *now = after->entries;
    if (before->count != after->count)
        return true;
    for (size_t i = 0; i < before->count; i++)
        if (old[i].charged_bytes != now[i].charged_bytes || old[i].opened != now[i].opened ||
            old[i].closed != now[i].closed || old[i].settles != now[i].settles)
            return true;
    return false;
}

/* One look; *ret_moved: it may be wrong only because the daemon worked meanwhile. */
static int memory_look(struct ctl_link *link, struct memory *ret, bool *ret_moved) {
    struct ctl_answer before = {.entries = NULL};
    *ret = (struct memory){.pools = before, .entries = before};
    int status = ctl_link_ask(link, PROTO_OP_STAT, 0, &before);
    if (status == CTL_DONE)
        status = ctl_link_ask(link, PROTO_OP_MEMORY, 0, &ret->entries);
    if (status == CTL_DONE)
        status = ctl_link_ask(link, PROTO_OP_STAT, 0, &ret->pools);
    if (status)
        memory_deinit(ret);
    else
        *ret_moved = memory_moved(&before, &ret->pools);
    ctl_answer_deinit(&before);
    return status;
}

static int memory_show(struct ctl *ctl, const struct memory *m) {
    const struct proto_pool_stat *pools = m->pools.entries;
    const struct proto_memory_stat *entries = m->entries.entries;
    json_t *list = ctl->json ? json_array() : NULL;
    struct out o;
    out_init(&o, ctl->colour);
    for (uint32_t i = 0; i < m->pools.count; i++) {
        struct ctl_memory_sum sum = ctl_memory_add(&pools[i], i, entries, m->entries.count);
        if (!ctl->json) {
            ctl_view_memory(&o, &pools[i], i, &sum, entries, m->entries.count);
        } else if (list &&
                   json_array_append_new(list, ctl_json_memory(&pools[i], i, &sum, entries, m->entries.count)) < 0) {
            json_decref(list);
            list = NULL;
        }
    }
    if (!ctl->json)
        return out_print(&o);
    out_deinit(&o);
    return ctl_json_print(list ? json_pack("{s:o}", "pools", list) : NULL, false);
}

static int memory_judge(const struct memory *m, bool moved) {
    const struct proto_pool_stat *pools = m->pools.entries;
    for (uint32_t i = 0; i < m->pools.count; i++) {
        struct ctl_memory_sum sum = ctl_memory_add(&pools[i], i, m->entries.entries, m->entries.count);
        if (sum.wrong)
            return ctl_fail(CTL_REFUSED, "the parts of session %llu are not what is charged to it: please report this",
                            (unsigned long long)sum.wrong);
        if (!sum.adds_up && !moved)
            return ctl_fail(CTL_REFUSED, "the sum is %llu bytes, but %llu are charged: please report this",
                            (unsigned long long)sum.sum.charged_bytes, (unsigned long long)pools[i].charged_bytes);
        if (!sum.adds_up)
            return ctl_fail(CTL_REFUSED, "memory moved each time that the daemon was asked, so the sum is not exact; "
                                         "try again");
    }
    return CTL_DONE;
}

int ctl_memory(struct ctl *ctl) {
    struct ctl_link link;
    struct memory m;
    bool moved = false;
    int status = ctl_link_open(&link, ctl->directory);
    if (status)
        return status;
    for (int i = 0;; i++) {
        status = memory_look(&link, &m, &moved);
        if (status || i + 1 == TRIES || memory_adds_up(&m))
            break;
        memory_deinit(&m);
        ctl_live_sleep(TRY_MS);
    }
    ctl_link_close(&link);
    if (status)
        return status;
    status = memory_show(ctl, &m);
    if (status == CTL_DONE)
        status = memory_judge(&m, moved);
    memory_deinit(&m);
    return status;
}
