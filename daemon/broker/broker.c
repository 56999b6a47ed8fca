/* broker.c - see broker.h: the broker as a whole, its peers, packets in, time, and the queue of actions. */
#include <assert.h>
#include <string.h>
#include <unistd.h>
#include <utlist.h>

#include "alloc.h"
#include "internal.h"

void broker_config_init(struct broker_config *config) {
    *config = (struct broker_config){
        .score_wait_ns = 200000000,
        .open_queue_max = 64,
        .sessions_max = 1024,
        .sessions_per_peer_max = 256,
        .default_policy = "pivotal",
    };
}

/* SplitMix64: for simulators, which must be repeatable; a daemon brings its own source. */
static uint64_t pseudo_random(uint64_t *state) {
    uint64_t z = (*state += 0x9e3779b97f4a7c15ull);
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
}

int broker_random(struct broker *b, void *bytes, size_t size) {
    if (b->config.random)
        return b->config.random(bytes, size);
    for (size_t at = 0; at < size; at += sizeof(uint64_t)) {
        uint64_t value = pseudo_random(&b->random_state);
        memcpy((char *)bytes + at, &value, size - at < sizeof value ? size - at : sizeof value);
    }
    return 0;
}

static int config_check(const struct broker_config *c) {
    if (c->pool_count < 1 || c->pool_count > BROKER_MAX_POOLS || c->sessions_max < 1 || !c->default_policy ||
        !policy_lookup(c->default_policy))
        return SCISSOR_EINVAL;
    for (uint32_t i = 0; i < c->pool_count; i++)
        if (!c->pools[i].backend || !c->pools[i].name || c->pools[i].limit_bytes > UINT64_MAX / 4)
            return SCISSOR_EINVAL;
    return 0;
}

/* Memory that belongs to a process alone ends with it. */
static bool can_keep(const struct broker_config *c, const struct pool *pool) {
    return c->store && c->store->max > 0 && pool->config.backend->segment_adopt && pool->host->segment_adopt;
}

int broker_new(const struct broker_config *config, struct broker **ret_broker) {
    int code = config_check(config);
    if (code < 0)
        return code;
    struct broker *b = scissor_calloc(1, sizeof *b);
    if (!b)
        return SCISSOR_ENOMEM;
    b->config = *config;
    b->random_state = config->seed;
    b->bucket_count = 1;
    while (b->bucket_count < config->sessions_max)
        b->bucket_count *= 2;
    b->buckets = scissor_calloc(b->bucket_count, sizeof *b->buckets);
    code = b->buckets ? broker_random(b, &b->epoch, sizeof b->epoch) : SCISSOR_ENOMEM;
    if (code < 0) {
        scissor_free(b->buckets);
        scissor_free(b);
        return code;
    }
    b->keeper.next = 1;
    b->pool_count = config->pool_count;
    for (uint32_t i = 0; i < b->pool_count; i++) {
        pool_init(&b->pools[i], &config->pools[i], i);
        b->pools[i].keeps = can_keep(config, &b->pools[i]);
        if (b->pools[i].keeps)
            b->keeper.store = config->store;
    }
    *ret_broker = b;
    return 0;
}

int broker_reconfigure(struct broker *b, const struct broker_config *config) {
    const struct policy_class *policy = config->default_policy ? policy_lookup(config->default_policy) : NULL;
    if (!policy || config->sessions_max < 1)
        return SCISSOR_EINVAL;
    b->config.score_wait_ns = config->score_wait_ns;
    b->config.open_queue_max = config->open_queue_max;
    b->config.sessions_max = config->sessions_max;
    b->config.sessions_per_peer_max = config->sessions_per_peer_max;
    b->config.default_policy = policy->name;
    b->config.reclaim = config->reclaim;
    b->config.orphan_wait_ns = config->orphan_wait_ns;
    return 0;
}

struct broker *broker_free(struct broker *b) {
    if (!b)
        return NULL;
    quarantine_abandon(b);
    assert(!b->peers && !b->sessions && b->session_jobs == 0);
    for (uint32_t i = 0; i < b->pool_count; i++) {
        const struct pool *pool = &b->pools[i];
        assert(pool->charged == 0 && pool->committed == 0 && pool->guaranteed == 0 && pool->accounts == 0);
        assert(pool->segments == 0 && !pool->queue);
        (void)pool;
    }
    action_list_clear(&b->actions);
    action_free(b->taken);
    scissor_free(b->values);
    scissor_free(b->buckets);
    return scissor_free(b);
}

static void clock_seen(struct broker *b, uint64_t now) {
    if (b->started_ns == 0)
        b->started_ns = now;
}

/* ---------- peers ---------- */

int broker_peer_new(struct broker *b, pid_t pid, uid_t uid, gid_t gid, int pidfd, struct broker_peer **ret_peer) {
    struct broker_peer *peer = scissor_calloc(1, sizeof *peer);
    if (!peer)
        return SCISSOR_ENOMEM;
    peer->pid = pid;
    peer->uid = uid;
    peer->gid = gid;
    peer->pidfd = pidfd;
    DL_APPEND(b->peers, peer);
    *ret_peer = peer;
    return 0;
}

