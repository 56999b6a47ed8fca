/* control.h - control requests and answers (nanomsg REQ to REP) and events (PUB to SUB), little-endian, fixed size.
 *
 * A request is one struct proto_request. The answer is a struct proto_answer, then `count` entries of the operation's
 * struct. Lists come in pages: ask again with first = first + count until first + count = total. An event is one
 * struct proto_event. */
#pragma once

#include <assert.h>
#include <stddef.h>
#include <stdint.h>

#include "attach.h"

#define PROTO_CONTROL_SOCKET "control.sock"
#define PROTO_EVENT_SOCKET "events.sock"

#define PROTO_REQUEST_MAGIC 0x52494353u /* "SCIR" */
#define PROTO_ANSWER_MAGIC 0x4e494353u  /* "SCIN" */
#define PROTO_EVENT_MAGIC 0x45494353u   /* "SCIE" */
#define PROTO_ANSWER_MAX 65536u

/* X(name, number, changes something, entry struct of the answer)
 * What changes something needs a pass (PASS on the attach socket) of root, of the daemon's user or, if it is about one
 * session, of that session's owner; or that session's token.
 * Values of a request: POSITIONS layer, KV head. SET_POOL pool, bytes. SET_BUDGET guaranteed rows, most rows (0: as it
 * is), group (PROTO_ALL_GROUPS). SET_PRIORITY priority. */
#define PROTO_CONTROL_MAP(X)              \
    X(STAT, 1, 0, proto_pool_stat)        \
    X(SESSIONS, 2, 0, proto_session_stat) \
    X(SESSION, 3, 0, proto_head_stat)     \
    X(CLOSE_SESSION, 4, 1, proto_none)    \
    X(DRAIN, 5, 1, proto_none)            \
    X(MEMORY, 6, 0, proto_memory_stat)    \
    X(POSITIONS, 7, 0, proto_position)    \
    X(CONFIG, 8, 0, proto_option)         \
    X(POLICIES, 9, 0, proto_policy_param) \
    X(SET_POOL, 10, 1, proto_none)        \
    X(SET_BUDGET, 11, 1, proto_none)      \
    X(SET_PRIORITY, 12, 1, proto_none)    \
    X(GROUPS, 13, 0, proto_group_stat)

enum proto_control_op {
#define PROTO_CONTROL_ENUM(name, number, changes, entry) PROTO_OP_##name = (number),
    PROTO_CONTROL_MAP(PROTO_CONTROL_ENUM)
#undef PROTO_CONTROL_ENUM
};

struct proto_request {
    uint32_t magic;
    uint16_t major, minor;
    uint32_t op; /* enum proto_control_op */
    uint32_t first;
    uint64_t id; /* of a changing request: random; a repeated id gets the first answer again, nothing is done twice */
    uint64_t session;                 /* 0 if the operation is about none */
    uint8_t token[PROTO_TOKEN_BYTES]; /* pass or session token; zeros for reading */
    uint64_t value[3];
};
#define PROTO_ALL_GROUPS 0xffffffffu

#define PROTO_AGE_BUCKETS 8u

/* Evicted rows by reason, over all heads. */
#define PROTO_REASON_MAP(X)                                                             \
    X(BUDGET, 0, "budget")     /* the session is at its maximum */                      \
    X(PRESSURE, 1, "pressure") /* the pool had no memory, or wanted lent memory back */ \
    X(OPERATOR, 2, "operator") /* closed by scissorctl */                               \
    X(DEATH, 3, "death")       /* the client died, or did not come back after a restart of the daemon */
enum proto_reason {
#define PROTO_REASON_ENUM(name, number, text) PROTO_REASON_##name = (number),
    PROTO_REASON_MAP(PROTO_REASON_ENUM)
#undef PROTO_REASON_ENUM
        PROTO_REASON_COUNT
};

