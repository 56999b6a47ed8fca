/* arena.c - see arena.h. One ring a backend, for all threads and streams; the lock is held while a piece is filled and
 * its launches are queued, which takes some microseconds. */
#include "arena.h"

#include <assert.h>
#include <errno.h>

#define ALIGNMENT 16u

int cuda_arena_init(struct cuda_arena *a, struct cuda_device *d) {
    void *memory;
    *a = (struct cuda_arena){.device = d};
    int r = CUDA_DEVICE_CALL(d, host_new, &memory, CUDA_ARENA_BYTES, CUDA_HOST_PORTABLE | CUDA_HOST_MAPPED);
    if (r < 0)
        return r;
    a->memory = memory;
    pthread_mutex_init(&a->lock, NULL);
    return 0;
}

void cuda_arena_deinit(struct cuda_arena *a) {
    if (!a->memory)
        return;
    for (unsigned i = 0; i < CUDA_ARENA_USES && a->uses[i].event; i++)
        (void)CUDA_DEVICE_CALL(a->device, event_free, a->uses[i].event);
    (void)CUDA_DEVICE_CALL(a->device, host_free, a->memory);
    pthread_mutex_destroy(&a->lock);
    a->memory = NULL;
}

static int wait_oldest(struct cuda_arena *a) {
    struct cuda_arena_use *use = &a->uses[a->first];
    int r = cuda_device_wait_event(a->device, use->event, a->stalled ? 0 : a->device->wait_ms);
    a->stalled = r == -ETIMEDOUT;
    if (r < 0)
        return r;
    a->begin = use->end;
    a->first = (a->first + 1) % CUDA_ARENA_USES;
    a->count--;
    return 0;
}

int cuda_arena_begin(struct cuda_arena *a, size_t bytes) {
    int r = 0;
    if (bytes > CUDA_ARENA_PIECE)
        return cuda_fail(-E2BIG, "a launch with %zu bytes of arguments; %zu is the most", bytes, CUDA_ARENA_PIECE);
    pthread_mutex_lock(&a->lock);
    if (a->adrift)
        r = cuda_fail(-EIO, "the device does not say when its work is done; nothing more can be queued");
    a->piece = a->end;
    if (a->piece % CUDA_ARENA_BYTES + bytes > CUDA_ARENA_BYTES) /* a piece does not go round the end */
        a->piece += CUDA_ARENA_BYTES - a->piece % CUDA_ARENA_BYTES;
    a->size = 0;
    while (r == 0 && (a->count == CUDA_ARENA_USES || (a->count && a->piece + bytes - a->begin > CUDA_ARENA_BYTES)))
        r = wait_oldest(a);
    if (a->count == 0)
        a->begin = a->piece;
    if (r < 0)
        pthread_mutex_unlock(&a->lock);
    return r;
}

void *cuda_arena_take(struct cuda_arena *a, size_t bytes) {
    assert(bytes % ALIGNMENT == 0);
    void *p = a->memory + a->piece % CUDA_ARENA_BYTES + a->size;
    a->size += bytes;
    return p;
}

/* On failure the piece counts as free if what was queued has ended. */
static int put_down(struct cuda_arena *a, cuda_stream stream) {
    struct cuda_arena_use *use = &a->uses[(a->first + a->count) % CUDA_ARENA_USES];
    int r = use->event ? 0 : CUDA_DEVICE_CALL(a->device, event_new, &use->event, CUDA_EVENT_DISABLE_TIMING);
    if (r == 0)
        r = CUDA_DEVICE_CALL(a->device, event_record, use->event, stream);
    if (r < 0) {
        a->adrift = cuda_device_wait(a->device, stream) < 0;
        return r;
    }
    a->end = use->end = a->piece + a->size;
    a->count++;
    return 0;
}

int cuda_arena_end(struct cuda_arena *a, cuda_stream stream) {
    int r = put_down(a, stream);
    pthread_mutex_unlock(&a->lock);
    return r;
}

int cuda_arena_finish(struct cuda_arena *a, cuda_stream stream) {
    int r = put_down(a, stream);
    if (r < 0)
        return r;
    const struct cuda_arena_use *use = &a->uses[(a->first + a->count - 1) % CUDA_ARENA_USES];
    return cuda_device_wait_event(a->device, use->event, a->device->wait_ms);
}

void cuda_arena_unlock(struct cuda_arena *a) {
    pthread_mutex_unlock(&a->lock);
}
