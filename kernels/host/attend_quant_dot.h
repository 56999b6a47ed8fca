/* attend_quant_dot.h - the two phases of vector attention over quantised pages (quant.h, layout.h), in bytes. Part of
 * attend_spans.h; what attend_quant.h does in floats.
 *
 * Codes are bytes already, and four of a lane meet four bytes of the other factor in one instruction. That factor, the
 * query over a group of channels or the weights of a page's rows over a group, becomes integers of 16 bits with one
 * scale, taken apart into two signed bytes: one sum each, joined at the end. Its rounding is 2^-16 of its largest
 * value. The sums stay within 32 bits: 255 * 128 * 64 * 256 < 2^31.
 * */

#define DOT_MOST 32639.0f /* 127 * 256 + 127: the largest that two signed bytes hold */

/* What turns values of up to `most` into integers of up to `whole`; 0 if there is nothing to turn. */
static float dot_inverse(float most) {
    return most > 0 && most < INFINITY && DOT_MOST / most < INFINITY ? DOT_MOST / most : 0;
}

/* The query of the tile's column t, in the basis of the dtype: [head_dim / 4][width] four low bytes, then as many high
 * ones. What is not finite makes its group's sum NaN or infinite, and that the logits. */
static void quant_pack_query(const struct tile *tile, uint32_t t, const float *query) {
    uint32_t d = tile->item->head_dim, width = tile->width;
    int8_t *low = (int8_t *)tile->settled_q, *high = low + (size_t)d * width;
    for (uint32_t first = 0, g = 0; first < d; first += LAYOUT_GROUP_CHANNELS, g++) {
        uint32_t end = d - first < LAYOUT_GROUP_CHANNELS ? d : first + LAYOUT_GROUP_CHANNELS;
        vec most = v_zero();
        for (uint32_t c = first; c < end; c += LANES)
            most = v_max(v_abs(v_load(query + c)), most);
        float inverse = dot_inverse(v_max_across(most));
        tile->settled_scales[g * width + t] = inverse > 0 ? 1 / inverse : 0;
        for (uint32_t c = first; c < end; c += LANES) {
            int8_t bytes[2][LANES];
            v_int_split(v_mul(v_load(query + c), v_set1(inverse)), bytes[0], bytes[1]);
            for (uint32_t i = 0; i < LANES; i += 4) {
                size_t at = ((size_t)(c + i) / 4 * width + t) * 4;
                memcpy(low + at, bytes[0] + i, 4);
                memcpy(high + at, bytes[1] + i, 4);
            }
        }
    }
}

/* ---------- sums ---------- */

/* Codes of a unit's lanes as bytes, by quartets. */
INLINE void dot_codes(const uint32_t type, const char *unit, vec_int *codes) {
    const vec_int nibble = v_int_set1(0x0f0f0f0f);
    codes[0] = v_load_int(unit);
    if (type == KERNEL_INT4) {
        codes[1] = v_int_and(v_shifted(codes[0], 4), nibble);
        codes[0] = v_int_and(codes[0], nibble);
    }
}

/* The same of what the K phase takes at once; `low` are the lowest bits, if they are apart. */
INLINE void dot_k_codes(const uint32_t type, const char *units, vec_int low, vec_int *codes) {
    if (type != KERNEL_INT5) {
        dot_codes(type, units, codes);
        return;
    }
    const vec_int high_mask = v_int_set1(0x1e1e1e1e), low_mask = v_int_set1(0x01010101);
    UNROLL for (uint32_t i = 0; i < 4; i++) {
        vec_int high = v_load_int(units + i / 2 * 64);
        high = v_int_and(i % 2 ? v_shifted(high, 3) : v_shifted_left(high, 1), high_mask);
        codes[i] = v_int_or(high, v_int_and(v_shifted(low, i), low_mask));
    }
}

INLINE vec_int v_four(const int8_t *bytes) {
    uint32_t x;
    memcpy(&x, bytes, sizeof x);
    return v_int_set1(x);
}

/* ---------- K phase ---------- */

