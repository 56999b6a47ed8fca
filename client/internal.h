/* internal.h - what the files of libscissor share; no user includes it.
 *
 * One mutex per client guards the attach socket, the calls that wait, the list of sessions and every session's segment
 * table, because whichever thread reads the socket applies what it finds to whichever session it concerns. What a
 * step works with (addresses, settled counts, planes) is touched only by the thread that uses the session.
 *
 * Everything that the daemon sends or writes into shared memory is checked before it is used; what cannot be right
 * ends the connection with EPROTO (scissor__client_fail).
 *
 * A connection that the daemon has ended is replaced (recover.c) by the first call that may wait and needs it; `up`,
 * `attached` and `connection` say how far that is. The threads that wait meanwhile ask again on the new one. */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "alloc.h"
#include "attach.h"
#include "backend.h"
#include "control_page.h"
#include "scissor.h"
#include "score.h"

#define CLIENT_TIMEOUT_MS 10000u
#define CLIENT_LEASE_POLL_NS 50000u
/* How long one settle tries to hand its frames to nanomsg before it goes on without them. */
#define CLIENT_PUSH_NS 20000000u
#define CLIENT_SEGMENT_IDS (1u << 22)
/* Devices on which one client has sessions. */
#define CLIENT_DEVICES 16u
/* How often one call asks again because the daemon went away under it: a request that kills daemons must end. */
#define CLIENT_ASK_TRIES 6u
/* Between functions of the library: the connection went before the answer came; recover, then ask again. */
#define CLIENT_LOST 1000

/* A segment of a session. `memory` is NULL until it is mapped, which is tried again if there was no memory for it. */
struct client_segment {
    struct kernel_segment *memory;
    struct kernel_segment *retired; /* what had this id before, until no step is open */
    struct kernel_handle handle;    /* while not mapped */
    uint64_t device, inode;         /* of the file: tells a later daemon's segment from this one */
    uint8_t kind;                   /* PROTO_SEGMENT_* */
    bool described;                 /* came with a descriptor: host memory */
    bool used;
    bool condemned; /* no longer ours, to be unmapped when no step is open */
    bool named;     /* the daemon that takes the session up has it */
};

/* One (layer, KV head). */
struct client_head {
    uint32_t settled;
    uint32_t next_settled; /* while the control page is being read */
    const void **pages;    /* [pages_max of the group] */
    uint32_t detail_pages; /* pages whose detail slots count; 0: the storage dtype has none */
    void *fresh;
    float
        *plane[PROTO_PLANE_COUNT]; /* [capacity]: settled, then fresh; NULL for planes that the policy does not need */
};

struct client_layer {
    uint32_t group;
    uint32_t first_head; /* index into heads */
    uint64_t appended;   /* number of the step that last wrote this layer's rows */
    uint64_t gathered;   /* number of the step that last added to the planes */
    uint32_t score_rows; /* query rows in the planes */
    uint32_t score_fresh;
};

struct client_group {
    uint32_t layers, kv_heads, q_heads, head_dim;
    uint32_t first_layer, first_head;
    uint32_t settled_max; /* max_rows - F */
    uint32_t pages_max;
    uint32_t pages_per_segment;
    size_t page_bytes;
    uint32_t planes, threshold;
    uint32_t capacity;  /* slots that each plane of each head has room for */
    float *plane_block; /* of a session on a device in pinned memory, see device_scores.c */
    float *device_planes;
    uint8_t planes_at; /* enum client_planes; used on a device only */
};

struct client_device;

struct scissor_session {
    struct scissor_client *client;
    struct scissor_session *next;
    struct kernel_backend *backend; /* of its segments; the pages are the client's host backend's */
    struct client_device *device;   /* NULL: segments in host memory */
    uint64_t id;
    uint8_t token[PROTO_TOKEN_BYTES];
    uint32_t compute_dtype, storage_dtype, fresh_rows;
    uint32_t group_count, layer_count, head_count;
    struct client_group groups[PROTO_MAX_GROUPS];
    struct client_layer *layers;
    struct client_head *heads;
    const void **page_block;

