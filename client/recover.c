/* recover.c - what follows when the daemon has ended the connection: it died, or was started anew.
 *
 * The first call that may wait and finds the connection gone recovers for all; the others wait for it. It connects
 * again (as long as it makes sense, see patience()), says HELLO, moves the socket for scores and sends REATTACH for
 * every session. The memory of a session that is taken up stays mapped, so a step that another thread has open goes on.
 * What threads had asked on the old connection is not answered any more: each asks again, except for a settle that
 * REATTACHED shows to have been done.
 *
 * Before anything is replaced, no thread may sleep on the old socket or be in the middle of handing frames over: the
 * frames of one settle go to one daemon, all of them. Both end soon by themselves. Neither may one be waiting for a
 * device, as what it waits for is freed when its session is refused; that ends soon, too, as who waits there looks for
 * the daemon now and then (scissor__device_wait()). A call that recovers and whose own time is over before gives
 * ETIMEDOUT, and the next one goes on.
 *
 * The lock is given up while this waits, so a session may be closed by its thread meanwhile; its call then has no
 * session any more. */
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "internal.h"

/* A daemon that does not take sessions over may be started anew, or be gone: told apart soon. */
#define PATIENCE_PLAIN_NS 1000000000u
#define CONNECT_PAUSE_NS 2000000u
/* Two recoveries have at least this between them, whatever a daemon does. */
#define RECOVER_PAUSE_NS 10000000u

static void pause_unlocked(struct scissor_client *client, uint64_t ns) {
    struct timespec pause = {(time_t)(ns / 1000000000u), (long)(ns % 1000000000u)};
    pthread_mutex_unlock(&client->lock);
    nanosleep(&pause, NULL);
    pthread_mutex_lock(&client->lock);
}

/* ---------- connecting ---------- */

static bool threads_busy(const struct scissor_client *client) {
    bool busy = client->polling > 0;
    for (const struct scissor_session *s = client->sessions; s; s = s->next)
        busy |= s->busy;
    return busy;
}

static int quiesce(struct scissor_client *client, uint64_t deadline) {
    while (threads_busy(client)) {
        if (scissor__now() >= deadline)
            return SCISSOR_ETIMEDOUT;
        scissor__client_sleep(client, deadline);
    }
    return 0;
}

/* How long nobody may be there before that is final. */
static uint64_t patience(const struct scissor_client *client, bool connected) {
    uint64_t whole = client->timeout_ms * (uint64_t)1000000u;
    return client->kept || connected || whole < PATIENCE_PLAIN_NS ? whole : PATIENCE_PLAIN_NS;
}

/* Time is up for a call whose own time may have begun long before the outage. */
static int out_of_time(const struct scissor_client *client, bool connected, uint64_t now) {
    return now - client->lost_since >= patience(client, connected) / 2 ? SCISSOR_EGONE : SCISSOR_ETIMEDOUT;
}

static uint64_t last_moment(const struct scissor_client *client, bool connected, uint64_t deadline) {
    uint64_t end = client->lost_since + patience(client, connected);
    return end < deadline ? end : deadline;
}

static int connect_again(struct scissor_client *client, uint64_t deadline) {
    for (;;) {
        int fd, r = scissor__socket_open(client, &fd);
        if (r == 0) {
            scissor__client_adopt(client, fd);
            return 0;
        }
        if (r != SCISSOR_ENODAEMON && r != SCISSOR_EPERM && r != SCISSOR_ETIMEDOUT)
            return r;
        uint64_t now = scissor__now();
        if (now >= last_moment(client, false, deadline))
            return out_of_time(client, false, now);
        pause_unlocked(client, CONNECT_PAUSE_NS);
    }
}

/* ---------- taking sessions up ---------- */

/* Whatever the reason, the session cannot be had any more. */
static void session_refused(struct scissor_session *s, int code) {
    struct scissor_client *client = s->client;
    if (!s->closing && !s->failure && (code == SCISSOR_ERESTARTED || code == SCISSOR_ENOSESSION))
        snprintf(client->text, sizeof client->text, "scissord was started anew and does not have session %llu any more",
                 (unsigned long long)s->id);
    s->absent = true;
    scissor__session_end(s, s->failure ? s->failure : code == SCISSOR_ECLOSED ? code : SCISSOR_ERESTARTED);
}

