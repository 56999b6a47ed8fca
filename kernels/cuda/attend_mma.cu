/* attend_mma.cu - attention of tiles of eight query vectors over one split of an item's rows, by tensor cores.
 *
 * Contract: that of attend.cu with tiles of 8, for rows of 16 bits; combine.cu does not see the difference. A query is
 * the sum of two elements of the rows' dtype, and so is each weight, so that a product is as good as in f32 (17 bits of
 * it in bf16, 22 in f16) while K and V go in as they are. A row that is not a number spoils the vectors of its tile
 * that see less than its newest vector, as 0 * NaN is NaN; rows that none of them sees do not.
 * Parallelisation: a block has one split and N tiles next to each other; what it loads serves all 8 N vectors.
 *     logits    a warp has a page of 64 rows at a time, one block of 16 rows after the other: C[16 rows][8 vectors] =
 *               A[rows][channels] B[channels][vectors]. 16 channels of a block are 512 bytes, 16 of each lane.
 *     softmax   as in attend.cu, tile by tile.
 *     sums      a warp has every fourth piece of 16 channels, of all rows: C[16 channels][8 vectors] =
 *               A[channels][rows] B[rows][vectors]. A lane loads half of a row's 32 bytes.
 * K lies with rows side by side and V with channels side by side, both the other way round than A wants it, so both
 * pass through 2 KiB of shared memory of the warp, four matrices at a time, and are turned by ldmatrix. Where a 16-byte
 * piece stands there is changed with bit 2 of its line, so that eight lines meet in no bank.
 * Bytes to be moved: those of attend.cu, with groups of N tiles in the place of tiles, and V's rows once for each. */
#include "attend_split.cuh"
/* Not by its own name: a test has another one. */
#include <cuda/mma.cuh>

#define MMA_TILE 8u
#define MMA_STAGES (CUDA_MMA_STAGE_BYTES / 512)

struct mma_shared {
    uint4 *stage;      /* [MMA_STAGES][32], of this warp */
    uint32_t *q;       /* pairs of elements: [2][8 N][q_stride], the larger parts first */
    uint32_t q_stride; /* so that the eight vectors' words meet in no bank */
    float *weights;    /* [N][split_rows][8] */
    struct attend_place *places;
    float *room;
};

template <uint32_t TILES>
static __device__ __forceinline__ struct mma_shared mma_shared_of(uint32_t head_dim, uint32_t split_rows) {
    struct mma_shared s;
    char *at = (char *)shared_memory;
    s.stage = (uint4 *)(at + threadIdx.x / 32 * CUDA_MMA_STAGE_BYTES);
    s.q = (uint32_t *)(at + WARPS * CUDA_MMA_STAGE_BYTES);
    s.q_stride = (head_dim + 8) / 2;
    s.weights = (float *)(s.q + 2 * TILES * MMA_TILE * s.q_stride);
    s.places = (struct attend_place *)(s.weights + TILES * MMA_TILE * split_rows);
    s.room = (float *)(s.places + split_rows / PAGE_ROWS);
    return s;
}

/* Where half `half` of line `line` stands in a stage. */
static __device__ __forceinline__ uint32_t stage_place(uint32_t line, uint32_t half) {
    return (line * 2 + half) ^ (line >> 2 & 1);
}

/* The line that this lane names to ldmatrix for A's four parts: lines are A's columns. */
static __device__ __forceinline__ uint32_t stage_named(uint32_t lane) {
    uint32_t matrix = lane / 8;
    return stage_place(matrix / 2 * 8 + lane % 8, matrix % 2);
}

/* ---------- values in two parts ---------- */

template <uint32_t DTYPE> static __device__ __forceinline__ uint32_t part_of(float x) {
    uint32_t bits = __float_as_uint(x);
    return DTYPE == KERNEL_F16 ? f32_bits_to_f16(bits) : f32_bits_to_bf16(bits);
}

