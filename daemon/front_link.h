/* front_link.h - the daemon's end of the front: starts it, starts it again when it dies, and carries what it says. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#include "daemon/ring.h"

struct server;
struct front_run;

struct front_link {
    struct server *server;
    const char *dir;
    struct front_run *run; /* the front that lives now; NULL: none */
    uv_timer_t restart;
    uint64_t delay_ms; /* before the next restart; 0: at once */
    uint64_t restarts;
    bool ready_once; /* a front has been ready: from then on a broken one is tried again */
    bool broken;     /* a front has said why it cannot start */
    bool ending;
    void *frame; /* room for one frame, out of the front's reach */
};

/* Starts the first front. 0 or a negative errno. */
int front_link_init(struct front_link *l, struct server *server, const char *dir);
/* Answers to control requests and events. Events are dropped if the front does not keep up: their numbers tell. */
void front_link_answer(struct front_link *l, uint64_t cookie, const void *bytes, size_t size);
void front_link_event(struct front_link *l, const void *bytes, size_t size);
/* Asks the front whether it is still at work. One that has owed an answer for `patience_ns` is ended, and the next one
 * begins; gives for how long it has owed one, 0: not at all. */
uint64_t front_link_check(struct front_link *l, uint64_t now, uint64_t patience_ns);
/* Ends the front (on the end of its link) and closes the handles; the loop ends when it is gone. */
void front_link_deinit(struct front_link *l);
/* After the loop has ended. */
void front_link_free(struct front_link *l);
/* At once, before the process exits without ceremony. */
void front_link_kill(struct front_link *l);
