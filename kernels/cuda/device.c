/* device.c - finds a GPU by number or UUID and opens it.
 *
 * A UUID is the safer name: numbers follow CUDA_VISIBLE_DEVICES and the order of the bus, and daemon and client may see
 * them differently. */
#include "device.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "../../proto/alloc.h"

int cuda_device_check(struct cuda_device *d, const char *call, cuda_result result) {
    int r = cuda_check(d->driver, call, result);
    if (cuda_is_lost(r))
        atomic_store(&d->lost, true);
    return r;
}

/* ---------- which one ---------- */

static int read_uuid(const struct cuda_driver *driver, cuda_ordinal ordinal, char ret[CUDA_UUID_TEXT_BYTES]) {
    struct CUuuid_st uuid;
    int r = CUDA_CALL(driver, device_uuid, &uuid, ordinal);
    if (r < 0)
        return r;
    char *at = ret + sprintf(ret, "GPU-");
    for (unsigned i = 0; i < sizeof uuid.bytes; i++)
        at += sprintf(at, i == 4 || i == 6 || i == 8 || i == 10 ? "-%02x" : "%02x", (unsigned char)uuid.bytes[i]);
    return 0;
}

static int find_number(const char *text, int count, cuda_ordinal *ret) {
    char *end;
    errno = 0;
    long number = strtol(text, &end, 10);
    if (errno || *end || number < 0)
        return cuda_fail(-EINVAL, "\"cuda:%s\": neither a device number nor a UUID (GPU-...)", text);
    if (number >= count)
        return cuda_fail(-ENODEV, "no device cuda:%ld: the driver shows %d", number, count);
    *ret = (cuda_ordinal)number;
    return 0;
}

static int find_uuid(const struct cuda_driver *driver, const char *text, int count, cuda_ordinal *ret) {
    char uuid[CUDA_UUID_TEXT_BYTES];
    int found = -1;
    for (int i = 0; i < count; i++) {
        cuda_ordinal ordinal;
        int r = CUDA_CALL(driver, device_get, &ordinal, i);
        if (r == 0)
            r = read_uuid(driver, ordinal, uuid);
        if (r < 0)
            return r;
        if (strncasecmp(uuid, text, strlen(text)))
            continue;
        if (found >= 0)
            return cuda_fail(-ENOTUNIQ, "\"cuda:%s\" is the beginning of more than one device's UUID", text);
        found = i;
    }
    if (found < 0)
        return cuda_fail(-ENODEV, "no device cuda:%s among the %d that the driver shows", text, count);
    *ret = found;
    return 0;
}

static int find(const struct cuda_driver *driver, const char *name, cuda_ordinal *ret) {
    int count, number = 0;
    int r = CUDA_CALL(driver, device_count, &count);
    if (r < 0)
        return r;
    if (strncmp(name, "cuda", 4) || (name[4] && name[4] != ':'))
        return cuda_fail(-EINVAL, "\"%s\" is no CUDA device: cuda, cuda:N or cuda:GPU-...", name);
    const char *text = name[4] ? name + 5 : "0";
    if (*text >= '0' && *text <= '9')
        r = find_number(text, count, &number);
    else if (!strncasecmp(text, "GPU-", 4))
        r = find_uuid(driver, text, count, &number);
    else
        r = cuda_fail(-EINVAL, "\"%s\": neither a device number nor a UUID (GPU-...)", name);
    return r < 0 ? r : CUDA_CALL(driver, device_get, ret, number);
}

/* ---------- opening ---------- */

static int describe(struct cuda_device *d) {
    int unified, mode;
    int r = CUDA_CALL(d->driver, device_name, d->name, sizeof d->name, d->ordinal);
    if (r == 0)
        r = read_uuid(d->driver, d->ordinal, d->uuid);
    if (r == 0)
        r = CUDA_CALL(d->driver, device_memory, &d->bytes, d->ordinal);
    if (r == 0)
        r = CUDA_CALL(d->driver, device_attribute, &d->major, CUDA_ATTRIBUTE_MAJOR, d->ordinal);
    if (r == 0)
        r = CUDA_CALL(d->driver, device_attribute, &d->minor, CUDA_ATTRIBUTE_MINOR, d->ordinal);
    if (r == 0)
        r = CUDA_CALL(d->driver, device_attribute, &unified, CUDA_ATTRIBUTE_UNIFIED_ADDRESSING, d->ordinal);
    if (r == 0)
        r = CUDA_CALL(d->driver, device_attribute, &mode, CUDA_ATTRIBUTE_COMPUTE_MODE, d->ordinal);
    if (r < 0)
        return r;
    d->name[sizeof d->name - 1] = 0;
    if (!unified)
        return cuda_fail(-EOPNOTSUPP, "%s has no unified addressing, which IPC handles need", d->name);
    if (mode != CUDA_COMPUTE_MODE_DEFAULT)
        return cuda_fail(-EOPNOTSUPP, "%s is in an exclusive compute mode: nvidia-smi -c DEFAULT lets clients in",
                         d->name);
    return 0;
}

