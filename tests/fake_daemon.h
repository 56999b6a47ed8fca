/* fake_daemon.h - a daemon in a thread of the test program that does just what a test of the client needs.
 *
 * It speaks the attach protocol, owns real segments and settles without a policy: token t goes to slot t modulo the
 * largest number of slots. A hook sees every packet before it is sent and may change, drop or keep it, so that a test
 * can be any broken daemon. It never uses proto/alloc.h: a test fails the client's allocations only.
 *
 * It can die at any message (FAKE_DIE, die_before, hang_up_after, fake_hang_up) and is there again at once, or when
 * fake_set_away() says so, like a daemon that was started anew: with the sessions if `keep`, else without. */
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "attach.h"
#include "backend.h"
#include "control_page.h"
#include "score.h"

#define FAKE_SESSIONS 8
#define FAKE_SEGMENTS 64
#define FAKE_LAYERS 16

struct fake_packet {
    char bytes[PROTO_ATTACH_MAX];
    size_t size;
    int fds[PROTO_SEGMENTS_PER_MESSAGE];
    uint32_t fd_count;
};

struct fake_session {
    uint64_t id; /* 0: free */
    uint8_t token[PROTO_TOKEN_BYTES];
    struct proto_open shape;
    uint32_t fresh_segments, heads;
    struct kernel_segment *segments[FAKE_SEGMENTS];
    struct kernel_segment *control_segment, *lease_segment;
    struct kernel_fence *fence; /* NULL: not on a device */
    struct proto_control *control;
    struct proto_lease *lease;
    uint32_t *own; /* what the control page's heads should be */
    size_t own_bytes;
    uint32_t next_page[PROTO_MAX_GROUPS];    /* in the group's newest segment */
    uint32_t last_segment[PROTO_MAX_GROUPS]; /* 0: none */
    uint32_t settled[PROTO_MAX_GROUPS];
    uint64_t tokens, settles;
    uint64_t score_sequence; /* of the last SETTLE */
    uint64_t last_evicted;
    uint64_t frame_sequence;           /* of the last frame; kept with `fold` only, and so is what follows */
    uint32_t period_rows[FAKE_LAYERS]; /* scores of so many rows came since the last settle */
};

/* DIE: this packet and all after it are not sent; the daemon dies when it is done with the request. */
enum fake_verdict { FAKE_SEND, FAKE_DROP, FAKE_HOLD, FAKE_DIE };

struct fake {
    char dir[64];
    struct kernel_backend *backend;
    struct kernel_backend *device; /* of the segments of sessions that are opened from now on; NULL: the host */
    int listener, connection, pull, wake[2];
    pthread_t thread;
    pthread_mutex_t lock; /* guards all below, and the sessions while the thread works on them */
    struct fake_session sessions[FAKE_SESSIONS];
    struct fake_session buried[FAKE_SESSIONS]; /* of connections that it hung up: the last ones, oldest first */
    uint32_t buried_count;
    uint64_t next_id;
    uint32_t score_frame_max;
    uint32_t score_socket;                              /* what WELCOME says; the fake itself reads from 0 and 2 */
    struct proto_group_scores scores[PROTO_MAX_GROUPS]; /* what OPENED asks for */
    uint32_t received[32];                              /* messages, by type */
    uint32_t connections;
    uint32_t capabilities; /* of the last HELLO */
    int64_t hang_up_after; /* messages until it hangs up without an answer, once; negative: never */
    uint16_t die_before;   /* type of a message before which it dies, once; 0: none */
    bool keep;             /* it takes its sessions over when it has died */
    bool stay_away;        /* nobody listens when it has died, see fake_set_away() */
    bool dying, away;
    bool lose_scores;         /* SETTLED says so */
    bool fold;                /* a settle waits for its frames, and looks whether each row's scores came once */
    uint32_t score_faults;    /* times that they did not */
    bool drain;               /* it takes score frames and throws them away; else fake_frame() must take them */
    int refuse_open;          /* a code for FAILED instead of OPENED */
    int refuse_settle;        /* ... instead of SETTLED; the scores stay */
    bool deaf;                /* it reads nothing from the client */
    struct fake_packet *held; /* kept by the hook */
    enum fake_verdict (*hook)(struct fake *f, uint16_t type, struct fake_packet *p);
    void *hook_data;
};

/* Starts in a directory of its own; 0 or -1. */
int fake_start(struct fake *f);
void fake_stop(struct fake *f);
void fake_set_hook(struct fake *f, enum fake_verdict (*hook)(struct fake *, uint16_t, struct fake_packet *));
uint32_t fake_open_sessions(struct fake *f);
/* Writes or reads a field while the fake's thread runs. */
#define FAKE_SET(f, field, value)         \
    do {                                  \
        pthread_mutex_lock(&(f)->lock);   \
        (f)->field = (value);             \
        pthread_mutex_unlock(&(f)->lock); \
    } while (0)
#define FAKE_GET(f, field)                        \
    __extension__({                               \
        pthread_mutex_lock(&(f)->lock);           \
        __typeof__((f)->field) got_ = (f)->field; \
        pthread_mutex_unlock(&(f)->lock);         \
        got_;                                     \
    })
/* By order of opening; NULL if there is none. */
struct fake_session *fake_session_at(struct fake *f, uint32_t index);
/* Sends whatever, to the client that is connected. */
void fake_send(struct fake *f, uint16_t type, uint32_t request, const void *body, const void *entries, uint16_t count);
void fake_send_raw(struct fake *f, const void *bytes, size_t size);
void fake_send_held(struct fake *f);
/* Ends the connection as if the daemon had died. */
void fake_hang_up(struct fake *f);
/* Whether anybody listens. */
void fake_set_away(struct fake *f, bool away);
/* One score frame; its size, or -1 after the time-out. */
int fake_frame(struct fake *f, void *frame, size_t capacity, int timeout_ms);
/* A head's entry in the control page. */
uint32_t *fake_head_words(struct fake_session *s, uint32_t head);
/* Cuts every head to `rows` (tail rows go) and bumps the generation; the caller takes care of the lease. */
void fake_cut(struct fake *f, struct fake_session *s, uint32_t rows);
