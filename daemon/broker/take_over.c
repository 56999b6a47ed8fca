/* take_over.c - sessions that outlive the daemon's process: how the next one gets them, and how this one leaves them.
 *
 * All of it runs on the broker's thread, before the first peer came or after the last one went. What the store gives
 * back is a heap of named descriptors. Sessions are found by their state files, in the order in which they were opened,
 * so that in a smaller pool the same ones have room each time. Each is taken over as a whole or given up as a whole:
 * then a client that lives keeps what it has mapped until it hears of it, and the memory of one that is gone is
 * revoked. In the end whatever belongs to no session is dropped. */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <utlist.h>

#include "alloc.h"
#include "internal.h"
#include "redo.h"
#include "snapshot.h"

/* A descriptor that the store gave back. */
struct found {
    char kind;
    uint64_t number;
    size_t order;
    int fd;         /* -1: it has gone into a segment or a state file */
    bool claimed;   /* a session that lives on needs it in the store */
    bool hands_off; /* its client may live and has it mapped: not to be revoked */
    struct keep_process *process;
};

struct taking {
    struct broker *b;
    struct found *found; /* by kind, then by number */
    size_t count;
    uint64_t now;
    bool doubtful; /* a session is given up of which it cannot be told what was its */
};

static int compare_names(const void *a, const void *b) {
    const struct found *x = a, *y = b;
    if (x->kind != y->kind)
        return x->kind < y->kind ? -1 : 1;
    return (x->number > y->number) - (x->number < y->number);
}

static int compare_found(const void *a, const void *b) {
    const struct found *x = a, *y = b;
    int order = compare_names(a, b);
    return order ? order : (x->order > y->order) - (x->order < y->order);
}

static struct found *lookup(const struct taking *t, char kind, uint64_t number) {
    struct found key = {.kind = kind, .number = number};
    return bsearch(&key, t->found, t->count, sizeof key, compare_names);
}

/* ---------- one session ---------- */

enum client_state { CLIENT_UNKNOWN, CLIENT_ALIVE, CLIENT_DEAD };

static enum client_state client_state(int pidfd) {
    struct pollfd p = {.fd = pidfd, .events = POLLIN};
    if (pidfd < 0 || (syscall(SYS_pidfd_send_signal, pidfd, 0, NULL, 0) < 0 && errno != ESRCH && errno != EPERM))
        return CLIENT_UNKNOWN; /* it is no pidfd at all */
    return poll(&p, 1, 0) == 1 && p.revents & POLLIN ? CLIENT_DEAD : CLIENT_ALIVE;
}

static int adopt(struct taking *t, struct kernel_backend *backend, enum kernel_access access, char kind,
                 uint64_t number, size_t bytes, struct kernel_segment **ret) {
    struct found *f = lookup(t, kind, number);
    if (!f || f->fd < 0 || backend->segment_adopt(backend, access, f->fd, bytes, ret) < 0)
        return SCISSOR_EINVAL;
    f->fd = -1;
    return 0;
}

static int adopt_memory(struct taking *t, struct session *s) {
    struct kernel_backend *device = s->pool->config.backend, *host = s->pool->host;
    for (uint32_t id = 0; id < s->segment_capacity; id++) {
        struct session_segment *segment = &s->segments[id];
        bool fresh = id < s->fresh_segments;
        if (!segment->kept)
            continue;
        if (adopt(t, device, fresh ? KERNEL_ACCESS_FRESH : KERNEL_ACCESS_SETTLED_KEPT, fresh ? 'f' : 's', segment->kept,
                  SCISSOR_SEGMENT_BYTES, &segment->memory) < 0)
            return SCISSOR_EINVAL;
        segment->address = device->segment_address(segment->memory);
    }
    if (adopt(t, host, KERNEL_ACCESS_SETTLED_KEPT, 'c', s->id, s->control_bytes, &s->control) < 0 ||
        adopt(t, host, KERNEL_ACCESS_FRESH, 'l', s->id, PROTO_LEASE_BYTES, &s->lease) < 0)
        return SCISSOR_EINVAL;
    s->control_page = host->segment_address(s->control);
    s->lease_page = host->segment_address(s->lease);
    session_place_heads(s);
    for (uint32_t h = 0; h < s->head_count; h++)
        for (uint32_t i = 0; i < s->heads[h].pages; i++)
            s->heads[h].address[i] = session_page_address(s, s->heads[h].page[i]);
    return 0;
}

