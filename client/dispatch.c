/* dispatch.c - applies what the daemon sent: answers to the calls that wait for them, segments to their sessions.
 *
 * Runs on whichever thread reads the socket, with the client's lock held. The packet has come from outside: it is
 * checked by the table first, then field by field; a message that cannot be right ends the connection. A message about
 * a session or a request that nobody has any more is not wrong: its call may have timed out. */
#include <string.h>

#include "internal.h"

struct incoming {
    struct scissor_client *client;
    uint32_t request;
    uint16_t count;
    const void *body, *entries;
    int *fds;
    uint32_t fd_count;
    bool cut;
};

static struct client_call *find_call(const struct incoming *in, uint16_t answer) {
    for (struct client_call *call = in->client->calls; call; call = call->next)
        if (call->request == in->request && !call->done && (call->answer == answer || answer == PROTO_FAILED))
            return call;
    return NULL;
}

static struct scissor_session *find_session(const struct incoming *in, uint64_t id) {
    for (struct scissor_session *s = in->client->sessions; id && s; s = s->next)
        if (s->id == id && !s->absent) /* a daemon that was started anew may give the number to another one */
            return s;
    return NULL;
}

static void finish(struct client_call *call, int code) {
    call->code = code;
    call->done = true;
}

void scissor__session_end(struct scissor_session *session, int code) {
    session->failure = code;
    for (struct client_call *call = session->client->calls; call; call = call->next)
        if (call->session == session && !call->done)
            finish(call, code);
    /* What a thread waits for on the device may use it yet: a settle unmaps when it is back, else it stays until the
     * session is closed. */
    if (!session->in_step && !(session->device && session->busy))
        scissor__session_unmap(session);
}

static bool apply_welcome(const struct incoming *in) {
    struct client_call *call = find_call(in, PROTO_WELCOME);
    if (!call)
        return false;
    memcpy(&call->body.welcome, in->body, sizeof call->body.welcome);
    finish(call, 0);
    return true;
}

static struct scissor_session *find_settle(const struct incoming *in) {
    for (struct scissor_session *s = in->client->sessions; in->request && s; s = s->next)
        if (s->settle_request == in->request)
            return s;
    return NULL;
}

/* What a request may be refused with: any failure that we know, and from OPEN also its three conditions. */
static bool refusal_valid(int code, bool open) {
    return (code < 0 && strcmp(scissor_errname(code), "unknown") != 0) ||
           (open && code >= SCISSOR_BUSY && code <= SCISSOR_DRAINING);
}

static bool apply_failed(const struct incoming *in) {
    struct proto_failed f;
    memcpy(&f, in->body, sizeof f);
    struct client_call *call = find_call(in, PROTO_FAILED);
    struct scissor_session *settling = find_settle(in);
    bool open = call ? call->answer == PROTO_OPENED : !settling; /* or one that has timed out */
    if (!proto_text_valid(f.text, sizeof f.text) || !refusal_valid(f.code, open))
        return false;
    memcpy(in->client->text, f.text, sizeof f.text);
    if (settling) {
        settling->settle_request = 0;
        settling->settle_code = f.code;
    }
    if (call)
        finish(call, f.code);
    else if (in->request == 0)
        scissor__client_fail(in->client, f.code < 0 ? f.code : SCISSOR_EGONE);
    return true;
}

static bool apply_opened(const struct incoming *in) {
    struct proto_opened opened;
    memcpy(&opened, in->body, sizeof opened);
    struct client_call *call = find_call(in, PROTO_OPENED);
    if (!call) { /* its open has timed out: give the session back */
        struct proto_close close = {.session = opened.session};
        scissor__client_post(in->client, PROTO_CLOSE, &close, NULL, 0);
        return true;
    }
    struct scissor_session *session = call->session;
    if (opened.session == 0 || (session->id && session->id != opened.session))
        return false;
    session->id = opened.session;
    session->attached_on = in->client->connection;
    session->opening = false;
    memcpy(session->token, opened.token, sizeof session->token);
    call->body.opened = opened;
    if (in->cut || in->fd_count != 2) {
        if (!in->cut)
            return false;
        finish(call, SCISSOR_ESYSTEM); /* this process has no descriptors left */
        return true;
    }
    for (int i = 0; i < 2; i++) {
        call->fds[i] = in->fds[i];
        in->fds[i] = -1;
    }
    finish(call, 0);
    return true;
}

static bool apply_settled(const struct incoming *in) {
    struct proto_settled settled;
    memcpy(&settled, in->body, sizeof settled);
    struct scissor_session *session = find_session(in, settled.session);
    if (!session || session->closing)
        return true;
    if (in->request == 0 || session->settle_request != in->request || settled.scores_lost > 1)
        return false;
    session->settle_request = 0;
    session->settle_code = 0;
    session->settled = settled;
    return true;
}

/* Segments of a session that a new daemon has taken over. */
static bool apply_named(const struct incoming *in, struct client_call *call, uint64_t id) {
    struct scissor_session *session = call->session;
    if (session->id != id)
        return false;
    call->count += in->count;
    if (session->closing || session->failure)
        return true;
    if (in->cut) {
        session->failure = SCISSOR_ESYSTEM;
        return true;
    }
    if (in->fd_count != in->count)
        return false;
    const struct proto_segment *entries = in->entries;
    for (uint16_t i = 0; i < in->count; i++)
        if (!scissor__session_regrow(session, &entries[i], &in->fds[i]))
            return false;
    return true;
}

