/* fuzz_dispatch.c - what libscissor does with a packet from the daemon, while an open, a settle and a question wait. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "client/internal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct scissor_session *new_session(struct scissor_client *client) {
    struct proto_open open = {.fresh_rows = 16, .group_count = 1};
    open.groups[0] = (struct proto_group){.layers = 1, .kv_heads = 2, .q_heads = 2, .head_dim = 16, .max_rows = 160};
    struct scissor_session *s = scissor__session_new(client, &open);
    s->next = client->sessions;
    client->sessions = s;
    return s;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    uint32_t positions[8];
    if (size < sizeof(struct proto_header) || size > PROTO_ATTACH_MAX)
        return 0;
    struct scissor_client client = {.fd = -1, .frame_max = 4096, .backend = kernel_host_backend("reference")};
    pthread_mutex_init(&client.lock, NULL);
    pthread_cond_init(&client.news, NULL);
    struct scissor_session *opening = new_session(&client), *open = new_session(&client);
    open->id = 7;
    open->settle_request = 3;
    open->segments[1] = (struct client_segment){.used = true, .handle.fd = -1};
    open->segment_count = 1;
    struct client_call calls[4] = {
        {.request = 1, .answer = PROTO_WELCOME, .next = &calls[1]},
        {.request = 2, .answer = PROTO_OPENED, .session = opening, .next = &calls[2]},
        {.request = 3, .answer = PROTO_SETTLED, .session = open, .next = &calls[3]},
        {.request = 4, .answer = PROTO_POSITIONS_ARE, .session = open, .positions = positions, .capacity = 8},
    };
    client.calls = calls;
    char *packet = malloc(size); /* aligned as the library's own buffer, and of just this size */
    memcpy(packet, data, size);
    scissor__dispatch(&client, packet, size, NULL, 0, false);
    if (calls[3].done && calls[3].count > 8)
        abort();
    free(packet);
    scissor__session_free(open);
    scissor__session_free(opening);
    pthread_cond_destroy(&client.news);
    pthread_mutex_destroy(&client.lock);
    return 0;
}
