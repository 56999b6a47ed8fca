/* link.h - requests to and events from the daemon. The one file of scissorctl that includes nanomsg is link.c.
 *
 * Functions return an enum ctl_exit and have then said on standard error what is wrong. */
#pragma once

#include "command.h"
#include "control.h"

/* How long an answer may take. */
#define CTL_TIMEOUT_MS 2000

struct ctl_link {
    int socket; /* -1: not open */
    const char *directory;
    bool (*waiting)(void *data); /* see ctl_link_while_waiting() */
    void *data;
};

/* Checks that a daemon is there and opens the socket for requests, or for events. */
int ctl_link_open(struct ctl_link *link, const char *directory);
int ctl_link_open_events(struct ctl_link *link, const char *directory);
/* From now on `waiting` is called about each CTL_SLICE_MS while an answer is awaited; false gives the request up, with
 * CTL_REFUSED. Until the link is closed. It must not use the link. */
#define CTL_SLICE_MS 50
int ctl_link_while_waiting(struct ctl_link *link, bool (*waiting)(void *data), void *data);
/* Harmless on a link that is closed, or was never opened but has socket -1. */
void ctl_link_close(struct ctl_link *link);

/* The first answer block of the last page, and all entries, `count` of them. */
struct ctl_answer {
    struct proto_answer head;
    void *entries;
    size_t count;
};

/* Asks for all pages of an operation's list, or has a changing operation done with a pass (pass.h) as key.
 * ctl_answer_deinit() after success. */
int ctl_link_ask(struct ctl_link *link, uint32_t op, uint64_t session, struct ctl_answer *ret);
/* As ctl_link_ask(), with the values of the request. While the daemon answers that the session's state does not allow
 * it (it is settling), asks again, for CTL_TIMEOUT_MS; so does ctl_link_change_to() with budgets and priorities. */
int ctl_link_ask_about(struct ctl_link *link, uint32_t op, uint64_t session, const uint64_t value[3],
                       struct ctl_answer *ret);
int ctl_link_change(struct ctl_link *link, uint32_t op, uint64_t session, const uint8_t key[PROTO_TOKEN_BYTES],
                    struct ctl_answer *ret);
int ctl_link_change_to(struct ctl_link *link, uint32_t op, uint64_t session, const uint64_t value[3],
                       const uint8_t key[PROTO_TOKEN_BYTES], struct ctl_answer *ret);
void ctl_answer_deinit(struct ctl_answer *answer);

/* As ctl_link_ask(), opening and closing a link for it. */
int ctl_ask(const struct ctl *ctl, uint32_t op, uint64_t session, struct ctl_answer *ret);

/* Waits for an event for a second at most. 1: got one; 0: none came, or a signal; -1: what came was not one. */
int ctl_link_event(struct ctl_link *link, struct proto_event *ret);
