/* scissor.h - use a KV cache that scissord owns.
 *
 * One token's way through this API (see README.md for a program that compiles):
 *
 *     scissor_step_begin(s, rows)          take the lease, `rows` new tokens
 *     for each layer:
 *         scissor_append(s, layer, k, v)   write this step's K and V into the fresh buffer
 *         scissor_attend(...)              attention over settled and fresh rows; scores are added up on the way
 *     scissor_step_end(s)                  give the lease back
 *     if (scissor_fresh_room(s) < next)    the fresh buffer is full:
 *         scissor_settle(s)                send the scores; the daemon moves the fresh rows into settled slots
 *
 * Threads: a client and its sessions may be used by any thread, two sessions of one client by two threads at the same
 * time, one session by one thread at a time. The library starts no thread, installs no signal handler, prints nothing
 * and never exits; SIGPIPE is not raised. Functions that say "blocks" wait for the daemon, at most for the client's
 * time-out (scissor_connect_options); all others never wait for another process.
 *
 * Every function that returns int gives 0, a positive condition or a negative failure (scissor_error.h,
 * scissor_strerror()). Outputs are untouched on failure. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "scissor_error.h"

#ifdef __cplusplus
extern "C" {
#endif

#define SCISSOR_API __attribute__((visibility("default")))

/* "1.2.3" */
SCISSOR_API const char *scissor_version(void);

/* ---------- shapes ---------- */

enum scissor_dtype {
    SCISSOR_F32 = 0,
    SCISSOR_F16 = 1,
    SCISSOR_BF16 = 2,
    /* Settled rows only: 64 channels share a scale and an offset, 68 and 36 bytes in all. K and V of INT4 are rotated
     * before; who attends through this library sees nothing of that. */
    SCISSOR_INT8 = 3,
    SCISSOR_INT4 = 4,
};

#define SCISSOR_MAX_GROUPS 8
#define SCISSOR_MAX_PARAMS 8
#define SCISSOR_NAME_BYTES 32

/* One parameter of a policy, by name: {"sinks", 4}. scissord(8) lists them. */
struct scissor_param {
    char name[12];
    double value;
};

/* A run of layers of one kind. Layers are numbered through over the groups: the first group has layers 0 .. layers-1,
 * the second the ones after it, and so on; an engine maps its own numbers. */
struct scissor_group_spec {
    uint32_t layers;
    uint32_t kv_heads;
    uint32_t q_heads;         /* a multiple of kv_heads */
    uint32_t head_dim;        /* a multiple of 16, 16 to 256 */
    uint32_t guaranteed_rows; /* rows per KV head that are always there, fresh rows included; >= fresh_rows + 16 */
    uint32_t max_rows;        /* rows per KV head that are never passed; 0: the same as guaranteed_rows */
    /* "pivotal", "scissorhands", "h2o", "tova", "streaming", "window" or "random"; empty: the daemon's default, which
     * is the first unless its operator says otherwise */
    char policy[16];
    struct scissor_param params[SCISSOR_MAX_PARAMS]; /* empty name: unused */
};

struct scissor_session_spec {
    char name[SCISSOR_NAME_BYTES]; /* for people; may be empty */
    uint32_t compute_dtype;        /* F32 (0), F16 or BF16: fresh rows, what append converts to */
    uint32_t storage_dtype;        /* enum scissor_dtype: settled rows */
    uint32_t fresh_rows;           /* F: a multiple of 16, 16 to 1024; 0: 64 */
    uint32_t priority;             /* weight under memory pressure, 1 to 1000; 0: 100 */
    uint32_t wait_ms;              /* how long open may wait for memory, at most 600,000; 0: BUSY or FULL at once */
    uint32_t group_count;
    struct scissor_group_spec groups[SCISSOR_MAX_GROUPS];
};

/* ---------- connection ---------- */

struct scissor_client;
struct scissor_session;

/* Connects to the daemon whose sockets are in `directory`; NULL: $SCISSORD_DIR, else $XDG_RUNTIME_DIR/scissord if it
 * is there, else /run/scissord. Blocks. ENODAEMON if nobody answers, EVERSION if the daemon refuses this version (then
 * scissor_last_text() names both), EPROTO, ENOMEM, ESYSTEM. */
SCISSOR_API int scissor_connect(const char *directory, struct scissor_client **ret_client);

/* Closes the connection and whatever sessions are left; unmaps their memory. NULL is allowed. Does not block. */
SCISSOR_API void scissor_disconnect(struct scissor_client *client);

/* How long a blocking call waits for the daemon, in ms (default 10,000). */
SCISSOR_API void scissor_set_timeout(struct scissor_client *client, uint32_t timeout_ms);

/* Random number of the daemon's life that the client is attached to, or was last: another one after each start of the
 * daemon, whether or not it has taken the sessions over. `scissorctl stat --json` shows it as 16 hexadecimal digits. */
SCISSOR_API uint64_t scissor_epoch(struct scissor_client *client);

