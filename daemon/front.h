/* front.h - the front process, and what it and the daemon say to each other.
 *
 * The front is scissord again, started with FRONT_ARGUMENT and the directory of the sockets. It holds four descriptors
 * of the daemon's making. Score frames go through the ring; everything else is one packet a message on the link (a
 * SOCK_SEQPACKET pair), a front_message and up to FRONT_BYTES_MAX bytes. The daemon checks all that comes from there:
 * the front is the process that reads what strangers send through nanomsg. */
#pragma once

#include <stdint.h>

#include "control.h"

#define FRONT_ARGUMENT "--front"

#define FRONT_FD_LINK 3
#define FRONT_FD_RING 4
#define FRONT_FD_FRAMES 5 /* eventfd, front to daemon: there are frames */
#define FRONT_FD_ROOM 6   /* eventfd, daemon to front: there is room in the ring again */

enum front_message_type {
    FRONT_READY,   /* F: its sockets are bound */
    FRONT_BROKEN,  /* F: they cannot be; bytes are a text; it ends */
    FRONT_REQUEST, /* F: a control request */
    FRONT_ANSWER,  /* D: to the request with that cookie */
    FRONT_EVENT,   /* D: for the event socket */
    FRONT_PING,    /* D: is it still at work? */
    FRONT_PONG,    /* F: it is */
};

struct front_message {
    uint32_t type;
    uint32_t size; /* of the bytes that follow */
    uint64_t cookie;
};

#define FRONT_BYTES_MAX PROTO_ANSWER_MAX
#define FRONT_REQUEST_MAX 256u /* bytes of a control request that are handed on; longer ones are refused anyway */

/* The whole life of a front; gives the exit status. */
int front_main(const char *dir);
