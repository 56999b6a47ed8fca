/* attend_spans.h - the two phases of vector attention that read memory: K and V. See attend_vector.h for the whole.
 *
 * An inner loop is an inline function whose width (queries of the tile), dtype and count (vectors worked on at once)
 * are constants, so that its sums live in registers: count is the largest of 8 (V only), 4, 2, 1 with
 * width * count <= BUDGET.
 *
 * The next span is prefetched into the second-level cache while one is worked on: pages are scattered, and the
 * hardware's prefetcher starts anew in each (measured: twice as fast; into the first level, half of that gain).
 * A prefetch past the end of anything is harmless. */
#include "../quant.h"
#include "host.h"

#define TILE HOST_TILE_QUERIES
#define INLINE static inline __attribute__((always_inline))
#define PARTS (SCISSOR_BLOCK_ROWS / LANES) /* vectors in a block */
#ifdef __clang__
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

struct tile {
    const struct kernel_attend *item;
    uint32_t row, rows;   /* query rows row .. row + rows - 1 */
    uint32_t head, heads; /* query heads head .. head + heads - 1 of each */
    uint32_t width;
    uint32_t settled_blocks;
    float *q; /* [head_dim][width], scaled for exp2 */
    /* of quantised settled rows: the queries in the basis of their dtype, and their sums over the channels of a group
     */
    char *settled_q;       /* as quant_pack_query() leaves them, no larger than q */
    float *settled_sums;   /* [group][width] */
    float *settled_scales; /* [group][width] of the integers that they are in */
    float *out;            /* [width][head_dim] */
    float *logits;         /* [block][width][16], later probabilities */
    float *sums;           /* [block][16] sum over the heads of the tiles before, where heads are cut */
};

struct span {
    const char *k, *v;
    uint32_t rows;
    uint32_t dtype;
};

/* Fresh rows that query row `row` of the item sees. */
static uint32_t fresh_visible(const struct tile *tile, uint32_t row) {
    return tile->item->fresh_before + row + 1;
}

static uint32_t tile_fresh_rows(const struct tile *tile) {
    return fresh_visible(tile, tile->row + tile->rows - 1);
}

static struct span settled_span(const struct kernel_attend *item, uint32_t page) {
    const char *area = item->pages[page];
    uint32_t rest = item->settled_rows - page * SCISSOR_PAGE_ROWS;
    return (struct span){
        .k = area,
        .v = area + layout_page_v_offset(item->storage_dtype, item->head_dim),
        .rows = rest < SCISSOR_PAGE_ROWS ? rest : SCISSOR_PAGE_ROWS,
        .dtype = item->storage_dtype,
    };
}

/* 64 rows of the fresh buffer, cut off at `end`. */
static struct span fresh_span(const struct kernel_attend *item, uint32_t first, uint32_t end) {
    const char *area = item->fresh;
    uint32_t size = (uint32_t)kernel_dtype_size(item->compute_dtype);
    return (struct span){
        .k = area + layout_k_index(first, 0, item->head_dim) * size,
        .v = area + layout_v_offset(size, item->fresh_rows, item->head_dim) +
             layout_v_index(first, 0, item->head_dim) * size,
        .rows = end - first < SCISSOR_PAGE_ROWS ? end - first : SCISSOR_PAGE_ROWS,
        .dtype = item->compute_dtype,
    };
}

/* Spans of an item in order; `end` is the first fresh row that is not wanted. */
static uint32_t span_count(const struct kernel_attend *item, uint32_t end) {
    return layout_pages_of_rows(item->settled_rows) + layout_pages_of_rows(end);
}

static struct span span_at(const struct kernel_attend *item, uint32_t index, uint32_t end) {
    uint32_t pages = layout_pages_of_rows(item->settled_rows);
    return index < pages ? settled_span(item, index) : fresh_span(item, (index - pages) * SCISSOR_PAGE_ROWS, end);
}

/* First block of logits of a span. */
static uint32_t span_block(const struct tile *tile, uint32_t index) {
    uint32_t pages = layout_pages_of_rows(tile->item->settled_rows), blocks = SCISSOR_PAGE_ROWS / SCISSOR_BLOCK_ROWS;
    return index < pages ? index * blocks : tile->settled_blocks + (index - pages) * blocks;
}

INLINE vec load_as(uint32_t dtype, const char *p) {
    return dtype == KERNEL_F32 ? v_load((const float *)p) : dtype == KERNEL_F16 ? v_load_f16(p) : v_load_bf16(p);
}

/* ---------- K phase ---------- */

