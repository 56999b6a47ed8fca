/* step.c - one step: the lease, and rows into the fresh buffer. Attention is in attend.c, a device's part in device.c.
 *
 * The lease is one word in memory that is shared with the daemon. Whoever sets it from FREE may touch the session's
 * rows until it sets FREE again; acquire and release order what the other side wrote before. The library takes no
 * other lock while it works on rows, so two threads attend over two sessions without meeting. */
#include <time.h>

#include "device.h"
#include "internal.h"

bool scissor__lease_try(struct scissor_session *s) {
    uint32_t expected = PROTO_LEASE_FREE;
    return !__atomic_load_n(&s->lease->closing, __ATOMIC_RELAXED) &&
           __atomic_compare_exchange_n(&s->lease->word, &expected, PROTO_LEASE_CLIENT, false, __ATOMIC_ACQUIRE,
                                       __ATOMIC_RELAXED);
}

void scissor__lease_give(struct scissor_session *s) {
    uint32_t expected = PROTO_LEASE_CLIENT;
    if (s->lease)
        __atomic_compare_exchange_n(&s->lease->word, &expected, PROTO_LEASE_FREE, false, __ATOMIC_RELEASE,
                                    __ATOMIC_RELAXED);
}

static int lease_wait(struct scissor_session *s, uint64_t deadline) {
    struct scissor_client *client = s->client;
    for (;;) {
        scissor__client_drain(client);
        int r = client->attached ? 0 : scissor__client_recover(client, deadline);
        if (r || s->failure)
            return s->failure ? s->failure : r;
        scissor__session_release(s);
        if (scissor__lease_try(s))
            return 0;
        if (scissor__now() >= deadline)
            return SCISSOR_ETIMEDOUT;
        struct timespec pause = {0, CLIENT_LEASE_POLL_NS};
        pthread_mutex_unlock(&client->lock);
        nanosleep(&pause, NULL);
        pthread_mutex_lock(&client->lock);
    }
}

int scissor__lease_take(struct scissor_session *s, uint64_t deadline) {
    int r;
    do {
        r = lease_wait(s, deadline);
        if (r)
            return r;
        r = scissor__session_refresh(s);
        if (r)
            scissor__lease_give(s);
    } while (r == CLIENT_LOST); /* whether there is another daemon, and has the session */
    if (r == SCISSOR_EPROTO)
        s->failure = r;
    return r;
}

/* The settle for which the sums were sent has failed, and new ones are to come. The daemon that has the old ones adds
 * to them; one that does not needs them all. */
static void forget_sent(struct scissor_session *s) {
    if (s->sent_on == s->client->connection) {
        scissor__planes_clear(s);
        s->sums_forgotten = true;
    }
    s->sent_on = 0;
}

int scissor_step_begin(struct scissor_session *s, uint32_t rows) {
    if (rows == 0 || rows > s->fresh_rows)
        return SCISSOR_EINVAL;
    if (s->in_step)
        return SCISSOR_ESTATE;
    pthread_mutex_lock(&s->client->lock);
    int r = s->failure ? s->failure : s->client->failure;
    if (!r && s->settle_rows > 0)
        r = SCISSOR_ESTATE;
    if (!r && rows > s->fresh_rows - s->fresh_count)
        r = SCISSOR_SETTLE_NEEDED;
    if (!r)
        r = scissor__lease_take(s, scissor__client_deadline(s->client));
    if (!r) {
        if (s->sent_on)
            forget_sent(s);
        s->in_step = true;
        s->step++;
        s->step_rows = rows;
    }
    pthread_mutex_unlock(&s->client->lock);
    return r;
}

int scissor_step_end(struct scissor_session *s) {
    if (!s->in_step)
        return SCISSOR_ESTATE;
    pthread_mutex_lock(&s->client->lock);
    int r = s->device ? scissor__device_step_end(s) : 0;
    s->in_step = false;
    s->fresh_count += s->step_rows;
    __atomic_store_n(&s->lease->fresh_count, s->fresh_count, __ATOMIC_RELAXED);
    scissor__lease_give(s);
    scissor__session_release(s);
    if (s->failure)
        scissor__session_unmap(s);
    pthread_mutex_unlock(&s->client->lock);
    return r;
}

int scissor_append(struct scissor_session *s, uint32_t layer, const void *k, const void *v, uint32_t dtype) {
    size_t size = kernel_dtype_size(dtype);
    if (layer >= s->layer_count || !k || !v || size == 0)
        return SCISSOR_EINVAL;
    if (!s->in_step)
        return SCISSOR_ESTATE;
    if (s->device)
        return scissor__device_append_staged(s, layer, k, v, dtype);
    struct kernel_backend *backend = s->backend;
    const struct client_group *g = &s->groups[s->layers[layer].group];
    size_t stride = (size_t)g->kv_heads * g->head_dim;
    for (uint32_t h = 0; h < g->kv_heads; h++) {
        size_t at = (size_t)h * g->head_dim * size;
        int r = backend->append(backend, s->heads[s->layers[layer].first_head + h].fresh, s->fresh_rows, s->fresh_count,
                                s->step_rows, g->head_dim, (uint8_t)s->compute_dtype, (const char *)k + at,
                                (const char *)v + at, stride, (uint8_t)dtype);
        if (r < 0)
            return SCISSOR_EINVAL;
    }
    s->layers[layer].appended = s->step;
    return 0;
}
