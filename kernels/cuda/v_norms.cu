/* v_norms.cu - |V|_1 of fresh rows, for all layers and heads in one launch.
 *
 * Contract: kernel_backend.v_norms of backend.h, with the order of additions of kernels/host/move.c, so that a device
 * evicts the same rows as the host: sixteen sums side by side, then halves.
 * Parallelisation: y is the head, a block has 128 rows / (threads of a row). Two threads have a row of 16 bits, each 8
 * of the 16 sums; four have one of 32 bits.
 * Bytes to be moved, for each row: head_dim elements loaded, 4 bytes stored. A block loads its head's 40 bytes once in
 * each warp. */
#include "device.cuh"

template <uint32_t DTYPE> static __device__ __forceinline__ void norms(const struct kernel_norms *head) {
    const uint32_t count = element<DTYPE>::COUNT, lanes = 16 / count;
    uint32_t part = threadIdx.x % lanes, row = blockIdx.x * (CUDA_THREADS / lanes) + threadIdx.x / lanes;
    uint32_t d = head->head_dim;
    bool mine = row < head->count;
    float sums[count];

#pragma unroll
    for (uint32_t i = 0; i < count; i++)
        sums[i] = 0;
    const char *v =
        (const char *)head->fresh +
        ((size_t)(head->fresh_rows + head->first + (mine ? row : 0)) * d + part * count) * element<DTYPE>::SIZE;
#pragma unroll 4
    for (uint32_t c = 0; c < d && mine; c += 16) {
        float x[count];
        element<DTYPE>::unpack(__ldg((const uint4 *)(v + (size_t)c * element<DTYPE>::SIZE)), x);
#pragma unroll
        for (uint32_t i = 0; i < count; i++)
            sums[i] += fabsf(x[i]);
    }
    /* Sum i and sum i + half: in another thread's registers first, then in the same one's. */
#pragma unroll
    for (uint32_t half = 8; half >= count; half /= 2)
#pragma unroll
        for (uint32_t i = 0; i < count; i++)
            sums[i] += __shfl_down_sync(FULL_WARP, sums[i], half / count);
#pragma unroll
    for (uint32_t half = count / 2; half; half /= 2)
#pragma unroll
        for (uint32_t i = 0; i < half; i++)
            sums[i] += sums[i + half];
    if (mine && part == 0)
        head->norms[row] = sums[0];
}

extern "C" __global__ void __launch_bounds__(CUDA_THREADS) scissor_v_norms(struct cuda_norms_launch launch) {
    struct kernel_norms head = launch.heads[blockIdx.y];
    if (head.compute_dtype == KERNEL_F32)
        norms<KERNEL_F32>(&head);
    else if (head.compute_dtype == KERNEL_F16)
        norms<KERNEL_F16>(&head);
    else
        norms<KERNEL_BF16>(&head);
}
