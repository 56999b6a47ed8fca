/* fake_backend.h - a backend in plain heap memory, for tests that drive the broker in one process.
 *
 * It moves rows by scalar code, so that contents can be checked; counts what is allocated; and fails on demand. An
 * exported handle carries the segment's address in its opaque bytes and, if asked for, in a small file of its own. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "backend.h"

struct fake_backend {
    struct kernel_backend base; /* first */
    uint64_t bytes, segments;   /* allocated now */
    uint64_t settled_rows, moved_rows, copied_bytes;
    uint64_t allocate_fails_after; /* so many more succeed, then all fail; UINT64_MAX: none fails */
    bool export_fails, move_fails; /* move: settle, shrink and copy */
    uint64_t rows_left;            /* so many more rows and pages move, then all of it fails; UINT64_MAX */
    bool descriptors;              /* handles have one each */
    bool kept;                     /* segments outlive their owner */
    struct kernel_segment *left;   /* that nobody owns just now */
    /* of one that is made by fake_device_init() */
    struct kernel_backend now;    /* what does its work when its time has come */
    struct kernel_segment *alive; /* all */
    struct fake_work *work;       /* queued, oldest first */
    uint64_t fences;
    struct kernel_fence *made;
    bool ending;          /* its owner's process is about to end */
    bool client_is_quick; /* a client's work ends while the broker waits for it */
    bool lost;
    uint32_t longest_wait_us; /* that the broker was ready to wait for a client */
};

void fake_backend_init(struct fake_backend *f, bool revocable);

/* Segments that were left and not adopted are gone, as their last descriptor is closed. */
void fake_backend_forget_left(struct fake_backend *f);

/* What a handle's opaque bytes say, and what its descriptor says. */
void *fake_handle_address(const uint8_t opaque[64]);
void *fake_descriptor_address(int fd);

/* A row that tells what it is: every element of K and V follows from position and head, exact in every dtype. Of a
 * dtype with details, a slot and a detail slot hold a number that follows from the elements. */
void fake_row_write(void *area, uint32_t area_rows, uint32_t row, uint32_t head_dim, uint32_t dtype, uint32_t position,
                    uint32_t head);
/* |V|_1 of such a row. */
float fake_row_norm(uint32_t position, uint32_t head, uint32_t head_dim);
bool fake_row_is(const void *area, uint32_t area_rows, uint32_t row, uint32_t head_dim, uint32_t dtype,
                 uint32_t position, uint32_t head);
/* Whether detail slot `detail` of that page is of `slot`, whose row is that one; KERNEL_NONE: of nobody. */
bool fake_detail_is(const void *page, uint32_t detail, uint32_t head_dim, uint32_t dtype, uint32_t slot,
                    uint32_t position, uint32_t head);
uint32_t fake_detail_owner(const void *page, uint32_t detail, uint32_t head_dim, uint32_t dtype);