/* What the daemon says about the session must follow from what we know of it. */
static int take_up(struct scissor_session *s, const struct proto_reattached *r) {
    bool answered = s->settle_rows > 0 && s->settle_request == 0;
    bool done = s->settle_rows > 0 && r->tokens_seen == s->tokens_settled + s->settle_rows;
    if (!done && r->tokens_seen != s->tokens_settled)
        return SCISSOR_EPROTO;
    if (answered && done != (s->settle_code == 0))
        return SCISSOR_EPROTO;
    if (r->scores_lost > 1 || (s->generation != UINT64_MAX && r->generation < s->generation))
        return SCISSOR_EPROTO;
    if (!scissor__session_keep_named(s))
        return SCISSOR_EPROTO;
    if (s->settle_rows > 0 && !answered) {
        s->settle_request = 0;
        s->settle_code = 0;
        s->settled = (struct proto_settled){.session = s->id,
                                            .generation = r->generation,
                                            .evicted_rows = r->evicted_rows,
                                            .scores_lost = r->scores_lost};
        if (!done)
            s->settle_rows = 0; /* as if it had not been asked for */
    }
    s->scores_gone |= s->sums_forgotten && !done;
    return 0;
}

static int reattach(struct scissor_client *client, struct scissor_session *s, uint64_t deadline) {
    struct client_call call = {.answer = PROTO_REATTACHED, .session = s};
    struct proto_reattach ask = {.session = s->id, .score_sequence = s->sequence};
    if (s->device) { /* its memory has gone with the process that had it */
        s->attached_on = client->connection;
        session_refused(s, SCISSOR_ERESTARTED);
        return 0;
    }
    memcpy(ask.token, s->token, sizeof ask.token);
    scissor__session_unname(s);
    int r = scissor__client_call_once(client, &call, PROTO_REATTACH, &ask, deadline);
    if (!call.session)
        return 0; /* closed meanwhile */
    if (!call.done)
        return r;
    s->attached_on = client->connection;
    if (r == 0 && !s->closing && !s->failure)
        r = take_up(s, &call.body.reattached);
    else if (r)
        session_refused(s, r);
    if (r == SCISSOR_EPROTO && !s->failure)
        scissor__session_end(s, r);
    return 0;
}

/* An open that was under way begins anew; nothing of what came for it counts. */
static void forget_opening(struct scissor_session *s) {
    scissor__session_unmap(s);
    s->id = 0;
    s->failure = 0;
}

static struct scissor_session *next_to_take_up(struct scissor_client *client) {
    for (struct scissor_session *s = client->sessions; s; s = s->next)
        if (!s->opening && !s->absent && s->attached_on != client->connection)
            return s;
    return NULL;
}

/* ---------- all of it ---------- */

static int attach_again(struct scissor_client *client, uint64_t deadline) {
    int r = connect_again(client, deadline);
    if (r)
        return r;
    client->text[0] = 0;
    uint64_t moment = last_moment(client, true, deadline);
    r = scissor__client_hello(client, moment);
    if (r)
        return r;
    scissor__push_move(client->directory, client->score_socket, &client->push);
    for (struct scissor_session *s = client->sessions; s; s = s->next)
        if (s->opening)
            forget_opening(s);
    struct scissor_session *s;
    while (!r && (s = next_to_take_up(client)))
        r = reattach(client, s, moment);
    return r == 0 && !client->up ? CLIENT_LOST : r; /* the last answer may have come with the end */
}

static int recover(struct scissor_client *client, uint64_t deadline) {
    if (!client->lost_since)
        client->lost_since = scissor__now();
    if (scissor__now() - client->attached_at < RECOVER_PAUSE_NS)
        pause_unlocked(client, RECOVER_PAUSE_NS);
    for (;;) {
        int r = quiesce(client, deadline);
        if (!r)
            r = attach_again(client, deadline);
        if (r == 0) {
            client->attached = true;
            client->attached_at = scissor__now();
            client->lost_since = 0;
            return 0;
        }
        scissor__client_lost(client); /* whatever came of it, the next try begins anew */
        uint64_t now = scissor__now();
        if (r == SCISSOR_ETIMEDOUT && now >= last_moment(client, true, deadline))
            return out_of_time(client, true, now);
        if (r != CLIENT_LOST)
            return r;
        if (now >= last_moment(client, true, deadline))
            return out_of_time(client, true, now);
        pause_unlocked(client, CONNECT_PAUSE_NS);
    }
}

int scissor__client_recover(struct scissor_client *client, uint64_t deadline) {
    while (!client->attached && !client->failure) {
        if (client->recovering) {
            if (scissor__now() >= deadline)
                return SCISSOR_ETIMEDOUT;
            scissor__client_sleep(client, deadline);
            continue;
        }
        client->recovering = true;
        int r = recover(client, deadline);
        client->recovering = false;
        if (r && r != SCISSOR_ETIMEDOUT && r != SCISSOR_ESYSTEM)
            scissor__client_fail(client, r);
        pthread_cond_broadcast(&client->news);
        if (r)
            return client->failure ? client->failure : r;
    }
    return client->failure;
}