/* Score frames by what became of them. */
#define PROTO_FRAME_MAP(X)                                                                            \
    X(FOLDED, 0, "folded")                                                                            \
    X(MALFORMED, 1, "malformed") /* refused by the front or by the broker: sizes, planes, formats */  \
    X(FORGED, 2, "forged")       /* unknown session or wrong token */                                 \
    X(STALE, 3, "stale")         /* of another generation or of slots that change now; or repeated */ \
    X(LATE, 4, "late")           /* came while the session was settling or closing */                 \
    X(EXCESS, 5, "excess")       /* more rows than the fresh buffer holds */                          \
    X(OVERRUN, 6, "overrun")     /* the front found the ring full */
enum proto_frame {
#define PROTO_FRAME_ENUM(name, number, text) PROTO_FRAME_##name = (number),
    PROTO_FRAME_MAP(PROTO_FRAME_ENUM)
#undef PROTO_FRAME_ENUM
        PROTO_FRAME_COUNT
};

/* Answer to any request. The first block is the same for all, so that a tool needs one request for its head line. */
struct proto_answer {
    uint32_t magic;
    int32_t code; /* enum scissor_error */
    uint32_t op;
    uint32_t count; /* entries that follow */
    uint32_t first, total;
    uint64_t epoch;
    char text[PROTO_TEXT_BYTES]; /* why not, for people; or empty */
};

struct proto_pool_stat {
    char name[PROTO_NAME_BYTES]; /* "host" */
    uint64_t limit_bytes;        /* never passed */
    uint64_t target_bytes;       /* what the limit is to become: below it while lent memory is taken back */
    uint64_t charged_bytes;      /* given out now: segments, control pages, bookkeeping */
    uint64_t peak_bytes;         /* most ever charged */
    uint64_t guaranteed_bytes;   /* promised to the sessions that are open */
    uint64_t lent_bytes;         /* charged above guarantees */
    uint64_t segments;           /* allocated now */
    uint64_t reclaims;           /* segments taken back under pressure */
    uint64_t evicted[PROTO_REASON_COUNT];
    uint64_t frames[PROTO_FRAME_COUNT];
    uint64_t bad_scores;              /* values that were NaN, infinite or negative */
    uint64_t settles, scores_lost;    /* settles done, and those without all of their scores */
    uint64_t opened, closed, refused; /* sessions ever */
    uint64_t front_restarts;
    uint64_t uptime_ns;
    uint32_t sessions, waiting; /* open now, queued for memory now */
    uint32_t draining;
    uint32_t version_major_minor; /* protocol, major << 16 | minor */
    uint32_t stored,
        stored_max; /* descriptors kept by the service manager for the next process; most; 0: it keeps none */
    uint32_t taken_over, lost; /* sessions at the daemon's start: taken over from the process before, given up */
    uint32_t orphans;          /* of those taken over, the ones whose client has not come back yet */
    uint32_t denied;           /* changes that were asked for by somebody who may not */
    /* Charged to sessions that have ended and whose memory is not free yet, as their client's process may have it
     * open; and how many those are. */
    uint64_t quarantined_bytes;
    uint32_t quarantined;
    uint32_t device_lost;            /* 1: nothing works on the device until the daemon is started anew */
    char device[PROTO_DEVICE_BYTES]; /* as in OPENED */
    char version[PROTO_NAME_BYTES];
};