template <uint32_t DTYPE> static __device__ __forceinline__ float part_value(uint32_t part) {
    return __uint_as_float(DTYPE == KERNEL_F16 ? f16_bits_to_f32(part) : part << 16);
}

/* Two values, each as the sum of a part in *large and one in *small. */
template <uint32_t DTYPE>
static __device__ __forceinline__ void split_pair(float x, float y, uint32_t *large, uint32_t *small) {
    uint32_t a = part_of<DTYPE>(x), b = part_of<DTYPE>(y);
    *large = a | b << 16;
    *small = part_of<DTYPE>(x - part_value<DTYPE>(a)) | part_of<DTYPE>(y - part_value<DTYPE>(b)) << 16;
}

/* ---------- queries and places ---------- */

template <uint32_t DTYPE, uint32_t TILES>
static __device__ __forceinline__ void mma_load_queries(const struct cuda_attend_launch *launch,
                                                        const struct kernel_attend *what, const struct attend_block *b,
                                                        struct mma_shared s) {
    uint32_t pairs = what->head_dim / 2;
    for (uint32_t i = threadIdx.x; i < TILES * MMA_TILE * pairs; i += CUDA_THREADS) {
        uint32_t local = i / pairs, pair = i % pairs, v = b->tile * MMA_TILE + local;
        float x = 0, y = 0;
        if (v < b->part.vectors) {
            const float *q = what->q + (launch->first_row + v / what->q_heads) * what->q_row_stride +
                             v % what->q_heads * what->head_dim + 2 * pair;
            x = __ldg(q), y = __ldg(q + 1);
        }
        uint32_t *at = s.q + local * s.q_stride + pair;
        split_pair<DTYPE>(x, y, at, at + TILES * MMA_TILE * s.q_stride);
    }
}

static __device__ __forceinline__ void mma_load_places(const struct kernel_attend *what, const struct attend_block *b,
                                                       struct mma_shared s) {
    size_t row_bytes = (size_t)what->head_dim * 2;
    for (uint32_t i = threadIdx.x; i * PAGE_ROWS < b->most; i += CUDA_THREADS) {
        uint32_t row = b->first + i * PAGE_ROWS;
        const char *area = b->fresh ? (const char *)what->fresh : (const char *)what->pages[row / PAGE_ROWS];
        s.places[i].k = b->fresh ? area + row * row_bytes : area;
        s.places[i].v = area + (b->fresh ? what->fresh_rows + row : PAGE_ROWS) * row_bytes;
    }
}

/* ---------- logits ---------- */

/* Adds 16 channels of 16 rows, from pair `pair` of the queries on. */
template <uint32_t DTYPE, uint32_t TILES>
static __device__ __forceinline__ void logits_add(const uint4 *stage, struct mma_shared s, uint32_t pair, uint32_t lane,
                                                  float (*c)[4]) {
    uint32_t a[4], b[2];
    load_matrices_turned(a, stage + stage_named(lane));
#pragma unroll
    for (uint32_t part = 0; part < 2; part++)
#pragma unroll
        for (uint32_t n = 0; n < TILES; n++) {
            const uint32_t *q = s.q + ((part * TILES + n) * MMA_TILE + lane / 4) * s.q_stride + pair + lane % 4;
            b[0] = q[0], b[1] = q[4];
            mma<DTYPE>(c[n], a, b);
        }
}

