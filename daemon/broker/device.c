/* device.c - a device that fails for good: what was on it is lost, and everything else goes on.
 *
 * The driver says so by an error of which the process does not recover. The pool's sessions end at once, as nothing
 * that their clients could still do changes anything; opens are refused until another process has the device. */
#include <stdio.h>
#include <utlist.h>

#include "internal.h"

static void end_sessions(struct broker *b, const struct pool *pool, uint64_t now) {
    struct session *s, *next;
    DL_FOREACH_SAFE(b->sessions, s, next)
    if (s->pool == pool)
        session_end(b, s, PROTO_REASON_OPERATOR, now);
}

void device_note(struct broker *b, struct pool *pool, const char *why) {
    struct kernel_backend *device = pool->config.backend;
    struct proto_event event = {.type = PROTO_EVENT_DEVICE_LOST, .code = SCISSOR_EDEVICELOST};
    if (pool->lost || !device->streams || !device->streams->lost(device))
        return;
    pool->lost = true;
    snprintf(pool->why, sizeof pool->why, "%s", *why ? why : kernel_backend_why());
    proto_text_set(event.name, sizeof event.name, pool->config.name);
    send_event(b, &event);
}

void device_look(struct broker *b, struct pool *pool, uint64_t now) {
    device_note(b, pool, "");
    if (!pool->lost || pool->cleared)
        return;
    pool->cleared = true;
    while (pool->queue) {
        struct session *s = pool->queue;
        admission_leave(s);
        admission_refuse(b, s, SCISSOR_EDEVICELOST, "the pool's device has failed while the session waited for memory");
    }
    end_sessions(b, pool, now);
}

const char *broker_pool_lost(const struct broker *b, uint32_t pool) {
    return b->pools[pool].lost ? b->pools[pool].why : NULL;
}
