/* device_scores.c - the planes of a session on a device. The kernels add to a block in its memory; scores.c works on a
 * mirror of the same layout in pinned memory of the host. A group's sums are in one of the two (enum client_planes):
 *
 *              attend                          settle, or the daemon has changed the slots
 *     ZERO ---------------> DEVICE  ------------------------------------------------------> HOST
 *            zeros queued     ^     transfer queued, and the wait for it: frames, moves       |
 *       ^                     |                                                              |
 *       |                     +--------- attend: transfer queued ----------------------------+
 *       +---- from each of them: the settle is answered, the sums are forgotten
 *
 * A settle that goes well transfers once, device to host. Nothing waits when a step begins a new period. */
#include <errno.h>
#include <string.h>

#include "device.h"

float *scissor__plane_address(const struct scissor_session *s, const struct client_group *g, float *plane) {
    return plane && s->device ? g->device_planes + (plane - g->plane_block) : plane;
}

int scissor__planes_new(struct scissor_session *s, size_t bytes, float **ret) {
    struct kernel_backend *b = s->backend;
    void *block = NULL;
    if (!s->device) {
        block = scissor_calloc(1, bytes);
        *ret = block ? block : *ret;
        return block ? 0 : SCISSOR_ENOMEM;
    }
    int r = b->streams->memory_new(b, KERNEL_MEMORY_PINNED, bytes, &block);
    if (r < 0)
        return scissor__device_fail(s, r);
    *ret = memset(block, 0, bytes);
    return 0;
}

void scissor__planes_free(struct scissor_session *s, float *block) {
    if (s->device)
        s->backend->streams->memory_free(s->backend, KERNEL_MEMORY_PINNED, block);
    else
        scissor_free(block);
}

int scissor__device_planes_resize(struct scissor_session *s, struct client_group *g, size_t bytes) {
    struct kernel_backend *b = s->backend;
    void *larger;
    int r = b->streams->memory_new(b, KERNEL_MEMORY_DEVICE, bytes, &larger);
    if (r < 0)
        return scissor__device_fail(s, r);
    b->streams->memory_free(b, KERNEL_MEMORY_DEVICE, g->device_planes);
    g->device_planes = larger;
    return 0;
}

int scissor__device_planes_queue(struct scissor_session *s, struct client_group *g, void *stream) {
    struct kernel_backend *b = s->backend;
    size_t bytes = scissor__planes_bytes(g);
    int r = 0;
    if (bytes == 0)
        return 0;
    if (g->planes_at == CLIENT_PLANES_ZERO)
        r = b->streams->fill_zero(b, g->device_planes, bytes, stream);
    else if (g->planes_at == CLIENT_PLANES_HOST)
        r = b->streams->transfer(b, g->device_planes, g->plane_block, bytes, stream);
    if (r == 0)
        g->planes_at = CLIENT_PLANES_DEVICE;
    return r;
}

int scissor__device_planes_queue_fetch(struct scissor_session *s, void *stream) {
    struct kernel_backend *b = s->backend;
    bool any = false;
    for (uint32_t i = 0; i < s->group_count; i++)
        any |= s->groups[i].planes_at == CLIENT_PLANES_DEVICE;
    int r = any ? b->streams->fence_follow(b, s->device->fence, true, stream) : 0;
    if (r < 0 || !any)
        return r;
    for (uint32_t i = 0; i < s->group_count && r == 0; i++) {
        struct client_group *g = &s->groups[i];
        if (g->planes_at == CLIENT_PLANES_DEVICE)
            r = b->streams->transfer(b, g->plane_block, g->device_planes, scissor__planes_bytes(g), stream);
    }
    int signal = scissor__device_signal(s, stream);
    return r < 0 ? r : signal;
}

void scissor__device_planes_fetched(struct scissor_session *s) {
    for (uint32_t i = 0; i < s->group_count; i++)
        if (s->groups[i].planes_at == CLIENT_PLANES_DEVICE)
            s->groups[i].planes_at = CLIENT_PLANES_HOST;
}

int scissor__device_planes_fetch(struct scissor_session *s) {
    struct kernel_backend *b = s->backend;
    int r = scissor__device_planes_queue_fetch(s, b->streams->own(b));
    if (r < 0)
        return scissor__device_fail(s, r);
    r = scissor__device_wait(s, scissor__client_deadline(s->client));
    if (r)
        return r;
    scissor__device_planes_fetched(s);
    return s->failure;
}