/* Logits of `count` vectors of rows, from vector `unit` of the span on; width, dtype and count are constants. */
INLINE void k_units(const uint32_t width, const uint32_t dtype, const uint32_t count, const char *k, uint32_t unit,
                    uint32_t head_dim, const float *q, float *logits, const char *ahead) {
    const size_t size = dtype == KERNEL_F32 ? 4 : 2, step = SCISSOR_BLOCK_ROWS * size;
    size_t at[4];
    vec sums[4][TILE];

    UNROLL for (uint32_t u = 0; u < count; u++) {
        at[u] = ((size_t)((unit + u) / PARTS) * head_dim * SCISSOR_BLOCK_ROWS + (unit + u) % PARTS * LANES) * size;
        UNROLL for (uint32_t t = 0; t < width; t++) sums[u][t] = v_zero();
    }
    for (uint32_t c = 0; c < head_dim; c++) {
        vec lane[4];
        UNROLL for (uint32_t u = 0; u < count; u++) {
            lane[u] = load_as(dtype, k + at[u] + c * step);
            __builtin_prefetch(ahead + at[u] + c * step, 0, 2);
        }
        UNROLL for (uint32_t t = 0; t < width; t++) {
            vec x = v_set1(q[c * width + t]);
            UNROLL for (uint32_t u = 0; u < count; u++) sums[u][t] = v_fma(x, lane[u], sums[u][t]);
        }
    }
    UNROLL for (uint32_t u = 0; u < count; u++) {
        float *to = logits + (size_t)((unit + u) / PARTS) * width * SCISSOR_BLOCK_ROWS + (unit + u) % PARTS * LANES;
        UNROLL for (uint32_t t = 0; t < width; t++) v_store(to + t * SCISSOR_BLOCK_ROWS, sums[u][t]);
    }
}

INLINE void k_span_of(const uint32_t width, const uint32_t dtype, const struct span *span, uint32_t head_dim,
                      const float *q, float *logits, const char *ahead) {
    const uint32_t count = width * 4 <= BUDGET ? 4 : width * 2 <= BUDGET ? 2 : 1;
    uint32_t units = (span->rows + SCISSOR_BLOCK_ROWS - 1) / SCISSOR_BLOCK_ROWS * PARTS, u = 0;
    for (; u + count <= units; u += count)
        k_units(width, dtype, count, span->k, u, head_dim, q, logits, ahead);
    for (; u < units; u++)
        k_units(width, dtype, 1, span->k, u, head_dim, q, logits, ahead);
}

/* ---------- V phase ---------- */

/* Adds the first `rows` rows of V, weighted, to `count` vectors of channels of each query. */
INLINE void v_channels(const uint32_t width, const uint32_t dtype, const uint32_t count, const char *v, uint32_t rows,
                       uint32_t first, uint32_t head_dim, const float *p, float *out, const char *ahead) {
    const size_t size = dtype == KERNEL_F32 ? 4 : 2;
    vec sums[TILE][8];

    UNROLL for (uint32_t t = 0; t < width; t++) {
        UNROLL for (uint32_t n = 0; n < count; n++) sums[t][n] = v_load(out + t * head_dim + first + n * LANES);
    }
    v += first * size;
    ahead +=
        (size_t)first * SCISSOR_PAGE_ROWS * size; /* the next span in its own order, a chunk of it for each of ours */
    for (uint32_t j = 0; j < rows; j++) {
        const float *weight =
            p + (size_t)(j / SCISSOR_BLOCK_ROWS) * width * SCISSOR_BLOCK_ROWS + j % SCISSOR_BLOCK_ROWS;
        vec lane[8];
        UNROLL for (uint32_t n = 0; n < count; n++) lane[n] = load_as(dtype, v + n * LANES * size);
        UNROLL for (uint32_t n = 0; n < count * LANES * size; n += 64) __builtin_prefetch(ahead + n, 0, 2);
        UNROLL for (uint32_t t = 0; t < width; t++) {
            vec x = v_set1(weight[t * SCISSOR_BLOCK_ROWS]);
            UNROLL for (uint32_t n = 0; n < count; n++) sums[t][n] = v_fma(x, lane[n], sums[t][n]);
        }
        v += head_dim * size;
        ahead += count * LANES * size;
    }
    UNROLL for (uint32_t t = 0; t < width; t++) {
        UNROLL for (uint32_t n = 0; n < count; n++) v_store(out + t * head_dim + first + n * LANES, sums[t][n]);
    }
}

