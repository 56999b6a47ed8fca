/* device.h - one GPU: which one it is, its primary context and the stream that our work is queued on.
 *
 * The context is made current for the length of a call and taken away again (cuda_device_enter, cuda_device_leave), as
 * calls come from any thread of a pool and as an engine in the same process has contexts of its own. Both sides use the
 * primary context: an engine's PyTorch does, too, so that its streams and our memory belong together. */
#pragma once

#include <stdatomic.h>
#include <stdint.h>

#include "driver.h"

#define CUDA_UUID_TEXT_BYTES 41 /* "GPU-" and 36 characters, as nvidia-smi prints it */

struct cuda_device {
    const struct cuda_driver *driver;
    cuda_ordinal ordinal;
    cuda_context context;
    cuda_stream stream; /* does not wait for the default stream, nor that for it */
    char name[128];
    char uuid[CUDA_UUID_TEXT_BYTES];
    size_t bytes;
    int major, minor;  /* compute capability */
    unsigned wait_ms;  /* how long the host waits for the device at most: CUDA_WAIT_MS */
    atomic_bool stuck; /* our stream was found to stand still */
    atomic_bool lost;  /* a sticky error was seen: nothing works any more until the process ends */
};

/* "cuda" (the first device), "cuda:N" or "cuda:GPU-xxxx" (any beginning of a UUID that only one device has). 0, or a
 * negative errno with cuda_why(): -EINVAL for another kind of name, -ENODEV, -ENOTUNIQ, -EOPNOTSUPP for a device on
 * which two processes cannot share memory. */
int cuda_device_open(const char *name, struct cuda_device **ret);
/* The caller has freed what it had on it. NULL is allowed; returns NULL. */
struct cuda_device *cuda_device_close(struct cuda_device *d);

/* Makes the context current; on success cuda_device_leave() must follow in the same thread. */
int cuda_device_enter(struct cuda_device *d);
void cuda_device_leave(struct cuda_device *d);
/* Waits for all that is on the stream now: -ETIMEDOUT after CUDA_WAIT_MS, as a stream that waits for an event of a
 * process that has died stands still for ever. Within enter and leave. */
#define CUDA_WAIT_MS 10000u
int cuda_device_wait(struct cuda_device *d, cuda_stream stream);
/* The same for what was on a stream when the event was recorded, with a time of its own; 0: looks once. */
int cuda_device_wait_event(struct cuda_device *d, cuda_event event, unsigned ms);
/* The same for our stream, which, once it was found to stand still, is only looked at until it has come to its end. */
int cuda_device_drain(struct cuda_device *d);

/* cuda_check() of one of this device's calls; remembers that the device is lost. */
int cuda_device_check(struct cuda_device *d, const char *call, cuda_result result);
#define CUDA_DEVICE_CALL(device, name, ...) \
    cuda_device_check(device, cuda_call_##name, (device)->driver->name(__VA_ARGS__))