/* One group's part of the logits of `count` blocks of rows, from block `first` on. */
INLINE void k_quant_group(const uint32_t width, const uint32_t type, const uint32_t count, const struct k_quant *k,
                          uint32_t first, uint32_t group) {
    const uint32_t codes = K_CODES_OF(type), bytes = K_UNITS_OF(type) * 64, channel = group * LAYOUT_GROUP_CHANNELS;
    uint32_t rest = k->head_dim - channel,
             steps = (rest < LAYOUT_GROUP_CHANNELS ? rest : LAYOUT_GROUP_CHANNELS) / codes;
    const size_t block = layout_block_bytes(type, k->head_dim);
    const int8_t *low = (const int8_t *)k->q + (size_t)channel * width, *high = low + (size_t)k->head_dim * width;
    const char *from = k->half + first * block + channel / codes * bytes, *ahead = from - k->half + k->ahead;
    const char *lows_from = k->half + first * block + layout_low_bits_offset(k->head_dim) + channel / 32 * 64;
    vec_int lows[4][TILE], highs[4][TILE]; /* not structs: the compiler would keep them in memory */

    UNROLL for (uint32_t u = 0; u < count; u++) {
        UNROLL for (uint32_t t = 0; t < width; t++) lows[u][t] = highs[u][t] = v_int_zero();
    }
    for (uint32_t step = 0; step < steps; step++, from += bytes, ahead += bytes) {
        vec_int lanes[4][4];
        UNROLL for (uint32_t u = 0; u < count; u++) {
            vec_int bits = v_int_zero();
            if (type == KERNEL_INT5) {
                const char *at = lows_from + u * block + step / 2 * 64;
                bits = v_shifted(v_load_int(at), step % 2 * 4);
                __builtin_prefetch(at - k->half + k->ahead, 0, 2);
            }
            dot_k_codes(type, from + u * block, bits, lanes[u]);
            UNROLL for (uint32_t i = 0; i < bytes; i += 64) __builtin_prefetch(ahead + u * block + i, 0, 2);
        }
        UNROLL for (uint32_t quartet = 0; quartet < codes / 4; quartet++) {
            UNROLL for (uint32_t t = 0; t < width; t++, low += 4, high += 4) {
                vec_int l = v_four(low), h = v_four(high);
                UNROLL for (uint32_t u = 0; u < count; u++) {
                    lows[u][t] = v_dot(lows[u][t], lanes[u][quartet], l);
                    highs[u][t] = v_dot(highs[u][t], lanes[u][quartet], h);
                }
            }
        }
    }
    UNROLL for (uint32_t u = 0; u < count; u++) {
        size_t at = layout_scale_offset(type, (first + u) * SCISSOR_BLOCK_ROWS, group, k->head_dim);
        vec scale = v_load_f16(k->half + at), offset = v_load_f16(k->half + at + 32);
        float *to = k->logits + (size_t)(first + u) * width * SCISSOR_BLOCK_ROWS;
        __builtin_prefetch(k->ahead + at, 0, 2);
        UNROLL for (uint32_t t = 0; t < width; t++, to += SCISSOR_BLOCK_ROWS) {
            vec sum = v_mul(v_int_join(highs[u][t], lows[u][t]), v_set1(k->scales[group * width + t]));
            vec other = v_fma(offset, v_set1(k->sums[group * width + t]), group ? v_load(to) : v_zero());
            v_store(to, v_fma(scale, sum, other));
        }
    }
}

INLINE void k_quant_of(const uint32_t width, const uint32_t type, const struct k_quant *k, uint32_t rows) {
    const uint32_t count = width * 8 <= BUDGET ? 4 : width * 4 <= BUDGET ? 2 : 1;
    uint32_t blocks = (rows + SCISSOR_BLOCK_ROWS - 1) / SCISSOR_BLOCK_ROWS, groups = layout_groups(k->head_dim);
    for (uint32_t g = 0; g < groups; g++) {
        uint32_t b = 0;
        for (; b + count <= blocks; b += count)
            k_quant_group(width, type, count, k, b, g);
        for (; b < blocks; b++)
            k_quant_group(width, type, 1, k, b, g);
    }
}

/* ---------- V phase ---------- */

/* What the rows of a page weigh for a group: probability times scale, in bytes. */
struct dot_weights {
    int8_t low[TILE][SCISSOR_PAGE_ROWS], high[TILE][SCISSOR_PAGE_ROWS];
    float scale[TILE], offset[TILE]; /* of the integers; sum of probability times offset */
};

