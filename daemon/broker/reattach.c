/* reattach.c - orphans, which are sessions that were taken over and whose clients have not come back, and their return.
 *
 * An orphan keeps its memory and its guarantee. Its lent memory can be asked for like that of any idle session; scores
 * are not folded, as its client sends all of this period anew. It ends when its client's process ends, or when it has
 * waited long enough: then as the operator would close it, because its client may live and be in a step. An orphan
 * whose client never heard that it was opened comes back with the same OPEN. */
#include <unistd.h>
#include <utlist.h>

#include "internal.h"

void session_stop_orphan(struct broker *b, struct session *s) {
    if (!s->orphan)
        return;
    s->orphan = false;
    b->orphans--;
    if (s->client_pidfd >= 0)
        close(s->client_pidfd);
    s->client_pidfd = -1;
}

bool broker_orphan_next(const struct broker *b, uint64_t *cursor, uint64_t *ret_session, int *ret_pidfd) {
    const struct session *s;
    DL_FOREACH(b->sessions, s) {
        if (!s->orphan || s->id <= *cursor)
            continue;
        *cursor = *ret_session = s->id;
        *ret_pidfd = s->client_pidfd;
        return true;
    }
    return false;
}

void broker_orphan_gone(struct broker *b, uint64_t session, uint64_t now) {
    struct session *s = session_find(b, session);
    if (s && s->orphan)
        session_end(b, s, PROTO_REASON_DEATH, now);
}

/* Its other connections may come a little later than this one. */
void orphans_process_back(struct broker *b, const struct broker_peer *peer, uint64_t now) {
    struct session *s;
    if (!b->orphans)
        return;
    DL_FOREACH(b->sessions, s)
    if (s->orphan && s->orphan_deadline == UINT64_MAX && s->pid == (uint32_t)peer->pid && s->uid == peer->uid)
        s->orphan_deadline = now + b->config.orphan_wait_ns;
}

void orphans_tick(struct broker *b, uint64_t now) {
    struct session *s, *next;
    if (!b->orphans)
        return;
    DL_FOREACH_SAFE(b->sessions, s, next) {
        if (!s->orphan || s->ending || s->orphan_deadline > now)
            continue;
        session_end(b, s, PROTO_REASON_OPERATOR, now); /* in its manner, though not for its reason */
        s->end_reason = PROTO_REASON_DEATH;
    }
}

uint64_t orphans_deadline(const struct broker *b) {
    uint64_t first = UINT64_MAX;
    const struct session *s;
    if (b->orphans)
        DL_FOREACH(b->sessions, s)
    if (s->orphan && !s->ending && s->orphan_deadline < first)
        first = s->orphan_deadline;
    return first;
}

/* ---------- coming back ---------- */

void reattach_answer(struct broker *b, struct session *s) {
    uint32_t request = s->asked.number;
    struct proto_event event = {.type = PROTO_EVENT_REATTACHED, .session = s->id};
    int code = s->asked.type == PROTO_OPEN ? send_opened(b, s, request) : send_reattached(b, s, request);
    s->asked.type = 0;
    if (code < 0) {
        send_failed(b, s->peer, request, s->id, code, "the session's memory could not be sent");
        peer_hang_up(b, s->peer);
        return;
    }
    proto_text_set(event.name, sizeof event.name, s->name);
    send_event(b, &event);
}

/* Why this peer does not get the session; 0: it does. */
static int refusal(const struct session *s, const struct broker_peer *peer, const char **ret_why) {
    if ((uint32_t)peer->uid != s->uid || (uint32_t)peer->pid != s->pid) {
        *ret_why = "the session belongs to another process";
        return SCISSOR_EPERM;
    }
    if (s->ending) {
        *ret_why = "the session is being closed";
        return SCISSOR_ECLOSED;
    }
    if (!s->orphan) {
        *ret_why = "the session has its connection already";
        return SCISSOR_ESTATE;
    }
    return 0;
}

static void come_back(struct broker *b, struct session *s, struct broker_peer *peer, struct session_request asked,
                      uint64_t score_sequence, uint64_t now) {
    session_stop_orphan(b, s);
    s->peer = peer;
    peer->sessions++;
    if (!peer->process && s->keep->process)
        peer->process = keep_process_ref(s->keep->process);
    s->sequence = score_sequence;
    s->scores_missing = false;
    s->last_ns = now;
    s->asked = asked;
    if (!s->job.running)
        reattach_answer(b, s);
}

void reattach_arrived(struct broker *b, struct broker_peer *peer, uint32_t request, const struct proto_reattach *ask,
                      uint64_t now) {
    struct session *s = session_find(b, ask->session);
    const char *why;
    if (!s || !proto_token_equal(s->token, ask->token)) {
        send_failed(b, peer, request, ask->session, SCISSOR_ERESTARTED, "session %llu was not taken over",
                    (unsigned long long)ask->session);
        return;
    }
    int code = refusal(s, peer, &why);
    if (code < 0) {
        send_failed(b, peer, request, ask->session, code, "%s", why);
        return;
    }
    come_back(b, s, peer, (struct session_request){.type = PROTO_REATTACH, .number = request}, ask->score_sequence,
              now);
}

/* ---------- opened, but its client does not know ---------- */

/* What was asked for then; a policy that was left to the default is the default of then. */
static bool same_open(const struct proto_open *then, const struct proto_open *now) {
    struct proto_open open = *now;
    for (uint32_t i = 0; i < PROTO_MAX_GROUPS; i++)
        if (!*open.groups[i].policy)
            memcpy(open.groups[i].policy, then->groups[i].policy, sizeof open.groups[i].policy);
    return memcmp(then, &open, sizeof open) == 0;
}

bool reattach_open(struct broker *b, struct broker_peer *peer, uint32_t request, const struct proto_open *open,
                   uint64_t now) {
    const char *why;
    struct session *s;
    if (!open->attempt || !b->orphans)
        return false;
    DL_FOREACH(b->sessions, s) {
        if (!s->orphan || s->tokens_seen || s->job.running || !same_open(&s->keep->open, open) ||
            refusal(s, peer, &why))
            continue;
        come_back(b, s, peer, (struct session_request){.type = PROTO_OPEN, .number = request}, 0, now);
        return true;
    }
    return false;
}