/* A warp's work: 16 rows from `row` of the split on, whose K is at `k`. */
template <uint32_t DTYPE, uint32_t TILES>
static __device__ __forceinline__ void logits_of_block(const char *k, uint32_t row, uint32_t split_rows, uint32_t d,
                                                       float scale, struct mma_shared s) {
    uint32_t lane = threadIdx.x % 32, pieces = d / 16;
    uint32_t place = stage_place(lane / 2, lane % 2);
    float c[TILES][4];
#pragma unroll
    for (uint32_t n = 0; n < TILES; n++)
        c[n][0] = c[n][1] = c[n][2] = c[n][3] = 0;
#pragma unroll 1
    for (uint32_t first = 0; first < pieces; first += MMA_STAGES) {
        uint4 x[MMA_STAGES];
#pragma unroll
        for (uint32_t i = 0; i < MMA_STAGES; i++)
            if (first + i < pieces)
                x[i] = __ldg((const uint4 *)k + (first + i) * 32 + lane);
        __syncwarp(); /* the stages have been read */
#pragma unroll
        for (uint32_t i = 0; i < MMA_STAGES; i++)
            if (first + i < pieces)
                s.stage[i * 32 + place] = x[i];
        __syncwarp();
#pragma unroll
        for (uint32_t i = 0; i < MMA_STAGES; i++)
            if (first + i < pieces)
                logits_add<DTYPE, TILES>(s.stage + i * 32, s, (first + i) * 8, lane, c);
    }
#pragma unroll
    for (uint32_t n = 0; n < TILES; n++) {
        float *to = s.weights + ((size_t)n * split_rows + row + lane / 4) * MMA_TILE + lane % 4 * 2;
        *(float2 *)to = make_float2(c[n][0] * scale, c[n][1] * scale);
        *(float2 *)(to + 8 * MMA_TILE) = make_float2(c[n][2] * scale, c[n][3] * scale);
    }
}

/* ---------- sums over V ---------- */

/* Weights of rows that a vector does not see are zero, up to the end of the last block of 16. */
static __device__ __forceinline__ void weights_clear(const struct cuda_attend_launch *launch,
                                                     const struct kernel_attend *what, const struct attend_block *b,
                                                     uint32_t tile, float *weights) {
    uint32_t seen = attend_seen(launch, what, b, tile * MMA_TILE + threadIdx.x % MMA_TILE) * MMA_TILE;
    uint32_t end = (b->most + SCISSOR_BLOCK_ROWS - 1) / SCISSOR_BLOCK_ROWS * SCISSOR_BLOCK_ROWS * MMA_TILE;
    for (uint32_t i = threadIdx.x; i < end; i += CUDA_THREADS)
        if (i >= seen)
            weights[i] = 0;
}

/* Adds 16 rows from `row` of the split on. */
template <uint32_t DTYPE, uint32_t TILES>
static __device__ __forceinline__ void sums_add(const uint4 *stage, const float *weights, uint32_t split_rows,
                                                uint32_t row, uint32_t lane, float (*c)[4]) {
    uint32_t a[4];
    load_matrices_turned(a, stage + stage_named(lane));
#pragma unroll
    for (uint32_t n = 0; n < TILES; n++) {
        const float *w = weights + ((size_t)n * split_rows + row + lane % 4 * 2) * MMA_TILE + lane / 4;
        uint32_t large[2], small[2];
        split_pair<DTYPE>(w[0], w[MMA_TILE], &large[0], &small[0]);
        split_pair<DTYPE>(w[8 * MMA_TILE], w[9 * MMA_TILE], &large[1], &small[1]);
        mma<DTYPE>(c[n], a, large);
        mma<DTYPE>(c[n], a, small);
    }
}

