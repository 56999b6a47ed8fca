/* attach.h - messages of the attach socket (AF_UNIX, SOCK_SEQPACKET), little-endian, fixed size.
 *
 * One packet is one message: a header, the message's struct and, where the table says so, a counted array of entries
 * after it. Client and daemon never send anything else. PROTOCOL.md tells the order. */
#pragma once

#include <assert.h>
#include <stddef.h>
#include <stdint.h>

#define PROTO_VERSION_MAJOR 1
#define PROTO_VERSION_MINOR 0

#define PROTO_ATTACH_MAGIC 0x41494353u /* "SCIA" */
#define PROTO_ATTACH_MAX 65536u        /* bytes of a packet at most */
#define PROTO_ATTACH_SOCKET "attach.sock"

#define PROTO_MAX_GROUPS 8u
#define PROTO_MAX_PARAMS 8u
#define PROTO_MAX_LAYERS 1024u         /* over all groups */
#define PROTO_MAX_HEADS 16384u         /* (layer, KV head) pairs over all groups */
#define PROTO_MAX_ROWS 1048576u        /* budget in rows per KV head */
#define PROTO_MAX_WAIT_MS 600000u      /* an open may stand first in the queue, so not for ever */
#define PROTO_MAX_FRESH 1024u          /* fresh rows */
#define PROTO_SEGMENTS_PER_MESSAGE 32u /* descriptors of one GROW */
#define PROTO_POSITIONS_PER_MESSAGE 8192u
#define PROTO_RECORDED_PER_MESSAGE 61440u
#define PROTO_TOKEN_BYTES 16u
#define PROTO_NAME_BYTES 32u
#define PROTO_TEXT_BYTES 192u
#define PROTO_DEVICE_BYTES 48u

/* X(name, number, sender, struct, entry struct, largest entry count)
 * sender: C client, D daemon. An entry of `proto_none` means: no array. */
#define PROTO_ATTACH_MAP(X)                                                                   \
    X(HELLO, 1, C, proto_hello, proto_none, 0)                                                \
    X(WELCOME, 2, D, proto_welcome, proto_none, 0)                                            \
    X(FAILED, 3, D, proto_failed, proto_none, 0)                                              \
    X(OPEN, 4, C, proto_open, proto_none, 0)                                                  \
    X(OPENED, 5, D, proto_opened, proto_none, 0)                                              \
    X(SETTLE, 6, C, proto_settle, proto_none, 0)                                              \
    X(SETTLED, 7, D, proto_settled, proto_none, 0)                                            \
    X(GROW, 8, D, proto_grow, proto_segment, PROTO_SEGMENTS_PER_MESSAGE)                      \
    X(SHRINK, 9, D, proto_shrink, proto_segment_id, 4096)                                     \
    X(RELEASED, 10, C, proto_shrink, proto_segment_id, 4096)                                  \
    X(CLOSE, 11, C, proto_close, proto_none, 0)                                               \
    X(CLOSED, 12, D, proto_closed, proto_none, 0)                                             \
    X(POSITIONS, 13, C, proto_positions, proto_none, 0)                                       \
    X(POSITIONS_ARE, 14, D, proto_positions_are, proto_position, PROTO_POSITIONS_PER_MESSAGE) \
    X(PASS, 15, C, proto_pass, proto_none, 0)                                                 \
    X(PASS_IS, 16, D, proto_pass_is, proto_none, 0)                                           \
    X(REATTACH, 17, C, proto_reattach, proto_none, 0)                                         \
    X(REATTACHED, 18, D, proto_reattached, proto_none, 0)                                     \
    X(RECORD, 19, C, proto_record, proto_none, 0)                                             \
    X(RECORDED, 20, D, proto_recorded, proto_byte, PROTO_RECORDED_PER_MESSAGE)                \
    X(RECORD_READ, 21, C, proto_record_read, proto_none, 0)

