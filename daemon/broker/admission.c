/* admission.c - may a session open now, must it wait, or is there no hope?
 *
 * A session whose guarantee can be promised joins its pool in the same breath: there is no moment between the look and
 * the charge. Otherwise it stands in the pool's queue, from which only the first may go, and which stops all further
 * lending. One that did not ask to wait is in the queue as well while jobs that run now will make room for it; that
 * takes milliseconds, and lets an open succeed that only lent memory stood in the way of. */
#include <stdio.h>
#include <string.h>
#include <utlist.h>

#include "alloc.h"
#include "internal.h"

static void refused_event(struct broker *b, struct pool *pool, const char *name, int code) {
    struct proto_event event = {.type = PROTO_EVENT_REFUSED, .code = code};
    memcpy(event.name, name, sizeof event.name);
    pool->refused++;
    send_event(b, &event);
}

void admission_refuse(struct broker *b, struct session *s, int code, const char *why) {
    send_failed(b, s->peer, s->asked.number, 0, code, "%s", why);
    refused_event(b, s->pool, s->name, code);
    session_free(b, s);
}

/* BUSY or FULL, in figures. */
static void refuse_memory(struct broker *b, struct session *s, int asked) {
    char why[PROTO_TEXT_BYTES];
    const struct pool *pool = s->pool;
    unsigned long long need = s->guaranteed_cost, limit = pool->target, promised = pool->guaranteed;
    if (need > limit)
        snprintf(why, sizeof why, "the session's guarantee takes %llu bytes, the whole pool has %llu", need, limit);
    else if (asked == POOL_FULL)
        snprintf(why, sizeof why, "the session's guarantee takes %llu bytes; of the pool's %llu, %llu are promised",
                 need, limit, promised);
    else if (pool->quarantined)
        snprintf(why, sizeof why,
                 "%llu bytes are needed; of the pool's %llu, %llu are in quarantine until the processes end that have "
                 "them open",
                 need, limit, (unsigned long long)pool->quarantined_bytes);
    else
        snprintf(why, sizeof why, "%llu bytes are needed; they are lent to other sessions, or others wait for them",
                 need);
    admission_refuse(b, s, asked == POOL_FULL ? SCISSOR_FULL : SCISSOR_BUSY, why);
}

static void admit(struct broker *b, struct session *s) {
    pool_join(s->pool, &s->account, s->base_cost);
    pool_charge(&s->account, s->base_cost);
    for (uint32_t i = 0; i < s->group_count; i++) {
        struct session_group *g = &s->groups[i];
        pool_join(s->pool, &g->account, session_group_segments(g, g->guaranteed_pages) * g->segment_cost);
    }
    memset(s->job.groups, 0, sizeof s->job.groups);
    session_start_job(b, s, JOB_OPEN);
}

/* ---------- the queue ---------- */

static void enqueue(struct session *s) {
    DL_APPEND2(s->pool->queue, s, queue_prev, queue_next);
    s->pool->waiting++;
    s->queued = true;
}

void admission_leave(struct session *s) {
    DL_DELETE2(s->pool->queue, s, queue_prev, queue_next);
    s->pool->waiting--;
    s->queued = false;
}

/* True if the session fits once the jobs that run now are done. */
static bool covered(const struct broker *b, const struct session *s) {
    uint64_t coming = arbiter_on_its_way(b, s->pool);
    uint64_t limit = s->pool->target;
    uint64_t left = s->pool->committed > coming ? s->pool->committed - coming : 0;
    return s->guaranteed_cost <= limit && left <= limit - s->guaranteed_cost;
}

/* The first of the queue does not fit: takes lent memory back for it, as much as is missing. */
static void make_room(struct broker *b, struct session *s, uint64_t now) {
    struct pool *pool = s->pool;
    uint64_t missing = pool->committed + s->guaranteed_cost - pool->target;
    uint64_t coming = arbiter_on_its_way(b, pool);
    if (coming < missing)
        arbiter_reclaim(b, pool, missing - coming, now);
}

