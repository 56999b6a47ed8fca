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
 * A session's rows are in host memory or on a GPU, as its pool is (scissor_session_device()). On a GPU an engine uses
 * the calls that end in _device, at the end of this file: they take device pointers and a stream, and queue their work.
 * The ones above work there, too, for who has no CUDA: they copy and wait.
 *
 * Threads: a client and its sessions may be used by any thread, two sessions of one client by two threads at the same
 * time, one session by one thread at a time. A client with a session on a GPU has a thread of its own until
 * scissor_disconnect(), which closes memory that the daemon takes back, with all signals blocked; without one the
 * library starts none. It installs no signal handler, prints nothing and never exits; SIGPIPE is not raised. Functions
 * that say "blocks" wait for the daemon, at most for the client's time-out (scissor_connect_options); all others never
 * wait for another process.
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
    /* Settled rows only: 64 channels share a scale and an offset, 68 bytes in 8 bits, 44 in 5 and 36 in 4. K and V of
     * INT4, K5V4 (K in 5 bits, V in 4) and FADE are rotated before; who attends through this library sees nothing
     * of that. FADE is K5V4 for the newest and the most important rows, a quarter of the budget; the others lose two
     * bits of each value on the way, 28 bytes of K and 20 of V are left. As long as nobody else needs the memory, no
     * row does, and a session grows in bytes as fast as one of four times the rows. In host memory only. */
    SCISSOR_INT8 = 3,
    SCISSOR_INT4 = 4,
    SCISSOR_K5V4 = 5,
    SCISSOR_FADE = 6,
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

/* Closes the connection and whatever sessions are left; unmaps their memory. NULL is allowed. Does not block, but for
 * work of sessions on a GPU: what is not done in time stays mapped until the process ends. */
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
 * ETIMEDOUT. EDEVICE: the pool is on a GPU that this process cannot use, scissor_last_text() says why; EDEVICELOST. The
 * first session on a GPU starts the driver, which takes some tenths of a second and must not be followed by fork(). The
 * session must be closed before the client is disconnected, or is closed by that. */
SCISSOR_API int scissor_open(struct scissor_client *client, const struct scissor_session_spec *spec,
                             struct scissor_session **ret_session);

/* Unmaps and closes; its memory goes back to the pool. NULL is allowed. Blocks briefly, on a GPU also until the work
 * that was queued for the session is done; EGONE, ECLOSED and EDEVICELOST are no failure to close: the session is freed
 * whatever is returned. But while the GPU is, or may be, at that work, or its driver refuses to close the memory,
 * ETIMEDOUT or EDEVICE leaves the session to be closed by another call. Where the daemon has died, the work is not
 * waited for: what it uses is freed after it. */
SCISSOR_API int scissor_close(struct scissor_session *session);

/* The session's number, as scissorctl shows it. */
SCISSOR_API uint64_t scissor_session_id(const struct scissor_session *session);

/* Takes the lease for a step of `rows` new tokens (1 <= rows <= F) and refreshes the mapping if the daemon has changed
 * it. Waits only while the daemon is moving this session's rows (some ms). SETTLE_NEEDED if fresh rows + rows > F;
 * EGONE, ECLOSED, ESTATE (a step is open already, or a settle is not answered yet), ENOMEM (try again),
 * ETIMEDOUT (the daemon has kept the lease; try again). After the daemon was started anew: ERESTARTED for what was on a
 * GPU, or was not kept. EDEVICELOST ends a session. */
SCISSOR_API int scissor_step_begin(struct scissor_session *session, uint32_t rows);

/* Ends the step: its rows now count as fresh, the lease is free. Never waits. ESTATE: no step is open. What the step
 * has queued on a GPU may still be under way: the daemon touches the rows after it, whatever this thread does. EDEVICE,
 * EDEVICELOST: the step has ended, and so has the session. */
SCISSOR_API int scissor_step_end(struct scissor_session *session);

