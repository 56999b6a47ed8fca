/* device.c - a session on a device: its order with the daemon, appends and attention.
 *
 * Work is queued on a stream of the caller's, or on the backend's own for the calls with host pointers, and done later.
 * Two events of the session say what comes after what; each side records its own and lets its stream wait for the
 * other's:
 *
 *     client's thread       client's stream                    daemon
 *     step_begin            .
 *     append, attend   -->  | wait for the daemon's event,
 *                           | and for the client's own: the
 *                           | step before may have had
 *                           | another stream
 *                           | planes zeroed (a new period)
 *                           | append, attend of each layer
 *     step_end         -->  | record the client's event
 *     (lease given back)    .
 *     settle           -->  | planes to the host
 *                           | record the client's event
 *     waits for it    <-----+
 *     score frames, SETTLE -------------------------------->  sees the client's event reached
 *                           .                                 | settle on the daemon's stream
 *                           .                                 | record the daemon's event
 *     SETTLED  <------------------------------------------    .
 *     step_begin            .                                 | ... may still be at work
 *     append, attend   -->  | wait for the daemon's event
 *
 * So the host waits once a period, for the sums of the scores; what the daemon moves is waited for by the stream only.
 * Whoever unmaps a segment, frees memory or closes an event makes sure before that the client's event is reached, as
 * everything that was queued in steps that have ended is before it. A device may be at work longer than a caller wants
 * to wait; then nothing is unmapped, whatever else has happened to the session. */
#include "device.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "dtype.h"

/* Between two looks at whether the daemon is there still, for whose work the device may be waiting. */
#define DAEMON_LOOK_NS 100000000u
/* When it is not: for work that does not stand behind the daemon's. */
#define DAEMON_GONE_NS 300000000u
/* For work whose end a call without a time-out waits for. */
#define WORK_MOST_NS 10000000000u

static const struct kernel_streams *streams_of(const struct scissor_session *s) {
    return s->backend->streams;
}

/* ---------- failures ---------- */

static int code_of(int error) {
    switch (error) {
    case -ENOMEM:
        return SCISSOR_ENOMEM;
    case -EINVAL:
    case -EOPNOTSUPP:
        return SCISSOR_EINVAL;
    case -ENOTRECOVERABLE:
        return SCISSOR_EDEVICELOST;
    default:
        return SCISSOR_EDEVICE;
    }
}

int scissor__device_fail(struct scissor_session *s, int error) {
    const char *why = kernel_backend_why();
    int code = code_of(error);
    snprintf(s->client->text, sizeof s->client->text, "%.180s", *why ? why : strerror(-error));
    if (code == SCISSOR_EDEVICELOST && !s->failure)
        s->failure = code;
    return code;
}

int scissor__device_import_fail(struct scissor_session *s, int error) {
    return scissor__device_fail(s, error == -EINVAL || error == -EOPNOTSUPP ? -EIO : error);
}

/* scissor__device_fail() without the lock. */
static int fail_unlocked(struct scissor_session *s, int error) {
    pthread_mutex_lock(&s->client->lock);
    int r = scissor__device_fail(s, error);
    pthread_mutex_unlock(&s->client->lock);
    return r;
}

__attribute__((format(printf, 3, 4))) static int refuse(struct scissor_session *s, int code, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    pthread_mutex_lock(&s->client->lock);
    vsnprintf(s->client->text, sizeof s->client->text, format, arguments);
    pthread_mutex_unlock(&s->client->lock);
    va_end(arguments);
    return code;
}

/* ---------- beginning and end ---------- */

