/* store.c - see store.h. A put is a message to the manager that nobody answers; that it was sent is all that is known.
 * A message of a process that has died since is still read, and in order. */
#include "daemon/store.h"

#include <errno.h>
#include <stdio.h>
#include <systemd/sd-daemon.h>

/* FDPOLL=0: the end of a client's process must not take its pidfd out of the store, the next daemon wants to see it. */
static int store_put(struct broker_store *store, const char *name, const int *fds, uint32_t count) {
    char message[64];
    (void)store;
    snprintf(message, sizeof message, "FDSTORE=1\nFDPOLL=0\nFDNAME=%s", name);
    int r = sd_pid_notify_with_fds(0, 0, message, fds, count);
    return r > 0 ? 0 : r < 0 ? r : -ENOTCONN;
}

static void store_drop(struct broker_store *store, const char *name) {
    (void)store;
    sd_notifyf(0, "FDSTOREREMOVE=1\nFDNAME=%s", name);
}

void store_init(struct broker_store *store, uint32_t max) {
    *store = (struct broker_store){.max = max, .put = store_put, .drop = store_drop};
}
