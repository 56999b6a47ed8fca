/* service.h - the daemon as a service of systemd, or of whoever speaks its protocols: what was passed to it at the
 * start, and what it says about itself. Without $NOTIFY_SOCKET nothing is said. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "broker/broker.h"

/* The attach socket's name among the descriptors that are passed (FileDescriptorName= of the socket unit); any other
 * descriptor is one that the process before has left for this one. */
#define SERVICE_ATTACH_NAME "attach"

struct service_passed {
    int attach_fd;            /* a listening socket, not yet looked at; -1: none */
    struct broker_kept *kept; /* [count] */
    size_t count;
};

/* Takes what was passed ($LISTEN_FDS, $LISTEN_FDNAMES) and forgets the variables. 0, or a negative errno. */
int service_take_passed(struct service_passed *ret);
/* Closes what is still there. */
void service_passed_deinit(struct service_passed *passed);

/* How many descriptors the service manager can hand to the next process: `wanted`, but no more than it says itself
 * ($FDSTORE, systemd 254), and no more than have room, with their names, in one environment string. */
uint32_t service_store_max(uint64_t wanted);
/* True if there is a manager that listens. */
bool service_is_managed(void);

/* Clients may come. */
void service_ready(void);
/* A reload begins; service_ready() ends it. */
void service_reloading(void);
void service_stopping(void);
/* What was begun goes on and takes longer than the manager may think: at least as long as this from now on. */
void service_extend(uint64_t ns);
/* One line for people; said only if it is another than before, and if the manager listens just now. */
void service_status(const char *text);
/* How often service_alive() has to be called, in ns; 0: nobody waits for it. */
uint64_t service_watchdog_ns(void);
/* False if the manager does not listen just now. */
bool service_alive(void);
