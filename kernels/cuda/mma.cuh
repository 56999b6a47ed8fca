/* mma.cuh - the instructions for tensor cores, as the PTX manual documents them ("mma.m16n8k16", "ldmatrix"). Of sm_80
 * and newer; who launches for an older device takes other kernels.
 *
 * C[16][8] += A[16][16] B[16][8], one matrix over a warp. With g = lane / 4 and t = lane % 4 a lane holds
 *     A  elements (g, 2t), (g, 2t + 1) in a[0], row g + 8 in a[1], columns 8 further on in a[2] and a[3]
 *     B  elements (2t, g), (2t + 1, g) in b[0], rows 8 further on in b[1]
 *     C  elements (g, 2t), (g, 2t + 1) in c[0] and c[1], row g + 8 in c[2] and c[3] */
#pragma once

#include "device.cuh"

template <uint32_t DTYPE> static __device__ __forceinline__ void mma(float *c, const uint32_t *a, const uint32_t *b) {
#if __CUDA_ARCH__ >= 800
    if (DTYPE == KERNEL_F16)
        asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, "
            "%2, %3};"
            : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
    else
        asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, "
            "%1, %2, %3};"
            : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
    (void)c, (void)a, (void)b;
#endif
}

/* Four matrices of 8 rows of 16 bytes in shared memory, each turned: lane l names row l % 8 of matrix l / 8, and gets
 * elements (2t, g), (2t + 1, g) of matrix i in ret[i]. Lanes see what was stored before the last __syncwarp(). */
static __device__ __forceinline__ void load_matrices_turned(uint32_t *ret, const uint4 *row) {
#if __CUDA_ARCH__ >= 800
    uint32_t at = (uint32_t)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(ret[0]), "=r"(ret[1]), "=r"(ret[2]), "=r"(ret[3])
                 : "r"(at)
                 : "memory");
#else
    (void)ret, (void)row;
#endif
}