    struct client_segment *segments; /* [segment_capacity], by id */
    uint32_t segment_capacity, fresh_segments, segment_count;
    bool segments_pending;   /* some are not mapped yet */
    bool segments_condemned; /* some wait for the end of the step */
    bool pages_stale;        /* segments changed without a new generation: addresses are to be read again */
    struct kernel_segment *control_memory, *lease_memory;
    const struct proto_control *control;
    size_t control_bytes;
    struct proto_lease *lease;
    uint64_t generation; /* of the mapping; UINT64_MAX: none yet */

    int failure;             /* what every later call gives; 0: none */
    bool opening;            /* OPENED has not come */
    bool closing;            /* unmapped; what still comes for it is ignored */
    bool absent;             /* the daemon of this connection does not have it */
    uint32_t attached_on;    /* number of the last connection that it was opened or taken up on */
    uint32_t settle_request; /* settle that is not answered yet; 0: none */
    int settle_code;         /* of the last answer */
    struct proto_settled settled;
    uint32_t settle_rows; /* settle whose answer has not been taken into account yet; 0: none */

    /* The sums stay in the planes until a settle is answered well: should the daemon go, they are sent once more. */
    bool busy;           /* its thread hands frames over or waits for the device, without the lock */
    uint32_t sent_on;    /* number of the connection whose daemon was sent the sums in the planes; 0: none */
    bool scores_unsent;  /* some frames of this period could not be sent */
    bool sums_forgotten; /* earlier sums of this period are with that daemon alone (its settle failed) */
    bool scores_gone;    /* ... and it is gone */

    bool in_step;
    uint32_t step_rows, fresh_count;
    uint64_t step; /* steps begun so far */
    uint64_t tokens_settled;
    uint64_t evicted_rows, settles, scores_lost;
    uint64_t sequence; /* of the last score frame that nanomsg took */

    struct kernel_attend *items; /* scratch of attend */
    size_t item_capacity;
    void *workspace;
    size_t workspace_bytes;
    char *frame; /* scratch of settle: one score frame */
};

/* A request that a thread waits for; lives on that thread's stack. `session` becomes NULL when that is closed. */
struct client_call {
    struct client_call *next;
    uint32_t request;
    uint16_t answer; /* type of message that ends it well */
    struct scissor_session *session;
    bool done;
    int code;
    int fds[2]; /* OPENED: control page, lease page; the caller's to close */
    union {
        struct proto_welcome welcome;
        struct proto_opened opened;
        struct proto_positions_are positions_are;
        struct proto_reattached reattached;
    } body;
    uint32_t *positions; /* POSITIONS_ARE: [capacity], and how many were written */
    uint32_t capacity;
    uint32_t count; /* ... REATTACHED: segments in the GROWs before it */
};

/* Where score frames go; see push.c. */
struct client_push {
    bool open;
    int socket; /* nanomsg's; -1: could not be opened again */
    pthread_rwlock_t use;
    _Atomic uint64_t stuck_since; /* ns: first frame after the last success that was not taken; 0: none */
    _Atomic uint64_t greeted_by;  /* ns: until then a socket that was moved may still be connecting */
    char url[128];
};

struct scissor_client {
    int fd;
    bool up;              /* fd is a connection on which no end was seen */
    bool attached;        /* ... and the daemon knows us and our sessions */
    bool recovering;      /* a thread is at it */
    bool kept;            /* the daemon's next process takes sessions over, it said */
    uint32_t connection;  /* number of the last connection, from 1 */
    uint32_t polling;     /* threads that sleep on fd */
    uint64_t lost_since;  /* ns: when the end was seen that is not recovered from; 0: none */
    uint64_t attached_at; /* ns */
    char directory[128];
    struct client_push push;
    uint32_t score_socket;
    uint64_t epoch;                 /* of the daemon that said WELCOME last */
    struct kernel_backend *backend; /* the host's */
    struct kernel_backend *devices[CLIENT_DEVICES];
    uint32_t device_count;
    bool devices_kept; /* something of a session is open there for good */
    uint32_t timeout_ms;
    uint32_t frame_max;
    pthread_mutex_t lock;
    pthread_cond_t news;
    bool reading; /* a thread sleeps on the socket and will apply what comes */
    struct {
        bool on, end;
        int wake;                        /* eventfd */
        struct scissor_session *leaving; /* closed when their daemon was gone and their device still at work */
        pthread_t thread;
    } watch; /* watch.c */
    int failure;
    uint32_t last_request;
    struct client_call *calls;
    struct scissor_session *sessions;
    char text[PROTO_TEXT_BYTES];
    char *packet; /* [PROTO_ATTACH_MAX] receive buffer */
};

