/* rig.c - see rig.h. */
#include "rig.h"
#include "recorded.h"
#include "trace.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define MUST(condition)                                                          \
    do {                                                                         \
        if (!(condition)) {                                                      \
            fprintf(stderr, "rig: %s:%d: %s\n", __FILE__, __LINE__, #condition); \
            abort();                                                             \
        }                                                                        \
    } while (0)

/* The broker's question has no context. */
static struct rig *current;

static bool process_gone(pid_t pid, int pidfd) {
    (void)pidfd;
    for (int i = 0; i < RIG_PEERS; i++)
        if (current->peers[i].pid == pid)
            return !current->peers[i].handle && !current->peers[i].lingers;
    return true;
}

void rig_init(struct rig *r, uint64_t pool_bytes, bool revocable) {
    memset(r, 0, sizeof *r);
    current = r;
    fake_backend_init(&r->device, revocable);
    fake_backend_init(&r->host, true);
    r->host.descriptors = true;
    broker_config_init(&r->config);
    r->config.pools[0] = (struct broker_pool_config){
        .name = "fake", .backend = &r->device.base, .host = &r->host.base, .limit_bytes = pool_bytes};
    r->config.pool_count = 1;
    r->config.seed = 1;
    r->config.owner_uid = RIG_OWNER_UID;
    r->config.process_gone = process_gone;
    r->pidfd = -1;
    r->now = 1000000000;
    for (int i = 0; i < RIG_SESSIONS; i++)
        r->sessions[i].peer = -1;
    MUST(broker_new(&r->config, &r->broker) == 0);
}

void rig_add_gpu(struct rig *r, uint64_t gpu_bytes) {
    fake_device_init(&r->gpu);
    r->config.pools[r->config.pool_count++] = (struct broker_pool_config){
        .name = "gpu", .backend = &r->gpu.base, .host = &r->host.base, .limit_bytes = gpu_bytes};
}

void rig_init_gpu(struct rig *r, uint64_t pool_bytes, uint64_t gpu_bytes) {
    rig_init(r, pool_bytes, true);
    r->broker = broker_free(r->broker);
    rig_add_gpu(r, gpu_bytes);
    MUST(broker_new(&r->config, &r->broker) == 0);
}

void rig_init_kept(struct rig *r, uint64_t pool_bytes, struct fake_store *store, bool real) {
    rig_init(r, pool_bytes, true);
    r->broker = broker_free(r->broker);
    r->store = store;
    r->real = real;
    r->device.kept = r->host.kept = true;
    r->config.store = &store->base;
    r->config.orphan_wait_ns = 1000000000;
    if (real)
        r->config.pools[0].backend = r->config.pools[0].host = kernel_host_backend("reference");
    MUST(broker_new(&r->config, &r->broker) == 0);
}

void rig_deinit(struct rig *r) {
    for (int i = 0; i < RIG_PEERS; i++) {
        rig_disconnect(r, i);
        rig_exit(r, i);
    }
    rig_jobs(r);
    rig_pass(r, 1000000000);
    rig_jobs(r);
    broker_check(r->broker);
    r->broker = broker_free(r->broker);
    MUST(r->device.segments == 0 && r->host.segments == 0 && (r->gpu.segments == 0 || r->gpu.lost));
    MUST(r->device.bytes == 0 && r->host.bytes == 0 && r->gpu.fences == 0);
    if (r->gpu.base.name)
        fake_device_end(&r->gpu);
    MUST(r->gpu.segments == 0 && r->gpu.bytes == 0);
}

/* ---------- clients ---------- */

/* What a client has of a descriptor: a mapping of its own, or, of fake memory, the memory itself. */
static void *map(const struct rig *r, int fd, size_t bytes, bool writable) {
    if (!r->real)
        return fake_descriptor_address(fd);
    void *memory = mmap(NULL, bytes, PROT_READ | (writable ? PROT_WRITE : 0), MAP_SHARED, fd, 0);
    MUST(memory != MAP_FAILED);
    return memory;
}

static void unmap(const struct rig *r, const void *memory, size_t bytes) {
    if (r->real && memory)
        munmap((void *)memory, bytes);
}

static void forget_memory(const struct rig *r, struct rig_session *s) {
    for (int i = 0; i < RIG_IDS; i++)
        unmap(r, s->segment[i], SCISSOR_SEGMENT_BYTES);
    memset(s->segment, 0, sizeof s->segment);
}

static void forget_session(const struct rig *r, struct rig_session *s) {
    forget_memory(r, s);
    unmap(r, s->control, s->control_bytes);
    unmap(r, s->lease, PROTO_LEASE_BYTES);
    s->peer = -1;
}

/* Its process may live on with all that it has open on the gpu. */
static void forget_peer(struct rig *r, int peer) {
    struct rig_peer *p = &r->peers[peer];
    for (int i = 0; i < RIG_SESSIONS; i++)
        if (r->sessions[i].peer == peer)
            forget_session(r, &r->sessions[i]);
    *p = (struct rig_peer){.pid = p->pid, .processes = p->processes, .lingers = p->lingers};
}

/* The next one in its place is another one. */
static void forget_process(struct rig *r, int peer) {
    fake_device_exit(&r->gpu, r->peers[peer].pid);
    r->peers[peer].lingers = false;
    if (!broker_waits_for_processes(r->broker))
        return; /* nobody asks, and tests of restarts want it back */
    r->peers[peer].pid = 0;
    r->peers[peer].processes++;
}

static struct rig_session *session_by_request(struct rig *r, int peer, uint32_t request) {
    for (int i = 0; request && i < RIG_SESSIONS; i++)
        if (r->sessions[i].peer == peer && r->sessions[i].request == request)
            return &r->sessions[i];
    return NULL;
}

static struct rig_session *session_by_id(struct rig *r, int peer, uint64_t id) {
    for (int i = 0; i < RIG_SESSIONS; i++)
        if (r->sessions[i].peer == peer && r->sessions[i].opened && r->sessions[i].id == id)
            return &r->sessions[i];
    return NULL;
}

static void on_grow(struct rig *r, struct rig_session *s, const struct proto_header *h,
                    const struct proto_segment *entries, const struct broker_action *a) {
    MUST(s && (!r->real || a->fd_count == h->count));
    for (uint32_t i = 0; i < h->count; i++) {
        MUST(entries[i].id < RIG_IDS && !s->segment[entries[i].id]);
        for (uint32_t k = 0; k < s->release_count; k++)
            MUST(s->release[k] != entries[i].id);
        s->segment[entries[i].id] =
            r->real ? map(r, a->fds[i], SCISSOR_SEGMENT_BYTES, entries[i].kind == PROTO_SEGMENT_FRESH)
                    : fake_handle_address(entries[i].handle);
        fake_device_open(&r->gpu, s->segment[entries[i].id], r->peers[s->peer].pid);
        fake_device_order(&r->gpu, s->segment[entries[i].id], s->fence);
    }
}

static void on_shrink(const struct rig *r, struct rig_session *s, const struct proto_header *h,
                      const struct proto_segment_id *ids) {
    MUST(s);
    for (uint32_t i = 0; i < h->count; i++) {
        MUST(ids[i].id < RIG_IDS && s->segment[ids[i].id]);
        unmap(r, s->segment[ids[i].id], SCISSOR_SEGMENT_BYTES);
        s->releasing[s->release_count] = s->segment[ids[i].id];
        s->segment[ids[i].id] = NULL;
        if (s->fence || !r->device.base.revocable)
            s->release[s->release_count++] = ids[i].id;
    }
}

static void on_opened(struct rig *r, struct rig_session *s, const struct proto_opened *o,
                      const struct broker_action *a) {
    MUST(s && !s->opened && s->segment[o->fresh_segments - 1] && !s->segment[o->fresh_segments]);
    MUST(a->fd_count == 2);
    s->opened = true;
    s->request = 0;
    s->id = o->session;
    s->fresh_rows = o->fresh_rows;
    s->control_bytes = o->control_bytes;
    s->control = map(r, a->fds[0], o->control_bytes, false);
    s->lease = map(r, a->fds[1], o->lease_bytes, true);
    memcpy(s->token, o->token, sizeof s->token);
    memcpy(s->scores, o->groups, sizeof s->scores);
    s->code = SCISSOR_OK;
    s->fence = fake_handle_fence(o->events[0]);
    MUST((s->fence != NULL) == (strcmp(o->device, "cuda:GPU-fake") == 0));
    for (uint32_t i = 0; i < o->fresh_segments; i++)
        fake_device_order(&r->gpu, s->segment[i], s->fence);
}

static void on_settled(struct rig_session *s, const struct proto_settled *settled) {
    MUST(s && s->asked && settled->generation == s->control->generation);
    s->settled = *settled;
    s->tokens += s->asked;
    s->asked = 0;
    s->request = 0;
    s->code = SCISSOR_OK;
}

/* Whatever was asked on the old connection has no other answer. */
static void on_reattached(struct rig_session *s, const struct proto_reattached *reattached) {
    MUST(s && s->reattaching && reattached->session == s->id);
    MUST(reattached->tokens_seen == s->tokens || (s->asked && reattached->tokens_seen == s->tokens + s->asked));
    MUST(reattached->generation == s->control->generation);
    uint32_t segments = 0;
    for (int i = 0; i < RIG_IDS; i++)
        segments += s->segment[i] != NULL;
    MUST(segments == reattached->segments);
    s->reattached = *reattached;
    s->reattaching = false;
    s->tokens = reattached->tokens_seen;
    s->asked = s->request = 0;
    s->code = SCISSOR_OK;
}

static void on_closed(const struct rig *r, struct rig_session *s, const struct proto_header *h,
                      const struct proto_closed *closed) {
    int news = s && s->fence && r->gpu.lost ? SCISSOR_EDEVICELOST : SCISSOR_ECLOSED;
    MUST(s && closed->code == (h->request ? SCISSOR_OK : news));
    s->code = closed->code;
    if (h->request) {
        forget_session(r, s);
        return;
    }
    s->closed = true;
    MUST(__atomic_load_n(&s->lease->word, __ATOMIC_RELAXED) <= PROTO_LEASE_DAEMON); /* the pages are still there */
}

static void on_positions(struct rig_session *s, const struct proto_header *h, const struct proto_positions_are *head,
                         const uint32_t *positions) {
    MUST(s && head->first_slot + h->count <= head->total);
    s->positions_head = *head;
    s->position_count = h->count;
    memcpy(s->positions, positions, h->count * sizeof *positions);
    s->request = 0;
    s->code = SCISSOR_OK;
}

static void on_failed(struct rig *r, int peer, struct rig_session *s, const struct proto_failed *f) {
    MUST(memchr(f->text, 0, sizeof f->text) && f->code != 0);
    r->peers[peer].code = f->code;
    memcpy(r->peers[peer].text, f->text, sizeof f->text);
    if (!s)
        return;
    s->code = f->code;
    r->early_settles += s->asked && f->code == SCISSOR_ESTATE;
    s->request = s->asked = 0;
    s->doomed |= f->code == SCISSOR_ECLOSED || f->code == SCISSOR_ESYSTEM || f->code == SCISSOR_EDEVICELOST;
    if (!s->opened || s->reattaching)
        forget_session(r, s);
}

static void on_recorded(struct rig *r, const struct proto_recorded *part, const void *entries, uint32_t count) {
    MUST(part->offset + count <= part->bytes);
    r->recorded.bytes += count;
    if (part->offset + count < part->bytes)
        return;
    if (part->number == 0) /* a new recording */
        r->recorded.next = 0;
    r->recorded.records++;
    r->recorded.lost += part->number - r->recorded.next;
    r->recorded.next = part->number + 1;
    r->recorded.type = part->type;
    if (part->type == TRACE_STATE && part->offset == 0)
        r->recorded.whole = ((const struct trace_state *)entries)->whole;
    else if (part->type == TRACE_STATE)
        r->recorded.whole = true; /* only these are so long */
}

static void deliver(struct rig *r, int peer, const struct broker_action *a) {
    struct proto_header h;
    const char *why;
    MUST(proto_attach_check(a->bytes, a->size, 'D', &why) == 0);
    memcpy(&h, a->bytes, sizeof h);
    union {
        struct proto_failed failed;
        struct proto_opened opened;
        struct proto_settled settled;
        struct proto_closed closed;
        struct proto_positions_are positions;
        struct proto_pass_is pass;
        struct proto_welcome welcome;
        struct proto_reattached reattached;
        struct proto_recorded recorded;
        uint64_t session;
    } body;
    memcpy(&body, proto_attach_body(a->bytes), proto_attach_lookup(h.type)->body_bytes);
    const void *entries = proto_attach_entries(a->bytes);
    struct rig_session *asked = session_by_request(r, peer, h.request), *named = session_by_id(r, peer, body.session);

    switch (h.type) {
    case PROTO_WELCOME:
        r->peers[peer].welcome = true;
        r->peers[peer].capabilities = body.welcome.capabilities;
        break;
    case PROTO_FAILED:
        on_failed(r, peer, asked, &body.failed);
        break;
    case PROTO_PASS_IS:
        MUST(h.request == r->last_request);
        r->peers[peer].pass = body.pass;
        break;
    case PROTO_OPENED:
        on_opened(r, asked, &body.opened, a);
        break;
    case PROTO_SETTLED:
        on_settled(asked, &body.settled);
        break;
    case PROTO_GROW:
        on_grow(r, asked, &h, entries, a);
        break;
    case PROTO_SHRINK:
        on_shrink(r, named, &h, entries);
        break;
    case PROTO_CLOSED:
        on_closed(r, h.request ? asked : named, &h, &body.closed);
        break;
    case PROTO_REATTACHED:
        on_reattached(asked, &body.reattached);
        break;
    case PROTO_RECORDED:
        on_recorded(r, &body.recorded, entries, h.count);
        if (r->recorders)
            recorded_take(&r->recorders[peer], &body.recorded, entries, h.count);
        break;
    case PROTO_POSITIONS_ARE:
        on_positions(asked, &h, &body.positions, entries);
        break;
    default:
        MUST(false);
    }
}

/* ---------- the loop ---------- */

static int peer_of(const struct rig *r, const struct broker_peer *handle) {
    int peer = (int)((struct rig_peer *)broker_peer_data(handle) - r->peers);
    MUST(peer >= 0 && peer < RIG_PEERS && r->peers[peer].handle == handle);
    return peer;
}

static void on_event(struct rig *r, const struct broker_action *a) {
    struct proto_event event;
    MUST(proto_event_check(a->bytes, a->size) == 0);
    memcpy(&event, a->bytes, sizeof event);
    MUST(event.type < 16);
    r->events[event.type]++;
    if (event.type == PROTO_EVENT_EVICTED)
        r->evicted_events += event.rows;
}

static void on_answer(struct rig *r, const struct broker_action *a) {
    MUST(a->size >= sizeof r->answer && a->size <= PROTO_ANSWER_MAX);
    memcpy(&r->answer, a->bytes, sizeof r->answer);
    memcpy(r->answer_entries, (const char *)a->bytes + sizeof r->answer, a->size - sizeof r->answer);
    r->answers++;
}

void rig_act(struct rig *r) {
    struct broker_action a;
    while (broker_action_next(r->broker, &a)) {
        switch (a.type) {
        case BROKER_ACTION_SEND:
            deliver(r, peer_of(r, a.peer), &a);
            break;
        case BROKER_ACTION_HANGUP: {
            int peer = peer_of(r, a.peer);
            r->hangups++;
            r->peers[peer].lingers = r->gpu.base.name != NULL;
            r->peers[peer].handle = NULL;
            broker_peer_gone(r->broker, a.peer, r->now);
            forget_peer(r, peer);
            if (!r->peers[peer].lingers)
                forget_process(r, peer);
            break;
        }
        case BROKER_ACTION_JOB:
            MUST(r->job_count < RIG_JOBS);
            r->jobs[r->job_count++] = a.job;
            break;
        case BROKER_ACTION_ANSWER:
            on_answer(r, &a);
            break;
        case BROKER_ACTION_EVENT:
            on_event(r, &a);
            break;
        }
        for (uint32_t i = 0; i < a.fd_count; i++)
            if (a.fds[i] >= 0) {
                close(a.fds[i]);
                r->descriptors++;
            }
    }
}

void rig_job(struct rig *r, uint32_t index) {
    struct broker_job *job = r->jobs[index];
    memmove(&r->jobs[index], &r->jobs[index + 1], (--r->job_count - index) * sizeof *r->jobs);
    broker_job_run(job);
    broker_job_done(r->broker, job, r->now);
    rig_act(r);
}

void rig_jobs(struct rig *r) {
    rig_act(r);
    while (r->job_count)
        rig_job(r, 0);
}

void rig_pass(struct rig *r, uint64_t ns) {
    r->now += ns;
    if (broker_deadline(r->broker) <= r->now)
        broker_tick(r->broker, r->now);
    MUST(broker_deadline(r->broker) > r->now);
    rig_act(r);
}

/* ---------- what clients do ---------- */

void rig_send(struct rig *r, int peer, uint16_t type, uint32_t request, const void *body, const void *entries,
              uint16_t count) {
    static uint8_t packet[PROTO_ATTACH_MAX];
    size_t size = proto_attach_write(packet, sizeof packet, type, request, body, entries, count);
    if (!r->peers[peer].handle)
        return;
    broker_peer_message(r->broker, r->peers[peer].handle, packet, size, r->now);
    rig_act(r);
}

static bool connect_peer(struct rig *r, int peer, uint32_t uid) {
    int pidfd = r->pidfd < 0 ? -1 : fcntl(r->pidfd, F_DUPFD_CLOEXEC, 0);
    if (!r->peers[peer].pid)
        r->peers[peer].pid = 100 + peer + 1000 * (int)r->peers[peer].processes;
    if (broker_peer_new(r->broker, r->peers[peer].pid, uid, uid, pidfd, &r->peers[peer].handle) < 0) {
        if (pidfd >= 0)
            close(pidfd);
        return false;
    }
    r->peers[peer].uid = uid;
    broker_peer_set_data(r->peers[peer].handle, &r->peers[peer]);
    struct proto_hello hello = {
        .major = PROTO_VERSION_MAJOR, .capabilities = PROTO_CAP_HOST | PROTO_CAP_KEEP, .name = "rig"};
    hello.capabilities |= r->no_cuda ? 0 : PROTO_CAP_CUDA;
    rig_send(r, peer, PROTO_HELLO, ++r->last_request, &hello, NULL, 0);
    return r->peers[peer].welcome;
}

/* Neither connected nor waiting to connect again. */
static bool peer_free(const struct rig *r, int peer) {
    for (int i = 0; i < RIG_SESSIONS; i++)
        if (r->sessions[i].peer == peer)
            return false;
    return !r->peers[peer].handle && !r->peers[peer].lingers;
}

int rig_connect_as(struct rig *r, uint32_t uid) {
    int peer = 0;
    while (peer < RIG_PEERS && !peer_free(r, peer))
        peer++;
    return peer < RIG_PEERS && connect_peer(r, peer, uid) ? peer : -1;
}

/* ---------- restarts ---------- */

void rig_take_over(struct rig *r) {
    static struct broker_kept kept[FAKE_STORE_MAX];
    MUST(broker_new(&r->config, &r->broker) == 0);
    size_t count = fake_store_give(r->store, kept);
    broker_take_over(r->broker, kept, count, r->now);
    for (size_t i = 0; i < count; i++)
        MUST(kept[i].fd == -1);
    fake_backend_forget_left(&r->device);
    fake_backend_forget_left(&r->host);
    rig_act(r);
}

void rig_restart(struct rig *r) {
    r->gpu.ending = true;
    r->broker = broker_leave(r->broker);
    r->job_count = 0;
    if (r->gpu.base.name)
        fake_device_end(&r->gpu);
    for (int i = 0; i < RIG_PEERS; i++) {
        r->peers[i].handle = NULL;
        r->peers[i].welcome = false;
    }
    for (int i = 0; i < RIG_SESSIONS; i++)
        if (r->sessions[i].peer >= 0 && (!r->sessions[i].opened || r->sessions[i].closed || r->sessions[i].doomed))
            forget_session(r, &r->sessions[i]);
    rig_take_over(r);
}

void rig_reconnect(struct rig *r, int peer) {
    MUST(!r->peers[peer].handle);
    connect_peer(r, peer, r->peers[peer].uid);
}

void rig_reattach(struct rig *r, int session) {
    struct rig_session *s = &r->sessions[session];
    struct proto_reattach body = {.session = s->id, .score_sequence = s->sequence};
    memcpy(body.token, s->token, sizeof body.token);
    forget_memory(r, s);
    s->request = ++r->last_request;
    s->reattaching = true;
    s->code = 1;
    rig_send(r, s->peer, PROTO_REATTACH, s->request, &body, NULL, 0);
}

int rig_connect(struct rig *r) {
    return rig_connect_as(r, RIG_UID);
}

const uint8_t *rig_ask_pass(struct rig *r, int peer) {
    struct proto_pass body = {0};
    r->peers[peer].pass = (struct proto_pass_is){0};
    rig_send(r, peer, PROTO_PASS, ++r->last_request, &body, NULL, 0);
    return r->peers[peer].pass.pass;
}

const uint8_t *rig_operator(struct rig *r) {
    int peer = rig_connect_as(r, 0);
    MUST(peer >= 0);
    const uint8_t *pass = rig_ask_pass(r, peer);
    MUST(r->peers[peer].pass.operator== 1);
    return pass;
}

void rig_disconnect(struct rig *r, int peer) {
    struct broker_peer *handle = r->peers[peer].handle;
    if (r->peers[peer].lingers)
        return;
    r->peers[peer].handle = NULL;
    fake_device_exit(&r->gpu, r->peers[peer].pid);
    if (handle) /* it may have ended with a broker */
        broker_peer_gone(r->broker, handle, r->now);
    forget_peer(r, peer);
    forget_process(r, peer);
    rig_act(r);
}

void rig_hang_up(struct rig *r, int peer) {
    struct broker_peer *handle = r->peers[peer].handle;
    MUST(handle);
    r->peers[peer].handle = NULL;
    r->peers[peer].lingers = true;
    broker_peer_gone(r->broker, handle, r->now);
    forget_peer(r, peer);
    rig_act(r);
}

void rig_exit(struct rig *r, int peer) {
    if (r->peers[peer].lingers)
        forget_process(r, peer);
}
