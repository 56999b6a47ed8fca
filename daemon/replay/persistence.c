/* persistence.c - see persistence.h. */
#include "daemon/replay/persistence.h"

#include "alloc.h"
#include "scissor_error.h"

/* ---------- beginning and end ---------- */

static int group_init(struct persistence *p, const struct trace_group *g) {
    for (uint32_t i = 0; i < g->layers; i++) {
        struct persistence_layer *layer = &p->layers[p->layer_count++];
        *layer = (struct persistence_layer){.first_head = p->head_count, .kv_heads = g->kv_heads};
        p->head_count += g->kv_heads;
        if (!(layer->early_seen = scissor_calloc(p->half, sizeof *layer->early_seen)))
            return SCISSOR_ENOMEM;
    }
    return 0;
}

int persistence_init(struct persistence *p, const struct trace_shape *shape, uint64_t tokens, const char **ret_why) {
    size_t heads = trace_shape_heads(shape), layers = 0;
    *p = (struct persistence){.tokens = tokens, .half = tokens / 2};
    *ret_why = "persistence needs two rows or more";
    if (p->half == 0)
        return SCISSOR_EINVAL;
    *ret_why = "persistence needs the scores \"mass\"; record a session of a policy that gathers them, such as "
               "\"pivotal\" or \"h2o\"";
    for (uint32_t i = 0; i < shape->group_count; i++) {
        layers += shape->groups[i].layers;
        if (!(shape->groups[i].planes & PROTO_PLANE_MASS))
            return SCISSOR_EINVAL;
    }
    *ret_why = "out of memory";
    p->layers = scissor_calloc(layers, sizeof *p->layers);
    p->early = scissor_calloc(heads * p->half, sizeof *p->early);
    p->late = scissor_calloc(heads * p->half, sizeof *p->late);
    int code = p->layers && p->early && p->late ? 0 : SCISSOR_ENOMEM;
    for (uint32_t i = 0; i < shape->group_count && code == 0; i++)
        code = group_init(p, &shape->groups[i]);
    return code;
}

void persistence_deinit(struct persistence *p) {
    for (uint32_t i = 0; i < p->layer_count; i++)
        scissor_free(p->layers[i].early_seen);
    scissor_free(p->layers);
    scissor_free(p->early);
    scissor_free(p->late);
    *p = (struct persistence){0};
}

/* ---------- frames ---------- */

/* The query rows of a frame end at the newest fresh row; the oldest of them sees fresh row fresh - rows and those
 * before. */
static void count_seen(const struct persistence *p, struct persistence_layer *layer,
                       const struct persistence_frame *f) {
    uint32_t oldest = f->fresh - f->rows;
    for (uint64_t i = 0; i < f->first && i < p->half; i++)
        layer->early_seen[i] += f->rows;
    for (uint32_t j = 0; j < f->fresh && f->first + j < p->half; j++)
        layer->early_seen[f->first + j] += f->fresh - (j > oldest ? j : oldest);
}

void persistence_add(struct persistence *p, uint32_t layer, uint32_t kv_head, const struct persistence_frame *f) {
    struct persistence_layer *l = &p->layers[layer];
    bool late = f->first >= p->half;
    double *sums = (late ? p->late : p->early) + (l->first_head + kv_head) * p->half;
    if (kv_head == 0 && late)
        l->late_seen += f->rows;
    else if (kv_head == 0)
        count_seen(p, l, f);
    for (uint32_t i = 0; i < f->settled; i++)
        if (f->position[i] < p->half)
            sums[f->position[i]] += (double)f->mass[i];
    for (uint32_t j = 0; j < f->fresh && f->first + j < p->half; j++)
        sums[f->first + j] += (double)f->mass[f->settled + j];
    p->evicted |= f->settled < f->first;
}

/* ---------- the result ---------- */

void persistence_count(const struct persistence *p, uint32_t layer, struct persistence_count *ret) {
    const struct persistence_layer *l = &p->layers[layer];
    const double threshold = 1.0 / (double)p->half;
    *ret = (struct persistence_count){.rows = l->kv_heads * p->half};
    for (uint32_t k = 0; k < l->kv_heads; k++) {
        const size_t at = (l->first_head + k) * p->half;
        for (uint64_t i = 0; i < p->half; i++) {
            bool early = p->early[at + i] > threshold * l->early_seen[i];
            bool late = p->late[at + i] > threshold * (double)l->late_seen;
            ret->early += early;
            ret->late += late;
            ret->both += early && late;
        }
    }
}
