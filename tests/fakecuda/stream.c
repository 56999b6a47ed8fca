/* stream.c - streams that run late, one thread each, and the events between them. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fake.h"

#define MAGIC "fakeevt"

struct work {
    struct work *next;
    void (*run)(const struct work *w);
    struct fake_map *to_map, *from_map;
    char *to;
    const char *from;
    size_t bytes;
    unsigned value;
    unsigned event; /* and which record of it */
    uint64_t record, serial;
    pid_t recorder;
};

struct CUstream_st {
    unsigned slot;
    pthread_t thread;
    pthread_mutex_t lock; /* of what follows */
    pthread_cond_t changed;
    struct work *first, **last;
    unsigned left;
    bool end;
};

struct CUevent_st {
    unsigned slot;
    uint64_t serial;
    unsigned flags;
};

static atomic_uint queued;

unsigned fakecuda_queued(void) {
    return atomic_load(&queued);
}

/* ---------- what is queued ---------- */

static void run_fill(const struct work *w) {
    for (size_t i = 0; i < w->bytes; i += sizeof w->value)
        memcpy(w->to + i, &w->value, sizeof w->value);
}

static void run_copy(const struct work *w) {
    memcpy(w->to, w->from, w->bytes);
}

static void run_record(const struct work *w) {
    struct fake_event_state *e = &fake_state->events[w->event];
    fake_lock();
    if (e->serial == w->serial && e->done < w->record)
        e->done = w->record;
    fake_unlock();
}

/* The work of a dead process will not be done any more. */
static void wait_record(unsigned event, uint64_t serial, uint64_t record, pid_t recorder) {
    struct fake_event_state *e = &fake_state->events[event];
    for (;;) {
        fake_lock();
        bool done = e->serial != serial || e->done >= record;
        fake_unlock();
        if (done || !fake_alive(recorder))
            return;
        usleep(100);
    }
}

static void run_wait(const struct work *w) {
    wait_record(w->event, w->serial, w->record, w->recorder);
}

static void run(struct work *w) {
    usleep(fake_delay_us);
    /* Records are done in a lost context, too, or another process would wait for them for ever. */
    bool lost = fake_inject("queue") || atomic_load(&fake_lost);
    if (!lost || w->run == run_record)
        w->run(w);
    fake_lock();
    if (w->to_map)
        w->to_map->queued--;
    if (w->from_map)
        w->from_map->queued--;
    fake_unlock();
    atomic_fetch_sub(&queued, 1);
}

