/* send.c - what goes out to peers and to the event socket.
 *
 * Packets with segments are made in a list of their own and queued only when all of it is there: a client never learns
 * of half of its memory. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <utlist.h>

#include "internal.h"

void peer_hang_up(struct broker *b, struct broker_peer *peer) {
    if (!peer || peer->hung_up)
        return;
    peer->hung_up = true;
    peer->hangup = (struct action){.type = BROKER_ACTION_HANGUP, .embedded = true, .queued = true, .peer = peer};
    struct action *hangup = &peer->hangup;
    DL_APPEND(b->actions, hangup);
}

void send_packet(struct broker *b, struct broker_peer *peer, uint16_t type, uint32_t request, const void *body) {
    if (!peer || peer->hung_up)
        return;
    if (action_add_packet(&b->actions, peer, type, request, body, NULL, 0, 0, NULL) < 0)
        peer_hang_up(b, peer);
}

void send_failed(struct broker *b, struct broker_peer *peer, uint32_t request, uint64_t session, int code,
                 const char *format, ...) {
    struct proto_failed failed = {.code = code, .session = session};
    va_list args;
    va_start(args, format);
    vsnprintf(failed.text, sizeof failed.text, format, args);
    va_end(args);
    send_packet(b, peer, PROTO_FAILED, request, &failed);
}

void send_shrink(struct broker *b, struct session *s, const uint32_t *ids, uint32_t count) {
    struct proto_shrink body = {.session = s->id};
    uint32_t most = proto_attach_lookup(PROTO_SHRINK)->most_entries;
    while (count && s->peer && !s->peer->hung_up) {
        uint32_t n = count < most ? count : most;
        /* An entry is its id and nothing else. */
        if (action_add_packet(&b->actions, s->peer, PROTO_SHRINK, 0, &body, ids, (uint16_t)n, 0, NULL) < 0)
            peer_hang_up(b, s->peer);
        ids += n;
        count -= n;
    }
}

/* Gives the descriptors to the action, or closes them if there is none. */
static void hand_over(struct action *action, const struct kernel_handle *handles, uint32_t count) {
    uint32_t at = 0;
    for (uint32_t i = 0; i < count; i++) {
        if (handles[i].fd < 0)
            continue;
        if (action)
            action->fds[at++] = handles[i].fd;
        else
            close(handles[i].fd);
    }
}

static uint32_t descriptors(const struct kernel_handle *handles, uint32_t count) {
    uint32_t fds = 0;
    for (uint32_t i = 0; i < count; i++)
        fds += handles[i].fd >= 0;
    return fds;
}

static int export_segment(struct kernel_backend *backend, struct kernel_segment *segment, struct kernel_handle *ret) {
    *ret = (struct kernel_handle){.fd = -1};
    return backend->segment_export(backend, segment, ret) < 0 ? SCISSOR_ESYSTEM : 0;
}

/* One GROW for up to PROTO_SEGMENTS_PER_MESSAGE segments. */
static int grow_add(struct action **list, struct session *s, uint32_t request, const uint32_t *ids, uint32_t count) {
    struct proto_segment entries[PROTO_SEGMENTS_PER_MESSAGE];
    struct kernel_handle handles[PROTO_SEGMENTS_PER_MESSAGE];
    struct proto_grow body = {.session = s->id};
    struct action *action = NULL;
    uint32_t exported = 0;
    int code = 0;

    for (; exported < count; exported++) {
        uint32_t id = ids[exported];
        code = export_segment(s->pool->config.backend, s->segments[id].memory, &handles[exported]);
        if (code < 0)
            break;
        entries[exported] = (struct proto_segment){
            .id = id,
            .kind = id < s->fresh_segments ? PROTO_SEGMENT_FRESH : PROTO_SEGMENT_SETTLED,
            .bytes = SCISSOR_SEGMENT_BYTES,
        };
        memcpy(entries[exported].handle, handles[exported].opaque, sizeof handles[exported].opaque);
    }
    if (code == 0)
        code = action_add_packet(list, s->peer, PROTO_GROW, request, &body, entries, (uint16_t)count,
                                 descriptors(handles, count), &action);
    hand_over(action, handles, exported);
    return code;
}

static int grow_list(struct action **list, struct session *s, uint32_t request, const uint32_t *ids, uint32_t count) {
    int code = 0;
    for (uint32_t i = 0; i < count && code == 0; i += PROTO_SEGMENTS_PER_MESSAGE) {
        uint32_t n = count - i < PROTO_SEGMENTS_PER_MESSAGE ? count - i : PROTO_SEGMENTS_PER_MESSAGE;
        code = grow_add(list, s, request, ids + i, n);
    }
    return code;
}

/* Queues a list of packets, or throws it away. */
static int list_queue(struct broker *b, struct action **list, int code) {
    if (code == 0)
        DL_CONCAT(b->actions, *list);
    else
        action_list_clear(list);
    return code;
}