/* Budgets and priority that were set while it was open; the maximum counts when its rows are there (limits_apply). */
static bool take_limits(struct session *s, const struct snapshot_head *head) {
    s->guaranteed_cost = s->base_cost;
    for (uint32_t i = 0; i < s->group_count; i++) {
        struct session_group *g = &s->groups[i];
        const struct keep_budget *rows = &head->budgets[i];
        if (rows->guaranteed_rows < s->fresh_rows + 16 || rows->guaranteed_rows > rows->max_rows ||
            rows->max_rows > g->opened_max_rows)
            return false;
        g->guaranteed_rows = rows->guaranteed_rows;
        g->max_rows = rows->max_rows;
        g->promised_pages = g->guaranteed_pages = layout_pages_of_rows(g->guaranteed_rows - s->fresh_rows);
        s->guaranteed_cost += limits_promise(g, s->fresh_rows, g->guaranteed_rows);
    }
    s->priority = head->priority;
    return head->priority >= 1 && head->priority <= BROKER_PRIORITY_MOST;
}

/* What the pool can be made to have. One that is a quarter of the memory that was available at the start (main.c) has
 * room for the sessions of the process before, though there may be less available now, for them and for their clients.
 */
static uint64_t pool_most(const struct pool *pool) {
    return pool->config.worked_out ? pool->config.limit_bytes * 4 : pool->config.limit_bytes;
}

/* Shape and what it costs, from the same checks that an OPEN goes through. */
static int make_shape(struct taking *t, struct session *s, const struct snapshot_head *head) {
    char why[PROTO_TEXT_BYTES];
    struct proto_open open = head->open;
    open.pool = PROTO_ANY_POOL;
    for (uint32_t i = 0; i < t->b->pool_count && !s->pool; i++)
        if (t->b->pools[i].keeps && strncmp(t->b->pools[i].config.name, head->pool, sizeof head->pool - 1) == 0)
            s->pool = &t->b->pools[i];
    if (!s->pool || admission_check(t->b, &open, s, why, sizeof why) < 0)
        return SCISSOR_EINVAL;
    if (!take_limits(s, head))
        return SCISSOR_EINVAL;
    if (s->guaranteed_cost > pool_most(s->pool))
        return SCISSOR_FULL; /* before memory is taken for it */
    s->id = head->session;
    memcpy(s->token, head->token, sizeof s->token);
    s->pid = head->pid;
    s->uid = head->uid;
    s->generation = head->generation;
    s->tokens_seen = head->tokens_seen;
    s->settles = head->settles;
    s->scores_lost = head->scores_lost;
    memcpy(s->evicted, head->evicted, sizeof s->evicted);
    s->last_evicted = head->last_evicted;
    s->last_lost = head->last_lost;
    s->spoilt = head->spoilt;
    return 0;
}

static void leave_pool(struct session *s) {
    for (uint32_t i = 0; i < s->group_count; i++)
        if (s->groups[i].account.pool) {
            pool_return(&s->groups[i].account, s->groups[i].account.charged);
            pool_leave(&s->groups[i].account);
        }
    if (s->account.pool)
        pool_return(&s->account, s->account.charged);
    pool_leave(&s->account);
}

static void enlarge_pool(struct session *s) {
    struct pool *pool = s->pool;
    uint64_t need = s->base_cost;
    for (uint32_t i = 0; i < s->group_count; i++) {
        const struct session_group *g = &s->groups[i];
        uint64_t segments = session_group_segments(g, g->guaranteed_pages);
        need += (segments > g->segments ? segments : g->segments) * g->segment_cost;
    }
    if (need > pool_room(pool) && pool->committed <= pool_most(pool) && need <= pool_most(pool) - pool->committed)
        pool_raise(pool, pool->committed + need);
}

