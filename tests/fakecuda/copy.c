/* copy.c - fills and copies: queued work whose memory is known when it is queued. */
#include <stdlib.h>
#include <string.h>

#include "fake.h"

static void judge(const struct fake_work *w) {
    fake_lock();
    if (w->from_map)
        fake_judge(w, w->from_map, false);
    if (w->to_map)
        fake_judge(w, w->to_map, true);
    fake_unlock();
}

static bool run_fill(struct fake_work *w) {
    judge(w);
    for (size_t i = 0; i < w->bytes; i += sizeof w->value)
        memcpy(w->to + i, &w->value, sizeof w->value);
    return true;
}

static bool run_copy(struct fake_work *w) {
    judge(w);
    memcpy(w->to, w->from, w->bytes);
    return true;
}

static void end(struct fake_work *w) {
    if (w->to_map)
        w->to_map->queued--;
    if (w->from_map)
        w->from_map->queued--;
}

/* Under the lock. What is no memory of ours may be plain memory of the host, unless it must be the device's. */
static cuda_result touch(const char *address, size_t bytes, bool device, struct fake_map **ret, bool *ret_plain) {
    if (!address)
        return 0;
    if (device || fake_find(address))
        return fake_touch(address, bytes, ret);
    *ret_plain = true;
    return 0;
}

/* `to`, if not `to_device`, and `from` may be plain memory of the host: then the call waits, as a driver's would in
 * effect. */
static cuda_result submit(cuda_stream stream, struct fake_work what, bool to_device) {
    struct CUstream_st *s = fake_stream(stream);
    struct fake_work *w = malloc(sizeof *w);
    bool plain = false;
    if (!s || !w) {
        free(w);
        return CUDA_OUT_OF_MEMORY;
    }
    *w = what;
    w->end = end;
    fake_lock();
    cuda_result code = touch(w->to, w->bytes, to_device, &w->to_map, &plain);
    if (code == 0)
        code = touch(w->from, w->bytes, false, &w->from_map, &plain);
    if (code == 0)
        fake_enqueue(s, w);
    else
        end(w);
    fake_unlock();
    if (code)
        free(w);
    else if (plain)
        fake_wait(s);
    return code;
}

static char *at(cuda_address address) {
    return (char *)(uintptr_t)address;
}

cuda_result cuMemsetD32Async(cuda_address to, unsigned value, size_t count, cuda_stream stream) {
    FAKE_ENTER(cuMemsetD32Async, true);
    return submit(stream, (struct fake_work){.run = run_fill, .to = at(to), .value = value, .bytes = 4 * count}, true);
}

cuda_result cuMemcpyAsync(cuda_address to, cuda_address from, size_t bytes, cuda_stream stream) {
    FAKE_ENTER(cuMemcpyAsync, true);
    return submit(stream, (struct fake_work){.run = run_copy, .to = at(to), .from = at(from), .bytes = bytes}, false);
}