INLINE void v_span_of(const uint32_t width, const uint32_t dtype, const struct span *span, uint32_t head_dim,
                      const float *p, float *out, const char *ahead) {
    const uint32_t count = width * 8 <= BUDGET ? 8 : width * 4 <= BUDGET ? 4 : width * 2 <= BUDGET ? 2 : 1;
    uint32_t c = 0;
    for (; c + count * LANES <= head_dim; c += count * LANES)
        v_channels(width, dtype, count, span->v, span->rows, c, head_dim, p, out, ahead);
    for (; c < head_dim; c += LANES)
        v_channels(width, dtype, 1, span->v, span->rows, c, head_dim, p, out, ahead);
}

/* ---------- one function for each width, dtype and phase ---------- */

typedef void (*span_fn)(const struct span *span, uint32_t head_dim, const float *in, float *out, const char *ahead);

#define SPAN_FUNCTION(width, dtype)                                                                                 \
    static void k_span_##width##_##dtype(const struct span *span, uint32_t head_dim, const float *q, float *logits, \
                                         const char *ahead) {                                                       \
        k_span_of(width, dtype, span, head_dim, q, logits, ahead);                                                  \
    }                                                                                                               \
    static void v_span_##width##_##dtype(const struct span *span, uint32_t head_dim, const float *p, float *out,    \
                                         const char *ahead) {                                                       \
        v_span_of(width, dtype, span, head_dim, p, out, ahead);                                                     \
    }
#define SPAN_WIDTHS(X, arg) X(1, arg) X(2, arg) X(3, arg) X(4, arg) X(6, arg) X(8, arg) X(10, arg) X(12, arg)
SPAN_WIDTHS(SPAN_FUNCTION, KERNEL_F32)
SPAN_WIDTHS(SPAN_FUNCTION, KERNEL_F16)
SPAN_WIDTHS(SPAN_FUNCTION, KERNEL_BF16)

static const uint8_t widths[TILE + 1] = {0, 1, 2, 3, 4, 6, 6, 8, 8, 10, 10, 12, 12};

#define K_ENTRY(width, dtype) [width] = k_span_##width##_##dtype,
#define V_ENTRY(width, dtype) [width] = v_span_##width##_##dtype,
static const span_fn k_spans[KERNEL_ELEMENT_DTYPES][TILE + 1] = {
    [KERNEL_F32] = {SPAN_WIDTHS(K_ENTRY, KERNEL_F32)},
    [KERNEL_F16] = {SPAN_WIDTHS(K_ENTRY, KERNEL_F16)},
    [KERNEL_BF16] = {SPAN_WIDTHS(K_ENTRY, KERNEL_BF16)},
};
static const span_fn v_spans[KERNEL_ELEMENT_DTYPES][TILE + 1] = {
    [KERNEL_F32] = {SPAN_WIDTHS(V_ENTRY, KERNEL_F32)},
    [KERNEL_F16] = {SPAN_WIDTHS(V_ENTRY, KERNEL_F16)},
    [KERNEL_BF16] = {SPAN_WIDTHS(V_ENTRY, KERNEL_BF16)},
};

/* ---------- quantised pages ---------- */

struct k_quant {
    const char *half, *ahead; /* of this page, and of the next, which is fetched meanwhile */
    uint32_t head_dim;
    const char *q;       /* as quant_pack_query() has left it */
    const float *sums;   /* [group][width] of q over the group's channels */
    const float *scales; /* [group][width] of the integers that q is in */
    float *logits;
};

struct v_quant {
    const char *half, *ahead;
    uint32_t rows, head_dim;
    const float *p;                    /* [block][width][16] */
    float *out;                        /* [width][head_dim] */
    const struct detail_rows *details; /* whose weights are theirs, or NULL */
    const char *const *detail_codes;   /* of each 16 of them */
};

/* Constants of a code type: codes in a lane of a unit, and what the K phase takes at once: units, codes of a lane. Of
 * int5 and int3, the unit with the lowest bits comes to them. */
#define CODES_OF(type) ((type) == KERNEL_INT8 ? 4u : (type) == KERNEL_INT3 || (type) == KERNEL_INT2 ? 16u : 8u)
#define K_UNITS_OF(type) ((type) == KERNEL_INT5 ? 2u : 1u)
#define K_CODES_OF(type) (K_UNITS_OF(type) * CODES_OF(type))

#include "attend_quant.h"
#include "attend_rotate.h"

typedef void (*k_quant_fn)(const struct k_quant *k, uint32_t rows);
typedef void (*v_quant_fn)(const struct v_quant *v);

#include "attend_details.h"

#define K_QUANT_FUNCTION(width, type)                                              \
    static void k_quant_##width##_##type(const struct k_quant *k, uint32_t rows) { \
        k_quant_of(width, type, k, rows);                                          \
    }
