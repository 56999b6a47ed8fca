/* fake_segment.h - a segment of the fake backends, for fake_backend.c and fake_device.c alone. */
#pragma once

#include "backend.h"

struct kernel_segment {
    size_t bytes;
    enum kernel_access access;
    char *memory;
    int fd; /* says where the memory is; -1 */
    struct kernel_segment *next;

    /* of a device */
    struct kernel_segment *before, *after;
    struct kernel_fence *fence; /* orders the work of its client; NULL: nobody was told of it */
    int opener;                 /* process that has it open; 0 */
};
