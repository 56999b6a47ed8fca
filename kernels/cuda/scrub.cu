/* scrub.cu - zeroes ranges of memory, before another session gets them.
 *
 * Parallelisation: y is the range, a block has CUDA_SCRUB_BYTES of it; a warp stores 512 bytes at once.
 * Bytes to be moved: those of the ranges, stored. A block loads its range's 16 bytes once in each warp. */
#include "device.cuh"

extern "C" __global__ void __launch_bounds__(CUDA_THREADS) scissor_scrub(struct cuda_scrub_launch launch) {
    struct cuda_scrub_range range = launch.ranges[blockIdx.y];
    size_t first = (size_t)blockIdx.x * CUDA_SCRUB_BYTES;
    if (first >= range.bytes)
        return;
    size_t end = range.bytes - first < CUDA_SCRUB_BYTES ? range.bytes : first + CUDA_SCRUB_BYTES;
    for (size_t at = first + threadIdx.x * 16; at < end; at += CUDA_THREADS * 16)
        __stwb((uint4 *)((char *)range.at + at), make_uint4(0, 0, 0, 0));
}
