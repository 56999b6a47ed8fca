/* scores.c - the planes: what attention gives to each slot, added up over the steps since the last settle, and their
 * way into score frames.
 *
 * A plane of a head is one array, settled slots first, the fresh rows right behind them, because the kernels add to it
 * in one go. When the daemon has changed the slots in the middle of a period (it shrank an idle session), the sums
 * of settled slots belong to rows that may be elsewhere: they are forgotten, those of the fresh rows move along.
 *
 * All planes of a group are one block [head][plane][capacity]; it grows with the settled count and never shrinks. */
#include <string.h>

#include "device.h"
#include "internal.h"

static uint32_t plane_bits_count(uint32_t planes) {
    return (uint32_t)__builtin_popcount(planes);
}

static bool group_has_sums(const struct scissor_session *s, const struct client_group *g) {
    for (uint32_t l = g->first_layer; l < g->first_layer + g->layers; l++)
        if (s->layers[l].score_rows > 0)
            return true;
    return false;
}

static uint32_t slots_needed(const struct scissor_session *s, const struct client_group *g) {
    uint32_t most = 0;
    for (uint32_t h = g->first_head; h < g->first_head + g->layers * g->kv_heads; h++)
        if (s->heads[h].next_settled > most)
            most = s->heads[h].next_settled;
    return most + s->fresh_rows;
}

static void point_planes(struct scissor_session *s, struct client_group *g, float *block, uint32_t capacity) {
    for (uint32_t h = g->first_head; h < g->first_head + g->layers * g->kv_heads; h++)
        for (uint32_t p = 0; p < PROTO_PLANE_COUNT; p++)
            if (g->planes >> p & 1) {
                s->heads[h].plane[p] = block;
                block += capacity;
            }
    g->capacity = capacity;
}

size_t scissor__planes_bytes(const struct client_group *g) {
    return (size_t)g->layers * g->kv_heads * plane_bits_count(g->planes) * g->capacity * sizeof(float);
}

/* A larger block. Fresh sums keep their place behind the old settled count, which planes_move() expects. */
static int reserve_group(struct scissor_session *s, struct client_group *g, uint32_t needed) {
    uint64_t most = (uint64_t)g->settled_max + s->fresh_rows;
    uint64_t capacity = needed + needed / 2;
    capacity = capacity < most ? capacity : most;
    size_t arrays = (size_t)g->layers * g->kv_heads * plane_bits_count(g->planes);
    size_t bytes = arrays * capacity * sizeof(float);
    float *block;
    int r = scissor__planes_new(s, bytes, &block);
    if (!r && s->device) {
        r = scissor__device_planes_resize(s, g, bytes);
        if (r)
            scissor__planes_free(s, block);
    }
    if (r)
        return r;
    if (g->plane_block)
        for (size_t i = 0; i < arrays; i++)
            memcpy(block + i * capacity, g->plane_block + i * g->capacity, g->capacity * sizeof *block);
    scissor__planes_free(s, g->plane_block);
    g->plane_block = block;
    point_planes(s, g, block, (uint32_t)capacity);
    return 0;
}

int scissor__planes_reserve(struct scissor_session *s) {
    for (uint32_t i = 0; i < s->group_count; i++) {
        struct client_group *g = &s->groups[i];
        uint32_t needed = slots_needed(s, g);
        int r = g->planes && needed > g->capacity ? reserve_group(s, g, needed) : 0;
        if (r)
            return r;
    }
    return 0;
}

void scissor__planes_move(struct scissor_session *s) {
    for (uint32_t i = 0; i < s->group_count; i++) {
        const struct client_group *g = &s->groups[i];
        if (!group_has_sums(s, g))
            continue;
        for (uint32_t h = g->first_head; h < g->first_head + g->layers * g->kv_heads; h++) {
            const struct client_head *head = &s->heads[h];
            uint32_t end = head->next_settled + s->fresh_rows;
            for (uint32_t p = 0; p < PROTO_PLANE_COUNT; p++) {
                float *plane = head->plane[p];
                if (!plane)
                    continue;
                memmove(plane + head->next_settled, plane + head->settled, s->fresh_rows * sizeof *plane);
                memset(plane, 0, head->next_settled * sizeof *plane);
                memset(plane + end, 0, (g->capacity - end) * sizeof *plane);
            }
        }
    }
}

void scissor__planes_clear(struct scissor_session *s) {
    for (uint32_t i = 0; i < s->group_count; i++) {
        struct client_group *g = &s->groups[i];
        g->planes_at = CLIENT_PLANES_ZERO;
        if (!s->device && g->plane_block && group_has_sums(s, g))
            memset(g->plane_block, 0, scissor__planes_bytes(g));
    }
    for (uint32_t l = 0; l < s->layer_count; l++)
        s->layers[l].score_rows = s->layers[l].score_fresh = 0;
}

