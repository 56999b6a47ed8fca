/* fake_control.h - a control socket that answers as it is told, in a thread of the test; and what a command printed.
 *
 * One fake at a time, in a directory that the test names. The test owns the entries, which must outlive it. */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "control.h"

struct fake_control_list {
    const void *entries; /* of the operation's struct */
    uint32_t count;
    uint32_t page; /* entries in one answer; 0: all */
    uint32_t busy; /* so many requests are answered ESTATE first */
    int32_t code;  /* and then all with this one, "not today" */
};

struct fake_control {
    struct fake_control_list list[16]; /* by operation */
    struct proto_request last;         /* the newest request */
    atomic_uint requests;
    atomic_bool over;
    pthread_t thread;
    int socket;
};

void fake_control_start(struct fake_control *f, const char *directory);
void fake_control_stop(struct fake_control *f);

/* Runs call(data) with standard output going into `text`; what it returns. */
int fake_control_capture(int (*call)(void *data), void *data, char *text, size_t size);
