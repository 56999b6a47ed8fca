/* fake_device.h - a fake backend whose work is done later, as a GPU's is (kernels/backend.h, struct kernel_streams).
 *
 * What the broker queues is done when a test says so, or when something waits for it. A client of a test opens segments
 * and the fence like a real one, by what was sent to it. Rules, each of which ends the test with its name:
 *
 *     freed-while-open       memory is freed that a client has open
 *     follow-client          the broker's stream waits for a client's event: it may be recorded again just before that
 *     work-before-client     work on a client's memory is queued, and its event was not seen to be reached
 *     fence-in-use           a fence is freed that something queued is to signal */
#pragma once

#include "fake_backend.h"

struct kernel_fence;

/* Not revocable, and nothing of it outlives its process. */
void fake_device_init(struct fake_backend *f);
/* Does so many of the things that are queued, oldest first. */
void fake_device_run(struct fake_backend *f, uint64_t most);
/* From now on nothing works. */
void fake_device_lose(struct fake_backend *f);
/* The owner's process is gone: so is all that it had. */
void fake_device_end(struct fake_backend *f);

/* ---------- a client ---------- */

/* The segment at that address is open in process `pid`; an address of another backend is none of ours. */
void fake_device_open(struct fake_backend *f, const void *address, int pid);
void fake_device_close(struct fake_backend *f, const void *address);
/* The process is gone: closes all that it had open. */
void fake_device_exit(struct fake_backend *f, int pid);
/* The fence of OPENED; NULL: it has none. */
struct kernel_fence *fake_handle_fence(const uint8_t event[64]);
/* Work on the segment at that address is ordered by this fence. */
void fake_device_order(struct fake_backend *f, const void *address, struct kernel_fence *fence);
/* The client's step is queued, and done when it says so; before its next one, all is done that the broker signalled. */
void fake_fence_signal(struct kernel_fence *fence);
void fake_fence_reach(struct kernel_fence *fence);
void fake_fence_follow(struct fake_backend *f, struct kernel_fence *fence);
