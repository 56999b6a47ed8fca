/* action.h - the queue of what the broker's caller has to do, oldest first.
 *
 * An action whose loss would wedge something (a job, a hang-up) is embedded in its session or peer, so that queueing it
 * cannot fail; all others are allocated. A SEND owns the descriptors that go with it until it is taken. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "broker.h"

struct action {
    struct action *prev, *next;
    enum broker_action_type type;
    bool embedded, queued;
    struct broker_peer *peer;
    struct broker_job *job;
    uint64_t cookie;
    pid_t pid;
    void *bytes; /* behind the action itself */
    size_t size;
    uint32_t fd_count;
    int *fds; /* behind the bytes */
};

/* An action with room for `size` bytes and `fd_count` descriptors (-1 so far); NULL: no memory. */
struct action *action_new(enum broker_action_type type, size_t size, uint32_t fd_count);
/* Closes the descriptors that are still there; embedded actions are only taken off. NULL allowed; returns NULL. */
struct action *action_free(struct action *action);

/* Frees every action of the list and leaves it empty. */
void action_list_clear(struct action **list);
/* Takes the SENDs and the HANGUP of a peer off the list. */
void action_list_drop_peer(struct action **list, const struct broker_peer *peer);

/* A packet of the attach protocol, at the end of `list`. 0 or SCISSOR_ENOMEM. */
int action_add_packet(struct action **list, struct broker_peer *peer, uint16_t type, uint32_t request, const void *body,
                      const void *entries, uint16_t count, uint32_t fd_count, struct action **ret_action);
