/* control_ops.h - what the files that answer scissorctl share.
 *
 *     control_ops.c       a request in, its answer out
 *     control_read.c      what is read
 *     control_memory.c    MEMORY
 *     control_lists.c     POSITIONS, CONFIG, POLICIES
 *     control_change.c    what is changed, and who may
 *     control_limits.c    SET_POOL, SET_BUDGET, SET_PRIORITY */
#pragma once

#include "internal.h"

struct control_answer {
    struct proto_answer head;
    void *entries; /* allocated; NULL: none */
    size_t bytes;
};

/* Sets the answer's code and text. */
__attribute__((format(printf, 3, 4))) void control_fail(struct control_answer *a, int code, const char *format, ...);
/* Room for the entries from `first` on of `total`, as many as an answer holds, zeroed; a->head.first and .count tell
 * which. NULL if there are none or no memory. */
void *control_entries(struct control_answer *a, const struct proto_request *r, uint32_t total);

void control_memory(const struct broker *b, const struct proto_request *r, struct control_answer *a);
void control_positions(const struct broker *b, const struct proto_request *r, struct control_answer *a);
void control_config(const struct broker *b, const struct proto_request *r, struct control_answer *a);
void control_policies(const struct broker *b, const struct proto_request *r, struct control_answer *a);
void control_read(struct broker *b, const struct proto_request *r, struct control_answer *a, uint64_t now);
/* `operator`: root or the daemon's user asks; else the session's owner. */
void control_set_pool(struct broker *b, const struct proto_request *r, struct control_answer *a, uint64_t now);
void control_set_budget(struct broker *b, struct session *s, const struct proto_request *r, bool operator,
                        struct control_answer * a, uint64_t now);
void control_set_priority(struct broker *b, struct session *s, const struct proto_request *r, bool operator,
                          struct control_answer * a);
void control_change(struct broker *b, const struct proto_request *r, struct control_answer *a, uint64_t now);
