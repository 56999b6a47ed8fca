/* memory.c - segments of GPU memory, and the registry that keeps them until nobody else holds them.
 *
 * A segment is in exactly one of two lists:
 *
 *   segments    alive: its owner, or the importer, uses it
 *   refused     its user has let go of it, but the driver would not take it, or the stream that may still write to it
 *               stands still; it is tried again with each that follows
 *
 * Freeing goes: cuMemFree when the stream has come to its end, so that no kernel of ours touches the memory any more,
 * or cuIpcCloseMemHandle at once, as an importer has made sure of that, for whatever streams it has. That no importer
 * is left is for the owner's user to know: the driver does not say. When the context is lost, no call can give anything
 * back; the memory is the driver's to free when the process ends, and the registry forgets the segment.
 *
 * cuMemAlloc gives what another process has left there, so a segment is zeroed before it is given out, and waited for:
 * its first user may be another process, whose stream knows nothing of ours. */
#include "memory.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <utlist.h>

#include "../../proto/alloc.h"

#define GRANULE ((size_t)2 << 20)

struct kernel_segment {
    struct kernel_segment *prev, *next;
    cuda_address address;
    size_t bytes;
    cuda_memory_handle handle; /* an importer's: what it has opened */
    bool allocated, imported;
};

static bool size_valid(size_t bytes) {
    return bytes != 0 && bytes % GRANULE == 0 && bytes <= SIZE_MAX / 4;
}

static bool access_valid(enum kernel_access access) {
    return access == KERNEL_ACCESS_SETTLED || access == KERNEL_ACCESS_FRESH;
}

void cuda_memory_init(struct cuda_memory *m, struct cuda_device *device, struct cuda_work *work) {
    *m = (struct cuda_memory){.device = device, .work = work};
    pthread_mutex_init(&m->lock, NULL);
}

/* ---------- free ---------- */

/* Gives it back to the driver; false if it must be tried again. */
static bool give_back(struct cuda_device *d, struct kernel_segment *s) {
    if (atomic_load(&d->lost))
        return true;
    if (cuda_device_enter(d) < 0)
        return atomic_load(&d->lost);
    int r = s->imported ? 0 : cuda_device_drain(d);
    if (r == 0)
        r = s->imported ? CUDA_DEVICE_CALL(d, memory_close, s->address) : CUDA_DEVICE_CALL(d, memory_free, s->address);
    cuda_device_leave(d);
    return r == 0 || atomic_load(&d->lost);
}

/* Under the lock. */
static void try_again(struct cuda_memory *m) {
    struct kernel_segment *s, *next;
    DL_FOREACH_SAFE(m->refused, s, next) {
        if (!give_back(m->device, s))
            continue;
        DL_DELETE(m->refused, s);
        scissor_free(s);
    }
}

/* Under the lock, of what is in no list. */
static void let_go(struct cuda_memory *m, struct kernel_segment *s) {
    DL_APPEND(m->refused, s);
    try_again(m);
}

void cuda_segment_free(struct cuda_memory *m, struct kernel_segment *s) {
    if (!s)
        return;
    pthread_mutex_lock(&m->lock);
    DL_DELETE(m->segments, s);
    let_go(m, s);
    pthread_mutex_unlock(&m->lock);
}

bool cuda_memory_closed(struct cuda_memory *m) {
    struct kernel_segment *s;
    bool closed = true;
    pthread_mutex_lock(&m->lock);
    try_again(m);
    DL_FOREACH(m->refused, s) {
        closed &= !s->imported;
    }
    pthread_mutex_unlock(&m->lock);
    return closed;
}

void cuda_memory_deinit(struct cuda_memory *m) {
    struct kernel_segment *s, *next;
    try_again(m);
    /* What the driver does not take lives until this process ends. */
    DL_FOREACH_SAFE(m->refused, s, next) {
        scissor_free(s);
    }
    pthread_mutex_destroy(&m->lock);
}

/* ---------- new ---------- */

/* A program without kernels leaves it to the driver. */
static int scrub(struct cuda_memory *m, cuda_address at, size_t bytes) {
    struct cuda_device *d = m->device;
    return m->work->functions.module ? cuda_work_scrub(m->work, at, bytes, d->stream)
                                     : CUDA_DEVICE_CALL(d, fill, at, 0, bytes / sizeof(unsigned), d->stream);
}

static int allocate(struct cuda_memory *m, struct kernel_segment *s) {
    struct cuda_device *d = m->device;
    int r = cuda_device_enter(d);
    if (r < 0)
        return r;
    r = CUDA_DEVICE_CALL(d, memory_new, &s->address, s->bytes);
    if (r == 0) {
        s->allocated = true;
        r = scrub(m, s->address, s->bytes);
    }
    if (r == 0)
        r = cuda_device_drain(d);
    cuda_device_leave(d);
    return r;
}

