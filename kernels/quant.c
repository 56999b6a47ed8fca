/* quant.c - see quant.h.
 *
 * One copy for every path, in a fixed order and without contraction (Makefile), so that every path stores the same
 * bits. */
#include "quant.h"

#include <math.h>
#include <stdbool.h>

#define FITS 2 /* the first takes 6 % off the squared error of int4, the second 3, a third 2 */

/* The largest power of two that is no more than n. */
static uint32_t power_within(uint32_t n) {
    return 1u << (31 - __builtin_clz(n));
}

static void rotate_block(float *x, uint32_t n) {
    for (uint32_t half = 1; half < n; half *= 2)
        for (uint32_t i = 0; i < n; i += 2 * half)
            for (uint32_t j = i; j < i + half; j++) {
                float a = x[j], b = x[j + half];
                x[j] = a + b;
                x[j + half] = a - b;
            }
    float scale = 1 / sqrtf((float)n);
    for (uint32_t i = 0; i < n; i++)
        x[i] *= scale;
}

void quant_rotate(float *x, uint32_t head_dim) {
    for (uint32_t at = 0; at < head_dim;) {
        uint32_t n = power_within(head_dim - at);
        rotate_block(x + at, n);
        at += n;
    }
}

/* ---------- values and codes ---------- */

static uint32_t group_channels(uint32_t group, uint32_t head_dim) {
    uint32_t rest = head_dim - group * LAYOUT_GROUP_CHANNELS;
    return rest < LAYOUT_GROUP_CHANNELS ? rest : LAYOUT_GROUP_CHANNELS;
}

/* A group of up to 64 values on a grid: value = offset + scale * code. */
struct grid {
    float offset, scale; /* each a value of f16; not finite if they are none */
    float error;         /* sum of squares */
    float code[LAYOUT_GROUP_CHANNELS];
};

static float f16_rounded(float x) {
    return kernel_f16_to_f32(kernel_f32_to_f16(x));
}

/* Sums of up to 64 values, sixteen side by side, so that an addition need not wait for the one before. */
static float sum_of(const float *x) {
    float sums[16] = {0};
    for (uint32_t c = 0; c < LAYOUT_GROUP_CHANNELS; c += 16)
        for (uint32_t i = 0; i < 16; i++)
            sums[i] += x[c + i];
    for (uint32_t half = 8; half; half /= 2)
        for (uint32_t i = 0; i < half; i++)
            sums[i] += sums[i + half];
    return sums[0];
}

/* The nearest codes on a grid of this offset and scale. */
static void grid_place(struct grid *g, const float *x, uint32_t channels, float most, float offset, float scale) {
    float squares[LAYOUT_GROUP_CHANNELS] = {0};
    g->offset = f16_rounded(offset);
    g->scale = f16_rounded(scale);
    float inverse = g->scale > 0 ? 1 / g->scale : 0;
    for (uint32_t c = 0; c < channels; c++) {
        float code = rintf((x[c] - g->offset) * inverse);
        code = code > 0 ? code : 0; /* NaN: 0 */
        g->code[c] = code < most ? code : most;
        float error = g->offset + g->scale * g->code[c] - x[c];
        squares[c] = error * error;
    }
    g->error = sum_of(squares);
}

/* The same codes, with the offset and the scale that fit the values best; then the nearest codes to those. */
static void grid_refit(struct grid *g, const float *x, uint32_t channels, float most, const struct grid *from) {
    float n = (float)channels, product[LAYOUT_GROUP_CHANNELS] = {0}, square[LAYOUT_GROUP_CHANNELS] = {0};
    float value[LAYOUT_GROUP_CHANNELS] = {0}, code[LAYOUT_GROUP_CHANNELS] = {0};
    for (uint32_t c = 0; c < channels; c++) {
        value[c] = x[c] - from->offset; /* small numbers, so that nothing is lost where their mean is large */
        code[c] = from->code[c];
        product[c] = value[c] * code[c];
        square[c] = code[c] * code[c];
    }
    float codes = sum_of(code), values = sum_of(value);
    float spread = n * sum_of(square) - codes * codes, scale = n * sum_of(product) - codes * values;
    scale = spread > 0 ? scale / spread : from->scale;
    grid_place(g, x, channels, most, from->offset + (values - scale * codes) / n, scale);
}

static void encode_group(const float *x, uint32_t channels, float most, uint8_t *code, uint16_t *ret_scale,
                         uint16_t *ret_offset) {
    float low = x[0], high = x[0], poison = 0;
    struct grid grids[2], *best = &grids[0], *other = &grids[1];
    for (uint32_t c = 0; c < channels; c++) {
        low = x[c] < low ? x[c] : low;
        high = x[c] > high ? x[c] : high;
        poison += x[c] * 0; /* NaN if one of them is not finite */
    }
    grid_place(best, x, channels, most, low + poison, (high - low) / most + poison);
    bool finite = isfinite(best->offset) && isfinite(best->scale);
    for (int turn = 0; turn < FITS && finite && most < 255; turn++) {
        grid_refit(other, x, channels, most, best);
        if (!(other->error < best->error))
            break;
        struct grid *swap = best;
        best = other;
        other = swap;
    }
    for (uint32_t c = 0; c < channels; c++)
        code[c] = finite ? (uint8_t)best->code[c] : 0;
    *ret_offset = finite ? kernel_f32_to_f16(best->offset) : 0x7e00;
    *ret_scale = finite ? kernel_f32_to_f16(best->scale) : 0x7e00;
}

