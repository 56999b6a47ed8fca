/* control.c - names and checks of control requests, answers and events, by the tables in control.h. */
#include "control.h"

#include <string.h>

#include "scissor_error.h"

const char *proto_op_name(uint32_t op) {
    switch (op) {
#define ROW(name, number, changes, entry) \
    case number:                          \
        return #name;
        PROTO_CONTROL_MAP(ROW)
#undef ROW
    }
    return "?";
}

size_t proto_control_entry_bytes(uint32_t op) {
    switch (op) {
#define ROW(name, number, changes, entry) \
    case number:                          \
        return sizeof(struct entry);
        PROTO_CONTROL_MAP(ROW)
#undef ROW
    }
    return 0;
}

int proto_control_changes(uint32_t op) {
    switch (op) {
#define ROW(name, number, changes, entry) \
    case number:                          \
        return changes;
        PROTO_CONTROL_MAP(ROW)
#undef ROW
    }
    return -1;
}

#define TEXT_ROW(name, number, text) \
    case number:                     \
        return text;

const char *proto_reason_name(uint32_t reason) {
    switch (reason) { PROTO_REASON_MAP(TEXT_ROW) }
    return "?";
}

const char *proto_frame_name(uint32_t frame) {
    switch (frame) { PROTO_FRAME_MAP(TEXT_ROW) }
    return "?";
}

const char *proto_session_state_name(uint32_t state) {
    switch (state) { PROTO_SESSION_STATE_MAP(TEXT_ROW) }
    return "?";
}

const char *proto_event_name(uint32_t type) {
    switch (type) { PROTO_EVENT_MAP(TEXT_ROW) }
    return "?";
}

int proto_request_check(const void *request, size_t size, const char **ret_why) {
    struct proto_request r;
    if (size != sizeof r) {
        *ret_why = "a control request of the wrong size";
        return SCISSOR_EPROTO;
    }
    memcpy(&r, request, sizeof r);
    if (r.magic != PROTO_REQUEST_MAGIC) {
        *ret_why = "a control request without its magic number";
        return SCISSOR_EPROTO;
    }
    if (r.major != PROTO_VERSION_MAJOR) {
        *ret_why = "the tool speaks another version of the protocol than the daemon";
        return SCISSOR_EVERSION;
    }
    if (proto_control_changes(r.op) < 0) {
        *ret_why = "unknown control operation";
        return SCISSOR_EPROTO;
    }
    return 0;
}

int proto_answer_check(const void *answer, size_t size, uint32_t op, const char **ret_why) {
    struct proto_answer a;
    *ret_why = "the answer is not what the protocol says";
    if (size < sizeof a || size > PROTO_ANSWER_MAX)
        return SCISSOR_EPROTO;
    memcpy(&a, answer, sizeof a);
    if (a.magic != PROTO_ANSWER_MAGIC || a.op != op || !proto_text_valid(a.text, sizeof a.text))
        return SCISSOR_EPROTO;
    size_t entry = proto_control_entry_bytes(op);
    if (a.count && (!entry || (size - sizeof a) / entry < a.count))
        return SCISSOR_EPROTO;
    if (size - sizeof a != a.count * entry || a.first > a.total || a.count > a.total - a.first)
        return SCISSOR_EPROTO;
    *ret_why = "";
    return 0;
}

int proto_event_check(const void *event, size_t size) {
    struct proto_event e;
    if (size != sizeof e)
        return SCISSOR_EPROTO;
    memcpy(&e, event, sizeof e);
    return e.magic == PROTO_EVENT_MAGIC && proto_text_valid(e.name, sizeof e.name) ? 0 : SCISSOR_EPROTO;
}

int proto_token_equal(const uint8_t a[PROTO_TOKEN_BYTES], const uint8_t b[PROTO_TOKEN_BYTES]) {
    volatile uint8_t difference = 0;
    for (size_t i = 0; i < PROTO_TOKEN_BYTES; i++)
        difference |= a[i] ^ b[i];
    return difference == 0;
}
