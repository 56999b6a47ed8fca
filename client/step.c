/* step.c - one step: the lease, rows into the fresh buffer, attention.
 *
 * The lease is one word in memory that is shared with the daemon. Whoever sets it from FREE may touch the session's
 * rows until it sets FREE again; acquire and release order what the other side wrote before. The library takes no
 * other lock while it works on rows, so two threads attend over two sessions without meeting. */
#include <time.h>

#include "internal.h"

bool scissor__lease_try(struct scissor_session *s) {
    uint32_t expected = PROTO_LEASE_FREE;
    return __atomic_compare_exchange_n(&s->lease->word, &expected, PROTO_LEASE_CLIENT, false, __ATOMIC_ACQUIRE,
                                       __ATOMIC_RELAXED);
}

void scissor__lease_give(struct scissor_session *s) {
    uint32_t expected = PROTO_LEASE_CLIENT;
    if (s->lease)
        __atomic_compare_exchange_n(&s->lease->word, &expected, PROTO_LEASE_FREE, false, __ATOMIC_RELEASE,
                                    __ATOMIC_RELAXED);
}

int scissor__lease_take(struct scissor_session *s, uint64_t deadline) {
    struct scissor_client *client = s->client;
    for (;;) {
        scissor__client_drain(client);
        int r = client->attached ? 0 : scissor__client_recover(client, deadline);
        if (r || s->failure)
            return s->failure ? s->failure : r;
        scissor__session_release(s);
        if (scissor__lease_try(s))
            break;
        if (scissor__now() >= deadline)
            return SCISSOR_ETIMEDOUT;
        struct timespec pause = {0, CLIENT_LEASE_POLL_NS};
        pthread_mutex_unlock(&client->lock);
        nanosleep(&pause, NULL);
        pthread_mutex_lock(&client->lock);
    }
    int r = scissor__session_refresh(s);
    if (r)
        scissor__lease_give(s);
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
    s->in_step = false;
    s->fresh_count += s->step_rows;
    __atomic_store_n(&s->lease->fresh_count, s->fresh_count, __ATOMIC_RELAXED);
    scissor__lease_give(s);
    scissor__session_release(s);
    if (s->failure)
        scissor__session_unmap(s);
    pthread_mutex_unlock(&s->client->lock);
    return 0;
}