enum proto_attach_type {
#define PROTO_ENUM(name, number, sender, body, entry, most) PROTO_##name = (number),
    PROTO_ATTACH_MAP(PROTO_ENUM)
#undef PROTO_ENUM
};

/* Capabilities, in HELLO what the client can do, in WELCOME what both can. */
#define PROTO_CAP_HOST 0x1u /* memory as descriptors */
#define PROTO_CAP_CUDA 0x2u /* memory as CUDA IPC handles */
#define PROTO_CAP_KEEP \
    0x4u /* the daemon's next process takes the sessions over: REATTACH after a hang-up is worth it */

struct proto_header {
    uint32_t magic;
    uint16_t type;    /* enum proto_attach_type */
    uint16_t count;   /* entries of the array behind the struct */
    uint32_t size;    /* of the whole packet, this header included */
    uint32_t request; /* chosen by the client; the answer repeats it; 0 in what the daemon sends unasked */
};

struct proto_none {
    char nothing[0];
};

struct proto_hello {
    uint16_t major, minor;
    uint32_t capabilities;
    char name[PROTO_NAME_BYTES]; /* of the program, for people; NUL-padded */
};

struct proto_welcome {
    uint16_t major, minor;
    uint32_t capabilities;
    uint64_t epoch; /* random, new at each start of the daemon */
    uint32_t pool_count;
    uint32_t score_frame_max; /* bytes of one score frame at most */
    char version[PROTO_NAME_BYTES];
    uint32_t score_socket; /* number of the score socket that the client pushes to */
    uint32_t reserved;
};

/* The answer to any request that was not done, and, with request 0, the daemon's last words before it hangs up. */
struct proto_failed {
    int32_t code; /* enum scissor_error */
    uint32_t reserved;
    uint64_t session;            /* 0 if none */
    char text[PROTO_TEXT_BYTES]; /* for people, NUL-terminated */
};

struct proto_param {
    char name[12]; /* empty: unused */
    uint32_t reserved;
    double value;
};

struct proto_group {
    uint32_t layers, kv_heads, q_heads, head_dim;
    uint32_t guaranteed_rows, max_rows; /* per KV head, fresh rows included; max 0: the same as guaranteed */
    char policy[16];                    /* empty: the daemon's default */
    struct proto_param params[PROTO_MAX_PARAMS];
};

struct proto_open {
    char name[PROTO_NAME_BYTES];
    uint32_t compute_dtype, storage_dtype; /* 0 f32, 1 f16, 2 bf16; storage alone: 3 int8, 4 int4, 5 k5v4, 6 fade */
    uint32_t fresh_rows;                   /* F, a multiple of 16; 0: 64 */
    uint32_t priority;                     /* 1 to 1000; 0: 100 */
    uint32_t wait_ms;                      /* how long the request may queue for memory; 0: BUSY or FULL at once */
    uint32_t pool;                         /* index, or PROTO_ANY_POOL */
    uint32_t group_count;
    uint32_t attempt; /* the same if it is asked for again after a connection was lost; 0: never again */
    struct proto_group groups[PROTO_MAX_GROUPS];
};
#define PROTO_ANY_POOL 0xffffffffu

/* What the client must gather for one group. */
struct proto_group_scores {
    uint32_t planes;    /* PROTO_PLANE_* */
    uint32_t threshold; /* of hits: 0: 1/n, 1: 1/t */
};

struct proto_opened {
    uint64_t session;
    uint8_t token[PROTO_TOKEN_BYTES]; /* secret; goes into score frames and control requests */
    uint32_t fresh_rows;
    uint32_t fresh_segments; /* the first segments of the session, sent as GROW before this */
    uint32_t control_bytes;  /* size of the control page (descriptor 0 of this packet, read-only) */
    uint32_t lease_bytes;    /* size of the lease page (descriptor 1 of this packet, writable) */
    struct proto_group_scores groups[PROTO_MAX_GROUPS];
    char device[PROTO_DEVICE_BYTES]; /* of the memory: "host", or "cuda:GPU-..." with the whole UUID; NUL-padded */
    uint8_t events[2][64];           /* CUDA IPC event handles: the client's, the daemon's; zeros on the host */
};

