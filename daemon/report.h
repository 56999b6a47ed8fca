/* report.h - what the service manager hears while the daemon runs: a line of status, and that it still works. */
#pragma once

#include <stdint.h>
#include <uv.h>

struct server;

struct report {
    struct server *server;
    uv_timer_t status, watchdog;
    uint64_t watchdog_ns; /* 0: nobody waits for a sign of life */
    uint64_t jobs_done;   /* when it was looked at last */
    uint64_t moved_ns;    /* when a job was done, or none was there, last */
};

/* Begins to report, if there is a service manager. 0 or a negative errno. */
int report_init(struct report *r, struct server *server);
void report_deinit(struct report *r);
