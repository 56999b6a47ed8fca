/* shrink.cu - settled rows over others of the same head, in the order given, for all layers and heads in one launch.
 *
 * Contract: kernel_backend.shrink of backend.h for storage dtypes of one element. A slot may be the target of one move
 * and the source of a later one.
 * Parallelisation: y is the head. Block 0 moves V, a thread has 16 bytes of every row; the others move K, a thread has
 * one channel. So a byte of the page list belongs to one thread, and order is kept without a barrier. Moves are looked
 * at CUDA_SHRINK_MOVES at a time; if none of them reads what another one of them writes, which is so where tail rows
 * fill holes, eight loads are under way before the first store.
 * Bytes to be moved, for each move: 2 * head_dim elements loaded and stored, and 8 loaded by each block for the move
 * and 16 at most for the addresses of its two pages. A block loads its head's 56 bytes once in each warp. K costs a
 * sector for each element on both sides, as settle.cu says. */
#include "device.cuh"

/* A move, kept in shared memory: the pages, and the slots over the whole list of them. */
struct shrink_move {
    const char *from_page;
    char *to_page;
    uint32_t from, to;
};

static __device__ __forceinline__ void shrink_fetch(const struct kernel_shrink *head, uint32_t i,
                                                    struct shrink_move *ret) {
    struct kernel_move move = head->moves[i];
    ret->from_page = (const char *)head->pages[move.from / SCISSOR_PAGE_ROWS];
    ret->to_page = (char *)head->pages[move.to / SCISSOR_PAGE_ROWS];
    ret->from = move.from;
    ret->to = move.to;
}

/* True if move i reads a slot that an earlier one writes. */
static __device__ __forceinline__ bool shrink_depends(const struct shrink_move *moves, uint32_t i) {
    bool depends = false;
#pragma unroll 1
    for (uint32_t j = 0; j < i; j++)
        depends |= moves[j].to == moves[i].from;
    return depends;
}

/* Moves T at `offset(slot)` of a page for each of `count` moves: one thread's share. */
template <typename T, typename OFFSET>
static __device__ __forceinline__ void shrink_share(const struct shrink_move *moves, uint32_t count, bool depends,
                                                    OFFSET offset) {
    const uint32_t together = 8;
    uint32_t i = 0;
    for (; !depends && i + together <= count; i += together) {
        T x[together];
#pragma unroll
        for (uint32_t j = 0; j < together; j++)
            x[j] = *(const T *)(moves[i + j].from_page + offset(moves[i + j].from));
#pragma unroll
        for (uint32_t j = 0; j < together; j++)
            *(T *)(moves[i + j].to_page + offset(moves[i + j].to)) = x[j];
    }
    for (; i < count; i++)
        *(T *)(moves[i].to_page + offset(moves[i].to)) = *(const T *)(moves[i].from_page + offset(moves[i].from));
}

struct shrink_k_offset {
    uint32_t channel, head_dim, size;
    __device__ __forceinline__ size_t operator()(uint32_t slot) const {
        return (k_element(slot % SCISSOR_PAGE_ROWS, head_dim) + (size_t)channel * SCISSOR_BLOCK_ROWS) * size;
    }
};

struct shrink_v_offset {
    uint32_t byte, row_bytes;
    __device__ __forceinline__ size_t operator()(uint32_t slot) const {
        return (size_t)(SCISSOR_PAGE_ROWS + slot % SCISSOR_PAGE_ROWS) * row_bytes + byte;
    }
};

static __device__ __forceinline__ void shrink_batch(const struct kernel_shrink *head, const struct shrink_move *moves,
                                                    uint32_t count, bool depends) {
    uint32_t size = element_bytes(head->storage_dtype), d = head->head_dim;
    if (blockIdx.x == 0) {
        struct shrink_v_offset offset = {threadIdx.x * 16, d * size};
        if (offset.byte < offset.row_bytes)
            shrink_share<uint4>(moves, count, depends, offset);
        return;
    }
    struct shrink_k_offset offset = {(blockIdx.x - 1) * CUDA_THREADS + threadIdx.x, d, size};
    if (offset.channel >= d)
        return;
    if (size == 4)
        shrink_share<uint32_t>(moves, count, depends, offset);
    else
        shrink_share<uint16_t>(moves, count, depends, offset);
}

extern "C" __global__ void __launch_bounds__(CUDA_THREADS, 5) scissor_shrink(struct cuda_shrink_launch launch) {
    struct shrink_move *moves = (struct shrink_move *)shared_memory;
    struct kernel_shrink head = launch.heads[blockIdx.y];

    for (uint32_t first = 0; first < head.move_count; first += CUDA_SHRINK_MOVES) {
        uint32_t count = smaller(CUDA_SHRINK_MOVES, head.move_count - first);
        __syncthreads();
        if (threadIdx.x < count)
            shrink_fetch(&head, first + threadIdx.x, &moves[threadIdx.x]);
        __syncthreads();
        bool depends = __syncthreads_or(threadIdx.x < count && shrink_depends(moves, threadIdx.x));
        shrink_batch(&head, moves, count, depends);
    }
}