/* What a daemon names is the whole of it, so that two names are two devices. */
static struct kernel_backend *device_open(struct scissor_client *client, const char *name, int *ret_code) {
    *ret_code = SCISSOR_EDEVICE;
    if (client->device_count == CLIENT_DEVICES) {
        snprintf(client->text, sizeof client->text, "%s: no more than %u devices for one client", name, CLIENT_DEVICES);
        return NULL;
    }
    struct kernel_backend *b = kernel_backend_open(name, client->text, sizeof client->text);
    if (!b) {
        *ret_code = errno == ENOMEM || errno == ENOTRECOVERABLE ? code_of(-errno) : SCISSOR_EDEVICE;
        return NULL;
    }
    if (strcmp(b->device, name) != 0) {
        *ret_code = SCISSOR_EPROTO;
        return kernel_backend_close(b);
    }
    return client->devices[client->device_count++] = b;
}

static struct kernel_backend *device_find(struct scissor_client *client, const char *name, int *ret_code) {
    for (uint32_t i = 0; i < client->device_count; i++)
        if (strcmp(client->devices[i]->device, name) == 0)
            return client->devices[i];
    return device_open(client, name, ret_code);
}

static uint32_t most_kv_heads(const struct scissor_session *s) {
    uint32_t most = 0;
    for (uint32_t i = 0; i < s->group_count; i++)
        most = s->groups[i].kv_heads > most ? s->groups[i].kv_heads : most;
    return most;
}

int scissor__device_open(struct scissor_session *s, const struct proto_opened *opened) {
    struct kernel_handle events[2] = {{.fd = -1}, {.fd = -1}};
    int r;
    s->backend = device_find(s->client, opened->device, &r);
    if (!s->backend) {
        s->backend = s->client->backend;
        return r;
    }
    s->device = scissor_calloc(1, sizeof *s->device);
    if (!s->device)
        return SCISSOR_ENOMEM;
    s->device->appends = scissor_calloc(most_kv_heads(s), sizeof *s->device->appends);
    if (!s->device->appends)
        return SCISSOR_ENOMEM;
    for (int i = 0; i < 2; i++)
        memcpy(events[i].opaque, opened->events[i], sizeof events[i].opaque);
    r = streams_of(s)->fence_import(s->backend, events, &s->device->fence);
    return r < 0 ? scissor__device_import_fail(s, r) : scissor__watch_start(s->client);
}

bool scissor__device_idle(const struct scissor_session *s) {
    const struct client_device *d = s->device;
    if (d->adrift && !scissor__device_lost(s))
        return false;
    int r = d->fence && !d->idle ? streams_of(s)->fence_wait(s->backend, d->fence, true, 0) : 0;
    return r == 0 || r == -ENOTRECOVERABLE; /* nothing runs any more */
}

/* Its memory has gone with the daemon, and so has the event for which its streams may wait. */
static bool daemon_gone(const struct scissor_session *s) {
    return !s->client->up || s->absent || s->attached_on != s->client->connection;
}

static uint32_t microseconds_until(uint64_t deadline) {
    uint64_t now = scissor__now(), us = now < deadline ? (deadline - now) / 1000 : 0;
    return us < UINT32_MAX ? (uint32_t)us : UINT32_MAX;
}

int scissor__device_wait(struct scissor_session *s, uint64_t deadline) {
    struct scissor_client *client = s->client;
    bool gone = false;
    int r;
    s->busy = true;
    do {
        uint64_t now = scissor__now(), look = now + DAEMON_LOOK_NS;
        if (!gone && daemon_gone(s)) {
            gone = true;
            deadline = deadline < now + DAEMON_GONE_NS ? deadline : now + DAEMON_GONE_NS;
        }
        uint32_t us = microseconds_until(look < deadline ? look : deadline);
        pthread_mutex_unlock(&client->lock);
        r = streams_of(s)->fence_wait(s->backend, s->device->fence, true, us);
        pthread_mutex_lock(&client->lock);
    } while (r == -EAGAIN && scissor__now() < deadline);
    s->busy = false;
    s->device->idle = r == 0;
    if (!client->attached)
        pthread_cond_broadcast(&client->news);
    if (r == 0)
        return 0;
    if (r != -EAGAIN)
        return scissor__device_fail(s, r);
    return gone ? CLIENT_LOST : SCISSOR_ETIMEDOUT;
}

