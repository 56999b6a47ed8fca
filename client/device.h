/* device.h - a session whose segments are on a device that does its work later (struct kernel_streams): what the other
 * files of libscissor ask of it. device.c says how its work is ordered with the daemon's. */
#pragma once

#include "internal.h"

/* Where a group's sums are; the other copy is worth nothing then. */
enum client_planes {
    CLIENT_PLANES_ZERO, /* nowhere yet: zeros are wanted on the device */
    CLIENT_PLANES_HOST,
    CLIENT_PLANES_DEVICE,
};

/* Pinned memory through which the calls with host pointers go. */
struct client_stage {
    void *memory;
    size_t bytes;
    bool queued; /* work that reads it may not be done yet */
};

struct client_device {
    struct kernel_fence *fence; /* NULL: the session is unmapped */
    void *stream;               /* of the step with number `step`, on which its work is */
    uint64_t step;              /* 0: none yet */
    int entered;                /* 0, or why no work of that step can be queued */
    bool idle;                  /* everything queued was waited for */
    bool adrift;                /* of something that is queued nobody can tell when it is done ... */
    void *adrift_on;            /* ... unless more comes on this stream */
    void *settle_stream;
    struct kernel_append *appends; /* scratch: [most KV heads of a layer] */
    void *workspace;
    size_t workspace_bytes;
    struct client_stage rows, vectors; /* k and v; q and out */
};

/* ---------- device.c: with the lock held, unless it says otherwise ---------- */

/* Opens the device that OPENED names, for the client if it is its first session there, and the session's events.
 * Gives EPROTO if it cannot be such a session; EDEVICE, EDEVICELOST with client->text; ENOMEM. */
int scissor__device_open(struct scissor_session *session, const struct proto_opened *opened);
/* What is on the stream so far is what the daemon has to wait for; should the event fail, it is waited for here. Gives
 * the backend's code. */
int scissor__device_signal(struct scissor_session *session, void *stream);
/* Whether everything is done that was queued in steps that have ended. Asks only. */
bool scissor__device_idle(const struct scissor_session *session);
/* Waits for the client's event; the lock is given up meanwhile. ETIMEDOUT, EDEVICE, EDEVICELOST, ENOMEM; CLIENT_LOST
 * where it is not reached and the daemon has gone, as it may be waiting for work of the daemon's then. */
int scissor__device_wait(struct scissor_session *session, uint64_t deadline);
/* Waits for that, and for what an open step has queued. ETIMEDOUT, EDEVICE, ENOMEM, CLIENT_LOST: it cannot be known. */
int scissor__device_drain(struct scissor_session *session, uint64_t deadline);
/* Whether this process has lost the session's device: nothing runs there any more, and nothing can be closed. */
bool scissor__device_lost(const struct scissor_session *session);
/* Whether all is closed that was freed; the driver is asked again. If not, the daemon must not be told that it is; the
 * reason is in client->text. */
bool scissor__device_closed(const struct scissor_session *session);
/* Closes the events; nothing is queued any more. */
void scissor__device_close(struct scissor_session *session);
/* Frees what is left; all of it is idle or was never used. */
void scissor__device_free(struct scissor_session *session);
/* The code for what a backend's operation gave, its words in client->text. A lost device ends the session. */
int scissor__device_fail(struct scissor_session *session, int error);
/* The same where a handle could not be opened, which came from the daemon: the caller's arguments are not to blame. */
int scissor__device_import_fail(struct scissor_session *session, int error);
/* What this step has queued is what the daemon has to wait for. A failure ends the session. */
int scissor__device_step_end(struct scissor_session *session);
/* The scores of this period come to the host, in order on the stream of the settle, and the wait for them: then all
 * work of the session is done. Gives the lock up meanwhile. ETIMEDOUT, CLIENT_LOST: nothing has changed. */
int scissor__device_collect(struct scissor_session *session, uint64_t deadline);

/* Without the lock. EINVAL with a text if the session is in host memory: the call for that is `instead`. */
int scissor__device_check(struct scissor_session *session, const char *instead);

/* Without the lock: the calls with host pointers. They wait for the device. */
int scissor__device_append_staged(struct scissor_session *session, uint32_t layer, const void *k, const void *v,
                                  uint32_t dtype);
/* The items were prepared (scissor__attend_prepare). */
int scissor__device_attend_staged(const struct scissor_attend_item *items, size_t item_count, size_t heads);

/* ---------- device_scores.c ---------- */

/* Where the kernels are to add to a plane of the group. */
float *scissor__plane_address(const struct scissor_session *session, const struct client_group *group, float *plane);
/* Zeroed memory for all planes of a group, and its end; NULL is allowed. ENOMEM, EDEVICE, EDEVICELOST. */
int scissor__planes_new(struct scissor_session *session, size_t bytes, float **ret);
void scissor__planes_free(struct scissor_session *session, float *block);
/* Takes memory on the device for as many planes, which the sums are not in. The same codes. */
int scissor__device_planes_resize(struct scissor_session *session, struct client_group *group, size_t bytes);
/* Queues what brings a group's sums to the device. Gives the backend's code. */
int scissor__device_planes_queue(struct scissor_session *session, struct client_group *group, void *stream);
/* Queues the sums' way to the host, behind the session's work; then scissor__device_planes_fetched() when the client's
 * event is reached. Gives the backend's code. */
int scissor__device_planes_queue_fetch(struct scissor_session *session, void *stream);
void scissor__device_planes_fetched(struct scissor_session *session);
/* Both, with the wait, during which the lock is given up. Afterwards nothing that is queued uses the planes. ETIMEDOUT,
 * EDEVICE, EDEVICELOST, CLIENT_LOST; the session's failure. */
int scissor__device_planes_fetch(struct scissor_session *session);
