/* control_change.c - what scissorctl changes, and who may.
 *
 * A request says who asks by a pass (pass.c). Root and the daemon's own user may do everything; anybody else may change
 * a session of theirs, within what it was opened with. A session's token is as good as its owner's pass. Since a tool's
 * socket repeats a request whose answer was slow, the last answers are kept by request id, so that nothing is done
 * twice; but for ESTATE, by which nothing was done and the same may be asked for again. */
#include <string.h>

#include "control_ops.h"

/* ---------- who may ---------- */

/* `s`: the session that it is about; NULL: none. */
static bool permit(struct broker *b, const struct proto_request *r, const struct session *s, struct control_answer *a,
                   bool *ret_operator) {
    static const uint8_t nobody[PROTO_TOKEN_BYTES];
    const struct broker_peer *peer = pass_holder(b, r->token);
    *ret_operator = peer && pass_is_operator(b, peer->uid);
    if (*ret_operator || (s && (proto_token_equal(s->token, r->token) || (peer && s->uid == peer->uid))))
        return true;
    b->denied++;
    if (!peer && proto_token_equal(nobody, r->token))
        control_fail(a, SCISSOR_EPERM, "a change needs a pass, which the attach socket gives");
    else if (!peer)
        control_fail(a, SCISSOR_EPERM, "the pass is not valid: it is another daemon's, or its connection has ended");
    else if (s)
        control_fail(a, SCISSOR_EPERM,
                     "session %llu is uid %u's; you are uid %u; only its owner, root and the daemon's user (uid %u) "
                     "may change it",
                     (unsigned long long)s->id, s->uid, peer->uid, b->config.owner_uid);
    else
        control_fail(a, SCISSOR_EPERM, "you are uid %u; this is for root and the daemon's user (uid %u)", peer->uid,
                     b->config.owner_uid);
    return false;
}

/* ---------- what is done ---------- */

static void close_session(struct broker *b, struct session *s, struct control_answer *a, uint64_t now) {
    struct pool *pool = s->pool;
    if (s->state == PROTO_SESSION_QUARANTINED) {
        control_fail(a, SCISSOR_ENOSESSION,
                     "session %llu is closed already; its memory is in quarantine until process %u closes it or ends",
                     (unsigned long long)s->id, s->pid);
        return;
    }
    if (s->ending)
        return;
    session_end(b, s, PROTO_REASON_OPERATOR, now);
    admission_pump(b, pool, now); /* it may have stood at the head of the queue */
}

static bool about_a_session(uint32_t op) {
    return op == PROTO_OP_CLOSE_SESSION || op == PROTO_OP_SET_BUDGET || op == PROTO_OP_SET_PRIORITY;
}

static void change(struct broker *b, const struct proto_request *r, struct session *s, bool operator, uint64_t now,
                   struct control_answer *a) {
    switch (r->op) {
    case PROTO_OP_CLOSE_SESSION:
        close_session(b, s, a, now);
        break;
    case PROTO_OP_DRAIN:
        broker_drain(b, now);
        break;
    case PROTO_OP_SET_POOL:
        control_set_pool(b, r, a, now);
        break;
    case PROTO_OP_SET_BUDGET:
        control_set_budget(b, s, r, operator, a, now);
        break;
    case PROTO_OP_SET_PRIORITY:
        control_set_priority(b, s, r, operator, a);
        break;
    default:
        control_fail(a, SCISSOR_EPROTO, "this daemon does not do %s", proto_op_name(r->op));
    }
}

/* ---------- once ---------- */

/* An earlier request with the same id, from somebody who knew the same secret. */
static const struct broker_remembered *recall(const struct broker *b, const struct proto_request *r) {
    for (uint32_t i = 0; r->id && i < BROKER_REMEMBERED; i++) {
        const struct broker_remembered *known = &b->remembered[i];
        if (known->request.id == r->id && known->request.op == r->op && known->request.session == r->session &&
            proto_token_equal(known->request.token, r->token))
            return known;
    }
    return NULL;
}

void control_change(struct broker *b, const struct proto_request *r, struct control_answer *a, uint64_t now) {
    const struct broker_remembered *known = recall(b, r);
    if (known) {
        a->head = known->answer;
        return;
    }
    struct session *s = about_a_session(r->op) ? session_find(b, r->session) : NULL;
    bool operator;
    if (about_a_session(r->op) && !s && pass_holder(b, r->token))
        control_fail(a, SCISSOR_ENOSESSION, "there is no session %llu", (unsigned long long)r->session);
    else if (!permit(b, r, s, a, &operator))
        return;
    else
        change(b, r, s, operator, now, a);
    if (a->head.code == SCISSOR_ESTATE)
        return;
    b->remembered[b->remembered_next] = (struct broker_remembered){*r, a->head};
    b->remembered_next = (b->remembered_next + 1) % BROKER_REMEMBERED;
}
