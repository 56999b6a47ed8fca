/* fake_device.h - a device in this program's own memory, for tests of who uses one: struct kernel_streams whose work is
 * done as late as it may be, on the host backend.
 *
 * Work stays queued until somebody waits for it, or for something behind it; what order is missing shows in the
 * results, as rows or sums that are not there yet. An address of the device is none of the host's: who reads it there
 * crashes. Memory is full of garbage when it is new. Freeing what queued work uses, or what a peer has open, is counted
 * as a fault. A daemon and a client in one program each have a backend; both are static. */
#pragma once

#include "backend.h"

#define FAKE_DEVICE_NAME "cuda:GPU-fake"

struct fake_device {
    unsigned faults;
    _Atomic bool stuck;         /* nothing that is queued is ever done: waiting for events gives -EAGAIN at once */
    _Atomic int64_t fail_after; /* operations of the client that go well before one fails; negative: all do */
    int fail_with;              /* what it gives; -ENOTRECOVERABLE: and so do all that follow */
    unsigned fail_more;         /* this many that follow fail, too */
    _Atomic bool refuses;       /* to close what importers free; done when it is asked again without this */
    unsigned allocations;       /* segments, imports, fences and memory that are not freed */
};
extern struct fake_device fake_device;

struct kernel_backend *fake_device_client(void);
struct kernel_backend *fake_device_daemon(void);
/* Before a test: nothing is queued, nothing has failed. */
void fake_device_reset(void);
/* What is queued is never done: the device was lost. */
void fake_device_discard(void);
/* Where the host finds what is at a device's address. */
void *fake_device_host(const void *address);
/* Work that is queued now, on all streams. */
unsigned fake_device_queued(void);