/* The last words about a refusal on this client, for people; never NULL; valid until the next call. NULL for `client`:
 * about this thread's last scissor_connect() that failed. */
SCISSOR_API const char *scissor_last_text(const struct scissor_client *client);

/* ---------- sessions ---------- */

/* Opens a session. Blocks, up to wait_ms longer than the time-out. BUSY, FULL, DRAINING: nothing was opened, try
 * later. EINVAL: scissor_last_text() names the field. ELIMIT, EGONE, ECLOSED (the operator ended the wait), ENOMEM,
 * ETIMEDOUT. The session must be closed before the client is disconnected, or is closed by that. */
SCISSOR_API int scissor_open(struct scissor_client *client, const struct scissor_session_spec *spec,
                             struct scissor_session **ret_session);

/* Unmaps and closes; its memory goes back to the pool. NULL is allowed. Blocks briefly; EGONE and ECLOSED are no
 * failure to close: the session is freed whatever is returned. */
SCISSOR_API int scissor_close(struct scissor_session *session);

/* The session's number, as scissorctl shows it. */
SCISSOR_API uint64_t scissor_session_id(const struct scissor_session *session);

/* Takes the lease for a step of `rows` new tokens (1 <= rows <= F) and refreshes the mapping if the daemon has changed
 * it. Waits only while the daemon is moving this session's rows (some ms). SETTLE_NEEDED if fresh rows + rows > F;
 * EGONE, ECLOSED, ESTATE (a step is open already, or a settle is not answered yet), ENOMEM (try again),
 * ETIMEDOUT (the daemon has kept the lease; try again). */
SCISSOR_API int scissor_step_begin(struct scissor_session *session, uint32_t rows);

/* Ends the step: its rows now count as fresh, the lease is free. Never waits. ESTATE: no step is open. */
SCISSOR_API int scissor_step_end(struct scissor_session *session);

/* Writes K and V of this step's rows for one layer into the fresh buffer. k and v: [rows][kv_heads][head_dim] of
 * `dtype`, converted to the compute dtype. RoPE must have been applied to k. Never waits. EINVAL, ESTATE. */
SCISSOR_API int scissor_append(struct scissor_session *session, uint32_t layer, const void *k, const void *v,
                               uint32_t dtype);

/* One session's part of a batch. All f32. q and out: [rows of the step][q_heads][head_dim]; they may not overlap. */
struct scissor_attend_item {
    struct scissor_session *session; /* must be in a step and have appended `layer` */
    uint32_t layer;
    float scale; /* of the logits; 1/sqrt(head_dim) for most models */
    const float *q;
    float *out;
};

/* Attention for one layer of each item's session: query row i of the step sees all settled rows and the fresh rows up
 * to itself. Gathers the score planes that the session's policy needs. Never waits. EINVAL, ESTATE, ENOMEM: then no
 * item's scores have changed, outputs may have been written. */
SCISSOR_API int scissor_attend(const struct scissor_attend_item *items, size_t item_count);

/* Sends the scores gathered since the last settle and has the daemon move all fresh rows into settled slots, evicting
 * what the budget asks for. Blocks for one round trip (about a millisecond; up to some tens if scores were lost on the
 * way). With no fresh rows: returns at once. SCORES_LOST: settled, but victims were picked without the newest scores.
 * EGONE, ECLOSED, ESTATE (in a step), ENOMEM (nothing has changed; try again). ETIMEDOUT: the daemon has not answered
 * yet; the next call goes on waiting for the same answer, and until then no step can begin. */
SCISSOR_API int scissor_settle(struct scissor_session *session);

/* ---------- what a session holds; none of these waits ---------- */

SCISSOR_API uint32_t scissor_fresh_count(const struct scissor_session *session); /* fresh rows, ended steps only */
SCISSOR_API uint32_t scissor_fresh_room(const struct scissor_session *session);  /* F - fresh rows */
SCISSOR_API uint64_t scissor_tokens_seen(const struct scissor_session *session); /* = position of the next token */
/* Settled rows of one head now; 0 for a layer or head that does not exist. */
SCISSOR_API uint32_t scissor_settled_count(const struct scissor_session *session, uint32_t layer, uint32_t kv_head);

struct scissor_session_info {
    uint64_t session;
    uint64_t tokens_seen;
    uint64_t evicted_rows;   /* over all heads */
    uint64_t segments_bytes; /* mapped now: settled and fresh */
    uint64_t settles;
    uint64_t scores_lost; /* settles that went on without all of their scores */
    uint32_t max_settled; /* largest settled count over heads */
    uint32_t fresh_count;
};
SCISSOR_API void scissor_session_info(const struct scissor_session *session, struct scissor_session_info *ret);

/* Asks the daemon which positions the settled slots of one head hold, in slot order. Blocks. *ret_count is the number
 * of slots; at most `capacity` are written. */
SCISSOR_API int scissor_positions(struct scissor_session *session, uint32_t layer, uint32_t kv_head,
                                  uint32_t *ret_positions, uint32_t capacity, uint32_t *ret_count);

#ifdef __cplusplus
}
#endif
