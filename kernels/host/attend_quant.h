/* attend_quant.h - the two phases of vector attention over quantised pages (quant.h, layout.h), in floats. Part of
 * attend_spans.h; attend_quant_dot.h does the same in bytes.
 *
 * Codes become floats lane by lane and are multiplied as they are; a group's scale and offset are applied to the sums:
 *
 *     K: q . k      = sum over groups of scale * (sum of q * code) + offset * (sum of q)     a lane is a row
 *     V: sum of p v = (sum of (p * scale) * code) + (sum of p * offset)                      a lane is a channel
 *
 * so a code costs one shift, one conversion and one product for each query. Rows of the last block that nobody sees
 * have weight 0 in the V phase whatever their scale is; in the K phase the softmax takes care of them. */

/* Code e of each lane as a float. (A loop over e that is not unrolled costs nothing that can be measured, and unrolled
 * it takes the compiler a minute.) */
INLINE vec v_code(const uint32_t type, vec_int lanes, uint32_t e) {
    return type == KERNEL_INT8 ? v_bytes(v_shifted(lanes, e * 8)) : v_nibbles(v_shifted(lanes, e % 4 * 8 + e / 4 * 4));
}

/* Code e of each lane of what the K phase takes at once, with its lowest bits, if they are apart. */
INLINE vec v_k_code(const uint32_t type, const vec_int *lanes, vec_int low, uint32_t e) {
    if (type != KERNEL_INT5)
        return v_code(type, lanes[0], e);
    return v_fma(v_set1(2), v_code(KERNEL_INT4, lanes[e / 8], e % 8), v_bits(v_shifted(low, e % 4 * 8 + e / 4)));
}

/* ---------- K phase ---------- */

/* The query of the tile's column t, in the basis of the dtype. */
static void quant_pack_query(const struct tile *tile, uint32_t t, const float *query) {
    for (uint32_t c = 0; c < tile->item->head_dim; c++)
        tile->settled_q[c * tile->width + t] = query[c];
}

/* One group's part of the logits of `count` vectors of rows, from vector `first` on. */
INLINE void k_quant_group(const uint32_t width, const uint32_t type, const uint32_t count, const struct k_quant *k,
                          uint32_t first, uint32_t group) {
    const uint32_t codes = K_CODES_OF(type), units = K_UNITS_OF(type), channel = group * LAYOUT_GROUP_CHANNELS;
    uint32_t rest = k->head_dim - channel,
             steps = (rest < LAYOUT_GROUP_CHANNELS ? rest : LAYOUT_GROUP_CHANNELS) / codes;
    const float *q = k->q + (size_t)channel * width;
    size_t at[4], low_at[4];
    vec sums[4][TILE];

    UNROLL for (uint32_t u = 0; u < count; u++) {
        uint32_t block = (first + u) / PARTS, part = (first + u) % PARTS;
        size_t begin = block * layout_block_bytes(type, k->head_dim) + part * LANES * 4;
        at[u] = begin + channel / CODES_OF(type) * 64;
        low_at[u] = begin + layout_low_bits_offset(k->head_dim) + channel / 32 * 64;
        UNROLL for (uint32_t t = 0; t < width; t++) sums[u][t] = v_zero();
    }
    for (uint32_t step = 0; step < steps; step++, q += codes * width) {
        vec_int lanes[4][2], low[4];
        UNROLL for (uint32_t u = 0; u < count; u++) {
            UNROLL for (uint32_t i = 0; i < units; i++) {
                lanes[u][i] = v_load_int(k->half + at[u] + (step * units + i) * 64);
                __builtin_prefetch(k->ahead + at[u] + (step * units + i) * 64, 0, 2);
            }
            if (type == KERNEL_INT5) {
                low[u] = v_shifted(v_load_int(k->half + low_at[u] + step / 2 * 64), step % 2 * 4);
                __builtin_prefetch(k->ahead + low_at[u] + step / 2 * 64, 0, 2);
            }
        }
        for (uint32_t e = 0; e < codes; e++) {
            vec code[4];
            UNROLL for (uint32_t u = 0; u < count; u++) code[u] = v_k_code(type, lanes[u], low[u], e);
            UNROLL for (uint32_t t = 0; t < width; t++) {
                vec x = v_set1(q[e * width + t]);
                UNROLL for (uint32_t u = 0; u < count; u++) sums[u][t] = v_fma(x, code[u], sums[u][t]);
            }
        }
    }
    UNROLL for (uint32_t u = 0; u < count; u++) {
        uint32_t block = (first + u) / PARTS, part = (first + u) % PARTS;
        size_t scale_at = layout_scale_offset(type, block * SCISSOR_BLOCK_ROWS, group, k->head_dim);
        const char *scales = k->half + scale_at;
        __builtin_prefetch(k->ahead + scale_at, 0, 2);
        vec scale = v_load_f16(scales + part * LANES * 2), offset = v_load_f16(scales + 32 + part * LANES * 2);
        float *to = k->logits + (size_t)block * width * SCISSOR_BLOCK_ROWS + part * LANES;
        UNROLL for (uint32_t t = 0; t < width; t++, to += SCISSOR_BLOCK_ROWS) {
            vec part_sum = v_fma(offset, v_set1(k->sums[group * width + t]), group ? v_load(to) : v_zero());
            v_store(to, v_fma(scale, sums[u][t], part_sum));
        }
    }
}

