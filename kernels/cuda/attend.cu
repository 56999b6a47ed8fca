/* attend.cu - attention of a tile of query vectors over one split of an item's rows: decode, and prefill as well.
 *
 * Contract: with combine.cu, kernel_backend.attend of backend.h for storage dtypes of one element. launch.h says what
 * is left in the workspace. Rows that no vector of the tile sees are never used, whatever they hold; of K, those in a
 * block of 16 with one that is seen are loaded.
 * Parallelisation: a block has one split, one tile of T query vectors and one item; what it loads of K and V serves all
 * T of them, in registers. Three phases:
 *     logits    a warp has a page of 64 rows at a time. Eight lanes have a line of 128 bytes of one block of 16: 4
 *               channels (2 in 32 bits) of its rows. A lane sums its channels for 8 rows (4), the lanes of the other
 *               channels are added at the end: 3 shuffles for each row and vector in 64.
 *     softmax   of this split alone, in shared memory; the logits go to the workspace if a plane wants them.
 *     sums      V is contiguous: a thread has the same 16 bytes of every (128 / threads of a row)th row.
 * Head dimensions are no template parameter: the loops run over whole lines in each case. The block's dtype is one
 * uniform branch, so that settled rows and fresh rows of any two dtypes are one launch. T is 1, 4 or 8, which costs a
 * group of 2, 3, 5, 6 or 7 some arithmetic that is not what limits it. With 8, three blocks share a processor (four
 * would spill), each thread with 4 loads under way. Bytes to be moved, n rows of an item, S splits, Q query vectors, P
 * = Q padded to tiles, in elements of 4 bytes but for K and V, and for each tile: loaded: K (rows rounded up to 16 in
 * settled and in fresh ones) and V, S * Q * d of q, and a block's item, 160 bytes, once in each warp; stored: S * P *
 * (d + 2), and n * P logits if a plane is wanted. */
#include "attend_split.cuh"

/* Shared memory: floats [head_dim][T] of q, floats [split_rows][T] of logits, then weights, and the rest. */
struct attend_shared {
    float *q, *weights;
    struct attend_place *places; /* [split_rows / PAGE_ROWS] */
    float *room;                 /* [2][WARPS][T] */
};

template <uint32_t TILE>
static __device__ __forceinline__ struct attend_shared attend_shared_of(uint32_t head_dim, uint32_t split_rows) {
    struct attend_shared s;
    s.q = (float *)shared_memory;
    s.weights = s.q + head_dim * TILE;
    s.places = (struct attend_place *)(s.weights + split_rows * TILE);
    s.room = (float *)(s.places + split_rows / PAGE_ROWS);
    return s;
}

template <uint32_t TILE>
static __device__ __forceinline__ void attend_load(const struct cuda_attend_launch *launch,
                                                   const struct kernel_attend *what, const struct attend_block *b,
                                                   struct attend_shared s) {
    uint32_t d = what->head_dim;
    const float scale = what->scale * 1.4426950408889634f; /* log2(e): the rest is powers of two */

    for (uint32_t i = threadIdx.x; i < TILE * d; i += CUDA_THREADS) {
        uint32_t v = b->tile * TILE + i / d, c = i % d;
        float x = 0;
        if (v < b->part.vectors)
            x = __ldg(what->q + (launch->first_row + v / what->q_heads) * what->q_row_stride + v % what->q_heads * d +
                      c);
        s.q[c * TILE + i / d] = x * scale;
    }
    size_t row_bytes = (size_t)d * element_bytes(b->dtype);
    for (uint32_t i = threadIdx.x; i * PAGE_ROWS < b->most; i += CUDA_THREADS) {
        uint32_t row = b->first + i * PAGE_ROWS;
        const char *area = b->fresh ? (const char *)what->fresh : (const char *)what->pages[row / PAGE_ROWS];
        s.places[i].k = b->fresh ? area + row * row_bytes : area;
        s.places[i].v = area + (b->fresh ? what->fresh_rows + row : PAGE_ROWS) * row_bytes;
    }
}

/* ---------- logits ---------- */

/* Adds the lanes of the other channels; two rows are left to each lane, the first of them is given. */
template <uint32_t TILE, uint32_t COUNT>
static __device__ __forceinline__ uint32_t logits_reduce(float (*sums)[COUNT], uint32_t lane) {
    uint32_t row = lane % (16 / COUNT) * COUNT;
#pragma unroll
    for (uint32_t distance = 16 / COUNT, half = COUNT / 2; distance < 8; distance *= 2, half /= 2) {
        bool upper = (lane & distance) != 0;
#pragma unroll
        for (uint32_t g = 0; g < TILE; g++)
#pragma unroll
            for (uint32_t i = 0; i < half; i++) {
                float given = upper ? sums[g][i] : sums[g][i + half], kept = upper ? sums[g][i + half] : sums[g][i];
                sums[g][i] = kept + __shfl_xor_sync(FULL_WARP, given, (int)distance);
            }
        row += upper ? half : 0;
    }
    return row;
}

