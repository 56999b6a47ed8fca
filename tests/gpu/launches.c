/* launches.c - prints the dynamic shared memory of an ordinary launch of each kernel: heads of 128 channels, 64 rows
 * that move, splits of 256 rows, the largest chunk of a prefill. compiled.sh reckons with it. */
#include <stdio.h>
#include <string.h>

#include "cuda/launch.h"

#define HEAD_DIM 128
#define ROWS 64
#define SPLIT_ROWS 256
#define SPLITS 17

static struct cuda_grid grid_of(const char *kernel) {
    uint32_t tile = (uint32_t)(kernel[strlen(kernel) - 1] - '0');
    if (!strncmp(kernel, "scissor_attend_mma_", 19))
        return cuda_attend_mma_grid(1, SPLITS, 1, tile, tile == 1 ? SPLIT_ROWS : SPLIT_ROWS / 2, HEAD_DIM);
    if (!strncmp(kernel, "scissor_attend_", 15))
        return cuda_attend_grid(1, SPLITS, cuda_divide_up(CUDA_CHUNK_VECTORS, tile), tile, SPLIT_ROWS, HEAD_DIM);
    if (!strncmp(kernel, "scissor_combine_", 16))
        return cuda_combine_grid(1, SPLITS, tile < 8 ? tile : CUDA_CHUNK_VECTORS);
    if (!strcmp(kernel, "scissor_settle"))
        return cuda_settle_grid(1, ROWS);
    if (!strcmp(kernel, "scissor_shrink"))
        return cuda_shrink_grid(1, HEAD_DIM);
    if (!strcmp(kernel, "scissor_append"))
        return cuda_append_grid(1, ROWS, HEAD_DIM);
    return (struct cuda_grid){1, 1, 0}; /* no shared memory */
}

int main(void) {
#define PRINT(kernel, parameter) printf("%s %u\n", #kernel, grid_of(#kernel).shared_bytes);
    CUDA_KERNELS(PRINT)
#undef PRINT
    return 0;
}
