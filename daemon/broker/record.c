/* record.c - a tool reads along what is folded and settled of a session, so that policies can be compared on it later.
 *
 * A recorder that is slow costs the session nothing: so much is on its way to it and no more, and what does not fit is
 * lost, which the numbers of the records say. A FRAME alone can be spared. After a STATE was lost nobody could say
 * which rows the slots hold, so nothing is sent until a STATE that names them all fits. */
#include <string.h>
#include <utlist.h>

#include "alloc.h"
#include "internal.h"
#include "trace.h"

static_assert(TRACE_RECORD_MAX <= PROTO_RECORD_WINDOW, "a record fits when nothing is on its way");

/* The parts of a record, all or none. False: it is lost. */
static bool send_record(struct broker *b, struct broker_peer *peer, uint32_t request, uint32_t type, const void *bytes,
                        size_t size) {
    struct recorder *r = &peer->recorder;
    struct proto_recorded part = {
        .session = r->session->id, .number = r->next++, .type = type, .bytes = (uint32_t)size};
    struct action *list = NULL;
    if (peer->hung_up || size > PROTO_RECORD_WINDOW - r->unread)
        return false;
    while (part.offset < size) {
        size_t left = size - part.offset;
        uint16_t count = (uint16_t)(left < PROTO_RECORDED_PER_MESSAGE ? left : PROTO_RECORDED_PER_MESSAGE);
        if (action_add_packet(&list, peer, PROTO_RECORDED, request, &part, (const char *)bytes + part.offset, count, 0,
                              NULL) < 0) {
            action_list_clear(&list);
            return false;
        }
        part.offset += count;
    }
    DL_CONCAT(b->actions, list);
    r->unread += (uint32_t)size;
    return true;
}

/* Forgets the recording; the peer stays. */
void record_stop(struct broker *b, struct broker_peer *peer) {
    struct recorder *r = &peer->recorder;
    if (!r->session)
        return;
    r->session->recorder = NULL;
    scissor_free(r->settled);
    *r = (struct recorder){0};
    b->recorders--;
}

void record_end(struct broker *b, struct session *s, int code) {
    struct trace_end end = {.code = code};
    struct broker_peer *peer = s->recorder;
    if (!peer)
        return;
    peer->recorder.unread = 0; /* there is always room for the last words */
    if (!send_record(b, peer, 0, TRACE_END, &end, sizeof end))
        peer_hang_up(b, peer);
    record_stop(b, peer);
}

/* ---------- what the records hold ---------- */

static void shape_of(const struct session *s, struct trace_shape *ret) {
    *ret = (struct trace_shape){.session = s->id, .fresh_rows = s->fresh_rows, .group_count = s->group_count};
    memcpy(ret->name, s->name, sizeof ret->name);
    for (uint32_t i = 0; i < s->group_count; i++) {
        const struct session_group *g = &s->groups[i];
        const struct policy_class *class = g->policy.class;
        struct trace_group *to = &ret->groups[i];
        *to = (struct trace_group){.layers = g->layers,
                                   .kv_heads = g->kv_heads,
                                   .q_heads = g->q_heads,
                                   .head_dim = g->head_dim,
                                   .planes = g->planes,
                                   .threshold = g->threshold,
                                   .max_rows = g->max_rows,
                                   .norms = class->norms};
        proto_text_set(to->policy, sizeof to->policy, class->name);
        for (uint32_t p = 0; p < PROTO_MAX_PARAMS && class->params[p].name; p++) {
            proto_text_set(to->params[p].name, sizeof to->params[p].name, class->params[p].name);
            to->params[p].value = g->policy.param[p];
        }
    }
}

/* A settle writes fresh rows into slots and moves no other row, unless rows from the end fill holes: then a head has
 * fewer rows than before. */
static bool only_settled(const struct session *s, const struct recorder *r, uint32_t rows) {
    if (!r->known || rows == 0)
        return false;
    for (uint32_t h = 0; h < s->head_count; h++)
        if (s->heads[h].history.settled < r->settled[h])
            return false;
    return true;
}

/* Bytes of a STATE that names the rows at `first` and later. */
static size_t state_bytes(const struct session *s, uint64_t first) {
    size_t bytes = sizeof(struct trace_state) + s->head_count * sizeof(struct trace_head);
    for (uint32_t h = 0; h < s->head_count; h++) {
        const struct history *history = &s->heads[h].history;
        for (uint32_t i = 0; i < history->settled; i++)
            bytes += history->position[i] >= first ? sizeof(struct trace_row) : 0;
    }
    return bytes;
}

static char *put_head(char *to, const struct history *h, uint64_t first) {
    struct trace_head head = {.settled = h->settled};
    char *rows = to + sizeof head;
    for (uint32_t i = 0; i < h->settled; i++) {
        struct trace_row row = {.slot = i, .position = h->position[i], .norm = h->norm ? h->norm[i] : 0};
        if (row.position < first)
            continue;
        memcpy(rows, &row, sizeof row);
        rows += sizeof row;
        head.count++;
    }
    memcpy(to, &head, sizeof head);
    return rows;
}