/* ---------- frames ---------- */

static size_t layer_bytes(const struct scissor_session *s, const struct client_layer *layer, const uint8_t *format) {
    const struct client_group *g = &s->groups[layer->group];
    size_t bytes = 0;
    for (uint32_t h = 0; h < g->kv_heads; h++)
        for (uint32_t p = 0; p < PROTO_PLANE_COUNT; p++)
            if (g->planes >> p & 1)
                bytes +=
                    proto_score_vector_bytes(format[p], s->heads[layer->first_head + h].settled + layer->score_fresh);
    return bytes;
}

/* Probabilities and their sums go as f32 unless a layer of them would not fit into a frame: as f16 many of the small
 * ones would be the same, and then what goes is the oldest row and not the least important one. */
static void choose_formats(const struct scissor_session *s, const struct client_layer *layer, size_t room,
                           uint8_t ret_format[PROTO_PLANE_COUNT]) {
    uint32_t planes = s->groups[layer->group].planes;
    uint8_t hits = layer->score_rows == 1    ? PROTO_FORMAT_BITS
                   : layer->score_rows < 256 ? PROTO_FORMAT_U8
                                             : PROTO_FORMAT_F16;
    static const uint8_t formats[] = {PROTO_FORMAT_F32, PROTO_FORMAT_F16};
    for (size_t i = 0; i < 2; i++) {
        ret_format[0] = planes & PROTO_PLANE_MASS ? formats[i] : 0;
        ret_format[1] = planes & PROTO_PLANE_HITS ? hits : 0;
        ret_format[2] = planes & PROTO_PLANE_LAST ? formats[i] : 0;
        if (layer_bytes(s, layer, ret_format) <= room)
            return;
    }
}

/* How many layers from `first` on go into one frame, and their bytes; 0 if not even one does. */
static uint32_t take_layers(const struct scissor_session *s, uint32_t first, const uint8_t *format, size_t room,
                            size_t *ret_bytes) {
    const struct client_layer *head = &s->layers[first];
    const struct client_group *g = &s->groups[head->group];
    uint32_t end = g->first_layer + g->layers, l = first;
    size_t bytes = 0;
    for (; l < end; l++) {
        const struct client_layer *layer = &s->layers[l];
        uint8_t its[PROTO_PLANE_COUNT];
        if (layer->score_rows != head->score_rows || layer->score_fresh != head->score_fresh)
            break;
        choose_formats(s, layer, room, its);
        size_t more = layer_bytes(s, layer, format);
        if (memcmp(its, format, sizeof its) != 0 || more > room - bytes)
            break;
        bytes += more;
    }
    *ret_bytes = bytes;
    return l - first;
}

static size_t write_frame(struct scissor_session *s, uint32_t first, uint32_t count, const uint8_t *format,
                          size_t payload) {
    const struct client_layer *head = &s->layers[first];
    const struct client_group *g = &s->groups[head->group];
    struct proto_score score = {.magic = PROTO_SCORE_MAGIC,
                                .version = PROTO_SCORE_VERSION,
                                .planes = (uint8_t)g->planes,
                                .session = s->id,
                                .sequence = s->sequence + 1,
                                .generation = s->generation,
                                .first_layer = first,
                                .layer_count = count,
                                .rows = head->score_rows,
                                .fresh = head->score_fresh,
                                .payload_bytes = (uint32_t)payload};
    memcpy(score.token, s->token, sizeof score.token);
    memcpy(score.format, format, sizeof score.format);
    memcpy(s->frame, &score, sizeof score);
    char *to = s->frame + sizeof score;
    for (uint32_t h = head->first_head; h < head->first_head + count * g->kv_heads; h++)
        for (uint32_t p = 0; p < PROTO_PLANE_COUNT; p++)
            if (g->planes >> p & 1)
                to += proto_score_encode(format[p], s->heads[h].plane[p], s->heads[h].settled + head->score_fresh, to);
    return (size_t)(to - s->frame);
}

bool scissor__scores_send(struct scissor_session *s) {
    uint64_t deadline = scissor__now() + CLIENT_PUSH_NS;
    size_t room = s->client->frame_max - sizeof(struct proto_score);
    bool all = true;
    for (uint32_t l = 0; l < s->layer_count;) {
        const struct client_layer *layer = &s->layers[l];
        uint8_t format[PROTO_PLANE_COUNT];
        size_t payload;
        if (layer->score_rows == 0 || s->groups[layer->group].planes == 0) {
            l++;
            continue;
        }
        choose_formats(s, layer, room, format);
        uint32_t count = take_layers(s, l, format, room, &payload);
        if (count > 0 &&
            scissor__push_send(&s->client->push, s->frame, write_frame(s, l, count, format, payload), deadline))
            s->sequence++;
        else
            all = false;
        l += count > 0 ? count : 1;
    }
    return all;
}
