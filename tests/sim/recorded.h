/* recorded.h - what a tool that records a session is sent: the parts of each record are put together, the record is
 * checked and replayed, so that whatever was lost or failed, what has come must follow from one another. Aborts on what
 * a correct broker never sends. */
#pragma once

#include "daemon/replay/replay.h"

struct recorded {
    bool begun; /* a SHAPE has come, and no END since */
    bool blind; /* there was no memory to replay it */
    struct trace_shape shape;
    struct replay replay;
    uint64_t next, lost, records, ended; /* number of the next record; over all recordings: lost, come, with an END */
    uint64_t unread;                     /* bytes that the broker has not been told of */
    char *bytes;                         /* of the record that is coming */
    uint32_t have;
};

void recorded_take(struct recorded *r, const struct proto_recorded *part, const void *bytes, uint32_t count);
/* The connection is gone, or the test ends. */
void recorded_stop(struct recorded *r);
