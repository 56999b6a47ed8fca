/* fuzz_snapshot.c - a state file of the process before, as the next one reads it: what is accepted must be a session
 * that the broker can work with. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "alloc.h"
#include "daemon/broker/internal.h"
#include "daemon/broker/redo.h"
#include "daemon/broker/snapshot.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint64_t snapshot_sessions; /* accepted so far */

#define POOL_BYTES (64ull << 20)

static struct broker *snapshot_broker(void) {
    static struct broker *b;
    struct broker_config config;
    broker_config_init(&config);
    config.pool_count = 1;
    config.pools[0] = (struct broker_pool_config){
        .name = "host", .backend = kernel_host_backend("reference"), .limit_bytes = POOL_BYTES};
    if (!b && broker_new(&config, &b) < 0)
        abort();
    return b;
}

static void snapshot_use(struct session *s) {
    uint32_t slots = 1;
    snapshot_sessions++;
    for (uint32_t h = 0; h < s->head_count; h++) {
        history_check(&s->heads[h].history);
        slots = s->heads[h].history.settled > slots ? s->heads[h].history.settled : slots;
    }
    float *values = malloc(slots * sizeof *values);
    s->job.tokens_seen = s->tokens_seen;
    if (values)
        session_measure(s, &s->job, values);
    free(values);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct broker *b = snapshot_broker();
    struct snapshot_head head;
    char why[PROTO_TEXT_BYTES];
    if (snapshot_read_head(data, size, &head) != 0)
        return 0;
    struct session *s = scissor_calloc(1, sizeof *s);
    struct proto_open open = head.open;
    open.pool = PROTO_ANY_POOL;
    s->pool = &b->pools[0];
    s->tokens_seen = head.tokens_seen;
    if (admission_check(b, &open, s, why, sizeof why) == 0 && s->guaranteed_cost <= POOL_BYTES &&
        session_bookkeeping_new(s) == 0) {
        int code = snapshot_read(data, size, &head, s);
        if (code == 0)
            snapshot_use(s);
        if (code == 0 && head.redo_bytes)
            redo_check(s, data + head.redo_at, head.redo_bytes);
    }
    session_release(s, false, false);
    scissor_free(s);
    return 0;
}