int scissor__device_signal(struct scissor_session *s, void *stream) {
    struct client_device *d = s->device;
    d->idle = false;
    int r = streams_of(s)->fence_signal(s->backend, d->fence, stream);
    if (r < 0)
        r = streams_of(s)->wait(s->backend, stream);
    if (r < 0 && !d->adrift)
        d->adrift_on = stream;
    d->adrift = r < 0 || (d->adrift && d->adrift_on != stream);
    return r;
}

static int signal_step(struct scissor_session *s) {
    return s->device->step == s->step && s->step > 0 ? scissor__device_signal(s, s->device->stream) : 0;
}

int scissor__device_drain(struct scissor_session *s, uint64_t deadline) {
    if (!s->device->fence)
        return 0;
    int r = s->in_step ? signal_step(s) : 0;
    if (s->device->adrift && !scissor__device_lost(s)) {
        snprintf(s->client->text, sizeof s->client->text,
                 "session %llu: the device does not say when its work is done: it stays until the process ends",
                 (unsigned long long)s->id);
        return SCISSOR_EDEVICE;
    }
    if (r < 0 && r != -ENOTRECOVERABLE)
        return scissor__device_fail(s, r);
    r = r == 0 ? scissor__device_wait(s, deadline) : 0;
    return r == SCISSOR_EDEVICELOST ? 0 : r;
}

bool scissor__device_lost(const struct scissor_session *s) {
    return s->device && streams_of(s)->lost(s->backend);
}

bool scissor__device_closed(const struct scissor_session *s) {
    if (scissor__device_lost(s) || streams_of(s)->closed(s->backend))
        return true;
    snprintf(s->client->text, sizeof s->client->text,
             "session %llu: the driver does not close memory on the device: try again, or end the process",
             (unsigned long long)s->id);
    return false;
}

void scissor__device_close(struct scissor_session *s) {
    s->device->fence = streams_of(s)->fence_free(s->backend, s->device->fence);
}

void scissor__device_free(struct scissor_session *s) {
    struct client_device *d = s->device;
    struct kernel_backend *b = s->backend;
    if (!d)
        return;
    for (uint32_t i = 0; i < s->group_count; i++)
        b->streams->memory_free(b, KERNEL_MEMORY_DEVICE, s->groups[i].device_planes);
    b->streams->memory_free(b, KERNEL_MEMORY_DEVICE, d->workspace);
    b->streams->memory_free(b, KERNEL_MEMORY_PINNED, d->rows.memory);
    b->streams->memory_free(b, KERNEL_MEMORY_PINNED, d->vectors.memory);
    scissor_free(d->appends);
    s->device = scissor_free(d);
}

int scissor__device_step_end(struct scissor_session *s) {
    int r = signal_step(s);
    if (r == 0)
        return 0;
    r = scissor__device_fail(s, r);
    if (!s->failure) /* nobody could tell any more when this step's work is done */
        s->failure = r;
    return r;
}

int scissor__device_collect(struct scissor_session *s, uint64_t deadline) {
    int r = scissor__device_planes_queue_fetch(s, s->device->settle_stream);
    if (r < 0)
        return scissor__device_fail(s, r);
    r = scissor__device_wait(s, deadline);
    if (r == 0)
        scissor__device_planes_fetched(s);
    return r;
}

/* Waits until all is done that is on the stream of an open step. Where the daemon has died meanwhile, the code is the
 * connection's. */
static int wait_for_stream(struct scissor_session *s, void *stream) {
    struct scissor_client *client = s->client;
    int r = streams_of(s)->fence_follow(s->backend, s->device->fence, true, stream);
    if (r == 0)
        r = scissor__device_signal(s, stream);
    r = r < 0 ? scissor__device_fail(s, r) : scissor__device_wait(s, scissor__now() + WORK_MOST_NS);
    if (r == SCISSOR_ETIMEDOUT) {
        snprintf(client->text, sizeof client->text, "session %llu: the device's work does not end",
                 (unsigned long long)s->id);
        return SCISSOR_EDEVICE;
    }
    if (r != CLIENT_LOST)
        return r;
    r = scissor__client_recover(client, scissor__client_deadline(client));
    return s->failure ? s->failure : r ? r : SCISSOR_EGONE;
}