static int open_context(struct cuda_device *d) {
    int r = CUDA_CALL(d->driver, context_retain, &d->context, d->ordinal);
    if (r < 0)
        return r;
    r = cuda_device_enter(d);
    if (r < 0)
        goto fail_enter;
    r = CUDA_DEVICE_CALL(d, stream_new, &d->stream, CUDA_STREAM_NON_BLOCKING);
    cuda_device_leave(d);
    if (r < 0)
        goto fail_enter;
    return 0;

fail_enter:
    (void)d->driver->context_release(d->ordinal);
    return r;
}

int cuda_device_open(const char *name, struct cuda_device **ret) {
    const struct cuda_driver *driver;
    struct cuda_device *d;
    int r = cuda_driver_load(&driver);
    if (r < 0)
        return r;
    d = scissor_calloc(1, sizeof *d);
    if (!d)
        return cuda_fail(-ENOMEM, "no host memory");
    d->driver = driver;
    d->wait_ms = CUDA_WAIT_MS;
    r = find(driver, name, &d->ordinal);
    if (r == 0)
        r = describe(d);
    if (r == 0)
        r = open_context(d);
    if (r < 0) {
        scissor_free(d);
        return r;
    }
    *ret = d;
    return 0;
}

struct cuda_device *cuda_device_close(struct cuda_device *d) {
    if (!d)
        return NULL;
    /* What fails here is the driver's to clean up when the process ends. */
    if (cuda_device_enter(d) == 0) {
        (void)cuda_device_drain(d);
        (void)CUDA_DEVICE_CALL(d, stream_free, d->stream);
        cuda_device_leave(d);
    }
    (void)d->driver->context_release(d->ordinal);
    return scissor_free(d);
}

/* ---------- within a call ---------- */

int cuda_device_enter(struct cuda_device *d) {
    return CUDA_DEVICE_CALL(d, context_push, d->context);
}

void cuda_device_leave(struct cuda_device *d) {
    cuda_context context;
    (void)d->driver->context_pop(&context); /* fails only if the context is lost, and the next enter says so */
}

static uint64_t now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

/* Looks at the event, or at the stream if there is none, and again until `ms` are over. */
static cuda_result look_until(struct cuda_device *d, cuda_stream stream, cuda_event event, unsigned ms) {
    struct timespec pause = {0, 10000};
    uint64_t end = now_ms() + ms;
    for (;;) {
        cuda_result code = event ? d->driver->event_query(event) : d->driver->stream_query(stream);
        if (code != CUDA_NOT_READY || now_ms() >= end)
            return code;
        nanosleep(&pause, NULL);
        pause.tv_nsec = pause.tv_nsec < 200000 ? 2 * pause.tv_nsec : pause.tv_nsec;
    }
}

static int judge(struct cuda_device *d, const char *call, cuda_result code) {
    if (code == CUDA_NOT_READY)
        return cuda_fail(-ETIMEDOUT, "the device's work does not end; did the process die that it waits for?");
    return cuda_device_check(d, call, code);
}

int cuda_device_wait(struct cuda_device *d, cuda_stream stream) {
    bool ours = stream == d->stream;
    cuda_result code = look_until(d, stream, NULL, ours && atomic_load(&d->stuck) ? 0 : d->wait_ms);
    if (ours)
        atomic_store(&d->stuck, code == CUDA_NOT_READY);
    return judge(d, cuda_call_stream_query, code);
}

int cuda_device_wait_event(struct cuda_device *d, cuda_event event, unsigned ms) {
    return judge(d, cuda_call_event_query, look_until(d, NULL, event, ms));
}

int cuda_device_drain(struct cuda_device *d) {
    return cuda_device_wait(d, d->stream);
}
