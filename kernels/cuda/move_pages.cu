/* move_pages.cu - pages to other places, any number of them in one launch.
 *
 * Contract: kernel_backend.move_pages of backend.h; addresses and sizes are multiples of 16. Blocks run in any order,
 * so no memory that a move writes is read or written by another one. Parallelisation: y is the move, a block has
 * CUDA_MOVE_BYTES of it; a warp loads and stores 512 bytes at once, and a thread has eight loads under way before its
 * first store. Bytes to be moved: those of the moves, loaded and stored. A block loads its move's 24 bytes once in each
 * warp. */
#include "device.cuh"

#define MOVE_LOADS (CUDA_MOVE_BYTES / (CUDA_THREADS * 16))

extern "C" __global__ void __launch_bounds__(CUDA_THREADS) scissor_move_pages(struct cuda_pages_launch launch) {
    struct kernel_page_move move = launch.moves[blockIdx.y];
    size_t first = (size_t)blockIdx.x * CUDA_MOVE_BYTES;
    if (first >= move.bytes)
        return;
    uint32_t count = (uint32_t)(move.bytes - first < CUDA_MOVE_BYTES ? move.bytes - first : CUDA_MOVE_BYTES) / 16;
    const uint4 *from = (const uint4 *)((const char *)move.from + first);
    uint4 *to = (uint4 *)((char *)move.to + first);
    uint4 x[MOVE_LOADS];
#pragma unroll
    for (uint32_t i = 0; i < MOVE_LOADS; i++)
        if (i * CUDA_THREADS + threadIdx.x < count)
            x[i] = __ldg(from + i * CUDA_THREADS + threadIdx.x);
#pragma unroll
    for (uint32_t i = 0; i < MOVE_LOADS; i++)
        if (i * CUDA_THREADS + threadIdx.x < count)
            to[i * CUDA_THREADS + threadIdx.x] = x[i];
}