static int wait_for_stream_unlocked(struct scissor_session *s, void *stream) {
    pthread_mutex_lock(&s->client->lock);
    int r = wait_for_stream(s, stream);
    pthread_mutex_unlock(&s->client->lock);
    return r;
}

/* ---------- a step's work ---------- */

/* Whether this step's work may be on that stream. */
static int check_stream(struct scissor_session *s, void *stream) {
    if (s->device->step == s->step && s->device->stream != stream)
        return refuse(s, SCISSOR_EINVAL, "session %llu: other work of this step is on another stream",
                      (unsigned long long)s->id);
    return 0;
}

int scissor__device_check(struct scissor_session *s, const char *instead) {
    if (s->device)
        return 0;
    return refuse(s, SCISSOR_EINVAL, "session %llu is in host memory: use %s()", (unsigned long long)s->id, instead);
}

/* Before the first work of a step. The backend's code. The client's event must never be recorded on a stream that is
 * not behind its last record, nor anything be queued that is not behind the daemon's. */
static int enter_step(struct scissor_session *s, void *stream) {
    struct client_device *d = s->device;
    if (d->step == s->step)
        return d->entered;
    int r = streams_of(s)->fence_follow(s->backend, d->fence, true, stream);
    if (r < 0)
        return r;
    d->stream = stream;
    d->step = s->step;
    d->idle = false;
    return d->entered = streams_of(s)->fence_follow(s->backend, d->fence, false, stream);
}

static int append_on(struct scissor_session *s, uint32_t layer, const void *k, const void *v, uint32_t dtype,
                     void *stream) {
    const struct client_group *g = &s->groups[s->layers[layer].group];
    size_t size = kernel_dtype_size(dtype);
    for (uint32_t h = 0; h < g->kv_heads; h++) {
        size_t at = (size_t)h * g->head_dim * size;
        s->device->appends[h] = (struct kernel_append){.fresh = s->heads[s->layers[layer].first_head + h].fresh,
                                                       .k = (const char *)k + at,
                                                       .v = (const char *)v + at,
                                                       .stride = (size_t)g->kv_heads * g->head_dim,
                                                       .fresh_rows = s->fresh_rows,
                                                       .first_row = s->fresh_count,
                                                       .rows = s->step_rows,
                                                       .head_dim = g->head_dim,
                                                       .compute_dtype = (uint8_t)s->compute_dtype,
                                                       .input_dtype = (uint8_t)dtype};
    }
    int r = enter_step(s, stream);
    if (r == 0)
        r = streams_of(s)->append(s->backend, s->device->appends, g->kv_heads, stream);
    if (r < 0)
        return fail_unlocked(s, r);
    s->layers[layer].appended = s->step;
    return 0;
}

/* Scratch of the batch is the first session's; it is idle when the stream is, which is behind all that the session has
 * queued on others. */
static int reserve_workspace(struct scissor_session *s, size_t bytes, void *stream) {
    struct kernel_backend *b = s->backend;
    struct client_device *d = s->device;
    void *larger;
    if (bytes <= d->workspace_bytes)
        return 0;
    int r = d->workspace ? wait_for_stream_unlocked(s, stream) : 0;
    if (r)
        return r;
    r = b->streams->memory_new(b, KERNEL_MEMORY_DEVICE, bytes + bytes / 2, &larger);
    if (r < 0)
        return fail_unlocked(s, r);
    b->streams->memory_free(b, KERNEL_MEMORY_DEVICE, d->workspace);
    d->workspace = larger;
    d->workspace_bytes = bytes + bytes / 2;
    return 0;
}

