/* control_page.h - the two small shared memories of a session.
 *
 * The control page is written by the daemon and read-only to the client:
 *
 *     struct proto_control     header
 *     per head, in order (group, layer, KV head):
 *         uint32_t settled     rows in settled slots
 *         uint32_t pages       entries of the page list
 *         uint32_t page[P]     PROTO_PAGE(segment, index); P = pages of the group's largest budget
 *
 * The client may read it while it holds the lease; the daemon changes it only while it holds the lease itself or
 * between a SETTLE and its answer. The lease page is written by both; the daemon trusts nothing that it reads in it. */
#pragma once

#include <assert.h>
#include <stddef.h>
#include <stdint.h>

#define PROTO_CONTROL_MAGIC 0x43494353u /* "SCIC" */

struct proto_control {
    uint32_t magic;
    uint32_t head_count;
    uint64_t generation; /* one more after each change of slots or pages */
    uint64_t reserved[6];
};
static_assert(sizeof(struct proto_control) == 64, "shared");

/* A page: segment id in the upper 22 bits, index within the segment in the lower 10. */
#define PROTO_PAGE(segment, index) ((uint32_t)(segment) << 10 | (uint32_t)(index))
#define PROTO_PAGE_SEGMENT(page) ((page) >> 10)
#define PROTO_PAGE_INDEX(page) ((page)&1023u)

/* Words of one head's entry for P pages at most. */
static inline uint32_t proto_control_head_words(uint32_t pages_max) {
    return 2 + pages_max;
}

#define PROTO_LEASE_FREE 0u
#define PROTO_LEASE_CLIENT 1u
#define PROTO_LEASE_DAEMON 2u

struct proto_lease {
    uint32_t word;        /* PROTO_LEASE_*, changed by compare-and-swap; but a close stores DAEMON, for good */
    uint32_t fresh_count; /* rows in the fresh buffer, for scissorctl; not trusted */
    uint32_t closing;     /* 1: the daemon waits for the lease to close the session; no step may begin */
    uint32_t reserved[13];
};
static_assert(sizeof(struct proto_lease) == 64, "shared");
#define PROTO_LEASE_BYTES 4096u