static void *stream_thread(void *data) {
    struct CUstream_st *s = data;
    pthread_mutex_lock(&s->lock);
    while (s->first || !s->end) {
        struct work *w = s->first;
        if (!w) {
            pthread_cond_wait(&s->changed, &s->lock);
            continue;
        }
        pthread_mutex_unlock(&s->lock);
        run(w);
        pthread_mutex_lock(&s->lock);
        s->first = w->next;
        if (!s->first)
            s->last = &s->first;
        s->left--;
        free(w);
        pthread_cond_broadcast(&s->changed);
    }
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

/* ---------- order ---------- */

static bool comes_before(unsigned stream, uint64_t at, const struct fake_clock *clock) {
    const struct fake_stream_state *s = &fake_state->streams[stream];
    return at == 0 || clock->at[stream] >= at || s->waited >= at || !s->pid || !fake_alive(s->pid);
}

static void judge(struct fake_allocation *a, unsigned stream, const struct fake_clock *clock, bool write) {
    if (a->write_stream >= 0 && !comes_before((unsigned)a->write_stream, a->write_at, clock))
        fake_break(write ? FAKE_RULE_unordered_write : FAKE_RULE_unordered_read, "queued work", a->serial);
    if (!write) {
        a->read_at[stream] = clock->at[stream];
        return;
    }
    for (unsigned i = 0; i < FAKE_STREAMS; i++)
        if (!comes_before(i, a->read_at[i], clock))
            fake_break(FAKE_RULE_unordered_overwrite, "queued work", a->serial);
    memset(a->read_at, 0, sizeof a->read_at);
    a->write_stream = (int)stream;
    a->write_at = clock->at[stream];
}

/* Under the lock: the next place in the stream's order, after all that the host has waited for. */
static struct fake_clock *advance(struct CUstream_st *s) {
    struct fake_stream_state *state = &fake_state->streams[s->slot];
    fake_clock_merge(&state->clock, &fake_host);
    state->clock.at[s->slot] = ++state->queued;
    return &state->clock;
}

static void enqueue(struct CUstream_st *s, struct work *w) {
    atomic_fetch_add(&queued, 1);
    pthread_mutex_lock(&s->lock);
    *s->last = w;
    s->last = &w->next;
    s->left++;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
}

static void wait_idle(struct CUstream_st *s) {
    fake_lock();
    uint64_t at = fake_state->streams[s->slot].queued;
    struct fake_clock clock = fake_state->streams[s->slot].clock;
    fake_unlock();
    pthread_mutex_lock(&s->lock);
    while (s->left)
        pthread_cond_wait(&s->changed, &s->lock);
    pthread_mutex_unlock(&s->lock);
    fake_lock();
    fake_clock_merge(&fake_host, &clock);
    if (fake_state->streams[s->slot].waited < at)
        fake_state->streams[s->slot].waited = at;
    fake_unlock();
}

/* ---------- work ---------- */

/* `to` and `from` may be NULL, or plain memory of the host: then the call waits, as a driver's would in effect. */
static cuda_result submit(struct CUstream_st *s, struct work what, bool to_device, bool from_device) {
    if (!s)
        return CUDA_INVALID_HANDLE;
    struct work *w = malloc(sizeof *w);
    if (!w)
        return CUDA_OUT_OF_MEMORY;
    *w = what;
    fake_lock();
    cuda_result code = 0;
    bool plain = false;
    if (w->to && (to_device || fake_find(w->to)))
        code = fake_touch(w->to, w->bytes, &w->to_map);
    else if (w->to)
        plain = true;
    if (code == 0 && w->from && (from_device || fake_find(w->from)))
        code = fake_touch(w->from, w->bytes, &w->from_map);
    else if (w->from)
        plain = true;
    if (code) {
        if (w->to_map)
            w->to_map->queued--;
        fake_unlock();
        free(w);
        return code;
    }
    const struct fake_clock *clock = advance(s);
    if (w->from_map && w->from_map->allocation)
        judge(w->from_map->allocation, s->slot, clock, false);
    if (w->to_map && w->to_map->allocation)
        judge(w->to_map->allocation, s->slot, clock, true);
    enqueue(s, w);
    fake_unlock();
    if (plain)
        wait_idle(s);
    return 0;
}

static char *at(cuda_address address) {
    return (char *)(uintptr_t)address;
}

cuda_result cuMemsetD32Async(cuda_address to, unsigned value, size_t count, cuda_stream stream) {
    FAKE_ENTER(cuMemsetD32Async, true);
    return submit(stream, (struct work){.run = run_fill, .to = at(to), .value = value, .bytes = 4 * count}, true,
                  false);
}

cuda_result cuMemcpyDtoDAsync_v2(cuda_address to, cuda_address from, size_t bytes, cuda_stream stream) {
    FAKE_ENTER(cuMemcpyDtoDAsync_v2, true);
    return submit(stream, (struct work){.run = run_copy, .to = at(to), .from = at(from), .bytes = bytes}, true, true);
}

cuda_result cuMemcpyAsync(cuda_address to, cuda_address from, size_t bytes, cuda_stream stream) {
    FAKE_ENTER(cuMemcpyAsync, true);
    return submit(stream, (struct work){.run = run_copy, .to = at(to), .from = at(from), .bytes = bytes}, false, false);
}

cuda_result cuMemcpyHtoDAsync_v2(cuda_address to, const void *from, size_t bytes, cuda_stream stream) {
    FAKE_ENTER(cuMemcpyHtoDAsync_v2, true);
    return submit(stream, (struct work){.run = run_copy, .to = at(to), .from = from, .bytes = bytes}, true, false);
}

cuda_result cuMemcpyDtoHAsync_v2(void *to, cuda_address from, size_t bytes, cuda_stream stream) {
    FAKE_ENTER(cuMemcpyDtoHAsync_v2, true);
    return submit(stream, (struct work){.run = run_copy, .to = to, .from = at(from), .bytes = bytes}, false, true);
}

/* ---------- streams ---------- */

cuda_result cuStreamCreate(cuda_stream *ret, unsigned flags) {
    FAKE_ENTER(cuStreamCreate, true);
    struct CUstream_st *s = calloc(1, sizeof *s);
    if (!s || flags > 1) {
        free(s);
        return CUDA_INVALID_VALUE;
    }
    fake_lock();
    while (s->slot < FAKE_STREAMS && fake_state->streams[s->slot].pid && fake_alive(fake_state->streams[s->slot].pid))
        s->slot++;
    if (s->slot < FAKE_STREAMS) {
        struct fake_stream_state *state = &fake_state->streams[s->slot];
        state->pid = getpid();
        state->waited = state->queued; /* what its last owner queued is done, or never will be */
    }
    fake_unlock();
    s->last = &s->first;
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->changed, NULL);
    if (s->slot == FAKE_STREAMS || pthread_create(&s->thread, NULL, stream_thread, s)) {
        free(s);
        return CUDA_OUT_OF_MEMORY;
    }
    *ret = s;
    return 0;
}

