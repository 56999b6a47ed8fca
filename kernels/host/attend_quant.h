/* attend_quant.h - the two phases of vector attention over quantised pages (quant.h, layout.h), in integers. Part of
 * attend_spans.h.
 *
 * A group's codes are multiplied as they are, its scale and offset are applied to the sums:
 *
 *     K: q . k      = sum over groups of scale * (sum of q * code) + offset * (sum of q)     a lane is a row
 *     V: sum of p v = (sum of (p * scale) * code) + (sum of p * offset)                      a lane is a channel
 *
 * The other factor, the query over a group of channels or the weights of a page's rows over a group, becomes integers
 * of 16 bits with one scale: its rounding is 2^-16 of its largest value. The sums stay within 32 bits: 255 * 2^15 * 64
 * < 2^31. A lane takes four codes at a time, a quartet, in two products. How these share the four, and in what form
 * they want the integers, is left to the instruction set:
 *
 *     DOT_SUMS       sums that a quartet goes to, one product's each; or 1, both products'
 *     v_piece()      the codes of one of the products: of each byte of x, shifted right, the bits of the mask
 *     v_factors()    a block's 16 floats, rounded, as the integers of four quartets: QUARTET_BYTES each, the 32 bits
 *                    that the one product wants and those of the other
 *     v_dot()        adds such a product to a sum
 *     v_joined()     the sums as floats */

#define WHOLE_MOST 32639.0f /* 127 * 256 + 127: the largest integer that two signed bytes hold */
#define QUARTET_BYTES 8u    /* of four integers as v_factors() leaves them */

/* What turns values of up to `most` into integers of up to WHOLE_MOST; 0 if there is nothing to turn. */
static float whole_inverse(float most) {
    return most > 0 && most < INFINITY && WHOLE_MOST / most < INFINITY ? WHOLE_MOST / most : 0;
}

/* The query of the tile's column t, in the basis of the dtype, as integers: [head_dim / 4][width][QUARTET_BYTES]. What
 * is not finite makes its group's sum NaN or infinite, and that the logits. */
static void quant_pack_query(const struct tile *tile, uint32_t t, const float *query) {
    uint32_t d = tile->item->head_dim, width = tile->width;
    for (uint32_t first = 0, g = 0; first < d; first += LAYOUT_GROUP_CHANNELS, g++) {
        uint32_t end = d - first < LAYOUT_GROUP_CHANNELS ? d : first + LAYOUT_GROUP_CHANNELS;
        vec most = v_zero();
        for (uint32_t c = first; c < end; c += LANES)
            most = v_max(v_abs(v_load(query + c)), most);
        float inverse = whole_inverse(v_max_across(most));
        tile->settled_scales[g * width + t] = inverse > 0 ? 1 / inverse : 0;
        for (uint32_t c = first; c < end; c += SCISSOR_BLOCK_ROWS) {
            vec x[PARTS];
            char factors[4 * QUARTET_BYTES];
            for (uint32_t i = 0; i < PARTS; i++)
                x[i] = v_mul(v_load(query + c + i * LANES), v_set1(inverse));
            v_factors(x, factors);
            for (uint32_t i = 0; i < 4; i++)
                memcpy(tile->settled_q + ((size_t)(c / 4 + i) * width + t) * QUARTET_BYTES, factors + i * QUARTET_BYTES,
                       QUARTET_BYTES);
        }
    }
}

/* ---------- sums ---------- */

/* Quartet n of int5 of what the K phase takes at once; `low` are the lowest bits. */
INLINE vec_int quartet_of_5(const char *units, vec_int low, uint32_t n) {
    vec_int high = v_load_int(units + n / 2 * 64);
    high = v_int_and(n % 2 ? v_shifted(high, 3) : v_shifted_left(high, 1), v_int_set1(0x1e1e1e1e));
    return v_int_or(high, v_int_and(v_shifted(low, n), v_int_set1(0x01010101)));
}

/* The same of int3. */
INLINE vec_int quartet_of_3(const char *unit, vec_int low, uint32_t n) {
    vec_int high = v_load_int(unit);
    high = v_int_and(n ? v_shifted(high, 2 * n - 1) : v_shifted_left(high, 1), v_int_set1(0x06060606));
    return v_int_or(high, v_int_and(v_shifted(low, n), v_int_set1(0x01010101)));
}

/* Quartet n of a lane of what is taken at once, for v_piece(). */
INLINE vec_int quartet_of(const uint32_t type, const char *units, vec_int low, uint32_t n) {
    return type == KERNEL_INT5   ? quartet_of_5(units, low, n)
           : type == KERNEL_INT3 ? quartet_of_3(units, low, n)
                                 : v_load_int(units);
}