/* A warp's work: the first `rows` rows of a page, whole blocks of 16 of them, into `logits` ([64][T]). */
template <uint32_t DTYPE, uint32_t TILE>
static __device__ __forceinline__ void logits_of_page(const char *k, uint32_t rows, uint32_t d, const float *q,
                                                      float *logits) {
    const uint32_t count = element<DTYPE>::COUNT, lanes = 16 / count;
    uint32_t lane = threadIdx.x % 32, block = lane / 8, channel = lane % 8 / lanes;
    bool mine = block * SCISSOR_BLOCK_ROWS < rows;
    float sums[TILE][count];

#pragma unroll
    for (uint32_t g = 0; g < TILE; g++)
#pragma unroll
        for (uint32_t i = 0; i < count; i++)
            sums[g][i] = 0;
    if (mine) {
        const char *at = k + (size_t)block * d * (SCISSOR_BLOCK_ROWS * element<DTYPE>::SIZE) + lane % 8 * 16;
        const float *of = q + channel * TILE;
#pragma unroll 4
        for (uint32_t c = 0; c < d; c += 8 / lanes, at += 128, of += 8 / lanes * TILE) {
            float x[count], y[TILE];
            element<DTYPE>::unpack(__ldg((const uint4 *)at), x);
            tile_load<TILE>(of, y);
#pragma unroll
            for (uint32_t g = 0; g < TILE; g++)
#pragma unroll
                for (uint32_t i = 0; i < count; i++)
                    sums[g][i] += x[i] * y[g];
        }
    }
    uint32_t row = block * SCISSOR_BLOCK_ROWS + logits_reduce<TILE, count>(sums, lane);
#pragma unroll
    for (uint32_t i = 0; i < 2 && mine; i++)
#pragma unroll
        for (uint32_t g = 0; g < TILE; g++)
            logits[(row + i) * TILE + g] = sums[g][i];
}

/* ---------- sums over V ---------- */

/* Rows first, first + step ... below `end`, all of which all vectors see. */
template <uint32_t DTYPE, uint32_t TILE>
static __device__ __forceinline__ void sums_of_rows(const char *v, uint32_t row_bytes, uint32_t first, uint32_t end,
                                                    uint32_t step, const float *weights,
                                                    float (*sums)[element<DTYPE>::COUNT]) {
    const uint32_t count = element<DTYPE>::COUNT;
#pragma unroll 4
    for (uint32_t row = first; row < end; row += step) {
        float x[count], w[TILE];
        element<DTYPE>::unpack(__ldg((const uint4 *)(v + (size_t)row * row_bytes)), x);
        tile_load<TILE>(weights + row * TILE, w);
#pragma unroll
        for (uint32_t g = 0; g < TILE; g++)
#pragma unroll
            for (uint32_t i = 0; i < count; i++)
                sums[g][i] += w[g] * x[i];
    }
}

/* Rows that some vectors do not see: 0 times what is there might be NaN. */
template <uint32_t DTYPE, uint32_t TILE>
static __device__ __forceinline__ void sums_of_edge(const struct cuda_attend_launch *launch,
                                                    const struct kernel_attend *what, const struct attend_block *b,
                                                    const char *v, uint32_t page_row, uint32_t row,
                                                    const float *weights, float (*sums)[element<DTYPE>::COUNT]) {
    const uint32_t count = element<DTYPE>::COUNT;
    float x[count];
    element<DTYPE>::unpack(__ldg((const uint4 *)(v + (size_t)row * what->head_dim * element<DTYPE>::SIZE)), x);
#pragma unroll
    for (uint32_t g = 0; g < TILE; g++) {
        bool sees = page_row + row < attend_seen(launch, what, b, b->tile * TILE + g);
        float w = weights[row * TILE + g];
#pragma unroll
        for (uint32_t i = 0; i < count; i++)
            sums[g][i] = sees ? sums[g][i] + w * x[i] : sums[g][i];
    }
}