/* A warp's work: channels piece * 16 and 15 more, all rows of the split. */
template <uint32_t DTYPE, uint32_t TILES>
static __device__ __forceinline__ void sums_of_piece(const struct attend_block *b, struct mma_shared s, uint32_t piece,
                                                     uint32_t split_rows, uint32_t d, float *sums) {
    uint32_t lane = threadIdx.x % 32, place = stage_place(lane / 2, lane % 2);
    float c[TILES][4];
#pragma unroll
    for (uint32_t n = 0; n < TILES; n++)
        c[n][0] = c[n][1] = c[n][2] = c[n][3] = 0;
#pragma unroll 1
    for (uint32_t first = 0; first < b->most; first += PAGE_ROWS) {
        const char *v = s.places[first / PAGE_ROWS].v + piece * 32 + lane % 2 * 16;
        uint4 x[MMA_STAGES];
#pragma unroll
        for (uint32_t i = 0; i < MMA_STAGES; i++) {
            uint32_t row = i * 16 + lane / 2;
            x[i] = make_uint4(0, 0, 0, 0);
            if (first + row < b->most)
                x[i] = __ldg((const uint4 *)(v + (size_t)row * d * 2));
        }
        __syncwarp(); /* the stages have been read */
#pragma unroll
        for (uint32_t i = 0; i < MMA_STAGES; i++)
            s.stage[i * 32 + place] = x[i];
        __syncwarp();
#pragma unroll
        for (uint32_t i = 0; i < MMA_STAGES; i++)
            if (first + i * 16 < b->most)
                sums_add<DTYPE, TILES>(s.stage + i * 32, s.weights, split_rows, first + i * 16, lane, c);
    }
#pragma unroll
    for (uint32_t n = 0; n < TILES; n++) {
        if ((b->tile + n) * MMA_TILE >= b->part.vectors)
            break;
        float *to = sums + ((size_t)n * MMA_TILE + lane % 4 * 2) * d + piece * 16 + lane / 4;
        to[0] = c[n][0], to[d] = c[n][1];
        to[8] = c[n][2], to[d + 8] = c[n][3];
    }
}

/* ---------- a block ---------- */

template <uint32_t DTYPE, uint32_t TILES>
static __device__ __forceinline__ void mma_split(const struct cuda_attend_launch *launch,
                                                 const struct cuda_attend_item *item, const struct attend_block *b,
                                                 struct mma_shared s) {
    uint32_t d = item->what.head_dim, warp = threadIdx.x / 32, rows = launch->split_rows;
    const float scale = item->what.scale * 1.4426950408889634f; /* log2(e): the rest is powers of two */
    mma_load_queries<DTYPE, TILES>(launch, &item->what, b, s);
    mma_load_places(&item->what, b, s);
    __syncthreads();
    for (uint32_t row = warp * PAGE_ROWS; row < b->most; row += WARPS * PAGE_ROWS)
        for (uint32_t i = 0; i < PAGE_ROWS && row + i < b->most; i += SCISSOR_BLOCK_ROWS)
            logits_of_block<DTYPE, TILES>(s.places[row / PAGE_ROWS].k + (size_t)i * d * 2, row + i, rows, d, scale, s);
    __syncthreads();
#pragma unroll 1
    for (uint32_t n = 0; n < TILES && (b->tile + n) * MMA_TILE < b->part.vectors; n++) {
        softmax<MMA_TILE>(launch, item, b, b->tile + n, s.weights + (size_t)n * rows * MMA_TILE, s.room);
        weights_clear(launch, &item->what, b, b->tile + n, s.weights + (size_t)n * rows * MMA_TILE);
    }
    __syncthreads();
    for (uint32_t piece = warp; piece < d / 16; piece += WARPS)
        sums_of_piece<DTYPE, TILES>(b, s, piece, rows, d,
                                    item->sums + ((size_t)b->split * b->part.padded + b->tile * MMA_TILE) * d);
}

template <uint32_t TILES> static __device__ __forceinline__ void attend_mma(const struct cuda_attend_launch *launch) {
    const struct cuda_attend_item *item = &launch->items[blockIdx.y];
    struct attend_block b;
    if (!attend_block_of<MMA_TILE, TILES>(launch, &item->what, &b))
        return;
    struct mma_shared s = mma_shared_of<TILES>(item->what.head_dim, launch->split_rows);
    if (b.dtype == KERNEL_F16)
        mma_split<KERNEL_F16, TILES>(launch, item, &b, s);
    else
        mma_split<KERNEL_BF16, TILES>(launch, item, &b, s);
}

extern "C" __global__ void __launch_bounds__(CUDA_THREADS, 4) scissor_attend_mma_1(struct cuda_attend_launch launch) {
    attend_mma<1>(&launch);
}
extern "C" __global__ void __launch_bounds__(CUDA_THREADS, 3) scissor_attend_mma_4(struct cuda_attend_launch launch) {
    attend_mma<4>(&launch);
}