void broker_peer_gone(struct broker *b, struct broker_peer *peer, uint64_t now) {
    struct session *s, *next;
    clock_seen(b, now);
    peer->hung_up = true; /* nothing is said to it any more */
    record_stop(b, peer);
    action_list_drop_peer(&b->actions, peer);
    DL_FOREACH_SAFE(b->sessions, s, next) {
        if (s->peer != peer)
            continue;
        quarantine_know_process(s, peer);
        s->peer = NULL;
        session_end(b, s, PROTO_REASON_DEATH, now);
    }
    DL_FOREACH_SAFE(peer->ended, s, next)
    session_forget(b, s);
    DL_DELETE(b->peers, peer);
    if (peer->pidfd >= 0)
        close(peer->pidfd);
    keep_process_unref(peer->process);
    scissor_free(peer);
    for (uint32_t i = 0; i < b->pool_count; i++)
        admission_pump(b, &b->pools[i], now);
}

void broker_peer_set_data(struct broker_peer *peer, void *data) {
    peer->data = data;
}

void *broker_peer_data(const struct broker_peer *peer) {
    return peer->data;
}

/* ---------- packets in ---------- */

/* Says why, as the last words. */
static void break_off(struct broker *b, struct broker_peer *peer, uint32_t request, int code, const char *why) {
    send_failed(b, peer, request, 0, code, "%s", why);
    peer_hang_up(b, peer);
}

/* The score socket with the fewest peers that may send scores (not tools, which came for a pass); among equals the one
 * that was left alone for longest, so that who connects again and again does not meet the frames that it (or a flooder)
 * has left behind. */
static uint32_t choose_score_socket(struct broker *b) {
    uint32_t loads[PROTO_SCORE_SOCKETS] = {0}, best = PROTO_SCORE_SOCKETS;
    for (const struct broker_peer *peer = b->peers; peer; peer = peer->next)
        loads[peer->score_socket] += peer->greeted && (!peer->has_pass || peer->sessions);
    for (uint32_t i = 0; i < PROTO_SCORE_SOCKETS; i++) {
        uint32_t n = (b->next_score_socket + i) % PROTO_SCORE_SOCKETS;
        if (best == PROTO_SCORE_SOCKETS || loads[n] < loads[best])
            best = n;
    }
    b->next_score_socket = best + 1;
    return best;
}

/* What both can do. */
static uint32_t common_capabilities(const struct broker *b, const struct broker_peer *peer) {
    uint32_t can = PROTO_CAP_HOST | (b->keeper.store ? PROTO_CAP_KEEP : 0);
    for (uint32_t i = 0; i < b->pool_count; i++)
        can |= b->pools[i].config.backend->streams ? PROTO_CAP_CUDA : 0;
    return can & peer->capabilities;
}

static void hello(struct broker *b, struct broker_peer *peer, uint32_t request, const struct proto_hello *hello,
                  uint64_t now) {
    if (hello->major != PROTO_VERSION_MAJOR) {
        send_failed(b, peer, request, 0, SCISSOR_EVERSION, "this daemon speaks protocol %u.%u, the client %u.%u",
                    PROTO_VERSION_MAJOR, PROTO_VERSION_MINOR, hello->major, hello->minor);
        peer_hang_up(b, peer);
        return;
    }
    if (!(hello->capabilities & PROTO_CAP_HOST)) {
        break_off(b, peer, request, SCISSOR_EPROTO, "the client cannot receive descriptors (capability host)");
        return;
    }
    peer->capabilities = hello->capabilities;
    peer->score_socket = choose_score_socket(b);
    struct proto_welcome welcome = {.major = PROTO_VERSION_MAJOR,
                                    .minor = PROTO_VERSION_MINOR,
                                    .capabilities = common_capabilities(b, peer),
                                    .epoch = b->epoch,
                                    .pool_count = b->pool_count,
                                    .score_frame_max = PROTO_SCORE_MAX,
                                    .score_socket = peer->score_socket};
    proto_text_set(welcome.version, sizeof welcome.version, SCISSOR_VERSION);
    peer->greeted = true;
    orphans_process_back(b, peer, now);
    send_packet(b, peer, PROTO_WELCOME, request, &welcome);
}

static void dispatch(struct broker *b, struct broker_peer *peer, const struct proto_header *header, const void *packet,
                     uint64_t now) {
    const void *body = proto_attach_body(packet);
    if (header->type == PROTO_HELLO) {
        struct proto_hello h;
        memcpy(&h, body, sizeof h);
        hello(b, peer, header->request, &h, now);
    } else if (header->type == PROTO_OPEN) {
        struct proto_open open;
        memcpy(&open, body, sizeof open);
        admission_open(b, peer, header->request, &open, now);
    } else if (header->type == PROTO_PASS) {
        pass_give(b, peer, header->request);
    } else if (header->type == PROTO_REATTACH) {
        struct proto_reattach reattach;
        memcpy(&reattach, body, sizeof reattach);
        reattach_arrived(b, peer, header->request, &reattach, now);
    } else if (header->type == PROTO_RECORD) {
        struct proto_record record;
        memcpy(&record, body, sizeof record);
        record_begin(b, peer, header->request, &record);
    } else if (header->type == PROTO_RECORD_READ) {
        struct proto_record_read read;
        memcpy(&read, body, sizeof read);
        record_read(peer, &read);
    } else {
        request_arrived(b, peer, header, body, proto_attach_entries(packet), now);
    }
}