/* Adds the threads of the same channels, two vectors at a time, and stores. The block's other shared memory is free. */
template <uint32_t TILE, uint32_t COUNT>
static __device__ __forceinline__ void sums_store(float (*sums)[COUNT], uint32_t threads, uint32_t d, float *to) {
    const uint32_t together = TILE < 2 ? TILE : 2;
    float *room = (float *)shared_memory;
#pragma unroll
    for (uint32_t g = 0; g < TILE; g += together) {
        __syncthreads();
        if (threadIdx.x < threads) {
#pragma unroll
            for (uint32_t j = 0; j < together; j++)
#pragma unroll
                for (uint32_t i = 0; i < COUNT; i++)
                    room[(j * CUDA_THREADS + threadIdx.x) * COUNT + i] = sums[g + j][i];
        }
        __syncthreads();
        for (uint32_t i = threadIdx.x; i < together * d; i += CUDA_THREADS) {
            uint32_t c = i % d;
            const float *column = room + i / d * CUDA_THREADS * COUNT + c;
            float sum = 0;
            for (uint32_t r = 0; r < threads * COUNT; r += d)
                sum += column[r];
            to[(g + i / d) * d + c] = sum;
        }
    }
}

template <uint32_t DTYPE, uint32_t TILE>
static __device__ __forceinline__ void attend_sums(const struct cuda_attend_launch *launch,
                                                   const struct cuda_attend_item *item, const struct attend_block *b,
                                                   struct attend_shared s) {
    const uint32_t count = element<DTYPE>::COUNT;
    uint32_t d = item->what.head_dim, pieces = d / count, step = CUDA_THREADS / pieces;
    uint32_t mine = threadIdx.x / pieces; /* the first row */
    float sums[TILE][count];

#pragma unroll
    for (uint32_t g = 0; g < TILE; g++)
#pragma unroll
        for (uint32_t i = 0; i < count; i++)
            sums[g][i] = 0;
    for (uint32_t first = 0; first < b->most && mine < step; first += PAGE_ROWS) {
        const char *v = s.places[first / PAGE_ROWS].v + threadIdx.x % pieces * 16;
        const float *weights = s.weights + first * TILE;
        uint32_t all = attend_clip(b->common, first, PAGE_ROWS), most = attend_clip(b->most, first, PAGE_ROWS);
        sums_of_rows<DTYPE, TILE>(v, d * element<DTYPE>::SIZE, mine, all, step, weights, sums);
        if (all == most)
            continue;
        uint32_t edge = all > mine ? mine + (all - mine + step - 1) / step * step : mine;
        for (uint32_t row = edge; row < most; row += step)
            sums_of_edge<DTYPE, TILE>(launch, &item->what, b, v, first, row, weights, sums);
    }
    sums_store<TILE, count>(sums, step * pieces, d,
                            item->sums + ((size_t)b->split * b->part.padded + b->tile * TILE) * d);
}

template <uint32_t DTYPE, uint32_t TILE>
static __device__ __forceinline__ void attend_split(const struct cuda_attend_launch *launch,
                                                    const struct cuda_attend_item *item, const struct attend_block *b,
                                                    struct attend_shared s) {
    for (uint32_t page = threadIdx.x / 32; page * PAGE_ROWS < b->most; page += WARPS)
        logits_of_page<DTYPE, TILE>(s.places[page].k, attend_clip(b->most, page * PAGE_ROWS, PAGE_ROWS),
                                    item->what.head_dim, s.q, s.weights + page * PAGE_ROWS * TILE);
    __syncthreads();
    softmax<TILE>(launch, item, b, b->tile, s.weights, s.room);
    attend_sums<DTYPE, TILE>(launch, item, b, s);
}

template <uint32_t TILE> static __device__ __forceinline__ void attend(const struct cuda_attend_launch *launch) {
    const struct cuda_attend_item *item = &launch->items[blockIdx.y];
    struct attend_block b;
    if (!attend_block_of<TILE>(launch, &item->what, &b))
        return;
    struct attend_shared s = attend_shared_of<TILE>(item->what.head_dim, launch->split_rows);
    attend_load<TILE>(launch, &item->what, &b, s);
    __syncthreads();
    if (b.dtype == KERNEL_F32)
        attend_split<KERNEL_F32, TILE>(launch, item, &b, s);
    else if (b.dtype == KERNEL_F16)
        attend_split<KERNEL_F16, TILE>(launch, item, &b, s);
    else
        attend_split<KERNEL_BF16, TILE>(launch, item, &b, s);
}

extern "C" __global__ void __launch_bounds__(CUDA_THREADS) scissor_attend_1(struct cuda_attend_launch launch) {
    attend<1>(&launch);
}
extern "C" __global__ void __launch_bounds__(CUDA_THREADS) scissor_attend_4(struct cuda_attend_launch launch) {
    attend<4>(&launch);
}
extern "C" __global__ void __launch_bounds__(CUDA_THREADS, 3) scissor_attend_8(struct cuda_attend_launch launch) {
    attend<8>(&launch);
}
