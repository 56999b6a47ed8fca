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

/* The codes of a type, or with their details those of two bits more. */
struct codes {
    bool detailed;
    float most;
};

/* A group of up to 64 values on a grid: value = offset + scale * code. */
struct grid {
    float offset, scale;               /* not finite if what is stored of them is no value of f16 */
    float stored_offset, stored_scale; /* values of f16; the same, or with details those of the grid without them */
    float error;                       /* sum of squares */
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

/* This offset and scale as they can be stored. Four codes with details are one without, and that one has the value in
 * their middle. */
static void grid_round(struct grid *g, bool detailed, float offset, float scale) {
    if (detailed) {
        g->stored_scale = f16_rounded(4 * scale);
        g->scale = g->stored_scale / 4;
        g->stored_offset = f16_rounded(offset + 1.5f * g->scale);
        g->offset = g->stored_offset - 1.5f * g->scale;
    } else {
        g->scale = g->stored_scale = f16_rounded(scale);
        g->offset = g->stored_offset = f16_rounded(offset);
    }
}

/* The nearest codes on a grid of this offset and scale. */
static void grid_place(struct grid *g, const float *x, uint32_t channels, struct codes codes, float offset,
                       float scale) {
    float squares[LAYOUT_GROUP_CHANNELS] = {0};
    grid_round(g, codes.detailed, offset, scale);
    float inverse = g->scale > 0 ? 1 / g->scale : 0;
    for (uint32_t c = 0; c < channels; c++) {
        float code = rintf((x[c] - g->offset) * inverse);
        code = code > 0 ? code : 0; /* NaN: 0 */
        g->code[c] = code < codes.most ? code : codes.most;
        float error = g->offset + g->scale * g->code[c] - x[c];
        squares[c] = error * error;
    }
    g->error = sum_of(squares);
}

/* The same codes, with the offset and the scale that fit the values best; then the nearest codes to those. */
static void grid_refit(struct grid *g, const float *x, uint32_t channels, struct codes codes, const struct grid *from) {
    float n = (float)channels, product[LAYOUT_GROUP_CHANNELS] = {0}, square[LAYOUT_GROUP_CHANNELS] = {0};
    float value[LAYOUT_GROUP_CHANNELS] = {0}, code[LAYOUT_GROUP_CHANNELS] = {0};
    for (uint32_t c = 0; c < channels; c++) {
        value[c] = x[c] - from->offset; /* small numbers, so that nothing is lost where their mean is large */
        code[c] = from->code[c];
        product[c] = value[c] * code[c];
        square[c] = code[c] * code[c];
    }
    float sum = sum_of(code), values = sum_of(value);
    float spread = n * sum_of(square) - sum * sum, scale = n * sum_of(product) - sum * values;
    scale = spread > 0 ? scale / spread : from->scale;
    grid_place(g, x, channels, codes, from->offset + (values - scale * sum) / n, scale);
}

static void encode_group(const float *x, uint32_t channels, struct codes codes, uint8_t *code, uint16_t *ret_scale,
                         uint16_t *ret_offset) {
    float low = x[0], high = x[0], poison = 0;
    struct grid grids[2], *best = &grids[0], *other = &grids[1];
    for (uint32_t c = 0; c < channels; c++) {
        low = x[c] < low ? x[c] : low;
        high = x[c] > high ? x[c] : high;
        poison += x[c] * 0; /* NaN if one of them is not finite */
    }
    grid_place(best, x, channels, codes, low + poison, (high - low) / codes.most + poison);
    bool finite = isfinite(best->offset) && isfinite(best->scale);
    for (int turn = 0; turn < FITS && finite && codes.most < 255; turn++) {
        grid_refit(other, x, channels, codes, best);
        if (!(other->error < best->error))
            break;
        struct grid *swap = best;
        best = other;
        other = swap;
    }
    for (uint32_t c = 0; c < channels; c++)
        code[c] = finite ? (uint8_t)best->code[c] : 0;
    *ret_offset = finite ? kernel_f32_to_f16(best->stored_offset) : 0x7e00;
    *ret_scale = finite ? kernel_f32_to_f16(best->stored_scale) : 0x7e00;
}

static void encode(struct codes codes, const float *x, uint32_t head_dim, struct quant_row *ret) {
    for (uint32_t g = 0; g < layout_groups(head_dim); g++)
        encode_group(x + (size_t)g * LAYOUT_GROUP_CHANNELS, group_channels(g, head_dim), codes,
                     ret->code + (size_t)g * LAYOUT_GROUP_CHANNELS, &ret->scale[g], &ret->offset[g]);
}

void quant_encode(uint32_t type, const float *x, uint32_t head_dim, struct quant_row *ret) {
    encode((struct codes){false, (float)((1u << layout_code_bits(type)) - 1)}, x, head_dim, ret);
}

void quant_encode_detailed(uint32_t type, const float *x, uint32_t head_dim, struct quant_row *ret) {
    encode((struct codes){true, (float)((4u << layout_code_bits(type)) - 1)}, x, head_dim, ret);
}

void quant_drop_details(struct quant_row *row, uint32_t head_dim) {
    for (uint32_t c = 0; c < head_dim; c++)
        row->code[c] >>= 2;
}

float quant_value(const struct quant_row *row, uint32_t channel) {
    uint32_t g = channel / LAYOUT_GROUP_CHANNELS;
    return kernel_f16_to_f32(row->offset[g]) + kernel_f16_to_f32(row->scale[g]) * (float)row->code[channel];
}

float quant_detailed_value(const struct quant_row *row, uint32_t channel) {
    uint32_t g = channel / LAYOUT_GROUP_CHANNELS;
    float scale = kernel_f16_to_f32(row->scale[g]), high = (float)(row->code[channel] >> 2);
    return kernel_f16_to_f32(row->offset[g]) + scale * high + quant_detail(row->scale[g], row->code[channel]);
}

float quant_detail(uint16_t scale, uint8_t code) {
    return kernel_f16_to_f32(scale) / 4 * ((float)(code & 3) - 1.5f);
}

/* ---------- places ---------- */

/* A code's bits: `bits` of them, from `shift` on, of one byte. int5 and int3 have two such places, the other types one.
 */
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

/* Code e of a lane that begins at `lane`, without a lowest bit that lies apart. */
static struct place lane_place(uint32_t type, size_t lane, uint32_t e) {
    uint32_t bits = 32 / layout_lane_codes(type);
    return (struct place){lane + e % 4, e / 4 * bits, bits};
}

static struct place k_place(uint32_t type, uint32_t slot, uint32_t channel, uint32_t head_dim) {
    uint32_t codes = layout_lane_codes(type), row = slot % SCISSOR_BLOCK_ROWS;
    size_t block = slot / SCISSOR_BLOCK_ROWS * layout_block_bytes(type, head_dim);
    return lane_place(type, block + channel / codes * 64 + row * 4, channel % codes);
}

/* The lowest bit of a code of int5 or int3. */
static struct place k_low_place(uint32_t type, uint32_t slot, uint32_t channel, uint32_t head_dim) {
    size_t block = slot / SCISSOR_BLOCK_ROWS * layout_block_bytes(type, head_dim);
    size_t unit = block + layout_low_bits_offset(type, head_dim) + channel / 32 * 64;
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
    bool apart = layout_low_bit_apart(type);
    for (uint32_t c = 0; c < head_dim; c++) {
        if (apart)
            place_put(half, k_low_place(type, slot, c, head_dim), row->code[c] & 1u);
        place_put(half, k_place(type, slot, c, head_dim), apart ? row->code[c] >> 1 : row->code[c]);
    }
    scales_put(type, half, slot, head_dim, row);
}

void quant_put_v(uint32_t type, void *half, uint32_t slot, uint32_t head_dim, const struct quant_row *row) {
    for (uint32_t c = 0; c < head_dim; c++)
        place_put(half, v_place(type, slot, c, head_dim), row->code[c]);
    scales_put(type, half, slot, head_dim, row);
}

void quant_get_k(uint32_t type, const void *half, uint32_t slot, uint32_t head_dim, struct quant_row *ret) {
    bool apart = layout_low_bit_apart(type);
    for (uint32_t c = 0; c < head_dim; c++) {
        uint32_t code = place_get(half, k_place(type, slot, c, head_dim));
        if (apart)
            code = code << 1 | place_get(half, k_low_place(type, slot, c, head_dim));
        ret->code[c] = (uint8_t)code;
    }
    scales_get(type, half, slot, head_dim, ret);
}

void quant_get_v(uint32_t type, const void *half, uint32_t slot, uint32_t head_dim, struct quant_row *ret) {
    for (uint32_t c = 0; c < head_dim; c++)
        ret->code[c] = (uint8_t)place_get(half, v_place(type, slot, c, head_dim));
    scales_get(type, half, slot, head_dim, ret);
}

void quant_put_k_detail(void *details, uint32_t slot, uint32_t head_dim, const uint8_t *codes) {
    for (uint32_t c = 0; c < head_dim; c++)
        place_put(details, k_place(KERNEL_INT2, slot, c, head_dim), codes[c] & 3u);
}

void quant_put_v_detail(void *details, uint32_t slot, uint32_t head_dim, const uint8_t *codes) {
    for (uint32_t c = 0; c < head_dim; c++)
        place_put(details, v_place(KERNEL_INT2, slot, c, head_dim), codes[c] & 3u);
}

void quant_get_k_detail(const void *details, uint32_t slot, uint32_t head_dim, uint8_t *ret) {
    for (uint32_t c = 0; c < head_dim; c++)
        ret[c] = (uint8_t)place_get(details, k_place(KERNEL_INT2, slot, c, head_dim));
}

void quant_get_v_detail(const void *details, uint32_t slot, uint32_t head_dim, uint8_t *ret) {
    for (uint32_t c = 0; c < head_dim; c++)
        ret[c] = (uint8_t)place_get(details, v_place(KERNEL_INT2, slot, c, head_dim));
}
