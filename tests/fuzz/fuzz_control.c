/* fuzz_control.c - control requests, answers to each operation, and events. Entries of an accepted answer are there. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "control.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void try_answer(const uint8_t *data, size_t size, uint32_t op) {
    struct proto_answer a;
    const char *why;
    if (proto_answer_check(data, size, op, &why) < 0)
        return;
    memcpy(&a, data, sizeof a);
    if (sizeof a + (size_t)a.count * proto_control_entry_bytes(op) != size || a.first + a.count > a.total)
        abort();
    (void)strlen(a.text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct proto_request r;
    struct proto_event e;
    const char *why;
    if (proto_request_check(data, size, &why) == 0) {
        memcpy(&r, data, sizeof r);
        if (proto_op_name(r.op)[0] == '?')
            abort();
    }
    for (uint32_t op = 0; op < 8; op++)
        try_answer(data, size, op);
    if (proto_event_check(data, size) == 0) {
        memcpy(&e, data, sizeof e);
        (void)strlen(e.name);
        (void)proto_event_name(e.type);
    }
    return 0;
}
