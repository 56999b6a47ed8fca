/* attend.c - attention of one layer for a batch of sessions: checks, the kernels' items, and which rows' scores the
 * planes have. What is on a device is queued there by device.c, with the same items. */
#include "device.h"
#include "internal.h"

static int check_item(const struct scissor_attend_item *item, const struct scissor_session *first) {
    const struct scissor_session *s = item->session;
    if (!s || item->layer >= s->layer_count || !item->q || !item->out || !(item->scale - item->scale == 0) ||
        s->backend != first->backend)
        return SCISSOR_EINVAL;
    return s->in_step && s->layers[item->layer].appended == s->step ? 0 : SCISSOR_ESTATE;
}

/* Scratch is the first session's, so that threads with other sessions have their own. */
static int reserve_items(struct scissor_session *s, size_t items) {
    if (items <= s->item_capacity)
        return 0;
    void *grown = scissor_realloc(s->items, items * sizeof *s->items);
    if (!grown)
        return SCISSOR_ENOMEM;
    s->items = grown;
    s->item_capacity = items;
    return 0;
}

static int reserve_workspace(struct scissor_session *s, size_t bytes) {
    if (bytes <= s->workspace_bytes)
        return 0;
    void *larger = scissor_malloc(bytes + bytes / 2);
    if (!larger)
        return SCISSOR_ENOMEM;
    scissor_free(s->workspace);
    s->workspace = larger;
    s->workspace_bytes = bytes + bytes / 2;
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
                                       .detail_pages = head->detail_pages,
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
                                       .mass = gather ? scissor__plane_address(s, g, head->plane[0]) : NULL,
                                       .hits = gather ? scissor__plane_address(s, g, head->plane[1]) : NULL,
                                       .last = gather ? scissor__plane_address(s, g, head->plane[2]) : NULL};
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

int scissor__attend_prepare(const struct scissor_attend_item *items, size_t item_count, size_t *ret_heads) {
    size_t heads = 0;
    if (!items || !items[0].session)
        return SCISSOR_EINVAL;
    struct scissor_session *first = items[0].session;
    for (size_t i = 0; i < item_count; i++) {
        int r = check_item(&items[i], first);
        if (r)
            return r;
        heads += items[i].session->groups[items[i].session->layers[items[i].layer].group].kv_heads;
    }
    if (reserve_items(first, heads))
        return SCISSOR_ENOMEM;
    struct kernel_attend *to = first->items;
    for (size_t i = 0; i < item_count; i++)
        to = fill_items(&items[i], to);
    *ret_heads = heads;
    return 0;
}

void scissor__attend_done(const struct scissor_attend_item *items, size_t item_count) {
    for (size_t i = 0; i < item_count; i++)
        count_scores(&items[i]);
}

void scissor__attend_undone(const struct scissor_attend_item *items, size_t item_count) {
    for (size_t i = 0; i < item_count; i++)
        forget_gathering(&items[i]);
}

static int attend_host(const struct scissor_attend_item *items, size_t item_count, size_t heads) {
    struct scissor_session *first = items[0].session;
    size_t workspace = 0;
    for (size_t i = 0; i < item_count; i++) {
        size_t bytes = workspace_of(&items[i]);
        workspace = bytes > workspace ? bytes : workspace;
    }
    if (reserve_workspace(first, workspace + 64))
        return SCISSOR_ENOMEM;
    void *aligned = (void *)(((uintptr_t)first->workspace + 63) / 64 * 64);
    struct kernel_backend *backend = first->backend;
    return backend->attend(backend, first->items, heads, aligned) < 0 ? SCISSOR_EINVAL : 0;
}

int scissor_attend(const struct scissor_attend_item *items, size_t item_count) {
    size_t heads;
    if (item_count == 0)
        return 0;
    int r = scissor__attend_prepare(items, item_count, &heads);
    if (r)
        return r;
    if (items[0].session->device)
        return scissor__device_attend_staged(items, item_count, heads);
    r = attend_host(items, item_count, heads);
    if (r)
        scissor__attend_undone(items, item_count);
    else
        scissor__attend_done(items, item_count);
    return r;
}