static bool send_state(struct broker *b, struct session *s, uint32_t rows, bool whole, size_t size) {
    uint64_t first = whole ? 0 : s->tokens_seen - rows;
    struct trace_state state = {.generation = s->generation,
                                .tokens_seen = s->tokens_seen,
                                .sequence = s->sequence,
                                .rows = rows,
                                .whole = whole,
                                .heads = s->head_count};
    char *bytes = scissor_malloc(size), *to = bytes + sizeof state;
    if (!bytes) {
        s->recorder->recorder.next++;
        return false;
    }
    memcpy(bytes, &state, sizeof state);
    for (uint32_t h = 0; h < s->head_count; h++)
        to = put_head(to, &s->heads[h].history, first);
    bool sent = send_record(b, s->recorder, 0, TRACE_STATE, bytes, size);
    scissor_free(bytes);
    return sent;
}

void record_state(struct broker *b, struct session *s, uint32_t rows) {
    if (!s->recorder)
        return;
    struct recorder *r = &s->recorder->recorder;
    bool whole = !only_settled(s, r, rows);
    size_t size = state_bytes(s, whole ? 0 : s->tokens_seen - rows);
    if (size > TRACE_RECORD_MAX) {
        record_end(b, s, SCISSOR_ELIMIT);
        return;
    }
    r->known = send_state(b, s, rows, whole, size);
    for (uint32_t h = 0; h < s->head_count; h++)
        r->settled[h] = s->heads[h].history.settled;
}

void record_frame(struct broker *b, struct session *s, const struct proto_score *frame, const uint8_t *payload) {
    if (!s->recorder)
        return;
    struct recorder *r = &s->recorder->recorder;
    size_t size = sizeof *frame + frame->payload_bytes;
    char *bytes = r->known ? scissor_malloc(size) : NULL;
    if (!bytes) {
        r->next++;
        return;
    }
    struct proto_score open = *frame;
    memset(open.token, 0, sizeof open.token);
    memcpy(bytes, &open, sizeof open);
    memcpy(bytes + sizeof open, payload, frame->payload_bytes);
    send_record(b, s->recorder, 0, TRACE_FRAME, bytes, size);
    scissor_free(bytes);
}

/* ---------- who may, and how it begins ---------- */

/* 0, or why not. */
static int may_record(struct broker *b, const struct broker_peer *peer, const struct session *s, const char **ret_why) {
    if (!s) {
        *ret_why = "there is no such session";
        return SCISSOR_ENOSESSION;
    }
    if (!pass_is_operator(b, peer->uid) && s->uid != peer->uid) {
        b->denied++;
        *ret_why = "only the session's owner, root and the daemon's user may record it";
        return SCISSOR_EPERM;
    }
    *ret_why = "the session is opening or ending";
    if (s->ending || !session_shows_heads(s))
        return SCISSOR_ESTATE;
    *ret_why =
        peer->recorder.session ? "this connection records a session already" : "somebody records the session already";
    if (peer->recorder.session || s->recorder)
        return SCISSOR_ESTATE;
    *ret_why = "the daemon has as many recorders as it takes";
    return b->recorders < BROKER_RECORDERS_MAX ? 0 : SCISSOR_ELIMIT;
}

void record_begin(struct broker *b, struct broker_peer *peer, uint32_t request, const struct proto_record *asked) {
    struct session *s = session_find(b, asked->session);
    struct trace_shape shape;
    const char *why;
    int code = may_record(b, peer, s, &why);
    uint32_t *settled = code == 0 ? scissor_calloc(s->head_count, sizeof *settled) : NULL;
    if (code == 0 && !settled) {
        code = SCISSOR_ENOMEM;
        why = "the daemon has no memory for it";
    }
    if (code < 0) {
        send_failed(b, peer, request, asked->session, code, "%s", why);
        return;
    }
    peer->recorder = (struct recorder){.session = s, .settled = settled};
    s->recorder = peer;
    b->recorders++;
    shape_of(s, &shape);
    if (!send_record(b, peer, request, TRACE_SHAPE, &shape, sizeof shape)) {
        record_stop(b, peer);
        peer_hang_up(b, peer);
    } else if (!s->job.running) {
        record_state(b, s, 0); /* else when the job is done */
    }
}

void record_read(struct broker_peer *peer, const struct proto_record_read *read) {
    struct recorder *r = &peer->recorder;
    if (!r->session || r->session->id != read->session)
        return; /* of a recording that has ended meanwhile */
    r->unread -= read->bytes < r->unread ? (uint32_t)read->bytes : r->unread;
}