void broker_peer_message(struct broker *b, struct broker_peer *peer, const void *packet, size_t size, uint64_t now) {
    struct proto_header header;
    const char *why;

    clock_seen(b, now);
    if (peer->hung_up)
        return;
    if (proto_attach_check(packet, size, 'C', &why) < 0) {
        break_off(b, peer, 0, SCISSOR_EPROTO, why);
        return;
    }
    memcpy(&header, packet, sizeof header);
    if (peer->greeted == (header.type == PROTO_HELLO))
        break_off(b, peer, header.request, SCISSOR_EPROTO,
                  peer->greeted ? "a second HELLO" : "the first message must be HELLO");
    else if (header.request == 0 && header.type != PROTO_HELLO && header.type != PROTO_RELEASED &&
             header.type != PROTO_RECORD_READ)
        break_off(b, peer, 0, SCISSOR_EPROTO, "a request needs a number other than 0");
    else
        dispatch(b, peer, &header, packet, now);
}

/* ---------- the daemon as a whole ---------- */

void broker_front_restarted(struct broker *b, uint64_t now) {
    clock_seen(b, now);
    b->front_restarts++;
    send_event(b, &(struct proto_event){.type = PROTO_EVENT_FRONT_RESTARTED});
}

void broker_drain(struct broker *b, uint64_t now) {
    clock_seen(b, now);
    if (b->draining)
        return;
    b->draining = true;
    send_event(b, &(struct proto_event){.type = PROTO_EVENT_DRAINING});
    admission_drain(b, now);
}

void broker_close_all(struct broker *b, uint64_t now) {
    struct session *s, *next;
    clock_seen(b, now);
    b->process_ends = true;
    DL_FOREACH_SAFE(b->sessions, s, next)
    if (!s->ending)
        session_end(b, s, PROTO_REASON_OPERATOR, now);
}

static void tick_waiting(struct broker *b, uint64_t now) {
    while (b->waiting && b->waiting->deadline <= now)
        settle_start(b, b->waiting, true, now);
}

void broker_tick(struct broker *b, uint64_t now) {
    struct session *s, *next;
    clock_seen(b, now);
    tick_waiting(b, now);
    growth_tick(b, now);
    orphans_tick(b, now);
    quarantine_tick(b, now);
    if (b->polite)
        DL_FOREACH_SAFE(b->sessions, s, next)
    if (s->end_retry && s->end_retry <= now)
        session_retry_close(b, s, now);
    for (uint32_t i = 0; i < b->pool_count; i++) {
        arbiter_tick(b, &b->pools[i], now);
        admission_pump(b, &b->pools[i], now);
    }
}

static uint64_t pool_deadline(const struct broker *b, const struct pool *pool) {
    uint64_t queue = admission_deadline(pool);
    uint64_t retry = arbiter_deadline(b, pool);
    return queue < retry ? queue : retry;
}

static uint64_t work_deadline(const struct broker *b) {
    uint64_t first = b->waiting ? b->waiting->deadline : UINT64_MAX;
    const struct session *s;
    if (b->growing && b->growing->deadline < first)
        first = b->growing->deadline;
    if (b->polite)
        DL_FOREACH(b->sessions, s)
    if (s->end_retry && s->end_retry < first)
        first = s->end_retry;
    for (uint32_t i = 0; i < b->pool_count; i++) {
        uint64_t deadline = pool_deadline(b, &b->pools[i]);
        if (deadline < first)
            first = deadline;
    }
    uint64_t orphans = orphans_deadline(b);
    return orphans < first ? orphans : first;
}

uint64_t broker_deadline(const struct broker *b) {
    uint64_t work = work_deadline(b), quarantine = quarantine_deadline(b);
    return work < quarantine ? work : quarantine;
}

bool broker_is_quiet(const struct broker *b) {
    return work_deadline(b) == UINT64_MAX;
}

uint32_t broker_session_count(const struct broker *b) {
    return b->session_count;
}

/* ---------- actions ---------- */

bool broker_action_next(struct broker *b, struct broker_action *ret) {
    b->taken = action_free(b->taken);
    struct action *action = b->actions;
    if (!action)
        return false;
    DL_DELETE(b->actions, action);
    *ret = (struct broker_action){.type = action->type,
                                  .peer = action->peer,
                                  .job = action->job,
                                  .cookie = action->cookie,
                                  .pid = action->pid,
                                  .bytes = action->bytes,
                                  .size = action->size,
                                  .fd_count = action->fd_count};
    for (uint32_t i = 0; i < action->fd_count; i++) {
        ret->fds[i] = action->fds[i];
        action->fds[i] = -1; /* the caller's now */
    }
    action->queued = false;
    b->taken = action->embedded ? NULL : action;
    return true;
}
