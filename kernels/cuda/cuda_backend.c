/* cuda_backend.c - the CUDA backend's object: struct kernel_backend over one device, its segments and its kernels. */
#include "cuda_backend.h"

#include <errno.h>
#include <stdio.h>

#include "../../proto/alloc.h"
#include "fence.h"
#include "image.h"
#include "memory.h"
#include "work.h"

struct cuda_backend {
    struct kernel_backend base; /* first: a struct kernel_backend of ours is one of these */
    char name[sizeof "cuda:" + CUDA_UUID_TEXT_BYTES];
    struct cuda_device *device;
    struct cuda_memory memory;
    struct cuda_work work;
};

static struct cuda_backend *cuda_of(struct kernel_backend *b) {
    return (struct cuda_backend *)b;
}

static uint64_t capacity(struct kernel_backend *b) {
    return cuda_of(b)->device->bytes;
}

static int segment_new(struct kernel_backend *b, enum kernel_access access, size_t bytes, struct kernel_segment **ret) {
    return cuda_segment_new(&cuda_of(b)->memory, access, bytes, ret);
}

static struct kernel_segment *segment_free(struct kernel_backend *b, struct kernel_segment *s) {
    cuda_segment_free(&cuda_of(b)->memory, s);
    return NULL;
}

static bool closed(struct kernel_backend *b) {
    return cuda_memory_closed(&cuda_of(b)->memory);
}

static int segment_export(struct kernel_backend *b, struct kernel_segment *s, struct kernel_handle *ret) {
    return cuda_segment_export(&cuda_of(b)->memory, s, ret);
}

static int segment_import(struct kernel_backend *b, enum kernel_access access, const struct kernel_handle *handle,
                          size_t bytes, struct kernel_segment **ret) {
    return cuda_segment_import(&cuda_of(b)->memory, access, handle, bytes, ret);
}

static int wait(struct kernel_backend *b, void *stream) {
    struct cuda_device *d = cuda_of(b)->device;
    int r = cuda_device_enter(d);
    if (r < 0)
        return r;
    r = cuda_device_wait(d, stream);
    cuda_device_leave(d);
    return r;
}

static int synchronise(struct kernel_backend *b) {
    return wait(b, cuda_of(b)->device->stream);
}

static int settle(struct kernel_backend *b, const struct kernel_settle *heads, size_t head_count) {
    return cuda_work_settle(&cuda_of(b)->work, heads, head_count, cuda_of(b)->device->stream);
}

static int shrink(struct kernel_backend *b, const struct kernel_shrink *heads, size_t head_count) {
    return cuda_work_shrink(&cuda_of(b)->work, heads, head_count, cuda_of(b)->device->stream);
}

static int move_pages(struct kernel_backend *b, const struct kernel_page_move *moves, size_t count) {
    return cuda_work_move_pages(&cuda_of(b)->work, moves, count, cuda_of(b)->device->stream);
}

static int v_norms(struct kernel_backend *b, const struct kernel_norms *heads, size_t head_count) {
    return cuda_work_v_norms(&cuda_of(b)->work, heads, head_count, cuda_of(b)->device->stream);
}

/* ---------- streams ---------- */

static void *own(struct kernel_backend *b) {
    return cuda_of(b)->device->stream;
}

static int memory_new(struct kernel_backend *b, enum kernel_memory where, size_t bytes, void **ret) {
    struct cuda_device *d = cuda_of(b)->device;
    cuda_address address = 0;
    void *pinned = NULL;
    int r = cuda_device_enter(d);
    if (r < 0)
        return r;
    if (where == KERNEL_MEMORY_PINNED)
        r = CUDA_DEVICE_CALL(d, host_new, &pinned, bytes, CUDA_HOST_PORTABLE | CUDA_HOST_MAPPED);
    else
        r = CUDA_DEVICE_CALL(d, memory_new, &address, bytes);
    cuda_device_leave(d);
    if (r == 0)
        *ret = pinned ? pinned : (void *)(uintptr_t)address;
    return r;
}

static void *memory_free(struct kernel_backend *b, enum kernel_memory where, void *memory) {
    struct cuda_device *d = cuda_of(b)->device;
    /* What fails here is the driver's to clean up when the process ends. */
    if (memory && cuda_device_enter(d) == 0) {
        if (where == KERNEL_MEMORY_PINNED)
            (void)CUDA_DEVICE_CALL(d, host_free, memory);
        else
            (void)CUDA_DEVICE_CALL(d, memory_free, (uintptr_t)memory);
        cuda_device_leave(d);
    }
    return NULL;
}

static int fill_zero(struct kernel_backend *b, void *to, size_t bytes, void *stream) {
    struct cuda_device *d = cuda_of(b)->device;
    if (bytes % 4 || (uintptr_t)to % 4)
        return cuda_fail(-EINVAL, "%zu bytes at %p are no whole words to be zeroed", bytes, to);
    int r = bytes ? cuda_device_enter(d) : 0;
    if (r < 0 || bytes == 0)
        return r;
    r = CUDA_DEVICE_CALL(d, fill, (uintptr_t)to, 0, bytes / 4, stream);
    cuda_device_leave(d);
    return r;
}

static int transfer(struct kernel_backend *b, void *to, const void *from, size_t bytes, void *stream) {
    struct cuda_device *d = cuda_of(b)->device;
    int r = bytes ? cuda_device_enter(d) : 0;
    if (r < 0 || bytes == 0)
        return r;
    r = CUDA_DEVICE_CALL(d, copy, (uintptr_t)to, (uintptr_t)from, bytes, stream);
    cuda_device_leave(d);
    return r;
}

