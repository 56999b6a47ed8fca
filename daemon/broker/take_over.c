/* take_over.c - sessions that outlive the daemon's process: how the next one gets them, and how this one leaves them.
 *
 * All of it runs on the broker's thread, before the first peer came or after the last one went. */
#include <assert.h>
#include <unistd.h>
#include <utlist.h>

#include "alloc.h"
#include "internal.h"

void broker_take_over(struct broker *b, struct broker_kept *kept, size_t count, uint64_t now) {
    (void)now;
    for (size_t i = 0; i < count; i++) {
        if (b->config.store)
            b->config.store->drop(b->config.store, kept[i].name);
        if (kept[i].fd >= 0)
            close(kept[i].fd);
        kept[i].fd = -1;
    }
}

bool broker_orphan_next(const struct broker *b, uint64_t *cursor, uint64_t *ret_session, int *ret_pidfd) {
    (void)b, (void)cursor, (void)ret_session, (void)ret_pidfd;
    return false;
}

void broker_orphan_gone(struct broker *b, uint64_t session, uint64_t now) {
    struct session *s = session_find(b, session);
    if (s && !s->peer && !s->ending)
        session_end(b, s, PROTO_REASON_DEATH, now);
}

struct broker *broker_leave(struct broker *b) {
    return broker_free(b);
}