void quant_encode(uint32_t type, const float *x, uint32_t head_dim, struct quant_row *ret) {
    float most = (float)((1u << layout_code_bits(type)) - 1);
    for (uint32_t g = 0; g < layout_groups(head_dim); g++)
        encode_group(x + (size_t)g * LAYOUT_GROUP_CHANNELS, group_channels(g, head_dim), most,
                     ret->code + (size_t)g * LAYOUT_GROUP_CHANNELS, &ret->scale[g], &ret->offset[g]);
}

float quant_value(const struct quant_row *row, uint32_t channel) {
    uint32_t g = channel / LAYOUT_GROUP_CHANNELS;
    return kernel_f16_to_f32(row->offset[g]) + kernel_f16_to_f32(row->scale[g]) * (float)row->code[channel];
}

/* ---------- places ---------- */

/* A code's bits: `bits` of them, from `shift` on, of one byte. int5 has two such places, the other types one. */
struct place {
    size_t byte;
    uint32_t shift, bits;
};

static uint32_t place_get(const uint8_t *half, struct place p) {
    return half[p.byte] >> p.shift & ((1u << p.bits) - 1);
}

static void place_put(uint8_t *half, struct place p, uint32_t value) {
    uint32_t mask = ((1u << p.bits) - 1) << p.shift;
    half[p.byte] = (uint8_t)((half[p.byte] & ~mask) | value << p.shift);
}

/* Code e of a lane that begins at `lane`, int8 or int4. */
static struct place lane_place(uint32_t type, size_t lane, uint32_t e) {
    return (struct place){lane + e % 4, e < 4 ? 0 : 4, type == KERNEL_INT8 ? 8 : 4};
}

static struct place k_place(uint32_t type, uint32_t slot, uint32_t channel, uint32_t head_dim) {
    uint32_t codes = layout_lane_codes(type), row = slot % SCISSOR_BLOCK_ROWS;
    size_t block = slot / SCISSOR_BLOCK_ROWS * layout_block_bytes(type, head_dim);
    return lane_place(type, block + channel / codes * 64 + row * 4, channel % codes);
}

/* The lowest bit of a code of int5. */
static struct place k_low_place(uint32_t slot, uint32_t channel, uint32_t head_dim) {
    size_t block = slot / SCISSOR_BLOCK_ROWS * layout_block_bytes(KERNEL_INT5, head_dim);
    size_t unit = block + layout_low_bits_offset(head_dim) + channel / 32 * 64;
    return (struct place){unit + slot % SCISSOR_BLOCK_ROWS * 4 + channel % 4, channel % 32 / 4, 1};
}

static struct place v_place(uint32_t type, uint32_t slot, uint32_t channel, uint32_t head_dim) {
    uint32_t codes = layout_lane_codes(type), unit = slot / codes * (head_dim / 16) + channel / 16;
    return lane_place(type, (size_t)unit * 64 + channel % 16 * 4, slot % codes);
}

static void scales_put(uint32_t type, void *half, uint32_t slot, uint32_t head_dim, const struct quant_row *row) {
    for (uint32_t g = 0; g < layout_groups(head_dim); g++) {
        char *at = (char *)half + layout_scale_offset(type, slot, g, head_dim);
        memcpy(at, &row->scale[g], 2);
        memcpy(at + 32, &row->offset[g], 2);
    }
}

static void scales_get(uint32_t type, const void *half, uint32_t slot, uint32_t head_dim, struct quant_row *ret) {
    for (uint32_t g = 0; g < layout_groups(head_dim); g++) {
        const char *at = (const char *)half + layout_scale_offset(type, slot, g, head_dim);
        memcpy(&ret->scale[g], at, 2);
        memcpy(&ret->offset[g], at + 32, 2);
    }
}

void quant_put_k(uint32_t type, void *half, uint32_t slot, uint32_t head_dim, const struct quant_row *row) {
    for (uint32_t c = 0; c < head_dim; c++) {
        if (type == KERNEL_INT5)
            place_put(half, k_low_place(slot, c, head_dim), row->code[c] & 1u);
        place_put(half, k_place(type, slot, c, head_dim), type == KERNEL_INT5 ? row->code[c] >> 1 : row->code[c]);
    }
    scales_put(type, half, slot, head_dim, row);
}

void quant_put_v(uint32_t type, void *half, uint32_t slot, uint32_t head_dim, const struct quant_row *row) {
    for (uint32_t c = 0; c < head_dim; c++)
        place_put(half, v_place(type, slot, c, head_dim), row->code[c]);
    scales_put(type, half, slot, head_dim, row);
}

void quant_get_k(uint32_t type, const void *half, uint32_t slot, uint32_t head_dim, struct quant_row *ret) {
    for (uint32_t c = 0; c < head_dim; c++) {
        uint32_t code = place_get(half, k_place(type, slot, c, head_dim));
        ret->code[c] =
            (uint8_t)(type == KERNEL_INT5 ? code << 1 | place_get(half, k_low_place(slot, c, head_dim)) : code);
    }
    scales_get(type, half, slot, head_dim, ret);
}

void quant_get_v(uint32_t type, const void *half, uint32_t slot, uint32_t head_dim, struct quant_row *ret) {
    for (uint32_t c = 0; c < head_dim; c++)
        ret->code[c] = (uint8_t)place_get(half, v_place(type, slot, c, head_dim));
    scales_get(type, half, slot, head_dim, ret);
}