static int append(struct kernel_backend *b, const struct kernel_append *heads, size_t head_count, void *stream) {
    return cuda_work_append(&cuda_of(b)->work, heads, head_count, stream);
}

static size_t attend_workspace(struct kernel_backend *b, const struct kernel_attend *items, size_t item_count) {
    return cuda_work_attend_bytes(&cuda_of(b)->work, items, item_count);
}

static int attend(struct kernel_backend *b, const struct kernel_attend *items, size_t item_count, void *workspace,
                  void *stream) {
    return cuda_work_attend(&cuda_of(b)->work, items, item_count, workspace, stream);
}

static int fence_new(struct kernel_backend *b, struct kernel_fence **ret) {
    return cuda_fence_new(cuda_of(b)->device, ret);
}

static int fence_export(struct kernel_backend *b, struct kernel_fence *f, struct kernel_handle ret[2]) {
    return cuda_fence_export(cuda_of(b)->device, f, ret);
}

static int fence_import(struct kernel_backend *b, const struct kernel_handle handles[2], struct kernel_fence **ret) {
    return cuda_fence_import(cuda_of(b)->device, handles, ret);
}

static struct kernel_fence *fence_free(struct kernel_backend *b, struct kernel_fence *f) {
    return cuda_fence_free(cuda_of(b)->device, f);
}

static int fence_signal(struct kernel_backend *b, struct kernel_fence *f, void *stream) {
    return cuda_fence_signal(cuda_of(b)->device, f, stream);
}

static int fence_follow(struct kernel_backend *b, struct kernel_fence *f, bool own_event, void *stream) {
    return cuda_fence_follow(cuda_of(b)->device, f, own_event, stream);
}

static int fence_wait(struct kernel_backend *b, struct kernel_fence *f, bool own_event, uint32_t timeout_us) {
    return cuda_fence_wait(cuda_of(b)->device, f, own_event, timeout_us);
}

static bool lost(struct kernel_backend *b) {
    return atomic_load(&cuda_of(b)->device->lost);
}

static const struct kernel_streams streams = {.own = own,
                                              .wait = wait,
                                              .memory_new = memory_new,
                                              .memory_free = memory_free,
                                              .fill_zero = fill_zero,
                                              .transfer = transfer,
                                              .append = append,
                                              .attend_workspace = attend_workspace,
                                              .attend = attend,
                                              .fence_new = fence_new,
                                              .fence_export = fence_export,
                                              .fence_import = fence_import,
                                              .fence_free = fence_free,
                                              .fence_signal = fence_signal,
                                              .fence_follow = fence_follow,
                                              .fence_wait = fence_wait,
                                              .closed = closed,
                                              .lost = lost};

/* ---------- new and free ---------- */

/* In the order of destruction what was made last goes first. */
static struct cuda_backend *backend_free(struct cuda_backend *b) {
    if (b->device) {
        if (b->base.streams)
            (void)synchronise(&b->base); /* nothing reads the arena any more */
        cuda_memory_deinit(&b->memory);
        cuda_work_deinit(&b->work);
        cuda_device_close(b->device);
    }
    return scissor_free(b);
}

static int backend_open(const char *device, struct cuda_backend **ret) {
    struct cuda_backend *b = scissor_calloc(1, sizeof *b);
    if (!b)
        return cuda_fail(-ENOMEM, "no host memory");
    int r = cuda_device_open(device, &b->device);
    if (r < 0) {
        scissor_free(b);
        return r;
    }
    cuda_memory_init(&b->memory, b->device, &b->work);
    r = cuda_work_init(&b->work, b->device);
    if (r < 0) {
        backend_free(b);
        return r;
    }
    snprintf(b->name, sizeof b->name, "cuda:%s", b->device->uuid);
    b->base = (struct kernel_backend){.name = "cuda",
                                      .path = b->device->name,
                                      .device = b->name,
                                      .storage_dtypes = (1u << KERNEL_ELEMENT_DTYPES) - 1,
                                      .streams = &streams,
                                      .capacity = capacity,
                                      .segment_new = segment_new,
                                      .segment_free = segment_free,
                                      .segment_export = segment_export,
                                      .segment_import = segment_import,
                                      .segment_address = cuda_segment_address,
                                      .settle = settle,
                                      .shrink = shrink,
                                      .v_norms = v_norms,
                                      .move_pages = move_pages,
                                      .synchronise = synchronise};
    *ret = b;
    return 0;
}

bool kernel_cuda_has_kernels(void) {
    return kernel_cuda_image_bytes > 0;
}

struct kernel_backend *kernel_cuda_backend(const char *device, char *why, size_t why_bytes) {
    struct cuda_backend *b = NULL;
    int r = backend_open(device, &b);
    if (r < 0) {
        snprintf(why, why_bytes, "%s", cuda_why());
        errno = -r;
        return NULL;
    }
    return &b->base;
}

struct kernel_backend *kernel_cuda_free(struct kernel_backend *b) {
    if (b)
        backend_free(cuda_of(b));
    return NULL;
}

const char *kernel_cuda_why(void) {
    return cuda_why();
}

struct kernel_cuda_device kernel_cuda_device(struct kernel_backend *b) {
    const struct cuda_device *d = cuda_of(b)->device;
    return (struct kernel_cuda_device){
        .name = d->name, .uuid = d->uuid, .bytes = d->bytes, .major = d->major, .minor = d->minor};
}

struct kernel_cuda_memory kernel_cuda_memory(struct kernel_backend *b) {
    return cuda_memory_count(&cuda_of(b)->memory);
}