struct proto_session_stat {
    uint64_t session;
    char name[PROTO_NAME_BYTES];
    char policy[16]; /* of the first group */
    uint32_t pid, uid;
    uint32_t pool, priority;
    uint32_t state; /* enum proto_session_state */
    uint32_t groups, layers, heads;
    uint32_t fresh_rows, fresh_count;
    uint32_t guaranteed_rows, max_rows; /* per KV head, of the first group */
    uint32_t settled_min, settled_max;  /* rows per KV head now, over all heads */
    uint32_t compute_dtype, storage_dtype;
    uint64_t charged_bytes, guaranteed_bytes;
    uint64_t tokens_seen, settles, scores_lost;
    uint64_t evicted[PROTO_REASON_COUNT];
    uint64_t idle_ns; /* since the last message */
    double
        lowest_mass; /* mean attention mass per query that its least important rows carry (arbiter); -1: not gathered */
    uint64_t age_ns; /* since its opening, or since it was taken over */
    uint32_t orphan; /* 1: taken over, its client has not come back yet */
    uint32_t quarantine_s; /* so long it, or the oldest of what its client is to release, is in quarantine: seconds */
};
#define PROTO_SESSION_STATE_MAP(X)                \
    X(OPENING, 0, "opening")                      \
    X(IDLE, 1, "ready")                           \
    X(WAITING, 2, "waiting for scores or memory") \
    X(SETTLING, 3, "settling")                    \
    X(SHRINKING, 4, "shrinking")                  \
    X(CLOSING, 5, "closing")                      \
    X(QUARANTINED, 6, "quarantined")
enum proto_session_state {
#define PROTO_STATE_ENUM(name, number, text) PROTO_SESSION_##name = (number),
    PROTO_SESSION_STATE_MAP(PROTO_STATE_ENUM)
#undef PROTO_STATE_ENUM
};

/* Entries of SESSION: one per head, in order of layer, then KV head; request.session names the session. */
struct proto_head_stat {
    uint32_t layer, kv_head;
    uint32_t settled, pages;
    uint32_t oldest, newest; /* positions held */
    uint64_t evicted[PROTO_REASON_COUNT];
    double lowest_share; /* of the settled rows' attention mass, on the F least important; -1: not gathered */
    /* Mean probability, over the query rows between the last two settles, on all rows that were settled then, 0 to 1;
     * the rest of their probability was on fresh rows. -1: not gathered, as the policy wants no mass or nothing was
     * settled yet. */
    double mass;
    /* Settled rows by age (tokens seen - position): up to 64, 256, 1,024, 4,096, 16,384, 65,536, 262,144, more. */
    uint32_t age[PROTO_AGE_BUCKETS];
};
#define PROTO_AGE_BUCKET_FIRST 64u /* the next ones end at 4 times the one before */

/* Entries of MEMORY: one a session, in order of their opening, sessions of which only two pages are left at last. The
 * bytes of an entry add up to charged_bytes, those of all entries of a pool to its charged_bytes. */
struct proto_memory_stat {
    uint64_t session;
    char name[PROTO_NAME_BYTES];
    uint32_t pool, state; /* enum proto_session_state */
    uint64_t charged_bytes;
    uint64_t fresh_bytes;       /* fresh segments */
    uint64_t used_bytes;        /* settled segments: pages that heads have */
    uint64_t free_bytes;        /* settled segments: the rest, which only this session can use */
    uint64_t quarantined_bytes; /* settled segments that its client has to release first; all, if it is quarantined */
    uint64_t granted_bytes;     /* for segments that a running job may still allocate */
    uint64_t page_bytes;        /* control page and lease page */
    uint64_t state_bytes;       /* what is kept for the daemon's next process */
    uint64_t bookkeeping_bytes; /* histories and structures in the daemon */
    uint64_t guaranteed_bytes;
    uint32_t settled_segments, fresh_segments;
    uint32_t filled_rows, room_rows; /* rows in the pages in use, and rows that they have room for, over all heads */
};

/* Entries of GROUPS: one a group of layers of the session that the request names, or of all (session 0), in order of
 * their opening; sessions have one each or more. */
struct proto_group_stat {
    uint64_t session;
    uint32_t group;
    uint32_t first_layer, layers, kv_heads;
    uint32_t guaranteed_rows, max_rows; /* per KV head, as they were set at last */
    char policy[16];
};

/* Entries of CONFIG: one an option, as scissord --help lists them. */
struct proto_option {
    char name[PROTO_NAME_BYTES];
    char unit[16];
    char value[256];   /* in force; as a file has it */
    char standard[64]; /* default; empty: there is none, or the daemon works it out */
    char text[256];
    uint32_t source; /* 0 default, 1 file, 2 command line */
    uint32_t live;   /* 1: takes effect at a reload */
};

