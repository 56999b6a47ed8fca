/* test_client_device.h - sessions on a device (tests/fake_device.h) and steps with device pointers, for the tests of
 * libscissor that have them. */
#pragma once

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "alloc.h"
#include "client_set_up.h"
#include "device.h"
#include "fake_device.h"
#include "internal.h"

#define STEP_FLOATS (16 * 2 * 16) /* rows, heads and channels of client_model */

static struct scissor_client *client;
static char stream_names[4];
#define STREAM(i) ((void *)&stream_names[i])

/* ---------- vectors in the device's memory, until a test's end ---------- */

static void *vectors[4096];
static unsigned vector_count;
static pthread_mutex_t vector_lock = PTHREAD_MUTEX_INITIALIZER;

static inline float *vector_new(void) {
    struct kernel_backend *b = fake_device_daemon(); /* whose operations do not fail on order */
    void *memory = NULL;
    b->streams->memory_new(b, KERNEL_MEMORY_DEVICE, STEP_FLOATS * sizeof(float), &memory);
    pthread_mutex_lock(&vector_lock);
    vectors[vector_count++] = memory;
    pthread_mutex_unlock(&vector_lock);
    return memory;
}

static inline void vectors_free(void) {
    struct kernel_backend *b = fake_device_daemon();
    while (vector_count > 0)
        b->streams->memory_free(b, KERNEL_MEMORY_DEVICE, vectors[--vector_count]);
}

static inline int set_up(void **state) {
    int r = client_set_up(state);
    fake_device_reset();
    client_fake.device = fake_device_daemon();
    client = client_connected();
    client_be_patient(client);
    client_give_device(client);
    return r;
}

static inline int tear_down(void **state) {
    if (client) {
        client_take_device(client);
        scissor_disconnect(client);
        client = NULL;
    }
    for (int i = 0; i < 4; i++) /* what no session waits for any more */
        fake_device_daemon()->streams->wait(fake_device_daemon(), STREAM(i));
    vectors_free();
    int r = client_tear_down(state);
    return r || fake_device.faults || fake_device.allocations ? -1 : 0;
}

static inline struct scissor_session *opened(void) {
    struct scissor_session_spec spec = client_spec();
    struct scissor_session *s = NULL;
    assert_int_equal(scissor_open(client, &spec, &s), 0);
    return s;
}

/* One layer of a step that is open. `ret_out` is on the device, there when the stream has come so far. */
static inline int layer_on(struct scissor_session *s, uint32_t rows, uint32_t layer, void *stream, float **ret_out) {
    const struct attention_model *m = &client_model;
    float *k = vector_new(), *v = vector_new(), *q = vector_new(), *out = vector_new();
    uint64_t first = scissor_tokens_seen(s);
    for (uint32_t r = 0; r < rows; r++) {
        size_t at = (size_t)r * m->kv_heads * m->head_dim;
        attention_row(m, ATTENTION_K, layer, first + r, (float *)fake_device_host(k) + at);
        attention_row(m, ATTENTION_V, layer, first + r, (float *)fake_device_host(v) + at);
        attention_row(m, ATTENTION_Q, layer, first + r, (float *)fake_device_host(q) + at);
    }
    struct scissor_attend_item item = {s, layer, m->scale, q, out};
    int r = scissor_append_device(s, layer, k, v, SCISSOR_F32, stream);
    if (r == 0)
        r = scissor_attend_device(&item, 1, stream);
    *ret_out = out;
    return r;
}

static inline int step_on(struct scissor_session *s, uint32_t rows, void *stream, float **ret_out) {
    *ret_out = NULL;
    int r = scissor_step_begin(s, rows);
    if (r)
        return r;
    for (uint32_t layer = 0; layer < client_model.layers && r == 0; layer++)
        r = layer_on(s, rows, layer, stream, ret_out);
    int end = scissor_step_end(s);
    return r ? r : end;
}

static inline void close_well(struct scissor_session *s) {
    assert_int_equal(scissor_close(s), 0);
    assert_int_equal(fake_device.faults, 0);
}