/* The codes of one of a quartet's two products. */
INLINE vec_int piece_of(const uint32_t type, vec_int quartet, uint32_t n, uint32_t piece) {
    return type == KERNEL_INT4   ? v_piece(quartet, 4 * n, 0x0f, piece)
           : type == KERNEL_INT2 ? v_piece(quartet, 2 * n, 0x03, piece)
                                 : v_piece(quartet, 0, 0xff, piece);
}

/* One of the two words of a quartet of integers. */
INLINE vec_int v_factor(const char *quartet, uint32_t piece) {
    uint32_t x;
    memcpy(&x, quartet + 4 * piece, sizeof x);
    return v_int_set1(x);
}

/* NaN where scale or offset is not finite, which the integers, and the signs of sums, might hide. */
INLINE vec offset_beside(vec scale, vec offset) {
    return v_fma(v_add(scale, offset), v_zero(), offset);
}

/* Adds what `quartets` quartets of `count` vectors, from units[] on, come to with each query's integers; quartet n of
 * query t has its integers at n * quartet_step + t * query_step. */
INLINE void add_products(const uint32_t width, const uint32_t type, const uint32_t count, const uint32_t quartets,
                         const char *const *units, const vec_int *low, const char *factors, const size_t quartet_step,
                         const size_t query_step, vec_int (*sums)[TILE][DOT_SUMS]) {
    UNROLL for (uint32_t n = 0; n < quartets; n++) {
        vec_int lanes[4], pieces[4];
        UNROLL for (uint32_t u = 0; u < count; u++) lanes[u] = quartet_of(type, units[u], low[u], n);
        UNROLL for (uint32_t i = 0; i < 2; i++) {
            UNROLL for (uint32_t u = 0; u < count; u++) pieces[u] = piece_of(type, lanes[u], n, i);
            UNROLL for (uint32_t t = 0; t < width; t++) {
                vec_int x = v_factor(factors + n * quartet_step + t * query_step, i);
                UNROLL for (uint32_t u = 0; u < count; u++) sums[u][t][i % DOT_SUMS] =
                    v_dot(sums[u][t][i % DOT_SUMS], pieces[u], x);
            }
        }
    }
}

INLINE void zero_sums(const uint32_t width, const uint32_t count, vec_int (*sums)[TILE][DOT_SUMS]) {
    UNROLL for (uint32_t u = 0; u < count; u++) {
        UNROLL for (uint32_t t = 0; t < width; t++) {
            UNROLL for (uint32_t i = 0; i < DOT_SUMS; i++) sums[u][t][i] = v_int_zero();
        }
    }
}

/* ---------- K phase ---------- */

/* One group's part of the logits of `count` vectors of rows, from vector `first` on. */
INLINE void k_quant_group(const uint32_t width, const uint32_t type, const uint32_t count, const struct k_quant *k,
                          uint32_t first, uint32_t group) {
    const uint32_t codes = K_CODES_OF(type), bytes = K_UNITS_OF(type) * 64, channel = group * LAYOUT_GROUP_CHANNELS;
    const size_t block = layout_block_bytes(type, k->head_dim);
    uint32_t rest = k->head_dim - channel,
             steps = (rest < LAYOUT_GROUP_CHANNELS ? rest : LAYOUT_GROUP_CHANNELS) / codes;
    const char *q = k->q + (size_t)channel / 4 * width * QUARTET_BYTES;
    size_t at = first / PARTS * block + first % PARTS * LANES * 4;
    const char *from = k->half + at + channel / codes * bytes, *ahead = from - k->half + k->ahead;
    const char *lows_from = k->half + at + layout_low_bits_offset(type, k->head_dim) + channel / 32 * 64;
    vec_int sums[4][TILE][DOT_SUMS];

    zero_sums(width, count, sums);
    for (uint32_t step = 0; step < steps; step++, from += bytes, ahead += bytes) {
        const char *unit[4];
        vec_int low[4];
        UNROLL for (uint32_t u = 0; u < count; u++) {
            const size_t part = u / PARTS * block + u % PARTS * LANES * 4;
            unit[u] = from + part;
            low[u] = v_int_zero();
            if (layout_low_bit_apart(type))
                low[u] = v_shifted(v_load_int(lows_from + part + step / 2 * 64), step % 2 * 4);
            if (u % PARTS == 0) {
                UNROLL for (uint32_t i = 0; i < bytes; i += 64) __builtin_prefetch(ahead + part + i, 0, 2);
                if (layout_low_bit_apart(type))
                    __builtin_prefetch(lows_from - k->half + k->ahead + part + step / 2 * 64, 0, 2);
            }
        }
        add_products(width, type, count, codes / 4, unit, low, q, width * QUARTET_BYTES, QUARTET_BYTES, sums);
        q += codes / 4 * width * QUARTET_BYTES;
    }
    UNROLL for (uint32_t u = 0; u < count; u++) {
        uint32_t row_block = (first + u) / PARTS, part = (first + u) % PARTS * LANES;
        size_t scale_at = layout_scale_offset(type, row_block * SCISSOR_BLOCK_ROWS, group, k->head_dim);
        const char *scales = k->half + scale_at + part * 2;
        vec scale = v_load_f16(scales), offset = offset_beside(scale, v_load_f16(scales + 32));
        const float *q_scales = k->scales + group * width, *q_sums = k->sums + group * width;
        float *to = k->logits + (size_t)row_block * width * SCISSOR_BLOCK_ROWS + part;
        if (u % PARTS == 0)
            __builtin_prefetch(k->ahead + scale_at, 0, 2);
        UNROLL for (uint32_t t = 0; t < width; t++, to += SCISSOR_BLOCK_ROWS) {
            vec sum = v_mul(v_joined(sums[u][t]), v_set1(q_scales[t]));
            vec other = v_fma(offset, v_set1(q_sums[t]), group ? v_load(to) : v_zero());
            v_store(to, v_fma(scale, sum, other));
        }
    }
}

