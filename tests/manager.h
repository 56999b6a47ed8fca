/* manager.h - plays the service manager for a scissord: hears what it says, keeps its descriptors, passes them on.
 *
 * A thread reads the notify socket; what it has heard is read under the lock, by the functions here. */
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "harness.h"

#define MANAGER_KEPT 1024

struct manager {
    struct harness_daemon daemon;
    int notify, attach; /* sockets; attach: -1: not activated */
    uint32_t store_max; /* 0: nothing is kept */
    uint64_t watchdog_us;
    uint32_t descriptors; /* that the daemon may have; 0: as many as this program */
    pthread_t thread;
    pthread_mutex_t lock;
    struct {
        char name[16];
        int fd;
    } kept[MANAGER_KEPT];
    uint32_t count;
    uint32_t ready, reloading, stopping, alive;
    uint32_t rounds; /* of its own */
    char status[256];
};

/* `store_max` as the descriptor store of the unit; `activate`: the manager listens at the attach socket. 0 or -1. */
int manager_init(struct manager *m, uint32_t store_max, bool activate);
/* Starts the daemon with all that is kept and waits until it says that it is ready. As harness_start(). */
int manager_start(struct manager *m, const char *const *args);
/* The same without waiting. */
int manager_spawn(struct manager *m, const char *const *args);
/* Ends it by a signal and starts it again. */
int manager_restart(struct manager *m, int signal, const char *const *args);
/* Waits until *counter, a member of m, is `least` or more. 0 or -1. */
int manager_wait(struct manager *m, const uint32_t *counter, uint32_t least);
/* What is kept now, and the last status (256 bytes). */
uint32_t manager_count(struct manager *m);
void manager_status(struct manager *m, char *text);
/* Closes all of it; the daemon must have ended. */
void manager_deinit(struct manager *m);
