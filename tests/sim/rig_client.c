/* rig_client.c - what the clients of the rig ask for, and their steps. */
#include <string.h>

#include "rig.h"

struct proto_open rig_spec(uint32_t layers, uint32_t kv_heads, uint32_t head_dim, uint32_t fresh_rows,
                           uint32_t guaranteed_rows, uint32_t max_rows, const char *policy) {
    struct proto_open open = {.fresh_rows = fresh_rows, .pool = PROTO_ANY_POOL, .group_count = 1, .name = "rig"};
    open.groups[0] = (struct proto_group){.layers = layers,
                                          .kv_heads = kv_heads,
                                          .q_heads = kv_heads,
                                          .head_dim = head_dim,
                                          .guaranteed_rows = guaranteed_rows,
                                          .max_rows = max_rows};
    if (policy)
        strcpy(open.groups[0].policy, policy);
    return open;
}

int rig_open(struct rig *r, int peer, const struct proto_open *spec) {
    int place = 0;
    while (place < RIG_SESSIONS && r->sessions[place].peer >= 0)
        place++;
    if (place == RIG_SESSIONS)
        return -1;
    struct rig_session *s = &r->sessions[place];
    *s = (struct rig_session){.peer = peer, .spec = *spec, .request = ++r->last_request};
    rig_send(r, peer, PROTO_OPEN, s->request, spec, NULL, 0);
    return place;
}

int rig_open_now(struct rig *r, int peer, const struct proto_open *spec) {
    int place = rig_open(r, peer, spec);
    rig_jobs(r);
    return place >= 0 && r->sessions[place].peer == peer && r->sessions[place].opened ? place : -1;
}

void rig_settle(struct rig *r, int session, uint32_t rows, uint64_t sequence) {
    struct rig_session *s = &r->sessions[session];
    struct proto_settle body = {.session = s->id, .score_sequence = sequence, .rows = rows};
    s->request = ++r->last_request;
    s->asked = rows;
    rig_send(r, s->peer, PROTO_SETTLE, s->request, &body, NULL, 0);
}

void rig_close(struct rig *r, int session) {
    struct rig_session *s = &r->sessions[session];
    struct proto_close body = {.session = s->id};
    if (s->fence && !r->gpu.lost)
        fake_fence_reach(s->fence);
    for (uint32_t i = 0; i < RIG_IDS; i++)
        fake_device_close(&r->gpu, s->segment[i]);
    for (uint32_t i = 0; i < s->release_count; i++)
        fake_device_close(&r->gpu, s->releasing[i]);
    s->request = ++r->last_request;
    rig_send(r, s->peer, PROTO_CLOSE, s->request, &body, NULL, 0);
}

void rig_released(struct rig *r, int session) {
    struct rig_session *s = &r->sessions[session];
    struct proto_shrink body = {.session = s->id};
    uint32_t count = s->release_count;
    s->release_count = 0;
    for (uint32_t i = 0; i < count; i++)
        fake_device_close(&r->gpu, s->releasing[i]);
    rig_send(r, s->peer, PROTO_RELEASED, 0, &body, s->release, (uint16_t)count);
}

void rig_positions(struct rig *r, int session, uint32_t layer, uint32_t kv_head) {
    struct rig_session *s = &r->sessions[session];
    struct proto_positions body = {.session = s->id, .layer = layer, .kv_head = kv_head};
    s->request = ++r->last_request;
    rig_send(r, s->peer, PROTO_POSITIONS, s->request, &body, NULL, 0);
}

void rig_control(struct rig *r, uint32_t op, uint64_t session, uint64_t id, const uint8_t *token) {
    struct proto_request request = {.op = op, .id = id, .session = session};
    if (token)
        memcpy(request.token, token, sizeof request.token);
    rig_control_to(r, request);
}

void rig_control_to(struct rig *r, struct proto_request request) {
    request.magic = PROTO_REQUEST_MAGIC;
    request.major = PROTO_VERSION_MAJOR;
    request.minor = PROTO_VERSION_MINOR;
    r->answer = (struct proto_answer){0};
    broker_control(r->broker, &request, sizeof request, 1, r->now);
    rig_act(r);
}

void rig_step_begins(struct rig *r, int session) {
    if (r->sessions[session].fence)
        fake_fence_follow(&r->gpu, r->sessions[session].fence);
}

void rig_step_ends(struct rig *r, int session) {
    (void)r;
    if (r->sessions[session].fence)
        fake_fence_signal(r->sessions[session].fence);
}
