/* settle.c - the end of a period: scores out, rows handed over, the new slots read.
 *
 * The lease is held while the frames go out, so that the daemon does not change the slots between the sums and their
 * frames; it is free again when SETTLE is sent, because from then on the session's rows are the daemon's until it has
 * answered. A settle that timed out is still under way: the next call waits for that answer and asks nothing new.
 *
 * The sums are cleared when the settle has been answered well. If the daemon goes away before that, the next one
 * knows nothing of the frames, and does not have the rows: both are handed over once more, unless REATTACHED says that
 * the settle was done (recover.c); then that is its answer. A settle that the daemon refused leaves the frames with it:
 * they are sent again to another daemon only. */
#include "device.h"
#include "internal.h"

/* Frames to the daemon of connection `connection`, without the lock. */
static void send_scores(struct scissor_session *s, uint32_t connection) {
    struct scissor_client *client = s->client;
    s->busy = true;
    pthread_mutex_unlock(&client->lock);
    bool all = scissor__scores_send(s);
    pthread_mutex_lock(&client->lock);
    s->busy = false;
    s->scores_unsent = !all;
    s->sent_on = connection;
    if (!client->attached)
        pthread_cond_broadcast(&client->news);
}

/* The lock is held. 0: SETTLE was sent. */
static int settle_ask(struct scissor_session *s, uint64_t deadline) {
    struct scissor_client *client = s->client;
    int r = scissor__lease_take(s, deadline);
    if (r)
        return r;
    uint32_t connection = client->connection;
    r = s->device ? scissor__device_collect(s, deadline) : 0;
    scissor__session_release(s); /* what was to wait for the device */
    if (!r && !s->failure && s->sent_on != connection)
        send_scores(s, connection);
    scissor__lease_give(s);
    if (s->failure)
        scissor__session_unmap(s);
    if (r || s->failure)
        return s->failure ? s->failure : r;
    struct proto_settle settle = {.session = s->id, .score_sequence = s->sequence, .rows = s->fresh_count};
    s->settle_code = 0;
    r = scissor__client_ask(client, connection, PROTO_SETTLE, &settle, deadline, &s->settle_request);
    if (!r)
        s->settle_rows = s->fresh_count;
    return r;
}

/* Reads the new slots if the lease is free, so that the counts are right at once; else the next step does. */
static void look_at_slots(struct scissor_session *s) {
    if (!s->lease || !scissor__lease_try(s))
        return;
    if (scissor__session_refresh(s) == SCISSOR_EPROTO)
        s->failure = SCISSOR_EPROTO;
    scissor__lease_give(s);
}

static int settle_account(struct scissor_session *s) {
    bool lost = s->settled.scores_lost || s->scores_unsent || s->scores_gone;
    s->tokens_settled += s->settle_rows;
    s->fresh_count -= s->settle_rows;
    s->evicted_rows += s->settled.evicted_rows;
    s->settles++;
    s->scores_lost += lost;
    s->settle_rows = 0;
    scissor__planes_clear(s);
    s->sent_on = 0;
    s->scores_unsent = s->sums_forgotten = s->scores_gone = false;
    look_at_slots(s);
    return lost ? SCISSOR_SCORES_LOST : 0;
}

/* Gives the code of the answer, or why there is none. */
static int settle_until_answered(struct scissor_session *s) {
    uint64_t deadline = scissor__client_deadline(s->client);
    for (uint32_t i = 0; i < CLIENT_ASK_TRIES; i++) {
        int r = s->settle_rows == 0 ? settle_ask(s, deadline) : 0;
        if (r == 0)
            r = scissor__client_wait_settled(s, deadline);
        if (r == 0 && s->settle_rows > 0) {
            r = s->settle_code;
            s->settle_rows = r ? 0 : s->settle_rows;
            return r;
        }
        if (r != 0 && r != CLIENT_LOST)
            return r;
    }
    return SCISSOR_EGONE;
}

static int settle(struct scissor_session *s) {
    struct scissor_client *client = s->client;
    if (s->in_step)
        return SCISSOR_ESTATE;
    if (s->fresh_count == 0)
        return 0;
    pthread_mutex_lock(&client->lock);
    int r = settle_until_answered(s);
    if (r == SCISSOR_ECLOSED || r == SCISSOR_ENOSESSION) /* the news of it is still on its way */
        r = s->failure = SCISSOR_ECLOSED;
    if (r == SCISSOR_EDEVICELOST)
        s->failure = r;
    if (r == 0)
        r = settle_account(s);
    pthread_mutex_unlock(&client->lock);
    return r;
}

int scissor_settle(struct scissor_session *s) {
    if (s->device)
        s->device->settle_stream = s->backend->streams->own(s->backend);
    return settle(s);
}

int scissor_settle_device(struct scissor_session *s, void *stream) {
    int r = scissor__device_check(s, "scissor_settle");
    if (r)
        return r;
    s->device->settle_stream = stream;
    return settle(s);
}