#define V_QUANT_FUNCTION(width, type)                               \
    static void v_quant_##width##_##type(const struct v_quant *v) { \
        v_quant_of(width, type, v_weights_##width, v);              \
    }
/* Fewer widths, as the compiler takes its time with each; an item is worked on in one width throughout. */
#define QUANT_WIDTHS(X, arg) X(1, arg) X(2, arg) X(3, arg) X(4, arg) X(8, arg) X(12, arg)
static const uint8_t quant_widths[TILE + 1] = {0, 1, 2, 3, 4, 8, 8, 8, 8, 12, 12, 12, 12};
/* By themselves, or what they keep in registers takes those of the sums. */
#define V_WEIGHTS_FUNCTION(width, unused)                                                           \
    static __attribute__((noinline)) void v_weights_##width(uint32_t type, const struct v_quant *v, \
                                                            struct quant_weights *ret) {            \
        if (v->details)                                                                             \
            v_detail_weights(width, v, ret);                                                        \
        else                                                                                        \
            v_quant_weights(width, type, v, ret);                                                   \
    }
QUANT_WIDTHS(V_WEIGHTS_FUNCTION, 0)
QUANT_WIDTHS(K_QUANT_FUNCTION, KERNEL_INT8)
QUANT_WIDTHS(K_QUANT_FUNCTION, KERNEL_INT5)
QUANT_WIDTHS(K_QUANT_FUNCTION, KERNEL_INT4)
QUANT_WIDTHS(K_QUANT_FUNCTION, KERNEL_INT3)
QUANT_WIDTHS(V_QUANT_FUNCTION, KERNEL_INT8)
QUANT_WIDTHS(V_QUANT_FUNCTION, KERNEL_INT4)
QUANT_WIDTHS(V_QUANT_FUNCTION, KERNEL_INT2)

#define K_QUANT_ENTRY(width, type) [width] = k_quant_##width##_##type,
#define V_QUANT_ENTRY(width, type) [width] = v_quant_##width##_##type,
static const k_quant_fn k_quants[KERNEL_DTYPE_COUNT][TILE + 1] = {
    [KERNEL_INT8] = {QUANT_WIDTHS(K_QUANT_ENTRY, KERNEL_INT8)},
    [KERNEL_INT4] = {QUANT_WIDTHS(K_QUANT_ENTRY, KERNEL_INT4)},
    [KERNEL_K5V4] = {QUANT_WIDTHS(K_QUANT_ENTRY, KERNEL_INT5)},
    [KERNEL_FADE] = {QUANT_WIDTHS(K_QUANT_ENTRY, KERNEL_INT3)},
};
static const v_quant_fn v_quants[KERNEL_DTYPE_COUNT][TILE + 1] = {
    [KERNEL_INT8] = {QUANT_WIDTHS(V_QUANT_ENTRY, KERNEL_INT8)},
    [KERNEL_INT4] = {QUANT_WIDTHS(V_QUANT_ENTRY, KERNEL_INT4)},
    [KERNEL_K5V4] = {QUANT_WIDTHS(V_QUANT_ENTRY, KERNEL_INT4)},
    [KERNEL_FADE] = {QUANT_WIDTHS(V_QUANT_ENTRY, KERNEL_INT2)},
};

static bool is_quantised(uint32_t dtype) {
    return dtype >= KERNEL_ELEMENT_DTYPES;
}

static void k_span(const struct tile *tile, const struct span *span, float *logits, const char *ahead) {
    if (!is_quantised(span->dtype)) {
        k_spans[span->dtype][tile->width](span, tile->item->head_dim, tile->q, logits, ahead);
        return;
    }
    struct k_quant k = {span->k, ahead, tile->item->head_dim, tile->settled_q, tile->settled_sums, tile->settled_scales,
                        logits};
    k_quants[span->dtype][tile->width](&k, span->rows);
}

/* All of a span's K or V: where nothing that is worked on meanwhile has the same order. */
INLINE void prefetch_half(const char *half, size_t bytes) {
    for (size_t at = 0; at < bytes; at += 64)
        __builtin_prefetch(half + at, 0, 2);
}

static size_t k_bytes(const struct span *span, uint32_t head_dim) {
    return is_quantised(span->dtype) ? layout_half_bytes(layout_k_type(span->dtype), head_dim)
                                     : (size_t)span->rows * head_dim * kernel_dtype_size(span->dtype);
}

