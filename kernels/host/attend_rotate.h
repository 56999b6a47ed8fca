/* attend_rotate.h - quant_rotate() on vectors, to the same bits: the stages within a vector by swapping lanes, the
 * others between vectors. Part of attend_spans.h. (Eight rotations belong to each step of a KV head with four query
 * heads, which in plain C take 3 % of attention over 4,096 rows in int4.) */

/* Each lane, or minus it where the lane's number has the bit, plus the lane whose number differs in that bit. */
INLINE vec rotate_stage(vec x, const uint32_t bit) {
    float signs[LANES];
    UNROLL for (uint32_t i = 0; i < LANES; i++) signs[i] = i & bit ? -1 : 1;
    return v_fma(x, v_load(signs), v_swapped(x, bit));
}

/* n is a power of two, 16 at least. */
static void rotate_block(float *x, uint32_t n) {
    for (uint32_t i = 0; i < n; i += LANES) {
        vec y = v_load(x + i);
        UNROLL for (uint32_t bit = 1; bit < LANES; bit *= 2) y = rotate_stage(y, bit);
        v_store(x + i, y);
    }
    for (uint32_t half = LANES; half < n; half *= 2)
        for (uint32_t i = 0; i < n; i += 2 * half)
            for (uint32_t j = i; j < i + half; j += LANES) {
                vec a = v_load(x + j), b = v_load(x + j + half);
                v_store(x + j, v_add(a, b));
                v_store(x + j + half, v_sub(a, b));
            }
    vec scale = v_set1(1 / sqrtf((float)n));
    for (uint32_t i = 0; i < n; i += LANES)
        v_store(x + i, v_mul(v_load(x + i), scale));
}

static void rotate(float *x, uint32_t head_dim) {
    for (uint32_t at = 0; at < head_dim;) {
        uint32_t n = 1u << (31 - __builtin_clz(head_dim - at));
        rotate_block(x + at, n);
        at += n;
    }
}
