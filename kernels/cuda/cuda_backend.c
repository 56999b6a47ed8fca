/* cuda_backend.c - the CUDA backend's object: struct kernel_backend over one device and its registry of segments. */
#include "cuda_backend.h"

#include <errno.h>
#include <stdio.h>

#include "../../proto/alloc.h"
#include "memory.h"

struct cuda_backend {
    struct kernel_backend base; /* first: a struct kernel_backend of ours is one of these */
    char name[sizeof "cuda:" + CUDA_UUID_TEXT_BYTES];
    struct cuda_device *device;
    struct cuda_memory memory;
};

static struct cuda_backend *cuda_of(struct kernel_backend *b) {
    return (struct cuda_backend *)b;
}

static int segment_new(struct kernel_backend *b, enum kernel_access access, size_t bytes, struct kernel_segment **ret) {
    return cuda_segment_new(&cuda_of(b)->memory, access, bytes, ret);
}

static struct kernel_segment *segment_free(struct kernel_backend *b, struct kernel_segment *s) {
    cuda_segment_free(&cuda_of(b)->memory, s);
    return NULL;
}

static int segment_export(struct kernel_backend *b, struct kernel_segment *s, struct kernel_handle *ret) {
    return cuda_segment_export(&cuda_of(b)->memory, s, ret);
}

static int segment_import(struct kernel_backend *b, enum kernel_access access, const struct kernel_handle *handle,
                          size_t bytes, struct kernel_segment **ret) {
    return cuda_segment_import(&cuda_of(b)->memory, access, handle, bytes, ret);
}

static int copy(struct kernel_backend *b, void *to, const void *from, size_t bytes) {
    struct cuda_device *d = cuda_of(b)->device;
    uintptr_t a = (uintptr_t)to, z = (uintptr_t)from;
    if (a - z < bytes || z - a < bytes)
        return cuda_fail(-EINVAL, "a copy on the device whose ends overlap");
    if (bytes == 0)
        return 0;
    int r = cuda_device_enter(d);
    if (r < 0)
        return r;
    r = CUDA_DEVICE_CALL(d, copy, a, z, bytes, d->stream);
    cuda_device_leave(d);
    return r;
}

static int synchronise(struct kernel_backend *b) {
    struct cuda_device *d = cuda_of(b)->device;
    int r = cuda_device_enter(d);
    if (r < 0)
        return r;
    r = cuda_device_drain(d);
    cuda_device_leave(d);
    return r;
}

struct kernel_backend *kernel_cuda_backend(const char *device, char *why, size_t why_bytes) {
    struct cuda_backend *b = scissor_calloc(1, sizeof *b);
    int r = b ? cuda_device_open(device, &b->device) : cuda_fail(-ENOMEM, "no host memory");
    if (r < 0) {
        snprintf(why, why_bytes, "%s", cuda_why());
        scissor_free(b);
        errno = -r;
        return NULL;
    }
    cuda_memory_init(&b->memory, b->device);
    snprintf(b->name, sizeof b->name, "cuda:%s", b->device->uuid);
    b->base = (struct kernel_backend){.name = "cuda",
                                      .path = b->device->name,
                                      .device = b->name,
                                      .segment_new = segment_new,
                                      .segment_free = segment_free,
                                      .segment_export = segment_export,
                                      .segment_import = segment_import,
                                      .segment_address = cuda_segment_address,
                                      .copy = copy,
                                      .synchronise = synchronise};
    return &b->base;
}

struct kernel_backend *kernel_cuda_free(struct kernel_backend *b) {
    if (!b)
        return NULL;
    cuda_memory_deinit(&cuda_of(b)->memory);
    cuda_device_close(cuda_of(b)->device);
    return scissor_free(cuda_of(b));
}

const char *kernel_cuda_why(void) {
    return cuda_why();
}

bool kernel_cuda_lost(struct kernel_backend *b) {
    return atomic_load(&cuda_of(b)->device->lost);
}

struct kernel_cuda_device kernel_cuda_device(struct kernel_backend *b) {
    const struct cuda_device *d = cuda_of(b)->device;
    return (struct kernel_cuda_device){
        .name = d->name, .uuid = d->uuid, .bytes = d->bytes, .major = d->major, .minor = d->minor};
}

int kernel_cuda_importer(struct kernel_backend *b, struct kernel_segment *s, int pidfd) {
    return cuda_segment_importer(&cuda_of(b)->memory, s, pidfd);
}

void kernel_cuda_closed(struct kernel_backend *b, struct kernel_segment *s) {
    cuda_segment_closed(&cuda_of(b)->memory, s);
}

uint64_t kernel_cuda_reap(struct kernel_backend *b) {
    return cuda_memory_reap(&cuda_of(b)->memory);
}

struct kernel_cuda_memory kernel_cuda_memory(struct kernel_backend *b) {
    return cuda_memory_count(&cuda_of(b)->memory);
}
