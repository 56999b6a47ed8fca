/* attend_details.h - the detail slots of settled rows (layout.h) in both phases of vector attention. Part of
 * attend_spans.h.
 *
 * When the settled rows are done without them, the detail slots of four pages are worked on as if they were a page of
 * rows more, of codes in 2 bits:
 *
 *     K: what comes to the owner's logit:   scale / 4 * ((sum of q * code) - 1.5 * (sum of q))
 *     V: what comes to the outputs:         (sum of w * code) - 1.5 * (sum of w), w = p * scale / 4
 *
 * where scale and p are the owner's, which are gathered one by one: owners may be anywhere. A slot whose owner is none
 * of the settled rows has 0 for them, and its codes, whatever they are, come to nothing.
 *
 * What is gathered is not where the hardware would look for it: pages' details are fetched with the walk over the
 * pages, and the scales of their owners four pages ahead. */

#define DETAIL_PAGES (SCISSOR_PAGE_ROWS / LAYOUT_PAGE_DETAILS) /* that are worked on at once */
#define DETAIL_ROWS SCISSOR_PAGE_ROWS

/* Where a phase finds what it needs within any page. */
struct details {
    const struct kernel_attend *item;
    uint32_t groups;
    size_t codes, owners, scales;
    size_t bytes; /* of the codes */
};

/* The detail slots of some pages, one after another. */
struct detail_rows {
    const char *codes[DETAIL_PAGES]; /* of pages that are not there: those of another one, whose slots have no owner */
    uint32_t count;                  /* slots with an owner: */
    uint32_t slot[DETAIL_ROWS], row[DETAIL_ROWS];   /* [count] which they are, and their owners */
    uint16_t scales[QUANT_MAX_GROUPS][DETAIL_ROWS]; /* f16, 0 without an owner */
    float p[TILE][DETAIL_ROWS];                     /* the same, V phase only */
};

static struct details details_of(const struct kernel_attend *item, bool v) {
    uint32_t dtype = item->storage_dtype, d = item->head_dim;
    return (struct details){
        .item = item,
        .groups = layout_groups(d),
        .codes = v ? layout_detail_v_offset(dtype, d) : layout_detail_k_offset(dtype, d),
        .bytes = layout_detail_code_bytes(d),
        .owners = layout_detail_owner_offset(dtype, d),
        .scales = v ? layout_page_v_offset(dtype, d) + layout_scale_offset(layout_v_type(dtype), 0, 0, d)
                    : layout_scale_offset(layout_k_type(dtype), 0, 0, d),
    };
}

/* Pages whose detail slots may have an owner. */
static uint32_t detail_pages(const struct kernel_attend *item) {
    return item->settled_rows ? item->detail_pages : 0;
}

static uint32_t detail_owner(const struct details *at, uint32_t page, uint32_t slot) {
    uint32_t owner;
    memcpy(&owner, (const char *)at->item->pages[page] + at->owners + slot * sizeof owner, sizeof owner);
    return owner - 1; /* none becomes the largest number */
}

/* The first group's scale of a row; the others are 64 bytes apart. */
static const char *row_scales(const struct details *at, uint32_t row) {
    uint32_t slot = row % SCISSOR_PAGE_ROWS;
    return (const char *)at->item->pages[row / SCISSOR_PAGE_ROWS] + at->scales +
           (size_t)(slot / SCISSOR_BLOCK_ROWS) * at->groups * 64 + slot % SCISSOR_BLOCK_ROWS * 2;
}

/* Fetches the details of a page, for later: the walk over the pages takes it as a part of them. (Inline, as gcc leaves
 * out the call of a function that does nothing else.) */
INLINE void details_fetch(const struct details *at, uint32_t page) {
    if (page >= detail_pages(at->item))
        return;
    const char *codes = (const char *)at->item->pages[page] + at->codes;
    for (size_t i = 0; i < at->bytes; i += 64)
        __builtin_prefetch(codes + i, 0, 2);
    __builtin_prefetch(codes - at->codes + at->owners, 0, 2);
}