static int enter_steps(const struct scissor_attend_item *items, size_t item_count, void *stream) {
    int r = 0;
    for (size_t i = 0; i < item_count && r == 0; i++)
        r = enter_step(items[i].session, stream);
    return r < 0 ? fail_unlocked(items[0].session, r) : 0;
}

static int bring_planes(const struct scissor_attend_item *items, size_t item_count, void *stream) {
    int r = 0;
    for (size_t i = 0; i < item_count && r == 0; i++) {
        struct scissor_session *s = items[i].session;
        r = scissor__device_planes_queue(s, &s->groups[s->layers[items[i].layer].group], stream);
    }
    return r < 0 ? fail_unlocked(items[0].session, r) : 0;
}

/* Whatever may fail before attention itself is queued. */
static int attend_set_up(const struct scissor_attend_item *items, size_t item_count, size_t heads, void *stream) {
    struct scissor_session *first = items[0].session;
    struct kernel_backend *b = first->backend;
    int r = enter_steps(items, item_count, stream);
    if (r == 0)
        r = reserve_workspace(first, b->streams->attend_workspace(b, first->items, heads), stream);
    return r ? r : bring_planes(items, item_count, stream);
}

/* Where attention fails half-way, its part of the scores stays: they are not gathered twice then. */
static int attend_on(const struct scissor_attend_item *items, size_t item_count, size_t heads, void *stream) {
    struct scissor_session *first = items[0].session;
    struct kernel_backend *b = first->backend;
    int r = attend_set_up(items, item_count, heads, stream);
    if (r) {
        scissor__attend_undone(items, item_count);
        return r;
    }
    r = b->streams->attend(b, first->items, heads, first->device->workspace, stream);
    if (r == -EINVAL || r == -EOPNOTSUPP)
        scissor__attend_undone(items, item_count);
    if (r < 0)
        return fail_unlocked(first, r);
    scissor__attend_done(items, item_count);
    return 0;
}

static int check_streams(const struct scissor_attend_item *items, size_t item_count, void *stream) {
    int r = 0;
    for (size_t i = 0; i < item_count && r == 0; i++)
        r = check_stream(items[i].session, stream);
    return r;
}

/* ---------- device pointers ---------- */

int scissor_append_device(struct scissor_session *s, uint32_t layer, const void *k, const void *v, uint32_t dtype,
                          void *stream) {
    size_t size = kernel_dtype_size(dtype);
    if (layer >= s->layer_count || !k || !v || size == 0)
        return SCISSOR_EINVAL;
    int r = scissor__device_check(s, "scissor_append");
    if (r == 0 && !s->in_step)
        r = SCISSOR_ESTATE;
    if (r == 0)
        r = check_stream(s, stream);
    if (r == 0 && ((uintptr_t)k % size || (uintptr_t)v % size))
        r = refuse(s, SCISSOR_EINVAL, "k and v must lie at multiples of their type's %zu bytes", size);
    return r ? r : append_on(s, layer, k, v, dtype, stream);
}

int scissor_attend_device(const struct scissor_attend_item *items, size_t item_count, void *stream) {
    size_t heads;
    if (item_count == 0)
        return 0;
    if (!items || !items[0].session)
        return SCISSOR_EINVAL;
    int r = scissor__device_check(items[0].session, "scissor_attend");
    for (size_t i = 0; i < item_count && r == 0; i++)
        if ((uintptr_t)items[i].q % 16 || (uintptr_t)items[i].out % 16)
            r = refuse(items[0].session, SCISSOR_EINVAL, "q and out must lie at multiples of 16 bytes");
    if (r == 0)
        r = scissor__attend_prepare(items, item_count, &heads);
    if (r)
        return r;
    r = check_streams(items, item_count, stream);
    if (r) {
        scissor__attend_undone(items, item_count);
        return r;
    }
    return attend_on(items, item_count, heads, stream);
}

/* ---------- host pointers ---------- */