static size_t v_bytes(const struct span *span, uint32_t head_dim) {
    return is_quantised(span->dtype) ? layout_half_bytes(layout_v_type(span->dtype), head_dim)
                                     : (size_t)span->rows * head_dim * kernel_dtype_size(span->dtype);
}

INLINE void prefetch_first(const struct tile *tile) {
    struct span span = span_at(tile->item, 0, tile_fresh_rows(tile));
    prefetch_half(span.k, k_bytes(&span, tile->item->head_dim));
}

static void k_phase(const struct tile *tile) {
    const struct kernel_attend *item = tile->item;
    uint32_t end = tile_fresh_rows(tile), count = span_count(item, end);
    struct details details = details_of(item, false);
    struct span span = span_at(item, 0, end);
    for (uint32_t i = 0; i < count; i++) {
        struct span next = span_at(item, i + 1 < count ? i + 1 : 0, end); /* after the last K, the first V */
        float *logits = tile->logits + (size_t)span_block(tile, i) * tile->width * SCISSOR_BLOCK_ROWS;
        details_fetch(&details, i);
        if (next.dtype != span.dtype)
            prefetch_half(i + 1 < count ? next.k : next.v, (i + 1 < count ? k_bytes : v_bytes)(&next, item->head_dim));
        k_span(tile, &span, logits, i + 1 < count ? next.k : next.v);
        span = next;
    }
    k_details(tile, &details);
}

/* Adds one row of V to one query. */
static void v_row(const struct span *span, uint32_t row, uint32_t head_dim, float p, float *out) {
    const size_t size = kernel_dtype_size(span->dtype);
    const char *v = span->v + layout_v_index(row, 0, head_dim) * size;
    for (uint32_t c = 0; c < head_dim; c += LANES)
        v_store(out + c, v_fma(v_set1(p), load_as(span->dtype, v + c * size), v_load(out + c)));
}

/* The fresh rows from `first` on, which not all of the tile's queries see. */
static void v_causal_rows(const struct tile *tile, uint32_t first) {
    const struct kernel_attend *item = tile->item;
    for (uint32_t j = first; j < tile_fresh_rows(tile); j++) {
        struct span span = fresh_span(item, j, j + 1);
        const float *p = tile->logits +
                         (size_t)(tile->settled_blocks + j / SCISSOR_BLOCK_ROWS) * tile->width * SCISSOR_BLOCK_ROWS +
                         j % SCISSOR_BLOCK_ROWS;
        for (uint32_t r = j - item->fresh_before - tile->row; r < tile->rows; r++)
            for (uint32_t t = r * tile->heads; t < (r + 1) * tile->heads; t++)
                v_row(&span, 0, item->head_dim, p[t * SCISSOR_BLOCK_ROWS], tile->out + (size_t)t * item->head_dim);
    }
}

static void v_span(const struct tile *tile, const struct span *span, const float *p, const char *ahead) {
    if (!is_quantised(span->dtype)) {
        v_spans[span->dtype][tile->width](span, tile->item->head_dim, p, tile->out, ahead);
        return;
    }
    struct v_quant v = {span->v, ahead, span->rows, tile->item->head_dim, p, tile->out, NULL, NULL};
    v_quants[span->dtype][tile->width](&v);
}

static void rotate_outputs(const struct tile *tile) {
    for (uint32_t t = 0; t < tile->rows * tile->heads; t++)
        rotate(tile->out + (size_t)t * tile->item->head_dim, tile->item->head_dim);
}

static void v_phase(const struct tile *tile) {
    const struct kernel_attend *item = tile->item;
    uint32_t end = fresh_visible(tile, tile->row), count = span_count(item, end);
    struct details details = details_of(item, true);
    uint32_t pages = layout_pages_of_rows(item->settled_rows);
    struct span span = span_at(item, 0, end);
    memset(tile->out, 0, sizeof(float) * tile->width * item->head_dim);
    for (uint32_t i = 0; i < count; i++) {
        struct span next = i + 1 < count ? span_at(item, i + 1, end) : span;
        const float *p = tile->logits + (size_t)span_block(tile, i) * tile->width * SCISSOR_BLOCK_ROWS;
        details_fetch(&details, i);
        if (next.dtype != span.dtype)
            prefetch_half(next.v, v_bytes(&next, item->head_dim));
        v_span(tile, &span, p, next.v);
        if (i + 1 == pages)
            v_details(tile, &details, v_quants[item->storage_dtype][tile->width]);
        if (i + 1 == pages && layout_is_rotated(item->storage_dtype))
            rotate_outputs(tile); /* what is added from here on is not rotated */
        span = next;
    }
    v_causal_rows(tile, end);
}