/* Fetches the scales of the owners of a page's detail slots. */
INLINE void scales_fetch(const struct details *at, uint32_t page) {
    for (uint32_t i = 0; page < detail_pages(at->item) && i < LAYOUT_PAGE_DETAILS; i++) {
        uint32_t row = detail_owner(at, page, i);
        for (uint32_t g = 0; row < at->item->settled_rows && g < at->groups; g++)
            __builtin_prefetch(row_scales(at, row) + (size_t)g * 64, 0, 3);
    }
}

/* From page `first` on, while the scales of the next ones are fetched. */
static void details_gather(const struct details *at, uint32_t first, struct detail_rows *ret) {
    ret->count = 0;
    memset(ret->scales, 0, sizeof *ret->scales * at->groups);
    for (uint32_t n = 0; n < DETAIL_PAGES; n++) {
        bool there = first + n < detail_pages(at->item);
        ret->codes[n] = (const char *)at->item->pages[there ? first + n : first] + at->codes;
        scales_fetch(at, first + n + DETAIL_PAGES);
        for (uint32_t i = 0; there && i < LAYOUT_PAGE_DETAILS; i++) {
            uint32_t row = detail_owner(at, first + n, i), slot = n * LAYOUT_PAGE_DETAILS + i;
            if (row >= at->item->settled_rows)
                continue;
            const char *scales = row_scales(at, row);
            for (uint32_t g = 0; g < at->groups; g++)
                memcpy(&ret->scales[g][slot], scales + (size_t)g * 64, sizeof(uint16_t));
            ret->slot[ret->count] = slot;
            ret->row[ret->count++] = row;
        }
    }
}

/* A vector of the slots' scales, a fourth of their owners'. */
INLINE vec detail_scales(const struct detail_rows *rows, uint32_t group, uint32_t vector) {
    return v_mul(v_load_f16((const char *)(rows->scales[group] + vector * LANES)), v_set1(0.25f));
}

/* The logit of a row under the tile's first query; the next query's is a block further on. */
static float *row_logits(const struct tile *tile, uint32_t row) {
    return tile->logits + (size_t)(row / SCISSOR_BLOCK_ROWS) * tile->width * SCISSOR_BLOCK_ROWS +
           row % SCISSOR_BLOCK_ROWS;
}

/* ---------- K phase ---------- */

/* One group's part of what comes to the logits of `width` queries, from query `first` on, for `count` vectors of rows
 * from `vector` on. */
INLINE void k_details_group(const uint32_t width, const uint32_t count, const struct tile *tile,
                            const struct detail_rows *rows, uint32_t first, uint32_t vector, uint32_t group,
                            float (*logits)[DETAIL_ROWS]) {
    uint32_t channel = group * LAYOUT_GROUP_CHANNELS, rest = tile->item->head_dim - channel;
    uint32_t steps = (rest < LAYOUT_GROUP_CHANNELS ? rest : LAYOUT_GROUP_CHANNELS) / CODES_OF(KERNEL_INT2);
    const char *q = tile->settled_q + ((size_t)channel / 4 * tile->width + first) * QUARTET_BYTES;
    vec_int sums[4][TILE][DOT_SUMS];

    zero_sums(width, count, sums);
    for (uint32_t step = 0; step < steps; step++) {
        const char *unit[4];
        vec_int low[4];
        UNROLL for (uint32_t u = 0; u < count; u++) {
            unit[u] = rows->codes[(vector + u) / PARTS] + (channel / CODES_OF(KERNEL_INT2) + step) * 64 +
                      (vector + u) % PARTS * LANES * 4;
            low[u] = v_int_zero();
        }
        add_products(width, KERNEL_INT2, count, 4, unit, low, q, tile->width * QUARTET_BYTES, QUARTET_BYTES, sums);
        q += 4 * tile->width * QUARTET_BYTES;
    }
    UNROLL for (uint32_t u = 0; u < count; u++) {
        vec scale = detail_scales(rows, group, vector + u);
        UNROLL for (uint32_t t = 0; t < width; t++) {
            uint32_t at = group * tile->width + first + t;
            float *to = logits[t] + (vector + u) * LANES;
            vec middle = v_set1(-1.5f * tile->settled_sums[at]);
            vec sum = v_fma(v_joined(sums[u][t]), v_set1(tile->settled_scales[at]), middle);
            v_store(to, v_fma(scale, sum, group ? v_load(to) : v_zero()));
        }
    }
}

