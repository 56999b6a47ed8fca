/* attend_vector.h - attention over one KV head, written once for every vector width.
 *
 * Included by attend_avx2.c, attend_avx512.c and attend_vnni.c after they have defined `vec` (LANES floats), `vec_int`,
 * `vec_mask`, the v_* operations used here (attend_quant.h describes those on integers), BUDGET (accumulators that fit
 * the registers) and ATTEND (the function's name). Everything is static; the file that includes this one is compiled
 * for its instruction set.
 *
 * Queries. The (row, query head) pairs of an item are cut into tiles of up to TILE queries: several rows of all heads,
 * or a part of the heads of one row. A tile's K and V elements are loaded and converted once for all of its queries.
 * The number of queries is rounded up to a `width` that inner loops exist for; what the padding computes is never
 * looked at.
 *
 * Rows. Settled pages and pieces of the fresh buffer are walked alike, as spans of up to 64 rows. The workspace holds
 * a tile's logits as [block of 16 rows][width][16]: settled blocks first, then fresh ones, so that every address in
 * the inner loops is a constant away from one pointer. The last block of each kind may be partly used.
 *
 *   K phase   a lane is a row: logits += q[c] * K[c][lanes], no horizontal sums
 *   softmax   per query; lanes that it cannot see are set to -inf first: whatever lies there, NaN too, ends here
 *   scores    the planes, from the mean over the heads
 *   V phase   a lane is a channel: out += p[row] * V[row][lanes]; only rows that all queries of the tile see are
 *             shared, the last few are added for each query that sees them (0 * NaN would not be 0) */
#include <math.h>

#include "attend_spans.h"

/* Rows of a block, from its vector `part` on, that a query sees which sees `fresh` fresh rows. May be 0, or more than
 * a vector holds. */
static uint32_t lanes_of(const struct tile *tile, uint32_t block, uint32_t part, uint32_t fresh) {
    uint32_t first = block * SCISSOR_BLOCK_ROWS, end = tile->item->settled_rows;
    if (block >= tile->settled_blocks) {
        first -= tile->settled_blocks * SCISSOR_BLOCK_ROWS;
        end = fresh;
    }
    first += part * LANES;
    return first < end ? end - first : 0;
}

static uint32_t block_count(const struct tile *tile, uint32_t fresh) {
    return tile->settled_blocks + (fresh + SCISSOR_BLOCK_ROWS - 1) / SCISSOR_BLOCK_ROWS;
}

/* What query t does not see of the last block of settled rows and of the last one of fresh rows becomes -inf. */
static void mask_logits(const struct tile *tile, uint32_t t, uint32_t fresh) {
    uint32_t ends[2] = {tile->settled_blocks, block_count(tile, fresh)};
    for (uint32_t i = 0; i < 2; i++)
        for (uint32_t part = 0; part < PARTS && ends[i]; part++) {
            float *at = tile->logits + ((size_t)(ends[i] - 1) * tile->width + t) * SCISSOR_BLOCK_ROWS + part * LANES;
            uint32_t lanes = lanes_of(tile, ends[i] - 1, part, fresh);
            v_store(at, v_select(v_first(lanes < LANES ? lanes : LANES), v_load(at), v_set1(-INFINITY)));
        }
}

/* Logits to probabilities for query t of the tile. */
static void softmax(const struct tile *tile, uint32_t t, uint32_t fresh) {
    const size_t step = (size_t)tile->width * SCISSOR_BLOCK_ROWS;
    float *first = tile->logits + t * SCISSOR_BLOCK_ROWS, *end = first + block_count(tile, fresh) * step;
    vec max = v_set1(-INFINITY), sum = v_zero();

    mask_logits(tile, t, fresh);
    for (float *at = first; at < end; at += step) {
        UNROLL for (uint32_t part = 0; part < PARTS; part++) max = v_max(v_load(at + part * LANES), max);
    }
    max = v_set1(v_max_across(max));
    for (float *at = first; at < end; at += step) {
        UNROLL for (uint32_t part = 0; part < PARTS; part++) {
            vec p = v_exp2(v_sub(v_load(at + part * LANES), max));
            v_store(at + part * LANES, p);
            sum = v_add(sum, p);
        }
    }
    vec scale = v_set1(1.0f / v_sum_across(sum));
    for (float *at = first; at < end; at += step) {
        UNROLL for (uint32_t part = 0; part < PARTS; part++)
            v_store(at + part * LANES, v_mul(v_load(at + part * LANES), scale));
    }
}

/* Adds the mean probability of up to LANES rows, from row j on, to the planes. */
static void add_planes(const struct kernel_attend *item, size_t j, uint32_t lanes, vec mean, vec threshold,
                       bool newest) {
    if (lanes >= LANES && item->mass && !item->hits && !item->last) { /* masks are slow where stores have none */
        v_store(item->mass + j, v_add(v_load(item->mass + j), mean));
        return;
    }
    vec_mask mask = v_first(lanes < LANES ? lanes : LANES);
    if (item->mass)
        v_store_masked(item->mass + j, mask, v_add(v_load_masked(item->mass + j, mask), mean));
    if (item->hits)
        v_store_masked(item->hits + j, mask,
                       v_add(v_load_masked(item->hits + j, mask), v_one_where_ge(mean, threshold)));
    if (item->last && newest)
        v_store_masked(item->last + j, mask, mean);
}