INLINE void k_quant_of(const uint32_t width, const uint32_t type, const struct k_quant *given, uint32_t rows) {
    const struct k_quant copy = *given, *k = &copy; /* which no store can change */
    const uint32_t most = BUDGET / DOT_SUMS, count = width * 4 <= most ? 4 : width * 2 <= most ? 2 : 1;
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

/* What the rows of a page weigh for a group: probability times scale, as integers, 0 for rows that are not there. */
struct quant_weights {
    char factors[TILE][SCISSOR_PAGE_ROWS / 4][QUARTET_BYTES];
    float scale[TILE], offset[TILE]; /* of the integers; sum of probability times offset */
};

/* Before they are integers. */
struct real_weights {
    vec weights[TILE][SCISSOR_PAGE_ROWS / LANES];
    float inverse[TILE]; /* makes them integers */
};

/* Probability times scale for query t; scales and offsets are the rows', 0 for rows that are not there, and there are
 * no probabilities of the blocks that are not. What is below 1e-30 is nothing, and infinity has a NaN beside it. */
INLINE void v_weigh(const uint32_t width, uint32_t blocks, const float *p, uint32_t t, const vec *scales,
                    const vec *offsets, struct real_weights *real, struct quant_weights *ret) {
    vec most = v_set1(1e-30f), sum = v_zero();
    UNROLL for (uint32_t u = 0; u < SCISSOR_PAGE_ROWS / LANES; u++) {
        const float *at = p + (u / PARTS * width + t) * SCISSOR_BLOCK_ROWS + u % PARTS * LANES;
        vec x = u / PARTS < blocks ? v_load(at) : v_zero();
        real->weights[t][u] = v_mul(x, scales[u]);
        most = v_max(real->weights[t][u], most);
        sum = v_fma(x, offsets[u], sum);
    }
    float largest = v_max_across(most);
    real->inverse[t] = WHOLE_MOST / largest;
    ret->scale[t] = largest * (1 / WHOLE_MOST);
    ret->offset[t] = v_sum_across(sum);
}

INLINE void v_real_weights(const uint32_t width, uint32_t type, const struct v_quant *v, uint32_t group,
                           struct real_weights *real, struct quant_weights *ret) {
    const uint32_t most = SCISSOR_PAGE_ROWS / SCISSOR_BLOCK_ROWS;
    uint32_t blocks = (v->rows + SCISSOR_BLOCK_ROWS - 1) / SCISSOR_BLOCK_ROWS;
    vec scales[SCISSOR_PAGE_ROWS / LANES], offsets[SCISSOR_PAGE_ROWS / LANES];
    UNROLL for (uint32_t u = 0; u < SCISSOR_PAGE_ROWS / LANES; u++) {
        size_t offset = layout_scale_offset(type, u / PARTS * SCISSOR_BLOCK_ROWS, group, v->head_dim);
        const char *at = v->half + offset + u % PARTS * LANES * 2;
        scales[u] = v_load_f16(at);
        offsets[u] = offset_beside(scales[u], v_load_f16(at + 32));
        if (v->rows < SCISSOR_PAGE_ROWS) { /* most pages are full */
            uint32_t rest = v->rows > u * LANES ? v->rows - u * LANES : 0;
            vec_mask mask = v_first(rest < LANES ? rest : LANES);
            scales[u] = v_select(mask, scales[u], v_zero());
            offsets[u] = v_select(mask, offsets[u], v_zero());
        }
        if (u % PARTS == 0)
            __builtin_prefetch(v->ahead + offset, 0, 2);
    }
    UNROLL for (uint32_t t = 0; t < width; t++)
        v_weigh(width, blocks < most ? blocks : most, v->p, t, scales, offsets, real, ret);
}

INLINE void v_whole_weights(const uint32_t width, const struct real_weights *real, struct quant_weights *ret) {
    for (uint32_t t = 0; t < width; t++) {
        UNROLL for (uint32_t u = 0; u < SCISSOR_PAGE_ROWS / LANES; u += PARTS) {
            vec x[PARTS];
            UNROLL for (uint32_t i = 0; i < PARTS; i++) x[i] = v_mul(real->weights[t][u + i], v_set1(real->inverse[t]));
            v_factors(x, ret->factors[t][u * LANES / 4]);
        }
    }
}

/* The weights of all groups: first what ends in a division, then what waits for one. */
INLINE void v_quant_weights(const uint32_t width, uint32_t type, const struct v_quant *v, struct quant_weights *ret) {
    struct real_weights real[QUANT_MAX_GROUPS];
    uint32_t groups = layout_groups(v->head_dim);
    for (uint32_t g = 0; g < groups; g++)
        v_real_weights(width, type, v, g, &real[g], &ret[g]);
    for (uint32_t g = 0; g < groups; g++)
        v_whole_weights(width, &real[g], &ret[g]);
}

/* Adds all rows, weighted, to `count` vectors of channels of each query. */
INLINE void v_quant_channels(const uint32_t width, const uint32_t type, const uint32_t count, const struct v_quant *v,
                             uint32_t first, const struct quant_weights *w) {
    const uint32_t codes = CODES_OF(type);
    const size_t step = (size_t)v->head_dim / 16 * 64; /* a lane's codes are of so many rows */
    const char *from = v->half + first * 4, *ahead = v->ahead + first * 4;
    const char *factors = w->factors[0][0];
    vec_int sums[4][TILE][DOT_SUMS];

    zero_sums(width, count, sums);
    for (uint32_t row = 0; row < v->rows; row += codes, from += step, ahead += step) {
        const char *unit[4], *units = from;
        vec_int low[4];
        if (type == KERNEL_INT2 && v->details)
            units = v->detail_codes[row / codes] + first * 4;
        UNROLL for (uint32_t n = 0; n < count; n++) {
            unit[n] = units + n * LANES * 4;
            low[n] = v_int_zero();
            if (n % PARTS == 0 && units == from)
                __builtin_prefetch(ahead + n * LANES * 4, 0, 2);
        }
        add_products(width, type, count, codes / 4, unit, low, factors, QUARTET_BYTES, sizeof w->factors[0], sums);
        factors += codes / 4 * QUARTET_BYTES;
    }
    __asm__ volatile("" : "+r"(w)); /* or else its scales are in registers all along, and sums are not */
    UNROLL for (uint32_t t = 0; t < width; t++) {
        vec scale = v_set1(w->scale[t]), offset = v_set1(w->offset[t]);
        UNROLL for (uint32_t n = 0; n < count; n++) {
            float *to = v->out + t * v->head_dim + first + n * LANES;
            v_store(to, v_fma(v_joined(sums[n][t]), scale, v_add(v_load(to), offset)));
        }
    }
}

typedef void (*weights_fn)(uint32_t type, const struct v_quant *v, struct quant_weights *ret);

INLINE void v_quant_of(const uint32_t width, const uint32_t type, const weights_fn weigh, const struct v_quant *given) {
    const struct v_quant copy = *given, *v = &copy; /* which no store can change */
    const uint32_t most = BUDGET / DOT_SUMS, count = width * 4 <= most ? 4 : width * 2 <= most ? 2 : 1;
    struct quant_weights weights[QUANT_MAX_GROUPS];
    weigh(type, given, weights);
    for (uint32_t c = 0, g = 0; c < v->head_dim; g++) {
        uint32_t end = c + LAYOUT_GROUP_CHANNELS < v->head_dim ? c + LAYOUT_GROUP_CHANNELS : v->head_dim;
        for (; c + count * LANES <= end; c += count * LANES)
            v_quant_channels(width, type, count, v, c, &weights[g]);
        for (; c < end; c += LANES)
            v_quant_channels(width, type, 1, v, c, &weights[g]);
    }
}