struct proto_settle {
    uint64_t session;
    uint64_t score_sequence; /* of the last score frame sent for this session; 0: none yet */
    uint32_t rows;           /* fresh rows to settle, 1 to F: all of them */
    uint32_t reserved;
};

struct proto_settled {
    uint64_t session;
    uint64_t generation;   /* of the control page, as score frames must repeat it */
    uint64_t evicted_rows; /* by this settle, over all heads */
    uint32_t scores_lost;  /* 1: some score frames of this period did not arrive in time */
    uint32_t reserved;
};

/* Segments that now belong to the session. Host: one descriptor for each entry, in order, in the same packet. CUDA: the
 * handle in each entry, which OPENED says the device of. */
struct proto_grow {
    uint64_t session;
};
struct proto_segment {
    uint32_t id;   /* within the session; an id that was shrunk may come again */
    uint32_t kind; /* PROTO_SEGMENT_* */
    uint64_t bytes;
    uint8_t handle[64]; /* CUDA IPC handle; zeros on the host */
};
#define PROTO_SEGMENT_SETTLED 0u
#define PROTO_SEGMENT_FRESH 1u

/* SHRINK: these segments are no longer the session's: unmap them. RELEASED: they are unmapped. */
struct proto_shrink {
    uint64_t session;
};
struct proto_segment_id {
    uint32_t id;
};

struct proto_close {
    uint64_t session;
};

/* The answer to CLOSE, and, with request 0, the news that the operator closed the session or that its device failed. */
struct proto_closed {
    uint64_t session;
    int32_t code; /* OK, ECLOSED or EDEVICELOST */
    uint32_t reserved;
};

struct proto_positions {
    uint64_t session;
    uint32_t layer, kv_head; /* layers are numbered through over the groups */
    uint32_t first_slot;
    uint32_t reserved;
};
struct proto_positions_are {
    uint64_t session;
    uint32_t total; /* settled slots of that head */
    uint32_t first_slot;
};
struct proto_position {
    uint32_t position;
};

/* Who asks is known from the kernel (SO_PEERCRED of this socket), so the answer is a secret that stands for that user
 * in the control requests of a tool: a nanomsg socket cannot tell. Valid until this connection ends. */
struct proto_pass {
    uint64_t reserved;
};
struct proto_pass_is {
    uint8_t pass[PROTO_TOKEN_BYTES];
    uint32_t uid;      /* as the kernel says */
    uint32_t operator; /* 1: may change everything (root, the daemon's user); 0: what is about this user's sessions */
};

/* After a new HELLO: the session is ours, the daemon that knew us is gone. The answer is REATTACHED, before it GROW for
 * every segment that the session has now (same request); a segment of the same id that is the same file may stay
 * mapped, any other that the client knew is not the session's any more. The control page and the lease page stay the
 * same. FAILED with ERESTARTED: the session was not taken over. */
struct proto_reattach {
    uint64_t session;
    uint8_t token[PROTO_TOKEN_BYTES];
    uint64_t score_sequence; /* of the last score frame sent for this session: the next one has one more */
};
struct proto_reattached {
    uint64_t session;
    uint64_t generation;   /* of the control page */
    uint64_t tokens_seen;  /* settled or dropped so far: tells whether a settle without an answer was done */
    uint64_t evicted_rows; /* by the last settle, over all heads, as its SETTLED said or would have said */
    uint32_t scores_lost;  /* of the last settle */
    uint32_t segments;     /* that the session has now: entries of the GROWs before this */
};

/* For tools: what is folded and settled of a session from now on, for root, the daemon's user and the session's owner.
 * A connection records one session, a session has one recorder. */
