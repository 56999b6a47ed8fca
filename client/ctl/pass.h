/* pass.h - says to the daemon who we are.
 *
 * The control socket cannot tell who asks, the attach socket can: the daemon takes the user from the kernel and gives
 * a pass, a secret that stands for that user in control requests for as long as the connection is open. */
#pragma once

#include <stdint.h>

#include "attach.h"

struct ctl_pass {
    int socket; /* -1: none; the pass is valid while it is open */
    struct proto_pass_is is;
};

/* Gets a pass. An enum ctl_exit, having said on standard error what is wrong; then nothing is open. */
int ctl_pass_open(struct ctl_pass *pass, const char *directory);
/* Harmless on one that is closed, or was never opened but has socket -1. */
void ctl_pass_close(struct ctl_pass *pass);
/* Says on standard error why the daemon did not do it: `packet` is a checked FAILED. CTL_REFUSED. */
int ctl_pass_failed(const void *packet);