/* Those behind the first who have waited long enough. */
static void refuse_expired(struct broker *b, struct pool *pool, uint64_t now) {
    struct session *s, *next;
    DL_FOREACH_SAFE2(pool->queue, s, next, queue_next) {
        if (s == pool->queue || now < s->deadline)
            continue;
        int asked = pool_ask(pool, s->guaranteed_cost);
        admission_leave(s);
        refuse_memory(b, s, asked);
    }
}

/* The operator has made the pool smaller than what is out: takes back what is missing, as it can be had. */
static void shrink_pool(struct broker *b, struct pool *pool, uint64_t now) {
    uint64_t coming = arbiter_on_its_way(b, pool);
    if (pool_excess(pool) > coming)
        arbiter_reclaim(b, pool, pool_excess(pool) - coming, now);
}

void admission_pump(struct broker *b, struct pool *pool, uint64_t now) {
    struct session *s;
    device_look(b, pool, now);
    shrink_pool(b, pool, now);
    while ((s = pool->queue)) {
        int asked = pool_ask(pool, s->guaranteed_cost);
        if (asked == 0) {
            admission_leave(s);
            admit(b, s);
            continue;
        }
        if (asked == POOL_LENT)
            make_room(b, s, now);
        s->expired = now >= s->deadline;
        if (!s->expired || covered(b, s))
            break;
        admission_leave(s);
        refuse_memory(b, s, asked);
    }
    refuse_expired(b, pool, now);
}

uint64_t admission_deadline(const struct pool *pool) {
    uint64_t first = UINT64_MAX;
    const struct session *s;
    DL_FOREACH2(pool->queue, s, queue_next)
    if (!s->expired && s->deadline < first)
        first = s->deadline;
    return first;
}

void admission_drain(struct broker *b, uint64_t now) {
    for (uint32_t i = 0; i < b->pool_count; i++)
        while (b->pools[i].queue) {
            struct session *s = b->pools[i].queue;
            admission_leave(s);
            admission_refuse(b, s, SCISSOR_DRAINING, "the daemon is draining and takes no new sessions");
        }
    (void)now;
}

/* ---------- open ---------- */

static bool speaks(const struct broker_peer *peer, const struct pool *pool) {
    return !pool->config.backend->streams || peer->capabilities & PROTO_CAP_CUDA;
}

static bool stores(const struct pool *pool, uint32_t dtype) {
    return dtype < KERNEL_DTYPE_COUNT && pool->config.backend->storage_dtypes >> dtype & 1;
}

/* The pool that was named, or else, of those that work and whose memory client and rows can use, the one with the most
 * room. NULL: there is no such number. */
static struct pool *choose_pool(struct broker *b, const struct broker_peer *peer, const struct proto_open *open) {
    struct pool *best = NULL;
    if (open->pool != PROTO_ANY_POOL)
        return open->pool < b->pool_count ? &b->pools[open->pool] : NULL;
    for (uint32_t i = 0; i < b->pool_count; i++) {
        struct pool *pool = &b->pools[i];
        if (speaks(peer, pool) && stores(pool, open->storage_dtype) && !pool->lost &&
            (!best || pool_room(pool) > pool_room(best)))
            best = pool;
    }
    return best ? best : &b->pools[0];
}

/* Whether the client can use the pool's device, that the session's rows, and the pool itself is there. */
static int check_device(const struct broker_peer *peer, const struct pool *pool, uint32_t storage_dtype, char *why,
                        size_t why_bytes) {
    if (!speaks(peer, pool)) {
        snprintf(why, why_bytes,
                 "the pool is on %s, and this client speaks host memory only: build its libscissor with nvcc, or run "
                 "scissord --device host",
                 pool->config.backend->device);
        return SCISSOR_EINVAL;
    }
    if (!stores(pool, storage_dtype)) {
        snprintf(why, why_bytes, "%s rows cannot be kept on %s: f32, f16 and bf16 can",
                 kernel_dtype_name(storage_dtype), pool->config.backend->device);
        return SCISSOR_EINVAL;
    }
    if (!pool->lost)
        return 0;
    snprintf(why, why_bytes, "%s has failed, until the daemon is started anew: %.100s", pool->config.backend->device,
             pool->why);
    return SCISSOR_EDEVICELOST;
}

