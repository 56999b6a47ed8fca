/* fence.c - see fence.h; any thread, but one at a time for each fence.
 *
 * Without timing, as the driver asks of events that leave their process. An event that was never recorded counts as
 * reached, so the first step of a session waits for nothing. */
#include "fence.h"

#include <errno.h>
#include <string.h>
#include <time.h>

#include "../../proto/alloc.h"

#define POLL_NS 20000

struct kernel_fence {
    cuda_event event[2];
    unsigned own; /* index of the one that this process records */
};

static unsigned event_of(const struct kernel_fence *f, bool own) {
    return own ? f->own : !f->own;
}

static int event_destroy(struct cuda_device *d, cuda_event event) {
    return event ? CUDA_DEVICE_CALL(d, event_free, event) : 0;
}

static int events_new(struct cuda_device *d, struct kernel_fence *f) {
    int r = 0;
    for (unsigned i = 0; i < 2 && r == 0; i++)
        r = CUDA_DEVICE_CALL(d, event_new, &f->event[i], CUDA_EVENT_INTERPROCESS | CUDA_EVENT_DISABLE_TIMING);
    return r;
}

static int events_open(struct cuda_device *d, struct kernel_fence *f, const struct kernel_handle handles[2]) {
    int r = 0;
    for (unsigned i = 0; i < 2 && r == 0; i++) {
        cuda_event_handle handle;
        memcpy(handle.reserved, handles[i].opaque, sizeof handle.reserved);
        r = CUDA_DEVICE_CALL(d, event_open, &f->event[i], handle);
    }
    return r;
}

/* `handles`: what an importer opens; NULL: an owner makes new ones. */
static int fence_make(struct cuda_device *d, const struct kernel_handle *handles, struct kernel_fence **ret) {
    struct kernel_fence *f = scissor_calloc(1, sizeof *f);
    if (!f)
        return cuda_fail(-ENOMEM, "no host memory");
    f->own = handles ? 0 : 1;
    int r = cuda_device_enter(d);
    if (r == 0) {
        r = handles ? events_open(d, f, handles) : events_new(d, f);
        if (r < 0 && f->event[0]) /* without a word: the first failure's text stays */
            (void)d->driver->event_free(f->event[0]);
        cuda_device_leave(d);
    }
    if (r < 0) {
        scissor_free(f);
        return r;
    }
    *ret = f;
    return 0;
}

int cuda_fence_new(struct cuda_device *d, struct kernel_fence **ret) {
    return fence_make(d, NULL, ret);
}

int cuda_fence_import(struct cuda_device *d, const struct kernel_handle handles[2], struct kernel_fence **ret) {
    return fence_make(d, handles, ret);
}

struct kernel_fence *cuda_fence_free(struct cuda_device *d, struct kernel_fence *f) {
    /* What fails here is the driver's to clean up when the process ends. */
    if (f && cuda_device_enter(d) == 0) {
        (void)event_destroy(d, f->event[0]);
        (void)event_destroy(d, f->event[1]);
        cuda_device_leave(d);
    }
    return scissor_free(f);
}

int cuda_fence_export(struct cuda_device *d, struct kernel_fence *f, struct kernel_handle ret[2]) {
    cuda_event_handle handles[2];
    int r = cuda_device_enter(d);
    if (r < 0)
        return r;
    for (unsigned i = 0; i < 2 && r == 0; i++)
        r = CUDA_DEVICE_CALL(d, event_export, &handles[i], f->event[i]);
    cuda_device_leave(d);
    for (unsigned i = 0; i < 2 && r == 0; i++) {
        ret[i] = (struct kernel_handle){.fd = -1};
        memcpy(ret[i].opaque, handles[i].reserved, sizeof ret[i].opaque);
    }
    return r;
}

int cuda_fence_signal(struct cuda_device *d, struct kernel_fence *f, void *stream) {
    int r = cuda_device_enter(d);
    if (r < 0)
        return r;
    r = CUDA_DEVICE_CALL(d, event_record, f->event[f->own], stream);
    cuda_device_leave(d);
    return r;
}

int cuda_fence_follow(struct cuda_device *d, struct kernel_fence *f, bool own, void *stream) {
    int r = cuda_device_enter(d);
    if (r < 0)
        return r;
    r = CUDA_DEVICE_CALL(d, stream_wait_event, stream, f->event[event_of(f, own)], 0);
    cuda_device_leave(d);
    return r;
}

static uint64_t now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

int cuda_fence_wait(struct cuda_device *d, struct kernel_fence *f, bool own, uint32_t timeout_us) {
    const struct timespec pause = {0, POLL_NS};
    uint64_t end = timeout_us ? now_us() + timeout_us : 0;
    int r = cuda_device_enter(d);
    if (r < 0)
        return r;
    while ((r = CUDA_DEVICE_CALL(d, event_query, f->event[event_of(f, own)])) == -EAGAIN && end && now_us() < end)
        nanosleep(&pause, NULL);
    cuda_device_leave(d);
    return r;
}