cuda_result cuStreamDestroy_v2(cuda_stream s) {
    FAKE_ENTER(cuStreamDestroy_v2, true);
    wait_idle(s);
    pthread_mutex_lock(&s->lock);
    s->end = true;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
    pthread_join(s->thread, NULL);
    fake_lock();
    fake_state->streams[s->slot].pid = 0;
    fake_unlock();
    free(s);
    return 0;
}

cuda_result cuStreamSynchronize(cuda_stream s) {
    FAKE_ENTER(cuStreamSynchronize, true);
    if (!s)
        return CUDA_INVALID_HANDLE;
    wait_idle(s);
    return atomic_load(&fake_lost);
}

cuda_result cuStreamQuery(cuda_stream s) {
    FAKE_ENTER(cuStreamQuery, true);
    pthread_mutex_lock(&s->lock);
    bool idle = s->left == 0;
    pthread_mutex_unlock(&s->lock);
    if (!idle)
        return CUDA_NOT_READY;
    wait_idle(s);
    return 0;
}

/* ---------- events ---------- */

static struct CUevent_st *event_object(unsigned slot, unsigned flags) {
    struct CUevent_st *e = malloc(sizeof *e);
    if (e)
        *e = (struct CUevent_st){.slot = slot, .serial = fake_state->events[slot].serial, .flags = flags};
    return e;
}

cuda_result cuEventCreate(cuda_event *ret, unsigned flags) {
    FAKE_ENTER(cuEventCreate, true);
    if (flags & CUDA_EVENT_INTERPROCESS && !(flags & CUDA_EVENT_DISABLE_TIMING))
        return CUDA_INVALID_VALUE;
    struct CUevent_st *e = NULL;
    fake_lock();
    for (unsigned i = 0; i < FAKE_EVENTS && !e; i++)
        if (!fake_state->events[i].serial) {
            fake_state->events[i] = (struct fake_event_state){.serial = ++fake_state->serial, .refs = 1};
            e = event_object(i, flags);
        }
    fake_unlock();
    if (!e)
        return CUDA_OUT_OF_MEMORY;
    *ret = e;
    return 0;
}

cuda_result cuEventDestroy_v2(cuda_event e) {
    FAKE_ENTER(cuEventDestroy_v2, true);
    fake_lock();
    if (--fake_state->events[e->slot].refs == 0)
        fake_state->events[e->slot].serial = 0;
    fake_unlock();
    free(e);
    return 0;
}

cuda_result cuEventRecord(cuda_event e, cuda_stream s) {
    FAKE_ENTER(cuEventRecord, true);
    struct work *w = calloc(1, sizeof *w);
    if (!w || !s)
        return CUDA_INVALID_HANDLE;
    fake_lock();
    struct fake_event_state *state = &fake_state->events[e->slot];
    state->clock = *advance(s);
    state->recorder = getpid();
    *w = (struct work){.run = run_record, .event = e->slot, .serial = e->serial, .record = ++state->recorded};
    enqueue(s, w);
    fake_unlock();
    return 0;
}