INLINE void k_details_of(const uint32_t width, const struct tile *tile, const struct detail_rows *rows,
                         uint32_t first) {
    const uint32_t most = BUDGET / DOT_SUMS, count = width * 4 <= most ? 4 : width * 2 <= most ? 2 : 1;
    float logits[TILE][DETAIL_ROWS];
    for (uint32_t g = 0; g < layout_groups(tile->item->head_dim); g++)
        for (uint32_t u = 0; u < DETAIL_ROWS / LANES; u += count)
            k_details_group(width, count, tile, rows, first, u, g, logits);
    for (uint32_t i = 0; i < rows->count; i++) {
        float *to = row_logits(tile, rows->row[i]) + (size_t)first * SCISSOR_BLOCK_ROWS;
        UNROLL for (uint32_t t = 0; t < width; t++) to[t * SCISSOR_BLOCK_ROWS] += logits[t][rows->slot[i]];
    }
}

/* Some queries at once, whatever the tile's width is, as the compiler takes its time with each number of them. */
static void k_details(const struct tile *tile, const struct details *at) {
    for (uint32_t page = 0; page < detail_pages(tile->item); page += DETAIL_PAGES) {
        struct detail_rows rows;
        uint32_t t = 0;
        details_gather(at, page, &rows);
        if (!rows.count)
            continue;
        for (; t + 4 <= tile->width; t += 4)
            k_details_of(4, tile, &rows, t);
        for (; t < tile->width; t++)
            k_details_of(1, tile, &rows, t);
    }
}

/* ---------- V phase ---------- */

/* What the slots weigh for a query in a group. */
INLINE void v_detail_weigh(const struct detail_rows *rows, uint32_t t, const vec *scales, struct quant_weights *ret) {
    vec weights[DETAIL_ROWS / LANES], most = v_zero(), sum = v_zero();
    UNROLL for (uint32_t u = 0; u < DETAIL_ROWS / LANES; u++) {
        weights[u] = v_mul(v_load(rows->p[t] + u * LANES), scales[u]);
        most = v_max(weights[u], most);
        sum = v_add(sum, weights[u]);
    }
    float inverse = whole_inverse(v_max_across(most));
    UNROLL for (uint32_t u = 0; u < DETAIL_ROWS / LANES; u += PARTS) {
        vec x[PARTS];
        UNROLL for (uint32_t i = 0; i < PARTS; i++) x[i] = v_mul(weights[u + i], v_set1(inverse));
        v_factors(x, ret->factors[t][u * LANES / 4]);
    }
    ret->scale[t] = inverse > 0 ? 1 / inverse : 0;
    ret->offset[t] = -1.5f * v_sum_across(sum);
}

/* In place of v_quant_weights(). */
static __attribute__((noinline)) void v_detail_weights(uint32_t width, const struct v_quant *v,
                                                       struct quant_weights *ret) {
    for (uint32_t g = 0; g < layout_groups(v->head_dim); g++) {
        vec scales[DETAIL_ROWS / LANES];
        UNROLL for (uint32_t u = 0; u < DETAIL_ROWS / LANES; u++) scales[u] = detail_scales(v->details, g, u);
        for (uint32_t t = 0; t < width; t++)
            v_detail_weigh(v->details, t, scales, &ret[g]);
    }
}

static void gather_weights(const struct tile *tile, struct detail_rows *rows) {
    memset(rows->p, 0, sizeof *rows->p * tile->width);
    for (uint32_t i = 0; i < rows->count; i++) {
        const float *p = row_logits(tile, rows->row[i]);
        for (uint32_t t = 0; t < tile->width; t++)
            rows->p[t][rows->slot[i]] = p[t * SCISSOR_BLOCK_ROWS];
    }
}

/* `add` is the function of the dtype's V halves. */
static void v_details(const struct tile *tile, const struct details *at, v_quant_fn add) {
    for (uint32_t page = 0; page < detail_pages(tile->item); page += DETAIL_PAGES) {
        struct detail_rows rows;
        details_gather(at, page, &rows);
        if (!rows.count)
            continue;
        gather_weights(tile, &rows);
        struct v_quant v = {rows.codes[0], rows.codes[0], DETAIL_ROWS, tile->item->head_dim,
                            NULL,          tile->out,     &rows,       rows.codes};
        add(&v);
    }
}