/* Every byte is charged before it counts as ours. 0, or FULL. */
static int join_pool(struct session *s) {
    if (s->pool->config.worked_out)
        enlarge_pool(s);
    if (pool_ask(s->pool, s->guaranteed_cost))
        return SCISSOR_FULL;
    pool_join(s->pool, &s->account, s->base_cost);
    pool_charge(&s->account, s->base_cost);
    for (uint32_t i = 0; i < s->group_count; i++) {
        struct session_group *g = &s->groups[i];
        pool_join(s->pool, &g->account, session_group_segments(g, g->guaranteed_pages) * g->segment_cost);
    }
    for (uint32_t i = 0; i < s->group_count; i++)
        if (pool_charge(&s->groups[i].account, s->groups[i].segments * s->groups[i].segment_cost)) {
            leave_pool(s);
            return SCISSOR_FULL;
        }
    return 0;
}

/* Does what the process before had published and not done. */
static int finish_change(struct session *s, const struct snapshot_head *head) {
    struct keep_file *file = &s->keep->file[s->keep->active];
    uint32_t count = s->head_count < 64 ? s->head_count : 64;
    if (!head->redo_bytes)
        return 0;
    struct kernel_settle *items = scissor_malloc(count * sizeof *items);
    int code = items ? redo_run(s, file->memory + head->redo_at, head->redo_bytes, items, count) : SCISSOR_ENOMEM;
    scissor_free(items);
    return code;
}

/* A client that reads it meanwhile finds nothing changed unless something has to be. */
static void mend_control_page(struct session *s) {
    uint32_t *words = (uint32_t *)s->control_page;
    s->control_page->magic = PROTO_CONTROL_MAGIC;
    s->control_page->head_count = s->head_count;
    bool differs = s->control_page->generation != s->generation;
    for (uint32_t h = 0; h < s->head_count && !differs; h++) {
        const struct session_head *head = &s->heads[h];
        const uint32_t *entry = words + head->control;
        differs = entry[0] != head->history.settled || entry[1] != head->pages ||
                  (head->pages && memcmp(entry + 2, head->page, head->pages * sizeof *head->page) != 0);
    }
    if (differs)
        session_write_control(s, s->generation);
    __atomic_store_n(&s->lease_page->closing, 0, __ATOMIC_RELAXED);
    uint32_t ours = PROTO_LEASE_DAEMON;
    __atomic_compare_exchange_n(&s->lease_page->word, &ours, PROTO_LEASE_FREE, false, __ATOMIC_ACQ_REL,
                                __ATOMIC_RELAXED);
}

static int measure(struct session *s) {
    uint32_t most = 1;
    for (uint32_t h = 0; h < s->head_count; h++)
        most = s->heads[h].history.settled > most ? s->heads[h].history.settled : most;
    float *values = scissor_malloc(most * sizeof *values);
    if (!values)
        return SCISSOR_ENOMEM;
    s->job.kind = JOB_SHRINK;
    s->job.tokens_seen = s->tokens_seen;
    session_measure(s, &s->job, values);
    scissor_free(values);
    struct proto_head_stat *shown = s->shown;
    s->shown = s->shown_next;
    s->shown_next = shown;
    s->segments_shown = s->fresh_segments;
    for (uint32_t i = 0; i < s->group_count; i++) {
        struct session_group *g = &s->groups[i];
        g->value = s->job.groups[i].value;
        g->shown_rows = s->job.groups[i].rows;
        g->shown_pages = g->pages;
        g->shown_segments = g->segments;
        s->segments_shown += g->segments;
    }
    return 0;
}

static int read_state(struct taking *t, struct session *s, const struct snapshot_head *head) {
    const struct keep_file *file = &s->keep->file[s->keep->active];
    int code = make_shape(t, s, head);
    if (code == 0)
        code = session_bookkeeping_new(s);
    if (code == 0)
        code = snapshot_read(file->memory, file->bytes, head, s);
    if (code == 0 && head->redo_bytes)
        code = redo_check(s, file->memory + head->redo_at, head->redo_bytes);
    return code;
}