cuda_result cuStreamWaitEvent(cuda_stream s, cuda_event e, unsigned flags) {
    FAKE_ENTER(cuStreamWaitEvent, true);
    struct work *w = calloc(1, sizeof *w);
    if (!w || !s || flags)
        return CUDA_INVALID_VALUE;
    fake_lock();
    const struct fake_event_state *state = &fake_state->events[e->slot];
    fake_clock_merge(&fake_state->streams[s->slot].clock, &state->clock);
    advance(s);
    *w = (struct work){
        .run = run_wait, .event = e->slot, .serial = e->serial, .record = state->recorded, .recorder = state->recorder};
    enqueue(s, w);
    fake_unlock();
    return 0;
}

cuda_result cuEventQuery(cuda_event e) {
    FAKE_ENTER(cuEventQuery, true);
    fake_lock();
    const struct fake_event_state *state = &fake_state->events[e->slot];
    bool done = state->done >= state->recorded;
    if (done)
        fake_clock_merge(&fake_host, &state->clock);
    fake_unlock();
    return done ? 0 : CUDA_NOT_READY;
}

cuda_result cuEventSynchronize(cuda_event e) {
    FAKE_ENTER(cuEventSynchronize, true);
    fake_lock();
    struct fake_event_state state = fake_state->events[e->slot];
    fake_unlock();
    wait_record(e->slot, e->serial, state.recorded, state.recorder);
    fake_lock();
    fake_clock_merge(&fake_host, &state.clock);
    fake_unlock();
    return atomic_load(&fake_lost);
}

cuda_result cuIpcGetEventHandle(cuda_event_handle *ret, cuda_event e) {
    FAKE_ENTER(cuIpcGetEventHandle, true);
    if (!(e->flags & CUDA_EVENT_INTERPROCESS))
        return CUDA_INVALID_HANDLE;
    memset(ret, 0, sizeof *ret);
    memcpy(ret->reserved, MAGIC, sizeof MAGIC);
    memcpy(ret->reserved + 8, e, sizeof *e);
    return 0;
}

cuda_result cuIpcOpenEventHandle(cuda_event *ret, cuda_event_handle handle) {
    struct CUevent_st h, *e = NULL;
    FAKE_ENTER(cuIpcOpenEventHandle, true);
    memcpy(&h, handle.reserved + 8, sizeof h);
    if (memcmp(handle.reserved, MAGIC, sizeof MAGIC) || h.slot >= FAKE_EVENTS)
        return CUDA_INVALID_VALUE;
    fake_lock();
    if (fake_state->events[h.slot].serial == h.serial && (e = event_object(h.slot, h.flags)))
        fake_state->events[h.slot].refs++;
    fake_unlock();
    if (!e)
        return CUDA_INVALID_VALUE;
    *ret = e;
    return 0;
}

/* ---------- kernels ---------- */

cuda_result cuModuleLoadData(cuda_module *ret, const void *image) {
    (void)ret;
    (void)image;
    return CUDA_NOT_SUPPORTED;
}

cuda_result cuModuleUnload(cuda_module module) {
    (void)module;
    return CUDA_NOT_SUPPORTED;
}

cuda_result cuModuleGetFunction(cuda_function *ret, cuda_module module, const char *name) {
    (void)ret;
    (void)module;
    (void)name;
    return CUDA_NOT_SUPPORTED;
}

cuda_result cuLaunchKernel(cuda_function function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                           unsigned block_y, unsigned block_z, unsigned shared_bytes, cuda_stream stream,
                           void **parameters, void **extra) {
    (void)function;
    (void)grid_x;
    (void)grid_y;
    (void)grid_z;
    (void)block_x;
    (void)block_y;
    (void)block_z;
    (void)shared_bytes;
    (void)stream;
    (void)parameters;
    (void)extra;
    return CUDA_NOT_SUPPORTED;
}
