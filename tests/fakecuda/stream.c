/* stream.c - streams that run late, one thread each. */
#include <stdlib.h>
#include <unistd.h>

#include "fake.h"

#define LEGACY ((cuda_stream)1)

struct CUstream_st {
    unsigned slot;
    pthread_mutex_t lock; /* of what follows */
    pthread_cond_t changed;
    struct fake_work *first, **last;
    unsigned left;
    bool end, stuck; /* stuck: the first work will never be done */
};

static atomic_uint queued;

unsigned fakecuda_queued(void) {
    return atomic_load(&queued);
}

/* ---------- what is queued ---------- */

static bool run(struct fake_work *w) {
    usleep(fake_delay_us);
    /* Records are done in a lost context, too, or another process would wait for them for ever. */
    bool lost = fake_inject("queue") || atomic_load(&fake_lost);
    if ((!lost || w->run == fake_record_run) && !w->run(w))
        return false;
    if (w->end) {
        fake_lock();
        w->end(w);
        fake_unlock();
    }
    atomic_fetch_sub(&queued, 1);
    return true;
}

/* After its last work, when its host has let go of it. */
static void stream_end(struct CUstream_st *s) {
    fake_lock();
    fake_state->streams[s->slot].taken = false;
    fake_unlock();
    pthread_mutex_destroy(&s->lock);
    pthread_cond_destroy(&s->changed);
    free(s);
}

static void *stream_thread(void *data) {
    struct CUstream_st *s = data;
    pthread_mutex_lock(&s->lock);
    while (!s->stuck && (s->first || !s->end)) {
        struct fake_work *w = s->first;
        if (!w) {
            pthread_cond_wait(&s->changed, &s->lock);
            continue;
        }
        pthread_mutex_unlock(&s->lock);
        bool done = run(w);
        pthread_mutex_lock(&s->lock);
        s->stuck = !done;
        if (done) {
            s->first = w->next;
            if (!s->first)
                s->last = &s->first;
            s->left--;
            free(w);
        }
        pthread_cond_broadcast(&s->changed);
    }
    pthread_mutex_unlock(&s->lock);
    while (s->stuck)
        pause();
    stream_end(s);
    return NULL;
}

void fake_enqueue(struct CUstream_st *s, struct fake_work *w) {
    w->stream = s->slot;
    fake_order(w);
    atomic_fetch_add(&queued, 1);
    pthread_mutex_lock(&s->lock);
    *s->last = w;
    s->last = &w->next;
    s->left++;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
}

void fake_wait(struct CUstream_st *s) {
    fake_lock();
    uint64_t at = fake_state->streams[s->slot].queued;
    struct fake_clock clock = fake_state->streams[s->slot].clock;
    fake_unlock();
    pthread_mutex_lock(&s->lock);
    while (s->left) {
        if (s->stuck)
            fake_break(FAKE_RULE_hang, "cuStreamSynchronize", 0);
        pthread_cond_wait(&s->changed, &s->lock);
    }
    pthread_mutex_unlock(&s->lock);
    fake_lock();
    fake_clock_merge(&fake_host, &clock);
    if (fake_state->streams[s->slot].waited < at)
        fake_state->streams[s->slot].waited = at;
    fake_unlock();
}

/* ---------- streams ---------- */

/* Under the lock; false: there is none left. */
static bool slot_take(unsigned *ret) {
    for (unsigned i = 0; i < FAKE_STREAMS; i++) {
        struct fake_stream_state *s = &fake_state->streams[i];
        if (s->taken && fake_alive(s->pid))
            continue;
        s->taken = true;
        s->pid = getpid();
        s->began = s->queued; /* what was queued before is done, or never will be */
        *ret = i;
        return true;
    }
    return false;
}

/* Under the lock. */
static struct CUstream_st *stream_new(void) {
    struct CUstream_st *s = calloc(1, sizeof *s);
    if (!s || !slot_take(&s->slot)) {
        free(s);
        return NULL;
    }
    s->last = &s->first;
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->changed, NULL);
    pthread_t thread;
    if (pthread_create(&thread, NULL, stream_thread, s)) {
        fake_state->streams[s->slot].taken = false;
        free(s);
        return NULL;
    }
    pthread_detach(thread);
    return s;
}

struct CUstream_st *fake_stream(struct CUstream_st *s) {
    static struct CUstream_st *legacy[FAKE_DEVICES];
    if (s && s != LEGACY)
        return s;
    int device = fake_context()->device;
    fake_lock();
    if (!legacy[device])
        legacy[device] = stream_new();
    s = legacy[device];
    fake_unlock();
    return s;
}

unsigned fake_stream_slot(const struct CUstream_st *s) {
    return s->slot;
}

cuda_result cuStreamCreate(cuda_stream *ret, unsigned flags) {
    FAKE_ENTER(cuStreamCreate, true);
    if (flags > 1)
        return CUDA_INVALID_VALUE;
    fake_lock();
    struct CUstream_st *s = stream_new();
    fake_unlock();
    if (!s)
        return CUDA_OUT_OF_MEMORY;
    *ret = s;
    return 0;
}

cuda_result cuStreamDestroy_v2(cuda_stream s) {
    FAKE_ENTER(cuStreamDestroy_v2, true);
    if (!s || s == LEGACY)
        return CUDA_INVALID_HANDLE;
    pthread_mutex_lock(&s->lock);
    s->end = true; /* when its work is done, for which nobody waits */
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
    return 0;
}

cuda_result cuStreamSynchronize(cuda_stream stream) {
    FAKE_ENTER(cuStreamSynchronize, true);
    struct CUstream_st *s = fake_stream(stream);
    if (!s)
        return CUDA_OUT_OF_MEMORY;
    fake_wait(s);
    return atomic_load(&fake_lost);
}

cuda_result cuStreamQuery(cuda_stream stream) {
    FAKE_ENTER(cuStreamQuery, true);
    struct CUstream_st *s = fake_stream(stream);
    if (!s)
        return CUDA_OUT_OF_MEMORY;
    pthread_mutex_lock(&s->lock);
    bool idle = s->left == 0;
    pthread_mutex_unlock(&s->lock);
    if (!idle)
        return CUDA_NOT_READY;
    fake_wait(s);
    return 0;
}