int send_grow(struct broker *b, struct session *s, uint32_t request, const uint32_t *ids, uint32_t count) {
    struct action *list = NULL;
    if (!s->peer || s->peer->hung_up)
        return 0;
    return list_queue(b, &list, grow_list(&list, s, request, ids, count));
}

/* Fresh segments have the ids 0, 1, 2 ... */
static int grow_fresh(struct action **list, struct session *s, uint32_t request) {
    uint32_t ids[PROTO_SEGMENTS_PER_MESSAGE], n;
    int code = 0;
    for (uint32_t first = 0; first < s->fresh_segments && code == 0; first += n) {
        for (n = 0; n < PROTO_SEGMENTS_PER_MESSAGE && first + n < s->fresh_segments; n++)
            ids[n] = first + n;
        code = grow_add(list, s, request, ids, n);
    }
    return code;
}

/* The events' handles; a backend without streams has none. */
static int export_fence(struct session *s, struct proto_opened *body) {
    struct kernel_backend *device = s->pool->config.backend;
    struct kernel_handle handles[2];
    if (!s->fence)
        return 0;
    if (device->streams->fence_export(device, s->fence, handles) < 0)
        return SCISSOR_ESYSTEM;
    for (uint32_t i = 0; i < 2; i++)
        memcpy(body->events[i], handles[i].opaque, sizeof body->events[i]);
    return 0;
}

static int opened_add(struct action **list, struct session *s, uint32_t request) {
    struct kernel_handle handles[2];
    struct action *action = NULL;
    struct proto_opened body = {.session = s->id,
                                .fresh_rows = s->fresh_rows,
                                .fresh_segments = s->fresh_segments,
                                .control_bytes = s->control_bytes,
                                .lease_bytes = PROTO_LEASE_BYTES};
    memcpy(body.token, s->token, sizeof body.token);
    proto_text_set(body.device, sizeof body.device, s->pool->config.backend->device);
    for (uint32_t i = 0; i < s->group_count; i++)
        body.groups[i] = (struct proto_group_scores){s->groups[i].planes, s->groups[i].threshold};

    int code = export_fence(s, &body);
    if (code == 0)
        code = export_segment(s->pool->host, s->control, &handles[0]);
    if (code < 0)
        return code;
    code = export_segment(s->pool->host, s->lease, &handles[1]);
    if (code == 0)
        code =
            action_add_packet(list, s->peer, PROTO_OPENED, request, &body, NULL, 0, descriptors(handles, 2), &action);
    hand_over(action, handles, 2);
    return code;
}

int send_opened(struct broker *b, struct session *s, uint32_t request) {
    struct action *list = NULL;
    if (!s->peer || s->peer->hung_up)
        return 0;
    int code = grow_fresh(&list, s, request);
    if (code == 0)
        code = opened_add(&list, s, request);
    return list_queue(b, &list, code);
}

static int reattached_add(struct action **list, struct session *s, uint32_t request) {
    struct proto_reattached body = {.session = s->id,
                                    .generation = s->generation,
                                    .tokens_seen = s->tokens_seen,
                                    .evicted_rows = s->last_evicted,
                                    .scores_lost = s->last_lost};
    uint32_t ids[PROTO_SEGMENTS_PER_MESSAGE], n = 0;
    int code = 0;
    for (uint32_t id = 0; id < s->segment_capacity && code == 0; id++) {
        if (s->segments[id].memory && s->segments[id].state == SEGMENT_ACTIVE) {
            ids[n++] = id;
            body.segments++;
        }
        if (n == PROTO_SEGMENTS_PER_MESSAGE || (n && id + 1 == s->segment_capacity)) {
            code = grow_add(list, s, request, ids, n);
            n = 0;
        }
    }
    if (code == 0)
        code = action_add_packet(list, s->peer, PROTO_REATTACHED, request, &body, NULL, 0, 0, NULL);
    return code;
}

int send_reattached(struct broker *b, struct session *s, uint32_t request) {
    struct action *list = NULL;
    if (!s->peer || s->peer->hung_up)
        return 0;
    return list_queue(b, &list, reattached_add(&list, s, request));
}

void send_event(struct broker *b, const struct proto_event *event) {
    struct proto_event out = *event;
    out.magic = PROTO_EVENT_MAGIC;
    out.sequence = ++b->event_sequence; /* even if it is lost here: the gap says so */
    struct action *action = action_new(BROKER_ACTION_EVENT, sizeof out, 0);
    if (!action)
        return;
    memcpy(action->bytes, &out, sizeof out);
    const struct session *s = event->session ? session_find(b, event->session) : NULL;
    action->pid = s ? (pid_t)s->pid : 0;
    DL_APPEND(b->actions, action);
}
