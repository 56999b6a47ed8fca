/* orphans.c - see orphans.h. A pidfd is readable when its process has ended. It is watched until then, whether or not
 * the client has come back meanwhile: the broker knows. */
#include "daemon/orphans.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "alloc.h"
#include "daemon/loop.h"

struct orphan {
    uv_poll_t poll;
    struct orphans *list;
    struct orphan *next, **at;
    uint64_t session;
    int fd;
};

static void orphan_on_closed(uv_handle_t *handle) {
    struct orphan *orphan = handle->data;
    close(orphan->fd);
    scissor_free(orphan);
}

static void orphan_forget(struct orphan *orphan) {
    *orphan->at = orphan->next;
    if (orphan->next)
        orphan->next->at = orphan->at;
    uv_close((uv_handle_t *)&orphan->poll, orphan_on_closed);
}

static void orphan_on_end(uv_poll_t *handle, int status, int events) {
    struct orphan *orphan = handle->data;
    struct server *server = orphan->list->server;
    (void)status;
    (void)events;
    broker_orphan_gone(server->broker, orphan->session, server_now());
    orphan_forget(orphan);
    server_pump(server);
}

/* The broker closes its descriptor when the client is back, so this one is a duplicate. */
static int orphan_watch(struct orphans *o, uint64_t session, int pidfd) {
    struct orphan *orphan = scissor_calloc(1, sizeof *orphan);
    if (!orphan)
        return -ENOMEM;
    orphan->fd = fcntl(pidfd, F_DUPFD_CLOEXEC, 0);
    int r = orphan->fd < 0 ? -errno : uv_poll_init(&o->server->loop, &orphan->poll, orphan->fd);
    if (r < 0) {
        if (orphan->fd >= 0)
            close(orphan->fd);
        scissor_free(orphan);
        return r;
    }
    orphan->poll.data = orphan;
    orphan->list = o;
    orphan->session = session;
    orphan->at = &o->first;
    orphan->next = o->first;
    if (o->first)
        o->first->at = &orphan->next;
    o->first = orphan;
    return uv_poll_start(&orphan->poll, UV_READABLE, orphan_on_end);
}

int orphans_init(struct orphans *o, struct server *server) {
    uint64_t cursor = 0, session;
    int pidfd, r = 0;
    *o = (struct orphans){.server = server};
    while (r == 0 && broker_orphan_next(server->broker, &cursor, &session, &pidfd))
        if (pidfd >= 0)
            r = orphan_watch(o, session, pidfd);
    return r;
}

void orphans_deinit(struct orphans *o) {
    while (o->first)
        orphan_forget(o->first);
}
