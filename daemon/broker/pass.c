/* pass.c - who asks: a secret that stands for a user on sockets that cannot tell.
 *
 * The kernel tells who is at the other end of an attach connection (SO_PEERCRED). A peer that asks gets 128 random
 * bits; a control request that carries them comes from that user. They are valid while the connection is open: so
 * nothing has to be kept, nothing has to expire, and what a tool leaves behind is worth nothing. */
#include <string.h>

#include "internal.h"

bool pass_is_operator(const struct broker *b, uid_t uid) {
    return uid == 0 || uid == b->config.owner_uid;
}

void pass_give(struct broker *b, struct broker_peer *peer, uint32_t request) {
    if (!peer->has_pass && broker_random(b, peer->pass, sizeof peer->pass) < 0) {
        send_failed(b, peer, request, 0, SCISSOR_ESYSTEM, "the daemon has no random numbers for a pass");
        return;
    }
    peer->has_pass = true;
    struct proto_pass_is body = {.uid = peer->uid, .operator= pass_is_operator(b, peer->uid)};
    memcpy(body.pass, peer->pass, sizeof body.pass);
    send_packet(b, peer, PROTO_PASS_IS, request, &body);
}

const struct broker_peer *pass_holder(const struct broker *b, const uint8_t token[PROTO_TOKEN_BYTES]) {
    for (const struct broker_peer *peer = b->peers; peer; peer = peer->next)
        if (peer->has_pass && !peer->hung_up && proto_token_equal(peer->pass, token))
            return peer;
    return NULL;
}
