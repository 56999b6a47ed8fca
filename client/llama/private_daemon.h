/* private_daemon.h - a scissord of our own for when the user named none: started in a fresh directory, ended and
 * cleaned up with us. If this process dies without doing so, the kernel ends the daemon (PR_SET_PDEATHSIG), and only
 * the directory with its log is left. Start and stop from the same thread. */
#pragma once

#include <stdint.h>

#include "failure.h"

struct private_daemon;

struct private_daemon_options {
    uint32_t pool_mib;
    const char *device, *reclaim; /* as scissord's --device and --reclaim; NULL: its default */
};

/* Starts scissord, the one beside this executable or else the one in PATH. It may not answer yet, and whether there is
 * such a program only private_daemon_check() tells. ESYSTEM: no directory or no process could be made. ENOMEM. */
int private_daemon_start(const struct private_daemon_options *options, struct private_daemon **ret_daemon,
                         struct failure *failure);

/* Waits until it answers, for half a minute at most, as a driver may take long to start. ETIMEDOUT; ENODAEMON: it has
 * ended. */
int private_daemon_await(struct private_daemon *daemon, struct failure *failure);

const char *private_daemon_directory(const struct private_daemon *daemon);

/* 0 while it runs; ENODAEMON once it has ended, with the end of what it printed as the text. */
int private_daemon_check(struct private_daemon *daemon, struct failure *failure);

/* Ends it (SIGTERM, after five seconds SIGKILL), waits for it and removes the directory. NULL is allowed. */
void private_daemon_stop(struct private_daemon *daemon);