/* Entries of POLICIES: one a parameter; a policy without parameters has one entry with an empty `param`. */
struct proto_policy_param {
    char policy[16];
    char text[128], source[128]; /* of the policy */
    char param[16], unit[16];
    char param_text[128];
    double min, max, value; /* bounds and default */
    uint32_t standard;      /* 1: the policy of sessions that name none */
    uint32_t reserved;
};

#define PROTO_EVENT_MAP(X)                   \
    X(OPENED, 1, "session opened")           \
    X(CLOSED, 2, "session closed")           \
    X(EVICTED, 3, "rows evicted")            \
    X(PRESSURE, 4, "memory taken back")      \
    X(SCORES_LOST, 5, "scores lost")         \
    X(FRONT_RESTARTED, 6, "front restarted") \
    X(DRAINING, 7, "draining")               \
    X(REFUSED, 8, "open refused")            \
    X(TAKEN_OVER, 9, "session taken over")   \
    X(REATTACHED, 10, "client came back")    \
    X(LIMITS, 11, "limits changed")          \
    X(QUARANTINED, 12, "memory quarantined") \
    X(DEVICE_LOST, 13, "device lost")
enum proto_event_type {
#define PROTO_EVENT_ENUM(name, number, text) PROTO_EVENT_##name = (number),
    PROTO_EVENT_MAP(PROTO_EVENT_ENUM)
#undef PROTO_EVENT_ENUM
};

struct proto_event {
    uint32_t magic;
    uint32_t type;
    uint64_t sequence; /* one more for each event: a gap is a loss */
    uint64_t time_ns;  /* CLOCK_REALTIME */
    uint64_t session;
    uint64_t rows;   /* EVICTED: rows over all heads */
    uint64_t bytes;  /* OPENED, CLOSED, PRESSURE: charged to the session, given back */
    int32_t code;    /* REFUSED: why; CLOSED: how */
    uint32_t reason; /* EVICTED, CLOSED: enum proto_reason */
    char name[PROTO_NAME_BYTES];
};

static_assert(sizeof(struct proto_request) == 72, "wire");
static_assert(sizeof(struct proto_answer) == 32 + PROTO_TEXT_BYTES, "wire");
static_assert(sizeof(struct proto_pool_stat) == 32 + 8 * 8 + 4 * 8 + 7 * 8 + 3 * 8 + 3 * 8 + 2 * 8 + 40 + 16 + 48 + 32,
              "wire");
static_assert(sizeof(struct proto_session_stat) == 224, "wire");
static_assert(sizeof(struct proto_head_stat) == 104, "wire");
static_assert(sizeof(struct proto_memory_stat) == 144, "wire");
static_assert(sizeof(struct proto_group_stat) == 48, "wire");
static_assert(sizeof(struct proto_option) == 632, "wire");
static_assert(sizeof(struct proto_policy_param) == 464, "wire");
static_assert(sizeof(struct proto_event) == 88, "wire");

/* Name of an operation, reason, frame fate, state or event; "?" if unknown. */
const char *proto_op_name(uint32_t op);
const char *proto_reason_name(uint32_t reason);
const char *proto_frame_name(uint32_t frame);
const char *proto_session_state_name(uint32_t state);
const char *proto_event_name(uint32_t type);

/* Bytes of one entry in the answer to `op`; 0 if there are none. Whether it changes something (-1: unknown op). */
size_t proto_control_entry_bytes(uint32_t op);
int proto_control_changes(uint32_t op);

/* 0 or EPROTO / EVERSION with a static text. An answer is checked for its op's entry size. */
int proto_request_check(const void *request, size_t size, const char **ret_why);
int proto_answer_check(const void *answer, size_t size, uint32_t op, const char **ret_why);
int proto_event_check(const void *event, size_t size);

/* Compares two tokens in constant time: 1 if equal. */
int proto_token_equal(const uint8_t a[PROTO_TOKEN_BYTES], const uint8_t b[PROTO_TOKEN_BYTES]);
