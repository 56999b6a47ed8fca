/* trace.h - a session's score frames and settles, as RECORD sends them and `scissorctl record` keeps them in a file;
 * little-endian.
 *
 * A file is a struct trace_file and then records: a struct trace_record, the record's bytes, zeros up to a multiple of
 * eight. The first record is a SHAPE, the next a STATE, the last an END. Numbers count the records that there would
 * have been: a gap is what was lost, as the recorder did not keep up. After a STATE was lost, the next record is a
 * STATE that names every row.
 *
 *     SHAPE   struct trace_shape
 *     STATE   struct trace_state, then for each head, in order of layer and KV head, a struct trace_head and its
 *             struct trace_row: the slots that were written since the last STATE, or all of them
 *     FRAME   a score frame as in score.h that the daemon has used, its token zeros; it speaks of the slots of the
 *             last STATE
 *     END     struct trace_end */
#pragma once

#include <stdbool.h>
#include <stdio.h>

#include "score.h"

#define TRACE_MAGIC 0x45434152545353ull /* "SSTRACE" */
#define TRACE_VERSION 1u
#define TRACE_RECORD_MAX (3u << 20) /* bytes of a record at most */

/* X(name, number) */
#define TRACE_TYPE_MAP(X) \
    X(SHAPE, 1)           \
    X(STATE, 2)           \
    X(FRAME, 3)           \
    X(END, 4)
enum trace_type {
#define TRACE_TYPE_ENUM(name, number) TRACE_##name = (number),
    TRACE_TYPE_MAP(TRACE_TYPE_ENUM)
#undef TRACE_TYPE_ENUM
};

struct trace_file {
    uint64_t magic;
    uint32_t version;
    uint32_t reserved;
};

struct trace_record {
    uint32_t type;  /* enum trace_type */
    uint32_t bytes; /* that follow, without the padding */
    uint64_t number;
    uint32_t sum; /* CRC-32 (IEEE 802.3) of the fields above and of the bytes */
    uint32_t reserved;
};

struct trace_group {
    uint32_t layers, kv_heads, q_heads, head_dim;
    uint32_t planes, threshold; /* of the frames: PROTO_PLANE_*; 0: 1/n, 1: 1/t */
    uint32_t max_rows;          /* per KV head, fresh rows included */
    uint32_t norms;             /* 1: rows have their |V|_1 */
    char policy[16];
    struct proto_param params[PROTO_MAX_PARAMS]; /* all that the policy has */
};

struct trace_shape {
    uint64_t session;
    char name[PROTO_NAME_BYTES];
    uint32_t fresh_rows, group_count;
    struct trace_group groups[PROTO_MAX_GROUPS];
};

struct trace_state {
    uint64_t generation;  /* of the frames that follow */
    uint64_t tokens_seen; /* positions so far, fresh rows of the next period not included */
    uint64_t sequence;    /* of the last frame before */
    uint32_t rows;        /* that were settled; 0: no settle, but a shrink or the beginning */
    uint32_t whole;       /* 1: names every row, and what was before is forgotten */
    uint32_t heads;
    uint32_t reserved;
};
struct trace_head {
    uint32_t settled; /* slots in use, from 0 */
    uint32_t count;   /* struct trace_row that follow */
};
struct trace_row {
    uint32_t slot, position;
    float norm; /* |V|_1; 0 if it is not kept */
};

/* Why it ends: OK as the recorder wished, ECLOSED as the session ended, ELIMIT as a STATE was longer than a record may
 * be, EGONE as the daemon went away. */
struct trace_end {
    int32_t code; /* enum scissor_error */
    uint32_t reserved;
};

static_assert(sizeof(struct trace_file) == 16, "wire");
static_assert(sizeof(struct trace_record) == 24, "wire");
static_assert(sizeof(struct trace_group) == 48 + 24 * PROTO_MAX_PARAMS, "wire");
static_assert(sizeof(struct trace_shape) == 48 + 240 * PROTO_MAX_GROUPS, "wire");
static_assert(sizeof(struct trace_state) == 40, "wire");
static_assert(sizeof(struct trace_head) == 8, "wire");
static_assert(sizeof(struct trace_row) == 12, "wire");
static_assert(sizeof(struct trace_end) == 8, "wire");

static inline uint32_t trace_shape_heads(const struct trace_shape *s) {
    uint32_t heads = 0;
    for (uint32_t i = 0; i < s->group_count && i < PROTO_MAX_GROUPS; i++)
        heads += s->groups[i].layers * s->groups[i].kv_heads;
    return heads;
}

/* Checks what a record holds as far as it can be checked alone; of all but the SHAPE itself with the trace's shape. 0
 * or EPROTO with a static text. */
int trace_check(uint32_t type, const void *bytes, size_t size, const struct trace_shape *shape, const char **ret_why);

/* ---------- files ---------- */

/* 0, or ESYSTEM with errno. */
int trace_write_begin(FILE *file);
int trace_write(FILE *file, uint32_t type, uint64_t number, const void *bytes, size_t size);

struct trace_reader {
    FILE *file;
    uint64_t next; /* number of the next record if nothing is lost */
    uint64_t lost; /* records that are not in the file */
    bool ended;
    struct trace_shape shape; /* after the first record */
    void *bytes;              /* of the last record */
    char why[160];            /* what is wrong */
};

#define TRACE_DONE 1 /* trace_read(): the END was read before */

/* Reads the file's head and its SHAPE; `file` stays the caller's. 0, ENOMEM, or EPROTO or ESYSTEM with a text in
 * reader->why; trace_reader_deinit() is due whatever it gives. */
int trace_reader_init(struct trace_reader *reader, FILE *file);
/* The next record, checked; its bytes are in reader->bytes until the next call. 0, TRACE_DONE, or as above. */
int trace_read(struct trace_reader *reader, struct trace_record *ret_record);
void trace_reader_deinit(struct trace_reader *reader);