/* Room for so many bytes that nothing queued reads any more. */
static int stage_reserve(struct scissor_session *s, struct client_stage *stage, size_t bytes) {
    struct kernel_backend *b = s->backend;
    void *larger;
    int r = stage->queued ? wait_for_stream_unlocked(s, b->streams->own(b)) : 0;
    if (r)
        return r;
    stage->queued = false;
    if (bytes <= stage->bytes)
        return 0;
    r = b->streams->memory_new(b, KERNEL_MEMORY_PINNED, bytes + bytes / 2, &larger);
    if (r < 0)
        return fail_unlocked(s, r);
    b->streams->memory_free(b, KERNEL_MEMORY_PINNED, stage->memory);
    *stage = (struct client_stage){.memory = larger, .bytes = bytes + bytes / 2};
    return 0;
}

int scissor__device_append_staged(struct scissor_session *s, uint32_t layer, const void *k, const void *v,
                                  uint32_t dtype) {
    const struct client_group *g = &s->groups[s->layers[layer].group];
    struct client_stage *stage = &s->device->rows;
    size_t bytes = (size_t)s->step_rows * g->kv_heads * g->head_dim * kernel_dtype_size(dtype);
    void *stream = streams_of(s)->own(s->backend);
    int r = check_stream(s, stream);
    if (r == 0)
        r = stage_reserve(s, stage, 2 * bytes);
    if (r)
        return r;
    char *to = stage->memory;
    memcpy(to, k, bytes);
    memcpy(to + bytes, v, bytes);
    stage->queued = true;
    return append_on(s, layer, to, to + bytes, dtype, stream);
}

static size_t vector_floats(const struct scissor_attend_item *item) {
    const struct scissor_session *s = item->session;
    const struct client_group *g = &s->groups[s->layers[item->layer].group];
    return (size_t)s->step_rows * g->q_heads * g->head_dim;
}

/* Copies the queries and has the kernels' items point to the copies. */
static void stage_queries(const struct scissor_attend_item *items, size_t item_count, float *at) {
    struct kernel_attend *kernel = items[0].session->items;
    for (size_t i = 0; i < item_count; i++) {
        const struct scissor_session *s = items[i].session;
        size_t floats = vector_floats(&items[i]);
        memcpy(at, items[i].q, floats * sizeof *at);
        for (uint32_t h = 0; h < s->groups[s->layers[items[i].layer].group].kv_heads; h++, kernel++) {
            kernel->q = at + (kernel->q - items[i].q);
            kernel->out = at + floats + (kernel->out - items[i].out);
        }
        at += 2 * floats;
    }
}

static void unstage_outputs(const struct scissor_attend_item *items, size_t item_count, const float *at) {
    for (size_t i = 0; i < item_count; i++) {
        size_t floats = vector_floats(&items[i]);
        memcpy(items[i].out, at + floats, floats * sizeof *at);
        at += 2 * floats;
    }
}

int scissor__device_attend_staged(const struct scissor_attend_item *items, size_t item_count, size_t heads) {
    struct scissor_session *first = items[0].session;
    struct kernel_backend *b = first->backend;
    void *stream = b->streams->own(b);
    size_t floats = 0;
    for (size_t i = 0; i < item_count; i++)
        floats += 2 * vector_floats(&items[i]);
    int r = check_streams(items, item_count, stream);
    if (r == 0)
        r = stage_reserve(first, &first->device->vectors, floats * sizeof(float));
    if (r) {
        scissor__attend_undone(items, item_count);
        return r;
    }
    stage_queries(items, item_count, first->device->vectors.memory);
    first->device->vectors.queued = true;
    r = attend_on(items, item_count, heads, stream);
    if (r == 0)
        r = wait_for_stream_unlocked(first, stream);
    if (r)
        return r;
    first->device->vectors.queued = first->device->rows.queued = false;
    unstage_outputs(items, item_count, first->device->vectors.memory);
    return 0;
}

const char *scissor_session_device(const struct scissor_session *s) {
    return s->backend->device;
}
