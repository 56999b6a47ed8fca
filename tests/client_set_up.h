/* client_set_up.h - what the tests of libscissor against a fake daemon share: the daemon, a small session, and ways to
 * spoil a packet on its way. One fake for the whole program. */
#pragma once

#include "attention.h"
#include "fake_daemon.h"
#include "scissor.h"

/* 2 layers, 2 KV heads; 144 settled and 16 fresh rows each. */
extern const struct attention_model client_model;
struct scissor_session_spec client_spec(void);

extern struct fake client_fake;
/* For cmocka: a fake that takes score frames and throws them away; and its end, with a look at the heap. */
int client_set_up(void **state);
int client_tear_down(void **state);
/* Connected to it, asserted. */
struct scissor_client *client_connected(void);

/* Scores are not given up soon: for tests that must not lose any however busy the machine is. libscissor gives nanomsg
 * 20 ms for them otherwise. */
void client_be_patient(struct scissor_client *client);

/* Lets the client have the fake device (tests/fake_device.h) as if it had opened it, and takes it away: before the
 * client is disconnected, as it is none of the kernels' backends. */
void client_give_device(struct scissor_client *client);
void client_take_device(struct scissor_client *client);

/* ---------- spoiling, in a hook that has `type` and `p` ---------- */

#define EDIT(type_number, body_type, member, value)                   \
    if (type == (type_number)) {                                      \
        struct body_type b;                                           \
        memcpy(&b, p->bytes + sizeof(struct proto_header), sizeof b); \
        b.member = (value);                                           \
        memcpy(p->bytes + sizeof(struct proto_header), &b, sizeof b); \
    }
/* The first segment of a GROW. */
#define EDIT_SEGMENT(member, value)          \
    if (type == PROTO_GROW) {                \
        struct proto_segment b;              \
        memcpy(&b, p->bytes + 24, sizeof b); \
        b.member = (value);                  \
        memcpy(p->bytes + 24, &b, sizeof b); \
    }
#define EDIT_HEADER(type_number, member, value) \
    if (type == (type_number)) {                \
        struct proto_header b;                  \
        memcpy(&b, p->bytes, sizeof b);         \
        b.member = (value);                     \
        memcpy(p->bytes, &b, sizeof b);         \
    }

/* The last descriptor is lost. */
void client_drop_fd(struct fake_packet *p);