/* ---------- hello.c: a new connection; the lock is held ---------- */

/* One try to reach the daemon's socket. ETIMEDOUT if it is only busy; ENODAEMON, EPERM, EINVAL, ESYSTEM with
 * client->text and errno. */
int scissor__socket_open(struct scissor_client *client, int *ret_fd);
/* Makes `fd` the connection; nobody sleeps on the one before. */
void scissor__client_adopt(struct scissor_client *client, int fd);
/* HELLO and the checks of its answer. Gives CLIENT_LOST, too. */
int scissor__client_hello(struct scissor_client *client, uint64_t deadline);

/* ---------- wire.c: the attach socket. All are called with the lock held ---------- */

uint64_t scissor__now(void);
/* Ends the connection: every call from now on gives `code` (the first one stays). */
void scissor__client_fail(struct scissor_client *client, int code);
/* The daemon has ended the connection. */
void scissor__client_lost(struct scissor_client *client);
/* Sleeps until there is news or until `deadline`; the lock is given up. */
void scissor__client_sleep(struct scissor_client *client, uint64_t deadline);
/* Reads and applies what has come, without waiting; nothing if another thread is doing it. */
void scissor__client_drain(struct scissor_client *client);
/* Sends one message without waiting for its answer; false if that cannot be done just now. */
bool scissor__client_post(struct scissor_client *client, uint16_t type, const void *body, const void *entries,
                          uint16_t count);
/* Sends a request on connection number `connection`, waiting only until the socket takes it; *ret_request has its
 * number from before it is sent, and 0 if it was not. ETIMEDOUT, CLIENT_LOST or the client's failure. */
int scissor__client_ask(struct scissor_client *client, uint32_t connection, uint16_t type, const void *body,
                        uint64_t deadline, uint32_t *ret_request);
/* Sends a request on the connection that is there and waits for its answer; gives the answer's code (call->done), or
 * as scissor__client_ask(). Gives the lock up while it waits. */
int scissor__client_call_once(struct scissor_client *client, struct client_call *call, uint16_t type, const void *body,
                              uint64_t deadline);
/* The same, and again on the next connection if the daemon goes away meanwhile. */
int scissor__client_call(struct scissor_client *client, struct client_call *call, uint16_t type, const void *body,
                         uint64_t extra_ms);
/* When a call that begins now must end. */
uint64_t scissor__client_deadline(const struct scissor_client *client);
/* Waits until the session's settle is answered, or known not to be done: settle_rows is 0 then. */
int scissor__client_wait_settled(struct scissor_session *session, uint64_t deadline);

/* ---------- watch.c ---------- */

/* Starts the client's thread if it is not there; the lock is held. ENOMEM, ESYSTEM. */
int scissor__watch_start(struct scissor_client *client);
/* Ends it, without the lock. */
void scissor__watch_stop(struct scissor_client *client);
/* Has a closed session freed when its device has done its work. It is in no list any more; the lock is held. */
void scissor__watch_leave(struct scissor_session *session);
/* Frees those whose work is done; false if others are left. */
bool scissor__watch_free(struct scissor_client *client);

/* ---------- recover.c ---------- */

/* Returns at once if the client is attached. Else connects again, or waits for the thread that does, and has all
 * sessions taken up. 0; EGONE (it stays) if nobody is there; the client's failure; ETIMEDOUT, ESYSTEM: try again. */
int scissor__client_recover(struct scissor_client *client, uint64_t deadline);

/* ---------- dispatch.c ---------- */

/* Applies one packet. Takes descriptors over by setting them to -1. `cut`: descriptors were lost on the way. */
void scissor__dispatch(struct scissor_client *client, const char *packet, size_t size, int *fds, uint32_t fd_count,
                       bool cut);
/* The session is over: whoever waits for something about it gets `code`, and so does every later call. */
void scissor__session_end(struct scissor_session *session, int code);

/* ---------- spec.c ---------- */

/* Checks what a session is to look like, fills in the defaults and writes the message. EINVAL, then with a text. */
int scissor__spec_check(const struct scissor_session_spec *spec, struct proto_open *ret_open, char *why,
                        size_t why_bytes);

/* ---------- mapping.c: segments and the control page; called with the lock held ---------- */

