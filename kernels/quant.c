/* quant.c - see quant.h.
 *
 * Additions and single products only, in a fixed order, so that no compiler can contract them into something that
 * rounds differently: every path stores the same bits. */
#include "quant.h"

#include <math.h>
#include <stdbool.h>

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

static void encode_group(const float *x, uint32_t channels, float most, uint8_t *code, uint16_t *ret_scale,
                         uint16_t *ret_offset) {
    float low = x[0], high = x[0], poison = 0;
    for (uint32_t c = 0; c < channels; c++) {
        low = x[c] < low ? x[c] : low;
        high = x[c] > high ? x[c] : high;
        poison += x[c] * 0; /* NaN if one of them is not finite */
    }
    uint16_t offset = kernel_f32_to_f16(low + poison), scale = kernel_f32_to_f16((high - low) / most + poison);
    float o = kernel_f16_to_f32(offset), s = kernel_f16_to_f32(scale);
    bool finite = isfinite(o) && isfinite(s);
    float inverse = finite && s > 0 ? 1 / s : 0;
    for (uint32_t c = 0; c < channels; c++) {
        float value = finite ? rintf((x[c] - o) * inverse) : 0;
        code[c] = (uint8_t)(value < 0 ? 0 : value > most ? most : value);
    }
    *ret_offset = finite ? offset : 0x7e00;
    *ret_scale = finite ? scale : 0x7e00;
}

void quant_encode(uint32_t dtype, const float *x, uint32_t head_dim, struct quant_row *ret) {
    float most = dtype == KERNEL_INT4 ? 15 : 255;
    for (uint32_t g = 0; g < layout_groups(head_dim); g++)
        encode_group(x + (size_t)g * LAYOUT_GROUP_CHANNELS, group_channels(g, head_dim), most,
                     ret->code + (size_t)g * LAYOUT_GROUP_CHANNELS, &ret->scale[g], &ret->offset[g]);
}

float quant_value(const struct quant_row *row, uint32_t channel) {
    uint32_t g = channel / LAYOUT_GROUP_CHANNELS;
    return kernel_f16_to_f32(row->offset[g]) + kernel_f16_to_f32(row->scale[g]) * (float)row->code[channel];
}

/* ---------- places ---------- */

static void code_put(uint32_t dtype, uint8_t *lane, uint32_t e, uint8_t code) {
    if (dtype == KERNEL_INT8)
        lane[e] = code;
    else if (e < 4)
        lane[e] = (uint8_t)((lane[e] & 0xf0) | code);
    else
        lane[e - 4] = (uint8_t)((lane[e - 4] & 0x0f) | code << 4);
}

static uint8_t code_get(uint32_t dtype, const uint8_t *lane, uint32_t e) {
    if (dtype == KERNEL_INT8)
        return lane[e];
    return e < 4 ? lane[e] & 0x0f : lane[e - 4] >> 4;
}

static size_t k_lane(uint32_t dtype, uint32_t slot, uint32_t channel, uint32_t head_dim) {
    uint32_t codes = layout_lane_codes(dtype);
    return ((size_t)(slot / SCISSOR_BLOCK_ROWS) * (head_dim / codes) + channel / codes) * 64 +
           slot % SCISSOR_BLOCK_ROWS * 4;
}

static size_t v_lane(uint32_t dtype, uint32_t slot, uint32_t channel, uint32_t head_dim) {
    uint32_t codes = layout_lane_codes(dtype);
    return ((size_t)(slot / codes) * (head_dim / 16) + channel / 16) * 64 + channel % 16 * 4;
}

static void scales_put(uint32_t dtype, void *half, uint32_t slot, uint32_t head_dim, const struct quant_row *row) {
    for (uint32_t g = 0; g < layout_groups(head_dim); g++) {
        char *at = (char *)half + layout_scale_offset(dtype, slot, g, head_dim);
        memcpy(at, &row->scale[g], 2);
        memcpy(at + 32, &row->offset[g], 2);
    }
}

static void scales_get(uint32_t dtype, const void *half, uint32_t slot, uint32_t head_dim, struct quant_row *ret) {
    for (uint32_t g = 0; g < layout_groups(head_dim); g++) {
        const char *at = (const char *)half + layout_scale_offset(dtype, slot, g, head_dim);
        memcpy(&ret->scale[g], at, 2);
        memcpy(&ret->offset[g], at + 32, 2);
    }
}

void quant_put_k(uint32_t dtype, void *half, uint32_t slot, uint32_t head_dim, const struct quant_row *row) {
    uint32_t codes = layout_lane_codes(dtype);
    for (uint32_t c = 0; c < head_dim; c++)
        code_put(dtype, (uint8_t *)half + k_lane(dtype, slot, c, head_dim), c % codes, row->code[c]);
    scales_put(dtype, half, slot, head_dim, row);
}

void quant_put_v(uint32_t dtype, void *half, uint32_t slot, uint32_t head_dim, const struct quant_row *row) {
    uint32_t codes = layout_lane_codes(dtype);
    for (uint32_t c = 0; c < head_dim; c++)
        code_put(dtype, (uint8_t *)half + v_lane(dtype, slot, c, head_dim), slot % codes, row->code[c]);
    scales_put(dtype, half, slot, head_dim, row);
}

void quant_get_k(uint32_t dtype, const void *half, uint32_t slot, uint32_t head_dim, struct quant_row *ret) {
    uint32_t codes = layout_lane_codes(dtype);
    for (uint32_t c = 0; c < head_dim; c++)
        ret->code[c] = code_get(dtype, (const uint8_t *)half + k_lane(dtype, slot, c, head_dim), c % codes);
    scales_get(dtype, half, slot, head_dim, ret);
}

void quant_get_v(uint32_t dtype, const void *half, uint32_t slot, uint32_t head_dim, struct quant_row *ret) {
    uint32_t codes = layout_lane_codes(dtype);
    for (uint32_t c = 0; c < head_dim; c++)
        ret->code[c] = code_get(dtype, (const uint8_t *)half + v_lane(dtype, slot, c, head_dim), slot % codes);
    scales_get(dtype, half, slot, head_dim, ret);
}
