/* session.c - sessions coming and going, and questions about them. */
#include <errno.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "device.h"
#include "internal.h"

static void session_unlink(struct scissor_session *s) {
    for (struct scissor_session **at = &s->client->sessions; *at; at = &(*at)->next)
        if (*at == s) {
            *at = s->next;
            break;
        }
    for (struct client_call *call = s->client->calls; call; call = call->next)
        if (call->session == s) { /* another thread's, which takes sessions up */
            call->session = NULL;
            call->code = SCISSOR_ENOSESSION;
            call->done = true;
        }
}

/* Tells the daemon and waits until it has the memory back. A new daemon that does not have the session has it back.
 * Where this process has lost the device, or its driver refuses, nothing could be closed: what the session has stays
 * until the process ends. */
static int session_give_back(struct scissor_session *s) {
    struct client_call call = {.answer = PROTO_CLOSED, .session = s};
    struct proto_close close = {.session = s->id};
    if (scissor__device_lost(s))
        return 0;
    if (s->device && !s->absent && !scissor__device_closed(s))
        return SCISSOR_EDEVICE;
    int r = s->absent ? 0 : scissor__client_call(s->client, &call, PROTO_CLOSE, &close, 0);
    return s->absent ? 0 : r;
}

static int open_session(struct scissor_session *s, const struct proto_open *open) {
    struct scissor_client *client = s->client;
    struct client_call call = {.answer = PROTO_OPENED, .session = s};
    s->opening = true;
    int r = scissor__client_call(client, &call, PROTO_OPEN, open, open->wait_ms);
    if (!r)
        r = s->failure ? s->failure : scissor__session_opened(s, &call);
    for (int i = 0; i < 2; i++)
        if (call.fds[i] >= 0)
            close(call.fds[i]);
    if (r == SCISSOR_EPROTO && call.body.opened.session != 0)
        scissor__client_fail(client, SCISSOR_EPROTO);
    if (r && call.body.opened.session != 0) {
        scissor__session_unmap(s);
        s->closing = true;
        session_give_back(s);
    }
    return r;
}

int scissor_open(struct scissor_client *client, const struct scissor_session_spec *spec,
                 struct scissor_session **ret_session) {
    struct proto_open open;
    pthread_mutex_lock(&client->lock);
    client->text[0] = 0;
    int r = scissor__spec_check(spec, &open, client->text, sizeof client->text);
    if (r) {
        pthread_mutex_unlock(&client->lock);
        return r;
    }
    struct scissor_session *s = scissor__session_new(client, &open);
    if (!s) {
        pthread_mutex_unlock(&client->lock);
        return SCISSOR_ENOMEM;
    }
    /* Without a number, a daemon that dies leaves behind what it opened and could not say. */
    if (getrandom(&open.attempt, sizeof open.attempt, GRND_NONBLOCK) < 0)
        open.attempt = 0;
    if (client->failure == SCISSOR_EGONE) { /* somebody may be there by now */
        client->failure = 0;
        client->lost_since = 0;
    }
    s->next = client->sessions;
    client->sessions = s;
    r = open_session(s, &open);
    if (r) {
        session_unlink(s);
        scissor__session_free(s);
    } else {
        *ret_session = s;
    }
    pthread_mutex_unlock(&client->lock);
    return r;
}

int scissor_close(struct scissor_session *s) {
    if (!s)
        return 0;
    struct scissor_client *client = s->client;
    pthread_mutex_lock(&client->lock);
    int r = s->device ? scissor__device_drain(s, scissor__client_deadline(client)) : 0;
    if (r && r != CLIENT_LOST) {
        pthread_mutex_unlock(&client->lock);
        return r;
    }
    bool leaving = r == CLIENT_LOST;
    scissor__lease_give(s);
    s->in_step = false;
    if (s->settle_request) /* the daemon takes one request at a time */
        scissor__client_wait_settled(s, scissor__client_deadline(client));
    int failure = s->failure;
    scissor__session_unmap(s);
    bool told = !leaving && !s->absent; /* that all is closed */
    if (s->device && told && !scissor__device_closed(s)) {
        s->failure = s->failure ? s->failure : SCISSOR_EDEVICE;
        pthread_mutex_unlock(&client->lock);
        return SCISSOR_EDEVICE;
    }
    s->closing = true;
    /* Of a session that the operator closed, the daemon still keeps the two pages that we had mapped. */
    r = session_give_back(s);
    if (s->device && (r == SCISSOR_ETIMEDOUT || r == SCISSOR_EDEVICE)) /* which mean here that it is not closed */
        r = SCISSOR_EGONE;
    if ((failure == SCISSOR_ECLOSED || failure == SCISSOR_EDEVICELOST) && (r == 0 || r == SCISSOR_ENOSESSION))
        r = failure;
    session_unlink(s);
    if (leaving)
        scissor__watch_leave(s);
    pthread_mutex_unlock(&client->lock);
    if (!leaving)
        scissor__session_free(s);
    return r;
}