/* Writes K and V of this step's rows for one layer into the fresh buffer. k and v: [rows][kv_heads][head_dim] of
 * `dtype`, converted to the compute dtype. RoPE must have been applied to k. k and v may be reused when it returns.
 * Never waits, but for a GPU. EINVAL, ESTATE; on a GPU ENOMEM, EDEVICE, EDEVICELOST, EGONE, ERESTARTED, too. */
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
 * to itself. Gathers the score planes that the session's policy needs. All sessions are in host memory, or of one
 * client and on one GPU. Never waits, but for a GPU until `out` is there. EINVAL, ESTATE, ENOMEM: then no item's scores
 * have changed, outputs may have been written. On a GPU also EDEVICE, EDEVICELOST, EGONE, ERESTARTED. */
SCISSOR_API int scissor_attend(const struct scissor_attend_item *items, size_t item_count);

/* Sends the scores gathered since the last settle and has the daemon move all fresh rows into settled slots, evicting
 * what the budget asks for. Blocks for one round trip (about a millisecond; up to some tens if scores were lost on the
 * way). With no fresh rows: returns at once. SCORES_LOST: settled, but victims were picked without the newest scores.
 * EGONE, ECLOSED, ESTATE (in a step), ENOMEM (nothing has changed; try again). ETIMEDOUT: the daemon has not answered
 * yet; the next call goes on waiting for the same answer, and until then no step can begin. On a GPU it waits for the
 * steps' work first (ETIMEDOUT if that takes longer than the time-out: nothing has changed, a step can begin); EDEVICE,
 * EDEVICELOST. */
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
 * of slots; at most `capacity` are written. ESTATE after a settle that has timed out; ECLOSED ends the session, as for
 * any call. */
SCISSOR_API int scissor_positions(struct scissor_session *session, uint32_t layer, uint32_t kv_head,
                                  uint32_t *ret_positions, uint32_t capacity, uint32_t *ret_count);

/* ---------- sessions on a GPU ----------
 *
 * All pointers are the device's, or pinned host memory that it can see. `stream` is a CUstream of the device's primary
 * context (a cudaStream_t of the runtime is one), NULL the legacy default stream. Work is queued there and done later,
 * in order; what is passed must stay as it is until then, and results are there when the stream has come so far. A
 * step's work is on one stream: another one in the same step is EINVAL; the calls with host pointers have a stream of
 * their own that counts as another. From step to step it may change. Between a step and its settle, and a settle and
 * the next step, nothing has to be waited for: the streams do that. An error of work that is queued is told by a later
 * call. Where a call waits for the GPU and the daemon dies meanwhile, it gives ERESTARTED or EGONE within a second or
 * two: the session is lost, and work on its streams may be waiting for the daemon's, for how long is not known. After
 * an EDEVICELOST of its own work a process cannot use the GPU any more, and what its sessions had there is another's
 * only when it has ended. On a session in host memory these give EINVAL with a text. */

/* Where the session's rows are: "host", or "cuda:GPU-..." with the device's UUID. Valid until it is closed. */
SCISSOR_API const char *scissor_session_device(const struct scissor_session *session);

/* As scissor_append(); k and v at multiples of the dtype's size, 16 bytes are better. Does not wait. */
SCISSOR_API int scissor_append_device(struct scissor_session *session, uint32_t layer, const void *k, const void *v,
                                      uint32_t dtype, void *stream);

/* As scissor_attend(), `items` itself in host memory and free when it returns; q and out at multiples of 16 bytes.
 * Waits for the stream only when it takes more scratch memory, which a session does as it grows, ever more seldom. */
SCISSOR_API int scissor_attend_device(const struct scissor_attend_item *items, size_t item_count, void *stream);

/* As scissor_settle(), the way of the scores to the host on that stream: waits for it and for the work of the steps
 * before. ESTATE from the daemon means that rows were worked on outside of steps. */
SCISSOR_API int scissor_settle_device(struct scissor_session *session, void *stream);

#ifdef __cplusplus
}
#endif
