/* action.c - see action.h. One allocation holds action, bytes and descriptors. */
#include "action.h"

#include <string.h>
#include <unistd.h>
#include <utlist.h>

#include "alloc.h"
#include "scissor_error.h"

struct action *action_new(enum broker_action_type type, size_t size, uint32_t fd_count) {
    size_t padded = (size + sizeof(int) - 1) / sizeof(int) * sizeof(int);
    struct action *action = scissor_malloc(sizeof *action + padded + fd_count * sizeof(int));
    if (!action)
        return NULL;
    memset(action, 0, sizeof *action);
    action->type = type;
    action->bytes = action + 1;
    action->size = size;
    action->fds = (int *)((char *)action->bytes + padded);
    action->fd_count = fd_count;
    for (uint32_t i = 0; i < fd_count; i++)
        action->fds[i] = -1;
    return action;
}

struct action *action_free(struct action *action) {
    if (!action)
        return NULL;
    action->queued = false;
    if (action->embedded)
        return NULL;
    for (uint32_t i = 0; i < action->fd_count; i++)
        if (action->fds[i] >= 0)
            close(action->fds[i]);
    return scissor_free(action);
}

void action_list_clear(struct action **list) {
    struct action *action, *next;
    DL_FOREACH_SAFE(*list, action, next) {
        DL_DELETE(*list, action);
        action_free(action);
    }
}

void action_list_drop_peer(struct action **list, const struct broker_peer *peer) {
    struct action *action, *next;
    DL_FOREACH_SAFE(*list, action, next) {
        if (action->peer != peer)
            continue;
        DL_DELETE(*list, action);
        action_free(action);
    }
}

int action_add_packet(struct action **list, struct broker_peer *peer, uint16_t type, uint32_t request, const void *body,
                      const void *entries, uint16_t count, uint32_t fd_count, struct action **ret_action) {
    const struct proto_attach_info *info = proto_attach_lookup(type);
    size_t size = sizeof(struct proto_header) + info->body_bytes + (size_t)count * info->entry_bytes;
    struct action *action = action_new(BROKER_ACTION_SEND, size, fd_count);
    if (!action)
        return SCISSOR_ENOMEM;
    proto_attach_write(action->bytes, size, type, request, body, entries, count);
    action->peer = peer;
    action->queued = true;
    DL_APPEND(*list, action);
    if (ret_action)
        *ret_action = action;
    return 0;
}
