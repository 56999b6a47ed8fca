/* memory.c - segments of GPU memory, and the registry that keeps them until nobody else holds them.
 *
 * A segment is in exactly one of two lists:
 *
 *   segments      alive: its owner, or the importer, uses it
 *   quarantine    its user has let go of it, but it could not be freed or closed yet: an importer may still hold it
 *                 (owner), or the driver refused (both). It is tried again at each reap.
 *
 * Freeing goes: wait for the stream (no kernel of ours touches it any more), see that no importer is left, cuMemFree.
 * When the context is lost, no call can give anything back; the memory is the driver's to free when the process ends,
 * and the registry forgets the segment.
 *
 * cuMemAlloc gives what another process has left there, so a segment is zeroed before it is given out, and waited for:
 * its first user may be another process, whose stream knows nothing of ours. */
#include "memory.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>
#include <utlist.h>

#include "../../proto/alloc.h"

#define GRANULE ((size_t)2 << 20)

struct kernel_segment {
    struct kernel_segment *prev, *next;
    cuda_address address;
    size_t bytes;
    cuda_memory_handle handle; /* an importer's: what it has opened */
    bool imported;
    bool exported;  /* and importers may hold it */
    int *importers; /* pidfds */
    size_t importer_count;
};

static bool size_valid(size_t bytes) {
    return bytes != 0 && bytes % GRANULE == 0 && bytes <= SIZE_MAX / 4;
}

static bool importer_access_valid(enum kernel_access access) {
    return access == KERNEL_ACCESS_SETTLED || access == KERNEL_ACCESS_FRESH;
}

void cuda_memory_init(struct cuda_memory *m, struct cuda_device *device) {
    *m = (struct cuda_memory){.device = device};
    pthread_mutex_init(&m->lock, NULL);
}

static void segment_deinit(struct kernel_segment *s) {
    for (size_t i = 0; i < s->importer_count; i++)
        close(s->importers[i]);
    scissor_free(s->importers);
    scissor_free(s);
}

/* ---------- new ---------- */

static int allocate(struct cuda_device *d, size_t bytes, cuda_address *ret) {
    cuda_address address;
    int r = CUDA_DEVICE_CALL(d, memory_new, &address, bytes);
    if (r < 0)
        return r;
    r = CUDA_DEVICE_CALL(d, fill, address, 0, bytes / sizeof(unsigned), d->stream);
    if (r == 0)
        r = cuda_device_drain(d);
    if (r < 0) {
        /* The text of the first failure stays. A fill that was queued must not outlive the memory. */
        (void)d->driver->stream_wait(d->stream);
        (void)d->driver->memory_free(address);
        return r;
    }
    *ret = address;
    return 0;
}

int cuda_segment_new(struct cuda_memory *m, enum kernel_access access, size_t bytes, struct kernel_segment **ret) {
    struct kernel_segment *s;
    if ((!importer_access_valid(access)) || !size_valid(bytes))
        return cuda_fail(-EINVAL, "a segment has whole multiples of 2 MiB and is settled or fresh");
    s = scissor_calloc(1, sizeof *s);
    if (!s)
        return cuda_fail(-ENOMEM, "no host memory");
    s->bytes = bytes;
    int r = cuda_device_enter(m->device);
    if (r == 0) {
        r = allocate(m->device, bytes, &s->address);
        cuda_device_leave(m->device);
    }
    if (r < 0) {
        scissor_free(s);
        return r;
    }
    pthread_mutex_lock(&m->lock);
    DL_APPEND(m->segments, s);
    pthread_mutex_unlock(&m->lock);
    *ret = s;
    return 0;
}

/* ---------- free ---------- */

/* Under the lock: whether some importer may still hold it. What is gone is forgotten. */
static bool held(struct kernel_segment *s) {
    if (!s->exported)
        return false;
    if (s->importer_count == 0)
        return true; /* exported to nobody in particular */
    size_t left = 0;
    for (size_t i = 0; i < s->importer_count; i++) {
        struct pollfd p = {.fd = s->importers[i], .events = POLLIN};
        if (poll(&p, 1, 0) == 1 && p.revents & POLLIN)
            close(p.fd);
        else
            s->importers[left++] = p.fd;
    }
    s->importer_count = left;
    s->exported = left > 0;
    return s->exported;
}