INLINE void k_quant_of(const uint32_t width, const uint32_t type, const struct k_quant *k, uint32_t rows) {
    const uint32_t count = width * 4 <= BUDGET ? 4 : width * 2 <= BUDGET ? 2 : 1;
    uint32_t units = (rows + SCISSOR_BLOCK_ROWS - 1) / SCISSOR_BLOCK_ROWS * PARTS, groups = layout_groups(k->head_dim);
    for (uint32_t g = 0; g < groups; g++) {
        uint32_t u = 0;
        for (; u + count <= units; u += count)
            k_quant_group(width, type, count, k, u, g);
        for (; u < units; u++)
            k_quant_group(width, type, 1, k, u, g);
    }
}

/* ---------- V phase ---------- */

/* What a group's rows weigh: probability times scale, 0 for rows that are not there; and the sum of probability times
 * offset of each query. */
INLINE void v_quant_weights(const uint32_t width, const uint32_t type, const struct v_quant *v, uint32_t group,
                            float *weights, float *offsets) {
    uint32_t blocks = (v->rows + SCISSOR_BLOCK_ROWS - 1) / SCISSOR_BLOCK_ROWS;
    vec sums[TILE];
    UNROLL for (uint32_t t = 0; t < width; t++) sums[t] = v_zero();
    for (uint32_t unit = 0; unit < blocks * PARTS; unit++) {
        uint32_t block = unit / PARTS, part = unit % PARTS;
        uint32_t row = block * SCISSOR_BLOCK_ROWS + part * LANES, rest = v->rows > row ? v->rows - row : 0;
        size_t scale_at = layout_scale_offset(type, block * SCISSOR_BLOCK_ROWS, group, v->head_dim);
        const char *scales = v->half + scale_at;
        __builtin_prefetch(v->ahead + scale_at, 0, 2);
        vec_mask mask = v_first(rest < LANES ? rest : LANES);
        vec scale = v_select(mask, v_load_f16(scales + part * LANES * 2), v_zero());
        vec offset = v_select(mask, v_load_f16(scales + 32 + part * LANES * 2), v_zero());
        UNROLL for (uint32_t t = 0; t < width; t++) {
            size_t at = ((size_t)block * width + t) * SCISSOR_BLOCK_ROWS + part * LANES;
            vec p = v_load(v->p + at);
            v_store(weights + at, v_mul(p, scale));
            sums[t] = v_fma(p, offset, sums[t]);
        }
    }
    for (uint32_t t = 0; t < width; t++)
        offsets[t] = v_sum_across(sums[t]);
}

/* Adds all rows, weighted, to `count` vectors of channels of each query. */
INLINE void v_quant_channels(const uint32_t width, const uint32_t type, const uint32_t count, const struct v_quant *v,
                             uint32_t first, const float *weights, const float *offsets) {
    const uint32_t codes = CODES_OF(type);
    const size_t step = (size_t)v->head_dim / 16 * 64; /* a lane's codes are of so many rows */
    const char *from = v->half + first * 4, *ahead = v->ahead + first * 4;
    vec sums[TILE][8];

    UNROLL for (uint32_t t = 0; t < width; t++) {
        UNROLL for (uint32_t n = 0; n < count; n++) sums[t][n] =
            v_add(v_load(v->out + t * v->head_dim + first + n * LANES), v_set1(offsets[t]));
    }
    for (uint32_t row = 0; row < v->rows; row += codes, from += step, ahead += step) {
        const float *weight =
            weights + (size_t)(row / SCISSOR_BLOCK_ROWS) * width * SCISSOR_BLOCK_ROWS + row % SCISSOR_BLOCK_ROWS;
        vec_int lanes[8];
        UNROLL for (uint32_t n = 0; n < count; n++) lanes[n] = v_load_int(from + n * LANES * 4);
        UNROLL for (uint32_t n = 0; n < count * LANES * 4; n += 64) __builtin_prefetch(ahead + n, 0, 2);
        for (uint32_t e = 0; e < codes; e++) {
            vec code[8];
            UNROLL for (uint32_t n = 0; n < count; n++) code[n] = v_code(type, lanes[n], e);
            UNROLL for (uint32_t t = 0; t < width; t++) {
                vec x = v_set1(weight[t * SCISSOR_BLOCK_ROWS + e]);
                UNROLL for (uint32_t n = 0; n < count; n++) sums[t][n] = v_fma(x, code[n], sums[t][n]);
            }
        }
    }
    UNROLL for (uint32_t t = 0; t < width; t++) {
        UNROLL for (uint32_t n = 0; n < count; n++) v_store(v->out + t * v->head_dim + first + n * LANES, sums[t][n]);
    }
}

INLINE void v_quant_of(const uint32_t width, const uint32_t type, const struct v_quant *v) {
    const uint32_t most = LAYOUT_GROUP_CHANNELS / LANES;
    const uint32_t count = width * most <= BUDGET ? most : width * 4 <= BUDGET ? 4 : width * 2 <= BUDGET ? 2 : 1;
    float weights[SCISSOR_PAGE_ROWS * TILE], offsets[TILE];
    for (uint32_t c = 0; c < v->head_dim;) {
        uint32_t end = c + LAYOUT_GROUP_CHANNELS < v->head_dim ? c + LAYOUT_GROUP_CHANNELS : v->head_dim;
        v_quant_weights(width, type, v, c / LAYOUT_GROUP_CHANNELS, weights, offsets);
        for (; c + count * LANES <= end; c += count * LANES)
            v_quant_channels(width, type, count, v, c, weights, offsets);
        for (; c < end; c += LANES)
            v_quant_channels(width, type, 1, v, c, weights, offsets);
    }
}