static int bring_to_life(struct taking *t, struct session *s, const struct snapshot_head *head) {
    int code = join_pool(s);
    if (code)
        return code;
    code = adopt_memory(t, s);
    if (code == 0)
        code = finish_change(s, head);
    if (code == 0)
        code = measure(s);
    if (code == 0)
        limits_apply(s);
    if (code == 0) {
        s->job.counts = session_counts(s);
        code = keep_renew(s, &s->job.counts);
    }
    if (code)
        leave_pool(s);
    else
        mend_control_page(s);
    return code;
}

/* All descriptors of the session that the snapshot names. */
static void each_found(struct taking *t, const struct session *s, void (*visit)(struct found *f)) {
    static const char named_so[] = "abcl";
    struct found *f;
    for (const char *kind = named_so; *kind; kind++)
        if ((f = lookup(t, *kind, s->id)))
            visit(f);
    for (uint32_t id = 0; s->segments && id < s->segment_capacity; id++) {
        const struct session_segment *segment = &s->segments[id];
        if (segment->kept && (f = lookup(t, id < s->fresh_segments ? 'f' : 's', segment->kept)))
            visit(f);
    }
}

static void claim(struct found *f) {
    f->claimed = true;
}

static void spare(struct found *f) {
    f->hands_off = true;
}

/* Emptied segments were adopted only to copy out of them; nothing speaks of them any more. */
static void free_emptied(struct taking *t, struct session *s) {
    struct kernel_backend *device = s->pool->config.backend;
    for (uint32_t id = s->fresh_segments; id < s->segment_capacity; id++)
        if (s->segments[id].state == SEGMENT_QUARANTINED && s->segments[id].kept) {
            lookup(t, 's', s->segments[id].kept)->claimed = false;
            device->segment_free(device, s->segments[id].memory);
            s->segments[id] = (struct session_segment){0};
        }
}

static void become_orphan(struct taking *t, struct session *s) {
    struct broker *b = t->b;
    struct proto_event event = {.type = PROTO_EVENT_TAKEN_OVER, .session = s->id};
    each_found(t, s, claim);
    free_emptied(t, s);
    s->keep->put_state[0] = s->keep->put_state[1] = s->keep->put_control = s->keep->put_lease = true;
    s->state = PROTO_SESSION_IDLE;
    s->last_ns = s->opened_ns = t->now;
    s->pool->segments += s->segments_shown;
    session_insert(b, s);
    s->orphan = true;
    /* A process that lives may rest for as long as it likes; its time runs from when it is heard of again. */
    s->orphan_deadline = s->client_pidfd >= 0 ? UINT64_MAX : t->now + b->config.orphan_wait_ns;
    b->orphans++;
    b->taken_over++;
    proto_text_set(event.name, sizeof event.name, s->name);
    event.bytes = s->account.charged;
    for (uint32_t i = 0; i < s->group_count; i++)
        event.bytes += s->groups[i].account.charged;
    send_event(b, &event);
}

static void give_up(struct taking *t, struct session *s, bool table_known, enum client_state client) {
    if (client != CLIENT_DEAD) {
        t->b->lost++;
        t->doubtful |= !table_known;
        each_found(t, s, spare);
    }
    struct keep *keep = s->keep;
    keep_leave(s);
    s->keep = NULL;
    if (s->pool && client == CLIENT_DEAD)
        session_release(s, false, false);
    else if (s->pool)
        session_leave(s);
    if (s->client_pidfd >= 0)
        close(s->client_pidfd);
    keep_process_leave(keep->process);
    keep_free(keep);
    scissor_free(s);
}

/* The client's pidfd: one in the store for all sessions of a process, a copy for each session here. */
static void take_process(struct taking *t, struct session *s, uint64_t number) {
    struct found *f = number ? lookup(t, 'p', number) : NULL;
    if (!f || client_state(f->fd) == CLIENT_UNKNOWN)
        return;
    s->client_pidfd = fcntl(f->fd, F_DUPFD_CLOEXEC, 0);
    if (f->process) {
        s->keep->process = keep_process_ref(f->process);
        return;
    }
    s->keep->process = scissor_malloc(sizeof *s->keep->process);
    if (s->keep->process)
        *s->keep->process = (struct keep_process){.keeper = &t->b->keeper, .number = number, .refs = 1};
}

