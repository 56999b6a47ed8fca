/* settle.cu - fresh rows into victims' slots, for all layers and heads in one launch.
 *
 * Contract: kernel_backend.settle of backend.h for storage dtypes of one element; the bits are those of dtype.c. The
 * slots of one head's moves differ, and no fresh buffer lies in a page.
 * Parallelisation: a block has CUDA_SETTLE_MOVES moves of one head (x: which of them, y: the head). K: a lane is a
 * move, half a warp has one channel, so that rows side by side in the fresh buffer are loaded from one sector, and
 * slots side by side (a growing session's) are stored to one. V: a thread has 8 channels of a row, 16 bytes or 32.
 * Bytes to be moved, for each move: 2 * head_dim elements of the compute dtype loaded and of the storage dtype stored,
 * and 16 loaded for the move and its page's address. A block loads its head's 48 bytes once in each warp. Slots that
 * are scattered cost a sector of 32 bytes for each element of K: that is the layout's price, paid once in a row's life
 * so that attention need not gather. */
#include "device.cuh"

/* Where a move goes, kept in shared memory. */
struct settle_move {
    char *page;
    uint32_t from, to; /* to: row within the page */
};

static __device__ __forceinline__ void settle_k(const struct kernel_settle *head, const struct settle_move *move) {
    uint32_t in = element_bytes(head->compute_dtype), out = element_bytes(head->storage_dtype);
    const char *from = (const char *)head->fresh + k_element(move->from, head->head_dim) * in;
    char *to = move->page + k_element(move->to, head->head_dim) * out;
#pragma unroll 4
    for (uint32_t c = threadIdx.x / CUDA_SETTLE_MOVES; c < head->head_dim; c += CUDA_THREADS / CUDA_SETTLE_MOVES) {
        uint32_t bits = element_load(head->compute_dtype, from + (size_t)c * SCISSOR_BLOCK_ROWS * in);
        element_store(head->storage_dtype, to + (size_t)c * SCISSOR_BLOCK_ROWS * out,
                      convert_bits(head->storage_dtype, head->compute_dtype, bits));
    }
}

static __device__ __forceinline__ void settle_v(const struct kernel_settle *head, const struct settle_move *moves,
                                                uint32_t count) {
    uint32_t in = element_bytes(head->compute_dtype), out = element_bytes(head->storage_dtype);
    uint32_t d = head->head_dim, octets = d / 8;
    const char *fresh = (const char *)head->fresh + (size_t)head->fresh_rows * d * in;
    for (uint32_t i = threadIdx.x; i < count * octets; i += CUDA_THREADS) {
        struct settle_move move = moves[i / octets];
        uint32_t c = i % octets * 8;
        struct eight x = eight_load(head->compute_dtype, fresh + ((size_t)move.from * d + c) * in);
        eight_store(head->storage_dtype, move.page + ((size_t)(SCISSOR_PAGE_ROWS + move.to) * d + c) * out,
                    eight_convert(head->storage_dtype, head->compute_dtype, x));
    }
}

extern "C" __global__ void __launch_bounds__(CUDA_THREADS) scissor_settle(struct cuda_settle_launch launch) {
    struct settle_move *moves = (struct settle_move *)shared_memory;
    struct kernel_settle head = launch.heads[blockIdx.y];
    uint32_t first = blockIdx.x * CUDA_SETTLE_MOVES;
    if (first >= head.move_count)
        return;
    uint32_t count = smaller(CUDA_SETTLE_MOVES, head.move_count - first);

    if (threadIdx.x < count) {
        struct kernel_move move = head.moves[first + threadIdx.x];
        moves[threadIdx.x].page = (char *)head.pages[move.to / SCISSOR_PAGE_ROWS];
        moves[threadIdx.x].from = move.from;
        moves[threadIdx.x].to = move.to % SCISSOR_PAGE_ROWS;
    }
    __syncthreads();
    if (threadIdx.x % CUDA_SETTLE_MOVES < count)
        settle_k(&head, &moves[threadIdx.x % CUDA_SETTLE_MOVES]);
    settle_v(&head, moves, count);
}
