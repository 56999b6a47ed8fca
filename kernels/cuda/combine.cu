/* combine.cu - outputs and score planes from what the splits of attend.cu left in the workspace.
 *
 * Contract: see attend.cu. Query rows of one item are added to a plane in order, by one thread for each of its values,
 * so that equal launches give equal bits.
 * Parallelisation: y is the item. Block x has the score planes of split x, a thread has a row, all of its logits (T
 * side by side) and their mean over the query heads; and the outputs of vectors x, x + splits ..., a thread has a
 * channel. Each block first makes every vector's largest logit and sum from the splits' in shared memory.
 * Bytes to be moved, names as in attend.cu, in elements of 4 bytes: loaded: S * S * Q * 2 figures, S * Q * d sums (and
 * S figures for each in every warp), n * P logits, the planes of mass and hits, and a block's item, 160 bytes, once in
 * each warp; stored: Q * d of the outputs and the planes. What attend.cu stored is in the second-level cache still. */
#include "attend.cuh"

/* A vector's largest logit, shifted, and 1 / sum, over all splits. */
struct combined {
    float shift, factor;
};

/* Does vector v see a row of split s? If not, nothing was stored for it, or nothing but zeros. */
static __device__ __forceinline__ bool combine_sees(const struct cuda_attend_launch *launch,
                                                    const struct kernel_attend *what, const struct attend_part *part,
                                                    uint32_t s, uint32_t v) {
    return s < part->settled_splits ||
           (s - part->settled_splits) * launch->split_rows < attend_fresh_seen(launch, what, v);
}

static __device__ __forceinline__ void combine_figures(const struct cuda_attend_launch *launch,
                                                       const struct cuda_attend_item *item,
                                                       const struct attend_part *part, struct combined *vectors) {
    const float2 *stats = (const float2 *)item->stats;
    for (uint32_t v = threadIdx.x; v < part->vectors; v += CUDA_THREADS) {
        float largest = -INFINITY, sum = 0;
        for (uint32_t s = 0; s < part->splits && combine_sees(launch, &item->what, part, s, v); s++) {
            float2 one = __ldg(&stats[(size_t)s * part->padded + v]);
            float both = fmaxf(largest, one.x), shift = attend_shift(both);
            sum = sum * exp2f(largest - shift) + one.y * exp2f(one.x - shift);
            largest = both;
        }
        vectors[v].shift = attend_shift(largest);
        vectors[v].factor = 1 / sum;
    }
}

static __device__ __forceinline__ void combine_outputs(const struct cuda_attend_launch *launch,
                                                       const struct cuda_attend_item *item,
                                                       const struct attend_part *part, const struct combined *vectors) {
    const float2 *stats = (const float2 *)item->stats;
    uint32_t d = item->what.head_dim, heads = item->what.q_heads;
    for (uint32_t v = blockIdx.x; v < part->vectors; v += part->splits) {
        float *out = item->what.out + (launch->first_row + v / heads) * item->what.q_row_stride + v % heads * d;
        for (uint32_t c = threadIdx.x; c < d; c += CUDA_THREADS) {
            float sum = 0;
#pragma unroll 4
            for (uint32_t s = 0; s < part->splits; s++)
                if (combine_sees(launch, &item->what, part, s, v)) {
                    size_t at = (size_t)s * part->padded + v;
                    sum += __ldg(&item->sums[at * d + c]) * exp2f(__ldg(&stats[at].x) - vectors[v].shift);
                }
            out[c] = sum * vectors[v].factor;
        }
    }
}

/* One row under the query rows of a launch. */
struct combine_row {
    uint32_t index; /* among the item's rows, settled ones first */
    uint32_t query; /* the query row whose heads are being added */
    uint32_t head;
    float mean, mass, hits;
};

/* All heads of a query row are in row->mean. */
static __device__ __forceinline__ void combine_query(const struct kernel_attend *what, struct combine_row *row) {
    uint32_t visible = what->settled_rows + what->fresh_before + row->query + 1;
    if (row->index < visible) {
        float seen = what->threshold == KERNEL_THRESHOLD_SEEN ? (float)(what->seen + row->query + 1) : (float)visible;
        row->mass += row->mean;
        row->hits += row->mean >= 1 / seen ? 1.0f : 0.0f;
        if (what->last && row->query == what->rows - 1)
            what->last[row->index] = row->mean;
    }
    row->mean = 0;
    row->head = 0;
    row->query++;
}

/* The row at position r of this block's split. */
template <uint32_t TILE>
static __device__ __forceinline__ void
combine_row_scores(const struct cuda_attend_launch *launch, const struct cuda_attend_item *item,
                   const struct attend_part *part, uint32_t index, uint32_t r, const struct combined *vectors) {
    struct combine_row row = {index, launch->first_row, 0, 0, 0, 0};
    float share = 1 / (float)item->what.q_heads;
#pragma unroll 1
    for (uint32_t tile = 0; tile < part->padded / TILE; tile++) {
        float x[TILE] = {0};
        size_t at = ((size_t)tile * part->splits + blockIdx.x) * launch->split_rows + r;
        /* A tile whose newest row does not see this one has left nothing here. */
        uint32_t newest = smaller(tile * TILE + TILE, part->vectors) - 1;
        if (index < item->what.settled_rows + attend_fresh_seen(launch, &item->what, newest))
            tile_load<TILE>(item->logits + at * TILE, x);
#pragma unroll
        for (uint32_t g = 0; g < TILE; g++) {
            uint32_t v = tile * TILE + g;
            if (v >= part->vectors)
                break;
            row.mean += exp2f(x[g] - vectors[v].shift) * vectors[v].factor * share;
            if (++row.head == item->what.q_heads)
                combine_query(&item->what, &row);
        }
    }
    if (item->what.mass)
        item->what.mass[index] += row.mass;
    if (item->what.hits)
        item->what.hits[index] += row.hits;
}

template <uint32_t TILE> static __device__ __forceinline__ void combine(const struct cuda_attend_launch *launch) {
    struct combined *vectors = (struct combined *)shared_memory;
    const struct cuda_attend_item *item = &launch->items[blockIdx.y];
    struct attend_part part = attend_part_of<TILE>(launch, &item->what);
    if (blockIdx.x >= part.splits)
        return;
    combine_figures(launch, item, &part, vectors);
    __syncthreads();
    combine_outputs(launch, item, &part, vectors);
    if (!item->logits)
        return;
    bool fresh = blockIdx.x >= part.settled_splits;
    uint32_t first = (blockIdx.x - (fresh ? part.settled_splits : 0)) * launch->split_rows;
    uint32_t rows = attend_clip(fresh ? part.fresh_most : item->what.settled_rows, first, launch->split_rows);
    for (uint32_t r = threadIdx.x; r < rows; r += CUDA_THREADS)
        combine_row_scores<TILE>(launch, item, &part, (fresh ? item->what.settled_rows : 0) + first + r, r, vectors);
}

extern "C" __global__ void __launch_bounds__(CUDA_THREADS, 8) scissor_combine_1(struct cuda_attend_launch launch) {
    combine<1>(&launch);
}
extern "C" __global__ void __launch_bounds__(CUDA_THREADS, 8) scissor_combine_4(struct cuda_attend_launch launch) {
    combine<4>(&launch);
}
extern "C" __global__ void __launch_bounds__(CUDA_THREADS, 8) scissor_combine_8(struct cuda_attend_launch launch) {
    combine<8>(&launch);
}
