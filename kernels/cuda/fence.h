/* fence.h - a pair of inter-process events, by which the daemon's work and a client's on one session follow each other.
 *
 * Both events are the owner's, who makes and destroys them; the importer opens them. Event 0 is recorded by the
 * importer alone, event 1 by the owner alone. The functions are those of struct kernel_streams. */
#pragma once

#include "../backend.h"
#include "device.h"

int cuda_fence_new(struct cuda_device *d, struct kernel_fence **ret);
int cuda_fence_export(struct cuda_device *d, struct kernel_fence *f, struct kernel_handle ret[2]);
int cuda_fence_import(struct cuda_device *d, const struct kernel_handle handles[2], struct kernel_fence **ret);
struct kernel_fence *cuda_fence_free(struct cuda_device *d, struct kernel_fence *f);
int cuda_fence_signal(struct cuda_device *d, struct kernel_fence *f, void *stream);
int cuda_fence_follow(struct cuda_device *d, struct kernel_fence *f, bool own, void *stream);
int cuda_fence_wait(struct cuda_device *d, struct kernel_fence *f, bool own, uint32_t timeout_us);