/* Gives it back to the driver; false if it must be tried again. */
static bool give_back(struct cuda_device *d, struct kernel_segment *s) {
    if (atomic_load(&d->lost))
        return true;
    if (cuda_device_enter(d) < 0)
        return atomic_load(&d->lost);
    int r = cuda_device_drain(d);
    if (r == 0)
        r = s->imported ? CUDA_DEVICE_CALL(d, memory_close, s->address) : CUDA_DEVICE_CALL(d, memory_free, s->address);
    cuda_device_leave(d);
    return r == 0 || atomic_load(&d->lost);
}

void cuda_segment_free(struct cuda_memory *m, struct kernel_segment *s) {
    if (!s)
        return;
    pthread_mutex_lock(&m->lock);
    DL_DELETE(m->segments, s);
    DL_APPEND(m->quarantine, s);
    pthread_mutex_unlock(&m->lock);
    cuda_memory_reap(m);
}

uint64_t cuda_memory_reap(struct cuda_memory *m) {
    struct kernel_segment *s, *next;
    uint64_t left = 0;
    pthread_mutex_lock(&m->lock);
    DL_FOREACH_SAFE(m->quarantine, s, next) {
        if ((held(s) && !atomic_load(&m->device->lost)) || !give_back(m->device, s)) {
            left += s->imported ? 0 : s->bytes;
            continue;
        }
        DL_DELETE(m->quarantine, s);
        segment_deinit(s);
    }
    pthread_mutex_unlock(&m->lock);
    return left;
}

void cuda_memory_deinit(struct cuda_memory *m) {
    struct kernel_segment *s, *next;
    cuda_memory_reap(m);
    /* What is still held lives until this process ends, which an importer survives or not as the driver likes. */
    DL_FOREACH_SAFE(m->quarantine, s, next) {
        segment_deinit(s);
    }
    pthread_mutex_destroy(&m->lock);
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
    pthread_mutex_lock(&m->lock);
    s->exported = true;
    pthread_mutex_unlock(&m->lock);
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
 * so that one close is one close. One that waits in quarantine for its close is taken back into use. */
static int open_handle(struct cuda_memory *m, struct kernel_segment *s) {
    struct kernel_segment *waiting = find_handle(m->quarantine, &s->handle);
    if (find_handle(m->segments, &s->handle))
        return cuda_fail(-EALREADY, "the segment is open in this process");
    if (waiting && waiting->bytes == s->bytes) {
        DL_DELETE(m->quarantine, waiting);
        s->address = waiting->address;
        segment_deinit(waiting);
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
    if (!importer_access_valid(access) || !size_valid(bytes) || handle->fd != -1)
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

/* ---------- importers ---------- */

int cuda_segment_importer(struct cuda_memory *m, struct kernel_segment *s, int pidfd) {
    int fd = fcntl(pidfd, F_DUPFD_CLOEXEC, 0);
    if (fd < 0)
        return cuda_fail(-errno, "the importer's pidfd: %s", strerror(errno));
    pthread_mutex_lock(&m->lock);
    int *grown = scissor_realloc(s->importers, (s->importer_count + 1) * sizeof *grown);
    if (grown) {
        s->importers = grown;
        grown[s->importer_count++] = fd;
    }
    pthread_mutex_unlock(&m->lock);
    if (!grown) {
        close(fd);
        return cuda_fail(-ENOMEM, "no host memory");
    }
    return 0;
}

void cuda_segment_closed(struct cuda_memory *m, struct kernel_segment *s) {
    pthread_mutex_lock(&m->lock);
    for (size_t i = 0; i < s->importer_count; i++)
        close(s->importers[i]);
    s->importer_count = 0;
    s->exported = false;
    pthread_mutex_unlock(&m->lock);
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
    DL_FOREACH(m->quarantine, s) {
        n.quarantined_segments++;
        n.quarantined_bytes += s->imported ? 0 : s->bytes;
    }
    pthread_mutex_unlock(&m->lock);
    return n;
}
