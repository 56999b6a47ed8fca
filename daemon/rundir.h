/* rundir.h - the directory with the sockets: made, locked against a second daemon, and left as it was found. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "attach.h"

#define RUNDIR_LOCK "scissord.lock"

struct rundir {
    char path[96];
    bool made;     /* by us: removed at the end if nothing else is in it */
    bool passed;   /* the attach socket was passed to us: its file stays where it is */
    int lock_fd;   /* holds the lock; -1: none */
    int attach_fd; /* listens at the attach socket; -1: none */
};

/* Makes the directory (NULL: the default one) if it is not there, locks it, removes what a dead daemon left
 * and listens at the attach socket, or takes over the one that was passed, `attach_fd`, if that is not -1: it must
 * listen at that place. 0, or -1 with a text for people in `why`; nothing is left then, and the descriptor is the
 * caller's. */
int rundir_init(struct rundir *r, const char *path, int attach_fd, char *why, size_t why_bytes);
/* Closes and removes all of it. Safe to call twice, and on a failed or zeroed one whose descriptors are -1. */
void rundir_deinit(struct rundir *r);