uint64_t scissor_session_id(const struct scissor_session *s) {
    return s->id;
}

uint32_t scissor_fresh_count(const struct scissor_session *s) {
    return s->fresh_count;
}

uint32_t scissor_fresh_room(const struct scissor_session *s) {
    return s->fresh_rows - s->fresh_count;
}

uint64_t scissor_tokens_seen(const struct scissor_session *s) {
    return s->tokens_settled + s->fresh_count;
}

uint32_t scissor_settled_count(const struct scissor_session *s, uint32_t layer, uint32_t kv_head) {
    if (layer >= s->layer_count || kv_head >= s->groups[s->layers[layer].group].kv_heads)
        return 0;
    return s->heads[s->layers[layer].first_head + kv_head].settled;
}

void scissor_session_info(const struct scissor_session *s, struct scissor_session_info *ret) {
    struct scissor_client *client = s->client;
    *ret = (struct scissor_session_info){.session = s->id,
                                         .tokens_seen = scissor_tokens_seen(s),
                                         .evicted_rows = s->evicted_rows,
                                         .settles = s->settles,
                                         .scores_lost = s->scores_lost,
                                         .fresh_count = s->fresh_count};
    for (uint32_t h = 0; h < s->head_count; h++)
        if (s->heads[h].settled > ret->max_settled)
            ret->max_settled = s->heads[h].settled;
    pthread_mutex_lock(&client->lock);
    ret->segments_bytes = (uint64_t)s->segment_count * SCISSOR_SEGMENT_BYTES;
    pthread_mutex_unlock(&client->lock);
}

/* Reads all positions of a head, message by message, into `staged`; the lock is held. */
static int read_positions(struct scissor_session *s, uint32_t layer, uint32_t kv_head, uint32_t *staged,
                          uint32_t capacity, uint32_t *ret_total) {
    struct proto_positions ask = {.session = s->id, .layer = layer, .kv_head = kv_head};
    for (;;) {
        uint32_t written = ask.first_slot < capacity ? ask.first_slot : capacity;
        struct client_call call = {
            .answer = PROTO_POSITIONS_ARE, .session = s, .positions = staged + written, .capacity = capacity - written};
        int r = scissor__client_call(s->client, &call, PROTO_POSITIONS, &ask, 0);
        if (r)
            return r;
        const struct proto_positions_are *are = &call.body.positions_are;
        if (are->first_slot >= are->total || are->first_slot >= capacity) {
            *ret_total = are->total;
            return 0;
        }
        if (are->first_slot <= ask.first_slot)
            return SCISSOR_EPROTO;
        ask.first_slot = are->first_slot;
    }
}

int scissor_positions(struct scissor_session *s, uint32_t layer, uint32_t kv_head, uint32_t *ret_positions,
                      uint32_t capacity, uint32_t *ret_count) {
    if (layer >= s->layer_count || kv_head >= s->groups[s->layers[layer].group].kv_heads)
        return SCISSOR_EINVAL;
    uint32_t most = s->groups[s->layers[layer].group].settled_max;
    capacity = capacity < most ? capacity : most;
    uint32_t *staged = scissor_malloc(capacity * sizeof *staged), total = 0;
    if (!staged)
        return SCISSOR_ENOMEM;
    pthread_mutex_lock(&s->client->lock);
    int r = s->failure ? s->failure : s->client->failure;
    if (!r)
        r = s->settle_rows > 0 ? SCISSOR_ESTATE : read_positions(s, layer, kv_head, staged, capacity, &total);
    if (r == SCISSOR_EPROTO)
        scissor__client_fail(s->client, r);
    if (r == SCISSOR_ECLOSED || r == SCISSOR_ENOSESSION) /* the news of it is still on its way */
        r = s->failure = SCISSOR_ECLOSED;
    pthread_mutex_unlock(&s->client->lock);
    if (!r) {
        memcpy(ret_positions, staged, (total < capacity ? total : capacity) * sizeof *staged);
        *ret_count = total;
    }
    scissor_free(staged);
    return r;
}
