/* rig.h - a broker with fake memory and clients that are a few variables each, in one process and one thread.
 *
 * The rig does what the daemon's loop does: it takes the actions, delivers packets to its clients, which keep exactly
 * what a real one would know, closes descriptors, and holds jobs until the test runs them. Time is a variable. It
 * aborts on what a correct broker never does (a malformed packet, a segment told twice). */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "broker.h"
#include "control_page.h"
#include "fake_device.h"
#include "fake_store.h"
#include "scissor_error.h"

struct recorded;

#define RIG_PEERS 8
#define RIG_UID 1000
#define RIG_OWNER_UID 500 /* of the daemon */
#define RIG_SESSIONS 24
#define RIG_JOBS 64
#define RIG_IDS 512 /* segment ids of a session */

struct rig_session {
    int peer; /* -1: this place is free */
    struct proto_open spec;
    bool opened;
    uint64_t id;
    uint8_t token[PROTO_TOKEN_BYTES];
    struct proto_group_scores scores[PROTO_MAX_GROUPS];
    uint32_t fresh_rows;
    void *segment[RIG_IDS];
    uint32_t release[RIG_IDS], release_count; /* shrunk, but the daemon has not been told that they are unmapped */
    void *releasing[RIG_IDS];                 /* these */
    struct kernel_fence *fence;               /* of a session on the device */
    const struct proto_control *control;
    struct proto_lease *lease;
    uint32_t control_bytes;
    uint64_t sequence; /* of the last frame sent */
    uint64_t tokens;   /* settled or lost: position of fresh row 0 */
    uint32_t asked;    /* rows of the settle in flight */
    uint32_t request;  /* in flight; 0: none */
    int code;          /* of the last answer */
    bool closed;       /* by the daemon */
    bool doomed;       /* it will be, says an answer */
    struct proto_settled settled;
    bool reattaching; /* REATTACH has no answer yet */
    struct proto_reattached reattached;
    struct proto_positions_are positions_head;
    uint32_t positions[PROTO_POSITIONS_PER_MESSAGE], position_count;
};

struct rig_peer {
    struct broker_peer *handle; /* NULL: not connected */
    int pid;                    /* another one for each process that has this place */
    uint32_t processes;         /* that had this place and have ended */
    bool lingers;               /* its connection has ended, and it lives */
    bool welcome;
    uint32_t uid, capabilities; /* as it said who it is; in WELCOME */
    struct proto_pass_is pass;  /* after rig_ask_pass() */
    int code;                   /* of the last FAILED that was about no session of the rig */
    char text[PROTO_TEXT_BYTES];
};

struct rig {
    struct broker_config config;
    struct broker *broker;
    struct fake_backend device, host;
    struct fake_backend gpu;  /* of pool 1, if there is one: works late, and cannot take memory away */
    bool no_cuda;             /* clients say that they cannot open its memory */
    struct fake_store *store; /* NULL: sessions end with the broker */
    bool real;                /* memory of the host backend: clients map what they are sent */
    int pidfd;                /* that peers have; -1 */
    uint64_t now;
    uint32_t last_request;
    struct rig_peer peers[RIG_PEERS];
    struct rig_session sessions[RIG_SESSIONS];
    struct broker_job *jobs[RIG_JOBS]; /* queued, oldest first */
    uint32_t job_count;
    uint64_t events[16], evicted_events, hangups, descriptors;
    uint64_t early_settles; /* refused, as the client's work had not ended */
    struct {
        uint64_t records, bytes, next, lost;
        uint32_t type;          /* of the last one */
        bool whole;             /* of the last STATE */
    } recorded;                 /* of what was sent to recorders */
    struct recorded *recorders; /* [RIG_PEERS] get all of it, too; NULL, or the test's */
    uint64_t answers;
    struct proto_answer answer;
    uint8_t answer_entries[PROTO_ANSWER_MAX];
};

/* A broker with one pool. */
void rig_init(struct rig *r, uint64_t pool_bytes, bool revocable);
/* The same with a store; `real`: with the host backend. It stays the caller's. */
void rig_init_kept(struct rig *r, uint64_t pool_bytes, struct fake_store *store, bool real);
/* Pool 0 as in rig_init(), revocable, and pool 1 on the gpu. */
void rig_init_gpu(struct rig *r, uint64_t pool_bytes, uint64_t gpu_bytes);
/* Adds that pool to a broker that is to be made. */
void rig_add_gpu(struct rig *r, uint64_t gpu_bytes);
/* Everybody goes, all jobs run; broker_free() asserts that all came back; so did the segments. */
void rig_deinit(struct rig *r);