/* The text of the failure for which it goes stays. */
static void let_go_for(struct cuda_memory *m, struct kernel_segment *s, int error) {
    char why[256];
    snprintf(why, sizeof why, "%s", cuda_why());
    let_go(m, s);
    (void)cuda_fail(error, "%s", why);
}

int cuda_segment_new(struct cuda_memory *m, enum kernel_access access, size_t bytes, struct kernel_segment **ret) {
    struct kernel_segment *s;
    if (!access_valid(access) || !size_valid(bytes))
        return cuda_fail(-EINVAL, "a segment has whole multiples of 2 MiB and is settled or fresh");
    s = scissor_calloc(1, sizeof *s);
    if (!s)
        return cuda_fail(-ENOMEM, "no host memory");
    s->bytes = bytes;
    int r = allocate(m, s);
    if (r < 0 && !s->allocated) {
        scissor_free(s);
        return r;
    }
    pthread_mutex_lock(&m->lock);
    if (r < 0)
        let_go_for(m, s, r);
    else
        DL_APPEND(m->segments, s);
    pthread_mutex_unlock(&m->lock);
    if (r == 0)
        *ret = s;
    return r;
}

/* ---------- export and import ---------- */

int cuda_segment_export(struct cuda_memory *m, struct kernel_segment *s, struct kernel_handle *ret) {
    cuda_memory_handle handle;
    if (s->imported)
        return cuda_fail(-EINVAL, "an importer has nothing to give on");
    int r = cuda_device_enter(m->device);
    if (r < 0)
        return r;
    r = CUDA_DEVICE_CALL(m->device, memory_export, &handle, s->address);
    cuda_device_leave(m->device);
    if (r < 0)
        return r;
    *ret = (struct kernel_handle){.fd = -1};
    memcpy(ret->opaque, handle.reserved, sizeof ret->opaque);
    return 0;
}

static struct kernel_segment *find_handle(struct kernel_segment *list, const cuda_memory_handle *handle) {
    struct kernel_segment *s;
    DL_FOREACH(list, s) {
        if (s->imported && !memcmp(&s->handle, handle, sizeof *handle))
            return s;
    }
    return NULL;
}

/* Under the lock: drivers count a handle that is opened twice, or refuse it; one that is open here is not opened again,
 * so that one close is one close. One whose close was refused is taken back into use. */
static int open_handle(struct cuda_memory *m, struct kernel_segment *s) {
    struct kernel_segment *waiting = find_handle(m->refused, &s->handle);
    if (find_handle(m->segments, &s->handle))
        return cuda_fail(-EALREADY, "the segment is open in this process");
    if (waiting && waiting->bytes == s->bytes) {
        DL_DELETE(m->refused, waiting);
        s->address = waiting->address;
        scissor_free(waiting);
        return 0;
    }
    int r = cuda_device_enter(m->device);
    if (r < 0)
        return r;
    r = CUDA_DEVICE_CALL(m->device, memory_open, &s->address, s->handle, CUDA_IPC_LAZY_PEER_ACCESS);
    cuda_device_leave(m->device);
    return r;
}

int cuda_segment_import(struct cuda_memory *m, enum kernel_access access, const struct kernel_handle *handle,
                        size_t bytes, struct kernel_segment **ret) {
    struct kernel_segment *s;
    if (!access_valid(access) || !size_valid(bytes) || handle->fd != -1)
        return cuda_fail(-EINVAL, "no handle of a segment of GPU memory");
    s = scissor_calloc(1, sizeof *s);
    if (!s)
        return cuda_fail(-ENOMEM, "no host memory");
    s->bytes = bytes;
    s->imported = true;
    memcpy(s->handle.reserved, handle->opaque, sizeof s->handle.reserved);
    pthread_mutex_lock(&m->lock);
    int r = open_handle(m, s);
    if (r == 0)
        DL_APPEND(m->segments, s);
    pthread_mutex_unlock(&m->lock);
    if (r < 0) {
        scissor_free(s);
        return r;
    }
    *ret = s;
    return 0;
}

void *cuda_segment_address(struct kernel_segment *s) {
    return (void *)(uintptr_t)s->address;
}

struct kernel_cuda_memory cuda_memory_count(struct cuda_memory *m) {
    struct kernel_cuda_memory n = {0};
    struct kernel_segment *s;
    pthread_mutex_lock(&m->lock);
    DL_FOREACH(m->segments, s) {
        n.imported += s->imported;
        n.segments += !s->imported;
        n.bytes += s->imported ? 0 : s->bytes;
    }
    DL_FOREACH(m->refused, s) {
        n.refused_segments++;
        n.refused_bytes += s->imported ? 0 : s->bytes;
    }
    pthread_mutex_unlock(&m->lock);
    return n;
}