const char *admission_why_not_kept(int code) {
    return code == SCISSOR_ELIMIT        ? "the store for the daemon's next process has no room for the session"
           : code == SCISSOR_ESYSTEM     ? "the store for the daemon's next process did not take the session"
           : code == SCISSOR_EDEVICELOST ? "the device failed while the session was opening"
                                         : "the machine has no memory for the session";
}

/* Limits on numbers, not on memory. NULL, or why not. */
static const char *over_limit(const struct broker *b, const struct broker_peer *peer) {
    if (b->session_count >= b->config.sessions_max)
        return "the daemon has as many sessions as it may have";
    if (peer->sessions >= b->config.sessions_per_peer_max)
        return "the connection has as many sessions as it may have";
    return NULL;
}

static void admit_or_wait(struct broker *b, struct session *s, uint64_t now) {
    struct pool *pool = s->pool;
    int asked = pool_ask(pool, s->guaranteed_cost);
    bool behind = pool->queue != NULL;
    if (asked == 0 && !behind) {
        admit(b, s);
        return;
    }
    if (s->guaranteed_cost > pool->target || pool->waiting >= b->config.open_queue_max ||
        (behind && s->deadline <= now)) {
        refuse_memory(b, s, s->guaranteed_cost > pool->target ? POOL_FULL : asked);
        return;
    }
    enqueue(s);
    admission_pump(b, pool, now);
}

/* What the session's next owner has to know of its client and of its shape. 0, or why it cannot be kept. */
static int keep(struct broker_peer *peer, struct session *s, char *why, size_t why_bytes) {
    int code = 0;
    for (uint32_t i = 0; i < s->group_count; i++) /* the default may be another one then */
        proto_text_set(s->keep->open.groups[i].policy, sizeof s->keep->open.groups[i].policy,
                       s->groups[i].policy.class->name);
    if (!peer->process && peer->pidfd >= 0)
        peer->process = keep_process_new(s->keep->keeper, peer->pidfd, &code);
    if (peer->process)
        s->keep->process = keep_process_ref(peer->process);
    if (code < 0)
        snprintf(why, why_bytes, "%s", admission_why_not_kept(code));
    return code;
}

void admission_open(struct broker *b, struct broker_peer *peer, uint32_t request, const struct proto_open *open,
                    uint64_t now) {
    char why[PROTO_TEXT_BYTES];
    if (reattach_open(b, peer, request, open, now))
        return;
    const char *limit = over_limit(b, peer);
    if (b->draining || limit) {
        int code = b->draining ? SCISSOR_DRAINING : SCISSOR_ELIMIT;
        send_failed(b, peer, request, 0, code, "%s",
                    b->draining ? "the daemon is draining and takes no new sessions" : limit);
        b->pools[0].refused++;
        return;
    }
    struct pool *pool = choose_pool(b, peer, open);
    bool keeps = pool && pool->keeps;
    struct session *s = scissor_calloc(1, sizeof *s);
    if (s && keeps && !(s->keep = keep_new(&b->keeper, open)))
        s = scissor_free(s);
    if (!s) {
        send_failed(b, peer, request, 0, SCISSOR_ENOMEM, "the daemon has no memory for the session");
        return;
    }
    int code = admission_check(b, open, s, why, sizeof why);
    if (code == 0)
        code = check_device(peer, pool, open->storage_dtype, why, sizeof why);
    if (code == 0 && keeps)
        code = keep(peer, s, why, sizeof why);
    if (code == 0 && broker_random(b, s->token, sizeof s->token) < 0) {
        code = SCISSOR_ESYSTEM;
        snprintf(why, sizeof why, "no random numbers for the session's token");
    }
    if (code < 0) {
        send_failed(b, peer, request, 0, code, "%s", why);
        session_drop_keep(s);
        scissor_free(s);
        return;
    }
    s->peer = peer;
    s->client_pidfd = -1;
    s->pid = (uint32_t)peer->pid;
    s->uid = (uint32_t)peer->uid;
    s->pool = pool;
    s->state = PROTO_SESSION_OPENING;
    s->asked = (struct session_request){.type = PROTO_OPEN, .number = request};
    s->deadline = now + open->wait_ms * 1000000ull;
    s->last_ns = s->opened_ns = now;
    session_insert(b, s);
    admit_or_wait(b, s, now);
}
