/* score.h - score frames, the only thing sent to the score sockets (nanomsg PUSH to PULL, one way).
 *
 * A frame holds the header and, for every layer first_layer .. first_layer + layer_count - 1 (all in one group) and
 * every KV head of it, one vector for each plane present, in the order mass, hits, last. A vector has one value for
 * each slot, settled ones first, then the `fresh` fresh rows; it is padded with zeros to a multiple of 4 bytes. */
#pragma once

#include <assert.h>
#include <stddef.h>
#include <stdint.h>

#include "attach.h"

#define PROTO_SCORE_MAGIC 0x53494353u /* "SCIS" */
#define PROTO_SCORE_VERSION 1u
#define PROTO_SCORE_MAX (1u << 20) /* bytes of a frame at most */
/* There are several score sockets, all alike; WELCOME says which one the client pushes to. A socket takes so much a
 * second and no more, so who floods one keeps to itself. */
#define PROTO_SCORE_SOCKETS 32u
#define PROTO_SCORE_SOCKET_FORMAT "scores.%u.sock" /* of 0 .. 31: a name is no longer than this */
static_assert(PROTO_SCORE_SOCKETS <= 100, "two digits");

#define PROTO_PLANE_MASS 0x1u /* sum over the rows of the probability */
#define PROTO_PLANE_HITS 0x2u /* number of rows whose probability reached the threshold */
#define PROTO_PLANE_LAST 0x4u /* probability under the newest row */
#define PROTO_PLANE_COUNT 3u

/* X(name, number, bits a value) */
#define PROTO_FORMAT_MAP(X) \
    X(BITS, 0, 1)           \
    X(U8, 1, 8)             \
    X(F16, 2, 16)           \
    X(F32, 3, 32)
enum proto_format {
#define PROTO_FORMAT_ENUM(name, number, bits) PROTO_FORMAT_##name = (number),
    PROTO_FORMAT_MAP(PROTO_FORMAT_ENUM)
#undef PROTO_FORMAT_ENUM
        PROTO_FORMAT_COUNT
};

struct proto_score {
    uint32_t magic;
    uint16_t version;
    uint8_t planes; /* PROTO_PLANE_* bits, at least one */
    uint8_t reserved;
    uint64_t session;
    uint8_t token[PROTO_TOKEN_BYTES];
    uint64_t sequence;   /* 1, 2, 3, ... over the session's life */
    uint64_t generation; /* of the control page when the rows attended; another one is stale */
    uint32_t first_layer, layer_count;
    uint32_t rows;                     /* query rows added up in this frame, the newest of the `fresh` */
    uint32_t fresh;                    /* fresh rows that the newest of them could see */
    uint8_t format[PROTO_PLANE_COUNT]; /* enum proto_format of mass, hits, last; 0 for absent planes */
    uint8_t reserved2[5];
    uint32_t payload_bytes;
    uint32_t reserved3;
};
static_assert(sizeof(struct proto_score) == 80, "wire");
static_assert(offsetof(struct proto_score, payload_bytes) == 72, "wire");

/* Bytes of one padded vector of `slots` values. */
size_t proto_score_vector_bytes(uint32_t format, size_t slots);

/* Checks all that can be checked without knowing the session: size, magic, version, planes, formats, counts. 0 or
 * EPROTO with a static text in *ret_why. */
int proto_score_check(const void *frame, size_t size, const char **ret_why);

/* Writes `slots` values as a padded vector and returns its bytes. BITS: value != 0. U8: rounded, clamped to 0..255. */
size_t proto_score_encode(uint32_t format, const float *values, size_t slots, void *vector);

/* Reads a vector; not finite or negative values become 0 and are counted in *ret_bad (added up). */
void proto_score_decode(uint32_t format, const void *vector, size_t slots, float *ret_values, uint64_t *ret_bad);
