/* orphans.h - clients of sessions that were taken over: their sessions end when their process does. */
#pragma once

struct server;
struct orphan;

struct orphans {
    struct server *server;
    struct orphan *first;
};

/* Watches all that the broker names. 0 or a negative errno. */
int orphans_init(struct orphans *o, struct server *server);
/* Closes the handles. */
void orphans_deinit(struct orphans *o);