/* Which of the two files counts, and its head. 0; 1: neither, it was being opened or closed; EINVAL: damaged. */
static int choose_file(struct keep *keep, uint64_t id, struct snapshot_head *ret) {
    struct snapshot_head heads[2];
    int code[2];
    for (uint32_t i = 0; i < 2; i++) {
        code[i] = keep->file[i].memory ? snapshot_read_head(keep->file[i].memory, keep->file[i].bytes, &heads[i])
                                       : SCISSOR_EINVAL;
        if (code[i] == 0 && heads[i].session != id)
            code[i] = SCISSOR_EINVAL;
    }
    if (code[0] < 0 && code[1] == 1)
        return keep->file[0].memory ? SCISSOR_EINVAL : 1;
    if (code[1] < 0 && code[0] == 1)
        return keep->file[1].memory ? SCISSOR_EINVAL : 1;
    if (code[0] < 0 || code[1] < 0)
        return SCISSOR_EINVAL;
    if (code[0] == 1 && code[1] == 1)
        return 1;
    keep->active = code[0] == 1 || (code[1] == 0 && heads[1].sequence > heads[0].sequence);
    keep->sequence = heads[keep->active].sequence;
    *ret = heads[keep->active];
    return 0;
}

static void take_session(struct taking *t, uint64_t id) {
    struct proto_open nothing = {0};
    struct snapshot_head head = {0};
    struct session *s = scissor_calloc(1, sizeof *s);
    if (s && !(s->keep = keep_new(&t->b->keeper, &nothing)))
        s = scissor_free(s);
    if (!s) {
        t->doubtful = true;
        t->b->lost++;
        return;
    }
    s->client_pidfd = -1;
    for (uint32_t i = 0; i < 2; i++) {
        struct found *f = lookup(t, "ab"[i], id);
        if (f && f->fd >= 0 && keep_file_adopt(&s->keep->file[i], f->fd) == 0)
            f->fd = -1;
    }
    s->id = id;
    int code = choose_file(s->keep, id, &head);
    if (code == 1) { /* not a session, so not one that is lost */
        give_up(t, s, true, CLIENT_DEAD);
        return;
    }
    enum client_state client = CLIENT_UNKNOWN;
    if (code == 0) {
        s->keep->open = head.open;
        take_process(t, s, head.process);
        client = client_state(s->client_pidfd);
        code = read_state(t, s, &head);
    }
    bool table_known = code == 0;
    if (code == 0 && client != CLIENT_DEAD)
        code = bring_to_life(t, s, &head);
    if (code || client == CLIENT_DEAD) {
        give_up(t, s, table_known, client);
        return;
    }
    struct found *f = s->keep->process ? lookup(t, 'p', head.process) : NULL;
    if (f) {
        if (!f->claimed)
            keeper_promise(&t->b->keeper, 1, true);
        f->claimed = true;
        f->process = s->keep->process;
    }
    become_orphan(t, s);
}

/* ---------- all of them ---------- */

/* What is no name of ours is dropped at once; of two of the same name the first one counts. */
static void sort_out(struct taking *t, struct broker_kept *kept, size_t count) {
    struct keeper *keeper = &t->b->keeper;
    for (size_t i = 0; i < count; i++) {
        struct found f = {.order = i, .fd = kept[i].fd};
        kept[i].fd = -1;
        if (f.fd >= 0 && keep_name_parse(kept[i].name, &f.kind, &f.number)) {
            t->found[t->count++] = f;
            continue;
        }
        if (memchr(kept[i].name, 0, sizeof kept[i].name))
            keeper->store->drop(keeper->store, kept[i].name);
        if (f.fd >= 0)
            close(f.fd);
    }
    qsort(t->found, t->count, sizeof *t->found, compare_found);
    size_t n = 0;
    for (size_t i = 0; i < t->count; i++) {
        if (n && compare_names(&t->found[n - 1], &t->found[i]) == 0)
            close(t->found[i].fd);
        else
            t->found[n++] = t->found[i];
    }
    t->count = n;
    keeper->stored = (uint32_t)n;
}

