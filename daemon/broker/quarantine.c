/* quarantine.c - sessions that have ended, but whose memory may still be open in their client's process.
 *
 * Where a device cannot take memory away from who has opened it (backend.h: not revocable), that memory is freed only
 * when the client has said CLOSE, before which it closes its handles, or when its process is gone. Until then the
 * session stays, in state QUARANTINED: what is charged to it stays charged, so that the pool bounds this, too, and what
 * is promised to it is given up, as nobody will ask for it. Whether a process is gone is looked at again and again:
 * that needs no memory and cannot fail. */
#include <assert.h>
#include <fcntl.h>
#include <utlist.h>

#include "internal.h"

#define LOOK_FIRST_NS 5000000ull
#define LOOK_MOST_NS 250000000ull

static uint64_t charged(const struct session *s) {
    uint64_t bytes = s->account.charged;
    for (uint32_t i = 0; i < s->group_count; i++)
        bytes += s->groups[i].account.charged;
    return bytes;
}

static bool process_gone(const struct broker *b, const struct session *s) {
    return !s->peer && (!b->config.process_gone || b->config.process_gone((pid_t)s->pid, s->client_pidfd));
}

/* A client that was never told of its memory has not opened it; and of a device that is lost nothing is freed. */
bool quarantine_needed(const struct broker *b, const struct session *s) {
    return !s->pool->config.backend->revocable && !s->pool->lost && s->generation && !s->close_asked &&
           !process_gone(b, s);
}

void quarantine_begin(struct broker *b, struct session *s, uint64_t now) {
    struct proto_event event = {.type = PROTO_EVENT_QUARANTINED, .session = s->id, .bytes = charged(s)};
    assert(!s->job.running && s->state != PROTO_SESSION_QUARANTINED);
    session_stop_waiting(b, s);
    s->state = PROTO_SESSION_QUARANTINED;
    s->quarantined_ns = now;
    s->process_pause = LOOK_FIRST_NS;
    s->process_look = s->peer ? UINT64_MAX : now + s->process_pause;
    s->guaranteed_cost = 0;
    pool_promise(&s->account, 0);
    for (uint32_t i = 0; i < s->group_count; i++) {
        pool_promise(&s->groups[i].account, 0);
        s->groups[i].target_pages = JOB_NO_TARGET;
    }
    b->quarantined++;
    s->pool->quarantined++;
    s->pool->quarantined_bytes += event.bytes;
    proto_text_set(event.name, sizeof event.name, s->name);
    send_event(b, &event);
}

void quarantine_end(struct broker *b, struct session *s) {
    assert(s->state == PROTO_SESSION_QUARANTINED);
    b->quarantined--;
    s->pool->quarantined--;
    s->pool->quarantined_bytes -= charged(s);
}

void quarantine_look(struct broker *b, struct session *s, uint64_t now) {
    if (!quarantine_needed(b, s)) {
        quarantine_end(b, s);
        session_close(b, s, false);
        return;
    }
    s->process_look = s->peer ? UINT64_MAX : now + s->process_pause;
    s->process_pause = s->process_pause * 2 < LOOK_MOST_NS ? s->process_pause * 2 : LOOK_MOST_NS;
}

void quarantine_tick(struct broker *b, uint64_t now) {
    struct session *s, *next;
    if (!b->quarantined)
        return;
    DL_FOREACH_SAFE(b->sessions, s, next)
    if (s->state == PROTO_SESSION_QUARANTINED && s->process_look <= now)
        quarantine_look(b, s, now);
}

uint64_t quarantine_deadline(const struct broker *b) {
    uint64_t first = UINT64_MAX;
    const struct session *s;
    if (b->quarantined)
        DL_FOREACH(b->sessions, s)
    if (s->state == PROTO_SESSION_QUARANTINED && s->process_look < first)
        first = s->process_look;
    return first;
}

/* Without a descriptor the process is known by its number alone, which another one may have one day: then it lasts
 * longer. Of one that has no number here, either, the end is not seen: then it lasts as long as the daemon. */
void quarantine_know_process(struct session *s, const struct broker_peer *peer) {
    if (!s->pool->config.backend->revocable && peer->pidfd >= 0)
        s->client_pidfd = fcntl(peer->pidfd, F_DUPFD_CLOEXEC, 0);
}

void quarantine_abandon(struct broker *b) {
    struct session *s, *next;
    DL_FOREACH_SAFE(b->sessions, s, next) {
        if (s->state != PROTO_SESSION_QUARANTINED)
            continue;
        quarantine_end(b, s);
        session_return_charges(s, 0);
        session_abandon(s);
        session_free(b, s);
    }
}

bool broker_waits_for_processes(const struct broker *b) {
    for (uint32_t i = 0; i < b->pool_count; i++)
        if (!b->pools[i].config.backend->revocable)
            return true;
    return false;
}
