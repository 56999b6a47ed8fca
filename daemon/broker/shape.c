/* shape.c - what a session's shape comes to: layers, heads, pages and bytes.
 *
 * Everything that a client can cause is in these sums, host memory for bookkeeping included, so that the pool's limit
 * bounds the daemon and not only its segments. Largest possible values fit 64 bits by far (16,384 heads of a million
 * rows). */
#include <string.h>

#include "session.h"

uint64_t session_group_segments(const struct session_group *group, uint64_t pages) {
    return (pages * group->heads + group->pages_per_segment - 1) / group->pages_per_segment;
}

uint64_t session_id_limit(const struct session *s) {
    uint64_t segments = s->fresh_segments;
    for (uint32_t i = 0; i < s->group_count; i++)
        segments += session_group_segments(&s->groups[i], s->groups[i].max_pages);
    return segments < SESSION_SEGMENT_IDS ? segments : SESSION_SEGMENT_IDS;
}

uint64_t session_ended_cost(const struct session *s) {
    return sizeof *s + session_round(s->control_bytes) + PROTO_LEASE_BYTES;
}

static void group_shape(struct session *s, struct session_group *g, const struct proto_group *ask) {
    g->layers = ask->layers;
    g->kv_heads = ask->kv_heads;
    g->q_heads = ask->q_heads;
    g->head_dim = ask->head_dim;
    g->first_layer = s->layer_count;
    g->first_head = s->head_count;
    g->heads = ask->layers * ask->kv_heads;
    g->opened_guaranteed_rows = g->guaranteed_rows = ask->guaranteed_rows;
    g->opened_max_rows = g->max_rows = ask->max_rows ? ask->max_rows : ask->guaranteed_rows;
    g->promised_pages = g->guaranteed_pages = layout_pages_of_rows(g->guaranteed_rows - s->fresh_rows);
    g->max_settled = g->max_rows - s->fresh_rows;
    g->max_pages = layout_pages_of_rows(g->max_settled);
    g->page_bytes = (uint32_t)layout_page_bytes(s->storage_dtype, g->head_dim);
    g->pages_per_segment = layout_pages_per_segment(s->storage_dtype, g->head_dim);
    g->target_pages = JOB_NO_TARGET;

    const struct policy_class *class = g->policy.class;
    g->planes = class->planes(&g->policy);
    if (g->max_rows > g->guaranteed_rows)
        g->planes |= PROTO_PLANE_MASS; /* the arbiter must know what its lent rows are worth */
    g->threshold = class->threshold ? class->threshold(&g->policy) : KERNEL_THRESHOLD_VISIBLE;
    g->extras = class->norms ? HISTORY_NORMS : 0;
    if (layout_has_details(s->storage_dtype))
        g->extras |= HISTORY_DETAILS;
    g->blocks = class->window_blocks ? class->window_blocks(&g->policy) : 0;

    /* The segment table doubles, so an entry may exist twice over. */
    uint64_t page_entry = sizeof(uint32_t) + sizeof(void *);
    uint64_t slots = (uint64_t)SCISSOR_PAGE_ROWS * history_slot_bytes(g->planes, g->blocks, g->extras);
    g->segment_cost =
        SCISSOR_SEGMENT_BYTES + 2 * sizeof(struct session_segment) + g->pages_per_segment * (page_entry + slots);
    g->segment_cost += keep_segment_cost(s, g);
}

void session_shape(struct session *s, const struct proto_open *open) {
    struct layout_fresh walk = {0, 0};
    uint32_t size = (uint32_t)kernel_dtype_size(s->compute_dtype);
    uint64_t words = 0, bookkeeping = sizeof *s, guaranteed = 0;

    s->group_count = open->group_count;
    for (uint32_t i = 0; i < s->group_count; i++) {
        struct session_group *g = &s->groups[i];
        group_shape(s, g, &open->groups[i]);
        s->layer_count += g->layers;
        s->head_count += g->heads;
        for (uint32_t h = 0; h < g->heads; h++)
            layout_fresh_next(&walk, size, s->fresh_rows, g->head_dim);
        words += (uint64_t)g->heads * proto_control_head_words(g->max_pages);
        bookkeeping += (uint64_t)g->heads * (sizeof(struct session_head) + 2 * sizeof(struct proto_head_stat) +
                                             history_fresh_bytes(g->planes) * s->fresh_rows);
        bookkeeping +=
            (uint64_t)g->layers * (sizeof(struct history_clock) + history_clock_bytes(g->blocks, s->fresh_rows));
        guaranteed += session_group_segments(g, g->guaranteed_pages) * g->segment_cost;
    }
    s->fresh_segments = walk.segments;
    s->control_bytes = (uint32_t)session_round(sizeof(struct proto_control) + words * sizeof(uint32_t));
    s->base_cost = bookkeeping + s->control_bytes + PROTO_LEASE_BYTES +
                   (uint64_t)s->fresh_segments * (SCISSOR_SEGMENT_BYTES + 2 * sizeof(struct session_segment));
    s->base_cost += keep_base_cost(s);
    s->guaranteed_cost = s->base_cost + guaranteed;
}
