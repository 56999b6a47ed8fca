/* charge.c - see charge.h. */
#include "charge.h"

#include "ctl/link.h"

static int charge_find(const struct ctl_answer *answer, uint64_t session, uint64_t *ret_bytes,
                       struct failure *failure) {
    const struct proto_memory_stat *entries = answer->entries;
    for (size_t i = 0; i < answer->count; i++) {
        if (entries[i].session != session)
            continue;
        *ret_bytes = entries[i].page_bytes + entries[i].state_bytes + entries[i].bookkeeping_bytes;
        return 0;
    }
    return failure_set(failure, SCISSOR_ESTATE, "the daemon does not know session %llu", (unsigned long long)session);
}

static int charge_ask(const char *directory, struct ctl_answer *ret_answer) {
    struct ctl_link link;
    int status = ctl_link_open(&link, directory);
    if (status != CTL_DONE)
        return status;
    status = ctl_link_ask(&link, PROTO_OP_MEMORY, 0, ret_answer);
    ctl_link_close(&link);
    return status;
}

int charge_beside_rows(const char *directory, uint64_t session, uint64_t *ret_bytes, struct failure *failure) {
    struct ctl_answer answer;
    char why[200] = "";
    ctl_fail_capture(why, sizeof(why));
    int status = charge_ask(directory, &answer);
    ctl_fail_capture(NULL, 0);
    if (status != CTL_DONE)
        return failure_set(failure, SCISSOR_ESYSTEM, "what the daemon charges: %s", why);
    int r = charge_find(&answer, session, ret_bytes, failure);
    ctl_answer_deinit(&answer);
    return r;
}