/* A session object for a checked request, with all tables that its largest budget can need, or NULL. */
struct scissor_session *scissor__session_new(struct scissor_client *client, const struct proto_open *open);
/* Unmaps and frees; NULL is allowed. It must not be in the client's list any more. */
void scissor__session_free(struct scissor_session *session);
/* Nothing happens while a device still works on the session: whoever comes next tries again. */
void scissor__session_unmap(struct scissor_session *session);
/* Takes a descriptor of a GROW over and maps it; what cannot be mapped stays pending. `fd` is NULL if none came: memory
 * of a device. False: the message cannot be right. */
bool scissor__session_grow(struct scissor_session *session, const struct proto_segment *entry, int *fd);
/* The same for a GROW before REATTACHED: what is mapped and the same file stays; *fd is left alone then. */
bool scissor__session_regrow(struct scissor_session *session, const struct proto_segment *entry, int *fd);
/* Before REATTACH is sent; and after REATTACHED: drops what was not named. False: a fresh segment was not. */
void scissor__session_unname(struct scissor_session *session);
bool scissor__session_keep_named(struct scissor_session *session);
/* False: the message cannot be right. */
bool scissor__session_shrink(struct scissor_session *session, uint32_t id);
/* Unmaps what is condemned and says so to the daemon; nothing while a step is open or a device at work. */
void scissor__session_release(struct scissor_session *session);
/* Maps control and lease page, and on a device the segments, and checks that all fresh segments came. 0, EPROTO,
 * ENOMEM; EDEVICE, EDEVICELOST with client->text. */
int scissor__session_opened(struct scissor_session *session, struct client_call *call);
/* Brings addresses, counts and planes up to date with the control page; the lease must be held. 0, EPROTO, ENOMEM;
 * ETIMEDOUT, EDEVICE, EDEVICELOST, CLIENT_LOST from a device. */
int scissor__session_refresh(struct scissor_session *session);

/* ---------- step.c ---------- */

bool scissor__lease_try(struct scissor_session *session);
/* Takes the lease and refreshes the mapping; the lock is held, and given up while the daemon has the lease. */
int scissor__lease_take(struct scissor_session *session, uint64_t deadline);
void scissor__lease_give(struct scissor_session *session);

/* ---------- attend.c ---------- */

/* Checks a batch and writes its kernels' items into the first session's `items`; EINVAL, ESTATE, ENOMEM. */
int scissor__attend_prepare(const struct scissor_attend_item *items, size_t item_count, size_t *ret_heads);
/* What follows: the planes have got this step's scores, or nothing has changed. */
void scissor__attend_done(const struct scissor_attend_item *items, size_t item_count);
void scissor__attend_undone(const struct scissor_attend_item *items, size_t item_count);

/* ---------- scores.c ---------- */

/* Bytes of a group's planes. */
size_t scissor__planes_bytes(const struct client_group *group);
/* Makes room for the heads' next_settled + F slots; 0 or ENOMEM (EDEVICE, EDEVICELOST), then nothing has changed. On a
 * device scissor__device_planes_fetch() comes before this and before planes_move. */
int scissor__planes_reserve(struct scissor_session *session);
/* Moves the sums of fresh rows behind next_settled slots and forgets those of settled slots. */
void scissor__planes_move(struct scissor_session *session);
void scissor__planes_clear(struct scissor_session *session);
/* Hands all sums to nanomsg as frames; false if some could not be handed over. */
bool scissor__scores_send(struct scissor_session *session);

/* ---------- push.c: the only file with nanomsg ---------- */

/* Connects to score socket `number`; the object is to be zero before. */
int scissor__push_open(const char *directory, uint32_t number, struct client_push *push);
/* Connects to another number, or to the same one anew; what the old socket held is dropped. Waits for the threads that
 * send. If that fails the next frames do, too, until the socket is replaced. */
void scissor__push_move(const char *directory, uint32_t number, struct client_push *push);
/* Also for one that was not opened. */
void scissor__push_close(struct client_push *push);
/* False if nanomsg did not take the frame until `deadline`. After a second without any that was taken, the socket is
 * replaced and tried once more, for up to CLIENT_PUSH_NS beyond the deadline. From any thread, without the lock. */
bool scissor__push_send(struct client_push *push, const void *frame, size_t size, uint64_t deadline);