static bool apply_reattached(const struct incoming *in) {
    struct client_call *call = find_call(in, PROTO_REATTACHED);
    if (!call)
        return true;
    struct proto_reattached *reattached = &call->body.reattached;
    memcpy(reattached, in->body, sizeof *reattached);
    if (reattached->session != call->session->id || reattached->segments != call->count)
        return false;
    finish(call, 0);
    return true;
}

/* GROW comes before the answer to an open or a settle; before OPENED only its request tells whose it is. */
static bool apply_grow(const struct incoming *in) {
    struct proto_grow grow;
    memcpy(&grow, in->body, sizeof grow);
    struct client_call *call = find_call(in, PROTO_REATTACHED);
    if (call)
        return apply_named(in, call, grow.session);
    call = find_call(in, PROTO_OPENED);
    struct scissor_session *session = call ? call->session : find_session(in, grow.session);
    if (!session || session->closing)
        return true;
    if (grow.session == 0 || in->request == 0 || (call && session->id && session->id != grow.session))
        return false;
    if (!call && session->settle_request != in->request)
        return false;
    session->id = grow.session;
    if (in->cut) {
        session->failure = SCISSOR_ESYSTEM;
        return true;
    }
    /* Before OPENED either kind may come. */
    bool described = in->fd_count > 0 || !(session->device || session->opening);
    if (in->fd_count != (described ? in->count : 0) || (described && session->device))
        return false;
    const struct proto_segment *entries = in->entries;
    for (uint16_t i = 0; i < in->count; i++)
        if (!scissor__session_grow(session, &entries[i], described ? &in->fds[i] : NULL))
            return false;
    return true;
}

static bool apply_shrink(const struct incoming *in) {
    struct proto_shrink shrink;
    memcpy(&shrink, in->body, sizeof shrink);
    struct scissor_session *session = find_session(in, shrink.session);
    if (!session || session->closing || session->failure)
        return true;
    const struct proto_segment_id *entries = in->entries;
    for (uint16_t i = 0; i < in->count; i++)
        if (!scissor__session_shrink(session, entries[i].id))
            return false;
    scissor__session_release(session);
    return true;
}

static bool apply_closed(const struct incoming *in) {
    struct proto_closed closed;
    memcpy(&closed, in->body, sizeof closed);
    if (closed.code != SCISSOR_OK && closed.code != SCISSOR_ECLOSED && closed.code != SCISSOR_EDEVICELOST)
        return false;
    struct scissor_session *session = find_session(in, closed.session);
    struct client_call *call = find_call(in, PROTO_CLOSED);
    if (call)
        finish(call, closed.code);
    else if (session && in->request == 0)
        scissor__session_end(session, closed.code == SCISSOR_OK ? SCISSOR_ECLOSED : closed.code);
    return true;
}

static bool apply_positions(const struct incoming *in) {
    struct client_call *call = find_call(in, PROTO_POSITIONS_ARE);
    if (!call)
        return true;
    struct proto_positions_are *are = &call->body.positions_are;
    memcpy(are, in->body, sizeof *are);
    if (are->session != call->session->id || are->first_slot > are->total || in->count > are->total - are->first_slot)
        return false;
    const struct proto_position *entries = in->entries;
    call->count = in->count < call->capacity ? in->count : call->capacity;
    for (uint32_t i = 0; i < call->count; i++)
        call->positions[i] = entries[i].position;
    are->first_slot += in->count;
    finish(call, 0);
    return true;
}

static bool apply(const struct incoming *in, uint16_t type) {
    if (in->fd_count > 0 && type != PROTO_OPENED && type != PROTO_GROW)
        return false;
    switch (type) {
    case PROTO_WELCOME:
        return apply_welcome(in);
    case PROTO_FAILED:
        return apply_failed(in);
    case PROTO_OPENED:
        return apply_opened(in);
    case PROTO_SETTLED:
        return apply_settled(in);
    case PROTO_GROW:
        return apply_grow(in);
    case PROTO_SHRINK:
        return apply_shrink(in);
    case PROTO_CLOSED:
        return apply_closed(in);
    case PROTO_POSITIONS_ARE:
        return apply_positions(in);
    case PROTO_REATTACHED:
        return apply_reattached(in);
    default:
        return false; /* nothing that was asked for */
    }
}

void scissor__dispatch(struct scissor_client *client, const char *packet, size_t size, int *fds, uint32_t fd_count,
                       bool cut) {
    const char *why;
    struct proto_header header;
    if (proto_attach_check(packet, size, 'D', &why) < 0) {
        scissor__client_fail(client, SCISSOR_EPROTO);
        return;
    }
    memcpy(&header, packet, sizeof header);
    struct incoming in = {.client = client,
                          .request = header.request,
                          .count = header.count,
                          .body = proto_attach_body(packet),
                          .entries = proto_attach_entries(packet),
                          .fds = fds,
                          .fd_count = fd_count,
                          .cut = cut};
    if (!apply(&in, header.type))
        scissor__client_fail(client, SCISSOR_EPROTO);
}
