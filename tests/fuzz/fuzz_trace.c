/* fuzz_trace.c - any records of a trace, checked and replayed. The input is records of a type and a size (u32 each) and
 * their bytes: what a file has beside, its sums would only keep mutations out. */
#include <stdint.h>
#include <string.h>

#include "daemon/replay/replay.h"
#include "trace.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint64_t trace_frames; /* that were replayed */

/* The next record that is whole; false: there is none. */
static bool trace_next(const uint8_t **data, size_t *size, uint32_t ret_head[2], const uint8_t **ret_bytes) {
    if (*size < 8)
        return false;
    memcpy(ret_head, *data, 8);
    if (ret_head[1] > *size - 8)
        return false;
    *ret_bytes = *data + 8;
    *data += 8 + ret_head[1];
    *size -= 8 + ret_head[1];
    return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const struct replay_spec spec = {0};
    struct trace_shape shape;
    struct replay replay;
    struct persistence persistence;
    uint32_t head[2];
    const uint8_t *bytes;
    const char *why;
    if (!trace_next(&data, &size, head, &bytes) || head[0] != TRACE_SHAPE ||
        trace_check(TRACE_SHAPE, bytes, head[1], NULL, &why) < 0)
        return 0;
    memcpy(&shape, bytes, sizeof shape);
    int code = replay_init(&replay, &shape, &spec);
    if (persistence_init(&persistence, &shape, 64, &why) == 0)
        replay.persistence = &persistence;
    while (code == 0 && trace_next(&data, &size, head, &bytes)) {
        code = head[0] == TRACE_SHAPE ? -1 : trace_check(head[0], bytes, head[1], &shape, &why);
        if (code == 0)
            code = replay_record(&replay, head[0], bytes);
        trace_frames += code == 0 && head[0] == TRACE_FRAME;
    }
    replay_deinit(&replay);
    persistence_deinit(&persistence);
    return 0;
}
