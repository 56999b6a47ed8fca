/* client_set_up.c - see client_set_up.h. */
#include "client_set_up.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <unistd.h>

#include <cmocka.h>

#include "alloc.h"
#include "fake_device.h"
#include "internal.h"

const struct attention_model client_model = {.seed = 1,
                                             .layers = 2,
                                             .kv_heads = 2,
                                             .q_heads = 2,
                                             .head_dim = 16,
                                             .compute_dtype = SCISSOR_F32,
                                             .storage_dtype = SCISSOR_F32,
                                             .scale = 0.25f};

struct scissor_session_spec client_spec(void) {
    struct scissor_session_spec spec = {.fresh_rows = 16, .group_count = 1};
    spec.groups[0] =
        (struct scissor_group_spec){.layers = 2, .kv_heads = 2, .q_heads = 2, .head_dim = 16, .guaranteed_rows = 160};
    return spec;
}

struct fake client_fake;

int client_set_up(void **state) {
    (void)state;
    if (fake_start(&client_fake) < 0)
        return -1;
    client_fake.drain = true;
    client_fake.scores[0].planes = 7;
    return 0;
}

int client_tear_down(void **state) {
    (void)state;
    alloc_fail_never();
    fake_stop(&client_fake);
    return alloc_live() == 0 ? 0 : -1;
}

struct scissor_client *client_connected(void) {
    struct scissor_client *client = NULL;
    assert_int_equal(scissor_connect(client_fake.dir, &client), 0);
    return client;
}

void client_be_patient(struct scissor_client *client) {
    atomic_store(&client->push.greeted_by, scissor__now() + 60000000000u);
}

void client_give_device(struct scissor_client *client) {
    client->devices[0] = fake_device_client();
    client->device_count = 1;
}

void client_take_device(struct scissor_client *client) {
    client->device_count = 0;
}

void client_drop_fd(struct fake_packet *p) {
    if (p->fd_count > 0)
        close(p->fds[--p->fd_count]);
}