struct proto_record {
    uint64_t session;
};
/* A part of a record (trace.h) that the recorder is sent. Records have numbers from 0 on; a gap is a record that was
 * lost, as the recorder had PROTO_RECORD_WINDOW bytes that it had not said to have read. */
struct proto_recorded {
    uint64_t session, number;
    uint32_t type;          /* enum trace_type; an END is the last that comes */
    uint32_t bytes, offset; /* of the whole record, and where in it this part belongs: parts come in order */
    uint32_t reserved;
};
struct proto_byte {
    uint8_t byte;
};
/* So many bytes of records were read; no answer. */
struct proto_record_read {
    uint64_t session, bytes;
};
#define PROTO_RECORD_WINDOW (3u << 20)

static_assert(sizeof(struct proto_record) == 8, "wire");
static_assert(sizeof(struct proto_recorded) == 32, "wire");
static_assert(sizeof(struct proto_byte) == 1, "wire");
static_assert(sizeof(struct proto_record_read) == 16, "wire");
static_assert(sizeof(struct proto_pass) == 8, "wire");
static_assert(sizeof(struct proto_pass_is) == 24, "wire");
static_assert(sizeof(struct proto_reattach) == 32, "wire");
static_assert(sizeof(struct proto_reattached) == 40, "wire");
static_assert(sizeof(struct proto_header) == 16, "wire");
static_assert(sizeof(struct proto_hello) == 40, "wire");
static_assert(sizeof(struct proto_welcome) == 64, "wire");
static_assert(sizeof(struct proto_failed) == 16 + PROTO_TEXT_BYTES, "wire");
static_assert(sizeof(struct proto_param) == 24, "wire");
static_assert(sizeof(struct proto_group) == 232, "wire");
static_assert(sizeof(struct proto_open) == 64 + 8 * 232, "wire");
static_assert(offsetof(struct proto_open, groups) == 64, "wire");
static_assert(sizeof(struct proto_opened) == 280, "wire");
static_assert(sizeof(struct proto_settle) == 24, "wire");
static_assert(sizeof(struct proto_settled) == 32, "wire");
static_assert(sizeof(struct proto_grow) == 8, "wire");
static_assert(sizeof(struct proto_segment) == 80, "wire");
static_assert(sizeof(struct proto_shrink) == 8, "wire");
static_assert(sizeof(struct proto_close) == 8, "wire");
static_assert(sizeof(struct proto_closed) == 16, "wire");
static_assert(sizeof(struct proto_positions) == 24, "wire");
static_assert(sizeof(struct proto_positions_are) == 16, "wire");

/* A row of the table above. */
struct proto_attach_info {
    const char *name;
    char sender;
    uint16_t type;
    uint16_t most_entries;
    uint32_t body_bytes;
    uint32_t entry_bytes;
};

/* NULL for an unknown type. */
const struct proto_attach_info *proto_attach_lookup(uint16_t type);

/* Checks that `packet` of `size` bytes is a well-formed message that `sender` ('C' or 'D') may send: magic, size,
 * type, direction, entry count. Gives 0 or EPROTO, then with a static text for people in *ret_why. Fields of the
 * body are for the receiver to check. */
int proto_attach_check(const void *packet, size_t size, char sender, const char **ret_why);

/* Writes header, body and entries (NULL if count is 0) to `packet`; returns the bytes. `capacity` must hold them
 * (PROTO_ATTACH_MAX always does). */
size_t proto_attach_write(void *packet, size_t capacity, uint16_t type, uint32_t request, const void *body,
                          const void *entries, uint16_t count);

/* The body and the entries of a checked packet. */
static inline const void *proto_attach_body(const void *packet) {
    return (const char *)packet + sizeof(struct proto_header);
}
const void *proto_attach_entries(const void *packet);

/* Copies a text into a NUL-padded wire field, cut if need be; a wire field is a valid text if it holds a NUL. */
void proto_text_set(char *field, size_t bytes, const char *text);
int proto_text_valid(const char *field, size_t bytes);
