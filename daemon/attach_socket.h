/* attach_socket.h - the attach socket: connections of clients, packets in, packets and descriptors out. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#include "broker/broker.h"

struct server;
struct attach_peer;

struct attach {
    struct server *server;
    uv_poll_t listener;
    int listen_fd;             /* rundir's */
    int spare_fd;              /* given up for a moment to refuse a connection when there are no descriptors left */
    struct attach_peer *peers; /* list of all */
    uint32_t peer_count, peers_max;
    bool reading; /* false: the daemon ends */
    bool leaving; /* the sessions stay for the next process: the broker does not hear of hang-ups any more */
};

/* 0 or a negative errno. */
int attach_init(struct attach *a, struct server *server, int listen_fd);
/* Sends a packet and its descriptors, now or when the peer has room; takes the descriptors over. A peer that lets too
 * much pile up, or whose packet cannot be kept, is hung up. */
void attach_send(struct attach *a, struct attach_peer *peer, const struct broker_action *action);
/* Closes the peer's socket after what it can still be told, and tells the broker. */
void attach_hangup(struct attach *a, struct attach_peer *peer);
/* No new peers and no packets from here on. */
void attach_stop_reading(struct attach *a);
/* Whether all packets are out. */
bool attach_is_flushed(const struct attach *a);
/* Hangs up all peers and closes the listener's handle. */
void attach_deinit(struct attach *a);