/* Scores of one query row of the tile. Where the heads of a row are cut, the sums are kept until its last part. */
static void add_scores(const struct tile *tile, uint32_t r) {
    const struct kernel_attend *item = tile->item;
    uint32_t row = tile->row + r, fresh = fresh_visible(tile, row), blocks = block_count(tile, fresh);
    bool first = tile->head == 0, last = tile->head + tile->heads == item->q_heads;
    size_t visible = (size_t)item->settled_rows + fresh;
    double rows = item->threshold == KERNEL_THRESHOLD_SEEN ? (double)(item->seen + row + 1) : (double)visible;
    vec threshold = v_set1((float)(1.0 / rows)), heads = v_set1((float)item->q_heads);

    for (uint32_t b = 0; b < blocks; b++)
        for (uint32_t part = 0; part < PARTS; part++) {
            const float *p =
                tile->logits + ((size_t)b * tile->width + (size_t)r * tile->heads) * SCISSOR_BLOCK_ROWS + part * LANES;
            float *kept = tile->sums + (size_t)b * SCISSOR_BLOCK_ROWS + part * LANES;
            vec sum = first ? v_zero() : v_load(kept);
            for (uint32_t h = 0; h < tile->heads; h++)
                sum = v_add(sum, v_load(p + h * SCISSOR_BLOCK_ROWS));
            if (!last) {
                v_store(kept, sum);
                continue;
            }
            uint32_t lanes = lanes_of(tile, b, part, fresh);
            size_t j = (size_t)b * SCISSOR_BLOCK_ROWS + part * LANES;
            if (b >= tile->settled_blocks)
                j = j - (size_t)tile->settled_blocks * SCISSOR_BLOCK_ROWS + item->settled_rows;
            if (lanes)
                add_planes(item, j, lanes, v_div(sum, heads), threshold, row == item->rows - 1);
        }
}

/* The tile's queries side by side, zero in the padding. The base of the softmax is 2, so log2(e) goes in here. */
static void pack_queries(const struct tile *tile) {
    const struct kernel_attend *item = tile->item;
    const float scale = item->scale * 1.44269504f;
    uint32_t queries = tile->rows * tile->heads;
    for (uint32_t t = 0; t < tile->width; t++) {
        const float *q = item->q + (tile->row + t / tile->heads) * item->q_row_stride +
                         (size_t)(tile->head + t % tile->heads) * item->head_dim;
        for (uint32_t c = 0; c < item->head_dim; c++)
            tile->q[c * tile->width + t] = t < queries ? q[c] * scale : 0;
    }
}

static void pack_settled_queries(const struct tile *tile) {
    uint32_t d = tile->item->head_dim, width = tile->width;
    float query[HOST_MAX_HEAD_DIM];
    for (uint32_t t = 0; t < width; t++) {
        for (uint32_t c = 0; c < d; c++)
            query[c] = tile->q[c * width + t];
        if (layout_is_rotated(tile->item->storage_dtype))
            rotate(query, d);
        for (uint32_t g = 0, c = 0; g < layout_groups(d); g++) {
            float sum = 0;
            for (uint32_t end = c + LAYOUT_GROUP_CHANNELS; c < end && c < d; c++)
                sum += query[c];
            tile->settled_sums[g * width + t] = sum;
        }
        quant_pack_query(tile, t, query);
    }
}

static void unpack_outputs(const struct tile *tile) {
    const struct kernel_attend *item = tile->item;
    for (uint32_t r = 0; r < tile->rows; r++)
        memcpy(item->out + (tile->row + r) * item->q_row_stride + (size_t)tile->head * item->head_dim,
               tile->out + (size_t)r * tile->heads * item->head_dim, sizeof(float) * tile->heads * item->head_dim);
}

static void tile_run(const struct tile *tile) {
    const struct kernel_attend *item = tile->item;
    prefetch_first(tile);
    pack_queries(tile);
    if (is_quantised(item->storage_dtype) && item->settled_rows)
        pack_settled_queries(tile);
    k_phase(tile);
    for (uint32_t t = 0; t < tile->rows * tile->heads; t++)
        softmax(tile, t, fresh_visible(tile, tile->row + t / tile->heads));
    if (item->mass || item->hits || item->last)
        for (uint32_t r = 0; r < tile->rows; r++)
            add_scores(tile, r);
    v_phase(tile);
    unpack_outputs(tile);
}

/* The workspace as kernel_attend_workspace() counts it: queries and outputs, sums, logits. */
void ATTEND(const struct kernel_attend *item, void *workspace) {
    uint32_t parts = (item->q_heads + TILE - 1) / TILE; /* of nearly equal size */
    uint32_t heads = (item->q_heads + parts - 1) / parts, rows = TILE / heads;
    if (parts > 1)
        rows = 1;

    for (uint32_t row = 0; row < item->rows; row += rows)
        for (uint32_t head = 0; head < item->q_heads; head += heads) {
            struct tile tile = {
                .item = item,
                .row = row,
                .rows = item->rows - row < rows ? item->rows - row : rows,
                .head = head,
                .heads = item->q_heads - head < heads ? item->q_heads - head : heads,
                .settled_blocks = (item->settled_rows + SCISSOR_BLOCK_ROWS - 1) / SCISSOR_BLOCK_ROWS,
            };
            tile.width = (is_quantised(item->storage_dtype) ? quant_widths : widths)[tile.rows * tile.heads];
            tile.q = workspace;
            tile.settled_q = (char *)(tile.q + TILE * item->head_dim);
            tile.settled_sums = tile.q + 2 * TILE * item->head_dim;
            tile.settled_scales = tile.settled_sums + TILE * QUANT_MAX_GROUPS;
            tile.out = tile.settled_scales + TILE * QUANT_MAX_GROUPS;
            tile.sums = tile.out + TILE * item->head_dim;
            tile.logits = tile.sums + (size_t)block_count(&tile, tile_fresh_rows(&tile)) * SCISSOR_BLOCK_ROWS;
            tile_run(&tile);
        }
}
