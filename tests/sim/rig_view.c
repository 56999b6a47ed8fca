/* rig_view.c - what a client of the rig sees in its memory, and the score frames that it makes of it. */
#include <stdlib.h>
#include <string.h>

#include "layout.h"
#include "rig.h"

#define MUST(condition)   \
    do {                  \
        if (!(condition)) \
            abort();      \
    } while (0)

uint32_t rig_layers(const struct rig_session *s) {
    uint32_t layers = 0;
    for (uint32_t i = 0; i < s->spec.group_count; i++)
        layers += s->spec.groups[i].layers;
    return layers;
}

uint32_t rig_group(const struct rig_session *s, uint32_t layer, uint32_t *ret_first) {
    uint32_t head = 0, group = 0;
    while (layer >= s->spec.groups[group].layers) {
        layer -= s->spec.groups[group].layers;
        head += s->spec.groups[group].layers * s->spec.groups[group].kv_heads;
        group++;
    }
    *ret_first = head + layer * s->spec.groups[group].kv_heads;
    return group;
}

/* Group of a head, counting through. */
static const struct proto_group *group_of_head(const struct rig_session *s, uint32_t head) {
    const struct proto_group *g = s->spec.groups;
    while (head >= g->layers * g->kv_heads) {
        head -= g->layers * g->kv_heads;
        g++;
    }
    return g;
}

const uint32_t *rig_head(const struct rig_session *s, uint32_t head) {
    const uint32_t *words = (const uint32_t *)(s->control + 1);
    for (uint32_t h = 0; h < head; h++) {
        const struct proto_group *g = group_of_head(s, h);
        uint32_t rows = (g->max_rows ? g->max_rows : g->guaranteed_rows) - s->fresh_rows;
        words += proto_control_head_words(layout_pages_of_rows(rows));
    }
    return words;
}

void *rig_fresh(const struct rig_session *s, uint32_t head) {
    struct layout_fresh walk = {0, 0};
    struct layout_place place = {0, 0};
    for (uint32_t h = 0; h <= head; h++)
        place = layout_fresh_next(&walk, (uint32_t)kernel_dtype_size(s->spec.compute_dtype), s->fresh_rows,
                                  group_of_head(s, h)->head_dim);
    return (char *)s->segment[place.segment] + place.offset;
}

void *rig_page(const struct rig_session *s, uint32_t head, uint32_t page) {
    uint32_t word = rig_head(s, head)[2 + page];
    char *segment = s->segment[PROTO_PAGE_SEGMENT(word)];
    MUST(segment); /* the client was told of it */
    return segment +
           PROTO_PAGE_INDEX(word) * layout_page_bytes(s->spec.storage_dtype, group_of_head(s, head)->head_dim);
}

size_t rig_frame(struct rig_session *s, uint32_t first_layer, uint32_t layers, uint32_t rows, uint32_t fresh,
                 rig_value value, void *context, uint8_t *frame) {
    uint32_t first, group = rig_group(s, first_layer, &first), kv_heads = s->spec.groups[group].kv_heads;
    uint32_t planes = s->scores[group].planes;
    struct proto_score f = {.magic = PROTO_SCORE_MAGIC,
                            .version = PROTO_SCORE_VERSION,
                            .planes = (uint8_t)planes,
                            .session = s->id,
                            .sequence = ++s->sequence,
                            .generation = s->control->generation,
                            .first_layer = first_layer,
                            .layer_count = layers,
                            .rows = rows,
                            .fresh = fresh};
    uint8_t *at = frame + sizeof f;
    static float values[65536];
    for (uint32_t i = 0; i < layers * kv_heads; i++) {
        uint32_t slots = rig_head(s, first + i)[0] + fresh;
        for (uint32_t p = 0; p < PROTO_PLANE_COUNT; p++) {
            if (!(planes >> p & 1))
                continue;
            f.format[p] = PROTO_FORMAT_F32;
            for (uint32_t j = 0; j < slots; j++)
                values[j] = value(context, first_layer + i / kv_heads, i % kv_heads, p, j);
            at += proto_score_encode(PROTO_FORMAT_F32, values, slots, at);
        }
    }
    memcpy(f.token, s->token, sizeof f.token);
    f.payload_bytes = (uint32_t)(at - frame - sizeof f);
    memcpy(frame, &f, sizeof f);
    return (size_t)(at - frame);
}
