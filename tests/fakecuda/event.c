/* event.c - events, which carry an order between streams, also of several processes. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <utlist.h>

#include "fake.h"

#define MAGIC "fakeevt"

struct CUevent_st {
    struct CUevent_st *prev, *next;
    unsigned slot;
    uint64_t serial;
    unsigned flags;
};

/* ---------- in streams ---------- */

bool fake_record_run(struct fake_work *w) {
    struct fake_event_state *e = &fake_state->events[w->event];
    fake_lock();
    if (e->serial == w->serial && e->done < w->record)
        e->done = w->record;
    fake_unlock();
    return true;
}

/* Until that record is reached; false: it never will be, as its process has ended. */
static bool wait_record(unsigned event, uint64_t serial, uint64_t record, pid_t recorder) {
    struct fake_event_state *e = &fake_state->events[event];
    for (;;) {
        bool alive = fake_alive(recorder); /* first: what the process did before its end counts */
        fake_lock();
        bool done = e->serial != serial || e->done >= record;
        fake_unlock();
        if (done || !alive)
            return done;
        usleep(100);
    }
}

static bool run_wait(struct fake_work *w) {
    return wait_record(w->event, w->serial, w->record, w->recorder);
}

cuda_result cuEventRecord(cuda_event e, cuda_stream stream) {
    FAKE_ENTER(cuEventRecord, true);
    struct CUstream_st *s = fake_stream(stream);
    struct fake_work *w = calloc(1, sizeof *w);
    if (!e || !s || !w) {
        free(w);
        return e ? CUDA_OUT_OF_MEMORY : CUDA_INVALID_HANDLE;
    }
    fake_lock();
    struct fake_event_state *state = &fake_state->events[e->slot];
    *w = (struct fake_work){.run = fake_record_run, .event = e->slot, .serial = e->serial, .record = ++state->recorded};
    state->recorder = getpid();
    fake_enqueue(s, w);
    state->clock = fake_state->streams[fake_stream_slot(s)].clock;
    fake_unlock();
    return 0;
}

cuda_result cuStreamWaitEvent(cuda_stream stream, cuda_event e, unsigned flags) {
    FAKE_ENTER(cuStreamWaitEvent, true);
    struct CUstream_st *s = fake_stream(stream);
    struct fake_work *w = calloc(1, sizeof *w);
    if (!e || !s || !w || flags) {
        free(w);
        return !e || flags ? CUDA_INVALID_VALUE : CUDA_OUT_OF_MEMORY;
    }
    fake_lock();
    const struct fake_event_state *state = &fake_state->events[e->slot];
    *w = (struct fake_work){
        .run = run_wait, .event = e->slot, .serial = e->serial, .record = state->recorded, .recorder = state->recorder};
    fake_clock_merge(&fake_state->streams[fake_stream_slot(s)].clock, &state->clock);
    fake_enqueue(s, w);
    fake_unlock();
    return 0;
}

/* ---------- in the host ---------- */

/* All of this process: what cannot be destroyed, as the context is lost, is the driver's and no leak. */
static struct CUevent_st *objects;

static struct CUevent_st *event_object(unsigned slot, unsigned flags) {
    struct CUevent_st *e = malloc(sizeof *e);
    if (e) {
        *e = (struct CUevent_st){.slot = slot, .serial = fake_state->events[slot].serial, .flags = flags};
        DL_APPEND(objects, e);
    }
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
    DL_DELETE(objects, e);
    fake_unlock();
    free(e);
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
    if (!wait_record(e->slot, e->serial, state.recorded, state.recorder))
        fake_break(FAKE_RULE_hang, "cuEventSynchronize", 0);
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