/* State files of one session stand apart in the list, but both in order. */
static void take_sessions(struct taking *t) {
    size_t a = 0, b = 0, b_end;
    while (b < t->count && t->found[b].kind == 'a')
        b++;
    size_t a_end = b;
    for (b_end = b; b_end < t->count && t->found[b_end].kind == 'b';)
        b_end++;
    while (a < a_end || b < b_end) {
        uint64_t of_a = a < a_end ? t->found[a].number : UINT64_MAX, of_b = b < b_end ? t->found[b].number : UINT64_MAX;
        uint64_t id = of_a < of_b ? of_a : of_b;
        a += of_a == id;
        b += of_b == id;
        take_session(t, id);
    }
}

/* Memory of a client that is no more, or that is no session's any more, is taken from whoever has it mapped. (Not so
 * the two pages, which a client may look at beyond its session's end.) */
static void revoke_found(const struct taking *t, struct found *f) {
    const struct pool *pool = t->b->pools;
    while (!pool->keeps)
        pool++;
    struct kernel_backend *backend = pool->config.backend;
    enum kernel_access access = f->kind == 'f' ? KERNEL_ACCESS_FRESH : KERNEL_ACCESS_SETTLED_KEPT;
    off_t bytes = lseek(f->fd, 0, SEEK_END);
    struct kernel_segment *segment;
    if (bytes > 0 && backend->segment_adopt(backend, access, f->fd, (size_t)bytes, &segment) == 0) {
        backend->segment_free(backend, segment);
        f->fd = -1;
    }
}

/* What stays in the store says which number is the next one. */
static void drop_rest(struct taking *t) {
    for (size_t i = 0; i < t->count; i++) {
        struct found *f = &t->found[i];
        if (f->claimed) {
            if (strchr("fsp", f->kind) && f->number >= t->b->keeper.next)
                t->b->keeper.next = f->number + 1;
        } else {
            if (f->fd >= 0 && strchr("fs", f->kind) && !f->hands_off && !t->doubtful)
                revoke_found(t, f);
            keeper_drop(&t->b->keeper, f->kind, f->number);
        }
        if (f->fd >= 0)
            close(f->fd);
    }
}

static void take_nothing(struct broker *b, struct broker_kept *kept, size_t count) {
    for (size_t i = 0; i < count; i++) {
        if (b->config.store)
            b->config.store->drop(b->config.store, kept[i].name);
        if (kept[i].fd >= 0)
            close(kept[i].fd);
        kept[i].fd = -1;
    }
}

void broker_take_over(struct broker *b, struct broker_kept *kept, size_t count, uint64_t now) {
    struct taking t = {.b = b, .now = now};
    t.found = count && b->keeper.store ? scissor_calloc(count, sizeof *t.found) : NULL;
    if (!t.found) {
        take_nothing(b, kept, count);
        return;
    }
    sort_out(&t, kept, count);
    take_sessions(&t);
    drop_rest(&t);
    scissor_free(t.found);
}

/* ---------- leaving ---------- */

static void leave_session(struct session *s) {
    session_leave(s);
    if (s->client_pidfd >= 0)
        close(s->client_pidfd);
    if (s->keep)
        keep_process_leave(s->keep->process);
    keep_free(s->keep);
    scissor_free(s->job.grown_ids);
    scissor_free(s->job.moved_ids);
    scissor_free(s->released);
    scissor_free(s);
}

static void leave_peer(struct broker_peer *peer) {
    struct session *s, *next;
    DL_FOREACH_SAFE(peer->ended, s, next)
    leave_session(s);
    if (peer->pidfd >= 0)
        close(peer->pidfd);
    keep_process_leave(peer->process);
    scissor_free(peer->recorder.settled);
    scissor_free(peer);
}

struct broker *broker_leave(struct broker *b) {
    struct session *s, *next;
    struct broker_peer *peer, *next_peer;
    if (!b || !b->keeper.store)
        return broker_free(b);
    action_list_clear(&b->actions);
    action_free(b->taken);
    DL_FOREACH_SAFE(b->sessions, s, next)
    leave_session(s);
    DL_FOREACH_SAFE(b->peers, peer, next_peer)
    leave_peer(peer);
    scissor_free(b->values);
    scissor_free(b->buckets);
    return scissor_free(b);
}