int scissor_append(struct scissor_session *s, uint32_t layer, const void *k, const void *v, uint32_t dtype) {
    size_t size = kernel_dtype_size(dtype);
    if (layer >= s->layer_count || !k || !v || size == 0)
        return SCISSOR_EINVAL;
    if (!s->in_step)
        return SCISSOR_ESTATE;
    struct kernel_backend *backend = s->client->backend;
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

/* ---------- attention ---------- */

static int check_item(const struct scissor_attend_item *item, const struct scissor_session *first) {
    const struct scissor_session *s = item->session;
    if (!s || item->layer >= s->layer_count || !item->q || !item->out || !(item->scale - item->scale == 0) ||
        s->client->backend != first->client->backend)
        return SCISSOR_EINVAL;
    return s->in_step && s->layers[item->layer].appended == s->step ? 0 : SCISSOR_ESTATE;
}

/* Scratch is the first session's, so that threads with other sessions have their own. */
static int reserve_scratch(struct scissor_session *s, size_t items, size_t workspace_bytes) {
    if (items > s->item_capacity) {
        void *grown = scissor_realloc(s->items, items * sizeof *s->items);
        if (!grown)
            return SCISSOR_ENOMEM;
        s->items = grown;
        s->item_capacity = items;
    }
    if (workspace_bytes > s->workspace_bytes) {
        void *larger = scissor_malloc(workspace_bytes + workspace_bytes / 2);
        if (!larger)
            return SCISSOR_ENOMEM;
        scissor_free(s->workspace);
        s->workspace = larger;
        s->workspace_bytes = workspace_bytes + workspace_bytes / 2;
    }
    return 0;
}

static size_t workspace_of(const struct scissor_attend_item *item) {
    const struct scissor_session *s = item->session;
    const struct client_layer *layer = &s->layers[item->layer];
    const struct client_group *g = &s->groups[layer->group];
    size_t most = 0;
    for (uint32_t h = 0; h < g->kv_heads; h++)
        if (s->heads[layer->first_head + h].settled > most)
            most = s->heads[layer->first_head + h].settled;
    return kernel_attend_workspace(g->q_heads / g->kv_heads, g->head_dim, most + s->fresh_count + s->step_rows);
}

/* One kernel item for each KV head. A layer that attends twice in a step gives its scores the first time only. */
static struct kernel_attend *fill_items(const struct scissor_attend_item *item, struct kernel_attend *to) {
    struct scissor_session *s = item->session;
    struct client_layer *layer = &s->layers[item->layer];
    const struct client_group *g = &s->groups[layer->group];
    uint32_t q_heads = g->q_heads / g->kv_heads;
    bool gather = layer->gathered != s->step;
    for (uint32_t h = 0; h < g->kv_heads; h++) {
        const struct client_head *head = &s->heads[layer->first_head + h];
        size_t at = (size_t)h * q_heads * g->head_dim;
        *to++ = (struct kernel_attend){.pages = head->pages,
                                       .settled_rows = head->settled,
                                       .fresh = head->fresh,
                                       .fresh_rows = s->fresh_rows,
                                       .fresh_before = s->fresh_count,
                                       .rows = s->step_rows,
                                       .q_heads = q_heads,
                                       .head_dim = g->head_dim,
                                       .compute_dtype = (uint8_t)s->compute_dtype,
                                       .storage_dtype = (uint8_t)s->storage_dtype,
                                       .threshold = (uint8_t)g->threshold,
                                       .seen = s->tokens_settled + s->fresh_count,
                                       .scale = item->scale,
                                       .q = item->q + at,
                                       .out = item->out + at,
                                       .q_row_stride = (size_t)g->q_heads * g->head_dim,
                                       .mass = gather ? head->plane[0] : NULL,
                                       .hits = gather ? head->plane[1] : NULL,
                                       .last = gather ? head->plane[2] : NULL};
    }
    layer->gathered = s->step;
    return to;
}

/* This step's rows are in the layer's planes already. */
static bool scores_counted(const struct scissor_session *s, const struct client_layer *layer) {
    return layer->score_fresh == s->fresh_count + s->step_rows;
}

static void count_scores(const struct scissor_attend_item *item) {
    const struct scissor_session *s = item->session;
    struct client_layer *layer = &s->layers[item->layer];
    if (scores_counted(s, layer))
        return;
    layer->score_rows += s->step_rows;
    layer->score_fresh = s->fresh_count + s->step_rows;
}

static void forget_gathering(const struct scissor_attend_item *item) {
    const struct scissor_session *s = item->session;
    struct client_layer *layer = &s->layers[item->layer];
    if (!scores_counted(s, layer))
        layer->gathered = 0;
}

int scissor_attend(const struct scissor_attend_item *items, size_t item_count) {
    size_t heads = 0, workspace = 0;
    if (item_count == 0)
        return 0;
    if (!items || !items[0].session)
        return SCISSOR_EINVAL;
    struct scissor_session *first = items[0].session;
    for (size_t i = 0; i < item_count; i++) {
        int r = check_item(&items[i], first);
        if (r)
            return r;
        size_t bytes = workspace_of(&items[i]);
        workspace = bytes > workspace ? bytes : workspace;
        heads += items[i].session->groups[items[i].session->layers[items[i].layer].group].kv_heads;
    }
    if (reserve_scratch(first, heads, workspace + 64))
        return SCISSOR_ENOMEM;
    struct kernel_attend *to = first->items;
    for (size_t i = 0; i < item_count; i++)
        to = fill_items(&items[i], to);
    void *aligned = (void *)(((uintptr_t)first->workspace + 63) / 64 * 64);
    struct kernel_backend *backend = first->client->backend;
    if (backend->attend(backend, first->items, heads, aligned) < 0) {
        for (size_t i = 0; i < item_count; i++)
            forget_gathering(&items[i]);
        return SCISSOR_EINVAL;
    }
    for (size_t i = 0; i < item_count; i++)
        count_scores(&items[i]);
    return 0;
}