/* Carries out what the broker wants: packets, hang-ups, events; jobs are kept. */
void rig_act(struct rig *r);
/* Runs job `index` of those kept and takes its result over. */
void rig_job(struct rig *r, uint32_t index);
/* Runs jobs until there are none. */
void rig_jobs(struct rig *r);
/* Time passes; ticks if it is due. */
void rig_pass(struct rig *r, uint64_t ns);

/* A connected and greeted peer; -1 if the broker had no memory for it or no place is left. */
int rig_connect(struct rig *r);
/* The same of a certain user; rig_connect() is RIG_UID. */
int rig_connect_as(struct rig *r, uint32_t uid);
/* Asks for the peer's pass, which is in peers[peer].pass then; zeros if there is none. */
const uint8_t *rig_ask_pass(struct rig *r, int peer);
/* The pass of a new peer that may change everything. */
const uint8_t *rig_operator(struct rig *r);
/* The process ends. */
void rig_disconnect(struct rig *r, int peer);
/* Only its connection ends; the place stays taken until it exits. */
void rig_hang_up(struct rig *r, int peer);
void rig_exit(struct rig *r, int peer);
void rig_send(struct rig *r, int peer, uint16_t type, uint32_t request, const void *body, const void *entries,
              uint16_t count);

/* The broker is left and another one takes over what the store has. Jobs that wait never run; peers are without a
 * connection until rig_reconnect(). What clients knew stays as it is. */
void rig_restart(struct rig *r);
/* The second half of it: a broker for a rig that has none. */
void rig_take_over(struct rig *r);
/* HELLO of a peer of before; its opens begin anew. */
void rig_reconnect(struct rig *r, int peer);
/* REATTACH; the session's code is 1 until it is answered. */
void rig_reattach(struct rig *r, int session);
/* One group; policy may be NULL. */
struct proto_open rig_spec(uint32_t layers, uint32_t kv_heads, uint32_t head_dim, uint32_t fresh_rows,
                           uint32_t guaranteed_rows, uint32_t max_rows, const char *policy);
/* Sends OPEN; the session's place, or -1. */
int rig_open(struct rig *r, int peer, const struct proto_open *spec);
/* OPEN and all jobs; the place of an open session, or -1 (peers[peer].code says why). */
int rig_open_now(struct rig *r, int peer, const struct proto_open *spec);
void rig_settle(struct rig *r, int session, uint32_t rows, uint64_t sequence);
void rig_close(struct rig *r, int session);
/* A step of a session on the gpu: begins after what the broker has signalled; ends by queueing work that is done later.
 */
void rig_step_begins(struct rig *r, int session);
void rig_step_ends(struct rig *r, int session);
/* Tells the daemon that all shrunk segments are unmapped. */
void rig_released(struct rig *r, int session);
void rig_positions(struct rig *r, int session, uint32_t layer, uint32_t kv_head);
void rig_control(struct rig *r, uint32_t op, uint64_t session, uint64_t id, const uint8_t *token);
/* The same with a request that is filled in but for magic and version; its answer is in answer and answer_entries. */
void rig_control_to(struct rig *r, struct proto_request request);

uint32_t rig_layers(const struct rig_session *s);
/* Group of a layer and, in *ret_first, the head number of its KV head 0. */
uint32_t rig_group(const struct rig_session *s, uint32_t layer, uint32_t *ret_first);
/* The control page's entry of a head: {settled, pages, page...}. */
const uint32_t *rig_head(const struct rig_session *s, uint32_t head);
void *rig_fresh(const struct rig_session *s, uint32_t head);
void *rig_page(const struct rig_session *s, uint32_t head, uint32_t page);

/* Builds a frame of `layers` layers with every plane that the session must send, as f32. `value` gives each value.
 * Returns its size. */
typedef float (*rig_value)(void *context, uint32_t layer, uint32_t kv_head, uint32_t plane, uint32_t slot);
size_t rig_frame(struct rig_session *s, uint32_t first_layer, uint32_t layers, uint32_t rows, uint32_t fresh,
                 rig_value value, void *context, uint8_t *frame);
