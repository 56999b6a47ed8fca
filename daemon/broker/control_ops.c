/* control_ops.c - control requests in, answers out; see control_ops.h.
 *
 * Reading is free. What changes something is checked and done in control_change.c. */
#include "control_ops.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <utlist.h>

#include "alloc.h"

void control_fail(struct control_answer *a, int code, const char *format, ...) {
    char text[PROTO_TEXT_BYTES];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    a->head.code = code;
    proto_text_set(a->head.text, sizeof a->head.text, text);
}

void *control_entries(struct control_answer *a, const struct proto_request *r, uint32_t total) {
    size_t entry = proto_control_entry_bytes(r->op);
    uint32_t most = (uint32_t)((PROTO_ANSWER_MAX - sizeof a->head) / entry);
    uint32_t first = r->first < total ? r->first : total;
    uint32_t count = total - first < most ? total - first : most;
    a->head.first = first;
    a->head.total = total;
    if (count == 0)
        return NULL;
    a->entries = scissor_calloc(count, entry);
    if (!a->entries) {
        a->head.first = a->head.total = 0;
        control_fail(a, SCISSOR_ENOMEM, "the daemon has no memory for the answer");
        return NULL;
    }
    a->head.count = count;
    a->bytes = count * entry;
    return a->entries;
}

static void answer_send(struct broker *b, struct control_answer *a, uint64_t cookie) {
    struct action *action = action_new(BROKER_ACTION_ANSWER, sizeof a->head + a->bytes, 0);
    if (!action && !b->spare_answer.queued) {
        action = &b->spare_answer;
        *action = (struct action){
            .type = BROKER_ACTION_ANSWER, .embedded = true, .bytes = &b->spare_bytes, .size = sizeof b->spare_bytes};
        a->bytes = 0;
        a->head.count = a->head.first = a->head.total = 0;
        if (a->head.code == 0 && !proto_control_changes(a->head.op))
            control_fail(a, SCISSOR_ENOMEM, "the daemon has no memory for the answer");
    }
    if (action) {
        memcpy(action->bytes, &a->head, sizeof a->head);
        if (a->bytes)
            memcpy((char *)action->bytes + sizeof a->head, a->entries, a->bytes);
        action->cookie = cookie;
        action->queued = true;
        DL_APPEND(b->actions, action);
    }
    scissor_free(a->entries); /* without an action the tool asks again */
}

void broker_control(struct broker *b, const void *request, size_t size, uint64_t cookie, uint64_t now) {
    struct control_answer a = {.head = {.magic = PROTO_ANSWER_MAGIC, .epoch = b->epoch}};
    struct proto_request r;
    const char *why;

    if (size == sizeof r) {
        memcpy(&r, request, sizeof r);
        a.head.op = r.op;
    }
    int code = proto_request_check(request, size, &why);
    if (code < 0)
        control_fail(&a, code, "%s", why);
    else if (proto_control_changes(r.op))
        control_change(b, &r, &a, now);
    else
        control_read(b, &r, &a, now);
    answer_send(b, &a, cookie);
}
