/* settle.c - the end of a period: scores out, rows handed over, the new slots read.
 *
 * The lease is held while the frames go out, so that the daemon does not change the slots between the sums and their
 * frames; it is free again when SETTLE is sent, because from then on the session's rows are the daemon's until it has
 * answered. A settle that timed out is still under way: the next call waits for that answer and asks nothing new. */
#include "internal.h"

/* The lock is held. Gives the code of the answer, or why there is none. */
static int settle_begin(struct scissor_session *s) {
    struct scissor_client *client = s->client;
    int r = scissor__lease_take(s);
    if (r)
        return r;
    pthread_mutex_unlock(&client->lock);
    if (!scissor__scores_send(s))
        s->scores_unsent = true;
    pthread_mutex_lock(&client->lock);
    scissor__lease_give(s);
    if (s->failure)
        return s->failure;
    struct client_call call = {.answer = PROTO_SETTLED, .session = s};
    struct proto_settle settle = {.session = s->id, .score_sequence = s->sequence, .rows = s->fresh_count};
    s->settle_code = 0;
    r = scissor__client_call(client, &call, PROTO_SETTLE, &settle, 0);
    s->settle_rows = s->settle_request || r == 0 ? s->fresh_count : 0;
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
    bool lost = s->settled.scores_lost || s->scores_unsent;
    s->tokens_settled += s->settle_rows;
    s->fresh_count -= s->settle_rows;
    s->evicted_rows += s->settled.evicted_rows;
    s->settles++;
    s->scores_lost += lost;
    s->settle_rows = 0;
    s->scores_unsent = false;
    look_at_slots(s);
    return lost ? SCISSOR_SCORES_LOST : 0;
}

int scissor_settle(struct scissor_session *s) {
    struct scissor_client *client = s->client;
    if (s->in_step)
        return SCISSOR_ESTATE;
    if (s->fresh_count == 0)
        return 0;
    pthread_mutex_lock(&client->lock);
    int r = s->settle_rows > 0 ? scissor__client_wait_settled(s) : settle_begin(s);
    if (r == 0 && s->settle_code) { /* refused while nobody waited */
        r = s->settle_code;
        s->settle_rows = 0;
    }
    if (r == SCISSOR_ECLOSED || r == SCISSOR_ENOSESSION) /* the news of it is still on its way */
        r = s->failure = SCISSOR_ECLOSED;
    if (r == 0)
        r = settle_account(s);
    pthread_mutex_unlock(&client->lock);
    return r;
}