INLINE void v_quant_weights(const uint32_t width, const uint32_t type, const struct v_quant *v, uint32_t group,
                            struct dot_weights *ret) {
    uint32_t blocks = (v->rows + SCISSOR_BLOCK_ROWS - 1) / SCISSOR_BLOCK_ROWS;
    vec scales[SCISSOR_PAGE_ROWS / SCISSOR_BLOCK_ROWS], offsets[SCISSOR_PAGE_ROWS / SCISSOR_BLOCK_ROWS];
    for (uint32_t b = 0; b < blocks; b++) {
        uint32_t rest = v->rows - b * SCISSOR_BLOCK_ROWS;
        size_t offset = layout_scale_offset(type, b * SCISSOR_BLOCK_ROWS, group, v->head_dim);
        const char *at = v->half + offset;
        __builtin_prefetch(v->ahead + offset, 0, 2);
        vec_mask mask = v_first(rest < LANES ? rest : LANES);
        scales[b] = v_select(mask, v_load_f16(at), v_zero());
        offsets[b] = v_select(mask, v_load_f16(at + 32), v_zero());
    }
    for (uint32_t t = 0; t < width; t++) {
        vec weights[SCISSOR_PAGE_ROWS / SCISSOR_BLOCK_ROWS], most = v_zero(), sum = v_zero();
        for (uint32_t b = 0; b < blocks; b++) {
            vec p = v_load(v->p + ((size_t)b * width + t) * SCISSOR_BLOCK_ROWS);
            weights[b] = v_mul(p, scales[b]);
            most = v_max(weights[b], most);
            sum = v_fma(p, offsets[b], sum);
        }
        float inverse = dot_inverse(v_max_across(most));
        for (uint32_t b = 0; b < blocks; b++)
            v_int_split(v_mul(weights[b], v_set1(inverse)), ret->low[t] + b * SCISSOR_BLOCK_ROWS,
                        ret->high[t] + b * SCISSOR_BLOCK_ROWS);
        ret->scale[t] = inverse > 0 ? 1 / inverse : 0;
        ret->offset[t] = v_sum_across(sum);
    }
}

/* Adds all rows, weighted, to `count` vectors of channels of each query. */
INLINE void v_quant_channels(const uint32_t width, const uint32_t type, const uint32_t count, const struct v_quant *v,
                             uint32_t first, const struct dot_weights *w) {
    const uint32_t codes = CODES_OF(type);
    const size_t step = (size_t)v->head_dim / 16 * 64;
    const char *from = v->half + first * 4, *ahead = v->ahead + first * 4;
    vec_int lows[TILE][4], highs[TILE][4];

    UNROLL for (uint32_t t = 0; t < width; t++) {
        UNROLL for (uint32_t n = 0; n < count; n++) lows[t][n] = highs[t][n] = v_int_zero();
    }
    for (uint32_t row = 0; row < v->rows; row += codes, from += step, ahead += step) {
        vec_int lanes[4][2];
        UNROLL for (uint32_t n = 0; n < count; n++) {
            dot_codes(type, from + n * 64, lanes[n]);
            __builtin_prefetch(ahead + n * 64, 0, 2);
        }
        UNROLL for (uint32_t half = 0; half < codes / 4; half++) {
            UNROLL for (uint32_t t = 0; t < width; t++) {
                vec_int l = v_four(w->low[t] + row + half * 4), h = v_four(w->high[t] + row + half * 4);
                UNROLL for (uint32_t n = 0; n < count; n++) {
                    lows[t][n] = v_dot(lows[t][n], lanes[n][half], l);
                    highs[t][n] = v_dot(highs[t][n], lanes[n][half], h);
                }
            }
        }
    }
    UNROLL for (uint32_t t = 0; t < width; t++) {
        vec scale = v_set1(w->scale[t]), offset = v_set1(w->offset[t]);
        UNROLL for (uint32_t n = 0; n < count; n++) {
            float *to = v->out + t * v->head_dim + first + n * LANES;
            vec sum = v_int_join(highs[t][n], lows[t][n]);
            v_store(to, v_fma(sum, scale, v_add(v_load(to), offset)));
        }
    }
}

INLINE void v_quant_of(const uint32_t width, const uint32_t type, const struct v_quant *v) {
    const uint32_t count = width * 8 <= BUDGET ? 4 : width * 4 <= BUDGET ? 2 : 1;
    struct dot_weights weights;
    for (uint32_t c = 0; c < v->head_dim;) {
        uint32_t end = c + LAYOUT_GROUP_CHANNELS < v->head_dim ? c + LAYOUT_GROUP_CHANNELS : v->head_dim;
        v_quant_weights(width, type, v, c / LAYOUT_GROUP_CHANNELS, &weights);
        for (; c + count * LANES <= end; c += count * LANES)
            v_quant_channels(width, type, count, v, c, &weights);
        for (; c < end; c += LANES)
            v_quant_channels(width, type, 1, v, c, &weights);
    }
}
