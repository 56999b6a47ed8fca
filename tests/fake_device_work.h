/* fake_device_work.h - one piece of work that is queued on the late device of tests/fake_device.h. */
#pragma once

#include "fake_device.h"

/* Both sides' events; each side's handle points to it. */
struct fake_events {
    uint64_t recorded[2], reached[2];
    unsigned users;
};

enum fake_work { FILL, TRANSFER, APPEND, ATTEND, SETTLE, RECORD, FOLLOW };

struct fake_queued {
    struct fake_queued *next;
    enum fake_work kind;
    void *to; /* FILL, TRANSFER, and workspace of ATTEND */
    const void *from;
    size_t bytes;
    void *items; /* APPEND, ATTEND, SETTLE: [count], with copies of their lists */
    size_t count;
    struct fake_events *events;
    unsigned event;
    uint64_t number;
};

/* Does it, on the host backend. What it follows has been reached. */
void fake_work_do(const struct fake_queued *work);
/* NULL is not allowed. */
void fake_work_free(struct fake_queued *work);
/* Whether it reads or writes in there. */
bool fake_work_uses(const struct fake_queued *work, const char *memory, size_t bytes);
